//! Releases in one workload, on a real API server with its real controllers, carried out by the real program under the
//! least Role: a `StatefulSet`, a `DaemonSet`, a Deployment, in batches or after a stop.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use moodify_core::model::Target;
use moodify_core::testing::conformance;
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::{Finished, Running, Scene};
use serde_json::{Value, json};
use tokio::time::timeout;

const DEPLOYMENT: &str = "deployment";
const STATEFUL_SET: &str = "stateful-set";
const DAEMON_SET: &str = "daemon-set";

/// The kind as kubectl takes it.
fn resource(kind: &str) -> String {
    kind.replace('-', "")
}

/// The workload as it is now.
async fn workload(namespace: &Namespace, kind: &str) -> Value {
    let text = namespace.kubectl(&["get", &resource(kind), "backend", "--output", "json"]).await;
    serde_json::from_str(&text).unwrap()
}

/// A scene whose service is one workload of this kind, and what its spec is before the release.
async fn scene<'a>(namespace: &'a Namespace, kind: &str, tag: &str, strategy: &str) -> Option<(Scene<'a>, Value)> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], "replica-ratio").await?;
    namespace.run_as(kind, "backend").await;
    let mut settings = scene.canary().take();
    settings["bake"] = "7s".into();
    let weights = settings.as_object_mut().unwrap().remove("weights");
    if strategy == "rolling" {
        settings["batches"] = weights.unwrap();
    }
    scene.plan["phases"][0]["strategy"] = json!({strategy: settings});
    scene.plan["release"]["services"][0]["kind"] = kind.into();
    scene.grant().await;
    let spec = workload(namespace, kind).await["spec"].take();
    Some((scene, spec))
}

#[tokio::test]
async fn the_deployer_keeps_the_contract_for_one_workload() {
    let Some(rig) = Rig::shared().await else { return };
    for kind in [DEPLOYMENT, STATEFUL_SET] {
        let namespace = rig.namespace(&format!("single-contract-{kind}")).await;
        namespace.deploy("backend", "registry.test/backend:v1", 5).await;
        namespace.wait_ready("backend").await;
        namespace.run_as(kind, "backend").await;
        let target: Target = serde_json::from_value(json!({
            "environment": "test", "namespace": namespace.name(), "layout": "single",
            "service": {"name": "backend", "workload": "backend", "kind": kind, "image": "registry.test/backend:v2",
                "traffic": {"router": "replica-ratio", "service": "backend"}},
        }))
        .unwrap();
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        conformance::single(kube.deployer(), &target, Duration::from_secs(60)).await;
    }
}

/// Everything runs this tag, and the workload is as it was but for that.
async fn assert_is(namespace: &Namespace, kind: &str, before: &Value, tag: &str) {
    let now = workload(namespace, kind).await;
    let mut wanted = before.clone();
    wanted["template"]["spec"]["containers"][0]["image"] = format!("registry.test/backend:{tag}").into();
    assert_eq!(now["spec"], wanted, "{kind}: given back as it was");
    assert!(now["metadata"]["annotations"].get("moodify.dev/held").is_none(), "{now}");
    namespace.kubectl(&["rollout", "status", &resource(kind), "backend", "--timeout=5s"]).await;
    for image in images(namespace, false).await {
        assert!(image.ends_with(&format!(":{tag}")), "{kind}: {image}");
    }
}

/// The images of the pods, with or without those that are ending.
async fn images(namespace: &Namespace, ending: bool) -> Vec<String> {
    let text = namespace.kubectl(&["get", "pods", "--output", "json"]).await;
    let pods: Value = serde_json::from_str(&text).unwrap();
    let there = |pod: &&Value| ending || pod["metadata"]["deletionTimestamp"].is_null();
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    pods["items"].as_array().unwrap().iter().filter(there).map(image).collect()
}

/// How many pods run this tag, also while they are ending.
async fn count(namespace: &Namespace, tag: &str) -> usize {
    images(namespace, true).await.iter().filter(|image| image.ends_with(&format!(":{tag}"))).count()
}

async fn until(mut running: Running, step: &str) -> Running {
    running.until_step(step).await;
    running
}

async fn release(namespace: &Namespace, kind: &str, tag: &str, strategy: &str) -> Option<(Finished, Value)> {
    let (scene, before) = scene(namespace, kind, tag, strategy).await?;
    Some((scene.release().await, before))
}

#[tokio::test]
async fn a_stateful_set_gets_the_new_version_by_its_partition() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-set").await;
    let Some((scene, before)) = scene(&namespace, STATEFUL_SET, "v2", "rolling").await else { return };
    let running = until(scene.start_release(), "rollout-bake-10").await;
    let held = workload(&namespace, STATEFUL_SET).await;
    assert_eq!(held["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 4);
    assert_eq!((count(&namespace, "v2").await, count(&namespace, "v1").await), (1, 4));
    let running = until(running, "rollout-bake-50").await;
    assert_eq!((count(&namespace, "v2").await, count(&namespace, "v1").await), (3, 2));
    let finished = running.finish().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_is(&namespace, STATEFUL_SET, &before, "v2").await;
    if let Some(all) = scene.writes() {
        assert_eq!(all.len(), 4, "three batches and the end: {all:#?}");
    }

    let run = finished.events[0]["run"].as_str().unwrap().to_owned();
    scene.start(&["undo", &run, "--reason", "customers complain"]).finish().await.ended("completed");
    assert_is(&namespace, STATEFUL_SET, &before, "v1").await;
}

#[tokio::test]
async fn a_bad_stateful_set_goes_back_from_half() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-set-bad").await;
    let Some((finished, before)) = release(&namespace, STATEFUL_SET, "v2-err30-when3", "rolling").await else { return };
    let summary = finished.ended("rolled-back");
    assert!(summary.contains("error-rate of backend"), "{summary}");
    assert_is(&namespace, STATEFUL_SET, &before, "v1").await;
}

