//! Rules for testers in routes of the Gateway API. A rule for testers is a copy of one that leads to the stable Service, which
//! asks for a header besides and leads to the canary; a gateway prefers it, because it asks for more.

use async_trait::async_trait;
use moodify_core::backend::{TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::kind::Router;
use super::rule::{Kind as _, Services};
use super::{gateway, kind};
use crate::client::{Kube, Object, typed};
use crate::error::Access;
use crate::ownership::{drift, last_foreign};
use crate::patch;

/// The annotation of a route with the rules for testers that are in it, as they were made.
pub(super) const TESTERS: &str = "moodify.dev/testers";

/// The rules for testers of a route, as they were made.
pub(super) fn made(route: &Value) -> Vec<Value> {
    let text = route["metadata"]["annotations"][TESTERS].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// The rules for testers that a route lacks no rule of the service without.
fn wanted(route: &Value, services: &Services, testers: &Testers) -> Vec<Value> {
    let rules = gateway::Gateway.rules(route, services);
    let places = rules.iter().filter(|rule| rule.stable.is_some());
    let made = places.map(|rule| {
        let at = rule.path.trim_end_matches("/backendRefs");
        let mut copy = route.pointer(at).cloned().unwrap_or_default();
        let mut matches = copy["matches"].as_array().cloned().unwrap_or_default();
        if matches.is_empty() {
            matches.push(json!({}));
        }
        for one in &mut matches {
            let mut headers = one["headers"].as_array().cloned().unwrap_or_default();
            headers.push(json!({"type": "Exact", "name": testers.header, "value": testers.value}));
            one["headers"] = headers.into();
        }
        copy["matches"] = matches.into();
        let index = rule.stable.map_or(0, |place| place.index);
        let mut to = copy["backendRefs"][index].clone();
        to["name"] = services.canary.as_str().into();
        to["weight"] = 1.into();
        copy["backendRefs"] = json!([to]);
        // A name is one rule's only.
        copy.as_object_mut().map(|fields| fields.remove("name"));
        copy
    });
    made.collect()
}

/// Where in a route the rules for testers are, the last one first.
fn places(route: &Value) -> Vec<usize> {
    let made = made(route);
    let rules = route["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().enumerate().rev().filter(|(_, rule)| made.contains(rule)).map(|(index, _)| index).collect()
}

/// The patch that takes them out.
fn dismissal(route: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for index in places(route) {
        let path = format!("/spec/rules/{index}");
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

/// Routes for testers in `HTTPRoute`s and `GRPCRoute`s.
#[derive(Debug, Clone)]
pub(crate) struct GatewayTesters {
    pub(crate) kube: Kube,
    pub(crate) router: Router,
}

impl GatewayTesters {
    async fn get(&self, cx: &CallContext, target: &Target) -> Result<(Object, Option<Value>)> {
        let object = self.router.object(target)?;
        let found = self.kube.find(cx, &object).await.map_err(|e| self.router.explained(e))?;
        Ok((object, found))
    }
}

#[async_trait]
impl TesterRoutes for GatewayTesters {
    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        let (object, found) = self.get(cx, target).await?;
        let route = found.ok_or_else(|| object.missing())?;
        let (services, ask) = (Services::of(target), object.ask(Access::Compare, "admit testers to"));
        let wanted = wanted(&route, &services, testers);
        if wanted.is_empty() {
            return Err(kind::leads_nowhere(&ask, &services));
        }
        let there = made(&route);
        if there == wanted && places(&route).len() == wanted.len() {
            return Ok(());
        }
        if !there.is_empty() {
            let meta = typed(&ask, route["metadata"].clone())?;
            let editor = last_foreign(&meta, self.kube.manager(), &["f:spec", "f:rules"]);
            return Err(drift(&ask, "it has other rules for testers", editor));
        }
        let version = &route["metadata"]["resourceVersion"];
        let mut operations = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
        let text = serde_json::to_string(&wanted).unwrap_or_default();
        operations.extend(wanted.into_iter().map(|rule| json!({"op": "add", "path": "/spec/rules/-", "value": rule})));
        patch::put(&mut operations, &route, "/metadata/annotations", TESTERS, &text);
        self.kube.patch::<Value>(cx, &object, operations).await.map(drop)
    }

    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, found) = self.get(cx, target).await?;
        // No object: nobody is sent to the canary.
        let Some(route) = found else { return Ok(()) };
        let operations = dismissal(&route);
        if operations.is_empty() {
            // What was read may be past.
            let version = &route["metadata"]["resourceVersion"];
            let same = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
            return match self.kube.compare::<Value>(cx, &object, same).await {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                other => other.map(drop),
            };
        }
        self.kube.patch::<Value>(cx, &object, operations).await.map(drop)
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

    fn admitted(mut route: Value) -> Value {
        let testers = Testers { header: "X-Tester".to_owned(), value: "yes".to_owned() };
        let rules = wanted(&route, &services(), &testers);
        route["metadata"]["annotations"][TESTERS] = serde_json::to_string(&rules).unwrap().into();
        route["spec"]["rules"].as_array_mut().unwrap().extend(rules);
        route
    }

    #[test]
    fn testers_are_led_as_all_others_but_to_the_canary() {
        let with = admitted(route());
        let yes = json!({"type": "Exact", "name": "X-Tester", "value": "yes"});
        let rule = json!({"filters": [{"type": "URLRewrite"}], "backendRefs": [{"name": "web-canary", "port": 80, "weight": 1}],
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [yes]},
                {"headers": [{"name": "a", "value": "b"}, yes]}]});
        assert_eq!(with["spec"]["rules"][2], rule);
        assert_eq!(with["spec"]["rules"].as_array().unwrap().len(), 3, "one for each that leads to the service");
        let mut without = with.clone();
        for operation in dismissal(&with).iter().filter(|o| o["op"] == "remove" && o["path"] == "/spec/rules/2") {
            assert_eq!(operation["path"], "/spec/rules/2");
            without["spec"]["rules"].as_array_mut().unwrap().remove(2);
        }
        assert_eq!(without["spec"], route()["spec"]);
    }

    #[test]
    fn weights_are_about_all_others() {
        let with = admitted(route());
        let divided = step(&gateway::Gateway, &with, 10);
        assert_eq!(divided["spec"]["rules"][2], with["spec"]["rules"][2], "testers are where they were");
        assert_eq!(divided["spec"]["rules"][1]["backendRefs"].as_array().unwrap().len(), 2);
        assert_eq!(back(&gateway::Gateway, &divided), with);
        // As many rules as before.
        let testers = Testers { header: "X-Tester".to_owned(), value: "yes".to_owned() };
        assert_eq!(wanted(&with, &services(), &testers), made(&with));
    }

    #[test]
    fn a_rule_that_somebody_changed_is_theirs() {
        let mut edited = admitted(route());
        edited["spec"]["rules"][2]["filters"] = json!([]);
        assert_eq!(places(&edited), [0_usize; 0]);
        let operations = dismissal(&edited);
        assert!(operations.iter().all(|o| o["path"] == patch::annotation(TESTERS)), "{operations:?}");
    }
}
