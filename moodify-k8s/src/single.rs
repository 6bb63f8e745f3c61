//! One workload in which the new version takes the place of the old one, held at a size batch by batch: a `StatefulSet` by
//! its partition, a `DaemonSet` by deleting only so many pods, a Deployment by pausing it.
//!
//! What is held is written into the workload itself, together with what it was before: who takes it back needs no memory.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::DynamicObject;
use kube::core::params::ListParams;
use kube::runtime::watcher;
use moodify_core::backend::{CanarySpec, Change, ImageChange, Remedy, Replicas, Scale, Workload};
use moodify_core::model::{ConfigRefs, ImageRef, Target, Track, WorkloadKind};
use moodify_core::{CallContext, Effect, ErrorKind, Result, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{DAEMON_SET, DEPLOYMENT, Kube, Object, POD, SERVICE, STATEFUL_SET, typed, until_error};
use crate::configuration;
use crate::deployer::{DeploymentDeployer, scaling};
use crate::diagnostics::selector_text;
use crate::error::{Access, Ask};
use crate::ownership::{self, last_foreign};
use crate::patch;
use crate::pod;
use crate::workload::{self, image};

/// The annotation of a workload that is held: by whom, how, and what it was before.
const HELD: &str = "moodify.dev/held";
const STRATEGY: &str = "/spec/updateStrategy";
const PARTITION: &str = "/spec/updateStrategy/rollingUpdate/partition";
const PAUSED: &str = "/spec/paused";

/// Where a workload is held, and what it was before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Held {
    run: String,
    /// The image of before.
    before: String,
    /// What its pods read before, of the configuration that ships with the service.
    #[serde(default, skip_serializing_if = "ConfigRefs::is_empty")]
    config: ConfigRefs,
    /// How many instances may run the new one.
    instances: u32,
    /// What the field was that holds it.
    was: Value,
    /// What moodify set it to; `null` while it is not set.
    set: Value,
}

/// A workload of any kind, read.
struct Whole {
    value: Value,
    meta: ObjectMeta,
    index: usize,
    /// As it is written, and as it is meant.
    written: String,
    image: ImageRef,
    held: Option<Held>,
}

pub(crate) fn object_of(target: &Target) -> Object {
    let kind = match target.service.kind {
        WorkloadKind::Deployment => DEPLOYMENT,
        WorkloadKind::StatefulSet => STATEFUL_SET,
        WorkloadKind::DaemonSet => DAEMON_SET,
    };
    Object::new(kind, &target.namespace, &target.service.workload)
}

fn number(value: &Value, at: &str) -> u32 {
    value.pointer(at).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The field by which a workload of this kind is held.
fn field(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => PAUSED,
        WorkloadKind::StatefulSet => PARTITION,
        WorkloadKind::DaemonSet => "/spec/updateStrategy/type",
    }
}

