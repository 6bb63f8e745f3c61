use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MetricCheck;
use crate::mutation::{self, Mutation};

/// What one measurement says. In the order of badness: the worst of several wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Good.
    Successful,
    /// Neither good nor bad, or no data yet: neither promotes nor aborts.
    Inconclusive,
    /// The measuring itself failed; counts as no measurement.
    Error,
    /// Bad.
    Failed,
}

/// What came back from one question to a metric source.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// A number.
    Value(f64),
    /// An answer without a number: no series, an empty result, not a number.
    Empty,
    /// No answer.
    Error(String),
}

/// What one metric of one service has shown so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricStatus {
    /// The service.
    pub service: String,
    /// The metric.
    pub metric: String,
    /// The last number, if there was one.
    pub value: Option<f64>,
    /// The last number and the limit, for people: `12.0 %`, `> 5%`.
    pub shown: String,
    /// The limit, for people.
    pub limit: String,
    /// The verdict over the last measurement.
    pub verdict: Verdict,
    /// Bad measurements in a row.
    pub failures: u32,
    /// Measurements in a row that brought nothing.
    pub missing: u32,
    /// Measurements that brought a number, in all.
    pub measured: u32,
    /// Why there is nothing, if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Judges one metric of one service over time. Pure: it is told samples and says what they mean.
///
/// ```
/// use moodify_core::analysis::{Judge, MetricCheck, Sample, Verdict};
/// let check = MetricCheck::failing("error-rate", "prometheus", "> 5%", 1);
/// let mut judge = Judge::new("backend", &check);
/// assert_eq!(judge.record(&Sample::Value(0.01)), Verdict::Successful);
/// assert_eq!(judge.record(&Sample::Empty), Verdict::Inconclusive);
/// judge.record(&Sample::Value(0.12));
/// assert!(!judge.breached(), "one failure is tolerated");
/// judge.record(&Sample::Value(0.12));
/// assert!(judge.breached());
/// ```
#[derive(Debug, Clone)]
pub struct Judge<'a> {
    check: &'a MetricCheck,
    status: MetricStatus,
}

impl<'a> Judge<'a> {
    /// A judge of `check` for `service`, who has seen nothing yet: inconclusive.
    #[must_use]
    pub fn new(service: &str, check: &'a MetricCheck) -> Self {
        let status = MetricStatus {
            service: service.to_owned(),
            metric: check.name.clone(),
            value: None,
            shown: "no data yet".to_owned(),
            limit: check.limit().map(ToString::to_string).unwrap_or_default(),
            verdict: Verdict::Inconclusive,
            failures: 0,
            missing: 0,
            measured: 0,
            problem: None,
        };
        Self { check, status }
    }

    /// The same with so many bad measurements in a row behind it: what a judge before a restart had counted.
    #[must_use]
    pub fn with_failures(mut self, failures: u32) -> Self {
        self.status.failures = failures;
        self
    }

    /// Takes one sample into account and says what it means.
    pub fn record(&mut self, sample: &Sample) -> Verdict {
        let status = &mut self.status;
        match sample {
            Sample::Value(value) if value.is_finite() || mutation::on(Mutation::TrustNan) => {
                status.value = Some(*value);
                status.shown = self.check.limit().map_or_else(|| value.to_string(), |limit| limit.show(*value));
                status.measured += 1;
                status.missing = 0;
                status.problem = None;
                status.verdict = judge(self.check, *value);
                status.failures = if status.verdict == Verdict::Failed { status.failures + 1 } else { 0 };
            }
            Sample::Value(_) | Sample::Empty => {
                status.missing += 1;
                status.verdict = Verdict::Inconclusive;
                status.problem = Some("the source answers, but has no data for this version".to_owned());
            }
            Sample::Error(problem) => {
                status.missing += 1;
                status.verdict = Verdict::Error;
                status.problem = Some(problem.clone());
            }
        }
        status.verdict
    }

    /// More bad measurements in a row than are tolerated.
    #[must_use]
    pub fn breached(&self) -> bool {
        self.status.failures > self.check.tolerance
    }

    /// So many measurements in a row brought nothing (`after`), or none ever brought anything.
    #[must_use]
    pub fn blind(&self, after: u32) -> bool {
        self.status.missing >= after.max(1) && !mutation::on(Mutation::TrustNoData)
    }

    /// Whether this metric lets a bake end well: measured, and the last measurement good.
    #[must_use]
    pub fn content(&self) -> bool {
        (self.status.measured > 0 && self.status.verdict == Verdict::Successful)
            || (self.status.missing > 0 && mutation::on(Mutation::TrustNoData))
    }

    /// The check that is judged.
    #[must_use]
    pub fn check(&self) -> &'a MetricCheck {
        self.check
    }

    /// What has been seen so far.
    #[must_use]
    pub fn status(&self) -> &MetricStatus {
        &self.status
    }
}

/// With only a pass condition, what does not pass fails; with only a fail condition, what does not fail passes; with
/// both and neither true, it is inconclusive; with none, nothing can be said.
fn judge(check: &MetricCheck, value: f64) -> Verdict {
    let pass = check.pass.map(|c| c.holds(value));
    let fail = check.fail.map(|c| c.holds(value));
    match (pass, fail) {
        (_, Some(true)) | (Some(false), None) => Verdict::Failed,
        (Some(true), _) | (None, Some(false)) => Verdict::Successful,
        (Some(false), Some(false)) | (None, None) => Verdict::Inconclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pass: Option<&str>, fail: Option<&str>) -> MetricCheck {
        let read = |text: &str| text.parse().unwrap();
        MetricCheck { pass: pass.map(read), fail: fail.map(read), ..MetricCheck::failing("m", "s", "> 0", 0) }
    }

    #[test]
    fn the_table_of_conditions() {
        assert_eq!(judge(&check(Some("< 1"), None), 2.0), Verdict::Failed);
        assert_eq!(judge(&check(Some("< 1"), None), 0.5), Verdict::Successful);
        assert_eq!(judge(&check(None, Some("> 1")), 0.5), Verdict::Successful);
        assert_eq!(judge(&check(None, Some("> 1")), 1.5), Verdict::Failed);
        assert_eq!(judge(&check(Some("< 1"), Some("> 5")), 3.0), Verdict::Inconclusive);
        assert_eq!(judge(&check(None, None), 3.0), Verdict::Inconclusive);
    }

    #[test]
    fn no_data_and_not_a_number_are_never_content() {
        let check = check(None, Some("> 5%"));
        for sample in [Sample::Empty, Sample::Value(f64::NAN), Sample::Error("500".into())] {
            let mut judge = Judge::new("backend", &check);
            for _ in 0..10 {
                judge.record(&sample);
            }
            assert!(!judge.content(), "{sample:?}");
            assert!(!judge.breached(), "{sample:?}");
            assert!(judge.blind(2), "{sample:?}");
        }
    }

    #[test]
    fn missing_data_between_two_failures_does_not_forgive_the_first() {
        let check = MetricCheck::failing("m", "s", "> 5%", 1);
        let mut judge = Judge::new("backend", &check);
        judge.record(&Sample::Value(0.2));
        judge.record(&Sample::Empty);
        judge.record(&Sample::Value(0.2));
        assert!(judge.breached());
    }
}
