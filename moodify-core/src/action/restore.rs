use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::approval::Approved;
use super::backup::{LONG, VerifiedBackup, check};
use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::{BackupState, BackupStore, BackupStoreExt, RestorePoint, RestoreRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Period, RunId, Step};

/// Restores a backup into a new target and waits until that answers; what serves is never touched. Undone, the target
/// that this step made is removed, and no other.
#[derive(Debug)]
pub(super) struct Restore;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The backup store, by its name among the backends.
    store: String,
    /// What is restored.
    from: RestoreFrom,
    /// The name of what is made. Nothing of that name may exist.
    target: String,
}

/// What is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::planfile::describe_variants)]
#[non_exhaustive]
pub enum RestoreFrom {
    /// The newest complete backup, whoever made it.
    Latest,
    /// The backup that an earlier step of this plan made.
    ThisRun,
    /// The backup to whose restore persons agreed in an earlier step of this plan.
    Approved,
    /// The newest complete backup that this run made.
    Run(RunId),
    /// The backup of this id.
    Backup(String),
    /// What was there at this moment.
    Time(Timestamp),
}

/// What a `restore` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredBackup {
    /// The store that it comes from.
    pub store: String,
    /// What was restored.
    pub from: RestorePoint,
    /// The name of what was made.
    pub target: String,
    /// Where it answers.
    pub endpoint: String,
    /// How old its content was when it was chosen: writes after that are not in it.
    pub age: Option<Period>,
}

/// What was chosen is restored after a crash too, whatever is the latest by then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Chosen {
    pub(super) from: RestorePoint,
    pub(super) age: Option<Period>,
    /// When its content was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
}

#[cfg(test)]
impl Chosen {
    pub(super) fn of(backup: &str) -> Self {
        Self { from: RestorePoint::Backup(backup.to_owned()), age: None, created: None, bytes: None }
    }
}

const CHOOSE: &str = "choose a backup";

fn earlier_backup(cx: &StepContext, store: &str) -> Option<String> {
    let earlier = cx.plan().steps().map(|(_, step)| step).take_while(|step| step.name != cx.step().name);
    let backups = earlier.filter(|step| step.action == kinds::BACKUP);
    let made = backups.filter_map(|step| cx.output::<VerifiedBackup>(&step.name).ok());
    made.filter(|made| made.store == store).last().map(|made| made.backup.id)
}

/// The restore to which persons agreed; without a target, into the database itself.
fn approved(cx: &StepContext, store: &str, target: Option<&str>) -> Option<Chosen> {
    let earlier = cx.plan().steps().map(|(_, step)| step).take_while(|step| step.name != cx.step().name);
    let asked = earlier.filter(|step| step.action == kinds::APPROVAL);
    let agreed = asked.filter_map(|step| cx.output::<Approved>(&step.name).ok()?.restore);
    let of_it = agreed.filter(|agreed| agreed.store == store && agreed.target.as_deref() == target);
    of_it.last().map(|agreed| agreed.chosen)
}

pub(super) async fn choose(
    cx: &StepContext,
    store: &dyn BackupStore,
    name: &str,
    from: &RestoreFrom,
    target: Option<&str>,
) -> Result<Chosen> {
    let none = |what: String| Error::new(ErrorKind::NotFound, "engine", CHOOSE, what).on(name);
    let at =
        |time| Chosen { from: RestorePoint::Time(time), age: age(cx, Some(time)), created: Some(time), bytes: None };
    let id = match from {
        RestoreFrom::Time(time) => return Ok(at(*time)),
        RestoreFrom::Approved => match approved(cx, name, target).map(|chosen| chosen.from) {
            Some(RestorePoint::Time(time)) => return Ok(at(time)),
            Some(RestorePoint::Backup(id)) => Some(id),
            None => return Err(none("nobody agreed to this restore".to_owned())),
        },
        RestoreFrom::Backup(id) => Some(id.clone()),
        RestoreFrom::ThisRun => earlier_backup(cx, name),
        RestoreFrom::Latest => store.newest(&cx.call()?).await?.map(|backup| backup.id),
        RestoreFrom::Run(run) => {
            let all = store.list(&cx.call()?).await?.into_iter();
            let mut complete = all.filter(|backup| backup.state == BackupState::Available);
            complete.find(|backup| backup.run.as_ref() == Some(run)).map(|backup| backup.id)
        }
    };
    let id = id.ok_or_else(|| match from {
        RestoreFrom::Run(run) => none(format!("the run {run} has no complete backup")),
        _ => none("there is no complete backup".to_owned()),
    })?;
    let backup = store.verify(&cx.call()?, &id).await?;
    let from = RestorePoint::Backup(id);
    Ok(Chosen { from, age: age(cx, backup.created), created: backup.created, bytes: backup.bytes })
}

