use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Ending, Engine, RunLog};
use crate::action::{Kind, Observed, StepContext};
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::gate;
use crate::journal::{Next, Outcome, Record, RunState, StepState, StepStatus, UndoStatus};
use crate::model::{Period, RetryPolicy, RunId, Step};

/// How long a cancelled step may take to say how far it came, before it is dropped.
const GRACE: Duration = Duration::from_secs(5);
/// How long after its deadline a step may still find out why it failed.
const AFTER_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn drive(engine: &Engine, run: &RunId, stop: &CancellationToken) -> Result<Ending> {
    let options = &engine.options;
    let (journal, clock, feed) = (engine.journal.clone(), engine.clock.clone(), engine.feed.clone());
    let log = RunLog::open(journal, clock, feed, run, &options.owner, options.lease).await?;
    let (paused, _) = watch::channel(log.state().paused.is_some());
    let executor = Executor { engine, log: log.clone(), stop, paused };
    let result = tokio::select! {
        biased;
        result = executor.run() => result,
        () = keep(&log) => log.holds().map(|()| Ending::Interrupted),
    };
    log.give_up().await;
    result
}

/// Keeps the lease; ends when it is lost, after what runs had the time to notice.
async fn keep(log: &RunLog) {
    log.keep().await;
    tokio::time::sleep(GRACE).await;
}

struct Executor<'a> {
    engine: &'a Engine,
    log: Arc<RunLog>,
    stop: &'a CancellationToken,
    paused: watch::Sender<bool>,
}

/// How one attempt came to an end.
enum Attempt<T> {
    Done(Result<T>),
    /// A person or the process that runs the engine wants it to stop.
    Interrupted,
}

