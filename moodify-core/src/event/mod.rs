//! What observers see: events, derived from records that are durable already, and progress, which may be dropped.
//! An observer can neither stall nor fail a run: it reads from a queue of its own.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};

use crate::analysis::MetricStatus;
use crate::error::ErrorRecord;
use crate::journal::{Command, CommandKind, Entry, Outcome, Record};
use crate::model::{Period, Plan, RunId, Track, Weight};

/// Something that happened in a run, for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// 1, 2, 3, ... without a gap: the number of the journal's record.
    pub number: u64,
    /// When.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// The run.
    pub run: RunId,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. Exactly one [`RunEnded`](Self::RunEnded) in a run that is over, and it is the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields repeat those of the records")]
pub enum EventKind {
    /// The run exists.
    RunCreated {
        plan: String,
        version: String,
        environment: String,
        phases: Vec<PhaseOutline>,
        by: String,
        undoes: Option<RunId>,
    },
    /// An engine owns it.
    Owned { owner: String },
    /// The gates held.
    GatesPassed,
    /// An attempt at a step begins.
    StepStarted { phase: String, step: String, action: String, attempt: u32 },
    /// A step wrote down what it is about to do.
    Checkpoint { step: String, data: Value },
    /// A step is done.
    StepFinished { step: String, output: Value },
    /// An attempt failed; without `retry-in` for good.
    StepFailed { step: String, attempt: u32, error: ErrorRecord, message: String, retry_in: Option<Period> },
    /// A step waits for something that is not in its hands.
    Held { step: String, reason: String },
    /// It need not wait any more.
    Released { step: String },
    /// Somebody gave a command.
    Commanded { command: CommandKind, step: Option<String>, by: String, reason: String, refused: Option<String> },
    /// The run goes back.
    RollbackStarted { cause: String },
    /// An attempt at undoing a step begins.
    UndoStarted { step: String, attempt: u32 },
    /// A step is undone.
    UndoFinished { step: String },
    /// An attempt at undoing failed; without `retry-in` for good.
    UndoFailed {
        step: String,
        attempt: u32,
        error: ErrorRecord,
        message: String,
        retry_in: Option<Period>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        by_hand: Vec<String>,
    },
    /// An engine drives it still.
    Lived,
    /// Its engine stopped in order; it can be resumed.
    Stopped,
    /// The run is over.
    RunEnded { outcome: Outcome, summary: String },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A phase and its steps, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseOutline {
    /// The phase.
    pub name: String,
    /// Its steps.
    pub steps: Vec<String>,
}

impl Event {
    /// Whether it is the last one of its run.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.kind, EventKind::RunEnded { .. })
    }

    /// The event of a record.
    #[must_use]
    pub fn of(run: &RunId, plan: &Plan, entry: &Entry) -> Self {
        Self { number: entry.seq, time: entry.time, run: run.clone(), kind: kind_of(plan, entry.record.clone()) }
    }
}

fn kind_of(plan: &Plan, record: Record) -> EventKind {
    match record {
        Record::Created { plan, by, undoes, .. } => EventKind::RunCreated {
            undoes,
            version: plan.release.version.clone(),
            environment: plan.environment.name.clone(),
            phases: outline(&plan),
            plan: plan.name,
            by,
        },
        Record::Owned { owner } => EventKind::Owned { owner },
        Record::GatesPassed => EventKind::GatesPassed,
        Record::StepStarted { step, attempt, .. } => {
            let found = plan.steps().find(|(_, s)| s.name == step);
            let (phase, action) = found.map(|(p, s)| (p.name.clone(), s.action.clone())).unwrap_or_default();
            EventKind::StepStarted { phase, step, action, attempt }
        }
        Record::Checkpoint { step, data } => EventKind::Checkpoint { step, data },
        Record::StepFinished { step, output } => EventKind::StepFinished { step, output },
        Record::StepFailed { step, attempt, error, retry_in } => {
            EventKind::StepFailed { step, attempt, message: error.to_string(), error, retry_in }
        }
        Record::Held { step, reason } => EventKind::Held { step, reason },
        Record::Released { step } => EventKind::Released { step },
        Record::Commanded { command, refused } => {
            let Command { kind, by, reason, step, .. } = command;
            EventKind::Commanded { command: kind, step, by, reason, refused }
        }
        Record::RollbackStarted { cause } => EventKind::RollbackStarted { cause: cause.to_string() },
        Record::UndoStarted { step, attempt } => EventKind::UndoStarted { step, attempt },
        Record::UndoFinished { step } => EventKind::UndoFinished { step },
        Record::UndoFailed { step, attempt, error, retry_in, by_hand } => {
            EventKind::UndoFailed { step, attempt, message: error.to_string(), error, retry_in, by_hand }
        }
        Record::Lived => EventKind::Lived,
        Record::Stopped => EventKind::Stopped,
        Record::Ended { outcome, summary } => EventKind::RunEnded { outcome, summary },
    }
}

