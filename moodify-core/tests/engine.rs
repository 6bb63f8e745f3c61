//! The engine on the Simulator: every scenario ends as it should, a crash at any record changes nothing about that,
//! and commands are obeyed.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::engine::Ending;
use moodify_core::error::{Effect, Error, ErrorKind, Result};
use moodify_core::journal::{
    Command, CommandKind, Entry, FileJournal, JournalStore, Lease, MemoryJournal, Outcome, Record, fold,
};
use moodify_core::model::{ImageRef, Plan, RunId};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, planfile};
use tokio_util::sync::CancellationToken;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn plan() -> Plan {
    let text = std::fs::read_to_string(root().join("examples/plans/moodify-release.yaml")).unwrap();
    planfile::read(&text, "moodify-release.yaml").unwrap_or_else(|e| panic!("{e}")).0.expand()
}

fn by_ratio(mut plan: Plan) -> Plan {
    for service in &mut plan.release.services {
        service.traffic.router = "replica-ratio".to_owned();
    }
    plan
}

/// The same with bakes of half a minute.
fn brief(mut plan: Plan) -> Plan {
    for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
        step.with["period"] = "30s".into();
    }
    plan
}

fn scenario(name: &str) -> Scenario {
    let path = root().join(format!("examples/scenarios/{name}.yaml"));
    Scenario::from_yaml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A new version that behaves so.
fn bad(behaviour: &str) -> Scenario {
    Scenario::from_yaml(&format!("canary: [{{{behaviour}}}]")).unwrap()
}

fn simulator(plan: &Plan, name: &str) -> Simulator {
    Simulator::builder(&plan.targets())
        .scenario(scenario(name))
        .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
        .build()
}

fn engine(journal: &Arc<dyn JournalStore>, simulator: &Simulator, plan: &Plan) -> Engine {
    Engine::new(journal.clone(), simulator.backends_for(plan)).with_clock(simulator.clock())
}

/// Runs `test` on a paused clock.
fn on_virtual_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test)
}

fn outcome(ending: &Ending) -> Outcome {
    match ending {
        Ending::Ended(outcome, _) => *outcome,
        Ending::Interrupted => panic!("interrupted"),
    }
}

fn new_images(plan: &Plan) -> Vec<(String, ImageRef)> {
    plan.release.services.iter().map(|s| (s.name.clone(), s.image.clone())).collect()
}

/// The world is all new, or all old, and holds nothing of the run.
fn assert_whole(simulator: &Simulator, plan: &Plan, outcome: Outcome) {
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

#[test]
fn every_scenario_ends_as_it_should() {
    let expected = [
        ("healthy", Outcome::Completed, 1.0),
        ("stable-slow-rollout", Outcome::Completed, 1.0),
        ("metrics-outage", Outcome::Completed, 1.0),
        ("errors-at-10", Outcome::RolledBack, 0.1),
        ("errors-at-50", Outcome::RolledBack, 0.5),
        ("crash-loop-at-50", Outcome::RolledBack, 0.5),
        ("slow-at-50", Outcome::RolledBack, 0.5),
        ("unready-at-50", Outcome::RolledBack, 0.5),
        ("never-ready", Outcome::RolledBack, 0.0),
        ("second-service-bad", Outcome::RolledBack, 1.0),
        ("no-metrics", Outcome::NeedsAttention, 0.1),
        ("edited-by-hand", Outcome::NeedsAttention, 1.0),
    ];
    for (name, wanted, highest) in expected {
        on_virtual_time(async {
            let plan = plan();
            let simulator = simulator(&plan, name);
            let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
            let (run, ending) = engine(&journal, &simulator, &plan).run(&plan, "test").await.unwrap();
            let summary = format!("{name}: {ending:?}");
            assert_eq!(outcome(&ending), wanted, "{summary}");
            let entries = journal.load(&run).await.unwrap();
            let ends = entries.iter().filter(|e| matches!(e.record, Record::Ended { .. })).count();
            assert_eq!(ends, 1, "{name}");
            if wanted != Outcome::NeedsAttention {
                assert_whole(&simulator, &plan, wanted);
            }
            for (service, image) in new_images(&plan) {
                let most = simulator.world().highest_share(&service, &image);
                assert!(most <= highest + 1e-9, "{summary}: {service} had {most}");
            }
        });
    }
}

#[test]
fn by_replica_ratio_too() {
    for (name, wanted) in [("healthy", Outcome::Completed), ("errors-at-50", Outcome::RolledBack)] {
        on_virtual_time(async {
            let plan = by_ratio(plan());
            let simulator = simulator(&plan, name);
            let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
            let (_, ending) = engine(&journal, &simulator, &plan).run(&plan, "test").await.unwrap();
            assert_eq!(outcome(&ending), wanted, "{name}: {ending:?}");
            assert_whole(&simulator, &plan, wanted);
        });
    }
}

#[test]
fn a_closed_gate_refuses_before_any_effect() {
    on_virtual_time(async {
        let plan = plan();
        let saturday = "2026-11-21T15:30:00Z".parse().unwrap();
        let simulator = Simulator::builder(&plan.targets()).scenario(scenario("healthy")).starting_at(saturday).build();
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let (_, ending) = engine(&journal, &simulator, &plan).run(&plan, "test").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Refused);
        assert!(simulator.world().writes().is_empty());
        assert!(simulator.world().notifications().is_empty());
    });
}

