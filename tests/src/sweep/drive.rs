//! Drives one case to its end, on a virtual clock of its own, and notes all that happened.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use moodify_core::clock::Clock;
use moodify_core::engine::{Ending, EngineOptions};
use moodify_core::error::{ErrorKind, Result};
use moodify_core::event::{Event, Signal};
use moodify_core::journal::{Command, CommandKind, JournalStore, Outcome};
use moodify_core::model::{Period, RunId};
use moodify_core::secret::remember;
use moodify_core::testing::{Call, Delivery, Flow, ServiceView, SimIncident, Simulator, Write};
use moodify_core::{Engine, Error};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::case::{Case, Life, LifeEnd, UndoCase, ms};
use super::journal::{LifeJournal, Logged, Shared};
use super::metrics::{Asked, Ledger};

/// How long an engine keeps a run after its last sign of life.
pub const LEASE: Duration = Duration::from_secs(15);
/// The longest that a run may take, whatever happens to it: policies and deadlines add up to less.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Engines that nothing happens to, after those of the case: the first of them must end the run.
const SPARE: usize = 2;
/// How long the world is watched after the end: what was under way arrives.
const AFTERWARDS: Duration = Duration::from_secs(90);

/// What failing backends repeat in their errors, and nobody may see.
pub const CANARY: &str = "cNry-7f3A9qXz-of-the-sweep";
/// The engine that takes a completed release back; the next one does so if it is killed.
const UNDOER: usize = 90;

/// How one engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// It returned.
    Returned(String),
    /// It was killed.
    Killed,
    /// It was left alone while another one took over; how it returned, if it did.
    Replaced(Option<String>),
}

/// What became of one engine.
#[derive(Debug, Clone)]
pub struct LifeReport {
    /// From when, from the start of the simulation.
    pub begun: Duration,
    /// Until when somebody drove it.
    pub over: Duration,
    /// What was meant to happen to it.
    pub end: Option<LifeEnd>,
    /// Whether that happened.
    pub hit: bool,
    /// How it ended.
    pub death: Death,
    /// The events that it told.
    pub events: Vec<Event>,
}

/// All that happened in a case.
#[derive(Debug, Clone)]
pub struct Trace {
    /// What the check said.
    pub refused: Option<(ErrorKind, String)>,
    /// The run.
    pub run: Option<RunId>,
    /// How it ended.
    pub ended: Option<(Outcome, String)>,
    /// It took longer than anything may take.
    pub endless: bool,
    /// An engine that nothing happened to did not end the run.
    pub failed: Option<String>,
    /// The journal.
    pub log: Vec<Logged>,
    /// Who took the run, and when.
    pub taken: Vec<(usize, Duration)>,
    /// The engines.
    pub lives: Vec<LifeReport>,
    /// What metric sources answered.
    pub asked: Vec<Asked>,
    /// Calls.
    pub calls: Vec<Call>,
    /// Writes.
    pub writes: Vec<Write>,
    /// Flows.
    pub flows: Vec<Flow>,
    /// Incidents.
    pub incidents: Vec<SimIncident>,
    /// Messages.
    pub deliveries: Vec<Delivery>,
    /// The services a while after the end.
    pub services: Vec<ServiceView>,
    /// The same at the beginning.
    pub at_first: Vec<ServiceView>,
    /// When it was over.
    pub end: Duration,
    /// How it was taken back, after it completed.
    pub undone: Option<Undone>,
}

/// What happened while a completed release was taken back.
#[derive(Debug, Clone)]
pub struct Undone {
    /// From when on.
    pub from: Duration,
    /// How that ended, or why it did not.
    pub ended: Result<(Outcome, String), String>,
    /// Whether the engine was killed on its way.
    pub killed: bool,
    /// The journal of the run that did it.
    pub log: Vec<Logged>,
    /// Calls.
    pub calls: Vec<Call>,
    /// Writes.
    pub writes: Vec<Write>,
    /// The services a while after the end.
    pub services: Vec<ServiceView>,
}

/// The wall clock of the world, which jumps.
#[derive(Debug)]
struct JumpingClock {
    inner: Arc<dyn Clock>,
    start: Instant,
    jumps: Vec<(u64, i64)>,
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let passed = self.start.elapsed();
        let jumped = self.jumps.iter().filter(|(at, _)| ms(*at) <= passed).map(|(_, by)| by).sum();
        self.inner.now() + jiff::SignedDuration::from_secs(jumped)
    }
}

