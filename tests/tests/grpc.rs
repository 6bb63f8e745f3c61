//! Releases under constant load by gRPC, through a real gateway that is told by a `GRPCRoute`: no call fails, and no version
//! ever gets more of them than the journal allows.

use std::time::Duration;

use moodify_tests::load::{Aim, Load, Protocol, Report};
use moodify_tests::rig::{Namespace, PROMPT, Rig, Traefik};
use moodify_tests::routes::others;
use moodify_tests::scene::{Finished, Scene};
use moodify_tests::shares::{Division, LATE, check_shares, ended};
use serde_json::json;

const ROUTER: &str = "grpc-route";
const HOST: &str = "grpc.test";
/// Calls a second of each test.
const RATE: u32 = 250;

/// A service behind a gateway, and the calls of it.
struct Stage<'a> {
    namespace: &'a Namespace,
    scene: Scene<'a>,
    load: Load,
    _traefik: Traefik,
}

impl<'a> Stage<'a> {
    /// With version `before` of a service, and a plan that releases `after`.
    async fn new(namespace: &'a Namespace, throttle: Duration, before: &str, after: &str) -> Option<Self> {
        let traefik = namespace.traefik(throttle).await?;
        others(namespace).await;
        let mut scene = Scene::over(namespace, before, &[("backend", after)], ROUTER).await?;
        // Pods that answer slowly are bad, and yet no call fails.
        scene.canary()["analysis"]["metrics"][1]["fail"] = "> 200ms".into();
        scene.canary()["ready-deadline"] = "4m".into();
        traefik.serves_calls(HOST).await;
        let aim = Aim::through(traefik.address(), HOST, Protocol::Grpc, RATE);
        Some(Self { namespace, scene, load: Load::start(&aim), _traefik: traefik })
    }

    /// Carries the release out.
    async fn release(self, outcome: &str, serves: &str) -> (Finished, Report) {
        let finished = self.scene.release().await;
        finished.ended(outcome);
        self.scene.assert_serves(serves).await;
        let report = ended(self.namespace, self.load, &finished.events).await;
        (finished, report)
    }
}

async fn promotes(name: &str, throttle: Duration, before: &str, after: &str) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await.quiet();
    let Some(stage) = Stage::new(&namespace, throttle, before, after).await else { return };
    let (finished, report) = stage.release("completed", after).await;
    report.assert_none_failed();
    check_shares(&finished.events, &report, Division::Weights);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_loses_no_call() {
    promotes("grpc-promote", PROMPT, "v1", "v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_of_pods_that_stop_at_once_behind_a_late_gateway_loses_no_call() {
    promotes("grpc-late", LATE, "v1-undrained", "v2-undrained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_loses_no_call() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("grpc-back").await.quiet();
    let slow = "v2-slow300after15s-when3-undrained";
    let Some(mut stage) = Stage::new(&namespace, LATE, "v1-undrained", slow).await else { return };
    // The bad weight has to stand until it is seen to be bad.
    stage.scene.canary()["bake"] = json!(["10s", "60s", "60s"]);
    let (finished, report) = stage.release("rolled-back", "v1-undrained").await;
    assert!(finished.began("rollout-bake-50"), "it came as far as a half");
    assert!(!finished.began("rollout-promote"), "and no further");
    report.assert_none_failed();
    check_shares(&finished.events, &report, Division::Weights);
}

/// What is wrong with a call is in its trailers: to the gateway it is an answer as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_whose_calls_fail_is_taken_back_and_no_other_call_fails() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("grpc-errors").await.quiet();
    let Some(mut stage) = Stage::new(&namespace, PROMPT, "v1", "v2-err50").await else { return };
    stage.scene.canary()["bake"] = "60s".into();
    let (finished, report) = stage.release("rolled-back", "v1").await;
    assert!(finished.began("rollout-bake-10") && !finished.began("rollout-shift-50"), "it stopped at the first weight");
    let (failed, all) = (report.failures.len(), report.requests());
    // Half of what it got, which was at most a tenth.
    assert!(failed > 0 && failed * 20 <= all, "{failed} of {all}");
    for failure in &report.failures {
        assert_eq!(failure.reason, "200 OK, grpc-status 13 as the image says", "{failure}");
    }
    let end = report.failures.iter().map(|failure| failure.done).max();
    let stopped = report.last("v1").expect("v1 answers");
    assert!(end < Some(stopped), "calls went on after the last failure");
}