/// The controller waits for a broken pod before it replaces any, also for one that nobody wants any more.
#[tokio::test]
async fn a_stateful_set_is_not_stuck_in_a_pod_that_never_gets_ready() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-set-stuck").await;
    let Some((mut scene, before)) = scene(&namespace, STATEFUL_SET, "v2-neverready", "rolling").await else { return };
    scene.plan["phases"][0]["strategy"]["rolling"]["ready-deadline"] = "10s".into();
    scene.release().await.ended("rolled-back");
    assert_is(&namespace, STATEFUL_SET, &before, "v1").await;
}

#[tokio::test]
async fn a_partition_that_somebody_else_sets_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-set-edited").await;
    let Some((scene, _)) = scene(&namespace, STATEFUL_SET, "v2", "rolling").await else { return };
    let running = until(scene.start_release(), "rollout-bake-10").await;
    let patch = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}"#;
    namespace.kubectl(&["patch", "statefulset", "backend", "--patch", patch]).await;
    let finished = timeout(Duration::from_secs(60), running.finish()).await.expect("it is noticed");
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("partition is 2"), "{summary}");
    let left = workload(&namespace, STATEFUL_SET).await;
    assert_eq!(left["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 2, "left to them");
}

#[tokio::test]
async fn a_deployment_is_paused_between_its_batches() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-deployment").await;
    let Some((scene, before)) = scene(&namespace, DEPLOYMENT, "v2", "rolling").await else { return };
    let running = until(scene.start_release(), "rollout-bake-10").await;
    assert_eq!(workload(&namespace, DEPLOYMENT).await["spec"]["paused"], true);
    assert!(count(&namespace, "v1").await >= 3, "it was held");
    let finished = running.finish().await;
    finished.ended("completed");
    assert_is(&namespace, DEPLOYMENT, &before, "v2").await;
}

#[tokio::test]
async fn a_deployment_that_somebody_else_resumes_stops_the_release() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-deployment-edited").await;
    let Some((scene, _)) = scene(&namespace, DEPLOYMENT, "v2", "rolling").await else { return };
    let running = until(scene.start_release(), "rollout-bake-10").await;
    namespace.kubectl(&["rollout", "resume", "deployment", "backend"]).await;
    let finished = timeout(Duration::from_secs(60), running.finish()).await.expect("it is noticed");
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("spec/paused is null"), "{summary}");
}

#[tokio::test]
async fn a_bad_deployment_is_resumed_with_the_old_version() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("single-deployment-bad").await;
    let Some((finished, before)) = release(&namespace, DEPLOYMENT, "v2-err30", "rolling").await else { return };
    finished.ended("rolled-back");
    assert_is(&namespace, DEPLOYMENT, &before, "v1").await;
}

#[tokio::test]
async fn what_cannot_run_twice_is_stopped_first_and_comes_back() {
    let Some(rig) = Rig::shared().await else { return };
    for (kind, tag, outcome, left) in
        [(STATEFUL_SET, "v2", "completed", "v2"), (DEPLOYMENT, "v2-err30", "rolled-back", "v1")]
    {
        let namespace = rig.namespace(&format!("recreate-{left}")).await;
        let Some((scene, before)) = scene(&namespace, kind, tag, "recreate").await else { return };
        let running = until(scene.start_release(), "rollout-start").await;
        assert_eq!(count(&namespace, "v1").await, 0, "{kind}: nothing of the old version runs when the new one starts");
        running.finish().await.ended(outcome);
        assert_is(&namespace, kind, &before, left).await;
    }
}

/// Three nodes: the rig's own, and two more.
#[tokio::test]
async fn a_daemon_set_gets_the_new_version_node_by_node() {
    let Some(rig) = Rig::own().await else { return };
    let nodes = rig.two_more_nodes().await;
    for (tag, outcome, left) in [("v2", "completed", "v2"), ("v2-crash1s", "rolled-back", "v1")] {
        let namespace = rig.namespace(&format!("single-daemon-{left}")).await;
        let Some((mut scene, before)) = scene(&namespace, DAEMON_SET, tag, "rolling").await else { return };
        // Prometheus knows the pods of the rig's own node only.
        let analysis = &mut scene.plan["phases"][0]["strategy"]["rolling"]["analysis"];
        analysis["metrics"].as_array_mut().unwrap().retain(|metric| metric["source"] == "pods");
        let running = until(scene.start_release(), "rollout-bake-10").await;
        assert_eq!((count(&namespace, tag).await, count(&namespace, "v1").await), (1, 2), "one of three nodes");
        running.finish().await.ended(outcome);
        assert_is(&namespace, DAEMON_SET, &before, left).await;
        namespace.kubectl(&["delete", "daemonset", "backend", "--cascade=foreground", "--timeout=60s"]).await;
    }
    nodes.delete().await;
}
