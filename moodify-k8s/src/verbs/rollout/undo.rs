use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::write::Change;
use super::super::{Verbs, Workload, WorkloadKind};
use super::history::{REVISION, Revision};
use super::pause::is_paused;
use crate::error::{Access, Ask};
use crate::patch::annotation;

/// What an undo did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Undone {
    /// The revision that is rolled out again.
    pub revision: i64,
    /// Whether anything was written; not, if its template is the present one.
    pub change: Change,
}

/// Annotations that are the Deployment's own, and not of what it rolled out.
const KEPT: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

impl Verbs {
    /// Rolls out again what ran before: `kubectl rollout undo`. To the revision before the present one, or to
    /// `revision`.
    ///
    /// The template is replaced as a whole, and with a Deployment its annotations become those of the revision.
    /// Replicas stay. Follow it with [`rollout_status`](Self::rollout_status).
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) while the Deployment is paused, [`NotFound`](ErrorKind::NotFound) if there is no
    /// such revision (any more), [`Conflict`](ErrorKind::Conflict) if somebody changed the spec in between.
    pub async fn rollout_undo(&self, cx: &CallContext, workload: &Workload, revision: Option<i64>) -> Result<Undone> {
        let object = workload.object(&self.namespace);
        let ask = object.ask(Access::Compare, "undo the rollout of");
        let read = self.read_object(cx, &object).await?;
        let revisions = self.revisions(cx, workload, &read).await?;
        let target = wanted(&ask, &revisions, revision)?;
        if is_paused(&read) {
            return Err(ask
                .error(ErrorKind::Invalid, "you cannot rollback a paused deployment")
                .hint("resume it first with kubectl rollout resume, and try again"));
        }
        let mut operations = Vec::new();
        if without_nulls(&target.template) != without_nulls(&read["spec"]["template"]) {
            operations.push(json!({"op": "replace", "path": "/spec/template", "value": target.template}));
            if workload.kind == WorkloadKind::Deployment {
                operations.extend(annotating(&read, &target.annotations));
            }
        }
        let change = self.write(cx, &object, &read, operations).await?;
        Ok(Undone { revision: target.number, change })
    }
}

fn wanted<'a>(ask: &Ask, revisions: &'a [Revision], number: Option<i64>) -> Result<&'a Revision, Error> {
    let kept = || revisions.iter().map(|r| r.number.to_string()).collect::<Vec<_>>().join(", ");
    match number {
        Some(number) => revisions.iter().find(|r| r.number == number).ok_or_else(|| {
            ask.error(ErrorKind::NotFound, format!("unable to find specified revision {number} in history"))
                .hint(format!("kept are: {}", kept()))
        }),
        None => revisions.iter().rev().nth(1).ok_or_else(|| {
            ask.error(ErrorKind::NotFound, "there is no revision before the present one to roll back to")
                .hint("set the image that it is to run")
        }),
    }
}

/// What a server writes out as null is the same as what it leaves out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v)));
            Value::Object(kept.collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// The annotations of a revision in place of those of the Deployment, one by one: each was read, and an edit of another
/// stays.
fn annotating(read: &Value, of_revision: &Value) -> Vec<Value> {
    let none = Map::new();
    let now = read["metadata"]["annotations"].as_object();
    let then = of_revision.as_object().unwrap_or(&none);
    let Some(now) = now else {
        let value: Map<String, Value> =
            then.iter().filter(|(k, _)| !KEPT.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
        let add = json!({"op": "add", "path": "/metadata/annotations", "value": value});
        return if value.is_empty() { Vec::new() } else { vec![add] };
    };
    let path = annotation;
    let gone = now.iter().filter(|(k, _)| !then.contains_key(*k) && !KEPT.contains(&k.as_str()));
    let removed = gone.flat_map(|(k, v)| {
        [json!({"op": "test", "path": path(k), "value": v}), json!({"op": "remove", "path": path(k)})]
    });
    let other = then.iter().filter(|(k, v)| !KEPT.contains(&k.as_str()) && now.get(*k) != Some(v));
    let set = other.map(|(k, v)| json!({"op": "add", "path": path(k), "value": v}));
    removed.chain(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_become_those_of_the_revision_but_for_the_deployments_own() {
        let read = json!({"metadata": {"annotations": {
            "deployment.kubernetes.io/revision": "3", "a/b": "1", "same": "x", "kubernetes.io/change-cause": "v3"}}});
        let then = json!({"deployment.kubernetes.io/revision": "1", "same": "x", "kubernetes.io/change-cause": "v1"});
        assert_eq!(
            annotating(&read, &then),
            [
                json!({"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"}),
                json!({"op": "remove", "path": "/metadata/annotations/a~1b"}),
                json!({"op": "add", "path": "/metadata/annotations/kubernetes.io~1change-cause", "value": "v1"}),
            ]
        );
    }

    #[test]
    fn null_is_nothing() {
        let a = json!({"metadata": {"creationTimestamp": null, "labels": {"a": "b"}}, "spec": [{"x": null}]});
        assert_eq!(without_nulls(&a), json!({"metadata": {"labels": {"a": "b"}}, "spec": [{}]}));
    }
}
