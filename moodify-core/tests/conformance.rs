//! The simulated backends keep the contracts of their traits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{secs, target};
use moodify_core::analysis::metrics;
use moodify_core::backend::{
    CacheAdmin, CanarySpec, Connection, Deployer, DeployerExt, Endpoint, ExecRequest, MetricQuery, MetricSource,
    Operations, TrafficRouter, WeightChange, WorkloadRef,
};
use moodify_core::model::{Layout, Target, Track, Weight, WorkloadKind};
use moodify_core::testing::conformance::{
    self, CacheHarness, DeployerHarness, MetricHarness, OperationsHarness, RouterHarness, context,
};
use moodify_core::testing::{BackendKind, Behaviour, Edit, Edited, Scenario, Simulator};

const PATIENCE: Duration = secs(300);

struct Harness {
    simulator: Simulator,
    router: &'static str,
}

impl Harness {
    fn new(router: &'static str) -> Self {
        let scenario = Scenario::default().canary(Behaviour::error_rate(0.12));
        Self { simulator: Simulator::new(&[target("backend", router)], scenario), router }
    }

    fn backend(&self) -> Target {
        target("backend", self.router)
    }

    async fn canary(self, replicas: u32) -> Self {
        let deployer = self.simulator.backends().deployer.unwrap();
        let spec = CanarySpec::new(self.backend().service.image, "v2", replicas, self.router == "replica-ratio");
        let cx = context("prepare", PATIENCE);
        deployer.deploy(&cx, &self.backend(), &spec).await.unwrap();
        let ready = move |w: &moodify_core::backend::Workload| w.has_available(replicas);
        deployer.wait(&cx, &self.backend(), Track::Canary, &ready, &|_| ()).await.unwrap();
        self
    }

    fn edit(&self, what: Edited, to: u32, editor: &str) {
        let edit = Edit { by: editor.to_owned(), ..Edit::new("backend", what).to(to) };
        assert!(self.simulator.world().edit(&edit));
    }
}

#[async_trait]
impl DeployerHarness for Harness {
    fn deployer(&self) -> Arc<dyn Deployer> {
        self.simulator.backends().deployer.unwrap()
    }

    fn target(&self) -> Target {
        self.backend()
    }

    fn missing(&self) -> Target {
        target("nobody", self.router)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn edit_canary(&self, editor: &str) {
        self.edit(Edited::Canary, 3, editor);
    }
}

#[async_trait]
impl RouterHarness for Harness {
    fn router(&self) -> Arc<dyn TrafficRouter> {
        self.simulator.backends().routers[self.router].clone()
    }

    fn target(&self) -> Target {
        self.backend()
    }

    fn missing(&self) -> Target {
        target("nobody", self.router)
    }

    fn capacity(&self) -> u32 {
        5
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn edit(&self, editor: &str) {
        let ratio = self.router == "replica-ratio";
        self.edit(if ratio { Edited::StableReplicas } else { Edited::Route }, 33, editor);
    }

    async fn lose_canary(&self) {
        self.simulator.backends().deployer.unwrap().remove(&context("lose", PATIENCE), &self.backend()).await.unwrap();
    }
}

#[async_trait]
impl MetricHarness for Harness {
    fn source(&self) -> Arc<dyn MetricSource> {
        self.simulator.backends().metrics["prometheus"].clone()
    }

    fn known(&self) -> Vec<(MetricQuery, RangeInclusive<f64>)> {
        let query = |track| MetricQuery::new(metrics::ERROR_RATE, self.backend(), track, "w", "v");
        vec![(query(Track::Canary), 0.1..=0.14), (query(Track::Stable), 0.001..=0.003)]
    }

    fn silent(&self) -> MetricQuery {
        MetricQuery::new(metrics::ERROR_RATE, target("nobody", self.router), Track::Stable, "w", "v")
    }

    fn unanswerable(&self) -> Option<MetricQuery> {
        Some(MetricQuery::new("happiness", self.backend(), Track::Stable, "w", "v"))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn stop(&self) {
        self.simulator.faults().partition(BackendKind::MetricSource, Duration::ZERO, Duration::MAX);
    }
}

impl CacheHarness for Harness {
    fn cache(&self) -> Arc<dyn CacheAdmin> {
        self.simulator.backends().caches["simulated"].clone()
    }

    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn keys(&self) -> u64 {
        1000
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

struct TwoServices(Simulator);

impl TwoServices {
    fn new() -> Self {
        let services = ["backend", "frontend"].map(|name| target(name, "http-route"));
        Self(Simulator::new(&services, Scenario::default()))
    }
}

#[async_trait]
impl OperationsHarness for TwoServices {
    fn operations(&self) -> Arc<dyn Operations> {
        self.0.backends().operations.unwrap()
    }

    fn namespace(&self) -> String {
        target("backend", "http-route").namespace
    }

    fn connections(&self) -> Vec<Connection> {
        vec![Connection::Secret { name: "database".into(), key: "URI".into() }]
    }

    fn missing(&self) -> Connection {
        let workload = WorkloadRef::deployment("nobody");
        Connection::Env { workload, container: None, variable: "DATABASE".into(), template: None }
    }

    fn commands(&self) -> (ExecRequest, Option<ExecRequest>) {
        let workload = WorkloadRef::deployment(&target("backend", "http-route").service.workload);
        (ExecRequest { workload, container: None, command: vec!["true".into()] }, None)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn scale(&self, workload: &WorkloadRef, replicas: u32) {
        let world = self.0.world();
        let services = world.services().into_iter();
        let mut of = services.filter(|service| service.stable.as_ref().is_some_and(|w| w.name == workload.name));
        let edit = Edit::new(&of.next().unwrap().name, Edited::StableReplicas).to(replicas);
        assert!(world.edit(&edit));
    }

    async fn point(&self, connection: &Connection, to: &Endpoint) {
        self.0.world().point(&self.namespace(), connection, to);
    }
}

#[tokio::test(start_paused = true)]
async fn operations() {
    conformance::operations(&TwoServices::new()).await;
}

#[tokio::test(start_paused = true)]
async fn deployer() {
    conformance::deployer(&Harness::new("http-route")).await;
}

#[tokio::test(start_paused = true)]
async fn deployer_of_one_workload() {
    for kind in [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet] {
        let mut target = target("backend", "replica-ratio").with_layout(Layout::Single);
        target.service.kind = kind;
        let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
        conformance::single(simulator.backends().deployer.unwrap(), &target, PATIENCE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn router_of_weights() {
    conformance::traffic_router(&Harness::new("http-route").canary(5).await).await;
}

#[tokio::test(start_paused = true)]
async fn router_of_instances() {
    conformance::traffic_router(&Harness::new("replica-ratio").canary(0).await).await;
}

#[tokio::test(start_paused = true)]
async fn metric_source() {
    let harness = Harness::new("http-route").canary(1).await;
    let change = WeightChange { from: Weight::ZERO, to: Weight::new(10).unwrap(), capacity: 5 };
    let router = RouterHarness::router(&harness);
    router.set(&context("shift", PATIENCE), &harness.backend(), change).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    conformance::metric_source(&harness).await;
}

#[tokio::test(start_paused = true)]
async fn backup_store() {
    let store = Harness::new("http-route").simulator.backends().backup_stores["simulated"].clone();
    conformance::backup_store(store.as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn cache_admin() {
    conformance::cache_admin(&Harness::new("http-route")).await;
}

#[tokio::test(start_paused = true)]
async fn status_page() {
    let page = Harness::new("http-route").simulator.backends().status_page.unwrap();
    conformance::status_page(page.as_ref(), PATIENCE).await;
}
