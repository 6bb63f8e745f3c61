use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backends, MetricQuery};
use crate::clock::Clock;
use crate::context::{CallContext, IdempotencyKey};
use crate::engine::{OpenRuns, RunLog};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, ProgressKind};
use crate::journal::{Answer, Kept, Record, RunState, StepStatus, UndoStatus};
use crate::model::{Plan, PlannedStep, RunId, Step, Track};

/// What a kind of step sees when a plan is checked.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckContext<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The step.
    pub step: &'a Step,
    /// The backends.
    pub backends: &'a Backends,
}

/// What persons said about a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers {
    /// Who approved it; nobody twice.
    pub approvals: Vec<Answer>,
    /// Who rejected it.
    pub rejected: Option<Answer>,
    /// Who said that its analysis is to be skipped.
    pub skipped: Option<Answer>,
}

/// What a step sees while it runs, is observed or is undone.
#[derive(Debug)]
pub struct StepContext {
    pub(crate) log: Arc<RunLog>,
    pub(crate) step: PlannedStep,
    pub(crate) backends: Arc<Backends>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: CancellationToken,
}

/// The longest that one call to a backend may wait for something to happen when its step has no deadline.
const LONGEST_CALL: Duration = Duration::from_secs(24 * 3600);

/// The time of a call that finds out why a step failed.
const LAST_CALL: Duration = Duration::from_secs(5);

