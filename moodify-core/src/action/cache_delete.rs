use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::{Action, CheckContext, Observed, StepContext, cache};
use crate::backend::{DeleteKeys, DeletedKeys, KEYS_A_PAGE, KeyPattern};
use crate::error::{Error, Result};

/// Deletes the keys of a pattern. What is gone comes back as it is asked for, so undoing it does nothing.
#[derive(Debug)]
pub(super) struct DeleteFromCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
    /// Which keys.
    pattern: KeyPattern,
    /// The most keys a second; as fast as the cache can if it is left out.
    keys_per_second: Option<NonZeroU32>,
    /// How many keys each node looks at in one request.
    #[serde(default = "page")]
    page: NonZeroU32,
}

fn page() -> NonZeroU32 {
    KEYS_A_PAGE
}

#[async_trait]
impl Action for DeleteFromCache {
    type Params = Params;
    type Output = DeletedKeys;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(cache::ALL_KEYS)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        cache::check(cx, &params.cache, "delete keys by pattern", |can| can.delete).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<DeletedKeys> {
        let mut request = DeleteKeys::matching(params.pattern.clone()).page(params.page);
        request.keys_per_second = params.keys_per_second;
        let (admin, call, done) = (cache::admin(cx, &params.cache)?, cx.call()?, watch::Sender::new(0));
        let delete = admin.delete_matching(&call, &request, &done);
        let keys = cache::telling(cx, &done, "found", delete).await?;
        cx.note(format!("{} keys of {} deleted that match {}", keys.deleted, params.cache, params.pattern));
        Ok(keys)
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<DeletedKeys>> {
        // What is gone is not deleted twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&DeletedKeys>) -> Result<()> {
        Ok(())
    }
}
