//! Events about pods, as a kubelet writes them.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::wall_clock;

/// Writes an event in the background: nobody waits for it, and one that is lost is lost.
pub(super) fn emit(client: &Client, node: &str, pod: &Pod, reason: &str, message: &str) {
    let now = wall_clock();
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let kind = if matches!(reason, "Started" | "Killing") { "Normal" } else { "Warning" };
    let event = json!({
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": pod.uid(),
        },
        "type": kind, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "source": {"component": "kubelet", "host": node},
    });
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    tokio::spawn(async move {
        let event = serde_json::from_value(event).expect("an event");
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            // A namespace on its way out takes no more events.
            if !matches!(&error, kube::Error::Api(status) if matches!(status.code, 403 | 404)) {
                eprintln!("node: event: {error}");
            }
        }
    });
}
