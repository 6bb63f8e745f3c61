use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cause, Command, CommandKind, Entry, Kept, Outcome, Record};
use crate::action::kinds;
use crate::clock;
use crate::error::{Effect, Error, ErrorKind, ErrorRecord, Result};
use crate::model::{Plan, RunId, Step};
use crate::mutation::{self, Mutation};

/// Where a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepStatus {
    /// Not begun.
    Pending,
    /// An attempt runs, or ran when its engine went away: its effect is unknown.
    Running,
    /// The last attempt failed; another one follows.
    Retrying(Box<ErrorRecord>),
    /// Done.
    Finished(Kept),
    /// Failed for good.
    Failed(Box<ErrorRecord>),
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
    Failed(Box<ErrorRecord>),
}

/// What a person said about a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => f.write_str(&self.by),
            reason => write!(f, "{}: {reason}", self.by),
        }
    }
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
    pub checkpoint: Option<Kept>,
    /// The time that engines spent on it. The time in which no engine lived does not count.
    pub spent: Duration,
    /// What it waits for, if it holds.
    pub held: Option<String>,
    /// Whether it could have changed anything outside.
    pub effects: bool,
    /// Whether it only tells people.
    pub observer: bool,
    /// Whether it was begun once more after it had failed for good, as the last word to customers is at the end of a run.
    pub again: bool,
    /// Who said yes to it.
    pub approvals: Vec<Answer>,
    /// Who said no to it.
    pub rejected: Option<Box<Answer>>,
    /// Who said that its analysis is to be skipped.
    pub skipped: Option<Box<Answer>>,
    /// Where its undoing stands.
    pub undo: UndoStatus,
    /// Commands with which a person can undo it, if moodify could not.
    pub by_hand: Vec<String>,
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
            again: false,
            approvals: Vec::new(),
            rejected: None,
            skipped: None,
            undo: UndoStatus::None,
            by_hand: Vec::new(),
        }
    }
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
    /// The completed run that this one takes back, if it does.
    pub undoes: Option<RunId>,
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
    /// Every step that began, by name. Shared with the states before and after, where nothing changed.
    pub steps: BTreeMap<String, Arc<StepState>>,
    /// A person's pause.
    pub paused: Option<Answer>,
    /// Why it goes back, once it does.
    pub rollback: Option<Box<Cause>>,
    /// A person's abort that is not acted on yet.
    pub abort: Option<Answer>,
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
    /// Run (or observe, or repeat) these steps, at once.
    Run(Vec<String>),
    /// Begin to go back.
    Rollback(Box<Cause>),
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
    let Record::Created { run, plan, by, undoes } = &first.record else {
        return Err(corrupt(first.seq, "the first record is not the run's creation"));
    };
    let mut state = RunState {
        run: run.clone(),
        plan: Arc::new((**plan).clone()),
        by: by.clone(),
        created: first.time,
        undoes: undoes.clone(),
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
        state.accepts(entry)?;
        state.apply(entry.clone());
    }
    Ok(state)
}

fn corrupt(seq: u64, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "journal", "read the records", format!("record {seq}: {what}"))
}

impl RunState {
    /// Whether a record can follow what is there.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it cannot.
    pub fn accepts(&self, entry: &Entry) -> Result<()> {
        let refuse = |what: &str| Err(corrupt(entry.seq, what));
        if entry.seq != self.seq + 1 {
            return refuse(&format!("expected record {}", self.seq + 1));
        }
        if self.ended.is_some() {
            return refuse("the run had ended");
        }
        if entry.token < self.token {
            return refuse("written by an engine that had lost the run");
        }
        match &entry.record {
            Record::Created { .. } => refuse("the run is created twice"),
            Record::StepStarted { step, .. } if self.plan.step(step).is_none() => {
                refuse(&format!("the plan has no step {step:?}"))
            }
            Record::Checkpoint { step, .. }
            | Record::StepFinished { step, .. }
            | Record::StepFailed { step, .. }
            | Record::Held { step, .. }
            | Record::Released { step }
            | Record::UndoStarted { step, .. }
            | Record::UndoFinished { step }
            | Record::UndoFailed { step, .. }
                if !self.steps.contains_key(step) =>
            {
                refuse(&format!("step {step:?} never began"))
            }
            _ => Ok(()),
        }
    }

