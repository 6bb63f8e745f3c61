//! Routers of every kind on a real API server: what they write, and that nothing else changes.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::api::networking::v1::Ingress;
use moodify_core::backend::{CanarySpec, TrafficRouter, Verification, WeightChange};
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, ErrorKind, IdempotencyKey, RunId};
use moodify_k8s::{Kube, KubeConfig, Router};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::routes::{ROUTERS, resource, route};
use serde_json::{Value, json};
use tokio::process::Command;

fn cx_of(run: &str) -> CallContext {
    CallContext::new(RunId::new(run).unwrap(), IdempotencyKey::new("test"), Duration::from_secs(60))
}

fn cx() -> CallContext {
    cx_of("r1")
}

fn change(from: u8, to: u8) -> WeightChange {
    let weight = |percent| Weight::new(percent).unwrap();
    WeightChange { from: weight(from), to: weight(to), capacity: 1 }
}

/// A service `backend` with a canary, to which a routing object named as its router leads.
struct Stage {
    namespace: Namespace,
    kube: Kube,
}

impl Stage {
    async fn new(name: &str) -> Option<Self> {
        let namespace = Rig::shared().await?.namespace(name).await;
        namespace.deploy("backend", "registry.test/backend:v1", 1).await;
        let config = KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"));
        let stage = Self { namespace, kube: Kube::connect(&config).await.unwrap() };
        let target = stage.target("http-route");
        let spec = CanarySpec::new(target.service.image.clone(), "v2", 1, false);
        stage.kube.deployer().deploy(&cx(), &target, &spec).await.unwrap();
        Some(stage)
    }

    fn target(&self, router: &str) -> Target {
        serde_json::from_value(json!({
            "environment": "test",
            "namespace": self.namespace.name(),
            "service": {"name": "backend", "workload": "backend", "image": "registry.test/backend:v2",
                "traffic": {"router": router, "service": "backend", "route": router}},
        }))
        .unwrap()
    }

    fn router(&self, name: &str) -> std::sync::Arc<dyn TrafficRouter> {
        self.kube.router(Router::ALL.into_iter().find(|router| router.name() == name).unwrap())
    }

    /// Made without `kubectl apply`, which would leave an annotation.
    async fn create(&self, object: &Value) {
        let arguments = ["--namespace", self.namespace.name(), "create", "--filename", "-"];
        let output = self.namespace.rig().try_kubectl("admin", &arguments, &object.to_string()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn routed(&self, router: &str) {
        self.create(&route(router, router, "backend")).await;
    }

    /// What people wrote into a routing object.
    async fn written(&self, router: &str) -> (Value, Value) {
        let text = self.namespace.kubectl(&["get", resource(router), router, "--output", "json"]).await;
        let object: Value = serde_json::from_str(&text).unwrap();
        (object["metadata"]["annotations"].clone(), object["spec"].clone())
    }
}

#[tokio::test]
async fn there_and_back_takes_one_write_a_weight_and_leaves_every_object_as_it_was() {
    let Some(stage) = Stage::new("there-and-back").await else { return };
    for name in ROUTERS {
        stage.routed(name).await;
        let (target, router, before) = (stage.target(name), stage.router(name), stage.written(name).await);
        router.set(&cx(), &target, change(0, 0)).await.unwrap();
        for (from, to) in [(0, 10), (10, 50), (50, 100)] {
            let traffic = router.set(&cx(), &target, change(from, to)).await.unwrap();
            assert_eq!((traffic.weight.percent(), traffic.edited_by), (to, None), "{name}");
            assert_eq!(router.read(&cx(), &target).await.unwrap().weight.percent(), to, "{name}");
        }
        router.reset(&cx(), &target, 1).await.unwrap();
        assert_eq!(stage.written(name).await, before, "{name}");
        let Some(ledger) = stage.namespace.ledger() else { continue };
        let plural = resource(name).split('.').next().unwrap();
        let ours = ledger.into_iter().filter(|e| e.user_agent.starts_with("moodify/") && e.is_write());
        let of_route = ours.filter(|e| e.resource == plural && e.name.starts_with(name));
        let verbs: Vec<String> = of_route.map(|e| e.verb).collect();
        match name {
            "ingress-nginx" => assert_eq!(verbs, ["create", "patch", "patch", "delete"]),
            _ => assert_eq!(verbs, ["patch"; 4], "{name}"),
        }
    }
}

#[tokio::test]
async fn of_several_at_once_one_writes_and_nothing_is_there_twice() {
    let Some(stage) = Stage::new("at-once").await else { return };
    for name in ROUTERS {
        stage.routed(name).await;
        let (target, router, before) = (stage.target(name), stage.router(name), stage.written(name).await);
        let calls: Vec<CallContext> = (0..5).map(|_| cx()).collect();
        let results = join_all(calls.iter().map(|cx| router.set(cx, &target, change(0, 10)))).await;
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists), "{name}: {error}");
        }
        assert!(results.iter().any(Result::is_ok), "{name}: {results:?}");
        assert_eq!(router.read(&cx(), &target).await.unwrap().weight.percent(), 10, "{name}");
        let results = join_all(calls.iter().map(|cx| router.reset(cx, &target, 1))).await;
        assert!(results.iter().any(Result::is_ok), "{name}: {results:?}");
        assert_eq!(stage.written(name).await, before, "{name}");
    }
}

