//! The canary's `Ingress` of ingress-nginx, made of the stable one. Pure.

use moodify_core::backend::{Mark, Testers};
use moodify_core::model::{Target, Weight};
use moodify_core::{Error, ErrorKind, RunId};
use serde_json::{Map, Value, json};

use super::kind::leads_nowhere;
use super::rule::{Services, percent};
use crate::canary::object_labels;
use crate::error::Ask;
use crate::names::canary_of;
use crate::patch;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";
const CANARY: &str = "nginx.ingress.kubernetes.io/canary";
const WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";
const TOTAL: &str = "nginx.ingress.kubernetes.io/canary-weight-total";
const BY_HEADER: &str = "nginx.ingress.kubernetes.io/canary-by-header";
const HEADER_VALUE: &str = "nginx.ingress.kubernetes.io/canary-by-header-value";
const BY_COOKIE: &str = "nginx.ingress.kubernetes.io/canary-by-cookie";
/// The annotations by which testers are known.
pub(super) const MARKS: [&str; 3] = [BY_HEADER, HEADER_VALUE, BY_COOKIE];
/// The one value of a cookie that leads to the canary.
pub(super) const ALWAYS: &str = "always";
/// How the class was named before there was a field for it.
const CLASS: &str = "kubernetes.io/ingress.class";

fn annotation<'a>(ingress: &'a Value, key: &str) -> Option<&'a str> {
    ingress["metadata"]["annotations"][key].as_str()
}

fn is_canary(ingress: &Value) -> bool {
    annotation(ingress, CANARY) == Some("true")
}

/// The share that an `Ingress` asks for. One that is no canary shares its rules with the stable one, which is older and
/// therefore serves.
pub(super) fn share(ingress: &Value) -> f64 {
    let number = |key: &str| annotation(ingress, key).and_then(|text| text.trim().parse::<u32>().ok());
    if !is_canary(ingress) {
        return 0.0;
    }
    let total = number(TOTAL).unwrap_or(100).max(1);
    f64::from(number(WEIGHT).unwrap_or(0).min(total)) / f64::from(total)
}

pub(super) fn weight(ingress: &Value) -> Weight {
    percent(share(ingress))
}

/// Those of [`MARKS`] that tell these testers.
pub(super) fn marks(testers: &Testers) -> Vec<(&'static str, String)> {
    match testers.mark() {
        Mark::Header(name) => vec![(BY_HEADER, name.to_owned()), (HEADER_VALUE, testers.value.clone())],
        Mark::Cookie(name) => vec![(BY_COOKIE, name.to_owned())],
    }
}

/// Those that an `Ingress` has.
pub(super) fn marked(ingress: &Value) -> Vec<(&'static str, String)> {
    MARKS.into_iter().filter_map(|key| Some((key, annotation(ingress, key)?.to_owned()))).collect()
}

/// The patch that gives an `Ingress` these.
pub(super) fn mark(marks: &[(&str, String)]) -> Vec<Value> {
    marks.iter().map(|(key, value)| json!({"op": "add", "path": patch::annotation(key), "value": value})).collect()
}

/// The patch that takes them away, if they are still these.
pub(super) fn unmark(marks: &[(&str, String)]) -> Vec<Value> {
    let each = marks.iter().flat_map(|(key, value)| {
        let path = patch::annotation(key);
        [json!({"op": "test", "path": path, "value": value}), json!({"op": "remove", "path": path})]
    });
    each.collect()
}

