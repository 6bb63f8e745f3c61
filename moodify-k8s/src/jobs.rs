//! Programs that run to their end, as Jobs, and the images of `CronJob`s.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::core::params::ListParams;
use kube::core::subresource::LogParams;
use moodify_core::backend::{CronJobRef, JobPhase, JobRequest, JobState, JobTemplate, Jobs};
use moodify_core::model::{ImageRef, Layout, Target, Track};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use crate::client::{CRON_JOB, JOB, Kube, Object, POD, typed, until_error};
use crate::configuration;
use crate::deployer::{DeploymentDeployer, deployment_of};
use crate::error::{Access, Ask};
use crate::names::{MANAGED_BY, RUN, hashed, with_suffix};
use crate::ownership::{drift, last_foreign};
use crate::single;
use crate::workload::{image, no_container};

/// The annotation of a Job with the idempotency key under which it was started.
const KEY: &str = "moodify.dev/key";
/// The label of a Job's pods with the Job's name: whose they are, where the Job has no labels that say so.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// What a pod of a service has and one that runs to its end must not have.
const OF_SERVERS: [&str; 4] = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];
/// A Job that is forgotten goes after a day.
const KEPT: u32 = 24 * 3600;
/// Where a `CronJob` has its pods.
const SCHEDULED: &str = "/spec/jobTemplate/spec/template/spec/containers";

/// Runs Jobs and sets the images of `CronJob`s.
///
/// A Job of a service is made of the pods of the workload that serves: the container that carries the release, with the new
/// image, the command and what this version reads; without probes and other containers, which would never end, and
/// without the labels by which a Service would send it requests.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub(crate) struct KubeJobs {
    pub(crate) kube: Kube,
}

/// The Job of a key.
fn object_of(cx: &CallContext, template: &JobTemplate) -> Object {
    let name = with_suffix(template.name(), &hashed(&cx.key().to_string()));
    Object::new(JOB, template.namespace(), &name)
}

/// A Job as the run and the key may see it that started it.
fn seen(ask: &Ask, job: &Job, key: &str) -> Result<JobState> {
    let meta = &job.metadata;
    if meta.annotations.as_ref().and_then(|all| all.get(KEY)).map(String::as_str) != Some(key) {
        return Err(ask
            .error(ErrorKind::AlreadyExists, "it was not made by this step")
            .hint("find out whose it is, and remove it if nobody needs it"));
    }
    let status = job.status.clone().unwrap_or_default();
    Ok(JobState { name: meta.name.clone().unwrap_or_default(), phase: phase(&status) })
}

fn phase(status: &JobStatus) -> JobPhase {
    let is = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True");
    if is("Complete").is_some() {
        return JobPhase::Succeeded;
    }
    match is("Failed") {
        Some(failed) => {
            let (reason, message) = (failed.reason.as_deref(), failed.message.as_deref());
            let said: Vec<&str> = [reason, message].into_iter().flatten().filter(|text| !text.is_empty()).collect();
            JobPhase::Failed(said.join(": "))
        }
        None => JobPhase::Running { failed: status.failed.and_then(|n| u32::try_from(n).ok()).unwrap_or(0) },
    }
}

/// The place of a container by name; of the only one without.
fn place(ask: &Ask, containers: &Value, name: Option<&str>) -> Result<usize> {
    let containers = containers.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_it = |container: &Value| name.map_or(containers.len() == 1, |name| container["name"] == name);
    containers
        .iter()
        .position(is_it)
        .ok_or_else(|| no_container(ask, name, containers.iter().filter_map(|container| container["name"].as_str())))
}

/// What the request says about a container.
fn set(container: &mut Value, request: &JobRequest) {
    if let Some(image) = &request.image {
        container["image"] = image.as_str().into();
    }
    if !request.command.is_empty() {
        container["command"] = json!(request.command);
        container.as_object_mut().map(|fields| fields.remove("args"));
    }
}

/// The spec of a Job of a service: of the pods of the workload that serves, as its new version is to be.
fn of_service(ask: &Ask, workload: &Value, target: &Target, request: &JobRequest) -> Result<Value> {
    let mut template = workload["spec"]["template"].clone();
    configuration::rewrite(ask, &mut template, target, &target.service.config_refs())?;
    let index = place(ask, &template["spec"]["containers"], Some(target.service.container()))?;
    let mut container = template["spec"]["containers"][index].clone();
    container["image"] = target.service.image.as_str().into();
    set(&mut container, request);
    if let Some(fields) = container.as_object_mut() {
        OF_SERVERS.iter().for_each(|field| drop(fields.remove(*field)));
    }
    template["spec"]["containers"] = json!([container]);
    template["spec"]["restartPolicy"] = "Never".into();
    template["metadata"] = json!({"labels": {MANAGED_BY: "moodify"}});
    Ok(json!({"template": template}))
}

