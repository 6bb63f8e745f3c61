use aws_sdk_elasticache::types::{
    CacheCluster, Endpoint, MultiAzStatus, ReplicationGroup, Snapshot, TransitEncryptionMode,
};
use moodify_core::backend::{RestorePoint, RestoreRequest, RestoreState, Restored};
use moodify_core::secret::ExposeSecret;
use moodify_core::{CallContext, ErrorKind, Result};
use tracing::info;

use super::group::is_broken;
use super::{ElastiCacheBackups, tag};
use crate::asked::{self, Property, listed};
use crate::client::absent;
use crate::config::CacheId;
use crate::error::Access;

const RESTORE: &str = "restore replication group";
const DISCARD: &str = "remove restored replication group";

/// What a restored replication group is to be like.
#[derive(Debug)]
struct Wanted {
    node_type: Option<String>,
    /// Of each primary.
    replicas: i32,
    /// With cluster mode, how many.
    shards: Option<i32>,
    multi_az: bool,
    subnet_group: Option<String>,
    security_groups: Option<Vec<String>>,
    parameter_group: Option<String>,
    port: Option<i32>,
    at_rest: Option<bool>,
    kms_key: Option<String>,
    in_transit: Option<bool>,
    transit_mode: Option<TransitEncryptionMode>,
    user_groups: Option<Vec<String>>,
    version: Option<String>,
    password: bool,
}

impl Wanted {
    fn properties(&self) -> Vec<Property> {
        let list = |names: &Option<Vec<String>>| listed(names.iter().flatten().map(String::as_str));
        let of = |flag: Option<bool>| flag.map(|on| on.to_string());
        vec![
            ("engine-version", self.version.clone()),
            ("node-type", self.node_type.clone()),
            ("shards", Some(self.shards.unwrap_or(1).to_string())),
            ("replicas", Some(self.replicas.to_string())),
            ("encryption-at-rest", of(self.at_rest)),
            ("kms-key", self.kms_key.clone()),
            ("encryption-in-transit", of(self.in_transit)),
            ("password", of(self.password.then_some(true))),
            ("user-groups", list(&self.user_groups)),
            ("multi-AZ", of((self.multi_az && self.replicas > 0).then_some(true))),
            ("subnet-group", self.subnet_group.clone()),
            ("security-groups", list(&self.security_groups)),
            ("parameter-group", self.parameter_group.clone()),
            ("port", self.port.map(|port| port.to_string())),
        ]
    }
}

/// A group as it was made, with one of its nodes if that is told, by the same names.
fn properties(made: &ReplicationGroup, node: Option<&CacheCluster>) -> Vec<Property> {
    let of = |flag: Option<bool>| flag.map(|on| on.to_string());
    let text = |text: Option<&str>| text.map(str::to_owned);
    let replicas = made.node_groups().iter().map(|shard| shard.node_group_members().len().saturating_sub(1)).min();
    let port = reached(made).and_then(|endpoint| endpoint.port());
    let mut properties = vec![
        ("node-type", text(made.cache_node_type())),
        ("shards", Some(made.node_groups().len().to_string())),
        ("replicas", replicas.map(|replicas| replicas.to_string())),
        ("encryption-at-rest", of(made.at_rest_encryption_enabled())),
        ("kms-key", text(made.kms_key_id())),
        ("encryption-in-transit", of(made.transit_encryption_enabled())),
        ("password", of(made.auth_token_enabled())),
        ("user-groups", listed(made.user_group_ids().iter().map(String::as_str))),
        ("multi-AZ", made.multi_az().map(|multi| (*multi == MultiAzStatus::Enabled).to_string())),
        ("port", port.map(|port| port.to_string())),
    ];
    if let Some(node) = node {
        let groups = node.security_groups().iter().filter_map(|group| group.security_group_id());
        let parameters = node.cache_parameter_group().and_then(|group| group.cache_parameter_group_name());
        properties.extend([
            ("engine-version", text(node.engine_version())),
            ("subnet-group", text(node.cache_subnet_group_name())),
            ("security-groups", listed(groups)),
            ("parameter-group", text(parameters)),
        ]);
    }
    properties
}

