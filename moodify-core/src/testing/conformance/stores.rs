use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{CacheAdmin, FlushRequest};
use crate::error::ErrorKind;

/// What the suite of a [`CacheAdmin`] needs.
#[async_trait]
pub trait CacheHarness: Send + Sync {
    /// The one under test.
    fn cache(&self) -> Arc<dyn CacheAdmin>;

    /// The name that must be typed to flush it.
    fn name(&self) -> String;

    /// How many keys are in it. All of them will be deleted, if it can flush.
    fn keys(&self) -> u64;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts a [`CacheAdmin`] to its contract. Flushes the cache.
///
/// # Panics
/// If it is not kept.
pub async fn cache_admin(harness: &dyn CacheHarness) {
    let (cache, keys) = (harness.cache(), harness.keys());
    let (cx, can) = (context("cache", harness.patience()), cache.capabilities());
    if can.data {
        good("it answers", cache.ping(&cx).await);
        let info = good("it can be described", cache.info(&cx).await);
        assert_eq!(info.keys, keys, "keys are counted");
        assert!(info.hit_rate.is_none_or(|rate| (0.0..=1.0).contains(&rate)), "a fraction of one: {info:?}");
    }
    if !can.flush {
        let request = FlushRequest::confirmed(&harness.name());
        fails("it cannot flush", ErrorKind::Unsupported, cache.flush(&cx, &request).await);
        return;
    }
    let count = good("keys can be counted", cache.flush(&cx, &FlushRequest::dry_run()).await);
    assert_eq!(count, keys, "a dry run counts");
    let wrong = FlushRequest::confirmed(&format!("{}-not", harness.name()));
    fails("another name was typed", ErrorKind::Refused, cache.flush(&cx, &wrong).await);
    let unnamed = FlushRequest::confirmed("");
    fails("no name was typed", ErrorKind::Refused, cache.flush(&cx, &unnamed).await);
    let right = FlushRequest::confirmed(&harness.name());
    let count = good("it can be flushed", cache.flush(&cx, &right).await);
    assert_eq!(count, keys, "nothing was deleted before");
    assert_eq!(good("flushing again is fine", cache.flush(&cx, &right).await), 0);
    ends_with_its_context(harness.patience(), async |cx| cache.info(&cx).await).await;
}
