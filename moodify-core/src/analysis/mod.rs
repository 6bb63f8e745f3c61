//! Is the new version well? Pure decisions over measurements; what asks and waits is [`action`](crate::action).
//!
//! Verdicts have an order, and the worst wins: `Successful < Inconclusive < Error < Failed`. No data is never success.

mod condition;
mod judge;
mod spec;

pub use condition::{Comparison, Condition};
pub use judge::{Judge, MetricStatus, Sample, Verdict};
pub use spec::{Analysis, MetricCheck, NoData, NoDataThen, metrics, sources};
