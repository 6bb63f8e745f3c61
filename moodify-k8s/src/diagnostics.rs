use std::collections::BTreeMap;
use std::future::ready;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::params::ListParams;
use kube::core::subresource::LogParams;
use kube::runtime::watcher;
use moodify_core::backend::{Diagnostics, LogRequest, PodState, Pods};
use moodify_core::clock::{Clock, SystemClock, since};
use moodify_core::model::{Color, Layout, Target, Track, WorkloadKind};
use moodify_core::{CallContext, ErrorKind, Result};

use crate::client::{self, EVENT, Kube, Object, POD, until_error};
use crate::deployer::deployment_of;
use crate::error::{Access, Ask};
use crate::names::{self, TRACK};
use crate::{canary, pod, single};

/// How old a warning may be.
const RECENT: Duration = Duration::from_secs(3600);

/// Sees pods, events and logs of Deployments. Reads only; safe to cancel.
///
/// A track's pods are those that its Deployment selects, without the canary's for the stable one, and without those
/// that are being deleted. When a pod counts as crash looping, and when as having been ready: it crash loops if a
/// container waits in `CrashLoopBackOff`, or is not ready after three restarts or more with a last run of less than ten
/// minutes; it was ready if its condition `Ready` turned false after the pod had started (or a watch saw it ready).
#[derive(Debug, Clone)]
pub struct PodDiagnostics {
    kube: Kube,
}

impl PodDiagnostics {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    /// The label selector of a track's pods; `None` if there is no such Deployment.
    async fn selector(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<String>> {
        if target.layout == Layout::Single {
            let whole: Option<serde_json::Value> = self.kube.find(cx, &single::object_of(target)).await?;
            let ask = single::object_of(target).ask(Access::Read, "read the selector of");
            let selector =
                whole.map(|mut whole| client::typed::<LabelSelector>(&ask, whole["spec"]["selector"].take()));
            return Ok(selector.transpose()?.map(|selector| selector_text(&selector)));
        }
        if track == Track::Canary || target.layout.color(track) == Some(Color::Green) {
            return Ok(Some(canary::selector(target, track, cx.run_id())));
        }
        let stable: Option<Deployment> = self.kube.find(cx, &deployment_of(target, track)).await?;
        let selector = stable.and_then(|d| d.spec).map(|spec| spec.selector);
        Ok(selector.map(|s| format!("{},{TRACK}!={}", selector_text(&s), names::mark(target))))
    }

    async fn list(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Vec<Pod>> {
        let Some(selector) = self.selector(cx, target, track).await? else { return Ok(Vec::new()) };
        let params = ListParams::default().labels(&selector);
        let mut pods: Vec<Pod> = self.kube.list(cx, POD, &target.namespace, &params).await?;
        let (image, container) = (of_image(target, track), target.service.container());
        let is_of_it = |pod: &Pod| image.as_ref().is_none_or(|image| *image == pod::state(pod, container).image);
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && is_of_it(pod));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }
}

/// The image by which the pods of a track are told from the others of the same workload, where there is only one.
fn of_image(target: &Target, track: Track) -> Option<String> {
    let is_part = target.layout == Layout::Single && track == Track::Canary;
    is_part.then(|| target.service.image.to_string())
}

/// A selector as the text that lists and watches take, in the order of the labels.
pub(crate) fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| (key, format!("{key}={value}")));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let mut values = e.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "DoesNotExist" => format!("!{}", e.key),
            _ => e.key.clone(),
        };
        (&e.key, text)
    });
    let mut all: Vec<(&String, String)> = labels.chain(expressions).collect();
    all.sort_by_key(|(key, _)| *key);
    all.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// The pods that a watch has seen.
#[derive(Default)]
struct Seen {
    /// Only pods of this image count, if there is one.
    image: Option<String>,
    pods: BTreeMap<String, PodState>,
    /// Filled by a new list, in place of `pods` when it is complete.
    listed: Option<BTreeMap<String, PodState>>,
    last: Option<Pods>,
}

impl Seen {
    fn put(&mut self, container: &str, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let before = self.pods.get(&name).is_some_and(|p| p.was_ready);
        let mut state = pod::state(pod, container);
        state.was_ready |= before;
        let pods = self.listed.as_mut().unwrap_or(&mut self.pods);
        if pod.metadata.deletion_timestamp.is_some() || self.image.as_ref().is_some_and(|image| *image != state.image) {
            pods.remove(&name);
        } else {
            pods.insert(name, state);
        }
    }

