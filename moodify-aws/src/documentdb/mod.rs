//! Backups of DocumentDB: `mod` is the store, `snapshot` what a snapshot is like, `cluster` what clusters there are,
//! `restore` makes one of a snapshot and removes it.

mod cluster;
mod restore;
mod snapshot;

use std::cmp::Reverse;

use async_trait::async_trait;
use aws_sdk_docdb::Client;
use aws_sdk_docdb::types::{DbClusterSnapshot, Tag};
use moodify_core::backend::{
    Backup, BackupCapabilities, BackupRequest, BackupStore, DeleteRequest, RestoreRequest, Restored,
};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Effect, ErrorKind, Result};
use tracing::info;

pub use cluster::{Cluster, Instance};

use crate::client::{Api, absent};
use crate::config::DocumentDbConfig;
use crate::error::{Access, DOCUMENTDB};
use crate::names::{KEY_TAG, RUN_TAG, digest, snapshot_id, tag_text};
use snapshot::backup;

/// Keeps backups of one DocumentDB cluster as manual cluster snapshots.
///
/// - `create` names the snapshot after run and idempotency key and tags it with key, run, time and labels. If that name
///   is taken, the snapshot is ours only if its tag says so.
/// - `list` has the automated snapshots too. DocumentDB tells neither sizes nor costs, so these are `None`.
/// - `verify` wants a snapshot that is available and complete, of this cluster and engine, and encrypted unless the
///   configuration says otherwise.
/// - `restore` makes a new cluster like the one that is backed up, adjusted by the configuration, and its instances: a
///   restored cluster has none. It fails if the cluster is not as asked for: version, encryption and key, subnet group,
///   security groups, deletion protection, port, and the class of its instances. Its endpoint is told when all of them
///   are available.
/// - `discard` takes the protection from a cluster that `restore` made, and deletes its instances and itself, without a
///   last snapshot.
/// - `delete` refuses a snapshot of another cluster, and by retention one without our tag.
///
/// The identity needs `rds:DescribeDBClusterSnapshots`, `rds:DescribeDBClusters`, `rds:DescribeDBInstances`,
/// `rds:CreateDBClusterSnapshot`, `rds:DeleteDBClusterSnapshot`, `rds:AddTagsToResource`, `rds:ListTagsForResource`; to
/// restore and discard also `rds:RestoreDBClusterFromSnapshot`, `rds:RestoreDBClusterToPointInTime`,
/// `rds:ModifyDBCluster`, `rds:CreateDBInstance`, `rds:DeleteDBInstance` and `rds:DeleteDBCluster`.
///
/// Dropping the future of a call is safe; what it had sent may still happen, and repeating the call under the same key is
/// fine.
///
/// ```
/// use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig};
/// use moodify_core::backend::BackupStore;
/// let config = DocumentDbConfig::new(ApiConfig::new("eu-central-1"), "moodify-production");
/// assert!(DocumentDbBackups::new(config).unwrap().capabilities().create);
/// ```
#[derive(Debug)]
pub struct DocumentDbBackups {
    config: DocumentDbConfig,
    api: Api<Client>,
}

const CREATE: &str = "create snapshot";
const DESCRIBE: &str = "describe snapshot";
const LIST: &str = "list snapshots";
const VERIFY: &str = "verify snapshot";
const DELETE: &str = "delete snapshot";
const LOOK: &str = "look for the target";

impl DocumentDbBackups {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: DocumentDbConfig) -> Result<Self> {
        config.validate()?;
        let api = Api::new(DOCUMENTDB, config.api.clone(), Client::new);
        Ok(Self { config, api })
    }

    async fn snapshot(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<Option<DbClusterSnapshot>> {
        let request =
            self.api.client(cx, operation).await?.describe_db_cluster_snapshots().db_cluster_snapshot_identifier(id);
        let found = self.api.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.db_cluster_snapshots.unwrap_or_default().into_iter().next()))
    }

    async fn tags_of(&self, cx: &CallContext, operation: &'static str, arn: Option<&str>) -> Result<Vec<Tag>> {
        let Some(arn) = arn else { return Ok(Vec::new()) };
        let request = self.api.client(cx, operation).await?.list_tags_for_resource().resource_name(arn);
        let answer = self.api.call(cx, (operation, Access::Read), arn, request.send()).await?;
        Ok(answer.tag_list.unwrap_or_default())
    }

    /// Whether the tags of a resource say that it was made under the context's key.
    fn are_ours(&self, cx: &CallContext, tags: &[Tag]) -> bool {
        value_of(tags, KEY_TAG) == Some(&digest(&self.config.cluster, cx.key()))
    }

    fn tags(&self, cx: &CallContext) -> Vec<Tag> {
        vec![tag(KEY_TAG, &digest(&self.config.cluster, cx.key())), tag(RUN_TAG, cx.run_id().as_str())]
    }
}

