//! What these tests have in common.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::engine::Ending;
use moodify_core::error::{Effect, Error, ErrorKind, Result};
use moodify_core::event::{EventKind, Signal};
use moodify_core::journal::{Command, Entry, JournalStore, Lease, MemoryJournal, Outcome, StepStatus};
use moodify_core::model::{ImageRef, Plan, RunId};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, planfile};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub(crate) fn plan() -> Plan {
    let text = std::fs::read_to_string(root().join("examples/plans/moodify-release.yaml")).unwrap();
    planfile::read(&text, "moodify-release.yaml").unwrap_or_else(|e| panic!("{e}")).0.expand()
}

pub(crate) fn by_ratio(mut plan: Plan) -> Plan {
    for service in &mut plan.release.services {
        service.traffic.router = "replica-ratio".to_owned();
    }
    plan
}

/// The same with bakes of half a minute.
pub(crate) fn brief(mut plan: Plan) -> Plan {
    for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
        step.with["period"] = "30s".into();
    }
    plan
}

pub(crate) fn scenario(name: &str) -> Scenario {
    let path = root().join(format!("examples/scenarios/{name}.yaml"));
    Scenario::from_yaml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A new version that behaves so.
pub(crate) fn bad(behaviour: &str) -> Scenario {
    Scenario::from_yaml(&format!("canary: [{{{behaviour}}}]")).unwrap()
}

pub(crate) fn simulator(plan: &Plan, name: &str) -> Simulator {
    Simulator::builder(&plan.targets())
        .scenario(scenario(name))
        .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
        .build()
}

pub(crate) fn engine(journal: &Arc<dyn JournalStore>, simulator: &Simulator, plan: &Plan) -> Engine {
    Engine::new(journal.clone(), simulator.backends_for(plan)).with_clock(simulator.clock())
}

/// Runs `test` on a paused clock.
pub(crate) fn on_virtual_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test)
}

pub(crate) fn outcome(ending: &Ending) -> Outcome {
    match ending {
        Ending::Ended(outcome, _) => *outcome,
        Ending::Interrupted => panic!("interrupted"),
    }
}

pub(crate) fn new_images(plan: &Plan) -> Vec<(String, ImageRef)> {
    plan.release.services.iter().map(|s| (s.name.clone(), s.image.clone())).collect()
}

/// Waits until a step of that kind begins; what began before the call is not seen.
pub(crate) fn begins(engine: &Engine, action: &'static str) -> impl Future<Output = ()> + use<> {
    let mut live = engine.subscribe();
    async move {
        while let Some(signal) = live.next().await {
            let Signal::Event(event) = signal else { continue };
            if matches!(&event.kind, EventKind::StepStarted { action: of, .. } if of == action) {
                return;
            }
        }
        panic!("no step {action:?} began");
    }
}

/// The world is all new, or all old, and holds nothing of the run.
pub(crate) fn assert_whole(simulator: &Simulator, plan: &Plan, outcome: Outcome) {
    let world = simulator.world();
    for (service, image) in new_images(plan) {
        let share = world.share(&service, &image);
        let wanted = if outcome == Outcome::Completed { 1.0 } else { 0.0 };
        assert!(
            (share - wanted).abs() < 1e-9,
            "{outcome}, but the new version has {share}: {:#?}",
            world.service(&service)
        );
    }
    if outcome != Outcome::NeedsAttention {
        assert!(world.canaries().is_empty(), "left behind: {:?}", world.canaries());
    }
}

/// A journal that breaks for good at the n-th append: before it is durable, or after it, with the answer lost.
#[derive(Debug)]
pub(crate) struct Breaking {
    pub(crate) inner: Arc<dyn JournalStore>,
    pub(crate) left: AtomicU64,
    pub(crate) durable: bool,
    /// Renewals get no answer.
    pub(crate) stuck: Arc<AtomicBool>,
    /// So many times it is not known yet whether a run's owner is alive.
    pub(crate) unclear: AtomicU64,
}

