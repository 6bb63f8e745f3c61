use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::model::{Period, Target, Track};

/// One question to a metric source: one figure of one version of one service.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MetricQuery {
    /// The metric's name: `error-rate`.
    pub metric: String,
    /// The question in the source's own language; `None` for the source's own idea of the metric.
    pub query: Option<String>,
    /// The service.
    pub target: Target,
    /// The version, by its track.
    pub track: Track,
    /// The name of the workload that runs this version: its pods are `{workload}-*`.
    pub workload: String,
    /// The names of the pods that run it, where the workload runs two versions; else empty.
    pub pods: Vec<String>,
    /// The version, for people and labels.
    pub version: String,
    /// How far one measurement looks back.
    pub window: Period,
}

impl MetricQuery {
    /// A question about `metric` of the version that runs as `workload`.
    #[must_use]
    pub fn new(metric: &str, target: Target, track: Track, workload: &str, version: &str) -> Self {
        Self {
            metric: metric.to_owned(),
            query: None,
            target,
            track,
            workload: workload.to_owned(),
            pods: Vec::new(),
            version: version.to_owned(),
            window: Period::from_mins(1),
        }
    }

    /// A regular expression that fits the names of the pods that run this version, and no other: a Deployment's pods are
    /// named `{workload}-{hash}-{5 characters}`, so that of `backend` does not fit what `backend-canary` or
    /// `backend-worker-0` are.
    #[must_use]
    pub fn pods_pattern(&self) -> String {
        if self.pods.is_empty() { format!("{}-[a-z0-9]+-[a-z0-9]{{5}}", self.workload) } else { self.pods.join("|") }
    }

    /// Fills `{{namespace}}`, `{{service}}`, `{{workload}}`, `{{track}}`, `{{version}}`, `{{pods}}` (a regular expression,
    /// [`pods_pattern`](Self::pods_pattern)) and `{{window}}` (in seconds, as `60s`) into a template.
    ///
    /// ```
    /// use moodify_core::backend::MetricQuery;
    /// use moodify_core::model::Track;
    /// # let target = serde_json::from_value(serde_json::json!({"environment": "production", "namespace": "shop",
    /// #     "service": {"name": "db", "workload": "db", "image": "registry.example/db:v2",
    /// #     "traffic": {"router": "replica-ratio", "service": "db"}}})).unwrap();
    /// let mut query = MetricQuery::new("error-rate", target, Track::Canary, "db", "v2");
    /// assert_eq!(query.fill(r#"pod=~"{{pods}}""#), r#"pod=~"db-[a-z0-9]+-[a-z0-9]{5}""#);
    /// query.pods = vec!["db-1".to_owned(), "db-2".to_owned()];
    /// assert_eq!(query.fill(r#"pod=~"{{pods}}""#), r#"pod=~"db-1|db-2""#);
    /// ```
    #[must_use]
    pub fn fill(&self, template: &str) -> String {
        let window = format!("{}s", self.window.get().as_secs().max(1));
        let (track, pods) = (self.track.to_string(), self.pods_pattern());
        let values = [
            ("{{namespace}}", self.target.namespace.as_str()),
            ("{{service}}", &self.target.service.name),
            ("{{workload}}", &self.workload),
            ("{{track}}", &track),
            ("{{version}}", &self.version),
            ("{{pods}}", &pods),
            ("{{window}}", &window),
        ];
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

/// One answer of a metric source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The figure: fractions of one, seconds, or plain numbers. `None` if the source has no data; that is not health.
    pub value: Option<f64>,
    /// When it was true, by the source.
    pub at: Timestamp,
}

/// Measures.
///
/// # Contract
/// - Figures are of the version asked for, never of a mixture of versions.
/// - No data (no series, an empty result, not a number) is `value: None`. A failure of the source is an error.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait MetricSource: Send + Sync + fmt::Debug {
    /// Whether it can answer a check of this metric with this query, without asking anybody.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) or [`Invalid`](crate::ErrorKind::Invalid), with what is missing.
    fn check(&self, query: &MetricQuery) -> Result<()>;

    /// Asks.
    ///
    /// # Errors
    /// When the source cannot be reached, refuses, or answers with something else than one figure.
    async fn query(&self, cx: &CallContext, query: &MetricQuery) -> Result<Measurement>;
}
