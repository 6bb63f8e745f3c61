//! Two workloads that take turns.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::journal::{Command, CommandKind, Outcome};
use moodify_core::model::{Plan, Weight};
use moodify_core::strategy::BlueGreen;
use moodify_core::testing::{BackendKind, Edit, Edited, ServiceView, Simulator};
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// The plan with the other strategy in place of its canary.
pub(crate) fn turns() -> Plan {
    let mut plan = plan();
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let first = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    let phases = BlueGreen::default().phases("rollout");
    plan.phases.splice(first..first, phases);
    plan
}

fn views(simulator: &Simulator) -> Vec<ServiceView> {
    simulator.world().services()
}

/// Instances of blue, and of green if there is one.
fn instances(view: &ServiceView) -> (u32, Option<u32>) {
    let blue = view.stable.as_ref().unwrap().replicas.desired;
    (blue, view.canary.as_ref().map(|(_, green)| green.replicas.desired))
}

#[test]
fn what_was_tested_is_what_serves_and_what_served_stays_for_a_time() {
    on_virtual_time(async {
        let stage = Stage::named(turns(), "healthy");
        let before = views(&stage.simulator);
        let handed = begins(&stage.engine, "wait");
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let driving = stage.engine.drive(&run, &stop);
        let look = async {
            handed.await;
            for (view, before) in views(&stage.simulator).iter().zip(&before) {
                let n = instances(before).0;
                assert_eq!(instances(view), (n, Some(n)), "both are whole while the one before is kept");
            }
            tokio::time::sleep(Duration::from_secs(29 * 60)).await;
            assert!(views(&stage.simulator).iter().all(|view| instances(view).0 > 0), "29 minutes later still");
        };
        let (ending, ()) = tokio::join!(driving, look);
        let ending = ending.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        for ((service, image), (view, before)) in
            new_images(&stage.plan).iter().zip(views(&stage.simulator).iter().zip(&before))
        {
            assert!((stage.simulator.world().share(service, image) - 1.0).abs() < 1e-9);
            assert_eq!(instances(view), (0, Some(instances(before).0)));
            assert_eq!(view.stable.as_ref().unwrap().image, before.initial, "nothing was rolled");
        }
        let rolled = stage.simulator.world().call_count(BackendKind::Deployer, "set_image");
        assert_eq!(rolled, 0, "nothing was rolled");
        let lost = stage.simulator.world().flows().into_iter().filter(|flow| flow.at > Duration::ZERO);
        assert!(lost.map(|flow| flow.lost).all(|lost| lost < 1e-9), "no request went nowhere");
    });
}

#[test]
fn while_it_is_kept_the_way_back_needs_no_pod_to_start() {
    on_virtual_time(async {
        let stage = Stage::named(turns(), "healthy");
        let kept = begins(&stage.engine, "wait");
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let person = async {
            kept.await;
            tokio::time::sleep(Duration::from_secs(600)).await;
            let given = tokio::time::Instant::now();
            let abort = Command::new(CommandKind::Abort, "bob", "a customer called");
            stage.engine.command(&run, &abort).await.unwrap();
            for (service, image) in new_images(&stage.plan) {
                while stage.simulator.world().share(&service, &image) > 0.0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            assert!(given.elapsed() <= Duration::from_secs(2), "at once, not after {:?}", given.elapsed());
        };
        let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), person);
        assert_eq!(outcome(&ending.unwrap()), Outcome::RolledBack);
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
    });
}

#[test]
fn a_bad_version_goes_back_and_never_gets_the_name() {
    for name in ["errors-at-10", "errors-at-50", "crash-loop-at-50", "never-ready"] {
        on_virtual_time(async {
            let stage = Stage::named(turns(), name);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{name}: {ending:?}");
            assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
            assert_eq!(stage.simulator.world().call_count(BackendKind::Deployer, "hand_over"), 0, "{name}");
        });
    }
}

