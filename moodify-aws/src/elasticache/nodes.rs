use async_trait::async_trait;
use aws_sdk_elasticache::primitives::DateTime;
use aws_sdk_elasticache::types::{
    AutomaticFailoverStatus, CacheCluster, Endpoint, NodeGroup, NodeGroupMember, ReplicationGroup, SourceType,
};
use jiff::Timestamp;
use moodify_core::backend::{CacheNode, CacheNodes, NodeCapabilities, NodeEvent, NodeRole, NodeState};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use tracing::info;

use super::Cache;
use super::group::is_broken;
use crate::client::time_of;
use crate::config::{CacheId, ElastiCacheConfig};
use crate::error::Access;

/// Restarts the nodes of one cache of ElastiCache and fails them over.
///
/// - A node is a cache cluster of the replication group, or the one that stands alone. What it holds in memory is lost by
///   a restart; a replica is filled again from its primary.
/// - That a node was restarted is known by AWS's event, not by its status, which is `available` for a while after the
///   request. Events are kept for 14 days.
/// - `fail_over` is AWS's test of a fail-over: with automatic fail-over only, of one shard, and for few shards a day.
/// - With cluster mode AWS does not tell who is a primary. It is known of a shard that has failed over within 14 days, by
///   AWS's event; and that a shard was failed over since it was seen, too.
/// - AWS does not restart nodes of a replication group with cluster mode, and a serverless cache has none: then
///   `capabilities` say so if the configuration does, and [`preflight`](Self::preflight) in any case.
///
/// The identity needs `elasticache:DescribeReplicationGroups`, `elasticache:DescribeCacheClusters`,
/// `elasticache:DescribeEvents`, `elasticache:RebootCacheCluster` and `elasticache:TestFailover`.
///
/// Listing nodes takes one request for the group, with cluster mode one more, and two for every node.
///
/// ```
/// use moodify_aws::{ApiConfig, CacheId, ElastiCacheConfig, ElastiCacheNodes};
/// use moodify_core::backend::CacheNodes;
/// let cache = CacheId::Serverless("moodify-production".to_owned());
/// let nodes = ElastiCacheNodes::new(ElastiCacheConfig::new(ApiConfig::new("eu-central-1"), cache)).unwrap();
/// assert!(nodes.capabilities().restart.unwrap_err().contains("has no nodes"));
/// ```
#[derive(Debug)]
pub struct ElastiCacheNodes {
    cache: Cache,
}

const LIST: &str = "list nodes";
const EVENTS: &str = "list events";
const RESTART: &str = "reboot node";
const FAIL_OVER: &str = "fail over";
const PREFLIGHT: &str = "check the cache";

const SERVERLESS: &str = "a serverless cache has no nodes; AWS replaces what fails by itself, and flushing empties it";
const CLUSTERED: &str = "AWS does not reboot nodes of a replication group with cluster mode; to apply parameters restore a \
                         backup into a new group, to replace a primary fail its shard over";
const ALONE: &str = "a cache cluster that stands alone has no replica; put it into a replication group first";

/// AWS keeps events for so long.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(14 * 24 - 1);