#[async_trait]
impl JournalStore for Breaking {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        self.inner.create(run, first).await
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 1 {
            return self.inner.append(run, lease, expected, entries).await;
        }
        if left == 1 && self.durable {
            self.inner.append(run, lease, expected, entries).await?;
        }
        Err(Error::new(ErrorKind::Storage, "journal", "append to the journal", "the disk is gone")
            .effect(Effect::Unknown))
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.inner.load(run).await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        self.inner.list().await
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        self.inner.remove(run).await
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        if self.unclear.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let message = "it is owned by somebody, who may be alive";
            let refused = Error::new(ErrorKind::Refused, "journal", "take the run", message);
            return Err(refused.retry_after(Duration::from_secs(1)));
        }
        self.inner.acquire(run, owner, ttl).await
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        if self.stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.inner.renew(owner, ttl).await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.inner.give_up(run, lease).await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        self.inner.holder(run).await
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.inner.send(run, command).await
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        self.inner.commands(run, known).await
    }
}

/// A plan in a simulated world, with an engine that has nothing behind it yet.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) simulator: Simulator,
    pub(crate) journal: Arc<dyn JournalStore>,
    pub(crate) engine: Engine,
}

impl Stage {
    /// The plan in a built-in scenario, at a time when its gates are open.
    pub(crate) fn named(plan: Plan, name: &str) -> Self {
        let simulator = simulator(&plan, name);
        Self::new(plan, simulator)
    }

    pub(crate) fn new(plan: Plan, simulator: Simulator) -> Self {
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let engine = engine(&journal, &simulator, &plan);
        Self { plan, simulator, journal, engine }
    }

    /// Another process on the same journal.
    pub(crate) fn another_engine(&self) -> Engine {
        engine(&self.journal, &self.simulator, &self.plan)
    }

    /// What a step of a run gave to later ones.
    pub(crate) async fn output<T: DeserializeOwned>(&self, run: &RunId, step: &str) -> T {
        match self.engine.state(run).await.unwrap().status(step) {
            StepStatus::Finished(output) => output.read().unwrap(),
            other => panic!("{step}: {other:?}"),
        }
    }

    /// Runs the plan to its end.
    pub(crate) async fn run(&self) -> (RunId, Ending) {
        self.engine.run(&self.plan, "test").await.unwrap()
    }
}

/// A run that was broken off at a record and driven on by another engine.
pub(crate) struct BrokenOff {
    /// Whether it came to its end before there was such a record.
    pub(crate) reached_the_end: bool,
    pub(crate) ending: Ending,
    pub(crate) run: RunId,
    pub(crate) journal: Arc<dyn JournalStore>,
}

/// Breaks a run off at its n-th record, before that is durable or after it; another engine drives it on so much later.
pub(crate) async fn broken_off(
    simulator: &Simulator,
    plan: &Plan,
    n: u64,
    durable: bool,
    later: Duration,
) -> BrokenOff {
    let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
    let breaking: Arc<dyn JournalStore> = Arc::new(Breaking {
        inner: journal.clone(),
        left: n.into(),
        durable,
        stuck: Arc::default(),
        unclear: 0.into(),
    });
    let first = engine(&breaking, simulator, plan);
    let run = first.create(plan, "test").await.unwrap();
    let stop = CancellationToken::new();
    let reached_the_end = first.drive(&run, &stop).await.is_ok();
    tokio::time::sleep(later).await;
    let ending = engine(&journal, simulator, plan).drive(&run, &stop).await.unwrap();
    BrokenOff { reached_the_end, ending, run, journal }
}

/// Breaks a release off at each of its records, by turns before that is durable and after it, and looks at the world
/// whenever another engine has brought it to its end.
pub(crate) fn broken_off_at_each_record(
    plan: &Plan,
    behaviour: &str,
    wanted: Outcome,
    look: impl Fn(&Simulator, &str),
) {
    for n in 1.. {
        let reached_the_end = on_virtual_time(async {
            let simulator = Simulator::new(&plan.targets(), bad(behaviour));
            let broken = broken_off(&simulator, plan, n, n % 2 == 0, Duration::ZERO).await;
            assert_eq!(outcome(&broken.ending), wanted, "record {n}: {:?}", broken.ending);
            look(&simulator, &format!("record {n}"));
            broken.reached_the_end
        });
        if reached_the_end {
            assert!(n > 15, "{n} records are too few to have been all");
            return;
        }
    }
}