impl Whole {
    fn new(ask: &Ask, value: Value, target: &Target) -> Result<Self> {
        let name = target.service.container();
        let containers: Vec<Container> = typed(ask, value["spec"]["template"]["spec"]["containers"].clone())?;
        let (index, runs) = workload::named(ask, &containers, name)?;
        let meta: ObjectMeta = typed(ask, value["metadata"].clone())?;
        let held = match meta.annotations.as_ref().and_then(|annotations| annotations.get(HELD)) {
            None => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|e| {
                ask.error(ErrorKind::Drift, format!("its annotation {HELD} cannot be read: {e}"))
                    .hint("it says what the workload was before it was held; find out who changed it")
            })?),
        };
        let (written, image) = (runs.image.clone().unwrap_or_default(), image(ask, runs)?);
        Ok(Self { value, meta, index, written, image, held })
    }

    /// How many instances are asked for; of a `DaemonSet` as many as there are nodes for it.
    fn desired(&self, kind: WorkloadKind) -> u32 {
        match kind {
            WorkloadKind::DaemonSet => number(&self.value, "/status/desiredNumberScheduled"),
            _ if self.value["spec"]["replicas"].is_null() => 1,
            _ => number(&self.value, "/spec/replicas"),
        }
    }

    /// What its pods read of the configuration that ships with the service.
    fn reads(&self, target: &Target) -> ConfigRefs {
        configuration::reads(configuration::annotation(&self.value["spec"]["template"]), target)
    }

    fn workload(&self, target: &Target) -> Workload {
        let kind = target.service.kind;
        let count = |field: &str| number(&self.value["status"], field);
        let generation = self.meta.generation.unwrap_or(0);
        let observed = self.value["status"]["observedGeneration"].as_i64().is_some_and(|seen| seen >= generation);
        let replicas = match kind {
            WorkloadKind::DaemonSet => Replicas {
                desired: self.desired(kind),
                total: count("/currentNumberScheduled"),
                updated: count("/updatedNumberScheduled"),
                ready: count("/numberReady"),
                available: count("/numberAvailable"),
            },
            _ => Replicas {
                desired: self.desired(kind),
                total: count("/replicas"),
                updated: count("/updatedReplicas"),
                ready: count("/readyReplicas"),
                available: count("/availableReplicas"),
            },
        };
        let conditions = self.value["status"]["conditions"].as_array().into_iter().flatten();
        let mut gave_up = conditions.filter(|c| c["reason"] == "ProgressDeadlineExceeded" && c["status"] == "False");
        let stalled = gave_up.next().filter(|_| observed).map(|c| {
            let why = c["message"].as_str().unwrap_or_default();
            format!("Kubernetes gave up waiting for progress (ProgressDeadlineExceeded): {why}")
        });
        let name = target.service.workload.clone();
        let config = self.reads(target);
        Workload { name, image: self.image.clone(), config, replicas, generation, observed, stalled }
    }

    /// The part that runs the new version. What is not available may all be of that part: nobody counts the two apart.
    fn part(&self, target: &Target) -> Workload {
        let whole = self.workload(target);
        let Replicas { desired, total, updated, ready, available } = whole.replicas;
        let all = total.max(desired);
        let of_it = |well: u32| updated.saturating_sub(all.saturating_sub(well));
        let desired = self.held.as_ref().map_or(desired, |held| held.instances);
        let replicas = Replicas { desired, total: updated, updated, ready: of_it(ready), available: of_it(available) };
        Workload { replicas, ..whole }
    }

    /// Another run holds it, or somebody changed what holds it.
    fn check(&self, kube: &Kube, ask: &Ask, target: &Target, run: &RunId) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        if held.run != run.as_str() {
            return Err(ask
                .error(ErrorKind::AlreadyExists, format!("the run {} holds it in the middle of a release", held.run))
                .hint(format!("let that run end, or take it back with: moodify resume {}", held.run)));
        }
        let kind = target.service.kind;
        let is = self.value.pointer(field(kind)).cloned().unwrap_or(Value::Null);
        // Not paused may be written in two ways.
        let ours = is == held.set || (held.set.is_null() && is == json!(false));
        if !ours {
            let message = format!("{} is {is}, where this run had set {}", &field(kind)[1..], held.set);
            return Err(self.drift(kube, ask, &message));
        }
        let partition = held.set.as_u64().and_then(|n| u32::try_from(n).ok());
        if let Some(partition) = partition.filter(|_| kind == WorkloadKind::StatefulSet) {
            let may = self.desired(kind).saturating_sub(partition);
            if may > held.instances {
                let message = format!(
                    "it was scaled: {may} instances run the new version, where this run allows {}",
                    held.instances
                );
                return Err(self.drift(kube, ask, &message));
            }
        }
        Ok(())
    }

    fn drift(&self, kube: &Kube, ask: &Ask, message: &str) -> moodify_core::Error {
        ownership::drift(ask, message, last_foreign(&self.meta, kube.manager(), &["f:spec"]))
    }

    /// Puts another image in the place of this one, compared at the moment of the write.
    fn replace_image(&self, target: &Target, to: &str) -> Vec<Value> {
        let path = format!("/spec/template/spec/containers/{}", self.index);
        vec![
            json!({"op": "test", "path": format!("{path}/name"), "value": target.service.container()}),
            json!({"op": "test", "path": format!("{path}/image"), "value": self.written}),
            json!({"op": "replace", "path": format!("{path}/image"), "value": to}),
        ]
    }

    /// Holds it at so many instances of the new version, or lets it roll on to as many.
    fn hold(&self, ask: &Ask, target: &Target, spec: &CanarySpec, run: &RunId) -> Result<Vec<Value>> {
        let kind = target.service.kind;
        let desired = self.desired(kind);
        let strategy = &self.value["spec"]["updateStrategy"];
        let mut operations = match &self.held {
            Some(_) => Vec::new(),
            None => self.replace_image(target, spec.image.as_str()),
        };
        if self.held.is_none() {
            operations.extend(configuration::patch(ask, &self.value, target, &spec.config)?);
        }
        let was = match (&self.held, kind) {
            (Some(held), _) => held.was.clone(),
            (None, WorkloadKind::Deployment) => Value::Null,
            (None, _) => strategy.clone(),
        };
        let set = match kind {
            WorkloadKind::StatefulSet => {
                let partition = desired.saturating_sub(spec.replicas);
                let mut rolling = strategy.clone();
                rolling["type"] = json!("RollingUpdate");
                rolling["rollingUpdate"]["partition"] = json!(partition);
                operations.push(json!({"op": "test", "path": "/spec/replicas", "value": desired}));
                operations.push(json!({"op": "test", "path": STRATEGY, "value": strategy}));
                operations.push(json!({"op": "replace", "path": STRATEGY, "value": rolling}));
                json!(partition)
            }
            WorkloadKind::DaemonSet => {
                operations.push(json!({"op": "test", "path": STRATEGY, "value": strategy}));
                operations.push(json!({"op": "replace", "path": STRATEGY, "value": {"type": "OnDelete"}}));
                json!("OnDelete")
            }
            WorkloadKind::Deployment => {
                let paused = self.value["spec"]["paused"] == json!(true);
                if paused {
                    operations.push(json!({"op": "test", "path": PAUSED, "value": true}));
                }
                // Its surge may have taken it as far as this batch already: going on would only take it further.
                let now = self.workload(target);
                if paused && now.observed && now.replicas.updated >= spec.replicas && spec.replicas < desired {
                    json!(true)
                } else {
                    if paused {
                        operations.push(json!({"op": "remove", "path": PAUSED}));
                    }
                    Value::Null
                }
            }
        };
        let (before, config) = match &self.held {
            Some(held) => (held.before.clone(), held.config.clone()),
            None => (self.written.clone(), self.reads(target)),
        };
        let held = Held { run: run.to_string(), before, config, instances: spec.replicas, was, set };
        self.note(&mut operations, &held);
        Ok(operations)
    }

    /// Writes down how it is held.
    fn note(&self, operations: &mut Vec<Value>, held: &Held) {
        let text = serde_json::to_string(held).unwrap_or_default();
        patch::put(operations, &self.value, "/metadata/annotations", HELD, &text);
    }

    /// Gives back what holds it, as it was before; or leaves that as it is, where somebody else changed it.
    fn release(&self, kind: WorkloadKind, edited: bool) -> Vec<Value> {
        let Some(held) = &self.held else { return Vec::new() };
        let text = self.meta.annotations.as_ref().and_then(|annotations| annotations.get(HELD));
        let mut operations = vec![
            json!({"op": "test", "path": patch::annotation(HELD), "value": text}),
            json!({"op": "remove", "path": patch::annotation(HELD)}),
        ];
        match kind {
            _ if edited => {}
            WorkloadKind::Deployment if self.value["spec"]["paused"] == json!(true) => {
                operations.push(json!({"op": "test", "path": PAUSED, "value": true}));
                operations.push(json!({"op": "remove", "path": PAUSED}));
            }
            WorkloadKind::Deployment => {}
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
                operations.push(json!({"op": "test", "path": field(kind), "value": held.set}));
                operations.push(json!({"op": "replace", "path": STRATEGY, "value": held.was}));
            }
        }
        operations
    }
}

