use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, good};
use crate::backend::{MetricQuery, MetricSource};
use crate::error::ErrorKind;

/// What the suite of a [`MetricSource`] needs.
#[async_trait]
pub trait MetricHarness: Send + Sync {
    /// The one under test.
    fn source(&self) -> Arc<dyn MetricSource>;

    /// Questions with the figures that are right, of both versions of a service, that differ.
    fn known(&self) -> Vec<(MetricQuery, RangeInclusive<f64>)>;

    /// A question about something that exists but has no data.
    fn silent(&self) -> MetricQuery;

    /// A question that the source cannot answer at all, if there is one.
    fn unanswerable(&self) -> Option<MetricQuery>;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;

    /// What is asked stops answering, for good.
    async fn stop(&self);
}

/// Puts a [`MetricSource`] to its contract.
///
/// # Panics
/// If it is not kept.
pub async fn metric_source(harness: &dyn MetricHarness) {
    let (source, cx) = (harness.source(), context("measure", harness.patience()));
    for (query, right) in harness.known() {
        good("it can be asked this", source.check(&query));
        let answer = good("it answers", source.query(&cx, &query).await);
        let value = answer.value.unwrap_or_else(|| panic!("there is data for {query:?}"));
        assert!(right.contains(&value), "{} of {}: {value} is not in {right:?}", query.metric, query.track);
    }
    let silent = harness.silent();
    good("it can be asked this", source.check(&silent));
    let nothing = good("no data is no error", source.query(&cx, &silent).await);
    assert_eq!(nothing.value, None, "no data is no figure");
    if let Some(query) = harness.unanswerable() {
        let kind = source.check(&query).map_err(|e| e.kind());
        let refused = matches!(kind, Err(ErrorKind::Unsupported | ErrorKind::Invalid));
        assert!(refused, "what cannot be answered is refused beforehand: {kind:?}");
    }
    ends_with_its_context(harness.patience(), async |cx| source.query(&cx, &silent).await).await;
    harness.stop().await;
    for (query, _) in harness.known() {
        let answer = source.query(&context("measure", harness.patience()), &query).await;
        assert!(answer.is_err(), "a source that does not answer is an error and not a figure: {answer:?}");
    }
}