impl Executor<'_> {
    async fn run(&self) -> Result<Ending> {
        loop {
            self.take_commands().await?;
            let state = self.log.state();
            let next = state.next();
            if let Next::Nothing = next {
                let (outcome, summary) = state.ended.clone().unwrap_or((Outcome::NeedsAttention, String::new()));
                return Ok(Ending::Ended(outcome, summary));
            }
            if self.stop.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            match next {
                Next::Nothing => {}
                Next::Gates => self.ask_gates(&state).await?,
                Next::Wait => self.pause(self.engine.options.inbox).await,
                Next::Run(step) => self.step(&state, &step).await?,
                Next::Rollback(cause) => self.log.append(Record::RollbackStarted { cause }).await?,
                Next::Undo(step) => self.undo(&state, &step).await?,
                Next::End(outcome, summary) => self.log.append(Record::Ended { outcome, summary }).await?,
            }
        }
    }

    /// Takes what is new in the inbox: each command is obeyed or refused, on the record.
    async fn take_commands(&self) -> Result<()> {
        // A journal that cannot be read just now must not end a step; what must be written still fails on its own.
        let commands = match self.log.new_commands().await {
            Ok(commands) => commands,
            Err(e) => {
                tracing::warn!(error = %e, "the inbox could not be read");
                return Ok(());
            }
        };
        for command in commands {
            let state = self.log.state();
            if state.ended.is_some() {
                return Ok(());
            }
            let refused = state.refuses(command.kind);
            self.log.append(Record::Commanded { command, refused }).await?;
            self.paused.send_replace(self.log.state().paused.is_some());
        }
        Ok(())
    }

    async fn ask_gates(&self, state: &RunState) -> Result<()> {
        let refusals = gate::refusals(&state.plan.environment.gates, self.log.now());
        let record = if refusals.is_empty() {
            Record::GatesPassed
        } else {
            let summary = format!("nothing was changed; {}", refusals.join("; "));
            Record::Ended { outcome: Outcome::Refused, summary }
        };
        self.log.append(record).await
    }

    /// Waits, but not when it shall stop.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stop.cancelled() => {}
            () = self.log.lost().cancelled() => {}
        }
    }

    /// Waits before the next attempt, and obeys commands meanwhile. Ends early when an abort changes what is next.
    async fn wait_for_retry(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let aborted = || {
            let state = self.log.state();
            state.abort.is_some() && state.rollback.is_none()
        };
        while Instant::now() < until && !self.stop.is_cancelled() && !aborted() {
            self.pause(self.engine.options.inbox.min(until - Instant::now())).await;
            self.take_commands().await?;
        }
        Ok(())
    }

    fn context(&self, state: &RunState, step: &Step, deadline: Option<Instant>) -> StepContext {
        StepContext {
            log: self.log.clone(),
            plan: state.plan.clone(),
            step: step.clone(),
            backends: self.engine.backends.clone(),
            clock: self.engine.clock.clone(),
            deadline,
            cancel: CancellationToken::new(),
            paused: self.paused.subscribe(),
        }
    }

    /// Drives one attempt, and obeys commands meanwhile. An abort, a stop and the loss of the run cancel it; it has
    /// some time to say how far it came.
    async fn attend<T>(
        &self,
        cx: &StepContext,
        abortable: bool,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Attempt<T>> {
        let mut work = pin!(work);
        let deadline = cx.deadline.map(|d| d + AFTER_DEADLINE);
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut late = pin!(late);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return Ok(Attempt::Done(result)),
                () = self.stop.cancelled() => break,
                () = self.log.lost().cancelled() => break,
                () = &mut late => {
                    let message = "it did not end by its deadline";
                    let late = Error::new(ErrorKind::Timeout, "engine", "run the step", message);
                    return Ok(Attempt::Done(Err(late.on(cx.step.name.as_str()).transient(false))));
                }
                () = tokio::time::sleep(self.engine.options.inbox) => {
                    self.take_commands().await?;
                    if abortable && self.log.state().abort.is_some() {
                        break;
                    }
                }
            }
        }
        cx.cancel.cancel();
        let result = tokio::time::timeout(GRACE, &mut work).await;
        self.log.holds()?;
        match result {
            // It was done before it noticed.
            Ok(Ok(output)) => Ok(Attempt::Done(Ok(output))),
            _ => Ok(Attempt::Interrupted),
        }
    }

    async fn step(&self, state: &RunState, name: &str) -> Result<()> {
        let (step, kind) = self.find(state, name)?;
        let before = state.steps.get(name).cloned().unwrap_or_default();
        let limit = step.deadline.map(Period::get).or_else(|| kind.deadline(&step.with));
        let deadline = limit.map(|limit| Instant::now() + limit.saturating_sub(before.spent));
        let cx = self.context(state, &step, deadline);
        if before.unknown && kind.has_effects() {
            match self.observe(&cx, kind.as_ref(), &step, &before).await? {
                Attempt::Interrupted => return Ok(()),
                Attempt::Done(Ok(Observed::NotDone)) => {}
                Attempt::Done(Ok(Observed::Done(output))) => {
                    return self.log.append(Record::StepFinished { step: name.to_owned(), output }).await;
                }
                Attempt::Done(Err(error)) => return self.failed(&step, before.attempts, &error, None).await,
            }
        }
        let attempt = before.attempts + 1;
        let record = Record::StepStarted {
            step: name.to_owned(),
            attempt,
            effects: kind.has_effects(),
            pivot: kind.is_pivot(),
            observer: kind.is_observer(),
        };
        self.log.append(record).await?;
        match self.attend(&cx, true, kind.execute(&cx)).await? {
            Attempt::Interrupted => Ok(()),
            Attempt::Done(Ok(output)) => self.log.append(Record::StepFinished { step: name.to_owned(), output }).await,
            Attempt::Done(Err(error)) => {
                let wait = next_wait(&step.retry, attempt, &error);
                let in_time = deadline.is_none_or(|d| Instant::now() + wait.unwrap_or_default() < d);
                self.failed(&step, attempt, &error, wait.filter(|_| in_time)).await
            }
        }
    }

    /// Finds out what an attempt of unknown outcome did; asks again while that cannot be found out.
    async fn observe(
        &self,
        cx: &StepContext,
        kind: &dyn Kind,
        step: &Step,
        before: &StepState,
    ) -> Result<Attempt<Observed<Value>>> {
        let mut attempt = 1;
        loop {
            let seen = self.attend(cx, true, kind.observe(cx)).await?;
            let Attempt::Done(Err(error)) = seen else { return Ok(seen) };
            let Some(wait) = next_wait(&step.retry, attempt, &error) else {
                tracing::warn!(step = %step.name, attempts = before.attempts, %error, "it cannot be observed");
                return Ok(Attempt::Done(Err(error.effect(Effect::Unknown))));
            };
            self.wait_for_retry(wait).await?;
            if self.log.state().abort.is_some() || self.stop.is_cancelled() {
                return Ok(Attempt::Interrupted);
            }
            attempt += 1;
        }
    }

    async fn failed(&self, step: &Step, attempt: u32, error: &Error, wait: Option<Duration>) -> Result<()> {
        if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Storage | ErrorKind::Corrupt)
            && error.to_record().backend == "journal"
        {
            // Not the step's failure: the journal's. Nothing can be recorded, so nothing more is done.
            return Err(Error::new(error.kind(), "journal", "record the step", error.message().to_owned())
                .on(step.name.as_str())
                .hint("mend the journal and resume"));
        }
        let (name, retry_in) = (step.name.clone(), wait.map(Period::from));
        self.log.append(Record::StepFailed { step: name, attempt, error: error.to_record(), retry_in }).await?;
        match wait {
            Some(wait) => self.wait_for_retry(wait).await,
            None => Ok(()),
        }
    }

    async fn undo(&self, state: &RunState, name: &str) -> Result<()> {
        let (step, kind) = self.find(state, name)?;
        let before = &state.steps[name];
        let attempt = match before.undo {
            UndoStatus::Running(attempt) => attempt + 1,
            _ => 1,
        };
        let output = match &before.status {
            StepStatus::Finished(output) => Some(output),
            _ => None,
        };
        self.log.append(Record::UndoStarted { step: name.to_owned(), attempt }).await?;
        let cx = self.context(state, &step, Some(Instant::now() + self.engine.options.undo_deadline));
        match self.attend(&cx, false, kind.undo(&cx, output)).await? {
            Attempt::Interrupted => Ok(()),
            Attempt::Done(Ok(())) => self.log.append(Record::UndoFinished { step: name.to_owned() }).await,
            Attempt::Done(Err(error)) => {
                // What was not well yet may be later: the old version needs time to come back.
                let policy = &self.engine.options.undo;
                let hopeful = error.is_transient() || matches!(error.kind(), ErrorKind::Unhealthy | ErrorKind::Timeout);
                let wait = (hopeful && attempt < policy.attempts).then(|| policy.wait_before(attempt + 1));
                let (step, error, retry_in) = (name.to_owned(), error.to_record(), wait.map(Period::from));
                self.log.append(Record::UndoFailed { step, attempt, error, retry_in }).await?;
                match wait {
                    Some(wait) => self.wait_for_retry(wait).await,
                    None => Ok(()),
                }
            }
        }
    }

    fn find(&self, state: &RunState, name: &str) -> Result<(Step, Arc<dyn Kind>)> {
        let step = state.plan.step(name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "engine", "find the step", "the plan has none of that name").on(name)
        })?;
        // A run that another program began may use actions that this one does not know: it is left as it is.
        let kind = self.engine.registry.get(&step.action)?.clone();
        Ok((step, kind))
    }
}

/// The wait before the next attempt, if there is to be one.
fn next_wait(policy: &RetryPolicy, attempt: u32, error: &Error) -> Option<Duration> {
    let again = error.is_transient() && attempt < policy.attempts;
    again.then(|| policy.wait_before(attempt + 1).max(error.retry_after_of().unwrap_or_default()))
}
