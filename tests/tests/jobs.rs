//! Programs that run to their end in the middle of a release, and the images of `CronJob`s, on a real API server with its real
//! controllers.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::{CronJobRef, JobRequest, JobTemplate, Jobs};
use moodify_core::model::{ImageRef, Target};
use moodify_core::testing::conformance::{self, JobsHarness};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::{Value, json};

/// A `CronJob` that will not run by itself.
async fn schedule(namespace: &Namespace) {
    let mut template = json!({"spec": {"restartPolicy": "Never", "containers": [
        {"name": "report", "image": "registry.test/report:v1", "command": ["sh", "-c", "echo reported"]}]}});
    namespace.place(&mut template);
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report"},
        "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}});
    namespace.apply(&cron.to_string()).await;
}

async fn get(namespace: &Namespace, what: &[&str]) -> Value {
    let text = namespace.kubectl(&[&["get"], what, &["--output", "json"]].concat()).await;
    serde_json::from_str(&text).unwrap()
}

async fn cron_image(namespace: &Namespace) -> String {
    let cron = get(namespace, &["cronjob", "report"]).await;
    let containers = &cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"];
    containers[0]["image"].as_str().unwrap().to_owned()
}

struct Harness {
    namespace: Namespace,
    jobs: Arc<dyn Jobs>,
    template: JobTemplate,
}

#[async_trait]
impl JobsHarness for Harness {
    fn jobs(&self) -> Arc<dyn Jobs> {
        self.jobs.clone()
    }

    fn template(&self) -> JobTemplate {
        self.template.clone()
    }

    fn good(&self, request: JobRequest) -> JobRequest {
        request.command(["sh", "-c", "echo begun; sleep 2; echo done"])
    }

    fn cron_job(&self) -> (CronJobRef, ImageRef) {
        let (namespace, name) = (self.namespace.name().to_owned(), "report".to_owned());
        (CronJobRef { namespace, name, container: None }, "registry.test/report:v2".parse().unwrap())
    }

    async fn count(&self) -> usize {
        get(&self.namespace, &["jobs"]).await["items"].as_array().unwrap().len()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

#[tokio::test]
async fn jobs_keep_their_contract() {
    let Some(rig) = Rig::shared().await else { return };
    for from in ["service", "cron-job"] {
        let namespace = rig.namespace(&format!("jobs-contract-{from}")).await;
        namespace.deploy("backend", "registry.test/backend:v1", 1).await;
        namespace.wait_ready("backend").await;
        schedule(&namespace).await;
        let target: Target = serde_json::from_value(json!({
            "environment": "test", "namespace": namespace.name(),
            "service": {"name": "backend", "workload": "backend", "image": "registry.test/backend:v2",
                "traffic": {"router": "replica-ratio", "service": "backend"}},
        }))
        .unwrap();
        let cron = CronJobRef { namespace: namespace.name().to_owned(), name: "report".to_owned(), container: None };
        let template = match from {
            "service" => JobTemplate::Service(Box::new(target)),
            _ => JobTemplate::CronJob(cron),
        };
        let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await.unwrap();
        conformance::jobs(&Harness { namespace, jobs: kube.jobs(), template }).await;
    }
}

/// A release that migrates first, and lets the schedule follow last.
async fn scene<'a>(namespace: &'a Namespace, tag: &str, migrate: &str) -> Option<Scene<'a>> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], "replica-ratio").await?;
    schedule(namespace).await;
    let run = json!({"service": "backend", "command": ["sh", "-c", migrate]});
    let set = json!({"cron-jobs": [{"name": "report", "image": format!("registry.test/report:{tag}")}]});
    let step = |name: &str, action: &str, with: Value| json!({"name": name, "action": action, "with": with});
    let steps = json!([step("migrate", "run-job", run), step("schedule", "set-cron-jobs", set)]);
    scene.plan["phases"].as_array_mut().unwrap().insert(0, json!({"name": "before", "steps": steps}));
    scene.grant().await;
    Some(scene)
}

#[tokio::test]
async fn a_migration_runs_before_the_release_and_gets_no_requests() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("jobs-release").await;
    let Some(scene) = scene(&namespace, "v2", "sleep 5; echo migrated").await else { return };
    let mut running = scene.start_release();
    running.until_step("migrate").await;
    let pod = loop {
        let pods = get(&namespace, &["pods", "--selector", "batch.kubernetes.io/job-name"]).await;
        if let Some(pod) = pods["items"].as_array().unwrap().iter().find(|pod| pod["status"]["phase"] == "Running") {
            break pod.clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(pod["spec"]["containers"][0]["image"], "registry.test/backend:v2");
    let slices = get(&namespace, &["endpointslices"]).await;
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert!(!slices["items"].to_string().contains(&format!("\"{ip}\"")), "{ip} gets requests: {slices}");
    running.finish().await.ended("completed");
    let jobs = get(&namespace, &["jobs"]).await;
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "it ran once");
    assert_eq!(jobs["items"][0]["status"]["succeeded"], 1);
    assert_eq!(cron_image(&namespace).await, "registry.test/report:v2");
    scene.assert_serves("v2").await;
}

#[tokio::test]
async fn a_migration_that_fails_stops_the_release_and_says_why() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("jobs-failed").await;
    let migrate = "echo 'relation \"users\" already exists' >&2; exit 3";
    let Some(scene) = scene(&namespace, "v2", migrate).await else { return };
    let finished = scene.release().await;
    let summary = finished.ended("rolled-back");
    assert!(summary.contains("BackoffLimitExceeded") && summary.contains("already exists"), "{summary}");
    assert!(scene.workload("backend-canary").await.is_none(), "no version without its tables");
    assert_eq!(get(&namespace, &["jobs"]).await["items"], json!([]));
    assert_eq!(cron_image(&namespace).await, "registry.test/report:v1");
}

#[tokio::test]
async fn a_schedule_runs_what_it_ran_when_the_release_goes_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("jobs-back").await;
    let Some(scene) = scene(&namespace, "v2-err30", "true").await else { return };
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    assert_eq!(cron_image(&namespace).await, "registry.test/report:v2-err30");
    running.finish().await.ended("rolled-back");
    assert_eq!(cron_image(&namespace).await, "registry.test/report:v1");
}
