//! Configuration ships with the version that reads it and goes back with it, on a real API server with its real controllers,
//! carried out by the real program under the least Role.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use moodify_core::backend::Deployer;
use moodify_core::model::{ConfigVersion, Target};
use moodify_core::testing::conformance::{self, ConfigurationHarness};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};

/// The objects that a workload reads before the first release, and what its pods refer to them by.
async fn prepare(namespace: &Namespace) {
    namespace.kubectl(&["create", "configmap", "backend-config", "--from-literal=LEVEL=info"]).await;
    for keys in ["backend-keys", "backend-keys-2"] {
        namespace.kubectl(&["create", "secret", "generic", keys, "--from-literal=KEY=12345678"]).await;
    }
    let patch = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "backend", "envFrom": [{"configMapRef": {"name": "backend-config"}}]}],
        "volumes": [{"name": "keys", "secret": {"secretName": "backend-keys"}}],
    }}}});
    namespace.kubectl(&["patch", "deployment", "backend", "--patch", &patch.to_string()]).await;
    namespace.kubectl(&["rollout", "status", "deployment", "backend", "--timeout=60s"]).await;
}

fn shipped() -> [ConfigVersion; 2] {
    [ConfigVersion::map("backend-config", [("LEVEL", "debug")]), ConfigVersion::there("backend-keys", "backend-keys-2")]
}

/// The names of the `ConfigMap` and of the Secret that the pods of a Deployment refer to.
async fn read(namespace: &Namespace, deployment: &str) -> (String, String) {
    let text = namespace.kubectl(&["get", "deployment", deployment, "--output", "json"]).await;
    let pod = serde_json::from_str::<Value>(&text).unwrap()["spec"]["template"]["spec"].take();
    let name = |value: &Value| value.as_str().unwrap().to_owned();
    (
        name(&pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]),
        name(&pod["volumes"][0]["secret"]["secretName"]),
    )
}

fn old() -> (String, String) {
    ("backend-config".to_owned(), "backend-keys".to_owned())
}

fn new() -> (String, String) {
    let [map, keys] = shipped();
    (map.object(), keys.object())
}

/// The `ConfigMap`s of the plan's configuration.
async fn maps(namespace: &Namespace) -> Vec<String> {
    let text = namespace.kubectl(&["get", "configmaps", "--output", "name"]).await;
    let names = text.lines().filter_map(|line| line.strip_prefix("configmap/"));
    names.filter(|name| name.starts_with("backend-config")).map(str::to_owned).collect()
}

struct Harness {
    namespace: Namespace,
    deployer: Arc<dyn Deployer>,
}

#[async_trait]
impl ConfigurationHarness for Harness {
    fn deployer(&self) -> Arc<dyn Deployer> {
        self.deployer.clone()
    }

    fn target(&self) -> Target {
        serde_json::from_value(json!({
            "environment": "test", "namespace": self.namespace.name(),
            "service": {"name": "backend", "workload": "backend", "image": "registry.test/backend:v2",
                "traffic": {"router": "replica-ratio", "service": "backend"}, "config": [shipped()[0]]},
        }))
        .unwrap()
    }

    async fn contents(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let maps = self.namespace.api::<ConfigMap>().await;
        let found = maps.get_opt(name).await.unwrap()?;
        assert_eq!(found.immutable, Some(true), "it never changes");
        Some(found.data.unwrap_or_default())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

#[tokio::test]
async fn the_deployer_keeps_the_contract_for_configuration() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("config-contract").await;
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    prepare(&namespace).await;
    let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
    let deployer = kube.deployer();
    conformance::configuration(&Harness { namespace, deployer }).await;
}

async fn scene<'a>(namespace: &'a Namespace, tag: &str, router: &str) -> Option<Scene<'a>> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], router).await?;
    prepare(namespace).await;
    scene.plan["release"]["services"][0]["config"] = json!(shipped());
    scene.grant().await;
    Some(scene)
}

#[tokio::test]
async fn it_ships_with_a_release_and_is_taken_back_with_it() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("config-release").await;
    let Some(scene) = scene(&namespace, "v2", "replica-ratio").await else { return };
    let check = scene.run(&["check", scene.plan_file().to_str().unwrap()]).await;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(told.contains(&format!("ConfigMap {}/{}", namespace.name(), new().0)), "{told}");
    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(read(&namespace, "backend").await, new());
    assert_eq!(maps(&namespace).await, ["backend-config".to_owned(), new().0]);

    let run = finished.events[0]["run"].as_str().unwrap().to_owned();
    scene.start(&["undo", &run, "--reason", "customers complain"]).finish().await.ended("completed");
    assert_eq!(read(&namespace, "backend").await, old());
    scene.assert_serves("v1").await;
}

#[tokio::test]
async fn a_bad_release_leaves_what_was_read_before_and_no_object() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("config-bad").await;
    let Some(scene) = scene(&namespace, "v2-err30", "replica-ratio").await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    assert_eq!(read(&namespace, "backend-canary").await, new());
    assert_eq!(read(&namespace, "backend").await, old(), "nobody else reads it");
    running.finish().await.ended("rolled-back");
    assert_eq!(read(&namespace, "backend").await, old());
    assert_eq!(maps(&namespace).await, ["backend-config"], "no version can need it any more");
}

#[tokio::test]
async fn two_workloads_that_take_turns_read_their_own() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("config-turns").await;
    let Some(mut scene) = scene(&namespace, "v2", "http-route").await else { return };
    scene.take_turns("1s").await;
    scene.grant().await;
    let finished = scene.release().await;
    finished.ended("completed");
    assert_eq!(read(&namespace, "backend-green").await, new());
    assert_eq!(read(&namespace, "backend").await, old(), "what served before is as it was");
    let run = finished.events[0]["run"].as_str().unwrap().to_owned();
    scene.start(&["undo", &run, "--reason", "customers complain"]).finish().await.ended("completed");
    assert_eq!(read(&namespace, "backend").await, old());
}

#[tokio::test]
async fn what_is_not_there_is_refused_before_the_first_effect() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("config-missing").await;
    let Some(mut scene) = scene(&namespace, "v2", "replica-ratio").await else { return };
    let mut config = json!(shipped());
    config[1]["version"] = "backend-keys-3".into();
    scene.plan["release"]["services"][0]["config"] = config;
    scene.grant().await;
    let refused = scene.run(&["run", scene.plan_file().to_str().unwrap()]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("there is no Secret backend-keys-3"), "{told}");
    assert_eq!(maps(&namespace).await, ["backend-config"]);

    scene.plan["release"]["services"][0]["config"] =
        json!([ConfigVersion::map("frontend-config", [("LEVEL", "debug")])]);
    scene.grant().await;
    let refused = scene.run(&["run", scene.plan_file().to_str().unwrap()]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("do not refer to the ConfigMap frontend-config"), "{told}");
}
