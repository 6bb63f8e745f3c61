//! Runs many cases on several threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::case::Case;
use super::coverage::Coverage;
use super::invariants::{Violation, check};
use super::{drive, generate};

/// Which cases, and how.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// Of which seed.
    pub seed: u64,
    /// How many.
    pub runs: u64,
    /// On how many threads.
    pub threads: usize,
    /// It ends after so many that break a promise.
    pub most: usize,
}

/// A case that breaks promises.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Its number in the sweep, from 0.
    pub number: u64,
    /// The case.
    pub case: Case,
    /// The promises.
    pub violations: Vec<Violation>,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Found {
    /// Cases that were run.
    pub cases: u64,
    /// What happened in them.
    pub coverage: Coverage,
    /// Those that break promises, by number.
    pub broken: Vec<Broken>,
}

/// What the threads of a sweep are at, for who looks on.
#[derive(Debug)]
pub struct Progress {
    /// Cases that are over.
    pub done: AtomicU64,
    /// For each thread the seed of its case, and how many it has begun.
    pub at: Vec<(AtomicU64, AtomicU64)>,
    over: AtomicBool,
}

impl Progress {
    /// Nothing done yet.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let at = (0..threads).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).collect();
        Self { done: AtomicU64::new(0), at, over: AtomicBool::new(false) }
    }

    /// Whether the sweep is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Runs a sweep.
#[must_use]
pub fn run(sweep: Sweep, progress: &Progress) -> Found {
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let found = Mutex::new(Found::default());
    let work = |thread: usize| {
        let mut coverage = Coverage::default();
        let mut cases = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= sweep.runs || enough.load(Ordering::Relaxed) {
                break;
            }
            let case = generate::case(generate::seed_of(sweep.seed, number));
            let (seed, begun) = &progress.at[thread];
            seed.store(case.seed, Ordering::Relaxed);
            begun.fetch_add(1, Ordering::Relaxed);
            let trace = drive::run(&case);
            coverage.count(&case, &trace);
            cases += 1;
            progress.done.fetch_add(1, Ordering::Relaxed);
            let violations = check(&case, &trace);
            if !violations.is_empty() {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.broken.push(Broken { number, case, violations });
                if found.broken.len() >= sweep.most {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        }
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.coverage.add(&coverage);
        found.cases += cases;
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..sweep.threads).map(|thread| scope.spawn(move || work(thread))).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    progress.over.store(true, Ordering::Relaxed);
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.broken.sort_by_key(|broken| broken.number);
    found
}
