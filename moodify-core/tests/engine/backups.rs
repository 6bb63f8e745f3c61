//! Nothing changes before the backup that was asked for exists and was verified; what a run restores it takes back.

use std::time::Duration;

use moodify_core::action::{RestoredBackup, VerifiedBackup};
use moodify_core::backend::{BackupRequest, RestoreRequest};
use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::{Phase, Plan, RetryPolicy, RunId, Step};
use moodify_core::testing::conformance::context;
use moodify_core::testing::{BackendKind, Scenario, Simulator};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::common::*;

const STORE: &str = "documentdb";

fn step(name: &str, action: &str, with: Value) -> Step {
    Step { name: name.into(), action: action.into(), with, deadline: None, retry: RetryPolicy::default() }
}

fn phase(name: &str, steps: Vec<Step>) -> Phase {
    Phase { name: name.into(), parallel: false, steps }
}

fn backup() -> Step {
    step("backup", "backup", json!({"store": STORE}))
}

fn restore(from: &Value) -> Step {
    step("restore", "restore", json!({"store": STORE, "from": from, "target": "moods-restored"}))
}

/// The release, with a backup before all that changes something.
fn saved() -> Plan {
    let mut plan = brief(plan());
    plan.environment.gates.clear();
    plan.environment.backups = vec![STORE.to_owned()];
    plan.phases.insert(0, phase("save", vec![backup()]));
    plan
}

/// A plan of these phases alone.
fn only(phases: Vec<Phase>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.phases = phases.into();
    plan
}

fn stage(plan: Plan, backups: &str) -> Stage {
    let scenario = Scenario::from_yaml(&format!("backups: {{{backups}}}")).unwrap();
    let simulator = Simulator::new(&plan.targets(), scenario);
    Stage::new(plan, simulator)
}

fn summary(ending: &Ending) -> String {
    format!("{ending:?}")
}

#[test]
fn a_release_begins_when_its_backup_was_verified() {
    on_virtual_time(async {
        let stage = stage(saved(), "takes: 10m");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let world = stage.simulator.world();
        let all = world.backups();
        let made = &all[0];
        assert_eq!((all.len(), made.backup.run.as_ref()), (1, Some(&run)));
        let verified = made.verified.unwrap();
        let first = world.writes().into_iter().find(|w| w.backend != Some(BackendKind::BackupStore)).unwrap();
        assert!(first.at >= verified && verified.as_secs() >= 600, "{first:?} before {verified:?}");
        let told: VerifiedBackup = stage.output(&run, "backup").await;
        assert_eq!((told.store.as_str(), told.backup.id), (STORE, made.backup.id.clone()));
    });
}

#[test]
fn a_backup_that_fails_or_is_not_good_or_never_ends_changes_nothing() {
    for (backups, why) in [
        ("fails: the disk is full", "the disk is full"),
        ("damaged: true", "it is empty"),
        ("takes: 3h", "not over at the deadline: being made, 66 %"),
    ] {
        on_virtual_time(async {
            let stage = stage(saved(), backups);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
            assert!(summary(&ending).contains(why), "{ending:?}");
            assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
            let world = stage.simulator.world();
            let others: Vec<_> =
                world.writes().into_iter().filter(|w| w.backend != Some(BackendKind::BackupStore)).collect();
            assert!(others.is_empty(), "{others:?}");
            assert_eq!(world.backups().len(), 1, "it is kept, for whoever looks for the cause");
        });
    }
}

#[test]
fn a_plan_without_the_backup_that_is_asked_for_is_refused() {
    let late = {
        let mut plan = saved();
        let save = plan.phases.remove(0);
        plan.phases.push(save);
        plan
    };
    let beside = {
        let mut plan = saved();
        let deploy = plan.phases.iter().flat_map(|p| &p.steps).find(|s| s.action == "deploy-canary").unwrap().clone();
        plan.phases[0].steps.push(Step { name: "beside".into(), ..deploy });
        plan.phases[0].parallel = true;
        plan
    };
    let other = {
        let mut plan = saved();
        plan.environment.backups.push("redis".to_owned());
        plan
    };
    for (plan, step, missing) in
        [(late, "rollout-deploy", STORE), (beside, "beside", STORE), (other, "rollout-deploy", "in redis before")]
    {
        on_virtual_time(async {
            let stage = stage(plan, "takes: 1s");
            let findings = stage.engine.check(&stage.plan).await;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!((findings[0].step.as_deref(), findings[0].error.kind()), (Some(step), ErrorKind::Invalid));
            assert!(findings[0].to_string().contains(missing), "{}", findings[0]);
            stage.engine.run(&stage.plan, "test").await.unwrap_err();
            assert!(stage.simulator.world().writes().is_empty());
        });
    }
}

