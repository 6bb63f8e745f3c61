//! Finding runs in the journal.

use std::path::PathBuf;
use std::sync::Arc;

use moodify_core::RunId;
use moodify_core::journal::{FileJournal, JournalStore, RunState, fold};
use moodify_k8s::{Kube, KubeConfig};

use crate::args::Global;
use crate::exit::Stop;

/// Where runs are kept.
pub(crate) type Journal = Arc<dyn JournalStore>;

fn directory(global: &Global) -> PathBuf {
    global.journal.clone().unwrap_or_else(|| PathBuf::from(".moodify"))
}

/// Whether somebody said where they are.
pub(crate) fn named(global: &Global) -> bool {
    global.cluster.is_some() || global.journal.is_some()
}

/// Whether there can be runs.
pub(crate) fn any(global: &Global) -> bool {
    global.cluster.is_some() || directory(global).is_dir()
}

/// The journal; a directory is made if there is none.
pub(crate) async fn make(global: &Global) -> Result<Journal, Stop> {
    Ok(match &global.cluster {
        Some(namespace) => Arc::new(Kube::connect(&KubeConfig::from_env()?).await?.journal(namespace)),
        None => Arc::new(FileJournal::open(directory(global))?),
    })
}

/// The journal, if there is one: looking does not make it.
pub(crate) async fn open(global: &Global) -> Result<Journal, Stop> {
    if !any(global) {
        let dir = directory(global);
        return Err(Stop::invalid(format!(
            "there are no runs in {}; --journal names another directory, --cluster a namespace",
            dir.display()
        )));
    }
    make(global).await
}

/// What the journal says about a run.
pub(crate) async fn state(journal: &Journal, run: &RunId) -> Result<RunState, Stop> {
    Ok(journal.load(run).await.and_then(|entries| fold(&entries))?)
}

/// The run that was named, or else the only one that is unfinished.
pub(crate) async fn choose(journal: &Journal, named: Option<RunId>, global: &Global) -> Result<RunId, Stop> {
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
        [] => {
            let place = match &global.cluster {
                Some(namespace) => format!("namespace {namespace}"),
                None => directory(global).display().to_string(),
            };
            Err(Stop::invalid(format!("no run in {place} is unfinished")))
        }
        many => {
            let names: Vec<&str> = many.iter().map(RunId::as_str).collect();
            Err(Stop::invalid(format!("several runs are unfinished; name one of them: {}", names.join(", "))))
        }
    }
}
