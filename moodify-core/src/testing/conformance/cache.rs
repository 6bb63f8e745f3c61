use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{
    CacheAdmin, CacheEntry, CacheInfo, CacheRole, DeleteKeys, DeletedKeys, FailoverRequest, FlushRequest, WarmRequest,
    Warmed,
};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;

/// What the suite of a [`CacheAdmin`] needs.
#[async_trait]
pub trait CacheHarness: Send + Sync {
    /// The one under test, set up as one of production.
    fn cache(&self) -> Arc<dyn CacheAdmin>;

    /// The name that must be typed to flush it.
    fn name(&self) -> String;

    /// How many keys are in it, none of which begins with `conformance`. All of them will be deleted, if it can flush.
    fn keys(&self) -> u64;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts a [`CacheAdmin`] to its contract. Flushes the cache, and lets its first primary fail over.
///
/// # Panics
/// If it is not kept.
pub async fn cache_admin(harness: &dyn CacheHarness) {
    let (cache, patience) = (harness.cache(), harness.patience());
    is_described(harness, cache.as_ref()).await;
    writes_and_deletes(cache.as_ref(), harness.keys(), patience).await;
    snapshots(cache.as_ref(), patience).await;
    fails_over(cache.as_ref(), patience).await;
    flushes(harness, cache.as_ref()).await;
    ends_with_its_context(patience, async |cx| cache.info(&cx).await).await;
    let pattern = || DeleteKeys::matching("conformance-none".parse().expect("a pattern"));
    ends_with_its_context(patience, async |cx| cache.delete_matching(&cx, &pattern(), &unheard()).await).await;
    ends_with_its_context(patience, async |cx| cache.snapshot(&cx).await).await;
}

async fn is_described(harness: &dyn CacheHarness, cache: &dyn CacheAdmin) {
    let cx = context("cache", harness.patience());
    good("it answers", cache.ping(&cx).await);
    let info = good("it can be described", cache.info(&cx).await);
    assert_eq!(info.keys(), harness.keys(), "keys are counted once: {info:?}");
    assert!(info.hit_rate().is_none_or(|rate| (0.0..=1.0).contains(&rate)), "a fraction of one: {info:?}");
    assert!(info.used_memory() > 0 && info.clients() > 0 && !info.engine.is_empty(), "{info:?}");
    assert_eq!(info.nodes[0].role, CacheRole::Primary, "primaries come first: {info:?}");
    let primaries: Vec<&str> = info.primaries().map(|node| node.address.as_str()).collect();
    let is_primary = |node: &str| primaries.contains(&node);

    let clients = good("it says who is connected", cache.clients(&cx).await);
    assert!(!clients.is_empty() && clients.iter().all(|client| is_primary(&client.node)), "{clients:?}");
    assert!(clients.iter().all(|client| client.idle <= client.connected), "{clients:?}");
    let slow = good("it says what was slow", cache.slow_log(&cx, 3).await);
    assert!(slow.len() <= 3 * primaries.len() && slow.iter().all(|slow| is_primary(&slow.node)), "{slow:?}");
    assert!(slow.iter().all(|slow| !slow.command.contains(' ')), "commands without arguments: {slow:?}");
    let pings = NonZeroU32::new(5).expect("5 is not zero");
    let latency = good("its latency can be measured", cache.latency(&cx, pings).await);
    assert_eq!(latency.len(), primaries.len(), "{latency:?}");
    for of in &latency {
        assert!(is_primary(&of.node) && of.pings == 5, "{of:?}");
        assert!(of.min <= of.median && of.median <= of.max && of.max > Period::ZERO, "{of:?}");
    }
}

fn unheard() -> watch::Sender<u64> {
    watch::Sender::new(0)
}

fn entries(names: impl Iterator<Item = String>) -> BoxStream<'static, Result<CacheEntry>> {
    let entry = |name: String| CacheEntry::new(name, "value").ttl(Period::from_mins(60));
    stream::iter(names.map(entry).map(Ok).collect::<Vec<_>>()).boxed()
}

fn names(prefix: &'static str, count: u32) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("conformance:{prefix}:{n}"))
}

async fn delete(cache: &dyn CacheAdmin, cx: &CallContext, pattern: &str, page: u32) -> Result<DeletedKeys> {
    let page = NonZeroU32::new(page).expect("pages are not empty");
    let request = DeleteKeys::matching(pattern.parse().expect("a pattern")).page(page);
    let counted = cache.delete_matching(cx, &request.clone().dry_run(), &unheard()).await?;
    assert_eq!(counted.deleted, 0, "a dry run deletes nothing");
    let done = unheard();
    let deleted = cache.delete_matching(cx, &request, &done).await?;
    assert!(counted.found >= deleted.deleted && deleted.found >= deleted.deleted, "{counted:?}, {deleted:?}");
    assert_eq!(*done.borrow(), deleted.found, "progress is told to the end");
    Ok(deleted)
}