#[test]
fn what_only_looks_or_tells_may_come_first_and_a_way_back_waits_for_no_backup() {
    on_virtual_time(async {
        let mut plan = saved();
        let first = step("say", "notify", json!({"to": "chat", "title": "it begins"}));
        plan.phases.insert(0, phase("tell", vec![first]));
        let stage = stage(plan, "takes: 1s");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let back = stage.engine.undo(&run, "test", "").await.unwrap();
        let ending = stage.engine.drive(&back, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_eq!(stage.simulator.world().backups().len(), 1);
    });
}

#[test]
fn broken_off_at_any_record_there_is_one_backup_and_one_target() {
    let plan = || {
        let mut fails = step("fails", "probe", json!({"url": "http://backend/", "expect": [418]}));
        fails.retry.attempts = 1;
        only(vec![
            phase("save", vec![backup()]),
            phase("restore", vec![restore(&json!("this-run"))]),
            phase("then", vec![fails]),
        ])
    };
    for bad in [false, true] {
        let mut n = 1;
        loop {
            let mut reached_the_end = false;
            for durable in [false, true] {
                on_virtual_time(async {
                    let mut plan = plan();
                    if !bad {
                        plan.phases.pop();
                    }
                    let simulator = Simulator::new(&plan.targets(), Scenario::default());
                    let broken = broken_off(&simulator, &plan, n, durable, Duration::ZERO).await;
                    reached_the_end |= broken.reached_the_end;
                    let ending = broken.ending;
                    let context = format!("bad {bad}, record {n}, durable {durable}: {ending:?}");
                    let wanted = if bad { Outcome::RolledBack } else { Outcome::Completed };
                    assert_eq!(outcome(&ending), wanted, "{context}");
                    let world = simulator.world();
                    assert_eq!(world.backups().len(), 1, "{context}");
                    assert_eq!(world.restored().len(), usize::from(!bad), "{context}");
                });
            }
            if reached_the_end {
                break;
            }
            n += 1;
        }
        assert!(n >= 8, "{n} records are too few to have been all");
    }
}

#[test]
fn what_is_restored_is_new_and_tells_where_it_answers() {
    for from in [json!("latest"), json!({"run": "conformance"}), json!({"time": "2026-11-24T14:00:00Z"})] {
        on_virtual_time(async {
            let stage = stage(only(vec![phase("restore", vec![restore(&from)])]), "takes: 10s, restore-takes: 20m");
            let store = stage.simulator.backends_for(&stage.plan).backup_stores[STORE].clone();
            let cx = context("before", Duration::from_secs(60));
            let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            let restored: RestoredBackup = stage.output(&run, "restore").await;
            assert_eq!(restored.endpoint, "moods-restored.simulated.invalid");
            let hours = restored.age.unwrap().get().as_secs() / 3600;
            if from.get("time").is_some() {
                assert_eq!(hours, 2, "{restored:?}");
            } else {
                assert_eq!((restored.from.to_string(), hours), (format!("backup {}", made.id), 1));
            }
        });
    }
}

#[test]
fn a_restore_that_cannot_be_leaves_nothing_behind() {
    let missing = json!({"backup": "no-such"});
    for (from, backups, why) in [
        (json!("latest"), "takes: 1s, restore-fails: the key is gone", "the restore failed: the key is gone"),
        (missing, "takes: 1s", "there is no backup no-such"),
        (json!({"run": "another"}), "takes: 1s", "the run another has no complete backup"),
    ] {
        on_virtual_time(async {
            let plan = only(vec![phase("save", vec![backup()]), phase("restore", vec![restore(&from)])]);
            let stage = stage(plan, backups);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
            assert!(summary(&ending).contains(why), "{ending:?}");
            assert!(stage.simulator.world().restored().is_empty());
        });
    }
}

#[test]
fn a_target_of_somebody_else_is_neither_overwritten_nor_removed() {
    on_virtual_time(async {
        let plan = only(vec![phase("save", vec![backup()]), phase("restore", vec![restore(&json!("this-run"))])]);
        let stage = stage(plan, "takes: 1s");
        let store = stage.simulator.backends_for(&stage.plan).backup_stores[STORE].clone();
        let cx = context("theirs", Duration::from_secs(60));
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        store.restore(&cx, &RestoreRequest::new(&made.id, "moods-restored")).await.unwrap();
        let theirs = stage.simulator.world().restored();
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        assert!(summary(&ending).contains("was left as it is"), "{ending:?}");
        assert_eq!(stage.simulator.world().restored(), theirs);
    });
}

#[test]
fn a_restore_of_what_was_not_made_before_is_refused() {
    on_virtual_time(async {
        let mut nameless = restore(&json!("this-run"));
        nameless.with["target"] = json!(" ");
        let stage = stage(only(vec![phase("restore", vec![nameless]), phase("save", vec![backup()])]), "takes: 1s");
        let found: Vec<String> = stage.engine.check(&stage.plan).await.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("has no name") && found[1].contains("makes a backup in \"documentdb\""), "{found:?}");
    });
}

#[test]
fn pruning_spares_what_an_open_run_made_or_names() {
    on_virtual_time(async {
        let prune = step("prune", "prune-backups", json!({"store": STORE, "keep": {"newest": 1}}));
        let stage = stage(only(vec![phase("save", vec![backup()])]), "takes: 1s");
        let mut made = Vec::new();
        for _ in 0..4 {
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            made.push(stage.output::<VerifiedBackup>(&run, "backup").await.backup.id);
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let names = only(vec![phase("restore", vec![restore(&json!({"backup": made[1]}))])]);
        stage.engine.create(&names, "test").await.unwrap();
        let waits = only(vec![
            phase("save", vec![backup()]),
            phase("ask", vec![step("ask", "approval", json!({"question": "on?"}))]),
        ]);
        let stop = CancellationToken::new();
        let open = stage.engine.create(&waits, "test").await.unwrap();
        let (driven, last) = tokio::join!(stage.engine.drive(&open, &stop), async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let pruning = only(vec![phase("save", vec![backup()]), phase("prune", vec![prune])]);
            let (run, ending) = stage.engine.run(&pruning, "test").await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            stop.cancel();
            stage.output::<Vec<String>>(&run, "prune").await
        });
        assert!(matches!(driven.unwrap(), Ending::Interrupted));
        assert_eq!(last, [made[0].clone(), made[2].clone(), made[3].clone()]);
        let left: Vec<RunId> = stage.simulator.world().backups().into_iter().filter_map(|b| b.backup.run).collect();
        assert_eq!((left.len(), left.contains(&open)), (3, true), "named, open, newest: {left:?}");
    });
}