/// Runs a case. The same case is the same trace.
///
/// # Panics
/// If the machine has no thread-local state left for a runtime.
#[must_use]
pub fn run(case: &Case) -> Trace {
    remember(CANARY);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap_or_else(|e| panic!("a runtime: {e}")).block_on(async { Driver::new(case).run().await })
}

/// An engine that drives the run: how that ended, and the events that it told.
type Driving = JoinHandle<(Result<Ending>, Vec<Event>)>;

/// One engine at work.
struct Engaged {
    label: String,
    journal: Arc<LifeJournal>,
    stop: CancellationToken,
    task: Driving,
}

struct Driver<'a> {
    case: &'a Case,
    start: Instant,
    simulator: Simulator,
    shared: Arc<Shared>,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    lives: Vec<LifeReport>,
    /// Engines that were left alone: which life, and its task.
    left: Vec<(usize, Driving)>,
}

impl<'a> Driver<'a> {
    fn new(case: &'a Case) -> Self {
        let start = Instant::now();
        let targets = case.plan().targets();
        let simulator = Simulator::builder(&targets).scenario(case.scenario()).starting_at(Case::base()).build();
        for rule in &case.rules {
            simulator.faults().add(rule.rule());
        }
        simulator.faults().repeat(&format!("Authorization: Bearer {CANARY}"));
        for (backend, from, to) in &case.partitions {
            simulator.faults().partition(*backend, ms(*from), ms(*to));
        }
        let clock = JumpingClock { inner: simulator.clock(), start, jumps: case.jumps.clone() };
        Self {
            case,
            start,
            simulator,
            shared: Shared::new(),
            ledger: Ledger::default(),
            clock: Arc::new(clock),
            lives: Vec::new(),
            left: Vec::new(),
        }
    }

    fn engine(&self, life: usize, journal: &Arc<LifeJournal>) -> Engine {
        let mut options = EngineOptions::default();
        options.owner = format!("engine-{life}");
        options.lease = LEASE;
        options.undo.attempts = 20;
        options.undo.max_delay = Period::from_secs(10);
        options.undo_deadline = Duration::from_secs(120);
        let simulator = self.simulator.engine(&options.owner);
        let backends = self.ledger.watch(simulator.backends(), simulator.world(), self.case.not_a_number);
        Engine::new(journal.clone(), backends).with_clock(self.clock.clone()).with_options(options)
    }

    async fn run(mut self) -> Trace {
        let at_first = self.simulator.world().services();
        let journal = LifeJournal::new(&self.shared, 0, None, 0);
        let engine = self.engine(0, &journal);
        let mut trace = match engine.create(&self.case.plan(), "the sweep").await {
            Ok(run) => self.run_to_its_end(run).await,
            Err(e) => Trace { refused: Some((e.kind(), e.to_string())), ..self.trace() },
        };
        trace.at_first = at_first;
        trace
    }

    async fn run_to_its_end(&mut self, run: RunId) -> Trace {
        let people = tokio::spawn(people(self.shared.clone(), run.clone(), self.case.clone()));
        let ended = timeout(LONGEST, self.live(&run)).await;
        people.abort();
        let end = self.start.elapsed();
        sleep(AFTERWARDS).await;
        let endless = ended.is_err();
        let (ended, failed) = match ended {
            Ok(Ok(ended)) => (Some(ended), None),
            Ok(Err(why)) => (None, Some(why)),
            Err(_) => (None, None),
        };
        for (life, task) in std::mem::take(&mut self.left) {
            if let Ok(Ok((result, events))) = timeout(AFTERWARDS, task).await {
                self.lives[life].death = Death::Replaced(Some(shown(&result)));
                self.lives[life].events = events;
            }
        }
        let trace = Trace { run: Some(run.clone()), ended, endless, failed, end, ..self.trace() };
        match (&self.case.undo, &trace.ended) {
            (Some(undo), Some((Outcome::Completed, _))) => {
                Trace { undone: Some(self.take_back(&run, undo).await), ..trace }
            }
            _ => trace,
        }
    }

