use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::Ending;
use super::executor::Attempt;
use crate::error::Result;
use crate::journal::{Outcome, Record, RunState, StepStatus, UndoStatus};
use crate::model::{Plan, PlannedStep, Step};

const RUNS: &str = "moodify_runs_total";
const RUNS_ACTIVE: &str = "moodify_runs_active";
const ATTEMPTS: &str = "moodify_attempts_total";
const ATTEMPT_TIME: &str = "moodify_attempt_seconds";
const RETRIES: &str = "moodify_retries_total";
const UNDO_ATTEMPTS: &str = "moodify_undo_attempts_total";
const COMMANDS: &str = "moodify_commands_total";
const APPEND_TIME: &str = "moodify_journal_append_seconds";

/// Tells the recorder of the `metrics` facade what the engine's metrics mean, and their units. Call it once, after the
/// recorder was installed; without a recorder, metrics cost next to nothing.
///
/// | metric | labels | |
/// |---|---|---|
/// | `moodify_runs_total` | `outcome` | runs that this engine brought to their end |
/// | `moodify_runs_active` | | runs that are driven now |
/// | `moodify_attempts_total` | `action`, `outcome` | attempts at steps: `finished`, `failed` or `interrupted` |
/// | `moodify_attempt_seconds` | `action` | how long they took |
/// | `moodify_retries_total` | `action` | failed attempts at steps and at undoing them after which another one follows |
/// | `moodify_undo_attempts_total` | `action`, `outcome` | attempts at undoing steps |
/// | `moodify_commands_total` | `command`, `obeyed` | commands that were taken: obeyed or refused |
/// | `moodify_journal_append_seconds` | | how long it took to make a record durable |
pub fn describe_metrics() {
    describe_counter!(RUNS, Unit::Count, "Runs that this engine brought to their end, by outcome");
    describe_gauge!(RUNS_ACTIVE, Unit::Count, "Runs that are driven now");
    describe_counter!(ATTEMPTS, Unit::Count, "Attempts at steps, by action and outcome");
    describe_histogram!(ATTEMPT_TIME, Unit::Seconds, "How long an attempt at a step took, by action");
    describe_counter!(RETRIES, Unit::Count, "Failed attempts after which another one follows, by action");
    describe_counter!(UNDO_ATTEMPTS, Unit::Count, "Attempts at undoing steps, by action and outcome");
    describe_counter!(COMMANDS, Unit::Count, "Commands that were taken, and whether they were obeyed");
    describe_histogram!(APPEND_TIME, Unit::Seconds, "How long it took to make a record durable");
}

/// Counts what a record says, when it is durable.
pub(super) fn count(plan: &Plan, record: &Record, took: Duration) {
    histogram!(APPEND_TIME).record(took);
    let retried = |step: &str| {
        let action = plan.step(step).map(|step| step.action.clone()).unwrap_or_default();
        counter!(RETRIES, "action" => action).increment(1);
    };
    match record {
        Record::Ended { outcome, .. } => counter!(RUNS, "outcome" => outcome_name(*outcome)).increment(1),
        Record::StepFailed { step, retry_in: Some(_), .. } | Record::UndoFailed { step, retry_in: Some(_), .. } => {
            retried(step);
        }
        Record::Commanded { command, refused } => {
            let obeyed = if refused.is_none() { "true" } else { "false" };
            counter!(COMMANDS, "command" => command.kind.to_string(), "obeyed" => obeyed).increment(1);
        }
        _ => {}
    }
}

/// As the journal writes it.
fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::RolledBack => "rolled-back",
        Outcome::Refused => "refused",
        Outcome::NeedsAttention => "needs-attention",
    }
}

pub(super) fn outcome_of_run(result: &Result<Ending>) -> &'static str {
    match result {
        Ok(Ending::Ended(outcome, _)) => outcome_name(*outcome),
        Ok(Ending::Interrupted) => "interrupted",
        Err(_) => "failed",
    }
}

/// A run that is driven, as long as it lives.
pub(super) struct Active;

impl Active {
    pub(super) fn begin() -> Self {
        gauge!(RUNS_ACTIVE).increment(1.0);
        Self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!(RUNS_ACTIVE).decrement(1.0);
    }
}

pub(super) fn run_span(state: &RunState) -> Span {
    let (plan, release) = (&state.plan.name, &state.plan.release.version);
    tracing::info_span!("run", run = %state.run, plan = plan, version = release, outcome = Empty)
}

/// The spans of a run that outlive single attempts: run > phase > step > attempt, and on the way back
/// run > phase > step > undo.
pub(super) struct Spans<'a> {
    run: &'a Span,
    /// None where nobody listens.
    open: Option<Box<Mutex<Open>>>,
}

