//! Plan files: YAML and JSON in, a [`PlanFile`] or every mistake with its place out.
//!
//! JSON is read by the YAML reader, so that it has places too. The model's types know nothing of places: what is read
//! first is a plain value with the place of everything in it, a [`Source`]; it is decoded by JSON pointer, checked, and
//! kept, so that what is found later (in a backend's settings, in a step's parameters) has its place as well.
//!
//! ```
//! let text = "
//! name: release
//! environment: {name: staging, kind: staging, namespace: moodify-staging}
//! release:
//!   version: v1.2.3
//!   services:
//!     - name: backend
//!       workload: backend-deployment
//!       image: registry.example/moodify/backend:v1.2.3
//!       traffic: {router: replica-ratio, service: backend-service}
//! phases:
//!   - name: rollout
//!     strategy:
//!       canary:
//!         wieghts: [10, 50, 100]
//! ";
//! let errors = moodify_core::planfile::read(text, "plan.yaml").unwrap_err();
//! let shown = errors.to_string();
//! assert!(shown.starts_with(r#"plan.yaml:15:9: unknown key "wieghts"; did you mean "weights"?"#), "{shown}");
//! ```

mod check;
mod decode;
mod source;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

pub use decode::{Mistake, from_value};
pub use source::{Place, PlanErrors, Problem, Source};

use crate::model::{Environment, Phase, Plan, Release, Service, Step, Weight, WorkloadKind};
use crate::strategy::{BlueGreen, Canary, DatabaseRollback, Recreate, Rolling};

/// The phase of a plan that says none.
const ROLLOUT: &str = "rollout";

/// A plan as it is written: its strategies are not expanded yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "moodify plan")]
pub struct PlanFile {
    /// The plan's name, for people.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Where the release goes, and what guards it.
    pub environment: Environment,
    /// What ships.
    pub release: Release,
    /// Settings of the backends, by backend; read by the application. Holds no secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, Value>,
    /// What happens, in order. Left out, it is one phase `rollout` with the strategy that fits what ships, with all its
    /// defaults: blue-green where a router divides the traffic.
    #[serde(default, deserialize_with = "some_phases", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub phases: Vec<PhaseSpec>,
}

/// Who writes phases means some.
fn some_phases<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PhaseSpec>, D::Error> {
    let phases = Vec::deserialize(deserializer)?;
    if phases.is_empty() {
        return Err(de::Error::custom("no phases: nothing would happen; leave them out to have what fits"));
    }
    Ok(phases)
}

impl PlanFile {
    /// The plan with its strategies expanded: what a run does, completely.
    #[must_use]
    pub fn expand(mut self) -> Plan {
        self.fill();
        let expand = |phase: PhaseSpec| match phase.content {
            PhaseContent::Steps(steps) => vec![Phase { name: phase.name, parallel: false, steps }],
            PhaseContent::Parallel(steps) => vec![Phase { name: phase.name, parallel: true, steps }],
            PhaseContent::Strategy(strategy) => strategy.phases(&phase.name),
        };
        Plan {
            name: self.name,
            environment: self.environment,
            release: self.release,
            phases: self.phases.into_iter().flat_map(expand).collect(),
            backends: self.backends,
        }
    }

    /// Says the phases of a plan that says none.
    fn fill(&mut self) {
        if self.phases.is_empty()
            && let Ok(strategy) = StrategySpec::fitting(&self.release)
        {
            let content = PhaseContent::Strategy(strategy);
            self.phases = vec![PhaseSpec { name: ROLLOUT.to_owned(), content }];
        }
    }
}

/// A phase as it is written: steps, or a strategy that makes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawPhase", into = "RawPhase")]
#[schemars(with = "RawPhase")]
pub struct PhaseSpec {
    /// Its name, for people.
    pub name: String,
    /// What is in it.
    pub content: PhaseContent,
}

/// What is in a phase.
#[expect(clippy::large_enum_variant, reason = "a plan has few phases, and is read once")]
#[derive(Debug, Clone, PartialEq)]
pub enum PhaseContent {
    /// Steps, one after the other.
    Steps(Vec<Step>),
    /// Steps, all at once.
    Parallel(Vec<Step>),
    /// A strategy that makes the steps.
    Strategy(StrategySpec),
}

/// A strategy and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StrategySpec {
    /// More and more of the traffic, with a bake after each change of the weight. `canary: {}` has all the defaults.
    Canary(Canary),
    /// Two workloads take turns: the same weights and bakes, then what was tested is what serves. `blue-green: {}` has all
    /// the defaults.
    BlueGreen(BlueGreen),
    /// The instances of the workload itself get the new version, batch by batch, each followed by a bake. `rolling: {}` has
    /// all the defaults.
    Rolling(Rolling),
    /// The old version stops before the new one starts: for what cannot run twice.
    Recreate(Recreate),
    /// The database goes back to a backup, in a new place; the application is stopped meanwhile.
    DatabaseRollback(DatabaseRollback),
}

