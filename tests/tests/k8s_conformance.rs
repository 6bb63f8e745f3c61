//! The Kubernetes backend keeps the contracts of its traits, on a real API server with real controllers.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use moodify_core::Backends;
use moodify_core::backend::{
    CanarySpec, Connection, Deployer, DeployerExt as _, Endpoint, ExecRequest, Operations, TrafficRouter, Workload,
    WorkloadRef,
};
use moodify_core::model::{Color, Layout, Target, Track};
use moodify_core::testing::conformance::{self, DeployerHarness, OperationsHarness, RouterHarness, context};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::routes::{ACTION, resource, route};
use serde_json::json;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(120);
const HTTP_ROUTE: &str = "http-route";
const GRPC_ROUTE: &str = "grpc-route";
const SELECTOR: &str = "service-selector";
const REPLICA_RATIO: &str = "replica-ratio";

/// A namespace with a service `backend` of this many instances, and what speaks to it.
struct Harness {
    namespace: Namespace,
    backends: Backends,
    router: &'static str,
    replicas: u32,
    gateway: Option<Gateway>,
}

/// What a controller of the Gateway API does with the route, of which the rig has none: it takes every generation, a
/// little later, and says so.
struct Gateway(JoinHandle<()>);

impl Gateway {
    async fn start(namespace: &Namespace, kind: &str) -> Self {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind);
        let resource = ApiResource::from_gvk(&kind);
        let api = Api::<DynamicObject>::namespaced_with(namespace.client().await, namespace.name(), &resource);
        Self::programmed(namespace).await;
        Self(tokio::spawn(async move {
            let mut taken = None;
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let generation = api.get("backend").await.unwrap().metadata.generation;
                if taken != generation {
                    let condition = |kind| {
                        json!({"type": kind, "status": "True", "reason": kind, "message": "",
                            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation})
                    };
                    let status = json!({"status": {"parents": [{
                        "parentRef": {"name": "gateway"}, "controllerName": "registry.test/gateway",
                        "conditions": [condition("Accepted"), condition("ResolvedRefs")]}]}});
                    let parameters =
                        PatchParams { field_manager: Some("gateway".to_owned()), ..PatchParams::default() };
                    api.patch_status("backend", &parameters, &Patch::Merge(&status)).await.unwrap();
                    taken = generation;
                }
            }
        }))
    }
}

