//! The new version gets copies of requests before it gets a share of them: what of it a real API server keeps. With
//! requests it is in `traffic`.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::TrafficMirror;
use moodify_core::model::{Target, Weight};
use moodify_core::testing::conformance::{self, MirrorHarness};
use moodify_core::{CallContext, ErrorKind};
use moodify_k8s::{Kube, KubeConfig, Router};
use moodify_tests::rig::{Namespace, PROMPT, Rig};
use moodify_tests::routes::{others, resource, route};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);

struct Harness {
    namespace: Namespace,
    router: Router,
    mirror: Arc<dyn TrafficMirror>,
}

impl Harness {
    /// With the routing object of a service `backend`.
    async fn new(namespace: Namespace, router: Router) -> Self {
        namespace.apply(&route(router.name(), "backend", "backend").to_string()).await;
        // To whose address Traefik sends copies.
        let canary = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "backend-canary"},
            "spec": {"selector": {"app": "backend-canary"}, "ports": [{"port": 80}]},
        });
        namespace.apply(&canary.to_string()).await;
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        let mirror = kube.mirror(router).unwrap();
        Self { namespace, router, mirror }
    }

    async fn route(&self) -> Value {
        let get = ["get", resource(self.router.name()), "backend", "--output", "json"];
        serde_json::from_str(&self.namespace.kubectl(&get).await).unwrap()
    }
}

impl Harness {
    async fn mirrored_by_traefik(&self, route: &Value) -> Weight {
        let [others, own] = [0, 1].map(|index| &route["spec"]["weighted"]["services"][index]);
        assert_eq!(*others, json!({"name": "idle", "port": 80, "weight": 0}));
        assert_eq!((&own["weight"], &own["passHostHeader"]), (&json!(3), &json!(true)));
        if own["name"] == "backend" {
            return Weight::ZERO;
        }
        assert_eq!((&own["name"], &own["kind"]), (&json!("backend-canary-mirror"), &json!("TraefikService")));
        let get = ["get", resource("traefik"), "backend-canary-mirror", "--output", "json"];
        let ours: Value = serde_json::from_str(&self.namespace.kubectl(&get).await).unwrap();
        let (main, copy) = (&ours["spec"]["mirroring"], &ours["spec"]["mirroring"]["mirrors"][0]);
        assert_eq!((&main["name"], &copy["name"]), (&json!("backend"), &json!("backend-canary")));
        assert_eq!(ours["metadata"]["ownerReferences"][0]["uid"], route["metadata"]["uid"]);
        Weight::new(copy["percent"].as_u64().unwrap().try_into().unwrap()).unwrap()
    }
}

#[async_trait]
impl MirrorHarness for Harness {
    fn mirror(&self) -> Arc<dyn TrafficMirror> {
        self.mirror.clone()
    }

    fn target(&self) -> Target {
        serde_json::from_value(json!({
            "environment": "test", "namespace": self.namespace.name(),
            "service": {"name": "backend", "workload": "backend", "image": "registry.test/backend:v2",
                "traffic": {"router": self.router.name(), "service": "backend", "route": "backend"}},
        }))
        .unwrap()
    }

    async fn mirrored(&self) -> Weight {
        let route = self.route().await;
        if self.router == Router::Traefik {
            return self.mirrored_by_traefik(&route).await;
        }
        if self.router == Router::HttpRoute {
            let [others, rule] = [0, 1].map(|index| &route["spec"]["rules"][index]["filters"]);
            assert!(others.is_null(), "the rule of others: {others}");
            let Some(filter) = rule.get(0) else { return Weight::ZERO };
            let mirror = &filter["requestMirror"];
            let to = json!({"group": "", "kind": "Service", "name": "backend-canary", "port": 80});
            assert_eq!((&filter["type"], &mirror["backendRef"]), (&json!("RequestMirror"), &to));
            return mirror["percent"].as_u64().map_or(Weight::FULL, |percent| Weight::new(percent as u8).unwrap());
        }
        let [others, rule] = [0, 1].map(|index| &route["spec"]["http"][index]);
        assert!(others["mirror"].is_null() && others["mirrorPercentage"].is_null(), "the rule of others: {others}");
        if rule["mirror"].is_null() {
            return Weight::ZERO;
        }
        assert_eq!(rule["mirror"], json!({"host": "backend-canary"}));
        Weight::new(rule["mirrorPercentage"]["value"].as_u64().unwrap().try_into().unwrap()).unwrap()
    }

