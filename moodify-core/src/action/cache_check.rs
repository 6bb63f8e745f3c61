use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Action, CheckContext, Observed, StepContext, cache};
use crate::backend::CacheInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;

/// Asks a cache until it is as it should be; a step's retries and deadline say how often and how long.
#[derive(Debug)]
pub(super) struct CheckCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
    /// Hits of all look-ups, as a fraction of one.
    #[schemars(range(min = 0.0, max = 1.0))]
    hit_rate_at_least: Option<f64>,
    /// The time in which look-ups are counted; those since the nodes began if it is left out.
    measured_for: Option<Period>,
    /// Memory of the node that is fullest, as a fraction of its limit.
    #[schemars(range(min = 0.0, max = 1.0))]
    memory_at_most: Option<f64>,
}

impl Params {
    /// What is not as it should be. No data is not health.
    fn judge(&self, info: &CacheInfo, hit_rate: Option<f64>) -> Result<(), (ErrorKind, String)> {
        match (self.hit_rate_at_least, hit_rate) {
            (Some(_), None) => return Err((ErrorKind::Inconclusive, "nothing was looked up".to_owned())),
            (Some(least), Some(rate)) if rate < least => {
                return Err((
                    ErrorKind::Unhealthy,
                    format!("the hit rate is {rate:.3}, and should be at least {least}"),
                ));
            }
            _ => {}
        }
        match (self.memory_at_most, info.memory_share()) {
            (Some(_), None) => Err((ErrorKind::Inconclusive, "no node has a limit to its memory".to_owned())),
            (Some(most), Some(share)) if share > most => {
                Err((ErrorKind::Unhealthy, format!("{share:.3} of the memory is in use, and should be at most {most}")))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Action for CheckCache {
    type Params = Params;
    type Output = CacheInfo;

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, params: &Params) -> Option<Duration> {
        Some(Duration::from_secs(120) + params.measured_for.unwrap_or_default().get())
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let mut wrong = Vec::new();
        wrong.extend(cache::check(cx, &params.cache, "be asked", |_| true).err());
        let fractions = [("hit-rate-at-least", params.hit_rate_at_least), ("memory-at-most", params.memory_at_most)];
        for (name, value) in fractions.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            if !(0.0..=1.0).contains(&value) {
                let message = format!("{name} is {value}, and should be a fraction of one");
                wrong.push(
                    Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()),
                );
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<CacheInfo> {
        let admin = cache::admin(cx, &params.cache)?;
        admin.ping(&cx.call()?).await?;
        let mut info = admin.info(&cx.call()?).await?;
        let mut hit_rate = info.hit_rate();
        if let Some(period) = params.measured_for {
            tokio::time::sleep(period.get()).await;
            let now = admin.info(&cx.call()?).await?;
            hit_rate = now.hit_rate_since(&info);
            info = now;
        }
        params.judge(&info, hit_rate).map(|()| info).map_err(|(kind, problem)| {
            Error::new(kind, "engine", "check the cache", problem).on(params.cache.as_str()).transient(true)
        })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<CacheInfo>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&CacheInfo>) -> Result<()> {
        Ok(())
    }
}
