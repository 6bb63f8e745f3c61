//! A weight counts when the data plane answers by it, where the plan says whom to ask.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::action::kinds;
use moodify_core::engine::Ending;
use moodify_core::journal::Outcome;
use moodify_core::model::Plan;
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// The release with a place where each service's data plane is asked.
fn asked() -> Plan {
    let mut plan = brief(plan());
    for service in &mut plan.release.services {
        let plane = json!({"url": format!("http://{}.example/", service.name), "version-header": "x-version"});
        service.traffic.verify = Some(serde_json::from_value(plane).unwrap());
    }
    plan
}

/// In a world whose routers report nothing, and whose data plane follows so much later.
fn stage(plan: Plan, lag: &str, more: &str) -> Stage {
    let scenario = Scenario::from_yaml(&format!("world: {{routers-report: false, route-lag: {lag}}}\n{more}")).unwrap();
    let simulator = Simulator::builder(&plan.targets())
        .scenario(scenario)
        .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
        .build();
    Stage::new(plan, simulator)
}

fn samples(stage: &Stage) -> usize {
    stage.simulator.world().call_count(BackendKind::Probe, "sample")
}

/// The shares of the new versions when the first weight begins to be watched.
async fn at_first_bake(stage: &Stage) -> (Vec<f64>, Ending) {
    let first = begins(&stage.engine, kinds::BAKE);
    let run = stage.engine.create(&stage.plan, "test").await.unwrap();
    let look = async {
        first.await;
        let world = stage.simulator.world();
        new_images(&stage.plan).iter().map(|(service, image)| world.share(service, image)).collect()
    };
    let stop = CancellationToken::new();
    let (shares, ending) = tokio::join!(look, stage.engine.drive(&run, &stop));
    (shares, ending.unwrap())
}

#[test]
fn a_weight_is_watched_only_when_the_data_plane_follows() {
    for (plan, wanted) in [(asked(), 0.1), (brief(plan()), 0.0)] {
        on_virtual_time(async {
            let is_asked = wanted > 0.0;
            let stage = stage(plan, "20s", "");
            let (shares, ending) = at_first_bake(&stage).await;
            assert!(
                shares.iter().all(|share| (share - wanted).abs() < 1e-9),
                "asked: {is_asked}, and they are {shares:?}"
            );
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            assert_eq!(samples(&stage) > 0, is_asked);
            // The other one sends requests to nobody for a while.
            if is_asked {
                assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
                let flows = stage.simulator.world().flows();
                let lost = flows.iter().filter(|flow| flow.at > Duration::ZERO).map(|flow| flow.lost);
                assert!(
                    lost.clone().all(|lost| lost < 1e-9),
                    "no request goes to nobody: {:?}",
                    lost.max_by(f64::total_cmp)
                );
            }
        });
    }
}

#[test]
fn a_data_plane_that_never_follows_takes_the_release_back() {
    on_virtual_time(async {
        let stage = stage(asked(), "3h", "");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        let state = stage.engine.state(&run).await.unwrap();
        let summary = state.ended.as_ref().map(|(_, summary)| summary.clone()).unwrap_or_default();
        let told = "the data plane does not follow: of 10 % for v1.2.3 it gives 0.0 % after 1m, 0 of 226 answers by \
                    x-version (previous 226)";
        assert!(summary.contains(told), "{summary}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
    });
}

#[test]
fn nobody_who_can_be_asked_holds_no_way_back_up() {
    on_virtual_time(async {
        let stage = stage(asked(), "1s", "canary: [{error-rate: 30%, from-weight: 50}]");
        // From the second weight on: the first one could be seen.
        let rule = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).backend(BackendKind::Probe);
        let second = async {
            let mut left = 2;
            while left > 0 {
                begins(&stage.engine, kinds::BAKE).await;
                left -= 1;
            }
            stage.simulator.faults().add(rule);
        };
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let ((), ending) = tokio::join!(second, stage.engine.drive(&run, &stop));
        assert_eq!(outcome(&ending.unwrap()), Outcome::RolledBack);
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
    });
}

#[test]
fn a_crash_at_any_record_asks_again() {
    for n in [18, 19, 20, 21, 22, 23] {
        on_virtual_time(async {
            let stage = stage(asked(), "1s", "");
            let broken = broken_off(&stage.simulator, &stage.plan, n, n % 2 == 0, Duration::ZERO).await;
            assert_eq!(outcome(&broken.ending), Outcome::Completed, "record {n}: {:?}", broken.ending);
            assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
        });
    }
}

#[test]
fn without_a_probe_nothing_is_changed() {
    on_virtual_time(async {
        let stage = stage(asked(), "1s", "");
        let mut backends = stage.simulator.backends_for(&stage.plan);
        backends.probe = None;
        let engine = moodify_core::Engine::new(stage.journal.clone(), backends).with_clock(stage.simulator.clock());
        let found = engine.check(&stage.plan).await;
        assert!(found.iter().any(|finding| finding.error.message().contains("probe")), "{found:?}");
    });
}
