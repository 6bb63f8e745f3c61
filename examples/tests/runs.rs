//! What is done with runs: answered, taken back, exported, removed.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Background, Done, moodify, release, run, wait_for};
use moodify_core::engine::EngineOptions;
use moodify_core::journal::FileJournal;
use moodify_core::model::RetryPolicy;
use moodify_core::testing::{Fault, Rule, Scenario, Simulator};
use moodify_core::{Engine, ErrorKind, planfile};
use serde_json::Value;

fn at(journal: &Path, args: &[&str]) -> Done {
    let mut all = args.to_vec();
    all.extend(["--journal", journal.to_str().unwrap()]);
    run(&all)
}

fn approved() -> PathBuf {
    release().with_file_name("approved-release.yaml")
}

/// A simulated run that waits for two people.
fn asking(journal: &Path) -> (Background, String) {
    let plan = approved();
    let args = ["run", plan.to_str().unwrap(), "--simulate", "--output", "plain", "--speed", "400", "--journal"];
    let child = Background::start(moodify(&args).arg(journal));
    let report = wait_for(journal, "asking", |report| report["state"] == "waiting");
    assert_eq!(report["at"], "sign-off");
    (child, report["run"].as_str().unwrap().to_owned())
}

#[test]
fn two_people_approve_and_nobody_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (release, id) = asking(dir.path());
    let done = at(dir.path(), &["approve", "--step", "sign-off", "--by", "ana", "--reason", "looks good"]);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert!(done.out.contains("approved"), "{}", done.out);
    let again = at(dir.path(), &["approve", &id, "--by", "ana"]);
    assert_eq!(again.code, 2, "{}", again.out);
    assert!(again.err.contains("ana has approved it already"), "{}", again.err);
    let wrong = at(dir.path(), &["approve", "--step", "look", "--by", "ben"]);
    assert_eq!(wrong.code, 2, "{}", wrong.out);
    assert!(wrong.err.contains("\"look\" is not a step that waits for approval"), "{}", wrong.err);
    assert_eq!(at(dir.path(), &["approve", "--by", "ben"]).code, 0);
    let end = release.end();
    assert_eq!(end.code, 0, "{}", end.err);
    let how = format!(
        "sign-off waits: Release moodify v1.2.3 to production? (moodify approve {id} --step sign-off --journal {}, or reject)",
        dir.path().display()
    );
    for words in [how.as_str(), "approve sign-off by ana: looks good", "approve by ben", "completed: v1.2.3"] {
        assert!(end.out.contains(words), "{words:?} is missing in\n{}", end.out);
    }
}

