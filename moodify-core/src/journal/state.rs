use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{Cause, CommandKind, Entry, Outcome, Record};
use crate::clock;
use crate::error::{Effect, Error, ErrorKind, ErrorRecord, Result};
use crate::model::{Plan, RunId};

/// Where a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepStatus {
    /// Not begun.
    Pending,
    /// An attempt runs, or ran when its engine went away: its effect is unknown.
    Running,
    /// The last attempt failed; another one follows.
    Retrying(ErrorRecord),
    /// Done.
    Finished(Value),
    /// Failed for good.
    Failed(ErrorRecord),
}

/// Where the undoing of a step stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UndoStatus {
    /// Not begun.
    None,
    /// Begun; its effect is unknown. So many attempts began.
    Running(u32),
    /// Undone.
    Finished,
    /// Failed for good.
    Failed(ErrorRecord),
}

/// What the journal says about one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// Attempts that began.
    pub attempts: u32,
    /// Whether the outcome of an attempt is unknown: it must be observed before it is repeated.
    pub unknown: bool,
    /// The last checkpoint.
    pub checkpoint: Option<Value>,
    /// The time that engines spent on it. The time in which no engine lived does not count.
    pub spent: Duration,
    /// What it waits for, if it holds.
    pub held: Option<String>,
    /// Whether it could have changed anything outside.
    pub effects: bool,
    /// Whether it only tells people.
    pub observer: bool,
    /// Where its undoing stands.
    pub undo: UndoStatus,
}

impl Default for StepState {
    fn default() -> Self {
        Self {
            status: StepStatus::Pending,
            attempts: 0,
            unknown: false,
            checkpoint: None,
            spent: Duration::ZERO,
            held: None,
            effects: false,
            observer: false,
            undo: UndoStatus::None,
        }
    }
}

/// A person's pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What the records of a run add up to. The only state machine: live and on recovery it is fed the same records.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// The run.
    pub run: RunId,
    /// What it does.
    pub plan: Arc<Plan>,
    /// Who began it.
    pub by: String,
    /// When.
    pub created: Timestamp,
    /// The number of the last record.
    pub seq: u64,
    /// When it was written.
    pub updated: Timestamp,
    /// The highest fencing token seen.
    pub token: u64,
    /// The engine that owns it, or did last.
    pub owner: Option<String>,
    /// Whether the gates were passed.
    pub gates_passed: bool,
    /// Every step that began, by name.
    pub steps: BTreeMap<String, StepState>,
    /// A person's pause.
    pub paused: Option<Pause>,
    /// Why it goes back, once it does.
    pub rollback: Option<Cause>,
    /// A person's abort that is not acted on yet.
    pub abort: Option<(String, String)>,
    /// A step began after which there is no way back by undoing.
    pub past_pivot: bool,
    /// How it ended.
    pub ended: Option<(Outcome, String)>,
    /// Commands that were taken, by id.
    pub commands: BTreeSet<String>,
}

/// What is to be done next, by the journal alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Ask the gates.
    Gates,
    /// Wait: a person paused the run.
    Wait,
    /// Run (or observe, or repeat) this step.
    Run(String),
    /// Begin to go back.
    Rollback(Cause),
    /// Undo this step.
    Undo(String),
    /// Record the end.
    End(Outcome, String),
    /// Nothing: the run is over.
    Nothing,
}

/// Folds all records of a run.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if they do not begin with the run's creation or contradict themselves.
pub fn fold(entries: &[Entry]) -> Result<RunState> {
    let (first, rest) = entries.split_first().ok_or_else(|| corrupt(0, "the journal is empty"))?;
    let Record::Created { run, plan, by } = &first.record else {
        return Err(corrupt(first.seq, "the first record is not the run's creation"));
    };
    let mut state = RunState {
        run: run.clone(),
        plan: Arc::new((**plan).clone()),
        by: by.clone(),
        created: first.time,
        seq: first.seq,
        updated: first.time,
        token: first.token,
        owner: None,
        gates_passed: false,
        steps: BTreeMap::new(),
        paused: None,
        rollback: None,
        abort: None,
        past_pivot: false,
        ended: None,
        commands: BTreeSet::new(),
    };
    for entry in rest {
        state.apply(entry)?;
    }
    Ok(state)
}

fn corrupt(seq: u64, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "journal", "read the records", format!("record {seq}: {what}"))
}

