//! `pause`, `continue` and `abort`: told to a run through its journal, from any process.

use std::time::Duration;

use moodify_core::backend::Backends;
use moodify_core::journal::{CommandKind, JournalStore, Record};
use moodify_core::{Engine, RunId};

use crate::args::{Global, Order};
use crate::exit::{Exit, Stop};
use crate::show::say;
use crate::{runs, runtime, simulate};

/// How long it is waited for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn give(kind: CommandKind, args: &Order, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let journal = runs::open(global)?;
        let run = runs::choose(&journal, args.run.clone()).await?;
        let state = runs::state(&journal, &run).await?;
        let engine = Engine::new(std::sync::Arc::new(journal.clone()), Backends::default());
        let command = engine.command(&run, kind, &args.who.name(), &args.reason).await?;
        if let Some(answer) =
            tokio::time::timeout(PATIENCE, answer(&journal, &run, &command.id)).await.ok().transpose()?
        {
            return match answer {
                None => {
                    say(&format!("{run}: {}", obeyed(kind)));
                    Ok(Exit::Completed)
                }
                Some(why) => Err(Stop::refused(format!("{run} refused to {kind}: {why}"))),
            };
        }
        let words = match journal.holder(&run).await? {
            Some(holder) => {
                format!("{holder} drives it, but has not answered in {PATIENCE:?}; it will obey when it does")
            }
            None if simulate::is_simulated(&state.plan) => "its simulated world is gone: nobody will obey".to_owned(),
            None => format!("nobody drives it now; it will be obeyed on `moodify resume {run}`"),
        };
        say(&format!("{run}: {kind} is in its inbox; {words}"));
        Ok(Exit::Completed)
    })
}

/// Waits until a command is on the record: `None` if it was obeyed, or why it was refused.
async fn answer(journal: &impl JournalStore, run: &RunId, id: &str) -> moodify_core::Result<Option<String>> {
    loop {
        for entry in journal.load(run).await? {
            if let Record::Commanded { command, refused } = entry.record
                && command.id == id
            {
                return Ok(refused);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn obeyed(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Pause => "paused; `moodify continue` lets it go on",
        CommandKind::Continue => "goes on",
        CommandKind::Abort => "goes back to the old version; `moodify status` shows how far it is",
    }
}
