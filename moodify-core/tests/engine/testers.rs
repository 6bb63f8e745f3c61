//! Testers see the new version before it gets a share of the traffic.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::{Period, Phase, Plan};
use moodify_core::strategy::{BlueGreen, Canary, TestingFirst};
use moodify_core::testing::Simulator;
use tokio_util::sync::CancellationToken;

use crate::common::*;

fn first() -> TestingFirst {
    TestingFirst {
        header: Some("X-Tester".into()),
        cookie: None,
        value: "yes".into(),
        period: Some(Period::from_mins(10)),
    }
}

fn with(phases: Vec<Phase>) -> Plan {
    let mut plan = plan();
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let at = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    plan.phases.splice(at..at, phases);
    plan
}

fn plans() -> [Plan; 2] {
    let testers = Some(first());
    let canary = Canary { testers: testers.clone(), ..Canary::default() };
    let turns = BlueGreen { testers, ..BlueGreen::default() };
    [with(canary.phases("rollout")), with(turns.phases("rollout"))]
}

fn admitted(simulator: &Simulator) -> usize {
    simulator.world().services().iter().filter(|view| view.testers == Some(first().testers())).count()
}

#[test]
fn testers_come_before_the_first_weight_and_go_in_the_end() {
    for plan in plans() {
        on_virtual_time(async {
            let stage = Stage::named(plan, "healthy");
            let waits = begins(&stage.engine, "wait");
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let look = async {
                waits.await;
                tokio::time::sleep(Duration::from_secs(9 * 60)).await;
                assert_eq!(admitted(&stage.simulator), 2);
                for (service, image) in new_images(&stage.plan) {
                    assert!(stage.simulator.world().share(&service, &image) < 1e-9, "nobody else sees it");
                }
            };
            let stop = CancellationToken::new();
            let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), look);
            assert_eq!(outcome(&ending.unwrap()), Outcome::Completed);
            assert_eq!(admitted(&stage.simulator), 0);
        });
    }
}

#[test]
fn broken_off_at_any_record_no_tester_is_left_behind() {
    let [plan, _] = plans();
    let plan = brief(plan);
    for (behaviour, wanted) in
        [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%, from-weight: 50", Outcome::RolledBack)]
    {
        broken_off_at_each_record(&plan, behaviour, wanted, |simulator, record| {
            assert_whole(simulator, &plan, wanted);
            assert_eq!(admitted(simulator), 0, "{record}");
        });
    }
}

#[test]
fn a_router_without_routes_for_testers_is_refused_before() {
    on_virtual_time(async {
        let [plan, _] = plans();
        let stage = Stage::named(by_ratio(plan), "healthy");
        let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("has no routes for testers"), "{error}");
        assert!(stage.simulator.world().calls().is_empty());
    });
}

#[test]
fn testers_are_known_by_a_header_or_by_a_cookie() {
    let problems = |settings: &str| -> Vec<(String, String)> {
        let testers = Some(serde_json::from_str(settings).unwrap());
        let canary = Canary { testers: testers.clone(), ..Canary::default() }.problems();
        assert_eq!(canary, BlueGreen { testers, ..BlueGreen::default() }.problems());
        canary
    };
    let places = |settings: &str| problems(settings).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert!(problems(r#"{"cookie": "beta", "value": "yes"}"#).is_empty());
    assert!(problems(r#"{"header": "X-Tester", "value": "a b;c"}"#).is_empty());
    assert_eq!(places(r#"{"value": "yes"}"#), ["/testers"]);
    assert_eq!(places(r#"{"header": "X-Tester", "cookie": "beta", "value": "yes"}"#), ["/testers/cookie"]);
    assert_eq!(places(r#"{"cookie": "a=b", "value": "a b"}"#), ["/testers/cookie", "/testers/value"]);
    assert_eq!(places(r#"{"cookie": "beta", "value": "a;b"}"#), ["/testers/value"]);
}