impl RunState {
    /// Takes one more record into account. Pure.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the record cannot follow what is there; the state is unchanged then.
    pub fn apply(&mut self, entry: &Entry) -> Result<()> {
        if entry.seq != self.seq + 1 {
            return Err(corrupt(entry.seq, &format!("expected record {}", self.seq + 1)));
        }
        if self.ended.is_some() {
            return Err(corrupt(entry.seq, "the run had ended"));
        }
        if entry.token < self.token {
            return Err(corrupt(entry.seq, "written by an engine that had lost the run"));
        }
        let absent = matches!(entry.record, Record::Owned { .. });
        if !absent {
            let passed = clock::since(self.updated, entry.time);
            for step in self.steps.values_mut() {
                if matches!(step.status, StepStatus::Running | StepStatus::Retrying(_)) {
                    step.spent += passed;
                }
            }
        }
        self.change(entry)?;
        self.seq = entry.seq;
        self.updated = entry.time;
        self.token = entry.token;
        Ok(())
    }

    fn change(&mut self, entry: &Entry) -> Result<()> {
        match &entry.record {
            Record::Created { .. } => return Err(corrupt(entry.seq, "the run is created twice")),
            Record::Owned { owner } => {
                self.owner = Some(owner.clone());
                for step in self.steps.values_mut() {
                    step.unknown |= step.status == StepStatus::Running;
                }
            }
            Record::GatesPassed => self.gates_passed = true,
            Record::StepStarted { step, attempt, effects, pivot, observer } => {
                self.past_pivot |= pivot;
                if self.plan.step(step).is_none() {
                    return Err(corrupt(entry.seq, &format!("the plan has no step {step:?}")));
                }
                let state = self.steps.entry(step.clone()).or_default();
                state.status = StepStatus::Running;
                state.attempts = *attempt;
                state.effects |= effects;
                state.observer = *observer;
            }
            Record::Checkpoint { step, data } => self.step(entry.seq, step)?.checkpoint = Some(data.clone()),
            Record::StepFinished { step, output } => {
                let state = self.step(entry.seq, step)?;
                state.status = StepStatus::Finished(output.clone());
                state.unknown = false;
                state.held = None;
            }
            Record::StepFailed { step, error, retry_in, .. } => {
                let state = self.step(entry.seq, step)?;
                state.unknown = error.effect == Effect::Unknown;
                state.held = None;
                state.status = match retry_in {
                    Some(_) => StepStatus::Retrying(error.clone()),
                    None => StepStatus::Failed(error.clone()),
                };
            }
            Record::Held { step, reason } => self.step(entry.seq, step)?.held = Some(reason.clone()),
            Record::Released { step } => self.step(entry.seq, step)?.held = None,
            Record::Commanded { command, refused } => {
                self.commands.insert(command.id.clone());
                if refused.is_none() {
                    let (by, reason) = (command.by.clone(), command.reason.clone());
                    match command.kind {
                        CommandKind::Pause => self.paused = Some(Pause { by, reason }),
                        CommandKind::Continue => self.paused = None,
                        CommandKind::Abort => self.abort = Some((by, reason)),
                    }
                }
            }
            Record::RollbackStarted { cause } => {
                self.rollback = Some(cause.clone());
                self.paused = None;
            }
            Record::UndoStarted { step, attempt } => {
                self.step(entry.seq, step)?.undo = UndoStatus::Running(*attempt);
            }
            Record::UndoFinished { step } => self.step(entry.seq, step)?.undo = UndoStatus::Finished,
            Record::UndoFailed { step, error, retry_in, .. } => {
                if retry_in.is_none() {
                    self.step(entry.seq, step)?.undo = UndoStatus::Failed(error.clone());
                }
            }
            Record::Ended { outcome, summary } => self.ended = Some((*outcome, summary.clone())),
        }
        Ok(())
    }

    fn step(&mut self, seq: u64, name: &str) -> Result<&mut StepState> {
        self.steps.get_mut(name).ok_or_else(|| corrupt(seq, &format!("step {name:?} never began")))
    }

    /// Where the step of that name stands.
    #[must_use]
    pub fn status(&self, step: &str) -> &StepStatus {
        self.steps.get(step).map_or(&StepStatus::Pending, |s| &s.status)
    }

