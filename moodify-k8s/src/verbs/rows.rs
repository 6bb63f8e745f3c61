//! Objects as rows with the columns of `kubectl get`. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, Service};
use serde::{Deserialize, Serialize};

use super::age::ago;
use super::table::{Row, or_none};
use crate::diagnostics::selector_text;

/// A container and the image that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerImage {
    /// The container's name.
    pub container: String,
    /// Its image, as written in the object.
    pub image: String,
}

pub(super) fn images(containers: &[Container]) -> Vec<ContainerImage> {
    let image =
        |c: &Container| ContainerImage { container: c.name.clone(), image: c.image.clone().unwrap_or_default() };
    containers.iter().map(image).collect()
}

fn joined(images: &[ContainerImage], part: fn(&ContainerImage) -> &str) -> String {
    images.iter().map(part).collect::<Vec<_>>().join(",")
}

pub(super) fn count(number: Option<i32>) -> u32 {
    number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// A Deployment as `kubectl get deployments` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeploymentRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Pods that are ready.
    pub ready: u32,
    /// Pods that there are to be.
    pub desired: u32,
    /// Pods of the newest template.
    pub up_to_date: u32,
    /// Pods that have been ready for long enough.
    pub available: u32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its containers, without those that only initialise.
    pub images: Vec<ContainerImage>,
    /// Which pods are its own.
    pub selector: String,
}

impl DeploymentRow {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let meta = &deployment.metadata;
        let spec = deployment.spec.as_ref();
        let status = deployment.status.as_ref();
        let containers = spec.and_then(|s| s.template.spec.as_ref()).map(|pod| pod.containers.as_slice());
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            ready: count(status.and_then(|s| s.ready_replicas)),
            desired: spec.map_or(0, |s| count(s.replicas.or(Some(1)))),
            up_to_date: count(status.and_then(|s| s.updated_replicas)),
            available: count(status.and_then(|s| s.available_replicas)),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            images: images(containers.unwrap_or_default()),
            selector: spec.map(|s| selector_text(&s.selector)).unwrap_or_default(),
        }
    }
}

impl Row for DeploymentRow {
    fn columns(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 8] = ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"];
        if wide { &ALL } else { &ALL[..5] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let mut cells = vec![
            self.name.clone(),
            format!("{}/{}", self.ready, self.desired),
            self.up_to_date.to_string(),
            self.available.to_string(),
            ago(self.created, now),
        ];
        if wide {
            cells.push(joined(&self.images, |i| &i.container));
            cells.push(joined(&self.images, |i| &i.image));
            cells.push(self.selector.clone());
        }
        cells
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// A pod as `kubectl get pods` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PodRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Containers that are ready.
    pub ready: u32,
    /// Containers that there are.
    pub containers: u32,
    /// What it does in one word: `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`.
    pub status: String,
    /// How often its containers were restarted.
    pub restarts: u32,
    /// When the last run before a restart ended.
    pub last_restart: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its address.
    pub ip: Option<String>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// The node that is being cleared for it.
    pub nominated_node: Option<String>,
    /// Of its readiness gates, how many hold, and how many there are.
    pub readiness_gates: Option<(u32, u32)>,
    /// What its containers run, without those that only initialise.
    pub images: Vec<ContainerImage>,
}

impl PodRow {
    pub(super) fn of(pod: &Pod) -> Self {
        let (meta, told) = (&pod.metadata, told(pod));
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let ip = status.and_then(|s| s.pod_ips.as_ref()?.first()).map(|ip| ip.ip.clone());
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            ready: told.ready,
            containers: told.containers,
            status: told.status,
            restarts: told.restarts,
            last_restart: told.last_restart,
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            ip: ip.filter(|ip| !ip.is_empty()),
            node: spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()),
            nominated_node: status.and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()),
            readiness_gates: readiness_gates(pod),
            images: images(spec.map(|s| s.containers.as_slice()).unwrap_or_default()),
        }
    }
}

