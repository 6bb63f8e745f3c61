use aws_sdk_docdb::types::{DbCluster, DbInstance, Filter};
use jiff::Timestamp;
use moodify_core::{CallContext, Result};
use serde::Serialize;

use super::DocumentDbBackups;
use crate::client::{absent, time_of};
use crate::error::Access;

const DESCRIBE: &str = "describe cluster";

/// How a cluster is doing, for people and for a runbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cluster {
    /// Its identifier.
    pub id: String,
    /// In AWS's words: `available`, `creating`, `backing-up`, ...
    pub status: String,
    /// Engine and version.
    pub engine: String,
    /// Where it answers, once it does.
    pub endpoint: Option<String>,
    /// Whether its storage is encrypted.
    pub encrypted: bool,
    /// Whether it is protected from being deleted.
    pub deletion_protection: bool,
    /// Up to when it can be restored to a point in time.
    pub restorable_until: Option<Timestamp>,
    /// Its instances.
    pub instances: Vec<Instance>,
}

/// An instance of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Instance {
    /// Its identifier.
    pub id: String,
    /// In AWS's words: `available`, `creating`, `rebooting`, ...
    pub status: String,
    /// Its class.
    pub class: String,
    /// Whether it is the one that takes writes.
    pub writer: bool,
}

impl DocumentDbBackups {
    /// The cluster of that identifier and its instances; `None` if there is none. Two requests.
    ///
    /// # Errors
    /// When AWS cannot be asked.
    pub async fn describe_cluster(&self, cx: &CallContext, id: &str) -> Result<Option<Cluster>> {
        let Some(found) = self.cluster(cx, DESCRIBE, id).await? else { return Ok(None) };
        let instances = self.instances(cx, DESCRIBE, id).await?;
        let writes = |instance: &DbInstance| {
            let is_it = |member: &&aws_sdk_docdb::types::DbClusterMember| {
                member.db_instance_identifier() == instance.db_instance_identifier()
            };
            found.db_cluster_members().iter().find(is_it).and_then(|member| member.is_cluster_writer()) == Some(true)
        };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let instances = instances.iter().map(|instance| Instance {
            id: text(instance.db_instance_identifier()),
            status: text(instance.db_instance_status()),
            class: text(instance.db_instance_class()),
            writer: writes(instance),
        });
        Ok(Some(Cluster {
            id: id.to_owned(),
            status: text(found.status()),
            engine: format!("{} {}", text(found.engine()), text(found.engine_version())),
            endpoint: endpoint(&found),
            encrypted: found.storage_encrypted() == Some(true),
            deletion_protection: found.deletion_protection() == Some(true),
            restorable_until: found.latest_restorable_time().and_then(time_of),
            instances: instances.collect(),
        }))
    }

    pub(super) async fn cluster(
        &self,
        cx: &CallContext,
        operation: &'static str,
        id: &str,
    ) -> Result<Option<DbCluster>> {
        let request = self.api.client(cx, operation).await?.describe_db_clusters().db_cluster_identifier(id);
        let found = self.api.call(cx, (operation, Access::Read), id, request.send()).await;
        Ok(absent(found)?.and_then(|answer| answer.db_clusters.unwrap_or_default().into_iter().next()))
    }

    /// The instances of a cluster: at most 16, so one page has them all.
    pub(super) async fn instances(
        &self,
        cx: &CallContext,
        operation: &'static str,
        of: &str,
    ) -> Result<Vec<DbInstance>> {
        let filter = Filter::builder().name("db-cluster-id").values(of).build();
        let request = self.api.client(cx, operation).await?.describe_db_instances().filters(filter);
        let answer = self.api.call(cx, (operation, Access::Read), of, request.send()).await?;
        let all = answer.db_instances.unwrap_or_default().into_iter();
        Ok(all.filter(|instance| instance.db_cluster_identifier() == Some(of)).collect())
    }
}

pub(super) fn endpoint(cluster: &DbCluster) -> Option<String> {
    cluster.endpoint().filter(|endpoint| !endpoint.is_empty()).map(str::to_owned)
}
