use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::age::ago;
use super::logs::selector_in;
use super::table::columns;
use super::write::missing;
use super::{EventRow, PodRow, Select, Verbs, Workload};
use crate::client::{Object, POD, typed};
use crate::error::Access;
use crate::pod;

/// How old an event may be that a description tells.
const RECENT: Duration = Duration::from_secs(3600);

/// A condition of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Condition {
    /// Of what: `Available`, `Progressing`, `Ready`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// A container as a person at night needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerDescription {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// Whether it only initialises the pod.
    pub init: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// What it does now: `running`, `waiting: CrashLoopBackOff`, `terminated: exit code 1 (Error)`.
    pub state: String,
    /// How its last run ended, if there was one.
    pub last_state: Option<String>,
    /// What it may use at most.
    pub limits: BTreeMap<String, String>,
    /// What it is sure to have.
    pub requests: BTreeMap<String, String>,
}

/// A pod and why it is as it is. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PodDescription {
    /// What `kubectl get` shows of it.
    pub pod: PodRow,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What made it, as `ReplicaSet/web-5d8f`.
    pub controlled_by: Option<String>,
    /// Why it is not ready, in a sentence.
    pub reason: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Its containers, those that initialise it first.
    pub containers: Vec<ContainerDescription>,
    /// What happened to it in the last hour, the newest last.
    pub events: Vec<EventRow>,
}

/// A workload, its pods, and why they are as they are. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkloadDescription {
    /// Its namespace.
    pub namespace: String,
    /// The workload.
    pub workload: Workload,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its generation, and the one that its controller has seen.
    pub generations: (i64, i64),
    /// How many pods there are to be; none for a `DaemonSet`.
    pub desired: Option<u32>,
    /// How new pods take the place of old ones.
    pub strategy: String,
    /// Whether its rollout is paused.
    pub paused: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What its containers are to run.
    pub images: Vec<super::ContainerImage>,
    /// Its revision, if it tells one.
    pub revision: Option<String>,
    /// Its pods, and for those that are not ready why.
    pub pods: Vec<(PodRow, Option<String>)>,
    /// What happened in the last hour to it, its `ReplicaSets` and its pods, the newest last.
    pub events: Vec<EventRow>,
}

impl Verbs {
    /// A pod with its containers, their last runs and its events: `kubectl describe pod`.
    ///
    /// # Errors
    /// [`NotFound`](moodify_core::ErrorKind::NotFound), and when the server cannot be asked.
    pub async fn describe_pod(&self, cx: &CallContext, name: &str) -> Result<PodDescription> {
        let object = Object::new(POD, &self.namespace, name);
        let found: Option<Value> = self.kube.find(cx, &object).await?;
        let found = found.ok_or_else(|| missing(&object))?;
        let of_it = Select::all().fields(format!("involvedObject.kind=Pod,involvedObject.name={name}"));
        let mut events = self.recent_events(cx, &of_it).await?;
        events.retain(|event| event.object == name);
        let conditions = conditions(&found["status"]["conditions"]);
        let pod: Pod = typed(&object.ask(Access::Read, "describe"), found)?;
        let owner = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        Ok(PodDescription {
            reason: reason(&pod),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            controlled_by: owner.map(|o| format!("{}/{}", o.kind, o.name)),
            conditions,
            containers: containers(&pod),
            events,
            pod: PodRow::of(&pod),
        })
    }

