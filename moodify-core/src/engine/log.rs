use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{Either, ready};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OpenRuns;
use super::pipelines::Pipelines;
use super::session::{Session, gone};
use super::telemetry;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Feed, Progress};
use crate::journal::{Command, Entry, JournalStore, Lease, Record, RunState, fold};
use crate::model::RunId;
use crate::mutation::{self, Mutation};
use crate::secret;

/// A run that this engine owns: its journal, the state that it folds to, and the lease.
#[derive(Debug)]
pub(crate) struct RunLog {
    store: Arc<dyn JournalStore>,
    clock: Arc<dyn Clock>,
    feed: Feed,
    run: RunId,
    session: Arc<Session>,
    lease: Lease,
    /// Held while appending; when the last record was written.
    appending: tokio::sync::Mutex<Instant>,
    /// Replaced when an append is durable.
    state: watch::Sender<Arc<RunState>>,
    /// This run was lost, or all of the session.
    lost: CancellationToken,
}

impl RunLog {
    /// Takes the run and writes that down.
    pub(crate) async fn open(
        store: Arc<dyn JournalStore>,
        clock: Arc<dyn Clock>,
        feed: Feed,
        session: Arc<Session>,
        pipelines: &Pipelines,
        run: &RunId,
    ) -> Result<Arc<Self>> {
        // Before it is folded and shared a run takes many times the memory: not of all at once.
        let turn = pipelines.turn().await;
        let lease = session.acquire(run).await?;
        let mut state = match store.load(run).await.and_then(|entries| fold(&entries)) {
            Ok(state) => state,
            Err(e) => {
                let _ = store.give_up(run, &lease).await;
                return Err(e);
            }
        };
        let plan = Arc::make_mut(&mut state.plan);
        plan.phases = pipelines.shared(std::mem::take(&mut plan.phases));
        drop(turn);
        let ended = state.ended.is_some();
        let lost = session.lost().child_token();
        let log = Arc::new(Self {
            store,
            clock,
            feed,
            run: run.clone(),
            session,
            lease,
            appending: tokio::sync::Mutex::new(Instant::now()),
            state: watch::Sender::new(Arc::new(state)),
            lost,
        });
        let owned = Record::Owned { owner: log.session.owner().to_owned() };
        if !ended && let Err(e) = log.append(owned).await {
            log.give_up().await;
            return Err(e);
        }
        Ok(log)
    }

    /// The state now.
    pub(crate) fn state(&self) -> Arc<RunState> {
        self.state.borrow().clone()
    }

    /// Tells of every change of the state.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<RunState>> {
        self.state.subscribe()
    }

    /// Makes a record durable, folds it in and tells the audience.
    ///
    /// Begins at once, and goes on to its end also if the caller is dropped, so that journal and state never part.
    pub(crate) fn append(self: &Arc<Self>, record: Record) -> impl Future<Output = Result<()>> + use<> {
        self.append_if(move |_| Some(record)).map(|done| done.map(drop))
    }

    /// Appends what `decide` says about the state at that moment, or nothing; says whether it did.
    pub(crate) fn append_if<F>(self: &Arc<Self>, decide: F) -> impl Future<Output = Result<bool>> + use<F>
    where
        F: FnOnce(&RunState) -> Option<Record> + Send + 'static,
    {
        let this = self.clone();
        let work = async move {
            let mut last = this.appending.lock().await;
            let before = this.state();
            let Some(record) = decide(&before).map(secret::without) else { return Ok(false) };
            this.holds()?;
            let now = Instant::now();
            let elapsed = if matches!(record, Record::Owned { .. }) { 0 } else { (now - *last).as_millis() };
            let entry = Entry {
                seq: before.seq + 1,
                time: this.clock.now(),
                elapsed_ms: Some(u64::try_from(elapsed).unwrap_or(u64::MAX)),
                token: this.lease.token,
                record,
            };
            before.accepts(&entry)?;
            let seq = before.seq;
            drop(before);
            let appended = this.store.append(&this.run, &this.lease, seq, std::slice::from_ref(&entry)).await;
            if let Err(e) = appended {
                if e.kind() == ErrorKind::Fenced {
                    this.lost.cancel();
                }
                return Err(e);
            }
            let plan = this.state.borrow().plan.clone();
            telemetry::count(&plan, &entry.record, now.elapsed());
            *last = now;
            let event = this.feed.has_audience().then(|| Event::of(&this.run, &plan, &entry));
            this.state.send_modify(|state| Arc::make_mut(state).apply(entry));
            if let Some(event) = event {
                this.feed.event(&event);
            }
            Ok(true)
        };
        let panicked = |_| Err(Error::new(ErrorKind::Internal, "engine", "append a record", "the writer panicked"));
        let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind().map(move |done| done.unwrap_or_else(panicked)));
        // A task of its own only if it has to wait: to begin one takes longer than all the rest.
        match work.as_mut().now_or_never() {
            Some(done) => Either::Left(ready(done)),
            None => Either::Right(tokio::spawn(work).map(|done| {
                done.unwrap_or_else(|e| {
                    let message = "the runtime is shutting down";
                    Err(Error::new(ErrorKind::Internal, "engine", "append a record", message).with_source(e))
                })
            })),
        }
    }

    pub(crate) fn progress(&self, progress: Progress) {
        self.feed.progress(secret::without(progress));
    }

    /// Whether anybody looks at progress.
    pub(crate) fn is_watched(&self) -> bool {
        self.feed.is_watched()
    }

    /// The wall time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the run is certainly still ours; asked before every effect.
    pub(crate) fn holds(&self) -> Result<()> {
        if mutation::on(Mutation::SkipFence) || (self.session.holds() && !self.lost.is_cancelled()) {
            Ok(())
        } else {
            Err(gone(&self.run))
        }
    }

    /// Cancelled when the run is lost to another engine.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Lets another engine take the run at once.
    pub(crate) async fn give_up(&self) {
        if let Err(e) = self.store.give_up(&self.run, &self.lease).await {
            tracing::warn!(run = %self.run, error = %e, "the lease could not be given up; it runs out by itself");
        }
    }

    /// The runs of this journal that may still need something.
    pub(crate) async fn open_runs(&self) -> Result<OpenRuns> {
        OpenRuns::of(self.store.as_ref()).await
    }

    /// Waits for commands that were not taken yet.
    pub(crate) async fn new_commands(&self) -> Result<Vec<Command>> {
        // Who waits holds no state: it would be copied with the next record.
        let known = self.state().commands.clone();
        self.store.commands(&self.run, &known).await
    }
}
