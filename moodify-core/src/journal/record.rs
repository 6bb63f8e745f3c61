use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ErrorRecord;
use crate::model::{Period, Plan, RunId};

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3, ... without a gap.
    pub seq: u64,
    /// Wall time when it was written: for people.
    pub time: Timestamp,
    /// Milliseconds since the record before it, by a clock that no change of the wall clock moves; 0 for the first record
    /// of an engine, so that only the time counts in which one lived. Missing in journals of format 1.0, where the wall
    /// clock has to do.
    #[serde(default, rename = "elapsed-ms", skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// The fencing token of the engine that wrote it.
    pub token: u64,
    /// What happened.
    pub record: Record,
}

/// What happened. Written before the effect that it announces, and after the effect that it reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
#[non_exhaustive]
pub enum Record {
    /// The run exists. The plan is kept whole: a run does not change when its file does.
    Created {
        /// The run.
        run: RunId,
        /// What it does.
        plan: Box<Plan>,
        /// Who began it.
        by: String,
        /// The completed run that this one takes back, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undoes: Option<RunId>,
    },
    /// An engine owns the run from here on.
    Owned {
        /// Which one.
        owner: String,
    },
    /// The gates held.
    GatesPassed,
    /// An attempt at a step begins.
    StepStarted {
        /// The step.
        step: String,
        /// 1, 2, 3, ...
        attempt: u32,
        /// Whether it can change anything outside.
        effects: bool,
        /// Once begun, the run can only go forward: it cannot be taken back by undoing steps.
        pivot: bool,
        /// It only tells people: its failure does not fail the run.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        observer: bool,
    },
    /// Something that the step must know after a crash, written before the effect that it allows.
    Checkpoint {
        /// The step.
        step: String,
        /// The step's own data.
        data: Value,
    },
    /// The step is done.
    StepFinished {
        /// The step.
        step: String,
        /// Its output.
        output: Value,
    },
    /// An attempt failed.
    StepFailed {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Why.
        error: ErrorRecord,
        /// When the next attempt begins; none if this was the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in: Option<Period>,
    },
    /// The running step waits for something that is not in its hands, such as metrics that are missing.
    Held {
        /// The step.
        step: String,
        /// What for.
        reason: String,
    },
    /// What the step waited for is there.
    Released {
        /// The step.
        step: String,
    },
    /// A command was taken from the inbox.
    Commanded {
        /// The command.
        command: Command,
        /// Why it was refused, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// From here on, steps are undone.
    RollbackStarted {
        /// Why.
        cause: Cause,
    },
    /// An attempt at undoing a step begins.
    UndoStarted {
        /// The step.
        step: String,
        /// 1, 2, 3, ...
        attempt: u32,
    },
    /// The step is undone.
    UndoFinished {
        /// The step.
        step: String,
    },
    /// An attempt at undoing failed.
    UndoFailed {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Why.
        error: ErrorRecord,
        /// When the next attempt begins; none if this was the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in: Option<Period>,
        /// Commands with which a person can do it instead, if this was the last attempt.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        by_hand: Vec<String>,
    },
    /// Time passed in which an engine drove the run and nothing else was to be recorded: it counts for deadlines.
    Lived,
    /// The engine stopped in order, before the end.
    Stopped,
    /// The run is over. The last record.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why and with what state, for people.
        summary: String,
    },
}

/// Why a run goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Cause {
    /// A step failed for good.
    Failure {
        /// The step.
        step: String,
        /// Why.
        error: ErrorRecord,
    },
    /// A person said so.
    Abort {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure { step, error } => write!(f, "{step}: {error}"),
            Self::Abort { by, reason } if reason.is_empty() => write!(f, "aborted by {by}"),
            Self::Abort { by, reason } => write!(f, "aborted by {by}: {reason}"),
        }
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All new.
    Completed,
    /// All old.
    RolledBack,
    /// Nothing changed.
    Refused,
    /// A person is needed; the summary says the exact state.
    NeedsAttention,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
            Self::NeedsAttention => "needs attention",
        })
    }
}

/// What a person tells a run, from any process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// Its own id: the same command twice is one command.
    pub id: String,
    /// What.
    pub kind: CommandKind,
    /// Who.
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// The step that is meant by approve, reject and skip; left out, the one that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

impl Command {
    /// A new command with a fresh id, that sorts after every one before it.
    #[must_use]
    pub fn new(kind: CommandKind, by: &str, reason: &str) -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        Self { id, kind, by: by.to_owned(), reason: reason.to_owned(), step: None }
    }

    /// The same for one step.
    #[must_use]
    pub fn for_step(mut self, step: &str) -> Self {
        self.step = Some(step.to_owned());
        self
    }
}

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CommandKind {
    /// Do not go on until told to. The version that bakes stays under watch.
    Pause,
    /// Go on.
    Continue,
    /// Take it back. Wins over everything that waits.
    Abort,
    /// Say yes to a step that waits for approval.
    Approve,
    /// Say no to a step that waits for approval.
    Reject,
    /// End an analysis without its verdict: who says so answers for it, with a reason.
    Skip,
}

impl fmt::Display for CommandKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Abort => "abort",
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Skip => "skip",
        })
    }
}
