use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture, select_all};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::telemetry::{self, Attempted, Spans};
use super::{Ending, Engine, RunLog};
use crate::action::{Kind, Observed, StepContext};
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::gate;
use crate::journal::{Command, Next, Outcome, Record, RunState, StepStatus, UndoStatus};
use crate::model::{Period, PlannedStep, RetryPolicy, RunId, Step};
use crate::mutation::{self, Mutation};

/// How long a cancelled step may take to say how far it came, before it is dropped.
const GRACE: Duration = Duration::from_secs(5);
/// When the inbox is looked into again after it could not be read.
const INBOX_AGAIN: Duration = Duration::from_secs(1);
/// The most time of a step with a deadline that a crash makes forget.
const LIVED: Duration = Duration::from_secs(30);
/// How long after its deadline a step may still find out why it failed.
const AFTER_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn drive(engine: &Engine, run: &RunId, stop: &CancellationToken) -> Result<Ending> {
    let (journal, clock, feed) = (&engine.journal, &engine.clock, &engine.feed);
    let log = loop {
        let session = engine.sessions.current(journal, &engine.options.owner, engine.options.lease);
        let (journal, clock, feed) = (journal.clone(), clock.clone(), feed.clone());
        let again = match RunLog::open(journal, clock, feed, session, &engine.pipelines, run).boxed().await {
            Ok(log) => break log,
            // Whether its owner is alive is not known yet.
            Err(e) if e.kind() == ErrorKind::Refused && !stop.is_cancelled() => e.retry_after_of().ok_or(e)?,
            Err(e) => return Err(e),
        };
        let _ = stop.run_until_cancelled(tokio::time::sleep(again)).boxed().await;
    };
    let span = telemetry::run_span(&log.state());
    let _active = telemetry::Active::begin();
    let executor = Executor { engine, log: log.clone(), stop, spans: Spans::new(&span) };
    let result = async {
        tokio::select! {
            biased;
            result = executor.run() => result,
            error = executor.obey() => Err(error),
            () = outlived(&log) => log.holds().map(|()| Ending::Interrupted),
        }
    }
    .instrument(span.clone())
    .await;
    span.record("outcome", telemetry::outcome_of_run(&result));
    log.give_up().await;
    result
}

/// Ends when the run is lost, after what runs had the time to notice.
async fn outlived(log: &RunLog) {
    log.lost().cancelled().await;
    tokio::time::sleep(GRACE).boxed().await;
}

struct Executor<'a> {
    engine: &'a Engine,
    log: Arc<RunLog>,
    stop: &'a CancellationToken,
    spans: Spans<'a>,
}

/// How one attempt came to an end.
pub(super) enum Attempt<T> {
    Done(Result<T>),
    /// A person, a step beside it or the process that runs the engine wants it to stop.
    Interrupted,
}

