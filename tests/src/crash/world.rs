//! What is in a namespace, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldsV1;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::{BoxError, wall_clock};

/// The annotation in which Kubernetes counts the versions of a Deployment.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The annotation that says how many requests the rig sends to a pod.
pub(super) const LOAD: &str = "rig.moodify.dev/load";

/// The kind of route that the tests use.
pub(super) fn http_route() -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        kind: "HTTPRoute".to_owned(),
        plural: "httproutes".to_owned(),
    }
}

/// The kind of object that nginx divides traffic by.
pub(super) fn ingress() -> ApiResource {
    ApiResource::erase::<Ingress>(&())
}

/// The kinds that people make, which a release leaves as they were, and those that only follow from them.
fn kinds() -> [(ApiResource, bool); 9] {
    [
        (ApiResource::erase::<Deployment>(&()), true),
        (ApiResource::erase::<Service>(&()), true),
        (http_route(), true),
        (ingress(), true),
        (ApiResource::erase::<ConfigMap>(&()), true),
        (ApiResource::erase::<Secret>(&()), true),
        (ApiResource::erase::<ServiceAccount>(&()), true),
        (ApiResource::erase::<ReplicaSet>(&()), false),
        (ApiResource::erase::<EndpointSlice>(&()), false),
    ]
}

/// Everything in a namespace, without what changes by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct World {
    /// By `Kind/name`.
    pub(super) objects: BTreeMap<String, Value>,
    /// What of an object others than moodify manage, by object and manager.
    pub(super) managed: BTreeMap<String, Value>,
    /// What shows that moodify was here: objects that bear its name.
    pub(super) ours: BTreeSet<String>,
    /// The Deployments whose instances are not all there, new and available.
    rolling: BTreeSet<String>,
}

impl World {
    /// Looks at everything.
    pub(super) async fn look(client: &Client, namespace: &str) -> Result<Self, BoxError> {
        let mut world = Self {
            objects: BTreeMap::new(),
            managed: BTreeMap::new(),
            ours: BTreeSet::new(),
            rolling: BTreeSet::new(),
        };
        for (kind, kept) in kinds() {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
            for object in api.list(&ListParams::default()).await? {
                world.add(&kind.kind, object, kept)?;
            }
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        for pod in pods.list(&ListParams::default()).await?.items {
            if pod.labels().keys().any(|label| label.starts_with("moodify.dev/")) {
                world.ours.insert(format!("Pod/{}", pod.name_any()));
            }
        }
        Ok(world)
    }

    fn add(&mut self, kind: &str, mut object: DynamicObject, kept: bool) -> Result<(), BoxError> {
        let name = format!("{kind}/{}", object.name_any());
        let managers = object.metadata.managed_fields.take().unwrap_or_default();
        for entry in managers {
            let manager = entry.manager.unwrap_or_default();
            // The controllers tell how it goes. That is not an edit.
            if kept && manager != "moodify" && manager != "kube-controller-manager" {
                let fields = entry.fields_v1.map(|FieldsV1(fields)| fields).unwrap_or_default();
                self.managed.insert(format!("{name} by {manager} ({})", entry.operation.unwrap_or_default()), fields);
            }
        }
        object.metadata.resource_version = None;
        if kind == "Deployment" && !is_rolled_out(&object) {
            self.rolling.insert(name.clone());
        }
        let mut value = serde_json::to_value(object)?;
        value.as_object_mut().ok_or("an object")?.remove("status");
        // The label by which the rig's own settings go is not ours.
        let text = value.to_string().replace(LOAD, "");
        if ["moodify", "-canary", "-green"].iter().any(|mark| text.contains(mark)) {
            self.ours.insert(name.clone());
        }
        if kept {
            self.objects.insert(name, value);
        }
        Ok(())
    }

    /// What should be there after a release of `image` by the Deployment `name`.
    pub(super) fn release(&mut self, name: &str, image: &str) {
        if let Some(object) = self.objects.get_mut(&format!("Deployment/{name}")) {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        }
    }

    /// Leaves out of what others manage the fields that somebody else had to write.
    pub(super) fn without_managed(mut self, kind: &str, fields: &[&str]) -> Self {
        let Some((last, path)) = fields.split_last() else { return self };
        for (_, managed) in self.managed.iter_mut().filter(|(name, _)| name.starts_with(kind)) {
            let parent = path.iter().try_fold(managed, |value, key| value.get_mut(*key));
            if let Some(parent) = parent.and_then(Value::as_object_mut) {
                parent.remove(*last);
            }
        }
        self
    }

    /// Leaves out how often objects were changed, where they had to be.
    pub(super) fn without_counts(mut self) -> Self {
        for object in self.objects.values_mut() {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("generation");
            }
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.remove(REVISION);
            }
        }
        self
    }

    /// How `self` differs from what should be there; nothing if it does not.
    pub(super) fn differs(&self, wanted: &Self) -> Vec<String> {
        let mut differences: Vec<String> = self.ours.iter().map(|name| format!("{name} is left behind")).collect();
        differences.extend(self.rolling.iter().map(|name| format!("{name} is not rolled out")));
        for (map, other) in [(&self.objects, &wanted.objects), (&self.managed, &wanted.managed)] {
            let names: BTreeSet<&String> = map.keys().chain(other.keys()).collect();
            for name in names {
                match (map.get(name), other.get(name)) {
                    (Some(is), Some(should)) if is != should => {
                        differences.push(format!("{name}: {}", first_difference("", is, should)));
                    }
                    (None, Some(_)) => differences.push(format!("{name} is gone")),
                    (Some(_), None) => differences.push(format!("{name} is new")),
                    _ => {}
                }
            }
        }
        differences
    }
}

