//! The requests of a release, by strategy and router, as a table. Exits 0 only if each is within its goal.
//!
//! ```sh
//! tests/run --exec target/debug/ledger
//! ```

use std::process::ExitCode;

use moodify_tests::ledger::{WAYS, Way, measure, table};
use moodify_tests::rig::Rig;

#[tokio::main]
async fn main() -> ExitCode {
    let Some(rig) = Rig::own().await else { return ExitCode::FAILURE };
    let mut ledgers = Vec::new();
    for way in WAYS {
        let Some(ledger) = measure(rig, way).await else { return ExitCode::FAILURE };
        ledgers.push(ledger);
    }
    print!("{}", table(&ledgers));
    let beyond: Vec<_> = ledgers.iter().filter(|ledger| !ledger.is_within()).collect();
    for ledger in &beyond {
        let Way { title, most_writes, .. } = ledger.way;
        let (writes, waiting) = (ledger.writes.len(), ledger.while_waiting.join(", "));
        eprintln!("ledger: {title}: {writes} writes (at most {most_writes}), while it waits: [{waiting}]");
    }
    if beyond.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
