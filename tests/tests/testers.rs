//! Testers see the new version before it gets a share of the traffic: on a real API server, and through a real Traefik.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::{TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::testing::conformance::{self, TestersHarness};
use moodify_k8s::{Kube, KubeConfig, Router};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::routes::{resource, route};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

struct Harness {
    namespace: Namespace,
    router: Router,
    routes: Arc<dyn TesterRoutes>,
}

impl Harness {
    async fn route(&self) -> Value {
        let resource = resource(self.router.name());
        let text = self.namespace.kubectl(&["get", resource, "backend", "--output", "json"]).await;
        serde_json::from_str(&text).unwrap()
    }
}

#[async_trait]
impl TestersHarness for Harness {
    fn routes(&self) -> Arc<dyn TesterRoutes> {
        self.routes.clone()
    }

    fn target(&self) -> Target {
        serde_json::from_value(json!({
            "environment": "test", "namespace": self.namespace.name(),
            "service": {"name": "backend", "workload": "backend", "image": "registry.test/backend:v2",
                "traffic": {"router": self.router.name(), "service": "backend", "route": "backend"}},
        }))
        .unwrap()
    }

    async fn reaches_canary(&self, testers: &Testers) -> bool {
        let route = self.route().await;
        route["spec"]["rules"].as_array().unwrap().iter().any(|rule| {
            let to_canary = rule["backendRefs"].as_array().unwrap().iter().all(|to| to["name"] == "backend-canary");
            let asks = |one: &Value| {
                let headers = one["headers"].as_array().into_iter().flatten();
                headers.into_iter().any(|header| {
                    header["name"] == testers.header.as_str() && header["value"] == testers.value.as_str()
                })
            };
            to_canary && rule["matches"].as_array().unwrap().iter().all(asks)
        })
    }

    async fn object(&self) -> String {
        let route = self.route().await;
        format!("{} {}", route["spec"], route["metadata"]["annotations"]["moodify.dev/testers"])
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

#[tokio::test]
async fn routes_of_the_gateway_api_keep_the_contract() {
    let Some(rig) = Rig::shared().await else { return };
    for router in [Router::HttpRoute, Router::GrpcRoute] {
        let namespace = rig.namespace(&format!("testers-{}", router.name())).await;
        namespace.apply(&route(router.name(), "backend", "backend").to_string()).await;
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        let routes = kube.tester_routes(router).unwrap();
        conformance::tester_routes(&Harness { namespace, router, routes }).await;
    }
}

#[tokio::test]
async fn testers_reach_the_new_version_and_nobody_else_does() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("testers-release").await;
    let Some(traefik) = namespace.traefik(Duration::from_millis(100)).await else { return };
    // The rule of somebody else leads there.
    let admin = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "admin"},
        "spec": {"selector": {"app": "admin"}, "ports": [{"port": 80}]}});
    namespace.apply(&admin.to_string()).await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["testers"] = json!({"header": "X-Tester", "value": "yes", "for": "10s"});
    scene.canary()["bake"] = "4s".into();
    traefik.serves("nginx.test").await;
    let before = scene.route("backend").await;

    let mut running = scene.start_release();
    running.until_step("rollout-testers").await;
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let (status, body) = traefik.ask("nginx.test", &[("X-Tester", "yes")]).await;
        if status == 200 && body.contains("v2") {
            break;
        }
        assert!(Instant::now() < end, "testers get {status} {body}");
        sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..50 {
        let (status, body) = traefik.ask("nginx.test", &[("X-Tester", "no")]).await;
        assert!(status == 200 && body.contains("v1"), "{status} {body}");
        let (status, body) = traefik.ask("nginx.test", &[("X-Tester", "yes")]).await;
        assert!(status == 200 && body.contains("v2"), "{status} {body}");
    }
    running.finish().await.ended("completed");
    assert_eq!(scene.route("backend").await, before, "the route is as it was");
    scene.assert_serves("v2").await;
}

#[tokio::test]
async fn testers_go_when_the_release_goes_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("testers-back").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2-err30")], "http-route").await else { return };
    scene.canary()["testers"] = json!({"header": "X-Tester", "value": "yes"});
    let before = scene.route("backend").await;
    scene.release().await.ended("rolled-back");
    assert_eq!(scene.route("backend").await, before, "the route is as it was");
    scene.assert_serves("v1").await;
}
