use std::time::Duration;

use super::{context, fails, good};
use crate::backend::{Backup, BackupRequest, BackupStore, BackupStoreExt, LiveRestoreRequest, RestoreState, Restored};
use crate::error::ErrorKind;

const NONE: &str = "conformance-none";

/// What restores into the database itself, from a verified backup; what cannot says so.
pub(super) async fn live_restore(store: &dyn BackupStore, made: &Backup, patience: Duration) {
    let cx = context("restore live", patience);
    let request = LiveRestoreRequest::agreed;
    if !store.capabilities().live {
        let refused = store.restore_live(&cx, &request(&made.id, NONE)).await;
        fails("it restores into new databases only", ErrorKind::Unsupported, refused);
        return;
    }
    let before = context("restore live/before", patience);
    let before = good("what is there can be backed up", store.create(&before, &BackupRequest::new()).await);
    good("it is complete in time", store.wait_available(&cx, &before.id, &|_| ()).await);
    good("it can be verified", store.verify(&cx, &before.id).await);
    for (backup, before) in [(NONE, before.id.as_str()), (&made.id, NONE)] {
        let refused = store.restore_live(&cx, &request(backup, before)).await;
        fails("one of the backups is not there", ErrorKind::NotFound, refused);
    }
    let same = store.restore_live(&cx, &request(&made.id, &made.id)).await;
    fails("what is restored is not the way back", ErrorKind::Invalid, same);

    let seen = std::sync::Mutex::new(Vec::new());
    let look = |restored: &Restored| seen.lock().expect("nobody panics with it").push(restored.state.clone());
    // Whoever asked first does not hear the answer.
    let wanted = request(&made.id, &before.id);
    drop(tokio::time::timeout(Duration::from_millis(50), store.restore_live(&cx, &wanted)).await);
    let restored = good("it can be restored", store.wait_restored_live(&cx, &wanted, &look).await);
    assert_eq!(restored.state, RestoreState::Available);
    assert_eq!(seen.lock().expect("nobody panics with it").last(), Some(&RestoreState::Available));
    assert_eq!(good("restoring again finds it", store.restore_live(&cx, &wanted).await), restored);
    let another = store.restore_live(&cx, &request(&before.id, &made.id)).await;
    fails("one key is one restore", ErrorKind::AlreadyExists, another);
}