    /// Takes a record that is [accepted](Self::accepts) into account. Pure.
    pub fn apply(&mut self, entry: Entry) {
        // Time in which no engine lived does not count.
        if !matches!(entry.record, Record::Owned { .. }) {
            let by_wall = || clock::since(self.updated, entry.time);
            let passed = entry.elapsed_ms.map_or_else(by_wall, Duration::from_millis);
            for step in self.steps.values_mut() {
                if matches!(step.status, StepStatus::Running | StepStatus::Retrying(_)) {
                    Arc::make_mut(step).spent += passed;
                }
            }
        }
        self.seq = entry.seq;
        self.updated = entry.time;
        self.token = entry.token;
        self.change(entry.record);
    }

    fn change(&mut self, record: Record) {
        match record {
            // What passed was counted by `apply`.
            Record::Created { .. } | Record::Lived | Record::Stopped => {}
            Record::Owned { owner } => {
                self.owner = Some(owner);
                for step in self.steps.values_mut().filter(|step| step.status == StepStatus::Running) {
                    Arc::make_mut(step).unknown = true;
                }
            }
            Record::GatesPassed => self.gates_passed = true,
            Record::StepStarted { step, attempt, effects, pivot, observer } => {
                self.past_pivot |= pivot;
                let state = self.step(step);
                if matches!(state.status, StepStatus::Failed(_)) {
                    (state.again, state.spent) = (true, Duration::ZERO);
                }
                state.status = StepStatus::Running;
                state.attempts = attempt;
                state.effects |= effects;
                state.observer = observer;
            }
            Record::Checkpoint { step, data } => self.step(step).checkpoint = Some(Kept::from(&data)),
            Record::StepFinished { step, output } => {
                let state = self.step(step);
                state.status = StepStatus::Finished(Kept::from(&output));
                state.unknown = false;
                state.held = None;
            }
            Record::StepFailed { step, error, retry_in, .. } => {
                let state = self.step(step);
                state.unknown = error.effect == Effect::Unknown;
                state.held = None;
                state.status = match retry_in {
                    Some(_) => StepStatus::Retrying(Box::new(error)),
                    None => StepStatus::Failed(Box::new(error)),
                };
            }
            Record::Held { step, reason } => self.step(step).held = Some(reason),
            Record::Released { step } => self.step(step).held = None,
            Record::Commanded { command, refused } => {
                self.commands.insert(command.id.clone());
                if refused.is_none() {
                    self.obey(command);
                }
            }
            Record::RollbackStarted { cause } => {
                self.rollback = Some(Box::new(cause));
                self.paused = None;
            }
            Record::UndoStarted { step, attempt } => {
                let state = self.step(step);
                state.again |= matches!(state.undo, UndoStatus::Failed(_));
                state.undo = UndoStatus::Running(attempt);
            }
            Record::UndoFinished { step } => self.step(step).undo = UndoStatus::Finished,
            Record::UndoFailed { step, error, retry_in, by_hand, .. } => {
                if retry_in.is_none() {
                    let state = self.step(step);
                    state.undo = UndoStatus::Failed(Box::new(error));
                    state.by_hand = by_hand;
                }
            }
            Record::Ended { outcome, summary } => self.ended = Some((outcome, summary)),
        }
    }

    fn obey(&mut self, command: Command) {
        let step = self.meant(&command).map(str::to_owned);
        let answer = Answer { by: command.by, reason: command.reason };
        match (command.kind, step) {
            (CommandKind::Pause, _) => self.paused = Some(answer),
            (CommandKind::Continue, _) => self.paused = None,
            (CommandKind::Abort, _) => self.abort = Some(answer),
            (CommandKind::Approve, Some(step)) => self.step(step).approvals.push(answer),
            (CommandKind::Reject, Some(step)) => self.step(step).rejected = Some(Box::new(answer)),
            (CommandKind::Skip, Some(step)) => self.step(step).skipped = Some(Box::new(answer)),
            (CommandKind::Approve | CommandKind::Reject | CommandKind::Skip, None) => {}
        }
    }

