//! Routes for testers in an `Ingress` of the AWS Load Balancer Controller: before each path that leads to an action of the
//! service's, the same path once more with an action of our own, which asks for a header besides and forwards to the
//! canary alone. Their names are kept in an annotation: only what has them is taken out again.
//!
//! The controller makes listener rules of the paths in this order: those of the type `Exact`, of which each may be there
//! once; those of the type `Prefix`, the longest first, and of the same length in the order that they have; the others.

use async_trait::async_trait;
use moodify_core::backend::{Mark, TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::alb::{ACTIONS, Alb, BY_ACTION, field};
use super::kind::{Router, edited, leads_nowhere, take_out};
use super::rule::{Kind as _, Services};
use super::testers::{TESTERS, made, twice};
use crate::client::Kube;
use crate::error::{Access, BACKEND};
use crate::names::with_suffix;
use crate::patch;

/// What a path asks for besides host and path, by the name of the action that it leads to.
const CONDITIONS: &str = "alb.ingress.kubernetes.io/conditions.";
const RULES: &str = "/spec/rules";
/// The longest name of a header and the longest value of one that a load balancer compares.
/// Source: Elastic Load Balancing, quotas and condition types of listener rules.
const LONGEST: (usize, usize) = (40, 128);
/// The most values that a rule compares; source as above. A path of the type `Prefix` is two of them (itself, and what is
/// below it), but for `/`.
const MOST_VALUES: usize = 5;
/// The longest name of an annotation, behind its prefix.
const LONGEST_NAME: usize = 63;

/// The paths of all rules, each with whether they are for one host.
fn paths(route: &mut Value) -> impl Iterator<Item = (bool, &mut Vec<Value>)> {
    let rules = route["spec"]["rules"].as_array_mut().into_iter().flatten();
    rules.filter_map(|rule| {
        let host = rule["host"].as_str().is_some_and(|host| !host.is_empty());
        Some((host, rule.pointer_mut("/http/paths")?.as_array_mut()?))
    })
}

/// How many values conditions compare.
fn values(conditions: &Value) -> usize {
    let configs = conditions.as_array().into_iter().flatten().filter_map(Value::as_object);
    configs
        .flat_map(|condition| condition.values())
        .filter_map(|config| field(config, "values").as_array())
        .map(Vec::len)
        .sum()
}

fn leads_to_action(path: &Value, action: &str) -> bool {
    let service = &path["backend"]["service"];
    service["name"] == action && service["port"]["name"] == BY_ACTION
}

/// Puts before each path that leads to the action a copy that leads to the other one; says whether there is any. Besides the
/// path, so many values are compared.
fn copy_paths(paths: &mut Vec<Value>, action: &str, name: &str, compared: usize) -> Result<bool, String> {
    let before = paths.len();
    for path in std::mem::take(paths) {
        if leads_to_action(&path, action) {
            if path["pathType"] == "Exact" {
                return Err(format!(
                    "an exact path is there once only, and so testers cannot have {} too",
                    path["path"]
                ));
            }
            let of_path = if path["pathType"] == "Prefix" && path["path"] != "/" { 2 } else { 1 };
            if compared + of_path > MOST_VALUES {
                return Err(format!(
                    "with host, path and conditions {action} would ask for more than {MOST_VALUES} values"
                ));
            }
            let mut copy = path.clone();
            copy["backend"]["service"]["name"] = name.into();
            paths.push(copy);
        }
        paths.push(path);
    }
    Ok(paths.len() > before)
}

/// The route with actions for testers, and their names; none if no path leads to an action of the service's. Or why there
/// cannot be any. In the route given there are none.
fn admitted(route: &Value, services: &Services, header: (&str, &str)) -> Result<(Value, Vec<String>), String> {
    let (mut with, mut names) = (route.clone(), Vec::new());
    for rule in Alb.rules(route, services) {
        let prefix = patch::annotation(ACTIONS);
        let (Some(action), Some(stable)) = (rule.path.strip_prefix(&prefix), rule.stable) else { continue };
        if leads_to_action(&json!({"backend": route["spec"]["defaultBackend"]}), action) {
            return Err(format!("the default backend leads to {action}, and asks for nothing; give it a path instead"));
        }
        let name = with_suffix(action, "testers");
        let annotations = &route["metadata"]["annotations"];
        let of = |prefix: &str, name: &str| annotations[format!("{prefix}{name}")].as_str();
        if of(ACTIONS, &name).or(of(CONDITIONS, &name)).is_some() {
            return Err(format!("there is an action {name} of somebody else's"));
        }
        let prefix = CONDITIONS.split('/').next_back().unwrap_or_default();
        if prefix.len() + name.len() > LONGEST_NAME {
            return Err(format!("{prefix}{name} is longer than an annotation may be; shorten the name of {action}"));
        }
        let conditions = asked_for(of(CONDITIONS, action), action, header)?;
        let parsed: Value = serde_json::from_str(rule.value.as_str().unwrap_or_default()).unwrap_or_default();
        let mut group = field(field(&parsed, "forwardConfig"), "targetGroups")[stable.index].clone();
        // The one target group gets all, whatever the weight of the one that it is a copy of.
        if let Some(fields) = group.as_object_mut() {
            fields.retain(|key, _| !key.eq_ignore_ascii_case("weight"));
            let service = fields.iter_mut().filter(|(key, _)| key.eq_ignore_ascii_case("serviceName"));
            service.for_each(|(_, value)| *value = services.canary.as_str().into());
        }
        let forward = json!({"type": "forward", "forwardConfig": {"targetGroups": [group]}});
        let mut leads = false;
        let compared = values(&conditions);
        for (host, paths) in paths(&mut with) {
            leads |= copy_paths(paths, action, &name, compared + usize::from(host))?;
        }
        if leads {
            with["metadata"]["annotations"][format!("{ACTIONS}{name}")] = forward.to_string().into();
            with["metadata"]["annotations"][format!("{CONDITIONS}{name}")] = conditions.to_string().into();
            names.push(name);
        }
    }
    if !names.is_empty() {
        with["metadata"]["annotations"][TESTERS] = json!(names).to_string().into();
    }
    Ok((with, names))
}

/// The conditions of an action, and this header.
fn asked_for(conditions: Option<&str>, action: &str, (name, value): (&str, &str)) -> Result<Value, String> {
    let mut all: Vec<Value> = match conditions {
        Some(text) => serde_json::from_str(text).map_err(|e| format!("the conditions of {action} are no list: {e}"))?,
        None => Vec::new(),
    };
    let asks = |condition: &Value| {
        let header = field(field(condition, "httpHeaderConfig"), "httpHeaderName");
        header.as_str().is_some_and(|header| header.eq_ignore_ascii_case(name))
    };
    if all.iter().any(asks) {
        return Err(twice(&format!("the action {action}"), name));
    }
    all.push(json!({"field": "http-header", "httpHeaderConfig": {"httpHeaderName": name, "values": [value]}}));
    Ok(all.into())
}

/// The route without what was made for testers, as far as it is there.
fn dismissed(route: &Value) -> Value {
    let (names, mut without) = (made(route), route.clone());
    for (_, paths) in paths(&mut without) {
        paths.retain(|path| !names.iter().filter_map(Value::as_str).any(|name| leads_to_action(path, name)));
    }
    if let Some(annotations) = without["metadata"]["annotations"].as_object_mut() {
        for name in names.iter().filter_map(Value::as_str) {
            annotations.remove(&format!("{ACTIONS}{name}"));
            annotations.remove(&format!("{CONDITIONS}{name}"));
        }
        annotations.remove(TESTERS);
    }
    without
}

/// The patch that makes of one the other, where they differ in rules and annotations.
fn difference(from: &Value, to: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    let rules = |route: &Value| route.pointer(RULES).cloned().unwrap_or_default();
    if rules(from) != rules(to) {
        operations.push(json!({"op": "test", "path": RULES, "value": rules(from)}));
        operations.push(json!({"op": "replace", "path": RULES, "value": rules(to)}));
    }
    let annotations = |route: &Value| route["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let (before, after) = (annotations(from), annotations(to));
    for (key, value) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        let path = patch::annotation(key);
        operations.push(json!({"op": "test", "path": path, "value": value}));
        operations.push(json!({"op": "remove", "path": path}));
    }
    // An action is an annotation, so there is a map of them.
    for (key, value) in after.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
        operations.push(json!({"op": "add", "path": patch::annotation(key), "value": value}));
    }
    operations
}

