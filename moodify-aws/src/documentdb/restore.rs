use aws_sdk_docdb::primitives::DateTime;
use aws_sdk_docdb::types::{DbCluster, DbInstance, Tag};
use moodify_core::backend::{RestorePoint, RestoreRequest, RestoreState, Restored};
use moodify_core::{CallContext, ErrorKind, Result};
use tracing::info;

use super::cluster::endpoint;
use super::{DocumentDbBackups, tag, value_of};
use crate::asked::{self, Property, listed};
use crate::client::absent;
use crate::error::Access;
use crate::names::tag_text;

const RESTORE: &str = "restore cluster";
const DISCARD: &str = "remove restored cluster";

/// Tags of a restored cluster that say what is still to be done with it: another process may go on.
const INSTANCES_TAG: &str = "moodify:instances";
const CLASS_TAG: &str = "moodify:instance-class";
const PARAMETERS_TAG: &str = "moodify:parameter-group";

/// What a restored cluster is to be like.
#[derive(Debug)]
struct Wanted {
    subnet_group: Option<String>,
    security_groups: Option<Vec<String>>,
    parameter_group: Option<String>,
    kms_key: Option<String>,
    deletion_protection: Option<bool>,
    port: Option<i32>,
    logs: Option<Vec<String>>,
    storage_type: Option<String>,
    instances: usize,
    class: String,
    /// What it gets of its own accord from what is restored.
    inherited: Inherited,
}

#[derive(Debug)]
struct Inherited {
    version: Option<String>,
    encrypted: bool,
    kms_key: Option<String>,
}

impl Wanted {
    fn properties(&self) -> Vec<Property> {
        let groups = self.security_groups.iter().flatten().map(String::as_str);
        let encrypted = self.inherited.encrypted || self.kms_key.is_some();
        let inherited = self.inherited.kms_key.clone().filter(|_| self.inherited.encrypted);
        vec![
            ("engine-version", self.inherited.version.clone()),
            ("encryption", Some(encrypted.to_string())),
            ("kms-key", self.kms_key.clone().or(inherited)),
            ("subnet-group", self.subnet_group.clone()),
            ("security-groups", listed(groups)),
            ("deletion-protection", self.deletion_protection.map(|protected| protected.to_string())),
            ("port", self.port.map(|port| port.to_string())),
        ]
    }
}

/// A cluster as it was made, by the same names.
fn properties(made: &DbCluster) -> Vec<Property> {
    let groups = made.vpc_security_groups().iter().filter_map(|group| group.vpc_security_group_id());
    let text = |text: Option<&str>| text.map(str::to_owned);
    vec![
        ("engine-version", text(made.engine_version())),
        ("encryption", made.storage_encrypted().map(|encrypted| encrypted.to_string())),
        ("kms-key", text(made.kms_key_id())),
        ("subnet-group", text(made.db_subnet_group())),
        ("security-groups", listed(groups)),
        ("deletion-protection", made.deletion_protection().map(|protected| protected.to_string())),
        ("port", made.port().map(|port| port.to_string())),
    ]
}

impl DocumentDbBackups {
    /// Begins a restore, or goes on with it.
    pub(super) async fn go_on(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let target = &request.target;
        let made = match self.cluster(cx, RESTORE, target).await? {
            Some(there) => there,
            None => match self.begin(cx, request).await {
                Ok(()) => return Ok(creating(target, "the cluster is being made".to_owned())),
                // Somebody was faster, perhaps this run.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => self.cluster(cx, RESTORE, target).await?.ok_or(e)?,
                Err(e) => return Err(e),
            },
        };
        let tags = self.tags_of(cx, RESTORE, made.db_cluster_arn()).await?;
        if !self.are_ours(cx, &tags) {
            let message = "there is a cluster of that name, which was not made by this step; it was left as it is";
            return Err(self.api.fail(ErrorKind::AlreadyExists, RESTORE, target, message));
        }
        self.complete(cx, &made, &tags).await
    }

