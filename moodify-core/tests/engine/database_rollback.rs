//! A database goes back to a backup, and the application with it; whatever happens before a person has confirmed that, all
//! comes back as it was.

use std::sync::Arc;
use std::time::Duration;

use moodify_core::Engine;
use moodify_core::action::{SwitchedConnection, kinds};
use moodify_core::backend::{Endpoint, RestoreRequest};
use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::{Command, CommandKind, JournalStore, MemoryJournal, Outcome, Record, StepStatus, fold};
use moodify_core::model::{Plan, RunId};
use moodify_core::planfile;
use moodify_core::testing::{BackendKind, Edit, Edited, Fault, Rule, Scenario, Simulator};
use tokio_util::sync::CancellationToken;

use crate::common::*;

const OLD: &str = "moods.simulated.invalid";
const NEW: &str = "moodify-production-restored.simulated.invalid";
/// What a store makes whose databases have names, and a plan that fits it.
const NAMED: &str = "projects/simulated/databases/moodify-production-restored";
const NAMES: &str = "backups: {made-before: 47m, names: [documentdb]}";
const DATABASE: &str = "{{database}}";

fn rollback() -> Plan {
    rollback_to("")
}

/// The plan whose Secret has no connection string, but this template.
fn rollback_to(template: &str) -> Plan {
    let mut text = std::fs::read_to_string(root().join("examples/plans/database-rollback.yaml")).unwrap();
    if !template.is_empty() {
        text = text.replace("key: MONGODB_URI}", &format!("key: MONGODB_URI, template: \"{template}\"}}"));
    }
    planfile::read(&text, "database-rollback.yaml").unwrap_or_else(|e| panic!("{e}")).0.expand()
}

/// A world with a backup, in which the two services have different numbers of instances.
fn simulator(more: &str) -> Simulator {
    let world = "world: {replicas-of: {backend: 3, frontend: 7}}";
    let backups = if more.contains("backups:") { "" } else { "backups: {made-before: 47m}" };
    let scenario = Scenario::from_yaml(&format!("{world}\n{backups}\n{more}")).unwrap();
    Simulator::new(&rollback().targets(), scenario)
}

/// Says yes as often as it is wanted to every question but those on this step, to which the answer is no. Ends never.
async fn people(engine: &Engine, run: &RunId, no_to: &str) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let state = engine.state(run).await.unwrap();
        let asks =
            |name: &str| state.steps.get(name).is_some_and(|s| s.held.is_some() && s.status == StepStatus::Running);
        let asked = state.plan.steps().map(|(_, s)| s).filter(|s| s.action == kinds::APPROVAL && asks(&s.name));
        for step in asked {
            let kind = if step.name == no_to { CommandKind::Reject } else { CommandKind::Approve };
            for person in ["ann", "ben"] {
                let _ = engine.command(run, &Command::new(kind, person, "").for_step(&step.name)).await;
            }
        }
    }
}

pub(crate) async fn drive(engine: &Engine, run: &RunId, no_to: &str) -> moodify_core::Result<Ending> {
    let stop = CancellationToken::new();
    tokio::select! {
        ending = engine.drive(run, &stop) => ending,
        () = people(engine, run, no_to) => unreachable!("they wait for ever"),
    }
}

/// Everything is as it was, or runs on the restored database; and nothing is left of the way.
fn assert_ended(simulator: &Simulator, outcome: Outcome, context: &str) {
    assert_ended_at(simulator, outcome, NEW, context);
}

fn assert_ended_at(simulator: &Simulator, outcome: Outcome, new: &str, context: &str) {
    let (world, done) = (simulator.world(), outcome == Outcome::Completed);
    for (service, count) in [("backend", 3), ("frontend", 7)] {
        let stable = world.service(service).unwrap().stable.unwrap();
        assert!(stable.has_available(count) && stable.replicas.desired == count, "{context}: {stable}");
    }
    for known in world.connections() {
        assert_eq!(known.endpoint.place(), if done { new } else { OLD }, "{context}: {known:?}");
        assert_eq!(known.kept, None, "{context}: nothing is kept of the old value");
    }
    assert_eq!(world.restored().len(), usize::from(done), "{context}");
    assert!(world.cron_suspended().values().all(|suspended| !suspended), "{context}: {:?}", world.cron_suspended());
}