/// The spec of a Job of a `CronJob`.
fn of_cron_job(ask: &Ask, cron: &Value, container: Option<&str>, request: &JobRequest) -> Result<Value> {
    let mut spec = cron["spec"]["jobTemplate"]["spec"].clone();
    let index = place(ask, &spec["template"]["spec"]["containers"], container)?;
    set(&mut spec["template"]["spec"]["containers"][index], request);
    Ok(spec)
}

impl KubeJobs {
    fn deployer(&self) -> DeploymentDeployer {
        DeploymentDeployer::new(self.kube.clone())
    }

    /// The workload of a service that serves.
    async fn serving(&self, cx: &CallContext, target: &Target) -> Result<Value> {
        let object = match target.layout {
            Layout::Colors(_) => {
                let color = self.deployer().who_serves(cx, target).await?;
                deployment_of(&target.clone().with_layout(Layout::Colors(color)), Track::Stable)
            }
            _ => single::object_of(target),
        };
        self.kube.find(cx, &object).await?.ok_or_else(|| object.missing())
    }

    async fn spec(&self, cx: &CallContext, ask: &Ask, request: &JobRequest) -> Result<Value> {
        match &request.template {
            JobTemplate::Service(target) => {
                let workload = self.serving(cx, target).await?;
                of_service(ask, &workload, target, request)
            }
            JobTemplate::CronJob(cron) => {
                of_cron_job(ask, &self.cron_job(cx, cron).await?, cron.container.as_deref(), request)
            }
            _ => Err(ask.error(ErrorKind::Unsupported, "this kind of template is not known here")),
        }
    }

    async fn cron_job(&self, cx: &CallContext, cron: &CronJobRef) -> Result<Value> {
        let object = cron_object(cron);
        self.kube.find(cx, &object).await?.ok_or_else(|| object.missing())
    }

    async fn find(&self, cx: &CallContext, object: &Object) -> Result<Option<(Job, JobState)>> {
        let Some(job) = self.kube.find::<Job>(cx, object).await? else { return Ok(None) };
        let state = seen(&object.ask(Access::Read, "look at"), &job, &cx.key().to_string())?;
        Ok(Some((job, state)))
    }

    /// Where the container of a `CronJob` is, as the server told it, and its image.
    async fn scheduled(&self, cx: &CallContext, cron: &CronJobRef) -> Result<(Value, usize, ImageRef)> {
        let found = self.cron_job(cx, cron).await?;
        let ask = cron_object(cron).ask(Access::Read, "read");
        let containers = found.pointer(SCHEDULED).cloned().unwrap_or_default();
        let index = place(&ask, &containers, cron.container.as_deref())?;
        let container: Container = typed(&ask, containers[index].clone())?;
        let image = image(&ask, &container)?;
        Ok((found, index, image))
    }
}

fn cron_object(cron: &CronJobRef) -> Object {
    Object::new(CRON_JOB, &cron.namespace, &cron.name)
}

