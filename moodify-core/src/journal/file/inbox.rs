//! Commands to runs: `.inbox/RUN.ID`, a file each, that appears whole. One of those who wait looks for all of them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::root::{Root, blocking, read, storage};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Command;
use crate::model::RunId;

const SEND: &str = "send a command";
const READ: &str = "read the inbox";

/// Where a command of that id is.
pub(super) fn file(root: &Root, run: &RunId, id: &str) -> PathBuf {
    root.inbox().join(format!("{run}.{id}"))
}

/// The inboxes of all runs.
#[derive(Debug)]
pub(super) struct Inbox {
    root: Root,
    period: Duration,
    /// Who waits, by run.
    waiting: Mutex<HashMap<RunId, Waiting>>,
    /// Held by the one of those who wait that looks for all.
    looking: tokio::sync::Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    bell: Arc<Notify>,
}

/// What the one who looked last saw.
#[derive(Debug, Default)]
struct Seen {
    changed: Option<SystemTime>,
    /// It had changed so recently that it may change again without a trace.
    again: bool,
}

/// Somebody waits for commands to a run; dropped, nobody does.
struct Place<'a> {
    inbox: &'a Inbox,
    run: &'a RunId,
    bell: Arc<Notify>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.inbox.waiting();
        if let Some(found) = waiting.get_mut(self.run) {
            found.count -= 1;
            if found.count == 0 {
                waiting.remove(self.run);
            }
        }
    }
}

impl Inbox {
    pub(super) fn new(root: Root, period: Duration) -> Self {
        Self { root, period, waiting: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<RunId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place<'a>(&'a self, run: &'a RunId) -> Place<'a> {
        let mut waiting = self.waiting();
        let found = waiting.entry(run.clone()).or_default();
        found.count += 1;
        Place { inbox: self, run, bell: found.bell.clone() }
    }

    pub(super) async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        let (root, run_id, command) = (self.root.clone(), run.clone(), command.clone());
        blocking(SEND, move || put(&root, &run_id, &command)).await?;
        if let Some(found) = self.waiting().get(run) {
            found.bell.notify_waiters();
        }
        Ok(())
    }

    /// Waits for commands whose ids are not known.
    pub(super) async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        let place = self.place(run);
        loop {
            // From here on the bell is heard, so nothing that comes after the look is missed.
            let mut rung = std::pin::pin!(place.bell.notified());
            rung.as_mut().enable();
            let (root, run_id, known) = (self.root.clone(), run.clone(), known.clone());
            let new = blocking(READ, move || take(&root, &run_id, &known)).await?;
            if !new.is_empty() {
                return Ok(new);
            }
            tokio::select! {
                () = rung => {}
                () = self.look() => {}
            }
        }
    }

    /// Looks for all who wait, as soon as nobody else does, until it is dropped.
    async fn look(&self) {
        let mut seen = self.looking.lock().await;
        loop {
            tokio::time::sleep(self.period).await;
            let (dir, before) = (self.root.inbox(), seen.changed.filter(|_| !seen.again));
            match blocking(READ, move || look(&dir, before)).await {
                Ok(Some((changed, runs))) => {
                    // A look within the clock's step of a change may miss what is changed next.
                    seen.again = seen.changed != Some(changed);
                    seen.changed = Some(changed);
                    let waiting = self.waiting();
                    runs.iter().filter_map(|run| waiting.get(run)).for_each(|found| found.bell.notify_waiters());
                }
                Ok(None) => {}
                Err(e) => {
                    // Whoever waits finds out by itself, and says so.
                    tracing::warn!(error = %e, "the inbox cannot be read");
                    self.waiting().values().for_each(|found| found.bell.notify_waiters());
                }
            }
        }
    }
}

/// The runs that have something in their inbox, unless nothing has changed since.
fn look(dir: &Path, before: Option<SystemTime>) -> Result<Option<(SystemTime, BTreeSet<RunId>)>> {
    let failed = |e| storage(READ, dir, e);
    let changed = match fs::metadata(dir).and_then(|dir| dir.modified()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    if before == Some(changed) {
        return Ok(None);
    }
    let names = fs::read_dir(dir).map_err(failed)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let runs = names.filter_map(|name| RunId::new(name.split_once('.')?.0).ok()).collect();
    Ok(Some((changed, runs)))
}

fn put(root: &Root, run: &RunId, command: &Command) -> Result<()> {
    let id = &command.id;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.is_empty() || id.len() > 128 || !id.chars().all(fits) {
        let message = format!("{id:?} is no id of a command: at most 128 letters, digits, - and _");
        return Err(Error::new(ErrorKind::Invalid, "journal", SEND, message).on(run.as_str()));
    }
    if !root.journal(run).exists() {
        return Err(root.no_such_run(run, SEND));
    }
    root.ensure(&root.inbox())?;
    let path = file(root, run, id);
    if path.exists() {
        return Ok(());
    }
    let new = root.inbox().join(format!(".{run}.{id}.{}", uuid::Uuid::now_v7().simple()));
    let write = || {
        let bytes = serde_json::to_vec(command)?;
        let file = root.disk.create(&new)?;
        root.disk.write_at(&file, &bytes, 0)?;
        root.disk.sync(&file)?;
        root.disk.rename(&new, &path)?;
        root.disk.sync_dir(&root.inbox())
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&new);
        storage(SEND, &path, e)
    })
}

/// The commands in a run's inbox that are not known, oldest first.
fn take(root: &Root, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
    let mut found = Vec::new();
    let prefix = format!("{run}.");
    // Version 1.0 of the format had an inbox a run.
    for (dir, prefix) in [(root.run(run).join("inbox"), ""), (root.inbox(), prefix.as_str())] {
        let listed = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| storage(READ, &dir, e))?,
        };
        for entry in listed {
            let entry = entry.map_err(|e| storage(READ, &dir, e))?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
            if id.is_empty() || id.starts_with('.') || known.contains(id) {
                continue;
            }
            let path = entry.path();
            let bytes = match read(&path) {
                // It is on the record meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| storage(READ, &path, e))?,
            };
            let sent = entry.metadata().and_then(|file| file.modified()).ok();
            match serde_json::from_slice::<Command>(&bytes) {
                Ok(command) => found.push((sent, command)),
                Err(e) => tracing::warn!(path = %path.display(), %e, "a file in the inbox is not a command"),
            }
        }
    }
    if found.is_empty() && !root.run(run).is_dir() {
        return Err(root.no_such_run(run, READ));
    }
    found.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
    Ok(found.into_iter().map(|(_, command)| command).collect())
}

/// Removes all commands to a run.
pub(super) fn clear(root: &Root, run: &RunId) -> io::Result<()> {
    let (dir, prefix) = (root.inbox(), format!("{run}."));
    let listed = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in listed.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            root.disk.remove_file(&entry.path())?;
        }
    }
    Ok(())
}