fn is_rolled_out(deployment: &DynamicObject) -> bool {
    let (wanted, status) = (&deployment.data["spec"]["replicas"], &deployment.data["status"]);
    let counts = ["replicas", "updatedReplicas", "availableReplicas"];
    let observed = status["observedGeneration"].as_i64() == deployment.metadata.generation;
    observed && counts.iter().all(|count| status[count] == *wanted)
}

fn first_difference(path: &str, is: &Value, should: &Value) -> String {
    if let (Some(a), Some(b)) = (is.as_object(), should.as_object()) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        if let Some(key) = keys.into_iter().find(|key| a.get(*key) != b.get(*key)) {
            return first_difference(&format!("{path}/{key}"), &is[key.as_str()], &should[key.as_str()]);
        }
    }
    if let (Some(a), Some(b)) = (is.as_array(), should.as_array())
        && a.len() == b.len()
        && let Some(i) = (0..a.len()).find(|i| a[*i] != b[*i])
    {
        return first_difference(&format!("{path}/{i}"), &a[i], &b[i]);
    }
    format!("{path} is {is}, not {should}")
}

/// What was seen of one object.
#[derive(Debug, Clone, PartialEq)]
struct Sight {
    at: Timestamp,
    object: String,
    state: String,
}

/// All that Deployments and routes were, in order, from a watch of the API server.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Vec<Sight>>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// What became of each object, without repetitions.
pub(super) type History = BTreeMap<String, Vec<String>>;

impl Watch {
    /// Begins to watch.
    pub(super) fn start(client: &Client, namespace: &str) -> Self {
        let seen = Arc::default();
        let kinds = [ApiResource::erase::<Deployment>(&()), http_route(), ingress()];
        let watched = kinds.map(|kind| {
            let api = Api::namespaced_with(client.clone(), namespace, &kind);
            AbortOnDropHandle::new(tokio::spawn(follow(api, kind, Arc::clone(&seen))))
        });
        Self { seen, _tasks: watched.into() }
    }

    fn seen(&self) -> Vec<Sight> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of the objects that are there or came since, beginning with what they were.
    pub(super) fn since(&self, begin: Timestamp) -> History {
        let mut history = History::new();
        for sight in self.seen() {
            let states = history.entry(sight.object).or_default();
            if sight.at < begin {
                states.clear();
            }
            if states.last() != Some(&sight.state) {
                states.push(sight.state);
            }
        }
        // What was gone before is no part of this.
        history.retain(|_, states| *states != [GONE]);
        for states in history.values_mut() {
            if states.len() > 1 && states[0] == GONE {
                states.remove(0);
            }
        }
        history
    }

    /// What an object was at each time since.
    pub(super) fn moments(&self, begin: Timestamp) -> Vec<(Timestamp, String, String)> {
        let since = self.seen().into_iter().filter(|sight| sight.at >= begin);
        since.map(|sight| (sight.at, sight.object, sight.state)).collect()
    }
}

/// What an object is that is not there.
pub(super) const GONE: &str = "gone";

async fn follow(api: Api<DynamicObject>, kind: ApiResource, seen: Arc<Mutex<Vec<Sight>>>) {
    let stream = watcher::watcher(api, watcher::Config::default());
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let (object, gone) = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
            Ok(Event::Delete(object)) => (object, true),
            Ok(Event::Init | Event::InitDone) | Err(_) => continue,
        };
        let state = if gone { GONE.to_owned() } else { state(&object) };
        let object = format!("{}/{}", kind.kind, object.name_any());
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Sight { at: wall_clock(), object, state });
    }
}

/// The image and the number of instances, or the weights.
fn state(object: &DynamicObject) -> String {
    let spec = &object.data["spec"];
    if spec["rules"].is_array() {
        return format!("{} {}", canary_weight(object), spec["rules"]);
    }
    let image = spec["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    format!("{} x {image}", spec["replicas"])
}

/// The most that a routing object gives to a canary.
pub(super) fn canary_weight(object: &DynamicObject) -> u64 {
    if let Some(weight) = object.annotations().get("nginx.ingress.kubernetes.io/canary-weight") {
        return weight.parse().unwrap_or(100);
    }
    let rules = object.data["spec"]["rules"].as_array().into_iter().flatten();
    let refs = rules.flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten());
    let ours =
        refs.filter(|r| r["name"].as_str().is_some_and(|name| name.ends_with("-canary") || name.ends_with("-green")));
    ours.map(|r| r["weight"].as_u64().unwrap_or(1)).max().unwrap_or(0)
}
