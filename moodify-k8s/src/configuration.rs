//! `ConfigMap`s and Secrets that ship with a version: each version's pods refer to objects of their own. What they refer to is
//! kept with their template, so that it goes wherever the template goes, also by `kubectl rollout undo`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::PartialObjectMeta;
use kube::core::params::ListParams;
use moodify_core::backend::Change;
use moodify_core::model::{ConfigKind, ConfigRefs, ConfigVersion, Layout, Target, Track};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::client::{CONFIG_MAP, CONTROLLER_REVISION, Object, REPLICA_SET, SECRET, typed};
use crate::deployer::{DeploymentDeployer, deployment_of};
use crate::diagnostics::selector_text;
use crate::error::{Access, Ask};
use crate::names::{MANAGED_BY, SERVICE, label_value};
use crate::patch;
use crate::single;

/// The annotation of a pod template with what its pods read under another name than the plan's.
pub(crate) const READS: &str = "moodify.dev/config";
/// The label of what was made for versions of a workload: the workload's name.
const MADE_FOR: &str = "moodify.dev/config-of";

/// What the annotation of a template says.
fn said(annotation: Option<&str>) -> ConfigRefs {
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What the pods of a template with this annotation read of the configuration that ships with a service.
pub(crate) fn reads(annotation: Option<&str>, target: &Target) -> ConfigRefs {
    let mut said = said(annotation);
    let mut object = |config: &ConfigVersion| said.remove(&config.key()).unwrap_or_else(|| config.name.clone());
    target.service.config.iter().map(|config| (config.key(), object(config))).collect()
}

/// The annotation of a pod template.
pub(crate) fn annotation(template: &Value) -> Option<&str> {
    template["metadata"]["annotations"][READS].as_str()
}

/// Where a pod template refers to an object: JSON pointers into the template.
fn references(template: &Value, kind: ConfigKind, object: &str) -> Vec<String> {
    let (from, key, volume, name) = match kind {
        ConfigKind::ConfigMap => ("configMapRef", "configMapKeyRef", "configMap", "name"),
        ConfigKind::Secret => ("secretRef", "secretKeyRef", "secret", "secretName"),
    };
    let mut candidates = Vec::new();
    let items = |at: &str| template.pointer(at).and_then(Value::as_array).map_or(0, Vec::len);
    for containers in ["containers", "initContainers"] {
        for container in 0..items(&format!("/spec/{containers}")) {
            let at = format!("/spec/{containers}/{container}");
            candidates.extend((0..items(&format!("{at}/envFrom"))).map(|i| format!("{at}/envFrom/{i}/{from}/name")));
            candidates.extend((0..items(&format!("{at}/env"))).map(|i| format!("{at}/env/{i}/valueFrom/{key}/name")));
        }
    }
    for i in 0..items("/spec/volumes") {
        let at = format!("/spec/volumes/{i}");
        candidates.push(format!("{at}/{volume}/{name}"));
        let sources = items(&format!("{at}/projected/sources"));
        candidates.extend((0..sources).map(|source| format!("{at}/projected/sources/{source}/{volume}/name")));
    }
    candidates.retain(|at| template.pointer(at).and_then(Value::as_str) == Some(object));
    candidates
}

/// Pointers with what shall be there, and the annotation then.
type Changes = (Vec<(String, String)>, String);

/// The pointers at which a template refers to something else than wanted, with what shall be there, and the annotation then;
/// none if all is as wanted.
fn changes(ask: &Ask, template: &Value, target: &Target, wanted: &ConfigRefs) -> Result<Option<Changes>, Error> {
    let now = reads(annotation(template), target);
    let mut said = said(annotation(template));
    let mut places = Vec::new();
    for config in &target.service.config {
        let key = config.key();
        let (Some(now), Some(to)) = (now.get(&key), wanted.get(&key)) else { continue };
        let at = references(template, config.kind, now);
        if at.is_empty() {
            return Err(ask
                .error(ErrorKind::Invalid, format!("its pods do not refer to the {} {now}", config.kind))
                .hint("refer to it in the workload's manifest (envFrom, env or volumes), or take it out of the plan"));
        }
        if now != to {
            places.extend(at.into_iter().map(|at| (at, to.clone())));
            said.insert(key, to.clone());
        }
    }
    let text = || serde_json::to_string(&said).unwrap_or_default();
    Ok((!places.is_empty()).then(|| (places, text())))
}

/// Lets the pods of a template read these objects.
pub(crate) fn rewrite(ask: &Ask, template: &mut Value, target: &Target, wanted: &ConfigRefs) -> Result<(), Error> {
    let Some((places, said)) = changes(ask, template, target, wanted)? else { return Ok(()) };
    for (at, to) in places {
        if let Some(place) = template.pointer_mut(&at) {
            *place = to.into();
        }
    }
    template["metadata"]["annotations"][READS] = said.into();
    Ok(())
}

/// The same as a patch of the workload, compared at the moment of the write; nothing if all is as wanted.
pub(crate) fn patch(ask: &Ask, workload: &Value, target: &Target, wanted: &ConfigRefs) -> Result<Vec<Value>, Error> {
    let template = &workload["spec"]["template"];
    let Some((places, said)) = changes(ask, template, target, wanted)? else { return Ok(Vec::new()) };
    let mut operations = Vec::new();
    for (at, to) in places {
        let (path, now) = (format!("/spec/template{at}"), template.pointer(&at));
        operations.push(json!({"op": "test", "path": path, "value": now}));
        operations.push(json!({"op": "replace", "path": path, "value": to}));
    }
    if !template["metadata"].is_object() {
        operations.push(json!({"op": "add", "path": "/spec/template/metadata", "value": {}}));
    }
    patch::put(&mut operations, workload, "/spec/template/metadata/annotations", READS, &said);
    Ok(operations)
}

/// What is made, and who reads it, for people.
pub(crate) fn preview(target: &Target, template: &Value) -> Vec<Change> {
    let now = reads(annotation(template), target);
    let changed = target.service.config.iter().filter(|config| now.get(&config.key()) != Some(&config.object()));
    let what = |config: &ConfigVersion| match now.get(&config.key()) {
        Some(before) => format!("what the new version reads in place of {before}"),
        None => "what the new version reads".to_owned(),
    };
    let object = |config: &ConfigVersion| format!("{} {}/{}", config.kind, target.namespace, config.object());
    changed.map(|config| Change { object: object(config), what: what(config) }).collect()
}

/// What a person has to look at who rolls a workload back by hand.
pub(crate) fn by_hand(target: &Target, kind: &str, name: &str) -> Vec<String> {
    let new: Vec<String> = target.service.config.iter().map(ConfigVersion::object).collect();
    if new.is_empty() {
        return Vec::new();
    }
    let namespace = &target.namespace;
    vec![format!(
        "kubectl -n {namespace} edit {kind}/{name}  # where it refers to {}: what it read before",
        new.join(", ")
    )]
}

impl DeploymentDeployer {
    /// Makes the objects of this version that these references are to, as long as they are not there.
    pub(crate) async fn make_config(&self, cx: &CallContext, target: &Target, refs: &ConfigRefs) -> Result<()> {
        let is_made =
            |config: &&ConfigVersion| config.data.is_some() && refs.get(&config.key()) == Some(&config.object());
        let mut made = false;
        for config in target.service.config.iter().filter(is_made) {
            made |= self.make(cx, target, config).await?;
        }
        // Where no canary is removed in the end, this is when the old ones go.
        if made && let Err(e) = self.delete_unread(cx, target, refs).await {
            tracing::warn!(error = %e, "what versions of before read is not tidied up");
        }
        Ok(())
    }

    /// Whether there is an object that is there already, by the plan.
    async fn is_there(&self, cx: &CallContext, target: &Target, config: &ConfigVersion) -> Result<()> {
        let kind = if config.kind == ConfigKind::Secret { SECRET } else { CONFIG_MAP };
        let object = Object::new(kind, &target.namespace, &config.object());
        // Not its contents.
        let found: Option<PartialObjectMeta<ConfigMap>> = self.kube.find_metadata(cx, &object).await?;
        let hint = "make it before the release, or mend `version` in the plan";
        found.map(drop).ok_or_else(|| object.missing().hint(hint))
    }

    /// Makes one; whether it was not there.
    async fn make(&self, cx: &CallContext, target: &Target, config: &ConfigVersion) -> Result<bool> {
        let object = Object::new(CONFIG_MAP, &target.namespace, &config.object());
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": object.name,
                "namespace": object.namespace,
                "labels": {
                    MANAGED_BY: "moodify",
                    MADE_FOR: label_value(&target.service.workload),
                    SERVICE: label_value(&target.service.name),
                },
            },
            "data": config.data,
            "immutable": true,
        });
        if self.is_made(cx, &object, config).await? {
            return Ok(false);
        }
        match self.kube.create::<Value>(cx, &object, &body).await {
            Ok(_) => Ok(true),
            // Made by a request before, whose answer was lost, or by somebody else at the same time.
            Err(e) if e.kind() == ErrorKind::AlreadyExists || e.effect_of() == Effect::Unknown => {
                if self.is_made(cx, &object, config).await? { Ok(true) } else { Err(e) }
            }
            Err(e) => Err(e),
        }
    }

    /// Whether it is there; something else of that name is refused.
    async fn is_made(&self, cx: &CallContext, object: &Object, config: &ConfigVersion) -> Result<bool> {
        let Some(found) = self.kube.find::<ConfigMap>(cx, object).await? else { return Ok(false) };
        let ask = object.ask(Access::Read, "look at");
        if found.metadata.deletion_timestamp.is_some() {
            return Err(ask.error(ErrorKind::Conflict, "it is being deleted; it must be gone first"));
        }
        if found.data.unwrap_or_default() == config.data.clone().unwrap_or_default() {
            return Ok(true);
        }
        Err(ask
            .error(ErrorKind::AlreadyExists, "it has other contents than the version that ships, whose name it has")
            .hint("find out who made it; delete it if nobody needs it"))
    }

    /// Deletes what was made for versions of this workload, and no version reads that runs, that is among `keep`, or to which the
    /// workload's history can go back.
    pub(crate) async fn delete_unread(&self, cx: &CallContext, target: &Target, keep: &ConfigRefs) -> Result<()> {
        if target.service.config.is_empty() {
            return Ok(());
        }
        let label = format!("{MANAGED_BY}=moodify,{MADE_FOR}={}", label_value(&target.service.workload));
        let params = ListParams::default().labels(&label);
        let made: Vec<PartialObjectMeta<ConfigMap>> =
            self.kube.list_metadata(cx, CONFIG_MAP, &target.namespace, &params).await?;
        if made.is_empty() {
            return Ok(());
        }
        let mut read: BTreeSet<String> = keep.values().cloned().collect();
        read.extend(self.read_by_versions(cx, target).await?);
        for meta in made.into_iter().map(|object| object.metadata) {
            let name = meta.name.unwrap_or_default();
            if !read.contains(&name) {
                let object = Object::new(CONFIG_MAP, &target.namespace, &name);
                self.kube.delete(cx, &object, meta.uid.unwrap_or_default()).await?;
            }
        }
        Ok(())
    }

    /// The objects that any version of a workload reads, or of the one that takes turns with it.
    async fn read_by_versions(&self, cx: &CallContext, target: &Target) -> Result<BTreeSet<String>> {
        let workloads = match target.layout {
            Layout::Single => vec![single::object_of(target)],
            _ => vec![deployment_of(target, Track::Stable), deployment_of(target, Track::Canary)],
        };
        let mut read = BTreeSet::new();
        for object in workloads {
            let Some(workload) = self.kube.find::<Value>(cx, &object).await? else { continue };
            read.extend(said(annotation(&workload["spec"]["template"])).into_values());
            let kind = if object.kind.kind == "Deployment" { REPLICA_SET } else { CONTROLLER_REVISION };
            let selector: LabelSelector =
                typed(&object.ask(Access::Read, "read"), workload["spec"]["selector"].clone())?;
            let params = ListParams::default().labels(&selector_text(&selector));
            let past: Vec<Value> = self.kube.list(cx, kind, &target.namespace, &params).await?;
            let uid = &workload["metadata"]["uid"];
            let own = past.iter().filter(|one| one["metadata"]["ownerReferences"][0]["uid"] == *uid);
            let templates = own.flat_map(|one| [&one["spec"]["template"], &one["data"]["spec"]["template"]]);
            read.extend(templates.flat_map(|template| said(annotation(template)).into_values()));
        }
        Ok(read)
    }

    /// Whether the pods of a workload read what ships with it, and whether what the plan says is there is there.
    pub(crate) async fn examine_config(&self, cx: &CallContext, target: &Target, template: &Value) -> Result<()> {
        let object = single::object_of(target);
        let wanted = target.service.config_refs();
        changes(&object.ask(Access::Read, "check"), template, target, &wanted)?;
        for config in target.service.config.iter().filter(|config| config.data.is_none()) {
            self.is_there(cx, target, config).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::target;

    fn template() -> Value {
        json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "initContainers": [{"name": "setup", "envFrom": [{"secretRef": {"name": "keys"}}]}],
                "containers": [{"name": "web", "envFrom": [{"configMapRef": {"name": "other"}}, {"configMapRef": {"name": "conf"}}],
                    "env": [{"name": "A", "value": "conf"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "b"}}},
                        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "conf", "key": "c"}}}]}],
                "volumes": [{"name": "a", "configMap": {"name": "conf"}}, {"name": "b", "secret": {"secretName": "keys"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "conf"}}, {"secret": {"name": "keys"}}]}}],
            },
        })
    }

    fn shipping() -> Target {
        let mut target = target();
        let map = ConfigVersion::map("conf", [("LEVEL", "debug")]);
        target.service.config = vec![map, ConfigVersion::there("keys", "keys-2")];
        target
    }

    fn ask() -> Ask {
        Ask::new(Access::Read, "plan", "ns/web")
    }

    #[test]
    fn every_reference_of_its_kind_follows_and_no_other() {
        let (target, mut template) = (shipping(), template());
        let wanted = target.service.config_refs();
        rewrite(&ask(), &mut template, &target, &wanted).unwrap();
        let conf = target.service.config[0].object();
        assert_eq!(template.to_string().matches(&format!("{{\"name\":\"{conf}\"")).count(), 3);
        let pod = &template["spec"];
        assert_eq!(pod["containers"][0]["env"][1]["valueFrom"]["configMapKeyRef"]["name"], json!(conf));
        assert_eq!(
            pod["containers"][0]["env"][2]["valueFrom"]["secretKeyRef"]["name"], "conf",
            "a Secret of that name"
        );
        assert_eq!(pod["containers"][0]["envFrom"][0]["configMapRef"]["name"], "other");
        assert_eq!(pod["initContainers"][0]["envFrom"][0]["secretRef"]["name"], "keys-2");
        assert_eq!(pod["volumes"][1]["secret"]["secretName"], "keys-2");
        assert_eq!(pod["volumes"][2]["projected"]["sources"][1]["secret"]["name"], "keys-2");
        assert_eq!(reads(annotation(&template), &target), wanted, "and it is known where they lead");
        let again = template.clone();
        rewrite(&ask(), &mut template, &target, &wanted).unwrap();
        assert_eq!(template, again);
    }

    #[test]
    fn a_patch_does_the_same_compared_and_back_again() {
        let target = shipping();
        let before = json!({"metadata": {"resourceVersion": "7"}, "spec": {"template": template()}});
        let (old, new) = (reads(None, &target), target.service.config_refs());
        let apply = |workload: &Value, wanted: &ConfigRefs| {
            let operations = patch(&ask(), workload, &target, wanted).unwrap();
            let mut patched = workload.clone();
            let parsed: json_patch::Patch = serde_json::from_value(Value::Array(operations)).unwrap();
            json_patch::patch(&mut patched, &parsed).unwrap();
            patched
        };
        let there = apply(&before, &new);
        let mut rewritten = template();
        rewrite(&ask(), &mut rewritten, &target, &new).unwrap();
        assert_eq!(there["spec"]["template"], rewritten);
        let mut back = apply(&there, &old);
        assert_eq!(reads(annotation(&back["spec"]["template"]), &target), old);
        back["spec"]["template"]["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(back, before);
        assert_eq!(patch(&ask(), &before, &target, &old).unwrap(), [Value::Null; 0], "nothing to do");
        let edited = json!({"spec": {"template": {"spec": {"containers": [{"name": "web"}]}}}});
        let error = patch(&ask(), &edited, &target, &new).unwrap_err();
        assert!(error.message().contains("do not refer to the ConfigMap conf"), "{error}");
    }
}
