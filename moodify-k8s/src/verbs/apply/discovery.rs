//! Where the objects of a kind are: what the server says, asked once for each version of a group.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::core::Request;
use moodify_core::{CallContext, ErrorKind, Result};

use super::manifest::Manifest;
use crate::Kube;
use crate::error::{Access, Ask};

/// A kind of object as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) namespaced: bool,
}

impl Resource {
    fn root(&self) -> String {
        root(&self.group, &self.version)
    }

    /// The requests for the objects of a namespace; of the whole cluster, if there is no namespace.
    pub(super) fn request(&self, namespace: Option<&str>) -> Request {
        let (root, plural) = (self.root(), &self.plural);
        Request::new(match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        })
    }

    /// `Deployment.apps`, `Service`.
    pub(super) fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// What the server was asked so far.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    known: BTreeMap<String, Vec<APIResource>>,
}

impl Discovery {
    /// The kind of a manifest's object.
    pub(super) async fn find(&mut self, kube: &Kube, cx: &CallContext, manifest: &Manifest) -> Result<Resource> {
        let (api_version, kind) = (manifest.text("apiVersion"), manifest.text("kind"));
        let found = self.look_up(kube, cx, api_version, kind).await?;
        found.ok_or_else(|| {
            let message = format!("the cluster knows no kind {kind} in {api_version}");
            manifest
                .error(ErrorKind::Unsupported, message)
                .hint("check apiVersion and kind; a custom resource needs its CustomResourceDefinition installed first")
        })
    }

    /// A kind by its group, in the version that the server prefers.
    pub(super) async fn preferred(
        &mut self,
        kube: &Kube,
        cx: &CallContext,
        group_kind: &str,
    ) -> Result<Option<Resource>> {
        let (kind, group) = group_kind.split_once('.').unwrap_or((group_kind, ""));
        if group.is_empty() {
            return self.look_up(kube, cx, "v1", kind).await;
        }
        let ask = Ask::new(Access::Read, "ask for the versions of the API group", group);
        let answer = match kube.raw(cx, &ask, &format!("/apis/{group}")).await {
            Ok(answer) => answer,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => return Ok(None),
            Err(e) => return Err(e),
        };
        let group: serde_json::Value =
            serde_json::from_slice(&answer).map_err(|e| crate::error::unreadable(&ask, e))?;
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap_or_default().to_owned();
        self.look_up(kube, cx, &version, kind).await
    }

    /// Forgets what may have changed: a definition was just applied.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    async fn look_up(
        &mut self,
        kube: &Kube,
        cx: &CallContext,
        api_version: &str,
        kind: &str,
    ) -> Result<Option<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let fits = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
        if !fits(group) || !fits(version) || version.is_empty() {
            return Ok(None);
        }
        if !self.known.contains_key(api_version) {
            let ask = Ask::new(Access::Read, "ask for the kinds of", api_version.to_owned());
            let resources = match kube.raw(cx, &ask, &root(group, version)).await {
                Ok(answer) => {
                    let list: APIResourceList =
                        serde_json::from_slice(&answer).map_err(|e| crate::error::unreadable(&ask, e))?;
                    list.resources
                }
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => Vec::new(),
                Err(e) => return Err(e),
            };
            self.known.insert(api_version.to_owned(), resources);
        }
        // A name with a slash is a part of an object.
        let found = self.known.get(api_version).into_iter().flatten().find(|r| r.kind == kind && !r.name.contains('/'));
        Ok(found.map(|r| Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: r.name.clone(),
            namespaced: r.namespaced,
        }))
    }
}
