//! Every backend in memory, on tokio's clock: on a paused runtime a release of 45 minutes takes milliseconds.
//!
//! `scenario` says what happens, `workload` and `service` and `state` are the world at a moment, `world` moves it on,
//! logs and lets calls go wrong as `fault` says; `cluster`, `operations`, `jobs`, `artifacts`, `backups`, `configuration`,
//! `nodes` and `surroundings` are the backends on it.

mod artifacts;
mod backups;
mod caches;
mod chance;
mod cluster;
mod configuration;
mod fault;
mod jobs;
mod mirror;
mod name;
mod nodes;
mod operations;
mod scenario;
mod service;
mod state;
mod surroundings;
mod testers;
mod workload;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::analysis::sources;
use crate::backend::{Backends, Cache, TrafficRouter};
use crate::clock::Clock;
use crate::model::{ImageRef, Layout, Plan, Target};

use cluster::{Facet, RatioRouter};
pub use fault::{BackendKind, Fault, Faults, Rule};
use name::NameRouter;
pub use nodes::SimNode;
pub use operations::SimConnection;
pub use scenario::{
    Answer, BackupScript, Behaviour, CommandScript, Edit, Edited, JobScript, Outage, People, Percent, Scenario,
    Settings,
};
pub use service::Flow;
use service::{Route, SimService};
use state::State;
pub use state::{Delivery, SimArtifact, SimBackup, SimIncident, SimLiveRestore, SimRestored, Write};
use workload::Running;
pub use world::{Call, ServiceView, World};

/// The router that divides by numbers of instances; every other one sets weights in a route.
const RATIO: &str = "replica-ratio";
/// The router that switches what the service's name stands for.
const NAME: &str = "service-selector";

/// All backends in memory, on a virtual clock, with faults on demand.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// use moodify_core::model::{Routing, Service, Target, Track, WorkloadKind};
/// use moodify_core::testing::{Behaviour, Scenario, Simulator};
///
/// let service = Service {
///     name: "backend".into(),
///     workload: "backend-deployment".into(),
///     kind: WorkloadKind::Deployment,
///     container: None,
///     image: "registry.example/backend:v2".parse().unwrap(),
///     traffic: Routing::new("http-route", "backend", Some("backend")),
///     config: Vec::new(),
/// };
/// let target = Target::new("production", "production", service);
/// let scenario = Scenario::default().canary(Behaviour::error_rate(0.12).from_weight(50));
/// let simulator = Simulator::new(&[target], scenario);
/// let backends = simulator.backends();
/// let stable = simulator.world().service("backend").unwrap().stable.unwrap();
/// assert_eq!(stable.to_string(), "backend-deployment (registry.example/backend:previous): 5 of 5 available");
/// # drop(backends);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Simulator {
    world: World,
    engine: Arc<str>,
}

impl Simulator {
    /// A world in which the first version of every target has been running for long. Must be called inside a tokio
    /// runtime, whose clock it goes by.
    #[must_use]
    pub fn new(targets: &[Target], scenario: Scenario) -> Self {
        Self::builder(targets).scenario(scenario).build()
    }

    /// The world that a plan is for.
    #[must_use]
    pub fn for_plan(plan: &Plan, scenario: Scenario) -> Self {
        Self::new(&plan.targets(), scenario)
    }

    /// A world that is not as usual.
    pub fn builder(targets: &[Target]) -> SimulatorBuilder {
        SimulatorBuilder {
            targets: targets.to_vec(),
            scenario: Scenario::default(),
            base: None,
            images: BTreeMap::new(),
            no_workload: BTreeSet::new(),
            no_route: BTreeSet::new(),
        }
    }

    /// The same world, as another engine uses it: its label stands in the logs, and [`World::kill`] knows it by that.
    #[must_use]
    pub fn engine(&self, label: &str) -> Self {
        Self { world: self.world.clone(), engine: label.into() }
    }

