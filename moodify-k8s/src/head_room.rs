//! Whether the nodes have room for the pods that a release adds at its peak. What is counted is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use moodify_core::model::Target;
use moodify_core::{CallContext, ErrorKind, Plan, Result};

use crate::access::released;
use crate::client::{Kube, NODE, POD};
use crate::quota::of_pod;
use crate::verbs::Select;
use crate::verbs::quantity::nanos;

/// Whether there is room on the nodes of a cluster for what a release adds ([`Kube::head_room`]).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadRoom {
    /// All of the pods find a node.
    Enough,
    /// Some of them would wait until there is another node, or room on one.
    Short {
        /// How many pods the release adds at its peak.
        added: u32,
        /// How many of them find no node.
        waiting: u32,
        /// What the first of them lacks, node by node, the commonest reason first.
        why: String,
    },
    /// It cannot be known, and why.
    Unknown(String),
}

impl fmt::Display for HeadRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enough => f.write_str("the nodes have room for all pods of the release's peak"),
            Self::Short { added, waiting, why } => write!(
                f,
                "the nodes have no room for {waiting} of the {added} pods that the release adds at its peak, unless \
                 nodes are added: {why}"
            ),
            Self::Unknown(why) => write!(f, "whether the nodes have room for the release cannot be told: {why}"),
        }
    }
}

/// What a pod asks for, by resource, in billionths.
type Amounts = BTreeMap<String, u128>;

/// What is free on a node.
#[derive(Debug)]
struct Room {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    free: Amounts,
}

/// A pod that seeks a node.
#[derive(Debug, Clone)]
struct Seeker {
    requests: Amounts,
    selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

/// The name under which nodes say how many pods they take.
const PODS: &str = "pods";
const ONE: u128 = 1_000_000_000;

fn requests(spec: &PodSpec) -> Amounts {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let named = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()).flat_map(BTreeMap::keys);
    let names: BTreeSet<&String> = named.chain(spec.overhead.iter().flat_map(BTreeMap::keys)).collect();
    let mut all: Amounts = names.into_iter().map(|name| (name.clone(), of_pod(spec, "requests", name))).collect();
    all.insert(PODS.to_owned(), ONE);
    all
}

impl Seeker {
    fn new(spec: &PodSpec) -> Self {
        Self {
            requests: requests(spec),
            selector: spec.node_selector.clone().unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }
    }

