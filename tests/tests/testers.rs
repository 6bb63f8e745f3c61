//! Testers see the new version before it gets a share of the traffic: on a real API server, and through a real Traefik.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::{CanarySpec, Mark, TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::testing::conformance::{self, TestersHarness};
use moodify_core::{CallContext, IdempotencyKey};
use moodify_k8s::{Kube, KubeConfig, Router};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::routes::{self, resource, route};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

struct Harness {
    namespace: Namespace,
    router: Router,
    routes: Arc<dyn TesterRoutes>,
}

/// An `IngressRoute` that leads to the `TraefikService` of that name, and elsewhere besides.
fn ingress_route(name: &str) -> Value {
    json!({
        "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": name},
        "spec": {"routes": [
            {"kind": "Rule", "match": "PathPrefix(`/admin`)", "services": [{"name": "admin", "port": 80}]},
            {"kind": "Rule", "match": "PathPrefix(`/`)", "services": [{"kind": "TraefikService", "name": name}]},
        ]},
    })
}

impl Harness {
    /// With a canary and the routing objects of a service `backend`.
    async fn new(namespace: Namespace, router: Router) -> Self {
        namespace.deploy("backend", "registry.test/backend:v1", 1).await;
        namespace.apply(&route(router.name(), "backend", "backend").to_string()).await;
        if router == Router::Traefik {
            namespace.apply(&ingress_route("backend").to_string()).await;
        }
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        let routes = kube.tester_routes(router).unwrap();
        let harness = Self { namespace, router, routes };
        let (target, run) = (harness.target(), conformance::run());
        let cx = CallContext::new(run, IdempotencyKey::new("deploy"), Duration::from_secs(60));
        let spec = CanarySpec::new(target.service.image.clone(), "v2", 1, false);
        kube.deployer().deploy(&cx, &target, &spec).await.unwrap();
        harness
    }

