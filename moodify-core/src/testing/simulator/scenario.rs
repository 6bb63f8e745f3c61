use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Period, Weight};

/// How the simulated world behaves: what its versions do, when, and who interferes.
///
/// ```
/// use moodify_core::testing::{Behaviour, Scenario};
/// let read = Scenario::from_yaml("canary: [{error-rate: 12%, from-weight: 50}]").unwrap();
/// let built = Scenario::default().canary(Behaviour::error_rate(0.12).from_weight(50));
/// assert_eq!(read, built);
/// let bad = Scenario::from_yaml("seed: 1\ncanery: []").unwrap_err();
/// assert!(bad.to_string().contains("line 2, column 1"), "{bad}");
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Scenario {
    /// What happens, for people.
    pub description: String,
    /// Where chance begins: the same seed is the same history.
    pub seed: u64,
    /// What the world is like.
    pub world: Settings,
    /// What every version does but the one that ran at first.
    pub canary: Vec<Behaviour>,
    /// What the version does that ran at first.
    pub stable: Vec<Behaviour>,
    /// What single versions do besides, by image tag.
    pub versions: BTreeMap<String, Vec<Behaviour>>,
    /// When the metric sources do not answer.
    pub metrics: Option<Outage>,
    /// What somebody else changes.
    pub edits: Vec<Edit>,
    /// What the people say who are asked.
    pub approvals: People,
    /// How jobs go.
    pub jobs: JobScript,
    /// How backups go.
    pub backups: BackupScript,
    /// How commands end that run beside the application.
    pub commands: CommandScript,
}

macro_rules! named_scenarios {
    ($($name:literal),* $(,)?) => {
        /// The names that [`Scenario::named`] knows.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The file of the built-in scenario of that name.
        #[must_use]
        pub fn named_text(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some(include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"), "/../examples/scenarios/", $name, ".yaml"
                ))),)*
                _ => None,
            }
        }
    };
}

impl Scenario {
    named_scenarios![
        "healthy",
        "errors-at-10",
        "errors-at-50",
        "crash-loop-at-50",
        "slow-at-50",
        "unready-at-50",
        "never-ready",
        "no-metrics",
        "metrics-outage",
        "second-service-bad",
        "edited-by-hand",
        "stable-slow-rollout",
    ];

    /// Reads a scenario.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with line and column.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let invalid = |message| Error::new(ErrorKind::Invalid, "simulator", "read the scenario", message);
        let read: std::result::Result<Option<Self>, _> = serde_saphyr::from_str(text);
        match read {
            // An empty file is a world without events.
            Ok(scenario) => Ok(scenario.unwrap_or_default()),
            Err(e) => {
                let e = e.without_snippet();
                let place = e.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
                Err(invalid(format!("{}{e}", place.unwrap_or_default())))
            }
        }
    }

    /// The built-in scenario of that name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], with the names that there are.
    pub fn named(name: &str) -> Result<Self> {
        let text = Self::named_text(name).ok_or_else(|| {
            let message = format!("there is no scenario {name:?}; there are: {}", Self::NAMES.join(", "));
            Error::new(ErrorKind::NotFound, "simulator", "find the scenario", message)
        })?;
        Self::from_yaml(text)
    }

    /// The same, with one more behaviour of the new version.
    #[must_use]
    pub fn canary(mut self, behaviour: Behaviour) -> Self {
        self.canary.push(behaviour);
        self
    }

    /// The same, with one more behaviour of the old version.
    #[must_use]
    pub fn stable(mut self, behaviour: Behaviour) -> Self {
        self.stable.push(behaviour);
        self
    }

    /// The same, with one more foreign edit.
    #[must_use]
    pub fn edit(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }

    /// The same, from another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// What the simulated world is like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// Instances of each service at first.
    pub replicas: u32,
    /// The same for single services.
    pub replicas_of: BTreeMap<String, u32>,
    /// The version that runs at first: the tag of its image.
    pub stable_version: String,
    /// From the creation of a pod until it is ready.
    pub pod_start: Period,
    /// From the change of a workload until the platform acts on it.
    pub controller_lag: Period,
    /// From the change of a route until traffic follows it.
    pub route_lag: Period,
    /// Whether routers report what the data plane does.
    pub routers_report: bool,
    /// How long each call to a backend takes.
    pub call_time: Period,
    /// A rollout without progress for so long is given up.
    pub progress_deadline: Period,
    /// The error rate of a version that does nothing special.
    pub error_rate: Percent,
    /// The 95th percentile of the response time of such a version.
    pub latency_p95: Period,
    /// Other metrics of such a version, by name.
    pub figures: BTreeMap<String, f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 5,
            replicas_of: BTreeMap::new(),
            stable_version: "previous".to_owned(),
            pod_start: Period::from_secs(5),
            controller_lag: std::time::Duration::from_millis(200).into(),
            route_lag: std::time::Duration::from_millis(500).into(),
            routers_report: true,
            call_time: std::time::Duration::from_millis(20).into(),
            progress_deadline: Period::from_mins(10),
            error_rate: Percent::fraction(0.002),
            latency_p95: std::time::Duration::from_millis(180).into(),
            figures: BTreeMap::new(),
        }
    }
}

