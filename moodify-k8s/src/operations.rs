use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::DynamicObject;
use kube::core::params::ListParams;
use kube::runtime::watcher::{self, Event};
use moodify_core::backend::{
    Application, Autoscaler, Connection, Count, Counts, Endpoint, ExecRequest, ExecResult, Instances, Operations,
    Repair, WorkloadRef,
};
use moodify_core::model::WorkloadKind;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{AUTOSCALER, DAEMON_SET, DEPLOYMENT, Kind, Kube, Object, POD, STATEFUL_SET, typed};
use crate::connection::Place;
use crate::diagnostics::selector_text;
use crate::error::{Access, BACKEND};
use crate::patch::{annotation, put};
use crate::rival_scalers;
use crate::verbs;

/// Stops and starts the Deployments and stateful sets of a namespace, and points them to another database.
///
/// A workload that is stopped has the annotation `moodify.dev/stopped`, which says how many pods it had and which run
/// stopped it. A `HorizontalPodAutoscaler` does nothing while there are no pods, and goes on when they are back; what KEDA
/// scales is refused, since KEDA would start it again. `CronJob`s are suspended
/// by steps of their own, and `DaemonSet`s, which cannot be scaled, are refused.
///
/// The old value of a [`Connection`] is kept in the object itself: that of a Secret under a second key
/// (`KEY.before-switch`), any other in the annotation `moodify.dev/switched`, which also says which run has switched it.
#[derive(Debug, Clone)]
pub struct NamespaceOperations {
    kube: Kube,
}

/// What a workload is annotated with while it is stopped.
const STOPPED: &str = "moodify.dev/stopped";

/// What that annotation says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stopped {
    run: String,
    replicas: u32,
}

pub(crate) fn kind_of(workload: &WorkloadRef) -> Kind {
    match workload.kind {
        WorkloadKind::Deployment => DEPLOYMENT,
        WorkloadKind::StatefulSet => STATEFUL_SET,
        WorkloadKind::DaemonSet => DAEMON_SET,
    }
}

pub(crate) fn object_of(namespace: &str, workload: &WorkloadRef) -> Object {
    Object::new(kind_of(workload), namespace, &workload.name)
}

/// As kubectl takes it.
fn told(workload: &WorkloadRef) -> String {
    format!("{}/{}", kind_of(workload).kind.to_lowercase(), workload.name)
}

