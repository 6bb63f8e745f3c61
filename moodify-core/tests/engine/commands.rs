use std::time::Duration;

use moodify_core::Engine;
use moodify_core::action::kinds;
use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::{Command, CommandKind, Outcome};
use moodify_core::model::{Phase, Plan, RetryPolicy, RunId, Step};
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::*;

#[test]
fn commands_are_obeyed_and_recorded() {
    on_virtual_time(async {
        let Stage { plan, simulator, engine, .. } = Stage::named(plan(), "healthy");
        let run = engine.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let driving = engine.drive(&run, &stop);
        let person = async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            engine.command(&run, &Command::new(CommandKind::Pause, "ann", "lunch")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(engine.state(&run).await.unwrap().paused.unwrap().by, "ann");
            assert!(
                engine.command(&run, &Command::new(CommandKind::Pause, "ann", "")).await.is_err(),
                "it is paused already"
            );
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let (service, image) = new_images(&plan).remove(0);
            let share = simulator.world().share(&service, &image);
            assert!((share - 0.1).abs() < 1e-9, "an hour later still 10 %, not {share}");
            engine.command(&run, &Command::new(CommandKind::Continue, "ann", "")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(900)).await;
            engine.command(&run, &Command::new(CommandKind::Abort, "bob", "a customer called")).await.unwrap();
            let given = tokio::time::Instant::now();
            while simulator.world().share(&service, &image) > 0.0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(given.elapsed() <= Duration::from_secs(1), "within a second, not {:?}", given.elapsed());
        };
        let (ending, ()) = tokio::join!(driving, person);
        let Ending::Ended(Outcome::RolledBack, summary) = ending.unwrap() else { panic!("not rolled back") };
        assert!(summary.contains("bob") && summary.contains("a customer called"), "{summary}");
        assert_whole(&simulator, &plan, Outcome::RolledBack);
    });
}

/// The plan with an approval by two persons before it begins to change anything, and one in the middle.
fn asking() -> Plan {
    let mut plan = brief(plan());
    let step = |name: &str, with| Step {
        name: name.into(),
        action: kinds::APPROVAL.into(),
        with,
        deadline: None,
        retry: RetryPolicy::default(),
    };
    let first = step("go", json!({"question": "Ship it?", "approvals": 2}));
    let second = step("on", json!({"question": "Go to half of the traffic?"}));
    plan.phases.insert(0, Phase { name: "approval".into(), parallel: false, steps: vec![first] });
    let half = plan.phases.iter().position(|phase| phase.name.contains("50")).unwrap();
    plan.phases[half].steps.insert(0, second);
    plan
}

async fn give(engine: &Engine, run: &RunId, kind: CommandKind, by: &str, reason: &str) -> Result<(), String> {
    let command = Command::new(kind, by, reason);
    let given = engine.command(run, &command).await.map_err(|e| e.to_string());
    // The same command twice is one command.
    if given.is_ok() {
        engine.journal().send(run, &command).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    given
}

#[test]
fn two_persons_approve_and_their_words_survive_a_restart() {
    on_virtual_time(async {
        let Stage { plan, simulator, journal, engine: first } = Stage::named(asking(), "healthy");
        let run = first.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (_, ()) = tokio::join!(first.drive(&run, &stop), async {
            let sleep = tokio::time::sleep;
            sleep(Duration::from_secs(3600)).await;
            assert!(simulator.world().writes().is_empty(), "nobody has said yes");
            give(&first, &run, CommandKind::Approve, "ann", "tested").await.unwrap();
            let again = give(&first, &run, CommandKind::Approve, "ann", "").await.unwrap_err();
            assert!(again.contains("ann has approved it already"), "{again}");
            let no_analysis = give(&first, &run, CommandKind::Skip, "ann", "hurry").await.unwrap_err();
            assert!(no_analysis.contains("analysis"), "{no_analysis}");
            sleep(Duration::from_secs(60)).await;
            assert!(simulator.world().writes().is_empty(), "one of two is not enough");
            stop.cancel();
        });
        let second = engine(&journal, &simulator, &plan);
        let never = CancellationToken::new();
        let (ending, ()) = tokio::join!(second.drive(&run, &never), async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            give(&second, &run, CommandKind::Approve, "ben", "").await.unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
            let (service, image) = new_images(&plan).remove(0);
            assert!((simulator.world().share(&service, &image) - 0.1).abs() < 1e-9, "it waits at 10 %");
            give(&second, &run, CommandKind::Approve, "ann", "").await.unwrap();
            let none = give(&second, &run, CommandKind::Approve, "ann", "").await.unwrap_err();
            assert!(none.contains("waits for approval"), "{none}");
        });
        assert_eq!(outcome(&ending.unwrap()), Outcome::Completed);
        let state = second.state(&run).await.unwrap();
        let by = state.steps["go"].approvals.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(by, ["ann: tested", "ben"]);
    });
}

