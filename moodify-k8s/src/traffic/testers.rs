//! Rules for testers in routing objects that have rules of their own for requests. A rule for testers is a copy of one that
//! leads to the stable Service, which asks for a header besides and leads to the canary. What was made is kept word for
//! word in an annotation: only that is taken out again.

use std::fmt;

use async_trait::async_trait;
use moodify_core::backend::{Mark, TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::kind::{Router, edited, leads_nowhere, take_out};
use super::rule::{Kind as _, Rule, Services};
use super::{gateway, istio, mirror};
use crate::client::Kube;
use crate::error::Access;
use crate::patch;

/// The annotation of a route with the rules for testers that are in it, as they were made.
pub(super) const TESTERS: &str = "moodify.dev/testers";

/// The rules for testers of a route, as they were made.
pub(super) fn made(route: &Value) -> Vec<Value> {
    let text = route["metadata"]["annotations"][TESTERS].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// The regular expression of a `Cookie` header with exactly this cookie, for whoever searches and whoever compares all.
pub(super) fn cookie_pattern(name: &str, value: &str) -> String {
    let literal = |text: &str| -> String {
        let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
        text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
    };
    format!(r"^(.*;\s*)?{}={}(\s*;.*)?$", literal(name), literal(value))
}

/// How the rules for testers of a kind are written. Pure.
trait Form: fmt::Debug + Send + Sync {
    /// Where the rules are, as a JSON pointer.
    fn list(&self) -> &'static str;

    /// The rules for testers that a route lacks no rule of the service without, each with the index before which it goes; or
    /// why there is no such rule.
    fn wanted(&self, route: &Value, services: &Services, testers: &Testers) -> Result<Vec<(usize, Value)>, String>;
}

impl Form for gateway::Gateway {
    fn list(&self) -> &'static str {
        "/spec/rules"
    }

    /// Last: a gateway prefers what asks for more.
    fn wanted(&self, route: &Value, services: &Services, testers: &Testers) -> Result<Vec<(usize, Value)>, String> {
        let last = route["spec"]["rules"].as_array().map_or(0, Vec::len);
        let header = match testers.mark() {
            Mark::Header(name) => json!({"type": "Exact", "name": name, "value": testers.value}),
            Mark::Cookie(name) => {
                let pattern = cookie_pattern(name, &testers.value);
                json!({"type": "RegularExpression", "name": "Cookie", "value": pattern})
            }
        };
        let rules = self.rules(route, services);
        let made = led_to_stable(&rules).map(|(index, stable)| {
            let mut copy = route["spec"]["rules"][index].clone();
            let mut matches = copy["matches"].as_array().cloned().unwrap_or_default();
            if matches.is_empty() {
                matches.push(json!({}));
            }
            for one in &mut matches {
                let mut headers = one["headers"].as_array().cloned().unwrap_or_default();
                let name = |header: &Value| header["name"].as_str().unwrap_or_default().to_lowercase();
                if headers.iter().any(|other| name(other) == name(&header)) {
                    // A gateway takes the first of a name, and not the other.
                    return Err(twice(&format!("rule {}", index + 1), &name(&header)));
                }
                headers.push(header.clone());
                one["headers"] = headers.into();
            }
            copy["matches"] = matches.into();
            let mut to = copy["backendRefs"][stable].clone();
            to["name"] = services.canary.as_str().into();
            to["weight"] = 1.into();
            copy["backendRefs"] = json!([to]);
            copy = mirror::Form::without(self, &copy, services);
            // A name is one rule's only.
            copy.as_object_mut().map(|fields| fields.remove("name"));
            Ok((last, copy))
        });
        made.collect()
    }
}

impl Form for istio::Istio {
    fn list(&self) -> &'static str {
        "/spec/http"
    }

    /// Just before the rule that it is a copy of: the first that fits is taken. Only HTTP has headers.
    fn wanted(&self, route: &Value, services: &Services, testers: &Testers) -> Result<Vec<(usize, Value)>, String> {
        let (name, how) = match testers.mark() {
            Mark::Header(name) => (name.to_lowercase(), json!({"exact": testers.value})),
            Mark::Cookie(name) => ("cookie".to_owned(), json!({"regex": cookie_pattern(name, &testers.value)})),
        };
        let mut rules = self.rules(route, services);
        rules.retain(|rule| rule.path.starts_with(Form::list(self)));
        let made = led_to_stable(&rules).map(|(index, stable)| {
            let mut copy = route["spec"]["http"][index].clone();
            let mut matches = copy["match"].as_array().cloned().unwrap_or_default();
            if matches.is_empty() {
                matches.push(json!({}));
            }
            for one in &mut matches {
                for list in ["headers", "withoutHeaders"] {
                    let mut names = one[list].as_object().into_iter().flatten().map(|(name, _)| name);
                    if names.any(|other| other.eq_ignore_ascii_case(&name)) {
                        return Err(twice(&format!("http route {}", index + 1), &name));
                    }
                }
                if !one["headers"].is_object() {
                    one["headers"] = json!({});
                }
                one["headers"][&name] = how.clone();
            }
            copy["match"] = matches.into();
            let mut to = copy["route"][stable].clone();
            istio::redirect(&mut to, &services.canary);
            to.as_object_mut().map(|fields| fields.remove("weight"));
            copy["route"] = json!([to]);
            if matches!(mirror::Form::copies(self, &copy, services), mirror::Copies::Ours(_)) {
                copy = mirror::Form::without(self, &copy, services);
            }
            copy.as_object_mut().map(|fields| fields.remove("name"));
            Ok((index, copy))
        });
        made.collect()
    }
}