    fn step(&mut self, name: String) -> &mut StepState {
        Arc::make_mut(self.steps.entry(name).or_default())
    }

    /// The running step that a command means: the one that it names, or the only one of the kind that it is for.
    fn meant(&self, command: &Command) -> Option<&str> {
        let action = match command.kind {
            CommandKind::Approve | CommandKind::Reject => kinds::APPROVAL,
            CommandKind::Skip => kinds::BAKE,
            CommandKind::Pause | CommandKind::Continue | CommandKind::Abort => return None,
        };
        let running = |name: &str| matches!(self.status(name), StepStatus::Running | StepStatus::Retrying(_));
        let named = |name: &str| command.step.as_ref().is_none_or(|step| step == name);
        let all =
            self.plan.steps().map(|(_, s)| s).filter(|s| s.action == action && running(&s.name) && named(&s.name));
        let mut all = all.map(|s| s.name.as_str());
        let first = all.next();
        first.filter(|_| all.next().is_none())
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
    pub fn refuses(&self, command: &Command) -> Option<String> {
        if let Some((outcome, _)) = &self.ended {
            return Some(format!("the run is over: {outcome}"));
        }
        if self.rollback.is_some() && command.kind != CommandKind::Continue {
            return Some("the run is on its way back already".to_owned());
        }
        if self.abort.is_some() && command.kind != CommandKind::Continue {
            return Some("the run was aborted already".to_owned());
        }
        match command.kind {
            CommandKind::Pause => self.paused.is_some().then(|| "the run is paused already".to_owned()),
            CommandKind::Continue => self.paused.is_none().then(|| "the run is not paused".to_owned()),
            CommandKind::Abort => self.past_pivot.then(|| {
                "the new version serves alone and the old one is gone; release the old version instead".to_owned()
            }),
            CommandKind::Skip if command.reason.trim().is_empty() => {
                Some("skipping an analysis needs a reason".to_owned())
            }
            CommandKind::Approve | CommandKind::Reject | CommandKind::Skip => self.refuses_answer(command),
        }
    }

    fn refuses_answer(&self, command: &Command) -> Option<String> {
        let wanted =
            if command.kind == CommandKind::Skip { "an analysis that runs" } else { "a step that waits for approval" };
        let Some(step) = self.meant(command).and_then(|name| self.steps.get(name)) else {
            return Some(match &command.step {
                Some(step) => format!("{step:?} is not {wanted}"),
                None => format!("there is not exactly one step that is {wanted}: name it"),
            });
        };
        let again = step.approvals.iter().any(|answer| answer.by == command.by);
        match command.kind {
            CommandKind::Approve if again => Some(format!("{} has approved it already", command.by)),
            _ if step.rejected.is_some() => Some("it was rejected already".to_owned()),
            _ if step.skipped.is_some() => Some("it was skipped already".to_owned()),
            _ => None,
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
        if let Some(Answer { by, reason }) = &self.abort
            && !mutation::on(Mutation::IgnoreAbort)
        {
            return Next::Rollback(Box::new(Cause::Abort { by: by.clone(), reason: reason.clone() }));
        }
        // What only tells people is told in its order, and nothing else waits for it.
        let mut telling: Vec<&Step> = Vec::new();
        let (mut ready, mut paused) = (Vec::new(), false);
        for phase in &self.plan.phases {
            for step in &phase.steps {
                match self.status(&step.name) {
                    StepStatus::Finished(_) => continue,
                    StepStatus::Failed(_) if self.steps[&step.name].observer => continue,
                    StepStatus::Failed(error) => return self.after_failure(&step.name, error),
                    _ if step.action == kinds::RETIRE_CANARY && mutation::on(Mutation::EndHalfWay) => continue,
                    StepStatus::Pending if telling.iter().any(|earlier| earlier.action == step.action) => continue,
                    StepStatus::Pending if self.paused.is_some() => paused = true,
                    StepStatus::Pending if !self.gates_passed => return Next::Gates,
                    StepStatus::Running | StepStatus::Retrying(_) if self.steps[&step.name].observer => {
                        telling.push(step);
                        continue;
                    }
                    _ => ready.push(step.name.clone()),
                }
                if !phase.parallel {
                    break;
                }
            }
            if paused || !ready.is_empty() {
                break;
            }
        }
        ready.extend(telling.into_iter().map(|step| step.name.clone()));
        match ready.as_slice() {
            [] if paused => Next::Wait,
            [] => self.end(Outcome::Completed, self.completed()),
            _ => Next::Run(ready),
        }
    }

    fn completed(&self) -> String {
        let (plan, environment) = (&self.plan, &self.plan.environment.name);
        let last = |kind: &str| plan.steps().map(|(_, step)| step).filter(|step| step.action == kind).last();
        let said = |kind: &str, what: &str| last(kind).and_then(|step| step.with[what].as_str());
        let target = said(kinds::RESTORE, "target").filter(|_| last(kinds::SWITCH_CONNECTION).is_some());
        match (target, said(kinds::RESTORE_LIVE, "store")) {
            (Some(target), _) => format!("{environment} runs on {target}"),
            (None, Some(store)) => format!("a backup is restored into the database of {store}, in {environment}"),
            (None, None) => format!("{} is released to {environment}", plan.release.version),
        }
    }

    /// The end. The last word to customers is tried once more; what is still owed to people then is said.
    fn end(&self, outcome: Outcome, summary: String) -> Next {
        let back = self.rollback.is_some();
        let last_word = self.last_word(back);
        if let Some(name) = last_word {
            let step = &self.steps[name];
            let owed = if back {
                matches!(step.undo, UndoStatus::Failed(_))
            } else {
                matches!(step.status, StepStatus::Failed(_))
            };
            match (owed && !step.again, back) {
                (false, _) => {}
                (true, false) => return Next::Run(vec![name.to_owned()]),
                (true, true) => return Next::Undo(name.to_owned()),
            }
        }
        let speaks = |name: &str| self.plan.step(name).is_some_and(|step| step.action == kinds::STATUS_PAGE);
        let untold = self.steps.iter().filter_map(|(name, step)| match (&step.status, &step.undo) {
            // What came after it on the page has taken its place.
            _ if speaks(name) && last_word != Some(name) => None,
            (_, UndoStatus::Failed(error)) if step.observer => {
                Some((speaks(name), format!("{name} could not be taken back: {error}")))
            }
            (StepStatus::Failed(error), UndoStatus::None) if step.observer => {
                Some((speaks(name), format!("{name}: {error}")))
            }
            _ => None,
        });
        let untold: Vec<(bool, String)> = untold.collect();
        if untold.is_empty() {
            return Next::End(outcome, summary);
        }
        // Customers read what a page says until somebody mends it; a message that was not sent changes nothing.
        let outcome = if untold.iter().any(|(on_page, _)| *on_page) { Outcome::NeedsAttention } else { outcome };
        let untold: Vec<String> = untold.into_iter().map(|(_, what)| what).collect();
        Next::End(outcome, format!("{summary}; but {}", untold.join("; ")))
    }

    /// The step that says last where the run stands on the status page: what was to be said before it need not be said
    /// any more. On the way back that is the first one of the plan.
    fn last_word(&self, back: bool) -> Option<&str> {
        let speaks = |step: &&Step| {
            step.action == kinds::STATUS_PAGE && self.steps.get(&step.name).is_some_and(|state| state.observer)
        };
        let mut steps = self.plan.steps().map(|(_, step)| step).filter(speaks);
        let step = if back { steps.next() } else { steps.last() };
        step.map(|step| step.name.as_str())
    }

    fn after_failure(&self, step: &str, error: &ErrorRecord) -> Next {
        if !self.has_effects() {
            return Next::End(Outcome::Refused, format!("nothing was changed; {step}: {error}"));
        }
        // What somebody else edited is left to people: neither overwritten nor deleted. A probe that may say
        // anything about the new version is no reason to go back once the old one is gone.
        let left_to_people = match error.kind {
            ErrorKind::Drift => !mutation::on(Mutation::DriftRollsBack),
            ErrorKind::Inconclusive => !mutation::on(Mutation::InconclusiveRollsBack),
            _ => self.past_pivot,
        };
        if left_to_people {
            return Next::End(Outcome::NeedsAttention, format!("{step}: {error}; {}", self.situation()));
        }
        Next::Rollback(Box::new(Cause::Failure { step: step.to_owned(), error: error.clone() }))
    }

    fn next_undo(&self, cause: &Cause) -> Next {
        for step in self.to_undo() {
            let state = &self.steps[&step.name];
            match &state.undo {
                UndoStatus::Failed(_) if state.observer && !mutation::on(Mutation::StatusPageStopsRollback) => {}
                UndoStatus::Failed(_) if mutation::on(Mutation::UndoFailureIsFine) => {}
                UndoStatus::Failed(error) => {
                    let mut summary = format!(
                        "the way back stopped at {}: {error}; it went back because of {cause}; {}",
                        step.name,
                        self.situation()
                    );
                    if !state.by_hand.is_empty() {
                        summary.push_str("; to do the rest by hand, in this order: ");
                        summary.push_str(&state.by_hand.join("; "));
                    }
                    return Next::End(Outcome::NeedsAttention, summary);
                }
                _ => return Next::Undo(step.name.clone()),
            }
        }
        self.end(Outcome::RolledBack, format!("the old version serves again; {cause}"))
    }

    /// The steps that are still to be taken back, in the order in which that is done: the last one first, but those that
    /// only tell people after all others, so that traffic never waits for a status page.
    pub fn to_undo(&self) -> impl Iterator<Item = &Step> {
        let open = |step: &&Step| {
            self.steps.get(&step.name).is_some_and(|s| {
                let forgotten = match s.status {
                    StepStatus::Running => mutation::on(Mutation::ForgetUndoOfUnknown),
                    StepStatus::Failed(_) => mutation::on(Mutation::ForgetUndoOfFailed),
                    _ => false,
                };
                s.effects && s.undo != UndoStatus::Finished && !forgotten
            })
        };
        let mut steps: Vec<&Step> = self.plan.steps().map(|(_, step)| step).filter(open).collect();
        if !mutation::on(Mutation::UndoInForwardOrder) {
            steps.reverse();
        }
        let tells = |step: &&Step| self.steps[&step.name].observer && !mutation::on(Mutation::StatusPageStopsRollback);
        let (tell, change): (Vec<_>, Vec<_>) = steps.into_iter().partition(tells);
        change.into_iter().chain(tell)
    }

    /// What is done, undone and open, for the person who is called.
    #[must_use]
    pub fn situation(&self) -> String {
        let mut parts = Vec::new();
        let names = |wanted: &dyn Fn(&StepState) -> bool| {
            let began = self.plan.steps().filter_map(|(_, s)| self.steps.get(&s.name).map(|state| (&s.name, state)));
            began.filter(|(_, s)| s.effects && wanted(s)).map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        };
        let finished = |s: &StepState| matches!(s.status, StepStatus::Finished(_));
        let done = names(&|s| finished(s) && s.undo == UndoStatus::None);
        let undone = names(&|s| s.undo == UndoStatus::Finished);
        let open = names(&|s| s.undo != UndoStatus::Finished && (!finished(s) || s.undo != UndoStatus::None));
        for (what, list) in [("in force", done), ("taken back", undone), ("uncertain", open)] {
            if !list.is_empty() {
                parts.push(format!("{what}: {list}"));
            }
        }
        parts.join("; ")
    }
}
