use std::collections::BTreeMap;

use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::write::{Change, missing};
use super::{Verbs, Workload};
use crate::client::{Object, SERVICE};
use crate::error::{Access, Ask};
use crate::patch::part;

/// Environment variables to set and to remove.
///
/// ```
/// use moodify_k8s::verbs::EnvChange;
/// let off = EnvChange::new().set("FEATURE_FLAG", "false").remove("DEBUG").container("backend");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvChange {
    set: Vec<(String, String)>,
    remove: Vec<String>,
    container: Option<String>,
}

impl EnvChange {
    /// Nothing yet, of all containers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.push((name.into(), value.into()));
        self
    }

    /// Removes a variable; wins over setting it.
    #[must_use]
    pub fn remove(mut self, name: impl Into<String>) -> Self {
        self.remove.push(name.into());
        self
    }

    /// Only of this container. By default of all, those that initialise too.
    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    /// The variables as they become: in their places, new ones at the end, one for each name.
    fn apply(&self, now: &[Value]) -> Vec<Value> {
        let mut covered: Vec<&str> = self.remove.iter().map(String::as_str).collect();
        let mut after = Vec::new();
        for variable in now {
            let name = variable["name"].as_str().unwrap_or_default();
            let new = self.set.iter().find(|(set, _)| set == name);
            if covered.contains(&name) {
                continue;
            }
            match new {
                Some((name, value)) => {
                    covered.push(name);
                    after.push(json!({"name": name, "value": value}));
                }
                None => after.push(variable.clone()),
            }
        }
        for (name, value) in &self.set {
            if !covered.contains(&name.as_str()) {
                covered.push(name);
                after.push(json!({"name": name, "value": value}));
            }
        }
        after
    }
}

/// Limits and requests to set; what is not named stays.
///
/// ```
/// use moodify_k8s::verbs::ResourceChange;
/// let more = ResourceChange::new().limit("memory", "4Gi").request("cpu", "500m");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceChange {
    limits: BTreeMap<String, String>,
    requests: BTreeMap<String, String>,
    container: Option<String>,
}

impl ResourceChange {
    /// Nothing yet, of all containers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so much of a resource: `memory`, `4Gi`; `cpu`, `500m`.
    #[must_use]
    pub fn limit(mut self, resource: impl Into<String>, quantity: impl Into<String>) -> Self {
        self.limits.insert(resource.into(), quantity.into());
        self
    }

    /// At least so much of a resource.
    #[must_use]
    pub fn request(mut self, resource: impl Into<String>, quantity: impl Into<String>) -> Self {
        self.requests.insert(resource.into(), quantity.into());
        self
    }

    /// Only of this container. By default of all, those that initialise too.
    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    fn apply(&self, now: &Value) -> Value {
        let mut after = now.as_object().cloned().unwrap_or_default();
        for (key, change) in [("limits", &self.limits), ("requests", &self.requests)] {
            if change.is_empty() {
                continue;
            }
            let map = after.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.extend(change.iter().map(|(k, v)| (k.clone(), json!(v))));
            }
        }
        Value::Object(after)
    }
}

/// A container of a template and where it is.
struct Place<'a> {
    path: String,
    name: &'a str,
    container: &'a Value,
}

/// The containers of a template with this name, or all of them.
fn places<'a>(ask: &Ask, read: &'a Value, name: Option<&str>) -> Result<Vec<Place<'a>>, Error> {
    let pod = &read["spec"]["template"]["spec"];
    let mut all = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in pod[list].as_array().into_iter().flatten().enumerate() {
            let path = format!("/spec/template/spec/{list}/{index}");
            all.push(Place { path, name: container["name"].as_str().unwrap_or_default(), container });
        }
    }
    let names: Vec<&str> = all.iter().map(|p| p.name).collect();
    let Some(name) = name.filter(|name| *name != "*") else { return Ok(all) };
    if !names.contains(&name) {
        let message = format!("unable to find container named {name:?}; there are: {}", names.join(", "));
        return Err(ask.error(ErrorKind::Invalid, message).hint("nothing was changed"));
    }
    all.retain(|place| place.name == name);
    Ok(all)
}

impl Verbs {
    /// Sets the images of containers, of all with the name `*`, and so begins a rollout: `kubectl set image`. Unlike
    /// kubectl, which sets those that it finds, it changes nothing if one of the containers does not exist.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a container that does not exist, [`Conflict`](ErrorKind::Conflict) if
    /// somebody changed the spec in between.
    pub async fn set_image(&self, cx: &CallContext, workload: &Workload, images: &[(&str, &str)]) -> Result<Change> {
        let object = workload.object(&self.namespace);
        let ask = object.ask(Access::Compare, "set the image of");
        let read = self.read_object(cx, &object).await?;
        let mut operations = Vec::new();
        for (name, image) in images {
            let places = places(&ask, &read, Some(name))?;
            let other = places.into_iter().filter(|place| place.container["image"] != *image);
            let set = |p: Place<'_>| json!({"op": "replace", "path": format!("{}/image", p.path), "value": image});
            operations.extend(other.map(set));
        }
        self.write(cx, &object, &read, operations).await
    }