/// The rules that lead to the stable Service: the index of each, and that of the destination in it.
fn led_to_stable(rules: &[Rule]) -> impl Iterator<Item = (usize, usize)> + '_ {
    rules.iter().filter_map(|rule| Some((rule.path.split('/').nth(3)?.parse().ok()?, rule.stable?.index)))
}

pub(super) fn twice(rule: &str, header: &str) -> String {
    format!("{rule} asks for the header {header} already, and cannot ask for another value besides")
}

/// Where in a route the rules for testers are, the last one first.
fn places(form: &dyn Form, route: &Value) -> Vec<usize> {
    let made = made(route);
    let rules = route.pointer(form.list()).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    rules.iter().enumerate().rev().filter(|(_, rule)| made.contains(rule)).map(|(index, _)| index).collect()
}

/// The patch that puts them in.
fn admission(form: &dyn Form, route: &Value, wanted: &[(usize, Value)]) -> Vec<Value> {
    let version = &route["metadata"]["resourceVersion"];
    let mut operations = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    let rules: Vec<&Value> = wanted.iter().map(|(_, rule)| rule).collect();
    let text = json!(rules).to_string();
    // From behind, so that the places before stay what they are.
    operations.extend(
        wanted
            .iter()
            .rev()
            .map(|(index, rule)| json!({"op": "add", "path": format!("{}/{index}", form.list()), "value": rule})),
    );
    patch::put(&mut operations, route, "/metadata/annotations", TESTERS, &text);
    operations
}

/// The patch that takes them out.
fn dismissal(form: &dyn Form, route: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for index in places(form, route) {
        let path = format!("{}/{index}", form.list());
        operations.push(json!({"op": "test", "path": path, "value": route.pointer(&path)}));
        operations.push(json!({"op": "remove", "path": path}));
    }
    let text = &route["metadata"]["annotations"][TESTERS];
    if text.is_string() {
        operations.push(json!({"op": "test", "path": patch::annotation(TESTERS), "value": text}));
        operations.push(json!({"op": "remove", "path": patch::annotation(TESTERS)}));
    }
    operations
}

/// Routes for testers in `HTTPRoute`s, `GRPCRoute`s and `VirtualService`s.
#[derive(Debug, Clone)]
pub(crate) struct RuleTesters {
    kube: Kube,
    router: Router,
    form: &'static dyn Form,
}

impl RuleTesters {
    /// `None` for a router whose routing object has no rules of its own for requests.
    pub(crate) fn new(kube: Kube, router: Router) -> Option<Self> {
        let form: &'static dyn Form = match router {
            Router::HttpRoute | Router::GrpcRoute => &gateway::Gateway,
            Router::Istio => &istio::Istio,
            _ => return None,
        };
        Some(Self { kube, router, form })
    }
}