    /// Whether anything outside can have changed.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        self.steps.values().any(|step| step.effects)
    }

    /// Why a command cannot be obeyed now; `None` if it can.
    #[must_use]
    pub fn refuses(&self, kind: CommandKind) -> Option<String> {
        if let Some((outcome, _)) = &self.ended {
            return Some(format!("the run is over: {outcome}"));
        }
        let back = || self.rollback.is_some().then(|| "the run is on its way back already".to_owned());
        match kind {
            CommandKind::Pause if self.paused.is_some() => Some("the run is paused already".to_owned()),
            CommandKind::Pause => back(),
            CommandKind::Continue if self.paused.is_none() => Some("the run is not paused".to_owned()),
            CommandKind::Continue => None,
            CommandKind::Abort if self.past_pivot => {
                Some("the new version serves alone and the old one is gone; release the old version instead".to_owned())
            }
            CommandKind::Abort => back(),
        }
    }

    /// What is to be done next. Pure; abort wins over everything that waits.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.ended.is_some() {
            return Next::Nothing;
        }
        if let Some(cause) = &self.rollback {
            return self.next_undo(cause);
        }
        if let Some((by, reason)) = &self.abort {
            return Next::Rollback(Cause::Abort { by: by.clone(), reason: reason.clone() });
        }
        for (_, step) in self.plan.steps() {
            match self.status(&step.name) {
                StepStatus::Finished(_) => {}
                StepStatus::Failed(_) if self.steps[&step.name].observer => {}
                StepStatus::Failed(error) => return self.after_failure(&step.name, error),
                _ if self.paused.is_some() && *self.status(&step.name) == StepStatus::Pending => return Next::Wait,
                _ if !self.gates_passed => return Next::Gates,
                _ => return Next::Run(step.name.clone()),
            }
        }
        let release = &self.plan.release;
        let summary = format!("{} is released to {}", release.version, self.plan.environment.name);
        self.end(Outcome::Completed, summary)
    }

    /// The end, unless people were not told what they should have been.
    fn end(&self, outcome: Outcome, summary: String) -> Next {
        let untold = self.steps.iter().filter_map(|(name, step)| match (&step.status, &step.undo) {
            (_, UndoStatus::Failed(error)) if step.observer => Some(format!("{name} could not be taken back: {error}")),
            (StepStatus::Failed(error), UndoStatus::None) if step.observer => Some(format!("{name}: {error}")),
            _ => None,
        });
        let untold: Vec<String> = untold.collect();
        match untold.as_slice() {
            [] => Next::End(outcome, summary),
            untold => Next::End(Outcome::NeedsAttention, format!("{summary}; but {}", untold.join("; "))),
        }
    }

    fn after_failure(&self, step: &str, error: &ErrorRecord) -> Next {
        if !self.has_effects() {
            return Next::End(Outcome::Refused, format!("nothing was changed; {step}: {error}"));
        }
        // What somebody else edited is left to people: neither overwritten nor deleted. A probe that may say
        // anything about the new version is no reason to go back once the old one is gone.
        if error.kind == ErrorKind::Drift || self.past_pivot || error.kind == ErrorKind::Inconclusive {
            return Next::End(Outcome::NeedsAttention, format!("{step}: {error}; {}", self.situation()));
        }
        Next::Rollback(Cause::Failure { step: step.to_owned(), error: error.clone() })
    }

    fn next_undo(&self, cause: &Cause) -> Next {
        let steps: Vec<_> = self.plan.steps().collect();
        for (_, step) in steps.into_iter().rev() {
            let Some(state) = self.steps.get(&step.name) else { continue };
            match &state.undo {
                _ if !state.effects => {}
                UndoStatus::Finished => {}
                UndoStatus::Failed(_) if state.observer => {}
                UndoStatus::Failed(error) => {
                    let summary = format!(
                        "the way back stopped at {}: {error}; it went back because of {cause}; {}",
                        step.name,
                        self.situation()
                    );
                    return Next::End(Outcome::NeedsAttention, summary);
                }
                UndoStatus::None | UndoStatus::Running(_) => return Next::Undo(step.name.clone()),
            }
        }
        self.end(Outcome::RolledBack, format!("the old version serves again; {cause}"))
    }

    /// What is done, undone and open, for the person who is called.
    #[must_use]
    pub fn situation(&self) -> String {
        let mut parts = Vec::new();
        let names = |wanted: &dyn Fn(&StepState) -> bool| {
            let began = self.plan.steps().filter_map(|(_, s)| self.steps.get(&s.name).map(|state| (&s.name, state)));
            began.filter(|(_, s)| s.effects && wanted(s)).map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        };
        let done = names(&|s| matches!(s.status, StepStatus::Finished(_)) && s.undo != UndoStatus::Finished);
        let undone = names(&|s| s.undo == UndoStatus::Finished);
        let open = names(&|s| !matches!(s.status, StepStatus::Finished(_)) && s.undo != UndoStatus::Finished);
        for (what, list) in [("in force", done), ("taken back", undone), ("uncertain", open)] {
            if !list.is_empty() {
                parts.push(format!("{what}: {list}"));
            }
        }
        parts.join("; ")
    }
}