fn readiness_gates(pod: &Pod) -> Option<(u32, u32)> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_deref().filter(|gates| !gates.is_empty())?;
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let holds = |kind: &str| conditions.iter().find(|c| c.type_ == kind).is_some_and(|c| c.status == "True");
    let held = gates.iter().filter(|gate| holds(&gate.condition_type)).count();
    Some((u32::try_from(held).unwrap_or(0), u32::try_from(gates.len()).unwrap_or(0)))
}

/// What the status of a pod comes to in a few words.
struct Told {
    status: String,
    ready: u32,
    containers: u32,
    restarts: u32,
    last_restart: Option<Timestamp>,
}

/// Restarts, and the end of the last run before one.
#[derive(Default, Clone, Copy)]
struct Restarts {
    count: u32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += u32::try_from(container.restart_count).unwrap_or(0);
        let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()?.finished_at.as_ref());
        self.last = self.last.max(ended.map(|t| t.0));
    }
}

fn waits_for(container: &ContainerStatus) -> Option<&str> {
    let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref();
    reason.filter(|reason| !reason.is_empty())
}

/// How a container ended, if it did: its reason, or its signal or exit code; and whether that is a failure.
fn ended(container: &ContainerStatus) -> Option<(String, bool)> {
    let end = container.state.as_ref()?.terminated.as_ref()?;
    let why = match (end.reason.as_deref(), end.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", end.exit_code),
    };
    Some((why, end.exit_code != 0))
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn told(pod: &Pod) -> Told {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let holds = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let gated = |c: &&k8s_openapi::api::core::v1::PodCondition| {
        c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
    };
    let mut word = status.reason.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| phase.clone());
    if conditions.iter().find(gated).is_some() {
        "SchedulingGated".clone_into(&mut word);
    }

    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    // An init container that is restarted always runs beside the others, and counts as one of them.
    let sidecars: BTreeMap<&str, ()> =
        init.iter().filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| (c.name.as_str(), ())).collect();
    let containers = spec.map_or(0, |s| s.containers.len()) + sidecars.len();
    let (mut of_init, mut of_sidecars, mut ready) = (Restarts::default(), Restarts::default(), 0);
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        of_init.add(container);
        let sidecar = sidecars.contains_key(container.name.as_str());
        if sidecar {
            of_sidecars.add(container);
        }
        match ended(container) {
            Some((_, false)) => continue,
            _ if sidecar && container.started == Some(true) => {
                ready += u32::from(container.ready);
                continue;
            }
            Some((why, true)) => word = format!("Init:{why}"),
            None => {
                word = match waits_for(container).filter(|reason| *reason != "PodInitializing") {
                    Some(reason) => format!("Init:{reason}"),
                    None => format!("Init:{index}/{}", init.len()),
                };
            }
        }
        initializing = true;
        break;
    }

    let mut restarts = of_init;
    if !initializing || holds("Initialized") {
        restarts = of_sidecars;
        let (mut running, mut failure) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            restarts.add(container);
            if let Some(reason) = waits_for(container) {
                reason.clone_into(&mut word);
            } else if let Some((why, failed)) = ended(container) {
                failure = failed.then(|| why.clone()).or(failure);
                word = why;
            } else if container.ready && is_running(container) {
                running = true;
                ready += 1;
            }
        }
        // Of several containers one has ended well: the others say what the pod does.
        if word == "Completed" {
            word = match failure {
                _ if running && holds("Ready") => "Running".to_owned(),
                Some(why) => why,
                None if running => "NotReady".to_owned(),
                None => word,
            };
        }
    }

    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            "Unknown".clone_into(&mut word);
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut word);
        }
    }
    let containers = u32::try_from(containers).unwrap_or(0);
    Told { status: word, ready, containers, restarts: restarts.count, last_restart: restarts.last }
}

