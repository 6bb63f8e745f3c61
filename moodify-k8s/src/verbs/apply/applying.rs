use std::collections::BTreeSet;

use futures::StreamExt as _;
use kube::core::params::{GetParams, Patch, PatchParams, ValidationDirective};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Verbs;
use super::discovery::{Discovery, Resource};
use super::manifest::{Manifest, Manifests};
use super::prune::{PART_OF, Set};
use crate::client::{Kind, Object};
use crate::error::{Access, Ask, BACKEND};

/// How to apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyOptions {
    force: bool,
    set: Option<String>,
}

impl ApplyOptions {
    /// Fields of other managers stay theirs, and nothing is pruned.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over fields that others manage: `--force-conflicts`. To be asked of a person each time.
    #[must_use]
    pub fn force_conflicts(mut self) -> Self {
        self.force = true;
        self
    }

    /// Deletes what was applied under this name before and is not in the manifests any more: `--prune --applyset`.
    ///
    /// The set is kept as kubectl keeps one, by an `ApplySet` parent: a `ConfigMap` of this name, and the label
    /// `applyset.kubernetes.io/part-of` on its objects. What has the label but was not applied by our field manager is
    /// left alone (a copy has the labels of its original), and so are Namespaces, `CustomResourceDefinitions` and
    /// volumes, which take with them what nobody named: they are only told.
    #[must_use]
    pub fn prune(mut self, set: impl Into<String>) -> Self {
        self.set = Some(set.into());
        self
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was changed.
    Configured,
    /// It was so already.
    Unchanged,
    /// It was deleted, as it is not in the manifests any more.
    Pruned,
    /// It is not in the manifests any more, but not ours to delete.
    Left,
}

/// An object that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AppliedObject {
    /// Its kind, with the group: `Deployment.apps`.
    pub kind: String,
    /// Its namespace, if it is in one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// All objects that were applied, in the order in which that happened.
pub type Applied = Vec<AppliedObject>;

/// A manifest's object with what the cluster knows of it.
pub(super) struct Placed<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
}

impl Placed<'_> {
    pub(super) fn ask(&self, access: Access, verb: &str) -> Ask {
        Ask::new(access, format!("{verb} {}", self.resource.kind), self.place())
    }

    fn place(&self) -> String {
        let name = self.manifest.name();
        let object = self.namespace.as_ref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let Manifest { file, line, document, .. } = self.manifest;
        format!("{object} ({file}:{line}, document {document})")
    }

    fn told(&self, outcome: Outcome) -> AppliedObject {
        AppliedObject {
            kind: self.resource.group_kind(),
            namespace: self.namespace.clone(),
            name: self.manifest.name().to_owned(),
            outcome,
        }
    }
}

const DEFINITION: Kind = Kind {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
};

/// What other objects need to be there: a new namespace, a new kind.
fn goes_first(manifest: &Manifest) -> bool {
    matches!(manifest.text("kind"), "Namespace" | "CustomResourceDefinition")
}

/// An object without what controllers write into it at any time, and without the server's notes of who wrote what.
fn what_it_is(mut object: Value) -> Value {
    if let Some(all) = object.as_object_mut() {
        all.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| key != "resourceVersion" && key != "managedFields");
    }
    object
}

impl Verbs {
    /// Makes the objects of manifests what they are to be, by server-side apply under our field manager with strict
    /// validation: `kubectl apply --server-side`. Namespaces and definitions of kinds go first; a kind is waited for
    /// until the server serves it. Objects without a namespace go to that of these verbs.
    ///
    /// It ends with the first object that is refused. Repeating it is safe.
    ///
    /// # Errors
    /// [`Drift`](ErrorKind::Drift) where another manager has a field that we would change (kubectl's client-side apply
    /// is one), [`Invalid`](ErrorKind::Invalid) and others as the server refuses; with file, line and document of the
    /// object, and how many were applied before it.
    pub async fn apply(&self, cx: &CallContext, manifests: &Manifests, options: &ApplyOptions) -> Result<Applied> {
        let mut discovery = Discovery::default();
        let (first, rest): (Vec<&Manifest>, Vec<&Manifest>) = manifests.objects().iter().partition(|m| goes_first(m));
        let mut set = match &options.set {
            Some(name) => Some(self.open_set(cx, &mut discovery, name).await?),
            None => None,
        };
        let mut applied = Vec::new();
        let count = manifests.objects().len();
        let so_far = |applied: &Applied, e: Error| after(e, applied.len(), count);
        for (index, part) in [first, rest].into_iter().enumerate() {
            // Before the first write of each part all of it is found, so that a kind that nobody knows changes nothing.
            let placed = self.place(cx, &mut discovery, &part).await.map_err(|e| so_far(&applied, e))?;
            if let Some(set) = &mut set {
                self.widen_set(cx, set, &placed).await.map_err(|e| so_far(&applied, e))?;
            }
            for object in &placed {
                let done = self.apply_one(cx, object, options.force, set.as_ref()).await;
                applied.push(done.map_err(|e| so_far(&applied, e))?);
            }
            if index == 0 && placed.iter().any(|p| p.resource.kind == DEFINITION.kind) {
                self.await_definitions(cx, &placed).await.map_err(|e| so_far(&applied, e))?;
                discovery.forget();
            }
        }
        if let Some(set) = set {
            let pruned = self.close_set(cx, &mut discovery, set, &applied).await;
            applied.extend(pruned.map_err(|e| so_far(&applied, e))?);
        }
        Ok(applied)
    }

