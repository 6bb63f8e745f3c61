//! moodify leaves: what takes turns becomes one plain workload again.

use std::time::Duration;

use moodify_core::action::kinds;
use moodify_core::journal::{Command, CommandKind, Outcome};
use moodify_core::model::Plan;
use moodify_core::testing::{BackendKind, Fault, Rule, Simulator};
use moodify_core::{Engine, ErrorKind};
use tokio_util::sync::CancellationToken;

use crate::blue_green::turns;
use crate::common::*;

/// A world in which green serves the plan's release.
async fn released(plan: Plan) -> Stage {
    let stage = Stage::named(plan, "healthy");
    let (_, ending) = stage.run().await;
    assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
    stage
}

async fn leave(stage: &Stage) -> Outcome {
    let run = stage.engine.leave(&stage.plan, "ann", "we go back to kubectl").await.unwrap();
    outcome(&stage.engine.drive(&run, &CancellationToken::new()).await.unwrap())
}

/// Each service has the workload that the plan names, with this release, and nothing beside it.
fn assert_left(simulator: &Simulator, plan: &Plan, replicas: &[u32]) {
    for ((service, image), replicas) in new_images(plan).iter().zip(replicas) {
        let view = simulator.world().service(service).unwrap();
        let blue = view.stable.unwrap();
        assert_eq!((&blue.image, blue.replicas.desired), (image, *replicas), "{service}");
        assert!(view.canary.is_none(), "{service}: nothing is beside it");
        assert!((simulator.world().share(service, image) - 1.0).abs() < 1e-9, "{service}");
    }
}

fn capacities(stage: &Stage) -> Vec<u32> {
    let green = |view: moodify_core::testing::ServiceView| view.canary.unwrap().1.replicas.desired;
    stage.simulator.world().services().into_iter().map(green).collect()
}

#[test]
fn what_serves_comes_to_the_one_that_the_plan_names_and_the_other_goes() {
    on_virtual_time(async {
        let stage = released(turns()).await;
        let replicas = capacities(&stage);
        assert_eq!(leave(&stage).await, Outcome::Completed);
        assert_left(&stage.simulator, &stage.plan, &replicas);
        let lost = stage.simulator.world().flows().into_iter().filter(|flow| flow.at > Duration::ZERO);
        assert!(lost.map(|flow| flow.lost).all(|lost| lost < 1e-9), "no request went nowhere");
    });
}

#[test]
fn where_that_one_serves_already_no_instance_is_touched() {
    on_virtual_time(async {
        let stage = released(turns()).await;
        let replicas = capacities(&stage);
        assert_eq!(leave(&stage).await, Outcome::Completed);
        let before = stage.simulator.world().call_count(BackendKind::Deployer, "deploy");
        assert_eq!(leave(&stage).await, Outcome::Completed, "also again");
        assert_eq!(stage.simulator.world().call_count(BackendKind::Deployer, "deploy"), before);
        assert_left(&stage.simulator, &stage.plan, &replicas);
    });
}

#[test]
fn what_does_not_take_turns_is_plain_already() {
    on_virtual_time(async {
        let stage = Stage::named(plan(), "healthy");
        let error = stage.engine.leave(&stage.plan, "ann", "").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("plain already"), "{error}");
        assert!(stage.simulator.world().calls().is_empty());
    });
}

/// Up to the last step it can be taken back; then what is left over is named, and leaving once more ends it.
#[test]
fn before_the_other_goes_it_can_be_taken_back() {
    on_virtual_time(async {
        let stage = released(turns()).await;
        let replicas = capacities(&stage);
        let run = stage.engine.leave(&stage.plan, "ann", "").await.unwrap();
        let handed = begins(&stage.engine, kinds::RETIRE_OLD);
        let stop = CancellationToken::new();
        let person = async {
            handed.await;
            let abort = Command::new(CommandKind::Abort, "bob", "not now");
            stage.engine.command(&run, &abort).await.unwrap();
        };
        let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), person);
        assert_eq!(outcome(&ending.unwrap()), Outcome::RolledBack);
        for ((service, image), replicas) in new_images(&stage.plan).iter().zip(replicas) {
            let view = stage.simulator.world().service(service).unwrap();
            let (_, green) = view.canary.unwrap();
            assert_eq!((&green.image, green.replicas.desired), (image, replicas), "{service}: green serves again");
        }
    });
}

#[test]
fn what_cannot_go_is_for_a_person_and_serves_meanwhile() {
    on_virtual_time(async {
        let stage = released(turns()).await;
        let replicas = capacities(&stage);
        let never = Rule::new(Fault::ErrorBefore(ErrorKind::Refused)).backend(BackendKind::Deployer).operation("leave");
        stage.simulator.faults().add(never);
        assert_eq!(leave(&stage).await, Outcome::NeedsAttention);
        for (service, image) in new_images(&stage.plan) {
            assert!((stage.simulator.world().share(&service, &image) - 1.0).abs() < 1e-9, "{service} serves");
        }
        stage.simulator.faults().clear();
        assert_eq!(leave(&stage).await, Outcome::Completed);
        assert_left(&stage.simulator, &stage.plan, &replicas);
    });
}

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    for n in 2.. {
        let reached_the_end = on_virtual_time(async {
            let stage = released(turns()).await;
            let replicas = capacities(&stage);
            let plan = left(&stage.engine, &stage.plan).await;
            let broken = broken_off(&stage.simulator, &plan, n, n % 2 == 0, Duration::ZERO).await;
            assert_eq!(outcome(&broken.ending), Outcome::Completed, "record {n}: {:?}", broken.ending);
            assert_left(&stage.simulator, &stage.plan, &replicas);
            broken.reached_the_end
        });
        if reached_the_end {
            assert!(n > 10, "it was broken off {n} times");
            return;
        }
    }
}

/// The plan of the run with which moodify leaves.
async fn left(engine: &Engine, plan: &Plan) -> Plan {
    let run = engine.leave(plan, "ann", "").await.unwrap();
    Plan::clone(&engine.state(&run).await.unwrap().plan)
}

#[test]
fn something_else_that_serves_by_then_is_not_touched() {
    on_virtual_time(async {
        let stage = released(turns()).await;
        let run = stage.engine.leave(&stage.plan, "ann", "").await.unwrap();
        let mut next = turns();
        next.release.version = "v9".to_owned();
        for service in &mut next.release.services {
            service.image = format!("registry.test/{}:v9", service.name).parse().unwrap();
        }
        let (_, ending) = stage.engine.run(&next, "bob").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let serving = |view: moodify_core::testing::ServiceView| view.stable.unwrap().image;
        let before: Vec<_> = stage.simulator.world().services().into_iter().map(serving).collect();
        let ending = stage.engine.drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
        let after: Vec<_> = stage.simulator.world().services().into_iter().map(serving).collect();
        assert_eq!(before, after);
    });
}
