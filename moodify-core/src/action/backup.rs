use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Backup, BackupCapabilities, BackupRequest, BackupStoreExt, Retention};
use crate::error::{Error, ErrorKind, Result};

/// How long a backup or a restore may take if the plan does not say.
pub(super) const LONG: Duration = Duration::from_secs(2 * 3600);

/// Whether the store is there and can do what is asked of it.
pub(super) fn check(
    cx: &CheckContext<'_>,
    store: &str,
    what: &str,
    can: impl FnOnce(BackupCapabilities) -> bool,
) -> Result<()> {
    if can(cx.backends.backup_store(store)?.capabilities()) {
        return Ok(());
    }
    let message = format!("the backup store {store:?} cannot {what}");
    Err(Error::new(ErrorKind::Unsupported, "engine", "check the step", message).on(cx.step.name.as_str()))
}

/// Makes a backup, waits until it is complete, and verifies it. Undone, the backup is kept: it takes nothing from what
/// serves, and whoever looks for the cause of a failed release may want it.
#[derive(Debug)]
pub(super) struct MakeBackup;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The backup store, by its name among the backends.
    store: String,
}

/// What a `backup` step gives to later ones: a backup that exists, as it was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedBackup {
    /// The store that has it.
    pub store: String,
    /// The backup.
    pub backup: Backup,
    /// When it was verified.
    pub verified: Timestamp,
}

#[async_trait]
impl Action for MakeBackup {
    type Params = Params;
    type Output = VerifiedBackup;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(LONG)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        check(cx, &params.store, "make backups", |can| can.create).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<VerifiedBackup> {
        let store = cx.backends().backup_store(&params.store)?;
        let request = BackupRequest::new().label("plan", &cx.plan().name);
        let begun = store.create(&cx.call()?, &request).await?;
        store.wait_available(&cx.call()?, &begun.id, &|backup| cx.note(backup.to_string())).await?;
        let backup = store.verify(&cx.call()?, &begun.id).await?;
        Ok(VerifiedBackup { store: params.store.clone(), backup, verified: cx.clock().now() })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<VerifiedBackup>> {
        // Under its key the store finds the backup that was begun, if one was.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &Params, output: Option<&VerifiedBackup>) -> Result<()> {
        if let Some(made) = output {
            cx.note(format!("{} is kept", made.backup));
        }
        Ok(())
    }
}

/// Deletes old backups that runs have made, but none that a run may still need: its own, or one that it names, as long as
/// it has not ended or needs attention. There is no way back from that, so undoing it does nothing.
#[derive(Debug)]
pub(super) struct PruneBackups;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Prune {
    /// The backup store, by its name among the backends.
    store: String,
    /// What is kept.
    keep: Retention,
}

#[async_trait]
impl Action for PruneBackups {
    type Params = Prune;
    /// The ids of what this attempt deleted.
    type Output = Vec<String>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Prune) -> Result<(), Vec<Error>> {
        check(cx, &params.store, "delete backups", |can| can.delete).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Prune) -> Result<Vec<String>> {
        let store = cx.backends().backup_store(&params.store)?;
        let open = cx.open_runs().await?;
        let needed = |backup: &Backup| open.that_need(backup).next().is_some();
        let deleted = store.prune(&cx.call()?, &params.keep, cx.clock().now(), &needed).await?;
        cx.note(format!("{} backups deleted", deleted.len()));
        Ok(deleted)
    }

    async fn observe(&self, _: &StepContext, _: &Prune) -> Result<Observed<Vec<String>>> {
        // What is gone is not deleted twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Prune, _: Option<&Vec<String>>) -> Result<()> {
        Ok(())
    }
}