/// What of the stable one's spec the canary's has: the class, and the paths that lead to the stable Service.
pub(super) fn spec(ask: &Ask, stable: &Value, services: &Services) -> Result<Value, Error> {
    let unsupported = |message: String, hint: &str| Err(ask.error(ErrorKind::Unsupported, message).hint(hint));
    if is_canary(stable) {
        return unsupported("it is a canary itself".to_owned(), "name the Ingress that it is a canary of in the plan");
    }
    let leads_to = |backend: &Value| backend["service"]["name"] == *services.stable;
    if leads_to(&stable["spec"]["defaultBackend"]) {
        let message = format!("its default backend is the Service {}, for which there is no canary", services.stable);
        return unsupported(message, "give the Service a rule with the path / instead");
    }
    let rules = stable["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = rules.iter().filter_map(|rule| {
        let mut paths = rule["http"]["paths"].as_array()?.clone();
        paths.retain(|path| leads_to(&path["backend"]));
        paths.iter_mut().for_each(|path| path["backend"]["service"]["name"] = services.canary.as_str().into());
        let mut rule = rule.clone();
        (!paths.is_empty()).then(|| {
            rule["http"]["paths"] = paths.into();
            rule
        })
    });
    let ours: Vec<Value> = ours.collect();
    if ours.is_empty() {
        return Err(leads_nowhere(ask, services));
    }
    let mut spec = Map::new();
    if let Some(class) = stable["spec"].get("ingressClassName") {
        spec.insert("ingressClassName".to_owned(), class.clone());
    }
    spec.insert("rules".to_owned(), ours.into());
    Ok(spec.into())
}

/// The canary's `Ingress`. It is owned by the canary's Service, without which it would lead nowhere.
pub(super) fn canary(stable: &Value, spec: &Value, target: &Target, run: &RunId, owner: &str, weight: Weight) -> Value {
    let stable_annotations = stable["metadata"]["annotations"].as_object().into_iter().flatten();
    // What nginx takes from the stable one anyway, and the little that it does not; nothing of other tools.
    let kept = |key: &str| key == CLASS || key.starts_with(PREFIX) && !key.starts_with(CANARY);
    let mut annotations: Map<String, Value> =
        stable_annotations.filter(|(key, _)| kept(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.insert(CANARY.to_owned(), "true".into());
    annotations.insert(WEIGHT.to_owned(), text(weight).into());
    let services = Services::of(target);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": target.service.traffic.route.as_deref().map(canary_of),
            "namespace": target.namespace,
            "labels": object_labels(target, run),
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": services.canary, "uid": owner}],
        },
        "spec": spec,
    })
}

fn text(weight: Weight) -> String {
    weight.percent().to_string()
}

/// A compare-and-set of the weight alone.
pub(super) fn reweigh(ingress: &Value, weight: Weight) -> [Value; 2] {
    let path = patch::annotation(WEIGHT);
    [
        json!({"op": "test", "path": path, "value": annotation(ingress, WEIGHT)}),
        json!({"op": "add", "path": path, "value": text(weight)}),
    ]
}

/// Another canary that divides the traffic of one of these rules already: nginx takes one only.
pub(super) fn rival<'a>(others: &'a [Value], spec: &Value, own: &str) -> Option<&'a str> {
    let paths = |spec: &Value| -> Vec<(String, String)> {
        let rules = spec["rules"].as_array().into_iter().flatten();
        let each = rules.flat_map(|rule| {
            let paths = rule["http"]["paths"].as_array().into_iter().flatten();
            paths.map(|path| (told(&rule["host"]).to_owned(), told(&path["path"]).to_owned())).collect::<Vec<_>>()
        });
        each.collect()
    };
    let ours = paths(spec);
    let mut canaries = others.iter().filter(|other| is_canary(other) && other["metadata"]["name"] != own);
    let rival = canaries.find(|other| paths(&other["spec"]).iter().any(|path| ours.contains(path)))?;
    rival["metadata"]["name"].as_str()
}

