//! `pause`, `continue`, `abort`, `approve`, `reject` and `skip`: told to a run through its journal, from any process.

use std::time::Duration;

use moodify_core::backend::Backends;
use moodify_core::journal::{Command, CommandKind, Record};
use moodify_core::{Engine, RunId};

use crate::args::{Answer, Global, Order, Skip};
use crate::exit::{Exit, Stop};
use crate::runs::Journal;
use crate::show::say;
use crate::{runs, runtime, simulate};

/// How long it is waited for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn give(kind: CommandKind, args: &Order, global: &Global) -> Result<Exit, Stop> {
    send(&Command::new(kind, &args.who.name(), &args.reason), args.run.clone(), global)
}

pub(crate) fn answer(kind: CommandKind, args: &Answer, global: &Global) -> Result<Exit, Stop> {
    let command = Command::new(kind, &args.order.who.name(), &args.order.reason);
    send(&for_step(command, args.step.as_deref()), args.order.run.clone(), global)
}

pub(crate) fn skip(args: &Skip, global: &Global) -> Result<Exit, Stop> {
    let command = Command::new(CommandKind::Skip, &args.who.name(), &args.reason);
    send(&for_step(command, args.step.as_deref()), args.run.clone(), global)
}

fn for_step(command: Command, step: Option<&str>) -> Command {
    match step {
        Some(step) => command.for_step(step),
        None => command,
    }
}

fn send(command: &Command, run: Option<RunId>, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let kind = command.kind;
        let journal = runs::open(global).await?;
        let run = runs::choose(&journal, run, global).await?;
        let state = runs::state(&journal, &run).await?;
        let engine = Engine::new(journal.clone(), Backends::default());
        engine.command(&run, command).await?;
        if let Some(answer) =
            tokio::time::timeout(PATIENCE, taken(&journal, &run, &command.id)).await.ok().transpose()?
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
async fn taken(journal: &Journal, run: &RunId, id: &str) -> moodify_core::Result<Option<String>> {
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
        CommandKind::Approve => "approved",
        CommandKind::Reject => "rejected; what it did so far is taken back",
        CommandKind::Skip => "skips the analysis",
    }
}