#[test]
fn one_no_refuses_and_nothing_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (release, _) = asking(dir.path());
    let done = at(dir.path(), &["reject", "--by", "ben", "--reason", "not on a Friday"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let end = release.end();
    assert_eq!(end.code, 3, "{}{}", end.out, end.err);
    assert!(end.out.contains("nothing was changed") && end.out.contains("ben: not on a Friday"), "{}", end.out);
}

#[test]
fn an_analysis_is_skipped_with_a_reason_only() {
    let dir = tempfile::tempdir().unwrap();
    let release = Background::slow(dir.path());
    wait_for(dir.path(), "baking", |r| r["at"].as_str().is_some_and(|at| at.starts_with("rollout-bake")));
    let done = at(dir.path(), &["skip"]);
    assert!(done.code == 2 && done.err.contains("--reason"), "{}", done.err);
    let done = at(dir.path(), &["skip", "--reason", " "]);
    assert!(done.code == 2 && done.err.contains("needs a reason"), "{}", done.err);
    let done = at(dir.path(), &["skip", "--reason", "metrics are known to be wrong", "--by", "ana"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("skips the analysis"), "{}", done.out);
    let skipped = |r: &Value| r["at"].as_str().is_some_and(|at| at.ends_with("-50"));
    wait_for(dir.path(), "past the first bake", skipped);
    release.kill();
}

#[test]
fn a_parallel_phase_is_shown_as_such() {
    let plan = approved();
    let done = run(&["check", plan.to_str().unwrap(), "--simulate"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("preparation (all at once)\n"), "{}", done.out);
    assert!(!done.out.contains("cannot be verified"), "simulated routers report: {}", done.out);
    let done = run(&["run", plan.to_str().unwrap(), "--simulate", "--output", "plain"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let place = |words: &str| done.out.find(words).unwrap_or_else(|| panic!("{words:?} is missing in\n{}", done.out));
    // All begin before the first has ended, and nothing follows before the last has.
    let begun = ["look (baseline) begins", "announce (notify) begins", "settle (wait) begins"].map(place);
    let done_at = ["look is done", "announce is done", "settle is done"].map(place);
    assert!(begun.iter().max() < done_at.iter().min(), "{}", done.out);
    assert!(done_at.iter().max() < Some(&place("sign-off (approval) begins")), "{}", done.out);
    assert!(done.out.contains("approve sign-off by simulated person 2"), "{}", done.out);

    let dir = tempfile::tempdir().unwrap();
    at(dir.path(), &["run", plan.with_file_name("minimal.yaml").to_str().unwrap(), "--simulate"]);
    let status = at(dir.path(), &["status", "--output", "json"]);
    let all: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(all[0]["phases"][0]["parallel"], false);
}

/// A completed simulated run, kept.
fn completed(journal: &Path) -> String {
    let plan = release();
    let args = ["run", plan.to_str().unwrap(), "--simulate", "--at", "2026-01-20T15:30:00Z", "--output", "json"];
    let done = at(journal, &args);
    assert_eq!(done.code, 0, "{}", done.err);
    done.json_lines()[0]["run"].as_str().unwrap().to_owned()
}

#[test]
fn a_completed_run_is_taken_back_by_a_run_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let id = completed(dir.path());
    let gone = at(dir.path(), &["undo", &id]);
    assert_eq!(gone.code, 2, "{}", gone.out);
    assert!(gone.err.contains("its world ended with its process") && gone.err.contains("--simulate"), "{}", gone.err);

    let args = ["undo", &id, "--simulate", "--reason", "too many tickets", "--by", "ben", "--output", "json"];
    let done = at(dir.path(), &args);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let events = done.json_lines();
    assert_eq!((&events[0]["event"], &events[0]["number"]), (&"run-created".into(), &1.into()));
    assert_eq!((&events[0]["undoes"], &events[0]["by"]), (&id.as_str().into(), &"ben".into()));
    assert_eq!(events.last().unwrap()["outcome"], "completed");
    let undo = events[0]["run"].as_str().unwrap();
    let status = at(dir.path(), &["status", undo]);
    assert!(status.out.contains(&format!("takes back {id}")), "{}", status.out);
    assert!(status.out.contains("undo of moodify-release: too many tickets"), "{}", status.out);

    let unknown = at(dir.path(), &["undo", "no-such-run", "--simulate"]);
    assert!(unknown.code == 2 && unknown.err.contains("there is no such run"), "{}", unknown.err);
}

#[test]
fn what_did_not_complete_is_not_undone() {
    let dir = tempfile::tempdir().unwrap();
    let plan = release();
    let done = at(dir.path(), &["run", plan.to_str().unwrap(), "--simulate", "--scenario", "errors-at-10"]);
    assert_eq!(done.code, 4);
    let id = done.out.split_whitespace().nth(1).unwrap();
    let undo = at(dir.path(), &["undo", id, "--simulate"]);
    assert_eq!(undo.code, 2, "{}", undo.out);
    assert!(undo.err.contains("it did not complete: rolled back"), "{}", undo.err);
}

#[test]
fn an_export_is_one_document_and_the_same_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let id = completed(dir.path());
    let done = at(dir.path(), &["export", &id]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(at(dir.path(), &["export", &id]).out, done.out);
    assert!(done.out.starts_with("{\n  \"format\": \"moodify-export 1.0\""), "{}", &done.out[..60]);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["entries", "format", "run", "state"]);
    assert_eq!((&document["run"], &document["state"]["outcome"]), (&id.as_str().into(), &"completed".into()));
    let entries = document["entries"].as_array().unwrap();
    assert!(entries.iter().map(|e| e["seq"].as_u64().unwrap()).eq(1..=entries.len() as u64));
    assert_eq!(entries.last().unwrap()["record"]["type"], "ended");
    // It is what the library reads.
    let read: Vec<moodify_core::journal::Entry> = serde_json::from_value(document["entries"].clone()).unwrap();
    assert!(moodify_core::journal::fold(&read).unwrap().ended.is_some());
    let unknown = at(dir.path(), &["export", "no-such-run"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (2, ""));
}

#[test]
fn only_runs_that_ended_long_ago_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, older) = (completed(dir.path()), completed(dir.path()));
    let (asking, id) = asking(dir.path());
    asking.kill();
    let runs = || {
        let all: Value = serde_json::from_str(&at(dir.path(), &["status", "--output", "json"]).out).unwrap();
        all.as_array().unwrap().len()
    };

    let dry = at(dir.path(), &["prune", "--older-than", "30d", "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    let mut told: Vec<&str> = dry.out.lines().collect();
    told.sort_unstable();
    let mut expected = [format!("{old} would be removed"), format!("{older} would be removed")];
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!(runs(), 3, "a dry run removes nothing");

    let young = at(dir.path(), &["prune", "--older-than", "36500d"]);
    assert!(young.code == 0 && young.out.contains("no run ended that long ago"), "{}", young.out);
    let done = at(dir.path(), &["prune", "--older-than", "30d", "--output", "json"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let document: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(document["removed"].as_array().unwrap().len(), 2);
    assert_eq!(runs(), 1, "the unfinished one stays, however old it is");
    let left = at(dir.path(), &["status", "--unfinished"]);
    assert!(left.out.contains(&id) && left.out.contains("interrupted"), "{}", left.out);

    let wrong = at(dir.path(), &["prune", "--older-than", "a month"]);
    assert!(wrong.code == 2 && wrong.err.contains("30d"), "{}", wrong.err);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_to_a_person_can_be_copied() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(release().with_file_name("minimal.yaml")).unwrap();
    let plan = planfile::read(&text, "minimal.yaml").unwrap().0.expand();
    let bad = Scenario::from_yaml("canary: [{error-rate: 50%, from-weight: 50}]").unwrap();
    let world = Simulator::for_plan(&plan, bad);
    world.faults().add(Rule::new(Fault::ErrorBefore(ErrorKind::Forbidden)).operation("remove"));
    let journal = Arc::new(FileJournal::open(dir.path()).unwrap());
    let mut options = EngineOptions::default();
    options.undo = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    let engine = Engine::new(journal, world.backends_for(&plan)).with_clock(world.clock()).with_options(options);
    let (id, _) = engine.run(&plan, "ana").await.unwrap();

    let done = at(dir.path(), &["status", id.as_str()]);
    let place = done.out.find("needs attention: the way back stopped at").unwrap_or_else(|| panic!("{}", done.out));
    let lines: Vec<&str> = done.out[place..].lines().skip(1).take(3).collect();
    let commands = ["simulate replicas moodify-staging/backend 5", "simulate remove-canary moodify-staging/backend"];
    assert_eq!(lines, [&format!("    {}", commands[0]), &format!("    {}", commands[1]), ""], "{}", done.out);
    let json = at(dir.path(), &["status", id.as_str(), "--output", "json"]);
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["by-hand"], serde_json::json!(commands));
}