#[test]
fn a_rejection_refuses_what_has_not_begun_and_takes_back_what_has() {
    for (approvals, wanted) in [(0, Outcome::Refused), (2, Outcome::RolledBack)] {
        on_virtual_time(async {
            let Stage { plan, simulator, engine, .. } = Stage::named(asking(), "healthy");
            let run = engine.create(&plan, "test").await.unwrap();
            let never = CancellationToken::new();
            let (ending, ()) = tokio::join!(engine.drive(&run, &never), async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                for person in ["ann", "ben"].iter().take(approvals) {
                    give(&engine, &run, CommandKind::Approve, person, "").await.unwrap();
                }
                tokio::time::sleep(Duration::from_secs(600)).await;
                give(&engine, &run, CommandKind::Reject, "cyd", "not on a Tuesday").await.unwrap();
            });
            let ending = ending.unwrap();
            assert_eq!(outcome(&ending), wanted, "{ending:?}");
            assert!(format!("{ending:?}").contains("cyd: not on a Tuesday"), "{ending:?}");
            assert_whole(&simulator, &plan, Outcome::RolledBack);
        });
    }
}

#[test]
fn an_abort_wins_over_everything_that_waits() {
    // A waiting approval, a pause, a hold without data, the wait for another attempt.
    for (name, at) in [("approval", 60), ("paused", 200), ("blind", 200), ("retrying", 8)] {
        on_virtual_time(async {
            let plan = if name == "approval" { asking() } else { plan() };
            let scenario = if name == "blind" { bad("no-metrics: true") } else { Scenario::default() };
            let simulator = Simulator::builder(&plan.targets())
                .scenario(scenario)
                .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
                .build();
            if name == "retrying" {
                let rule = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).operation("set");
                simulator.faults().add(rule.backend(BackendKind::Router));
            }
            let Stage { plan, simulator, engine, .. } = Stage::new(plan, simulator);
            let run = engine.create(&plan, "test").await.unwrap();
            let never = CancellationToken::new();
            let begun = tokio::time::Instant::now();
            let (ending, ()) = tokio::join!(engine.drive(&run, &never), async {
                tokio::time::sleep(Duration::from_secs(at)).await;
                if name == "paused" {
                    give(&engine, &run, CommandKind::Pause, "ann", "").await.unwrap();
                }
                give(&engine, &run, CommandKind::Abort, "bob", "stop").await.unwrap();
                let late = give(&engine, &run, CommandKind::Pause, "ann", "").await;
                assert!(late.is_err(), "{name}: there is nothing to pause any more");
            });
            let ending = ending.unwrap();
            assert!(matches!(outcome(&ending), Outcome::RolledBack), "{name}: {ending:?}");
            assert_whole(&simulator, &plan, Outcome::RolledBack);
            let took = begun.elapsed() - Duration::from_secs(at);
            assert!(took < Duration::from_secs(60), "{name}: {took:?}");
        });
    }
}

#[test]
fn an_analysis_is_skipped_with_a_reason_by_who_answers_for_it() {
    on_virtual_time(async {
        let Stage { plan, engine, .. } = Stage::named(plan(), "no-metrics");
        let run = engine.create(&plan, "test").await.unwrap();
        let never = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        let (ending, ()) = tokio::join!(engine.drive(&run, &never), async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(120)).await;
                let without = give(&engine, &run, CommandKind::Skip, "ann", " ").await.unwrap_err();
                assert!(without.contains("reason"), "{without}");
                give(&engine, &run, CommandKind::Skip, "ann", "Prometheus is being moved").await.unwrap();
            }
        });
        let ending = ending.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert!(begun.elapsed() < Duration::from_secs(900));
        let state = engine.state(&run).await.unwrap();
        let skipped = state.steps.values().filter_map(|step| step.skipped.as_ref());
        assert_eq!(skipped.filter(|who| who.by == "ann" && who.reason.contains("Prometheus")).count(), 3);
    });
}

#[test]
fn a_command_for_a_run_that_is_over_is_refused() {
    on_virtual_time(async {
        let stage = Stage::named(brief(plan()), "healthy");
        let (run, _) = stage.run().await;
        for kind in [CommandKind::Pause, CommandKind::Continue, CommandKind::Abort, CommandKind::Approve] {
            let refused = give(&stage.engine, &run, kind, "ann", "").await.unwrap_err();
            assert!(refused.contains("the run is over: completed"), "{refused}");
        }
    });
}