    async fn object(&self) -> String {
        if self.router == Router::Traefik {
            let (names, specs) = (".metadata.name", ".spec");
            let list = format!("{{range .items[*]}}{{{names}}} {{{specs}}};{{end}}");
            let get = ["get", resource("traefik"), "--output", &format!("jsonpath={list}")];
            return self.namespace.kubectl(&get).await;
        }
        let route = self.route().await;
        let annotations = route["metadata"]["annotations"].as_object().into_iter().flatten();
        let written: Vec<_> = annotations.filter(|(key, _)| !key.starts_with("kubectl.")).collect();
        format!("{written:?} {}", route["spec"])
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn cx() -> CallContext {
    CallContext::by_hand("mirror", PATIENCE)
}

#[tokio::test]
async fn mirrors_keep_the_contract() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("mirror-istio").await;
    conformance::traffic_mirror(&Harness::new(namespace, Router::Istio).await).await;
}

#[tokio::test]
async fn mirrors_of_traefik_keep_the_contract() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("mirror-traefik-service").await;
    conformance::traffic_mirror(&Harness::new(namespace, Router::Traefik).await).await;
}

/// A gateway that nobody runs, of a class that reports these features.
async fn gateway(namespace: &Namespace, features: &[&str]) {
    let name = namespace.name();
    let classes = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
            "spec": {"controllerName": "rig.moodify.dev/nobody"},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
            "spec": {"gatewayClassName": name, "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]},
        },
    ]});
    namespace.apply(&classes.to_string()).await;
    let features: Vec<Value> = features.iter().map(|name| json!({"name": name})).collect();
    let status = json!({"status": {"supportedFeatures": features, "conditions": []}}).to_string();
    let class = "gatewayclasses.gateway.networking.k8s.io";
    namespace.kubectl(&["patch", class, name, "--subresource=status", "--type=merge", "--patch", &status]).await;
}

#[tokio::test]
async fn mirrors_of_gateways_that_can_keep_the_contract() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-http-route").await;
    gateway(&namespace, &["HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"]).await;
    conformance::traffic_mirror(&Harness::new(namespace, Router::HttpRoute).await).await;
}

#[tokio::test]
async fn what_a_gateway_refuses_is_taken_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-refused").await;
    gateway(&namespace, &["HTTPRouteRequestMirror"]).await;
    let harness = Harness::new(namespace, Router::HttpRoute).await;
    let (target, before) = (harness.target(), harness.object().await);
    let some = harness.mirror.start(&cx(), &target, Weight::new(10).unwrap()).await.unwrap_err();
    assert!(some.message().contains("does not report HTTPRouteRequestPercentageMirror"), "{some}");
    assert_eq!(harness.object().await, before);
    // It says of each generation that it is fine, until it meets the filter.
    let report = async |accepted: &str, generation: &Value| {
        let condition = json!({"type": "Accepted", "status": accepted, "reason": "UnsupportedValue",
            "message": "no such filter", "lastTransitionTime": "2026-11-24T12:00:00Z", "observedGeneration": generation});
        let parent = json!({"controllerName": "rig.moodify.dev/nobody",
            "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
            "conditions": [condition]});
        let status = json!({"status": {"parents": [parent]}}).to_string();
        let route = resource("http-route");
        let patch = ["patch", route, "backend", "--subresource=status", "--type=merge", "--patch", &status];
        harness.namespace.kubectl(&patch).await;
    };
    report("True", &harness.route().await["metadata"]["generation"]).await;
    let controller = async {
        loop {
            let route = harness.route().await;
            if route["spec"]["rules"][1]["filters"].is_array() {
                return report("False", &route["metadata"]["generation"]).await;
            }
        }
    };
    let cx = cx();
    let (started, ()) = tokio::join!(harness.mirror.start(&cx, &target, Weight::FULL), controller);
    let error = started.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.message().contains("Accepted is False (UnsupportedValue): no such filter; it is as it was"),
        "{error}"
    );
    assert_eq!(harness.object().await, before);
}