/// The phases of a plan and their steps, by name.
#[must_use]
pub fn outline(plan: &Plan) -> Vec<PhaseOutline> {
    let names = |phase: &crate::model::Phase| phase.steps.iter().map(|s| s.name.clone()).collect();
    plan.phases.iter().map(|p| PhaseOutline { name: p.name.clone(), steps: names(p) }).collect()
}

/// How a step is getting on. Droppable: only the newest of each kind means anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: String,
    /// How.
    #[serde(flatten)]
    pub kind: ProgressKind,
}

/// How a step is getting on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "progress", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
#[non_exhaustive]
pub enum ProgressKind {
    /// Instances of a version.
    Workload {
        /// The service.
        service: String,
        /// The version.
        track: Track,
        /// How many are available.
        available: u32,
        /// How many are asked for.
        desired: u32,
    },
    /// The division of traffic.
    Traffic {
        /// The service.
        service: String,
        /// The canary's weight.
        weight: Weight,
        /// The canary's share, as a fraction of one.
        share: f64,
    },
    /// The new version is watched.
    Bake {
        /// At this weight.
        weight: Weight,
        /// The time that counted so far.
        elapsed: Period,
        /// The time that shall be watched.
        total: Period,
        /// Why the time stands still, if it does.
        standing_still: Option<String>,
        /// Every metric of every service.
        metrics: Vec<MetricStatus>,
    },
    /// Anything else worth a line.
    Note {
        /// The line.
        text: String,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Either of both.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// Something that happened.
    Event(Event),
    /// How something is getting on.
    Progress(Progress),
}

/// A place in the audience of an engine.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::UnboundedReceiver<Event>,
    progress: broadcast::Receiver<Progress>,
}

impl Subscription {
    /// The next signal, events first; `None` when the engine is gone. Progress that came too fast is skipped.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => return event.map(Signal::Event),
                progress = self.progress.recv() => match progress {
                    Ok(progress) => return Some(Signal::Progress(progress)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return self.events.recv().await.map(Signal::Event),
                },
            }
        }
    }
}

/// Where an engine tells its audience.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    events: std::sync::Arc<std::sync::Mutex<Vec<mpsc::UnboundedSender<Event>>>>,
    progress: broadcast::Sender<Progress>,
}

/// Progress that a slow observer may be behind before some is dropped.
const PROGRESS_KEPT: usize = 256;

impl Feed {
    pub(crate) fn new() -> Self {
        Self { events: std::sync::Arc::default(), progress: broadcast::channel(PROGRESS_KEPT).0 }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let (sender, events) = mpsc::unbounded_channel();
        self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sender);
        Subscription { events, progress: self.progress.subscribe() }
    }

    /// Whether anybody hears of events.
    pub(crate) fn has_audience(&self) -> bool {
        !self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
    }

    pub(crate) fn event(&self, event: &Event) {
        let mut audience = self.events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        audience.retain(|sender| sender.send(event.clone()).is_ok());
    }

    /// Whether anybody listens.
    pub(crate) fn is_watched(&self) -> bool {
        self.progress.receiver_count() > 0
    }

    pub(crate) fn progress(&self, progress: Progress) {
        // Nobody listening is fine.
        let _ = self.progress.send(progress);
    }
}
