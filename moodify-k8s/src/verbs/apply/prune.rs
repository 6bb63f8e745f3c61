//! Which objects belong together, kept as kubectl keeps an `ApplySet`: a parent object that names the kinds, and a
//! label on the members.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::{DeleteParams, ListParams, Preconditions};
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::Verbs;
use super::applying::{Applied, AppliedObject, Outcome, Placed, kinds};
use super::discovery::{Discovery, Resource};
use crate::client::{Apply, CONFIG_MAP, Object};
use crate::error::{Access, Ask};

/// The label of the members; its value is the set's.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
const ID: &str = "applyset.kubernetes.io/id";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
const TOOL: &str = "moodify/v1";

/// What takes with it what nobody named.
const NEVER: [&str; 4] =
    ["Namespace", "CustomResourceDefinition.apiextensions.k8s.io", "PersistentVolumeClaim", "PersistentVolume"];

/// A set while it is applied.
pub(super) struct Set {
    pub(super) id: String,
    parent: Object,
    /// Where members were, or are to be: all of it is searched for what is to go.
    kinds: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    /// Where members are from now on.
    new_kinds: BTreeSet<String>,
    new_namespaces: BTreeSet<String>,
}

/// The value of the labels, made of who the parent is.
fn id(name: &str, namespace: &str) -> String {
    let hash = Sha256::digest(format!("{name}.{namespace}.ConfigMap."));
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(hash))
}