#[async_trait]
impl Jobs for KubeJobs {
    async fn start(&self, cx: &CallContext, request: &JobRequest) -> Result<JobState> {
        let object = object_of(cx, &request.template);
        if let Some((_, state)) = self.find(cx, &object).await? {
            return Ok(state);
        }
        let ask = object.ask(Access::Write, "start");
        let mut spec = self.spec(cx, &ask, request).await?;
        spec["backoffLimit"] = request.tries.saturating_sub(1).into();
        if spec["ttlSecondsAfterFinished"].is_null() {
            spec["ttlSecondsAfterFinished"] = KEPT.into();
        }
        if let JobTemplate::Service(target) = &request.template {
            self.deployer().make_config(cx, target, &target.service.config_refs()).await?;
        }
        let labels: Map<String, Value> = [(MANAGED_BY, "moodify"), (RUN, cx.run_id().as_str())]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into_iter()
            .collect();
        let body = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": object.name,
                "namespace": object.namespace,
                "labels": labels,
                "annotations": {KEY: cx.key().to_string()},
            },
            "spec": spec,
        });
        match self.kube.create::<Job>(cx, &object, &body).await {
            Ok(job) => seen(&ask, &job, &cx.key().to_string()),
            // A request before, whose answer was lost, may have made it.
            Err(e) if e.kind() == ErrorKind::AlreadyExists || e.effect_of() == Effect::Unknown => {
                self.find(cx, &object).await?.map(|(_, state)| state).ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    async fn watch(
        &self,
        cx: &CallContext,
        template: &JobTemplate,
    ) -> Result<BoxStream<'static, Result<Option<JobState>>>> {
        let object = object_of(cx, template);
        let (ask, key) = (object.ask(Access::Read, "watch"), cx.key().to_string());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let Some(found) = found? else { return Ok(None) };
            let unknown = |e| ask.error(ErrorKind::Internal, format!("this is not a Job as we know it: {e}"));
            seen(&ask, &found.try_parse().map_err(unknown)?, &key).map(Some)
        });
        Ok(until_error(states))
    }

    async fn tail(&self, cx: &CallContext, template: &JobTemplate, lines: u32) -> Result<Vec<String>> {
        let object = object_of(cx, template);
        let params = ListParams::default().labels(&format!("{JOB_NAME}={}", object.name));
        let pods: Vec<Pod> = self.kube.list(cx, POD, &object.namespace, &params).await?;
        let Some(newest) = pods.into_iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone()) else {
            return Ok(Vec::new());
        };
        let container = match template {
            JobTemplate::Service(target) => Some(target.service.container().to_owned()),
            JobTemplate::CronJob(cron) => cron.container.clone(),
            _ => None,
        };
        let pod = Object::new(POD, &object.namespace, newest.metadata.name.as_deref().unwrap_or_default());
        let params = LogParams { container, tail_lines: Some(i64::from(lines)), ..LogParams::default() };
        Ok(self.kube.log(cx, &pod, &params).await?.lines().map(str::to_owned).collect())
    }

    async fn remove(&self, cx: &CallContext, template: &JobTemplate) -> Result<()> {
        let object = object_of(cx, template);
        match self.find(cx, &object).await {
            // Its pods go with it.
            Ok(Some((job, _))) => self.kube.delete(cx, &object, job.metadata.uid.unwrap_or_default()).await?,
            // What was read may be past.
            Ok(None) => self.kube.is_absent(cx, &object).await?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                tracing::warn!(%object, run = %cx.run_id(), "not removed: it belongs to somebody else");
            }
            Err(e) => return Err(e),
        }
        match template {
            JobTemplate::Service(target) => {
                let tidied = self.deployer().delete_unread(cx, target, &Default::default()).await;
                tidied.map_err(|e| e.effect(Effect::Unknown))
            }
            _ => Ok(()),
        }
    }

    async fn cron_image(&self, cx: &CallContext, cron: &CronJobRef) -> Result<ImageRef> {
        self.scheduled(cx, cron).await.map(|(_, _, image)| image)
    }

    async fn set_cron_image(&self, cx: &CallContext, cron: &CronJobRef, from: &ImageRef, to: &ImageRef) -> Result<()> {
        let object = cron_object(cron);
        let (found, index, now) = self.scheduled(cx, cron).await?;
        if now == *to {
            return Ok(());
        }
        let ask = object.ask(Access::Compare, "set the image of");
        if now != *from {
            let editor = last_foreign(&typed(&ask, found["metadata"].clone())?, self.kube.manager(), &["f:spec"]);
            return Err(drift(&ask, &format!("it runs {now}, where we expected {from}"), editor));
        }
        let path = format!("{SCHEDULED}/{index}");
        let written = |field: &str| found.pointer(&format!("{path}/{field}")).cloned().unwrap_or_default();
        let patch = vec![
            json!({"op": "test", "path": format!("{path}/name"), "value": written("name")}),
            json!({"op": "test", "path": format!("{path}/image"), "value": written("image")}),
            json!({"op": "replace", "path": format!("{path}/image"), "value": to.as_str()}),
        ];
        self.kube.patch::<Value>(cx, &object, patch).await.map(drop)
    }

    async fn cron_suspended(&self, cx: &CallContext, cron: &CronJobRef) -> Result<bool> {
        Ok(self.cron_job(cx, cron).await?["spec"]["suspend"] == true)
    }

    async fn set_cron_suspended(&self, cx: &CallContext, cron: &CronJobRef, suspended: bool) -> Result<()> {
        let found = self.cron_job(cx, cron).await?;
        let now = &found["spec"]["suspend"];
        if (*now == true) == suspended {
            return Ok(());
        }
        // Left out it is no; the server has to find what we found.
        let mut patch = vec![json!({"op": "test", "path": "/spec/suspend", "value": now})];
        patch.push(json!({"op": "add", "path": "/spec/suspend", "value": suspended}));
        let patch = if now.is_null() { patch.split_off(1) } else { patch };
        self.kube.patch::<Value>(cx, &cron_object(cron), patch).await.map(drop)
    }

    fn by_hand_suspended(&self, cron: &CronJobRef, suspended: bool) -> Vec<String> {
        let patch = json!({"spec": {"suspend": suspended}});
        vec![format!("kubectl -n {} patch cronjob/{} -p '{patch}'", cron.namespace, cron.name)]
    }

    fn by_hand(&self, cron: &CronJobRef, image: &ImageRef) -> Vec<String> {
        let container = cron.container.as_deref().unwrap_or("*");
        vec![format!("kubectl -n {} set image cronjob/{} '{container}={image}'", cron.namespace, cron.name)]
    }
}

