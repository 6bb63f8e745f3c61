use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::super::write::Change;
use super::super::{Verbs, Workload};
use crate::error::Access;
use crate::patch::put;

/// Where kubectl notes when it restarted a workload; a new value is a new template.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

pub(super) fn is_paused(read: &Value) -> bool {
    read["spec"]["paused"] == true
}

impl Verbs {
    /// Renews all pods of a workload, a few at a time as its strategy says: `kubectl rollout restart`.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) while a Deployment is paused, or if it was restarted within this second;
    /// [`Conflict`](ErrorKind::Conflict) if somebody changed the spec in between.
    pub async fn rollout_restart(&self, cx: &CallContext, workload: &Workload) -> Result<Change> {
        let object = workload.object(&self.namespace);
        let ask = object.ask(Access::Compare, "restart");
        let read = self.read_object(cx, &object).await?;
        if is_paused(&read) {
            return Err(ask
                .error(ErrorKind::Invalid, "can't restart paused deployment")
                .hint("resume it first with kubectl rollout resume, and try again"));
        }
        let now = SystemClock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let annotations = "/spec/template/metadata/annotations";
        if read.pointer(annotations).is_some_and(|a| a[RESTARTED_AT] == now.as_str()) {
            let message = "it was restarted within this second already: nothing would change";
            return Err(ask
                .error(ErrorKind::Invalid, message)
                .hint("wait a second if it is to be restarted once more"));
        }
        let mut operations = Vec::new();
        put(&mut operations, &read, annotations, RESTARTED_AT, &now);
        self.write(cx, &object, &read, operations).await
    }

    /// Holds the rollout of a Deployment where it is; changes of its template wait: `kubectl rollout pause`.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if it is paused already, [`Conflict`](ErrorKind::Conflict) if somebody changed
    /// the spec in between.
    pub async fn rollout_pause(&self, cx: &CallContext, deployment: &str) -> Result<Change> {
        self.set_paused(cx, deployment, true).await
    }

    /// Lets the rollout of a paused Deployment go on: `kubectl rollout resume`.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if it is not paused, [`Conflict`](ErrorKind::Conflict) if somebody changed the
    /// spec in between.
    pub async fn rollout_resume(&self, cx: &CallContext, deployment: &str) -> Result<Change> {
        self.set_paused(cx, deployment, false).await
    }

    async fn set_paused(&self, cx: &CallContext, deployment: &str, paused: bool) -> Result<Change> {
        let object = Workload::deployment(deployment).object(&self.namespace);
        let read = self.read_object(cx, &object).await?;
        let (verb, already, operation) = if paused {
            ("pause", "is already paused", json!({"op": "add", "path": "/spec/paused", "value": true}))
        } else {
            ("resume", "is not paused", json!({"op": "remove", "path": "/spec/paused"}))
        };
        if is_paused(&read) == paused {
            let ask = object.ask(Access::Compare, verb);
            return Err(ask.error(ErrorKind::Invalid, already).hint("nothing was changed"));
        }
        self.write(cx, &object, &read, vec![operation]).await
    }
}