impl ElastiCacheBackups {
    /// Begins a restore, or goes on with it.
    pub(super) async fn go_on(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let target = &request.target;
        let made = match Box::pin(self.cache.group(cx, RESTORE, target)).await? {
            Some(there) => there,
            None => match Box::pin(self.begin(cx, request)).await {
                Ok(()) => return Ok(creating(target, "the replication group is being made".to_owned())),
                // Somebody was faster, perhaps this run.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    self.cache.group(cx, RESTORE, target).await?.ok_or(e)?
                }
                Err(e) => return Err(e),
            },
        };
        let status = made.status().unwrap_or_default();
        let tags = match self.tags_of(cx, RESTORE, made.arn()).await {
            Ok(tags) => tags,
            // AWS tells the tags of some groups only when they are complete.
            Err(e) if e.kind() == ErrorKind::Conflict && status == "creating" => {
                return Ok(creating(
                    target,
                    "the replication group is creating, and whose it is will be told later".into(),
                ));
            }
            Err(e) => return Err(e),
        };
        if !self.are_ours(cx, &tags) {
            let message =
                "there is a replication group of that name, which was not made by this step; it was left as it is";
            return Err(self.cache.fail(ErrorKind::AlreadyExists, RESTORE, target, message));
        }
        if is_broken(status) {
            return Ok(failed(target, format!("the status of replication group {target} is {status:?}")));
        }
        if status != "available" {
            return Ok(creating(target, format!("the replication group is {status}")));
        }
        let node = match made.member_clusters().first() {
            Some(member) => Box::pin(self.cache.cluster(cx, RESTORE, member)).await?,
            None => None,
        };
        let pairs = tags.iter().filter_map(|tag| tag.key().zip(tag.value()));
        let problems = asked::problems(pairs, &properties(&made, node.as_ref()));
        if !problems.is_empty() {
            let problems = problems.join("; ");
            return Ok(failed(target, format!("replication group {target} is not as asked for: {problems}")));
        }
        Ok(Restored { target: target.clone(), state: RestoreState::Available, endpoint: endpoint(&made) })
    }

    async fn begin(&self, cx: &CallContext, request: &RestoreRequest) -> Result<()> {
        let target = &request.target;
        let RestorePoint::Backup(id) = &request.from else {
            let message = format!("it cannot restore {}: ElastiCache keeps snapshots only", request.from);
            return Err(self.cache.fail(ErrorKind::Unsupported, RESTORE, target, message));
        };
        let snapshot = self.snapshot(cx, RESTORE, id).await?.ok_or_else(|| {
            self.cache.fail(ErrorKind::NotFound, RESTORE, id, "there is no such snapshot; nothing was begun")
        })?;
        let wanted = Box::pin(self.wanted(cx, &snapshot)).await?;
        let mut tags = self.tags(cx);
        tags.extend(asked::tags(wanted.properties()).map(|(name, value)| tag(&name, &value)));
        let client = self.cache.api.client(cx, RESTORE).await?;
        let begin = client
            .create_replication_group()
            .replication_group_id(target)
            .replication_group_description(format!("restored from {id}"))
            .snapshot_name(id)
            .set_engine(snapshot.engine)
            .set_engine_version(wanted.version)
            .set_cache_node_type(wanted.node_type)
            .automatic_failover_enabled(wanted.replicas > 0 || wanted.shards.is_some())
            .multi_az_enabled(wanted.multi_az && wanted.replicas > 0)
            .set_cache_subnet_group_name(wanted.subnet_group)
            .set_security_group_ids(wanted.security_groups)
            .set_cache_parameter_group_name(wanted.parameter_group)
            .set_port(wanted.port)
            .set_at_rest_encryption_enabled(wanted.at_rest)
            .set_kms_key_id(wanted.kms_key)
            .set_transit_encryption_enabled(wanted.in_transit)
            .set_transit_encryption_mode(wanted.transit_mode)
            .set_user_group_ids(wanted.user_groups)
            .set_auth_token(self.cache.config.auth_token.as_ref().map(|token| token.expose_secret().to_owned()))
            .set_tags(Some(tags));
        let begin = match wanted.shards {
            Some(shards) => begin.num_node_groups(shards).replicas_per_node_group(wanted.replicas),
            None => begin.num_cache_clusters(1 + wanted.replicas),
        };
        self.cache.api.call(cx, (RESTORE, Access::Write), target, begin.send()).await?;
        info!(from = %id, group = %target, run = %cx.run_id(), "restore begun");
        Ok(())
    }

    /// Looks at the cache that is backed up, so that the new one is like it; what is gone is as the snapshot says.
    async fn wanted(&self, cx: &CallContext, snapshot: &Snapshot) -> Result<Wanted> {
        let (group, node) = self.source(cx).await?;
        let (config, group, node) = (&self.cache.config, group.unwrap_or_else(nothing), node.unwrap_or_else(no_node));
        let kept = config.auth_token.is_some() || !group.user_group_ids().is_empty();
        if (group.auth_token_enabled() == Some(true) || node.auth_token_enabled() == Some(true)) && !kept {
            let message = "the cache has a password (AUTH token), which AWS does not tell; nothing was begun";
            let error = self.cache.fail(ErrorKind::Invalid, RESTORE, self.cache.id(), message);
            return Err(error.hint("set auth-token in the configuration"));
        }
        let members = group.node_groups().first().map_or(1, |shard| shard.node_group_members().len().max(1));
        let clustered = group.cluster_enabled() == Some(true) || snapshot.num_node_groups().unwrap_or(1) > 1;
        let groups = node.security_groups().iter().filter_map(|group| group.security_group_id());
        let groups: Vec<String> = match config.security_groups.is_empty() {
            true => groups.map(str::to_owned).collect(),
            false => config.security_groups.clone(),
        };
        let parameters = node.cache_parameter_group.and_then(|group| group.cache_parameter_group_name);
        let port = node.cache_nodes.unwrap_or_default().first().and_then(|node| node.endpoint()?.port());
        Ok(Wanted {
            node_type: config.node_type.clone().or(group.cache_node_type).or(snapshot.cache_node_type.clone()),
            replicas: config.replicas.map_or(i32::try_from(members - 1).unwrap_or(0), i32::from),
            shards: clustered.then(|| snapshot.num_node_groups().unwrap_or(1)),
            multi_az: group.multi_az == Some(MultiAzStatus::Enabled),
            subnet_group: config
                .subnet_group
                .clone()
                .or(node.cache_subnet_group_name)
                .or(snapshot.cache_subnet_group_name.clone()),
            security_groups: Some(groups).filter(|groups| !groups.is_empty()),
            parameter_group: config
                .parameter_group
                .clone()
                .or(parameters)
                .or(snapshot.cache_parameter_group_name.clone()),
            port: port.or(snapshot.port),
            // A key of one's own is of use with encryption only.
            at_rest: config.kms_key.as_ref().map(|_| true).or(group.at_rest_encryption_enabled),
            kms_key: config.kms_key.clone().or(group.kms_key_id),
            in_transit: group.transit_encryption_enabled.or(node.transit_encryption_enabled),
            transit_mode: group.transit_encryption_mode.filter(|_| group.transit_encryption_enabled == Some(true)),
            user_groups: group.user_group_ids.filter(|groups| !groups.is_empty() && config.auth_token.is_none()),
            version: snapshot.engine_version.as_deref().map(creatable),
            password: config.auth_token.is_some(),
        })
    }

    /// The group, if there is one, and one of its nodes.
    async fn source(&self, cx: &CallContext) -> Result<(Option<ReplicationGroup>, Option<CacheCluster>)> {
        let id = self.cache.id();
        if matches!(self.cache.config.cache, CacheId::Cluster(_)) {
            return Ok((None, self.cache.cluster(cx, RESTORE, id).await?));
        }
        let Some(group) = self.cache.group(cx, RESTORE, id).await? else { return Ok((None, None)) };
        let node = match group.member_clusters().first() {
            Some(member) => self.cache.cluster(cx, RESTORE, member).await?,
            None => None,
        };
        Ok((Some(group), node))
    }

    /// Begins to remove what a restore made, or goes on with it.
    pub(super) async fn remove(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let Some(made) = self.cache.group(cx, DISCARD, target).await? else { return Ok(true) };
        // From here on nothing can be asked of it, and nothing need be done.
        if made.status() == Some("deleting") {
            return Ok(false);
        }
        if !self.are_ours(cx, &self.tags_of(cx, DISCARD, made.arn()).await?) {
            let message = "it was not made by this step, and was left as it is";
            return Err(self.cache.fail(ErrorKind::Refused, DISCARD, target, message));
        }
        let delete = self.cache.api.client(cx, DISCARD).await?.delete_replication_group().replication_group_id(target);
        let delete = delete.retain_primary_cluster(false);
        absent(self.cache.api.call(cx, (DISCARD, Access::Write), target, delete.send()).await)?;
        info!(group = %target, run = %cx.run_id(), "restored replication group is being removed");
        Ok(false)
    }
}

