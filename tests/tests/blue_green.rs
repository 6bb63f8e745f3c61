//! Two Deployments that take turns, on a real API server, carried out by the real program under the least Role.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::json;

/// A scene whose strategy is blue-green; what served stays for so many seconds.
async fn scene<'a>(namespace: &'a Namespace, tag: &str, keep: u32) -> Option<Scene<'a>> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], "http-route").await?;
    scene.canary()["bake"] = "4s".into();
    scene.take_turns(&format!("{keep}s")).await;
    Some(scene)
}

async fn selector(namespace: &Namespace) -> String {
    let services: Api<Service> = namespace.api().await;
    let selector = services.get("backend").await.unwrap().spec.unwrap().selector.unwrap();
    selector["app"].clone()
}

/// Image and replicas.
async fn is(scene: &Scene<'_>, workload: &str, tag: &str, replicas: i32) {
    let wanted = Some((format!("registry.test/backend:{tag}"), replicas));
    assert_eq!(scene.workload(workload).await, wanted, "{workload}");
}

/// An autoscaler of what the plan names, which finds no figures and so leaves the count as it is.
async fn autoscale(namespace: &Namespace) {
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "backend"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"},
            "minReplicas": 5, "maxReplicas": 9,
            "metrics": [{"type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]},
    });
    namespace.apply(&scaler.to_string()).await;
}

/// How often a Deployment was rolled.
async fn revisions(namespace: &Namespace, name: &str) -> usize {
    let sets: Api<ReplicaSet> = namespace.api().await;
    let all = sets.list(&ListParams::default()).await.unwrap();
    let owned = |set: &&ReplicaSet| set.metadata.owner_references.iter().flatten().any(|owner| owner.name == name);
    all.iter().filter(owned).count()
}

#[tokio::test]
async fn two_deployments_take_turns_and_nothing_is_rolled() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns").await;
    let Some(mut scene) = scene(&namespace, "v2", 1).await else { return };
    let rules = scene.route("backend").await;

    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    is(&scene, "backend", "v1", 0).await;
    is(&scene, "backend-green", "v2", 5).await;
    assert_eq!(selector(&namespace).await, "backend-green");
    assert_eq!(scene.route("backend").await, rules, "the route is as it was");
    assert_eq!(revisions(&namespace, "backend-green").await, 1, "what was tested is what serves");
    let first = scene.writes();
    if let Some(all) = &first {
        assert!(all.len() <= 10, "{} writes: {all:#?}", all.len());
    }

    // The next release goes to the one that the plan names, and the name comes back with it.
    scene.plan["release"]["version"] = "v3".into();
    scene.plan["release"]["services"][0]["image"] = "registry.test/backend:v3".into();
    let finished = scene.release().await;
    finished.ended("completed");
    is(&scene, "backend", "v3", 5).await;
    is(&scene, "backend-green", "v2", 0).await;
    assert_eq!(selector(&namespace).await, "backend");
    assert_eq!(scene.route("backend").await, rules);
    if let (Some(all), Some(first)) = (scene.writes(), first) {
        let second = &all[first.len()..];
        assert!(second.len() <= 10, "{} writes: {second:#?}", second.len());
    }

    // It is over; taking it back is the other one's turn again.
    let run = finished.events[0]["run"].as_str().unwrap().to_owned();
    let undone = scene.start(&["undo", &run, "--reason", "customers complain"]).finish().await;
    undone.ended("completed");
    is(&scene, "backend", "v3", 0).await;
    is(&scene, "backend-green", "v2", 5).await;
    assert_eq!(selector(&namespace).await, "backend-green");
    namespace.wait_ready("backend-green").await;
}

