//! What was seen to go wrong in other rollout tools, each a test.

use std::time::Duration;

use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::Plan;
use moodify_core::testing::{BackendKind, Edit, Edited, Fault, Rule, Scenario, Simulator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// The release with bakes of ten seconds, and figures that are bad only if a condition says so.
fn hasty() -> Plan {
    let mut plan = plan();
    for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
        step.with["period"] = "10s".into();
        step.with["analysis"]["interval"] = "10s".into();
        step.with["analysis"]["no-data"]["hold"] = "2m".into();
    }
    plan
}

fn assert_not_promoted(stage: &Stage, why: &str) {
    for (service, image) in new_images(&stage.plan) {
        let most = stage.simulator.world().highest_share(&service, &image);
        assert!(most <= 0.1 + 1e-9, "{why}: promoted to {most} without one measurement");
    }
}

/// Argo Rollouts: the metric source answers 500, or nothing, or never, all through two short steps: promoted, healthy.
#[test]
fn no_promotion_without_a_measurement_whatever_the_source_does() {
    let faults: [(&str, Option<Fault>, &str); 5] = [
        ("it answers 500", Some(Fault::ErrorBefore(ErrorKind::Unavailable)), ""),
        ("it refuses the query", Some(Fault::ErrorBefore(ErrorKind::Invalid)), ""),
        ("it hangs", Some(Fault::Hang { effect: false }), ""),
        ("it has no series", None, "canary: [{no-metrics: true}]"),
        ("it answers NaN", None, "canary: [{figures: {orders: .nan}}]"),
    ];
    for (why, fault, scenario) in faults {
        on_virtual_time(async {
            let mut plan = hasty();
            for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
                // Only a condition of failure: what is not a number must not pass as not failed.
                let orders = json!({"name": "orders", "source": "prometheus", "query": "orders", "fail": "> 5"});
                step.with["analysis"]["metrics"].as_array_mut().unwrap().push(orders);
            }
            let scenario = if scenario.is_empty() { "canary: [{figures: {orders: 1}}]" } else { scenario };
            let simulator = Simulator::new(&plan.targets(), Scenario::from_yaml(scenario).unwrap());
            if let Some(fault) = fault {
                simulator.faults().add(Rule::new(fault).backend(BackendKind::MetricSource));
            }
            let stage = Stage::new(plan, simulator);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{why}: {ending:?}");
            assert_not_promoted(&stage, why);
        });
    }
}

/// Flagger: after kill -9 the failed checks are counted afresh, so that a version that fails again and again never goes
/// back if the process is replaced in between.
#[test]
fn counts_of_bad_measurements_survive_a_crash() {
    on_virtual_time(async {
        let mut plan = plan();
        for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
            for metric in step.with["analysis"]["metrics"].as_array_mut().unwrap() {
                metric["tolerance"] = 3.into();
            }
        }
        let simulator = Simulator::new(&plan.targets(), bad("error-rate: 50%"));
        let stage = Stage::new(plan, simulator);
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        // Each process lives for two measurements or so; four bad ones in a row are a breach.
        for life in 0..6 {
            let engine = stage.another_engine();
            let never = CancellationToken::new();
            let killed = tokio::time::timeout(Duration::from_secs(25), engine.drive(&run, &never)).await;
            if let Ok(ending) = killed {
                assert_eq!(outcome(&ending.unwrap()), Outcome::RolledBack);
                assert!(life > 0, "the first process cannot have seen enough");
                return;
            }
            drop(engine);
            tokio::time::sleep(Duration::from_secs(16)).await;
        }
        panic!("after six processes it still has not gone back");
    });
}

/// Argo Rollouts: after kill -9 and a restart, 16 s until the first write: the dead process's lease is waited out.
/// (A process that is known to be dead: the file journal's tests. Here: one that stopped in order.)
#[test]
fn the_lease_of_a_clean_predecessor_is_not_waited_out() {
    on_virtual_time(async {
        let stage = Stage::named(plan(), "healthy");
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (_, ()) = tokio::join!(stage.engine.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            stop.cancel();
        });
        let before = stage.journal.load(&run).await.unwrap().len();
        let second = stage.another_engine();
        let begun = tokio::time::Instant::now();
        let never = CancellationToken::new();
        let drive = second.drive(&run, &never);
        let first_record = async {
            while stage.journal.load(&run).await.unwrap().len() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            begun.elapsed()
        };
        let waited = tokio::select! { _ = drive => panic!("ended"), waited = first_record => waited };
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    });
}