/// Something that a version does, and when.
///
/// Without `from-weight`, `after` and `until` it does so always. Otherwise the time counts from the moment when the
/// version's share of the traffic first reached `from-weight`, or, without that, first was more than nothing. What
/// began at a weight goes on when the weight falls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Behaviour {
    /// Only this service; else all.
    pub service: Option<String>,
    /// Begins when the version's share has reached this weight.
    pub from_weight: Option<Weight>,
    /// Begins so much later.
    pub after: Option<Period>,
    /// Ends so much later than the time counts from.
    pub until: Option<Period>,
    /// Answers this share of requests with an error.
    pub error_rate: Option<Percent>,
    /// Takes so long, at the 95th percentile.
    pub latency_p95: Option<Period>,
    /// Every instance crashes again and again.
    pub crash_loop: bool,
    /// No instance is ready.
    pub never_ready: bool,
    /// At least this share of the instances is not ready.
    pub unready: Option<Percent>,
    /// Metric sources have no data of it.
    pub no_metrics: bool,
    /// Other metrics, by name.
    pub figures: BTreeMap<String, f64>,
    /// Its instances take so long to become ready (always; the conditions do not matter for it).
    pub pod_start: Option<Period>,
}

impl Behaviour {
    /// Answers this fraction of requests with an error.
    #[must_use]
    pub fn error_rate(fraction: f64) -> Self {
        Self { error_rate: Some(Percent::fraction(fraction)), ..Self::default() }
    }

    /// Takes so long, at the 95th percentile.
    #[must_use]
    pub fn latency_p95(time: impl Into<Period>) -> Self {
        Self { latency_p95: Some(time.into()), ..Self::default() }
    }

    /// Every instance crashes again and again.
    #[must_use]
    pub fn crash_loop() -> Self {
        Self { crash_loop: true, ..Self::default() }
    }

    /// No instance is ready.
    #[must_use]
    pub fn never_ready() -> Self {
        Self { never_ready: true, ..Self::default() }
    }

    /// At least this fraction of the instances is not ready.
    #[must_use]
    pub fn unready(fraction: f64) -> Self {
        Self { unready: Some(Percent::fraction(fraction)), ..Self::default() }
    }

    /// Metric sources have no data of it.
    #[must_use]
    pub fn no_metrics() -> Self {
        Self { no_metrics: true, ..Self::default() }
    }

    /// The same, of one service only.
    #[must_use]
    pub fn of_service(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }

    /// The same, from a weight on.
    ///
    /// # Panics
    /// Above 100; meant for weights written in source code.
    #[must_use]
    pub fn from_weight(mut self, percent: u8) -> Self {
        self.from_weight = Some(Weight::new(percent).expect("a weight in source code is at most 100"));
        self
    }

    /// The same, so much later.
    #[must_use]
    pub fn after(mut self, time: impl Into<Period>) -> Self {
        self.after = Some(time.into());
        self
    }

    /// The same, until then.
    #[must_use]
    pub fn until(mut self, time: impl Into<Period>) -> Self {
        self.until = Some(time.into());
        self
    }
}

/// A time without answers, counted from the start of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Outage {
    /// When it begins.
    #[serde(default)]
    pub down_after: Period,
    /// How long it lasts; by default for ever.
    #[serde(default)]
    pub down_for: Option<Period>,
}

/// A change that somebody else makes. If what is to be edited is not there yet, the edit waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Edit {
    /// Of which service.
    pub service: String,
    /// What is edited.
    pub what: Edited,
    /// Who edits: the name of the field manager. `kube-controller-manager` scales by rule, as autoscalers do.
    #[serde(default = "kubectl")]
    pub by: String,
    /// When: after the start of the simulation, or after the new version reached `from-weight`.
    #[serde(default)]
    pub after: Period,
    /// Counts the time from when the new version's share first reached this weight.
    #[serde(default)]
    pub from_weight: Option<Weight>,
    /// The number of instances, or the weight in percent, that the edit sets; by default one more than there is.
    #[serde(default)]
    pub to: Option<u32>,
}

fn kubectl() -> String {
    "kubectl-edit".to_owned()
}

impl Edit {
    /// An edit by `kubectl-edit`, as soon as there is something to edit.
    #[must_use]
    pub fn new(service: &str, what: Edited) -> Self {
        let service = service.to_owned();
        Self { service, what, by: kubectl(), after: Period::ZERO, from_weight: None, to: None }
    }

    /// The same, at a time after the start.
    #[must_use]
    pub fn after(mut self, time: impl Into<Period>) -> Self {
        self.after = time.into();
        self
    }

