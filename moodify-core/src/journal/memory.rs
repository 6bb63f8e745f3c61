use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Command, Entry, JournalStore, Lease};
use crate::error::{Error, ErrorKind, Result};
use crate::model::RunId;

/// A journal in memory: for tests and simulations. It outlives engines, not the process.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    runs: Mutex<BTreeMap<RunId, Run>>,
}

#[derive(Debug, Default)]
struct Run {
    entries: Vec<Entry>,
    holder: Option<(Lease, Timestamp)>,
    token: u64,
    inbox: Vec<Command>,
}

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, run: &RunId, change: impl FnOnce(&mut Run) -> Result<T>) -> Result<T> {
        match self.runs().get_mut(run) {
            Some(found) => change(found),
            None => {
                Err(Error::new(ErrorKind::NotFound, "journal", "find the run", "there is no such run").on(run.as_str()))
            }
        }
    }
}

pub(super) fn fenced(run: &RunId, holder: &str) -> Error {
    let message = format!("another engine owns the run now: {holder}");
    Error::new(ErrorKind::Fenced, "journal", "write", message).on(run.as_str())
}

pub(super) fn owned(run: &RunId, holder: &str) -> Error {
    let message = format!("it is owned by {holder}, which is alive");
    Error::new(ErrorKind::Refused, "journal", "take the run", message)
        .on(run.as_str())
        .hint("wait for it, stop it, or give it commands: pause, continue, abort")
}

#[async_trait]
impl JournalStore for MemoryJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        let mut runs = self.runs();
        if runs.contains_key(run) {
            return Err(Error::new(ErrorKind::AlreadyExists, "journal", "create the run", "it exists").on(run.as_str()));
        }
        runs.insert(run.clone(), Run { entries: vec![first.clone()], ..Run::default() });
        Ok(())
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        self.with(run, |found| {
            let last = found.entries.last().map_or(0, |e| e.seq);
            if found.token != lease.token || last != expected {
                return Err(fenced(run, found.holder.as_ref().map_or("somebody", |(l, _)| l.owner.as_str())));
            }
            found.entries.extend_from_slice(entries);
            Ok(())
        })
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.with(run, |found| Ok(found.entries.clone()))
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        Ok(self.runs().keys().cloned().collect())
    }

    async fn acquire(&self, run: &RunId, owner: &str, now: Timestamp, ttl: Duration) -> Result<Lease> {
        self.with(run, |found| {
            if let Some((holder, until)) = &found.holder
                && *until > now
                && holder.owner != owner
            {
                return Err(owned(run, &holder.owner));
            }
            found.token += 1;
            let lease = Lease { owner: owner.to_owned(), token: found.token };
            found.holder = Some((lease.clone(), now + ttl));
            Ok(lease)
        })
    }

    async fn renew(&self, run: &RunId, lease: &Lease, now: Timestamp, ttl: Duration) -> Result<()> {
        self.with(run, |found| match &mut found.holder {
            Some((holder, until)) if holder == lease => {
                *until = now + ttl;
                Ok(())
            }
            other => Err(fenced(run, other.as_ref().map_or("nobody", |(l, _)| l.owner.as_str()))),
        })
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.with(run, |found| {
            found.holder.take_if(|(holder, _)| holder == lease);
            Ok(())
        })
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        self.with(run, |found| Ok(found.holder.as_ref().map(|(lease, _)| lease.owner.clone())))
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.with(run, |found| {
            if !found.inbox.iter().any(|c| c.id == command.id) {
                found.inbox.push(command.clone());
            }
            Ok(())
        })
    }

    async fn inbox(&self, run: &RunId) -> Result<Vec<Command>> {
        self.with(run, |found| Ok(found.inbox.clone()))
    }
}
