//! What was done is taken back: also in parallel groups, also what failed, also a whole run that completed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::action::{Action, Observed, Registry, StepContext};
use moodify_core::error::{Error, ErrorKind, Result};
use moodify_core::journal::{Outcome, Record};
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::common::*;

/// Switches a lamp on, after a time; off again when undone.
#[derive(Debug, Clone, Default)]
struct Lamp {
    lit: Arc<Mutex<BTreeMap<String, u32>>>,
    log: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Params {
    #[serde(default)]
    seconds: u64,
    #[serde(default)]
    fails: bool,
    #[serde(default)]
    sticks: bool,
}

impl Lamp {
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, what: &str, cx: &StepContext) {
        self.log.lock().unwrap().push(format!("{what} {}", cx.step().name));
    }
}

#[async_trait]
impl Action for Lamp {
    type Params = Params;
    type Output = ();

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<()> {
        self.note("on", cx);
        *self.lit.lock().unwrap().entry(cx.step().name.clone()).or_default() = 1;
        tokio::time::sleep(Duration::from_secs(params.seconds)).await;
        if params.fails {
            return Err(Error::new(ErrorKind::Unhealthy, "lamp", "switch on", "it flickers"));
        }
        self.note("lit", cx);
        Ok(())
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, _: Option<&()>) -> Result<()> {
        if params.sticks {
            return Err(Error::new(ErrorKind::Refused, "lamp", "switch off", "the switch sticks"));
        }
        self.note("off", cx);
        self.lit.lock().unwrap().remove(&cx.step().name);
        Ok(())
    }

    fn by_hand(&self, cx: &StepContext, _: &Params) -> Vec<String> {
        vec![format!("lamp off {}", cx.step().name)]
    }
}

fn lamp_step(name: &str, with: serde_json::Value) -> Step {
    Step { name: name.into(), action: "lamp".into(), with, deadline: None, retry: RetryPolicy::default() }
}

fn lamps(groups: Vec<(bool, Vec<Step>)>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    let phase =
        |(i, (parallel, steps)): (usize, (bool, Vec<Step>))| Phase { name: format!("phase {i}"), parallel, steps };
    plan.phases = groups.into_iter().enumerate().map(phase).collect();
    plan
}

fn lamp_stage(plan: Plan) -> (Stage, Lamp) {
    let lamp = Lamp::default();
    let mut stage = Stage::named(plan, "healthy");
    stage.engine = stage.engine.with_registry(Registry::with_builtins().register("lamp", lamp.clone()));
    (stage, lamp)
}

#[test]
fn a_parallel_group_runs_at_once_and_the_next_phase_waits_for_all_of_it() {
    on_virtual_time(async {
        let group = vec![lamp_step("a", json!({"seconds": 30})), lamp_step("b", json!({"seconds": 20}))];
        let (stage, lamp) = lamp_stage(lamps(vec![(true, group), (false, vec![lamp_step("c", json!({}))])]));
        let begun = tokio::time::Instant::now();
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_eq!(lamp.log(), ["on a", "on b", "lit b", "lit a", "on c", "lit c"]);
        assert!(begun.elapsed() < Duration::from_secs(31), "at once, not one after the other: {:?}", begun.elapsed());
    });
}

#[test]
fn when_one_of_a_group_fails_the_others_stop_and_all_are_taken_back_in_reverse_order() {
    on_virtual_time(async {
        let group = vec![
            lamp_step("a", json!({"seconds": 1})),
            lamp_step("b", json!({"seconds": 3600})),
            lamp_step("c", json!({"seconds": 5, "fails": true})),
        ];
        let (stage, lamp) = lamp_stage(lamps(vec![(false, vec![lamp_step("first", json!({}))]), (true, group)]));
        let begun = tokio::time::Instant::now();
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        let log = lamp.log();
        assert_eq!(log[log.len() - 4..], ["off c", "off b", "off a", "off first"], "{log:?}");
        assert!(lamp.lit.lock().unwrap().is_empty());
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody waited for b: {:?}", begun.elapsed());
    });
}

#[test]
fn what_cannot_be_undone_ends_with_the_state_and_the_commands_for_a_person() {
    on_virtual_time(async {
        let steps = vec![
            lamp_step("a", json!({})),
            lamp_step("b", json!({"sticks": true})),
            lamp_step("c", json!({})),
            lamp_step("d", json!({"fails": true})),
        ];
        let (stage, lamp) = lamp_stage(lamps(vec![(false, steps)]));
        let (run, ending) = stage.run().await;
        let moodify_core::engine::Ending::Ended(Outcome::NeedsAttention, summary) = ending else {
            panic!("{ending:?}")
        };
        for wanted in ["the switch sticks", "in force: a", "taken back: c, d", "uncertain: b", "lamp off b; lamp off a"]
        {
            assert!(summary.contains(wanted), "{wanted:?} is missing: {summary}");
        }
        assert_eq!(lamp.lit.lock().unwrap().keys().collect::<Vec<_>>(), ["a", "b"]);
        let entries = stage.journal.load(&run).await.unwrap();
        let by_hand = entries.iter().find_map(|e| match &e.record {
            Record::UndoFailed { by_hand, .. } => Some(by_hand.clone()),
            _ => None,
        });
        assert_eq!(by_hand.unwrap(), ["lamp off b", "lamp off a"]);
    });
}

