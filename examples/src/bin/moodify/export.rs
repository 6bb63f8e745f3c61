//! `export`: one run as one JSON document, for archives and other programs.
//!
//! The document is an object:
//!
//! - `format`: `moodify-export 1.0`. The first number changes when what a reader knows is not there any more or means
//!   something else; the second when there is more.
//! - `run`: the run's id.
//! - `state`: what the entries add up to, exactly as `status RUN --output json` says it.
//! - `entries`: every record of the journal, in order, without a gap: `seq`, `time`, `elapsed-ms`, `token` and `record`.
//!   The first one holds the whole plan.
//!
//! Of a run that is over, it is the same document every time.

use moodify_core::RunId;
use moodify_core::journal::Entry;
use serde::Serialize;

use crate::args::{Export, Global};
use crate::exit::{Exit, Stop};
use crate::show::say;
use crate::status::{self, Report};
use crate::{runs, runtime};

const FORMAT: &str = "moodify-export 1.0";

#[derive(Debug, Serialize)]
struct Document<'a> {
    format: &'static str,
    run: &'a RunId,
    state: Report,
    entries: Vec<Entry>,
}

pub(crate) fn export(args: &Export, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let journal = runs::open(global).await?;
        let run = &args.run;
        let entries = journal.load(run).await?;
        let state = status::report(&journal, run).await?;
        let text = serde_json::to_string_pretty(&Document { format: FORMAT, run, state, entries });
        say(&text.map_err(|e| Stop::refused(format!("{run} has no JSON form: {e}")))?);
        Ok(Exit::Completed)
    })
}