    /// All objects that may lead somewhere.
    async fn objects(&self) -> Vec<Value> {
        let resource = match self.router {
            Router::Traefik => "traefikservices.traefik.io,ingressroutes.traefik.io",
            router => resource(router.name()),
        };
        let text = self.namespace.kubectl(&["get", resource, "--output", "json"]).await;
        let mut list: Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(list["items"].take()).unwrap()
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
        let pattern = |name: &str| format!(r"^(.*;\s*)?{name}={}(\s*;.*)?$", testers.value.replace('.', r"\."));
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        self.objects().await.iter().any(|object| match (self.router, testers.mark()) {
            (Router::IngressNginx, mark) => {
                let annotation = |key: &str| {
                    object["metadata"]["annotations"][format!("nginx.ingress.kubernetes.io/{key}")].as_str()
                };
                annotation("canary") == Some("true")
                    && annotation("canary-weight") == Some("0")
                    && object["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "backend-canary"
                    && match mark {
                        Mark::Header(name) => {
                            annotation("canary-by-header") == Some(name)
                                && annotation("canary-by-header-value") == Some(testers.value.as_str())
                        }
                        Mark::Cookie(name) => annotation("canary-by-cookie") == Some(name) && testers.value == "always",
                    }
            }
            (Router::Traefik, mark) => list(&object["spec"]["routes"]).iter().any(|rule| {
                let asks = match mark {
                    Mark::Header(name) => format!("Header({name:?}, {:?})", testers.value),
                    Mark::Cookie(name) => format!("HeaderRegexp(\"Cookie\", {:?})", pattern(name)),
                };
                rule["match"] == format!("(PathPrefix(`/`)) && {asks}")
                    && rule["services"][0]["name"] == "backend-canary"
            }),
            (Router::Alb, mark) => {
                let annotation = |key: &str| -> Value {
                    let key = format!("alb.ingress.kubernetes.io/{key}.to-service-testers");
                    serde_json::from_str(object["metadata"]["annotations"][key].as_str().unwrap_or("null")).unwrap()
                };
                // Before the path for all.
                let path = &object["spec"]["rules"][0]["http"]["paths"][1];
                let Mark::Header(name) = mark else { panic!("no cookies") };
                let header = json!({"httpHeaderName": name, "values": [testers.value]});
                path["backend"]["service"]["name"] == "to-service-testers"
                    && annotation("conditions") == json!([{"field": "http-header", "httpHeaderConfig": header}])
                    && annotation("actions")["forwardConfig"]["targetGroups"][0]["serviceName"] == "backend-canary"
            }
            (Router::Istio, mark) => {
                // Before the rule for all.
                let rule = &object["spec"]["http"][1];
                let headers = match mark {
                    Mark::Header(name) => json!({name.to_lowercase(): {"exact": testers.value}}),
                    Mark::Cookie(name) => json!({"cookie": {"regex": pattern(name)}}),
                };
                rule["match"] == json!([{"headers": headers}])
                    && rule["route"] == json!([{"destination": {"host": "backend-canary"}}])
            }
            (_, mark) => list(&object["spec"]["rules"]).iter().any(|rule| {
                let to_canary = list(&rule["backendRefs"]).iter().all(|to| to["name"] == "backend-canary");
                let header = match mark {
                    Mark::Header(name) => json!({"type": "Exact", "name": name, "value": testers.value}),
                    Mark::Cookie(name) => {
                        json!({"type": "RegularExpression", "name": "Cookie", "value": pattern(name)})
                    }
                };
                to_canary && list(&rule["matches"]).iter().all(|one| list(&one["headers"]).contains(&header))
            }),
        })
    }

    async fn object(&self) -> String {
        let objects = self.objects().await;
        let each = objects.iter().map(|object| {
            let meta = &object["metadata"];
            let annotations = meta["annotations"].as_object().into_iter().flatten();
            let written: Vec<_> = annotations.filter(|(key, _)| !key.starts_with("kubectl.")).collect();
            format!("{} {written:?} {}\n", meta["name"], object["spec"])
        });
        each.collect()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

#[tokio::test]
async fn routes_for_testers_keep_the_contract() {
    let Some(rig) = Rig::shared().await else { return };
    for router in Router::ALL {
        let namespace = rig.namespace(&format!("testers-{}", router.name())).await;
        println!("{}", router.name());
        conformance::tester_routes(&Harness::new(namespace, router).await).await;
    }
}

#[tokio::test]
async fn testers_by_a_header_reach_the_new_version_and_nobody_else_does() {
    let by = json!({"header": "X-Tester", "value": "yes"});
    reach("testers-release", "http-route", by, ("X-Tester", "yes"), ("X-Tester", "no")).await;
}

#[tokio::test]
async fn testers_by_a_cookie_reach_the_new_version_and_nobody_else_does() {
    let by = json!({"cookie": "tester", "value": "y.s"});
    reach(
        "testers-cookie",
        "http-route",
        by,
        ("Cookie", "a=b; tester=y.s; c=d"),
        ("Cookie", "xtester=y.s; tester=yes"),
    )
    .await;
}

#[tokio::test]
async fn testers_behind_traefik_s_own_resources_reach_the_new_version() {
    let by = json!({"cookie": "tester", "value": "y.s"});
    reach("testers-traefik", "traefik", by, ("Cookie", "tester=y.s"), ("Cookie", "tester=y.s2; tester=yes")).await;
}

#[tokio::test]
async fn testers_behind_the_annotations_of_nginx_reach_the_new_version() {
    let by = json!({"header": "X-Tester", "value": "yes"});
    reach("testers-nginx", "ingress-nginx", by, ("X-Tester", "yes"), ("X-Tester", "always")).await;
}

/// Releases by a router through a real Traefik, and asks with a header of testers and with one of others.
async fn reach(name: &str, router: &str, by: Value, testers: (&str, &str), others: (&str, &str)) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await;
    let Some(traefik) = namespace.traefik(Duration::from_millis(100)).await else { return };
    routes::others(&namespace).await;
    if router == "traefik" {
        namespace.apply(&ingress_route("backend").to_string()).await;
    }
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], router).await else { return };
    scene.canary()["testers"] = by;
    scene.canary()["testers"]["for"] = "10s".into();
    scene.canary()["bake"] = "4s".into();
    scene.grant().await;
    traefik.serves("nginx.test").await;
    let before = scene.routing(router, "backend").await;

    let mut running = scene.start_release();
    running.until_step("rollout-testers").await;
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let (status, body) = traefik.ask("nginx.test", &[testers]).await;
        if status == 200 && body.contains("v2") {
            break;
        }
        assert!(Instant::now() < end, "testers get {status} {body}");
        sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..50 {
        let (status, body) = traefik.ask("nginx.test", &[others]).await;
        assert!(status == 200 && body.contains("v1"), "{status} {body}");
        let (status, body) = traefik.ask("nginx.test", &[testers]).await;
        assert!(status == 200 && body.contains("v2"), "{status} {body}");
    }
    running.finish().await.ended("completed");
    assert_eq!(scene.routing(router, "backend").await, before, "the route is as it was");
    let own = namespace.kubectl(&["get", "ingressroutes.traefik.io", "--output", "name"]).await;
    assert!(!own.contains("-testers"), "{own}");
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