    /// Takes the completed run back.
    async fn take_back(&self, run: &RunId, undo: &UndoCase) -> Undone {
        let from = self.start.elapsed();
        let before = self.shared.log().len();
        if let Some(fault) = &undo.fault {
            self.simulator.faults().add(fault.rule());
        }
        let end = undo.killed.map(|(at, durable)| LifeEnd::KilledAtRecord(at, durable));
        let journal = LifeJournal::new(&self.shared, UNDOER, end, self.case.journal_time);
        let mut killed = false;
        let ended = match self.engine(UNDOER, &journal).undo(run, "the sweep", "").await {
            Err(e) => Err(e.to_string()),
            Ok(undoing) => {
                let driven = timeout(LONGEST, self.until_undone(&undoing, journal, &mut killed)).await;
                driven.unwrap_or_else(|_| Err("it took too long".to_owned()))
            }
        };
        sleep(AFTERWARDS).await;
        let world = self.simulator.world();
        let since = |at: &Duration| *at >= from;
        Undone {
            from,
            ended,
            killed,
            log: self.shared.log().split_off(before),
            calls: world.calls().into_iter().filter(|call| since(&call.at)).collect(),
            writes: world.writes().into_iter().filter(|write| since(&write.at)).collect(),
            services: world.services(),
        }
    }

    async fn until_undone(
        &self,
        run: &RunId,
        journal: Arc<LifeJournal>,
        killed: &mut bool,
    ) -> Result<(Outcome, String), String> {
        let (engine, of, stop) = (self.engine(UNDOER, &journal), run.clone(), CancellationToken::new());
        let mut task = tokio::spawn(async move { engine.drive(&of, &stop).await });
        let first = tokio::select! {
            biased;
            ended = &mut task => Some(ended.map_err(|e| format!("the engine panicked: {e}"))?),
            () = journal.fatal.notified() => None,
        };
        let ended = match first {
            Some(ended) => ended,
            None => {
                *killed = true;
                journal.kill(true).await;
                self.simulator.world().kill(&format!("engine-{UNDOER}"));
                task.abort();
                let journal = LifeJournal::new(&self.shared, UNDOER + 1, None, self.case.journal_time);
                self.engine(UNDOER + 1, &journal).drive(run, &CancellationToken::new()).await
            }
        };
        match ended {
            Ok(Ending::Ended(outcome, summary)) => Ok((outcome, summary)),
            other => Err(shown(&other)),
        }
    }

    fn trace(&mut self) -> Trace {
        let world = self.simulator.world();
        Trace {
            refused: None,
            run: None,
            ended: None,
            endless: false,
            failed: None,
            log: self.shared.log(),
            taken: self.shared.taken(),
            lives: std::mem::take(&mut self.lives),
            asked: self.ledger.all(),
            calls: world.calls(),
            writes: world.writes(),
            flows: world.flows(),
            incidents: world.incidents(),
            deliveries: world.notifications(),
            services: world.services(),
            at_first: Vec::new(),
            end: self.start.elapsed(),
            undone: None,
        }
    }

    /// One engine after the other, until one of them ends the run.
    async fn live(&mut self, run: &RunId) -> Result<(Outcome, String), String> {
        let lives: Vec<Option<Life>> =
            self.case.lives.iter().cloned().map(Some).chain(std::iter::repeat_n(None, SPARE)).collect();
        for (number, life) in lives.iter().enumerate() {
            let result = self.one_life(run, number, life.as_ref()).await;
            match (result, life) {
                (Some(Ok(Ending::Ended(outcome, summary))), _) => return Ok((outcome, summary)),
                (Some(result), None) => return Err(format!("engine-{number}: {}", shown(&result))),
                (_, Some(life)) => sleep(ms(life.gap)).await,
                (None, None) => {}
            }
        }
        Err("no engine was left".to_owned())
    }

