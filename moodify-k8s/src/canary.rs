//! What a canary looks like: the objects that are applied, made of the stable ones. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use moodify_core::backend::CanarySpec;
use moodify_core::model::{Layout, Target, Track};
use moodify_core::{Error, ErrorKind, RunId};
use serde_json::{Map, Value, json};

use crate::configuration;
use crate::error::Ask;
use crate::names::{
    self, MANAGED_BY, RUN, SERVICE, TRACK, VERSION, canary_service, label_value, mark, mark_of, with_suffix,
};
use crate::traffic::Router;
use crate::workload::container;

/// Annotations of a Service that tell a router how to speak to its pods.
const HOW_TO_REACH: [&str; 3] =
    ["alb.ingress.kubernetes.io/", "networking.istio.io/", "traefik.ingress.kubernetes.io/"];
/// Label keys by which a Service may already tell versions apart.
const VERSION_KEYS: [&str; 3] = ["version", "track", TRACK];

/// The labels that choose the canary's pods, and nothing else in the namespace. A workload that takes turns with another
/// one outlives the run.
pub(crate) fn identity(target: &Target, run: &RunId) -> Map<String, Value> {
    identity_of(target, Track::Canary, run)
}

/// The same of the workload that has this part in a release.
fn identity_of(target: &Target, track: Track, run: &RunId) -> Map<String, Value> {
    let run = (target.layout == Layout::InPlace).then(|| (RUN, run.to_string()));
    let labels = [(TRACK, mark_of(target, track)), (SERVICE, label_value(&target.service.name))];
    run.into_iter().chain(labels).map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// The same as a label selector.
pub(crate) fn selector(target: &Target, track: Track, run: &RunId) -> String {
    let text = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    identity_of(target, track, run).iter().map(text).collect::<Vec<_>>().join(",")
}

pub(crate) fn object_labels(target: &Target, run: &RunId) -> Map<String, Value> {
    let mut labels = identity(target, run);
    labels.insert(RUN.to_owned(), run.to_string().into());
    labels.insert(MANAGED_BY.to_owned(), "moodify".into());
    labels
}

/// The canary's Deployment: the stable one's spec with another image, count, selector and labels.
///
/// Of the stable Deployment's own labels and annotations nothing is copied: they tell other tools (Helm, Argo CD)
/// that the object is theirs.
pub(crate) fn deployment(
    ask: &Ask,
    stable: &Value,
    service: &Service,
    target: &Target,
    run: &RunId,
    spec: &CanarySpec,
) -> Result<Value, Error> {
    let mut body = stable["spec"].clone();
    let mut labels = pod_labels(stable);
    place(ask, &mut labels, service, target, spec.shares_service)?;
    // A label that the stable pods carry may be what a Service selects by; ours only fills the gap.
    labels.entry(MANAGED_BY).or_insert("moodify".into());
    body["template"] = template(ask, stable, labels, target, run, spec)?;
    if let Some(fields) = body.as_object_mut() {
        fields.remove("paused");
        fields.insert("replicas".to_owned(), spec.replicas.into());
        fields.insert("selector".to_owned(), json!({"matchLabels": identity(target, run)}));
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names::workload(target, Track::Canary),
            "namespace": target.namespace,
            "labels": object_labels(target, run),
            "annotations": {VERSION: spec.version},
        },
        "spec": body,
    }))
}

