//! What the API server refuses in the middle of a release: the end is as promised, and one sentence says what was refused,
//! why, what is in force and what to do.

use std::time::{Duration, Instant};

use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::{Running, Scene};
use serde_json::{Value, json};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(30);

/// A release that has come to its first bake, which takes long enough for a change of the rules.
async fn baking(namespace: &Namespace, weights: [u8; 2]) -> Option<(Scene<'_>, Running)> {
    let mut scene = Scene::new(namespace, &[("backend", "v2")], "http-route").await?;
    scene.canary()["weights"] = json!(weights);
    scene.canary()["bake"] = "15s".into();
    scene.canary()["ready-deadline"] = "15s".into();
    let mut running = scene.start_release();
    running.until_step(&format!("rollout-bake-{}", weights[0])).await;
    Some((scene, running))
}

/// Waits until the API server refuses this patch, tried without effect, with these words.
async fn is_refused(namespace: &Namespace, object: &str, patch: &Value, words: &str) {
    let patch = patch.to_string();
    let name = namespace.name();
    let try_it = ["patch", object, "--namespace", name, "--type", "merge", "--dry-run=server", "--patch", &patch];
    let begun = Instant::now();
    loop {
        let output = namespace.rig().try_kubectl("admin", &try_it, "").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() && said.contains(words) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{words:?} in {said}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[track_caller]
fn says(summary: &str, words: &[&str]) {
    for word in words {
        assert!(summary.contains(word), "{word:?} in {summary}");
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_leaves_what_is_in_force_and_says_which() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("right-gone").await;
    let Some((scene, running)) = baking(&namespace, [50, 100]).await else { return };
    let mut roles: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "roles", "--output", "json"]).await).unwrap();
    for role in roles["items"].as_array_mut().unwrap() {
        for rule in role["rules"].as_array_mut().unwrap() {
            if rule["resources"] == json!(["httproutes"]) {
                rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != "patch" && verb != "update");
            }
        }
    }
    namespace.apply(&roles.to_string()).await;
    let finished = running.finish().await;
    let summary = finished.ended("needs-attention");
    says(&summary, &["User \"dave\" cannot patch resource \"httproutes\"", "Role and a RoleBinding", "in force: "]);
    assert_eq!(finished.code, 5, "{}", finished.stderr);
    assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 50, "as it was");
    assert_eq!(scene.workload("backend").await, Some(("registry.test/backend:v1".to_owned(), 5)));
}

#[tokio::test]
async fn a_policy_that_allows_no_more_takes_the_release_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("policy").await;
    let name = format!("{}.rig.test", namespace.name());
    let Some((scene, running)) = baking(&namespace, [50, 100]).await else { return };
    let only_here = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name()}});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["*"], "resources": ["httproutes"],
                "operations": ["UPDATE"],
            }]},
            "validations": [{
                "expression": "!object.spec.rules.exists(r, has(r.backendRefs) && r.backendRefs.exists(b, \
                    b.name == 'backend-canary' && has(b.weight) && b.weight > 50))",
                "message": "no more than half until the fair is over",
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": only_here}},
    });
    namespace.apply(&policy.to_string()).await;
    namespace.apply(&binding.to_string()).await;
    let mut rules = scene.route("backend").await;
    rules[1]["backendRefs"][1]["weight"] = 100.into();
    is_refused(&namespace, "httproute/backend", &json!({"spec": {"rules": rules}}), "until the fair is over").await;
    let finished = running.finish().await;
    let summary = finished.ended("rolled-back");
    let denied = format!("the admission policy {name} denied it: no more than half until the fair is over");
    says(&summary, &["the old version serves again", "patch HTTPRoute", "/backend", &denied]);
    scene.assert_serves("v1").await;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        rig.kubectl(&["delete", kind, &name]).await;
    }
}

#[tokio::test]
async fn a_webhook_that_denies_the_promotion_takes_the_release_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("webhook").await;
    let Some((scene, running)) = baking(&namespace, [50, 100]).await else { return };
    let webhook = namespace.webhook("deployments.apps", |deployment| {
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str()?;
        let is_promoted = deployment["metadata"]["name"] == "backend" && image.ends_with(":v2");
        is_promoted.then_some("v2 was not scanned")
    });
    let webhook = webhook.await;
    let promoted = json!({"spec": {"template": {"spec": {"containers": [{"name": "backend", "image": "registry.test/backend:v2"}]}}}});
    is_refused(&namespace, "deployment/backend", &promoted, "v2 was not scanned").await;
    let finished = running.finish().await;
    let summary = finished.ended("rolled-back");
    says(&summary, &[&format!("the admission webhook {} denied it: v2 was not scanned", webhook.name()), "backend"]);
    scene.assert_serves("v1").await;
    webhook.remove().await;
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_for_a_while_only_delays() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("webhook-gone").await;
    let Some((scene, mut running)) = baking(&namespace, [50, 100]).await else { return };
    let webhook = namespace.webhook("httproutes.gateway.networking.k8s.io", |_| None).await;
    let webhook = webhook.fail();
    let anything = json!({"metadata": {"annotations": {"tried": "yes"}}});
    is_refused(&namespace, "httproute/backend", &anything, "failed calling webhook").await;
    running.until_step("rollout-shift-100").await;
    let told =
        running.until("that it is told", |e| e.to_string().contains("an admission webhook cannot be asked")).await;
    assert_eq!(told["step"], "rollout-shift-100", "{told}");
    webhook.remove().await;
    let finished = running.finish().await;
    finished.ended("completed");
    scene.assert_serves("v2").await;
}

#[tokio::test]
async fn a_quota_that_leaves_no_room_takes_the_release_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("quota-late").await;
    let Some((scene, running)) = baking(&namespace, [10, 100]).await else { return };
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "6"}}});
    namespace.apply(&quota.to_string()).await;
    let finished = running.finish().await;
    let summary = finished.ended("rolled-back");
    says(&summary, &["exceeded quota: few", "backend", "1 of 5"]);
    scene.assert_serves("v1").await;
}