    /// The same, setting this number.
    #[must_use]
    pub fn to(mut self, number: u32) -> Self {
        self.to = Some(number);
        self
    }
}

/// What somebody else edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Edited {
    /// The number of instances of the canary workload.
    Canary,
    /// The canary's weight in the route.
    Route,
    /// The canary workload is deleted.
    CanaryDeleted,
    /// The number of instances of the stable workload.
    StableReplicas,
    /// The image of the stable workload becomes `simulated/hotfix:by-hand`.
    StableImage,
    /// Where two workloads take turns, the service's name stands for the other one.
    Name,
}

/// What the people say who are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct People {
    /// What all of them say.
    pub answer: Answer,
    /// How long they take.
    pub after: Period,
}

impl Default for People {
    fn default() -> Self {
        Self { answer: Answer::Yes, after: Period::from_secs(30) }
    }
}

/// What people say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// They agree.
    Yes,
    /// They do not.
    No,
    /// They never answer.
    Silence,
}

/// How jobs go, and what runs by a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct JobScript {
    /// How long a pod of one runs.
    pub takes: Period,
    /// It fails after that time, and why.
    pub fails: Option<String>,
    /// What it writes.
    pub writes: Vec<String>,
    /// The images that `CronJob`s run at first, by name; `simulated/NAME:previous` those that are not here.
    pub cron_jobs: BTreeMap<String, ImageRef>,
    /// The `CronJob`s that are suspended at first, by name.
    pub suspended: Vec<String>,
}

impl Default for JobScript {
    fn default() -> Self {
        Self {
            takes: Period::from_secs(20),
            fails: None,
            writes: Vec::new(),
            cron_jobs: BTreeMap::new(),
            suspended: Vec::new(),
        }
    }
}

/// How backups go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BackupScript {
    /// In every store there is one at first that was made so long before; by default there is none.
    pub made_before: Option<Period>,
    /// How long one takes.
    pub takes: Period,
    /// It fails after that time, and why.
    pub fails: Option<String>,
    /// It says that it is complete, but is not plausible.
    pub damaged: bool,
    /// How long a restore takes.
    pub restore_takes: Period,
    /// A restore fails after that time, and why.
    pub restore_fails: Option<String>,
    /// The stores, by name, whose restored databases have names and no hosts.
    pub names: BTreeSet<String>,
    /// Nothing can be restored into the database itself.
    pub never_live: bool,
}

impl Default for BackupScript {
    fn default() -> Self {
        Self {
            made_before: None,
            takes: Period::from_secs(20),
            fails: None,
            damaged: false,
            restore_takes: Period::from_secs(60),
            restore_fails: None,
            names: BTreeSet::new(),
            never_live: false,
        }
    }
}

/// How commands end that run beside the application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct CommandScript {
    /// Their exit code. With 0, they fail all the same while the application is pointed to a database that is not there.
    pub exit_code: i32,
}

/// A share, written `12%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Percent(f64);

impl Percent {
    /// From a fraction of one.
    #[must_use]
    pub fn fraction(fraction: f64) -> Self {
        Self(fraction * 100.0)
    }

    /// As a fraction of one.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').and_then(|n| n.trim_end().parse::<f64>().ok());
        let number = number.filter(|n| (0.0..=100.0).contains(n));
        number.map(Self).ok_or_else(|| format!("{text:?} is not a share; write it like 12% or 0.2%, at most 100%"))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A share: 12%, 0.2%.",
            "pattern": r"^\s*[0-9.]+\s*%\s*$",
            "examples": ["12%", "0.2%"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_scenario_parses_and_is_described() {
        for name in Scenario::NAMES {
            let scenario = Scenario::named(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!scenario.description.is_empty(), "{name}");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/scenarios")).unwrap();
        assert_eq!(files.count(), Scenario::NAMES.len(), "every file has a name and every name a file");
        let unknown = Scenario::named("heelthy").unwrap_err();
        assert!(unknown.to_string().contains("healthy, errors-at-10"), "{unknown}");
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        for (text, place) in [
            ("canary:\n  - error-rate: 120%", "line 2, column 17"),
            ("canary:\n  - from-weight: 101", "line 2, column"),
            ("canary:\n  - after: 3 minuts", "line 2, column 12"),
            ("edits:\n  - {service: backend, what: pods}", "line 2, column"),
            ("canary: [", "line 1, column"),
        ] {
            let error = Scenario::from_yaml(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(place), "{text}: {error}");
        }
        assert_eq!(Scenario::from_yaml("").unwrap(), Scenario::default());
    }

    #[test]
    fn a_scenario_survives_writing_and_reading() {
        let scenario = Scenario::named("edited-by-hand").unwrap();
        let text = serde_saphyr::to_string(&scenario).unwrap();
        assert_eq!(Scenario::from_yaml(&text).unwrap(), scenario);
    }
}