/// Minutes, one that has begun being a whole one.
pub(super) fn minutes(time: Duration) -> u64 {
    time.as_secs().div_ceil(60)
}

/// What is wrong with a restore in a plan: into this target, or without one into the database itself.
pub(super) fn check_request(
    cx: &CheckContext<'_>,
    store: &str,
    from: &RestoreFrom,
    target: Option<&str>,
) -> Vec<Error> {
    let invalid =
        |message: String| Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str());
    let mut wrong = Vec::new();
    let can = match target {
        Some(_) => check(cx, store, "restore", |can| can.restore),
        None => check(cx, store, "restore into its database itself", |can| can.live && can.create),
    };
    wrong.extend(can.err());
    match (from, target) {
        (RestoreFrom::Time(_), Some(_)) => {
            let can = check(cx, store, "restore what was between two backups", |can| can.point_in_time);
            wrong.extend(can.err());
        }
        (RestoreFrom::Time(_), None) => {
            let hint = "say which: this-run, or a backup or run by name";
            wrong.push(invalid("into the database itself only a backup is restored".to_owned()).hint(hint));
        }
        _ => {}
    }
    if target.is_some_and(|target| target.trim().is_empty()) {
        wrong.push(invalid("the target has no name".to_owned()));
    }
    let earlier = || cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
    let makes = |step: &Step| step.action == kinds::BACKUP && step.with["store"] == *store;
    if *from == RestoreFrom::ThisRun && !earlier().any(makes) {
        wrong.push(invalid(format!("no step before this one makes a backup in {store:?}")));
    }
    wrong
}

fn age(cx: &StepContext, of: Option<Timestamp>) -> Option<Period> {
    Duration::try_from(cx.clock().now().duration_since(of?)).ok().map(Period::from)
}

#[async_trait]
impl Action for Restore {
    type Params = Params;
    type Output = RestoredBackup;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(LONG)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let mut wrong = check_request(cx, &params.store, &params.from, Some(&params.target));
        let mut earlier = cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
        let agrees = |step: &Step| {
            let restore = &step.with["restore"];
            step.action == kinds::APPROVAL && restore["store"] == *params.store && restore["target"] == *params.target
        };
        if params.from == RestoreFrom::Approved && !earlier.any(agrees) {
            let message =
                format!("no step before this one asks whether to restore from {:?} to this target", params.store);
            wrong.push(Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<RestoredBackup> {
        let store = cx.backends().backup_store(&params.store)?.as_ref();
        let Chosen { from, age, .. } = match cx.last_checkpoint::<Chosen>() {
            Some(chosen) => chosen,
            None => {
                let chosen = choose(cx, store, &params.store, &params.from, Some(&params.target)).await?;
                cx.checkpoint(&chosen).await?;
                chosen
            }
        };
        if let Some(age) = age {
            let minutes = minutes(age.get());
            cx.note(format!("{from} is {minutes} minutes old: what was written since is not in {}", params.target));
        }
        let request = RestoreRequest::from(from.clone(), &params.target);
        let seen = |restored: &crate::backend::Restored| cx.note(format!("{}: {}", restored.target, restored.state));
        let restored = store.wait_restored(&cx.call()?, &request, &seen).await?;
        let endpoint = restored.endpoint.unwrap_or_default();
        Ok(RestoredBackup { store: params.store.clone(), from, target: restored.target, endpoint, age })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<RestoredBackup>> {
        // Under its key the store finds what was begun, and goes on from there.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, output: Option<&RestoredBackup>) -> Result<()> {
        let store = cx.backends().backup_store(&params.store)?;
        match store.wait_discarded(&cx.call()?, &params.target).await {
            // The step failed because there was one of that name: it is somebody's.
            Err(e) if e.kind() == ErrorKind::Refused && output.is_none() => {
                cx.note(format!("{} was not made by this step, and stays", params.target));
                Ok(())
            }
            result => result,
        }
    }

    fn by_hand(&self, _: &StepContext, params: &Params) -> Vec<String> {
        vec![format!("# remove {} from {}, if this run made it", params.target, params.store)]
    }
}
