//! The promises of the design, as things that must be true of all that happened in a case.

mod ending;
mod secrets;
mod steps;
mod traffic;
mod undo;

use std::fmt;
use std::time::Duration;

use moodify_core::journal::{CommandKind, Entry, Record};
use moodify_core::model::{ImageRef, Plan};
use moodify_core::testing::{BackendKind, Call, Fault, ServiceView, Write};

use super::case::{Case, ms};
use super::drive::Trace;
use super::journal::Logged;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, by its number in the design.
    pub promise: u8,
    /// What does not hold, in short: the same for the same defect.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "promise {}: {}: {}", self.promise, self.invariant, self.text)
    }
}

/// Everything that does not hold.
#[must_use]
pub fn check(case: &Case, trace: &Trace) -> Vec<Violation> {
    let mut facts = Facts::new(case, trace);
    if facts.checked() {
        facts.journal();
        facts.gates();
        facts.attempts();
        facts.measured();
        facts.fenced();
        facts.allowed();
        facts.way_back();
        facts.ending();
        facts.undone();
    }
    facts.secrets();
    facts.violations
}

/// A case, its trace, and what follows from them.
struct Facts<'a> {
    case: &'a Case,
    trace: &'a Trace,
    plan: Plan,
    violations: Vec<Violation>,
}

impl<'a> Facts<'a> {
    fn new(case: &'a Case, trace: &'a Trace) -> Self {
        Self { case, trace, plan: case.plan(), violations: Vec::new() }
    }

    fn broken(&mut self, promise: u8, invariant: &'static str, text: impl Into<String>) {
        self.violations.push(Violation { promise, invariant, text: text.into() });
    }

    fn entries(&self) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.trace.log.iter().map(|logged| &logged.entry)
    }

    /// When the first record of this kind became durable.
    fn first(&self, wanted: impl Fn(&Record) -> bool) -> Option<Duration> {
        self.trace.log.iter().find(|logged| wanted(&logged.entry.record)).map(|logged| logged.at)
    }

    fn rollback(&self) -> Option<Duration> {
        self.first(|record| matches!(record, Record::RollbackStarted { .. }))
    }

    /// When the run ended, or when nobody waited for that any longer.
    fn over(&self) -> Duration {
        self.first(|record| matches!(record, Record::Ended { .. })).unwrap_or(self.trace.end)
    }

    fn action(&self, step: &str) -> &str {
        self.plan.step(step).map_or("", |step| step.action.as_str())
    }

    /// The image that ships.
    fn new_image(&self, service: &str) -> Option<ImageRef> {
        self.plan.release.service(service).map(|service| service.image.clone())
    }

    fn is_ratio(&self, service: &str) -> bool {
        self.case.service_index(service).is_some_and(|index| self.case.services[index].by_ratio)
    }

    fn at_first(&self, service: &str) -> Option<&'a ServiceView> {
        self.trace.at_first.iter().find(|view| view.name == service)
    }

    fn edits(&self) -> impl Iterator<Item = &'a Write> + use<'a> {
        let trace = self.trace;
        let is_one = |write: &Write| {
            let weight = write.what.strip_prefix("weight of ").and_then(|rest| rest.split(" to ").nth(1));
            let before = trace.flows.iter().rfind(|flow| flow.service == write.subject && flow.at < write.at);
            // Whoever sets what is there already changes nothing.
            weight.is_none() || before.is_none_or(|before| weight != Some(before.weight.to_string().as_str()))
        };
        self.trace.writes.iter().filter(move |write| write.backend.is_none() && is_one(write))
    }

    fn engine_writes(&self) -> impl Iterator<Item = &'a Write> + use<'a> {
        self.trace.writes.iter().filter(|write| write.backend.is_some())
    }

    /// When somebody else first edited a service.
    fn edited(&self, service: &str) -> Option<Duration> {
        self.edits().find(|write| write.subject == service).map(|write| write.at)
    }

    fn faulty(&self, backends: &'a [BackendKind]) -> impl Iterator<Item = &'a Call> + use<'a> {
        let of = move |call: &&Call| backends.contains(&call.backend);
        self.trace.calls.iter().filter(of).filter(|call| call.fault.is_some() || injected(call))
    }

    /// Whether anything went wrong with these backends.
    fn disturbed(&self, backends: &'a [BackendKind]) -> bool {
        let over = self.over();
        let unreachable =
            |(backend, from, _): &(BackendKind, u64, u64)| backends.contains(backend) && ms(*from) <= over;
        self.faulty(backends).next().is_some() || self.case.partitions.iter().any(unreachable)
    }

    /// Whether a request to the cluster may still have arrived after nobody waited for it any more; or whether a number
    /// of instances was read that is past, where the numbers are the traffic.
    fn late(&self) -> bool {
        let cluster = [BackendKind::Deployer, BackendKind::Router];
        let by_ratio = self.case.services.iter().any(|service| service.by_ratio);
        let late = |call: &Call| match call.fault {
            Some(Fault::Late(_)) => cluster.contains(&call.backend),
            Some(Fault::Stale(_)) => by_ratio && cluster.contains(&call.backend),
            _ => false,
        };
        self.trace.calls.iter().any(late)
    }

    fn accepted(&self, kind: CommandKind) -> Option<Duration> {
        self.first(|record| matches!(record, Record::Commanded { command, refused: None } if command.kind == kind))
    }

    /// Plans that cannot be done are refused before anything is done; all others are begun.
    fn checked(&mut self) -> bool {
        match (self.case.flaw, &self.trace.refused) {
            (None, None) => return true,
            (None, Some((_, why))) => self.broken(9, "a good plan is not refused", why),
            (Some(flaw), None) => self.broken(9, "a bad plan is refused when it is checked", format!("{flaw:?}")),
            (Some(flaw), Some(_)) if !self.trace.calls.is_empty() || !self.trace.log.is_empty() => {
                self.broken(9, "a refused plan does nothing", format!("{flaw:?}"));
            }
            (Some(_), Some(_)) => {}
        }
        false
    }
}

/// Whether a call failed because its backend was unreachable.
fn injected(call: &Call) -> bool {
    call.outcome == Some(Err(moodify_core::ErrorKind::Unavailable))
}

fn secs(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// The records of one step, in order.
fn of_step<'a>(log: &'a [Logged], step: &'a str) -> impl Iterator<Item = (&'a Logged, Moment<'a>)> {
    log.iter().filter_map(move |logged| {
        let moment = match &logged.entry.record {
            Record::StepStarted { step: of, .. } if of == step => Moment::Started,
            Record::StepFinished { step: of, .. } if of == step => Moment::Finished,
            Record::StepFailed { step: of, error, .. } if of == step => Moment::Failed(error),
            Record::UndoStarted { step: of, .. } if of == step => Moment::UndoStarted,
            Record::UndoFinished { step: of } if of == step => Moment::UndoFinished,
            Record::UndoFailed { step: of, error, retry_in, .. } if of == step => {
                Moment::UndoFailed(error, retry_in.is_some())
            }
            Record::Owned { .. } => Moment::Owned,
            _ => return None,
        };
        Some((logged, moment))
    })
}

/// What a record says of a step.
#[derive(Debug, Clone, Copy)]
enum Moment<'a> {
    Started,
    Finished,
    Failed(&'a moodify_core::error::ErrorRecord),
    UndoStarted,
    UndoFinished,
    UndoFailed(&'a moodify_core::error::ErrorRecord, bool),
    Owned,
}
