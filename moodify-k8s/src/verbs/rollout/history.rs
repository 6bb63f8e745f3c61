use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use moodify_core::{CallContext, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{CONTROLLER_REVISION, REPLICA_SET};

use super::super::logs::selector_in;
use super::super::rows::{ContainerImage, images};
use super::super::table::{Row, or_none};
use super::super::write::CHANGE_CAUSE;
use super::super::{Select, Verbs, Workload, WorkloadKind};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

/// The label by which a Deployment tells its `ReplicaSets` apart; no part of what it rolls out.
const HASH: &str = "pod-template-hash";

/// What a workload ran at some time, and can run again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Revision {
    /// Its number; the highest is the present one.
    pub number: i64,
    /// Why it was rolled out, if somebody said so (`kubernetes.io/change-cause`).
    pub change_cause: Option<String>,
    /// What its containers run.
    pub images: Vec<ContainerImage>,
    /// When it was first rolled out.
    pub created: Option<Timestamp>,
    /// The object that keeps it.
    pub kept_by: String,
    /// The template of its pods.
    pub template: Value,
    /// The annotations of the object that keeps it.
    #[serde(skip)]
    pub(super) annotations: Value,
}

impl Row for Revision {
    fn columns(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 3] = ["REVISION", "CHANGE-CAUSE", "IMAGES"];
        if wide { &ALL } else { &ALL[..2] }
    }

    fn cells(&self, wide: bool, _now: Timestamp) -> Vec<String> {
        let mut cells = vec![self.number.to_string(), or_none(self.change_cause.as_deref())];
        if wide {
            cells.push(self.images.iter().map(|i| i.image.as_str()).collect::<Vec<_>>().join(","));
        }
        cells
    }

    fn namespace(&self) -> &str {
        ""
    }
}

impl Verbs {
    /// What a workload ran, the oldest first: `kubectl rollout history`. As many as its `revisionHistoryLimit` keeps.
    ///
    /// # Errors
    /// [`NotFound`](moodify_core::ErrorKind::NotFound), and when the server cannot be asked.
    pub async fn rollout_history(&self, cx: &CallContext, workload: &Workload) -> Result<Vec<Revision>> {
        let read = self.read(cx, workload).await?;
        self.revisions(cx, workload, &read).await
    }

    /// The history of every workload of a kind: what changed lately anywhere. With [`Select::all_namespaces`] names are
    /// `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn rollout_histories(
        &self,
        cx: &CallContext,
        kind: WorkloadKind,
        select: &Select,
    ) -> Result<Vec<(String, Vec<Revision>)>> {
        let workloads: Vec<Value> = self.list(cx, kind.kind(), select).await?;
        let kept: Vec<Value> = self.list(cx, keeper(kind), &select.unfiltered()).await?;
        let name = |object: &Value| {
            let (namespace, name) = (&object["metadata"]["namespace"], object["metadata"]["name"].as_str());
            let name = name.unwrap_or_default();
            match namespace.as_str() {
                Some(namespace) if namespace != self.namespace() => format!("{namespace}/{name}"),
                _ => name.to_owned(),
            }
        };
        Ok(workloads.iter().map(|w| (name(w), owned(kind, w, &kept))).collect())
    }

    pub(in super::super) async fn revisions(
        &self,
        cx: &CallContext,
        workload: &Workload,
        read: &Value,
    ) -> Result<Vec<Revision>> {
        let select = Select::all().labels(selector_in(&workload.object(&self.namespace), read)?);
        let kept: Vec<Value> = self.list(cx, keeper(workload.kind), &select).await?;
        Ok(owned(workload.kind, read, &kept))
    }
}

/// What keeps the revisions of a workload.
fn keeper(kind: WorkloadKind) -> crate::client::Kind {
    if kind == WorkloadKind::Deployment { REPLICA_SET } else { CONTROLLER_REVISION }
}

/// The revisions of a workload among what is kept.
fn owned(kind: WorkloadKind, workload: &Value, kept: &[Value]) -> Vec<Revision> {
    let uid = &workload["metadata"]["uid"];
    let is_owner = |owner: &Value| owner["uid"] == *uid && owner["controller"] == true;
    let owners = |object: &Value| object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    let own = kept.iter().filter(|object| !uid.is_null() && owners(object).iter().any(is_owner));
    let mut revisions: Vec<Revision> = own.filter_map(|object| revision(kind, object)).collect();
    revisions.sort_by_key(|r| r.number);
    revisions
}

fn revision(kind: WorkloadKind, object: &Value) -> Option<Revision> {
    let annotations = &object["metadata"]["annotations"];
    let (number, mut template) = match kind {
        WorkloadKind::Deployment => (annotations[REVISION].as_str()?.parse().ok()?, object["spec"]["template"].clone()),
        _ => (object["revision"].as_i64()?, object["data"]["spec"]["template"].clone()),
    };
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    if let Some(template) = template.as_object_mut() {
        // How a StatefulSet or DaemonSet notes that the whole of it is meant.
        template.remove("$patch");
    }
    let containers: Vec<Container> = serde_json::from_value(template["spec"]["containers"].clone()).unwrap_or_default();
    Some(Revision {
        number,
        change_cause: annotations[CHANGE_CAUSE].as_str().filter(|c| !c.is_empty()).map(str::to_owned),
        images: images(&containers),
        created: object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse().ok()),
        kept_by: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        template,
        annotations: annotations.clone(),
    })
}
