//! One case: a plan, a world, and everything that goes wrong in it. Plain values, so that a case can be shrunk and shown.

use std::time::Duration;

use jiff::Timestamp;
use moodify_core::analysis::{Analysis, MetricCheck, NoData, sources};
use moodify_core::gate::Gate;
use moodify_core::journal::CommandKind;
use moodify_core::model::{
    Environment, EnvironmentKind, Period, Phase, Plan, Release, RetryPolicy, Routing, Service, Step, Weight,
    WorkloadKind,
};
use moodify_core::strategy::{Bake, BlueGreen, Canary, Rolling};
use moodify_core::testing::{BackendKind, Behaviour, Edit, Fault, Outage, Rule, Scenario};
use serde_json::{Value, json};

/// The name of the strategy in every plan: its steps are `r-deploy`, `r-shift-10` and so on.
pub const STRATEGY: &str = "r";

/// A metric of our own, besides those that moodify knows.
pub const QUEUE: &str = "queue";

/// So many milliseconds.
#[must_use]
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Everything that decides what happens. Times are milliseconds, from the start of the simulation where nothing else is
/// said.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Where it came from, and where the chance within the world begins.
    pub seed: u64,
    /// What ships.
    pub services: Vec<ServiceCase>,
    /// The weights and how many seconds each bakes.
    pub weights: Vec<(u8, u64)>,
    /// Where two workloads take turns: for how many seconds the one that served stays. Else the canary is in place.
    pub keep: Option<u64>,
    /// Whether each service is one workload, a `StatefulSet`, in which the new version takes the place of the old one.
    pub alone: bool,
    /// What is measured.
    pub analysis: AnalysisCase,
    /// Steps besides those of the strategy.
    pub extras: Vec<Extra>,
    /// Whether an incident is opened at first and resolved at the end.
    pub page: bool,
    /// Whether the steps after those of the strategy run at once.
    pub parallel: bool,
    /// The policy of every step.
    pub retry: RetryPolicy,
    /// The gates.
    pub gates: GateCase,
    /// What is wrong with the plan.
    pub flaw: Option<Flaw>,
    /// From a pod's creation until it is ready.
    pub pod_start: u64,
    /// What the new version does.
    pub behaviours: Vec<Behaviour>,
    /// What somebody else changes.
    pub edits: Vec<Edit>,
    /// When the metric sources do not answer.
    pub outage: Option<Outage>,
    /// When the metric sources answer what is not a number: from, to.
    pub not_a_number: Option<(u64, u64)>,
    /// Faults of single calls.
    pub rules: Vec<RuleCase>,
    /// Unreachable backends: which, from, to.
    pub partitions: Vec<(BackendKind, u64, u64)>,
    /// What becomes of the engines, one after the other; after the last, one that nothing happens to.
    pub lives: Vec<Life>,
    /// What people say, and when.
    pub commands: Vec<(u64, CommandKind)>,
    /// Jumps of the wall clock: when, by so many seconds.
    pub jumps: Vec<(u64, i64)>,
    /// How long the journal takes to make a record durable.
    pub journal_time: u64,
    /// What becomes of it after it completed: it is taken back.
    pub undo: Option<UndoCase>,
}

/// How a completed release is taken back.
#[derive(Debug, Clone, PartialEq)]
pub struct UndoCase {
    /// The engine that does so is killed while it writes the nth record: before or after that is durable.
    pub killed: Option<(u32, bool)>,
    /// A fault that is there from then on.
    pub fault: Option<RuleCase>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCase {
    /// Whether instances divide the traffic; else a route does.
    pub by_ratio: bool,
    /// Instances at first.
    pub replicas: u32,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisCase {
    /// Between two measurements.
    pub interval: u64,
    /// Before the first.
    pub warm_up: u64,
    /// The policy.
    pub no_data: NoData,
    /// What.
    pub metrics: Vec<MetricCase>,
}

/// One metric and its limits; what is good and bad is decided by [`verdict`](Self::verdict) a second time, apart from
/// moodify's own judge.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricCase {
    /// Its name.
    pub name: &'static str,
    /// Who is asked.
    pub source: &'static str,
    /// Bad above this.
    pub fail_above: Option<f64>,
    /// Good below this.
    pub pass_below: Option<f64>,
    /// Failures that are tolerated.
    pub tolerance: u32,
}

impl MetricCase {
    /// Whether a value is good (`Some(true)`), bad, or neither.
    #[must_use]
    pub fn verdict(&self, value: f64) -> Option<bool> {
        match (self.pass_below, self.fail_above) {
            _ if !value.is_finite() => None,
            (_, Some(fail)) if value > fail => Some(false),
            (Some(pass), _) if value < pass => Some(true),
            (Some(_), None) => Some(false),
            (None, Some(_)) => Some(true),
            _ => None,
        }
    }

