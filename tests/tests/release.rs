//! A whole release by canary on a real API server: out when it is good, and back by itself when it is not.

use moodify_tests::rig::Rig;
use moodify_tests::scene::Scene;

#[tokio::test]
async fn a_good_release_is_promoted_and_leaves_nothing_behind() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("good").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
    let Some(all) = scene.writes() else { return };
    let count = |what: &str| all.iter().filter(|w| *w == what).count();
    assert_eq!(count("patch httproutes"), 4, "one for each weight, and one to send everything back");
    assert_eq!(count("delete deployments"), 1);
    assert!(all.len() <= 10, "{} writes: {all:#?}", all.len());
}

#[tokio::test]
async fn a_good_release_by_replica_ratio_is_promoted_and_leaves_nothing_behind() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("ratio").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], "replica-ratio").await else { return };
    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
    let Some(all) = scene.writes() else { return };
    assert!(all.len() <= 10, "{} writes: {all:#?}", all.len());
}

/// Releases a good version by a router that is not the usual one, under the least Role for it.
async fn is_promoted(name: &str, router: &str, of_route: &[&str]) {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace(name).await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], router).await else { return };
    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
    let Some(all) = scene.writes() else { return };
    let resource = of_route[0].split(' ').next_back().unwrap_or_default();
    let written: Vec<&String> = all.iter().filter(|w| w.split(' ').next_back() == Some(resource)).collect();
    assert_eq!(written, of_route);
    assert!(all.len() <= 10, "{} writes: {all:#?}", all.len());
}

#[tokio::test]
async fn a_good_release_by_ingress_nginx_is_promoted_and_leaves_nothing_behind() {
    let writes = ["create ingresses", "patch ingresses", "patch ingresses", "delete ingresses"];
    is_promoted("good-nginx", "ingress-nginx", &writes).await;
}

#[tokio::test]
async fn a_good_release_by_istio_is_promoted_and_leaves_nothing_behind() {
    is_promoted("good-istio", "istio", &["patch virtualservices"; 4]).await;
}

/// Releases a bad version, and expects it back with `reason` in the summary and in the journal's words.
async fn comes_back(name: &str, router: &str, services: &[(&str, &str)], last_step: &str, reason: &[&str]) {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace(name).await;
    let Some(scene) = Scene::new(&namespace, services, router).await else { return };
    let finished = scene.release().await;
    let summary = finished.ended("rolled-back");
    assert_eq!(finished.code, 4, "{}", finished.stderr);
    for words in reason {
        assert!(summary.contains(words), "{words:?} in {summary:?}");
    }
    assert!(finished.began(last_step), "it came as far as {last_step}");
    assert!(!finished.began("rollout-promote"), "and no further");
    scene.assert_serves("v1").await;
    let status = scene.run(&["status"]).await;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains(reason[0]), "the journal says why: {said}");
}

#[tokio::test]
async fn errors_at_10_come_back() {
    let reason = ["error-rate of backend", "limit > 5%", "at 10 %"];
    comes_back("errors", "http-route", &[("backend", "v2-err12")], "rollout-bake-10", &reason).await;
}

#[tokio::test]
async fn errors_by_replica_ratio_come_back() {
    let reason = ["error-rate of backend", "limit > 5%"];
    comes_back("errors-ratio", "replica-ratio", &[("backend", "v2-err12-when3")], "rollout-bake-50", &reason).await;
}

#[tokio::test]
async fn errors_by_ingress_nginx_come_back() {
    let reason = ["error-rate of backend", "limit > 5%", "at 10 %"];
    comes_back("errors-nginx", "ingress-nginx", &[("backend", "v2-err12")], "rollout-bake-10", &reason).await;
}

#[tokio::test]
async fn errors_by_istio_come_back() {
    let reason = ["error-rate of backend", "limit > 5%", "at 10 %"];
    comes_back("errors-istio", "istio", &[("backend", "v2-err12")], "rollout-bake-10", &reason).await;
}

#[tokio::test]
async fn a_crash_loop_at_50_comes_back() {
    let reason = ["crash-loop of backend", "CrashLoopBackOff"];
    comes_back("crash", "http-route", &[("backend", "v2-crash12s-when3")], "rollout-bake-50", &reason).await;
}

#[tokio::test]
async fn slow_answers_at_50_come_back() {
    let reason = ["latency-p95 of backend", "limit > 5s", "at 50 %"];
    comes_back("slow", "http-route", &[("backend", "v2-slow6000-when3")], "rollout-bake-50", &reason).await;
}

#[tokio::test]
async fn failing_readiness_at_50_comes_back() {
    let reason = ["unhealthy of backend", "limit > 50%"];
    comes_back("unready", "http-route", &[("backend", "v2-unready60after8s-when3")], "rollout-bake-50", &reason).await;
}

#[tokio::test]
async fn the_second_of_two_services_takes_both_back() {
    let services = [("backend", "v2"), ("frontend", "v2-err12-when3")];
    let reason = ["error-rate of frontend", "at 50 %"];
    comes_back("lockstep", "http-route", &services, "rollout-bake-50", &reason).await;
}

#[tokio::test]
async fn what_never_becomes_ready_comes_back_at_the_deadline_with_the_pods_reasons() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("never-ready").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2-missing")], "http-route").await else { return };
    scene.canary()["ready-deadline"] = "8s".into();
    let finished = scene.release().await;
    let summary = finished.ended("rolled-back");
    assert_eq!(finished.code, 4);
    assert!(summary.contains("ImagePullBackOff"), "{summary}");
    assert!(!finished.began("rollout-shift-10"), "no traffic ever");
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn a_check_says_what_would_change_and_changes_nothing() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("check").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    let plan = scene.plan_file();
    let output = scene.run(&["check", plan.to_str().unwrap()]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in ["backend-canary", "registry.test/backend:v2", "http-route backend: its weights cannot be verified"] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    let Some(ledger) = namespace.ledger() else { return };
    let asked = ledger.into_iter().filter(|e| e.user_agent.starts_with("moodify/"));
    let (dry, real): (Vec<_>, Vec<_>) = asked.filter(|e| e.is_write() || e.dry_run).partition(|e| e.dry_run);
    assert!(!dry.is_empty(), "the server was asked what it would do");
    assert!(real.is_empty(), "{real:?}");
    scene.assert_serves("v1").await;
}