#[test]
fn they_take_turns_and_a_release_that_is_over_is_taken_back_by_the_other_one() {
    on_virtual_time(async {
        let stage = Stage::named(turns(), "healthy");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed);
        let green = views(&stage.simulator);

        // The next release goes to blue.
        let mut next = stage.plan.clone();
        for service in &mut next.release.services {
            service.image = format!("registry.example/{}:v3", service.name).parse().unwrap();
        }
        let (second, ending) = stage.engine.run(&next, "test").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        for (view, (service, image)) in views(&stage.simulator).iter().zip(new_images(&next)) {
            assert_eq!(view.stable.as_ref().unwrap().image, image, "blue serves");
            assert!((stage.simulator.world().share(&service, &image) - 1.0).abs() < 1e-9);
        }
        // What the first release left is not what serves now.
        let refused = stage.engine.undo(&run, "ann", "").await;
        if let Ok(undo) = refused {
            let ending = stage.engine.drive(&undo, &CancellationToken::new()).await.unwrap();
            assert_eq!(outcome(&ending), Outcome::Refused, "{ending:?}");
        }

        let rolled = stage.simulator.world().call_count(BackendKind::Deployer, "set_image");
        let undo = stage.engine.undo(&second, "ann", "customers complain").await.unwrap();
        let ending = stage.engine.drive(&undo, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        for (view, before) in views(&stage.simulator).iter().zip(&green) {
            let (_, serves) = view.canary.as_ref().unwrap();
            let (_, served) = before.canary.as_ref().unwrap();
            assert_eq!((&serves.image, serves.replicas.desired), (&served.image, served.replicas.desired));
            assert_eq!(instances(view).0, 0);
        }
        assert_eq!(stage.simulator.world().call_count(BackendKind::Deployer, "set_image"), rolled, "nothing is rolled");
    });
}

#[test]
fn a_router_that_counts_instances_is_refused_when_the_plan_is_checked() {
    on_virtual_time(async {
        let stage = Stage::named(by_ratio(turns()), "healthy");
        let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("two whole versions"), "{error}");
        assert!(stage.simulator.world().calls().is_empty());
    });
}

/// Drives a release and lets somebody edit the first service once `begun` has begun, with what comes with it.
async fn edited_meanwhile(
    begun: &'static str,
    edits: Vec<Edit>,
    then: Option<Command>,
) -> (Stage, moodify_core::engine::Ending) {
    let stage = Stage::named(turns(), "healthy");
    let there = begins(&stage.engine, begun);
    let run = stage.engine.create(&stage.plan, "test").await.unwrap();
    let person = async {
        there.await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        for edit in &edits {
            assert!(stage.simulator.world().edit(edit), "{edit:?}");
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        if let Some(command) = &then {
            stage.engine.command(&run, command).await.unwrap();
        }
    };
    let stop = CancellationToken::new();
    let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), person);
    (stage, ending.unwrap())
}

fn summary(ending: &moodify_core::engine::Ending) -> &str {
    match ending {
        moodify_core::engine::Ending::Ended(_, summary) => summary,
        moodify_core::engine::Ending::Interrupted => panic!("interrupted"),
    }
}

fn first_service(plan: &Plan) -> String {
    plan.release.services[0].name.clone()
}

/// What no request was lost by, in all the time.
fn assert_nobody_lost(stage: &Stage) {
    let lost = stage.simulator.world().flows().into_iter().filter(|flow| flow.at > Duration::ZERO);
    assert!(lost.map(|flow| flow.lost).all(|lost| lost < 1e-9), "no request went nowhere");
}

#[test]
fn a_way_back_gives_the_name_to_nobody() {
    on_virtual_time(async {
        let service = first_service(&turns());
        let gone = Edit::new(&service, Edited::StableReplicas).to(0);
        let abort = Command::new(CommandKind::Abort, "bob", "a customer called");
        let (stage, ending) = edited_meanwhile("wait", vec![gone], Some(abort)).await;
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        assert!(summary(&ending).contains("no stable instance is available"), "{ending:?}");
        let (_, image) = new_images(&stage.plan).into_iter().find(|(name, _)| *name == service).unwrap();
        assert!((stage.simulator.world().share(&service, &image) - 1.0).abs() < 1e-9, "the new version serves on");
        let view = stage.simulator.world().service(&service).unwrap();
        assert!(instances(&view).1.is_some_and(|green| green > 0), "what serves is not taken away: {view:?}");
        assert_nobody_lost(&stage);
    });
}

#[test]
fn what_somebody_switched_back_to_is_not_retired() {
    on_virtual_time(async {
        let service = first_service(&turns());
        let (stage, ending) = edited_meanwhile("wait", vec![Edit::new(&service, Edited::Name)], None).await;
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        assert!(summary(&ending).contains("lead to the version before again (blue): it serves"), "{ending:?}");
        let view = stage.simulator.world().service(&service).unwrap();
        let (blue, green) = instances(&view);
        assert!(blue > 0 && green == Some(blue), "both keep their instances: {view:?}");
        assert_nobody_lost(&stage);
    });
}

