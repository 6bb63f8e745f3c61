//! Drives a run by what its journal says is next: the only place that owns time, retries and cancellation.

mod check;
mod executor;
mod leave;
mod log;
mod open_runs;
mod pipelines;
mod session;
mod telemetry;
mod undo;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;

pub use check::Finding;
pub(crate) use log::RunLog;
pub use open_runs::OpenRuns;
use pipelines::Pipelines;
use session::Sessions;
pub use telemetry::describe_metrics;

use crate::action::Registry;
use crate::backend::Backends;
use crate::clock::{self, Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Feed, Signal, Subscription};
use crate::journal::{Command, Entry, JournalStore, Outcome, Record, RunState, fold};
use crate::model::{Plan, RetryPolicy, RunId};
use crate::secret;

/// How an engine behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Who this engine is, for other engines and people. Different for every process.
    pub owner: String,
    /// How long a run stays this engine's after its last sign of life.
    pub lease: Duration,
    /// How often undoing a step is tried, and when.
    pub undo: RetryPolicy,
    /// The deadline of one attempt at undoing a step.
    pub undo_deadline: Duration,
}

impl Default for EngineOptions {
    /// A lease of 15 s; undoing is tried 40 times within about 10 minutes.
    fn default() -> Self {
        let random = uuid::Uuid::now_v7().simple().to_string();
        Self {
            owner: format!("process {} ({})", std::process::id(), &random[random.len() - 6..]),
            lease: Duration::from_secs(15),
            undo: RetryPolicy { attempts: 40, ..RetryPolicy::default() },
            undo_deadline: Duration::from_secs(300),
        }
    }
}

/// How driving a run came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The run is over.
    Ended(Outcome, String),
    /// It was interrupted, and can be resumed.
    Interrupted,
}

/// Runs plans.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use moodify_core::{Backends, Engine};
/// use moodify_core::journal::{JournalStore, MemoryJournal};
/// let engine = Engine::new(Arc::new(MemoryJournal::new()), Backends::default());
/// assert!(engine.journal().list().await.unwrap().is_empty());
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Engine {
    journal: Arc<dyn JournalStore>,
    backends: Arc<Backends>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    options: Arc<EngineOptions>,
    feed: Feed,
    sessions: Arc<Sessions>,
    pipelines: Arc<Pipelines>,
}

impl Engine {
    /// An engine with the built-in kinds of step and the machine's clock.
    #[must_use]
    pub fn new(journal: Arc<dyn JournalStore>, backends: Backends) -> Self {
        Self {
            journal,
            backends: Arc::new(backends),
            registry: Arc::new(Registry::with_builtins()),
            clock: Arc::new(SystemClock),
            options: Arc::default(),
            feed: Feed::new(),
            sessions: Arc::default(),
            pipelines: Arc::default(),
        }
    }

    /// With other kinds of step.
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = Arc::new(registry);
        self
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// With other options.
    #[must_use]
    pub fn with_options(mut self, options: EngineOptions) -> Self {
        self.options = Arc::new(options);
        self.sessions = Arc::default();
        self
    }

