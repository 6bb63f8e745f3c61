use aws_sdk_docdb::types::DbClusterSnapshot;
use moodify_core::backend::{Backup, BackupState};

use crate::client::time_of;
use crate::config::DocumentDbConfig;
use crate::names::run_of;

pub(super) fn backup(snapshot: &DbClusterSnapshot) -> Backup {
    let percent = snapshot.percent_progress().and_then(|percent| u8::try_from(percent).ok());
    let state = match snapshot.status() {
        Some("available") => BackupState::Available,
        Some("creating" | "copying") | None => BackupState::Creating(percent),
        Some(other) => BackupState::Failed(format!("its status is {other:?}")),
    };
    let id = snapshot.db_cluster_snapshot_identifier().unwrap_or_default();
    Backup {
        id: id.to_owned(),
        source: snapshot.db_cluster_identifier().unwrap_or_default().to_owned(),
        state,
        created: snapshot.snapshot_create_time().and_then(time_of),
        bytes: None,
        encrypted: snapshot.storage_encrypted(),
        engine: snapshot
            .engine()
            .map(|engine| format!("{engine} {}", snapshot.engine_version().unwrap_or_default()).trim_end().to_owned()),
        run: run_of(id),
        cost: None,
    }
}

/// What is wrong with a snapshot as a backup of the configured cluster.
pub(super) fn problems(config: &DocumentDbConfig, snapshot: &DbClusterSnapshot) -> Vec<String> {
    let backup = backup(snapshot);
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
    if backup.source != config.cluster {
        problems.push(format!("it is of cluster {:?}, not of {:?}", backup.source, config.cluster));
    }
    if snapshot.engine() != Some(&config.engine) || snapshot.engine_version().is_none_or(str::is_empty) {
        let engine = backup.engine.as_deref().unwrap_or("an unknown engine");
        problems.push(format!("it was written by {engine}, not by a version of {}", config.engine));
    }
    if backup.created.is_none() {
        problems.push("it has no time of creation".to_owned());
    }
    if config.require_encryption && backup.encrypted != Some(true) {
        problems.push("it is not encrypted (if that is meant, set require-encryption to false)".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiConfig;

    fn found(snapshot: &DbClusterSnapshot) -> String {
        let config = DocumentDbConfig::new(ApiConfig::new("eu-central-1"), "moods");
        problems(&config, snapshot).join("; ")
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
        assert_eq!(found(&good().build()), "");
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
            let found = found(&bad.build());
            assert!(found.contains(why), "{why}: {found}");
        }
    }
}