    /// The whole list, if an event made it another one.
    fn changed(&mut self) -> Option<Pods> {
        let now: Pods = self.pods.values().cloned().collect();
        if self.listed.is_some() || self.last.as_ref() == Some(&now) {
            return None;
        }
        self.last = Some(now.clone());
        Some(now)
    }

    fn on(&mut self, container: &str, event: watcher::Event<Pod>) -> Option<Pods> {
        match event {
            watcher::Event::Init => self.listed = Some(BTreeMap::new()),
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => self.put(container, &pod),
            watcher::Event::InitDone => self.pods = self.listed.take().unwrap_or_default(),
            watcher::Event::Delete(pod) => {
                self.pods.remove(pod.metadata.name.as_deref().unwrap_or_default());
            }
        }
        self.changed()
    }
}

fn typed(event: watcher::Event<kube::api::DynamicObject>) -> Result<watcher::Event<Pod>, String> {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let pod = |object: kube::api::DynamicObject| object.try_parse::<Pod>().map_err(|e| e.to_string());
    Ok(match event {
        Init => Init,
        InitDone => InitDone,
        InitApply(object) => InitApply(pod(object)?),
        Apply(object) => Apply(pod(object)?),
        Delete(object) => Delete(pod(object)?),
    })
}

/// Whether an event is about the workload `name`, one of its `ReplicaSet`s or one of its pods. By name, since the
/// objects may be gone: `web-5d8f`, `web-5d8f-x2x4t`, but not `web-canary-5d8f`.
fn is_about((of, name): (WorkloadKind, &str), kind: &str, object: &str) -> bool {
    let dashes =
        object.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).map(|rest| rest.matches('-').count());
    match kind {
        "ReplicaSet" => of == WorkloadKind::Deployment && dashes == Some(0),
        "Pod" => dashes == Some(usize::from(of == WorkloadKind::Deployment)),
        kind => kind == of.name() && object == name,
    }
}

fn happened(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    let last = event.last_timestamp.as_ref().map(|t| t.0);
    let first = event.event_time.as_ref().map(|t| t.0).or(event.metadata.creation_timestamp.as_ref().map(|t| t.0));
    series.max(last).or(first)
}

