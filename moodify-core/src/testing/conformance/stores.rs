use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{CacheAdmin, FlushRequest, IncidentStatus, IncidentUpdate, StatusPage};
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

/// Puts a [`StatusPage`] to its contract. Leaves two resolved incidents behind.
///
/// # Panics
/// If it is not kept.
pub async fn status_page(page: &dyn StatusPage, patience: Duration) {
    let update = |status, message: &str| IncidentUpdate { status, message: message.to_owned() };
    let first = update(IncidentStatus::Investigating, "conformance: a deployment begins");
    let (cx, second) = (context("incident", patience), context("another incident", patience));
    assert_eq!(good("nothing is open", page.find(&cx).await), None);
    let opened = good("an incident can be opened", page.open(&cx, &first).await);
    assert_eq!((opened.status, &opened.message), (first.status, &first.message));
    let again = good("opening again is fine", page.open(&cx, &first).await);
    assert_eq!(again.id, opened.id, "the same key is the same incident");
    assert_eq!(good("it is found", page.find(&cx).await).map(|i| i.id).as_ref(), Some(&opened.id));
    assert_eq!(good("not under another key", page.find(&second).await), None);
    let other = good("another can be opened", page.open(&second, &first).await);
    assert_ne!(other.id, opened.id, "another key is another incident");

    let monitoring = update(IncidentStatus::Monitoring, "conformance: it is watched");
    for promise in ["it can be updated", "the same update again is fine"] {
        let updated = good(promise, page.update(&cx, &opened.id, &monitoring).await);
        assert_eq!((updated.status, &updated.message), (monitoring.status, &monitoring.message));
    }
    let found = good("it is found", page.find(&cx).await);
    assert_eq!(found.map(|incident| incident.status), Some(IncidentStatus::Monitoring));
    let none = page.update(&cx, "conformance-none", &monitoring).await;
    fails("there is none of that id", ErrorKind::NotFound, none);

    let resolved = update(IncidentStatus::Resolved, "conformance: it is over");
    for (cx, incident) in [(&cx, &opened), (&second, &other)] {
        good("it can be resolved", page.update(cx, &incident.id, &resolved).await);
        assert_eq!(good("what is resolved is not open", page.find(cx).await), None);
    }
    ends_with_its_context(patience, async |cx| page.find(&cx).await).await;
}