#[tokio::test]
async fn what_a_person_is_told_to_type_sends_everything_back() {
    let Some(stage) = Stage::new("by-hand").await else { return };
    for name in ROUTERS {
        stage.routed(name).await;
        let (target, router) = (stage.target(name), stage.router(name));
        router.set(&cx(), &target, change(0, 50)).await.unwrap();
        let commands = router.by_hand(&target, 1);
        assert_eq!(commands.len(), 1, "{name}");
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &commands[0]]).env("KUBECONFIG", stage.namespace.kubeconfig("admin"));
        let output = shell.output().await.unwrap();
        assert!(output.status.success(), "{}: {}", commands[0], String::from_utf8_lossy(&output.stderr));
        let traffic = router.read(&cx(), &target).await.unwrap();
        assert_eq!(traffic.weight, Weight::ZERO, "{name}");
        let (annotations, spec) = stage.written(name).await;
        let left = format!("{annotations} {spec}");
        assert!(!left.contains("backend-canary") && !left.contains("moodify"), "{name}: {left}");
        assert!(left.contains("admin") || name == "traefik", "the rule of somebody else is still there: {left}");
        // Nothing is left to do, and a release could begin.
        let writes = || stage.namespace.ledger().map(|all| all.into_iter().filter(|e| e.is_write()).count());
        let before = writes();
        router.reset(&cx(), &target, 1).await.unwrap();
        assert_eq!(writes(), before, "{name}");
        router.set(&cx(), &target, change(0, 10)).await.unwrap();
    }
}

