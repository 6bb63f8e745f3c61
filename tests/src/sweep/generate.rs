//! A case from a seed. Most cases have one or two things going wrong, some have many, some none.

use fastrand::Rng;
use moodify_core::ErrorKind;
use moodify_core::analysis::{NoData, NoDataThen, metrics, sources};
use moodify_core::journal::CommandKind;
use moodify_core::model::{Period, RetryPolicy, Weight};
use moodify_core::testing::{BackendKind, Behaviour, Edit, Edited, Fault, Outage};

use super::case::{
    AnalysisCase, Case, Extra, ExtraKind, Flaw, GateCase, Life, LifeEnd, MetricCase, QUEUE, RuleCase, ServiceCase,
    UndoCase, ms,
};

/// The seed of the case of that number; of the first, the seed itself.
#[must_use]
pub fn seed_of(seed: u64, number: u64) -> u64 {
    seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// About when a run without trouble is over, in milliseconds.
fn usual_length(weights: &[(u8, u64)], pod_start: u64) -> u64 {
    let bakes: u64 = weights.iter().map(|(_, seconds)| seconds * 1000 + 2000 + pod_start).sum();
    10_000 + bakes + 4 * pod_start
}

struct Generator {
    rng: Rng,
    /// About how long the run takes.
    length: u64,
}

/// The case of a seed.
#[must_use]
pub fn case(seed: u64) -> Case {
    let mut rng = Rng::with_seed(seed);
    let mut services = services(&mut rng);
    // Drawn from what there is, so that all other cases are what they were.
    let alone = seed.is_multiple_of(2) && services.iter().all(|service| service.by_ratio);
    if alone {
        // There is no half of one instance.
        services.iter_mut().for_each(|service| service.replicas = service.replicas.max(2));
    }
    let weights = weights(&mut rng);
    let pod_start = pick(&mut rng, &[500, 1000, 3000, 5000]);
    let keep = (services.iter().all(|service| !service.by_ratio) && rng.u32(..100) < 45).then(|| rng.u64(1..=10));
    let length = usual_length(&weights, pod_start) + keep.unwrap_or_default() * 1000;
    let analysis = analysis(&mut rng);
    let mut g = Generator { rng, length };
    let steps = 2 * weights.len()
        + match (alone, keep) {
            (true, _) => 2,
            (_, Some(_)) => 6,
            (_, None) => 5,
        };
    let mut case = Case {
        seed,
        extras: g.extras(steps),
        page: g.chance(30),
        parallel: g.chance(50),
        retry: g.retry(),
        gates: g.gates(),
        flaw: None,
        pod_start,
        behaviours: Vec::new(),
        edits: Vec::new(),
        outage: None,
        not_a_number: None,
        rules: Vec::new(),
        partitions: Vec::new(),
        lives: Vec::new(),
        commands: Vec::new(),
        jumps: Vec::new(),
        journal_time: pick(&mut g.rng, &[0, 0, 0, 1, 7]),
        undo: None,
        services,
        weights,
        keep,
        alone,
        analysis,
    };
    // Where instances divide the traffic there may be no stable ones, and nobody to ask.
    let by_ratio = case.services[0].by_ratio;
    case.extras.retain(|extra| !by_ratio || !matches!(extra.kind, ExtraKind::Probe { .. }));
    // What a plan says on the status page it must also take back.
    case.page |= case.extras.iter().any(|extra| extra.kind == ExtraKind::Page);
    if g.chance(2) {
        case.flaw = Some(pick(&mut g.rng, &Flaw::ALL));
        return case;
    }
    case.undo = g.undo();
    if g.chance(6) {
        // Nothing goes wrong: it must be released.
        return case;
    }
    let much = g.chance(15);
    let odds = |percent: u32| if much { percent * 2 } else { percent };
    if g.chance(odds(35)) {
        case.behaviours = g.behaviours(&case);
    }
    if g.chance(odds(10)) {
        case.edits.push(g.edit(&case));
    }
    if g.chance(odds(8)) {
        let down_for = (!g.chance(20)).then(|| ms(g.time(90)).into());
        case.outage = Some(Outage { down_after: ms(g.time(100)).into(), down_for });
    }
    if g.chance(odds(4)) {
        let from = g.time(100);
        case.not_a_number = Some((from, from + if g.chance(20) { 10_000_000 } else { g.time(60) }));
    }
    while case.rules.len() < 4 && g.chance(odds(30)) {
        case.rules.push(g.rule());
    }
    while case.partitions.len() < 2 && g.chance(odds(10)) {
        let from = g.time(110);
        let backend = pick(&mut g.rng, &BACKENDS);
        // Who only looks on or tells may also stay away.
        let for_ever = !matches!(backend, BackendKind::Deployer | BackendKind::Router) && g.chance(40);
        let time = if for_ever { 100_000_000 } else { g.time(80) };
        case.partitions.push((backend, from, from + time));
    }
    while case.lives.len() < 3 && g.chance(odds(38)) {
        case.lives.push(g.life());
    }
    if g.chance(odds(18)) {
        case.commands = g.commands();
    }
    if g.chance(odds(6)) {
        case.jumps.push((g.time(100), pick(&mut g.rng, &[-7200, -60, -5, 5, 60, 7200])));
    }
    case
}

fn pick<T: Clone>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())].clone()
}

