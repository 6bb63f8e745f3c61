//! The journal as one engine of a case sees it: it can fail, fall silent or die with its engine, and it notes when each
//! record became durable.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::error::{Effect, Error, ErrorKind, Result};
use moodify_core::journal::{Command, Entry, JournalStore, Lease, MemoryJournal};
use moodify_core::model::RunId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::case::{LifeEnd, ms};

/// A record, and when it became durable.
#[derive(Debug, Clone)]
pub struct Logged {
    /// When, from the start of the simulation.
    pub at: Duration,
    /// By which engine.
    pub life: usize,
    /// The record.
    pub entry: Entry,
}

/// What all engines of a case share.
#[derive(Debug)]
pub struct Shared {
    start: Instant,
    inner: MemoryJournal,
    log: Mutex<Vec<Logged>>,
    /// When each engine took the run.
    taken: Mutex<Vec<(usize, Duration)>>,
}

impl Shared {
    /// An empty journal of a simulation that starts now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            inner: MemoryJournal::new(),
            log: Mutex::default(),
            taken: Mutex::default(),
        })
    }

    /// What became durable so far.
    #[must_use]
    pub fn log(&self) -> Vec<Logged> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who took the run, and when.
    #[must_use]
    pub fn taken(&self) -> Vec<(usize, Duration)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The journal itself.
    #[must_use]
    pub fn inner(&self) -> &MemoryJournal {
        &self.inner
    }

    fn note(&self, life: usize, entries: &[Entry]) {
        let at = self.start.elapsed();
        let logged = entries.iter().map(|entry| Logged { at, life, entry: entry.clone() });
        self.log.lock().unwrap_or_else(PoisonError::into_inner).extend(logged);
    }
}

/// The journal as one engine sees it.
pub struct LifeJournal {
    shared: Arc<Shared>,
    life: usize,
    end: Option<LifeEnd>,
    time: Duration,
    begun: Instant,
    records: AtomicU32,
    dead: AtomicBool,
    /// The engine is to be killed now.
    pub fatal: Notify,
    lease: Mutex<Option<(RunId, Lease)>>,
    /// What was made to happen really happened.
    hit: AtomicBool,
}

impl fmt::Debug for LifeJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LifeJournal").field("life", &self.life).finish_non_exhaustive()
    }
}

fn broken() -> Error {
    Error::new(ErrorKind::Storage, "journal", "append to the journal", "the disk is gone").effect(Effect::Unknown)
}

impl LifeJournal {
    /// The journal for an engine to which `end` happens.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, life: usize, end: Option<LifeEnd>, time: u64) -> Arc<Self> {
        Arc::new(Self {
            shared: shared.clone(),
            life,
            end,
            time: ms(time),
            begun: Instant::now(),
            records: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            fatal: Notify::new(),
            lease: Mutex::new(None),
            hit: AtomicBool::new(false),
        })
    }

    /// The engine is dead: nothing that it asked for is done any more.
    pub async fn kill(&self, known: bool) {
        self.dead.store(true, Ordering::Relaxed);
        self.hit.store(true, Ordering::Relaxed);
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (true, Some((run, lease))) = (known, lease) {
            // As if its process held a lock.
            let _ = self.shared.inner.give_up(&run, &lease).await;
        }
    }

    /// Whether what was to happen to the engine happened.
    #[must_use]
    pub fn was_hit(&self) -> bool {
        self.hit.load(Ordering::Relaxed)
    }

    /// What was to happen happens.
    pub fn strike(&self) {
        self.hit.store(true, Ordering::Relaxed);
    }

    async fn alive(&self) {
        if let Some(LifeEnd::CutOff(at, time)) = self.end
            && self.begun.elapsed() >= ms(at)
        {
            sleep_until(self.begun + ms(at + time)).await;
        }
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    async fn append_now(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        self.shared.inner.append(run, lease, expected, entries).await?;
        self.shared.note(self.life, entries);
        Ok(())
    }
}

#[async_trait]
impl JournalStore for LifeJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        self.shared.inner.create(run, first).await?;
        self.shared.note(self.life, std::slice::from_ref(first));
        Ok(())
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        self.alive().await;
        if !self.time.is_zero() {
            sleep(self.time).await;
            self.alive().await;
        }
        let number = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        let (durable, dies, fails) = match self.end {
            Some(LifeEnd::KilledAtRecord(at, durable)) if number == at => (durable, true, false),
            Some(LifeEnd::JournalFails(at, durable)) if number >= at => (durable && number == at, false, true),
            Some(LifeEnd::JournalHiccup(at, durable)) if number == at => (durable, false, true),
            _ => (true, false, false),
        };
        if durable {
            self.append_now(run, lease, expected, entries).await?;
        }
        if dies {
            self.dead.store(true, Ordering::Relaxed);
            self.fatal.notify_one();
            return std::future::pending().await;
        }
        if fails {
            self.strike();
            return Err(broken());
        }
        Ok(())
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.alive().await;
        self.shared.inner.load(run).await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        self.shared.inner.list().await
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        self.shared.inner.remove(run).await
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        self.alive().await;
        let lease = self.shared.inner.acquire(run, owner, ttl).await?;
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some((run.clone(), lease.clone()));
        let at = self.shared.start.elapsed();
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner).push((self.life, at));
        Ok(lease)
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        self.alive().await;
        if matches!(self.end, Some(LifeEnd::Deaf(at)) if self.begun.elapsed() >= ms(at)) {
            return std::future::pending().await;
        }
        self.shared.inner.renew(owner, ttl).await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.alive().await;
        self.shared.inner.give_up(run, lease).await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        self.shared.inner.holder(run).await
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.shared.inner.send(run, command).await
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        self.alive().await;
        let commands = self.shared.inner.commands(run, known).await;
        self.alive().await;
        commands
    }
}