    /// The world: what a test looks at.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        self.world.faults()
    }

    /// The wall clock of the world.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock()
    }

    fn facet(&self, name: &str) -> Arc<Facet> {
        Arc::new(Facet { world: self.world.clone(), who: self.engine.clone(), name: name.into() })
    }

    fn router(&self, name: &str) -> Arc<dyn TrafficRouter> {
        let facet = self.facet(name);
        match name {
            RATIO => Arc::new(RatioRouter::new(facet.as_ref().clone())),
            NAME => Arc::new(NameRouter::new(facet.as_ref().clone())),
            _ => facet,
        }
    }

    /// The backends, under their usual names: routers `http-route`, `replica-ratio` and `service-selector`, metric sources `prometheus`
    /// and `json`, and one `simulated` of all else that has names.
    #[must_use]
    pub fn backends(&self) -> Backends {
        let facet = self.facet("simulated");
        let mut backends = Backends {
            deployer: Some(facet.clone()),
            diagnostics: Some(facet.clone()),
            jobs: Some(facet.clone()),
            operations: Some(facet.clone()),
            configuration_files: Some(facet.clone()),
            status_page: Some(facet.clone()),
            probe: Some(facet.clone()),
            approvals: Some(facet),
            ..Backends::default()
        };
        for name in ["http-route", RATIO, NAME] {
            self.add_router(&mut backends, name);
        }
        self.add_metrics(&mut backends, sources::DEFAULT);
        self.add_metrics(&mut backends, "json");
        self.add_named(&mut backends, "simulated");
        backends
    }

    /// A router, with routes for testers and a mirror if it has weights.
    fn add_router(&self, backends: &mut Backends, name: &str) {
        backends.routers.insert(name.to_owned(), self.router(name));
        if ![RATIO, NAME].contains(&name) {
            backends.tester_routes.insert(name.to_owned(), self.facet(name));
            backends.mirrors.insert(name.to_owned(), self.facet(name));
        }
    }

    fn add_metrics(&self, backends: &mut Backends, name: &str) {
        backends.metrics.insert(name.to_owned(), self.facet(name));
    }

    fn add_named(&self, backends: &mut Backends, name: &str) {
        backends.artifact_stores.insert(name.to_owned(), self.facet(name));
        backends.backup_stores.insert(name.to_owned(), self.facet(name));
        backends.caches.insert(name.to_owned(), Cache::data(self.facet(name)).with_nodes(self.facet(name)));
        backends.notifiers.insert(name.to_owned(), self.facet(name));
    }

    /// The backends, also under every name that occurs in the plan: the routers of its services, the notifiers of its
    /// audiences, and in the parameters of its steps the `source`s, `store`s, `cache`s and `notifier`s, and whom `notify` tells.
    #[must_use]
    pub fn backends_for(&self, plan: &Plan) -> Backends {
        let mut backends = self.backends();
        for service in &plan.release.services {
            let name = &service.traffic.router;
            self.add_router(&mut backends, name);
        }
        for name in plan.environment.audiences.values().flatten() {
            self.add_named(&mut backends, name);
        }
        for (_, step) in plan.steps() {
            self.add_names_in(&mut backends, &step.with);
            if let ("notify", Some(name)) = (step.action.as_str(), step.with["to"].as_str()) {
                self.add_named(&mut backends, name);
            }
        }
        backends
    }

    fn add_names_in(&self, backends: &mut Backends, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.add_names_in(backends, item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("source", Value::String(name)) if name != sources::PODS => self.add_metrics(backends, name),
                        ("store" | "cache" | "notifier", Value::String(name)) => self.add_named(backends, name),
                        _ => self.add_names_in(backends, value),
                    }
                }
            }
            _ => {}
        }
    }
}

/// Builds a world that is not as usual.
#[derive(Debug, Clone)]
#[must_use]
pub struct SimulatorBuilder {
    targets: Vec<Target>,
    scenario: Scenario,
    base: Option<Timestamp>,
    images: BTreeMap<String, ImageRef>,
    no_workload: BTreeSet<String>,
    no_route: BTreeSet<String>,
}

impl SimulatorBuilder {
    /// What happens in it; by default nothing.
    pub fn scenario(mut self, scenario: Scenario) -> Self {
        self.scenario = scenario;
        self
    }

    /// The wall time at the start; by default a Tuesday morning, 2026-11-24T15:00:00Z.
    pub fn starting_at(mut self, time: Timestamp) -> Self {
        self.base = Some(time);
        self
    }

    /// The image that a service runs at first; by default that of the target, tagged with the scenario's
    /// `stable-version`.
    pub fn running(mut self, service: &str, image: ImageRef) -> Self {
        self.images.insert(service.to_owned(), image);
        self
    }

    /// A service without its workload.
    pub fn without_workload(mut self, service: &str) -> Self {
        self.no_workload.insert(service.to_owned());
        self
    }

    /// A service without its routing object.
    pub fn without_route(mut self, service: &str) -> Self {
        self.no_route.insert(service.to_owned());
        self
    }

    /// The simulator. Must be called inside a tokio runtime, whose clock it goes by.
    #[must_use]
    pub fn build(self) -> Simulator {
        let scenario = Arc::new(self.scenario.clone());
        let base = self.base.or_else(|| "2026-11-24T15:00:00Z".parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let services = self.targets.iter().map(|target| self.service(target)).collect();
        Simulator { world: World::new(State::new(scenario, base, services)), engine: "engine".into() }
    }

    fn service(&self, target: &Target) -> SimService {
        let (name, world) = (&target.service.name, &self.scenario.world);
        let image = self.images.get(name).cloned();
        let image = image.unwrap_or_else(|| tagged(&target.service.image, &world.stable_version));
        let replicas = world.replicas_of.get(name).copied().unwrap_or(world.replicas);
        let running = || {
            let mut running = Running::long_running(target.service.workload.clone(), image.clone(), replicas);
            running.in_place = target.layout == Layout::Single;
            running
        };
        let stable = (!self.no_workload.contains(name)).then(running);
        let by_weight = ![RATIO, NAME].contains(&target.service.traffic.router.as_str());
        let routed = by_weight && !self.no_route.contains(name);
        SimService::new(target.clone(), image.clone(), stable, routed.then(Route::new))
    }
}

/// Another tag of the same repository.
fn tagged(image: &ImageRef, tag: &str) -> ImageRef {
    let name = image.as_str().split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let repository = name[last..].find(':').map_or(name, |colon| &name[..last + colon]);
    format!("{repository}:{tag}").parse().unwrap_or_else(|_| image.clone())
}