impl Row for PodRow {
    fn columns(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 9] =
            ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"];
        if wide { &ALL } else { &ALL[..5] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let restarts = match self.last_restart {
            Some(last) if self.restarts > 0 => format!("{} ({} ago)", self.restarts, ago(Some(last), now)),
            _ => self.restarts.to_string(),
        };
        let mut cells = vec![
            self.name.clone(),
            format!("{}/{}", self.ready, self.containers),
            self.status.clone(),
            restarts,
            ago(self.created, now),
        ];
        if wide {
            cells.push(or_none(self.ip.as_deref()));
            cells.push(or_none(self.node.as_deref()));
            cells.push(or_none(self.nominated_node.as_deref()));
            let gates = self.readiness_gates.map(|(held, all)| format!("{held}/{all}"));
            cells.push(or_none(gates.as_deref()));
        }
        cells
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// A Service as `kubectl get services` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: String,
    /// Its address in the cluster; `None` for one without, written as `None` by the server.
    pub cluster_ip: Option<String>,
    /// Its addresses outside, or the name that it stands for.
    pub external: Vec<String>,
    /// Its ports, as `80/TCP` or `80:30080/TCP`.
    pub ports: Vec<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Which pods it sends traffic to.
    pub selector: BTreeMap<String, String>,
}

/// How much of the addresses of a load balancer fits into a narrow table.
const LOAD_BALANCER: usize = 16;

impl ServiceRow {
    pub(super) fn of(service: &Service) -> Self {
        let (meta, spec) = (&service.metadata, service.spec.clone().unwrap_or_default());
        let kind = spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
        let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone());
        let mut balancers: Vec<String> =
            ingress.into_iter().flatten().filter_map(|i| i.ip.or(i.hostname).filter(|a| !a.is_empty())).collect();
        balancers.sort();
        balancers.dedup();
        let given = spec.external_ips.unwrap_or_default();
        let external = match kind.as_str() {
            "ExternalName" => spec.external_name.into_iter().collect(),
            "LoadBalancer" => [balancers, given].concat(),
            _ => given,
        };
        let port = |p: k8s_openapi::api::core::v1::ServicePort| {
            let protocol = p.protocol.unwrap_or_else(|| "TCP".to_owned());
            match p.node_port.filter(|n| *n > 0) {
                Some(node) => format!("{}:{node}/{protocol}", p.port),
                None => format!("{}/{protocol}", p.port),
            }
        };
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            kind,
            cluster_ip: spec.cluster_ips.into_iter().flatten().next(),
            external,
            ports: spec.ports.into_iter().flatten().map(port).collect(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            selector: spec.selector.unwrap_or_default(),
        }
    }

    fn external_cell(&self, wide: bool) -> String {
        let text = self.external.join(",");
        match self.kind.as_str() {
            "ExternalName" => text,
            "LoadBalancer" if text.is_empty() => "<pending>".to_owned(),
            "LoadBalancer" if !wide && text.len() > LOAD_BALANCER => format!("{}...", &text[..LOAD_BALANCER - 3]),
            _ => or_none(Some(&text)),
        }
    }
}