    /// A workload with its conditions, its pods and their events: `kubectl describe deployment`, and what one looks up
    /// next.
    ///
    /// # Errors
    /// [`NotFound`](moodify_core::ErrorKind::NotFound), and when the server cannot be asked.
    pub async fn describe_workload(&self, cx: &CallContext, workload: &Workload) -> Result<WorkloadDescription> {
        let read = self.read(cx, workload).await?;
        let revisions = self.revisions(cx, workload, &read).await?;
        let selector = selector_in(&workload.object(&self.namespace), &read)?;
        let pods: Vec<Pod> = self.list(cx, POD, &Select::all().labels(selector)).await?;
        let pods: Vec<(PodRow, Option<String>)> = pods.iter().map(|p| (PodRow::of(p), reason(p))).collect();
        let about = |event: &EventRow| match event.object_kind.as_str() {
            "ReplicaSet" | "ControllerRevision" => revisions.iter().any(|r| r.kept_by == event.object),
            // Pods that are gone are told by the name of what made them.
            "Pod" => {
                pods.iter().any(|(pod, _)| pod.name == event.object)
                    || revisions
                        .iter()
                        .any(|r| event.object.strip_prefix(r.kept_by.as_str()).is_some_and(|x| x.starts_with('-')))
            }
            kind => kind == workload.kind.kind().kind && event.object == workload.name,
        };
        let mut events = self.recent_events(cx, &Select::all()).await?;
        events.retain(about);
        let (meta, spec, status) = (&read["metadata"], &read["spec"], &read["status"]);
        let strategy = spec["strategy"]["type"].as_str().or(spec["updateStrategy"]["type"].as_str());
        let containers: Vec<Container> =
            serde_json::from_value(spec["template"]["spec"]["containers"].clone()).unwrap_or_default();
        Ok(WorkloadDescription {
            namespace: self.namespace.to_string(),
            workload: workload.clone(),
            created: meta["creationTimestamp"].as_str().and_then(|t| t.parse().ok()),
            generations: (meta["generation"].as_i64().unwrap_or(0), status["observedGeneration"].as_i64().unwrap_or(0)),
            desired: spec["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()),
            strategy: strategy.unwrap_or_default().to_owned(),
            paused: spec["paused"] == true,
            labels: serde_json::from_value(meta["labels"].clone()).unwrap_or_default(),
            conditions: conditions(&status["conditions"]),
            images: super::rows::images(&containers),
            revision: revisions.last().map(|r| r.number.to_string()),
            pods,
            events,
        })
    }

    async fn recent_events(&self, cx: &CallContext, select: &Select) -> Result<Vec<EventRow>> {
        let now = SystemClock.now();
        let mut events = self.events(cx, select).await?;
        events.retain(|event| event.is_within(RECENT, now));
        Ok(events)
    }
}

/// Why a pod is not ready.
fn reason(pod: &Pod) -> Option<String> {
    let first = pod.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.clone()).unwrap_or_default();
    let ended = pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Succeeded"));
    pod::state(pod, &first).reason.filter(|_| !ended)
}

fn conditions(list: &Value) -> Vec<Condition> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let condition = |c: &Value| Condition {
        kind: text(&c["type"]),
        status: text(&c["status"]),
        reason: text(&c["reason"]),
        message: text(&c["message"]),
        since: c["lastTransitionTime"].as_str().and_then(|t| t.parse().ok()),
    };
    list.as_array().into_iter().flatten().map(condition).collect()
}

fn containers(pod: &Pod) -> Vec<ContainerDescription> {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let init = spec.init_containers.unwrap_or_default();
    let all = init.iter().map(|c| (true, c)).chain(spec.containers.iter().map(|c| (false, c)));
    let statuses: Vec<ContainerStatus> =
        status.init_container_statuses.into_iter().chain(status.container_statuses).flatten().collect();
    let describe = |(init, container): (bool, &Container)| {
        let status = statuses.iter().find(|s| s.name == container.name);
        let resources = container.resources.clone().unwrap_or_default();
        let amounts = |amounts: Option<BTreeMap<String, _>>| {
            let amounts = amounts.into_iter().flatten();
            amounts.map(|(k, q): (String, k8s_openapi::apimachinery::pkg::api::resource::Quantity)| (k, q.0)).collect()
        };
        ContainerDescription {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            init,
            ready: status.is_some_and(|s| s.ready),
            restarts: status.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0)),
            state: status.and_then(|s| told(s.state.as_ref()?)).unwrap_or_else(|| "waiting".to_owned()),
            last_state: status.and_then(|s| told(s.last_state.as_ref()?)),
            limits: amounts(resources.limits),
            requests: amounts(resources.requests),
        }
    };
    all.map(describe).collect()
}

/// What a container does or did. Not its own last words: they may hold a secret.
fn told(state: &ContainerState) -> Option<String> {
    let with = |what: &str, reason: Option<&str>, message: Option<&str>| {
        let parts = [Some(what), reason, message].into_iter().flatten().filter(|part| !part.trim().is_empty());
        parts.collect::<Vec<_>>().join(": ")
    };
    if let Some(running) = &state.running {
        return Some(match &running.started_at {
            Some(since) => format!("running since {}", since.0.strftime("%H:%M:%S UTC")),
            None => "running".to_owned(),
        });
    }
    if let Some(waiting) = &state.waiting {
        return Some(with("waiting", waiting.reason.as_deref(), waiting.message.as_deref()));
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().filter(|r| !r.is_empty()).map(|r| format!(" ({r})")).unwrap_or_default();
    let at = ended.finished_at.as_ref().map(|t| format!(" at {}", t.0.strftime("%H:%M:%S UTC"))).unwrap_or_default();
    Some(format!("terminated: exit code {}{reason}{at}", ended.exit_code))
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(", ") }
}