#[test]
fn the_application_is_stopped_restored_switched_and_started_as_it_was() {
    on_virtual_time(async {
        let stage = Stage::new(rollback(), simulator(""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert!(format!("{ending:?}").contains("runs on moodify-production-restored"), "{ending:?}");
        assert_ended(&stage.simulator, Outcome::Completed, "");

        let world = stage.simulator.world();
        let writes = world.writes();
        let order: Vec<&str> = writes.iter().map(|w| w.operation.as_str()).collect();
        assert_eq!(
            order,
            [
                "set_cron_suspended",
                "stop",
                "stop",
                "restore",
                "switch",
                "switch",
                "start",
                "start",
                "set_cron_suspended",
                "forget",
                "forget"
            ]
        );
        let restored = writes[3].at;
        for service in ["backend", "frontend"] {
            let flows = world.flows();
            let before = flows.iter().rfind(|f| f.service == service && f.at <= restored).unwrap();
            assert!(before.shares.is_empty(), "{service} still wrote when the restore began: {before:?}");
        }
        let known = world.connections();
        assert_eq!(known.len(), 2);
        assert_eq!(known[0].endpoint, Endpoint::Host { host: NEW.into(), port: Some(27017) });
    });
}

#[test]
fn who_is_asked_is_told_the_loss_in_minutes_and_one_yes_is_not_enough() {
    on_virtual_time(async {
        let stage = Stage::new(rollback(), simulator(""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (_, ()) = tokio::join!(stage.engine.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let state = stage.engine.state(&run).await.unwrap();
            let told = state.steps["back-approve"].held.clone().unwrap();
            for part in [
                "backup documentdb-nightly (3.0 GiB) of documentdb goes into the new moodify-production-restored",
                "10 instances of 2 workloads in moodify-production stop",
                "the last 47 minutes (since 2026-11-24T14:13:00Z) are lost",
                "key MONGODB_URI of Secret backend-database points to moods.simulated.invalid:27017",
            ] {
                assert!(told.contains(part), "{part:?} is missing in {told:?}");
            }
            stage.engine.command(&run, &Command::new(CommandKind::Approve, "ann", "")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert!(stage.simulator.world().writes().is_empty(), "one of two is not enough");
            stage.engine.command(&run, &Command::new(CommandKind::Reject, "ben", "too much")).await.unwrap();
        });
        let state = stage.engine.state(&run).await.unwrap();
        let (outcome, summary) = state.ended.unwrap();
        assert_eq!(outcome, Outcome::Refused, "{summary}");
        assert!(summary.contains("nothing was changed") && summary.contains("ben: too much"), "{summary}");
        assert_ended(&stage.simulator, Outcome::Refused, &summary);
    });
}

#[test]
fn what_was_agreed_to_is_restored_though_a_newer_backup_was_made_meanwhile() {
    on_virtual_time(async {
        let stage = Stage::new(rollback(), simulator(""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (interrupted, ()) = tokio::join!(stage.engine.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let store = stage.simulator.backends_for(&stage.plan).backup_stores["documentdb"].clone();
            let cx = moodify_core::testing::conformance::context("newer", Duration::from_secs(60));
            store.create(&cx, &moodify_core::backend::BackupRequest::new()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            stop.cancel();
        });
        assert_eq!(interrupted.unwrap(), Ending::Interrupted, "nobody has said yes");
        let ending = drive(&stage.another_engine(), &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed);
        let from = stage.simulator.world().restored()[0].from.to_string();
        assert_eq!(from, "backup documentdb-nightly");
    });
}

#[test]
fn whatever_fails_before_the_end_all_comes_back_as_it_was() {
    for (case, more, why) in [
        ("restore", "backups: {made-before: 47m, restore-fails: the key is gone}", "the key is gone"),
        ("exec", "commands: {exit-code: 3}", "mongosh ended with the exit code 3"),
        ("start", "stable: [{never-ready: true, after: 1s}]", "0 of"),
        ("confirm", "", "was rejected by ann"),
        ("switch", "", "an injected fault"),
    ] {
        on_virtual_time(async {
            let stage = Stage::new(rollback(), simulator(more));
            if case == "switch" {
                let rule = Rule::new(Fault::ErrorBefore(ErrorKind::Forbidden)).operation("switch").nth(2);
                stage.simulator.faults().add(rule.backend(BackendKind::Operations));
            }
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let ending = drive(&stage.engine, &run, if case == "confirm" { "back-confirm" } else { "" }).await.unwrap();
            assert!(format!("{ending:?}").contains(why), "{case}: {ending:?}");
            if case == "start" {
                // It was unwell before, and is so again: a person is called, with the commands.
                assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
                assert!(format!("{ending:?}").contains("start 10 instances"), "{ending:?}");
                return;
            }
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{case}: {ending:?}");
            assert_ended(&stage.simulator, Outcome::RolledBack, case);
        });
    }
}

#[test]
fn what_is_not_there_is_found_before_anybody_is_asked() {
    for (operation, kind) in [("counts", ErrorKind::Unsupported), ("endpoint", ErrorKind::NotFound)] {
        on_virtual_time(async {
            let stage = Stage::new(rollback(), simulator(""));
            let rule = Rule::new(Fault::ErrorBefore(kind)).operation(operation).backend(BackendKind::Operations);
            stage.simulator.faults().add(rule);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
            assert!(stage.simulator.world().writes().is_empty());
        });
    }
}

#[test]
fn a_target_that_is_there_is_found_before_anybody_is_asked() {
    on_virtual_time(async {
        let stage = Stage::new(rollback(), simulator(""));
        let store = stage.simulator.backends_for(&stage.plan).backup_stores["documentdb"].clone();
        let cx = moodify_core::testing::conformance::context("theirs", Duration::from_secs(60));
        let theirs = RestoreRequest::new("documentdb-nightly", "moodify-production-restored");
        store.restore(&cx, &theirs).await.unwrap();
        let before = stage.simulator.world().writes().len();
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
        assert!(format!("{ending:?}").contains("is there already, and a restore never overwrites"), "{ending:?}");
        let world = stage.simulator.world();
        assert_eq!((world.writes().len(), world.restored().len()), (before, 1), "nothing was stopped, theirs is left");
    });
}

#[test]
fn cron_jobs_are_suspended_meanwhile_and_are_then_what_they_were() {
    for (no_to, wanted) in [("", Outcome::Completed), ("back-confirm", Outcome::RolledBack)] {
        on_virtual_time(async {
            let text = std::fs::read_to_string(root().join("examples/plans/database-rollback.yaml")).unwrap();
            let text = text.replace("[nightly-report]", "[nightly-report, paused-long-ago]");
            let plan = planfile::read(&text, "plan.yaml").unwrap().0.expand();
            let stage = Stage::new(plan, simulator("jobs: {suspended: [paused-long-ago]}"));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let meanwhile = async {
                begins(&stage.engine, kinds::RESTORE).await;
                assert_eq!(stage.simulator.world().cron_suspended(), [("nightly-report".to_owned(), true)].into());
            };
            let (ending, ()) = tokio::join!(drive(&stage.engine, &run, no_to), meanwhile);
            assert_eq!(outcome(&ending.unwrap()), wanted);
            let now = stage.simulator.world().cron_suspended();
            assert_eq!(now, [("nightly-report".to_owned(), false)].into(), "who was paused before was never touched");
        });
    }
}

#[test]
fn a_daemon_set_is_refused_when_the_plan_is_checked() {
    let text = std::fs::read_to_string(root().join("examples/plans/database-rollback.yaml")).unwrap();
    let text = text.replace("        approvals: 2\n", "        stops: {workloads: [daemon-set/agent]}\n");
    let told = planfile::read(&text, "plan.yaml").unwrap_err().to_string();
    assert!(told.contains("the DaemonSet agent has an instance on every node"), "{told}");
}

#[test]
fn what_somebody_else_writes_meanwhile_is_left_to_them() {
    for scaled in [true, false] {
        on_virtual_time(async {
            let stage = Stage::new(rollback(), simulator(""));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let begun = begins(&stage.engine, if scaled { kinds::RESTORE } else { kinds::START_APPLICATION });
            let somebody = async {
                begun.await;
                let world = stage.simulator.world();
                if scaled {
                    assert!(world.edit(&Edit::new("backend", Edited::StableReplicas).to(2)));
                } else {
                    let theirs: Endpoint = "theirs.invalid".parse().unwrap();
                    let known = world.connections().remove(0);
                    world.point(&known.namespace, &known.connection, &theirs);
                    stage.engine.command(&run, &Command::new(CommandKind::Abort, "ann", "")).await.unwrap();
                }
            };
            let (ending, ()) = tokio::join!(drive(&stage.engine, &run, ""), somebody);
            let ending = ending.unwrap();
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
            let told = if scaled { "has 2 instances" } else { "was changed by somebody else" };
            assert!(format!("{ending:?}").contains(told), "{ending:?}");
            let world = stage.simulator.world();
            if scaled {
                assert_eq!(world.service("backend").unwrap().stable.unwrap().replicas.desired, 2);
            } else {
                assert_eq!(world.connections()[0].endpoint.place(), "theirs.invalid");
            }
        });
    }
}

#[test]
fn a_database_with_a_name_goes_where_the_plan_says_so() {
    on_virtual_time(async {
        let stage = Stage::new(rollback_to(DATABASE), simulator(NAMES));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_ended_at(&stage.simulator, Outcome::Completed, NAMED, "");
        let switched: SwitchedConnection = stage.output(&run, "back-switch-1").await;
        assert_eq!(switched.endpoint, Endpoint::Name(NAMED.to_owned()));
        let value = switched.connection.point("moods", &switched.endpoint).unwrap();
        assert_eq!(value, "moodify-production-restored");
    });
}

#[test]
fn a_connection_that_does_not_fit_what_the_store_makes_is_refused_when_the_plan_is_checked() {
    for (template, scenario, steps, why) in [
        ("", NAMES, ["back-approve", "back-switch-1"], "no host that could be replaced"),
        (DATABASE, "", ["back-approve", "back-switch-1"], "the new one has a host"),
    ] {
        on_virtual_time(async {
            let stage = Stage::new(rollback_to(template), simulator(scenario));
            let found = stage.engine.check(&stage.plan).await;
            let at: Vec<&str> = found.iter().map(|finding| finding.error.target()).collect();
            assert_eq!(at, steps, "{found:?}");
            let told = found[0].to_string();
            assert!(told.contains(why) && told.contains("what \"documentdb\" restores does not fit there"), "{told}");
            assert!(stage.engine.create(&stage.plan, "test").await.is_err(), "no run begins");
        });
    }
}

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    for (no_to, wanted, template, new) in [
        ("", Outcome::Completed, "", NEW),
        ("back-confirm", Outcome::RolledBack, "", NEW),
        ("", Outcome::Completed, DATABASE, NAMED),
        ("back-confirm", Outcome::RolledBack, DATABASE, NAMED),
    ] {
        let scenario = if new == NAMED { NAMES } else { "" };
        let mut n = 1;
        loop {
            let mut reached_the_end = false;
            for durable in [false, true] {
                on_virtual_time(async {
                    let (plan, simulator) = (rollback_to(template), simulator(scenario));
                    let memory: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
                    let breaking: Arc<dyn JournalStore> = Arc::new(Breaking {
                        inner: memory.clone(),
                        left: n.into(),
                        durable,
                        stuck: Arc::default(),
                        unclear: 0.into(),
                    });
                    let first = engine(&breaking, &simulator, &plan);
                    let run = first.create(&plan, "test").await.unwrap();
                    reached_the_end |= drive(&first, &run, no_to).await.is_ok();
                    let second = engine(&memory, &simulator, &plan);
                    let ending = drive(&second, &run, no_to).await.unwrap();
                    let context = format!("no to {no_to:?}, record {n}, durable {durable}: {ending:?}");
                    assert_eq!(outcome(&ending), wanted, "{context}");
                    assert_ended_at(&simulator, wanted, new, &context);
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

#[test]
fn an_answer_that_is_lost_changes_nothing_about_the_end() {
    for operation in ["stop", "switch", "start", "forget", "counts"] {
        on_virtual_time(async {
            let stage = Stage::new(rollback(), simulator(""));
            let rule = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).operation(operation).times(1);
            stage.simulator.faults().add(rule.backend(BackendKind::Operations));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let ending = drive(&stage.engine, &run, "").await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Completed, "{operation}: {ending:?}");
            assert_ended(&stage.simulator, Outcome::Completed, operation);
        });
    }
}

#[test]
fn a_confirmed_rollback_is_not_taken_back_as_if_it_were_a_release() {
    on_virtual_time(async {
        let stage = Stage::new(rollback(), simulator(""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        drive(&stage.engine, &run, "").await.unwrap();
        let refused = stage.engine.undo(&run, "test", "").await.unwrap_err();
        assert!(refused.to_string().contains("the way back ended when it was confirmed"), "{refused}");
        let records = stage.journal.load(&run).await.unwrap();
        let asked = records.iter().filter(|e| matches!(e.record, Record::Held { .. })).count();
        assert_eq!(asked, 2, "the loss, and the end");
    });
}