fn tag(name: &str, value: &str) -> Tag {
    Tag::builder().key(name).value(value).build()
}

fn value_of<'a>(tags: &'a [Tag], name: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(name))?.value()
}

#[async_trait]
impl BackupStore for DocumentDbBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true).with_point_in_time()
    }

    async fn create(&self, cx: &CallContext, request: &BackupRequest) -> Result<Backup> {
        let id = snapshot_id(&self.config.cluster, cx.run_id(), cx.key());
        let mut tags = self.tags(cx);
        tags.push(tag("moodify:time", &SystemClock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let labels = request.labels.iter().filter(|(_, value)| !value.is_empty());
        tags.extend(labels.map(|(name, value)| tag(&format!("moodify:{}", tag_text(name)), &tag_text(value))));
        let request = self
            .api
            .client(cx, CREATE)
            .await?
            .create_db_cluster_snapshot()
            .db_cluster_identifier(&self.config.cluster)
            .db_cluster_snapshot_identifier(&id)
            .set_tags(Some(tags));
        match self.api.call(cx, (CREATE, Access::Write), &id, request.send()).await {
            Ok(answer) => {
                info!(snapshot = %id, cluster = %self.config.cluster, run = %cx.run_id(), "snapshot begun");
                answer.db_cluster_snapshot.map(|snapshot| backup(&snapshot)).ok_or_else(|| {
                    self.api
                        .fail(ErrorKind::Internal, CREATE, &id, "the answer has no snapshot")
                        .effect(Effect::Unknown)
                })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Made under this key before, if it is of this cluster and says so itself.
                if let Some(snapshot) = self.snapshot(cx, CREATE, &id).await?
                    && snapshot.db_cluster_identifier() == Some(&self.config.cluster)
                    && self.are_ours(cx, &self.tags_of(cx, CREATE, snapshot.db_cluster_snapshot_arn()).await?)
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
        let (client, cluster) = (self.api.client(cx, LIST).await?, &self.config.cluster);
        let mut backups = Vec::new();
        let mut marker = None;
        loop {
            let request = client.describe_db_cluster_snapshots().db_cluster_identifier(cluster).set_marker(marker);
            // A cluster that is gone has left its snapshots, and one that never was has none.
            let page = absent(self.api.call(cx, (LIST, Access::Read), cluster, request.send()).await)?;
            let Some(page) = page else { break };
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
        let unhealthy = |why: String| self.api.fail(ErrorKind::Unhealthy, VERIFY, id, why);
        let snapshot =
            self.snapshot(cx, VERIFY, id).await?.ok_or_else(|| unhealthy("there is no such snapshot".into()))?;
        let problems = snapshot::problems(&self.config, &snapshot);
        if problems.is_empty() { Ok(backup(&snapshot)) } else { Err(unhealthy(problems.join("; "))) }
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        self.go_on(cx, request).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        Ok(self.cluster(cx, LOOK, target).await?.is_some())
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        self.remove(cx, target).await
    }

    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let id = request.id();
        let Some(snapshot) = self.snapshot(cx, DELETE, id).await? else { return Ok(()) };
        let refused = |why: String| Err(self.api.fail(ErrorKind::Refused, DELETE, id, why));
        let source = snapshot.db_cluster_identifier().unwrap_or_default();
        if source != self.config.cluster {
            return refused(format!(
                "it is of cluster {source:?}, not of {:?}; nothing was deleted",
                self.config.cluster
            ));
        }
        if request.is_by_retention() {
            let tags = self.tags_of(cx, DELETE, snapshot.db_cluster_snapshot_arn()).await?;
            if value_of(&tags, KEY_TAG).is_none() {
                return refused(format!("it has no tag {KEY_TAG}, so no run made it; nothing was deleted"));
            }
        }
        let request =
            self.api.client(cx, DELETE).await?.delete_db_cluster_snapshot().db_cluster_snapshot_identifier(id);
        absent(self.api.call(cx, (DELETE, Access::Write), id, request.send()).await).map(drop)
    }
}