#[tokio::test]
async fn a_foreign_canary_of_nginx_is_refused_before_anything_is_made() {
    const NAME: &str = "ingress-nginx";
    let Some(stage) = Stage::new("nginx-rival").await else { return };
    stage.routed(NAME).await;
    let (target, router) = (stage.target(NAME), stage.router(NAME));
    let mut rival = route(NAME, "theirs", "theirs");
    rival["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/canary": "true"});
    stage.create(&rival).await;
    let words = "the Ingress theirs is a canary of the same host and path already";
    let problems = stage.kube.preflight(&cx(), std::slice::from_ref(&target)).await;
    assert!(problems.len() == 1 && problems[0].message() == words, "{problems:?}");
    let error = router.set(&cx(), &target, change(0, 10)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Unsupported, words));
    let ingresses: kube::Api<Ingress> = stage.namespace.api().await;
    assert!(ingresses.get_opt("ingress-nginx-canary").await.unwrap().is_none());

    // One by the name that ours would have.
    stage.namespace.kubectl(&["delete", "ingress", "theirs"]).await;
    stage.create(&route(NAME, "ingress-nginx-canary", "theirs")).await;
    let error = router.set(&cx(), &target, change(0, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    router.reset(&cx(), &target, 1).await.unwrap();
    assert!(ingresses.get_opt("ingress-nginx-canary").await.unwrap().is_some(), "it is not ours to delete");
}

#[tokio::test]
async fn a_canary_of_nginx_is_one_run_s_and_follows_the_rules_that_it_was_made_of() {
    const NAME: &str = "ingress-nginx";
    let Some(stage) = Stage::new("nginx-owner").await else { return };
    stage.routed(NAME).await;
    let (target, router) = (stage.target(NAME), stage.router(NAME));
    let ingresses: kube::Api<Ingress> = stage.namespace.api().await;
    let exists = async || ingresses.get_opt("ingress-nginx-canary").await.unwrap().is_some();
    router.set(&cx(), &target, change(0, 10)).await.unwrap();
    let other = router.set(&cx_of("r2"), &target, change(10, 50)).await.unwrap_err();
    assert_eq!((other.kind(), other.message()), (ErrorKind::AlreadyExists, "it belongs to the run r1"));
    router.reset(&cx_of("r2"), &target, 1).await.unwrap();
    assert!(exists().await, "another run's");

    let path = r#"[{"op": "replace", "path": "/spec/rules/0/http/paths/1/path", "value": "/shop"}]"#;
    let edit = ["patch", "ingress", NAME, "--type=json", "--patch", path, "--field-manager=gitops"];
    stage.namespace.kubectl(&edit).await;
    let drift = router.set(&cx(), &target, change(10, 50)).await.unwrap_err();
    assert_eq!(drift.kind(), ErrorKind::Drift);
    assert!(drift.message().contains("not those any more") && drift.message().contains("\"gitops\""), "{drift}");
    router.reset(&cx(), &target, 1).await.unwrap();
    assert!(!exists().await, "the way back needs nothing of it");

    // Whatever becomes of the run, it does not outlive the canary's Service.
    router.set(&cx(), &target, change(0, 10)).await.unwrap();
    stage.namespace.kubectl(&["delete", "deployment", "backend-canary"]).await;
    let begun = Instant::now();
    while exists().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is collected with its owner");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone = router.set(&cx(), &target, change(10, 50)).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Drift);
    assert!(gone.message().contains("somebody deleted it"), "{gone}");
}

/// What a controller would say, of a Gateway `edge` that nobody runs.
impl Stage {
    async fn gateway(&self) {
        let name = self.namespace.name();
        let made = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
                "spec": {"controllerName": "rig.moodify.dev/nobody"},
            },
            {
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
                "spec": {"gatewayClassName": name, "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]},
            },
        ]});
        self.namespace.apply(&made.to_string()).await;
    }

    async fn report(&self, kind: &str, name: &str, status: impl Fn(&Value) -> Value) {
        let text = self.namespace.kubectl(&["get", kind, name, "--output", "json"]).await;
        let object: Value = serde_json::from_str(&text).unwrap();
        let patch = json!({"status": status(&object["metadata"]["generation"])}).to_string();
        let arguments = ["patch", kind, name, "--subresource=status", "--type=merge", "--patch", &patch];
        self.namespace.kubectl(&arguments).await;
    }

    /// The gateway is programmed, and its listener, or not.
    async fn programmed(&self, itself: &str, listener: &str) {
        let status = |generation: &Value| {
            let listener = json!({"name": "web", "attachedRoutes": 1, "supportedKinds": [{"kind": "HTTPRoute"}],
                "conditions": [condition("Programmed", listener, generation)]});
            json!({"conditions": [condition("Programmed", itself, generation)], "listeners": [listener]})
        };
        self.report("gateways.gateway.networking.k8s.io", "edge", status).await;
    }

    /// The route is taken as it is now.
    async fn accepted(&self, name: &str) {
        let status = |generation: &Value| {
            json!({"parents": [{"controllerName": "rig.moodify.dev/nobody", "parentRef": {"name": "edge"},
                "conditions": [condition("Accepted", "True", generation)]}]})
        };
        self.report(resource(name), name, status).await;
    }
}