/// The header by which testers are known, or why a load balancer cannot know them.
fn header(testers: &Testers) -> Result<(&str, &str)> {
    let value = testers.value.as_str();
    let problem = match testers.mark() {
        Mark::Cookie(_) => "a load balancer of AWS compares no single cookie".to_owned(),
        Mark::Header(_) if value.contains(['*', '?']) => "in a value, * and ? mean anything".to_owned(),
        Mark::Header(name) if name.len() > LONGEST.0 || value.len() > LONGEST.1 => {
            format!("of a header it compares {} characters of the name and {} of the value", LONGEST.0, LONGEST.1)
        }
        Mark::Header(name) => return Ok((name, value)),
    };
    let error = Error::new(ErrorKind::Unsupported, BACKEND, "admit testers", problem).on(testers.to_string());
    Err(error.hint("know testers by another header"))
}

/// Routes for testers among the actions of a load balancer.
#[derive(Debug, Clone)]
pub(crate) struct AlbTesters {
    kube: Kube,
}

impl AlbTesters {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }
}

#[async_trait]
impl TesterRoutes for AlbTesters {
    fn check(&self, testers: &Testers) -> Result<()> {
        header(testers).map(drop)
    }

    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        let header = header(testers)?;
        let (object, found) = Router::Alb.find(&self.kube, cx, target).await?;
        let route = found.ok_or_else(|| object.missing())?;
        let (services, ask) = (Services::of(target), object.ask(Access::Compare, "admit testers to"));
        let (wanted, names) = admitted(&dismissed(&route), &services, header)
            .map_err(|why| ask.error(ErrorKind::Unsupported, why).hint("the Ingress was left as it is"))?;
        if names.is_empty() {
            return Err(leads_nowhere(&ask, &services));
        }
        let mut operations = difference(&route, &wanted);
        if operations.is_empty() {
            return Ok(());
        }
        if !made(&route).is_empty() {
            return Err(edited(&self.kube, &ask, &route, "it has other rules for testers"));
        }
        let version = &route["metadata"]["resourceVersion"];
        operations.insert(0, json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
        self.kube.patch::<Value>(cx, &object, operations).await.map(drop)
    }

    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, found) = Router::Alb.find(&self.kube, cx, target).await?;
        // No object: nobody is sent to the canary.
        let Some(route) = found else { return Ok(()) };
        let operations = difference(&route, &dismissed(&route));
        take_out(&self.kube, cx, &object, &route, operations).await.map(drop)
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        vec![format!(
            "kubectl -n {} edit ingress/{route}  # take out the paths to the actions that the annotation {TESTERS} names, the \
             annotations of these actions, and that annotation",
            target.namespace
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::{back, services, step};
    use super::*;

    fn route(conditions: &str) -> Value {
        let to = |name: &str| json!({"service": {"name": name, "port": {"name": "use-annotation"}}});
        let action = r#"{"Type":"forward","ForwardConfig":{"TargetGroups":[{"ServiceName":"web","ServicePort":80}]}}"#;
        let mut route = json!({
            "metadata": {"name": "web", "namespace": "ns", "annotations": {
                "alb.ingress.kubernetes.io/actions.to-web": action,
                "alb.ingress.kubernetes.io/actions.home": r#"{"type":"redirect"}"#,
            }},
            "spec": {"rules": [
                {"host": "a", "http": {"paths": [{"path": "/home", "backend": to("home")}, {"path": "/", "backend": to("to-web")}]}},
                {"http": {"paths": [{"path": "/x", "backend": to("to-web")}, {"path": "/y", "backend": to("to-web")}]}},
                {"host": "none"},
            ]},
        });
        if !conditions.is_empty() {
            route["metadata"]["annotations"]["alb.ingress.kubernetes.io/conditions.to-web"] = conditions.into();
        }
        route
    }

    const YES: (&str, &str) = ("X-Tester", "yes");

    #[test]
    fn testers_take_the_same_paths_to_the_canary() {
        let source = r#"[{"field":"source-ip","sourceIpConfig":{"values":["10.0.0.0/8"]}}]"#;
        let before = route(source);
        let (with, names) = admitted(&before, &services(), YES).unwrap();
        assert_eq!(names, ["to-web-testers"]);
        let parsed = |key: &str| -> Value {
            let key = format!("alb.ingress.kubernetes.io/{key}.to-web-testers");
            serde_json::from_str(with["metadata"]["annotations"][key].as_str().unwrap()).unwrap()
        };
        let group = json!({"ServiceName": "web-canary", "ServicePort": 80});
        assert_eq!(parsed("actions"), json!({"type": "forward", "forwardConfig": {"targetGroups": [group]}}));
        let header =
            json!({"field": "http-header", "httpHeaderConfig": {"httpHeaderName": "X-Tester", "values": ["yes"]}});
        let conditions: Value = serde_json::from_str(source).unwrap();
        assert_eq!(parsed("conditions"), json!([conditions[0], header]));
        let led = |rule: usize| -> Vec<(String, String)> {
            let paths = with["spec"]["rules"][rule]["http"]["paths"].as_array().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            paths.map(|path| (text(&path["path"]), text(&path["backend"]["service"]["name"]))).collect()
        };
        let of = |all: &[(&str, &str)]| all.iter().map(|(p, a)| ((*p).to_owned(), (*a).to_owned())).collect::<Vec<_>>();
        assert_eq!(led(0), of(&[("/home", "home"), ("/", "to-web-testers"), ("/", "to-web")]));
        assert_eq!(
            led(1),
            of(&[("/x", "to-web-testers"), ("/x", "to-web"), ("/y", "to-web-testers"), ("/y", "to-web")])
        );
        assert_eq!(dismissed(&with), before);
        assert!(difference(&before, &before).is_empty());
    }

    #[test]
    fn weights_are_about_the_others_only() {
        let (with, _) = admitted(&route(""), &services(), YES).unwrap();
        let half = step(&Alb, &with, 50);
        assert_eq!(admitted(&dismissed(&half), &services(), YES).unwrap().0, half, "and all is as asked for already");
        assert_eq!(back(&Alb, &half), with);
        assert_eq!(back(&Alb, &dismissed(&half)), route(""));
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused() {
        let mut default = route("");
        default["spec"]["defaultBackend"] = json!({"service": {"name": "to-web", "port": {"name": "use-annotation"}}});
        let mut taken = route("");
        taken["metadata"]["annotations"]["alb.ingress.kubernetes.io/actions.to-web-testers"] = "{}".into();
        let mut exact = route("");
        exact["spec"]["rules"][1]["http"]["paths"][0]["pathType"] = "Exact".into();
        let again = r#"[{"field":"http-header","httpHeaderConfig":{"httpHeaderName":"x-tester","values":["no"]}}]"#;
        let source =
            r#"[{"field":"source-ip","sourceIpConfig":{"values":["10.1.0.0/16","10.2.0.0/16","10.3.0.0/16"]}}]"#;
        for (route, why) in [
            (default, "the default backend leads to to-web"),
            (exact, "testers cannot have \"/x\" too"),
            (taken, "an action to-web-testers of somebody else's"),
            (route(again), "asks for the header X-Tester already"),
            (route(source), "to-web would ask for more than 5 values"),
            (route("{"), "the conditions of to-web are no list"),
        ] {
            let error = admitted(&route, &services(), YES).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(admitted(&route(&source.replace(",\"10.3.0.0/16\"", "")), &services(), YES).is_ok());
        let mut nowhere = route("");
        nowhere["spec"]["rules"] = json!([]);
        assert!(admitted(&nowhere, &services(), YES).unwrap().1.is_empty());
    }
}