#[async_trait]
impl TesterRoutes for RuleTesters {
    fn check(&self, _: &Testers) -> Result<()> {
        Ok(())
    }

    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        let (object, found) = self.router.find(&self.kube, cx, target).await?;
        let route = found.ok_or_else(|| object.missing())?;
        let (services, ask) = (Services::of(target), object.ask(Access::Compare, "admit testers to"));
        let unsupported = |why| ask.error(ErrorKind::Unsupported, why).hint("know testers by another header");
        let wanted = self.form.wanted(&route, &services, testers).map_err(unsupported)?;
        if wanted.is_empty() {
            return Err(leads_nowhere(&ask, &services));
        }
        let there = made(&route);
        if there.iter().eq(wanted.iter().map(|(_, rule)| rule)) && places(self.form, &route).len() == wanted.len() {
            return Ok(());
        }
        if !there.is_empty() {
            return Err(edited(&self.kube, &ask, &route, "it has other rules for testers"));
        }
        self.kube.patch::<Value>(cx, &object, admission(self.form, &route, &wanted)).await.map(drop)
    }

    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, found) = self.router.find(&self.kube, cx, target).await?;
        // No object: nobody is sent to the canary.
        let Some(route) = found else { return Ok(()) };
        let operations = dismissal(self.form, &route);
        take_out(&self.kube, cx, &object, &route, operations).await.map(drop)
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        let (namespace, resource) = (&target.namespace, self.router.kind().kind.to_lowercase());
        let canary = Services::of(target).canary;
        vec![format!(
            "kubectl -n {namespace} edit {resource}/{route}  # take out the rules that lead to {canary} alone, and the \
             annotation {TESTERS}"
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::{back, services, step};
    use super::*;

    fn route() -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"rules": [
                {"backendRefs": [{"name": "other"}]},
                {"name": "all", "filters": [{"type": "URLRewrite"}], "backendRefs": [{"name": "web", "port": 80, "weight": 7}],
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}, {"headers": [{"name": "a", "value": "b"}]}]},
            ]},
        })
    }

    fn yes() -> Testers {
        Testers::by_header("X-Tester", "yes")
    }

    /// As the server makes it by the patch.
    fn admitted(form: &dyn Form, mut route: Value, testers: &Testers) -> Value {
        let wanted = form.wanted(&route, &services(), testers).unwrap();
        for operation in admission(form, &route, &wanted) {
            let path = operation["path"].as_str().unwrap();
            if let Some(index) = path.strip_prefix(&format!("{}/", form.list())) {
                let rules = route.pointer_mut(form.list()).unwrap().as_array_mut().unwrap();
                rules.insert(index.parse().unwrap(), operation["value"].clone());
            }
        }
        let rules: Vec<&Value> = wanted.iter().map(|(_, rule)| rule).collect();
        route["metadata"]["annotations"][TESTERS] = json!(rules).to_string().into();
        route
    }

    fn dismissed(form: &dyn Form, mut route: Value) -> Value {
        for operation in dismissal(form, &route).iter().filter(|o| o["op"] == "remove") {
            let (list, key) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
            match route.pointer_mut(list).unwrap() {
                Value::Array(rules) => drop(rules.remove(key.parse().unwrap())),
                annotations => drop(annotations.as_object_mut().unwrap().remove(&key.replace("~1", "/"))),
            }
        }
        route
    }

    #[test]
    fn testers_are_led_as_all_others_but_to_the_canary() {
        let with = admitted(&gateway::Gateway, route(), &yes());
        let yes = json!({"type": "Exact", "name": "X-Tester", "value": "yes"});
        let rule = json!({"filters": [{"type": "URLRewrite"}], "backendRefs": [{"name": "web-canary", "port": 80, "weight": 1}],
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [yes]},
                {"headers": [{"name": "a", "value": "b"}, yes]}]});
        assert_eq!(with["spec"]["rules"][2], rule);
        assert_eq!(with["spec"]["rules"].as_array().unwrap().len(), 3, "one for each that leads to the service");
        assert_eq!(dismissed(&gateway::Gateway, with)["spec"], route()["spec"]);
    }

    #[test]
    fn weights_are_about_all_others() {
        let with = admitted(&gateway::Gateway, route(), &yes());
        let divided = step(&gateway::Gateway, &with, 10);
        assert_eq!(divided["spec"]["rules"][2], with["spec"]["rules"][2], "testers are where they were");
        assert_eq!(divided["spec"]["rules"][1]["backendRefs"].as_array().unwrap().len(), 2);
        assert_eq!(back(&gateway::Gateway, &divided), with);
        // As many rules as before.
        let again = gateway::Gateway.wanted(&with, &services(), &yes()).unwrap();
        assert!(again.iter().map(|(_, rule)| rule).eq(&made(&with)));
    }

    #[test]
    fn a_virtual_service_takes_the_first_rule_that_fits() {
        let to = |host: &str, weight: u64| json!({"destination": {"host": host, "subset": "v1"}, "weight": weight});
        let object = json!({"metadata": {"annotations": {}}, "spec": {
            "http": [{"match": [{"uri": {"prefix": "/admin"}}], "route": [to("admin", 100)]},
                {"name": "api", "match": [{"uri": {"prefix": "/api"}}], "route": [to("web.ns.svc", 100)]},
                {"timeout": "5s", "route": [to("web", 100)]}],
            "tls": [{"match": [{"port": 443}], "route": [to("web", 100)]}]}});
        let cookie = Testers::by_cookie("beta", "yes");
        let with = admitted(&istio::Istio, object.clone(), &cookie);
        let rules = with["spec"]["http"].as_array().unwrap();
        let headers = json!({"cookie": {"regex": r"^(.*;\s*)?beta=yes(\s*;.*)?$"}});
        let api = json!({"match": [{"uri": {"prefix": "/api"}, "headers": headers}],
            "route": [{"destination": {"host": "web-canary.ns.svc"}}]});
        let all = json!({"timeout": "5s", "match": [{"headers": headers}],
            "route": [{"destination": {"host": "web-canary"}}]});
        assert_eq!((rules.len(), &rules[1], &rules[3]), (5, &api, &all), "each before the one that it is a copy of");
        assert_eq!(with["spec"]["tls"], object["spec"]["tls"]);
        let divided = step(&istio::Istio, &with, 10);
        assert_eq!((&divided["spec"]["http"][1], &divided["spec"]["http"][3]), (&api, &all));
        assert_eq!(back(&istio::Istio, &divided), with);
        let again = istio::Istio.wanted(&divided, &services(), &cookie).unwrap();
        assert!(again.iter().map(|(_, rule)| rule).eq(&made(&with)), "weights do not matter");
        assert_eq!(dismissed(&istio::Istio, with), object);
    }

    #[test]
    fn one_header_is_not_asked_for_twice() {
        let mut asks = route();
        asks["spec"]["rules"][1]["matches"][1]["headers"] = json!([{"name": "x-tester", "value": "b"}]);
        let why = gateway::Gateway.wanted(&asks, &services(), &yes()).unwrap_err();
        assert!(why.starts_with("rule 2 asks for the header x-tester already"), "{why}");
        let asks = json!({"spec": {"http": [{"match": [{"headers": {"x-tester": {"exact": "b"}}}],
            "route": [{"destination": {"host": "web"}}]}]}});
        let why = istio::Istio.wanted(&asks, &services(), &yes()).unwrap_err();
        assert!(why.starts_with("http route 1 asks for the header x-tester already"), "{why}");
    }

    #[test]
    fn a_cookie_is_told_exactly() {
        assert_eq!(cookie_pattern("a.b", "x*y"), r"^(.*;\s*)?a\.b=x\*y(\s*;.*)?$");
    }

    #[test]
    fn a_rule_that_somebody_changed_is_theirs() {
        let mut edited = admitted(&gateway::Gateway, route(), &yes());
        edited["spec"]["rules"][2]["filters"] = json!([]);
        assert_eq!(places(&gateway::Gateway, &edited), [0_usize; 0]);
        let operations = dismissal(&gateway::Gateway, &edited);
        assert!(operations.iter().all(|o| o["path"] == patch::annotation(TESTERS)), "{operations:?}");
    }
}