/// What is left when moodify leaves: what was there before it came, with the version of now.
#[tokio::test]
async fn moodify_leaves_plain_objects() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-left").await;
    let Some(mut scene) = scene(&namespace, "v2", 1).await else { return };
    autoscale(&namespace).await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "backend"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "backend"}}},
    });
    namespace.apply(&budget.to_string()).await;
    let all = async || {
        let kinds = "deployments,services,poddisruptionbudgets,horizontalpodautoscalers,configmaps";
        let names = namespace.kubectl(&["get", kinds, "--output", "name"]).await;
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let object = async |kind: &str, path: &str| {
        namespace.kubectl(&["get", kind, "backend", "--output", &format!("jsonpath={{{path}}}")]).await
    };
    let before = all().await;
    let labels = object("deployment", ".spec.template.metadata").await;

    // Green serves; then, after a second release and its way back, green that took its turn a second time.
    for version in ["v2", "v3", "v4"] {
        scene.plan["release"]["version"] = version.into();
        scene.plan["release"]["services"][0]["image"] = format!("registry.test/backend:{version}").into();
        scene.release().await.ended("completed");
    }
    assert_eq!(selector(&namespace).await, "backend-green");
    let left = scene.leave().await;
    left.ended("completed");
    assert_eq!(left.code, 0, "{}", left.stderr);
    scene.assert_serves("v4").await;
    assert_eq!(selector(&namespace).await, "backend");
    assert_eq!(object("horizontalpodautoscaler", ".spec.scaleTargetRef.name").await, "backend");
    assert_eq!(object("deployment", ".spec.template.metadata").await, labels, "its pods carry what they carried");
    let metadata = object("deployment", ".metadata").await;
    let marks: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert!(!marks["labels"].to_string().contains("moodify"), "{marks}");
    assert!(!marks["annotations"].to_string().contains("moodify.dev"), "{marks}");
    // What the Deployment owned goes when the garbage collector comes by.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while all().await != before {
        assert!(tokio::time::Instant::now() < deadline, "left behind: {:?}", all().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // It may leave again, and come again.
    let pods = object("deployment", ".metadata.generation").await;
    scene.leave().await.ended("completed");
    assert_eq!(object("deployment", ".metadata.generation").await, pods, "nothing is rolled for that");
    scene.plan["release"]["version"] = "v5".into();
    scene.plan["release"]["services"][0]["image"] = "registry.test/backend:v5".into();
    scene.release().await.ended("completed");
    is(&scene, "backend-green", "v5", 5).await;
}

#[tokio::test]
async fn a_bad_version_goes_back_and_leaves_plain_objects() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-bad").await;
    let Some(scene) = scene(&namespace, "v2-err30-when3", 1).await else { return };
    let finished = scene.release().await;
    let summary = finished.ended("rolled-back");
    assert_eq!(finished.code, 4, "{}", finished.stderr);
    assert!(summary.contains("error-rate of backend"), "{summary}");
    assert!(!finished.began("rollout-hand-over"));
    assert_eq!(selector(&namespace).await, "backend");
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn an_abort_while_the_old_one_is_kept_needs_no_pod_to_start() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-abort").await;
    let Some(scene) = scene(&namespace, "v2", 600).await else { return };
    autoscale(&namespace).await;
    let scales = async || {
        let scalers: Api<HorizontalPodAutoscaler> = namespace.api().await;
        scalers.get("backend").await.unwrap().spec.scale_target_ref.name
    };
    let pods = async || {
        let all: Api<Deployment> = namespace.api().await;
        all.get("backend").await.unwrap().metadata.generation
    };
    let mut running = scene.start_release();
    running.until_step("rollout-keep-old").await;
    assert_eq!((selector(&namespace).await.as_str(), scales().await.as_str()), ("backend-green", "backend-green"));
    is(&scene, "backend", "v1", 5).await;
    let untouched = pods().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let run = running.events[0]["run"].as_str().unwrap().to_owned();
    let abort = scene.run(&["abort", &run, "--reason", "a customer called"]).await;
    assert!(abort.status.success(), "{}", String::from_utf8_lossy(&abort.stderr));
    let finished = running.finish().await;
    finished.ended("rolled-back");
    assert_eq!((selector(&namespace).await.as_str(), scales().await.as_str()), ("backend", "backend"));
    assert_eq!(pods().await, untouched, "what served was never touched");
    scene.assert_serves("v1").await;
}

