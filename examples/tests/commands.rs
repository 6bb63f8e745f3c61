//! Commands from another process, and interruptions.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::path::Path;

use common::{Background, Done, run, wait_for};
use serde_json::Value;

fn order(journal: &Path, args: &[&str]) -> Done {
    let mut all = args.to_vec();
    all.extend(["--journal", journal.to_str().unwrap()]);
    run(&all)
}

fn baking(report: &Value) -> bool {
    report["at"].as_str().is_some_and(|step| step.starts_with("rollout-bake"))
}

#[test]
fn pause_continue_and_abort_from_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path();
    let release = Background::slow(journal);
    let report = wait_for(journal, "baking", baking);
    assert_eq!(report["state"], "running");
    assert!(report["driven-by"].as_str().unwrap().contains(&release.id().to_string()), "{report}");

    let done = order(journal, &["pause", "--reason", "lunch"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert!(done.out.contains("paused; `moodify continue` lets it go on"), "{}", done.out);
    let report = wait_for(journal, "paused", |r| r["state"] == "paused");
    assert_eq!(report["paused"], "by ana: lunch");
    let twice = order(journal, &["pause"]);
    assert_eq!(twice.code, 2);
    assert!(twice.err.contains("paused already"), "{}", twice.err);

    let done = order(journal, &["continue", "--by", "ben"]);
    assert_eq!(done.code, 0, "{}", done.err);
    wait_for(journal, "running", |r| r["state"] == "running");

    let done = order(journal, &["abort", "--reason", "wrong version"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("goes back to the old version"), "{}", done.out);
    let end = release.end();
    assert_eq!(end.code, 4, "{}", end.err);
    let events = end.json_lines();
    assert_eq!(events.last().unwrap()["summary"], "the old version serves again; aborted by ana: wrong version");
    let by = |event: &&Value| event["event"] == "commanded" && event["by"] == "ben";
    assert_eq!(events.iter().filter(by).count(), 1);

    let late = order(journal, &["abort", events[0]["run"].as_str().unwrap()]);
    assert_eq!(late.code, 2);
    assert!(late.err.contains("the run is over: rolled back"), "{}", late.err);
    let nothing = order(journal, &["pause"]);
    assert!(nothing.code == 2 && nothing.err.contains("is unfinished"), "{}", nothing.err);
}

#[test]
fn an_interruption_stops_at_a_safe_point() {
    for signal in ["INT", "TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let release = Background::slow(dir.path());
        let run = wait_for(dir.path(), "baking", baking)["run"].as_str().unwrap().to_owned();
        release.signal(signal);
        let end = release.end();
        assert_eq!(end.code, 130, "{}", end.err);
        assert!(end.err.contains("interrupted"), "{}", end.err);
        let report = wait_for(dir.path(), "interrupted", |r| r["state"] == "interrupted");
        assert_eq!(report["driven-by"], Value::Null);
        // Its world is gone.
        let done = order(dir.path(), &["resume", &run]);
        assert_eq!(done.code, 2);
        assert!(done.err.contains("was simulated"), "{}", done.err);
    }
}

#[test]
fn what_nobody_drives_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let release = Background::slow(dir.path());
    wait_for(dir.path(), "baking", baking);
    release.kill();
    wait_for(dir.path(), "interrupted", |r| r["state"] == "interrupted");
    let done = order(dir.path(), &["pause"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("nobody will obey"), "{}", done.out);
}

#[test]
fn status_of_all_and_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let none = order(&journal, &["status"]);
    assert_eq!((none.code, none.out.trim()), (0, "no runs yet"));
    assert!(!journal.exists(), "looking makes nothing");

    let plan = common::release();
    for scenario in ["healthy", "slow-at-50"] {
        order(&journal, &["run", plan.to_str().unwrap(), "--simulate", "--scenario", scenario]);
    }
    let all = order(&journal, &["status"]);
    assert_eq!(all.code, 0);
    assert_eq!(all.out.lines().count(), 3, "{}", all.out);
    assert!(all.out.contains("completed (simulated)") && all.out.contains("rolled back (simulated)"), "{}", all.out);
    let back = all.out.lines().find(|line| line.contains("rolled back")).unwrap();
    let one = order(&journal, &["status", back.split_whitespace().next().unwrap()]);
    assert_eq!(one.code, 0);
    for words in ["going back because of rollout-bake-50", "latency-p95 of backend is 5.", "taken back", "to come"] {
        assert!(one.out.contains(words), "{words:?} is missing in\n{}", one.out);
    }
    let unknown = order(&journal, &["status", "no-such-run"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("there is no such run"), "{}", unknown.err);
}
