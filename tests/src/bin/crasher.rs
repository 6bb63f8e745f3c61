//! Runs a release as `moodify` does, and kills itself at a given point: see [`moodify_tests::crash`].
//!
//! ```text
//! crasher run JOURNAL PLAN POINT      begins the release of a plan file
//! crasher resume JOURNAL RUN POINT    carries a run on
//! crasher undo JOURNAL RUN POINT      takes back a run that completed
//! ```
//!
//! POINT is JSON. What happens is told on standard output, a line for every record and every request that changes
//! something.

use std::path::Path;
use std::process::ExitCode;

use moodify_tests::crash::{Order, drive};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (order, [journal, what, point]) = match words.as_slice() {
        ["run", rest @ ..] if rest.len() == 3 => (Order::Run, [rest[0], rest[1], rest[2]]),
        ["resume", rest @ ..] if rest.len() == 3 => (Order::Resume, [rest[0], rest[1], rest[2]]),
        ["undo", rest @ ..] if rest.len() == 3 => (Order::Undo, [rest[0], rest[1], rest[2]]),
        _ => {
            eprintln!(
                "usage: crasher run JOURNAL PLAN POINT | crasher resume JOURNAL RUN POINT | crasher undo JOURNAL RUN POINT"
            );
            return ExitCode::from(2);
        }
    };
    let result = match serde_json::from_str(point) {
        Ok(point) => drive(Path::new(journal), order, what, point).await,
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