impl DeploymentDeployer {
    async fn find_single(&self, cx: &CallContext, target: &Target) -> Result<Option<Whole>> {
        let object = object_of(target);
        let ask = object.ask(Access::Read, "get");
        let found: Option<Value> = self.kube.find(cx, &object).await?;
        found.map(|value| Whole::new(&ask, value, target)).transpose()
    }

    async fn get_single(&self, cx: &CallContext, target: &Target) -> Result<Whole> {
        let whole = self.find_single(cx, target).await?.ok_or_else(|| object_of(target).missing())?;
        whole.check(&self.kube, &object_of(target).ask(Access::Read, "check"), target, cx.run_id())?;
        Ok(whole)
    }

    async fn patch_single(&self, cx: &CallContext, target: &Target, operations: Vec<Value>) -> Result<Whole> {
        let object = object_of(target);
        let patched: Value = self.kube.patch(cx, &object, operations).await?;
        Whole::new(&object.ask(Access::Write, "patch"), patched, target)
    }

    pub(crate) async fn observe_single(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<Option<Workload>> {
        let found = self.find_single(cx, target).await?;
        let ask = object_of(target).ask(Access::Read, "check");
        found.map_or(Ok(None), |whole| seen(&self.kube, &ask, &whole, target, track, cx.run_id()))
    }

    pub(crate) fn watch_single(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> BoxStream<'static, Result<Option<Workload>>> {
        let object = object_of(target);
        let ask = object.ask(Access::Read, "watch");
        let (kube, run, target) = (self.kube.clone(), cx.run_id().clone(), target.clone());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let Some(found) = found? else { return Ok(None) };
            let value = serde_json::to_value(&found).unwrap_or_default();
            seen(&kube, &ask, &Whole::new(&ask, value, &target)?, &target, track, &run)
        });
        until_error(states)
    }

    /// Lets so many instances run the new version, and holds it there.
    pub(crate) async fn hold_single(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Workload> {
        let ask = object_of(target).ask(Access::Compare, "hold");
        let mut whole = self.get_single(cx, target).await?;
        match &whole.held {
            None if whole.image == spec.image => {
                let message = "it runs the new version everywhere: what held it is not there any more";
                return Err(whole.drift(&self.kube, &ask, message));
            }
            Some(_) if whole.image != spec.image => {
                let message = format!("it runs {}, where this run had set {}", whole.image, spec.image);
                return Err(whole.drift(&self.kube, &ask, &message));
            }
            Some(held) if held.instances == spec.replicas => {}
            _ => {
                self.make_config(cx, target, &spec.config).await?;
                let operations = whole.hold(&ask, target, spec, cx.run_id())?;
                whole = self.patch_single(cx, target, operations).await?;
            }
        }
        // What follows is only half of it, if it fails.
        let reached = match target.service.kind {
            WorkloadKind::StatefulSet => Ok(whole),
            WorkloadKind::DaemonSet => self.delete_old(cx, target, spec).await,
            WorkloadKind::Deployment => self.pause_at(cx, target, spec).await,
        };
        Ok(reached.map_err(|e| e.effect(Effect::Unknown))?.part(target))
    }

    /// Lets a Deployment roll until so many instances are of the new version, and pauses it.
    async fn pause_at(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Whole> {
        let mut states = self.watch_whole(cx, target);
        while let Some(whole) = states.next().await {
            let whole = whole?;
            let now = whole.workload(target);
            if now.stalled.is_some() || spec.replicas >= now.replicas.desired {
                return Ok(whole);
            }
            if !now.observed || now.replicas.updated < spec.replicas {
                continue;
            }
            let Some(held) = whole.held.clone().filter(|_| whole.value["spec"]["paused"] != json!(true)) else {
                return Ok(whole);
            };
            // While it rolls, its status changes faster than anybody can write: what nobody else may have changed is what is
            // asked for, and our note.
            let text = whole.meta.annotations.as_ref().and_then(|annotations| annotations.get(HELD));
            let mut operations = vec![
                json!({"op": "test", "path": "/metadata/generation", "value": whole.meta.generation}),
                json!({"op": "test", "path": patch::annotation(HELD), "value": text}),
                json!({"op": "add", "path": PAUSED, "value": true}),
            ];
            whole.note(&mut operations, &Held { set: json!(true), ..held });
            match self.patch_single(cx, target, operations).await {
                // It was changed meanwhile: the watch tells.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                other => return other,
            }
        }
        let ask = object_of(target).ask(Access::Compare, "hold");
        Err(ask.error(ErrorKind::Timeout, "it was not rolled so far in time, and is not held"))
    }

    /// Deletes pods of the version before until so many are of the new one, no more at once than may be unavailable.
    async fn delete_old(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Whole> {
        let mut states = self.watch_whole(cx, target);
        while let Some(whole) = states.next().await {
            let whole = whole?;
            if !whole.workload(target).observed {
                continue;
            }
            let pods = self.pods_of(cx, target, &whole).await?;
            let is_new = |pod: &&Pod| pod::state(pod, target.service.container()).image == spec.image.as_str();
            let new = pods.iter().filter(is_new).count();
            let old: Vec<&Pod> = pods.iter().filter(|pod| !is_new(pod)).collect();
            if new >= spec.replicas as usize
                || (old.is_empty() && pods.len() >= whole.desired(target.service.kind) as usize)
            {
                return Ok(whole);
            }
            let missing = (whole.desired(target.service.kind) as usize).saturating_sub(pods.len());
            let ready = |pod: &Pod| pod::state(pod, target.service.container()).ready;
            let down = missing + pods.iter().filter(|pod| !ready(pod)).count();
            let may = at_once(&whole).saturating_sub(down).min((spec.replicas as usize).saturating_sub(new + missing));
            for pod in old.into_iter().take(may) {
                self.delete_pod_of(cx, target, pod).await?;
            }
        }
        let ask = object_of(target).ask(Access::Compare, "roll a batch of");
        Err(ask.error(ErrorKind::Timeout, "not so many pods were replaced in time"))
    }

    fn watch_whole(&self, cx: &CallContext, target: &Target) -> BoxStream<'static, Result<Whole>> {
        let object = object_of(target);
        let ask = object.ask(Access::Read, "watch");
        let (kube, run, target) = (self.kube.clone(), cx.run_id().clone(), target.clone());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let found = found?.ok_or_else(|| object_of(&target).missing())?;
            let whole = Whole::new(&ask, serde_json::to_value(&found).unwrap_or_default(), &target)?;
            whole.check(&kube, &ask, &target, &run)?;
            Ok(whole)
        });
        until_error(states)
    }

    /// The pods of a workload that are not being deleted.
    async fn pods_of(&self, cx: &CallContext, target: &Target, whole: &Whole) -> Result<Vec<Pod>> {
        let ask = object_of(target).ask(Access::Read, "list the pods of");
        let selector: LabelSelector = typed(&ask, whole.value["spec"]["selector"].clone())?;
        let params = ListParams::default().labels(&selector_text(&selector));
        let mut pods: Vec<Pod> = self.kube.list(cx, POD, &target.namespace, &params).await?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    async fn delete_pod_of(&self, cx: &CallContext, target: &Target, pod: &Pod) -> Result<()> {
        let object = Object::new(POD, &target.namespace, pod.metadata.name.as_deref().unwrap_or_default());
        self.kube.delete(cx, &object, pod.metadata.uid.clone().unwrap_or_default()).await
    }

    /// A `StatefulSet` waits for a broken pod before it replaces any, also for one of a version that is not asked for any
    /// more: such pods are deleted.
    async fn unblock(&self, cx: &CallContext, target: &Target, whole: &Whole) -> Result<()> {
        if target.service.kind != WorkloadKind::StatefulSet {
            return Ok(());
        }
        for pod in self.pods_of(cx, target, whole).await? {
            let state = pod::state(&pod, target.service.container());
            if !state.ready && state.image != whole.written {
                self.delete_pod_of(cx, target, &pod).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn scale_single(&self, cx: &CallContext, target: &Target, scale: Scale) -> Result<Workload> {
        let whole = self.get_single(cx, target).await?;
        let operations = self.scaling_single(target, &whole, scale)?;
        let whole = if operations.is_empty() { whole } else { self.patch_single(cx, target, operations).await? };
        if scale.to == 0 {
            self.none_left(cx, target, &whole).await.map_err(|e| e.effect(Effect::Unknown))?;
        }
        Ok(whole.workload(target))
    }

    /// Waits until no pod is left, not even one that is ending: that one still runs, though nobody counts it any more.
    async fn none_left(&self, cx: &CallContext, target: &Target, whole: &Whole) -> Result<()> {
        let ask = object_of(target).ask(Access::Compare, "wait for the end of the pods of");
        let selector: LabelSelector = typed(&ask, whole.value["spec"]["selector"].clone())?;
        let config = watcher::Config::default().labels(&selector_text(&selector));
        let mut events = std::pin::pin!(self.kube.watch(cx, POD, &target.namespace, config));
        let (mut there, mut complete) = (BTreeSet::new(), false);
        while let Some(event) = events.next().await {
            let name = |pod: &DynamicObject| pod.metadata.name.clone().unwrap_or_default();
            match event? {
                watcher::Event::Init => (there, complete) = (BTreeSet::new(), false),
                watcher::Event::InitDone => complete = true,
                watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => {
                    there.insert(name(&pod));
                }
                watcher::Event::Delete(pod) => {
                    there.remove(&name(&pod));
                }
            }
            if complete && there.is_empty() {
                return Ok(());
            }
        }
        let left = there.into_iter().collect::<Vec<_>>().join(", ");
        Err(ask.error(ErrorKind::Timeout, format!("it was told to stop, but these pods have not ended: {left}")))
    }

    fn scaling_single(&self, target: &Target, whole: &Whole, scale: Scale) -> Result<Vec<Value>> {
        let ask = object_of(target).ask(Access::Compare, "scale");
        if target.service.kind == WorkloadKind::DaemonSet {
            return Err(
                ask.error(ErrorKind::Unsupported, "a DaemonSet has as many instances as there are nodes for it")
            );
        }
        let replicas = whole.desired(target.service.kind);
        if replicas == scale.to {
            return Ok(Vec::new());
        }
        if replicas != scale.from {
            let message = format!("it is asked for {replicas} replicas, where we expected {}", scale.from);
            return Err(whole.drift(&self.kube, &ask, &message));
        }
        Ok(scaling(scale.from, scale.to).to_vec())
    }

    /// Lets it run this image everywhere, and gives back what held it.
    pub(crate) async fn set_single(&self, cx: &CallContext, target: &Target, change: &ImageChange) -> Result<Workload> {
        let ask = object_of(target).ask(Access::Compare, "set the image of");
        let mut whole = self.get_single(cx, target).await?;
        let mut operations = Vec::new();
        if whole.image == change.from && whole.image != change.to {
            operations = whole.replace_image(target, change.to.as_str());
        } else if whole.image != change.to {
            let message = format!("it runs {}, where we expected {}", whole.image, change.from);
            return Err(whole.drift(&self.kube, &ask, &message));
        }
        operations.extend(configuration::patch(&ask, &whole.value, target, &change.config)?);
        if let Some(scale) = change.scale {
            operations.extend(self.scaling_single(target, &whole, scale)?);
        }
        operations.extend(whole.release(target.service.kind, false));
        if !operations.is_empty() {
            self.make_config(cx, target, &change.config).await?;
            whole = self.patch_single(cx, target, operations).await?;
        }
        let rest = match change.scale {
            Some(Scale { to: 0, .. }) => self.none_left(cx, target, &whole).await,
            _ => self.unblock(cx, target, &whole).await,
        };
        rest.map_err(|e| e.effect(Effect::Unknown))?;
        Ok(whole.workload(target))
    }

    /// Puts the image of before everywhere, and gives back what held it. Also where somebody edited what holds it: their
    /// field is then left as they want it.
    pub(crate) async fn remove_single(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let object = object_of(target);
        let Some(mut whole) = self.find_single(cx, target).await? else { return Ok(()) };
        let ask = object.ask(Access::Compare, "take back");
        match whole.held.clone() {
            Some(held) if held.run != cx.run_id().as_str() => {
                tracing::warn!(%object, run = %cx.run_id(), "not taken back: another run holds it");
                return Ok(());
            }
            Some(held) => {
                let edited = whole.check(&self.kube, &ask, target, cx.run_id()).is_err();
                let mut operations = whole.release(target.service.kind, edited);
                operations.extend(whole.replace_image(target, &held.before));
                operations.extend(configuration::patch(&ask, &whole.value, target, &held.config)?);
                whole = self.patch_single(cx, target, operations).await?;
            }
            None => {
                self.kube.is_unchanged(cx, &object, &whole.value).await?;
            }
        }
        self.unblock(cx, target, &whole).await.map_err(|e| e.effect(Effect::Unknown))
    }

    /// Whether the new version could take the place of the old one, without asking the server to do it.
    pub(crate) async fn examine_single(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let object = object_of(target);
        let ask = object.ask(Access::Read, "check");
        let service = Object::new(SERVICE, &target.namespace, &target.service.traffic.service);
        if self.kube.find::<Value>(cx, &service).await?.is_none() {
            return Err(service.missing());
        }
        let whole = self.get_single(cx, target).await?;
        let wrong = |message: &str, hint: &str| Err(ask.error(ErrorKind::Invalid, message).hint(hint));
        self.examine_config(cx, target, &whole.value["spec"]["template"]).await?;
        let kind = target.service.kind;
        if whole.value["spec"]["paused"] == json!(true) {
            return wrong("it is paused, so that a new image would not be rolled out", "kubectl rollout resume");
        }
        if kind != WorkloadKind::Deployment && whole.value["spec"]["updateStrategy"]["type"] == "OnDelete" {
            let hint = "set updateStrategy.type to RollingUpdate";
            return wrong("it replaces pods only when somebody deletes them (OnDelete)", hint);
        }
        if kind == WorkloadKind::StatefulSet && number(&whole.value, PARTITION) > 0 {
            return wrong("its partition holds back a part of it already", "end that rollout: set its partition to 0");
        }
        if whole.desired(kind) == 0 {
            return wrong("it has no instances: there is nothing that serves", "scale it up, or release it by hand");
        }
        Ok(())
    }

    pub(crate) async fn preview_single(
        &self,
        cx: &CallContext,
        target: &Target,
        spec: &CanarySpec,
    ) -> Result<Vec<Change>> {
        let object = object_of(target);
        let whole = self.get_single(cx, target).await?;
        if whole.image == spec.image {
            return Ok(Vec::new());
        }
        let ask = object.ask(Access::Compare, "preview");
        let _: Value = self.kube.compare(cx, &object, whole.hold(&ask, target, spec, cx.run_id())?).await?;
        let desired = whole.desired(target.service.kind);
        let (first, kind) = (spec.replicas, target.service.kind);
        let how = match kind {
            WorkloadKind::Deployment => "paused between the batches",
            WorkloadKind::StatefulSet => "held by its partition between the batches",
            WorkloadKind::DaemonSet => "pods deleted batch by batch",
        };
        let what = format!(
            "image {} -> {}: at first {first} of {desired} instances, all at the end; {how}",
            whole.image, spec.image
        );
        let mut changes = vec![Change { object: object.to_string(), what }];
        changes.extend(configuration::preview(target, &whole.value["spec"]["template"]));
        Ok(changes)
    }
}

/// What a run may see of a workload: all of it, or the part that runs the new version.
fn seen(kube: &Kube, ask: &Ask, whole: &Whole, target: &Target, track: Track, run: &RunId) -> Result<Option<Workload>> {
    if track == Track::Stable {
        return Ok(Some(whole.workload(target)));
    }
    whole.check(kube, ask, target, run)?;
    Ok((whole.image == target.service.image).then(|| whole.part(target)))
}

/// How many pods of a `DaemonSet` may be unavailable at once, as it was before it was held; at least one.
fn at_once(whole: &Whole) -> usize {
    let strategy = whole.held.as_ref().map_or(&whole.value["spec"]["updateStrategy"], |held| &held.was);
    let desired = number(&whole.value, "/status/desiredNumberScheduled") as usize;
    let count = match &strategy["rollingUpdate"]["maxUnavailable"] {
        Value::Number(count) => count.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
        Value::String(percent) => {
            let percent: usize = percent.trim_end_matches('%').parse().unwrap_or(0);
            (desired * percent).div_ceil(100)
        }
        _ => 1,
    };
    count.max(1)
}

/// What a person types in place of moodify.
pub(crate) fn by_hand(target: &Target, remedy: &Remedy) -> Vec<String> {
    let (namespace, kind, name) = (&target.namespace, target.service.kind, &target.service.workload);
    let what = format!("{}/{name}", kind.name().to_lowercase());
    match remedy {
        Remedy::Image(image) => {
            let container = target.service.container();
            let give_back = match kind {
                WorkloadKind::Deployment => format!("kubectl -n {namespace} rollout resume {what}"),
                WorkloadKind::StatefulSet => format!(
                    "kubectl -n {namespace} patch {what} --type=merge -p \
                     '{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"partition\":0}}}}}}}}'"
                ),
                WorkloadKind::DaemonSet => format!(
                    "kubectl -n {namespace} patch {what} --type=merge -p \
                     '{{\"spec\":{{\"updateStrategy\":{{\"type\":\"RollingUpdate\"}}}}}}'"
                ),
            };
            vec![
                format!("kubectl -n {namespace} set image {what} '{container}={image}'"),
                give_back,
                format!("kubectl -n {namespace} annotate {what} {HELD}-"),
                format!("kubectl -n {namespace} rollout status {what}"),
            ]
        }
        Remedy::Replicas(count) => vec![
            format!("kubectl -n {namespace} scale {what} --replicas={count}"),
            format!("kubectl -n {namespace} rollout status {what}"),
        ],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::target;

    fn set(strategy: &Value, held: Option<&Held>) -> Whole {
        let mut target = target();
        target.service.kind = WorkloadKind::StatefulSet;
        let mut value = json!({
            "metadata": {"name": "web", "resourceVersion": "7", "annotations": {"a": "b"}},
            "spec": {"replicas": 5, "updateStrategy": strategy, "template": {"spec": {"containers": [
                {"name": "proxy", "image": "proxy:1"}, {"name": "web", "image": "registry/web:v1"}]}}},
        });
        if let Some(held) = held {
            value["metadata"]["annotations"][HELD] = serde_json::to_string(held).unwrap().into();
        }
        Whole::new(&Ask::new(Access::Read, "get", "ns/web"), value, &target).unwrap()
    }

    fn rolling(partition: u32) -> Value {
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition, "maxUnavailable": 2}})
    }

    fn held(partition: u32) -> Held {
        let (run, before) = ("r1".to_owned(), "registry/web:v1".to_owned());
        let config = ConfigRefs::new();
        Held { run, before, config, instances: 5 - partition, was: rolling(0), set: json!(partition) }
    }

    /// The value that a patch puts at a path.
    fn put<'a>(operations: &'a [Value], path: &str) -> Option<&'a Value> {
        operations.iter().find(|o| o["op"] != "test" && o["path"] == path).map(|o| &o["value"])
    }

    #[test]
    fn a_set_is_held_by_its_partition_and_what_it_was_is_kept_with_it() {
        let mut target = target();
        target.service.kind = WorkloadKind::StatefulSet;
        let spec = CanarySpec::new("registry/web:v2".parse().unwrap(), "v2", 2, true);
        let ask = Ask::new(Access::Read, "hold", "ns/web");
        let operations = set(&rolling(0), None).hold(&ask, &target, &spec, &RunId::new("r1").unwrap()).unwrap();
        assert_eq!(put(&operations, STRATEGY), Some(&rolling(3)), "the rest of it stays");
        assert_eq!(put(&operations, "/spec/template/spec/containers/1/image"), Some(&json!("registry/web:v2")));
        let note = put(&operations, &patch::annotation(HELD)).and_then(Value::as_str).unwrap();
        assert_eq!(serde_json::from_str::<Held>(note).unwrap(), held(3));
        assert!(operations.contains(&json!({"op": "test", "path": "/spec/replicas", "value": 5})), "{operations:?}");
    }

    #[test]
    fn what_held_it_is_given_back_unless_somebody_else_changed_it() {
        let ours = set(&rolling(3), Some(&held(3))).release(WorkloadKind::StatefulSet, false);
        assert_eq!(put(&ours, STRATEGY), Some(&rolling(0)));
        assert!(ours.contains(&json!({"op": "test", "path": PARTITION, "value": 3})), "compared: {ours:?}");
        let theirs = set(&rolling(1), Some(&held(3))).release(WorkloadKind::StatefulSet, true);
        assert_eq!(put(&theirs, STRATEGY), None, "left to them");
        assert!(theirs.iter().any(|o| o["op"] == "remove" && o["path"] == patch::annotation(HELD)));
    }

    #[test]
    fn what_is_not_available_may_all_be_of_the_new_version() {
        let mut target = target();
        target.service.kind = WorkloadKind::StatefulSet;
        let mut whole = set(&rolling(3), Some(&held(3)));
        whole.value["status"] =
            json!({"replicas": 5, "updatedReplicas": 2, "readyReplicas": 4, "availableReplicas": 4});
        let part = whole.part(&target).replicas;
        assert_eq!((part.desired, part.updated, part.available), (2, 2, 1));
    }

    #[test]
    fn a_daemon_set_loses_no_more_pods_at_once_than_it_says() {
        for (strategy, may) in [
            (json!({"rollingUpdate": {"maxUnavailable": 3}}), 3),
            (json!({"rollingUpdate": {"maxUnavailable": "25%"}}), 3),
            (json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}), 1),
            (json!({}), 1),
        ] {
            let mut whole = set(&strategy, None);
            whole.value["status"] = json!({"desiredNumberScheduled": 10});
            assert_eq!(at_once(&whole), may, "{strategy}");
        }
    }
}
