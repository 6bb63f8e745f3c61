//! kubectl's verbs, typed: what a person does with a cluster at night, as calls.
//!
//! [`Kube::verbs`](crate::Kube::verbs) gives the verbs of one namespace. A verb that has the name of one of kubectl's
//! means the same: what it writes is what kubectl would have written, but for the field manager; what it refuses
//! kubectl refuses; and [`table`] shows rows as `kubectl get` does. What differs is said at the method.
//!
//! | kubectl | here |
//! |---|---|
//! | `get deployments`, `pods -o wide`, `services`, `-A`, `-l` | [`deployments`](Verbs::deployments), [`pods`](Verbs::pods), [`services`](Verbs::services), [`Select`], [`table`] |
//! | `get pods --watch` | [`watch_pods`](Verbs::watch_pods) |
//! | `top nodes`, `top pods --sort-by` | [`top_nodes`](Verbs::top_nodes), [`top_pods`](Verbs::top_pods) |
//! | `apply --server-side`, `diff`, `--prune` | [`Manifests`], [`apply`](Verbs::apply), [`diff`](Verbs::diff), [`ApplyOptions::prune`] |
//! | `rollout status`, `history`, `undo` | [`rollout_status`](Verbs::rollout_status), [`rollout_history`](Verbs::rollout_history), [`rollout_undo`](Verbs::rollout_undo) |
//! | `rollout restart`, `pause`, `resume` | [`rollout_restart`](Verbs::rollout_restart), [`rollout_pause`](Verbs::rollout_pause), [`rollout_resume`](Verbs::rollout_resume) |
//! | `set image`, `env`, `resources`, `--record` | [`set_image`](Verbs::set_image), [`set_env`](Verbs::set_env), [`set_resources`](Verbs::set_resources), [`because`](Verbs::because) |
//! | `patch service -p '{"spec":{"selector":...}}'` | [`patch_selector`](Verbs::patch_selector) |
//! | `scale`, `scale --all` | [`scale`](Verbs::scale), [`scale_all`](Verbs::scale_all); there and back: [`remember`](Verbs::remember) |
//! | `logs`, `-f`, `--previous`, `--since`, `--all-containers` | [`logs`](Verbs::logs) |
//! | `exec` | [`exec`](Verbs::exec) |
//! | `run --rm` | [`run`](Verbs::run) |
//! | `describe deployment`, `pod` | [`describe_workload`](Verbs::describe_workload), [`describe_pod`](Verbs::describe_pod) |
//! | `delete pod` | [`delete_pod`](Verbs::delete_pod), through the eviction API |
//! | `events`, `--watch` | [`events`](Verbs::events), [`watch_events`](Verbs::watch_events) |
//!
//! # What they need
//! The least that a Role has to allow:
//!
//! | | resources | verbs |
//! |---|---|---|
//! | to look | `deployments`, `statefulsets`, `daemonsets`, `replicasets`, `controllerrevisions`, `pods`, `services`, `events` | get, list, watch |
//! | logs | `pods/log` | get |
//! | top | `pods.metrics.k8s.io`, and for nodes with a `ClusterRole` `nodes.metrics.k8s.io` and `nodes` | list |
//! | rollout, set, scale | the workload; for a selector `services` | patch |
//! | scale all, remember, bring back | `horizontalpodautoscalers.autoscaling` | list |
//! | delete pod | `pods/eviction` | create |
//! | exec | `pods/exec` | get, create |
//! | run | `pods` | create, delete |
//! | apply | whatever is applied: get, create, patch; to prune list, delete | |
//!
//! # What holds
//! Every call has the deadline of its context; nothing is repeated in here. A write compares: it holds for the spec
//! that was read, or fails as [`Conflict`](moodify_core::ErrorKind::Conflict), and then it is for the caller to look
//! again. A write whose answer was lost says that its effect is unknown.
//!
//! ```no_run
//! # async fn restart() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_core::CallContext;
//! use moodify_k8s::verbs::{Workload, Look, Select, table};
//! use moodify_k8s::{Kube, KubeConfig};
//!
//! let shop = Kube::connect(&KubeConfig::new().context("production")).await?.verbs("shop");
//! let cx = CallContext::by_hand("restart", Duration::from_secs(300));
//! let backend = Workload::deployment("backend");
//! shop.rollout_restart(&cx, &backend).await?;
//! shop.rollout_status(&cx, &backend, &|seen| println!("{seen}")).await?;
//! println!("{}", table(&shop.pods(&cx, &Select::all()).await?, &Look::wide()));
//! # Ok(())
//! # }
//! ```

mod age;
mod apply;
mod describe;
mod events;
mod evict;
mod exec;
mod get;
mod list;
mod logs;
pub(crate) mod quantity;
mod rollout;
mod rows;
mod run;
mod scale;
mod set;
mod table;
mod top;
mod workload;
mod write;

use std::sync::Arc;

pub use apply::{Applied, AppliedObject, ApplyOptions, Difference, Manifest, Manifests, Outcome};
pub use describe::{Condition, ContainerDescription, PodDescription, WorkloadDescription};
pub use events::EventRow;
pub use exec::{ExecOutput, ExecRequest};
pub use list::Select;
pub use logs::{LogContainers, LogLine, LogOptions, LogSource};
pub use rollout::{Revision, RolloutStatus, Undone};
pub use rows::{ContainerImage, DeploymentRow, PodRow, ServiceRow};
pub use run::{RunOutput, RunRequest};
pub use scale::{Remembered, RememberedScale, Scaled};
pub use set::{EnvChange, ResourceChange};
pub use table::{Look, Row, table};
pub use top::{ContainerUsage, NodeUsage, PodUsage, SortBy};
pub use workload::{Workload, WorkloadKind};
pub use write::Change;

use crate::Kube;

/// kubectl's verbs in one namespace. Cheap to clone; see the [module](self).
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct Verbs {
    kube: Kube,
    namespace: Arc<str>,
    cause: Option<Arc<str>>,
}

impl Verbs {
    pub(crate) fn new(kube: Kube, namespace: &str) -> Self {
        Self { kube, namespace: namespace.into(), cause: None }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same verbs, which write `cause` as the change cause of every workload that they change: what
    /// `kubectl rollout history` shows, and what `--record` wrote.
    #[must_use]
    pub fn because(&self, cause: &str) -> Self {
        Self { cause: Some(cause.into()), ..self.clone() }
    }
}