fn write_conditions(f: &mut fmt::Formatter<'_>, conditions: &[Condition]) -> fmt::Result {
    if conditions.is_empty() {
        return Ok(());
    }
    let line = |c: &Condition| {
        let why = [c.reason.as_str(), c.message.as_str()].into_iter().filter(|p| !p.is_empty());
        vec![format!("  {}", c.kind), c.status.clone(), why.collect::<Vec<_>>().join(": ")]
    };
    write!(f, "Conditions:\n{}", columns(&conditions.iter().map(line).collect::<Vec<_>>(), 0, 2))
}

fn write_events(f: &mut fmt::Formatter<'_>, events: &[EventRow]) -> fmt::Result {
    if events.is_empty() {
        return writeln!(f, "Events: none in the last hour");
    }
    let now = SystemClock.now();
    let line = |e: &EventRow| {
        let times = if e.count > 1 { format!(" (x{})", e.count) } else { String::new() };
        let object = format!("{}/{}", e.object_kind, e.object);
        vec![format!("  {}{times}", ago(e.last, now)), e.kind.clone(), e.reason.clone(), object, e.message.clone()]
    };
    write!(f, "Events:\n{}", columns(&events.iter().map(line).collect::<Vec<_>>(), 0, 2))
}

impl fmt::Display for PodDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pod = &self.pod;
        writeln!(f, "Pod {}/{}: {}, {}/{} ready", pod.namespace, pod.name, pod.status, pod.ready, pod.containers)?;
        if let Some(reason) = &self.reason {
            writeln!(f, "Not ready because: {reason}")?;
        }
        let none = || "<none>".to_owned();
        writeln!(f, "Node: {}, IP: {}", pod.node.clone().unwrap_or_else(none), pod.ip.clone().unwrap_or_else(none))?;
        writeln!(f, "Controlled by: {}", self.controlled_by.clone().unwrap_or_else(none))?;
        writeln!(f, "Labels: {}", pairs(&self.labels))?;
        for c in &self.containers {
            let init = if c.init { "Init container" } else { "Container" };
            writeln!(f, "{init} {}: {}", c.name, c.image)?;
            let ready = if c.ready { "ready" } else { "not ready" };
            writeln!(f, "  State: {}, {ready}, {} restarts", c.state, c.restarts)?;
            if let Some(last) = &c.last_state {
                writeln!(f, "  Last state: {last}")?;
            }
            writeln!(f, "  Limits: {}; requests: {}", pairs(&c.limits), pairs(&c.requests))?;
        }
        write_conditions(f, &self.conditions)?;
        write_events(f, &self.events)
    }
}

impl fmt::Display for WorkloadDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = (self.workload.kind.kind().kind, &self.workload.name);
        let ready = self.pods.iter().filter(|(pod, _)| pod.ready == pod.containers).count();
        let desired = self.desired.map(|n| format!(" of {n}")).unwrap_or_default();
        writeln!(f, "{kind} {}/{name}: {ready}{desired} pods ready", self.namespace)?;
        let (generation, observed) = self.generations;
        let seen = if observed < generation { "; its controller has not seen the last change yet" } else { "" };
        let paused = if self.paused { ", paused" } else { "" };
        let revision = self.revision.clone().unwrap_or_else(|| "<none>".to_owned());
        writeln!(f, "Revision: {revision}, generation: {generation}{seen}")?;
        writeln!(f, "Strategy: {}{paused}", self.strategy)?;
        writeln!(f, "Labels: {}", pairs(&self.labels))?;
        for image in &self.images {
            writeln!(f, "Container {}: {}", image.container, image.image)?;
        }
        write_conditions(f, &self.conditions)?;
        for (pod, reason) in &self.pods {
            let reason = reason.as_ref().map(|r| format!(", {r}")).unwrap_or_default();
            let restarts = if pod.restarts > 0 { format!(", {} restarts", pod.restarts) } else { String::new() };
            writeln!(f, "Pod {}: {}, {}/{} ready{restarts}{reason}", pod.name, pod.status, pod.ready, pod.containers)?;
        }
        write_events(f, &self.events)
    }
}
