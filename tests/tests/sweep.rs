//! A small sweep with every `cargo test`; `.ci/run sweep` makes a large one. The tests share the process with a switch that
//! breaks moodify on purpose, so they take turns.

use std::sync::{Mutex, PoisonError};

use moodify_core::testing::mutation::{self, Mutation};
use moodify_tests::sweep::runner::{Found, Progress, Sweep, run};
use moodify_tests::sweep::{drive, generate, report};

static TURN: Mutex<()> = Mutex::new(());

fn sweep(seed: u64, runs: u64, most: usize) -> Found {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    run(Sweep { seed, runs, threads, most }, &Progress::new(threads))
}

#[test]
fn every_case_keeps_every_promise() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = sweep(20_261_124, 3000, 1);
    if let Some(broken) = found.broken.first() {
        let trace = drive::run(&broken.case);
        panic!("{}", report::failure(broken.case.seed, &broken.case, &trace, &broken.violations[0]));
    }
    assert_eq!(found.cases, 3000);
    for outcome in ["completed", "rolled back", "refused", "needs attention"] {
        let count = found.coverage.outcomes.get(outcome).copied().unwrap_or_default();
        assert!(count > 30, "{outcome}: {count}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for number in 0..300 {
        let case = generate::case(generate::seed_of(7, number));
        let (once, again) = (drive::run(&case), drive::run(&case));
        assert_eq!(report::history(&once), report::history(&again), "seed {}", case.seed);
        let ended = |trace: &drive::Trace| report::same_every_time(&format!("{:?}", trace.ended), trace);
        assert_eq!(ended(&once), ended(&again), "seed {}", case.seed);
        assert_eq!(once.calls.len(), again.calls.len(), "seed {}", case.seed);
    }
}

#[test]
fn what_is_broken_on_purpose_is_noticed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for mutation in [Mutation::SkipGates, Mutation::ShiftBeforeCheckpoint, Mutation::LeaveCanary, Mutation::TrustNoData]
    {
        mutation::set(Some(mutation));
        let found = sweep(1, 3000, 1);
        mutation::set(None);
        assert!(!found.broken.is_empty(), "{}", mutation.name());
    }
}