fn condition(kind: &str, status: &str, generation: &Value) -> Value {
    json!({"type": kind, "status": status, "reason": "Pending", "message": "no address yet",
        "lastTransitionTime": "2026-11-24T12:00:00Z", "observedGeneration": generation})
}

#[tokio::test]
async fn a_weight_is_in_force_when_the_gateway_of_its_route_is_programmed() {
    const NAME: &str = "http-route";
    let Some(stage) = Stage::new("programmed").await else { return };
    stage.gateway().await;
    stage.routed(NAME).await;
    let (target, router) = (stage.target(NAME), stage.router(NAME));
    let verification = async || router.read(&cx(), &target).await.unwrap().verification;
    assert_eq!(verification().await, Verification::CannotTell, "nobody has taken the route");
    stage.accepted(NAME).await;
    for (itself, listener) in [("False", "True"), ("True", "False")] {
        stage.programmed(itself, listener).await;
        assert_eq!(verification().await, Verification::NotYet, "{itself}, its listener {listener}");
        let problems = stage.kube.preflight(&cx(), std::slice::from_ref(&target)).await;
        let told = format!("Gateway {}/edge is not programmed (Pending): no address yet", stage.namespace.name());
        assert!(problems.len() == 1 && problems[0].message().ends_with(&told), "{problems:?}");
    }
    stage.programmed("True", "True").await;
    assert_eq!(verification().await, Verification::Verified);
    assert!(stage.kube.preflight(&cx(), std::slice::from_ref(&target)).await.is_empty());

    // The route is taken with its weight, and the gateway has no address any more.
    stage.programmed("False", "True").await;
    router.set(&cx(), &target, change(0, 10)).await.unwrap();
    let watched = cx();
    let mut states = router.watch_in_force(&watched, &target).await.unwrap();
    stage.accepted(NAME).await;
    let early = async {
        loop {
            let state = states.next().await.expect("it goes on").unwrap();
            if state.verification != Verification::NotYet {
                return state;
            }
        }
    };
    let early = tokio::time::timeout(Duration::from_secs(2), early).await;
    assert!(early.is_err(), "only the route says so: {early:?}");
    // Nothing is read while it waits: what changes is heard of.
    let reads = || {
        let ours = stage.namespace.ledger().into_iter().flatten().filter(|e| e.user_agent.starts_with("moodify/"));
        ours.filter(|e| matches!(e.verb.as_str(), "get" | "list")).count()
    };
    let before = reads();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(reads(), before);
    stage.programmed("True", "True").await;
    let late = async {
        loop {
            let state = states.next().await.expect("it goes on").unwrap();
            if state.verification == Verification::Verified {
                return state.weight.percent();
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), late).await, Ok(10));
}

#[tokio::test]
async fn shares_by_pods_and_an_autoscaler_are_refused_together() {
    let Some(stage) = Stage::new("ratio-hpa").await else { return };
    let target = stage.target("replica-ratio");
    assert!(stage.kube.preflight(&cx(), std::slice::from_ref(&target)).await.is_empty());
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "backend-cpu"},
        "spec": {"maxReplicas": 4, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"}},
    });
    stage.create(&autoscaler).await;
    let problems = stage.kube.preflight(&cx(), std::slice::from_ref(&target)).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].kind(), ErrorKind::Unsupported);
    let told = problems[0].to_string();
    assert!(told.contains("the HorizontalPodAutoscaler backend-cpu scales it"), "{told}");
    assert!(told.contains("name a router that divides by weights"), "{told}");
}
