//! The requests of a release, by strategy and router, as a table. Exits 0 only if each is within its goal.
//!
//! ```sh
//! tests/run --exec target/debug/ledger
//! ```

use std::process::ExitCode;

use futures::stream::{self, StreamExt as _};
use moodify_tests::ledger::{Ledger, WAYS, measure, table};
use moodify_tests::rig::Rig;

/// How many releases at once.
const AT_ONCE: usize = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let Some(rig) = Rig::own().await else { return ExitCode::FAILURE };
    let measured: Vec<Option<Ledger>> =
        stream::iter(WAYS).map(|way| measure(rig, way)).buffered(AT_ONCE).collect().await;
    let Some(ledgers) = measured.into_iter().collect::<Option<Vec<_>>>() else { return ExitCode::FAILURE };
    print!("{}", table(&ledgers));
    let mut goes = true;
    for ledger in &ledgers {
        for problem in ledger.problems() {
            eprintln!("ledger: {}: {problem}", ledger.way.title);
            goes = false;
        }
    }
    if goes { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