    fn check(&self) -> MetricCheck {
        let mut check = MetricCheck::failing(self.name, self.source, "> 0", self.tolerance);
        let read = |sign: &str, limit: Option<f64>| limit.and_then(|limit| format!("{sign} {limit}").parse().ok());
        check.fail = read(">", self.fail_above);
        check.pass = read("<", self.pass_below);
        check
    }
}

/// A step besides those of the strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Before which of the strategy's steps, counted from 0.
    pub at: usize,
    /// Which.
    pub kind: ExtraKind,
}

/// Which step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtraKind {
    /// Tells people.
    Notify,
    /// Says something on the status page.
    Page,
    /// Asks whether the first service is well: the canary, or the stable version.
    Probe {
        /// The canary.
        canary: bool,
    },
    /// Lets so many seconds pass.
    Wait(u64),
    /// Waits for a person to say yes.
    Approval,
}

/// What guards the run. The simulation starts at 15:00 UTC on a Tuesday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateCase {
    /// Nothing.
    None,
    /// A window that is open all day, and a freeze at another time.
    Open,
    /// A window that closes at 15:01.
    Closing,
    /// A window that opens at 15:01.
    Opening,
    /// A freeze.
    Frozen,
}

impl GateCase {
    fn gates(self) -> Vec<Gate> {
        let window =
            |from: &str, to: &str| json!({"window": {"days": ["tuesday"], "from": from, "to": to, "zone": "UTC"}});
        let freeze =
            |from: &str, to: &str| json!({"freeze": {"reason": "a feast", "from": from, "to": to, "zone": "UTC"}});
        let gates = match self {
            Self::None => vec![],
            Self::Open => vec![window("00:00", "23:59"), freeze("2026-12-01", "2026-12-02")],
            Self::Closing => vec![window("14:00", "15:01")],
            Self::Opening => vec![window("15:01", "16:00")],
            Self::Frozen => vec![freeze("2026-11-24", "2026-11-25")],
        };
        gates.into_iter().filter_map(|gate| serde_json::from_value(gate).ok()).collect()
    }

    /// Whether they hold so many seconds after 15:00. Nothing goes on beyond that day.
    #[must_use]
    pub fn hold(self, second: i64) -> bool {
        match self {
            Self::None | Self::Open => true,
            Self::Closing => (-3600..60).contains(&second),
            Self::Opening => (60..3600).contains(&second),
            Self::Frozen => false,
        }
    }
}

/// What is wrong with a plan: it must be refused when it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Flaw {
    UnknownAction,
    UnknownRouter,
    UnknownSource,
    UnknownMetric,
    UnknownPodMetric,
    UnknownNotifier,
    UnknownService,
    UnknownParameter,
    SameName,
    NoSteps,
    TurnsByRatio,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::UnknownAction,
        Self::UnknownRouter,
        Self::UnknownSource,
        Self::UnknownMetric,
        Self::UnknownPodMetric,
        Self::UnknownNotifier,
        Self::UnknownService,
        Self::UnknownParameter,
        Self::SameName,
        Self::NoSteps,
        Self::TurnsByRatio,
    ];
}

/// A fault of single calls.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleCase {
    /// What goes wrong.
    pub fault: Fault,
    /// With calls of which backend.
    pub backend: BackendKind,
    /// Of which method.
    pub operation: Option<&'static str>,
    /// Only the nth.
    pub nth: Option<u32>,
    /// Only in this time.
    pub between: Option<(u64, u64)>,
    /// At most so often.
    pub times: u32,
}

impl RuleCase {
    /// As the simulator takes it.
    #[must_use]
    pub fn rule(&self) -> Rule {
        let mut rule = Rule::new(self.fault).backend(self.backend).times(self.times);
        if let Some(operation) = self.operation {
            rule = rule.operation(operation);
        }
        if let Some(nth) = self.nth {
            rule = rule.nth(nth);
        }
        if let Some((from, to)) = self.between {
            rule = rule.between(ms(from), ms(to));
        }
        rule
    }
}

/// What becomes of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// How it ends.
    pub end: LifeEnd,
    /// How long nobody drives the run then.
    pub gap: u64,
    /// Whether its death is known at once; else its lease has to run out.
    pub known_dead: bool,
}

