//! What really happened in the cases of a sweep: a kind of trouble that never hit was not tried.

use std::collections::BTreeMap;

use moodify_core::journal::{CommandKind, Outcome, Record};
use moodify_core::testing::{BackendKind, Behaviour, Call, Edited, Fault};

use super::case::{Case, Flaw, LifeEnd, ms};
use super::drive::{Death, Trace};
use super::generate::BACKENDS;

/// How many cases each thing happened in.
#[derive(Debug, Clone)]
pub struct Coverage {
    /// By outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// By kind of trouble.
    pub hits: BTreeMap<String, u64>,
}

const FAULTS: [&str; 8] =
    ["error before", "error after", "hang before", "hang after", "stall", "stale read", "duplicate", "late"];

fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::ErrorBefore(_) => "error before",
        Fault::ErrorAfter(_) => "error after",
        Fault::Hang { effect: false } => "hang before",
        Fault::Hang { effect: true } => "hang after",
        Fault::Stall(_) => "stall",
        Fault::Stale(_) => "stale read",
        Fault::Duplicate => "duplicate",
        _ => "late",
    }
}

const ENDS: [&str; 10] = [
    "killed at a time",
    "killed before a record",
    "killed after a record",
    "killed after a change",
    "journal fails before",
    "journal fails after",
    "journal hiccup",
    "stopped",
    "deaf",
    "cut off",
];

fn end(end: LifeEnd) -> &'static str {
    match end {
        LifeEnd::KilledAt(_) => "killed at a time",
        LifeEnd::KilledAtRecord(_, false) => "killed before a record",
        LifeEnd::KilledAtRecord(_, true) => "killed after a record",
        LifeEnd::KilledAtChange(_) => "killed after a change",
        LifeEnd::JournalFails(_, false) => "journal fails before",
        LifeEnd::JournalFails(_, true) => "journal fails after",
        LifeEnd::JournalHiccup(..) => "journal hiccup",
        LifeEnd::Stopped(_) => "stopped",
        LifeEnd::Deaf(_) => "deaf",
        LifeEnd::CutOff(..) => "cut off",
    }
}

const BEHAVIOURS: [&str; 7] = ["errors", "slow", "crash loop", "never ready", "unready", "no metrics", "figure"];

fn behaviour(behaviour: &Behaviour) -> &'static str {
    match behaviour {
        b if b.error_rate.is_some() => "errors",
        b if b.latency_p95.is_some() => "slow",
        b if b.crash_loop => "crash loop",
        b if b.never_ready => "never ready",
        b if b.unready.is_some() => "unready",
        b if b.no_metrics => "no metrics",
        _ => "figure",
    }
}

const COMMANDS: [CommandKind; 6] = [
    CommandKind::Pause,
    CommandKind::Continue,
    CommandKind::Abort,
    CommandKind::Approve,
    CommandKind::Reject,
    CommandKind::Skip,
];
const EDITS: [Edited; 3] = [Edited::Canary, Edited::Route, Edited::StableReplicas];
const OTHERS: [&str; 9] = [
    "take-over of a living engine",
    "metric source down",
    "not a number",
    "clock jump",
    "gate closed",
    "way back",
    "release taken back",
    "release not taken back",
    "killed while it takes a release back",
];

fn hit_by_partition(case: &Case, call: &Call) -> bool {
    call.fault.is_none()
        && call.outcome == Some(Err(moodify_core::ErrorKind::Unavailable))
        && case
            .partitions
            .iter()
            .any(|(backend, from, to)| *backend == call.backend && ms(*from) <= call.at + ms(10) && call.at < ms(*to))
}

impl Default for Coverage {
    fn default() -> Self {
        let faults = FAULTS.iter().map(|name| format!("fault: {name}"));
        let partitions = BACKENDS.iter().map(|backend| format!("unreachable: {backend}"));
        let ends = ENDS.iter().map(|name| format!("engine: {name}"));
        let behaviours = BEHAVIOURS.iter().map(|name| format!("version: {name}"));
        let commands = COMMANDS.iter().map(|kind| format!("command: {kind}"));
        let edits = EDITS.iter().map(|what| format!("edit: {what:?}"));
        let flaws = Flaw::ALL.iter().map(|flaw| format!("plan: {flaw:?}"));
        let others = OTHERS.iter().map(|name| (*name).to_owned());
        let all = faults.chain(partitions).chain(ends).chain(behaviours).chain(commands);
        let all = all.chain(edits).chain(flaws).chain(others);
        Self { outcomes: BTreeMap::new(), hits: all.map(|name| (name, 0)).collect() }
    }
}