/// The recent ones of a workload's events as lines, the newest last.
fn lines(events: &[Event], workload: (WorkloadKind, &str), now: Timestamp) -> Vec<String> {
    let about = |e: &Event| {
        let object = &e.involved_object;
        is_about(workload, object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default())
    };
    let mut recent: Vec<(Timestamp, String)> = events
        .iter()
        .filter(|e| about(e))
        .filter_map(|e| {
            let time = happened(e).filter(|t| since(*t, now) < RECENT)?;
            let object = &e.involved_object;
            let (kind, name) = (object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
            let (reason, message) =
                (e.reason.as_deref().unwrap_or("Warning"), e.message.as_deref().unwrap_or_default());
            let count = e.count.filter(|n| *n > 1).map(|n| format!(" ({n} times)")).unwrap_or_default();
            let clock = time.strftime("%H:%M:%S UTC");
            Some((time, format!("{clock} {kind} {name}: {reason}: {}{count}", message.trim())))
        })
        .collect();
    recent.sort();
    recent.into_iter().map(|(_, line)| line).collect()
}

#[async_trait]
impl Diagnostics for PodDiagnostics {
    async fn pods(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Pods> {
        let pods = self.list(cx, target, track).await?;
        Ok(pods.iter().map(|p| pod::state(p, target.service.container())).collect())
    }

    /// For the stable track its Deployment is read once, for its selector; if there is none the only item is an empty
    /// list.
    async fn watch_pods(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Pods>>> {
        let Some(selector) = self.selector(cx, target, track).await? else {
            return Ok(futures::stream::once(ready(Ok(Vec::new()))).boxed());
        };
        let config = watcher::Config::default().labels(&selector);
        let container = target.service.container().to_owned();
        let ask = Ask::new(Access::Read, "watch pods", target.to_string());
        let mut seen = Seen { image: of_image(target, track), ..Seen::default() };
        let pods = self.kube.watch(cx, POD, &target.namespace, config).filter_map(move |event| {
            let parsed = event.and_then(|e| {
                typed(e).map_err(|e| ask.error(ErrorKind::Internal, format!("this is not a Pod as we know it: {e}")))
            });
            ready(match parsed {
                Ok(event) => seen.on(&container, event).map(Ok),
                Err(e) => Some(Err(e)),
            })
        });
        Ok(until_error(pods))
    }

    async fn warnings(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Vec<String>> {
        let params = ListParams::default().fields("type=Warning");
        let events: Vec<Event> = self.kube.list(cx, EVENT, &target.namespace, &params).await?;
        let name = deployment_of(target, track).name;
        Ok(lines(&events, (target.service.kind, &name), SystemClock.now()))
    }

    /// A pod whose log cannot be had (it has not started, it is gone) gets the reason in place of its lines.
    async fn logs(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
        request: &LogRequest,
    ) -> Result<Vec<(String, String)>> {
        let params = LogParams {
            container: Some(target.service.container().to_owned()),
            tail_lines: Some(request.tail.into()),
            previous: request.previous,
            ..LogParams::default()
        };
        let pods = self.list(cx, target, track).await?;
        let names: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
        let params = &params;
        let logs = names.into_iter().map(|name| async move {
            let pod = Object::new(POD, &target.namespace, &name);
            match self.kube.log(cx, &pod, params).await {
                Ok(text) => Ok((name, text)),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                    Ok((name, format!("(no log: {})", e.message())))
                }
                Err(e) => Err(e),
            }
        });
        // A few at a time: the API server asks a kubelet for each.
        let logs: Vec<Result<(String, String)>> = futures::stream::iter(logs).buffered(4).collect().await;
        logs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: &str, deleting: bool) -> Pod {
        let mut pod =
            json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-11-24T12:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_watch_tells_the_whole_list_when_it_changes() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut seen = Seen::default();
        let mut on = |event| seen.on("web", event).map(|pods| pods.iter().map(|p| (p.name.clone(), p.ready)).collect());
        let names = |all: &[(&str, bool)]| Some(all.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect::<Vec<_>>());
        assert_eq!(on(Init), None);
        assert_eq!(on(InitApply(pod("a", "True", false))), None, "half a list is none");
        assert_eq!(on(InitDone), names(&[("a", true)]));
        assert_eq!(on(Apply(pod("a", "True", false))), None, "nothing a person would see");
        assert_eq!(on(Apply(pod("b", "False", false))), names(&[("a", true), ("b", false)]));
        assert_eq!(on(Apply(pod("a", "True", true))), names(&[("b", false)]), "what is being deleted does not count");
        assert_eq!(on(Delete(pod("b", "False", false))), names(&[]));
    }

    #[test]
    fn a_watch_remembers_that_a_pod_was_ready_also_over_a_new_list() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};
        let mut seen = Seen::default();
        for event in [Init, InitApply(pod("a", "True", false)), InitDone, Apply(pod("a", "False", false)), Init] {
            seen.on("web", event);
        }
        seen.on("web", InitApply(pod("a", "False", false)));
        seen.on("web", InitDone);
        assert!(seen.pods["a"].was_ready && !seen.pods["a"].ready);
    }

    #[test]
    fn events_are_about_one_deployment_and_recent() {
        for (kind, name, is) in [
            ("Deployment", "web", true),
            ("Deployment", "web-canary", false),
            ("ReplicaSet", "web-5d8f", true),
            ("ReplicaSet", "web-canary-5d8f", false),
            ("Pod", "web-5d8f-x2x4t", true),
            ("Pod", "web-canary-5d8f-x2x4t", false),
            ("Pod", "webster-5d8f-x2x4t", false),
        ] {
            assert_eq!(is_about((WorkloadKind::Deployment, "web"), kind, name), is, "{kind} {name}");
        }
        for (kind, name, is) in [("StatefulSet", "web", true), ("Pod", "web-0", true), ("Pod", "web-5d8f-x2x4t", false)]
        {
            assert_eq!(is_about((WorkloadKind::StatefulSet, "web"), kind, name), is, "{kind} {name}");
        }
        let event = |time: &str, count: u32| {
            serde_json::from_value::<Event>(
                json!({"metadata": {}, "involvedObject": {"kind": "Pod", "name": "web-5d8f-x2x4t"},
                "reason": "BackOff", "message": "restarting", "lastTimestamp": time, "count": count}),
            )
            .unwrap()
        };
        let events =
            [event("2026-11-24T12:03:04Z", 5), event("2026-11-24T12:01:00Z", 1), event("2026-11-24T10:00:00Z", 1)];
        let told = lines(&events, (WorkloadKind::Deployment, "web"), "2026-11-24T12:10:00Z".parse().unwrap());
        assert_eq!(
            told,
            [
                "12:01:00 UTC Pod web-5d8f-x2x4t: BackOff: restarting",
                "12:03:04 UTC Pod web-5d8f-x2x4t: BackOff: restarting (5 times)",
            ]
        );
    }

    #[test]
    fn selectors_become_text() {
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]}))
        .unwrap();
        assert_eq!(selector_text(&selector), "app=web,!old,tier in (a,b)");
    }
}
