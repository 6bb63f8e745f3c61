use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Effect, Error, ErrorKind};

use super::chance;

/// A kind of backend of the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the traits")]
pub enum BackendKind {
    Deployer,
    Router,
    Diagnostics,
    Jobs,
    Operations,
    BackupStore,
    CacheAdmin,
    CacheNodes,
    StatusPage,
    MetricSource,
    Probe,
    Notifier,
    Approvals,
    ArtifactStore,
    Configuration,
}

impl BackendKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Deployer,
        Self::Router,
        Self::Diagnostics,
        Self::Jobs,
        Self::Operations,
        Self::BackupStore,
        Self::CacheAdmin,
        Self::CacheNodes,
        Self::StatusPage,
        Self::MetricSource,
        Self::Probe,
        Self::Notifier,
        Self::Approvals,
        Self::ArtifactStore,
        Self::Configuration,
    ];

    /// Its name, as in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployer => "simulated deployer",
            Self::Router => "simulated router",
            Self::Diagnostics => "simulated diagnostics",
            Self::Jobs => "simulated jobs",
            Self::Operations => "simulated operations",
            Self::BackupStore => "simulated backup store",
            Self::CacheAdmin => "simulated cache",
            Self::CacheNodes => "simulated nodes of a cache",
            Self::StatusPage => "simulated status page",
            Self::MetricSource => "simulated metrics",
            Self::Probe => "simulated probe",
            Self::Notifier => "simulated notifier",
            Self::Approvals => "simulated approvals",
            Self::ArtifactStore => "simulated artifact store",
            Self::Configuration => "simulated configuration",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An error of this kind, and nothing was changed.
    ErrorBefore(ErrorKind),
    /// An error of this kind, with an unknown effect, after everything was done: a lost answer.
    ErrorAfter(ErrorKind),
    /// No answer until the deadline, with or without the effect.
    Hang {
        /// Whether everything was done.
        effect: bool,
    },
    /// A wait before everything goes well.
    Stall(Duration),
    /// The answer is of so long ago; for calls that only read. Others go well.
    Stale(Duration),
    /// The request arrives twice.
    Duplicate,
    /// No answer until the deadline; the request arrives so long after it was sent, whether or not somebody waits.
    Late(Duration),
}

/// Which calls a fault hits: by default every one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    fault: Fault,
    backend: Option<BackendKind>,
    operation: Option<String>,
    service: Option<String>,
    nth: Option<u32>,
    probability: f64,
    between: Option<(Duration, Duration)>,
    times: u32,
}

impl Rule {
    /// `fault`, for every call.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            backend: None,
            operation: None,
            service: None,
            nth: None,
            probability: 1.0,
            between: None,
            times: u32::MAX,
        }
    }

    /// Only calls of this backend.
    #[must_use]
    pub fn backend(mut self, backend: BackendKind) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Only calls of this method, by its name: `set_image`.
    #[must_use]
    pub fn operation(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Only calls about this service.
    #[must_use]
    pub fn service(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }

    /// Only the nth of the calls that match, from 1.
    #[must_use]
    pub fn nth(mut self, nth: u32) -> Self {
        self.nth = Some(nth);
        self
    }

    /// Only with this probability, as the scenario's seed decides.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Only between these times, from the start of the simulation.
    #[must_use]
    pub fn between(mut self, from: Duration, to: Duration) -> Self {
        self.between = Some((from, to));
        self
    }

    /// At most so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }
}

/// A call to a backend, as faults see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) backend: BackendKind,
    pub(super) operation: &'static str,
    pub(super) service: &'a str,
}

#[derive(Debug, Default)]
struct Plans {
    rules: Vec<(Rule, u32, u32)>,
    /// Backend, from, to.
    partitions: Vec<(BackendKind, Duration, Duration)>,
    repeats: String,
}

/// The faults of a simulator. The first rule that hits a call decides.
#[derive(Debug, Default)]
pub struct Faults {
    plans: Mutex<Plans>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. One with [`Fault::Stale`] must be added before the state that it shall show.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push((rule, 0, 0));
    }

    /// Makes a backend unreachable between these times, from the start of the simulation: calls fail at once and
    /// change nothing; watches that are open are silent and catch up afterwards.
    pub fn partition(&self, backend: BackendKind, from: Duration, to: Duration) {
        self.lock().partitions.push((backend, from, to));
    }

    /// What failing backends repeat in their errors from now on, such as a header of the request.
    pub fn repeat(&self, text: &str) {
        text.clone_into(&mut self.lock().repeats);
    }

    /// Ends all faults.
    pub fn clear(&self) {
        *self.lock() = Plans::default();
    }

    /// Until when a backend is unreachable, if it is.
    pub(super) fn unreachable(&self, backend: BackendKind, now: Duration) -> Option<Duration> {
        let hit = |p: &&(BackendKind, Duration, Duration)| p.0 == backend && p.1 <= now && now < p.2;
        self.lock().partitions.iter().filter(hit).map(|p| p.2).max()
    }

    pub(super) fn any_stale(&self) -> bool {
        self.lock().rules.iter().any(|(rule, ..)| matches!(rule.fault, Fault::Stale(_)))
    }

    pub(super) fn hit(&self, site: Site<'_>, seed: u64, now: Duration) -> Option<Fault> {
        let mut plans = self.lock();
        let mut found = None;
        for (index, (rule, seen, hits)) in plans.rules.iter_mut().enumerate() {
            let matches = rule.backend.is_none_or(|backend| backend == site.backend)
                && rule.operation.as_deref().is_none_or(|operation| operation == site.operation)
                && rule.service.as_deref().is_none_or(|service| service == site.service)
                && rule.between.is_none_or(|(from, to)| from <= now && now < to);
            if !matches {
                continue;
            }
            *seen += 1;
            let number = chance::mix(&[index as u64, u64::from(*seen)]);
            let lucky = rule.probability >= 1.0 || chance::fraction(seed, &["fault"], number) < rule.probability;
            if found.is_none() && *hits < rule.times && rule.nth.is_none_or(|nth| nth == *seen) && lucky {
                *hits += 1;
                found = Some(rule.fault);
            }
        }
        found
    }

    /// What a call fails with.
    pub(super) fn error(&self, site: Site<'_>, kind: ErrorKind, effect: Effect) -> Error {
        let message = match self.lock().repeats.as_str() {
            "" => "an injected fault".to_owned(),
            repeated => format!("an injected fault: {repeated}"),
        };
        let error = Error::new(kind, site.backend.name(), site.operation, message.clone());
        error.on(site.service).effect(effect).with_source(std::io::Error::other(message))
    }
}
