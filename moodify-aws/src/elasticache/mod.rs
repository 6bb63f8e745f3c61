//! ElastiCache: `mod` keeps backups of a cache, `snapshot` is what a snapshot is like, `restore` makes a replication group
//! of one and removes it, `group` asks for groups and their nodes, `nodes` restarts these and fails them over.

mod group;
mod nodes;
mod restore;
mod snapshot;

use std::cmp::Reverse;

use async_trait::async_trait;
use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::types::{Snapshot, Tag};
use moodify_core::backend::{
    Backup, BackupCapabilities, BackupRequest, BackupStore, DeleteRequest, RestoreRequest, Restored,
};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use tracing::info;

pub use nodes::ElastiCacheNodes;

use crate::client::{Api, absent};
use crate::config::{CacheId, ElastiCacheConfig};
use crate::error::{Access, ELASTICACHE};
use crate::names::{KEY_TAG, RUN_TAG, digest, snapshot_id, tag_text};
use snapshot::{backup, is_of};

/// Keeps backups of one cache of ElastiCache as manual snapshots.
///
/// - `create` names the snapshot after run and idempotency key and tags it with key, run, time and labels. If that name
///   is taken, the snapshot is ours only if its tag says so. Of a replication group without cluster mode it is one of a
///   replica, so that the primary is spared.
/// - `list` has the automated snapshots too. Whether one is encrypted is known only if a key of one's own encrypts it.
/// - `verify` wants a snapshot that is available, of this cache, and with content of every shard; and under the configured
///   key, if there is one.
/// - `restore` makes a new replication group like the cache that is backed up, adjusted by the configuration. It fails if
///   the group is not as asked for: version, type and number of nodes, encryption and key, password and user groups, Multi-AZ,
///   subnet group, security groups, parameter group and port.
/// - `discard` deletes a replication group that `restore` made, without a last snapshot.
/// - `delete` refuses a snapshot of another cache, and by retention one without our tag.
/// - [`copy`](Self::copy) keeps what would else go: an automated snapshot.
///
/// The identity needs `elasticache:DescribeSnapshots`, `elasticache:DescribeReplicationGroups`,
/// `elasticache:DescribeCacheClusters`, `elasticache:CreateSnapshot`, `elasticache:CopySnapshot`,
/// `elasticache:DeleteSnapshot`, `elasticache:AddTagsToResource`, `elasticache:ListTagsForResource`; to restore and discard
/// also `elasticache:CreateReplicationGroup` and `elasticache:DeleteReplicationGroup`.
///
/// Dropping the future of a call is safe; what it had sent may still happen, and repeating the call under the same key is
/// fine.
///
/// ```
/// use moodify_aws::{ApiConfig, CacheId, ElastiCacheBackups, ElastiCacheConfig};
/// use moodify_core::backend::BackupStore;
/// let cache = CacheId::ReplicationGroup("moodify-production".to_owned());
/// let config = ElastiCacheConfig::new(ApiConfig::new("eu-central-1"), cache);
/// assert!(ElastiCacheBackups::new(config).unwrap().capabilities().create);
/// ```
#[derive(Debug)]
pub struct ElastiCacheBackups {
    cache: Cache,
}

/// A cache and the API that it is reached by.
#[derive(Debug)]
struct Cache {
    config: ElastiCacheConfig,
    api: Api<Client>,
}

impl Cache {
    fn new(config: ElastiCacheConfig) -> Result<Self> {
        config.validate()?;
        let api = Api::new(ELASTICACHE, config.api.clone(), Client::new);
        Ok(Self { config, api })
    }

    fn id(&self) -> &str {
        self.config.cache.as_str()
    }

    fn fail(&self, kind: ErrorKind, operation: &'static str, target: &str, message: impl Into<String>) -> Error {
        self.api.fail(kind, operation, target, message)
    }
}