impl ElastiCacheNodes {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: ElastiCacheConfig) -> Result<Self> {
        Ok(Self { cache: Cache::new(config)? })
    }

    /// Asks AWS, without changing anything, whether the cache is there and its nodes can be restarted. Returns every
    /// problem found; none is good news. One request; none for a serverless cache.
    pub async fn preflight(&self, cx: &CallContext) -> Vec<Error> {
        let looked = async {
            self.allowed(PREFLIGHT, self.capabilities().restart)?;
            match &self.cache.config.cache {
                CacheId::ReplicationGroup(_) => self.changeable(&self.group(cx, PREFLIGHT).await?, PREFLIGHT),
                _ => self.cluster(cx, PREFLIGHT, self.cache.id()).await.map(drop),
            }
        };
        looked.await.err().into_iter().collect()
    }

    fn allowed(&self, operation: &'static str, can: Result<(), String>) -> Result<()> {
        can.map_err(|why| self.cache.fail(ErrorKind::Unsupported, operation, self.cache.id(), why))
    }

    fn changeable(&self, group: &ReplicationGroup, operation: &'static str) -> Result<()> {
        match group.cluster_enabled() {
            Some(true) => self.allowed(operation, Err(CLUSTERED.to_owned())),
            _ => Ok(()),
        }
    }

    async fn group(&self, cx: &CallContext, operation: &'static str) -> Result<ReplicationGroup> {
        let id = self.cache.id();
        let missing = || self.cache.fail(ErrorKind::NotFound, operation, id, "there is no such replication group");
        self.cache.group(cx, operation, id).await?.ok_or_else(missing)
    }

    async fn cluster(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<CacheCluster> {
        let missing = || self.cache.fail(ErrorKind::NotFound, operation, id, "there is no such node");
        self.cache.cluster(cx, operation, id).await?.ok_or_else(missing)
    }

    /// The members of a group; with cluster mode, with what its events tell of their roles.
    async fn members_of(
        &self,
        cx: &CallContext,
        operation: &'static str,
        group: &ReplicationGroup,
    ) -> Result<Vec<Member>> {
        let mut all = members(group);
        if group.cluster_enabled() == Some(true) {
            let of = (SourceType::ReplicationGroup, self.cache.id());
            let events = self.events_of(cx, operation, of, Timestamp::UNIX_EPOCH).await?;
            events.iter().for_each(|event| learn(&mut all, event));
        }
        Ok(all)
    }

    /// The members of the cache, as far as the group tells.
    async fn members(&self, cx: &CallContext, operation: &'static str) -> Result<Vec<Member>> {
        match &self.cache.config.cache {
            CacheId::ReplicationGroup(_) => self.members_of(cx, operation, &self.group(cx, operation).await?).await,
            CacheId::Cluster(id) => Ok(vec![Member::alone(id)]),
            CacheId::Serverless(_) => {
                Err(self.cache.fail(ErrorKind::Unsupported, operation, self.cache.id(), SERVERLESS))
            }
        }
    }

    /// What has happened to a cache cluster or to the group since a moment, oldest first.
    async fn events_of(
        &self,
        cx: &CallContext,
        operation: &'static str,
        (kind, id): (SourceType, &str),
        since: Timestamp,
    ) -> Result<Vec<NodeEvent>> {
        let since = since.max(SystemClock.now() - KEPT);
        let client = self.cache.api.client(cx, operation).await?;
        let (mut events, mut marker) = (Vec::new(), None);
        loop {
            let request = client.describe_events().source_type(kind.clone()).source_identifier(id);
            let request = request.start_time(DateTime::from_secs(since.as_second())).set_marker(marker);
            let page = self.cache.api.call(cx, (operation, Access::Read), id, request.send()).await?;
            let read = |event: &aws_sdk_elasticache::types::Event| {
                Some(NodeEvent {
                    at: time_of(event.date()?)?,
                    source: event.source_identifier()?.to_owned(),
                    message: event.message()?.to_owned(),
                })
            };
            events.extend(page.events().iter().filter_map(read).filter(|event| event.at >= since));
            marker = page.marker.filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        // AWS has the newest first, also of those at the same time.
        events.reverse();
        events.sort_by_key(|event| event.at);
        Ok(events)
    }

    async fn restarted(&self, cx: &CallContext, operation: &'static str, id: &str) -> Result<Option<Timestamp>> {
        let events = self.events_of(cx, operation, (SourceType::CacheCluster, id), Timestamp::UNIX_EPOCH).await?;
        Ok(events.iter().rfind(|event| is_restart(&event.message)).map(|event| event.at))
    }

    /// A member as it is now, with the numbers that AWS gives to what is rebooted of it.
    async fn look(
        &self,
        cx: &CallContext,
        operation: &'static str,
        member: &Member,
    ) -> Result<(CacheNode, Vec<String>)> {
        let cluster = self.cluster(cx, operation, &member.id).await?;
        let restarted = self.restarted(cx, operation, &member.id).await?;
        let parts = cluster.cache_nodes().iter().filter_map(|part| part.cache_node_id());
        let numbers = parts.map(str::to_owned).collect();
        Ok((member.view(&cluster, restarted), numbers))
    }
}

/// A cache cluster, and what its group says of it.
#[derive(Debug)]
struct Member {
    id: String,
    group: String,
    role: NodeRole,
    failed_over: Option<Timestamp>,
    endpoint: Option<String>,
}

impl Member {
    fn alone(id: &str) -> Self {
        let (id, group) = (id.to_owned(), id.to_owned());
        Self { id, group, role: NodeRole::Primary, failed_over: None, endpoint: None }
    }

    fn of(shard: &NodeGroup, member: &NodeGroupMember) -> Option<Self> {
        Some(Self {
            id: member.cache_cluster_id()?.to_owned(),
            group: shard.node_group_id()?.to_owned(),
            role: match member.current_role() {
                Some("primary") => NodeRole::Primary,
                Some("replica") => NodeRole::Replica,
                // So it is with cluster mode.
                _ => NodeRole::Unknown,
            },
            failed_over: None,
            endpoint: member.read_endpoint().and_then(address),
        })
    }

    fn view(&self, cluster: &CacheCluster, restarted: Option<Timestamp>) -> CacheNode {
        let own = cluster.cache_nodes().first().and_then(|node| node.endpoint()).and_then(address);
        let engine = cluster.engine().zip(cluster.engine_version());
        CacheNode {
            id: self.id.clone(),
            group: self.group.clone(),
            role: self.role,
            state: state_of(cluster.cache_cluster_status().unwrap_or_default()),
            restarted,
            failed_over: self.failed_over,
            zone: cluster.preferred_availability_zone().map(str::to_owned),
            engine: engine.map(|(engine, version)| format!("{engine} {version}")),
            endpoint: self.endpoint.clone().or(own),
        }
    }
}

fn members(group: &ReplicationGroup) -> Vec<Member> {
    let shards = group.node_groups().iter();
    shards.flat_map(|shard| shard.node_group_members().iter().filter_map(|member| Member::of(shard, member))).collect()
}

fn address(endpoint: &Endpoint) -> Option<String> {
    Some(format!("{}:{}", endpoint.address().filter(|address| !address.is_empty())?, endpoint.port()?))
}

fn state_of(status: &str) -> NodeState {
    match status {
        "available" => NodeState::Available,
        broken if is_broken(broken) => NodeState::Failed(broken.to_owned()),
        other => NodeState::Busy(other.to_owned()),
    }
}

/// Learns of an event of the group which member is the primary of its shard, and since when. From when a fail-over is begun
/// until it is completed nobody knows.
fn learn(all: &mut [Member], event: &NodeEvent) {
    let (shard, new) = match (begun(&event.message), new_primary(&event.message)) {
        (Some(shard), _) => (shard.to_owned(), None),
        (_, Some(new)) => match all.iter().find(|member| member.id == new) {
            Some(member) => (member.group.clone(), Some(new)),
            None => return,
        },
        _ => return,
    };
    for member in all.iter_mut().filter(|member| member.group == shard) {
        member.failed_over = Some(event.at);
        member.role = match new {
            Some(new) if member.id == new => NodeRole::Primary,
            Some(_) => NodeRole::Replica,
            None => NodeRole::Unknown,
        };
    }
}

/// AWS says `Test Failover API called for node group 0001`.
fn begun(message: &str) -> Option<&str> {
    message.strip_prefix("Test Failover API called for node group ").map(|shard| shard.trim_end_matches('.'))
}

/// AWS says `Failover from primary node a-0001-001 to replica node a-0001-002 completed`.
fn new_primary(message: &str) -> Option<&str> {
    let (_, new) = message.strip_prefix("Failover ")?.strip_suffix(" completed")?.rsplit_once("to replica node ")?;
    Some(new)
}

/// AWS says `Cache node 0001 restarted`.
fn is_restart(message: &str) -> bool {
    message.starts_with("Cache node ") && message.ends_with(" restarted")
}

#[async_trait]
impl CacheNodes for ElastiCacheNodes {
    fn capabilities(&self) -> NodeCapabilities {
        let all = NodeCapabilities::all();
        match &self.cache.config.cache {
            CacheId::Serverless(_) => all.without_restart(SERVERLESS).without_fail_over(SERVERLESS),
            CacheId::ReplicationGroup(_) if self.cache.config.cluster_mode => all.without_restart(CLUSTERED),
            CacheId::ReplicationGroup(_) => all,
            CacheId::Cluster(_) => all.without_fail_over(ALONE),
        }
    }

    async fn nodes(&self, cx: &CallContext) -> Result<Vec<CacheNode>> {
        let mut nodes = Vec::new();
        for member in self.members(cx, LIST).await? {
            nodes.push(self.look(cx, LIST, &member).await?.0);
        }
        Ok(nodes)
    }

    async fn restart(&self, cx: &CallContext, seen: &CacheNode) -> Result<CacheNode> {
        self.allowed(RESTART, self.capabilities().restart)?;
        let members = match &self.cache.config.cache {
            CacheId::ReplicationGroup(_) => {
                let group = self.group(cx, RESTART).await?;
                self.changeable(&group, RESTART)?;
                members(&group)
            }
            _ => self.members(cx, RESTART).await?,
        };
        let member = members.into_iter().find(|member| member.id == seen.id).ok_or_else(|| {
            self.cache.fail(ErrorKind::NotFound, RESTART, &seen.id, format!("{} has no such node", self.cache.id()))
        })?;
        let (now, numbers) = self.look(cx, RESTART, &member).await?;
        if now.was_restarted_since(seen) || !now.is_available() {
            return Ok(now);
        }
        let reboot = self.cache.api.client(cx, RESTART).await?.reboot_cache_cluster().cache_cluster_id(&member.id);
        let reboot = reboot.set_cache_node_ids_to_reboot(Some(numbers));
        let answer = self.cache.api.call(cx, (RESTART, Access::Write), &member.id, reboot.send()).await?;
        info!(node = %member.id, run = %cx.run_id(), "restart begun");
        // AWS may still say that it is available, but not for long.
        let told = answer.cache_cluster.and_then(|cluster| cluster.cache_cluster_status);
        let told = told.filter(|status| status != "available").unwrap_or_else(|| "rebooting cluster nodes".to_owned());
        Ok(CacheNode { state: state_of(&told), ..now })
    }

    async fn fail_over(&self, cx: &CallContext, primary: &CacheNode) -> Result<()> {
        self.allowed(FAIL_OVER, self.capabilities().fail_over)?;
        let group = self.group(cx, FAIL_OVER).await?;
        let shard = group.node_groups().iter().find(|shard| shard.node_group_id() == Some(&primary.group));
        let replicas = shard.map_or(0, |shard| shard.node_group_members().len().saturating_sub(1));
        let members = self.members_of(cx, FAIL_OVER, &group).await?;
        let told = primary.role != NodeRole::Unknown;
        match members.iter().find(|member| member.id == primary.id && member.group == primary.group) {
            Some(now) if now.failed_over > primary.failed_over => return Ok(()),
            Some(now) if now.role == NodeRole::Replica && told => return Ok(()),
            Some(_) => {}
            // What is gone is no primary any more.
            None if told && shard.is_some() => return Ok(()),
            None => {
                let message = format!("{} has no node {} in a shard {}", self.cache.id(), primary.id, primary.group);
                return Err(self.cache.fail(ErrorKind::NotFound, FAIL_OVER, &primary.id, message));
            }
        }
        let unsupported =
            |message: String| self.cache.fail(ErrorKind::Unsupported, FAIL_OVER, self.cache.id(), message);
        if group.automatic_failover() != Some(&AutomaticFailoverStatus::Enabled) {
            let error = unsupported("automatic fail-over is not enabled, without which AWS does not do it".to_owned());
            return Err(error.hint("enable it for the replication group, or promote a replica by modifying the group"));
        }
        if replicas == 0 {
            let error = unsupported(format!("shard {} has no replica that could become its primary", primary.group));
            return Err(error.hint("add a replica to the shard"));
        }
        let request = self.cache.api.client(cx, FAIL_OVER).await?.test_failover();
        let request = request.replication_group_id(self.cache.id()).node_group_id(&primary.group);
        self.cache.api.call(cx, (FAIL_OVER, Access::Write), self.cache.id(), request.send()).await?;
        info!(shard = %primary.group, node = %primary.id, run = %cx.run_id(), "fail-over begun");
        Ok(())
    }

    async fn events(&self, cx: &CallContext, since: Timestamp) -> Result<Vec<NodeEvent>> {
        let mut events = Vec::new();
        if matches!(self.cache.config.cache, CacheId::ReplicationGroup(_)) {
            let group = (SourceType::ReplicationGroup, self.cache.id());
            events.extend(self.events_of(cx, EVENTS, group, since).await?);
        }
        for member in self.members(cx, EVENTS).await? {
            events.extend(self.events_of(cx, EVENTS, (SourceType::CacheCluster, &member.id), since).await?);
        }
        events.sort_by_key(|event| event.at);
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_events_are_read() {
        assert_eq!(state_of("available"), NodeState::Available);
        for busy in ["rebooting cluster nodes", "modifying", "snapshotting", "creating"] {
            assert_eq!(state_of(busy), NodeState::Busy(busy.to_owned()));
        }
        for broken in ["incompatible-network", "create-failed", "deleting"] {
            assert_eq!(state_of(broken), NodeState::Failed(broken.to_owned()));
        }
        assert!(is_restart("Cache node 0001 restarted"));
        for other in ["Cache node 0001 shutdown", "Failover to replica node moods-002 completed", ""] {
            assert!(!is_restart(other), "{other}");
        }
    }

    #[test]
    fn roles_are_learnt_from_events() {
        let member = |id: &str, group: &str| {
            let (id, group) = (id.to_owned(), group.to_owned());
            Member { id, group, role: NodeRole::Unknown, failed_over: None, endpoint: None }
        };
        let mut all = [member("a-0001-001", "0001"), member("a-0001-002", "0001"), member("a-0002-001", "0002")];
        let mut happens = |second, message: &str| {
            let at = Timestamp::from_second(second).unwrap();
            learn(&mut all, &NodeEvent { at, source: "a".to_owned(), message: message.to_owned() });
            all.iter().map(|member| (member.role, member.failed_over.map(Timestamp::as_second))).collect::<Vec<_>>()
        };
        let (primary, replica, unknown) = (NodeRole::Primary, NodeRole::Replica, NodeRole::Unknown);
        let begun = happens(1, "Test Failover API called for node group 0001");
        assert_eq!(begun, [(unknown, Some(1)), (unknown, Some(1)), (unknown, None)]);
        let completed = happens(2, "Failover from primary node a-0001-001 to replica node a-0001-002 completed");
        assert_eq!(completed, [(replica, Some(2)), (primary, Some(2)), (unknown, None)]);
        assert_eq!(happens(3, "Failover to replica node a-0001-001 completed")[0], (primary, Some(3)));
        for other in ["Failover to replica node gone-001 completed", "Recovering cache nodes a-0001-001", "Failover "] {
            assert_eq!(happens(4, other)[0], (primary, Some(3)), "{other}");
        }
        assert_eq!(happens(5, "Test Failover API called for node group 0001")[0], (unknown, Some(5)));
    }
}
