//! Releases under constant load, through real data planes: no request fails, and no version ever gets more of them than
//! the journal allows.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moodify_tests::load::{Aim, Load, Report};
use moodify_tests::rig::{Namespace, PROMPT, Rig, Traefik};
use moodify_tests::scene::{Finished, Scene};
use serde_json::{Value, json};

/// Requests a second of each test; they share the machine.
const RATE: u32 = 400;
/// Below and above what the journal allows, as a fraction of one.
const TOLERANCE: f64 = 0.01;
/// A data plane that takes over what it is told late.
const LATE: Duration = Duration::from_secs(2);

/// A service behind a gateway that serves, and the requests to it.
struct Stage<'a> {
    namespace: &'a Namespace,
    scene: Scene<'a>,
    traefik: Traefik,
    load: Load,
}

impl<'a> Stage<'a> {
    /// With version `before` of a service behind Traefik, and a plan that releases `after`.
    async fn new(namespace: &'a Namespace, throttle: Duration, before: &str, after: &str) -> Option<Self> {
        let traefik = namespace.traefik(throttle, None).await?;
        // The other rule of the route leads there.
        let admin = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "admin"},
            "spec": {"selector": {"app": "admin"}, "ports": [{"port": 80}]},
        });
        namespace.apply(&admin.to_string()).await;
        let mut scene = Scene::over(namespace, before, &[("backend", after)], "http-route").await?;
        // Pods that answer slowly are bad and yet no request fails.
        scene.canary()["analysis"]["metrics"][1]["fail"] = "> 200ms".into();
        traefik.serves("backend.test").await;
        let aim = Aim { address: traefik.address(), host: "backend.test".into(), rate: RATE, kept: 24, fresh: 8 };
        Some(Self { namespace, scene, load: Load::start(&aim), traefik })
    }

    /// Carries the release out, goes on with the load a while, and checks what the requests met.
    async fn release(self, outcome: &str, serves: &str) -> Finished {
        let finished = self.scene.release().await;
        self.end(finished, outcome, serves).await
    }

    async fn end(self, finished: Finished, outcome: &str, serves: &str) -> Finished {
        finished.ended(outcome);
        self.scene.assert_serves(serves).await;
        tokio::time::sleep(LATE + Duration::from_secs(1)).await;
        let report = self.load.stop().await;
        println!("{} {outcome}: {report}", self.traefik.address());
        explain(self.namespace, &finished.events, &report);
        report.assert_none_failed();
        check_shares(&finished.events, &report);
        finished
    }
}

/// Prints what happened around the first failure, if there is one: who did what, and in which order.
fn explain(namespace: &Namespace, events: &[Value], report: &Report) {
    let Some(failed) = report.failures.iter().map(|failure| failure.sent).min() else { return };
    let near = |at: Timestamp| at.duration_since(failed).abs() < SignedDuration::from_secs(3);
    let mut lines: Vec<(Timestamp, String)> = vec![(failed, "the first request fails".to_owned())];
    for event in events {
        lines.push((time(event), format!("{} {}", event["event"], event["step"])));
    }
    for entry in namespace.rig().audit().into_iter().filter(|entry| entry.namespace == namespace.name()) {
        if entry.is_write() && entry.resource != "events" {
            let what = [entry.verb, entry.resource, entry.subresource, entry.name].join(" ");
            lines.push((entry.at, format!("{}: {what} {}", entry.user, entry.code)));
        }
    }
    lines.retain(|(at, _)| near(*at));
    lines.sort();
    for (at, line) in lines {
        println!("{at} {line}");
    }
}

/// From when on what weight is the most that the journal allows the new version.
fn allowed(events: &[Value]) -> Vec<(Timestamp, f64)> {
    let mut allowed = vec![(time(&events[0]), 0.0)];
    for event in events {
        let weight = match event["event"].as_str() {
            Some("checkpoint") => event["data"]["weight"].as_f64(),
            Some("undo-finished") if event["step"] == "rollout-shift-10" => Some(0.0),
            _ => None,
        };
        allowed.extend(weight.map(|weight| (time(event), weight)));
    }
    allowed
}

