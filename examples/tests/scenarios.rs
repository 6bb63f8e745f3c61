//! Every scenario, through the real binary: the exit code, and the words that matter.

mod common;

use common::{release, run, simulate};
use serde_json::Value;

#[test]
fn every_scenario_ends_as_it_should() {
    let expected = [
        ("healthy", 0, "completed: v1.2.3 is released to production"),
        ("errors-at-10", 4, "at 10 % of the traffic"),
        ("errors-at-50", 4, "at 50 % of the traffic"),
        ("crash-loop-at-50", 4, "rolled back: the old version serves again; rollout-bake-50"),
        ("slow-at-50", 4, "latency-p95 of backend is 5."),
        ("unready-at-50", 4, "unhealthy of backend is"),
        ("never-ready", 4, "not ready at the deadline"),
        ("no-metrics", 5, "no data is not health"),
        ("metrics-outage", 0, "rollout-bake-10 waits: no data is not health"),
        ("second-service-bad", 4, "error-rate of frontend is"),
        ("edited-by-hand", 5, "was edited by kubectl-edit"),
        ("stable-slow-rollout", 0, "completed:"),
    ];
    assert_eq!(expected.map(|(name, ..)| name).as_slice(), moodify_core::testing::Scenario::NAMES);
    for (scenario, code, words) in expected {
        let done = simulate(scenario, &[]);
        assert_eq!(done.code, code, "{scenario}: {}{}", done.out, done.err);
        assert!(done.out.contains(words), "{scenario}: {words:?} is missing in\n{}", done.out);
        assert_eq!(done.err, "", "{scenario}");
    }
}

#[test]
fn what_is_told_of_a_rollback_is_in_order() {
    let done = simulate("slow-at-50", &["--output", "plain"]);
    let place = |words: &str| done.out.find(words).unwrap_or_else(|| panic!("{words:?} is missing in\n{}", done.out));
    let order = [
        "message: Release of moodify v1.2.3 to production begins",
        "the canary gets 10 % of the traffic",
        "rollout-bake-10 is done",
        "the canary gets 50 % of the traffic",
        "rollout-bake-50 failed",
        "going back to the old version",
        "the canary gets 0 % of the traffic",
        "rollout-deploy is taken back",
        "rolled back: the old version serves again",
    ];
    assert!(order.map(place).is_sorted(), "{}", done.out);
}

#[test]
fn json_is_one_event_a_line_without_gap_and_with_one_end() {
    for (scenario, outcome) in
        [("healthy", "completed"), ("errors-at-10", "rolled-back"), ("no-metrics", "needs-attention")]
    {
        let events = simulate(scenario, &["--output", "json"]).json_lines();
        let numbers: Vec<u64> = events.iter().map(|e| e["number"].as_u64().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{scenario}: {numbers:?}");
        let ends: Vec<&Value> = events.iter().filter(|e| e["event"] == "run-ended").collect();
        assert_eq!(ends.len(), 1, "{scenario}");
        assert_eq!(events.last().unwrap()["event"], "run-ended");
        assert_eq!(ends[0]["outcome"], outcome, "{scenario}");
        for event in &events {
            serde_json::from_value::<moodify_core::event::Event>(event.clone()).unwrap();
        }
    }
}

#[test]
fn json_with_progress_has_both() {
    let lines = simulate("healthy", &["--output", "json", "--progress"]).json_lines();
    assert!(lines.iter().any(|line| line["progress"] == "bake" && line["metrics"].is_array()));
    assert!(lines.iter().any(|line| line["event"] == "run-ended"));
}

#[test]
fn a_closed_window_refuses_and_changes_nothing() {
    let done = simulate("healthy", &["--at", "2026-11-28T15:30:00Z"]);
    assert_eq!(done.code, 3, "{}", done.out);
    assert!(done.out.contains("nothing was changed; frozen until the end of 2026-11-30"), "{}", done.out);
    assert!(done.out.contains("outside of the deployment window"), "{}", done.out);
    assert!(!done.out.contains("begins\n"), "{}", done.out);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let history = |seed| {
        let events = simulate("errors-at-50", &["--output", "json", "--seed", seed]).json_lines();
        let end = events.last().unwrap();
        (events.len(), end["summary"].clone(), end["time"].clone())
    };
    assert_eq!(history("7"), history("7"));
}

#[test]
fn a_scenario_is_read_from_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.yaml");
    std::fs::write(&file, "canary: [{service: frontend, error-rate: 50%, from-weight: 100}]").unwrap();
    let done = simulate(file.to_str().unwrap(), &[]);
    assert_eq!(done.code, 4, "{}{}", done.out, done.err);
    assert!(done.out.contains("at 100 % of the traffic"), "{}", done.out);

    std::fs::write(&file, "canary: [{error-rate: 500%}]").unwrap();
    let done = simulate(file.to_str().unwrap(), &[]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("mine.yaml") && done.err.contains("line 1, column"), "{}", done.err);

    let done = simulate("heelthy", &[]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("there are: healthy, errors-at-10"), "{}", done.err);
}