    fn engage(&self, run: &RunId, number: usize, life: Option<&Life>) -> Engaged {
        let journal = LifeJournal::new(&self.shared, number, life.map(|life| life.end), self.case.journal_time);
        let engine = self.engine(number, &journal);
        let (stop, run) = (CancellationToken::new(), run.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut subscription = engine.subscribe();
            let result = loop {
                match engine.drive(&run, &stopped).await {
                    // Somebody else has it, as far as is known: until the lease runs out.
                    Err(e) if e.kind() == ErrorKind::Refused && !stopped.is_cancelled() => sleep(ms(700)).await,
                    other => break other,
                }
            };
            let mut events = Vec::new();
            while let Some(Some(signal)) = subscription.next().now_or_never() {
                if let Signal::Event(event) = signal {
                    events.push(event);
                }
            }
            (result, events)
        });
        Engaged { label: format!("engine-{number}"), journal, stop, task }
    }

    /// One engine, until it returns or something happens to it. `None` if it did not return.
    async fn one_life(&mut self, run: &RunId, number: usize, life: Option<&Life>) -> Option<Result<Ending>> {
        let begun = self.start.elapsed();
        let mut engaged = self.engage(run, number, life);
        let journal = engaged.journal.clone();
        let returned = tokio::select! {
            biased;
            returned = &mut engaged.task => Some(returned),
            () = self.fate(life, &journal) => None,
        };
        let end = life.map(|life| life.end);
        let mut report =
            LifeReport { begun, over: Duration::ZERO, end, hit: false, death: Death::Killed, events: Vec::new() };
        let returned = match (returned, end) {
            (Some(returned), _) => Some(returned),
            (None, Some(LifeEnd::Stopped(_))) => {
                journal.strike();
                engaged.stop.cancel();
                Some(engaged.task.await)
            }
            (None, Some(LifeEnd::Deaf(_) | LifeEnd::CutOff(..))) => {
                journal.strike();
                report.death = Death::Replaced(None);
                self.left.push((number, engaged.task));
                None
            }
            (None, _) => {
                journal.kill(life.is_some_and(|life| life.known_dead)).await;
                self.simulator.world().kill(&engaged.label);
                engaged.task.abort();
                None
            }
        };
        let returned = returned.map(|returned| {
            let (result, events) = returned.unwrap_or_else(|e| {
                let message = format!("the engine panicked: {e}");
                (Err(Error::new(ErrorKind::Internal, "sweep", "drive", message)), Vec::new())
            });
            report.death = Death::Returned(shown(&result));
            report.events = events;
            result
        });
        report.hit = journal.was_hit();
        report.over = self.start.elapsed();
        self.lives.push(report);
        returned
    }

    /// Waits until it is time for what happens to an engine from outside.
    async fn fate(&self, life: Option<&Life>, journal: &LifeJournal) {
        match life.map(|life| life.end) {
            Some(LifeEnd::KilledAt(at) | LifeEnd::Stopped(at) | LifeEnd::Deaf(at) | LifeEnd::CutOff(at, _)) => {
                sleep(ms(at)).await;
            }
            Some(LifeEnd::KilledAtRecord(..)) => journal.fatal.notified().await,
            Some(LifeEnd::KilledAtChange(count)) => {
                let mut changes = self.simulator.world().changes();
                for _ in 0..count {
                    let _ = changes.changed().await;
                }
            }
            Some(LifeEnd::JournalFails(..) | LifeEnd::JournalHiccup(..)) | None => std::future::pending().await,
        }
    }
}

fn shown(result: &Result<Ending>) -> String {
    match result {
        Ok(Ending::Ended(outcome, _)) => outcome.to_string(),
        Ok(Ending::Interrupted) => "interrupted".to_owned(),
        Err(e) => format!("{:?}: {e}", e.kind()),
    }
}

/// Says what is to be said, and in the end that a run that still waits for people may go on.
async fn people(shared: Arc<Shared>, run: RunId, case: Case) {
    let plan = case.plan();
    let questions = plan.steps().map(|(_, step)| step).filter(|step| step.action == "approval");
    let questions: Vec<String> = questions.map(|step| step.name.clone()).collect();
    let commands = case.commands;
    let begun = Instant::now();
    let mut said = 0;
    let mut say = async |kind: CommandKind, step: Option<&String>| {
        said += 1;
        let (id, by, reason) = (format!("command-{said:03}"), "ann".to_owned(), "she said so".to_owned());
        let command = Command { id, kind, step: step.cloned(), by, reason };
        let _ = shared.inner().send(&run, &command).await;
    };
    for (at, kind) in &commands {
        sleep_until(begun + ms(*at)).await;
        let step = (*kind == CommandKind::Reject).then(|| questions.first()).flatten();
        say(*kind, step).await;
    }
    // A pause may have been taken late, after it was lifted.
    for _ in 0..20 {
        if commands.is_empty() && questions.is_empty() {
            return;
        }
        sleep(Duration::from_secs(150)).await;
        for step in &questions {
            say(CommandKind::Approve, Some(step)).await;
        }
        say(CommandKind::Continue, None).await;
    }
}