    /// What keeps it off a node; `None` if nothing does.
    fn lacks(&self, room: &Room) -> Option<String> {
        let tolerated = |taint: &Taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        if let Some(taint) = room.taints.iter().find(|taint| !tolerated(taint)) {
            return Some(format!("a taint {} that it does not tolerate", taint.key));
        }
        if let Some((key, value)) = self.selector.iter().find(|(key, value)| room.labels.get(*key) != Some(*value)) {
            return Some(format!("no label {key}={value}"));
        }
        let free = |name: &str| room.free.get(name).copied().unwrap_or(0);
        self.requests.iter().find(|(name, wanted)| free(name) < **wanted).map(|(name, _)| match name.as_str() {
            PODS => "as many pods as it takes".to_owned(),
            _ => format!("too little {name}"),
        })
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: Option<&String>, found: &str| wanted.is_none_or(|wanted| wanted.is_empty() || wanted == found);
    let by_value = toleration.operator.as_deref() != Some("Exists");
    let value = |text: Option<&String>| text.cloned().unwrap_or_default();
    same(toleration.effect.as_ref(), &taint.effect)
        && same(toleration.key.as_ref(), &taint.key)
        && (!by_value || value(toleration.value.as_ref()) == value(taint.value.as_ref()))
}

/// The rooms of the nodes that take pods.
fn rooms(nodes: &[Node], pods: &[Pod]) -> Vec<Room> {
    let mut used: BTreeMap<&str, Amounts> = BTreeMap::new();
    for pod in pods {
        let over = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let Some(spec) = &pod.spec else { continue };
        if let Some(node) = spec.node_name.as_deref().filter(|_| !matches!(over, Some("Succeeded" | "Failed"))) {
            let there = used.entry(node).or_default();
            for (name, amount) in requests(spec) {
                *there.entry(name).or_default() += amount;
            }
        }
    }
    let room = |node: &Node| {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let is_ready = |c: &k8s_openapi::api::core::v1::NodeCondition| c.type_ == "Ready" && c.status == "True";
        if spec.unschedulable == Some(true) || !status.conditions.iter().flatten().any(is_ready) {
            return None;
        }
        let taken = used.get(node.metadata.name.as_deref().unwrap_or_default());
        let of = |name: &String| taken.and_then(|taken| taken.get(name)).copied().unwrap_or(0);
        let allocatable = status.allocatable.unwrap_or_default();
        let free = allocatable.iter().filter_map(|(name, all)| Some((name, nanos(&all.0)?)));
        // What is only preferred keeps nobody off.
        let hard = |taint: &Taint| taint.effect != "PreferNoSchedule";
        Some(Room {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default().into_iter().filter(hard).collect(),
            free: free.map(|(name, all)| (name.clone(), all.saturating_sub(of(name)))).collect(),
        })
    };
    nodes.iter().filter_map(room).collect()
}

/// Gives each pod the first node that takes it, the largest first.
fn place(mut rooms: Vec<Room>, mut seekers: Vec<Seeker>) -> HeadRoom {
    let added = u32::try_from(seekers.len()).unwrap_or(u32::MAX);
    let size = |seeker: &Seeker| ["cpu", "memory"].map(|name| seeker.requests.get(name).copied().unwrap_or(0));
    seekers.sort_by_key(|seeker| std::cmp::Reverse(size(seeker)));
    let mut waiting = 0;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for seeker in &seekers {
        if let Some(room) = rooms.iter_mut().find(|room| seeker.lacks(room).is_none()) {
            for (name, amount) in &seeker.requests {
                *room.free.entry(name.clone()).or_default() -= amount;
            }
            continue;
        }
        if waiting == 0 {
            for reason in rooms.iter().filter_map(|room| seeker.lacks(room)) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        waiting += 1;
    }
    if waiting == 0 {
        return HeadRoom::Enough;
    }
    let mut reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), reason.clone()));
    let told: Vec<String> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} node{}: {reason}", if count == 1 { "" } else { "s" }))
        .collect();
    let why = if told.is_empty() { "no node is ready".to_owned() } else { told.join(", ") };
    HeadRoom::Short { added, waiting, why }
}

impl Kube {
    /// Whether the nodes have room for the pods that a release of these targets adds at its peak, all in lockstep: by
    /// requests, taints and node selectors; affinity and topology are not looked at, nor what other releases will add.
    /// For people and not a reason to refuse: an autoscaler may add nodes when pods wait for them.
    ///
    /// Nodes and pods of all namespaces have to be listed for that; who may not gets [`HeadRoom::Unknown`], and so does
    /// whoever gets no answer. Safe to cancel.
    pub async fn head_room(&self, cx: &CallContext, targets: &[Target]) -> HeadRoom {
        match self.look_for_room(cx, targets).await {
            Ok(room) => room,
            Err(e) => HeadRoom::Unknown(e.to_string()),
        }
    }

    /// The same for what a plan releases.
    pub async fn head_room_of_plan(&self, cx: &CallContext, plan: &Plan) -> HeadRoom {
        self.head_room(cx, &released(plan)).await
    }

