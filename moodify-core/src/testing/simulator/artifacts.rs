//! Artifacts.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::backend::{
    Artifact, ArtifactStore, Content, Origin, Progress, PutRequest, Sum, check_path, checked, content_of,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};

use super::cluster::Facet;
use super::fault::BackendKind;
use super::state::{Caller, SimArtifact, State};

fn stored<'a>(state: &'a State, store: &str, path: &str) -> Option<&'a SimArtifact> {
    state.artifacts.iter().find(|made| made.store == store && made.artifact.path == path)
}

fn put(state: &mut State, caller: &Caller, request: &PutRequest, content: &Bytes) -> Result<Artifact> {
    let (store, path, sum) = (&caller.subject, &request.path, Sum::of(content));
    if let Some(wrong) = request.contradicts(sum) {
        return Err(caller.fails(ErrorKind::Invalid, format!("{path}: {wrong}; nothing was put")));
    }
    if let Some(there) = stored(state, store, path) {
        if there.artifact.is(sum) {
            return Ok(there.artifact.clone());
        }
        if !request.replace {
            let message = format!("there is another content, which was left as it is: {}", there.artifact);
            return Err(caller.fails(ErrorKind::AlreadyExists, message));
        }
    }
    state.puts += 1;
    let artifact = Artifact {
        path: path.clone(),
        bytes: sum.bytes,
        crc32c: Some(sum.crc32c),
        updated: Some(state.wall()),
        version: Some(state.puts.to_string()),
    };
    let made = SimArtifact { store: store.clone(), artifact: artifact.clone(), content: content.clone() };
    state.artifacts.retain(|made| made.store != *store || made.artifact.path != *path);
    state.artifacts.push(made);
    state.wrote(format!("artifact {artifact}"));
    Ok(artifact)
}

impl Facet {
    fn artifacts(&self, operation: &'static str) -> Caller {
        self.caller(BackendKind::ArtifactStore, operation, &self.name)
    }

    /// A caller for this path, if it is one.
    fn artifact(&self, operation: &'static str, path: &str) -> Result<Caller> {
        check_path(path, Origin { backend: BackendKind::ArtifactStore.name(), operation })?;
        Ok(self.artifacts(operation))
    }
}

#[async_trait]
impl ArtifactStore for Facet {
    async fn put(&self, cx: &CallContext, request: &PutRequest, mut content: Content) -> Result<Artifact> {
        let caller = self.artifact("put", &request.path)?;
        let there = self.world.look(|state| stored(state, &self.name, &request.path).map(|made| made.content.clone()));
        if let Some(same) = there.filter(|content| request.known_sum() == Some(Sum::of(content))) {
            // What is known to be there need not be read.
            content = content_of(same);
        }
        let mut whole = Vec::new();
        let read = async {
            while let Some(piece) = content.try_next().await? {
                whole.extend_from_slice(&piece);
            }
            Ok(())
        };
        cx.run(caller.backend.name(), caller.operation, read).await?;
        let (asks, wanted, whole) = (caller.clone(), request.clone(), Bytes::from(whole));
        let artifact = self.world.call(cx, caller, move |state| put(state, &asks, &wanted, &whole)).await?;
        request.tell(&Progress::new(artifact.bytes, Some(artifact.bytes)));
        Ok(artifact)
    }

    async fn get(&self, cx: &CallContext, path: &str) -> Result<Option<(Artifact, Content)>> {
        let caller = self.artifact("get", path)?.reading();
        let origin = Origin { backend: caller.backend.name(), operation: caller.operation };
        let (name, path) = (self.name.clone(), path.to_owned());
        let effect = move |state: &mut State| Ok(stored(state, &name, &path).cloned());
        let found = self.world.call(cx, caller, effect).await?;
        Ok(found.map(|made| {
            let content = checked(content_of(made.content), cx, &made.artifact, origin);
            (made.artifact, content)
        }))
    }

    async fn head(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>> {
        let caller = self.artifact("head", path)?.reading();
        let (name, path) = (self.name.clone(), path.to_owned());
        let effect = move |state: &mut State| Ok(stored(state, &name, &path).map(|made| made.artifact.clone()));
        self.world.call(cx, caller, effect).await
    }

    async fn list(&self, cx: &CallContext, prefix: &str) -> Result<Vec<Artifact>> {
        let (name, prefix) = (self.name.clone(), prefix.to_owned());
        let effect = move |state: &mut State| {
            let all = state.artifacts.iter().filter(|made| made.store == *name).map(|made| &made.artifact);
            let mut all: Vec<Artifact> = all.filter(|artifact| artifact.path.starts_with(&prefix)).cloned().collect();
            all.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(all)
        };
        self.world.call(cx, self.artifacts("list").reading(), effect).await
    }

    async fn delete(&self, cx: &CallContext, path: &str) -> Result<()> {
        let caller = self.artifact("delete", path)?;
        let (name, path) = (self.name.clone(), path.to_owned());
        let effect = move |state: &mut State| {
            let before = state.artifacts.len();
            state.artifacts.retain(|made| made.store != *name || made.artifact.path != path);
            if state.artifacts.len() < before {
                state.wrote(format!("artifact {path} deleted"));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }
}
