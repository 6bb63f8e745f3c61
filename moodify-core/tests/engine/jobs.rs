//! Programs that run to their end in the middle of a release, and what runs by a schedule.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::{BackendKind, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::*;

fn step(name: &str, action: &str, with: Value) -> Step {
    Step { name: name.into(), action: action.into(), with, deadline: None, retry: RetryPolicy::default() }
}

/// The plan with a migration before its rollout, and the images of `CronJob`s after it.
fn with_jobs() -> Plan {
    let mut plan = brief(plan());
    let backend = &plan.release.services[0];
    let migrate = json!({"service": backend.name, "command": ["python", "manage.py", "migrate"], "tries": 2});
    let cron_jobs = json!({"cron-jobs": [{"name": "report", "image": backend.image},
        {"name": "cleanup", "container": "main", "image": backend.image}]});
    let first = plan.phases.iter().position(|phase| phase.name.starts_with("rollout: ")).unwrap();
    let before = Phase { name: "migrate".into(), parallel: false, steps: vec![step("migrate", "run-job", migrate)] };
    plan.phases.splice(first..first, [before]);
    let after = step("schedules", "set-cron-jobs", cron_jobs);
    plan.phases.splice(1..1, [Phase { name: "schedules".into(), parallel: false, steps: vec![after] }]);
    plan
}

fn world(plan: &Plan, scenario: &str) -> Simulator {
    Simulator::new(&plan.targets(), Scenario::from_yaml(scenario).unwrap())
}

#[test]
fn a_migration_runs_once_and_schedules_follow_the_release() {
    on_virtual_time(async {
        let plan = with_jobs();
        let simulator = world(&plan, "description: all is well");
        let stage = Stage::new(plan, simulator);
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let world = stage.simulator.world();
        assert_eq!(world.jobs().len(), 1);
        let image = stage.plan.release.services[0].image.clone();
        let set = [("cleanup/main".to_owned(), image.clone()), ("report".to_owned(), image)];
        assert_eq!(world.cron_images(), set.into());
    });
}

#[test]
fn a_migration_that_fails_ends_the_release_before_any_traffic_and_shows_what_it_wrote() {
    on_virtual_time(async {
        let plan = with_jobs();
        let simulator = world(&plan, "jobs: {fails: BackoffLimitExceeded, writes: [begin, 'relation users exists']}");
        let stage = Stage::new(plan, simulator);
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        let text = format!("{ending:?}");
        assert!(text.contains("BackoffLimitExceeded") && text.contains("relation users exists"), "{text}");
        let world = stage.simulator.world();
        assert_eq!(world.call_count(BackendKind::Router, "set"), 0, "no traffic for a version without its tables");
        assert!(world.jobs().is_empty(), "taken away with the release");
        let first = |name: &str| format!("simulated/{name}:previous").parse().unwrap();
        let back = [("cleanup/main".to_owned(), first("cleanup")), ("report".to_owned(), first("report"))];
        assert_eq!(world.cron_images(), back.into(), "the schedules run what they ran");
    });
}

#[test]
fn broken_off_at_any_record_nothing_runs_twice() {
    for (behaviour, wanted) in
        [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%, from-weight: 50", Outcome::RolledBack)]
    {
        let plan = with_jobs();
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
                    let world = simulator.world();
                    let started = world.writes().iter().filter(|write| write.operation == "start").count();
                    assert_eq!(started, 1, "record {n}, durable {durable}");
                    let new = plan.release.services[0].image.clone();
                    let all_new = world.cron_images().values().all(|image| *image == new);
                    assert_eq!(all_new, wanted == Outcome::Completed, "record {n}: {:?}", world.cron_images());
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
fn what_cannot_run_is_refused_before() {
    on_virtual_time(async {
        for (with, why) in [
            (json!({}), "give either `service` or `cron-job`"),
            (json!({"service": "backend", "cron-job": "report"}), "give either `service` or `cron-job`"),
            (json!({"service": "backend"}), "give `command`"),
            (json!({"service": "nobody", "command": ["true"]}), "no service \"nobody\""),
            (json!({"cron-job": "report", "tries": 0}), "`tries` must be at least 1"),
        ] {
            let mut plan = with_jobs();
            let migrate = plan.phases.iter_mut().flat_map(|p| &mut p.steps).find(|s| s.name == "migrate").unwrap();
            migrate.with = with;
            let simulator = world(&plan, "description: all is well");
            let stage = Stage::new(plan, simulator);
            let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(stage.simulator.world().calls().is_empty());
        }
    });
}
