use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::{Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Action, CheckContext, Observed, StepContext, application, approval, archive, backup, bake, baseline, cache_check,
    cache_delete, cache_flush, cache_restart, cache_snapshot, cache_warm, configuration_backup, deploy_canary, exec,
    hand_over, kinds, leave, mirror, notify, probe, promote, recreate, restore, restore_live, retire_canary,
    retire_old, return_traffic, roll_batch, run_job, set_cron_jobs, shift_traffic, status_page, suspend_cron_jobs,
    switch_connection, testers, wait,
};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Step;
use crate::planfile::{self, Mistake};

/// The kinds of step that an engine knows, by name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<String, Arc<dyn Kind>>,
}

impl Registry {
    /// Knows nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Knows what moodify brings along; one line a kind.
    #[must_use]
    pub fn with_builtins() -> Self {
        Self::empty()
            .register(kinds::BASELINE, baseline::TakeBaseline)
            .register(kinds::DEPLOY_CANARY, deploy_canary::DeployCanary)
            .register(kinds::SHIFT_TRAFFIC, shift_traffic::ShiftTraffic)
            .register(kinds::ADMIT_TESTERS, testers::AdmitTesters)
            .register(kinds::DISMISS_TESTERS, testers::DismissTesters)
            .register(kinds::MIRROR, mirror::Mirror)
            .register(kinds::STOP_MIRROR, mirror::StopMirror)
            .register(kinds::BAKE, bake::Bake)
            .register(kinds::PROMOTE, promote::Promote { after_canary: true })
            .register(kinds::ROLL, promote::Promote { after_canary: false })
            .register(kinds::ROLL_BATCH, roll_batch::RollBatch)
            .register(kinds::STOP, recreate::Stop)
            .register(kinds::START, recreate::Start)
            .register(kinds::HAND_OVER, hand_over::HandOver)
            .register(kinds::RETIRE_OLD, retire_old::RetireOld)
            .register(kinds::LEAVE, leave::Leave)
            .register(kinds::RETURN_TRAFFIC, return_traffic::ReturnTraffic)
            .register(kinds::RETIRE_CANARY, retire_canary::RetireCanary)
            .register(kinds::RUN_JOB, run_job::RunJob)
            .register(kinds::SET_CRON_JOBS, set_cron_jobs::SetCronJobs)
            .register(kinds::SUSPEND_CRON_JOBS, suspend_cron_jobs::SuspendCronJobs)
            .register(kinds::RESUME_CRON_JOBS, suspend_cron_jobs::ResumeCronJobs)
            .register(kinds::PROBE, probe::ProbeEndpoint)
            .register(kinds::NOTIFY, notify::Notify)
            .register(kinds::STATUS_PAGE, status_page::UpdateStatusPage)
            .register(kinds::APPROVAL, approval::Approval)
            .register(kinds::WAIT, wait::Wait)
            .register(kinds::BACKUP, backup::MakeBackup)
            .register(kinds::RESTORE, restore::Restore)
            .register(kinds::RESTORE_LIVE, restore_live::RestoreLive)
            .register(kinds::STOP_APPLICATION, application::StopApplication)
            .register(kinds::SWITCH_CONNECTION, switch_connection::SwitchConnection)
            .register(kinds::START_APPLICATION, application::StartApplication)
            .register(kinds::EXEC, exec::Exec)
            .register(kinds::FORGET_CONNECTIONS, switch_connection::ForgetConnections)
            .register(kinds::PRUNE_BACKUPS, backup::PruneBackups)
            .register(kinds::ARCHIVE, archive::Archive)
            .register(kinds::FETCH_ARTIFACT, archive::FetchArtifact)
            .register(kinds::BACKUP_CONFIGURATION, configuration_backup::BackUpConfiguration)
            .register(kinds::RESTORE_CONFIGURATION, configuration_backup::RestoreConfiguration)
            .register(kinds::CACHE_RESTART, cache_restart::RestartCache)
            .register(kinds::CACHE_FLUSH, cache_flush::FlushCache)
            .register(kinds::CACHE_DELETE, cache_delete::DeleteFromCache)
            .register(kinds::CACHE_SNAPSHOT, cache_snapshot::SnapshotCache)
            .register(kinds::CACHE_WARM, cache_warm::WarmCache)
            .register(kinds::CACHE_CHECK, cache_check::CheckCache)
    }

    /// Knows `action` under `name` too; the newest of a name wins.
    #[must_use]
    pub fn register<A: Action>(mut self, name: &str, action: A) -> Self {
        self.kinds.insert(name.to_owned(), Arc::new(Erased(action)));
        self
    }

    /// The names that are known.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.keys().map(String::as_str)
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], with the nearest known name.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Kind>> {
        self.kinds.get(name).ok_or_else(|| {
            let nearest = self.kinds().max_by(|a, b| {
                let near = |known: &str| strsim::jaro_winkler(known, name);
                near(a).total_cmp(&near(b))
            });
            let hint = nearest.map(|n| format!("did you mean {n:?}?")).unwrap_or_default();
            let known: Vec<&str> = self.kinds().collect();
            let message = format!("there is no action {name:?}; known are: {}", known.join(", "));
            Error::new(ErrorKind::Unsupported, "engine", "find an action", message).hint(hint)
        })
    }
}

