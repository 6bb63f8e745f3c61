use std::cmp::Reverse;
use std::error::Error as StdError;

use async_trait::async_trait;
use aws_sdk_docdb::Client;
use aws_sdk_docdb::config::http::HttpResponse;
use aws_sdk_docdb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_docdb::types::{DbCluster, DbClusterSnapshot, Tag};
use jiff::Timestamp;
use moodify_core::backend::{Backup, BackupCapabilities, BackupState, BackupStore, RestoreRequest, Restored};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, Result};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tracing::info;

use crate::client;
use crate::config::DocumentDbConfig;
use crate::error::{Access, BACKEND, from_sdk};

/// The tag by which a snapshot or a restored cluster is known to be of one intended effect.
const KEY_TAG: &str = "moodify:key";
const RUN_TAG: &str = "moodify:run";

/// Keeps backups of one DocumentDB cluster as manual cluster snapshots.
///
/// - `create` names the snapshot after the idempotency key and tags it with it. If that name is taken, the snapshot
///   is ours only if its tag says so.
/// - `list` has the automated snapshots too. DocumentDB tells no sizes, so [`Backup::bytes`] is `None`.
/// - `verify` wants a snapshot that is available and complete, of this cluster and engine, and encrypted unless the
///   configuration says otherwise.
/// - `restore` begins a new cluster. DocumentDB restores the storage: add an instance to the cluster to connect to
///   it.
/// - `delete` refuses a snapshot of another cluster.
///
/// The identity needs `rds:DescribeDBClusterSnapshots`, `rds:DescribeDBClusters`, `rds:CreateDBClusterSnapshot`,
/// `rds:DeleteDBClusterSnapshot`, `rds:RestoreDBClusterFromSnapshot`, `rds:AddTagsToResource` and
/// `rds:ListTagsForResource`.
///
/// Dropping the future of a call is safe; what `create`, `restore` or `delete` had sent may still happen, and
/// repeating the call under the same key is fine.
///
/// ```
/// use moodify_aws::{DocumentDbBackups, DocumentDbConfig};
/// use moodify_core::backend::BackupStore;
/// let backups = DocumentDbBackups::new(DocumentDbConfig::new("eu-central-1", "moodify-production")).unwrap();
/// assert!(backups.capabilities().create);
/// ```
#[derive(Debug)]
pub struct DocumentDbBackups {
    config: DocumentDbConfig,
    client: OnceCell<Client>,
}

impl DocumentDbBackups {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: DocumentDbConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, client: OnceCell::new() })
    }

    async fn client(&self, cx: &CallContext, operation: &'static str) -> Result<&Client> {
        let made = cx
            .run(BACKEND, operation, async { Ok(self.client.get_or_init(|| client::documentdb(&self.config)).await) });
        made.await.map_err(|e| e.effect(Effect::None))
    }

    /// One request, bounded by the context and by the configured response time.
    async fn call<T, E>(
        &self,
        cx: &CallContext,
        (operation, access): Call,
        target: &str,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let request = async { request.await.map_err(|e| from_sdk(e, operation, access)) };
        cx.at_most(self.config.response_timeout.get()).run(BACKEND, operation, request).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { access.unanswered() };
            e.effect(effect).on(target)
        })
    }

    async fn snapshot(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<Option<DbClusterSnapshot>> {
        let request =
            self.client(cx, operation).await?.describe_db_cluster_snapshots().db_cluster_snapshot_identifier(id);
        let found = self.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.db_cluster_snapshots.unwrap_or_default().into_iter().next()))
    }

    async fn cluster(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<Option<DbCluster>> {
        let request = self.client(cx, operation).await?.describe_db_clusters().db_cluster_identifier(id);
        let found = self.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.db_clusters.unwrap_or_default().into_iter().next()))
    }

    /// Whether the tags of a resource say that it was made under the context's key.
    async fn is_ours(&self, cx: &CallContext, operation: &'static str, arn: Option<&str>) -> Result<bool> {
        let Some(arn) = arn else { return Ok(false) };
        let request = self.client(cx, operation).await?.list_tags_for_resource().resource_name(arn);
        let tags = self.call(cx, (operation, Access::Read), arn, request.send()).await?.tag_list.unwrap_or_default();
        let wanted = self.digest(cx.key());
        Ok(tags.iter().any(|tag| tag.key() == Some(KEY_TAG) && tag.value() == Some(&wanted)))
    }

    /// Names and tags allow fewer characters than keys have, so both carry the digest of cluster and key.
    fn digest(&self, key: &IdempotencyKey) -> String {
        let digest = Sha256::new().chain_update(&self.config.cluster).chain_update([0]).chain_update(key.as_str());
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tags(&self, cx: &CallContext) -> Vec<Tag> {
        let tag = |name: &str, value: &str| Tag::builder().key(name).value(value).build();
        vec![tag(KEY_TAG, &self.digest(cx.key())), tag(RUN_TAG, cx.run_id().as_str())]
    }

    fn problems_of(&self, snapshot: &DbClusterSnapshot, backup: &Backup) -> Vec<String> {
        let mut problems = Vec::new();
        match &backup.state {
            BackupState::Available => {}
            BackupState::Creating(None) => problems.push("it is still being made".to_owned()),
            BackupState::Creating(Some(percent)) => problems.push(format!("it is still being made ({percent} %)")),
            BackupState::Failed(why) => problems.push(why.clone()),
        }
        if backup.state == BackupState::Available && snapshot.percent_progress().is_some_and(|percent| percent != 100) {
            problems.push(format!("it is available at {} %", snapshot.percent_progress().unwrap_or_default()));
        }
        if backup.source != self.config.cluster {
            problems.push(format!("it is of cluster {:?}, not of {:?}", backup.source, self.config.cluster));
        }
        if snapshot.engine() != Some(&self.config.engine) || snapshot.engine_version().is_none_or(str::is_empty) {
            let engine = backup.engine.as_deref().unwrap_or("an unknown engine");
            problems.push(format!("it was written by {engine}, not by a version of {}", self.config.engine));
        }
        if backup.created.is_none() {
            problems.push("it has no time of creation".to_owned());
        }
        if self.config.require_encryption && backup.encrypted != Some(true) {
            problems.push("it is not encrypted (if that is meant, set require-encryption to false)".to_owned());
        }
        problems
    }
}