fn listed(annotation: &Value) -> BTreeSet<String> {
    annotation.as_str().unwrap_or_default().split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl Verbs {
    /// Reads the parent of a set, which may not be there yet.
    pub(super) async fn open_set(&self, cx: &CallContext, discovery: &mut Discovery, name: &str) -> Result<Set> {
        let parent = Object::new(CONFIG_MAP, &self.namespace, name);
        let id = id(name, &self.namespace);
        let found: Option<Value> = self.kube.find(cx, &parent).await?;
        let mut set = Set {
            id,
            parent,
            kinds: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            new_kinds: BTreeSet::new(),
            new_namespaces: BTreeSet::new(),
        };
        let Some(found) = found else { return Ok(set) };
        let ask = set.parent.ask(Access::Read, "read the apply set of");
        let (annotations, labels) = (&found["metadata"]["annotations"], &found["metadata"]["labels"]);
        let tool = annotations[TOOLING].as_str().unwrap_or_default();
        if labels[ID] != set.id.as_str() || tool.split('/').next() != Some("moodify") {
            let whose =
                if tool.is_empty() { "is no apply set".to_owned() } else { format!("is an apply set of {tool}") };
            return Err(ask
                .error(ErrorKind::AlreadyExists, format!("it exists and {whose}: what it holds is not ours to prune"))
                .hint("choose another name for the set; nothing was changed"));
        }
        set.kinds = listed(&annotations[KINDS]);
        set.namespaces = listed(&annotations[NAMESPACES]);
        for kind in &set.kinds {
            // Asked for now, so that a kind that cannot be searched is known before anything is written.
            discovery.preferred(&self.kube, cx, kind).await?;
        }
        Ok(set)
    }

    /// Writes down where members are going to be, before they are: whoever prunes next finds them, whatever happens.
    pub(super) async fn widen_set(&self, cx: &CallContext, set: &mut Set, placed: &[Placed<'_>]) -> Result<()> {
        set.new_kinds.extend(kinds(placed));
        set.new_namespaces.extend(placed.iter().filter_map(|p| p.namespace.clone()));
        set.kinds.extend(set.new_kinds.iter().cloned());
        set.namespaces.extend(set.new_namespaces.iter().cloned());
        if placed.is_empty() {
            return Ok(());
        }
        self.write_set(cx, set, &set.kinds, &set.namespaces).await
    }

    async fn write_set(
        &self,
        cx: &CallContext,
        set: &Set,
        kinds: &BTreeSet<String>,
        namespaces: &BTreeSet<String>,
    ) -> Result<()> {
        let joined = |all: &mut dyn Iterator<Item = &String>| all.map(String::as_str).collect::<Vec<_>>().join(",");
        let others = joined(&mut namespaces.iter().filter(|n| **n != *self.namespace));
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": set.parent.name, "namespace": set.parent.namespace, "labels": {ID: set.id},
                "annotations": {TOOLING: TOOL, KINDS: joined(&mut kinds.iter()), NAMESPACES: others},
            },
        });
        let how = Apply { force: true, ..Apply::default() };
        self.kube.apply::<Value>(cx, &set.parent, &body, how).await.map(drop)
    }

    /// Deletes the members that are not in the manifests any more, and writes down where the others are.
    pub(super) async fn close_set(
        &self,
        cx: &CallContext,
        discovery: &mut Discovery,
        set: Set,
        applied: &Applied,
    ) -> Result<Vec<AppliedObject>> {
        let mut gone = Vec::new();
        let mut kept_kinds = set.new_kinds.clone();
        let namespaces: BTreeSet<String> = set.namespaces.iter().cloned().chain([self.namespace.to_string()]).collect();
        for kind in &set.kinds {
            // The kind itself was removed from the cluster, and all objects with it.
            let Some(resource) = discovery.preferred(&self.kube, cx, kind).await? else { continue };
            for (namespace, member) in self.members(cx, &resource, &namespaces, &set.id).await? {
                let name = member.name.clone().unwrap_or_default();
                let stays = |a: &AppliedObject| a.kind == *kind && a.namespace == namespace && a.name == name;
                if applied.iter().any(stays) {
                    continue;
                }
                let ours = was_applied(&member, self.kube.manager()) && !NEVER.contains(&kind.as_str());
                if ours {
                    self.remove(cx, &resource, namespace.as_deref(), &member).await?;
                } else {
                    kept_kinds.insert(kind.clone());
                }
                let outcome = if ours { Outcome::Pruned } else { Outcome::Left };
                gone.push(AppliedObject { kind: kind.clone(), namespace, name, outcome });
            }
        }
        self.write_set(cx, &set, &kept_kinds, &set.new_namespaces).await?;
        Ok(gone)
    }

    async fn members(
        &self,
        cx: &CallContext,
        resource: &Resource,
        namespaces: &BTreeSet<String>,
        id: &str,
    ) -> Result<Vec<(Option<String>, ObjectMeta)>> {
        #[derive(serde::Deserialize)]
        struct Found {
            metadata: ObjectMeta,
        }
        #[derive(serde::Deserialize)]
        struct List {
            items: Option<Vec<Found>>,
        }
        let params = ListParams::default().labels(&format!("{PART_OF}={id}"));
        let places: Vec<Option<&str>> =
            if resource.namespaced { namespaces.iter().map(|n| Some(n.as_str())).collect() } else { vec![None] };
        let mut all = Vec::new();
        for namespace in places {
            let ask = Ask::new(Access::Read, format!("list {}", resource.plural), namespace.unwrap_or("the cluster"));
            let list: List = self.kube.json(cx, &ask, resource.request(namespace).list_metadata(&params)).await?;
            let found = list.items.unwrap_or_default().into_iter();
            all.extend(found.map(|f| (namespace.map(str::to_owned), f.metadata)));
        }
        Ok(all)
    }

    /// Deletes the very object that was seen.
    async fn remove(
        &self,
        cx: &CallContext,
        resource: &Resource,
        namespace: Option<&str>,
        member: &ObjectMeta,
    ) -> Result<()> {
        let name = member.name.as_deref().unwrap_or_default();
        let on = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let ask = Ask::new(Access::Write, format!("prune {}", resource.kind), on);
        let this_one = Preconditions { uid: member.uid.clone(), resource_version: member.resource_version.clone() };
        let params = DeleteParams::background().preconditions(this_one);
        match self.kube.send(cx, &ask, resource.request(namespace).delete(name, &params)).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Whether it was our manager who applied the label, and not somebody who copied the object.
fn was_applied(member: &ObjectMeta, manager: &str) -> bool {
    let label = format!("f:{PART_OF}");
    member.managed_fields.iter().flatten().any(|entry| {
        let applied = entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply");
        applied && entry.fields_v1.as_ref().is_some_and(|f| !f.0["f:metadata"]["f:labels"][&label].is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_one_that_kubectl_makes() {
        // sha256 of "web.shop.ConfigMap." in base64 for URLs.
        assert_eq!(id("web", "shop").len(), "applyset-".len() + 43 + "-v1".len());
        assert_ne!(id("web", "shop"), id("web", "other"));
    }

    #[test]
    fn a_copy_is_not_ours() {
        let meta = |manager: &str, operation: &str| -> ObjectMeta {
            serde_json::from_value(json!({"name": "a", "managedFields": [{"manager": manager, "operation": operation,
                "fieldsV1": {"f:metadata": {"f:labels": {format!("f:{PART_OF}"): {}}}}}]}))
            .unwrap()
        };
        assert!(was_applied(&meta("moodify", "Apply"), "moodify"));
        assert!(!was_applied(&meta("moodify", "Update"), "moodify"));
        assert!(!was_applied(&meta("kubectl", "Apply"), "moodify"));
    }
}
