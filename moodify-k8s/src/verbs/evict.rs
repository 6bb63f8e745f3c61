use std::time::Duration;

use futures::StreamExt as _;
use http::Request;
use kube::core::request::Error as BuildError;
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::Verbs;
use super::write::missing;
use crate::client::{Object, POD};
use crate::error::{Access, BACKEND};

impl Verbs {
    /// Asks for a pod to go, as a drain does, and returns its uid: it has its grace period to finish. A disruption
    /// budget may say no.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused), naming the `PodDisruptionBudget`; [`NotFound`](ErrorKind::NotFound);
    /// [`Conflict`](ErrorKind::Conflict) if another pod of that name has come since.
    pub async fn evict(&self, cx: &CallContext, pod: &str, grace: Option<Duration>) -> Result<String> {
        let object = Object::new(POD, &self.namespace, pod);
        let found: Option<Value> = self.kube.find(cx, &object).await?;
        let found = found.ok_or_else(|| missing(&object))?;
        let uid = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let ask = object.ask(Access::Write, "evict");
        // Validates the name as a part of the path.
        object.request(&ask)?;
        let grace = grace.map(|grace| json!(grace.as_secs())).unwrap_or(Value::Null);
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": &*self.namespace},
            "deleteOptions": {"preconditions": {"uid": uid}, "gracePeriodSeconds": grace},
        });
        let path = format!("{}/{pod}/eviction", POD.path(&self.namespace));
        let request = Request::post(path).header("Content-Type", "application/json");
        let request = request.body(body.to_string().into_bytes()).map_err(BuildError::BuildRequest);
        self.kube.send(cx, &ask, request).await?;
        Ok(uid)
    }

    /// Deletes a pod and waits until it is gone: `kubectl delete pod`, but through the eviction API, so that no
    /// disruption budget is broken. What owns the pod makes another one. Fine if it is gone already while we wait, not
    /// before.
    ///
    /// # Errors
    /// As [`evict`](Self::evict); [`Timeout`](ErrorKind::Timeout) if it has not gone by then.
    pub async fn delete_pod(&self, cx: &CallContext, pod: &str) -> Result<()> {
        let uid = self.evict(cx, pod, None).await?;
        self.await_gone(cx, pod, &uid).await
    }

    /// Waits until the pod with this uid is gone.
    pub(super) async fn await_gone(&self, cx: &CallContext, pod: &str, uid: &str) -> Result<()> {
        let object = Object::new(POD, &self.namespace, pod);
        let mut states = Box::pin(self.kube.watch_object(cx, &object));
        let wait = async {
            while let Some(state) = states.next().await {
                if state?.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid)) {
                    return Ok(());
                }
            }
            std::future::pending().await
        };
        cx.run(BACKEND, "wait", wait).await.map_err(|e| match e.kind() {
            ErrorKind::Timeout | ErrorKind::Cancelled if e.target().is_empty() => object
                .ask(Access::Write, "wait for the end of")
                .error(e.kind(), "it is being deleted, but not gone yet")
                .hint("its grace period and its finalizers say how long that takes; kubectl get pods shows it"),
            _ => e,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::testing::{cx, kube};

    #[tokio::test]
    async fn a_budget_that_says_no_is_named_and_the_very_pod_is_meant() {
        let calls = AtomicU32::new(0);
        let (kube, asked) = kube(move |method, _, _| match method {
            "GET" => (200, json!({"metadata": {"name": "web-1", "uid": "u-1"}})),
            _ if calls.fetch_add(1, Relaxed) > 0 => (201, json!({"kind": "Status", "status": "Success"})),
            _ => {
                let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods and has 2 currently"});
                (
                    429,
                    json!({"code": 429, "reason": "TooManyRequests", "message": "Cannot evict pod", "details": {"causes": [cause]}}),
                )
            }
        });
        let verbs = kube.verbs("shop");
        let refused = verbs.evict(&cx(), "web-1", None).await.unwrap_err();
        assert_eq!((refused.kind(), refused.is_transient()), (ErrorKind::Refused, true));
        assert!(refused.message().contains("disruption budget web needs 2"), "{refused}");
        assert_eq!(verbs.evict(&cx(), "web-1", None).await.unwrap(), "u-1");
        let asked = asked.lock().unwrap();
        assert!(asked[1].starts_with("POST /api/v1/namespaces/shop/pods/web-1/eviction "), "{asked:?}");
        assert!(asked[1].contains(r#""preconditions":{"uid":"u-1"}"#), "{asked:?}");
    }
}
