//! A backup goes into the database that serves only where two persons agreed, after a backup of what is there, and never
//! silently back.

use std::sync::Arc;

use moodify_core::action::RestoredLive;
use moodify_core::error::ErrorKind;
use moodify_core::journal::{JournalStore, MemoryJournal, Outcome};
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::*;
use crate::database_rollback::drive;

const STORE: &str = "firestore";
const NIGHTLY: &str = "firestore-nightly";

fn step(name: &str, action: &str, with: Value) -> Step {
    let retry = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    Step { name: name.into(), action: action.into(), with, deadline: None, retry }
}

fn phase(name: &str, steps: Vec<Step>) -> Phase {
    Phase { name: name.into(), parallel: false, steps }
}

fn ask(approvals: u32) -> Step {
    let restore = json!({"store": STORE, "from": "latest"});
    let with = json!({"question": "Take the database back?", "approvals": approvals, "restore": restore});
    step("ask", "approval", with)
}

fn live() -> Step {
    step("live", "restore-live", json!({"store": STORE, "from": "approved"}))
}

fn fails() -> Step {
    step("fails", "probe", json!({"url": "http://backend/", "expect": [418]}))
}

fn plan_of(phases: Vec<Phase>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.phases = phases.into();
    plan
}

fn agreed(then: Vec<Step>) -> Plan {
    let mut phases = vec![phase("ask", vec![ask(2)]), phase("live", vec![live()])];
    phases.extend((!then.is_empty()).then(|| phase("then", then)));
    plan_of(phases)
}

fn simulator(plan: &Plan, backups: &str) -> Simulator {
    let text = format!("backups: {{made-before: 47m, takes: 10s, restore-takes: 5m{backups}}}");
    Simulator::new(&plan.targets(), Scenario::from_yaml(&text).unwrap())
}

/// What was there was backed up once, verified, and only then one restore begun; returns the id of that backup.
fn before(simulator: &Simulator, context: &str) -> String {
    let (backups, live) = (simulator.world().backups(), simulator.world().live_restores());
    let [nightly, before] = backups.as_slice() else { panic!("{context}: {backups:?}") };
    let [restored] = live.as_slice() else { panic!("{context}: {live:?}") };
    assert_eq!((&nightly.backup.id, &restored.backup), (&NIGHTLY.to_owned(), &NIGHTLY.to_owned()), "{context}");
    assert_eq!(restored.before, before.backup.id, "{context}");
    assert!(before.verified.is_some_and(|verified| verified <= restored.begun), "{context}: {before:?} {restored:?}");
    before.backup.id.clone()
}