fn told(text: &Value) -> &str {
    text.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::{patched, services, weight as percent_of};
    use super::*;
    use crate::error::Access;
    use crate::names::{MANAGED_BY, RUN};
    use crate::testing::target;

    fn ask() -> Ask {
        Ask::new(Access::Read, "get Ingress", "ns/web-route")
    }

    fn path(path: &str, service: &str) -> Value {
        json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}})
    }

    fn stable() -> Value {
        json!({
            "metadata": {"name": "web-route", "namespace": "ns", "labels": {"app": "web"}, "annotations": {
                "nginx.ingress.kubernetes.io/backend-protocol": "GRPC", "kubernetes.io/ingress.class": "nginx",
                "cert-manager.io/issuer": "letsencrypt"}},
            "spec": {"ingressClassName": "nginx", "tls": [{"hosts": ["a.test"], "secretName": "tls"}], "rules": [
                {"host": "a.test", "http": {"paths": [path("/other", "other"), path("/", "web")]}},
                {"host": "b.test", "http": {"paths": [path("/", "other")]}},
                {"http": {"paths": [path("/api", "web")]}}]},
        })
    }

    #[test]
    fn the_canary_has_the_rules_that_lead_to_the_service_and_no_others() {
        let spec = spec(&ask(), &stable(), &services()).unwrap();
        let expected = json!({"ingressClassName": "nginx", "rules": [
            {"host": "a.test", "http": {"paths": [path("/", "web-canary")]}},
            {"http": {"paths": [path("/api", "web-canary")]}}]});
        assert_eq!(spec, expected);
    }

    #[test]
    fn it_is_the_run_s_and_goes_with_the_canary_s_service() {
        let body = canary(&stable(), &json!({}), &target(), &RunId::new("r1").unwrap(), "u-7", percent_of(10));
        let meta = &body["metadata"];
        assert_eq!((&meta["name"], &meta["labels"][RUN]), (&json!("web-route-canary"), &json!("r1")));
        assert_eq!(meta["labels"][MANAGED_BY], "moodify");
        let owner = json!([{"apiVersion": "v1", "kind": "Service", "name": "web-svc-canary", "uid": "u-7"}]);
        assert_eq!(meta["ownerReferences"], owner);
        let annotations = json!({CANARY: "true", WEIGHT: "10", "kubernetes.io/ingress.class": "nginx",
            "nginx.ingress.kubernetes.io/backend-protocol": "GRPC"});
        assert_eq!(meta["annotations"], annotations, "what other tools say is not repeated");
    }

    #[test]
    fn weights_are_read_as_nginx_reads_them() {
        let with = |annotations: Value| weight(&json!({"metadata": {"annotations": annotations}})).percent();
        assert_eq!(with(json!({CANARY: "true", WEIGHT: "33"})), 33);
        assert_eq!(with(json!({CANARY: "true", WEIGHT: "33", TOTAL: "1000"})), 3);
        assert_eq!(with(json!({CANARY: "true", WEIGHT: "300"})), 100);
        assert_eq!(with(json!({CANARY: "true"})), 0);
        assert_eq!(with(json!({WEIGHT: "33"})), 0);
        let ten = json!({"metadata": {"annotations": {CANARY: "true", WEIGHT: "10"}}});
        assert_eq!(weight(&patched(ten.clone(), &reweigh(&ten, percent_of(50)))).percent(), 50);
    }

    #[test]
    fn what_nginx_cannot_divide_is_refused() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut ingress = stable();
            change(&mut ingress);
            spec(&ask(), &ingress, &services()).unwrap_err()
        };
        let error = refused(&|i| i["metadata"]["annotations"][CANARY] = "true".into());
        assert_eq!((error.kind(), error.message()), (ErrorKind::Unsupported, "it is a canary itself"));
        let error = refused(&|i| i["spec"]["defaultBackend"] = path("/", "web")["backend"].clone());
        assert!(error.message().contains("default backend"), "{error}");
        let error = refused(&|i| i["spec"]["rules"] = json!([]));
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn another_canary_of_the_same_path_is_a_rival() {
        let spec = spec(&ask(), &stable(), &services()).unwrap();
        let other = |name: &str, canary: &str, host: &str, at: &str| {
            json!({"metadata": {"name": name, "annotations": {CANARY: canary}},
                "spec": {"rules": [{"host": host, "http": {"paths": [path(at, "x")]}}]}})
        };
        let fine = [
            stable(),
            other("off", "false", "a.test", "/"),
            other("elsewhere", "true", "a.test", "/other"),
            other("web-route-canary", "true", "a.test", "/"),
        ];
        assert_eq!(rival(&fine, &spec, "web-route-canary"), None);
        let rivals = [other("theirs", "true", "a.test", "/")];
        assert_eq!(rival(&rivals, &spec, "web-route-canary"), Some("theirs"));
    }
}