impl Coverage {
    /// Counts a case.
    pub fn count(&mut self, case: &Case, trace: &Trace) {
        let outcome = match (&trace.ended, &trace.refused) {
            (Some((outcome, _)), _) => outcome.to_string(),
            (None, Some(_)) => "refused when checked".to_owned(),
            (None, None) => "none".to_owned(),
        };
        *self.outcomes.entry(outcome).or_default() += 1;
        let mut happened = std::collections::BTreeSet::new();
        happened.extend(trace.calls.iter().filter_map(|call| call.fault).map(|f| format!("fault: {}", fault(f))));
        let unreachable = trace.calls.iter().filter(|call| hit_by_partition(case, call));
        happened.extend(unreachable.map(|call| format!("unreachable: {}", call.backend)));
        let lives = trace.lives.iter().filter(|life| life.hit);
        happened.extend(lives.filter_map(|life| life.end).map(|e| format!("engine: {}", end(e))));
        let new = |flow: &moodify_core::testing::Flow| flow.shares.keys().any(|image| image.tag() == Some("new"));
        let tried = trace.flows.iter().any(new) || trace.calls.iter().any(|call| call.operation == "deploy");
        happened.extend(case.behaviours.iter().filter(|_| tried).map(|b| format!("version: {}", behaviour(b))));
        for logged in &trace.log {
            match &logged.entry.record {
                Record::Commanded { command, refused: None } => {
                    happened.insert(format!("command: {}", command.kind));
                }
                Record::RollbackStarted { .. } => {
                    happened.insert("way back".to_owned());
                }
                _ => {}
            }
        }
        for edit in &case.edits {
            if trace.writes.iter().any(|write| write.backend.is_none() && write.subject == edit.service) {
                happened.insert(format!("edit: {:?}", edit.what));
            }
        }
        if trace.refused.is_some() {
            happened.extend(case.flaw.map(|flaw| format!("plan: {flaw:?}")));
        }
        let replaced =
            |number: usize| matches!(trace.lives.get(number).map(|life| &life.death), Some(Death::Replaced(_)));
        if trace.taken.windows(2).any(|pair| pair[1].0 > pair[0].0 && replaced(pair[0].0)) {
            happened.insert("take-over of a living engine".to_owned());
        }
        if case.outage.is_some() && trace.calls.iter().any(is_down) {
            happened.insert("metric source down".to_owned());
        }
        if trace.asked.iter().any(|asked| asked.value.is_some_and(f64::is_nan)) {
            happened.insert("not a number".to_owned());
        }
        if case.jumps.iter().any(|(at, _)| ms(*at) <= trace.end) {
            happened.insert("clock jump".to_owned());
        }
        if let Some(undone) = &trace.undone {
            let how = if matches!(undone.ended, Ok((Outcome::Completed, _))) { "taken" } else { "not taken" };
            happened.insert(format!("release {how} back"));
            if undone.killed {
                happened.insert("killed while it takes a release back".to_owned());
            }
        }
        let passed = trace.log.iter().any(|logged| matches!(logged.entry.record, Record::GatesPassed));
        if !passed && trace.refused.is_none() {
            happened.insert("gate closed".to_owned());
        }
        for name in happened {
            *self.hits.entry(name).or_default() += 1;
        }
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        let pairs = [(&mut self.outcomes, &other.outcomes), (&mut self.hits, &other.hits)];
        for (into, from) in pairs {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
    }

    /// What never happened.
    #[must_use]
    pub fn missing(&self) -> Vec<&str> {
        self.hits.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name.as_str()).collect()
    }
}

fn is_down(call: &Call) -> bool {
    call.backend == BackendKind::MetricSource
        && call.fault.is_none()
        && call.outcome == Some(Err(moodify_core::ErrorKind::Unavailable))
}