type Call = (&'static str, Access);

const CREATE: &str = "create snapshot";
const DESCRIBE: &str = "describe snapshot";
const LIST: &str = "list snapshots";
const VERIFY: &str = "verify snapshot";
const RESTORE: &str = "restore snapshot";
const DELETE: &str = "delete snapshot";

#[async_trait]
impl BackupStore for DocumentDbBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true)
    }

    async fn create(&self, cx: &CallContext) -> Result<Backup> {
        let id = format!("moodify-{}", &self.digest(cx.key())[..32]);
        let request = self
            .client(cx, CREATE)
            .await?
            .create_db_cluster_snapshot()
            .db_cluster_identifier(&self.config.cluster)
            .db_cluster_snapshot_identifier(&id)
            .set_tags(Some(self.tags(cx)));
        match self.call(cx, (CREATE, Access::Write), &id, request.send()).await {
            Ok(answer) => {
                info!(snapshot = %id, cluster = %self.config.cluster, run = %cx.run_id(), "snapshot begun");
                answer.db_cluster_snapshot.map(|snapshot| backup(&snapshot)).ok_or_else(|| {
                    fail(ErrorKind::Internal, CREATE, &id, "the answer has no snapshot").effect(Effect::Unknown)
                })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Made under this key before, if it is of this cluster and says so itself.
                if let Some(snapshot) = self.snapshot(cx, CREATE, &id).await?
                    && snapshot.db_cluster_identifier() == Some(&self.config.cluster)
                    && self.is_ours(cx, CREATE, snapshot.db_cluster_snapshot_arn()).await?
                {
                    return Ok(backup(&snapshot));
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        Ok(self.snapshot(cx, DESCRIBE, id).await?.as_ref().map(backup))
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let (client, cluster) = (self.client(cx, LIST).await?, &self.config.cluster);
        let mut backups = Vec::new();
        let mut marker = None;
        loop {
            let request = client.describe_db_cluster_snapshots().db_cluster_identifier(cluster).set_marker(marker);
            // A cluster that is gone has left its snapshots, and one that never was has none.
            let Some(page) = absent(self.call(cx, (LIST, Access::Read), cluster, request.send()).await)? else { break };
            backups.extend(page.db_cluster_snapshots.unwrap_or_default().iter().map(backup));
            marker = page.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        backups.sort_by_key(|backup| Reverse(backup.created));
        Ok(backups)
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        let unhealthy = |why: String| fail(ErrorKind::Unhealthy, VERIFY, id, why);
        let snapshot =
            self.snapshot(cx, VERIFY, id).await?.ok_or_else(|| unhealthy("there is no such snapshot".into()))?;
        let backup = backup(&snapshot);
        let problems = self.problems_of(&snapshot, &backup);
        if problems.is_empty() { Ok(backup) } else { Err(unhealthy(problems.join("; "))) }
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let RestoreRequest { backup, target, .. } = request;
        let groups = Some(self.config.security_groups.clone()).filter(|groups| !groups.is_empty());
        let begin = self
            .client(cx, RESTORE)
            .await?
            .restore_db_cluster_from_snapshot()
            .snapshot_identifier(backup)
            .db_cluster_identifier(target)
            .engine(&self.config.engine)
            .set_db_subnet_group_name(self.config.subnet_group.clone())
            .set_vpc_security_group_ids(groups)
            .set_tags(Some(self.tags(cx)));
        match self.call(cx, (RESTORE, Access::Write), target, begin.send()).await {
            Ok(answer) => {
                info!(snapshot = %backup, cluster = %target, run = %cx.run_id(), "restore begun");
                Ok(restored(target, answer.db_cluster.as_ref()))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if let Some(cluster) = self.cluster(cx, RESTORE, target).await?
                    && self.is_ours(cx, RESTORE, cluster.db_cluster_arn()).await?
                {
                    return Ok(restored(target, Some(&cluster)));
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, cx: &CallContext, id: &str) -> Result<()> {
        let Some(snapshot) = self.snapshot(cx, DELETE, id).await? else { return Ok(()) };
        let source = snapshot.db_cluster_identifier().unwrap_or_default();
        if source != self.config.cluster {
            let why = format!("it is of cluster {source:?}, not of {:?}; nothing was deleted", self.config.cluster);
            return Err(fail(ErrorKind::Refused, DELETE, id, why));
        }
        let request = self.client(cx, DELETE).await?.delete_db_cluster_snapshot().db_cluster_snapshot_identifier(id);
        absent(self.call(cx, (DELETE, Access::Write), id, request.send()).await).map(drop)
    }
}

fn fail(kind: ErrorKind, operation: &'static str, target: &str, message: impl Into<String>) -> Error {
    Error::new(kind, BACKEND, operation, message).on(target)
}

/// What is not there is `None`, and no error.
fn absent<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn backup(snapshot: &DbClusterSnapshot) -> Backup {
    let percent = snapshot.percent_progress().and_then(|percent| u8::try_from(percent).ok());
    let state = match snapshot.status() {
        Some("available") => BackupState::Available,
        Some("creating" | "copying") | None => BackupState::Creating(percent),
        Some(other) => BackupState::Failed(format!("its status is {other:?}")),
    };
    Backup {
        id: snapshot.db_cluster_snapshot_identifier().unwrap_or_default().to_owned(),
        source: snapshot.db_cluster_identifier().unwrap_or_default().to_owned(),
        state,
        created: snapshot
            .snapshot_create_time()
            .and_then(|time| Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()),
        bytes: None,
        encrypted: snapshot.storage_encrypted(),
        engine: snapshot
            .engine()
            .map(|engine| format!("{engine} {}", snapshot.engine_version().unwrap_or_default()).trim_end().to_owned()),
    }
}

fn restored(target: &str, cluster: Option<&DbCluster>) -> Restored {
    let endpoint = cluster.and_then(DbCluster::endpoint).filter(|endpoint| !endpoint.is_empty());
    Restored { target: target.to_owned(), endpoint: endpoint.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(snapshot: &DbClusterSnapshot) -> String {
        let store = DocumentDbBackups::new(DocumentDbConfig::new("eu-central-1", "moods")).unwrap();
        store.problems_of(snapshot, &backup(snapshot)).join("; ")
    }

    #[test]
    fn only_a_complete_snapshot_of_ours_is_good() {
        let good = || {
            DbClusterSnapshot::builder()
                .db_cluster_snapshot_identifier("s")
                .db_cluster_identifier("moods")
                .status("available")
                .percent_progress(100)
                .engine("docdb")
                .engine_version("5.0.0")
                .storage_encrypted(true)
                .snapshot_create_time(aws_sdk_docdb::primitives::DateTime::from_secs(1_780_000_000))
        };
        assert_eq!(problems(&good().build()), "");
        for (bad, why) in [
            (good().status("creating").percent_progress(40), "still being made (40 %)"),
            (good().status("failed"), "its status is \"failed\""),
            (good().percent_progress(99), "available at 99 %"),
            (good().db_cluster_identifier("other"), "of cluster \"other\""),
            (good().engine("aurora-mysql"), "written by aurora-mysql 5.0.0"),
            (good().set_engine_version(None), "not by a version of docdb"),
            (good().set_snapshot_create_time(None), "no time of creation"),
            (good().storage_encrypted(false), "not encrypted"),
            (good().set_storage_encrypted(None), "not encrypted"),
        ] {
            let found = problems(&bad.build());
            assert!(found.contains(why), "{why}: {found}");
        }
    }
}