/// A journal that breaks for good at the n-th append: before it is durable, or after it, with the answer lost.
#[derive(Debug)]
struct Breaking {
    inner: Arc<dyn JournalStore>,
    left: AtomicU64,
    durable: bool,
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

    async fn acquire(&self, run: &RunId, owner: &str, now: Timestamp, ttl: Duration) -> Result<Lease> {
        self.inner.acquire(run, owner, now, ttl).await
    }

    async fn renew(&self, run: &RunId, lease: &Lease, now: Timestamp, ttl: Duration) -> Result<()> {
        self.inner.renew(run, lease, now, ttl).await
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

    async fn inbox(&self, run: &RunId) -> Result<Vec<Command>> {
        self.inner.inbox(run).await
    }
}

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    for (name, wanted) in
        [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%, from-weight: 50", Outcome::RolledBack)]
    {
        for ratio in [false, true] {
            let mut n = 1;
            loop {
                let mut reached_the_end = false;
                for durable in [false, true] {
                    on_virtual_time(async {
                        let plan = brief(if ratio { by_ratio(plan()) } else { plan() });
                        let simulator = Simulator::new(&plan.targets(), bad(name));
                        let memory: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
                        let left = AtomicU64::new(n);
                        let breaking: Arc<dyn JournalStore> =
                            Arc::new(Breaking { inner: memory.clone(), left, durable });
                        let first = engine(&breaking, &simulator, &plan);
                        let run = first.create(&plan, "test").await.unwrap();
                        let stop = CancellationToken::new();
                        let broken = first.drive(&run, &stop).await;
                        reached_the_end |= broken.is_ok();
                        let ending = engine(&memory, &simulator, &plan).drive(&run, &stop).await.unwrap();
                        let context = format!("{name}, ratio {ratio}, record {n}, durable {durable}: {ending:?}");
                        assert_eq!(outcome(&ending), wanted, "{context}");
                        assert_whole(&simulator, &plan, wanted);
                        fold(&memory.load(&run).await.unwrap()).unwrap();
                    });
                }
                if reached_the_end {
                    break;
                }
                n += 1;
            }
            assert!(n > 20, "{n} records are too few to have been all");
        }
    }
}

#[test]
fn commands_are_obeyed_and_recorded() {
    on_virtual_time(async {
        let plan = plan();
        let simulator = simulator(&plan, "healthy");
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let engine = engine(&journal, &simulator, &plan);
        let run = engine.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let driving = engine.drive(&run, &stop);
        let person = async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            engine.command(&run, CommandKind::Pause, "ann", "lunch").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(engine.state(&run).await.unwrap().paused.unwrap().by, "ann");
            assert!(engine.command(&run, CommandKind::Pause, "ann", "").await.is_err(), "it is paused already");
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let (service, image) = new_images(&plan).remove(0);
            let share = simulator.world().share(&service, &image);
            assert!((share - 0.1).abs() < 1e-9, "an hour later still 10 %, not {share}");
            engine.command(&run, CommandKind::Continue, "ann", "").await.unwrap();
            tokio::time::sleep(Duration::from_secs(900)).await;
            engine.command(&run, CommandKind::Abort, "bob", "a customer called").await.unwrap();
            let given = tokio::time::Instant::now();
            while simulator.world().share(&service, &image) > 0.0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(given.elapsed() <= Duration::from_secs(1), "within a second, not {:?}", given.elapsed());
        };
        let (ending, ()) = tokio::join!(driving, person);
        let Ending::Ended(Outcome::RolledBack, summary) = ending.unwrap() else { panic!("not rolled back") };
        assert!(summary.contains("bob") && summary.contains("a customer called"), "{summary}");
        assert_whole(&simulator, &plan, Outcome::RolledBack);
    });
}

