//! What the pods use, as the API `metrics.k8s.io` tells it: what a metrics server is for. A pod's annotation
//! [`USAGE`] says what it uses, as `250m,64Mi`; without it, a pod has its part of what this process uses, since its
//! server is a part of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{BoxError, wall_clock};

/// The annotation with what a pod uses: processors and memory.
const USAGE: &str = "rig.moodify.dev/usage";
const VERSION: &str = "metrics.k8s.io/v1beta1";

/// Hertz of the times in `/proc/PID/stat`, on every Linux that matters.
const TICKS: u64 = 100;
const PAGE: u64 = 4096;

/// The pods that live on the node.
pub(super) struct Registry {
    node: String,
    begun: Instant,
    pods: Mutex<BTreeMap<(String, String), Pod>>,
}

/// A pod that lives, until this is dropped.
pub(super) struct Living {
    registry: Arc<Registry>,
    key: (String, String),
    uid: Option<String>,
}

impl Registry {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), begun: Instant::now(), pods: Mutex::default() }
    }

    pub(super) fn add(self: &Arc<Self>, pod: &Pod) -> Living {
        let key = (pod.namespace().unwrap_or_default(), pod.name_any());
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), pod.clone());
        Living { registry: Arc::clone(self), key, uid: pod.uid() }
    }

    /// Billionths of a processor and bytes of memory, of all of this process.
    fn own(&self) -> (u64, u64) {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        // The name of the program may have spaces in it: what counts comes after it.
        let stat = read("stat");
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks = number(fields.next()) + number(fields.next());
        let pages = number(read("statm").split_whitespace().nth(1));
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        (ticks * (1000 / TICKS) * 1_000_000_000 / millis, pages * PAGE)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let mut pods = self.registry.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.get(&self.key).is_some_and(|pod| pod.uid() == self.uid) {
            pods.remove(&self.key);
        }
    }
}

/// Tells the API server that this node answers for the figures of use.
pub(super) async fn announce(client: &Client, address: Ipv4Addr, port: u16) -> Result<(), BoxError> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "rig-usage", "namespace": "kube-system"},
        "spec": {"type": "ExternalName", "externalName": address, "ports": [{"port": port}]},
    });
    let parameters = PatchParams::apply("rig-node").force();
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    services.patch("rig-usage", &parameters, &Patch::Apply(&service)).await?;
    let registration = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"name": "rig-usage", "namespace": "kube-system", "port": port},
        },
    });
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService"));
    let registrations: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    registrations.patch("v1beta1.metrics.k8s.io", &parameters, &Patch::Apply(&registration)).await?;
    Ok(())
}

/// What the API server passes on.
pub(super) fn router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/apis/metrics.k8s.io/v1beta1", get(resources))
        .route("/apis/metrics.k8s.io/v1beta1/nodes", get(nodes))
        .route("/apis/metrics.k8s.io/v1beta1/pods", get(all_pods))
        .route("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", get(pods))
        .with_state(registry)
}

async fn resources() -> Json<Value> {
    let verbs = ["get", "list"];
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs});
    Json(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION,
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    }))
}

async fn nodes(State(registry): State<Arc<Registry>>) -> Json<Value> {
    let (cpu, memory) = registry.own();
    let now = wall_clock();
    Json(json!({
        "kind": "NodeMetricsList", "apiVersion": VERSION, "metadata": {},
        "items": [{
            "metadata": {"name": registry.node, "creationTimestamp": now}, "timestamp": now, "window": "10s",
            "usage": {"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory >> 10)},
        }],
    }))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selectors {
    label_selector: String,
    field_selector: String,
}

async fn all_pods(
    State(registry): State<Arc<Registry>>,
    Query(selectors): Query<Selectors>,
) -> Result<Json<Value>, (StatusCode, String)> {
    usage(&registry, None, &selectors)
}

async fn pods(
    State(registry): State<Arc<Registry>>,
    Path(namespace): Path<String>,
    Query(selectors): Query<Selectors>,
) -> Result<Json<Value>, (StatusCode, String)> {
    usage(&registry, Some(&namespace), &selectors)
}

fn usage(
    registry: &Registry,
    namespace: Option<&str>,
    selectors: &Selectors,
) -> Result<Json<Value>, (StatusCode, String)> {
    let pods = registry.pods.lock().unwrap_or_else(PoisonError::into_inner);
    let mut labels = Vec::new();
    for part in selectors.label_selector.split(',').filter(|part| !part.is_empty()) {
        let equal = part.split_once('=').map(|(key, value)| (key, value.trim_start_matches('=')));
        labels.push(equal.filter(|(key, _)| !key.ends_with('!') && !key.contains(' ')).ok_or_else(|| refused(part))?);
    }
    if !selectors.field_selector.is_empty() {
        return Err(refused(&selectors.field_selector));
    }
    let (cpu, memory) = registry.own();
    let count = u64::try_from(pods.len()).unwrap_or(1).max(1);
    let part = (format!("{}n", cpu / count), format!("{}Ki", (memory / count) >> 10));
    let now = wall_clock();
    let mut items = Vec::new();
    for ((place, name), pod) in pods.iter() {
        let has = |(key, value): &(&str, &str)| pod.labels().get(*key).map(String::as_str) == Some(*value);
        if namespace.is_some_and(|namespace| namespace != place) || !labels.iter().all(has) {
            continue;
        }
        let said = pod.annotations().get(USAGE).and_then(|usage| usage.split_once(','));
        let (cpu, memory) = said.unwrap_or((&part.0, &part.1));
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        // Only the first container does anything.
        let containers = containers.iter().enumerate().map(|(index, container)| {
            let usage =
                if index == 0 { json!({"cpu": cpu, "memory": memory}) } else { json!({"cpu": "0", "memory": "0"}) };
            json!({"name": container.name, "usage": usage})
        });
        items.push(json!({
            "metadata": {"name": name, "namespace": place, "labels": pod.labels(), "creationTimestamp": now},
            "timestamp": now, "window": "10s", "containers": containers.collect::<Vec<_>>(),
        }));
    }
    Ok(Json(json!({"kind": "PodMetricsList", "apiVersion": VERSION, "metadata": {}, "items": items})))
}

fn refused(selector: &str) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, format!("the node's figures cannot be chosen by {selector:?}"))
}
