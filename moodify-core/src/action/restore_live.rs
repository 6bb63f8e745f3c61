use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::LONG;
use super::restore::{RestoreFrom, check_request, choose};
use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::{BackupRequest, BackupStoreExt, LiveRestoreRequest, RestorePoint, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Step;

/// Restores a backup into the database itself, where two persons or more agreed to that before: what is there is backed up
/// and verified first, and that backup is the way back. What a restore leaves in a database depends on its provider, so
/// nothing takes it back by itself: undone, it calls a person and names that backup.
#[derive(Debug)]
pub(super) struct RestoreLive;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The backup store, by its name among the backends.
    store: String,
    /// What is restored: a backup that whoever agrees knows, so neither a time nor whatever is the latest by then.
    from: RestoreFrom,
}

/// What a `restore-live` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredLive {
    /// The store whose database it is.
    pub store: String,
    /// The backup that was restored.
    pub backup: String,
    /// The backup of what was there before.
    pub before: String,
}

/// What must be known after a crash: what is restored, and once it is verified, the backup of what was there. From then on
/// the restore may have begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Live {
    backup: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// Whether at least two persons must have said yes before this step begins, to what `asks`.
fn is_agreed(cx: &CheckContext<'_>, asks: impl Fn(&Step) -> bool) -> bool {
    let agrees =
        |step: &Step| step.action == kinds::APPROVAL && step.with["approvals"].as_u64() >= Some(2) && asks(step);
    for phase in &cx.plan.phases {
        let here = phase.steps.iter().position(|step| step.name == cx.step.name);
        let before = match here {
            None => phase.steps.as_slice(),
            Some(_) if phase.parallel => &[],
            Some(at) => &phase.steps[..at],
        };
        if before.iter().any(agrees) {
            return true;
        }
        if here.is_some() {
            return false;
        }
    }
    false
}

/// The backup of what was there, if the restore may have begun.
fn way_back(cx: &StepContext, output: Option<&RestoredLive>) -> Option<String> {
    output.map(|done| done.before.clone()).or_else(|| cx.last_checkpoint::<Live>()?.before)
}

#[async_trait]
impl Action for RestoreLive {
    type Params = Params;
    type Output = RestoredLive;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(2 * LONG)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let invalid = |message: String| {
            Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str())
        };
        let mut wrong = check_request(cx, &params.store, &params.from, None);
        if params.from == RestoreFrom::Latest {
            let message = "whoever agrees does not know which backup will be the latest by then";
            let hint = format!(
                "take `from: approved`, and give the approval before it `restore: {{store: {}, from: latest}}`: then they are told",
                params.store
            );
            wrong.push(invalid(message.to_owned()).hint(hint));
        }
        let of_it =
            |step: &Step| step.with["restore"]["store"] == *params.store && step.with["restore"]["target"].is_null();
        if !is_agreed(cx, |_| true) {
            let message = "it changes the database that serves, and no approval by two persons comes before it";
            let hint = "put a step before it with `action: approval` and `approvals: 2` or more";
            wrong.push(invalid(message.to_owned()).hint(hint));
        } else if params.from == RestoreFrom::Approved && !is_agreed(cx, of_it) {
            let message = format!(
                "no approval before it asks two persons whether to restore from {:?} into itself",
                params.store
            );
            let hint = format!("give that approval `restore: {{store: {}, from: latest}}`", params.store);
            wrong.push(invalid(message).hint(hint));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<RestoredLive> {
        let store = cx.backends().backup_store(&params.store)?.as_ref();
        let mut live = match cx.last_checkpoint::<Live>() {
            Some(live) => live,
            None => {
                let chosen = choose(cx, store, &params.store, &params.from, None).await?;
                let RestorePoint::Backup(backup) = chosen.from else {
                    let message = "into the database itself only a backup is restored";
                    return Err(Error::new(ErrorKind::Invalid, "engine", "choose a backup", message));
                };
                let live = Live { backup, before: None };
                cx.checkpoint(&live).await?;
                live
            }
        };
        let before = match &live.before {
            Some(before) => before.clone(),
            None => {
                let before = back_up(cx, params, &live.backup).await?;
                live.before = Some(before.clone());
                cx.checkpoint(&live).await?;
                before
            }
        };
        cx.note(format!("what was there is in backup {before}: it is the way back"));
        let request = LiveRestoreRequest::agreed(&live.backup, &before);
        let seen = |restored: &Restored| cx.note(format!("{}: {}", restored.target, restored.state));
        store.wait_restored_live(&cx.call()?, &request, &seen).await.map_err(|e| {
            let hint = format!("look at what is there; what was there before is in backup {before}");
            if e.is_transient() { e } else { e.hint(hint) }
        })?;
        Ok(RestoredLive { store: params.store.clone(), backup: live.backup, before })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<RestoredLive>> {
        // Under its keys the store finds what was begun, and goes on from there.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, output: Option<&RestoredLive>) -> Result<()> {
        let Some(before) = way_back(cx, output) else {
            cx.note(format!("nothing was restored into the database of {}", params.store));
            return Ok(());
        };
        let message =
            "a backup was restored into the database itself, or a part of it, and nothing takes that back by itself";
        let error = Error::new(ErrorKind::Unsupported, "engine", "take the restore back", message);
        Err(error.on(params.store.as_str()).hint(format!("backup {before} has what was there before")))
    }

    fn by_hand(&self, cx: &StepContext, params: &Params) -> Vec<String> {
        let Some(before) = way_back(cx, None) else { return Vec::new() };
        let step = format!(
            "{{action: {}, with: {{store: {}, from: {{backup: {before}}}}}}}",
            kinds::RESTORE_LIVE,
            params.store
        );
        vec![format!("# bring back what was there before, by a plan with an approval and the step {step}")]
    }
}

/// Backs up what is there, under a key of its own, and returns the id of the verified backup.
async fn back_up(cx: &StepContext, params: &Params, backup: &str) -> Result<String> {
    let store = cx.backends().backup_store(&params.store)?;
    let call = || cx.call().map(|call| call.clone().with_key(call.key().part("before")));
    let request = BackupRequest::new().label("plan", &cx.plan().name).label("before-restore-of", backup);
    let begun = store.create(&call()?, &request).await?;
    let seen = |made: &crate::backend::Backup| cx.note(format!("what is there first: {made}"));
    store.wait_available(&call()?, &begun.id, &seen).await?;
    Ok(store.verify(&call()?, &begun.id).await?.id)
}
