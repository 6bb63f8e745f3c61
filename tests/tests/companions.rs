//! What goes along with a workload: disruption budgets and KEDA's autoscalers, in releases by the real program under the least
//! Role on a real API server with its real controllers.

use std::time::Duration;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
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