/// The labels of a Deployment's pods.
pub(crate) fn pod_labels(deployment: &Value) -> Map<String, Value> {
    let mut labels = deployment["spec"]["template"]["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.remove("pod-template-hash");
    labels
}

/// The stable pods' template with another image, and with these labels and ours; without ours if it shall be plain.
pub(crate) fn template(
    ask: &Ask,
    stable: &Value,
    mut labels: Map<String, Value>,
    target: &Target,
    run: &RunId,
    spec: &CanarySpec,
) -> Result<Value, Error> {
    let typed: Deployment = crate::client::typed(ask, stable.clone())?;
    let (index, _) = container(ask, &typed, target.service.container())?;
    let mut template = stable["spec"]["template"].clone();
    template["spec"]["containers"][index]["image"] = spec.image.as_str().into();
    configuration::rewrite(ask, &mut template, target, &spec.config)?;
    let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    if spec.plain {
        [TRACK, SERVICE].iter().for_each(|label| drop(labels.remove(*label)));
        annotations.remove(VERSION);
    } else {
        labels.extend(identity(target, run));
        annotations.insert(VERSION.to_owned(), spec.version.as_str().into());
    }
    template["metadata"] = json!({"labels": labels, "annotations": annotations});
    Ok(template)
}

/// Makes the pods' labels fit the stable Service: chosen by it if they share it, not chosen if they do not.
fn place(
    ask: &Ask,
    labels: &mut Map<String, Value>,
    service: &Service,
    target: &Target,
    shares_service: bool,
) -> Result<(), Error> {
    let name = &target.service.traffic.service;
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let pairs = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let wrong = |message: String| Err(ask.error(ErrorKind::Invalid, message));
    if selector.is_empty() {
        return wrong(format!("the Service {name} has no selector, so it does not lead to the Deployment's pods"));
    }
    if selector.iter().any(|(key, value)| labels.get(key).and_then(Value::as_str) != Some(value)) {
        let workload = &target.service.workload;
        return wrong(format!("the Service {name} selects {pairs}, which the pods of {workload} do not carry"));
    }
    let by_version = selector.iter().find(|(key, _)| VERSION_KEYS.contains(&key.as_str()));
    if shares_service {
        return match by_version {
            None => Ok(()),
            Some((key, value)) => Err(ask
                .error(
                    ErrorKind::Invalid,
                    format!("the Service {name} selects {key}={value}: no canary can get traffic through it by ratio"),
                )
                .hint(format!("remove {key} from the Service's selector, or use the router http-route"))),
        };
    }
    let (key, value) = match (by_version, selector.iter().next()) {
        (Some((key, _)), _) => (key, mark(target)),
        (None, Some((key, value))) => (key, with_suffix(value, &mark(target))),
        (None, None) => return Ok(()),
    };
    // `version: canary` on the stable pods themselves would make the two the same again.
    let value = if selector.get(key) == Some(&value) { with_suffix(&value, &mark(target)) } else { value };
    labels.insert(key.clone(), value.into());
    Ok(())
}

/// The canary's own Service. It is owned by the canary's Deployment, so that it goes with it and costs no removal.
pub(crate) fn service(stable: &Value, target: &Target, run: &RunId, owner_uid: &str) -> Value {
    const COPIED: [&str; 6] = [
        "type",
        "sessionAffinity",
        "publishNotReadyAddresses",
        "internalTrafficPolicy",
        "ipFamilyPolicy",
        "ipFamilies",
    ];
    let mut spec = Map::new();
    for key in COPIED {
        if let Some(value) = stable["spec"].get(key) {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    // Nobody from outside shall reach the canary past the router, unless that is where the router itself is.
    let by_nodes = Router::of(target) == Some(Router::Alb) && stable["spec"]["type"] != "ClusterIP";
    spec.insert("type".to_owned(), if by_nodes { "NodePort" } else { "ClusterIP" }.into());
    if stable["spec"]["clusterIP"] == "None" {
        spec.insert("clusterIP".to_owned(), "None".into());
    }
    let mut ports = stable["spec"]["ports"].clone();
    for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
    spec.insert("ports".to_owned(), ports);
    spec.insert("selector".to_owned(), identity(target, run).into());
    let annotations = stable["metadata"]["annotations"].as_object().into_iter().flatten();
    let annotations = annotations.filter(|(key, _)| HOW_TO_REACH.iter().any(|prefix| key.starts_with(prefix)));
    let annotations: Map<String, Value> = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": canary_service(target),
            "namespace": target.namespace,
            "labels": object_labels(target, run),
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": names::workload(target, Track::Canary),
                "uid": owner_uid,
            }],
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Access;
    use crate::testing::{stable_deployment, stable_service, target};

    fn spec(shares_service: bool) -> CanarySpec {
        CanarySpec::new("registry/web:v2".parse().unwrap(), "v2", 1, shares_service)
    }

    fn made(selector: &Value, shares_service: bool) -> Result<Value, Error> {
        let mut service = stable_service();
        service["spec"]["selector"] = selector.clone();
        let ask = Ask::new(Access::Read, "plan the canary of", "ns/web");
        let run = RunId::new("r1").unwrap();
        let service = serde_json::from_value(service).unwrap();
        deployment(&ask, &stable_deployment(), &service, &target(), &run, &spec(shares_service))
    }

    fn pod_labels(body: &Value) -> &Value {
        &body["spec"]["template"]["metadata"]["labels"]
    }

    #[test]
    fn a_canary_is_the_stable_one_but_for_image_count_and_labels() {
        let body = made(&json!({"app": "web"}), true).unwrap();
        assert_eq!(body["metadata"]["name"], "web-canary");
        assert_eq!(
            body["metadata"]["labels"],
            json!({MANAGED_BY: "moodify", RUN: "r1", TRACK: "canary", SERVICE: "web"})
        );
        assert_eq!(body["spec"]["replicas"], 1);
        assert_eq!(body["spec"]["progressDeadlineSeconds"], 30);
        assert_eq!(body["spec"]["selector"], json!({"matchLabels": {RUN: "r1", TRACK: "canary", SERVICE: "web"}}));
        let containers = &body["spec"]["template"]["spec"]["containers"];
        assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("proxy:1"), &json!("registry/web:v2")));
        assert_eq!(containers[1]["unknown"], "kept");
        assert!(body.get("status").is_none() && body["metadata"].get("uid").is_none());
    }

    #[test]
    fn behind_the_stable_service_the_pods_keep_its_labels() {
        let body = made(&json!({"app": "web"}), true).unwrap();
        assert_eq!((&pod_labels(&body)["app"], &pod_labels(&body)["version"]), (&json!("web"), &json!("stable")));
        assert_eq!(pod_labels(&body)[TRACK], "canary");
        let error = made(&json!({"app": "web", "version": "stable"}), true).unwrap_err();
        assert!(error.message().contains("selects version=stable"), "{error}");
        let error = made(&json!({"app": "other"}), true).unwrap_err();
        assert!(error.message().contains("selects app=other"), "{error}");
        assert!(made(&json!({}), true).is_err());
    }

    #[test]
    fn beside_it_one_label_keeps_them_out() {
        let by_version = made(&json!({"app": "web", "version": "stable"}), false).unwrap();
        assert_eq!(pod_labels(&by_version)["app"], "web");
        assert_eq!(pod_labels(&by_version)["version"], "canary");
        let by_app = made(&json!({"app": "web"}), false).unwrap();
        assert_eq!(pod_labels(&by_app)["app"], "web-canary");
        assert_eq!(pod_labels(&by_app)["version"], "stable", "a label that the Service does not select by stays");
    }

    #[test]
    fn the_service_goes_with_the_deployment_and_leads_to_the_canary_only() {
        let body = service(&stable_service(), &target(), &RunId::new("r1").unwrap(), "u-1");
        assert_eq!(body["metadata"]["name"], "web-svc-canary");
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(body["spec"]["selector"], json!({RUN: "r1", TRACK: "canary", SERVICE: "web"}));
        assert_eq!(body["spec"]["ports"], json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]));
        assert_eq!(body["spec"]["type"], "ClusterIP");
        assert!(body["spec"].get("clusterIP").is_none());
    }

    #[test]
    fn the_router_reaches_the_canary_as_it_reaches_the_stable_one() {
        let mut stable = stable_service();
        stable["metadata"]["annotations"] = json!({
            "alb.ingress.kubernetes.io/target-type": "instance", "traefik.ingress.kubernetes.io/service.sticky.cookie": "true",
            "argocd.argoproj.io/sync-wave": "1"});
        let mut target = target();
        let made = |target: &Target| service(&stable, target, &RunId::new("r1").unwrap(), "u-1");
        let annotations = json!({
            "alb.ingress.kubernetes.io/target-type": "instance", "traefik.ingress.kubernetes.io/service.sticky.cookie": "true"});
        assert_eq!(made(&target)["metadata"]["annotations"], annotations);
        assert_eq!(made(&target)["spec"]["type"], "ClusterIP");
        target.service.traffic.router = "alb".to_owned();
        assert_eq!(made(&target)["spec"]["type"], "NodePort", "load balancers reach nodes");
        assert_eq!(made(&target)["spec"]["ports"][0].get("nodePort"), None);
    }

    #[test]
    fn the_selector_is_text_for_lists_too() {
        let text = selector(&target(), Track::Canary, &RunId::new("r1").unwrap());
        assert_eq!(text, "moodify.dev/run=r1,moodify.dev/service=web,moodify.dev/track=canary");
    }
}
