use std::fmt;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::rows::count;
use super::super::write::{generation, missing};
use super::super::{Verbs, Workload, WorkloadKind};
use crate::client::{Object, typed, until_error};
use crate::error::{Access, Ask};

/// How far a rollout is. Its text is kubectl's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// Whether it is done.
    pub complete: bool,
    /// What a person is told.
    pub message: String,
    /// The generation of the object.
    pub generation: i64,
    /// Whether the counts are of that generation, and not of the rollout before.
    pub observed: bool,
    /// Pods that there are to be.
    pub desired: u32,
    /// Pods of the newest template.
    pub updated: u32,
    /// Pods that are available; of a StatefulSet, those that are ready.
    pub available: u32,
}

impl fmt::Display for RolloutStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Verbs {
    /// Waits until a rollout is done, telling `on` of every step: `kubectl rollout status`. The success of the rollout
    /// before is never taken for this one's. It may be dropped at any time.
    ///
    /// # Errors
    /// [`Unhealthy`](ErrorKind::Unhealthy) when Kubernetes gave up waiting for progress,
    /// [`Unsupported`](ErrorKind::Unsupported) for an update strategy that nobody waits for (`OnDelete`),
    /// [`NotFound`](ErrorKind::NotFound), also when it is deleted meanwhile, and [`Timeout`](ErrorKind::Timeout) with
    /// how far it was.
    pub async fn rollout_status(
        &self,
        cx: &CallContext,
        workload: &Workload,
        on: &(dyn Fn(&RolloutStatus) + Sync),
    ) -> Result<RolloutStatus> {
        let mut states = self.watch_rollout(cx, workload);
        let mut last: Option<RolloutStatus> = None;
        let wait = async {
            while let Some(state) = states.next().await {
                let state = state?;
                on(&state);
                if state.complete {
                    return Ok(state);
                }
                last = Some(state);
            }
            std::future::pending().await
        };
        let ended = cx.run(crate::error::BACKEND, "rollout status", wait).await;
        ended.map_err(|e| {
            if !e.target().is_empty() {
                return e;
            }
            let seen = last.map_or_else(|| "nothing was seen of it yet".to_owned(), |state| state.message);
            let ask = workload.object(&self.namespace).ask(Access::Read, "wait for the rollout of");
            ask.error(e.kind(), format!("it is not done: {seen}")).hint(
                "it goes on by itself; kubectl describe says what it waits for, kubectl rollout undo takes it back",
            )
        })
    }

    /// How far a rollout is, now and after every change. Ends after it is done, and after an error.
    pub fn watch_rollout(&self, cx: &CallContext, workload: &Workload) -> BoxStream<'static, Result<RolloutStatus>> {
        let object = workload.object(&self.namespace);
        let kind = workload.kind;
        let mut last: Option<RolloutStatus> = None;
        let mut done = false;
        let mut there = false;
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let Some(found) = found? else {
                return Err(if there { deleted(&object) } else { missing(&object) });
            };
            there = true;
            state(&object, kind, serde_json::to_value(found).unwrap_or_default())
        });
        let states = states.take_while(move |state| {
            let before = done;
            done = state.as_ref().is_ok_and(|s| s.complete);
            std::future::ready(!before)
        });
        let changes = states.filter_map(move |state| {
            let news = match state {
                Ok(state) if last.as_ref() == Some(&state) => None,
                Ok(state) => {
                    last = Some(state.clone());
                    Some(Ok(state))
                }
                Err(e) => Some(Err(e)),
            };
            std::future::ready(news)
        });
        until_error(changes)
    }
}

fn deleted(object: &Object) -> Error {
    object
        .ask(Access::Read, "wait for the rollout of")
        .error(ErrorKind::NotFound, "it was deleted while its rollout was waited for")
        .hint("find out who deleted it; its pods go with it")
}

fn state(object: &Object, kind: WorkloadKind, found: Value) -> Result<RolloutStatus> {
    let ask = object.ask(Access::Read, "watch the rollout of");
    let generation = generation(&found);
    match kind {
        WorkloadKind::Deployment => of_deployment(&ask, generation, &typed(&ask, found)?),
        WorkloadKind::StatefulSet => of_stateful_set(&ask, generation, &typed(&ask, found)?),
        WorkloadKind::DaemonSet => of_daemon_set(&ask, generation, &typed(&ask, found)?),
    }
}

