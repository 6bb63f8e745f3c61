//! The simulated backends keep the contracts of their traits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{secs, target};
use moodify_core::ErrorKind;
use moodify_core::analysis::metrics;
use moodify_core::backend::{
    CacheAdmin, CanarySpec, ConfigurationFiles, Connection, CronJobRef, Deployer, DeployerExt, Endpoint, ExecRequest,
    JobRequest, JobTemplate, Jobs, MetricQuery, MetricSource, Notifier, Operations, StatusPages, TesterRoutes, Testers,
    TrafficMirror, TrafficRouter, WeightChange, WorkloadRef,
};
use moodify_core::model::{Color, ConfigVersion, ImageRef, Layout, Target, Track, Weight, WorkloadKind};
use moodify_core::testing::conformance::{
    self, CacheHarness, DeployerHarness, FilesHarness, MetricHarness, NotifierHarness, OperationsHarness,
    RouterHarness, context,
};
use moodify_core::testing::{BackendKind, Behaviour, Edit, Edited, Fault, Rule, Scenario, Simulator};

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
        let target = target("backend", self.router);
        if self.router == "service-selector" { target.with_layout(Layout::Colors(Color::Blue)) } else { target }
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
        let what = match self.router {
            "replica-ratio" => Edited::StableReplicas,
            "service-selector" => Edited::Name,
            _ => Edited::Route,
        };
        self.edit(what, 33, editor);
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
        self.simulator.backends().caches["simulated"].admin().unwrap().clone()
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
        vec![Connection::Secret { name: "database".into(), key: "URI".into(), template: None }]
    }

    fn whole(&self) -> Connection {
        let template = Some("{{endpoint}}".to_owned());
        Connection::Secret { name: "database".into(), key: "NAME".into(), template }
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

#[async_trait]
impl conformance::JobsHarness for Shipping {
    fn jobs(&self) -> Arc<dyn Jobs> {
        self.0.backends().jobs.unwrap()
    }

    fn template(&self) -> JobTemplate {
        JobTemplate::Service(Box::new(self.1.clone()))
    }

    fn good(&self, request: JobRequest) -> JobRequest {
        request.command(["migrate"])
    }

    fn cron_job(&self) -> (CronJobRef, ImageRef) {
        let (namespace, name) = (self.1.namespace.clone(), "report".to_owned());
        (CronJobRef { namespace, name, container: None }, "registry.test/report:v2".parse().unwrap())
    }

    async fn count(&self) -> usize {
        self.0.world().jobs().len()
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn jobs() {
    let target = target("backend", "replica-ratio");
    let scenario = Scenario::from_yaml("jobs: {writes: [begun, done]}").unwrap();
    let simulator = Simulator::new(std::slice::from_ref(&target), scenario);
    conformance::jobs(&Shipping(simulator, target)).await;
}

#[async_trait]
impl conformance::TestersHarness for Shipping {
    fn routes(&self) -> Arc<dyn TesterRoutes> {
        self.0.backends().tester_routes["http-route"].clone()
    }

    fn target(&self) -> Target {
        self.1.clone()
    }

    async fn reaches_canary(&self, testers: &Testers) -> bool {
        self.0.world().service(&self.1.service.name).unwrap().testers.as_ref() == Some(testers)
    }

    async fn object(&self) -> String {
        format!("{:?}", self.0.world().service(&self.1.service.name).unwrap().testers)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn routes_for_testers() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    conformance::tester_routes(&Shipping(simulator, target)).await;
}

#[async_trait]
impl conformance::MirrorHarness for Shipping {
    fn mirror(&self) -> Arc<dyn TrafficMirror> {
        self.0.backends().mirrors["http-route"].clone()
    }

    fn target(&self) -> Target {
        self.1.clone()
    }

    async fn mirrored(&self) -> Weight {
        self.0.world().service(&self.1.service.name).unwrap().mirrored.unwrap_or(Weight::ZERO)
    }

    async fn object(&self) -> String {
        let view = self.0.world().service(&self.1.service.name).unwrap();
        format!("{:?}", (view.route, view.testers, view.mirrored))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    conformance::traffic_mirror(&Shipping(simulator, target)).await;
}

/// A service that ships configuration, in a world that nobody else is in.
struct Shipping(Simulator, Target);

#[async_trait]
impl conformance::ConfigurationHarness for Shipping {
    fn deployer(&self) -> Arc<dyn Deployer> {
        self.0.backends().deployer.unwrap()
    }

    fn target(&self) -> Target {
        self.1.clone()
    }

    async fn contents(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.0.world().service(&self.1.service.name).unwrap().made.get(name).cloned()
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn configuration_that_ships() {
    let mut target = target("backend", "replica-ratio");
    target.service.config = vec![ConfigVersion::map("backend-config", [("LEVEL", "debug")])];
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    conformance::configuration(&Shipping(simulator, target)).await;
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
async fn router_of_one_switch() {
    conformance::traffic_router(&Harness::new("service-selector").canary(5).await).await;
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

#[async_trait]
impl FilesHarness for Harness {
    fn files(&self) -> Arc<dyn ConfigurationFiles> {
        self.simulator.backends().configuration_files.unwrap()
    }

    fn namespaces(&self) -> (String, String) {
        (self.backend().namespace, "another".to_owned())
    }

    fn key_and_value(&self) -> (String, String) {
        ("simulated1key".to_owned(), "simulated-password".to_owned())
    }

    async fn lose(&self) {
        self.simulator.world().lose_configuration(&self.backend().namespace);
    }

    async fn edit(&self) {
        self.simulator.world().edit_configuration(&self.backend().namespace);
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn configuration_files() {
    conformance::configuration_files(&Harness::new("http-route")).await;
}

#[tokio::test(start_paused = true)]
async fn artifact_store() {
    let store = Harness::new("http-route").simulator.backends().artifact_stores["simulated"].clone();
    conformance::artifact_store(store.as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn backup_store() {
    let store = Harness::new("http-route").simulator.backends().backup_stores["simulated"].clone();
    conformance::backup_store(store.as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn backup_store_of_databases_with_names() {
    let scenario = Scenario::from_yaml("backups: {names: [simulated], never-live: true}").unwrap();
    let simulator = Simulator::new(&[target("backend", "http-route")], scenario);
    conformance::backup_store(simulator.backends().backup_stores["simulated"].as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn cache_admin() {
    conformance::cache_admin(&Harness::new("http-route")).await;
}

#[tokio::test(start_paused = true)]
async fn cache_nodes() {
    let nodes = Harness::new("http-route").simulator.backends().cache_nodes("simulated").unwrap().clone();
    conformance::cache_nodes(nodes.as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn status_page() {
    let simulator = Harness::new("http-route").simulator;
    let page = simulator.backends().status_page.unwrap();
    conformance::status_page(page.as_ref(), simulator.clock().as_ref(), PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn several_status_pages() {
    let (one, other) = (Harness::new("http-route").simulator, Harness::new("http-route").simulator);
    let page = |simulator: &Simulator| simulator.backends().status_page.unwrap();
    let pages = StatusPages::default().with("one", page(&one)).with("other", page(&other));
    conformance::status_page(&pages, one.clock().as_ref(), PATIENCE).await;
    for simulator in [one, other] {
        let incidents = simulator.world().incidents();
        assert!(incidents.len() == 4 && incidents.iter().all(|incident| !incident.is_open()), "{incidents:?}");
    }
}

struct Channel(Simulator);

#[async_trait]
impl NotifierHarness for Channel {
    fn notifier(&self) -> Arc<dyn Notifier> {
        self.0.backends().notifiers["simulated"].clone()
    }

    async fn received(&self) -> Vec<String> {
        self.0
            .world()
            .notifications()
            .iter()
            .map(|delivery| format!("{:?}", delivery.notification))
            .map(|text| text.replace("\\n", "\n"))
            .collect()
    }

    async fn keys(&self) -> Option<Vec<String>> {
        Some(self.0.world().notifications().iter().map(|delivery| delivery.key.to_string()).collect())
    }

    async fn alerts(&self) -> Option<Vec<String>> {
        None
    }

    async fn refuse(&self) {
        self.0.faults().add(Rule::new(Fault::ErrorBefore(ErrorKind::Forbidden)).backend(BackendKind::Notifier));
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(start_paused = true)]
async fn notifier() {
    conformance::notifier(&Channel(Harness::new("http-route").simulator)).await;
}