impl KubeJobs {
    /// Whether what a request names is there, without starting anything.
    pub(crate) async fn examine(&self, cx: &CallContext, request: &JobRequest) -> Result<(), Error> {
        let ask = object_of(cx, &request.template).ask(Access::Read, "plan");
        self.spec(cx, &ask, request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{stable_deployment, target};
    use moodify_core::model::ConfigVersion;

    fn ask() -> Ask {
        Ask::new(Access::Read, "plan", "ns/web")
    }

    #[test]
    fn a_job_of_a_service_ends_and_gets_no_requests() {
        let (mut target, mut workload) = (target(), stable_deployment());
        target.service.config = vec![ConfigVersion::there("keys", "keys-2")];
        let pod = &mut workload["spec"]["template"]["spec"];
        pod["containers"][1]["readinessProbe"] = json!({"httpGet": {"path": "/health"}});
        pod["containers"][1]["args"] = json!(["serve"]);
        pod["containers"][1]["envFrom"] = json!([{"secretRef": {"name": "keys"}}]);
        pod["serviceAccountName"] = "web".into();
        let request = JobRequest::new(JobTemplate::Service(Box::new(target.clone()))).command(["migrate", "--all"]);
        let template = &of_service(&ask(), &workload, &target, &request).unwrap()["template"];
        let containers = template["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "the proxy would never end");
        assert_eq!(
            containers[0],
            json!({"name": "web", "image": "registry/web:v2", "unknown": "kept", "command": ["migrate", "--all"],
                "envFrom": [{"secretRef": {"name": "keys-2"}}]})
        );
        assert_eq!(
            template["metadata"],
            json!({"labels": {MANAGED_BY: "moodify"}}),
            "no label that a Service selects by"
        );
        assert_eq!(
            (&template["spec"]["restartPolicy"], &template["spec"]["serviceAccountName"]),
            (&json!("Never"), &json!("web"))
        );
    }

    #[test]
    fn a_job_of_a_cron_job_is_its_template_with_what_the_plan_says() {
        let cron = json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"activeDeadlineSeconds": 60, "template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1", "args": ["x"]}]}}}}}});
        let of = CronJobRef { namespace: "ns".into(), name: "report".into(), container: Some("b".into()) };
        let request = JobRequest::new(JobTemplate::CronJob(of)).image("b:2".parse().unwrap());
        let spec = of_cron_job(&ask(), &cron, Some("b"), &request).unwrap();
        assert_eq!(spec["activeDeadlineSeconds"], 60);
        let containers = &spec["template"]["spec"]["containers"];
        assert_eq!(containers, &json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2", "args": ["x"]}]));
        let error = of_cron_job(&ask(), &cron, None, &request).unwrap_err();
        assert!(error.message().contains("several containers: a, b"), "{error}");
    }

    #[test]
    fn how_far_a_job_is_it_says_in_its_conditions() {
        let of = |status: Value| phase(&serde_json::from_value(status).unwrap());
        assert_eq!(of(json!({})), JobPhase::Running { failed: 0 });
        assert_eq!(of(json!({"active": 1, "failed": 2})), JobPhase::Running { failed: 2 });
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"});
        assert_eq!(of(json!({"conditions": [condition("SuccessCriteriaMet")]})), JobPhase::Running { failed: 0 });
        assert_eq!(of(json!({"conditions": [condition("Complete")]})), JobPhase::Succeeded);
        let failed = JobPhase::Failed("BackoffLimitExceeded: too often".to_owned());
        assert_eq!(of(json!({"conditions": [condition("FailureTarget"), condition("Failed")]})), failed);
    }
}