const CREATE: &str = "create snapshot";
const DESCRIBE: &str = "describe snapshot";
const LIST: &str = "list snapshots";
const VERIFY: &str = "verify snapshot";
const COPY: &str = "copy snapshot";
const DELETE: &str = "delete snapshot";
const LOOK: &str = "look for the target";

impl ElastiCacheBackups {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once; [`ErrorKind::Unsupported`] for a
    /// serverless cache.
    pub fn new(config: ElastiCacheConfig) -> Result<Self> {
        let cache = Cache::new(config)?;
        if let CacheId::Serverless(id) = &cache.config.cache {
            let message = "snapshots of a serverless cache are of another kind, which this store does not know";
            let error = cache.fail(ErrorKind::Unsupported, "check the configuration", id, message);
            return Err(error.hint("let AWS make daily snapshots of it: snapshot-retention-limit"));
        }
        Ok(Self { cache })
    }

    /// Copies a snapshot to another name, and returns the copy, which is begun: an automated snapshot is deleted when it
    /// is old, its copy is not. Under a key that has made a copy of that name it returns this one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if something else has that name; when AWS refuses.
    pub async fn copy(&self, cx: &CallContext, id: &str, name: &str) -> Result<Backup> {
        let request = self.cache.api.client(cx, COPY).await?.copy_snapshot();
        let request = request.source_snapshot_name(id).target_snapshot_name(name);
        let request = request.set_kms_key_id(self.cache.config.kms_key.clone()).set_tags(Some(self.tags(cx)));
        let answer = self.cache.api.call(cx, (COPY, Access::Write), name, request.send()).await;
        self.made(cx, COPY, name, answer.map(|answer| answer.snapshot)).await
    }

