//! What cannot work is refused in one clear sentence, before anything is written.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use k8s_openapi::api::core::v1::ResourceQuota;
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::json;

/// Runs the release and expects exit code 2 or 3, the words on standard error or in the summary, and no write.
async fn is_refused(namespace: &Namespace, scene: &Scene<'_>, words: &[&str]) {
    let before = namespace.audit().iter().filter(|e| e.is_write() && e.user_agent.starts_with("moodify/")).count();
    let plan = scene.plan_file();
    let output = scene.run(&["run", plan.to_str().unwrap()]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(matches!(output.status.code(), Some(2 | 3)), "{:?}: {said}", output.status);
    for word in words {
        assert!(said.contains(word), "{word:?} in {said}");
    }
    let after = namespace.audit().iter().filter(|e| e.is_write() && e.user_agent.starts_with("moodify/")).count();
    let reviews = namespace.audit().iter().filter(|e| e.resource == "selfsubjectaccessreviews").count();
    assert!(after <= before + reviews, "nothing is written");
    assert!(scene.workload("backend-canary").await.is_none());
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_written() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("bad-input").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    let good = scene.plan.clone();

    scene.plan["backends"]["kubernetes"] = json!({"kubeconfig": "/nowhere/kubeconfig"});
    is_refused(&namespace, &scene, &["/nowhere/kubeconfig"]).await;

    scene.plan = good.clone();
    let nobody = namespace.kubeconfig_with("https://127.0.0.1:1", "token");
    scene.plan["backends"]["kubernetes"] = json!({"kubeconfig": nobody});
    is_refused(&namespace, &scene, &["127.0.0.1:1"]).await;

    scene.plan = good.clone();
    let expired = namespace.kubeconfig_with(&rig.state().server, "a-token-that-is-not-valid-any-more");
    scene.plan["backends"]["kubernetes"] = json!({"kubeconfig": expired});
    is_refused(&namespace, &scene, &["credentials", "expired"]).await;

    scene.plan = good.clone();
    scene.plan["backends"]["kubernetes"] = json!({"kubeconfig": namespace.kubeconfig("alice")});
    is_refused(&namespace, &scene, &["deployments"]).await;

    scene.plan = good.clone();
    scene.plan["environment"]["namespace"] = json!("no-such-namespace");
    is_refused(&namespace, &scene, &["no-such-namespace"]).await;

    scene.plan = good.clone();
    scene.plan["release"]["services"][0]["workload"] = json!("no-such-deployment");
    scene.grant().await;
    is_refused(&namespace, &scene, &["no-such-deployment"]).await;

    scene.plan = good.clone();
    scene.plan["release"]["services"][0]["traffic"]["route"] = json!("no-such-route");
    scene.grant().await;
    is_refused(&namespace, &scene, &["no-such-route"]).await;

    scene.plan = good.clone();
    scene.plan["release"]["services"][0]["container"] = json!("no-such-container");
    scene.grant().await;
    is_refused(&namespace, &scene, &["no-such-container"]).await;

    scene.plan = good;
    scene.grant().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "8"}}});
    namespace.apply(&quota.to_string()).await;
    let counted = |quota: &ResourceQuota| quota.status.as_ref().is_some_and(|status| status.used.is_some());
    namespace.wait_for::<ResourceQuota>("few", counted).await;
    is_refused(&namespace, &scene, &["few", "pods: 5 of 8 are used, and the release adds 7 at its peak"]).await;
}

#[tokio::test]
async fn a_plan_with_mistakes_is_refused_with_their_places_and_without_a_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("bad-plan").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    let requests = || namespace.audit().iter().filter(|e| e.user_agent.starts_with("moodify/")).count();
    let good = format!("{:#}", scene.plan);
    let mistakes = [
        ("\"weights\"", "\"wieghts\"", "did you mean \"weights\"?"),
        ("      10,\n", "      110,\n", "110"),
        ("\"10s\"", "\"15 minuts\"", "15 minuts"),
        ("{", "[", ""),
    ];
    let path = scene.plan_file();
    for (right, wrong, words) in mistakes {
        let text = good.replacen(right, wrong, 1);
        let text = if text == good { good.replace("10,", "110,") } else { text };
        std::fs::write(&path, &text).unwrap();
        let output = scene.run(&["run", path.to_str().unwrap()]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{words:?} in {said}");
        let place = said.split(&format!("{}:", path.display())).nth(1).unwrap_or_else(|| panic!("a place in {said}"));
        let mut numbers = place.split(':');
        assert!(numbers.next().unwrap().parse::<u32>().is_ok(), "a line in {said}");
        assert!(numbers.next().unwrap().parse::<u32>().is_ok(), "a column in {said}");
    }
    assert_eq!(requests(), 0, "nobody was asked anything");
}