impl StrategySpec {
    /// What fits a release of which nobody says more, with all its defaults: blue-green (the runbook's section 3), all at once
    /// where only a Service's selector leads to a version; a canary in place where the number of instances divides the
    /// traffic; in batches where the workload is no Deployment.
    ///
    /// ```
    /// use moodify_core::planfile::StrategySpec;
    /// let release = serde_json::from_str(
    ///     r#"{"version": "v2", "services": [{"name": "web", "workload": "web", "image": "r/web:v2",
    ///         "traffic": {"router": "http-route", "service": "web", "route": "web"}}]}"#,
    /// );
    /// assert!(matches!(StrategySpec::fitting(&release.unwrap()), Ok(StrategySpec::BlueGreen(_))));
    /// ```
    ///
    /// # Errors
    /// If not the same one fits all services.
    pub fn fitting(release: &Release) -> Result<Self, String> {
        let of = |service: &Service| match (service.kind, service.traffic.router.as_str()) {
            (WorkloadKind::StatefulSet | WorkloadKind::DaemonSet, _) => Self::Rolling(Rolling::default()),
            (WorkloadKind::Deployment, "replica-ratio") => Self::Canary(Canary::default()),
            (WorkloadKind::Deployment, "service-selector") => {
                Self::BlueGreen(BlueGreen { weights: vec![Weight::FULL], ..BlueGreen::default() })
            }
            (WorkloadKind::Deployment, _) => Self::BlueGreen(BlueGreen::default()),
        };
        let (first, others) = release.services.split_first().ok_or("no services")?;
        match others.iter().find(|other| of(other) != of(first)) {
            None => Ok(of(first)),
            Some(other) => Err(format!(
                "not the same strategy fits {:?} and {:?}: say in phases how each is released",
                first.name, other.name
            )),
        }
    }

    /// The phases that it makes; `name` begins the names of phases and steps.
    #[must_use]
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        match self {
            Self::Canary(strategy) => strategy.phases(name),
            Self::BlueGreen(strategy) => strategy.phases(name),
            Self::Rolling(strategy) => strategy.phases(name),
            Self::Recreate(strategy) => strategy.phases(name),
            Self::DatabaseRollback(strategy) => strategy.phases(name),
        }
    }

    /// What is wrong with its settings: where (a JSON pointer from the strategy on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let (name, problems) = match self {
            Self::Canary(strategy) => ("canary", strategy.problems()),
            Self::BlueGreen(strategy) => ("blue-green", strategy.problems()),
            Self::Rolling(strategy) => ("rolling", strategy.problems()),
            Self::Recreate(strategy) => ("recreate", strategy.problems()),
            Self::DatabaseRollback(strategy) => ("database-rollback", strategy.problems()),
        };
        problems.into_iter().map(|(at, what)| (format!("/{name}{at}"), what)).collect()
    }
}

/// A phase: steps, or a strategy that makes them; exactly one of the two.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Phase", extend("oneOf" = [{"required": ["steps"]}, {"required": ["strategy"]}]))]
struct RawPhase {
    /// Its name, for people.
    #[schemars(length(min = 1))]
    name: String,
    /// Whether the steps run at once. If one of them fails, the others stop, and all are taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    parallel: bool,
    /// Steps, one after the other or at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    steps: Option<Vec<Step>>,
    /// A strategy that makes the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strategy: Option<StrategySpec>,
}

impl TryFrom<RawPhase> for PhaseSpec {
    type Error = String;

    fn try_from(raw: RawPhase) -> Result<Self, String> {
        let content = match (raw.steps, raw.strategy) {
            (Some(steps), None) if raw.parallel => PhaseContent::Parallel(steps),
            (Some(steps), None) => PhaseContent::Steps(steps),
            (None, Some(_)) if raw.parallel => {
                return Err(format!(
                    "phase {:?} has a strategy, which makes phases of its own; only steps can be parallel",
                    raw.name
                ));
            }
            (None, Some(strategy)) => PhaseContent::Strategy(strategy),
            (Some(_), Some(_)) => {
                return Err(format!("phase {:?} has steps and a strategy; it can have only one of them", raw.name));
            }
            (None, None) => return Err(format!("phase {:?} has neither steps nor a strategy", raw.name)),
        };
        Ok(Self { name: raw.name, content })
    }
}

impl From<PhaseSpec> for RawPhase {
    fn from(phase: PhaseSpec) -> Self {
        let (parallel, steps, strategy) = match phase.content {
            PhaseContent::Steps(steps) => (false, Some(steps), None),
            PhaseContent::Parallel(steps) => (true, Some(steps), None),
            PhaseContent::Strategy(strategy) => (false, None, Some(strategy)),
        };
        Self { name: phase.name, parallel, steps, strategy }
    }
}

/// Reads a plan from YAML or JSON; `file` is its name for messages.
///
/// # Errors
/// Everything that is wrong with it, each with its place. A text that is neither YAML nor JSON is one problem; what
/// can only be checked on a whole plan is checked when nothing worse than unknown keys was found.
pub fn read(text: &str, file: &str) -> Result<(PlanFile, Source), PlanErrors> {
    let (source, mut problems) = Source::parse(text, file)?;
    let (mut plan, mut mistakes) = decode::decode::<PlanFile>(source.value());
    if let Some(plan) = &mut plan {
        mistakes.extend(plan.validate());
        plan.fill();
    }
    problems.extend(mistakes.iter().map(|mistake| source.explain("", mistake)));
    match plan {
        Some(plan) if problems.is_empty() => Ok((plan, source)),
        _ => Err(PlanErrors::new(problems)),
    }
}

/// Lets each key that chooses a variant say what the variant says: editors show what a key says.
pub(crate) fn describe_variants(schema: &mut schemars::Schema) {
    for option in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(described) = option.get("description").cloned() else { continue };
        for (_, property) in option.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(property) = property.as_object_mut() {
                property.entry("description").or_insert_with(|| described.clone());
            }
        }
    }
}

/// The JSON Schema of plan files.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(PlanFile).to_value()
}
