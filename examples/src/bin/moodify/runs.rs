//! Finding runs in the journal.

use std::path::PathBuf;

use moodify_core::RunId;
use moodify_core::journal::{FileJournal, JournalStore, RunState, fold};

use crate::args::Global;
use crate::exit::Stop;

/// The directory that keeps the runs.
pub(crate) fn directory(global: &Global) -> PathBuf {
    global.journal.clone().unwrap_or_else(|| PathBuf::from(".moodify"))
}

/// The journal, if there is one: looking does not make it.
pub(crate) fn open(global: &Global) -> Result<FileJournal, Stop> {
    let dir = directory(global);
    if !dir.is_dir() {
        return Err(Stop::invalid(format!(
            "there are no runs in {}; --journal names another directory",
            dir.display()
        )));
    }
    Ok(FileJournal::open(dir)?)
}

/// What the journal says about a run.
pub(crate) async fn state(journal: &FileJournal, run: &RunId) -> Result<RunState, Stop> {
    Ok(journal.load(run).await.and_then(|entries| fold(&entries))?)
}

/// The run that was named, or else the only one that is unfinished.
pub(crate) async fn choose(journal: &FileJournal, named: Option<RunId>) -> Result<RunId, Stop> {
    if let Some(run) = named {
        return Ok(run);
    }
    let mut unfinished = Vec::new();
    for run in journal.list().await? {
        if state(journal, &run).await?.ended.is_none() {
            unfinished.push(run);
        }
    }
    match unfinished.as_slice() {
        [run] => Ok(run.clone()),
        [] => Err(Stop::invalid(format!("no run in {} is unfinished", journal.root().display()))),
        many => {
            let names: Vec<&str> = many.iter().map(RunId::as_str).collect();
            Err(Stop::invalid(format!("several runs are unfinished; name one of them: {}", names.join(", "))))
        }
    }
}
