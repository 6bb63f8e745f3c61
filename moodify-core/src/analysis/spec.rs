use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::model::Period;

/// Names of the metrics that moodify knows the meaning of.
pub mod metrics {
    /// The share of requests answered with an error, as a fraction.
    pub const ERROR_RATE: &str = "error-rate";
    /// The 95th percentile of the response time, in seconds.
    pub const LATENCY_P95: &str = "latency-p95";
    /// Pods of the version that crash again and again.
    pub const CRASH_LOOP: &str = "crash-loop";
    /// The share of the version's pods whose health check fails, as a fraction.
    pub const UNHEALTHY: &str = "unhealthy";
    /// Container restarts of the version's pods, in all.
    pub const RESTARTS: &str = "restarts";
}

/// Names of sources that mean something to the engine.
pub mod sources {
    /// The pods themselves, watched through Diagnostics.
    pub const PODS: &str = "pods";
    /// What a metric check asks when it names no source.
    pub const DEFAULT: &str = "prometheus";
}

/// What is measured during a bake, and what it means. Each service's canary is judged by its own figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Analysis {
    /// The time between two measurements of a metric. Pods are watched, not measured: a change counts at once.
    pub interval: Period,
    /// No metric is judged before the weight has stood this long: rates need requests to be rates of something.
    pub warm_up: Period,
    /// What happens while a metric has no data.
    pub no_data: NoData,
    /// The metrics; by default the four rollback triggers of the runbook.
    pub metrics: Vec<MetricCheck>,
}

impl Default for Analysis {
    /// The runbook's "Automatic Rollback Triggers": error rate > 5 %, P95 > 5 s, a crash loop, health check
    /// failures > 50 %; the first two measured every 10 s.
    fn default() -> Self {
        Self {
            interval: Period::from_secs(10),
            warm_up: Period::ZERO,
            no_data: NoData::default(),
            metrics: vec![
                MetricCheck::failing(metrics::ERROR_RATE, sources::DEFAULT, "> 5%", 1),
                MetricCheck::failing(metrics::LATENCY_P95, sources::DEFAULT, "> 5s", 1),
                MetricCheck::failing(metrics::CRASH_LOOP, sources::PODS, "> 0", 0),
                MetricCheck::failing(metrics::UNHEALTHY, sources::PODS, "> 50%", 0),
            ],
        }
    }
}

/// One metric and its meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MetricCheck {
    /// Its name: `error-rate`, `latency-p95`, `crash-loop`, `unhealthy`, `restarts`, or one of your own with a query.
    pub name: String,
    /// Who is asked: a metric source by its registered name, or `pods`.
    #[serde(default = "default_source")]
    pub source: String,
    /// What it is asked, in the source's own language; by default the source's own idea of the metric. In it
    /// `{{namespace}}`, `{{service}}`, `{{workload}}`, `{{track}}`, `{{version}}` and `{{window}}` are filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The time that one measurement looks back.
    #[serde(default = "default_window")]
    pub window: Period,
    /// The measurement is good if this holds. Without it, good is what is not `fail`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Condition>,
    /// The measurement is bad if this holds. Without it, bad is what is not `pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<Condition>,
    /// So many bad measurements in a row are tolerated; one more is a breach.
    #[serde(default)]
    pub tolerance: u32,
}

fn default_source() -> String {
    sources::DEFAULT.to_owned()
}

fn default_window() -> Period {
    Period::from_mins(1)
}

impl MetricCheck {
    /// A check that fails on `condition`, for example `"> 5%"`, after `tolerance` tolerated failures in a row.
    ///
    /// # Panics
    /// If `condition` cannot be read; meant for conditions written in source code.
    #[must_use]
    pub fn failing(name: &str, source: &str, condition: &str, tolerance: u32) -> Self {
        let fail: Result<Condition, String> = condition.parse();
        Self {
            name: name.to_owned(),
            source: source.to_owned(),
            query: None,
            window: default_window(),
            pass: None,
            fail: Some(fail.expect("a condition in source code can be read")),
            tolerance,
        }
    }

    /// The condition that people are shown as the limit.
    #[must_use]
    pub fn limit(&self) -> Option<&Condition> {
        self.fail.as_ref().or(self.pass.as_ref())
    }
}

/// What happens while a metric has no data: the bake holds and says so, and after a time it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NoData {
    /// So many measurements in a row without data make the bake hold.
    #[schemars(range(min = 1))]
    pub after: u32,
    /// How long it holds before the run ends.
    pub hold: Period,
    /// How the run ends then.
    pub then: NoDataThen,
}

impl Default for NoData {
    fn default() -> Self {
        Self { after: 2, hold: Period::from_mins(30), then: NoDataThen::Attention }
    }
}

/// How a run ends whose metrics never came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoDataThen {
    /// Leave everything as it is, and call a person.
    #[default]
    Attention,
    /// Take the release back.
    Rollback,
}