fn services(rng: &mut Rng) -> Vec<ServiceCase> {
    let count = pick(rng, &[1, 1, 1, 1, 2, 2, 3]);
    (0..count).map(|_| ServiceCase { by_ratio: rng.u32(..100) < 25, replicas: rng.u32(1..=4) }).collect()
}

fn weights(rng: &mut Rng) -> Vec<(u8, u64)> {
    let mut weights: Vec<u8> = vec![100];
    for _ in 0..rng.u32(..3) {
        weights.push(pick(rng, &[1, 5, 10, 25, 50, 75, 90]));
    }
    weights.sort_unstable();
    weights.dedup();
    weights.into_iter().map(|weight| (weight, rng.u64(2..=20))).collect()
}

fn analysis(rng: &mut Rng) -> AnalysisCase {
    let mut chance = |percent: u32| rng.u32(..100) < percent;
    let mut metrics = Vec::new();
    let mut add = |name, source, fail_above, pass_below| {
        metrics.push(MetricCase { name, source, fail_above, pass_below, tolerance: 0 });
    };
    if chance(70) {
        add(metrics::ERROR_RATE, sources::DEFAULT, Some(0.05), None);
    }
    if chance(50) {
        add(metrics::LATENCY_P95, "json", None, Some(5.0));
    }
    if chance(25) {
        add(QUEUE, sources::DEFAULT, Some(100.0), chance(50).then_some(50.0));
    }
    if chance(40) {
        add(metrics::CRASH_LOOP, sources::PODS, Some(0.0), None);
    }
    if chance(40) {
        add(metrics::UNHEALTHY, sources::PODS, Some(0.5), None);
    }
    for metric in &mut metrics {
        metric.tolerance = pick(rng, &[0, 0, 1, 2]);
    }
    AnalysisCase {
        interval: pick(rng, &[1000, 2000, 5000]),
        warm_up: pick(rng, &[0, 0, 1000, 3000]),
        no_data: NoData {
            after: rng.u32(1..=3),
            hold: Period::from_secs(rng.u64(5..=60)),
            then: pick(rng, &[NoDataThen::Attention, NoDataThen::Rollback]),
        },
        metrics,
    }
}

/// The backends that a run calls.
pub(super) const BACKENDS: [BackendKind; 7] = [
    BackendKind::Deployer,
    BackendKind::Router,
    BackendKind::Diagnostics,
    BackendKind::StatusPage,
    BackendKind::MetricSource,
    BackendKind::Probe,
    BackendKind::Notifier,
];

