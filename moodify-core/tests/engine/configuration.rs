//! Configuration ships with the version that reads it, and goes back with it.

use moodify_core::journal::Outcome;
use moodify_core::model::{ConfigRefs, ConfigVersion, Phase, Plan, Weight, WorkloadKind};
use moodify_core::strategy::{BlueGreen, Recreate, Rolling};
use moodify_core::testing::{ServiceView, Simulator};
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// Ships a `ConfigMap` and a Secret with every service.
fn shipping(mut plan: Plan) -> Plan {
    for service in &mut plan.release.services {
        let map = ConfigVersion::map(&format!("{}-config", service.name), [("LEVEL", "debug")]);
        let keys = ConfigVersion::there(&format!("{}-keys", service.name), &format!("{}-keys-2", service.name));
        service.config = vec![map, keys];
    }
    plan
}

/// The plan with other phases in place of its canary, on workloads of this kind.
fn with(kind: WorkloadKind, phases: Vec<Phase>) -> Plan {
    let mut plan = shipping(plan());
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let first = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    plan.phases.splice(first..first, phases);
    for service in &mut plan.release.services {
        service.kind = kind;
    }
    plan
}

/// Every strategy.
fn plans() -> Vec<(&'static str, Plan)> {
    use WorkloadKind::{Deployment, StatefulSet};
    vec![
        ("canary", shipping(plan())),
        ("canary by ratio", by_ratio(shipping(plan()))),
        ("blue-green", with(Deployment, BlueGreen::default().phases("rollout"))),
        ("rolling", with(StatefulSet, Rolling::default().phases("rollout"))),
        ("recreate", with(Deployment, Recreate::default().phases("rollout"))),
    ]
}

/// What the workload reads that serves.
fn read(view: &ServiceView, plan: &Plan) -> ConfigRefs {
    let image = &plan.release.service(&view.name).unwrap().image;
    let new = view.flow.share(image) > 0.5;
    let runs_new = |workload: &moodify_core::backend::Workload| (workload.image == *image) == new;
    let green = view.canary.iter().map(|(_, green)| green);
    let serving = view.stable.iter().chain(green).find(|workload| workload.replicas.desired > 0 && runs_new(workload));
    serving.unwrap().config.clone()
}

fn before(view: &ServiceView) -> ConfigRefs {
    let name = &view.name;
    [
        (format!("configmap/{name}-config"), format!("{name}-config")),
        (format!("secret/{name}-keys"), format!("{name}-keys")),
    ]
    .into()
}

#[track_caller]
fn assert_reads(simulator: &Simulator, plan: &Plan, outcome: Outcome, what: &str) {
    for view in simulator.world().services() {
        let service = plan.release.service(&view.name).unwrap();
        let reads = read(&view, plan);
        match outcome {
            Outcome::Completed => {
                assert_eq!(reads, service.config_refs(), "{what}: all new");
                let made = &view.made[&service.config[0].object()];
                assert_eq!(Some(made), service.config[0].data.as_ref(), "{what}");
            }
            _ => assert_eq!(reads, before(&view), "{what}: all old"),
        }
        assert!(view.made.len() <= 1, "{what}: {:?}", view.made);
    }
}

#[test]
fn it_ships_with_the_version_that_reads_it() {
    for (name, plan) in plans() {
        on_virtual_time(async {
            let stage = Stage::named(plan, "healthy");
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{name}: {ending:?}");
            assert_reads(&stage.simulator, &stage.plan, Outcome::Completed, name);
        });
    }
}

#[test]
fn it_goes_back_with_it() {
    for (name, plan) in plans() {
        for scenario in ["errors-at-10", "never-ready"] {
            on_virtual_time(async {
                let stage = Stage::named(plan.clone(), scenario);
                let (_, ending) = stage.run().await;
                assert_eq!(outcome(&ending), Outcome::RolledBack, "{name}, {scenario}: {ending:?}");
                assert_reads(&stage.simulator, &stage.plan, Outcome::RolledBack, name);
            });
        }
    }
}

#[test]
fn a_canary_that_failed_leaves_no_object() {
    on_virtual_time(async {
        let stage = Stage::named(shipping(plan()), "errors-at-10");
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        for view in stage.simulator.world().services() {
            assert!(view.made.is_empty(), "nothing can need it any more: {:?}", view.made);
        }
    });
}

#[test]
fn a_completed_release_is_taken_back_with_its_configuration() {
    for (name, plan) in plans() {
        on_virtual_time(async {
            let stage = Stage::named(plan, "healthy");
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed);
            let undo = stage.engine.undo(&run, "ann", "customers complain").await.unwrap();
            let ending = stage.engine.drive(&undo, &CancellationToken::new()).await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Completed, "{name}: {ending:?}");
            assert_reads(&stage.simulator, &stage.plan, Outcome::RolledBack, name);
        });
    }
}

/// The same image, and other configuration.
fn configuration_only(mut plan: Plan) -> (Plan, Simulator) {
    let mut world = Simulator::builder(&plan.targets())
        .scenario(scenario("healthy"))
        .starting_at("2026-11-24T15:30:00Z".parse().unwrap());
    for service in &mut plan.release.services {
        world = world.running(&service.name, service.image.clone());
    }
    (plan, world.build())
}

#[test]
fn configuration_alone_is_a_release_where_two_versions_stand_side_by_side() {
    for (name, plan) in plans() {
        on_virtual_time(async {
            let (plan, simulator) = configuration_only(plan);
            let stage = Stage::new(plan, simulator);
            let (_, ending) = stage.run().await;
            let alone = ["rolling", "recreate"].contains(&name);
            let wanted = if alone { Outcome::Refused } else { Outcome::Completed };
            assert_eq!(outcome(&ending), wanted, "{name}: {ending:?}");
            for view in stage.simulator.world().services().iter().filter(|_| !alone) {
                let service = stage.plan.release.service(&view.name).unwrap();
                let serving = match &view.canary {
                    Some((_, green)) if green.replicas.desired > 0 => green,
                    _ => view.stable.as_ref().unwrap(),
                };
                assert_eq!(serving.config, service.config_refs(), "{name}");
                assert!(view.route.is_none_or(|weight| name == "blue-green" || weight == Weight::ZERO), "{name}");
            }
        });
    }
}

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    let bad_at_50 = "error-rate: 12%, from-weight: 50";
    for (name, plan) in plans() {
        for (behaviour, wanted) in [("error-rate: 0.1%", Outcome::Completed), (bad_at_50, Outcome::RolledBack)] {
            let plan = brief(plan.clone());
            broken_off_at_each_record(&plan, behaviour, wanted, |simulator, record| {
                assert_reads(simulator, &plan, wanted, &format!("{name}, {record}"));
            });
        }
    }
}
