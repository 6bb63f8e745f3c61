//! A release in trouble that is not its own: killed, told to stop, blind, edited by others, without an API server.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::{Duration, Instant};

use moodify_tests::rig::Rig;
use moodify_tests::scene::Scene;
use serde_json::json;
use tokio::time::sleep;

/// Kills the release as each of these steps begins, resumes it each time, and expects it to end as if nothing was.
async fn survives_kills(name: &str, tag: &str, steps: &[&str], outcome: &str, code: i32, serves: &str) {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace(name).await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", tag)], "http-route").await else { return };
    scene.canary()["bake"] = "4s".into();
    let mut running = scene.start_release();
    let run =
        running.until("the run's name", |e| e["event"] == "run-created").await["run"].as_str().unwrap().to_owned();
    for step in steps {
        running.until_step(step).await;
        running.kill().await;
        running = scene.start(&["resume", &run]);
    }
    let finished = running.finish().await;
    finished.ended(outcome);
    assert_eq!(finished.code, code, "{}", finished.stderr);
    scene.assert_serves(serves).await;
}

#[tokio::test]
async fn killed_on_the_way_out_it_still_gets_there() {
    let steps = ["rollout-deploy", "rollout-shift-10", "rollout-bake-10", "rollout-shift-50", "rollout-bake-100"];
    survives_kills("kill-out", "v2", &steps, "completed", 0, "v2").await;
}

#[tokio::test]
async fn killed_while_it_is_promoted_it_still_gets_there() {
    let steps = ["rollout-promote", "rollout-return-traffic", "rollout-retire-canary"];
    survives_kills("kill-promote", "v2", &steps, "completed", 0, "v2").await;
}

#[tokio::test]
async fn killed_on_the_way_back_it_still_gets_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("kill-back").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2-err12")], "http-route").await else { return };
    let mut running = scene.start_release();
    running.until("the way back", |e| e["event"] == "rollback-started").await;
    running.kill().await;
    let mut running = scene.start(&["resume"]);
    running.until("an undo", |e| e["event"] == "undo-finished").await;
    running.kill().await;
    let finished = scene.start(&["resume"]).finish().await;
    finished.ended("rolled-back");
    assert_eq!(finished.code, 4, "{}", finished.stderr);
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn an_abort_from_another_process_takes_it_back_at_once() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("abort").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["bake"] = "120s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let given = Instant::now();
    let output = scene.run(&["abort", "--reason", "the head of support asked for it"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    running.until("the way back", |e| e["event"] == "rollback-started").await;
    assert!(given.elapsed() < Duration::from_secs(30), "it did not wait for the end of the bake");
    let finished = running.finish().await;
    assert!(finished.ended("rolled-back").contains("the head of support asked for it"));
    assert_eq!(finished.code, 4);
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn paused_it_waits_and_continued_it_goes_on() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("pause").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["bake"] = "6s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    assert!(scene.run(&["pause", "--reason", "lunch"]).await.status.success());
    running.until("the pause", |e| e["event"] == "commanded" && e["command"] == "pause").await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 10, "longer than the bake, and still 10 %");
    let status = scene.run(&["status"]).await;
    assert!(String::from_utf8_lossy(&status.stdout).contains("lunch"));
    assert!(scene.run(&["continue"]).await.status.success());
    let finished = running.finish().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
}

#[tokio::test]
async fn without_metrics_it_waits_and_goes_on_when_they_are_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("blind").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["analysis"]["no-data"] = json!({"after": 3, "hold": "120s"});
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    scene.prometheus.stop();
    let held = running.until("that it waits", |e| e["event"] == "held" && e["step"] == "rollout-bake-50").await;
    // Whichever of the two was asked first.
    let reason = held["reason"].as_str().unwrap();
    assert!(["error-rate of backend", "latency-p95 of backend"].iter().any(|m| reason.contains(m)), "{held}");
    sleep(Duration::from_secs(15)).await;
    assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 50, "not promoted blindly");
    scene.prometheus.start().await;
    running.until("that it goes on", |e| e["event"] == "released").await;
    let finished = running.finish().await;
    finished.ended("completed");
    scene.assert_serves("v2").await;
}

/// Prometheus never comes back; the plan says what happens then.
async fn blind_for_ever(name: &str, then: &str, outcome: &str, code: i32, hang: bool) {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace(name).await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["analysis"]["no-data"] = json!({"after": 3, "hold": "4s", "then": then});
    scene.canary()["weights"] = json!([50, 100]);
    scene.canary()["bake"] = "25s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    sleep(Duration::from_secs(8)).await;
    if hang {
        scene.prometheus.hang();
    } else {
        scene.prometheus.stop();
    }
    let finished = running.finish().await;
    let summary = finished.ended(outcome);
    assert_eq!(finished.code, code, "{}", finished.stderr);
    assert!(summary.contains("no data is not health"), "{summary}");
    assert!(!finished.began("rollout-shift-100"), "never promoted");
    if outcome == "rolled-back" {
        scene.assert_serves("v1").await;
    } else {
        assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 50, "left as it is, for people");
    }
}

#[tokio::test]
async fn blind_for_ever_a_person_is_called() {
    blind_for_ever("blind-attention", "attention", "needs-attention", 5, false).await;
}

#[tokio::test]
async fn blind_for_ever_it_goes_back_if_the_plan_says_so() {
    blind_for_ever("blind-back", "rollback", "rolled-back", 4, false).await;
}

#[tokio::test]
async fn a_metric_source_that_hangs_is_no_health_either() {
    blind_for_ever("hanging", "rollback", "rolled-back", 4, true).await;
}

#[tokio::test]
async fn somebody_elses_edit_of_the_canary_stops_it_and_stays() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("edit").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["bake"] = "120s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    namespace.kubectl(&["set", "env", "deployment/backend-canary", "DEBUG=1"]).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(summary.contains("kubectl"), "it says whose edit it was: {summary}");
    let env = namespace.kubectl(&["get", "deployment", "backend-canary", "-o", "jsonpath={..env}"]).await;
    assert!(env.contains("DEBUG"), "the edit is still there: {env}");
}

#[tokio::test]
async fn somebody_elses_edit_of_the_route_stops_it_and_stays() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("edit-route").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.canary()["bake"] = "120s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let patch = r#"[{"op": "replace", "path": "/spec/rules/1/backendRefs/1/weight", "value": 90}]"#;
    namespace.kubectl(&["patch", "httproute", "backend", "--type=json", "-p", patch]).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(summary.contains("kubectl"), "it says whose edit it was: {summary}");
    assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 90, "the edit is still there");
}

#[tokio::test]
async fn somebody_elses_edit_of_the_canary_s_ingress_stops_it_and_stays() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("edit-ingress").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "ingress-nginx").await else { return };
    scene.canary()["bake"] = "120s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let weight = "nginx.ingress.kubernetes.io/canary-weight=90";
    namespace.kubectl(&["annotate", "--overwrite", "ingress", "backend-canary", weight]).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(summary.contains("kubectl"), "it says whose edit it was: {summary}");
    let (annotations, _) = scene.routing("ingress-nginx", "backend-canary").await;
    assert_eq!(annotations["nginx.ingress.kubernetes.io/canary-weight"], "90", "the edit is still there");
}

#[tokio::test]
async fn without_an_api_server_for_20_s_it_goes_on_afterwards() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.alone("api-server").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let paused = namespace.pause_api_server();
    sleep(Duration::from_secs(20)).await;
    paused.resume();
    let finished = running.finish().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
}
