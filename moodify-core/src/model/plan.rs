use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Color, Environment, Layout, Period, Phases, Release, Service, Target, WorkloadKind};

/// The kind of step that lets two workloads take turns.
pub(crate) const HAND_OVER: &str = "hand-over";
pub(crate) const LEAVE: &str = "leave";
/// The kind of step that lets a part of a workload run the new version.
pub(crate) const ROLL_BATCH: &str = "roll-batch";
/// The kind of step that leaves a workload no instance.
pub(crate) const STOP: &str = "stop";

/// What a run does, completely: no strategy is left to expand in it. Written whole into the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name; part of what people see.
    pub name: String,
    /// Where to.
    pub environment: Environment,
    /// What ships.
    pub release: Release,
    /// The phases, in order. Step names are unique in the whole plan.
    pub phases: Phases,
    /// Settings of the backends, by backend; read by the application, not by moodify-core. Holds no secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, Value>,
}

impl Plan {
    /// Every step, in order, with its phase.
    pub fn steps(&self) -> impl Iterator<Item = (&Phase, &Step)> {
        self.phases.iter().flat_map(|phase| phase.steps.iter().map(move |step| (phase, step)))
    }

    /// The step of that name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps().map(|(_, step)| step).find(|step| step.name == name)
    }

    /// The services of the release as targets in the environment. Where two workloads take turns, which of them serves
    /// is for a run to find out; here it is the one that the plan names.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        self.release.services.iter().map(|service| self.target(service)).collect()
    }

    pub(crate) fn target(&self, service: &Service) -> Target {
        let target = Target::new(&self.environment.name, &self.environment.namespace, service.clone());
        target.with_layout(if self.has_step(service, &[HAND_OVER, LEAVE]) {
            Layout::Colors(Color::Blue)
        } else if service.kind != WorkloadKind::Deployment || self.has_step(service, &[ROLL_BATCH, STOP]) {
            Layout::Single
        } else {
            Layout::InPlace
        })
    }

    /// Whether there is a step of one of these kinds on this service.
    fn has_step(&self, service: &Service, kinds: &[&str]) -> bool {
        let mut steps = self.steps().map(|(_, step)| step).filter(|step| kinds.contains(&step.action.as_str()));
        steps.any(|step| match step.with.get("services") {
            Some(Value::Array(services)) if !services.is_empty() => services.contains(&json!(service.name)),
            _ => true,
        })
    }
}

/// Steps that people see as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Whether its steps run at once, not one after the other. If one of them fails, the others stop where they are, and
    /// all are taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parallel: bool,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One named action with its parameters, deadline and retries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the plan.
    pub name: String,
    /// The kind of action, by the name under which it is registered.
    pub action: String,
    /// The action's parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub with: Value,
    /// When the step must have ended, all attempts and waits together; by default the action's own, else 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// What happens after a failed attempt.
    #[serde(default)]
    pub retry: RetryPolicy,
}

/// How often a step is tried again, and when. Only transient failures are repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RetryPolicy {
    /// Attempts in all; 1 means no repeat.
    #[schemars(range(min = 1))]
    pub attempts: u32,
    /// The wait after the first failure; doubles each time.
    pub delay: Period,
    /// The longest wait.
    pub max_delay: Period,
}

impl Default for RetryPolicy {
    /// 8 attempts, 1 s doubling up to 15 s: rides out an API server that is away for about a minute.
    fn default() -> Self {
        Self { attempts: 8, delay: Period::from_secs(1), max_delay: Period::from_secs(15) }
    }
}

impl RetryPolicy {
    /// The wait before attempt `next` (2 is the first repeat).
    ///
    /// ```
    /// use std::time::Duration;
    /// use moodify_core::model::RetryPolicy;
    /// let policy = RetryPolicy::default();
    /// assert_eq!(policy.wait_before(2), Duration::from_secs(1));
    /// assert_eq!(policy.wait_before(4), Duration::from_secs(4));
    /// assert_eq!(policy.wait_before(40), Duration::from_secs(15));
    /// ```
    #[must_use]
    pub fn wait_before(&self, next: u32) -> std::time::Duration {
        let doublings = next.saturating_sub(2).min(16);
        self.delay.get().saturating_mul(1 << doublings).min(self.max_delay.get())
    }
}
