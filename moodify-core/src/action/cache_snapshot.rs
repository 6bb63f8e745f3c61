use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Action, CheckContext, Observed, StepContext, cache};
use crate::backend::CacheSnapshot;
use crate::error::{Error, Result};

/// Lets every primary of a cache write its keys to its disk, and waits until all have. Undone, the snapshots are kept.
#[derive(Debug)]
pub(super) struct SnapshotCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
}

#[async_trait]
impl Action for SnapshotCache {
    type Params = Params;
    /// One of each primary.
    type Output = Vec<CacheSnapshot>;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(cache::ALL_KEYS)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        cache::check(cx, &params.cache, "make snapshots", |can| can.snapshot).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<Vec<CacheSnapshot>> {
        let made = cache::admin(cx, &params.cache)?.snapshot(&cx.call()?).await?;
        for of in &made {
            cx.note(format!("snapshot of {} complete at {}: {} keys; {}", of.node, of.completed, of.keys, of.dump));
        }
        Ok(made)
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<Vec<CacheSnapshot>>> {
        // One that was begun before may not have the last writes.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&Vec<CacheSnapshot>>) -> Result<()> {
        Ok(())
    }
}
