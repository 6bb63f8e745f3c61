use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rows::count;
use super::write::CHANGE_CAUSE;
use super::{Select, Verbs, Workload, WorkloadKind};
use crate::client::{AUTOSCALER, Object};
use crate::error::{Access, BACKEND};
use crate::patch::put;

/// A change of the number of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scaled {
    /// How many there were to be.
    pub from: u32,
    /// How many there are to be.
    pub to: u32,
}

/// How many pods the workloads of a namespace had: what [`Verbs::bring_back`] brings back. It can be written down, so
/// that another process can do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Remembered {
    /// The namespace.
    pub namespace: String,
    /// The workloads and their counts.
    pub workloads: Vec<RememberedScale>,
}

/// How many pods one workload had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RememberedScale {
    /// The workload.
    pub workload: Workload,
    /// Which object of that name.
    pub uid: String,
    /// How many pods there were to be.
    pub replicas: u32,
    /// The autoscaler that decides how many there are, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<String>,
}

/// What an autoscaler allows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    autoscaler: String,
    min: u32,
    max: u32,
}

impl Range {
    /// A count that the autoscaler would not change at once. Zero stays: it turns the autoscaler off.
    fn fit(range: Option<&Self>, replicas: u32) -> u32 {
        match range {
            Some(range) if replicas > 0 => replicas.min(range.max).max(range.min),
            _ => replicas,
        }
    }
}

/// Autoscalers by what they scale.
type Ranges = BTreeMap<(String, String), Range>;

fn ranges(autoscalers: &[HorizontalPodAutoscaler]) -> Ranges {
    let range = |autoscaler: &HorizontalPodAutoscaler| {
        let spec = &autoscaler.spec;
        let target = (spec.scale_target_ref.kind.clone(), spec.scale_target_ref.name.clone());
        let name = autoscaler.metadata.name.clone().unwrap_or_default();
        let (min, max) = (count(spec.min_replicas.or(Some(1))), count(Some(spec.max_replicas)));
        (target, Range { autoscaler: name, min, max })
    };
    autoscalers.iter().map(range).collect()
}