impl Gateway {
    /// The Gateway itself, which is ready.
    async fn programmed(namespace: &Namespace) {
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gateway"},
            "spec": {"gatewayClassName": "nobody", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]},
        });
        namespace.apply(&gateway.to_string()).await;
        let programmed = json!({"type": "Programmed", "status": "True", "reason": "Programmed", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
        let status = json!({"status": {"conditions": [programmed]}}).to_string();
        let kind = "gateways.gateway.networking.k8s.io";
        namespace
            .kubectl(&["patch", kind, "gateway", "--subresource=status", "--type=merge", "--patch", &status])
            .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Harness {
    /// `None` without a rig.
    async fn new(name: &str, router: &'static str, replicas: u32) -> Option<Self> {
        let namespace = Rig::shared().await?.namespace(name).await;
        namespace.deploy("backend", "registry.test/backend:v1", replicas).await;
        namespace.wait_ready("backend").await;
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        Some(Self { namespace, backends: kube.backends(), router, replicas, gateway: None })
    }

    fn service(&self, name: &str) -> Target {
        let mut traffic = json!({"router": self.router, "service": name});
        if self.router != SELECTOR {
            traffic["route"] = name.into();
        }
        let target: Target = serde_json::from_value(json!({
            "environment": "test",
            "namespace": self.namespace.name(),
            "service": {"name": name, "workload": name, "image": "registry.test/backend:v2", "traffic": traffic},
        }))
        .unwrap();
        if self.router == SELECTOR { target.with_layout(Layout::Colors(Color::Blue)) } else { target }
    }

    /// Routes all requests but those of somebody else to the service.
    async fn routed(mut self) -> Self {
        let route = route(self.router, "backend", "backend");
        self.namespace.apply(&route.to_string()).await;
        if matches!(self.router, HTTP_ROUTE | GRPC_ROUTE) {
            self.gateway = Some(Gateway::start(&self.namespace, route["kind"].as_str().unwrap()).await);
        }
        self
    }

    /// Puts a canary beside the service.
    async fn canary(self, replicas: u32) -> Self {
        let (deployer, target, cx) = (self.deployer(), self.service("backend"), context("prepare", PATIENCE));
        let spec = CanarySpec::new(target.service.image.clone(), "v2", replicas, self.router == REPLICA_RATIO);
        deployer.deploy(&cx, &target, &spec).await.unwrap();
        deployer.wait(&cx, &target, Track::Canary, &Workload::is_complete, &|_| ()).await.unwrap();
        self
    }
}

#[async_trait]
impl DeployerHarness for Harness {
    fn deployer(&self) -> Arc<dyn Deployer> {
        self.backends.deployer().unwrap().clone()
    }

    fn target(&self) -> Target {
        self.service("backend")
    }

    fn missing(&self) -> Target {
        self.service("nobody")
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn edit_canary(&self, editor: &str) {
        let manager = format!("--field-manager={editor}");
        self.namespace.kubectl(&["set", "env", "deployment/backend-canary", "DEBUG=1", &manager]).await;
    }
}

#[async_trait]
impl RouterHarness for Harness {
    fn router(&self) -> Arc<dyn TrafficRouter> {
        self.backends.router(self.router).unwrap().clone()
    }

    fn target(&self) -> Target {
        self.service("backend")
    }

    fn missing(&self) -> Target {
        self.service("nobody")
    }

    fn capacity(&self) -> u32 {
        self.replicas
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn edit(&self, editor: &str) {
        if self.router == REPLICA_RATIO {
            let replicas = format!("--replicas={}", self.replicas + 2);
            self.namespace.kubectl(&["scale", "deployment", "backend", &replicas]).await;
            return;
        }
        // The API server's record of who edited what is precise to the second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let (resource, manager) = (resource(self.router), format!("--field-manager={editor}"));
        let (list, canary) = match self.router {
            SELECTOR => {
                let back = json!({"spec": {"selector": {"app": "backend"}}}).to_string();
                self.namespace.kubectl(&["patch", resource, "backend", "--patch", &back, &manager]).await;
                return;
            }
            "ingress-nginx" => {
                let weight = "nginx.ingress.kubernetes.io/canary-weight=33";
                let arguments = ["annotate", "--overwrite", resource, "backend-canary", weight, &manager];
                self.namespace.kubectl(&arguments).await;
                return;
            }
            "alb" => {
                let path = format!("jsonpath={{.metadata.annotations.{}}}", ACTION.replace('.', "\\."));
                let now = self.namespace.kubectl(&["get", resource, "backend", "--output", &path]).await;
                let edited = now.replace("\"weight\":90", "\"weight\": 67").replace("\"weight\":10", "\"weight\": 33");
                assert_ne!(now, edited);
                let action = format!("{ACTION}={edited}");
                self.namespace.kubectl(&["annotate", "--overwrite", resource, "backend", &action, &manager]).await;
                return;
            }
            "traefik" => ("/spec/weighted/services", 2),
            "istio" => ("/spec/http/1/route", 1),
            _ => ("/spec/rules/1/backendRefs", 1),
        };
        let weight = |nth, weight| json!({"op": "replace", "path": format!("{list}/{nth}/weight"), "value": weight});
        let patch = json!([weight(canary - 1, 67), weight(canary, 33)]).to_string();
        self.namespace.kubectl(&["patch", resource, "backend", "--type=json", "--patch", &patch, &manager]).await;
    }

    async fn lose_canary(&self) {
        let kinds = "deployments.apps,services";
        let name = if self.router == SELECTOR { "backend-green" } else { "backend-canary" };
        self.namespace.kubectl(&["delete", kinds, name, "--ignore-not-found"]).await;
    }
}

#[async_trait]
impl OperationsHarness for Harness {
    fn operations(&self) -> Arc<dyn Operations> {
        self.backends.operations().unwrap().clone()
    }

    fn namespace(&self) -> String {
        self.namespace.name().to_owned()
    }

    fn connections(&self) -> Vec<Connection> {
        let (key, workload) = ("URI".to_owned(), WorkloadRef::deployment("backend"));
        vec![
            Connection::Secret { name: "database".into(), key: key.clone(), template: None },
            Connection::ConfigMap { name: "settings".into(), key: key.clone(), template: None },
            Connection::Env { workload, container: None, variable: key, template: None },
        ]
    }

    fn whole(&self) -> Connection {
        let template = Some("{{endpoint}}".to_owned());
        Connection::Secret { name: "database".into(), key: "NAME".into(), template }
    }

    fn missing(&self) -> Connection {
        Connection::Secret { name: "nobody".into(), key: "URI".into(), template: None }
    }

    fn commands(&self) -> (ExecRequest, Option<ExecRequest>) {
        let run = |script: &str| ExecRequest {
            workload: WorkloadRef::deployment("backend"),
            container: None,
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        };
        (run("exit 0"), Some(run("exit 3")))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn scale(&self, workload: &WorkloadRef, replicas: u32) {
        let replicas = format!("--replicas={replicas}");
        self.namespace.kubectl(&["scale", "deployment", &workload.name, &replicas]).await;
    }

    async fn point(&self, connection: &Connection, to: &Endpoint) {
        let value = format!("mongodb://moods:pw@{to}/moods");
        match connection {
            Connection::Secret { name, key, .. } => {
                let patch = json!({"stringData": {key: value}}).to_string();
                self.namespace.kubectl(&["patch", "secret", name, "--patch", &patch]).await;
            }
            Connection::ConfigMap { name, key, .. } => {
                let patch = json!({"data": {key: value}}).to_string();
                self.namespace.kubectl(&["patch", "configmap", name, "--patch", &patch]).await;
            }
            Connection::Env { workload, variable, .. } => {
                let variable = format!("{variable}={value}");
                self.namespace.kubectl(&["set", "env", "deployment", &workload.name, &variable]).await;
            }
            _ => panic!("{connection} is none of ours"),
        }
    }
}

#[tokio::test]
async fn operations() {
    let Some(harness) = Harness::new("operations", REPLICA_RATIO, 2).await else { return };
    let namespace = &harness.namespace;
    namespace.deploy("frontend", "registry.test/frontend:v1", 1).await;
    let uri = "mongodb://moods:pw@moods.internal:27017/moods";
    let metadata = |name: &str| json!({"name": name});
    let values = json!({"URI": uri, "NAME": "projects/conformance/databases/moods"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("database"), "stringData": values});
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("settings"), "data": {"URI": uri}});
    namespace.apply(&secret.to_string()).await;
    namespace.apply(&config.to_string()).await;
    namespace.kubectl(&["set", "env", "deployment/backend", &format!("URI={uri}")]).await;
    for name in ["backend", "frontend"] {
        namespace.wait_ready(name).await;
    }
    conformance::operations(&harness).await;
}

#[tokio::test]
async fn deployer() {
    let Some(harness) = Harness::new("deployer", HTTP_ROUTE, 2).await else { return };
    conformance::deployer(&harness).await;
}

/// A router whose weights are in a routing object.
async fn router_of_weights(name: &str, router: &'static str) {
    let Some(harness) = Harness::new(name, router, 2).await else { return };
    conformance::traffic_router(&harness.routed().await.canary(2).await).await;
}

#[tokio::test]
async fn router_of_http_routes() {
    router_of_weights("by-http-route", HTTP_ROUTE).await;
}

#[tokio::test]
async fn router_of_grpc_routes() {
    router_of_weights("by-grpc-route", GRPC_ROUTE).await;
}

#[tokio::test]
async fn router_of_traefik() {
    router_of_weights("by-traefik", "traefik").await;
}

#[tokio::test]
async fn router_of_istio() {
    router_of_weights("by-istio", "istio").await;
}

#[tokio::test]
async fn router_of_ingress_nginx() {
    router_of_weights("by-nginx", "ingress-nginx").await;
}

#[tokio::test]
async fn router_of_alb() {
    router_of_weights("by-alb", "alb").await;
}

#[tokio::test]
async fn router_of_instances() {
    let Some(harness) = Harness::new("by-instances", REPLICA_RATIO, 5).await else { return };
    conformance::traffic_router(&harness.canary(0).await).await;
}

#[tokio::test]
async fn router_of_one_switch() {
    let Some(harness) = Harness::new("by-selector", SELECTOR, 2).await else { return };
    conformance::traffic_router(&harness.canary(2).await).await;
}
