use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Feed, Progress};
use crate::journal::{Entry, JournalStore, Lease, Record, RunState, fold};
use crate::model::RunId;

/// A run that this engine owns: its journal, the state that it folds to, and the lease.
#[derive(Debug)]
pub(crate) struct RunLog {
    store: Arc<dyn JournalStore>,
    clock: Arc<dyn Clock>,
    feed: Feed,
    run: RunId,
    lease: Lease,
    ttl: Duration,
    /// Held while appending; the state is replaced when the append is durable.
    appending: tokio::sync::Mutex<()>,
    state: Mutex<Arc<RunState>>,
    /// Until when the lease certainly holds, in time that no clock change moves.
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl RunLog {
    /// Takes the run and writes that down.
    pub(crate) async fn open(
        store: Arc<dyn JournalStore>,
        clock: Arc<dyn Clock>,
        feed: Feed,
        run: &RunId,
        owner: &str,
        ttl: Duration,
    ) -> Result<Arc<Self>> {
        let before = Instant::now();
        let lease = store.acquire(run, owner, clock.now(), ttl).await?;
        let state = match store.load(run).await.and_then(|entries| fold(&entries)) {
            Ok(state) => state,
            Err(e) => {
                let _ = store.give_up(run, &lease).await;
                return Err(e);
            }
        };
        let ended = state.ended.is_some();
        let log = Arc::new(Self {
            store,
            clock,
            feed,
            run: run.clone(),
            lease,
            ttl,
            appending: tokio::sync::Mutex::new(()),
            state: Mutex::new(Arc::new(state)),
            until: Mutex::new(before + ttl),
            lost: CancellationToken::new(),
        });
        if !ended && let Err(e) = log.append(Record::Owned { owner: owner.to_owned() }).await {
            log.give_up().await;
            return Err(e);
        }
        Ok(log)
    }

    /// The state now.
    pub(crate) fn state(&self) -> Arc<RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a record durable, folds it in and tells the audience.
    ///
    /// Goes on to its end also if the caller is dropped, so that journal and state never part.
    pub(crate) async fn append(self: &Arc<Self>, record: Record) -> Result<()> {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let _turn = this.appending.lock().await;
            this.holds()?;
            let before = this.state();
            let entry = Entry { seq: before.seq + 1, time: this.clock.now(), token: this.lease.token, record };
            let mut after = (*before).clone();
            after.apply(&entry)?;
            let appended = this.store.append(&this.run, &this.lease, before.seq, std::slice::from_ref(&entry)).await;
            if let Err(e) = appended {
                if e.kind() == ErrorKind::Fenced {
                    this.lost.cancel();
                }
                return Err(e);
            }
            let event = Event::of(&this.run, &after.plan, &entry);
            *this.state.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
            this.feed.event(&event);
            Ok(())
        });
        task.await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Internal, "engine", "append a record", "the writer panicked").with_source(e))
        })
    }

    pub(crate) fn progress(&self, progress: Progress) {
        self.feed.progress(progress);
    }

    /// The wall time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the run is certainly still ours; asked before every effect.
    pub(crate) fn holds(&self) -> Result<()> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lost.is_cancelled() || Instant::now() >= until {
            self.lost.cancel();
            let message = "the lease has run out or another engine has the run; this one changes nothing any more";
            return Err(Error::new(ErrorKind::Fenced, "engine", "keep the run", message).on(self.run.as_str()));
        }
        Ok(())
    }

    /// Cancelled when the run is lost to another engine.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Keeps the lease until dropped or lost.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let before = Instant::now();
            match self.store.renew(&self.run, &self.lease, self.clock.now(), self.ttl).await {
                Ok(()) => *self.until.lock().unwrap_or_else(PoisonError::into_inner) = before + self.ttl,
                Err(e) if e.kind() == ErrorKind::Fenced => self.lost.cancel(),
                Err(e) => tracing::warn!(run = %self.run, error = %e, "the lease could not be renewed"),
            }
            if self.holds().is_err() {
                return;
            }
        }
    }

    /// Lets another engine take the run at once.
    pub(crate) async fn give_up(&self) {
        if let Err(e) = self.store.give_up(&self.run, &self.lease).await {
            tracing::warn!(run = %self.run, error = %e, "the lease could not be given up; it runs out by itself");
        }
    }

    /// Commands in the inbox that were not taken yet.
    pub(crate) async fn new_commands(&self) -> Result<Vec<crate::journal::Command>> {
        let all = self.store.inbox(&self.run).await?;
        let state = self.state();
        Ok(all.into_iter().filter(|c| !state.commands.contains(&c.id)).collect())
    }
}
