use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use moodify_core::{CallContext, Result};
use serde::{Deserialize, Serialize};

use super::quantity::{millis, units};
use super::table::Row;
use super::{Select, Verbs};
use crate::client::{Kind, NODE};

const NODE_METRICS: Kind = Kind { group: "metrics.k8s.io", version: "v1beta1", kind: "NodeMetrics", plural: "nodes" };
const POD_METRICS: Kind = Kind { group: "metrics.k8s.io", version: "v1beta1", kind: "PodMetrics", plural: "pods" };

/// What stands first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SortBy {
    /// The order of the names.
    #[default]
    Name,
    /// Who uses most processor time: `--sort-by=cpu`.
    Cpu,
    /// Who uses most memory: `--sort-by=memory`.
    Memory,
}

/// What a node uses, as `kubectl top nodes` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeUsage {
    /// Its name.
    pub name: String,
    /// Thousandths of a processor; none if there are no figures of the node.
    pub cpu: Option<u64>,
    /// Bytes of memory; none if there are no figures of the node.
    pub memory: Option<u64>,
    /// Thousandths of a processor that pods may use.
    pub allocatable_cpu: u64,
    /// Bytes of memory that pods may use.
    pub allocatable_memory: u64,
}

/// What a pod uses, as `kubectl top pods` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Thousandths of a processor.
    pub cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// The same by container.
    pub containers: Vec<ContainerUsage>,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Thousandths of a processor.
    pub cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct NodeMetrics {
    metadata: Meta,
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Meta,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, String>,
}

fn cpu(usage: &BTreeMap<String, String>) -> u64 {
    usage.get("cpu").and_then(|q| millis(q)).unwrap_or(0)
}

fn memory(usage: &BTreeMap<String, String>) -> u64 {
    usage.get("memory").and_then(|q| units(q)).unwrap_or(0)
}

impl Verbs {
    /// What the nodes use: `kubectl top nodes`. Nodes without figures stand last.
    ///
    /// # Errors
    /// [`Unsupported`](moodify_core::ErrorKind::Unsupported) where no metrics server is installed; and when the server
    /// cannot be asked.
    pub async fn top_nodes(&self, cx: &CallContext, sort: SortBy) -> Result<Vec<NodeUsage>> {
        let everywhere = Select::all().all_namespaces();
        let (metrics, nodes) = tokio::try_join!(
            self.list::<NodeMetrics>(cx, NODE_METRICS, &everywhere),
            self.list::<Node>(cx, NODE, &everywhere),
        )?;
        let mut metrics: BTreeMap<String, BTreeMap<String, String>> =
            metrics.into_iter().map(|m| (m.metadata.name, m.usage)).collect();
        let mut rows: Vec<NodeUsage> = Vec::new();
        for node in nodes {
            let name = node.metadata.name.unwrap_or_default();
            let allocatable = node.status.and_then(|s| s.allocatable).unwrap_or_default();
            let of = |resource: &str| allocatable.get(resource).map(|q| q.0.as_str()).unwrap_or("0");
            let usage = metrics.remove(&name);
            rows.push(NodeUsage {
                cpu: usage.as_ref().map(cpu),
                memory: usage.as_ref().map(memory),
                allocatable_cpu: millis(of("cpu")).unwrap_or(0),
                allocatable_memory: units(of("memory")).unwrap_or(0),
                name,
            });
        }
        let most = |row: &NodeUsage| match sort {
            SortBy::Name => 0,
            SortBy::Cpu => row.cpu.unwrap_or(0),
            SortBy::Memory => row.memory.unwrap_or(0),
        };
        rows.sort_by(|a, b| (b.cpu.is_some(), most(b)).cmp(&(a.cpu.is_some(), most(a))).then(a.name.cmp(&b.name)));
        Ok(rows)
    }