#[test]
fn an_old_version_that_was_mended_meanwhile_is_not_thrown_away() {
    for begun in ["bake", "wait"] {
        on_virtual_time(async move {
            let service = first_service(&turns());
            let (stage, ending) = edited_meanwhile(begun, vec![Edit::new(&service, Edited::StableImage)], None).await;
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{begun}: {ending:?}");
            assert!(summary(&ending).contains("was changed to simulated/hotfix:by-hand since"), "{begun}: {ending:?}");
            let view = stage.simulator.world().service(&service).unwrap();
            let stable = view.stable.as_ref().unwrap();
            assert_eq!(stable.image.as_str(), "simulated/hotfix:by-hand");
            assert!(stable.replicas.desired > 0, "{begun}: it keeps its instances: {stable}");
            let writes = stage.simulator.world().writes();
            let handed = writes.iter().any(|write| write.subject == service && write.operation == "hand_over");
            assert_eq!(handed, begun == "wait", "{begun}");
        });
    }
}

#[test]
fn a_new_version_that_an_autoscaler_made_smaller_since_is_well() {
    on_virtual_time(async {
        let service = first_service(&turns());
        let smaller = Edit::new(&service, Edited::Canary).to(1);
        let smaller = Edit { by: "kube-controller-manager".to_owned(), ..smaller };
        let (stage, ending) = edited_meanwhile("wait", vec![smaller], None).await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let view = stage.simulator.world().service(&service).unwrap();
        assert_eq!(instances(&view), (0, Some(1)));
        assert_nobody_lost(&stage);
    });
}

#[test]
fn what_an_autoscaler_made_larger_is_replaced_by_as_many() {
    on_virtual_time(async {
        let service = first_service(&turns());
        let before = Stage::named(turns(), "healthy").simulator.world().service(&service).unwrap();
        let more = instances(&before).0 + 4;
        let larger = Edit::new(&service, Edited::StableReplicas).to(more);
        let larger = Edit { by: "kube-controller-manager".to_owned(), ..larger };
        let (stage, ending) = edited_meanwhile("bake", vec![larger], None).await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let view = stage.simulator.world().service(&service).unwrap();
        assert_eq!(instances(&view), (0, Some(more)));
        assert_nobody_lost(&stage);
    });
}

/// The plan with one switch of the services' names in place of weights.
fn switched() -> Plan {
    let mut plan = plan();
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let first = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    let one = BlueGreen { weights: vec![Weight::FULL], ..BlueGreen::default() };
    plan.phases.splice(first..first, one.phases("rollout"));
    for service in &mut plan.release.services {
        service.traffic.router = "service-selector".to_owned();
    }
    plan
}

#[test]
fn without_a_gateway_one_switch_sends_everything_and_takes_it_back() {
    for (name, wanted) in [("healthy", Outcome::Completed), ("errors-at-50", Outcome::RolledBack)] {
        on_virtual_time(async {
            let stage = Stage::named(switched(), name);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), wanted, "{name}: {ending:?}");
            let flows = stage.simulator.world().flows();
            for (service, image) in new_images(&stage.plan) {
                let share = stage.simulator.world().share(&service, &image);
                assert!((share - if wanted == Outcome::Completed { 1.0 } else { 0.0 }).abs() < 1e-9, "{name}: {share}");
                let of_it = flows.iter().filter(|flow| flow.service == service).map(|flow| flow.share(&image));
                assert!(of_it.clone().all(|share| !(1e-9..=1.0 - 1e-9).contains(&share)), "{name}: all or nothing");
                assert!(of_it.clone().any(|share| share > 0.5), "{name}: it was switched");
            }
            let later = flows.iter().filter(|flow| flow.at > Duration::ZERO);
            assert!(later.map(|flow| flow.lost).all(|lost| lost < 1e-9), "{name}: no request went nowhere");
        });
    }
}

#[test]
fn what_can_only_switch_is_asked_for_nothing_else() {
    on_virtual_time(async {
        let mut by_weights = turns();
        let mut in_place = plan();
        for service in by_weights.release.services.iter_mut().chain(&mut in_place.release.services) {
            service.traffic.router = "service-selector".to_owned();
        }
        for (plan, why) in [(by_weights, "cannot send 10 %"), (in_place, "two workloads that take turns")] {
            let stage = Stage::named(plan, "healthy");
            let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(stage.simulator.world().calls().is_empty());
        }
    });
}
