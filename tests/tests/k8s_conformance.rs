//! The Kubernetes backend keeps the contracts of its traits, on a real API server with real controllers.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use moodify_core::Backends;
use moodify_core::backend::{CanarySpec, Deployer, DeployerExt as _, TrafficRouter, Workload};
use moodify_core::model::{Target, Track};
use moodify_core::testing::conformance::{self, DeployerHarness, RouterHarness, context};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use serde_json::json;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(120);
const HTTP_ROUTE: &str = "http-route";
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
    async fn start(namespace: &Namespace) -> Self {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        let resource = ApiResource::from_gvk(&kind);
        let api = Api::<DynamicObject>::namespaced_with(namespace.client().await, namespace.name(), &resource);
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
        serde_json::from_value(json!({
            "environment": "test",
            "namespace": self.namespace.name(),
            "service": {"name": name, "workload": name, "image": "registry.test/backend:v2",
                "traffic": {"router": self.router, "service": name, "route": name}},
        }))
        .unwrap()
    }

    /// Routes all requests but those of somebody else to the service.
    async fn routed(mut self) -> Self {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "backend"},
            "spec": {"parentRefs": [{"name": "gateway"}], "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/other"}}],
                 "backendRefs": [{"name": "other", "port": 80}]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                 "backendRefs": [{"name": "backend", "port": 80, "weight": 3}]}]},
        });
        self.namespace.apply(&route.to_string()).await;
        self.gateway = Some(Gateway::start(&self.namespace).await);
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
        let weight = |nth, weight| {
            let path = format!("/spec/rules/1/backendRefs/{nth}/weight");
            json!({"op": "replace", "path": path, "value": weight})
        };
        let patch = json!([weight(0, 67), weight(1, 33)]).to_string();
        let manager = format!("--field-manager={editor}");
        self.namespace.kubectl(&["patch", "httproute", "backend", "--type=json", "--patch", &patch, &manager]).await;
    }

    async fn lose_canary(&self) {
        let kinds = "deployments.apps,services";
        self.namespace.kubectl(&["delete", kinds, "backend-canary", "--ignore-not-found"]).await;
    }
}

#[tokio::test]
async fn deployer() {
    let Some(harness) = Harness::new("deployer", HTTP_ROUTE, 2).await else { return };
    conformance::deployer(&harness).await;
}

#[tokio::test]
async fn router_of_weights() {
    let Some(harness) = Harness::new("by-weights", HTTP_ROUTE, 2).await else { return };
    conformance::traffic_router(&harness.routed().await.canary(2).await).await;
}

#[tokio::test]
async fn router_of_instances() {
    let Some(harness) = Harness::new("by-instances", REPLICA_RATIO, 5).await else { return };
    conformance::traffic_router(&harness.canary(0).await).await;
}