/// Whatever divides the traffic, two Deployments can take turns by it, forth and back.
#[tokio::test]
async fn every_router_lets_two_deployments_take_turns() {
    let Some(rig) = Rig::shared().await else { return };
    let run = async |router: &str| {
        let namespace = rig.namespace(&format!("turns-{router}")).await;
        let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], router).await else { return };
        scene.canary()["weights"] = json!([50, 100]);
        scene.canary()["bake"] = "4s".into();
        scene.take_turns("600s").await;
        let routing = scene.routing(router, "backend").await;
        let mut running = scene.start_release();
        running.until_step("rollout-keep-old").await;
        assert_eq!(selector(&namespace).await, "backend-green", "{router}");
        assert_eq!(scene.routing(router, "backend").await, routing, "{router}: it leads to the name again");
        let run = running.events[0]["run"].as_str().unwrap().to_owned();
        let abort = scene.run(&["abort", &run, "--reason", "a customer called"]).await;
        assert!(abort.status.success(), "{}", String::from_utf8_lossy(&abort.stderr));
        running.finish().await.ended("rolled-back");
        assert_eq!(scene.routing(router, "backend").await, routing, "{router}");
        scene.assert_serves("v1").await;

        scene.turns()["keep"] = "1s".into();
        scene.release().await.ended("completed");
        is(&scene, "backend", "v1", 0).await;
        is(&scene, "backend-green", "v2", 5).await;
        assert_eq!(scene.routing(router, "backend").await, routing, "{router}");
    };
    tokio::join!(run("grpc-route"), run("traefik"));
    tokio::join!(run("ingress-nginx"), run("alb"));
}

/// The peers' fault: a way back on to a color that has no pod.
#[tokio::test]
async fn a_way_back_waits_for_somebody_to_go_back_to() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-nobody").await;
    let Some(scene) = scene(&namespace, "v2", 600).await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-keep-old").await;
    namespace.kubectl(&["scale", "deployment/backend", "--replicas=0"]).await;
    let none = |d: &Deployment| d.status.as_ref().is_some_and(|status| status.available_replicas.unwrap_or(0) == 0);
    namespace.wait_for::<Deployment>("backend", none).await;
    let run = running.events[0]["run"].as_str().unwrap().to_owned();
    let abort = scene.run(&["abort", &run, "--reason", "a customer called"]).await;
    assert!(abort.status.success(), "{}", String::from_utf8_lossy(&abort.stderr));
    running
        .until("a way back that found nobody", |event| event.to_string().contains("no stable instance is available"))
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(selector(&namespace).await, "backend-green", "what serves keeps the name");
    is(&scene, "backend-green", "v2", 5).await;
    namespace.kubectl(&["scale", "deployment/backend", "--replicas=5"]).await;
    running.finish().await.ended("rolled-back");
    assert_eq!(selector(&namespace).await, "backend");
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn what_a_person_switched_back_to_is_not_retired() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-switched").await;
    let Some(scene) = scene(&namespace, "v2", 8).await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-keep-old").await;
    let patch = json!({"spec": {"selector": {"app": "backend"}}}).to_string();
    namespace.kubectl(&["patch", "service", "backend", "--patch", &patch]).await;
    let summary = running.finish().await.ended("needs-attention");
    assert!(summary.contains("lead to the version before again (blue): it serves"), "{summary}");
    is(&scene, "backend", "v1", 5).await;
    is(&scene, "backend-green", "v2", 5).await;
    assert_eq!(selector(&namespace).await, "backend");
}