    async fn snapshot(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<Option<Snapshot>> {
        let request = self.cache.api.client(cx, operation).await?.describe_snapshots().snapshot_name(id);
        let request = request.show_node_group_config(true);
        let found = self.cache.api.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.snapshots.unwrap_or_default().into_iter().next()))
    }

    /// The snapshot that a request has made, or that one under the same key made before.
    async fn made(
        &self,
        cx: &CallContext,
        operation: &'static str,
        id: &str,
        answer: Result<Option<Snapshot>>,
    ) -> Result<Backup> {
        match answer {
            Ok(snapshot) => {
                info!(snapshot = %id, cache = %self.cache.id(), run = %cx.run_id(), "snapshot begun");
                snapshot.map(|snapshot| backup(&self.cache.config, &snapshot)).ok_or_else(|| {
                    let message = "the answer has no snapshot";
                    self.cache.fail(ErrorKind::Internal, operation, id, message).effect(Effect::Unknown)
                })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Made under this key before, if it is of this cache and says so itself.
                if let Some(snapshot) = self.snapshot(cx, operation, id).await?
                    && is_of(&self.cache.config, &snapshot)
                    && self.are_ours(cx, &self.tags_of(cx, operation, snapshot.arn()).await?)
                {
                    return Ok(backup(&self.cache.config, &snapshot));
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn tags_of(&self, cx: &CallContext, operation: &'static str, arn: Option<&str>) -> Result<Vec<Tag>> {
        let Some(arn) = arn else { return Ok(Vec::new()) };
        let request = self.cache.api.client(cx, operation).await?.list_tags_for_resource().resource_name(arn);
        let answer = self.cache.api.call(cx, (operation, Access::Read), arn, request.send()).await?;
        Ok(answer.tag_list.unwrap_or_default())
    }

    /// Whether the tags of a resource say that it was made under the context's key.
    fn are_ours(&self, cx: &CallContext, tags: &[Tag]) -> bool {
        value_of(tags, KEY_TAG) == Some(&digest(self.cache.id(), cx.key()))
    }

    fn tags(&self, cx: &CallContext) -> Vec<Tag> {
        vec![tag(KEY_TAG, &digest(self.cache.id(), cx.key())), tag(RUN_TAG, cx.run_id().as_str())]
    }
}

fn tag(name: &str, value: &str) -> Tag {
    Tag::builder().key(name).value(value).build()
}

fn value_of<'a>(tags: &'a [Tag], name: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(name))?.value()
}

#[async_trait]
impl BackupStore for ElastiCacheBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true)
    }

    async fn create(&self, cx: &CallContext, request: &BackupRequest) -> Result<Backup> {
        let id = snapshot_id(self.cache.id(), cx.run_id(), cx.key());
        let mut tags = self.tags(cx);
        tags.push(tag("moodify:time", &SystemClock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let labels = request.labels.iter().filter(|(_, value)| !value.is_empty());
        tags.extend(labels.map(|(name, value)| tag(&format!("moodify:{}", tag_text(name)), &tag_text(value))));
        let source = self.cache.to_snapshot(cx, CREATE).await?;
        let request = self.cache.api.client(cx, CREATE).await?.create_snapshot().snapshot_name(&id);
        let request = match source {
            CacheId::Cluster(node) => request.cache_cluster_id(node),
            CacheId::ReplicationGroup(group) | CacheId::Serverless(group) => request.replication_group_id(group),
        };
        let request = request.set_kms_key_id(self.cache.config.kms_key.clone()).set_tags(Some(tags));
        let answer = self.cache.api.call(cx, (CREATE, Access::Write), &id, request.send()).await;
        self.made(cx, CREATE, &id, answer.map(|answer| answer.snapshot)).await
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        let found = self.snapshot(cx, DESCRIBE, id).await?;
        Ok(found.map(|snapshot| backup(&self.cache.config, &snapshot)))
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let client = self.cache.api.client(cx, LIST).await?;
        let mut backups = Vec::new();
        let mut marker = None;
        loop {
            // Snapshots of a group are known by the node that they were made of, which may be gone: AWS cannot filter them.
            let request = client.describe_snapshots().show_node_group_config(true).set_marker(marker);
            let page = self.cache.api.call(cx, (LIST, Access::Read), self.cache.id(), request.send()).await?;
            let all = page.snapshots.unwrap_or_default();
            let ours = all.iter().filter(|snapshot| is_of(&self.cache.config, snapshot));
            backups.extend(ours.map(|snapshot| backup(&self.cache.config, snapshot)));
            marker = page.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        backups.sort_by_key(|backup| Reverse(backup.created));
        Ok(backups)
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        let unhealthy = |why: String| self.cache.fail(ErrorKind::Unhealthy, VERIFY, id, why);
        let snapshot =
            self.snapshot(cx, VERIFY, id).await?.ok_or_else(|| unhealthy("there is no such snapshot".into()))?;
        let problems = snapshot::problems(&self.cache.config, &snapshot);
        match problems.is_empty() {
            true => Ok(backup(&self.cache.config, &snapshot)),
            false => Err(unhealthy(problems.join("; "))),
        }
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        self.go_on(cx, request).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        Ok(self.cache.group(cx, LOOK, target).await?.is_some())
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        self.remove(cx, target).await
    }

    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let id = request.id();
        let Some(snapshot) = self.snapshot(cx, DELETE, id).await? else { return Ok(()) };
        let refused = |why: String| Err(self.cache.fail(ErrorKind::Refused, DELETE, id, why));
        if !is_of(&self.cache.config, &snapshot) {
            let source = backup(&self.cache.config, &snapshot).source;
            return refused(format!("it is of {source:?}, not of {:?}; nothing was deleted", self.cache.id()));
        }
        if request.is_by_retention() {
            let tags = self.tags_of(cx, DELETE, snapshot.arn()).await?;
            if value_of(&tags, KEY_TAG).is_none() {
                return refused(format!("it has no tag {KEY_TAG}, so no run made it; nothing was deleted"));
            }
        }
        if snapshot.snapshot_status() == Some("deleting") {
            return Ok(());
        }
        let request = self.cache.api.client(cx, DELETE).await?.delete_snapshot().snapshot_name(id);
        absent(self.cache.api.call(cx, (DELETE, Access::Write), id, request.send()).await).map(drop)
    }
}