/// An [`Action`] whose types are forgotten: what the engine drives.
#[async_trait]
pub trait Kind: Send + Sync + fmt::Debug {
    /// See [`Action::has_effects`].
    fn has_effects(&self) -> bool;
    /// See [`Action::is_pivot`].
    fn is_pivot(&self) -> bool;
    /// See [`Action::is_observer`].
    fn is_observer(&self) -> bool;
    /// See [`Action::deadline`]; `None` also if the parameters cannot be read.
    fn deadline(&self, params: &Value) -> Option<Duration>;
    /// The JSON Schema of the parameters.
    fn params_schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Whether the parameters can be read.
    ///
    /// # Errors
    /// Everything that is wrong with them, by JSON pointer.
    fn read_params(&self, params: &Value) -> std::result::Result<(), Vec<Mistake>>;
    /// See [`Action::check`].
    ///
    /// # Errors
    /// One for each thing that is wrong.
    async fn check(&self, cx: &CheckContext<'_>) -> std::result::Result<(), Vec<Error>>;
    /// See [`Action::execute`].
    ///
    /// # Errors
    /// The action's.
    async fn execute(&self, cx: &StepContext) -> Result<Value>;
    /// See [`Action::observe`].
    ///
    /// # Errors
    /// The action's.
    async fn observe(&self, cx: &StepContext) -> Result<Observed<Value>>;
    /// See [`Action::undo`].
    ///
    /// # Errors
    /// The action's.
    async fn undo(&self, cx: &StepContext, output: Option<&Value>) -> Result<()>;
    /// See [`Action::by_hand`].
    fn by_hand(&self, cx: &StepContext) -> Vec<String>;
}

#[derive(Debug)]
struct Erased<A>(A);

/// A step without `with` has parameters that are all left out.
fn or_empty(params: &Value) -> Value {
    if params.is_null() { Value::Object(serde_json::Map::new()) } else { params.clone() }
}

fn unreadable(step: &Step, e: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Invalid, "engine", "read the step's parameters", e.to_string()).on(step.name.as_str())
}

fn params<A: Action>(cx: &StepContext) -> Result<Arc<A::Params>> {
    cx.step.params(or_empty).map_err(|e| unreadable(&cx.step, &e))
}

fn to_value(cx: &StepContext, output: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(output).map_err(|e| {
        Error::new(ErrorKind::Internal, "engine", "write the step's output", e.to_string()).on(cx.step().name.as_str())
    })
}

#[async_trait]
impl<A: Action> Kind for Erased<A> {
    fn has_effects(&self) -> bool {
        self.0.has_effects()
    }

    fn is_pivot(&self) -> bool {
        self.0.is_pivot()
    }

    fn is_observer(&self) -> bool {
        self.0.is_observer()
    }

    fn deadline(&self, params: &Value) -> Option<Duration> {
        A::Params::deserialize(or_empty(params)).ok().and_then(|params| self.0.deadline(&params))
    }

    fn params_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<A::Params>()
    }

    fn read_params(&self, params: &Value) -> std::result::Result<(), Vec<Mistake>> {
        planfile::from_value::<A::Params>(&or_empty(params)).map(drop)
    }

    async fn check(&self, cx: &CheckContext<'_>) -> std::result::Result<(), Vec<Error>> {
        let params = A::Params::deserialize(or_empty(&cx.step.with)).map_err(|e| vec![unreadable(cx.step, &e)])?;
        self.0.check(cx, &params).await
    }

    async fn execute(&self, cx: &StepContext) -> Result<Value> {
        let output = self.0.execute(cx, &*params::<A>(cx)?).await?;
        to_value(cx, &output)
    }

    async fn observe(&self, cx: &StepContext) -> Result<Observed<Value>> {
        Ok(match self.0.observe(cx, &*params::<A>(cx)?).await? {
            Observed::Done(output) => Observed::Done(to_value(cx, &output)?),
            Observed::NotDone => Observed::NotDone,
        })
    }

    async fn undo(&self, cx: &StepContext, output: Option<&Value>) -> Result<()> {
        let output: Option<A::Output> = match output {
            Some(value) => Some(A::Output::deserialize(value).map_err(|e| {
                Error::new(ErrorKind::Internal, "engine", "read the step's output", e.to_string())
                    .on(cx.step().name.as_str())
            })?),
            None => None,
        };
        self.0.undo(cx, &*params::<A>(cx)?, output.as_ref()).await
    }

    fn by_hand(&self, cx: &StepContext) -> Vec<String> {
        params::<A>(cx).map(|params| self.0.by_hand(cx, &params)).unwrap_or_default()
    }
}
