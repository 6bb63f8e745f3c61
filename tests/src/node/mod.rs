//! A node whose pods are small real HTTP servers on addresses of their own, behaving as the tag of their image says.
//!
//! To the API server it is a node like any other: it registers, renews its lease, runs readiness probes, reports what a
//! kubelet would report, restarts what crashed with back-off, gives what was deleted time to finish, writes events and
//! keeps logs (`kubectl logs`, with `--tail`, `--previous` and `--timestamps`, but not `--follow`). Every ready
//! pod is sent real requests, 20 a second; the annotation `rig.moodify.dev/load` of a pod sets another rate.
//!
//! A pod listens on the first port of its first container, or 8080: `/healthz` for the probe, `/metrics` with
//! `http_requests_total{code}` and `http_request_duration_seconds`, and everything else answers as scripted. See
//! [`behaviour`] for the script.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::interval;

use crate::{BoxError, wall_clock};

pub mod behaviour;
mod event;
mod group;
mod log;
mod pod;
mod server;
mod status;
pub(crate) mod targets;

use pod::End;

/// The node's name.
pub const NAME: &str = "rig";
/// The node's own address; those of its pods begin at 10.244.1.1.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

const LEASE_RENEWAL: Duration = Duration::from_secs(10);

struct Shared {
    client: Client,
    address: Ipv4Addr,
    addresses: pod::Addresses,
    groups: group::Groups,
    logs: Arc<log::Logs>,
    targets: Arc<targets::Targets>,
}

/// Registers the node and runs its pods, for ever. The directory `targets` gets a file a namespace that tells
/// Prometheus where the pods are.
///
/// # Errors
///
/// When the node cannot be registered or may not watch its pods.
pub async fn run(client: Client, targets: &Path) -> Result<(), BoxError> {
    let kubelet = log::bind(ADDRESS).await?;
    register(&client, kubelet.port()?).await?;
    let logs = Arc::new(log::Logs::default());
    tokio::select! {
        result = keep_lease(&client) => result,
        result = log::serve(kubelet, Arc::clone(&logs)) => result,
        result = run_pods(&client, targets, &logs) => result,
    }
}

async fn register(client: &Client, port: u16) -> Result<(), BoxError> {
    let now = wall_clock();
    let capacity = json!({"cpu": "1000", "memory": "1000Gi", "ephemeral-storage": "1000Gi", "pods": "1000"});
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {
            "kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }},
        "status": {
            "capacity": capacity, "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": NAME}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "rig", "kernelVersion": "rig",
                "kubeletVersion": "v1.36.3", "kubeProxyVersion": "", "containerRuntimeVersion": "rig://1",
                "machineID": NAME, "systemUUID": NAME, "bootID": NAME,
            },
        },
    }))?;
    match Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

async fn keep_lease(client: &Client) -> Result<(), BoxError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let mut ticks = interval(LEASE_RENEWAL);
    loop {
        ticks.tick().await;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
            "spec": {
                "holderIdentity": NAME, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", wall_clock()),
            },
        });
        let parameters = PatchParams::apply(NAME).force();
        if let Err(error) = leases.patch(NAME, &parameters, &Patch::Apply(&lease)).await {
            eprintln!("node: lease: {error}");
        }
    }
}

async fn run_pods(client: &Client, targets: &Path, logs: &Arc<log::Logs>) -> Result<(), BoxError> {
    let shared = Arc::new(Shared {
        client: client.clone(),
        address: ADDRESS,
        addresses: pod::Addresses::default(),
        groups: group::Groups::default(),
        logs: Arc::clone(logs),
        targets: Arc::new(targets::Targets::new(targets)),
    });
    let config = watcher::Config::default().fields(&format!("spec.nodeName={NAME}"));
    let mut events = std::pin::pin!(watcher::watcher(Api::<Pod>::all(client.clone()), config).default_backoff());
    let mut ends: HashMap<String, watch::Sender<End>> = HashMap::new();
    let mut listed = HashSet::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Err("the watch of the pods ended".into()),
            // The stream goes on by itself, with back-off.
            Err(error) => {
                eprintln!("node: watch: {error}");
                continue;
            }
        };
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.insert(pod.uid().unwrap_or_default());
                changed(&mut ends, &shared, pod);
            }
            Event::InitDone => ends.retain(|uid, end| {
                let lives = listed.contains(uid);
                if !lives {
                    end.send_replace(End::Gone);
                }
                lives
            }),
            Event::Apply(pod) => changed(&mut ends, &shared, pod),
            Event::Delete(pod) => {
                if let Some(end) = ends.remove(&pod.uid().unwrap_or_default()) {
                    end.send_replace(End::Gone);
                }
            }
        }
    }
}

fn changed(ends: &mut HashMap<String, watch::Sender<End>>, shared: &Arc<Shared>, pod: Pod) {
    let end = pod.metadata.deletion_timestamp.as_ref().map_or(End::None, |_| {
        let grace = pod.metadata.deletion_grace_period_seconds.and_then(|grace| u64::try_from(grace).ok());
        End::Within(Duration::from_secs(grace.unwrap_or(0)))
    });
    let sender = ends.entry(pod.uid().unwrap_or_default()).or_insert_with(|| {
        let (sender, receiver) = watch::channel(End::None);
        tokio::spawn(pod::run(pod, Arc::clone(shared), receiver));
        sender
    });
    sender.send_if_modified(|current| std::mem::replace(current, end) != end);
}
