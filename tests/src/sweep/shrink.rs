//! Makes a case smaller for as long as it still breaks the same promise: what is left is what it takes.

use super::case::{Case, GateCase, UndoCase};
use super::drive;
use super::invariants::{Violation, check};

/// How many smaller cases are tried at most.
const TRIES: usize = 3000;

/// Whether the case breaks this invariant.
fn breaks(case: &Case, invariant: &str) -> bool {
    check(case, &drive::run(case)).iter().any(|violation| violation.invariant == invariant)
}

/// The smallest case found that breaks the same invariant as `case` does, and how.
#[must_use]
pub fn shrink(case: &Case, violation: &Violation) -> (Case, Violation) {
    let mut smallest = case.clone();
    let mut tries = 0;
    loop {
        let smaller = candidates(&smallest).into_iter().find(|candidate| {
            tries += 1;
            tries <= TRIES && *candidate != smallest && breaks(candidate, violation.invariant)
        });
        match smaller {
            Some(smaller) => smallest = smaller,
            None => break,
        }
    }
    let violations = check(&smallest, &drive::run(&smallest));
    let same = violations.into_iter().find(|found| found.invariant == violation.invariant);
    (smallest, same.unwrap_or_else(|| violation.clone()))
}

/// Every list with one element less.
fn without_one<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    (0..all.len())
        .map(|i| all.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, item)| item.clone()).collect())
        .collect()
}

/// Cases that are a little smaller.
fn candidates(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut smaller = case.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    for lives in without_one(&case.lives) {
        with(&|c| c.lives.clone_from(&lives));
    }
    for rules in without_one(&case.rules) {
        with(&|c| c.rules.clone_from(&rules));
    }
    for partitions in without_one(&case.partitions) {
        with(&|c| c.partitions.clone_from(&partitions));
    }
    for behaviours in without_one(&case.behaviours) {
        with(&|c| c.behaviours.clone_from(&behaviours));
    }
    for edits in without_one(&case.edits) {
        with(&|c| c.edits.clone_from(&edits));
    }
    with(&|c| c.commands.clear());
    for commands in without_one(&case.commands) {
        with(&|c| c.commands.clone_from(&commands));
    }
    with(&|c| c.undo = None);
    if let Some(undo) = &case.undo {
        with(&|c| c.undo = Some(UndoCase { killed: None, ..undo.clone() }));
        with(&|c| c.undo = Some(UndoCase { fault: None, ..undo.clone() }));
    }
    with(&|c| c.jumps.clear());
    with(&|c| c.outage = None);
    with(&|c| c.not_a_number = None);
    with(&|c| c.gates = GateCase::None);
    for extras in without_one(&case.extras) {
        with(&|c| c.extras.clone_from(&extras));
    }
    with(&|c| c.page = false);
    with(&|c| c.parallel = false);
    if case.services.len() > 1 {
        with(&|c| c.services.truncate(c.services.len() - 1));
    }
    for weights in without_one(&case.weights) {
        if weights.last().is_some_and(|(weight, _)| *weight == 100) {
            with(&|c| c.weights.clone_from(&weights));
        }
    }
    for metrics in without_one(&case.analysis.metrics) {
        with(&|c| c.analysis.metrics.clone_from(&metrics));
    }
    with(&|c| c.keep = None);
    with(&|c| c.keep = c.keep.map(|_| 1));
    with(&|c| c.journal_time = 0);
    with(&|c| c.services.iter_mut().for_each(|service| service.replicas = if c.alone { 2 } else { 1 }));
    with(&|c| c.weights.iter_mut().for_each(|(_, seconds)| *seconds = 2));
    with(&|c| c.analysis.warm_up = 0);
    with(&|c| c.analysis.metrics.iter_mut().for_each(|metric| metric.tolerance = 0));
    for index in 0..case.lives.len() {
        with(&|c| c.lives[index].gap = 0);
    }
    for index in 0..case.rules.len() {
        with(&|c| c.rules[index].times = 1);
        with(&|c| c.rules[index].between = None);
    }
    all
}
