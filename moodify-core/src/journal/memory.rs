use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Command, Entry, JournalStore, Lease};
use crate::error::{Error, ErrorKind, Result};
use crate::model::RunId;
use crate::mutation::{self, Mutation};

/// A journal in memory: for tests and simulations. It outlives engines, not the process. Sessions run out by tokio's
/// clock.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
    /// Something came into an inbox.
    sent: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    runs: BTreeMap<RunId, Run>,
    /// Each owner's session.
    sessions: BTreeMap<String, Session>,
    /// How many sessions there ever were.
    begun: u64,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    number: u64,
    until: Instant,
}

#[derive(Debug, Default)]
struct Run {
    entries: Vec<Entry>,
    /// Who has it, by which session.
    holder: Option<(Lease, u64)>,
    token: u64,
    inbox: Vec<Command>,
}

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, run: &RunId, change: impl FnOnce(&mut Run) -> Result<T>) -> Result<T> {
        self.lock().run(run).and_then(change)
    }
}

impl Inner {
    fn run(&mut self, run: &RunId) -> Result<&mut Run> {
        self.runs.get_mut(run).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "journal", "find the run", "there is no such run").on(run.as_str())
        })
    }

    /// The session by which a run is owned; none if it was given up, or the session was ended.
    fn owning(&self, run: &RunId) -> Option<(&Lease, Session)> {
        let (lease, number) = self.runs.get(run)?.holder.as_ref()?;
        let session = self.sessions.get(&lease.owner).filter(|session| session.number == *number)?;
        Some((lease, *session))
    }

    /// Makes sure that nobody but `owner` has a run; ends a session that ran out.
    fn claim(&mut self, run: &RunId, owner: Option<&str>) -> Result<()> {
        self.run(run)?;
        let Some((lease, session)) = self.owning(run) else { return Ok(()) };
        if owner == Some(&lease.owner) {
            return Ok(());
        }
        if session.until > Instant::now() {
            return Err(owned(run, &lease.owner));
        }
        let ended = lease.owner.clone();
        self.sessions.remove(&ended);
        Ok(())
    }
}

pub(super) fn fenced(run: &RunId, holder: &str) -> Error {
    let message = format!("another engine owns the run now: {holder}");
    Error::new(ErrorKind::Fenced, "journal", "write", message).on(run.as_str())
}

pub(super) fn ended(owner: &str) -> Error {
    let message = "the session ran out, and another engine took over what it owned";
    Error::new(ErrorKind::Fenced, "journal", "renew the session", message).on(owner)
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
        let runs = &mut self.lock().runs;
        if runs.contains_key(run) {
            return Err(Error::new(ErrorKind::AlreadyExists, "journal", "create the run", "it exists").on(run.as_str()));
        }
        runs.insert(run.clone(), Run { entries: vec![first.clone()], ..Run::default() });
        Ok(())
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        let mut inner = self.lock();
        let owned = inner.owning(run).is_some_and(|(newest, _)| newest == lease);
        let found = inner.run(run)?;
        let last = found.entries.last().map_or(0, |e| e.seq);
        let late = mutation::on(Mutation::SkipFence) || mutation::on(Mutation::AcceptLateAppends);
        if (!owned || last != expected) && !late {
            return Err(fenced(run, found.holder.as_ref().map_or("somebody", |(l, _)| l.owner.as_str())));
        }
        found.entries.extend_from_slice(entries);
        Ok(())
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.with(run, |found| Ok(found.entries.clone()))
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        Ok(self.lock().runs.keys().cloned().collect())
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        let mut inner = self.lock();
        inner.claim(run, None)?;
        inner.runs.remove(run);
        Ok(())
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        let mut inner = self.lock();
        inner.claim(run, Some(owner))?;
        inner.begun += 1;
        let fresh = Session { number: inner.begun, until: Instant::now() };
        let session = inner.sessions.entry(owner.to_owned()).or_insert(fresh);
        session.until = session.until.max(Instant::now() + ttl);
        let number = session.number;
        let found = inner.run(run)?;
        found.token += 1;
        let lease = Lease { owner: owner.to_owned(), token: found.token };
        found.holder = Some((lease.clone(), number));
        Ok(lease)
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        match self.lock().sessions.get_mut(owner) {
            Some(session) => {
                session.until = Instant::now() + ttl;
                Ok(())
            }
            None => Err(ended(owner)),
        }
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.with(run, |found| {
            found.holder.take_if(|(holder, _)| holder == lease);
            Ok(())
        })
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        let mut inner = self.lock();
        inner.run(run)?;
        Ok(inner.owning(run).map(|(lease, _)| lease.owner.clone()))
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.with(run, |found| {
            if !found.inbox.iter().any(|c| c.id == command.id) {
                found.inbox.push(command.clone());
            }
            Ok(())
        })?;
        self.sent.notify_waiters();
        Ok(())
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        loop {
            let sent = self.sent.notified();
            let unknown = |c: &&Command| !known.contains(&c.id);
            let new: Vec<Command> =
                self.with(run, |found| Ok(found.inbox.iter().filter(unknown).cloned().collect()))?;
            if !new.is_empty() {
                return Ok(new);
            }
            sent.await;
        }
    }
}
