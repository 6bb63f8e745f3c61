//! Steps that administer caches, in a simulated world.

use futures::FutureExt as _;
use moodify_core::action::{FlushedCache, WarmedCache};
use moodify_core::backend::{CacheSnapshot, DeletedKeys, Warmed};
use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::event::{Progress, ProgressKind, Signal};
use moodify_core::journal::Outcome;
use moodify_core::model::{EnvironmentKind, Phase, Plan, RetryPolicy, RunId, Step};
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::*;

const CACHE: &str = "sessions";

fn step(action: &str, with: Value) -> Step {
    Step { name: action.into(), action: action.into(), with, deadline: None, retry: RetryPolicy::default() }
}

/// A plan of these steps alone.
fn only(steps: Vec<Step>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.phases = vec![Phase { name: "cache".into(), parallel: false, steps }].into();
    plan
}

fn stage(steps: Vec<Step>) -> Stage {
    let plan = only(steps);
    let simulator = Simulator::new(&plan.targets(), Scenario::default());
    Stage::new(plan, simulator)
}

fn delete(pattern: &str) -> Step {
    step("cache-delete", json!({"cache": CACHE, "pattern": pattern, "keys-per-second": 10_000}))
}

/// Runs a stage to its end; returns what it told people.
async fn told(stage: &Stage) -> (RunId, Ending, String) {
    let mut live = stage.engine.subscribe();
    let (run, ending) = stage.run().await;
    let mut notes = String::new();
    while let Some(Some(signal)) = live.next().now_or_never() {
        if let Signal::Progress(Progress { kind: ProgressKind::Note { text }, .. }) = signal {
            notes += &format!("{text}\n");
        }
    }
    (run, ending, notes)
}

fn flush() -> Step {
    step("cache-flush", json!({"cache": CACHE, "confirm": CACHE, "production": true}))
}

#[test]
fn keys_are_deleted_saved_written_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("entries");
    std::fs::write(
        &file,
        "{\"key\": \"key-1\", \"value\": \"a\"}\n\n{\"key\": \"mood:1\", \"value\": \"b\", \"ttl\": \"1h\"}\n",
    )
    .unwrap();
    on_virtual_time(async {
        let stage = stage(vec![
            delete("key-1?"),
            step("cache-snapshot", json!({"cache": CACHE})),
            step("cache-warm", json!({"cache": CACHE, "entries": file, "ttl": "2h", "measure-for": "30s"})),
            step("cache-check", json!({"cache": CACHE, "hit-rate-at-least": 0.9, "memory-at-most": 0.5})),
        ]);
        let (run, ending, notes) = told(&stage).await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let deleted: DeletedKeys = stage.output(&run, "cache-delete").await;
        assert_eq!(deleted, DeletedKeys { found: 10, deleted: 10 });
        let made: Vec<CacheSnapshot> = stage.output(&run, "cache-snapshot").await;
        assert_eq!((made.len(), made[0].keys), (1, 990));
        assert!(notes.contains("990 keys; its file was NOT looked at: a simulated node has no disk"), "{notes}");
        let warmed: WarmedCache = stage.output(&run, "cache-warm").await;
        assert_eq!(warmed.entries, Warmed { written: 1, present: 1, unsure: 0 });
        // Applications find what was written, as long as it is measured.
        assert_eq!((warmed.hit_rate_before, warmed.hit_rate_after), (Some(0.95), Some(1.0)));
        assert!(notes.contains("hit rate 0.950 before, 1.000 in the 30s after"), "{notes}");
        assert_eq!(
            (stage.simulator.world().cache_keys(CACHE), stage.simulator.world().cache_snapshots(CACHE)),
            (991, 1)
        );
    });
}