fn time(event: &Value) -> Timestamp {
    let time = event["time"].as_str().and_then(|time| time.parse().ok());
    time.unwrap_or_else(|| panic!("an event without a time: {event}"))
}

/// The new version gets what each weight says while it stands, and never more than the journal allows.
fn check_shares(events: &[Value], report: &Report) {
    let mut allowed = allowed(events);
    allowed.push((time(&events[events.len() - 1]) + SignedDuration::from_secs(1), 0.0));
    for period in allowed.windows(2) {
        let [(from, weight), (to, _)] = [period[0], period[1]];
        // In slices, too: an excess must not hide in what is missing before or after.
        let mut slices = vec![(from, to)];
        let mut begin = from;
        while begin < to {
            let end = (begin + SignedDuration::from_secs(1)).min(to);
            slices.push((begin, end));
            begin = end;
        }
        for (from, to) in slices {
            let share = report.share("v2", from, to);
            // A slice cuts a round of the gateway's round robin at either end.
            let most = (weight / 100.0 + TOLERANCE) * share.all as f64 + 2.0;
            assert!(share.of as f64 <= most, "{share:?} from {from} to {to}, where {weight} % was allowed");
        }
    }
    let mut stood = 0;
    for (place, event) in events.iter().enumerate() {
        let Some(weight) = event["step"].as_str().and_then(|step| step.strip_prefix("rollout-bake-")) else { continue };
        if event["event"] != "step-started" {
            continue;
        }
        let weight: f64 = weight.parse().expect("the name of a step ends with its weight");
        let ends = |e: &&Value| {
            matches!(e["event"].as_str(), Some("step-finished" | "step-failed" | "rollback-started" | "commanded"))
        };
        let Some(end) = events[place..].iter().find(ends).map(time) else { continue };
        // What the gateway reports as programmed is in force a little later, on a busy machine.
        let share = report.share("v2", time(event) + end.duration_since(time(event)) / 2, end);
        println!("at {weight} %: {:.2} % of {} requests", share.fraction() * 100.0, share.all);
        if share.all >= 500 {
            stood += 1;
            let off = (share.fraction() - weight / 100.0).abs();
            assert!(off <= TOLERANCE, "{share:?} at {weight} %");
        }
    }
    assert!(stood > 0, "no weight stood long enough to be measured");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("promote").await.quiet();
    let Some(stage) = Stage::new(&namespace, PROMPT, "v1", "v2").await else { return };
    stage.release("completed", "v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_loses_no_request_of_pods_that_stop_at_once_behind_a_late_gateway() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("promote-late").await.quiet();
    let Some(stage) = Stage::new(&namespace, LATE, "v1-undrained", "v2-undrained").await else { return };
    stage.release("completed", "v2-undrained").await;
}

/// Releases what becomes slow at a weight, and expects it back without a failed request.
async fn comes_back(name: &str, throttle: Duration, before: &str, after: &str, last_step: &str) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await.quiet();
    let Some(mut stage) = Stage::new(&namespace, throttle, before, after).await else { return };
    stage.scene.canary()["bake"] = "30s".into();
    let finished = stage.release("rolled-back", before).await;
    assert!(finished.began(last_step), "it came as far as {last_step}");
    assert!(!finished.began("rollout-promote"), "and no further");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_10_loses_no_request() {
    comes_back("back-10", PROMPT, "v1", "v2-slow300after15s", "rollout-bake-10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_50_loses_no_request() {
    comes_back("back-50", PROMPT, "v1", "v2-slow300after15s-when3", "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_100_loses_no_request() {
    comes_back("back-100", PROMPT, "v1", "v2-slow300after15s-when5", "rollout-bake-100").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_of_pods_that_stop_at_once_behind_a_late_gateway_loses_no_request() {
    comes_back("back-late", LATE, "v1-undrained", "v2-slow300after15s-when3-undrained", "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("abort").await.quiet();
    let Some(stage) = Stage::new(&namespace, PROMPT, "v1-undrained", "v2-undrained").await else { return };
    let mut running = stage.scene.start_release();
    running.until_step("rollout-bake-50").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let output = stage.scene.run(&["abort", "--reason", "the head of support asked for it"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let finished = running.finish().await;
    stage.end(finished, "rolled-back", "v1-undrained").await;
}