    async fn look_for_room(&self, cx: &CallContext, targets: &[Target]) -> Result<HeadRoom> {
        let mut seekers = Vec::new();
        for target in targets {
            let Some(peak) = self.peak(cx, target).await? else { continue };
            seekers.extend(std::iter::repeat_n(Seeker::new(&peak.spec), peak.pods as usize));
        }
        if seekers.is_empty() {
            return Ok(HeadRoom::Enough);
        }
        let (verbs, all) = (self.verbs(&targets[0].namespace), Select::all().all_namespaces());
        let looked = tokio::try_join!(verbs.list::<Node>(cx, NODE, &all), verbs.list::<Pod>(cx, POD, &all));
        match looked {
            Ok((nodes, pods)) => Ok(place(rooms(&nodes, &pods), seekers)),
            Err(e) if e.kind() == ErrorKind::Forbidden => {
                Ok(HeadRoom::Unknown("we may not list nodes and the pods of all namespaces".to_owned()))
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, cpu: &str, more: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"zone": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"},
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        if let (Some(node), Value::Object(more)) = (node.as_object_mut(), more) {
            node.extend(more);
        }
        serde_json::from_value(node).unwrap()
    }

    fn pod(on: &str, cpu: &str, phase: &str) -> Pod {
        let spec = json!({"nodeName": on, "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn seekers(count: usize, more: Value) -> Vec<Seeker> {
        let mut spec =
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        vec![Seeker::new(&serde_json::from_value(spec).unwrap()); count]
    }

    fn of(nodes: &[Node], pods: &[Pod], seekers: Vec<Seeker>) -> HeadRoom {
        place(rooms(nodes, pods), seekers)
    }

    #[test]
    fn what_is_free_is_what_running_pods_leave() {
        let nodes = [node("a", "2", json!({})), node("b", "1", json!({}))];
        let pods = [pod("a", "1", "Running"), pod("b", "1", "Succeeded")];
        assert_eq!(of(&nodes, &pods, seekers(4, json!({}))), HeadRoom::Enough);
        let short = of(&nodes, &pods, seekers(6, json!({})));
        let why = "2 nodes: too little cpu".to_owned();
        assert_eq!(short, HeadRoom::Short { added: 6, waiting: 2, why });
        assert!(short.to_string().contains("no room for 2 of the 6 pods"), "{short}");
    }

    #[test]
    fn a_node_that_takes_no_pods_has_no_room() {
        let cordoned = node("a", "8", json!({"spec": {"unschedulable": true}}));
        let mut ill = node("b", "8", json!({}));
        ill.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".to_owned();
        let waits = of(&[cordoned, ill], &[], seekers(1, json!({})));
        assert_eq!(waits, HeadRoom::Short { added: 1, waiting: 1, why: "no node is ready".to_owned() });
    }

    #[test]
    fn taints_labels_and_the_number_of_pods_count() {
        let tainted =
            node("a", "8", json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}));
        let tainted = std::slice::from_ref(&tainted);
        let why = |room: HeadRoom| match room {
            HeadRoom::Short { why, .. } => why,
            other => other.to_string(),
        };
        assert!(why(of(tainted, &[], seekers(1, json!({})))).contains("a taint gpu"));
        for toleration in [
            json!({"key": "gpu", "operator": "Exists"}),
            json!({"operator": "Exists"}),
            json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}),
        ] {
            let tolerant = seekers(1, json!({"tolerations": [toleration]}));
            assert_eq!(of(tainted, &[], tolerant), HeadRoom::Enough, "{toleration}");
        }
        for toleration in
            [json!({"key": "gpu", "value": "no"}), json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"})]
        {
            assert!(why(of(tainted, &[], seekers(1, json!({"tolerations": [toleration]})))).contains("taint"));
        }
        let plain = [node("a", "80", json!({}))];
        assert!(why(of(&plain, &[], seekers(1, json!({"nodeSelector": {"zone": "b"}})))).contains("no label zone=b"));
        assert_eq!(of(&plain, &[], seekers(1, json!({"nodeSelector": {"zone": "a"}}))), HeadRoom::Enough);
        let small = seekers(11, json!({"containers": [{"name": "a"}]}));
        assert!(why(of(&plain, &[], small)).contains("as many pods as it takes"));
    }
}
