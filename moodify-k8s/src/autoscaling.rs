//! Autoscalers while a release is on its way. They go on scaling, but what served before keeps the instances that a way
//! back needs, however little of the traffic is left to it: the least that they may leave is raised meanwhile.

use kube::core::params::ListParams;
use moodify_core::backend::Change;
use moodify_core::model::{Target, Track};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result, RunId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{AUTOSCALER, DEPLOYMENT, Kind, Kube, Object, SCALED_OBJECT};
use crate::deployer::{DeploymentDeployer, deployment_of};
use crate::error::Access;
use crate::patch::{self, put};

/// The annotation with what an autoscaler had before.
const HELD: &str = "moodify.dev/held";

/// What is noted on an autoscaler whose minimum was raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    /// By which run.
    run: String,
    /// To what.
    floor: u64,
    /// From what; `None` if it said nothing.
    before: Option<u64>,
}

impl Held {
    fn of(scaler: &Value) -> Option<Self> {
        serde_json::from_str(scaler.pointer(&patch::annotation(HELD))?.as_str()?).ok()
    }
}

/// Where the kind says the least and the most, and what holds where it says nothing.
fn limits(kind: Kind) -> [(&'static str, u64); 2] {
    match kind == SCALED_OBJECT {
        true => [("/spec/minReplicaCount", 0), ("/spec/maxReplicaCount", 100)],
        false => [("/spec/minReplicas", 1), ("/spec/maxReplicas", u64::MAX)],
    }
}

/// The minimum that a run needs, if that is more than there is: from, to.
fn raise(kind: Kind, scaler: &Value, floor: u32) -> Option<(u64, u64)> {
    let [now, most] = limits(kind).map(|(path, else_)| scaler.pointer(path).and_then(Value::as_u64).unwrap_or(else_));
    let floor = u64::from(floor).min(most);
    (now < floor).then_some((now, floor))
}

/// The patch that raises a minimum and notes what it was. What a run that is over left is taken on.
fn held(kind: Kind, scaler: &Value, run: &RunId, floor: u32) -> Option<Vec<Value>> {
    let path = limits(kind)[0].0;
    let now = scaler.pointer(path).and_then(Value::as_u64);
    let noted = Held::of(scaler).filter(|held| Some(held.floor) == now);
    if noted.as_ref().is_some_and(|held| held.run == run.as_str()) {
        return None;
    }
    let floor = match (raise(kind, scaler, floor), &noted) {
        (Some((_, floor)), _) => floor,
        (None, Some(left)) => left.floor,
        (None, None) => return None,
    };
    let before = noted.map_or(now, |left| left.before);
    let mut patch: Vec<Value> = now.iter().map(|now| json!({"op": "test", "path": path, "value": now})).collect();
    patch.push(json!({"op": "add", "path": path, "value": floor}));
    let note = json!(Held { run: run.to_string(), floor, before }).to_string();
    put(&mut patch, scaler, "/metadata/annotations", HELD, &note);
    Some(patch)
}

/// The patch that gives an autoscaler back as it was. A minimum that somebody else set since stays.
fn given_back(kind: Kind, scaler: &Value, run: &RunId) -> Option<Vec<Value>> {
    let held = Held::of(scaler).filter(|held| held.run == run.as_str())?;
    let (path, note) = (limits(kind)[0].0, patch::annotation(HELD));
    let mut patch = vec![
        json!({"op": "test", "path": note, "value": scaler.pointer(&note)}),
        json!({"op": "remove", "path": note}),
    ];
    if scaler.pointer(path).and_then(Value::as_u64) == Some(held.floor) {
        patch.push(json!({"op": "test", "path": path, "value": held.floor}));
        patch.push(match held.before {
            Some(before) => json!({"op": "replace", "path": path, "value": before}),
            None => json!({"op": "remove", "path": path}),
        });
    }
    Some(patch)
}

/// An autoscaler of a Deployment.
pub(crate) struct Scaler {
    /// What is to be changed: itself, or the `ScaledObject` that it is made by.
    pub(crate) object: Object,
    /// The autoscaler, as the server told of it.
    value: Value,
    /// What makes it, if that is nothing that is known here.
    stranger: Option<String>,
}

impl Scaler {
    fn of(value: Value, namespace: &str) -> Self {
        let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.into_iter().find(|owner| owner["controller"] == true);
        let named = |key: &str| owner.and_then(|owner| owner[key].as_str()).unwrap_or_default().to_owned();
        let (kind, of) = (named("kind"), named("name"));
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        let object = match kind.as_str() {
            // Its autoscaler follows it.
            "ScaledObject" => Object::new(SCALED_OBJECT, namespace, &of),
            _ => Object::new(AUTOSCALER, namespace, name),
        };
        let stranger = Some(kind).filter(|kind| !kind.is_empty() && kind != "ScaledObject");
        Self { object, value, stranger }
    }

    /// Refuses one whose owner would set it back.
    pub(crate) fn follows(self, name: &str) -> Result<Object> {
        let Some(owner) = self.stranger else { return Ok(self.object) };
        let error = self.object.ask(Access::Read, "check");
        Err(error
            .error(ErrorKind::Unsupported, format!("a {owner} makes it, and would set it back to {name}"))
            .hint("release this service by the strategy canary, which leaves autoscalers as they are"))
    }
}

/// The autoscalers of a namespace. A server that does not know them has none.
pub(crate) async fn listed<T: DeserializeOwned>(kube: &Kube, cx: &CallContext, namespace: &str) -> Result<Vec<T>> {
    match kube.list(cx, AUTOSCALER, namespace, &ListParams::default()).await {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        all => all,
    }
}

impl DeploymentDeployer {
    /// The autoscalers that go by the name of one of these tracks' Deployments.
    pub(crate) async fn scalers(&self, cx: &CallContext, target: &Target, tracks: &[Track]) -> Result<Vec<Scaler>> {
        let names: Vec<String> = tracks.iter().map(|track| deployment_of(target, *track).name).collect();
        let all: Vec<Value> = listed(&self.kube, cx, &target.namespace).await?;
        let of_it = |scaler: &Value| {
            let scaled = &scaler["spec"]["scaleTargetRef"];
            scaled["kind"] == DEPLOYMENT.kind && names.iter().any(|name| scaled["name"] == name.as_str())
        };
        Ok(all.into_iter().filter(of_it).map(|value| Scaler::of(value, &target.namespace)).collect())
    }

    /// The objects that say the least number of instances, as they are now.
    async fn minimums(&self, cx: &CallContext, target: &Target, tracks: &[Track]) -> Result<Vec<(Object, Value)>> {
        let mut all = Vec::new();
        // The owner of one that is made by something else would set it back.
        for scaler in self.scalers(cx, target, tracks).await?.into_iter().filter(|s| s.stranger.is_none()) {
            let value = match scaler.object.kind == SCALED_OBJECT {
                true => self.kube.find(cx, &scaler.object).await?,
                false => Some(scaler.value),
            };
            all.extend(value.map(|value| (scaler.object, value)));
        }
        Ok(all)
    }

    /// Keeps what serves from having fewer instances than now, as long as the release is on its way.
    pub(crate) async fn hold_instances(&self, cx: &CallContext, target: &Target, floor: u32) -> Result<()> {
        for (object, value) in self.minimums(cx, target, &[Track::Stable]).await? {
            if let Some(patch) = held(object.kind, &value, cx.run_id(), floor) {
                let _: Value = self.kube.patch(cx, &object, patch).await?;
            }
        }
        Ok(())
    }

    /// Gives the autoscalers back as they were, whichever version they go by.
    pub(crate) async fn release_instances(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let found = match self.minimums(cx, target, &[Track::Stable, Track::Canary]).await {
            // Whoever may not look has not raised any.
            Err(e) if e.kind() == ErrorKind::Forbidden => {
                tracing::warn!(%target, error = %e, "the autoscalers could not be looked at");
                return Ok(());
            }
            found => found.map_err(late)?,
        };
        for (object, value) in found {
            if let Some(patch) = given_back(object.kind, &value, cx.run_id()) {
                let _: Value = self.kube.patch(cx, &object, patch).await.map_err(late)?;
            }
        }
        Ok(())
    }

    /// What `hold_instances` would change, for people.
    pub(crate) async fn preview_minimums(&self, cx: &CallContext, target: &Target, floor: u32) -> Result<Vec<Change>> {
        let found = self.minimums(cx, target, &[Track::Stable]).await?;
        let change = |(object, value): &(Object, Value)| {
            let (now, floor) = raise(object.kind, value, floor)?;
            let what = format!("at least {floor} replicas instead of {now} until the end");
            Some(Change { object: object.to_string(), what })
        };
        Ok(found.iter().filter_map(change).collect())
    }
}

/// What this belongs to is done already, whatever became of the autoscaler.
fn late(e: Error) -> Error {
    e.effect(Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> RunId {
        RunId::new(name).unwrap()
    }

    fn hpa(least: u64, most: u64) -> Value {
        json!({"metadata": {"name": "web", "resourceVersion": "7", "annotations": {"a": "b"}},
            "spec": {"minReplicas": least, "maxReplicas": most}})
    }

    fn patched(value: &Value, patch: Vec<Value>) -> Value {
        let mut value = value.clone();
        let patch: json_patch::Patch = serde_json::from_value(Value::from(patch)).unwrap();
        json_patch::patch(&mut value, &patch).unwrap();
        value
    }

    #[test]
    fn a_minimum_is_raised_once_and_given_back_as_it_was() {
        let keda = json!({"metadata": {"name": "web", "resourceVersion": "7"}, "spec": {"maxReplicaCount": 9}});
        for (kind, before, path) in
            [(AUTOSCALER, hpa(2, 10), "/spec/minReplicas"), (SCALED_OBJECT, keda, "/spec/minReplicaCount")]
        {
            let held_now = patched(&before, held(kind, &before, &run("r1"), 5).unwrap());
            assert_eq!(held_now.pointer(path), Some(&json!(5)));
            assert_eq!(held(kind, &held_now, &run("r1"), 7), None, "once is enough");
            assert_eq!(given_back(kind, &held_now, &run("r2")), None, "it is not that run's");
            let mut back = patched(&held_now, given_back(kind, &held_now, &run("r1")).unwrap());
            if before["metadata"]["annotations"].is_null() {
                back["metadata"].as_object_mut().unwrap().remove("annotations");
            }
            assert_eq!(back, before);
            assert_eq!(given_back(kind, &back, &run("r1")), None);
        }
    }

    #[test]
    fn no_minimum_is_lowered_nor_above_the_maximum() {
        assert_eq!(held(AUTOSCALER, &hpa(5, 10), &run("r1"), 5), None);
        let small = hpa(2, 4);
        assert_eq!(patched(&small, held(AUTOSCALER, &small, &run("r1"), 5).unwrap())["spec"]["minReplicas"], 4);
    }

    #[test]
    fn what_somebody_else_set_since_stays_and_what_a_lost_run_left_is_taken_on() {
        let before = hpa(2, 10);
        let mut now = patched(&before, held(AUTOSCALER, &before, &run("r1"), 5).unwrap());
        let next = patched(&now, held(AUTOSCALER, &now, &run("r2"), 4).unwrap());
        assert_eq!(patched(&next, given_back(AUTOSCALER, &next, &run("r2")).unwrap()), before);

        now["spec"]["minReplicas"] = json!(3);
        let back = patched(&now, given_back(AUTOSCALER, &now, &run("r1")).unwrap());
        assert_eq!(back["spec"]["minReplicas"], 3);
        assert_eq!(back["metadata"], before["metadata"]);
        let after = patched(&now, held(AUTOSCALER, &now, &run("r2"), 5).unwrap());
        assert_eq!(patched(&after, given_back(AUTOSCALER, &after, &run("r2")).unwrap())["spec"]["minReplicas"], 3);
    }
}
