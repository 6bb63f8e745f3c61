//! A node whose pods are small real HTTP servers on addresses of their own, behaving as the tag of their image says.
//!
//! To the API server it is a node like any other: it registers, renews its lease, runs readiness probes, reports what a
//! kubelet would report, restarts what crashed with back-off, gives what was deleted time to finish, writes events and
//! keeps logs (`kubectl logs`), runs commands in the name of a container (`kubectl exec`), and has figures of use
//! (`kubectl top`). A pod whose first container has a command or arguments is that process, on this machine. Every other
//! ready pod is sent real requests, 20 a second; the annotation [`LOAD`] of a pod sets another rate.
//!
//! A pod listens on the first port of its first container, or 8080: `/healthz` for the probe, `/metrics` with
//! `http_requests_total{code}` and `http_request_duration_seconds`, and everything else answers as scripted. See
//! [`behaviour`] for the script.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::interval;

use crate::{BoxError, wall_clock};

pub mod behaviour;
mod event;
mod exec;
mod group;
mod log;
mod pod;
mod process;
mod server;
mod status;
pub(crate) mod targets;
mod usage;

use pod::End;

/// The address of the node of a rig with a control plane of its own.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The key of the taint and the label of a node among others; its value is the name of the node. The namespaces of the
/// tests have the label, too.
pub const MARK: &str = "rig.moodify.dev/node";
/// The annotation of a pod with the number of requests a second that the node itself sends it.
pub const LOAD: &str = "rig.moodify.dev/load";

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// The third part of its own address and those of its pods, where other nodes have theirs.
    pub block: Option<u8>,
}

impl Default for Identity {
    /// The only node of a cluster.
    fn default() -> Self {
        Self { name: "rig".to_owned(), block: None }
    }
}

impl Identity {
    /// A node among others, whose name and addresses come from any number.
    pub fn numbered(number: u64) -> Self {
        let block = u8::try_from(number % 127).map_or(255, |offset| 128 + offset);
        Self { name: format!("rig-{:08x}", number >> 32), block: Some(block) }
    }

    /// The address of the node itself.
    pub fn address(&self) -> Ipv4Addr {
        self.block.map_or(ADDRESS, |block| Ipv4Addr::new(10, 244, block, 1))
    }

    /// The address of the pod with this number. Few pods live at once, so a used address is long free when its turn
    /// comes again.
    fn pod_address(&self, number: u16) -> Ipv4Addr {
        let [high, low] = match self.block {
            // 10.244.1.1 to 10.244.254.254.
            None => [number % (254 * 254) / 254 + 1, number % 254 + 1],
            // 10.244.BLOCK.2 to 10.244.BLOCK.254.
            Some(block) => [block.into(), number % 253 + 2],
        };
        let [high, low] = [high, low].map(|part| u8::try_from(part).unwrap_or(1));
        Ipv4Addr::new(10, 244, high, low)
    }

    /// Whether a pod on this node was meant for it; a node among others also gets what a `DaemonSet` sends everywhere, which
    /// is meant for it only if it knows of such nodes.
    fn is_meant(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let named = spec.node_selector.as_ref().and_then(|selector| selector.get(MARK));
        let tolerates = || spec.tolerations.iter().flatten().any(|toleration| toleration.key.as_deref() == Some(MARK));
        self.block.is_none() || named.map_or_else(tolerates, |name| *name == self.name)
    }
}

const LEASE_RENEWAL: Duration = Duration::from_secs(10);

struct Shared {
    client: Client,
    identity: Identity,
    /// How many addresses were given to pods.
    addresses: AtomicU16,
    groups: group::Groups,
    logs: Arc<log::Logs>,
    usage: Arc<usage::Registry>,
    targets: Arc<targets::Targets>,
}

/// Registers the node and runs its pods, for ever. The directory `targets` gets a file a namespace that tells
/// Prometheus where the pods are.
///
/// # Errors
///
/// When the node cannot be registered or may not watch its pods.
pub async fn run(client: Client, identity: Identity, targets: &Path) -> Result<(), BoxError> {
    let kubelet = log::bind(identity.address()).await?;
    register(&client, &identity, kubelet.port()?).await?;
    if identity.block.is_none() {
        usage::announce(&client, identity.address(), kubelet.port()?).await?;
    }
    let logs = Arc::new(log::Logs::default());
    let usage = Arc::new(usage::Registry::new(&identity.name));
    let api = log::router(Arc::clone(&logs)).merge(exec::router()).merge(usage::router(Arc::clone(&usage)));
    let api = api.route("/healthz", axum::routing::get(|| async { "ok" }));
    tokio::select! {
        result = keep_lease(&client, &identity.name) => result,
        result = axum::serve(kubelet, api) => Ok(result?),
        result = run_pods(&client, identity.clone(), targets, &logs, &usage) => result,
    }
}

async fn register(client: &Client, identity: &Identity, port: u16) -> Result<(), BoxError> {
    let name = &identity.name;
    let taints = identity.block.map(|_| json!([{"key": MARK, "value": name, "effect": "NoSchedule"}]));
    let now = wall_clock();
    let capacity = json!({"cpu": "1000", "memory": "1000Gi", "ephemeral-storage": "1000Gi", "pods": "10000"});
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", MARK: name,
        }},
        "spec": {"taints": taints},
        "status": {
            "capacity": capacity, "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": identity.address()}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            // Commands come as WebSockets, not translated into SPDY.
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "rig", "kernelVersion": "rig",
                "kubeletVersion": "v1.37.2", "kubeProxyVersion": "", "containerRuntimeVersion": "rig://1",
                "machineID": name, "systemUUID": name, "bootID": name,
            },
        },
    }))?;
    match Api::<Node>::all(client.clone()).create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

async fn keep_lease(client: &Client, name: &str) -> Result<(), BoxError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let mut ticks = interval(LEASE_RENEWAL);
    loop {
        ticks.tick().await;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {
                "holderIdentity": name, "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", wall_clock()),
            },
        });
        let parameters = PatchParams::apply(name).force();
        if let Err(error) = leases.patch(name, &parameters, &Patch::Apply(&lease)).await {
            eprintln!("node: lease: {error}");
        }
    }
}

async fn run_pods(
    client: &Client,
    identity: Identity,
    targets: &Path,
    logs: &Arc<log::Logs>,
    usage: &Arc<usage::Registry>,
) -> Result<(), BoxError> {
    let ours = format!("spec.nodeName={}", identity.name);
    let shared = Arc::new(Shared {
        client: client.clone(),
        identity,
        addresses: AtomicU16::default(),
        groups: group::Groups::default(),
        logs: Arc::clone(logs),
        usage: Arc::clone(usage),
        targets: Arc::new(targets::Targets::new(targets)),
    });
    let config = watcher::Config::default().fields(&ours);
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
    if !shared.identity.is_meant(&pod) {
        return;
    }
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