#[test]
fn a_way_back_that_the_api_refuses_names_the_commands_of_every_backend() {
    on_virtual_time(async {
        let plan = brief(plan());
        let simulator = Simulator::new(&plan.targets(), bad("error-rate: 12%, from-weight: 50"));
        let refuse = Rule::new(Fault::ErrorBefore(ErrorKind::Refused)).backend(BackendKind::Router).operation("reset");
        simulator.faults().add(refuse);
        let stage = Stage::new(plan, simulator);
        let (_, ending) = stage.run().await;
        let moodify_core::engine::Ending::Ended(Outcome::NeedsAttention, summary) = ending else {
            panic!("{ending:?}")
        };
        for wanted in ["simulate weight", "simulate remove-canary", "uncertain: rollout-shift-50"] {
            assert!(summary.contains(wanted), "{wanted:?} is missing: {summary}");
        }
    });
}

#[test]
fn a_completed_release_is_taken_back_as_a_run_of_its_own() {
    on_virtual_time(async {
        let stage = Stage::named(brief(plan()), "healthy");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);

        let engine = stage.another_engine();
        let undo = engine.undo(&run, "ann", "customers complain").await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let ending = engine.drive(&undo, &stop).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
        let state = engine.state(&undo).await.unwrap();
        assert_eq!(state.undoes.as_ref(), Some(&run));
        assert!(state.plan.name.contains("customers complain"));

        // Once more: the old version serves already, and nothing is changed.
        let writes = stage.simulator.world().writes().len();
        let again = engine.undo(&run, "ann", "").await.unwrap();
        let ending = engine.drive(&again, &stop).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
        assert_eq!(stage.simulator.world().writes().len(), writes);

        // An undo can be undone, too: the release serves again.
        let redo = engine.undo(&undo, "ben", "it was not the release").await.unwrap();
        let ending = engine.drive(&redo, &stop).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
    });
}

#[test]
fn a_release_that_went_bad_after_it_completed_is_taken_back_whatever_it_is_like_by_then() {
    on_virtual_time(async {
        let plan = brief(plan());
        let scenario = bad("crash-loop: true, from-weight: 100, after: 10m");
        let start = "2026-11-24T15:30:00Z".parse().unwrap();
        let simulator = Simulator::builder(&plan.targets()).scenario(scenario).starting_at(start).build();
        let stage = Stage::new(plan.clone(), simulator);
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let (service, image) = new_images(&plan).remove(0);
        assert!(stage.simulator.world().share(&service, &image) < 0.01, "nothing of the new version answers any more");

        let engine = stage.another_engine();
        let undo = engine.undo(&run, "ann", "all is down").await.unwrap();
        let ending = engine.drive(&undo, &tokio_util::sync::CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_whole(&stage.simulator, &plan, Outcome::RolledBack);
    });
}

#[test]
fn an_undo_is_refused_when_something_else_serves_by_now_or_the_run_did_not_complete() {
    on_virtual_time(async {
        let stage = Stage::named(brief(plan()), "healthy");
        let (run, _) = stage.run().await;
        let mut next = stage.plan.clone();
        for service in &mut next.release.services {
            service.image = format!("registry.example/{}:v9", service.name).parse().unwrap();
        }
        let engine = stage.another_engine();
        let (_, ending) = engine.run(&next, "test").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let undo = engine.undo(&run, "ann", "").await.unwrap();
        let ending = engine.drive(&undo, &tokio_util::sync::CancellationToken::new()).await.unwrap();
        let moodify_core::engine::Ending::Ended(Outcome::Refused, summary) = ending else { panic!("{ending:?}") };
        assert!(summary.contains("v9 serves by now"), "{summary}");
        assert_whole(&stage.simulator, &next, Outcome::Completed);

        let bad = Stage::named(brief(plan()), "errors-at-10");
        let (run, ending) = bad.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        let refused = bad.engine.undo(&run, "ann", "").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("rolled back"), "{refused}");
    });
}

#[test]
fn an_undo_that_fails_goes_back_to_the_release() {
    on_virtual_time(async {
        let plan = brief(plan());
        // The old version does not come up any more, an hour later.
        let scenario = Scenario::from_yaml("versions: {previous: [{never-ready: true, after: 1h}]}").unwrap();
        let stage = Stage::new(plan.clone(), Simulator::new(&plan.targets(), scenario));
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
        let undo = stage.engine.undo(&run, "ann", "").await.unwrap();
        let ending = stage.engine.drive(&undo, &tokio_util::sync::CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        assert_whole(&stage.simulator, &plan, Outcome::Completed);
    });
}
