//! The new version takes the place of the old one in the workload itself: batch by batch, or after a stop.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::journal::{Outcome, fold};
use moodify_core::model::{Layout, Phase, Plan, WorkloadKind};
use moodify_core::strategy::{Recreate, Rolling};
use moodify_core::testing::{BackendKind, Simulator};
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// The plan with other phases in place of its canary, on workloads of this kind.
fn with(kind: WorkloadKind, phases: Vec<Phase>) -> Plan {
    let mut plan = plan();
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let first = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    plan.phases.splice(first..first, phases);
    for service in &mut plan.release.services {
        service.kind = kind;
    }
    assert!(plan.targets().iter().all(|target| target.layout == Layout::Single));
    plan
}

fn rolling(kind: WorkloadKind) -> Plan {
    with(kind, Rolling::default().phases("rollout"))
}

fn recreate() -> Plan {
    with(WorkloadKind::StatefulSet, Recreate::default().phases("rollout"))
}

const KINDS: [WorkloadKind; 3] = [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet];

/// Everything serves, and nothing is held back.
fn assert_served(stage: &Stage, outcome: Outcome) {
    assert_whole(&stage.simulator, &stage.plan, outcome);
    for view in stage.simulator.world().services() {
        let stable = view.stable.unwrap();
        assert!(stable.is_complete(), "{stable:?}");
    }
}

/// The most of the traffic that the new version ever had while it baked at this weight, from the flows.
fn shares(stage: &Stage) -> Vec<f64> {
    let (service, image) = new_images(&stage.plan).remove(0);
    let mut shares: Vec<f64> = Vec::new();
    for flow in stage.simulator.world().flows() {
        let share = flow.share(&image);
        if flow.service == service && shares.last() != Some(&share) {
            shares.push(share);
        }
    }
    shares
}

#[test]
fn batch_by_batch_it_takes_the_place_of_the_old_one() {
    for kind in KINDS {
        on_virtual_time(async {
            let stage = Stage::named(rolling(kind), "healthy");
            let baked = begins(&stage.engine, "bake");
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let stop = CancellationToken::new();
            let look = async {
                baked.await;
                tokio::time::sleep(Duration::from_secs(600)).await;
                for view in stage.simulator.world().services() {
                    let replicas = view.stable.unwrap().replicas;
                    let wanted = moodify_core::strategy::batch(replicas.desired, Rolling::default().batches[0]);
                    assert_eq!(Some(replicas.updated), wanted, "{kind}: the batch is held at its size");
                }
            };
            let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), look);
            assert_eq!(outcome(&ending.unwrap()), Outcome::Completed, "{kind}");
            assert_served(&stage, Outcome::Completed);
            assert!(shares(&stage).is_sorted(), "{kind}: {:?}", shares(&stage));
            assert_eq!(stage.simulator.world().call_count(BackendKind::Router, "set"), 0);
        });
    }
}

#[test]
fn a_bad_version_goes_back_at_once_from_any_batch() {
    for kind in KINDS {
        for name in ["errors-at-10", "errors-at-50", "crash-loop-at-50", "unready-at-50", "never-ready"] {
            on_virtual_time(async {
                let stage = Stage::named(rolling(kind), name);
                let (_, ending) = stage.run().await;
                assert_eq!(outcome(&ending), Outcome::RolledBack, "{kind}, {name}: {ending:?}");
                assert_served(&stage, Outcome::RolledBack);
            });
        }
    }
}

#[test]
fn without_metrics_no_batch_follows() {
    on_virtual_time(async {
        let stage = Stage::named(rolling(WorkloadKind::StatefulSet), "no-metrics");
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        let most = shares(&stage).into_iter().fold(0.0, f64::max);
        assert!(most <= 0.5, "no data is not health, but it has {most}");
    });
}

#[test]
fn what_cannot_run_twice_never_does() {
    for (name, wanted) in [("healthy", Outcome::Completed), ("errors-at-10", Outcome::RolledBack)] {
        on_virtual_time(async {
            let stage = Stage::named(recreate(), name);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), wanted, "{name}: {ending:?}");
            assert_served(&stage, wanted);
            let flows = stage.simulator.world().flows();
            assert!(flows.iter().all(|flow| flow.shares.len() <= 1), "{name}: two versions at once");
            assert!(flows.iter().any(|flow| flow.at > Duration::ZERO && flow.lost > 0.99), "{name}: it was stopped");
        });
    }
}

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    let bad_at_50 = "error-rate: 12%, from-weight: 50";
    let cases = [
        (rolling(WorkloadKind::StatefulSet), "error-rate: 0.1%", Outcome::Completed),
        (rolling(WorkloadKind::DaemonSet), bad_at_50, Outcome::RolledBack),
        (recreate(), bad_at_50, Outcome::RolledBack),
    ];
    for (plan, behaviour, wanted) in cases {
        let plan = brief(plan);
        let mut n = 1;
        loop {
            let mut reached_the_end = false;
            for durable in [false, true] {
                on_virtual_time(async {
                    let simulator = Simulator::new(&plan.targets(), bad(behaviour));
                    let broken = broken_off(&simulator, &plan, n, durable, Duration::ZERO).await;
                    reached_the_end |= broken.reached_the_end;
                    let ending = broken.ending;
                    assert_eq!(outcome(&ending), wanted, "record {n}, durable {durable}: {ending:?}");
                    assert_whole(&simulator, &plan, wanted);
                    for view in simulator.world().services() {
                        assert!(view.stable.unwrap().is_complete(), "record {n}, durable {durable}");
                    }
                    fold(&broken.journal.load(&broken.run).await.unwrap()).unwrap();
                });
            }
            if reached_the_end {
                break;
            }
            n += 1;
        }
        assert!(n > 15, "{n} records are too few to have been all");
    }
}

#[test]
fn a_completed_release_is_taken_back_in_the_same_workload() {
    for plan in [rolling(WorkloadKind::StatefulSet), recreate()] {
        on_virtual_time(async {
            let stage = Stage::named(plan, "healthy");
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed);
            let undo = stage.engine.undo(&run, "ann", "customers complain").await.unwrap();
            let ending = stage.engine.drive(&undo, &CancellationToken::new()).await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            assert_served(&stage, Outcome::RolledBack);
        });
    }
}

#[test]
fn what_a_kind_of_workload_cannot_do_is_refused_before() {
    on_virtual_time(async {
        let mut beside = plan();
        beside.release.services[0].kind = WorkloadKind::StatefulSet;
        let stopped = with(WorkloadKind::DaemonSet, Recreate::default().phases("rollout"));
        for (plan, why) in [(beside, "canary beside a StatefulSet"), (stopped, "it cannot be stopped")] {
            let stage = Stage::named(plan, "healthy");
            let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(stage.simulator.world().calls().is_empty());
        }
    });
}