fn nothing() -> ReplicationGroup {
    ReplicationGroup::builder().build()
}

fn no_node() -> CacheCluster {
    CacheCluster::builder().build()
}

fn creating(target: &str, how_far: String) -> Restored {
    Restored { target: target.to_owned(), state: RestoreState::Creating(how_far), endpoint: None }
}

fn failed(target: &str, why: String) -> Restored {
    Restored { state: RestoreState::Failed(why), ..creating(target, String::new()) }
}

/// Where a group takes writes.
fn reached(group: &ReplicationGroup) -> Option<&Endpoint> {
    let primary = group.node_groups().first().and_then(|shard| shard.primary_endpoint());
    group.configuration_endpoint().or(primary)
}

fn endpoint(group: &ReplicationGroup) -> Option<String> {
    let endpoint = reached(group)?;
    let address = endpoint.address().filter(|address| !address.is_empty())?;
    Some(endpoint.port().map_or(address.to_owned(), |port| format!("{address}:{port}")))
}

/// The version to ask for: from 6 on AWS chooses the patch itself and refuses to be told.
fn creatable(version: &str) -> String {
    let mut parts = version.split('.');
    match (parts.next().and_then(|major| major.parse::<u32>().ok()), parts.next()) {
        (Some(major @ 6..), Some(minor)) => format!("{major}.{minor}"),
        _ => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::creatable;

    #[test]
    fn a_version_is_asked_for_as_aws_takes_it() {
        for (told, asked) in [("5.0.6", "5.0.6"), ("6.2.6", "6.2"), ("7.1.0", "7.1"), ("8.0", "8.0"), ("odd", "odd")] {
            assert_eq!(creatable(told), asked);
        }
    }
}