    /// Looks at the cluster that is backed up and at the backup, so that the new one is like them.
    async fn wanted(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Wanted> {
        let config = &self.config;
        let like = self.cluster(cx, RESTORE, &config.cluster).await?;
        let (like, instances) = match like {
            Some(like) => (like, self.instances(cx, RESTORE, &config.cluster).await?),
            // It may be the one that was lost.
            None => (DbCluster::builder().build(), Vec::new()),
        };
        let class = instances.first().and_then(|instance| instance.db_instance_class());
        let class = config.instance_class.clone().or(class.map(str::to_owned)).ok_or_else(|| {
            let message = "its class of instances is not known: the cluster has none now";
            let error = self.api.fail(ErrorKind::Invalid, RESTORE, &config.cluster, message);
            error.hint("set instance-class and instances in the configuration")
        })?;
        let groups = like.vpc_security_groups().iter().filter_map(|group| group.vpc_security_group_id());
        let groups: Vec<String> = match config.security_groups.is_empty() {
            true => groups.map(str::to_owned).collect(),
            false => config.security_groups.clone(),
        };
        let inherited = match &request.from {
            RestorePoint::Backup(id) => {
                let snapshot = self.snapshot(cx, RESTORE, id).await?.ok_or_else(|| {
                    self.api.fail(ErrorKind::NotFound, RESTORE, id, "there is no such snapshot; nothing was begun")
                })?;
                let encrypted = snapshot.storage_encrypted() == Some(true);
                Inherited { version: snapshot.engine_version, encrypted, kms_key: snapshot.kms_key_id }
            }
            _ => Inherited {
                version: like.engine_version,
                encrypted: like.storage_encrypted == Some(true),
                kms_key: like.kms_key_id.clone(),
            },
        };
        Ok(Wanted {
            subnet_group: config.subnet_group.clone().or(like.db_subnet_group),
            security_groups: Some(groups).filter(|groups| !groups.is_empty()),
            parameter_group: config.parameter_group.clone().or(like.db_cluster_parameter_group),
            kms_key: config.kms_key.clone().or(like.kms_key_id.filter(|_| like.storage_encrypted == Some(true))),
            deletion_protection: config.deletion_protection.or(like.deletion_protection),
            port: like.port,
            logs: like.enabled_cloudwatch_logs_exports.filter(|logs| !logs.is_empty()),
            storage_type: like.storage_type,
            instances: config.instances.map_or(instances.len().max(1), usize::from),
            class,
            inherited,
        })
    }

    async fn begin(&self, cx: &CallContext, request: &RestoreRequest) -> Result<()> {
        let target = &request.target;
        let wanted = self.wanted(cx, request).await?;
        let mut tags = self.tags(cx);
        tags.push(tag(INSTANCES_TAG, &wanted.instances.to_string()));
        tags.push(tag(CLASS_TAG, &tag_text(&wanted.class)));
        tags.extend(wanted.parameter_group.iter().map(|name| tag(PARAMETERS_TAG, &tag_text(name))));
        tags.extend(asked::tags(wanted.properties()).map(|(name, value)| tag(&name, &value)));
        let client = self.api.client(cx, RESTORE).await?;
        match &request.from {
            RestorePoint::Backup(id) => {
                let begin = client
                    .restore_db_cluster_from_snapshot()
                    .snapshot_identifier(id)
                    .db_cluster_identifier(target)
                    .engine(&self.config.engine)
                    .set_db_subnet_group_name(wanted.subnet_group)
                    .set_vpc_security_group_ids(wanted.security_groups)
                    .set_db_cluster_parameter_group_name(wanted.parameter_group)
                    .set_kms_key_id(wanted.kms_key)
                    .set_deletion_protection(wanted.deletion_protection)
                    .set_port(wanted.port)
                    .set_enable_cloudwatch_logs_exports(wanted.logs)
                    .set_storage_type(wanted.storage_type)
                    .set_tags(Some(tags));
                self.api.call(cx, (RESTORE, Access::Write), target, begin.send()).await?;
            }
            RestorePoint::Time(time) => {
                // Its parameter group cannot be given here; it is set when the cluster is there.
                let begin = client
                    .restore_db_cluster_to_point_in_time()
                    .source_db_cluster_identifier(&self.config.cluster)
                    .db_cluster_identifier(target)
                    .restore_to_time(DateTime::from_secs(time.as_second()))
                    .set_db_subnet_group_name(wanted.subnet_group)
                    .set_vpc_security_group_ids(wanted.security_groups)
                    .set_kms_key_id(wanted.kms_key)
                    .set_deletion_protection(wanted.deletion_protection)
                    .set_port(wanted.port)
                    .set_enable_cloudwatch_logs_exports(wanted.logs)
                    .set_storage_type(wanted.storage_type)
                    .set_tags(Some(tags));
                self.api.call(cx, (RESTORE, Access::Write), target, begin.send()).await?;
            }
            other => {
                return Err(self.api.fail(
                    ErrorKind::Unsupported,
                    RESTORE,
                    target,
                    format!("it cannot restore {other}"),
                ));
            }
        }
        info!(from = %request.from, cluster = %target, run = %cx.run_id(), "restore begun");
        Ok(())
    }

    /// Does what can be done now for a cluster that is there.
    async fn complete(&self, cx: &CallContext, made: &DbCluster, tags: &[Tag]) -> Result<Restored> {
        let target = made.db_cluster_identifier().unwrap_or_default();
        let status = made.status().unwrap_or_default();
        if status != "available" {
            if is_broken(status) {
                return Ok(failed(target, format!("the status of cluster {target} is {status:?}")));
            }
            let percent = made.percent_progress().map(|percent| format!(", {percent} %")).unwrap_or_default();
            return Ok(creating(target, format!("the cluster is {status}{percent}")));
        }
        let pairs = tags.iter().filter_map(|tag| tag.key().zip(tag.value()));
        let problems = asked::problems(pairs, &properties(made));
        if !problems.is_empty() {
            return Ok(failed(target, format!("cluster {target} is not as asked for: {}", problems.join("; "))));
        }
        if let Some(wanted) = value_of(tags, PARAMETERS_TAG)
            && made.db_cluster_parameter_group().is_some_and(|group| group != wanted)
        {
            let change = self.api.client(cx, RESTORE).await?.modify_db_cluster();
            let change = change.db_cluster_identifier(target).db_cluster_parameter_group_name(wanted);
            let change = change.apply_immediately(true);
            self.api.call(cx, (RESTORE, Access::Write), target, change.send()).await?;
            return Ok(creating(target, format!("it is given the parameter group {wanted}")));
        }
        let count = value_of(tags, INSTANCES_TAG).and_then(|count| count.parse().ok()).unwrap_or(1_usize);
        let there = self.instances(cx, RESTORE, target).await?;
        for number in 1..=count {
            let id = format!("{target}-{number}");
            if !there.iter().any(|instance| instance.db_instance_identifier() == Some(&id)) {
                let make = self
                    .api
                    .client(cx, RESTORE)
                    .await?
                    .create_db_instance()
                    .db_instance_identifier(&id)
                    .set_db_instance_class(value_of(tags, CLASS_TAG).map(str::to_owned))
                    .engine(&self.config.engine)
                    .db_cluster_identifier(target)
                    .set_tags(Some(self.tags(cx)));
                self.api.call(cx, (RESTORE, Access::Write), &id, make.send()).await?;
            }
        }
        let id_of = |instance: &DbInstance| instance.db_instance_identifier().unwrap_or_default().to_owned();
        let status_of =
            |instance: &DbInstance| (id_of(instance), instance.db_instance_status().unwrap_or_default().to_owned());
        let statuses: Vec<(String, String)> = there.iter().map(status_of).collect();
        if let Some((id, status)) = statuses.iter().find(|(_, status)| is_broken(status)) {
            return Ok(failed(target, format!("the status of instance {id} is {status:?}")));
        }
        let ready = statuses.iter().filter(|(_, status)| status == "available").count();
        if ready < count {
            return Ok(creating(target, format!("{ready} of {count} instances are available")));
        }
        let class = value_of(tags, CLASS_TAG).unwrap_or_default();
        if let Some(other) = there.iter().find(|instance| instance.db_instance_class().is_some_and(|is| is != class)) {
            let (id, is) = (id_of(other), other.db_instance_class().unwrap_or_default());
            return Ok(failed(target, format!("the class of instance {id} is {is}, but {class} was asked for")));
        }
        Ok(Restored { target: target.to_owned(), state: RestoreState::Available, endpoint: endpoint(made) })
    }

    /// Begins to remove what a restore made, or goes on with it.
    pub(super) async fn remove(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let Some(made) = self.cluster(cx, DISCARD, target).await? else { return Ok(true) };
        if !self.are_ours(cx, &self.tags_of(cx, DISCARD, made.db_cluster_arn()).await?) {
            let message = "it was not made by this step, and was left as it is";
            return Err(self.api.fail(ErrorKind::Refused, DISCARD, target, message));
        }
        if made.status() == Some("deleting") {
            return Ok(false);
        }
        let client = self.api.client(cx, DISCARD).await?;
        if made.deletion_protection() == Some(true) {
            let open = client.modify_db_cluster().db_cluster_identifier(target).deletion_protection(false);
            self.api.call(cx, (DISCARD, Access::Write), target, open.apply_immediately(true).send()).await?;
            return Ok(false);
        }
        for instance in self.instances(cx, DISCARD, target).await? {
            if instance.db_instance_status() != Some("deleting") {
                let id = instance.db_instance_identifier().unwrap_or_default();
                let delete = client.delete_db_instance().db_instance_identifier(id);
                absent(self.api.call(cx, (DISCARD, Access::Write), id, delete.send()).await)?;
            }
        }
        let delete = client.delete_db_cluster().db_cluster_identifier(target).skip_final_snapshot(true);
        absent(self.api.call(cx, (DISCARD, Access::Write), target, delete.send()).await)?;
        info!(cluster = %target, run = %cx.run_id(), "restored cluster is being removed");
        Ok(false)
    }
}

fn creating(target: &str, how_far: String) -> Restored {
    Restored { target: target.to_owned(), state: RestoreState::Creating(how_far), endpoint: None }
}

fn failed(target: &str, why: String) -> Restored {
    Restored { state: RestoreState::Failed(why), ..creating(target, String::new()) }
}

/// From these there is no way on without a person.
fn is_broken(status: &str) -> bool {
    let words = ["failed", "incompatible", "inaccessible", "storage-full", "deleting", "stopp"];
    words.iter().any(|word| status.contains(word))
}
