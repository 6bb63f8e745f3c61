//! A pod's status as a kubelet reports it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::wall_clock;

/// What the node knows about a pod.
pub(super) struct Status {
    pub(super) host: Ipv4Addr,
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) state: State,
    pub(super) restarts: u32,
    pub(super) last: Option<Terminated>,
    /// The pod was ended by its deadline.
    pub(super) late: bool,
    ready: bool,
    changed: Timestamp,
    accepted: Timestamp,
}

/// The state of the first container.
pub(super) enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: Timestamp },
    Ended { code: i32, since: Timestamp, at: Timestamp },
}

/// How the first container ended before.
pub(super) struct Terminated {
    pub(super) code: i32,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

impl Status {
    pub(super) fn new(host: Ipv4Addr) -> Self {
        let now = wall_clock();
        Self {
            host,
            ip: None,
            state: State::Waiting { reason: "ContainerCreating", message: String::new() },
            restarts: 0,
            last: None,
            late: false,
            ready: false,
            changed: now,
            accepted: now,
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    pub(super) fn set_ready(&mut self, ready: bool) {
        if self.ready != ready {
            self.changed = wall_clock();
        }
        self.ready = ready;
    }

    /// The strategic merge patch of the status. It names the pod's uid, so that it never reaches a successor.
    pub(super) fn patch(&self, pod: &Pod) -> Value {
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        // Only the first container has a behaviour; the others are there and do nothing.
        let started = self.ip.is_some();
        let statuses = containers.iter().enumerate().map(|(index, container)| match index {
            0 => self.container(pod, container),
            _ => json!({
                "name": container.name, "image": container.image, "imageID": image_id(container),
                "ready": started, "started": started, "restartCount": 0,
                "state": if started { json!({"running": {"startedAt": self.accepted}}) }
                    else { json!({"waiting": {"reason": "ContainerCreating"}}) },
            }),
        });
        let statuses: Vec<Value> = statuses.collect();
        let name = containers.first().map_or("", |container| container.name.as_str());
        let readiness = |kind: &str| match self.ready {
            true => json!({
                "type": kind, "status": "True", "lastTransitionTime": self.changed, "reason": null, "message": null,
            }),
            false => json!({
                "type": kind, "status": "False", "lastTransitionTime": self.changed, "reason": "ContainersNotReady",
                "message": format!("containers with unready status: [{name}]"),
            }),
        };
        let done = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": self.accepted});
        json!({
            "metadata": {"uid": pod.uid()},
            "status": {
                "phase": self.phase(started),
                "reason": self.late.then_some("DeadlineExceeded"),
                "message": self.late.then_some("Pod was active on the node longer than the specified deadline"),
                "observedGeneration": pod.metadata.generation,
                "hostIP": self.host, "hostIPs": [{"ip": self.host}],
                "podIP": self.ip, "podIPs": self.ip.map(|ip| json!([{"ip": ip}])),
                "startTime": self.accepted,
                "conditions": [
                    done("PodReadyToStartContainers"),
                    done("Initialized"),
                    readiness("Ready"),
                    readiness("ContainersReady"),
                ],
                "containerStatuses": statuses,
            },
        })
    }

    fn phase(&self, started: bool) -> &'static str {
        match self.state {
            State::Ended { code: 0, .. } => "Succeeded",
            State::Ended { .. } => "Failed",
            _ if started => "Running",
            _ => "Pending",
        }
    }

    fn container(&self, pod: &Pod, container: &Container) -> Value {
        let id = format!("rig://{}-{}", pod.uid().unwrap_or_default(), self.restarts);
        let running = matches!(self.state, State::Running { .. });
        let state = match &self.state {
            State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            State::Running { since } => json!({"running": {"startedAt": since}}),
            State::Ended { code, since, at } => json!({"terminated": {
                "exitCode": code, "reason": if *code == 0 { "Completed" } else { "Error" }, "startedAt": since,
                "finishedAt": at, "containerID": id,
            }}),
        };
        let last = self.last.as_ref().map(|last| {
            json!({"terminated": {
                "exitCode": last.code, "reason": "Error", "startedAt": last.started, "finishedAt": last.finished,
                "containerID": id,
            }})
        });
        json!({
            "name": container.name, "image": container.image, "imageID": image_id(container),
            "containerID": id, "ready": self.ready, "started": running, "restartCount": self.restarts,
            "state": state, "lastState": last.unwrap_or_else(|| json!({})),
        })
    }
}

/// The digest of the reference, or one made up from it: the same for the same image, as a registry would answer.
fn image_id(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = &name[..name[path..].find(':').map_or(name.len(), |colon| path + colon)];
    if digest.is_empty() {
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        format!("{name}@sha256:{}", format!("{:016x}", hasher.finish()).repeat(4))
    } else {
        format!("{name}@{digest}")
    }
}