fn replicas(read: &Value) -> u32 {
    read["spec"]["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

impl Verbs {
    /// Sets the number of pods: `kubectl scale`. With `expected`, only from that number (`--current-replicas`). An
    /// autoscaler may change it again.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if there are not `expected` ones, or somebody else scaled in between;
    /// [`Unsupported`](ErrorKind::Unsupported) for a `DaemonSet`.
    pub async fn scale(&self, cx: &CallContext, workload: &Workload, to: u32, expected: Option<u32>) -> Result<Scaled> {
        let object = workload.object(&self.namespace);
        let ask = object.ask(Access::Compare, "scale");
        if workload.kind == WorkloadKind::DaemonSet {
            let message = "a DaemonSet has a pod on every node that it chooses, and no number of pods";
            return Err(ask.error(ErrorKind::Unsupported, message).hint("change its nodeSelector"));
        }
        let read = self.read_object(cx, &object).await?;
        let from = replicas(&read);
        if let Some(expected) = expected.filter(|expected| *expected != from) {
            let message = format!("it is asked for {from} replicas, where {expected} were expected");
            return Err(ask.error(ErrorKind::Conflict, message).hint("nothing was changed; somebody else scales it"));
        }
        self.write_scale(cx, &object, &read, to).await
    }

    /// Sets the number of pods of all chosen workloads: `kubectl scale deployment --all --replicas`. Where an
    /// autoscaler decides, its nearest number is set. All are tried, whatever becomes of one.
    ///
    /// # Errors
    /// The first one, with which were scaled and which were not.
    pub async fn scale_all(
        &self,
        cx: &CallContext,
        kinds: &[WorkloadKind],
        select: &Select,
        to: u32,
    ) -> Result<Vec<(Workload, Scaled)>> {
        let (ranges, workloads) = self.scalable(cx, kinds, select).await?;
        let mut results = Vec::new();
        for (workload, read) in workloads {
            let to = Range::fit(range(&ranges, &workload), to);
            let scaled = self.write_scale(cx, &workload.object(&self.namespace), &read, to).await;
            results.push((workload, scaled));
        }
        self.all_of("scale", results)
    }

    /// How many pods the chosen workloads have, for [`scale_to_zero`](Self::scale_to_zero) and
    /// [`bring_back`](Self::bring_back). Changes nothing: write it down before you go on.
    ///
    /// ```no_run
    /// # async fn restore(shop: moodify_k8s::verbs::Verbs, cx: moodify_core::CallContext) -> moodify_core::Result<()> {
    /// use moodify_k8s::verbs::{Select, WorkloadKind};
    /// let counts = shop.remember(&cx, &[WorkloadKind::Deployment], &Select::all()).await?;
    /// std::fs::write("counts.json", serde_json::to_string(&counts).unwrap()).unwrap();
    /// shop.scale_to_zero(&cx, &counts).await?;
    /// // The database is restored from its backup here.
    /// shop.bring_back(&cx, &counts).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the server cannot be asked, for the workloads or for the autoscalers.
    pub async fn remember(&self, cx: &CallContext, kinds: &[WorkloadKind], select: &Select) -> Result<Remembered> {
        let (ranges, workloads) = self.scalable(cx, kinds, select).await?;
        let remembered = |(workload, read): (Workload, Value)| RememberedScale {
            uid: read["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            replicas: replicas(&read),
            autoscaler: range(&ranges, &workload).map(|range| range.autoscaler.clone()),
            workload,
        };
        let workloads = workloads.into_iter().map(remembered).collect();
        Ok(Remembered { namespace: self.namespace.to_string(), workloads })
    }

    /// Takes all remembered workloads down to no pod. Those that have none stay as they are, so it can be repeated. All
    /// are tried, whatever becomes of one.
    ///
    /// # Errors
    /// [`Drift`](ErrorKind::Drift) for one that somebody scaled since (autoscalers may), or made anew. The first error
    /// is returned, with which were scaled and which were not.
    pub async fn scale_to_zero(&self, cx: &CallContext, counts: &Remembered) -> Result<Vec<(Workload, Scaled)>> {
        let step = |of: &RememberedScale, now: u32| match now {
            0 => Some(0),
            _ if now == of.replicas || of.autoscaler.is_some() => Some(0),
            _ => None,
        };
        self.scale_remembered(cx, counts, "scale to zero", &step).await
    }

    /// Brings all remembered workloads back from no pod to as many as they had; where an autoscaler decides, to its
    /// nearest number. Those that are back stay as they are, so it can be repeated. All are tried, whatever becomes of
    /// one.
    ///
    /// # Errors
    /// [`Drift`](ErrorKind::Drift) for one that somebody scaled or made anew since. The first error is returned, with
    /// which were scaled and which were not.
    pub async fn bring_back(&self, cx: &CallContext, counts: &Remembered) -> Result<Vec<(Workload, Scaled)>> {
        let autoscalers: Vec<HorizontalPodAutoscaler> = self.list(cx, AUTOSCALER, &Select::all()).await?;
        let ranges = ranges(&autoscalers);
        let step = |of: &RememberedScale, now: u32| {
            let range = range(&ranges, &of.workload);
            let to = Range::fit(range, of.replicas);
            match now {
                0 => Some(to),
                // An autoscaler that goes on has taken it from there.
                _ if now == to || (to > 0 && range.is_some()) => Some(now),
                _ => None,
            }
        };
        self.scale_remembered(cx, counts, "bring back", &step).await
    }

    async fn scale_remembered(
        &self,
        cx: &CallContext,
        counts: &Remembered,
        verb: &'static str,
        step: &(dyn Fn(&RememberedScale, u32) -> Option<u32> + Sync),
    ) -> Result<Vec<(Workload, Scaled)>> {
        if counts.namespace != *self.namespace {
            let message = format!("the counts are those of the namespace {}", counts.namespace);
            return Err(Error::new(ErrorKind::Invalid, BACKEND, verb, message).on(self.namespace.to_string()));
        }
        let mut results = Vec::new();
        for of in &counts.workloads {
            results.push((of.workload.clone(), self.scale_one(cx, of, verb, step).await));
        }
        self.all_of(verb, results)
    }

    async fn scale_one(
        &self,
        cx: &CallContext,
        of: &RememberedScale,
        verb: &str,
        step: &(dyn Fn(&RememberedScale, u32) -> Option<u32> + Sync),
    ) -> Result<Scaled> {
        let object = of.workload.object(&self.namespace);
        let read = self.read_object(cx, &object).await?;
        let ask = object.ask(Access::Compare, verb);
        if read["metadata"]["uid"] != of.uid.as_str() {
            let message = "it was deleted and made anew since its pods were counted";
            return Err(ask.error(ErrorKind::Drift, message).hint("it is left as it is; scale it by hand"));
        }
        let now = replicas(&read);
        let Some(to) = step(of, now) else {
            let message = format!("somebody scaled it to {now} since; {} were remembered", of.replicas);
            return Err(ask.error(ErrorKind::Drift, message).hint("it is left as it is; scale it by hand"));
        };
        self.write_scale(cx, &object, &read, to).await
    }

    /// The chosen workloads, and what autoscalers allow.
    async fn scalable(
        &self,
        cx: &CallContext,
        kinds: &[WorkloadKind],
        select: &Select,
    ) -> Result<(Ranges, Vec<(Workload, Value)>)> {
        let own = select.clone().own_namespace();
        let autoscalers: Vec<HorizontalPodAutoscaler> = self.list(cx, AUTOSCALER, &own.unfiltered()).await?;
        let mut workloads = Vec::new();
        for kind in kinds.iter().filter(|kind| **kind != WorkloadKind::DaemonSet) {
            let all: Vec<Value> = self.list(cx, kind.kind(), &own).await?;
            let name = |read: &Value| read["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            workloads.extend(all.into_iter().map(|read| (Workload { kind: *kind, name: name(&read) }, read)));
        }
        Ok((ranges(&autoscalers), workloads))
    }

    async fn write_scale(&self, cx: &CallContext, object: &Object, read: &Value, to: u32) -> Result<Scaled> {
        let from = replicas(read);
        if from == to {
            return Ok(Scaled { from, to });
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": read["metadata"]["uid"]}),
            json!({"op": "test", "path": "/spec/replicas", "value": from}),
            json!({"op": "replace", "path": "/spec/replicas", "value": to}),
        ];
        if let Some(cause) = &self.cause {
            put(&mut operations, read, "/metadata/annotations", CHANGE_CAUSE, cause);
        }
        self.kube.patch::<Value>(cx, object, operations).await.map(|_| Scaled { from, to })
    }

    /// The results, or the first error with what was done all the same.
    fn all_of(&self, verb: &'static str, results: Vec<(Workload, Result<Scaled>)>) -> Result<Vec<(Workload, Scaled)>> {
        let names = |ok: bool| {
            let those = results.iter().filter(|(_, r)| r.is_ok() == ok).map(|(w, _)| w.to_string());
            those.collect::<Vec<_>>().join(", ")
        };
        let (done, failed) = (names(true), names(false));
        let mut scaled = Vec::new();
        let mut first = None;
        for (workload, result) in results {
            match result {
                Ok(change) => scaled.push((workload, change)),
                Err(e) => first = first.or(Some(e)),
            }
        }
        let Some(error) = first else { return Ok(scaled) };
        let done = if done.is_empty() { "none is done".to_owned() } else { format!("done are {done}") };
        let message = format!("{} on {}; {done}; not done are {failed}", error.message(), error.target());
        Err(Error::new(error.kind(), BACKEND, verb, message)
            .on(self.namespace.to_string())
            .effect(error.effect_of())
            .hint("look at those that failed, and do it once more: what is done stays as it is")
            .with_source(error))
    }
}

fn range<'a>(ranges: &'a Ranges, workload: &Workload) -> Option<&'a Range> {
    ranges.get(&(workload.kind.kind().kind.to_owned(), workload.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_bound_what_is_brought_back() {
        let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({"metadata": {"name": "web-scaler"},
            "spec": {"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}))
        .unwrap();
        let ranges = ranges(&[autoscaler]);
        let range = range(&ranges, &Workload::deployment("web"));
        for (replicas, fit) in [(0, 0), (1, 2), (3, 3), (9, 4)] {
            assert_eq!(Range::fit(range, replicas), fit);
        }
        assert_eq!(Range::fit(super::range(&ranges, &Workload::stateful_set("web")), 9), 9);
    }
}