impl Executor<'_> {
    async fn run(&self) -> Result<Ending> {
        loop {
            let next = self.log.state().next();
            if let Next::Nothing = next {
                let ended = self.log.state().ended.clone();
                let (outcome, summary) = ended.unwrap_or((Outcome::NeedsAttention, String::new()));
                return Ok(Ending::Ended(outcome, summary));
            }
            // Waiting ends at once when the run is lost.
            self.log.holds()?;
            if self.stop.is_cancelled() {
                self.log.append(Record::Stopped).await?;
                return Ok(Ending::Interrupted);
            }
            self.log.holds()?;
            match next {
                Next::Nothing => {}
                Next::Gates => self.ask_gates().await?,
                Next::Wait => self.until(|state| state.next() != Next::Wait).boxed().await,
                Next::Run(_) => self.steps().boxed().await?,
                Next::Rollback(cause) => self.log.append(Record::RollbackStarted { cause: *cause }).await?,
                Next::Undo(step) => self.undo(&step).boxed().await?,
                Next::End(outcome, summary) => {
                    let still = Next::End(outcome, summary.clone());
                    let end =
                        move |state: &RunState| (state.next() == still).then_some(Record::Ended { outcome, summary });
                    self.log.append_if(end).await?;
                }
            }
        }
    }

    /// Takes what comes into the inbox: each command is obeyed or refused, on the record. Ends only by an error.
    async fn obey(&self) -> Error {
        loop {
            match self.log.new_commands().await {
                Ok(commands) => {
                    if let Err(e) = self.take(commands).boxed().await {
                        return e;
                    }
                }
                // A journal that cannot be read just now must not end a step; what must be written still fails on its own.
                Err(e) => {
                    tracing::warn!(error = %e, "the inbox could not be read");
                    tokio::time::sleep(INBOX_AGAIN).boxed().await;
                }
            }
        }
    }

    /// Obeys or refuses commands, in order. Waits for ever if the run has ended before.
    async fn take(&self, commands: Vec<Command>) -> Result<()> {
        for command in commands {
            let decide = move |state: &RunState| {
                let refused = state.refuses(&command);
                state.ended.is_none().then_some(Record::Commanded { command, refused })
            };
            if !self.log.append_if(decide).await? {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    async fn ask_gates(&self) -> Result<()> {
        let refusals = gate::refusals(&self.log.state().plan.environment.gates, self.log.now());
        let record = if refusals.is_empty() || mutation::on(Mutation::SkipGates) {
            Record::GatesPassed
        } else {
            let summary = format!("nothing was changed; {}", refusals.join("; "));
            Record::Ended { outcome: Outcome::Refused, summary }
        };
        self.log.append(record).await
    }

    /// Waits for a state, but not when it shall stop.
    async fn until(&self, wanted: impl FnMut(&Arc<RunState>) -> bool) {
        let mut states = self.log.watch();
        tokio::select! {
            _ = states.wait_for(wanted) => {}
            () = self.stop.cancelled() => {}
            () = self.log.lost().cancelled() => {}
        }
    }

    /// Waits before the next attempt. Ends early when something else is next.
    async fn wait_for_retry(&self, step: &str, time: Duration) {
        let else_next = |state: &Arc<RunState>| match state.next() {
            Next::Run(steps) => !steps.iter().any(|s| s == step),
            Next::Undo(undo) => undo != step,
            _ => true,
        };
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.until(else_next) => {}
        }
    }

    /// Runs what is next until something else is: several steps at once if they are in a parallel phase, and beside them
    /// those that only tell people.
    async fn steps(&self) -> Result<()> {
        let beside = CancellationToken::new();
        let mut running: Vec<(String, BoxFuture<'_, Result<()>>)> = Vec::new();
        let mut states = self.log.watch();
        loop {
            let next = states.borrow_and_update().next();
            let mut wanted = match next {
                Next::Run(wanted) if !self.stop.is_cancelled() && !self.log.lost().is_cancelled() => wanted,
                _ => Vec::new(),
            };
            if wanted.is_empty() {
                beside.cancel();
            }
            if running.is_empty() && wanted.is_empty() {
                return self.log.holds();
            }
            wanted.retain(|name| running.iter().all(|(of, _)| of != name));
            running.reserve_exact(wanted.len());
            running.extend(wanted.into_iter().map(|name| (name.clone(), self.step(name, &beside).boxed())));
            tokio::select! {
                biased;
                (result, ended, _) = select_all(running.iter_mut().map(|(_, step)| step)) => {
                    drop(running.swap_remove(ended));
                    result?;
                }
                _ = states.changed() => {}
            }
        }
    }

    fn context(&self, step: &PlannedStep, deadline: Option<Instant>) -> StepContext {
        StepContext {
            log: self.log.clone(),
            step: step.clone(),
            backends: self.engine.backends.clone(),
            clock: self.engine.clock.clone(),
            deadline,
            cancel: CancellationToken::new(),
        }
    }

    /// Waits until a step is late, and says so. Records meanwhile that time passes, so that the deadline has the right
    /// rest after a crash.
    async fn late(&self, step: &Step, deadline: Instant) -> Result<Error> {
        let mut states = self.log.watch();
        let mut late = pin!(tokio::time::sleep_until(deadline + AFTER_DEADLINE));
        loop {
            tokio::select! {
                biased;
                () = &mut late => break,
                _ = states.changed() => {}
                () = tokio::time::sleep(LIVED) => self.log.append(Record::Lived).await?,
            }
        }
        let message = "it did not end by its deadline";
        let late = Error::new(ErrorKind::Timeout, "engine", "run the step", message);
        Ok(late.on(step.name.as_str()).transient(false))
    }

    /// Drives one attempt. A stop, the loss of the run and `cancel` cancel it; it has some time to say how far it came.
    async fn attend<T>(
        &self,
        cx: &StepContext,
        cancel: &CancellationToken,
        mut work: Pin<&mut (dyn Future<Output = Result<T>> + Send)>,
    ) -> Result<Attempt<T>> {
        // On the heap, as most of those who wait for long have no deadline.
        let mut late = OptionFuture::from(cx.deadline.map(|deadline| self.late(&cx.step, deadline).boxed()));
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.stop.cancelled() => {}
            () = self.log.lost().cancelled() => {}
            result = &mut work => return Ok(Attempt::Done(result)),
            Some(late) = &mut late => return late.map(|late| Attempt::Done(Err(late))),
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

    /// One attempt at a step, and the wait for the next one if it failed.
    async fn step(&self, name: String, beside: &CancellationToken) -> Result<()> {
        let (step, kind) = self.find(&name)?;
        let span = self.spans.step(&step, false);
        let result = self.step_in(&step, kind, beside).instrument(span).await;
        self.spans.end_if_over(&self.log.state(), &name);
        result
    }

    async fn step_in(&self, step: &PlannedStep, kind: Arc<dyn Kind>, beside: &CancellationToken) -> Result<()> {
        let state = self.log.state();
        // Tried once more after it had failed for good, it has its whole time again.
        let current = state.steps.get(&step.name).filter(|step| !matches!(step.status, StepStatus::Failed(_)));
        let spent = current.map_or(Duration::ZERO, |step| step.spent);
        drop(state);
        let limit = step.deadline.map(Period::get).or_else(|| kind.deadline(&step.with));
        let cx = self.context(step, limit.map(|limit| Instant::now() + limit.saturating_sub(spent)));
        // What comes before and after is on the heap for its time only: it is the attempt that may wait for hours.
        let Some(attempt) = self.begin(&cx, kind.as_ref(), beside).boxed().await? else { return Ok(()) };
        let (attempted, span) = Attempted::execute(step, attempt);
        let work = pin!(guarded(&step.name, "run the step", kind.execute(&cx)));
        let attending = pin!(self.attend(&cx, beside, work));
        match attempted.end(attending).instrument(span).await? {
            Attempt::Interrupted => Ok(()),
            Attempt::Done(result) => self.end(&cx, attempt, result).boxed().await,
        }
    }

    /// Finds out first what an attempt of unknown outcome did. Says which attempt begins now, on the record, if one does.
    async fn begin(&self, cx: &StepContext, kind: &dyn Kind, beside: &CancellationToken) -> Result<Option<u32>> {
        let step = &cx.step;
        let name = step.name.as_str();
        let (attempts, unknown) = {
            let state = self.log.state();
            state.steps.get(name).map_or((0, false), |step| (step.attempts, step.unknown))
        };
        if unknown && kind.has_effects() && !mutation::on(Mutation::RepeatWithoutObserving) {
            match self.observe(cx, kind, step, beside).await? {
                Attempt::Interrupted => return Ok(None),
                Attempt::Done(Ok(Observed::NotDone)) => {}
                Attempt::Done(Ok(Observed::Done(output))) => {
                    return self.end(cx, attempts, Ok(output)).await.map(|()| None);
                }
                Attempt::Done(Err(error)) => return self.failed(step, attempts, &error, None).await.map(|()| None),
            }
        }
        if mutation::on(Mutation::EffectBeforeRecord) && kind.has_effects() {
            let _ = kind.execute(cx).await;
        }
        let attempt = attempts + 1;
        let record = Record::StepStarted {
            step: name.to_owned(),
            attempt,
            effects: kind.has_effects(),
            pivot: kind.is_pivot(),
            observer: kind.is_observer(),
        };
        let this = name.to_owned();
        let start = move |state: &RunState| match state.next() {
            Next::Run(steps) if steps.contains(&this) => Some(record),
            _ => None,
        };
        Ok(self.log.append_if(start).await?.then_some(attempt))
    }

    /// Records how an attempt ended, and waits for the next one if there is one.
    async fn end(&self, cx: &StepContext, attempt: u32, result: Result<Value>) -> Result<()> {
        let step = &cx.step;
        match result {
            Ok(output) => self.log.append(Record::StepFinished { step: step.name.clone(), output }).await,
            Err(error) => {
                let wait = next_wait(&step.retry, attempt, &error).filter(|_| !self.is_again(&step.name));
                let in_time = cx.deadline.is_none_or(|d| Instant::now() + wait.unwrap_or_default() < d);
                self.failed(step, attempt, &error, wait.filter(|_| in_time)).await
            }
        }
    }

    /// Finds out what an attempt of unknown outcome did; asks again while that cannot be found out.
    async fn observe(
        &self,
        cx: &StepContext,
        kind: &dyn Kind,
        step: &Step,
        beside: &CancellationToken,
    ) -> Result<Attempt<Observed<Value>>> {
        let mut attempt = 1;
        loop {
            let work = pin!(guarded(&step.name, "observe the step", kind.observe(cx)));
            let seen = self.attend(cx, beside, work).await?;
            let Attempt::Done(Err(error)) = seen else { return Ok(seen) };
            let Some(wait) = next_wait(&step.retry, attempt, &error) else {
                tracing::warn!(step = step.name, attempt, %error, "it cannot be observed");
                return Ok(Attempt::Done(Err(error.effect(Effect::Unknown))));
            };
            self.wait_for_retry(&step.name, wait).await;
            if beside.is_cancelled() || self.stop.is_cancelled() {
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
        if let Some(wait) = wait {
            self.wait_for_retry(&step.name, wait).await;
        }
        Ok(())
    }

    async fn undo(&self, name: &str) -> Result<()> {
        let (step, kind) = self.find(name)?;
        let before = self.log.state().steps.get(name).cloned().unwrap_or_default();
        let attempt = match before.undo {
            UndoStatus::Running(attempt) => attempt + 1,
            _ => 1,
        };
        let output = match &before.status {
            StepStatus::Finished(output) => Some(output.value()),
            _ => None,
        };
        self.log.append(Record::UndoStarted { step: name.to_owned(), attempt }).await?;
        let options = &self.engine.options;
        // What only tells people is not worth the patience that the old version is worth.
        let (policy, limit) = match kind.is_observer() {
            true => (&step.retry, kind.deadline(&step.with).unwrap_or(options.undo_deadline)),
            false => (&options.undo, options.undo_deadline),
        };
        let cx = self.context(&step, Some(Instant::now() + limit));
        if mutation::on(Mutation::RollbackAsksMetrics) {
            cx.ask_metrics().await;
        }
        let never = CancellationToken::new();
        let span = self.spans.step(&step, true);
        let (attempted, span) = Attempted::undo(&span, &step, attempt);
        let work = pin!(guarded(name, "take the step back", kind.undo(&cx, output.as_ref())));
        let attending = pin!(self.attend(&cx, &never, work));
        let done = attempted.end(attending).instrument(span).await?;
        let over = self.undone(&step, policy, attempt, done).await;
        self.spans.end_if_over(&self.log.state(), name);
        over
    }

    /// Records how an attempt at undoing went, and waits for the next one if there is one.
    async fn undone(&self, step: &Step, policy: &RetryPolicy, attempt: u32, done: Attempt<()>) -> Result<()> {
        let name = step.name.as_str();
        match done {
            Attempt::Interrupted => Ok(()),
            Attempt::Done(Ok(())) => self.log.append(Record::UndoFinished { step: name.to_owned() }).await,
            Attempt::Done(Err(error)) => {
                // What was not well yet may be later: the old version needs time to come back.
                let hopeful = error.is_transient() || matches!(error.kind(), ErrorKind::Unhealthy | ErrorKind::Timeout);
                let again = hopeful && attempt < policy.attempts && !self.is_again(name);
                let wait = again.then(|| policy.wait_before(attempt + 1));
                let by_hand = if wait.is_some() { Vec::new() } else { self.by_hand() };
                let (error, retry_in) = (error.to_record(), wait.map(Period::from));
                let record = Record::UndoFailed { step: name.to_owned(), attempt, error, retry_in, by_hand };
                self.log.append(record).await?;
                if let Some(wait) = wait {
                    self.wait_for_retry(name, wait).await;
                }
                Ok(())
            }
        }
    }

    /// Whether the step had failed for good before, and this is its last try.
    fn is_again(&self, step: &str) -> bool {
        self.log.state().steps.get(step).is_some_and(|step| step.again)
    }

    /// Commands with which a person takes back what is still to be taken back, in order.
    fn by_hand(&self) -> Vec<String> {
        let state = self.log.state();
        let mut all = Vec::new();
        for step in state.to_undo() {
            if let Ok((step, kind)) = self.find(&step.name) {
                let cx = self.context(&step, None);
                let new = kind.by_hand(&cx).into_iter().filter(|command| !all.contains(command));
                all.extend(new.collect::<Vec<_>>());
            }
        }
        all
    }

    fn find(&self, name: &str) -> Result<(PlannedStep, Arc<dyn Kind>)> {
        let step = PlannedStep::find(&self.log.state().plan, name).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "engine", "find the step", "the plan has none of that name").on(name)
        })?;
        // A run that another program began may use actions that this one does not know: it is left as it is.
        let kind = self.engine.registry.get(&step.action)?.clone();
        Ok((step, kind))
    }
}

/// A step that panics fails like any other: the run goes on, by its record.
async fn guarded<T>(step: &str, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message = format!("it panicked, which is a defect in it: {}", said.unwrap_or("it did not say why"));
        Err(Error::new(ErrorKind::Internal, "engine", operation, message).on(step).effect(Effect::Unknown))
    })
}

/// The wait before the next attempt, if there is to be one.
fn next_wait(policy: &RetryPolicy, attempt: u32, error: &Error) -> Option<Duration> {
    let again = error.is_transient() && attempt < policy.attempts;
    again.then(|| policy.wait_before(attempt + 1).max(error.retry_after_of().unwrap_or_default()))
}