/// Argo Rollouts: the API server away for 20 s: the controller exits.
#[test]
fn an_api_that_is_silent_for_20_s_ends_nothing() {
    for at in [1, 8, 100, 960, 1850, 2720, 2735] {
        on_virtual_time(async {
            let plan = plan();
            let stage = Stage::named(plan, "healthy");
            for backend in [BackendKind::Deployer, BackendKind::Router, BackendKind::Diagnostics] {
                stage.simulator.faults().partition(backend, Duration::from_secs(at), Duration::from_secs(at + 20));
            }
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "silent at {at} s: {ending:?}");
            assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
        });
    }
}

/// Flagger: the tick that reaches the threshold only records it; the rollback is one whole interval later.
#[test]
fn the_measurement_that_breaches_is_the_one_that_goes_back() {
    on_virtual_time(async {
        let mut plan = plan();
        for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
            for metric in step.with["analysis"]["metrics"].as_array_mut().unwrap() {
                metric["tolerance"] = 0.into();
            }
        }
        let simulator = Simulator::new(&plan.targets(), bad("error-rate: 50%, after: 300s"));
        let stage = Stage::new(plan, simulator);
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        let flows = stage.simulator.world().flows();
        let (service, image) = new_images(&stage.plan).remove(0);
        let of = |f: &&moodify_core::testing::Flow| f.service == service;
        let reached = flows.iter().filter(of).find(|f| f.share(&image) > 0.0).unwrap().at;
        let back = flows.iter().filter(of).find(|f| f.at > reached && f.share(&image) == 0.0).unwrap().at;
        // Bad from 300 s on; measured every 10 s; 0.5 s until the route takes effect.
        let took = back - reached - Duration::from_secs(300);
        assert!(took <= Duration::from_secs(11), "{took:?} after it became bad");
    });
}

/// Flagger: a weight edited to 90 % by hand made the next tick go to 100 % and promote; a canary scaled to 1 of 10 by
/// hand carried all of the traffic; an image set back was not seen.
#[test]
fn an_edit_by_hand_stops_the_run_and_stays() {
    let edits = [(Edited::Route, Some(90)), (Edited::Canary, Some(1))];
    for (what, to) in edits {
        on_virtual_time(async {
            let plan = plan();
            let mut edit = Edit::new("backend", what);
            (edit.to, edit.after) = (to, "120s".parse().unwrap());
            let simulator = Simulator::new(&plan.targets(), Scenario::default().edit(edit));
            let stage = Stage::new(plan, simulator);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{what:?}: {ending:?}");
            let service = stage.simulator.world().service("backend").unwrap();
            match what {
                Edited::Route => assert_eq!(service.route.unwrap().percent(), 90, "it stays as it was edited"),
                _ => assert_eq!(service.canary.unwrap().1.replicas.desired, 1, "it stays as it was edited"),
            }
            let image = &stage.plan.release.service("backend").unwrap().image;
            assert_ne!(&service.stable.unwrap().image, image, "not promoted");
        });
    }
}

/// Also when it goes in the moment in which the bake begins, before anybody watches it.
#[test]
fn a_canary_that_is_deleted_as_its_bake_begins_stops_the_run() {
    on_virtual_time(async {
        let stage = Stage::named(plan(), "healthy");
        let bakes = begins(&stage.engine, "bake");
        let edit = async {
            bakes.await;
            assert!(stage.simulator.world().edit(&Edit::new("backend", Edited::CanaryDeleted)));
            std::future::pending::<()>().await;
        };
        let begun = tokio::time::Instant::now();
        let (_, ending) = tokio::select! {
            biased;
            () = edit => unreachable!("it waits for ever"),
            ended = stage.run() => ended,
        };
        let Ending::Ended(Outcome::NeedsAttention, summary) = ending else { panic!("{ending:?}") };
        assert!(summary.contains("somebody took the new version away"), "{summary}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(stage.simulator.world().service("backend").unwrap().canary.is_none(), "it is not made again");
    });
}

/// A request that hangs for a while is overtaken by somebody's edit: what it then would write is not what it read.
#[test]
fn an_edit_that_overtakes_a_slow_request_is_not_overwritten() {
    on_virtual_time(async {
        let mut plan = brief(plan());
        plan.release.services.truncate(1);
        let service = plan.release.services[0].name.clone();
        let stage = Stage::named(plan, "healthy");
        let slow =
            Rule::new(Fault::Stall(Duration::from_secs(25))).backend(BackendKind::Router).operation("reset").nth(1);
        stage.simulator.faults().add(slow);
        let returns = begins(&stage.engine, "return-traffic");
        let edit = async {
            returns.await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(stage.simulator.world().edit(&Edit::new(&service, Edited::Route).to(78)));
            std::future::pending::<()>().await;
        };
        let (_, ending) = tokio::select! {
            ended = stage.run() => ended,
            () = edit => unreachable!("it waits for ever"),
        };
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        let weight = stage.simulator.world().service(&service).unwrap().route.unwrap();
        assert_eq!(weight.percent(), 78, "what somebody else set is still there");
    });
}