#[derive(Default)]
struct Open {
    /// On the way back?
    back: bool,
    phase: Option<(String, Span)>,
    steps: BTreeMap<String, Span>,
}

impl<'a> Spans<'a> {
    pub(super) fn new(run: &'a Span) -> Self {
        Self { run, open: (!run.is_disabled()).then(Box::default) }
    }

    fn open(&self) -> Option<std::sync::MutexGuard<'_, Open>> {
        self.open.as_ref().map(|open| open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The span of a step, within that of its phase.
    pub(super) fn step(&self, step: &PlannedStep, back: bool) -> Span {
        let Some(mut open) = self.open() else { return Span::none() };
        if open.back != back {
            *open = Open { back, ..Open::default() };
        }
        if let Some(span) = open.steps.get(&step.name) {
            return span.clone();
        }
        let name = step.phase().name.clone();
        let current = open.phase.as_ref().filter(|(of, _)| *of == name).map(|(_, span)| span.clone());
        let phase = current.unwrap_or_else(|| {
            let span = tracing::info_span!(parent: self.run, "phase", phase = name, back, outcome = Empty);
            open.phase = Some((name, span.clone()));
            span
        });
        let (name, action) = (&step.name, &step.action);
        let span = tracing::info_span!(parent: &phase, "step", step = name, action = action, back, outcome = Empty);
        open.steps.insert(step.name.clone(), span.clone());
        span
    }

    /// Closes the span of a step that nothing more is done about, and that of its phase if it was the last one.
    pub(super) fn end_if_over(&self, state: &RunState, name: &str) {
        let Some(mut open) = self.open() else { return };
        let Some(outcome) = outcome_of_step(state, name, open.back) else { return };
        if let Some(span) = open.steps.remove(name) {
            span.record("outcome", outcome);
        }
        let Some((_, phase)) = &open.phase else { return };
        let of_phase = state.plan.phases.iter().find(|phase| phase.steps.iter().any(|step| step.name == name));
        let mut outcomes = of_phase.into_iter().flat_map(|phase| &phase.steps).map(|step| {
            // On the way back, what never began is nothing to wait for.
            let began = !open.back || state.steps.contains_key(&step.name);
            if began { outcome_of_step(state, &step.name, open.back) } else { Some(outcome) }
        });
        if outcome == "failed" || outcomes.all(|of| of.is_some()) {
            phase.record("outcome", outcome);
        }
    }
}

/// How a step ended, if it did.
fn outcome_of_step(state: &RunState, name: &str, back: bool) -> Option<&'static str> {
    let step = state.steps.get(name)?;
    match (back, &step.status, &step.undo) {
        (false, StepStatus::Finished(_), _) | (true, _, UndoStatus::Finished) => Some("finished"),
        (false, StepStatus::Failed(_), _) | (true, _, UndoStatus::Failed(_)) => Some("failed"),
        (true, ..) if !step.effects => Some("finished"),
        _ => None,
    }
}

/// An attempt that goes on.
pub(super) struct Attempted<'a> {
    undo: bool,
    action: &'a str,
    began: Instant,
}

impl<'a> Attempted<'a> {
    /// Within the span of its step, which is the current one.
    pub(super) fn execute(step: &'a Step, attempt: u32) -> (Self, Span) {
        let span = tracing::info_span!("attempt", step = step.name, attempt, outcome = Empty);
        (Self { undo: false, action: &step.action, began: Instant::now() }, span)
    }

    pub(super) fn undo(parent: &Span, step: &'a Step, attempt: u32) -> (Self, Span) {
        let span = tracing::info_span!(parent: parent, "undo", step = step.name, attempt, outcome = Empty);
        (Self { undo: true, action: &step.action, began: Instant::now() }, span)
    }

    /// Records, within its span, how it ends.
    pub(super) async fn end<T>(self, attempt: impl Future<Output = Result<Attempt<T>>>) -> Result<Attempt<T>> {
        let ended = attempt.await?;
        let outcome = match &ended {
            Attempt::Done(Ok(_)) => "finished",
            Attempt::Done(Err(_)) => "failed",
            Attempt::Interrupted => "interrupted",
        };
        Span::current().record("outcome", outcome);
        let action = self.action.to_owned();
        if self.undo {
            counter!(UNDO_ATTEMPTS, "action" => action, "outcome" => outcome).increment(1);
        } else {
            counter!(ATTEMPTS, "action" => action.clone(), "outcome" => outcome).increment(1);
            histogram!(ATTEMPT_TIME, "action" => action).record(self.began.elapsed());
        }
        Ok(ended)
    }
}
