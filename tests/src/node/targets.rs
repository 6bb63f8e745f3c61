//! Tells Prometheus where the pods are, in files that it watches: Debian builds it without the discovery of Kubernetes.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::behaviour::Behaviour;

/// The label that says which track of a rollout a pod is of.
const TRACK: &str = "moodify.dev/track";
/// The labels that say which service a pod is of, the best first: a canary that no Service may choose has another
/// `app`.
const SERVICE: [&str; 2] = ["moodify.dev/service", "app"];

/// The file of a namespace's pods in the directory of all such files.
pub(crate) fn file(dir: &Path, namespace: &str) -> PathBuf {
    dir.join(format!("{namespace}.json"))
}

/// The pods by namespace and name, and on disk.
pub(super) struct Targets {
    dir: PathBuf,
    pods: Mutex<BTreeMap<String, BTreeMap<String, Value>>>,
}

/// A pod that is to be scraped, until this is dropped.
pub(super) struct Target {
    targets: Arc<Targets>,
    namespace: String,
    uid: String,
}

impl Targets {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), pods: Mutex::default() }
    }

    /// Adds a pod; crashed or not, it is to be asked until it is gone.
    pub(super) fn add(self: &Arc<Self>, pod: &Pod, image: &str, behaviour: &Behaviour, address: SocketAddr) -> Target {
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        let label = |name: &str| pod.labels().get(name).map_or("", String::as_str);
        let track = Some(label(TRACK)).filter(|track| !track.is_empty()).unwrap_or("stable");
        let service = SERVICE.iter().map(|name| label(name)).find(|service| !service.is_empty()).unwrap_or_default();
        let target = json!({"targets": [address], "labels": {
            "namespace": namespace, "pod": pod.name_any(), "service": service, "version": behaviour.version,
            "image": image, "track": track, "revision": label("pod-template-hash"),
        }});
        self.change(&namespace, |pods| drop(pods.insert(uid.clone(), target)));
        Target { targets: Arc::clone(self), namespace, uid }
    }

    fn change(&self, namespace: &str, change: impl FnOnce(&mut BTreeMap<String, Value>)) {
        let mut all = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = all.entry(namespace.to_owned()).or_default();
        change(pods);
        let text = json!(pods.values().collect::<Vec<_>>()).to_string();
        // Prometheus must not read half a file.
        let part = self.dir.join(format!("{namespace}.part"));
        let written = fs::write(&part, text).and_then(|()| fs::rename(&part, file(&self.dir, namespace)));
        if let Err(error) = written {
            eprintln!("node: {}: {error}", part.display());
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.targets.change(&self.namespace, |pods| drop(pods.remove(&self.uid)));
    }
}