fn of_deployment(ask: &Ask, generation: i64, deployment: &Deployment) -> Result<RolloutStatus> {
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let observed = generation <= status.observed_generation.unwrap_or(0);
    let gave_up = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    if observed && gave_up {
        return Err(ask
            .error(ErrorKind::Unhealthy, format!("deployment {name:?} exceeded its progress deadline"))
            .hint("kubectl describe deployment and kubectl get events say why; kubectl rollout undo takes it back"));
    }
    let desired = deployment.spec.as_ref().map_or(0, |spec| count(spec.replicas.or(Some(1))));
    let (all, updated, available) =
        (count(status.replicas), count(status.updated_replicas), count(status.available_replicas));
    let waiting = |what: String| (false, format!("Waiting for deployment {name:?} rollout to finish: {what}..."));
    let (complete, message) = if !observed {
        (false, "Waiting for deployment spec update to be observed...".to_owned())
    } else if updated < desired {
        waiting(format!("{updated} out of {desired} new replicas have been updated"))
    } else if all > updated {
        waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        (true, format!("deployment {name:?} successfully rolled out"))
    };
    Ok(RolloutStatus { complete, message, generation, observed, desired, updated, available })
}

/// Nobody rolls it: its pods are renewed as they are deleted.
fn by_hand(ask: &Ask) -> Error {
    ask.error(ErrorKind::Unsupported, "rollout status is only available for RollingUpdate strategy type")
        .hint("with OnDelete a pod is renewed when somebody deletes it")
}

fn of_stateful_set(ask: &Ask, generation: i64, set: &StatefulSet) -> Result<RolloutStatus> {
    let spec = set.spec.clone().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() != Some("RollingUpdate") {
        return Err(by_hand(ask));
    }
    let seen = status.observed_generation.unwrap_or(0);
    let observed = seen != 0 && generation <= seen;
    let desired = count(spec.replicas.or(Some(1)));
    let (updated, ready) = (count(status.updated_replicas), count(status.ready_replicas));
    let partition = strategy.rolling_update.as_ref().map(|r| count(r.partition));
    let (revision, current) = (status.update_revision.unwrap_or_default(), status.current_revision.unwrap_or_default());
    let (complete, message) = if !observed {
        (false, "Waiting for statefulset spec update to be observed...".to_owned())
    } else if ready < desired {
        (false, format!("Waiting for {} pods to be ready...", desired - ready))
    } else if let Some(partition) = partition {
        let wanted = desired.saturating_sub(partition);
        if updated < wanted {
            let message = format!(
                "Waiting for partitioned roll out to finish: {updated} out of {wanted} new pods have been updated..."
            );
            (false, message)
        } else {
            (true, format!("partitioned roll out complete: {updated} new pods have been updated..."))
        }
    } else if revision != current {
        let message =
            format!("waiting for statefulset rolling update to complete {updated} pods at revision {revision}...");
        (false, message)
    } else {
        let pods = count(status.current_replicas);
        (true, format!("statefulset rolling update complete {pods} pods at revision {current}..."))
    };
    Ok(RolloutStatus { complete, message, generation, observed, desired, updated, available: ready })
}