async fn writes_and_deletes(cache: &dyn CacheAdmin, before: u64, patience: Duration) {
    let (cx, can) = (context("keys", patience), cache.capabilities());
    let keys = async || good("it can be described", cache.info(&cx).await).keys();
    if !can.warm {
        let warmed = cache.warm(&cx, entries(names("a", 1)), &WarmRequest::new(), &unheard()).await;
        fails("it cannot warm", ErrorKind::Unsupported, warmed);
    }
    if !can.delete {
        fails("it cannot delete keys", ErrorKind::Unsupported, delete(cache, &cx, "conformance:*", 10).await);
    }
    if !(can.warm && can.delete) {
        return;
    }
    let page = WarmRequest::new().page(NonZeroU32::new(64).expect("64 is not zero"));
    let both = || entries(names("a", 150).chain(names("b", 150)));
    let first = good("entries are written", cache.warm(&cx, entries(names("a", 100)), &page, &unheard()).await);
    assert_eq!(first, Warmed { written: 100, present: 0, unsure: 0 });
    let second = good("the rest is written", cache.warm(&cx, both(), &page, &unheard()).await);
    assert_eq!(second, Warmed { written: 200, present: 100, unsure: 0 }, "what is there is left as it is");
    assert_eq!(keys().await, before + 300);
    let broken = stream::once(async { Err(Error::new(ErrorKind::Corrupt, "conformance", "read", "line 7")) }).boxed();
    let broken = cache.warm(&cx, broken, &page, &unheard()).await;
    fails("what cannot be read is told", ErrorKind::Corrupt, broken);

    let none = good("none need match", delete(cache, &cx, "conformance:c:*", 10).await);
    assert_eq!(none.deleted, 0);
    let one = good("a whole name is a pattern", delete(cache, &cx, "conformance:a:7", 10).await);
    assert_eq!(one.deleted, 1);
    let deleted = good("keys are deleted by pattern", delete(cache, &cx, "conformance:a:*", 10).await);
    assert_eq!((deleted.deleted, keys().await), (149, before + 150), "all that match, and no others");
    let slowly = DeleteKeys::matching("conformance:b:*".parse().expect("a pattern"));
    let slowly = slowly.page(NonZeroU32::MIN).keys_per_second(NonZeroU32::new(1_000_000).expect("not zero"));
    let deleted = good("with pages of one, too", cache.delete_matching(&cx, &slowly, &unheard()).await);
    assert_eq!((deleted.deleted, keys().await), (150, before));
}

async fn snapshots(cache: &dyn CacheAdmin, patience: Duration) {
    let cx = context("snapshot", patience);
    if !cache.capabilities().snapshot {
        fails("it cannot make snapshots", ErrorKind::Unsupported, cache.snapshot(&cx).await);
        return;
    }
    let info = good("it can be described", cache.info(&cx).await);
    let first = good("a snapshot can be made", cache.snapshot(&cx).await);
    let mut nodes: Vec<&str> = first.iter().map(|of| of.node.as_str()).collect();
    let mut primaries: Vec<&str> = info.primaries().map(|node| node.address.as_str()).collect();
    nodes.sort_unstable();
    primaries.sort_unstable();
    assert_eq!(nodes, primaries, "one of each primary");
    assert!(first.iter().map(|of| of.keys).sum::<u64>() >= info.keys(), "{first:?}");
    let (one, other) = tokio::join!(cache.snapshot(&cx), cache.snapshot(&cx));
    for later in [good("two at once", one), good("are fine", other)] {
        for of in &later {
            let before = first.iter().find(|before| before.node == of.node);
            assert!(before.is_some_and(|before| of.completed >= before.completed), "{first:?}, then {later:?}");
        }
    }
}

async fn fails_over(cache: &dyn CacheAdmin, patience: Duration) {
    let cx = context("failover", patience);
    let primary = |info: &CacheInfo| info.nodes[0].address.clone();
    let info = good("it can be described", cache.info(&cx).await);
    let request = FailoverRequest::from_primary(&primary(&info));
    if !cache.capabilities().failover {
        fails("nobody can take over", ErrorKind::Unsupported, cache.failover(&cx, &request).await);
        return;
    }
    let none = FailoverRequest::from_primary("192.0.2.1:1");
    fails("there is no such node", ErrorKind::NotFound, cache.failover(&cx, &none).await);
    let over = good("another node takes over", cache.failover(&cx, &request).await);
    assert_eq!(over.from, request.from);
    let after = good("it can be described", cache.info(&cx).await);
    let primaries: Vec<&str> = after.primaries().map(|node| node.address.as_str()).collect();
    assert!(primaries.contains(&over.to.as_str()) && !primaries.contains(&over.from.as_str()), "{over:?}, {after:?}");
    assert_eq!(after.keys(), info.keys(), "no key is lost");
    let again = good("asking again is fine", cache.failover(&cx, &request).await);
    assert_eq!(again, over, "it is done once");
}

async fn flushes(harness: &dyn CacheHarness, cache: &dyn CacheAdmin) {
    let (cx, keys) = (context("flush", harness.patience()), harness.keys());
    let right = || FlushRequest::confirmed(&harness.name()).in_production();
    if !cache.capabilities().flush {
        fails("it cannot flush", ErrorKind::Unsupported, cache.flush(&cx, &right()).await);
        return;
    }
    let count = good("keys can be counted", cache.flush(&cx, &FlushRequest::dry_run()).await);
    assert_eq!(count, keys, "a dry run counts");
    let wrong = FlushRequest::confirmed(&format!("{}-not", harness.name())).in_production();
    fails("another name was typed", ErrorKind::Refused, cache.flush(&cx, &wrong).await);
    let unnamed = FlushRequest::confirmed("").in_production();
    fails("no name was typed", ErrorKind::Refused, cache.flush(&cx, &unnamed).await);
    let careless = FlushRequest::confirmed(&harness.name());
    fails("production was not meant", ErrorKind::Refused, cache.flush(&cx, &careless).await);
    let few = right().at_most(keys.saturating_sub(1));
    if keys > 0 {
        fails("there are more keys than are meant", ErrorKind::Refused, cache.flush(&cx, &few).await);
    }
    let count = good("it can be flushed", cache.flush(&cx, &right().at_most(keys)).await);
    assert_eq!(count, keys, "nothing was deleted before");
    assert_eq!(good("flushing again is fine", cache.flush(&cx, &right()).await), 0);
}
