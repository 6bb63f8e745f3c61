//! Artifacts in a local directory: the contract, and what becomes of uploads that break off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use moodify_core::artifacts::ArtifactDirectory;
use moodify_core::backend::{ArtifactStore, ArtifactStoreExt, Checkpoint, PutRequest, Sum, content_of};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::testing::conformance;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};

const MIB: u64 = 1 << 20;

fn cx() -> CallContext {
    CallContext::by_hand("artifacts", Duration::from_secs(60))
}

/// So many MiB, in which no two are alike.
fn content(mib: u64) -> BoxStream<'static, Result<Bytes>> {
    stream::iter(0..mib).map(|n: u64| Ok(Bytes::from(n.to_be_bytes().repeat(128 << 10)))).boxed()
}

async fn sum(mib: u64) -> Sum {
    Sum::of_content(content(mib)).await.unwrap()
}

/// The names of what is not whole.
fn uploads(dir: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir.path().join(".uploads")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Breaks off an upload of 40 MiB after 27; returns the last checkpoint, as it would be kept in a file.
async fn broken_off(store: &ArtifactDirectory) -> String {
    let last = Arc::new(Mutex::new(None));
    let seen = last.clone();
    let request = PutRequest::new("large").size(40 * MIB);
    let request = request.watched(move |progress| seen.lock().unwrap().clone_from(&progress.checkpoint));
    let broken = Error::new(ErrorKind::Unavailable, "test", "read", "the network is gone");
    let error = store.put(&cx(), &request, content(27).chain(stream::iter([Err(broken)])).boxed()).await.unwrap_err();
    assert_eq!((error.message(), error.effect_of()), ("the network is gone", Effect::None));
    let checkpoint: Checkpoint = last.lock().unwrap().take().unwrap();
    serde_json::to_string(&checkpoint).unwrap()
}

fn resumed(checkpoint: &str) -> PutRequest {
    PutRequest::new("large").resume(serde_json::from_str(checkpoint).unwrap())
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path().join("new/artifacts")).unwrap();
    conformance::artifact_store(&store, Duration::from_secs(60)).await;
    let left: Vec<_> = std::fs::read_dir(dir.path().join("new/artifacts")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the directory of uploads: {left:?}");
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    let checkpoint = broken_off(&store).await;
    assert_eq!((uploads(&dir).len(), store.list(&cx(), "").await.unwrap()), (1, vec![]));
    // What a crash may leave behind the checkpoint is cut off.
    std::fs::write(&uploads(&dir)[0], [std::fs::read(&uploads(&dir)[0]).unwrap(), b"torn".to_vec()].concat()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let request = resumed(&checkpoint).watched(move |progress| seen.lock().unwrap().push(progress.stored / MIB));
    let artifact = store.put(&cx(), &request, content(40)).await.unwrap();
    assert!(artifact.is(sum(40).await), "{artifact}");
    assert_eq!(*told.lock().unwrap(), [32, 40, 40], "what was there was not written again");
    assert_eq!(uploads(&dir), [] as [std::path::PathBuf; 0]);
    assert_eq!(store.verify(&cx(), "large").await.unwrap().unwrap(), artifact);
}

#[tokio::test]
async fn an_upload_goes_on_with_the_same_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    for other in [content(40).map_ok(|piece| piece.slice(8..)).boxed(), content(10), content(0)] {
        let checkpoint = broken_off(&store).await;
        let error = store.put(&cx(), &resumed(&checkpoint), other).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
        assert_eq!((store.head(&cx(), "large").await.unwrap(), uploads(&dir).len()), (None, 0));
    }
    // What was damaged or removed meanwhile is written anew.
    for damage in [|path| std::fs::remove_file(path).unwrap(), |path| std::fs::write(path, vec![0; 24 << 20]).unwrap()]
        as [fn(&std::path::Path); 2]
    {
        let checkpoint = broken_off(&store).await;
        damage(&uploads(&dir)[0]);
        let artifact = store.put(&cx(), &resumed(&checkpoint).replace(), content(40)).await.unwrap();
        assert!(artifact.is(sum(40).await), "{artifact}");
        store.delete(&cx(), "large").await.unwrap();
        for path in uploads(&dir) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test]
async fn what_nobody_goes_on_with_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    broken_off(&store).await;
    let old = std::fs::File::options().append(true).open(&uploads(&dir)[0]).unwrap();
    old.set_modified(SystemTime::from(SystemClock.now()) - Duration::from_secs(8 * 24 * 3600)).unwrap();
    store.write(&cx(), "x", "y".into()).await.unwrap();
    assert_eq!(uploads(&dir), [] as [std::path::PathBuf; 0], "after a week");
    let endless = content(9).chain(stream::pending()).boxed();
    let (cx, request) = (cx(), PutRequest::new("z"));
    let put = store.put(&cx, &request, endless);
    drop(tokio::time::timeout(Duration::from_secs(1), put).await);
    assert_eq!(uploads(&dir), [] as [std::path::PathBuf; 0], "at once if nobody has a checkpoint");
}

#[tokio::test]
async fn what_was_damaged_on_the_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    store.write(&cx(), "a/x", "123456789".into()).await.unwrap();
    let file = dir.path().join("a/x");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, "123456780").unwrap();
    let error = store.read(&cx(), "a/x").await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
}

#[tokio::test]
async fn of_two_at_once_one_is_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    let put = async |text: &'static str| store.put(&cx(), &PutRequest::new("a/b/x"), content_of(text)).await;
    for _ in 0..50 {
        let (one, other, same) = tokio::join!(put("one"), put("other"), put("one"));
        let results = [one, other, same];
        let kinds: Vec<_> = results.iter().map(|put| put.as_ref().map(|_| ()).map_err(Error::kind)).collect();
        let refused = Err(ErrorKind::AlreadyExists);
        assert!(kinds == [Ok(()), refused, Ok(())] || kinds == [refused, Ok(()), refused], "{results:?}");
        store.delete(&cx(), "a/b/x").await.unwrap();
    }
}

#[tokio::test]
async fn an_artifact_is_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();
    store.write(&cx(), "a", "x".into()).await.unwrap();
    assert_eq!(store.head(&cx(), "a/b").await.unwrap(), None);
    let error = store.write(&cx(), "a/b", "x".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
    for bad in [".uploads/x", ".uploads"] {
        assert_eq!(store.write(&cx(), bad, "x".into()).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    store.write(&cx(), ".uploads.txt", "x".into()).await.unwrap();
    assert_eq!(store.list(&cx(), "").await.unwrap().len(), 2);
    let long = store.write(&cx(), &"x".repeat(300), "x".into()).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Invalid, "{long}");
    let error = ArtifactDirectory::open(dir.path().join("a")).unwrap_err();
    assert!(error.target().ends_with("/a"), "{error}");
}