fn of_daemon_set(ask: &Ask, generation: i64, set: &DaemonSet) -> Result<RolloutStatus> {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.clone()).unwrap_or_default();
    if strategy.type_.as_deref() != Some("RollingUpdate") {
        return Err(by_hand(ask));
    }
    let observed = generation <= status.observed_generation.unwrap_or(0);
    let desired = count(Some(status.desired_number_scheduled));
    let (updated, available) = (count(status.updated_number_scheduled), count(status.number_available));
    let waiting = |what: String| (false, format!("Waiting for daemon set {name:?} rollout to finish: {what}..."));
    let (complete, message) = if !observed {
        (false, "Waiting for daemon set spec update to be observed...".to_owned())
    } else if updated < desired {
        waiting(format!("{updated} out of {desired} new pods have been updated"))
    } else if available < desired {
        waiting(format!("{available} of {desired} updated pods are available"))
    } else {
        (true, format!("daemon set {name:?} successfully rolled out"))
    };
    Ok(RolloutStatus { complete, message, generation, observed, desired, updated, available })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{DAEMON_SET, STATEFUL_SET};
    use crate::client::{DEPLOYMENT, Kind};
    use serde_json::json;

    fn told(kind: Kind, workload: WorkloadKind, spec: &Value, status: &Value) -> Result<(bool, String)> {
        let mut spec = spec.clone();
        spec["selector"] = json!({});
        spec["template"] = json!({});
        spec["serviceName"] = json!("web");
        let found = json!({"metadata": {"name": "web", "generation": 3}, "spec": spec, "status": status});
        state(&Object::new(kind, "shop", "web"), workload, found).map(|s| (s.complete, s.message))
    }

    fn counts(seen: u32, all: u32, updated: u32, available: u32) -> Value {
        json!({"observedGeneration": seen, "replicas": all, "updatedReplicas": updated, "availableReplicas": available})
    }

    #[test]
    fn a_deployment_is_done_when_all_that_is_left_is_new_and_available() {
        let told = |status: &Value| told(DEPLOYMENT, WorkloadKind::Deployment, &json!({"replicas": 2}), status);
        for (status, complete, text) in [
            (counts(2, 2, 2, 2), false, "Waiting for deployment spec update to be observed..."),
            (
                counts(3, 3, 1, 2),
                false,
                "Waiting for deployment \"web\" rollout to finish: 1 out of 2 new replicas have been updated...",
            ),
            (
                counts(3, 3, 2, 2),
                false,
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
            ),
            (
                counts(3, 2, 2, 1),
                false,
                "Waiting for deployment \"web\" rollout to finish: 1 of 2 updated replicas are available...",
            ),
            (counts(3, 2, 2, 2), true, "deployment \"web\" successfully rolled out"),
        ] {
            assert_eq!(told(&status).unwrap(), (complete, text.to_owned()));
        }
        let mut late = counts(3, 3, 1, 2);
        late["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        assert_eq!(told(&late).unwrap_err().kind(), ErrorKind::Unhealthy);
        late["observedGeneration"] = json!(2);
        assert!(!told(&late).unwrap().0, "the verdict was about the rollout before");
    }

    #[test]
    fn sets_are_done_by_their_own_counts() {
        let rolling = json!({"replicas": 2, "updateStrategy": {"type": "RollingUpdate"}});
        let stateful = |spec: &Value, status: &Value| told(STATEFUL_SET, WorkloadKind::StatefulSet, spec, status);
        let of = |seen: u32, ready: u32, new: u32, current: &str| {
            json!({"observedGeneration": seen, "replicas": 2, "readyReplicas": ready, "updatedReplicas": new,
                "currentReplicas": 2, "updateRevision": "web-2", "currentRevision": current})
        };
        assert!(!stateful(&rolling, &of(2, 2, 2, "web-2")).unwrap().0);
        assert_eq!(stateful(&rolling, &of(3, 1, 2, "web-2")).unwrap().1, "Waiting for 1 pods to be ready...");
        assert!(!stateful(&rolling, &of(3, 2, 1, "web-1")).unwrap().0);
        assert!(stateful(&rolling, &of(3, 2, 2, "web-2")).unwrap().0);
        let mut parted = rolling.clone();
        parted["updateStrategy"]["rollingUpdate"] = json!({"partition": 1});
        assert!(!stateful(&parted, &of(3, 2, 0, "web-1")).unwrap().0);
        assert!(stateful(&parted, &of(3, 2, 1, "web-1")).unwrap().0, "the other half is to stay");
        let by_hand = json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}});
        assert_eq!(stateful(&by_hand, &of(3, 2, 2, "web-2")).unwrap_err().kind(), ErrorKind::Unsupported);

        let daemon = |status: &Value| told(DAEMON_SET, WorkloadKind::DaemonSet, &rolling, status);
        let of = |seen: u32, new: u32, available: u32| {
            json!({"observedGeneration": seen, "desiredNumberScheduled": 2, "updatedNumberScheduled": new,
                "numberAvailable": available, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2})
        };
        assert!(!daemon(&of(2, 2, 2)).unwrap().0 && !daemon(&of(3, 1, 2)).unwrap().0);
        assert!(!daemon(&of(3, 2, 1)).unwrap().0 && daemon(&of(3, 2, 2)).unwrap().0);
    }
}
