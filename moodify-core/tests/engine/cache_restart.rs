//! The nodes of a cache are restarted one at a time and each once, whatever happens on the way.

use std::sync::Arc;

use moodify_core::Engine;
use moodify_core::action::RestartedCache;
use moodify_core::backend::{Cache, NodeCapabilities};
use moodify_core::error::ErrorKind;
use moodify_core::journal::{Outcome, StepStatus, fold};
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::mocks::MockCacheNodes;
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::json;

use crate::common::*;

const CACHE: &str = "moods";

fn restart() -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    let with = json!({"cache": CACHE});
    let step = Step {
        name: "restart".into(),
        action: "cache-restart".into(),
        with,
        deadline: None,
        retry: RetryPolicy::default(),
    };
    plan.phases = vec![Phase { name: "cache".into(), parallel: false, steps: vec![step] }].into();
    plan
}

fn stage() -> Stage {
    let plan = restart();
    let simulator = Simulator::new(&plan.targets(), Scenario::default());
    Stage::new(plan, simulator)
}

/// Each node was restarted once, and none before the one before it was back.
fn assert_one_by_one(simulator: &Simulator, context: &str) {
    let nodes = simulator.world().cache_nodes(CACHE);
    assert!(nodes.iter().all(|node| node.restarts.len() == 1), "{context}: {nodes:?}");
    let mut order: Vec<_> = nodes.iter().map(|node| (node.restarts[0], node.id.as_str(), node.primary)).collect();
    order.sort_unstable();
    let ids: Vec<&str> = order.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids, ["moods-2", "moods-3", "moods-1"], "{context}: replicas before the primary");
    assert!(order.iter().all(|(_, id, primary)| *primary == (*id == "moods-1")), "{context}");
    assert!(order.windows(2).all(|pair| pair[1].0 - pair[0].0 >= secs(40)), "{context}: one at a time: {order:?}");
}

fn secs(n: u64) -> std::time::Duration {
    std::time::Duration::from_secs(n)
}

#[test]
fn replicas_come_first_and_each_is_awaited() {
    on_virtual_time(async {
        let stage = stage();
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_one_by_one(&stage.simulator, "undisturbed");
        let state = fold(&stage.journal.load(&run).await.unwrap()).unwrap();
        let StepStatus::Finished(output) = state.status("restart") else { panic!("{state:?}") };
        assert_eq!(output.read::<RestartedCache>().unwrap().nodes, ["moods-2", "moods-3", "moods-1"]);
    });
}

#[test]
fn broken_off_at_any_record_each_node_is_restarted_once() {
    let mut n = 1;
    loop {
        let mut reached_the_end = false;
        for (durable, pause) in [(false, 0), (true, 0), (true, 20), (true, 60), (false, 600)] {
            on_virtual_time(async {
                let plan = restart();
                let simulator = Simulator::new(&plan.targets(), Scenario::default());
                let broken = broken_off(&simulator, &plan, n, durable, secs(pause)).await;
                reached_the_end |= broken.reached_the_end;
                let ending = broken.ending;
                let context = format!("record {n}, durable {durable}, {pause} s later: {ending:?}");
                assert_eq!(outcome(&ending), Outcome::Completed, "{context}");
                assert_one_by_one(&simulator, &context);
            });
        }
        if reached_the_end {
            break;
        }
        n += 1;
    }
    assert!(n >= 11, "{n} records are too few to have been all");
}

/// The engine dies between the request and its answer, at any of the nodes.
#[test]
fn a_request_whose_answer_nobody_heard_is_looked_for() {
    for nth in 1..=3 {
        for fault in [Fault::ErrorAfter(ErrorKind::Unavailable), Fault::ErrorBefore(ErrorKind::Throttled)] {
            on_virtual_time(async {
                let stage = stage();
                let rule = Rule::new(fault).backend(BackendKind::CacheNodes).operation("restart").nth(nth);
                stage.simulator.faults().add(rule);
                let (_, ending) = stage.run().await;
                assert_eq!(outcome(&ending), Outcome::Completed, "{fault:?} at {nth}: {ending:?}");
                assert_one_by_one(&stage.simulator, &format!("{fault:?} at {nth}"));
            });
        }
    }
}

#[test]
fn what_cannot_be_restarted_is_refused_before_anything_happens() {
    on_virtual_time(async {
        let stage = stage();
        let mut nodes = MockCacheNodes::new();
        let can = NodeCapabilities::all().without_restart("it has no nodes; flush it instead");
        nodes.expect_capabilities().return_const(can);
        let mut backends = stage.simulator.backends_for(&stage.plan);
        backends.caches.insert(CACHE.to_owned(), Cache::of_nodes(Arc::new(nodes)));
        for (backends, says) in [
            (backends.clone(), "it has no nodes; flush it instead"),
            (
                {
                    backends.caches.clear();
                    backends
                },
                "none is set up",
            ),
        ] {
            let engine = Engine::new(stage.journal.clone(), backends).with_clock(stage.simulator.clock());
            let found: Vec<String> = engine.check(&stage.plan).await.iter().map(ToString::to_string).collect();
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        assert!(stage.simulator.world().writes().is_empty());
    });
}