/// How an engine ends. Times are counted from its beginning, records and changes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEnd {
    /// Killed at a moment.
    KilledAt(u64),
    /// Killed while it writes the nth record: before or after that is durable.
    KilledAtRecord(u32, bool),
    /// Killed just after the nth change of the world.
    KilledAtChange(u32),
    /// Its journal fails for good at the nth record: before or after that is durable.
    JournalFails(u32, bool),
    /// Its journal fails once, at the nth record.
    JournalHiccup(u32, bool),
    /// Asked to stop.
    Stopped(u64),
    /// Its renewals are never answered from then on; it goes on, and another engine takes over.
    Deaf(u64),
    /// Its journal does not answer from then on, for so long; it goes on, and another engine takes over if it can.
    CutOff(u64, u64),
}

impl Case {
    /// The name of a service.
    #[must_use]
    pub fn service_name(index: usize) -> String {
        ["api", "web", "job"].get(index).map_or_else(|| format!("s{index}"), |name| (*name).to_owned())
    }

    /// The index of a service.
    #[must_use]
    pub fn service_index(&self, name: &str) -> Option<usize> {
        (0..self.services.len()).find(|i| Self::service_name(*i) == name)
    }

    /// The wall time at the start.
    #[must_use]
    pub fn base() -> Timestamp {
        "2026-11-24T15:00:00Z".parse().unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// What the wall clock shows, in seconds after 15:00.
    #[must_use]
    pub fn wall(&self, at: Duration) -> i64 {
        let jumped: i64 = self.jumps.iter().filter(|(when, _)| ms(*when) <= at).map(|(_, by)| by).sum();
        i64::try_from(at.as_secs()).unwrap_or(i64::MAX) + jumped
    }

    fn release(&self) -> Release {
        let service = |(index, service): (usize, &ServiceCase)| {
            let name = Self::service_name(index);
            let router = match (self.flaw, service.by_ratio) {
                (Some(Flaw::UnknownRouter), _) => "tarot",
                (Some(Flaw::TurnsByRatio), _) | (_, true) => "replica-ratio",
                (_, false) => "http-route",
            };
            Service {
                workload: format!("{name}-deployment"),
                kind: if self.alone { WorkloadKind::StatefulSet } else { WorkloadKind::Deployment },
                container: None,
                image: format!("registry.test/{name}:new").parse().unwrap_or_else(|e| unreachable!("{e}")),
                traffic: Routing::new(router, &format!("{name}-service"), (!service.by_ratio).then_some(name.as_str())),
                config: Vec::new(),
                name,
            }
        };
        Release { version: "new".to_owned(), services: self.services.iter().enumerate().map(service).collect() }
    }

    fn analysis(&self) -> Analysis {
        let mut metrics: Vec<MetricCheck> = self.analysis.metrics.iter().map(MetricCase::check).collect();
        match self.flaw {
            Some(Flaw::UnknownSource) => metrics.push(MetricCheck::failing("error-rate", "crystal-ball", "> 5%", 0)),
            Some(Flaw::UnknownMetric) => metrics.push(MetricCheck::failing("mood", sources::DEFAULT, "> 5", 0)),
            Some(Flaw::UnknownPodMetric) => metrics.push(MetricCheck::failing("error-rate", sources::PODS, "> 5%", 0)),
            _ => {}
        }
        Analysis {
            interval: ms(self.analysis.interval).into(),
            warm_up: ms(self.analysis.warm_up).into(),
            no_data: self.analysis.no_data,
            metrics,
        }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let canary = Canary {
            weights: self.weights.iter().filter_map(|(percent, _)| Weight::new(*percent)).collect(),
            bake: Bake::Each(self.weights.iter().map(|(_, seconds)| Period::from_secs(*seconds)).collect()),
            analysis: self.analysis(),
            ready_deadline: Period::from_secs(60),
            testers: None,
            mirror: None,
        };
        let turns = self.keep.or((self.flaw == Some(Flaw::TurnsByRatio)).then_some(1));
        let mut phases = match turns.map(Period::from_secs) {
            None if self.alone => {
                let Canary { weights: batches, bake, analysis, ready_deadline, .. } = canary;
                Rolling { batches, bake, analysis, ready_deadline }.phases(STRATEGY)
            }
            None => canary.phases(STRATEGY),
            Some(keep) => {
                let Canary { weights, bake, analysis, ready_deadline, testers, mirror } = canary;
                BlueGreen { weights, bake, analysis, ready_deadline, testers, mirror, keep }.phases(STRATEGY)
            }
        };
        let mut index = 0;
        for phase in &mut phases {
            for step in std::mem::take(&mut phase.steps) {
                let before = self.extras.iter().enumerate().filter(|(_, extra)| extra.at == index);
                phase.steps.extend(before.map(|(number, extra)| extra.step(number)));
                phase.steps.push(step);
                index += 1;
            }
        }
        let last = self.extras.iter().enumerate().filter(|(_, extra)| extra.at >= index);
        let mut last: Vec<Step> = last.map(|(number, extra)| extra.step(number)).collect();
        if self.page {
            let open = page_step("page-open", "investigating", "A release is going on.");
            phases.insert(0, phase("begin", vec![open]));
        }
        if !last.is_empty() {
            phases.push(Phase { parallel: self.parallel, ..phase("finish", std::mem::take(&mut last)) });
        }
        if self.page {
            phases.push(phase("close", vec![page_step("page-close", "resolved", "It is over.")]));
        }
        for step in phases.iter_mut().flat_map(|phase| &mut phase.steps) {
            step.retry = self.retry.clone();
        }
        self.add_flaw(&mut phases);
        Plan {
            name: "case".to_owned(),
            environment: Environment {
                name: "production".to_owned(),
                kind: EnvironmentKind::Production,
                namespace: "production".to_owned(),
                gates: self.gates.gates(),
                backups: Vec::new(),
                audiences: std::collections::BTreeMap::new(),
            },
            release: self.release(),
            phases: phases.into(),
            backends: std::collections::BTreeMap::new(),
        }
    }

    fn add_flaw(&self, phases: &mut Vec<Phase>) {
        let wrong = match self.flaw {
            Some(Flaw::NoSteps) => return phases.clear(),
            Some(Flaw::UnknownAction) => step("wrong", "levitate", Value::Null),
            Some(Flaw::UnknownNotifier) => step("wrong", "notify", json!({"title": "hello", "to": "pigeons"})),
            Some(Flaw::UnknownService) => step("wrong", "retire-canary", json!({"services": ["nobody"]})),
            Some(Flaw::UnknownParameter) => step("wrong", "wait", json!({"period": "1s", "perod": "1s"})),
            Some(Flaw::SameName) => step("r-baseline", "wait", json!({"period": "1s"})),
            _ => return,
        };
        phases.push(phase("wrong", vec![wrong]));
    }

    /// The world.
    #[must_use]
    pub fn scenario(&self) -> Scenario {
        let mut scenario = Scenario::default().seed(self.seed);
        scenario.world.pod_start = ms(self.pod_start).into();
        scenario.world.progress_deadline = Period::from_secs(45);
        scenario.world.figures.insert(QUEUE.to_owned(), 10.0);
        for (index, service) in self.services.iter().enumerate() {
            scenario.world.replicas_of.insert(Self::service_name(index), service.replicas);
        }
        scenario.canary.clone_from(&self.behaviours);
        scenario.edits.clone_from(&self.edits);
        scenario.metrics = self.outage;
        scenario
    }
}

impl Extra {
    fn step(&self, number: usize) -> Step {
        match &self.kind {
            ExtraKind::Notify => step(
                &format!("x{number}-notify"),
                "notify",
                json!({"title": format!("part {number}"), "to": "simulated"}),
            ),
            ExtraKind::Page => page_step(&format!("x{number}-page"), "monitoring", "It goes on."),
            ExtraKind::Probe { canary } => {
                let suffix = if *canary { "-canary" } else { "" };
                let url = format!("http://api-service{suffix}/health");
                step(&format!("x{number}-probe"), "probe", json!({"url": url}))
            }
            ExtraKind::Approval => {
                step(&format!("x{number}-approval"), "approval", json!({"question": "shall it go on?"}))
            }
            ExtraKind::Wait(seconds) => {
                step(&format!("x{number}-wait"), "wait", json!({"period": format!("{seconds}s")}))
            }
        }
    }
}

fn phase(name: &str, steps: Vec<Step>) -> Phase {
    Phase { name: name.to_owned(), steps, parallel: false }
}

fn page_step(name: &str, status: &str, message: &str) -> Step {
    step(name, "status-page", json!({"status": status, "message": message}))
}

fn step(name: &str, action: &str, with: Value) -> Step {
    Step { name: name.to_owned(), action: action.to_owned(), with, deadline: None, retry: RetryPolicy::default() }
}
