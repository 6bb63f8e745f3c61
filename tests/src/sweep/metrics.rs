//! The metric sources as a case sees them: what they answered is noted, and at times they answer what is not a number.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::{Backends, Measurement, MetricQuery, MetricSource};
use moodify_core::context::CallContext;
use moodify_core::error::Result;
use moodify_core::testing::World;

use super::case::ms;

/// One answer of a metric source.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// When the answer came, from the start of the simulation.
    pub at: Duration,
    /// Which source.
    pub source: String,
    /// Which metric.
    pub metric: String,
    /// Of which service.
    pub service: String,
    /// The figure; `None` without data or without an answer.
    pub value: Option<f64>,
}

/// What all metric sources of a case answered.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Asked>>>);

impl Ledger {
    /// All of it.
    #[must_use]
    pub fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same backends, whose metric sources write into this ledger, and answer NaN between these times.
    #[must_use]
    pub fn watch(&self, mut backends: Backends, world: &World, not_a_number: Option<(u64, u64)>) -> Backends {
        for (name, source) in &mut backends.metrics {
            let inner = source.clone();
            let (name, world, ledger) = (name.clone(), world.clone(), self.clone());
            *source = Arc::new(Watched { inner, name, world, ledger, not_a_number });
        }
        backends
    }
}

#[derive(Debug)]
struct Watched {
    inner: Arc<dyn MetricSource>,
    name: String,
    world: World,
    ledger: Ledger,
    not_a_number: Option<(u64, u64)>,
}

#[async_trait]
impl MetricSource for Watched {
    fn check(&self, query: &MetricQuery) -> Result<()> {
        self.inner.check(query)
    }

    async fn query(&self, cx: &CallContext, query: &MetricQuery) -> Result<Measurement> {
        let mut answer = self.inner.query(cx, query).await;
        let at = self.world.now();
        if let (Ok(measurement), Some((from, to))) = (&mut answer, self.not_a_number)
            && ms(from) <= at
            && at < ms(to)
        {
            measurement.value = Some(f64::NAN);
        }
        let asked = Asked {
            at,
            source: self.name.clone(),
            metric: query.metric.clone(),
            service: query.target.service.name.clone(),
            value: answer.as_ref().ok().and_then(|measurement| measurement.value),
        };
        self.ledger.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        answer
    }
}
