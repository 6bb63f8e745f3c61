use std::time::Duration;

use super::live_restore::live_restore;
use super::{context, ends_with_its_context, fails, good, run};
use crate::backend::{
    Backup, BackupRequest, BackupState, BackupStore, BackupStoreExt, DeleteRequest, Endpoint, RestorePoint,
    RestoreRequest, RestoreState,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};

const NONE: &str = "conformance-none";
const RESTORED: &str = "conformance-restored";
const HASTY: &str = "conformance-hasty";

/// How often it is looked whether what was discarded comes to light later, and how long it is waited between.
const LOOKS: usize = 6;
const BETWEEN: Duration = Duration::from_millis(500);

/// Puts a [`BackupStore`] to its contract, in which a backup and a restore are complete within `patience`. What it
/// makes it deletes and discards, if the store can.
///
/// # Panics
/// If it is not kept.
pub async fn backup_store(store: &dyn BackupStore, patience: Duration) {
    let (cx, can) = (context("backup", patience), store.capabilities());
    assert_eq!(good("there is no such backup", store.describe(&cx, NONE).await), None);
    fails("what is not there is not verified", ErrorKind::Unhealthy, store.verify(&cx, NONE).await);
    good("deleting what never existed is fine, or unsupported", deleted(store, &cx, NONE).await);
    ends_with_its_context(patience, async |cx| store.list(&cx).await).await;
    let request = BackupRequest::new().label("plan", "conformance");
    if !can.create {
        fails("it cannot make backups", ErrorKind::Unsupported, store.create(&cx, &request).await);
        return;
    }
    // Whoever asked first does not hear the answer.
    drop(tokio::time::timeout(Duration::from_millis(50), store.create(&cx, &request)).await);
    let made = good("a backup can be begun", store.create(&cx, &request).await);
    let again = good("beginning again is fine", store.create(&cx, &request).await);
    assert_eq!(again.id, made.id, "the same key is the same backup");
    if made.state != BackupState::Available {
        let early = store.verify(&cx, &made.id).await;
        assert!(early.is_err() || available(store, &made.id, patience).await, "an incomplete backup is not verified");
    }
    let complete = good("a backup is complete in time", store.wait_available(&cx, &made.id, &|_| ()).await);
    assert_eq!((&complete.id, &complete.state), (&made.id, &BackupState::Available));
    let verified = good("a complete backup can be verified", store.verify(&cx, &made.id).await);
    assert_eq!(verified.id, made.id);
    assert_eq!(verified.run, Some(run()), "it says which run made it");
    let late = store.wait_available(&context("wait", patience), NONE, &|_| ()).await;
    fails("nobody waits for what is not there", ErrorKind::NotFound, late);

    let second = good("another one can be begun", store.create(&context("second", patience), &request).await);
    assert_ne!(second.id, made.id, "another key is another backup");
    good("it is complete in time", store.wait_available(&cx, &second.id, &|_| ()).await);
    let all = good("backups can be listed", store.list(&cx).await);
    let place = |backup: &Backup| all.iter().position(|other| other.id == backup.id);
    assert!(place(&second).is_some() && place(&second) < place(&made), "all are listed, newest first: {all:?}");
    let ours = all.iter().filter(|backup| backup.run == Some(run())).count();
    assert_eq!(ours, 2, "one a key, and none more: {all:?}");

    restores(store, &made, patience).await;
    live_restore(store, &made, patience).await;
    if can.delete {
        for backup in [&made, &second] {
            good("it can be deleted", deleted(store, &cx, &backup.id).await);
            assert_eq!(good("it is gone", store.describe(&cx, &backup.id).await), None);
            good("deleting again is fine", deleted(store, &cx, &backup.id).await);
        }
        fails("what is gone is not verified", ErrorKind::Unhealthy, store.verify(&cx, &made.id).await);
    }
}

async fn restores(store: &dyn BackupStore, made: &Backup, patience: Duration) {
    let (cx, other) = (context("restore", patience), context("another restore", patience));
    let request = RestoreRequest::new(&made.id, RESTORED);
    if !store.capabilities().point_in_time {
        let then = RestoreRequest::from(RestorePoint::Time(jiff::Timestamp::UNIX_EPOCH), RESTORED);
        fails("it knows no points in time", ErrorKind::Unsupported, store.restore(&cx, &then).await);
    }
    if !store.capabilities().restore {
        fails("it cannot restore", ErrorKind::Unsupported, store.restore(&cx, &request).await);
        return;
    }
    good("what is not there is discarded", store.wait_discarded(&cx, RESTORED).await);
    assert!(!good("nothing has that name", store.target_exists(&cx, RESTORED).await));
    let missing = RestoreRequest::new(NONE, RESTORED);
    fails("there is no such backup", ErrorKind::NotFound, store.restore(&cx, &missing).await);
    let restored = good("it can be restored", store.wait_restored(&cx, &request, &|_| ()).await);
    assert_eq!((restored.target.as_str(), &restored.state), (RESTORED, &RestoreState::Available));
    let endpoint = restored.endpoint.as_deref().and_then(|endpoint| endpoint.parse::<Endpoint>().ok());
    assert_eq!(endpoint.map(|endpoint| endpoint.kind()), Some(store.capabilities().endpoint), "{restored:?}");
    assert_eq!(good("restoring again finds it", store.restore(&cx, &request).await), restored);
    assert!(good("the name is taken now", store.target_exists(&other, RESTORED).await));
    fails("what exists is not overwritten", ErrorKind::AlreadyExists, store.restore(&other, &request).await);
    fails("another's is not discarded", ErrorKind::Refused, store.discard(&other, RESTORED).await);
    assert_eq!(good("it is still there", store.restore(&cx, &request).await), restored);
    good("it can be discarded", store.wait_discarded(&cx, RESTORED).await);
    assert!(good("it is gone", store.discard(&cx, RESTORED).await));
    assert!(!good("the name is free again", store.target_exists(&other, RESTORED).await));
    assert!(good("for everybody", store.discard(&other, RESTORED).await));
    discarded_at_once(store, made, patience).await;
}

/// A provider may show what it makes only after a while: that nothing is to be seen does not mean that nothing is there.
async fn discarded_at_once(store: &dyn BackupStore, made: &Backup, patience: Duration) {
    let cx = context("hasty", patience);
    let begun = good("it can be begun", store.restore(&cx, &RestoreRequest::new(&made.id, HASTY)).await);
    assert_eq!(begun.target, HASTY);
    good("and discarded at once", store.wait_discarded(&cx, HASTY).await);
    for _ in 0..LOOKS {
        assert!(!good("nothing has that name", store.target_exists(&cx, HASTY).await), "it came to light later");
        tokio::time::sleep(BETWEEN).await;
    }
    assert!(good("and nothing is left to do", store.discard(&cx, HASTY).await));
}

async fn deleted(store: &dyn BackupStore, cx: &CallContext, id: &str) -> Result<()> {
    match store.delete(cx, &DeleteRequest::confirmed(id, id)?).await {
        Err(e) if e.kind() == ErrorKind::Unsupported && !store.capabilities().delete => Ok(()),
        result => result,
    }
}

async fn available(store: &dyn BackupStore, id: &str, patience: Duration) -> bool {
    let backup = good("a backup can be described", store.describe(&context("describe", patience), id).await);
    backup.is_some_and(|backup| backup.state == BackupState::Available)
}