    /// What the pods use: `kubectl top pods`. Pods that have just started have no figures yet, and are not among them.
    ///
    /// # Errors
    /// As [`top_nodes`](Self::top_nodes).
    pub async fn top_pods(&self, cx: &CallContext, select: &Select, sort: SortBy) -> Result<Vec<PodUsage>> {
        let metrics: Vec<PodMetrics> = self.list(cx, POD_METRICS, select).await?;
        let mut rows: Vec<PodUsage> = metrics.into_iter().map(usage).collect();
        let most = |row: &PodUsage| match sort {
            SortBy::Name => 0,
            SortBy::Cpu => row.cpu,
            SortBy::Memory => row.memory,
        };
        let name = |row: &PodUsage| (row.namespace.clone(), row.name.clone());
        rows.sort_by(|a, b| most(b).cmp(&most(a)).then_with(|| name(a).cmp(&name(b))));
        Ok(rows)
    }
}

fn usage(metrics: PodMetrics) -> PodUsage {
    let container = |c: ContainerMetrics| ContainerUsage { cpu: cpu(&c.usage), memory: memory(&c.usage), name: c.name };
    let containers: Vec<ContainerUsage> = metrics.containers.into_iter().map(container).collect();
    PodUsage {
        namespace: metrics.metadata.namespace,
        name: metrics.metadata.name,
        cpu: containers.iter().map(|c| c.cpu).sum(),
        memory: containers.iter().map(|c| c.memory).sum(),
        containers,
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

fn percent(part: u64, whole: u64) -> String {
    let share = u128::from(part) * 100;
    format!("{}%", share.checked_div(u128::from(whole)).unwrap_or(0))
}

impl Row for NodeUsage {
    fn columns(_wide: bool) -> &'static [&'static str] {
        &["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]
    }

    fn cells(&self, _wide: bool, _now: Timestamp) -> Vec<String> {
        let unknown = || "<unknown>".to_owned();
        vec![
            self.name.clone(),
            self.cpu.map_or_else(unknown, |cpu| format!("{cpu}m")),
            self.cpu.map_or_else(unknown, |cpu| percent(cpu, self.allocatable_cpu)),
            self.memory.map_or_else(unknown, mebibytes),
            self.memory.map_or_else(unknown, |memory| percent(memory, self.allocatable_memory)),
        ]
    }

    fn namespace(&self) -> &str {
        ""
    }
}

impl Row for PodUsage {
    fn columns(_wide: bool) -> &'static [&'static str] {
        &["NAME", "CPU(cores)", "MEMORY(bytes)"]
    }

    fn cells(&self, _wide: bool, _now: Timestamp) -> Vec<String> {
        vec![self.name.clone(), format!("{}m", self.cpu), mebibytes(self.memory)]
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, kube};
    use crate::verbs::{Look, table};
    use serde_json::json;

    #[tokio::test]
    async fn the_greatest_user_stands_first_and_who_is_unknown_last() {
        let (kube, _) = kube(|_, path, _| {
            let node = |name: &str| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}});
            let used = |name: &str, cpu: &str, memory: &str| {
                json!({"metadata": {"name": name, "namespace": "shop"}, "usage": {"cpu": cpu, "memory": memory},
                    "containers": [{"name": "a", "usage": {"cpu": cpu, "memory": memory}}, {"name": "b", "usage": {"cpu": "1n"}}]})
            };
            (
                200,
                match path {
                    p if p.starts_with("/api/v1/nodes") => json!({"items": [node("a"), node("b"), node("c")]}),
                    p if p.contains("metrics") => {
                        json!({"items": [used("a", "1", "1Gi"), used("c", "1200000001n", "512Mi")]})
                    }
                    _ => json!({}),
                },
            )
        });
        let verbs = kube.verbs("shop");
        let nodes = verbs.top_nodes(&cx(), SortBy::Cpu).await.unwrap();
        let text = table(&nodes, &Look::plain());
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                ["c", "1201m", "30%", "512Mi", "6%"],
                ["a", "1000m", "25%", "1024Mi", "12%"],
                ["b", "<unknown>", "<unknown>", "<unknown>", "<unknown>"],
            ]
        );
        let pods = verbs.top_pods(&cx(), &Select::all(), SortBy::Memory).await.unwrap();
        assert_eq!(pods.iter().map(|p| (p.name.as_str(), p.cpu)).collect::<Vec<_>>(), [("a", 1001), ("c", 1202)]);
    }
}
