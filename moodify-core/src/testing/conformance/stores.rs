use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{
    Backup, BackupState, BackupStore, CacheAdmin, FlushRequest, IncidentStatus, IncidentUpdate, RestoreRequest,
    StatusPage,
};
use crate::error::ErrorKind;

/// Puts a [`BackupStore`] to its contract, in which a backup is complete within `patience`. Leaves a restored target
/// behind, with `conformance` in its name, if the store can restore.
///
/// # Panics
/// If it is not kept.
pub async fn backup_store(store: &dyn BackupStore, patience: Duration) {
    let (cx, can) = (context("backup", patience), store.capabilities());
    let nothing = good("there is no such backup", store.describe(&cx, "conformance-none").await);
    assert_eq!(nothing, None);
    good("deleting what never existed is fine, or unsupported", deleted(store, &cx, "conformance-none").await);
    ends_with_its_context(patience, async |cx| store.list(&cx).await).await;
    if !can.create {
        fails("it cannot make backups", ErrorKind::Unsupported, store.create(&cx).await);
        return;
    }
    let made = good("a backup can be begun", store.create(&cx).await);
    let again = good("beginning again is fine", store.create(&cx).await);
    assert_eq!(again.id, made.id, "the same key is the same backup");
    if made.state != BackupState::Available {
        let early = store.verify(&cx, &made.id).await;
        assert!(early.is_err() || available(store, &made.id, patience).await, "an incomplete backup is not verified");
    }
    while !available(store, &made.id, patience).await {
        assert!(!cx.remaining().is_zero(), "a backup is complete in time");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let verified = good("a complete backup can be verified", store.verify(&cx, &made.id).await);
    assert_eq!(verified.id, made.id);
    let second = good("another one can be begun", store.create(&context("second", patience)).await);
    assert_ne!(second.id, made.id, "another key is another backup");
    let all = good("backups can be listed", store.list(&cx).await);
    let place = |backup: &Backup| all.iter().position(|other| other.id == backup.id);
    assert!(place(&second).is_some() && place(&second) < place(&made), "all are listed, newest first: {all:?}");
    if can.restore {
        let request = RestoreRequest::new(&made.id, "conformance-restored");
        good("it can be restored", store.restore(&cx, &request).await);
        let other = store.restore(&context("another restore", patience), &request).await;
        fails("what exists is not overwritten", ErrorKind::AlreadyExists, other);
    } else {
        let request = RestoreRequest::new(&made.id, "conformance-restored");
        fails("it cannot restore", ErrorKind::Unsupported, store.restore(&cx, &request).await);
    }
    if can.delete {
        for backup in [&made, &second] {
            good("it can be deleted", store.delete(&cx, &backup.id).await);
            assert_eq!(good("it is gone", store.describe(&cx, &backup.id).await), None);
            good("deleting again is fine", store.delete(&cx, &backup.id).await);
        }
        assert!(store.verify(&cx, &made.id).await.is_err(), "what is gone is not verified");
    }
}

async fn deleted(store: &dyn BackupStore, cx: &crate::CallContext, id: &str) -> crate::Result<()> {
    match store.delete(cx, id).await {
        Err(e) if e.kind() == ErrorKind::Unsupported && !store.capabilities().delete => Ok(()),
        result => result,
    }
}

async fn available(store: &dyn BackupStore, id: &str, patience: Duration) -> bool {
    let backup = good("a backup can be described", store.describe(&context("describe", patience), id).await);
    backup.is_some_and(|backup| backup.state == BackupState::Available)
}

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