    /// Sets and removes environment variables, and so begins a rollout: `kubectl set env`.
    ///
    /// # Errors
    /// As [`set_image`](Self::set_image).
    pub async fn set_env(&self, cx: &CallContext, workload: &Workload, change: &EnvChange) -> Result<Change> {
        let apply = |container: &Value| {
            let now = container["env"].as_array().cloned().unwrap_or_default();
            let after = change.apply(&now);
            (after != now).then_some(Value::Array(after))
        };
        self.set(cx, workload, change.container.as_deref(), "env", "set variables of", &apply).await
    }

    /// Sets limits and requests, and so begins a rollout: `kubectl set resources`.
    ///
    /// # Errors
    /// As [`set_image`](Self::set_image).
    pub async fn set_resources(
        &self,
        cx: &CallContext,
        workload: &Workload,
        change: &ResourceChange,
    ) -> Result<Change> {
        let apply = |container: &Value| {
            let after = change.apply(&container["resources"]);
            (after != container["resources"]).then_some(after)
        };
        self.set(cx, workload, change.container.as_deref(), "resources", "set resources of", &apply).await
    }

    /// Sets a field of containers to what `apply` makes of each, if anything.
    async fn set(
        &self,
        cx: &CallContext,
        workload: &Workload,
        container: Option<&str>,
        field: &str,
        verb: &str,
        apply: &(dyn Fn(&Value) -> Option<Value> + Sync),
    ) -> Result<Change> {
        let object = workload.object(&self.namespace);
        let read = self.read_object(cx, &object).await?;
        let mut operations = Vec::new();
        for place in places(&object.ask(Access::Compare, verb), &read, container)? {
            if let Some(value) = apply(place.container) {
                operations.push(json!({"op": "add", "path": format!("{}/{field}", place.path), "value": value}));
            }
        }
        self.write(cx, &object, &read, operations).await
    }

    /// Adds labels to the selector of a Service, and so decides which pods get its traffic, all of it and at once:
    /// `kubectl patch service NAME -p '{"spec":{"selector":{...}}}'`. Other labels of the selector stay. Returns
    /// whether anything was written.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Invalid`](ErrorKind::Invalid) for a Service without a selector;
    /// [`Conflict`](ErrorKind::Conflict) if somebody changed the selector in between.
    pub async fn patch_selector(&self, cx: &CallContext, service: &str, labels: &[(&str, &str)]) -> Result<bool> {
        let object = Object::new(SERVICE, &self.namespace, service);
        let found: Option<Value> = self.kube.find(cx, &object).await?;
        let read = found.ok_or_else(|| missing(&object))?;
        let selector = &read["spec"]["selector"];
        if !selector.is_object() {
            return Err(object
                .ask(Access::Compare, "change the selector of")
                .error(ErrorKind::Invalid, "it has no selector: somebody else says where its traffic goes")
                .hint("look at its EndpointSlices"));
        }
        let news = labels.iter().filter(|(key, value)| selector[*key] != *value);
        let path = |key: &str| format!("/spec/selector/{}", part(key));
        let mut operations: Vec<Value> =
            news.map(|(key, value)| json!({"op": "add", "path": path(key), "value": value})).collect();
        if operations.is_empty() {
            return Ok(false);
        }
        operations.insert(0, json!({"op": "test", "path": "/spec/selector", "value": selector}));
        self.kube.patch::<Value>(cx, &object, operations).await.map(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_change_in_their_places() {
        let now = json!([{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}},
            {"name": "C", "value": "3"}, {"name": "A", "value": "twice"}]);
        let change = EnvChange::new().set("D", "4").set("B", "2").set("A", "0").remove("C").set("C", "no");
        let after = change.apply(now.as_array().unwrap());
        let expected = json!([{"name": "A", "value": "0"}, {"name": "B", "value": "2"}, {"name": "D", "value": "4"}]);
        assert_eq!(Value::Array(after), expected);
    }

    #[test]
    fn resources_are_merged() {
        let change = ResourceChange::new().limit("memory", "4Gi").request("cpu", "1");
        let now = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "claims": []});
        let expected = json!({"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "1"}, "claims": []});
        assert_eq!(change.apply(&now), expected);
        assert_eq!(change.apply(&Value::Null), json!({"limits": {"memory": "4Gi"}, "requests": {"cpu": "1"}}));
    }
}
