//! How a workload is changed: what was read is compared by the very write.

use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Verbs, Workload};
use crate::client::Object;
use crate::error::Access;
use crate::patch::put;

pub(super) const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// Whether anything was written; not, if it was so already.
    pub changed: bool,
    /// The generation of the object: what its status speaks of when it has observed this one.
    pub generation: i64,
}

pub(super) fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// There is no such object.
pub(super) fn missing(object: &Object) -> Error {
    let kind = object.kind.kind;
    let message = format!("there is no {kind} {} in the namespace {}", object.name, object.namespace);
    let hint = format!("kubectl get {} -n {}", object.kind.plural, object.namespace);
    object.ask(Access::Read, "get").error(ErrorKind::NotFound, message).hint(hint)
}

impl Verbs {
    pub(super) async fn read(&self, cx: &CallContext, workload: &Workload) -> Result<Value> {
        self.read_object(cx, &workload.object(&self.namespace)).await
    }

    pub(super) async fn read_object(&self, cx: &CallContext, object: &Object) -> Result<Value> {
        self.kube.find(cx, object).await?.ok_or_else(|| missing(object))
    }

    /// Writes if there is anything to write, and only over the spec that was read. Its generation is compared and not
    /// its resource version, which every change of its status makes another one: a rollout must not keep an undo away.
    pub(super) async fn write(
        &self,
        cx: &CallContext,
        object: &Object,
        read: &Value,
        mut operations: Vec<Value>,
    ) -> Result<Change> {
        if operations.is_empty() {
            return Ok(Change { changed: false, generation: generation(read) });
        }
        if let Some(cause) = &self.cause {
            put(&mut operations, read, "/metadata/annotations", CHANGE_CAUSE, cause);
        }
        let meta = &read["metadata"];
        operations.insert(0, json!({"op": "test", "path": "/metadata/generation", "value": meta["generation"]}));
        operations.insert(0, json!({"op": "test", "path": "/metadata/uid", "value": meta["uid"]}));
        let written: Value = self.kube.patch(cx, object, operations).await?;
        Ok(Change { changed: true, generation: generation(&written) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_whose_answer_is_lost_is_unknown_and_not_repeated() {
        use crate::testing::{cx, kube, stable_deployment};
        let (kube, asked) = kube(|method, _, _| match method {
            "GET" => (200, stable_deployment()),
            _ => (500, json!({"code": 500, "message": "etcdserver: request timed out"})),
        });
        let image = [("web", "registry/web:v2")];
        let lost = kube.verbs("ns").set_image(&cx(), &Workload::deployment("web"), &image).await.unwrap_err();
        assert_eq!(lost.effect_of(), moodify_core::Effect::Unknown);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.iter().filter(|a| a.starts_with("PATCH")).count(), 1, "{asked:?}");
        let tested = r#"{"op":"test","path":"/metadata/generation","value":1}"#;
        assert!(asked[1].contains(tested), "{asked:?}");
    }
}