fn operations(backend: BackendKind) -> &'static [&'static str] {
    match backend {
        BackendKind::Deployer => &["observe", "watch", "deploy", "scale", "set_image", "hand_over", "remove"],
        BackendKind::Router => &["read", "watch", "set", "reset"],
        BackendKind::Diagnostics => &["pods", "watch_pods"],
        BackendKind::StatusPage => &["open", "find", "update"],
        BackendKind::MetricSource => &["query"],
        BackendKind::Probe => &["probe"],
        _ => &["notify"],
    }
}

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    /// A time up to so many percent of the usual length.
    fn time(&mut self, percent: u64) -> u64 {
        self.rng.u64(..=self.length * percent / 100)
    }

    fn retry(&mut self) -> RetryPolicy {
        RetryPolicy {
            attempts: self.rng.u32(1..=6),
            delay: ms(pick(&mut self.rng, &[100, 500, 1000])).into(),
            max_delay: Period::from_secs(4),
        }
    }

    fn gates(&mut self) -> GateCase {
        match self.rng.u32(..100) {
            0..60 => GateCase::None,
            60..94 => GateCase::Open,
            94..96 => GateCase::Closing,
            96..98 => GateCase::Opening,
            _ => GateCase::Frozen,
        }
    }

    fn extras(&mut self, steps: usize) -> Vec<Extra> {
        let mut extras = Vec::new();
        while extras.len() < 4 && self.chance(35) {
            let at = self.rng.usize(..=steps);
            let kind = match self.rng.u32(..10) {
                0..3 => ExtraKind::Notify,
                3..5 => ExtraKind::Page,
                // A canary is there from its deployment until it retires.
                5..7 => ExtraKind::Probe { canary: at >= 2 && at < steps && self.rng.bool() },
                7 => ExtraKind::Approval,
                _ => ExtraKind::Wait(self.rng.u64(1..=40)),
            };
            extras.push(Extra { at, kind });
        }
        extras
    }

    fn behaviours(&mut self, case: &Case) -> Vec<Behaviour> {
        let mut behaviour = match self.rng.u32(..10) {
            0..3 => Behaviour::error_rate(0.4),
            3 => Behaviour::latency_p95(ms(20_000)),
            4 => Behaviour::crash_loop(),
            5 => Behaviour::never_ready(),
            6 => Behaviour::unready(0.8),
            7 => Behaviour::no_metrics(),
            number => {
                let queue = if number == 8 { 75.0 } else { 500.0 };
                Behaviour { figures: [(QUEUE.to_owned(), queue)].into(), ..Behaviour::default() }
            }
        };
        if self.chance(60) {
            let (weight, _) = pick(&mut self.rng, &case.weights);
            behaviour.from_weight = Weight::new(weight);
        }
        if self.chance(30) {
            // Some go bad only when they are released already.
            let longest = pick(&mut self.rng, &[10_000, 60_000]);
            behaviour = behaviour.after(ms(self.rng.u64(..longest)));
        }
        if self.chance(30) {
            let after = behaviour.after.map_or(0, |after| after.get().as_millis());
            behaviour = behaviour.until(ms(u64::try_from(after).unwrap_or(0) + self.rng.u64(1000..30_000)));
        }
        if self.chance(40) {
            behaviour = behaviour.of_service(&Case::service_name(self.rng.usize(..case.services.len())));
        }
        vec![behaviour]
    }

    fn edit(&mut self, case: &Case) -> Edit {
        let index = self.rng.usize(..case.services.len());
        let what = match self.rng.u32(..3) {
            0 => Edited::Canary,
            1 if !case.services[index].by_ratio => Edited::Route,
            _ => Edited::StableReplicas,
        };
        let mut edit = Edit::new(&Case::service_name(index), what);
        if self.rng.bool() {
            edit.after = ms(self.time(100)).into();
        } else {
            edit.from_weight = Weight::new(pick(&mut self.rng, &case.weights).0);
            edit.after = ms(self.rng.u64(..15_000)).into();
        }
        if what == Edited::Route && self.rng.bool() {
            edit.to = Some(self.rng.u32(1..=100));
        }
        edit
    }

    fn fault(&mut self) -> Fault {
        use ErrorKind::{Conflict, Forbidden, Internal, Throttled, Timeout, Unavailable};
        match self.rng.u32(..10) {
            0..3 => {
                let kinds = [Unavailable, Unavailable, Throttled, Conflict, Internal, Forbidden];
                Fault::ErrorBefore(pick(&mut self.rng, &kinds))
            }
            3..5 => Fault::ErrorAfter(pick(&mut self.rng, &[Unavailable, Timeout, Internal])),
            5 => Fault::Hang { effect: self.rng.bool() },
            6 => Fault::Stall(ms(self.rng.u64(100..30_000))),
            7 => Fault::Stale(ms(self.rng.u64(100..15_000))),
            8 => Fault::Duplicate,
            _ => Fault::Late(ms(self.rng.u64(100..4000))),
        }
    }

    fn rule(&mut self) -> RuleCase {
        let fault = self.fault();
        let backend = if self.chance(60) {
            pick(&mut self.rng, &[BackendKind::Deployer, BackendKind::Router])
        } else {
            pick(&mut self.rng, &BACKENDS)
        };
        let operation = self.chance(70).then(|| pick(&mut self.rng, operations(backend)));
        let between = self.chance(40).then(|| {
            let from = self.time(100);
            (from, from + self.time(60))
        });
        let nth = (between.is_none() && self.chance(70)).then(|| self.rng.u32(1..=6));
        let times = if matches!(fault, Fault::Hang { .. } | Fault::Late(_)) {
            self.rng.u32(1..=2)
        } else {
            pick(&mut self.rng, &[1, 2, 3, 5, 40])
        };
        RuleCase { fault, backend, operation, nth, between, times }
    }

    fn undo(&mut self) -> Option<UndoCase> {
        let chosen = self.chance(40);
        chosen.then(|| UndoCase {
            killed: self.chance(40).then(|| (self.rng.u32(1..=8), self.rng.bool())),
            fault: self.chance(40).then(|| RuleCase { between: None, ..self.rule() }),
        })
    }

    fn life(&mut self) -> Life {
        let durable = self.rng.bool();
        let end = match self.rng.u32(..15) {
            0..2 => LifeEnd::KilledAt(self.time(110)),
            2..5 => LifeEnd::KilledAtRecord(self.rng.u32(1..40), durable),
            5..7 => LifeEnd::KilledAtChange(self.rng.u32(1..14)),
            7 => LifeEnd::JournalFails(self.rng.u32(1..40), durable),
            8..10 => LifeEnd::JournalHiccup(self.rng.u32(1..40), durable),
            10 => LifeEnd::Stopped(self.time(110)),
            11..13 => LifeEnd::Deaf(self.time(100)),
            _ => LifeEnd::CutOff(self.time(100), self.rng.u64(1000..60_000)),
        };
        let gap = if self.chance(30) { self.rng.u64(..120_000) } else { self.rng.u64(..3000) };
        Life { end, gap, known_dead: self.rng.bool() }
    }

    fn commands(&mut self) -> Vec<(u64, CommandKind)> {
        let at = self.time(110);
        match self.rng.u32(..6) {
            0 | 1 => vec![(at, CommandKind::Abort)],
            2 => vec![(at, CommandKind::Skip)],
            3 => vec![(at, CommandKind::Reject), (at + self.time(50), CommandKind::Reject)],
            4 => vec![(at, CommandKind::Pause), (at + self.time(100), CommandKind::Continue)],
            _ => vec![(at, CommandKind::Pause), (at + self.time(100), CommandKind::Abort)],
        }
    }
}
