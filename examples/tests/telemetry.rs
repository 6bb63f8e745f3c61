//! Spans and metrics, as a collector and Prometheus get them.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};

/// The program, which `cargo test` of the whole package builds; of this file alone it does not.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let found = this.ancestors().map(|dir| dir.join("examples/telemetry")).find(|path| path.is_file());
    found.expect("it is built: cargo build -p moodify-examples --example telemetry")
}

fn telemetry(args: &[&str], endpoint: Option<&str>) -> String {
    let mut command = Command::new(program());
    command.args(args).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(name);
    }
    endpoint.map(|endpoint| command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The samples of an exposition: `name{labels}` and the value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let samples = text.lines().filter(|line| line.starts_with("moodify_"));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[test]
fn the_tree_has_runs_phases_steps_and_attempts() {
    let out = telemetry(&["errors-at-50"], None);
    let lines: Vec<&str> = out.lines().collect();
    let at = |start: &str| {
        lines
            .iter()
            .position(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start:?} is missing in\n{out}"))
    };
    let run = at("run run=");
    assert!(lines[run].contains("plan=minimal version=v1.2.3 outcome=rolled-back"), "{out}");
    let order = [
        run,
        at("  phase phase=rollout: prepare back=false outcome=finished"),
        at("    step step=rollout-deploy action=deploy-canary back=false outcome=finished"),
        at("  phase phase=rollout: 50 % back=false outcome=failed"),
        at("    step step=rollout-bake-50 action=bake back=false outcome=failed"),
        at("      attempt step=rollout-bake-50 attempt=1 outcome=failed"),
        at("    step step=rollout-shift-50 action=shift-traffic back=true outcome=finished"),
        at("      undo step=rollout-shift-50 attempt=1 outcome=finished"),
    ];
    assert!(order.is_sorted(), "{order:?}\n{out}");
}

#[test]
fn the_metrics_say_what_happened() {
    let out = telemetry(&["errors-at-50"], None);
    let samples = samples(&out);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("{name} is missing in\n{out}"));
    assert_eq!(value("moodify_runs_total{outcome=\"rolled-back\"}"), 1.0);
    assert_eq!(value("moodify_runs_active"), 0.0);
    assert_eq!(value("moodify_attempts_total{action=\"bake\",outcome=\"finished\"}"), 1.0);
    assert_eq!(value("moodify_attempts_total{action=\"bake\",outcome=\"failed\"}"), 1.0);
    assert_eq!(value("moodify_attempts_total{action=\"shift-traffic\",outcome=\"finished\"}"), 2.0);
    assert_eq!(value("moodify_undo_attempts_total{action=\"shift-traffic\",outcome=\"finished\"}"), 2.0);
    assert_eq!(value("moodify_undo_attempts_total{action=\"deploy-canary\",outcome=\"finished\"}"), 1.0);
    assert_eq!(value("moodify_attempt_seconds_count{action=\"bake\"}"), 2.0);
    // A bake of 15 minutes, on simulated time, and one that was cut short.
    let bakes = value("moodify_attempt_seconds_sum{action=\"bake\"}");
    assert!((900.0..1800.0).contains(&bakes), "{bakes}");
    assert!(value("moodify_journal_append_seconds_count") > 20.0);
    for (family, kind) in [
        ("moodify_runs_total", "counter"),
        ("moodify_runs_active", "gauge"),
        ("moodify_attempts_total", "counter"),
        ("moodify_attempt_seconds", "histogram"),
        ("moodify_undo_attempts_total", "counter"),
        ("moodify_journal_append_seconds", "histogram"),
    ] {
        assert!(out.contains(&format!("# TYPE {family} {kind}\n")), "{family}\n{out}");
        assert!(out.contains(&format!("# HELP {family} ")), "{family} is described\n{out}");
    }
}

#[test]
fn spans_are_sent_to_a_collector() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let take = move |uri: Uri, headers: HeaderMap, body: Bytes| {
                let sender = sender.clone();
                async move { sender.send((uri, headers, body)).unwrap() }
            };
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, axum::Router::new().fallback(take)).await.unwrap();
        });
    });
    let out = telemetry(&["healthy"], Some(&endpoint));
    assert!(!out.contains("run run="), "they went elsewhere\n{out}");
    let (uri, headers, body) = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(uri.path(), "/v1/traces");
    assert_eq!(headers["content-type"], "application/x-protobuf");
    for words in ["moodify", "attempt", "phase", "rollout-bake-50"] {
        assert!(body.windows(words.len()).any(|window| window == words.as_bytes()), "{words} is not among the spans");
    }
}