/// The rig's Traefik answers with errors where it is asked for copies, and does not say so about the route.
#[tokio::test]
async fn a_gateway_that_cannot_is_not_asked_to() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-traefik").await;
    let Some(traefik) = namespace.traefik(PROMPT).await else { return };
    others(&namespace).await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["mirror"] = json!({"for": "5s"});
    scene.grant().await;
    traefik.serves("http.test").await;
    let before = scene.routing("http-route", "backend").await;
    let refused = scene.release().await;
    assert!(refused.code != 0 && !refused.began("rollout-deploy"), "{}", refused.stderr);
    assert!(refused.stderr.contains("does not report HTTPRouteRequestMirror"), "{}", refused.stderr);
    assert_eq!(scene.routing("http-route", "backend").await, before);
    let (status, body) = traefik.ask("http.test", &[]).await;
    assert!(status == 200 && body.contains("v1"), "{status} {body}");
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn what_a_person_is_told_to_type_ends_the_copies_by_traefik() {
    let Some(rig) = Rig::shared().await else { return };
    let harness = Harness::new(rig.namespace("mirror-traefik-by-hand").await, Router::Traefik).await;
    let before = harness.object().await;
    harness.mirror.start(&cx(), &harness.target(), Weight::FULL).await.unwrap();
    assert_ne!(harness.object().await, before);
    by_hand(&harness).await;
    assert_eq!(harness.object().await, before);
}

/// Types what a person is told to type.
async fn by_hand(harness: &Harness) {
    for command in harness.mirror.by_hand(&harness.target()) {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &command]).env("KUBECONFIG", harness.namespace.kubeconfig("admin"));
        let output = shell.output().await.unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn what_a_person_is_told_to_type_ends_the_copies_and_no_others() {
    let Some(rig) = Rig::shared().await else { return };
    let harness = Harness::new(rig.namespace("mirror-by-hand").await, Router::Istio).await;
    let audit = r#"[{"op": "add", "path": "/spec/http/0/mirror", "value": {"host": "audit"}}]"#;
    let patch = ["patch", resource("istio"), "backend", "--type=json", "--patch", audit];
    harness.namespace.kubectl(&patch).await;
    let before = harness.object().await;
    harness.mirror.start(&cx(), &harness.target(), Weight::FULL).await.unwrap();
    assert_ne!(harness.object().await, before);
    by_hand(&harness).await;
    assert_eq!(harness.object().await, before);
}

#[tokio::test]
async fn each_write_is_one_and_copies_of_somebody_else_stay() {
    let Some(rig) = Rig::shared().await else { return };
    let harness = Harness::new(rig.namespace("mirror-writes").await, Router::Istio).await;
    let target = harness.target();
    for _ in 0..2 {
        harness.mirror.start(&cx(), &target, Weight::FULL).await.unwrap();
    }
    // Somebody edits what is beside them.
    let edit = r#"[{"op": "replace", "path": "/spec/http/1/timeout", "value": "7s"}]"#;
    harness.namespace.kubectl(&["patch", resource("istio"), "backend", "--type=json", "--patch", edit]).await;
    for _ in 0..2 {
        harness.mirror.stop(&cx(), &target).await.unwrap();
    }
    let rule = &harness.route().await["spec"]["http"][1];
    assert_eq!((&rule["timeout"], &rule["mirror"]), (&json!("7s"), &Value::Null));
    if let Some(ledger) = harness.namespace.ledger() {
        let ours = ledger.into_iter().filter(|e| e.user_agent.starts_with("moodify/") && e.is_write());
        assert_eq!(ours.map(|e| e.verb).collect::<Vec<_>>(), ["patch"; 2]);
    }
    let audit = r#"[{"op": "add", "path": "/spec/http/1/mirror", "value": {"host": "audit"}}]"#;
    harness.namespace.kubectl(&["patch", resource("istio"), "backend", "--type=json", "--patch", audit]).await;
    let before = harness.object().await;
    let error = harness.mirror.start(&cx(), &target, Weight::FULL).await.unwrap_err();
    assert!(error.message().contains("http route 2 mirrors its requests to audit already"), "{error}");
    harness.mirror.stop(&cx(), &target).await.unwrap();
    assert_eq!(harness.object().await, before);
}