    /// How it behaves.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &dyn JournalStore {
        self.journal.as_ref()
    }

    /// The kinds of step that it knows.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A place in the audience of all runs that this engine drives from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.feed.subscribe()
    }

    /// Writes a checked plan into the journal as a new run, owned by nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with everything that [`check`](Self::check) finds; [`ErrorKind::Storage`].
    pub async fn create(&self, plan: &Plan, by: &str) -> Result<RunId> {
        self.begin(plan, by, None).await
    }

    async fn begin(&self, plan: &Plan, by: &str, undoes: Option<RunId>) -> Result<RunId> {
        let findings = self.check(plan).await;
        if !findings.is_empty() {
            let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
            let kind = findings[0].error.kind();
            return Err(Error::new(kind, "engine", "check the plan", all.join("; ")).on(plan.name.as_str()));
        }
        let now = self.clock.now();
        loop {
            let run = RunId::generate(now);
            let record = Record::Created {
                run: run.clone(),
                plan: Box::new(plan.clone()),
                by: by.to_owned(),
                undoes: undoes.clone(),
            };
            if serde_json::to_string(&record).is_ok_and(|text| secret::is_in(&text)) {
                let message = "it holds a secret that would be written into the journal";
                return Err(Error::new(ErrorKind::Invalid, "engine", "create the run", message)
                    .on(plan.name.as_str())
                    .hint(
                        "take it out of the plan, and out of whatever else could have kept it; name a variable instead",
                    ));
            }
            let first = Entry { seq: 1, time: now, elapsed_ms: Some(0), token: 0, record };
            match self.journal.create(&run, &first).await {
                Ok(()) => {
                    self.feed.event(&Event::of(&run, plan, &first));
                    return Ok(run);
                }
                // Of thousands of runs in one second two may get the same name.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes a new run that takes a completed one back: what it found is rolled out again, at once and without a
    /// canary; gates do not hold it up. It is refused, with nothing changed, if something else serves by now.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the run did not complete, or changed no version; else as for [`create`](Self::create).
    pub async fn undo(&self, run: &RunId, by: &str, reason: &str) -> Result<RunId> {
        let plan = undo::plan(&self.state(run).await?, reason)?;
        self.begin(&plan, by, Some(run.clone())).await
    }

    /// Writes a new run with which moodify leaves the services of a plan that have two workloads which take turns: the
    /// version that serves comes to the workload that the plan names, if it is not there, no request fails meanwhile, and
    /// the other workload goes with all that was made for it. What stays is plain. The next release by
    /// that plan takes turns again.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if no service takes turns; [`ErrorKind::NotFound`] if what serves is not there; else as for
    /// [`create`](Self::create).
    pub async fn leave(&self, plan: &Plan, by: &str, reason: &str) -> Result<RunId> {
        let plan = leave::plan(self, plan, reason).await?;
        self.begin(&plan, by, None).await
    }

    /// Removes the runs that ended longer ago than `age`, and says which. A run that has not ended, that somebody owns
    /// or that cannot be read is never removed.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]; runs that were removed before it stay removed.
    pub async fn prune(&self, age: Duration) -> Result<Vec<RunId>> {
        let now = self.clock.now();
        let mut removed = Vec::new();
        for run in self.journal.list().await? {
            let state = match self.state(&run).await {
                Ok(state) => state,
                Err(e) => {
                    tracing::warn!(%run, error = %e, "not pruned: it cannot be read");
                    continue;
                }
            };
            if state.ended.is_some() && clock::since(state.updated, now) > age {
                match self.journal.remove(&run).await {
                    Ok(()) => removed.push(run),
                    Err(e) if e.kind() == ErrorKind::Refused => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(removed)
    }

    /// Takes a run and drives it to its end, from wherever its journal says it is. Cancelling `stop` interrupts it at
    /// the next safe point, resumable.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if another engine has the run; [`ErrorKind::Fenced`] if it is lost to one;
    /// [`ErrorKind::Storage`] if the journal cannot be written: the run stopped before the effect, and is resumable.
    ///
    /// # Cancellation
    /// Dropping the future is like a crash: the run is resumable, and what it was doing is observed then.
    pub async fn drive(&self, run: &RunId, stop: &CancellationToken) -> Result<Ending> {
        executor::drive(self, run, stop).await
    }

    /// Creates a run and drives it to its end.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`drive`](Self::drive).
    pub async fn run(&self, plan: &Plan, by: &str) -> Result<(RunId, Ending)> {
        let run = self.create(plan, by).await?;
        let ending = self.drive(&run, &CancellationToken::new()).await?;
        Ok((run, ending))
    }

    /// What the journal says about a run.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Corrupt`].
    pub async fn state(&self, run: &RunId) -> Result<RunState> {
        fold(&self.journal.load(run).await?)
    }

    /// Everything that happened in a run so far, from event number `from` on.
    ///
    /// # Errors
    /// As for [`state`](Self::state).
    pub async fn events(&self, run: &RunId, from: u64) -> Result<Vec<Event>> {
        let entries = self.journal.load(run).await?;
        let plan = fold(&entries)?.plan;
        Ok(entries.iter().filter(|e| e.seq >= from).map(|e| Event::of(run, &plan, e)).collect())
    }

    /// The events of a run from number `from` on: first those that happened already, then those that this engine makes
    /// happen, each once and in order, to the terminal one.
    ///
    /// # Errors
    /// As for [`state`](Self::state).
    pub async fn follow(&self, run: &RunId, from: u64) -> Result<BoxStream<'static, Event>> {
        let live = self.subscribe();
        let mut past = self.events(run, 1).await?;
        let next = past.last().map_or(from, |last| from.max(last.number + 1));
        let ended = past.last().is_some_and(Event::is_terminal);
        past.retain(|event| event.number >= from);
        let run = run.clone();
        let live = stream::unfold(Some((live, next)).filter(|_| !ended), move |awaited| {
            let run = run.clone();
            async move {
                let (mut live, next) = awaited?;
                loop {
                    match live.next().await? {
                        Signal::Event(event) if event.run == run && event.number >= next => {
                            let more = Some((live, event.number + 1)).filter(|_| !event.is_terminal());
                            return Some((event, more));
                        }
                        _ => {}
                    }
                }
            }
        });
        Ok(stream::iter(past).chain(live).boxed())
    }

    /// Gives a run a command, from any process. It is obeyed, or refused on the record, by the engine that has the
    /// run, at once.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the run cannot obey it as it is now.
    pub async fn command(&self, run: &RunId, command: &Command) -> Result<()> {
        if let Some(why) = self.state(run).await?.refuses(command) {
            return Err(Error::new(ErrorKind::Invalid, "engine", "give a command", why).on(run.as_str()));
        }
        self.journal.send(run, &secret::without(command.clone())).await
    }
}