#[tokio::test]
async fn an_old_version_that_was_mended_by_hand_is_not_thrown_away() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-mended").await;
    let Some(mut scene) = scene(&namespace, "v2", 1).await else { return };
    scene.turns()["bake"] = "8s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    namespace.kubectl(&["set", "image", "deployment/backend", "*=registry.test/backend:hotfix"]).await;
    let summary = running.finish().await.ended("needs-attention");
    assert!(summary.contains("backend was changed to registry.test/backend:hotfix since"), "{summary}");
    is(&scene, "backend", "hotfix", 5).await;
    assert_eq!(selector(&namespace).await, "backend", "the name was not handed over");
}

#[tokio::test]
async fn killed_while_the_old_one_is_kept_it_is_retired_by_another_process() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-killed").await;
    let Some(scene) = scene(&namespace, "v2", 8).await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-keep-old").await;
    let run = running.events[0]["run"].as_str().unwrap().to_owned();
    running.kill().await;
    is(&scene, "backend", "v1", 5).await;
    let resumed = scene.start(&["resume", &run]).finish().await;
    resumed.ended("completed");
    is(&scene, "backend", "v1", 0).await;
    is(&scene, "backend-green", "v2", 5).await;
}

#[tokio::test]
async fn a_service_that_leads_elsewhere_by_hand_is_left_alone() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("turns-edited").await;
    let Some(mut scene) = scene(&namespace, "v2", 1).await else { return };
    scene.plan["phases"][0]["strategy"]["blue-green"]["weights"] = json!([100]);
    scene.plan["phases"][0]["strategy"]["blue-green"]["bake"] = "15s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-100").await;
    let patch = json!({"spec": {"selector": {"app": "elsewhere"}}}).to_string();
    namespace.kubectl(&["patch", "service", "backend", "--patch", &patch, "--field-manager=a-person"]).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert!(summary.contains("a-person"), "{summary}");
    assert_eq!(selector(&namespace).await, "elsewhere", "it is not overwritten");
    is(&scene, "backend", "v1", 5).await;
}

/// Without a gateway: the Service itself is switched, all at once.
#[tokio::test]
async fn one_switch_of_the_selector_and_back() {
    let Some(rig) = Rig::shared().await else { return };
    for (tag, outcome, serves) in [("v2", "completed", "backend-green"), ("v2-err30-when3", "rolled-back", "backend")] {
        let namespace = rig.namespace(&format!("switch-{outcome}")).await;
        let Some(mut scene) = Scene::new(&namespace, &[("backend", tag)], "service-selector").await else { return };
        scene.canary()["bake"] = "6s".into();
        scene.canary()["weights"] = json!([100]);
        scene.take_turns("1s").await;
        let finished = scene.release().await;
        finished.ended(outcome);
        assert_eq!(selector(&namespace).await, serves);
        if let Some(all) = scene.writes() {
            assert!(all.len() <= 10, "{} writes: {all:#?}", all.len());
        }
        if outcome == "rolled-back" {
            scene.assert_serves("v1").await;
        } else {
            is(&scene, "backend", "v1", 0).await;
            is(&scene, "backend-green", "v2", 5).await;
        }
    }
}

#[tokio::test]
async fn a_selector_that_somebody_else_changes_stops_the_switch() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("switch-edited").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "service-selector").await else { return };
    scene.canary()["bake"] = "120s".into();
    scene.canary()["weights"] = json!([100]);
    scene.take_turns("1s").await;
    let mut running = scene.start_release();
    running.until_step("rollout-bake-100").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    namespace.kubectl(&["patch", "service", "backend", "-p", r#"{"spec":{"selector":{"app":"other"}}}"#]).await;
    let finished = tokio::time::timeout(Duration::from_secs(60), running.finish()).await.expect("it is noticed");
    let summary = finished.ended("needs-attention");
    assert!(summary.contains("changed its selector"), "{summary}");
    assert_eq!(selector(&namespace).await, "other", "left to them");
}
