use aws_sdk_elasticache::types::{CacheCluster, ReplicationGroup};
use moodify_core::{CallContext, ErrorKind, Result};

use super::Cache;
use crate::client::absent;
use crate::config::CacheId;
use crate::error::Access;

impl Cache {
    /// A replication group; `None` if there is none of that id.
    pub(super) async fn group(
        &self,
        cx: &CallContext,
        operation: &'static str,
        id: &str,
    ) -> Result<Option<ReplicationGroup>> {
        let request = self.api.client(cx, operation).await?.describe_replication_groups().replication_group_id(id);
        let found = self.api.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.replication_groups.unwrap_or_default().into_iter().next()))
    }

    /// A cache cluster, which is one node, with what AWS knows of it as such; `None` if there is none of that id.
    pub(super) async fn cluster(
        &self,
        cx: &CallContext,
        operation: &'static str,
        id: &str,
    ) -> Result<Option<CacheCluster>> {
        let request = self.api.client(cx, operation).await?.describe_cache_clusters().cache_cluster_id(id);
        let request = request.show_cache_node_info(true);
        let found = self.api.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.cache_clusters.unwrap_or_default().into_iter().next()))
    }

    /// What AWS makes a snapshot of: a whole group only with cluster mode, else one of its nodes.
    pub(super) async fn to_snapshot(&self, cx: &CallContext, operation: &'static str) -> Result<CacheId> {
        let CacheId::ReplicationGroup(id) = &self.config.cache else { return Ok(self.config.cache.clone()) };
        let group = self
            .group(cx, operation, id)
            .await?
            .ok_or_else(|| self.fail(ErrorKind::NotFound, operation, id, "there is no such replication group"))?;
        if group.cluster_enabled() == Some(true) {
            return Ok(self.config.cache.clone());
        }
        let members = group.node_groups().iter().flat_map(|shard| shard.node_group_members());
        let spared = members.min_by_key(|member| member.current_role() == Some("primary"));
        let node = spared.and_then(|member| member.cache_cluster_id()).ok_or_else(|| {
            let status = group.status().unwrap_or_default();
            self.fail(ErrorKind::Conflict, operation, id, format!("it has no nodes; its status is {status:?}"))
        })?;
        Ok(CacheId::Cluster(node.to_owned()))
    }
}

/// From these there is no way on without a person.
pub(super) fn is_broken(status: &str) -> bool {
    ["failed", "incompatible", "deleting", "deleted"].iter().any(|word| status.contains(word))
}
