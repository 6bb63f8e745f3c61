//! Plans with mistakes: each is refused before anything, with its place.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use common::{release, run};

/// The release with one text replaced; what is said about it.
fn refused(from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(release()).unwrap();
    assert!(text.contains(from), "{from:?} is not in the plan");
    refused_text(&text.replacen(from, to, 1))
}

fn refused_text(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (plan, journal) = (dir.path().join("bad.yaml"), dir.path().join("journal"));
    std::fs::write(&plan, text).unwrap();
    let (plan, journal) = (plan.to_str().unwrap(), journal.to_str().unwrap());
    let done = run(&["run", plan, "--simulate", "--journal", journal]);
    assert_eq!(done.code, 2, "{}{}", done.out, done.err);
    assert_eq!(done.out, "");
    assert!(!std::path::Path::new(journal).exists(), "something was written");
    let check = run(&["check", plan, "--simulate"]);
    assert_eq!((check.code, &check.err), (2, &done.err), "check says the same");
    done.err.replace(plan, "bad.yaml")
}

/// The line of the release's plan that holds `text`: comments may come and go.
fn line(text: &str) -> usize {
    let plan = std::fs::read_to_string(release()).unwrap();
    plan.lines().position(|line| line.contains(text)).unwrap() + 1
}

fn assert_starts(err: &str, start: &str) {
    assert!(err.starts_with(start), "expected {start:?}, got:\n{err}");
}

#[test]
fn an_unknown_key() {
    let err = refused("        weights: [10", "        wieghts: [10");
    assert_starts(
        &err,
        &format!("bad.yaml:{}:9: unknown key \"wieghts\"; did you mean \"weights\"?", line("weights: [10")),
    );
}

#[test]
fn a_weight_of_110() {
    let err = refused("[10, 50, 100]", "[10, 110, 100]");
    assert_starts(&err, &format!("bad.yaml:{}:23: a weight is 0 to 100 %, not 110", line("weights: [10")));
}

#[test]
fn weights_going_down() {
    let err = refused("[10, 50, 100]", "[50, 10, 100]");
    assert_starts(&err, &format!("bad.yaml:{}:23: weights must rise: 10 % comes after 50 %", line("weights: [10")));
}

#[test]
fn an_unknown_service() {
    let step = "      - {name: go-back, action: return-traffic, with: {services: [bakcend]}}\n";
    let err = refused("      - name: report\n", &format!("{step}      - name: report\n"));
    assert!(
        err.contains("unknown service \"bakcend\"") && err.contains("services of the release: backend, frontend"),
        "{err}"
    );
}

#[test]
fn a_bake_that_is_no_time() {
    let err = refused("bake: 15m", "bake: 15 minuts");
    assert_starts(
        &err,
        &format!("bad.yaml:{}:15: \"15 minuts\" is not a length of time; write it like 15m", line("bake: 15m")),
    );
}

#[test]
fn a_step_name_twice() {
    let err = refused("- name: report", "- name: announce");
    assert!(err.contains("step \"announce\" is there already") && err.contains("first at bad.yaml:"), "{err}");
}

#[test]
fn yaml_that_is_not() {
    let err = refused_text("name: [release\nenvironment: {name: production\n");
    assert_starts(&err, "bad.yaml:");
    let err = refused("services:\n", "services:\n  - - : ]\n");
    assert_starts(&err, "bad.yaml:");
}

#[test]
fn an_unknown_action() {
    let err = refused("action: notify", "action: notifiy");
    assert!(err.contains("unknown action \"notifiy\"; did you mean \"notify\"?"), "{err}");
    assert!(err.contains("known here: admit-testers, approval, archive, backup, backup-configuration, bake"), "{err}");
}

#[test]
fn parameters_that_an_action_does_not_have() {
    let err = refused("          title: Release", "          titel: Release");
    assert_starts(&err, "bad.yaml:");
    assert!(err.contains("unknown key \"titel\"; did you mean \"title\"?"), "{err}");
}

#[test]
fn a_backend_that_nobody_knows() {
    let err = refused("  prometheus:\n    url", "  promethius:\n    url");
    assert!(err.contains("unknown key \"promethius\"; did you mean \"prometheus\"?"), "{err}");
    // The mark of simulated runs is none that a plan could set.
    let err = refused("  prometheus:\n    url", "  simulated:\n    url");
    assert!(err.contains("unknown key \"simulated\""), "{err}");
}

#[test]
fn a_metric_source_that_is_not_set_up() {
    let dir = tempfile::tempdir().unwrap();
    let plan = dir.path().join("bad.yaml");
    let text = std::fs::read_to_string(release()).unwrap();
    std::fs::write(&plan, text.replace("name: error-rate, source: prometheus", "name: error-rate, source: prometeus"))
        .unwrap();
    let done = run(&["check", plan.to_str().unwrap(), "--offline"]);
    assert_eq!(done.code, 2, "{}{}", done.out, done.err);
    assert!(done.err.contains("unknown metric source \"prometeus\"; did you mean \"prometheus\"?"), "{}", done.err);
    assert!(done.err.contains(&format!("bad.yaml:{}:", line("name: error-rate,"))), "{}", done.err);
}

#[test]
fn a_metric_source_of_any_strategy_and_of_none() {
    let text = std::fs::read_to_string(format!("{}/plans/minimal.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (text, routed) = (text.as_str(), text.replace("router: replica-ratio", "router: http-route, route: web"));
    let (without, _) = text.split_once("phases:").unwrap();
    let (routed, _) = routed.split_once("phases:").unwrap();
    let strategy = |name: &str, of: &str| format!("{of}phases:\n  - name: rollout\n    strategy: {{{name}: {{}}}}\n");
    for text in [
        strategy("canary", without),
        strategy("blue-green", routed),
        strategy("rolling", without),
        strategy("recreate", without),
        without.to_owned(),
        routed.to_owned(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("plan.yaml");
        std::fs::write(&plan, &text).unwrap();
        let done = run(&["check", "--offline", plan.to_str().unwrap()]);
        assert_eq!(done.code, 2, "{text}\n{done:?}");
        assert!(
            done.err.contains("plan.yaml:") && done.err.contains("unknown metric source \"prometheus\""),
            "{done:?}"
        );
        let simulated = run(&["check", "--simulate", plan.to_str().unwrap()]);
        assert_eq!((simulated.code, simulated.err.as_str()), (0, ""), "{text}\n{}", simulated.out);
    }
}

#[test]
fn arguments_that_are_wrong() {
    for args in [
        &["run"][..],
        &["fly"],
        &["run", "p.yaml", "--scenario", "healthy"],
        &["run", "p.yaml", "--simulate", "--speed", "fast"],
    ] {
        assert_eq!(run(args).code, 2, "{args:?}");
    }
    let done = run(&["run", "/nowhere/plan.yaml", "--simulate"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("/nowhere/plan.yaml"), "{}", done.err);
}
