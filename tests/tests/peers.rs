//! What other rollout tools were seen to do wrong, on the rig. What needs no cluster for it is in
//! `moodify-core/tests/engine/peers.rs`, and an edit of the route in `trouble.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::{Finished, Scene};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A release that stands at 50 % for two minutes.
async fn at_half<'a>(namespace: &'a Namespace, tag: &str) -> Option<Scene<'a>> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], "http-route").await?;
    scene.canary()["weights"] = json!([50, 100]);
    scene.canary()["bake"] = json!(["120s", "2s"]);
    Some(scene)
}

async fn weight(scene: &Scene<'_>) -> Value {
    scene.route("backend").await[1]["backendRefs"][1]["weight"].clone()
}

/// Somebody does this by kubectl in the middle of a release; the release ends, and leaves what they did.
async fn stops_for(name: &str, edit: &[&str]) -> Option<()> {
    let rig = Rig::shared().await?;
    let namespace = rig.namespace(name).await;
    let scene = at_half(&namespace, "v2").await?;
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    namespace.kubectl(edit).await;
    let edited = scene.workload("backend-canary").await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("kubectl"), "it says whose edit it was: {summary}");
    assert_eq!(scene.workload("backend-canary").await, edited, "it stays as it was edited");
    assert_eq!(weight(&scene).await, 50, "no more traffic to what nobody knows");
    assert_eq!(scene.workload("backend").await.unwrap().0, "registry.test/backend:v1", "not promoted");
    Some(())
}

/// Flagger: the canary scaled to 1 of 10 by hand got 100 % of the traffic, and 1 replica was promoted.
#[tokio::test]
async fn a_canary_scaled_by_hand_stops_the_release() {
    stops_for("scaled", &["scale", "deployment", "backend-canary", "--replicas=1"]).await;
}

/// Flagger: the image set back to the stable one was not seen; a second canary began by itself.
#[tokio::test]
async fn the_image_of_the_canary_set_back_stops_the_release() {
    stops_for("image-back", &["set", "image", "deployment/backend-canary", "backend=registry.test/backend:v1"]).await;
}

#[tokio::test]
async fn a_stable_version_that_somebody_else_released_meanwhile_is_not_overwritten() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("stable-edit").await;
    let Some(mut scene) = at_half(&namespace, "v2").await else { return };
    scene.canary()["bake"] = json!(["8s", "2s"]);
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    namespace.kubectl(&["set", "image", "deployment/backend", "backend=registry.test/backend:v3"]).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("registry.test/backend:v3") && summary.contains("kubectl"), "{summary}");
    assert_eq!(scene.workload("backend").await.unwrap().0, "registry.test/backend:v3");
}

/// The repository's own scripts: `rollback.sh` switched to a colour with 0 ready pods and printed success.
#[tokio::test]
async fn a_way_back_to_pods_that_are_not_there_is_not_taken_and_not_called_a_success() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("no-way-back").await;
    let Some(scene) = at_half(&namespace, "v2").await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=0"]).await;
    namespace.wait_ready("backend").await;
    assert!(scene.run(&["abort", "--reason", "it is bad"]).await.status.success());
    let failed = running.until("that it says so", |e| e["event"] == "undo-failed").await;
    let why = failed["error"]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("no stable instance is available"), "{failed:#}");
    assert_eq!(weight(&scene).await, 50, "half of the traffic is better than none");
    assert!(scene.workload("backend-canary").await.is_some());
    // Once there is something to go back to, it goes.
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=5"]).await;
    running.finish().await.ended("rolled-back");
    scene.assert_serves("v1").await;
}

/// Flagger: all of the traffic on one pod. Here a quota that comes in the middle has room for 3 of the 5 that 100 % needs.
#[tokio::test]
async fn no_weight_above_what_the_pods_can_carry() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("quota").await;
    let Some(mut scene) = at_half(&namespace, "v2").await else { return };
    let proxy = namespace.fault_proxy().await;
    scene.plan["backends"]["kubernetes"]["kubeconfig"] = json!(proxy.kubeconfig(&namespace, "dave"));
    scene.canary()["bake"] = "4s".into();
    scene.canary()["ready-deadline"] = "10s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "8"}}});
    namespace.apply(&quota.to_string()).await;
    let finished = running.finish().await;
    let summary = finished.ended("rolled-back");
    assert!(summary.contains("exceeded quota: few"), "it says why: {summary}");
    let routes = proxy.ledger().into_iter().filter(|p| p.is_write() && p.path.contains("/httproutes/"));
    let weights: Vec<Value> = routes.map(|p| p.body[1]["value"][1]["weight"].clone()).collect();
    assert_eq!(weights, [json!(50), Value::Null], "50 %, and back");
    scene.assert_serves("v1").await;
}

/// A metric source that always answers this, or never.
async fn source(answer: Option<(StatusCode, Value)>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let say = move || {
        let answer = answer.clone();
        async move {
            let Some((code, body)) = answer else { return std::future::pending::<Response>().await };
            (code, body.to_string()).into_response()
        }
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(say)).await });
    url
}

/// Argo Rollouts: a metric source that answers 500, or nothing, or never, all through two short steps: promoted, healthy.
async fn is_never_promoted_by(name: &str, answer: Option<(StatusCode, Value)>) -> Option<Finished> {
    let rig = Rig::shared().await?;
    let namespace = rig.namespace(name).await;
    let mut scene = Scene::new(&namespace, &[("backend", "v2")], "http-route").await?;
    scene.plan["backends"]["prometheus"] = json!({"url": source(answer).await});
    scene.canary()["bake"] = "2s".into();
    // Only conditions of failure: what is not a number must not pass as not failed.
    scene.canary()["analysis"]["no-data"] = json!({"after": 3, "hold": "4s", "then": "attention"});
    let finished = scene.release().await;
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("no data is not health"), "{summary}");
    assert!(!finished.began("rollout-shift-50"), "no step further without a measurement");
    assert_eq!(weight(&scene).await, 10, "left as it is, for people");
    Some(finished)
}

fn vector(result: &Value) -> Value {
    json!({"status": "success", "data": {"resultType": "vector", "result": result}})
}

#[tokio::test]
async fn a_metric_source_that_answers_500_promotes_nothing() {
    is_never_promoted_by("source-500", Some((StatusCode::INTERNAL_SERVER_ERROR, json!("out of memory")))).await;
}

#[tokio::test]
async fn a_metric_source_without_data_promotes_nothing() {
    is_never_promoted_by("source-empty", Some((StatusCode::OK, vector(&json!([]))))).await;
}

#[tokio::test]
async fn a_metric_that_is_not_a_number_promotes_nothing() {
    let nan = vector(&json!([{"metric": {}, "value": [1_764_000_000, "NaN"]}]));
    is_never_promoted_by("source-nan", Some((StatusCode::OK, nan))).await;
}

#[tokio::test]
async fn a_metric_source_that_never_answers_promotes_nothing() {
    is_never_promoted_by("source-hangs", None).await;
}