impl Row for ServiceRow {
    fn columns(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 7] = ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"];
        if wide { &ALL } else { &ALL[..6] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let mut cells = vec![
            self.name.clone(),
            self.kind.clone(),
            or_none(self.cluster_ip.as_deref()),
            self.external_cell(wide),
            or_none(Some(&self.ports.join(","))),
            ago(self.created, now),
        ];
        if wide {
            let selector: Vec<String> = self.selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
            cells.push(or_none(Some(&selector.join(","))));
        }
        cells
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value, deleting: bool) -> PodRow {
        let mut pod = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "creationTimestamp": "2026-11-24T12:00:00Z"},
            "spec": {
                "initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "web", "image": "web:1"}, {"name": "log", "image": "log:1"}],
            },
            "status": status,
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-11-24T12:05:00Z");
        }
        PodRow::of(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, ready: bool, restarts: u32, state: &Value) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": ready, "started": ready, "restartCount": restarts,
            "state": state, "lastState": if restarts > 0 {
                json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-24T12:04:00Z"}}) } else { json!({}) }})
    }

    #[test]
    fn a_pod_is_one_word() {
        let running = json!({"running": {}});
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let failed = json!({"terminated": {"exitCode": 3}});
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        let init = |first: &Value, second: bool| {
            json!([container("setup", false, 0, first), container("proxy", second, 0, &running)])
        };
        let both = |web: &Value, log: &Value, ready: &str| {
            json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}, {"type": "Initialized", "status": "True"}],
            "initContainerStatuses": init(&done, true), "containerStatuses": [
                container("web", web.get("running").is_some(), 2, web), container("log", log.get("running").is_some(), 0, log)]})
        };
        for (status, deleting, word, ready, restarts) in [
            (json!({"phase": "Pending"}), false, "Pending", 0, 0),
            (json!({"phase": "Failed", "reason": "Evicted"}), false, "Evicted", 0, 0),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "SchedulingGated"}]}),
                false,
                "SchedulingGated",
                0,
                0,
            ),
            (json!({"phase": "Pending", "initContainerStatuses": init(&running, false)}), false, "Init:0/2", 0, 0),
            (json!({"phase": "Pending", "initContainerStatuses": init(&done, false)}), false, "Init:1/2", 0, 0),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(&failed, false)}),
                false,
                "Init:ExitCode:3",
                0,
                0,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(&waits("ImagePullBackOff"), false)}),
                false,
                "Init:ImagePullBackOff",
                0,
                0,
            ),
            (both(&running, &running, "True"), false, "Running", 3, 2),
            (both(&running, &running, "True"), true, "Terminating", 3, 2),
            (both(&waits("CrashLoopBackOff"), &running, "False"), false, "CrashLoopBackOff", 2, 2),
            (both(&done, &running, "True"), false, "Running", 2, 2),
            (both(&done, &running, "False"), false, "NotReady", 2, 2),
            (both(&done, &failed, "False"), false, "ExitCode:3", 1, 2),
            (both(&done, &done, "False"), false, "Completed", 1, 2),
        ] {
            let row = pod(&status, deleting);
            assert_eq!((row.status.as_str(), row.ready, row.restarts), (word, ready, restarts), "{status}");
            assert_eq!(row.containers, 3);
        }
        let row = pod(&both(&running, &running, "True"), false);
        let cells = row.cells(true, "2026-11-24T12:05:00Z".parse().unwrap());
        assert_eq!(cells, ["web-1", "3/3", "Running", "2 (60s ago)", "5m", "<none>", "<none>", "<none>", "<none>"]);
    }

    #[test]
    fn services_show_their_addresses() {
        let row = |spec: Value, status: Value| {
            let service = json!({"metadata": {"name": "web"}, "spec": spec, "status": status});
            let row = ServiceRow::of(&serde_json::from_value(service).unwrap());
            (row.external_cell(false), row.external_cell(true), row.ports.join(","))
        };
        let told = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(row(json!({"ports": [{"port": 80}]}), json!({})), told("<none>", "<none>", "80/TCP"));
        let balanced = json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080, "protocol": "UDP"}]});
        assert_eq!(row(balanced.clone(), json!({})), told("<pending>", "<pending>", "80:30080/UDP"));
        let addresses = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.test"}, {"ip": "192.0.2.1"}]}});
        let long = "192.0.2.1,lb.example.test";
        assert_eq!(row(balanced, addresses), told("192.0.2.1,lb....", long, "80:30080/UDP"));
        let named = json!({"type": "ExternalName", "externalName": "db.example.test"});
        assert_eq!(row(named, json!({})), told("db.example.test", "db.example.test", ""));
    }
}