impl StepContext {
    /// The run.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.state().run.clone()
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.step.plan()
    }

    /// The step.
    #[must_use]
    pub fn step(&self) -> &Step {
        &self.step
    }

    /// The backends.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The wall clock.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    fn state(&self) -> Arc<RunState> {
        self.log.state()
    }

    /// The context of one call to a backend: the step's key, its deadline, its cancellation.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if the run is not certainly ours any more.
    pub fn call(&self) -> Result<CallContext> {
        self.log.holds()?;
        let run = self.run_id();
        let key = IdempotencyKey::new(format!("{run}/{}", self.step.name));
        let left = self.deadline.map_or(LONGEST_CALL, |d| d.saturating_duration_since(Instant::now()));
        Ok(CallContext::new(run, key, left).with_cancel(self.cancel.clone()))
    }

    /// The context of one short, reading call after the step's deadline or cancellation: to find out why.
    pub(crate) fn last_call(&self) -> Result<CallContext> {
        self.log.holds()?;
        let run = self.run_id();
        let key = IdempotencyKey::new(format!("{run}/{}", self.step.name));
        Ok(CallContext::new(run, key, LAST_CALL))
    }

    /// Whether a later step of that kind was undone already.
    pub(crate) fn later_is_undone(&self, kind: &str) -> bool {
        let state = self.state();
        let later = self.plan().steps().map(|(_, s)| s).skip_while(|s| s.name != self.step.name).skip(1);
        let mut undos = later.filter(|s| s.action == kind).filter_map(|s| state.steps.get(&s.name));
        undos.any(|s| s.undo == UndoStatus::Finished)
    }

    /// The output of an earlier step.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is none of that name, or it has another type.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        const OPERATION: &str = "read a step's output";
        let state = self.state();
        let StepStatus::Finished(value) = state.status(step) else {
            let message = format!("step {step:?} has not finished: it must come earlier in the plan");
            return Err(Error::new(ErrorKind::Invalid, "engine", OPERATION, message).on(self.step.name.as_str()));
        };
        value.read().map_err(|e| {
            let message = format!("the output of {step:?} has another type: {e}");
            Error::new(ErrorKind::Invalid, "engine", OPERATION, message).on(self.step.name.as_str())
        })
    }

    /// The output of the last finished step of that kind before this one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is none.
    pub fn output_of_kind<T: DeserializeOwned>(&self, kind: &str) -> Result<T> {
        let earlier = self.plan().steps().map(|(_, s)| s).take_while(|s| s.name != self.step.name);
        let found = earlier.filter(|s| s.action == kind).last();
        let name = found.map(|s| s.name.clone()).ok_or_else(|| {
            let message = format!("the plan has no {kind:?} step before this one");
            Error::new(ErrorKind::Invalid, "engine", "read a step's output", message).on(self.step.name.as_str())
        })?;
        self.output(&name)
    }

    /// Writes something down that this step must know after a crash; durable when it returns. Write it before the
    /// effect that it allows.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] and [`ErrorKind::Fenced`]: stop then.
    pub async fn checkpoint(&self, data: &(impl Serialize + Sync)) -> Result<()> {
        let data = serde_json::to_value(data).map_err(|e| {
            Error::new(ErrorKind::Internal, "engine", "write a checkpoint", e.to_string()).on(self.step.name.as_str())
        })?;
        self.log.append(Record::Checkpoint { step: self.step.name.clone(), data }).await
    }

    /// The last checkpoint of this step, if there is one of this type.
    #[must_use]
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Option<T> {
        let state = self.state();
        state.steps.get(&self.step.name)?.checkpoint.as_ref()?.read().ok()
    }

    /// The last checkpoint of this step as it is.
    #[must_use]
    pub fn raw_checkpoint(&self) -> Option<Value> {
        self.state().steps.get(&self.step.name)?.checkpoint.as_ref().map(Kept::value)
    }

    /// Says durably that this step waits for something that is not in its hands.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint).
    pub async fn hold(&self, reason: &str) -> Result<()> {
        let record = Record::Held { step: self.step.name.clone(), reason: reason.to_owned() };
        self.log.append(record).await
    }

    /// Takes a [`hold`](Self::hold) back.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint).
    pub async fn release(&self) -> Result<()> {
        self.log.append(Record::Released { step: self.step.name.clone() }).await
    }

    /// Whether a person has paused the run.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state().paused.is_some()
    }

    /// What persons said about this step, if it waits for that.
    #[must_use]
    pub fn answers(&self) -> Answers {
        let state = self.state();
        let step = state.steps.get(&self.step.name);
        step.map(|s| Answers {
            approvals: s.approvals.clone(),
            rejected: s.rejected.as_deref().cloned(),
            skipped: s.skipped.as_deref().cloned(),
        })
        .unwrap_or_default()
    }

    /// Tells of every change of the run: a pause, an answer, a record of this step.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<RunState>> {
        self.log.watch()
    }

    /// Waits until `wanted` is true of what persons said about this step.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub async fn answered(&self, wanted: impl Fn(&Answers) -> bool) -> Answers {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let answers = self.answers();
            if wanted(&answers) {
                return answers;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether anybody looks at progress now: who would have to wake up for it alone need not.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.log.is_watched()
    }

    /// The number of the attempt that runs.
    pub(crate) fn attempt(&self) -> u32 {
        self.state().steps.get(&self.step.name).map_or(0, |step| step.attempts)
    }

    /// When the run was created.
    pub(crate) fn created(&self) -> Timestamp {
        self.state().created
    }

    /// The steps so far that should have told people and could not.
    pub(crate) fn untold(&self) -> Vec<String> {
        let state = self.state();
        let failed = |name: &String| matches!(state.status(name), StepStatus::Failed(_));
        self.plan().steps().map(|(_, step)| step.name.clone()).filter(failed).collect()
    }

    /// Waits until every metric source has answered: what a way back must never do.
    pub(crate) async fn ask_metrics(&self) {
        for target in self.plan().targets() {
            for source in self.backends.metrics.values() {
                let query = MetricQuery::new("error-rate", target.clone(), Track::Canary, "", "");
                while let Ok(call) = self.call()
                    && source.query(&call, &query).await.is_err()
                {
                    tokio::time::sleep(LAST_CALL).await;
                }
            }
        }
    }

    /// The runs of this journal that may still need something.
    pub(crate) async fn open_runs(&self) -> Result<OpenRuns> {
        self.log.open_runs().await
    }

    /// Cancelled when the step shall stop: an abort, a deadline, an interruption.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Shows how the step is getting on. May be dropped.
    pub fn progress(&self, kind: ProgressKind) {
        self.log.progress(Progress { run: self.run_id(), step: self.step.name.clone(), kind });
    }

    /// Shows a line. May be dropped.
    pub fn note(&self, text: impl Into<String>) {
        self.progress(ProgressKind::Note { text: text.into() });
    }

    /// Waits for all of `futures` at once; the first error wins, after all have ended.
    pub(crate) async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
        futures::future::join_all(futures).await.into_iter().collect()
    }
}