#[test]
fn two_agree_and_what_is_there_is_backed_up_first() {
    on_virtual_time(async {
        let plan = agreed(Vec::new());
        let stage = Stage::new(plan.clone(), simulator(&plan, ""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let before = before(&stage.simulator, "");
        let done: RestoredLive = stage.output(&run, "live").await;
        assert_eq!(done, RestoredLive { store: STORE.into(), backup: NIGHTLY.into(), before: before.clone() });
        let refused = stage.engine.undo(&run, "test", "").await.unwrap_err().to_string();
        assert!(refused.contains("nothing takes back by itself") && refused.contains(&before), "{refused}");
    });
}

#[test]
fn what_two_have_not_agreed_to_before_is_refused_when_the_plan_is_checked() {
    let together = |steps| vec![Phase { name: "all".into(), parallel: true, steps }];
    let cases = [
        (vec![phase("live", vec![live()])], "", "no approval by two persons"),
        (vec![phase("ask", vec![ask(1)]), phase("live", vec![live()])], "", "no approval by two persons"),
        (vec![phase("live", vec![live()]), phase("ask", vec![ask(2)])], "", "no approval by two persons"),
        (vec![phase("live", vec![live(), ask(2)])], "", "no approval by two persons"),
        (together(vec![ask(2), live()]), "", "no approval by two persons"),
        (agreed(Vec::new()).phases.to_vec(), ", never-live: true", "cannot restore into its database itself"),
    ];
    for (phases, backups, why) in cases {
        on_virtual_time(async {
            let plan = plan_of(phases);
            let stage = Stage::new(plan.clone(), simulator(&plan, backups));
            let found: Vec<String> = stage.engine.check(&stage.plan).await.iter().map(ToString::to_string).collect();
            assert!(!found.is_empty() && found.iter().all(|found| found.contains(why)), "{why}: {found:?}");
            assert!(stage.engine.create(&stage.plan, "test").await.is_err(), "no run begins");
        });
    }
    let time = json!({"time": "2026-11-24T14:00:00Z"});
    for (from, why) in [
        (json!("approved"), "asks two persons whether to restore from"),
        (json!("latest"), "does not know which backup will be the latest"),
        (time, "only a backup is restored"),
        (json!("this-run"), "no step before this one makes a backup"),
    ] {
        on_virtual_time(async {
            let plain = step("ask", "approval", json!({"question": "Take the database back?", "approvals": 2}));
            let live = step("live", "restore-live", json!({"store": STORE, "from": from}));
            let plan = plan_of(vec![phase("ask", vec![plain]), phase("live", vec![live])]);
            let stage = Stage::new(plan.clone(), simulator(&plan, ""));
            let found: Vec<String> = stage.engine.check(&stage.plan).await.iter().map(ToString::to_string).collect();
            assert!(found.len() == 1 && found[0].contains(why), "{why}: {found:?}");
        });
    }
    on_virtual_time(async {
        let plan = plan_of(vec![phase("all", vec![ask(3), live()])]);
        let stage = Stage::new(plan.clone(), simulator(&plan, ""));
        assert!(stage.engine.check(&stage.plan).await.is_empty(), "three are enough, also in the same phase before it");
    });
}

#[test]
fn what_they_agreed_to_is_restored_whatever_is_the_latest_by_then() {
    on_virtual_time(async {
        let newer = step("newer", "backup", json!({"store": STORE}));
        let plan = plan_of(vec![phase("all", vec![ask(2), newer, live()])]);
        let stage = Stage::new(plan.clone(), simulator(&plan, ""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_eq!(stage.output::<RestoredLive>(&run, "live").await.backup, NIGHTLY);
        let told = format!("{:?}", stage.engine.state(&run).await.unwrap());
        let words = format!("backup {NIGHTLY} ");
        assert!(told.contains(&words) && told.contains("of firestore goes into the database itself"), "{told}");
        assert!(told.contains("the writes of the last 47 minutes"), "{told}");
    });
}

#[test]
fn it_is_not_taken_back_silently() {
    on_virtual_time(async {
        let plan = agreed(vec![fails()]);
        let stage = Stage::new(plan.clone(), simulator(&plan, ""));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        let (told, before) = (format!("{ending:?}"), before(&stage.simulator, ""));
        assert!(told.contains(&format!("backup {before} has what was there before")), "{told}");
        assert!(told.contains(&format!("from: {{backup: {before}}}")), "the step that brings it back: {told}");
    });
}

#[test]
fn a_restore_that_breaks_off_calls_a_person_and_names_the_way_back() {
    on_virtual_time(async {
        let plan = agreed(Vec::new());
        let stage = Stage::new(plan.clone(), simulator(&plan, ", restore-fails: the quota is used up"));
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let ending = drive(&stage.engine, &run, "").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        let (told, before) = (format!("{ending:?}"), before(&stage.simulator, ""));
        assert!(told.contains("the quota is used up") && told.contains(&before), "{told}");
    });
}

#[test]
fn without_a_good_backup_of_what_is_there_nothing_is_restored() {
    for backups in [", fails: the disk is full", ", damaged: true"] {
        on_virtual_time(async {
            let plan = agreed(Vec::new());
            let stage = Stage::new(plan.clone(), simulator(&plan, backups));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let ending = drive(&stage.engine, &run, "").await.unwrap();
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
            assert!(stage.simulator.world().live_restores().is_empty());
        });
    }
}

#[test]
fn an_answer_that_is_lost_makes_no_second_one() {
    for operation in ["create", "restore_live"] {
        on_virtual_time(async {
            let plan = agreed(Vec::new());
            let stage = Stage::new(plan.clone(), simulator(&plan, ""));
            let rule = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).operation(operation).times(1);
            stage.simulator.faults().add(rule.backend(BackendKind::BackupStore));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let ending = drive(&stage.engine, &run, "").await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Completed, "{operation}: {ending:?}");
            before(&stage.simulator, operation);
        });
    }
}

#[test]
fn broken_off_at_any_record_there_is_one_backup_of_what_was_there_and_one_restore() {
    for (then, wanted) in [(Vec::new(), Outcome::Completed), (vec![fails()], Outcome::NeedsAttention)] {
        let mut n = 1;
        loop {
            let mut reached_the_end = false;
            for durable in [false, true] {
                on_virtual_time(async {
                    let plan = agreed(then.clone());
                    let simulator = simulator(&plan, "");
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
                    reached_the_end |= drive(&first, &run, "").await.is_ok();
                    let second = engine(&memory, &simulator, &plan);
                    let ending = drive(&second, &run, "").await.unwrap();
                    let context = format!("record {n}, durable {durable}: {ending:?}");
                    assert_eq!(outcome(&ending), wanted, "{context}");
                    before(&simulator, &context);
                });
            }
            if reached_the_end {
                break;
            }
            n += 1;
        }
        assert!(n > 9, "{n} records are too few to have been all");
    }
}
