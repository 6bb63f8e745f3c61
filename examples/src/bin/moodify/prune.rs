//! `prune`: removes runs that ended long ago.

use moodify_core::backend::Backends;
use moodify_core::clock::{Clock, SystemClock, since};
use moodify_core::{Engine, RunId};

use crate::args::{Global, Output, Prune};
use crate::exit::{Exit, Stop};
use crate::runs::Journal;
use crate::show::say;
use crate::{runs, runtime};

pub(crate) fn prune(args: &Prune, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let journal = runs::open(global).await?;
        let found = if args.dry_run {
            old(&journal, args).await?
        } else {
            let engine = Engine::new(journal, Backends::default());
            engine.prune(args.older_than).await?
        };
        if global.output == Some(Output::Json) {
            say(&format!("{:#}", serde_json::json!({"dry-run": args.dry_run, "removed": found})));
            return Ok(Exit::Completed);
        }
        let done = if args.dry_run { "would be removed" } else { "removed" };
        found.iter().for_each(|run| say(&format!("{run} {done}")));
        if found.is_empty() {
            say("no run ended that long ago");
        }
        Ok(Exit::Completed)
    })
}

/// What the engine would remove: ended, long ago, and owned by nobody.
async fn old(journal: &Journal, args: &Prune) -> Result<Vec<RunId>, Stop> {
    let now = SystemClock.now();
    let mut found = Vec::new();
    for run in journal.list().await? {
        // What cannot be read is kept.
        let Ok(state) = runs::state(journal, &run).await else { continue };
        let over = state.ended.is_some() && since(state.updated, now) > args.older_than;
        if over && journal.holder(&run).await?.is_none() {
            found.push(run);
        }
    }
    Ok(found)
}