    /// Finds what the cluster knows of each object.
    pub(super) async fn place<'a>(
        &self,
        cx: &CallContext,
        discovery: &mut Discovery,
        manifests: &[&'a Manifest],
    ) -> Result<Vec<Placed<'a>>> {
        let mut placed = Vec::new();
        for manifest in manifests {
            let resource = discovery.find(&self.kube, cx, manifest).await?;
            let own = manifest.object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
            let namespace = resource.namespaced.then(|| own.to_owned());
            placed.push(Placed { manifest, resource, namespace });
        }
        Ok(placed)
    }

    /// The object as it is, if it is.
    pub(super) async fn live(&self, cx: &CallContext, object: &Placed<'_>) -> Result<Option<Value>> {
        let ask = object.ask(Access::Read, "get");
        let request = object.resource.request(object.namespace.as_deref());
        match self.kube.json(cx, &ask, request.get(object.manifest.name(), &GetParams::default())).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The object as the server makes it, or would make it.
    pub(super) async fn merged(
        &self,
        cx: &CallContext,
        object: &Placed<'_>,
        body: &Value,
        force: bool,
        dry_run: bool,
    ) -> Result<Value> {
        let ask = object.ask(if dry_run { Access::Read } else { Access::Write }, "apply");
        let params = PatchParams {
            force,
            dry_run,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply(self.kube.manager())
        };
        let request = object.resource.request(object.namespace.as_deref());
        self.kube.json(cx, &ask, request.patch(object.manifest.name(), &params, &Patch::Apply(body))).await
    }

    async fn apply_one(
        &self,
        cx: &CallContext,
        object: &Placed<'_>,
        force: bool,
        set: Option<&Set>,
    ) -> Result<AppliedObject> {
        let before = self.live(cx, object).await?;
        let mut body = body(object);
        if let Some(set) = set {
            body["metadata"]["labels"][PART_OF] = json!(set.id);
        }
        let after = self.merged(cx, object, &body, force, false).await?;
        let Some(before) = before else { return Ok(object.told(Outcome::Created)) };
        let same = what_it_is(before) == what_it_is(after);
        Ok(object.told(if same { Outcome::Unchanged } else { Outcome::Configured }))
    }

    /// Waits until the server serves new kinds.
    async fn await_definitions(&self, cx: &CallContext, placed: &[Placed<'_>]) -> Result<()> {
        for definition in placed.iter().filter(|p| p.resource.kind == DEFINITION.kind) {
            let object = Object::new(DEFINITION, "", definition.manifest.name());
            let mut states = Box::pin(self.kube.watch_object(cx, &object));
            let wait = async {
                while let Some(state) = states.next().await {
                    let conditions = state?.map(|o| o.data["status"]["conditions"].clone()).unwrap_or_default();
                    let all = conditions.as_array().into_iter().flatten();
                    let holds = |c: &Value| c["type"] == "Established" && c["status"] == "True";
                    if all.into_iter().any(holds) {
                        return Ok(());
                    }
                }
                std::future::pending().await
            };
            cx.run(BACKEND, "wait for a kind", wait).await.map_err(|e| {
                if !e.target().is_empty() {
                    return e;
                }
                let ask = definition.ask(Access::Write, "wait for");
                ask.error(e.kind(), "it is applied, but the server does not serve the kind yet")
                    .hint("kubectl describe says why")
            })?;
        }
        Ok(())
    }
}

/// What is sent of a manifest.
pub(super) fn body(object: &Placed<'_>) -> Value {
    let mut body = object.manifest.object.clone();
    if let Some(namespace) = &object.namespace {
        body["metadata"]["namespace"] = json!(namespace);
    }
    if let Some(body) = body.as_object_mut() {
        // An object that was printed by a server has what only the server may say.
        body.remove("status");
    }
    if let Some(meta) = body["metadata"].as_object_mut() {
        for key in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            meta.remove(key);
        }
        if meta.get("labels").is_none_or(Value::is_null) {
            meta.remove("labels");
        }
    }
    body
}

/// The error of one object, with how many went well before.
fn after(error: Error, done: usize, count: usize) -> Error {
    let record = error.to_record();
    let hint = record.hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
    let told = Error::new(error.kind(), BACKEND, record.operation, record.message)
        .on(record.target)
        .effect(error.effect_of())
        .hint(format!("{hint}{done} of {count} objects are applied, applying all once more is safe"))
        .transient(error.is_transient());
    match error.retry_after_of() {
        Some(after) => told.retry_after(after).with_source(error),
        None => told.with_source(error),
    }
}

/// The kinds of applied objects.
pub(super) fn kinds(placed: &[Placed<'_>]) -> BTreeSet<String> {
    placed.iter().map(|p| p.resource.group_kind()).collect()
}