fn replicas(read: &Value) -> u32 {
    read["spec"]["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

fn stopped(read: &Value) -> Option<Stopped> {
    let text = read.pointer(&annotation(STOPPED))?.as_str()?;
    serde_json::from_str(text).ok()
}

/// What is to be written, if anything.
#[derive(Debug, PartialEq, Eq)]
enum Scaling {
    Nothing,
    To(u32),
}

/// What stopping or starting comes to, by what the object says now.
fn scaling(of: &Count, read: &Value, run: &str, stop: bool) -> Result<Scaling, (ErrorKind, String)> {
    let (now, noted) = (replicas(read), stopped(read));
    if read["metadata"]["uid"] != of.uid.as_str() {
        return Err((ErrorKind::Drift, "it was deleted and made anew since its pods were counted".to_owned()));
    }
    let ours = match &noted {
        Some(noted) if noted.run != run && now == 0 => {
            return Err((ErrorKind::AlreadyExists, format!("the run {} has stopped it", noted.run)));
        }
        noted => noted.as_ref().is_some_and(|noted| noted.run == run),
    };
    // An autoscaler that goes on has taken it from where it was.
    let is_running = now > 0 && (now == of.replicas || now == of.at_start() || of.autoscaler.is_some());
    match (ours, now) {
        (false, 0) if of.replicas == 0 => Ok(Scaling::Nothing),
        (true, 0) => Ok(if stop { Scaling::Nothing } else { Scaling::To(of.at_start()) }),
        (false, _) if is_running => Ok(if stop { Scaling::To(0) } else { Scaling::Nothing }),
        _ => Err((ErrorKind::Drift, format!("somebody scaled it to {now} since; {} were counted", of.replicas))),
    }
}

/// The bounds of the autoscalers of a namespace, by what they scale; why not, for what KEDA scales.
pub(crate) type Ranges = BTreeMap<(String, String), Result<Autoscaler, String>>;

pub(crate) fn ranges(autoscalers: &[HorizontalPodAutoscaler]) -> Ranges {
    let bound = |number: Option<i32>| u32::try_from(number.unwrap_or(1)).unwrap_or(0);
    let range = |autoscaler: &HorizontalPodAutoscaler| {
        let (meta, spec) = (&autoscaler.metadata, &autoscaler.spec);
        let target = (spec.scale_target_ref.kind.clone(), spec.scale_target_ref.name.clone());
        let keda = meta.owner_references.iter().flatten().find(|owner| owner.kind == "ScaledObject");
        let range = Autoscaler {
            name: meta.name.clone().unwrap_or_default(),
            min: bound(spec.min_replicas),
            max: bound(Some(spec.max_replicas)),
        };
        (target, keda.map_or(Ok(range), |owner| Err(owner.name.clone())))
    };
    autoscalers.iter().map(range).collect()
}

fn counted(object: &Object, workload: &WorkloadRef, read: &Value, ranges: &Ranges, run: &str) -> Result<Count> {
    let ask = object.ask(Access::Read, "count the pods of");
    let (now, noted) = (replicas(read), stopped(read).filter(|_| replicas(read) == 0));
    if let Some(noted) = noted.as_ref().filter(|noted| noted.run != run) {
        let message = format!("the run {} has stopped it; it had {} pods", noted.run, noted.replicas);
        let other = ask.error(ErrorKind::AlreadyExists, message);
        return Err(other.hint(format!("let that run end, or take it back with: moodify resume {}", noted.run)));
    }
    let autoscaler = match ranges.get(&(object.kind.kind.to_owned(), workload.name.clone())) {
        Some(Err(scaled_object)) => {
            let message = format!("KEDA scales it (ScaledObject {scaled_object}), and would start it again");
            let pause = rival_scalers::pause(object, scaled_object);
            return Err(ask.error(ErrorKind::Unsupported, message).hint(format!("pause that first: {pause}")));
        }
        Some(Ok(range)) => Some(range.clone()),
        None => None,
    };
    let uid = read["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let replicas = noted.map_or(now, |noted| noted.replicas);
    Ok(Count { workload: workload.clone(), uid, replicas, autoscaler })
}

impl NamespaceOperations {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    async fn read(&self, cx: &CallContext, object: &Object) -> Result<Value> {
        self.kube.find(cx, object).await?.ok_or_else(|| object.missing())
    }

    /// The workloads of an application as they are, in the order of kinds and names.
    async fn workloads(&self, cx: &CallContext, application: &Application) -> Result<Vec<(WorkloadRef, Value)>> {
        let mut all = Vec::new();
        if application.workloads.is_empty() {
            for (kind, of) in [(WorkloadKind::Deployment, DEPLOYMENT), (WorkloadKind::StatefulSet, STATEFUL_SET)] {
                let found: Vec<Value> = self.kube.list(cx, of, &application.namespace, &ListParams::default()).await?;
                let name = |read: &Value| read["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                all.extend(found.into_iter().map(|read| (WorkloadRef { kind, name: name(&read) }, read)));
            }
        }
        let named: BTreeSet<&WorkloadRef> = application.workloads.iter().collect();
        for workload in named {
            let object = object_of(&application.namespace, workload);
            if workload.kind == WorkloadKind::DaemonSet {
                let message = "a DaemonSet has a pod on every node that it chooses, and no number of pods";
                return Err(object.ask(Access::Read, "stop").error(ErrorKind::Unsupported, message));
            }
            all.push((workload.clone(), self.read(cx, &object).await?));
        }
        all.retain(|(workload, _)| application.has(workload));
        Ok(all)
    }

    async fn scale(&self, cx: &CallContext, namespace: &str, of: &Count, stop: bool) -> Result<()> {
        let object = object_of(namespace, &of.workload);
        let read = self.read(cx, &object).await?;
        let run = cx.run_id().as_str();
        let to = match scaling(of, &read, run, stop) {
            Ok(Scaling::Nothing) => return Ok(()),
            Ok(Scaling::To(to)) => to,
            Err((kind, message)) => {
                let error = object.ask(Access::Compare, if stop { "stop" } else { "start" }).error(kind, message);
                return Err(error.hint("it is left as it is; scale it by hand when it is clear who wants what"));
            }
        };
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": of.uid}),
            json!({"op": "test", "path": "/spec/replicas", "value": replicas(&read)}),
            json!({"op": "replace", "path": "/spec/replicas", "value": to}),
        ];
        if stop {
            let note = json!(Stopped { run: run.to_owned(), replicas: of.replicas }).to_string();
            put(&mut operations, &read, "/metadata/annotations", STOPPED, &note);
        } else {
            let path = annotation(STOPPED);
            let value = read.pointer(&path).cloned().unwrap_or_default();
            operations.push(json!({"op": "test", "path": path, "value": value}));
            operations.push(json!({"op": "remove", "path": path}));
        }
        self.kube.patch::<Value>(cx, &object, operations).await.map(drop)
    }

    /// All are tried, whatever becomes of one.
    async fn scale_all(&self, cx: &CallContext, counts: &Counts, stop: bool) -> Result<()> {
        let operation = if stop { "stop the application" } else { "start the application" };
        let (mut done, mut failed, mut first): (Vec<String>, Vec<String>, Option<Error>) = Default::default();
        for of in &counts.workloads {
            match self.scale(cx, &counts.namespace, of, stop).await {
                Ok(()) => done.push(told(&of.workload)),
                Err(e) => {
                    failed.push(told(&of.workload));
                    first = first.or(Some(e));
                }
            }
        }
        let Some(error) = first else { return Ok(()) };
        let all = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message =
            format!("{} on {}; done: {}; not done: {}", error.message(), error.target(), all(done), all(failed));
        let told = Error::new(error.kind(), BACKEND, operation, message).on(counts.namespace.as_str());
        let told = told.effect(error.effect_of()).transient(error.is_transient());
        let told = error.retry_after_of().into_iter().fold(told, Error::retry_after);
        Err(told.hint("what is done stays as it is when it is done once more").with_source(error))
    }
}

/// The pods of one workload that a watch has seen: by name, whether one is ready and not ending.
#[derive(Default)]
struct Seen {
    pods: BTreeMap<String, bool>,
    listing: bool,
}

impl Seen {
    fn put(&mut self, pod: &DynamicObject) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let status = &pod.data["status"];
        // One that was evicted stays there as an object, but nothing runs in it.
        if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
            self.pods.remove(&name);
            return;
        }
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let is_ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
        self.pods.insert(name, is_ready && pod.metadata.deletion_timestamp.is_none());
    }

    /// All and the ready ones, if they are known.
    fn on(&mut self, event: &Event<DynamicObject>) -> Option<(u32, u32)> {
        match event {
            Event::Init => {
                self.pods.clear();
                self.listing = true;
            }
            Event::InitApply(pod) | Event::Apply(pod) => self.put(pod),
            Event::InitDone => self.listing = false,
            Event::Delete(pod) => drop(self.pods.remove(pod.metadata.name.as_deref().unwrap_or_default())),
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (!self.listing).then(|| (number(self.pods.len()), number(self.pods.values().filter(|ready| **ready).count())))
    }
}

/// How much of a command's last words is told.
const TOLD: usize = 200;

/// The last line of what a command said, without the users and passwords of URLs.
fn last_words(text: &str) -> String {
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let mut words = String::new();
    let mut rest = last;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        words.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(after.len());
        let host = after[..end].rfind('@');
        words.push_str(if host.is_some() { "***" } else { "" });
        rest = &after[host.unwrap_or(0)..];
    }
    words.push_str(rest);
    words.chars().take(TOLD).collect()
}

#[async_trait]
impl Operations for NamespaceOperations {
    async fn counts(&self, cx: &CallContext, application: &Application) -> Result<Counts> {
        let namespace = application.namespace.clone();
        let autoscalers: Vec<HorizontalPodAutoscaler> =
            self.kube.list(cx, AUTOSCALER, &namespace, &ListParams::default()).await?;
        let (ranges, run) = (ranges(&autoscalers), cx.run_id().as_str());
        let all = self.workloads(cx, application).await?;
        let count = |(workload, read): (WorkloadRef, Value)| {
            counted(&object_of(&namespace, &workload), &workload, &read, &ranges, run)
        };
        let workloads = all.into_iter().map(count).collect::<Result<_>>()?;
        Ok(Counts { namespace, workloads })
    }

    async fn stop(&self, cx: &CallContext, counts: &Counts) -> Result<()> {
        self.scale_all(cx, counts, true).await
    }

    async fn start(&self, cx: &CallContext, counts: &Counts) -> Result<()> {
        self.scale_all(cx, counts, false).await
    }

    async fn watch(&self, cx: &CallContext, counts: &Counts) -> Result<BoxStream<'static, Result<Vec<Instances>>>> {
        let mut watches = Vec::new();
        for (index, of) in counts.workloads.iter().enumerate() {
            let object = object_of(&counts.namespace, &of.workload);
            let mut read = self.read(cx, &object).await?;
            let selector: LabelSelector =
                typed(&object.ask(Access::Read, "read the selector of"), read["spec"]["selector"].take())?;
            let config = watcher::Config::default().labels(&selector_text(&selector));
            let events = self.kube.watch(cx, POD, &counts.namespace, config);
            watches.push(events.map(move |event| (index, event)).boxed());
        }
        let workloads: Vec<WorkloadRef> = counts.workloads.iter().map(|of| of.workload.clone()).collect();
        let mut seen: Vec<Seen> = workloads.iter().map(|_| Seen { listing: true, ..Seen::default() }).collect();
        let mut known: Vec<Option<(u32, u32)>> = vec![None; workloads.len()];
        let mut last = None;
        let states = stream::select_all(watches).filter_map(move |(index, event)| {
            let event = match event {
                Ok(event) => event,
                Err(e) => return ready(Some(Err(e))),
            };
            // While it is listed anew, what was known last holds.
            known[index] = seen[index].on(&event).or(known[index]);
            let now: Option<Vec<Instances>> = known
                .iter()
                .zip(&workloads)
                .map(|(of, workload)| of.map(|(all, ready)| Instances::new(workload.clone(), all, ready)))
                .collect();
            let news = now.filter(|now| last.as_ref() != Some(now));
            if news.is_some() {
                last.clone_from(&news);
            }
            ready(news.map(Ok))
        });
        Ok(states.boxed())
    }

    async fn endpoint(&self, cx: &CallContext, namespace: &str, connection: &Connection) -> Result<Option<Endpoint>> {
        let place = Place::read(&self.kube, cx, namespace, connection).await?;
        Ok(connection.endpoint_in(place.value()))
    }

    async fn switch(&self, cx: &CallContext, namespace: &str, connection: &Connection, to: &Endpoint) -> Result<()> {
        Place::read(&self.kube, cx, namespace, connection).await?.switch(&self.kube, cx, to).await
    }

    async fn revert(&self, cx: &CallContext, namespace: &str, connection: &Connection, from: &Endpoint) -> Result<()> {
        Place::read(&self.kube, cx, namespace, connection).await?.revert(&self.kube, cx, from).await
    }

    async fn forget(&self, cx: &CallContext, namespace: &str, connection: &Connection) -> Result<()> {
        Place::read(&self.kube, cx, namespace, connection).await?.forget(&self.kube, cx).await
    }

    async fn exec(&self, cx: &CallContext, namespace: &str, request: &ExecRequest) -> Result<ExecResult> {
        let name = &request.workload.name;
        let workload = match request.workload.kind {
            WorkloadKind::Deployment => verbs::Workload::deployment(name),
            WorkloadKind::StatefulSet => verbs::Workload::stateful_set(name),
            WorkloadKind::DaemonSet => verbs::Workload::daemon_set(name),
        };
        let mut ask = verbs::ExecRequest::new(&request.command);
        if let Some(container) = &request.container {
            ask = ask.container(container);
        }
        let output = self.kube.verbs(namespace).exec_in(cx, &workload, &ask).await?;
        let said = [output.error_text(), output.text()].iter().map(|text| last_words(text)).find(|t| !t.is_empty());
        Ok(ExecResult { pod: output.pod, code: output.code, said: said.unwrap_or_default() })
    }

    fn by_hand(&self, repair: &Repair) -> Vec<String> {
        let scale = |counts: &Counts, to: &dyn Fn(&Count) -> u32| {
            let line = |of: &Count| {
                let (namespace, workload, to) = (&counts.namespace, told(&of.workload), to(of));
                format!("kubectl -n {namespace} scale {workload} --replicas={to}")
            };
            counts.workloads.iter().map(line).collect::<Vec<_>>()
        };
        match repair {
            Repair::Start(counts) => {
                let mut lines = scale(counts, &Count::at_start);
                let workloads: Vec<String> = counts.workloads.iter().map(|of| told(&of.workload)).collect();
                let (namespace, workloads) = (&counts.namespace, workloads.join(" "));
                lines.push(format!("kubectl -n {namespace} annotate {workloads} {STOPPED}-"));
                lines
            }
            Repair::Stop(counts) => scale(counts, &|_| 0),
            Repair::Revert { namespace, connection } => crate::connection::by_hand(namespace, connection),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, kube, not_found, stable_deployment};

    fn count(replicas: u32) -> Count {
        Count { workload: WorkloadRef::deployment("web"), uid: "u-0".into(), replicas, autoscaler: None }
    }

    fn web(replicas: u32, note: Option<(&str, u32)>) -> Value {
        let mut web = stable_deployment();
        web["spec"]["replicas"] = replicas.into();
        if let Some((run, replicas)) = note {
            let note = Stopped { run: run.to_owned(), replicas };
            web["metadata"]["annotations"] = json!({STOPPED: json!(note).to_string()});
        }
        web
    }

    #[test]
    fn each_undoes_the_other_and_what_others_did_is_left() {
        let autoscaled = Count { autoscaler: Some(Autoscaler { name: "web".into(), min: 2, max: 3 }), ..count(4) };
        let (ours, theirs) = (Some(("r1", 4)), Some(("r9", 4)));
        for (of, read, stop, start) in [
            (count(4), web(4, None), Ok(Scaling::To(0)), Ok(Scaling::Nothing)),
            (count(4), web(0, ours), Ok(Scaling::Nothing), Ok(Scaling::To(4))),
            (count(0), web(0, None), Ok(Scaling::Nothing), Ok(Scaling::Nothing)),
            (autoscaled.clone(), web(9, None), Ok(Scaling::To(0)), Ok(Scaling::Nothing)),
            (autoscaled, web(0, ours), Ok(Scaling::Nothing), Ok(Scaling::To(3))),
            (count(4), web(5, None), Err(ErrorKind::Drift), Err(ErrorKind::Drift)),
            (count(4), web(0, None), Err(ErrorKind::Drift), Err(ErrorKind::Drift)),
            (count(4), web(4, ours), Err(ErrorKind::Drift), Err(ErrorKind::Drift)),
            (count(4), web(0, theirs), Err(ErrorKind::AlreadyExists), Err(ErrorKind::AlreadyExists)),
            // Somebody started by hand what another run had stopped.
            (count(4), web(4, theirs), Ok(Scaling::To(0)), Ok(Scaling::Nothing)),
        ] {
            let got = |stop| scaling(&of, &read, "r1", stop).map_err(|(kind, _)| kind);
            assert_eq!((got(true), got(false)), (stop, start), "{of:?} {read}");
        }
        let other = Count { uid: "u-9".into(), ..count(4) };
        assert_eq!(scaling(&other, &web(4, None), "r1", true).unwrap_err().0, ErrorKind::Drift);
    }

    #[tokio::test]
    async fn a_stop_is_written_on_the_object_and_compares() {
        let (kube, asked) = kube(|_, _, _| (200, web(4, None)));
        let counts = Counts { namespace: "ns".into(), workloads: vec![count(4)] };
        kube.operations().stop(&cx(), &counts).await.unwrap();
        let asked = asked.lock().unwrap();
        assert!(asked[1].starts_with("PATCH /apis/apps/v1/namespaces/ns/deployments/web?"), "{asked:?}");
        let note = json!(Stopped { run: "r1".to_owned(), replicas: 4 }).to_string();
        for part in [
            json!({"op": "test", "path": "/spec/replicas", "value": 4}),
            json!({"op": "replace", "path": "/spec/replicas", "value": 0}),
            json!({"op": "add", "path": "/metadata/annotations", "value": {STOPPED: note}}),
        ] {
            assert!(asked[1].contains(&part.to_string()), "{part} is missing in {asked:?}");
        }
    }

    #[tokio::test]
    async fn one_that_is_gone_does_not_keep_the_others_running() {
        let (kube, asked) = kube(|_, uri, _| match uri.rsplit('/').next().unwrap_or_default() {
            "gone" => not_found("gone"),
            _ => (200, web(4, None)),
        });
        let gone = Count { workload: WorkloadRef::deployment("gone"), ..count(1) };
        let counts = Counts { namespace: "ns".into(), workloads: vec![gone, count(4)] };
        let error = kube.operations().stop(&cx(), &counts).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("done: deployment/web; not done: deployment/gone"), "{error}");
        assert!(asked.lock().unwrap().iter().any(|asked| asked.starts_with("PATCH")));
    }

    #[tokio::test]
    async fn what_keda_scales_is_refused_with_the_reason() {
        let (kube, _) = kube(|_, uri, _| {
            if uri.contains("horizontalpodautoscalers") {
                let owner = json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "web-scaler",
                    "uid": "u-7"});
                let scaler = json!({"metadata": {"name": "keda-hpa-web", "ownerReferences": [owner]},
                    "spec": {"maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
                return (200, json!({"items": [scaler]}));
            }
            (200, web(4, None))
        });
        let application = Application::all_of("ns").workloads(&[WorkloadRef::deployment("web")]);
        let error = kube.operations().counts(&cx(), &application).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let told = error.to_string();
        assert!(told.contains("KEDA scales it (ScaledObject web-scaler)") && told.contains("paused=true"), "{told}");
    }

    #[test]
    fn the_last_words_have_no_credentials() {
        let said = "trying\ncannot reach mongodb://ana:pw@old:27017/moods, nor http://x/y@z \n\n";
        assert_eq!(last_words(said), "cannot reach mongodb://***@old:27017/moods, nor http://x/y@z");
        assert_eq!(last_words(""), "");
        assert_eq!(last_words(&"x".repeat(999)).len(), TOLD);
    }

    #[test]
    fn a_pod_that_ends_is_left_until_it_is_gone() {
        let pod = |name: &str, phase: &str, ending: bool| {
            let ends = ending.then_some("2026-11-24T15:00:00Z");
            let ready = json!([{"type": "Ready", "status": "True"}]);
            serde_json::from_value::<DynamicObject>(json!({"metadata": {"name": name, "deletionTimestamp": ends},
                "status": {"phase": phase, "conditions": ready}}))
            .unwrap()
        };
        let mut seen = Seen::default();
        assert_eq!(seen.on(&Event::Init), None);
        assert_eq!(seen.on(&Event::InitApply(pod("a", "Running", false))), None);
        assert_eq!(seen.on(&Event::InitDone), Some((1, 1)));
        assert_eq!(seen.on(&Event::Apply(pod("b", "Failed", false))), Some((1, 1)));
        assert_eq!(seen.on(&Event::Apply(pod("a", "Running", true))), Some((1, 0)));
        assert_eq!(seen.on(&Event::Delete(pod("a", "Running", true))), Some((0, 0)));
    }
}