#[test]
fn a_lost_answer_is_no_reason_to_stop() {
    for (steps, operation, left) in [
        (vec![delete("key-1*")], "delete keys", 1000 - 111),
        (vec![flush()], "count keys", 0),
        (vec![flush()], "flush", 0),
    ] {
        on_virtual_time(async {
            let stage = stage(steps);
            let rule = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).backend(BackendKind::CacheAdmin);
            let rule = rule.operation(operation);
            stage.simulator.faults().add(rule.times(1));
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            assert_eq!(stage.simulator.world().cache_keys(CACHE), left);
        });
    }
}

#[test]
fn a_flush_tells_what_was_there_and_production_must_be_meant() {
    on_virtual_time(async {
        let stage = stage(vec![flush()]);
        let (run, _, notes) = told(&stage).await;
        let flushed: FlushedCache = stage.output(&run, "cache-flush").await;
        assert_eq!((flushed.keys, stage.simulator.world().cache_keys(CACHE)), (1000, 0));
        let (before, after) =
            ("1000 keys are in sessions, and all of them are to be deleted", "1000 keys of sessions deleted");
        assert!(notes.find(before).zip(notes.find(after)).is_some_and(|(before, after)| before < after), "{notes}");
    });
}

#[test]
fn a_flush_of_more_keys_than_are_meant_is_refused_and_deletes_nothing() {
    for (most, left, ended) in [(999, 1000, Outcome::Refused), (1000, 0, Outcome::Completed)] {
        on_virtual_time(async {
            let with = json!({"cache": CACHE, "confirm": CACHE, "production": true, "at-most": most});
            let stage = stage(vec![step("cache-flush", with)]);
            let (_, ending, notes) = told(&stage).await;
            assert_eq!((outcome(&ending), stage.simulator.world().cache_keys(CACHE)), (ended, left), "{ending:?}");
            assert!(notes.contains("1000 keys are in sessions"), "{notes}");
        });
    }
}

fn refused(steps: Vec<Step>, kind: EnvironmentKind) -> String {
    let mut plan = only(steps);
    plan.environment.kind = kind;
    on_virtual_time(async {
        let simulator = Simulator::new(&plan.targets(), Scenario::default());
        let stage = Stage::new(plan, simulator);
        let problems = stage.engine.check(&stage.plan).await;
        assert_eq!(stage.simulator.world().cache_keys(CACHE), 1000);
        format!("{problems:?}")
    })
}

#[test]
fn what_is_not_meant_is_refused_before_anything_happens() {
    let production = EnvironmentKind::Production;
    let careless = step("cache-flush", json!({"cache": CACHE, "confirm": CACHE}));
    assert!(refused(vec![careless], production).contains("only when the plan says so"));
    let another = step("cache-flush", json!({"cache": CACHE, "confirm": "session", "production": true}));
    assert!(refused(vec![another], production).contains("was confirmed, but the cache is"));
    assert!(refused(vec![delete("*")], production).contains("that is a flush"));
    let much = step("cache-check", json!({"cache": CACHE, "memory-at-most": 80}));
    assert!(refused(vec![much], production).contains("should be a fraction of one"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("entries");
    std::fs::write(&file, "{\"key\": \"a\", \"value\": \"hush-hush\"}\n{\"key\": \"hush-hush\"\n").unwrap();
    let said = refused(vec![step("cache-warm", json!({"cache": CACHE, "entries": file}))], production);
    assert!(said.contains("line 2") && !said.contains("hush-hush"), "{said}");
    let missing = dir.path().join("none");
    let said = refused(vec![step("cache-warm", json!({"cache": CACHE, "entries": missing}))], production);
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn a_cache_that_is_not_well_fails_its_check() {
    for (with, why) in [
        (json!({"cache": CACHE, "hit-rate-at-least": 0.99}), "the hit rate is 0.950"),
        (json!({"cache": CACHE, "hit-rate-at-least": 0.5, "measured-for": "10s"}), "nothing was looked up"),
        (json!({"cache": CACHE, "memory-at-most": 0.0}), "of the memory is in use"),
    ] {
        on_virtual_time(async {
            let stage = stage(vec![step("cache-check", with)]);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
            assert!(format!("{ending:?}").contains(why), "{ending:?}");
        });
    }
}
