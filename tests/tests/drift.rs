//! Somebody else's hands in a release: each ends as promised, within a bounded time.

use std::time::{Duration, Instant};

use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::{Finished, Running, Scene};
use serde_json::json;

/// Far less than what a step would wait for by itself.
const SOON: Duration = Duration::from_secs(60);

/// A release that has come to its first bake.
async fn baking<'a>(namespace: &'a Namespace, router: &str, bake: &str) -> Option<(Scene<'a>, Running)> {
    let mut scene = Scene::new(namespace, &[("backend", "v2")], router).await?;
    scene.canary()["weights"] = json!([50, 100]);
    scene.canary()["bake"] = bake.into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    Some((scene, running))
}

/// The same where two Deployments take turns.
async fn baking_in_turns(namespace: &Namespace) -> Option<(Scene<'_>, Running)> {
    let mut scene = Scene::new(namespace, &[("backend", "v2")], "http-route").await?;
    scene.canary()["weights"] = json!([50, 100]);
    scene.canary()["bake"] = "120s".into();
    scene.take_turns("600s").await;
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    Some((scene, running))
}

async fn soon(running: Running) -> Finished {
    let since = Instant::now();
    let finished = running.finish().await;
    assert!(since.elapsed() < SOON, "it took {:?}", since.elapsed());
    finished
}

/// An autoscaler that wants at least seven instances, and gets them without a metric.
async fn autoscaler_takes_over(namespace: &Namespace) {
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "backend"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"},
            "minReplicas": 7, "maxReplicas": 9,
        },
    });
    namespace.apply(&autoscaler.to_string()).await;
    type Deployment = k8s_openapi::api::apps::v1::Deployment;
    let seven = |d: &Deployment| d.spec.as_ref().is_some_and(|spec| spec.replicas == Some(7));
    namespace.wait_for::<Deployment>("backend", seven).await;
}

#[tokio::test]
async fn an_autoscaler_keeps_what_it_scales() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("autoscaled").await;
    let Some((scene, running)) = baking(&namespace, "http-route", "40s").await else { return };
    autoscaler_takes_over(&namespace).await;
    running.finish().await.ended("completed");
    let stable = scene.workload("backend").await;
    assert_eq!(
        stable,
        Some(("registry.test/backend:v2".to_owned(), 7)),
        "released, and as many as the autoscaler wants"
    );
    assert!(scene.workload("backend-canary").await.is_none());
}

#[tokio::test]
async fn an_autoscaler_of_what_ratios_divide_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("autoscaled-ratio").await;
    let Some((scene, running)) = baking(&namespace, "replica-ratio", "40s").await else { return };
    autoscaler_takes_over(&namespace).await;
    let summary = running.finish().await.ended("needs-attention");
    assert!(summary.contains("somebody else scaled it"), "{summary}");
    assert_eq!(scene.workload("backend").await, Some(("registry.test/backend:v1".to_owned(), 7)), "left to it");
}

#[tokio::test]
async fn what_somebody_else_sets_in_the_stable_workload_is_kept() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("stable-env").await;
    let Some((scene, running)) = baking(&namespace, "http-route", "15s").await else { return };
    namespace.kubectl(&["set", "env", "deployment/backend", "DEBUG=1"]).await;
    running.finish().await.ended("completed");
    scene.assert_serves("v2").await;
    let env = namespace.kubectl(&["get", "deployment", "backend", "-o", "jsonpath={..env}"]).await;
    assert!(env.contains("DEBUG"), "{env}");
}

#[tokio::test]
async fn a_canary_that_is_deleted_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("no-canary").await;
    let Some((scene, running)) = baking(&namespace, "http-route", "120s").await else { return };
    namespace.kubectl(&["delete", "deployment", "backend-canary", "--wait=false"]).await;
    let summary = soon(running).await.ended("needs-attention");
    assert!(summary.contains("somebody took the new version away"), "{summary}");
    assert!(scene.workload("backend-canary").await.is_none(), "it is not made again");
}

#[tokio::test]
async fn a_route_that_is_deleted_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("no-route").await;
    let Some((scene, running)) = baking(&namespace, "http-route", "120s").await else { return };
    namespace.kubectl(&["delete", "httproute", "backend"]).await;
    let summary = soon(running).await.ended("needs-attention");
    assert!(summary.contains("HTTPRoute backend"), "{summary}");
    assert_eq!(scene.workload("backend").await, Some(("registry.test/backend:v1".to_owned(), 5)));
}

#[tokio::test]
async fn a_namespace_that_is_deleted_ends_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("no-namespace").await;
    let Some((_scene, running)) = baking(&namespace, "http-route", "120s").await else { return };
    rig.kubectl(&["delete", "namespace", namespace.name(), "--wait=false"]).await;
    let finished = soon(running).await;
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("backend"), "{summary}");
}

/// Where two Deployments take turns, what somebody takes away of the new one, or of what leads to it, is left to them; what
/// served keeps all that it had.
#[tokio::test]
async fn what_is_taken_away_of_two_that_take_turns_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let run = async |what: &str, name: &str, said: &str| {
        let namespace = rig.namespace(&format!("turns-no-{what}")).await;
        let Some((scene, running)) = baking_in_turns(&namespace).await else { return };
        namespace.kubectl(&["delete", what, name, "--wait=false"]).await;
        let summary = soon(running).await.ended("needs-attention");
        assert!(summary.contains(said), "{what}: {summary}");
        assert_eq!(scene.workload("backend").await, Some(("registry.test/backend:v1".to_owned(), 5)), "{what}");
    };
    let all = [
        ("deployment", "backend-green", "somebody took the new version away"),
        ("httproute", "backend", "HTTPRoute backend"),
    ];
    let [deployment, route] = all.map(|(what, name, said)| run(what, name, said));
    tokio::join!(deployment, route);
}
