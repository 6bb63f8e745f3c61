//! Runs a release as `moodify` does, and kills itself at a given point: see [`moodify_tests::crash`].
//!
//! ```text
//! crasher run JOURNAL PLAN POINT      begins the release of a plan file
//! crasher resume JOURNAL RUN POINT    carries a run on
//! ```
//!
//! POINT is JSON. What happens is told on standard output, a line for every record and every request that changes
//! something.

use std::path::Path;
use std::process::ExitCode;

use moodify_tests::crash::drive;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [order @ ("run" | "resume"), journal, what, point] = words.as_slice() else {
        eprintln!("usage: crasher run JOURNAL PLAN POINT | crasher resume JOURNAL RUN POINT");
        return ExitCode::from(2);
    };
    let result = match serde_json::from_str(point) {
        Ok(point) => drive(Path::new(journal), what, *order == "run", point).await,
        Err(e) => Err(e.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("crasher: {e}");
            ExitCode::FAILURE
        }
    }
}