#[test]
fn a_simulated_run_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let plan = release();
    let args = ["run", plan.to_str().unwrap(), "--simulate"];
    let done: common::Done = common::moodify(&args).current_dir(dir.path()).output().unwrap().into();
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_closed_pipe_is_no_failure_of_the_run() {
    use std::io::Read;
    let plan = release();
    let mut command = common::moodify(&["run", plan.to_str().unwrap(), "--simulate"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_schema_is_json_and_knows_actions_and_backends() {
    let done = run(&["schema"]);
    assert_eq!(done.code, 0);
    let schema: Value = serde_json::from_str(&done.out).unwrap();
    assert!(schema["properties"]["phases"].is_object());
    let actions = &schema["$defs"]["Step"]["properties"]["action"]["enum"];
    assert!(actions.as_array().unwrap().contains(&"bake".into()), "{actions}");
    assert!(done.out.contains("request-timeout") && done.out.contains("status-page"), "{}", done.out);
}

#[test]
fn check_says_what_would_change_and_changes_nothing() {
    let plan = release();
    let done = run(&["check", plan.to_str().unwrap(), "--simulate"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("rollout-bake-10") && done.out.contains("nothing was changed"), "{}", done.out);

    let done = run(&["check", plan.to_str().unwrap(), "--offline"]);
    assert_eq!(done.code, 0, "{}", done.err);
}

#[test]
fn two_workloads_take_turns() {
    let plan = release().with_file_name("blue-green.yaml");
    let done = run(&["run", plan.to_str().unwrap(), "--simulate", "--output", "plain"]);
    assert_eq!(done.code, 0, "{}", done.err);
    for step in ["rollout-hand-over is done", "rollout-keep-old is done", "rollout-retire-old is done"] {
        assert!(done.out.contains(step), "{step}: {}", done.out);
    }
}

#[test]
fn a_workload_is_released_in_itself() {
    for (plan, says) in [
        ("rolling.yaml", "10 % becomes 1 of 5 instances"),
        ("recreate.yaml", "stopped, then starts with registry.example/moodify/scheduler:v1.2.3 and its 5 instances"),
    ] {
        let plan = release().with_file_name(plan);
        let done = run(&["check", plan.to_str().unwrap(), "--simulate"]);
        assert!(done.code == 0 && done.out.contains(says), "{}{}", done.out, done.err);
        let done = run(&["run", plan.to_str().unwrap(), "--simulate", "--output", "plain"]);
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    }
}

#[test]
fn a_migration_and_what_is_read_ship_with_a_release() {
    let plan = release().with_file_name("migration.yaml");
    let done = run(&["run", plan.to_str().unwrap(), "--simulate", "--output", "plain"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    for step in ["migrate is done", "rollout-promote is done", "schedules is done"] {
        assert!(done.out.contains(step), "{step}: {}", done.out);
    }
}

#[test]
fn a_database_goes_back_and_the_loss_is_told_in_minutes() {
    let plan = release().with_file_name("database-rollback.yaml");
    let done = run(&["check", plan.to_str().unwrap(), "--simulate"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let done = run(&["run", plan.to_str().unwrap(), "--simulate", "--output", "plain"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    for said in ["writes of the last 4", " minutes (since", "completed: production runs on moodify-production-restored"]
    {
        assert!(done.out.contains(said), "{said:?} is missing in\n{}", done.out);
    }
}

#[test]
fn check_tells_what_a_ratio_of_pods_makes_of_a_weight() {
    let plan = release().with_file_name("minimal.yaml");
    let done = run(&["check", plan.to_str().unwrap(), "--simulate"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("10 % becomes 17 %: 1 of 6 pods"), "{}", done.out);
    assert!(done.out.contains("50 % becomes 50 %: 3 of 6 pods"), "{}", done.out);
}

#[test]
fn without_a_cluster_nothing_begins() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let plan = release();
    for command in ["run", "check"] {
        let done = run(&[command, plan.to_str().unwrap(), "--journal", journal.to_str().unwrap()]);
        assert_eq!(done.code, 2, "{command}: {}{}", done.out, done.err);
        assert!(done.err.contains("/nowhere/kubeconfig"), "{command}: {}", done.err);
        assert!(!journal.exists());
    }
}
