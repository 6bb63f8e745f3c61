//! What goes along with a workload: disruption budgets and KEDA's autoscalers, in releases by the real program under the least
//! Role on a real API server with its real controllers.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};

async fn scene<'a>(namespace: &'a Namespace) -> Option<Scene<'a>> {
    let mut scene = Scene::new(namespace, &[("backend", "v2")], "http-route").await?;
    scene.canary()["bake"] = "4s".into();
    Some(scene)
}

async fn budget(namespace: &Namespace) {
    namespace
        .kubectl(&["create", "poddisruptionbudget", "calm", "--selector=app=backend", "--min-available=60%"])
        .await;
}

/// The budgets by name.
async fn budgets(namespace: &Namespace) -> Vec<String> {
    let text = namespace.kubectl(&["get", "poddisruptionbudgets", "--output", "name"]).await;
    text.lines().filter_map(|line| line.split_once('/')).map(|(_, name)| name.to_owned()).collect()
}

#[tokio::test]
async fn a_budget_holds_for_a_canary_as_long_as_there_is_one() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("budget-canary").await;
    let Some(scene) = scene(&namespace).await else { return };
    budget(&namespace).await;
    let mut running = scene.start_release();
    running.until_step("rollout-bake-100").await;
    let covers = |budget: &PodDisruptionBudget| {
        budget
            .status
            .as_ref()
            .is_some_and(|status| status.expected_pods == Some(5) && status.desired_healthy == Some(3))
    };
    namespace.wait_for::<PodDisruptionBudget>("calm-canary", covers).await;
    running.finish().await.ended("completed");
    for _ in 0..50 {
        if budgets(&namespace).await == ["calm"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("left behind: {:?}", budgets(&namespace).await);
}

#[tokio::test]
async fn a_budget_holds_for_whichever_of_two_serves() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("budget-turns").await;
    let Some(mut scene) = scene(&namespace).await else { return };
    budget(&namespace).await;
    scene.take_turns("1s").await;
    scene.release().await.ended("completed");
    let covers = |budget: &PodDisruptionBudget| {
        budget
            .status
            .as_ref()
            .is_some_and(|status| status.expected_pods == Some(5) && status.current_healthy == Some(5))
    };
    namespace.wait_for::<PodDisruptionBudget>("calm-green", covers).await;
    scene.plan["release"]["services"][0]["image"] = "registry.test/backend:v3".into();
    scene.release().await.ended("completed");
    namespace.wait_for::<PodDisruptionBudget>("calm", covers).await;
    assert_eq!(budgets(&namespace).await, ["calm", "calm-green"], "each once");
}

/// KEDA's kind of object, of which this rig has no controller.
async fn define_scaled_objects(rig: &Rig) {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": any}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {"group": "keda.sh", "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}]},
    });
    let applied = rig.try_kubectl("admin", &["apply", "--filename", "-"], &definition.to_string()).await;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    rig.kubectl(&["wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=30s"]).await;
}

#[tokio::test]
async fn what_keda_scales_follows_the_version_that_serves() {
    let Some(rig) = Rig::shared().await else { return };
    define_scaled_objects(rig).await;
    let namespace = rig.namespace("keda-turns").await;
    let Some(mut scene) = scene(&namespace).await else { return };
    let scaled = json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "backend"},
        "spec": {"scaleTargetRef": {"name": "backend"}, "minReplicaCount": 5, "triggers": []}});
    namespace.apply(&scaled.to_string()).await;
    let get = async |what: &str| -> Value {
        serde_json::from_str(&namespace.kubectl(&["get", what, "backend", "--output", "json"]).await).unwrap()
    };
    let uid = get("scaledobject").await["metadata"]["uid"].take();
    let made = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "backend", "ownerReferences": [{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
            "name": "backend", "uid": uid, "controller": true}]},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"},
            "minReplicas": 5, "maxReplicas": 9},
    });
    namespace.apply(&made.to_string()).await;
    scene.take_turns("1s").await;
    scene.release().await.ended("completed");
    assert_eq!(get("scaledobject").await["spec"]["scaleTargetRef"]["name"], "backend-green");
    let of_keda = get("horizontalpodautoscaler").await;
    assert_eq!(of_keda["spec"]["scaleTargetRef"]["name"], "backend", "KEDA's own is left to KEDA");
}

/// An autoscaler that finds that two would be enough, once it is let.
async fn idle_autoscaler(namespace: &Namespace) {
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "backend", "annotations": {"team": "shop"}},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"},
            "minReplicas": 2, "maxReplicas": 9, "behavior": {"scaleDown": {"selectPolicy": "Disabled"}},
            "metrics": [{"type": "Resource",
                "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "4Gi"}}}]},
    });
    namespace.apply(&scaler.to_string()).await;
}

/// Traffic that goes away is no reason to take away what a way back needs; and in the end the autoscaler is as it was.
#[tokio::test]
async fn what_served_keeps_its_instances_though_an_autoscaler_sees_no_load() {
    let Some(rig) = Rig::own().await else { return };
    let run = async |turns: bool, abort: bool| {
        let namespace = rig.namespace(&format!("idle-{turns}-{abort}")).await;
        let Some(mut scene) = scene(&namespace).await else { return };
        idle_autoscaler(&namespace).await;
        scene.canary()["weights"] = json!([100]);
        scene.canary()["bake"] = "45s".into();
        if turns {
            scene.take_turns("1s").await;
        }
        let mut running = scene.start_release();
        running.until_step("rollout-bake-100").await;
        let free =
            json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0}}}});
        namespace.kubectl(&["patch", "horizontalpodautoscaler", "backend", "--patch", &free.to_string()]).await;
        let would = |scaler: &HorizontalPodAutoscaler| {
            let conditions = scaler.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.reason.as_deref() == Some("TooFewReplicas"))
        };
        let scaler = namespace.wait_for::<HorizontalPodAutoscaler>("backend", would).await;
        assert_eq!(scaler.spec.min_replicas, Some(5), "it would scale down, and may not");
        assert_eq!(scene.workload("backend").await, Some(("registry.test/backend:v1".to_owned(), 5)));
        if abort {
            let run = running.events[0]["run"].as_str().unwrap().to_owned();
            let abort = scene.run(&["abort", &run, "--reason", "enough was seen"]).await;
            assert!(abort.status.success(), "{}", String::from_utf8_lossy(&abort.stderr));
        }
        running.finish().await.ended(if abort { "rolled-back" } else { "completed" });
        let back = |scaler: &HorizontalPodAutoscaler| {
            let goes_by = if turns && !abort { "backend-green" } else { "backend" };
            let marks = scaler.metadata.annotations.iter().flatten().any(|(key, _)| key.contains("moodify"));
            let spec = &scaler.spec;
            !marks && spec.min_replicas == Some(2) && spec.scale_target_ref.name == goes_by
        };
        let scalers: Api<HorizontalPodAutoscaler> = namespace.api().await;
        let scaler = scalers.get("backend").await.unwrap();
        assert!(back(&scaler), "{scaler:?}");
        assert_eq!(scaler.metadata.annotations.unwrap()["team"], "shop");
    };
    tokio::join!(run(false, false), run(false, true), run(true, false), run(true, true));
}
