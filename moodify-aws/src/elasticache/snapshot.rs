use aws_sdk_elasticache::types::Snapshot;
use moodify_core::backend::{Backup, BackupState};

use crate::client::time_of;
use crate::config::{CacheId, ElastiCacheConfig};
use crate::names::run_of;

/// Whether a snapshot is of the configured cache. AWS names the nodes of a group after it, with three digits.
pub(super) fn is_of(config: &ElastiCacheConfig, snapshot: &Snapshot) -> bool {
    let node = snapshot.cache_cluster_id().unwrap_or_default();
    match &config.cache {
        CacheId::ReplicationGroup(group) => {
            let number = node.strip_prefix(group.as_str()).and_then(|rest| rest.strip_prefix('-'));
            let numbered = number.is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()));
            snapshot.replication_group_id() == Some(group) || numbered
        }
        CacheId::Cluster(id) => node == id,
        CacheId::Serverless(_) => false,
    }
}

pub(super) fn backup(config: &ElastiCacheConfig, snapshot: &Snapshot) -> Backup {
    let state = match snapshot.snapshot_status() {
        // While something is restored from it, it is as good as before.
        Some("available" | "restoring") => BackupState::Available,
        Some("creating" | "copying") | None => BackupState::Creating(None),
        Some(other) => BackupState::Failed(format!("its status is {other:?}")),
    };
    let id = snapshot.snapshot_name().unwrap_or_default();
    let source = match is_of(config, snapshot) {
        true => Some(config.cache.as_str()),
        false => snapshot.replication_group_id().or(snapshot.cache_cluster_id()),
    };
    let shards = snapshot.node_snapshots();
    let sizes: Option<Vec<u64>> = shards.iter().map(|shard| bytes(shard.cache_size()?)).collect();
    Backup {
        id: id.to_owned(),
        source: source.unwrap_or_default().to_owned(),
        state,
        created: shards.iter().filter_map(|shard| time_of(shard.snapshot_create_time()?)).max(),
        bytes: sizes.filter(|sizes| !sizes.is_empty()).map(|sizes| sizes.iter().sum()),
        encrypted: snapshot.kms_key_id().map(|_| true),
        engine: snapshot
            .engine()
            .map(|engine| format!("{engine} {}", snapshot.engine_version().unwrap_or_default()).trim_end().to_owned()),
        run: run_of(id),
        cost: None,
    }
}

/// AWS tells sizes as `5 MB`.
fn bytes(size: &str) -> Option<u64> {
    let (number, unit) = size.trim().split_once(' ')?;
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "B" | "BYTES" => 1.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    // Sizes of caches are far below where this would lose something.
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

/// What is wrong with a snapshot as a backup of the configured cache.
pub(super) fn problems(config: &ElastiCacheConfig, snapshot: &Snapshot) -> Vec<String> {
    let backup = backup(config, snapshot);
    let mut problems = Vec::new();
    match &backup.state {
        BackupState::Available => {}
        BackupState::Creating(_) => problems.push("it is still being made".to_owned()),
        BackupState::Failed(why) => problems.push(why.clone()),
    }
    if !is_of(config, snapshot) {
        problems.push(format!("it is of {:?}, not of {:?}", backup.source, config.cache.as_str()));
    }
    if snapshot.engine_version().is_none_or(str::is_empty) {
        problems.push("its engine has no version".to_owned());
    }
    let shards = snapshot.node_snapshots();
    let wanted = usize::try_from(snapshot.num_node_groups().unwrap_or(1)).unwrap_or(1).max(1);
    if shards.len() < wanted {
        problems.push(format!("it has content of {} of {wanted} shards", shards.len()));
    }
    let bad = |shard: &&aws_sdk_elasticache::types::NodeSnapshot| {
        shard.cache_size().and_then(bytes).is_none() || shard.snapshot_create_time().is_none()
    };
    for shard in shards.iter().filter(bad) {
        let id = shard.node_group_id().or(shard.cache_node_id()).unwrap_or_default();
        problems.push(format!("its part {id:?} has no size or no time"));
    }
    if let Some(key) = config.kms_key.as_deref().filter(|key| snapshot.kms_key_id() != Some(key)) {
        problems.push(format!("it is not encrypted with the key {key}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticache::primitives::DateTime;
    use aws_sdk_elasticache::types::NodeSnapshot;

    use super::*;
    use crate::config::ApiConfig;

    fn config(cache: CacheId) -> ElastiCacheConfig {
        ElastiCacheConfig::new(ApiConfig::new("eu-central-1"), cache)
    }

    fn group() -> CacheId {
        CacheId::ReplicationGroup("moods".to_owned())
    }

    fn part(size: &str) -> NodeSnapshot {
        let part = NodeSnapshot::builder().cache_node_id("0001").cache_size(size);
        part.snapshot_create_time(DateTime::from_secs(1_780_000_000)).build()
    }

    #[test]
    fn snapshots_of_a_group_are_known_by_the_group_or_by_its_nodes() {
        for (node, group_id, ours) in [
            (Some("moods-002"), None, true),
            (None, Some("moods"), true),
            (Some("moods-2"), None, false),
            (Some("moods-next-001"), None, false),
            (Some("moods"), None, false),
            (None, Some("other"), false),
        ] {
            let snapshot = Snapshot::builder()
                .set_cache_cluster_id(node.map(str::to_owned))
                .set_replication_group_id(group_id.map(str::to_owned))
                .build();
            assert_eq!(is_of(&config(group()), &snapshot), ours, "{node:?} {group_id:?}");
        }
        let single = Snapshot::builder().cache_cluster_id("moods").build();
        assert!(is_of(&config(CacheId::Cluster("moods".to_owned())), &single));
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in
            [("5 MB", Some(5 << 20)), ("1.5 GB", Some(3 << 29)), ("0 B", Some(0)), ("", None), ("5", None)]
        {
            assert_eq!(bytes(text), size, "{text}");
        }
    }

    #[test]
    fn only_a_complete_snapshot_of_ours_is_good() {
        let good = || {
            let snapshot = Snapshot::builder().snapshot_name("s").cache_cluster_id("moods-002").engine("redis");
            snapshot.engine_version("7.1.0").snapshot_status("available").node_snapshots(part("5 MB"))
        };
        let found = |snapshot: &Snapshot| problems(&config(group()), snapshot).join("; ");
        assert_eq!(found(&good().build()), "");
        assert_eq!(found(&good().snapshot_status("restoring").build()), "");
        for (bad, why) in [
            (good().snapshot_status("creating"), "still being made"),
            (good().snapshot_status("deleting"), "its status is \"deleting\""),
            (good().cache_cluster_id("other-001"), "of \"other-001\", not of \"moods\""),
            (good().set_engine_version(None), "no version"),
            (good().num_node_groups(2), "content of 1 of 2 shards"),
            (good().set_node_snapshots(None), "content of 0 of 1 shards"),
            (good().node_snapshots(part("much")), "has no size"),
        ] {
            let found = found(&bad.build());
            assert!(found.contains(why), "{why}: {found}");
        }
        let keyed = config(group()).kms_key("arn:key");
        assert_eq!(problems(&keyed, &good().build()), ["it is not encrypted with the key arn:key"]);
        assert!(problems(&keyed, &good().kms_key_id("arn:key").build()).is_empty());
    }
}
