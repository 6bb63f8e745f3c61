//! Many random releases in simulated worlds with faults, crashes, take-overs and interference; each must keep all
//! promises. With `--mutate`, moodify is broken on purpose and a case must notice.
//!
//! ```sh
//! cargo run --release -p moodify-tests --no-default-features --bin sweep -- --runs 100000
//! cargo run --release -p moodify-tests --no-default-features --bin sweep -- --mutate all
//! ```

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use moodify_core::testing::mutation::{self, Mutation};
use moodify_tests::sweep::generate::seed_of;
use moodify_tests::sweep::report::{failure, scenario};
use moodify_tests::sweep::runner::{Broken, Found, Progress, Sweep, run};
use moodify_tests::sweep::{drive, generate, report, shrink};

/// Cases within which a mutation must be found.
const MUTATION_RUNS: u64 = 100_000;
/// From so many cases on, everything that can go wrong must have gone wrong in one of them.
const ENOUGH_FOR_COVERAGE: u64 = 20_000;
/// A case takes a millisecond; one that takes so long does not end.
const STUCK: Duration = Duration::from_secs(60);
/// How often a line says how far it is, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about = "Random releases in simulated worlds, each checked against the promises")]
struct Arguments {
    /// How many cases.
    #[arg(long, default_value_t = 20_000)]
    runs: u64,
    /// Where they come from; a single case is replayed by its own seed and `--runs 1`.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// On how many threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Break moodify in this way, or in all of them one after the other, and see that it is noticed.
    #[arg(long, value_name = "NAME|all")]
    mutate: Option<String>,
    /// Show every case that is run, and all that happened in it.
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let sweep = Sweep { seed: arguments.seed, runs: arguments.runs, threads, most: 20 };
    let well = match arguments.mutate.as_deref() {
        None if arguments.show => show(sweep),
        None => plain(sweep),
        Some(name) => mutated(name, sweep),
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a sweep, and says meanwhile how far it is.
fn watched(sweep: Sweep, title: &str) -> (Found, Duration) {
    let begun = Instant::now();
    let progress = Progress::new(sweep.threads);
    let bar = ProgressBar::new(sweep.runs).with_message(title.to_owned());
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let found = std::thread::scope(|scope| {
        scope.spawn(|| look_on(&progress, &bar, title, sweep.runs));
        run(sweep, &progress)
    });
    bar.finish_and_clear();
    (found, begun.elapsed())
}

fn look_on(progress: &Progress, bar: &ProgressBar, title: &str, runs: u64) {
    let mut said = Instant::now();
    let mut since: Vec<(u64, Instant)> = progress.at.iter().map(|_| (0, Instant::now())).collect();
    while !progress.is_over() {
        std::thread::park_timeout(Duration::from_millis(100));
        let done = progress.done.load(Ordering::Relaxed);
        bar.set_position(done);
        if !std::io::stderr().is_terminal() && said.elapsed() >= LINE_EVERY {
            eprintln!("{title}: {done} of {runs} cases");
            said = Instant::now();
        }
        for ((seed, begun), (last, at)) in progress.at.iter().zip(&mut since) {
            let begun = begun.load(Ordering::Relaxed);
            if begun != *last {
                (*last, *at) = (begun, Instant::now());
            } else if begun > 0 && at.elapsed() > STUCK {
                let seed = seed.load(Ordering::Relaxed);
                eprintln!("promise 4: seed {seed} does not end:\n{}", scenario(&generate::case(seed)));
                std::process::exit(1);
            }
        }
    }
}

fn plain(sweep: Sweep) -> bool {
    let (found, took) = watched(sweep, "sweep");
    let mut shown = Vec::new();
    for broken in &found.broken {
        for violation in &broken.violations {
            if shown.contains(&violation.invariant) {
                continue;
            }
            shown.push(violation.invariant);
            let (smallest, violation) = shrink::shrink(&broken.case, violation);
            let trace = drive::run(&smallest);
            println!("{}", failure(broken.case.seed, &smallest, &trace, &violation));
        }
    }
    let per_second = found.cases as f64 / took.as_secs_f64();
    println!("{} cases from seed {} in {:.1} s: {per_second:.0} a second", found.cases, sweep.seed, took.as_secs_f64());
    table("ended", &found.coverage.outcomes);
    table("happened in so many cases", &found.coverage.hits);
    let missing = found.coverage.missing();
    let tried = missing.is_empty() || found.cases < ENOUGH_FOR_COVERAGE;
    if !tried {
        println!("never happened: {}", missing.join(", "));
    }
    println!("{} cases broke a promise", found.broken.len());
    found.broken.is_empty() && tried
}

fn show(sweep: Sweep) -> bool {
    for number in 0..sweep.runs {
        let case = generate::case(seed_of(sweep.seed, number));
        let trace = drive::run(&case);
        println!("seed {}:\n{}{}ended: {:?}\n", case.seed, scenario(&case), report::history(&trace), trace.ended);
    }
    true
}

fn table(title: &str, counts: &BTreeMap<String, u64>) {
    println!("{title}:");
    for (name, count) in counts {
        println!("  {count:>8}  {name}");
    }
}

fn mutated(name: &str, sweep: Sweep) -> bool {
    let chosen: Vec<Mutation> = Mutation::ALL.iter().copied().filter(|m| name == "all" || m.name() == name).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        eprintln!("there is no mutation {name:?}; there are: {}", known.join(", "));
        return false;
    }
    println!("{:<38} {:>7}  {:>8}  broke", "mutation", "promise", "cases");
    let mut all_found = true;
    for mutation in chosen {
        mutation::set(Some(mutation));
        let (found, _) = watched(Sweep { runs: MUTATION_RUNS, most: 1, ..sweep }, mutation.name());
        mutation::set(None);
        let first = found.broken.first();
        let what = first.map(|broken| {
            let violation = &broken.violations[0];
            format!("promise {}: {} (seed {})", violation.promise, violation.invariant, broken.case.seed)
        });
        all_found &= first.is_some();
        let cases = first.map_or(found.cases, |Broken { number, .. }| number + 1);
        let what = what.unwrap_or_else(|| "NOTHING: nobody would notice".to_owned());
        println!("{:<38} {:>7}  {cases:>8}  {what}", mutation.name(), mutation.promise());
    }
    all_found
}