#[test]
fn an_interrupted_run_is_resumed_and_the_bake_goes_on_where_it_was() {
    on_virtual_time(async {
        let plan = plan();
        let simulator = simulator(&plan, "healthy");
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let first = engine(&journal, &simulator, &plan);
        let run = first.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        let (ending, ()) = tokio::join!(first.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            stop.cancel();
        });
        assert_eq!(ending.unwrap(), Ending::Interrupted);
        let ending = engine(&journal, &simulator, &plan).drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(45 * 60), "not promoted early: {took:?}");
        assert!(took <= Duration::from_secs(48 * 60), "what was baked before counts: {took:?}");
    });
}

#[test]
fn a_second_engine_is_told_who_has_the_run_and_a_fenced_one_changes_nothing_any_more() {
    on_virtual_time(async {
        let plan = plan();
        let simulator = simulator(&plan, "healthy");
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let first = engine(&journal, &simulator, &plan);
        let run = first.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (ending, ()) = tokio::join!(first.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            let second = engine(&journal, &simulator, &plan);
            let refused = second.drive(&run, &CancellationToken::new()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused);
            assert!(refused.to_string().contains("owned by process"), "{refused}");
            // The first one is stuck, its lease runs out: somebody takes over.
            let later = simulator.clock().now() + Duration::from_secs(60);
            journal.acquire(&run, "another engine", later, Duration::from_secs(3600)).await.unwrap();
        });
        assert_eq!(ending.unwrap_err().kind(), ErrorKind::Fenced);
        let writes = simulator.world().writes().len();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(simulator.world().writes().len(), writes);
    });
}

#[test]
fn the_file_journal_finds_damage_and_drops_a_torn_line() {
    on_virtual_time(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan();
        let simulator = simulator(&plan, "errors-at-10");
        let journal: Arc<dyn JournalStore> = Arc::new(FileJournal::open(dir.path()).unwrap());
        let (run, ending) = engine(&journal, &simulator, &plan).run(&plan, "test").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        let path = dir.path().join(run.as_str()).join("journal");
        let whole = std::fs::read(&path).unwrap();
        let entries = journal.load(&run).await.unwrap().len();

        let mut torn = whole.clone();
        torn.extend_from_slice(b"0123 {\"half a rec");
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(journal.load(&run).await.unwrap().len(), entries);

        let text = String::from_utf8(whole.clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without: String =
            lines.iter().enumerate().filter(|(i, _)| *i != 4).map(|(_, l)| format!("{l}\n")).collect();
        let changed = text.replacen("gates-passed", "gates-passes", 1);
        for bad in [without, changed] {
            std::fs::write(&path, bad).unwrap();
            let error = journal.load(&run).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("line "), "{error}");
        }
    });
}
