//! What goes wrong with artifacts in Cloud Storage, and how large uploads go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use moodify_core::backend::{Artifact, ArtifactStore, ArtifactStoreExt, Checkpoint, PutRequest, Sum, content_of};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, Result, RunId};
use moodify_gcp::{ApiConfig, CloudStorage, StorageConfig};
use peer::storage::{Fault, StrictStorage};
use peer::{FakeGcs, always, answering};

const MIB: u64 = 1 << 20;
/// That `x` is `123456789`.
const NINE_DIGITS: &str = "Content-Length: 75\r\n\r\n{\"name\": \"x\", \"size\": \"9\", \"generation\": \"7\", \"crc32c\": \"4waSgw==\"        }";

fn cx_of(timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/export"), timeout)
}

fn cx() -> CallContext {
    cx_of(Duration::from_secs(60))
}

fn with(api: ApiConfig) -> CloudStorage {
    CloudStorage::new(StorageConfig::new("artifacts").api(api)).unwrap()
}

fn store(url: &str) -> CloudStorage {
    with(ApiConfig::new().endpoint(url).anonymous())
}

async fn put(store: &CloudStorage, content: &'static str) -> Result<Artifact> {
    store.put(&cx(), &PutRequest::new("x"), content_of(content)).await
}

/// So many MiB, in which no two are alike.
fn content(mib: u64) -> BoxStream<'static, Result<Bytes>> {
    let piece = |n: u64| Ok(Bytes::from(n.to_be_bytes().repeat(128 << 10)));
    stream::iter(0..mib).map(piece).boxed()
}

async fn sum(mib: u64) -> Sum {
    Sum::of_content(content(mib)).await.unwrap()
}

/// Breaks off an upload of 40 MiB after `mib`; returns the last checkpoint, as it would be kept in a file.
async fn broken_off(store: &CloudStorage, mib: u64) -> String {
    let last = Arc::new(Mutex::new(None));
    let seen = last.clone();
    let request = PutRequest::new("large").size(40 * MIB).watched(move |progress| {
        assert_eq!(progress.size, Some(40 * MIB));
        seen.lock().unwrap().clone_from(&progress.checkpoint);
    });
    let broken = Error::new(ErrorKind::Unavailable, "test", "read", "the disk is gone");
    let part = content(mib).chain(stream::iter([Err(broken)])).boxed();
    let error = store.put(&cx(), &request, part).await.unwrap_err();
    assert_eq!((error.message(), error.effect_of()), ("the disk is gone", Effect::None));
    let checkpoint: Checkpoint = last.lock().unwrap().take().unwrap();
    assert!(!format!("{checkpoint:?} {error:?}").contains("session/"), "its address is a secret");
    serde_json::to_string(&checkpoint).unwrap()
}

async fn resume(store: &CloudStorage, checkpoint: &str, mib: u64) -> Result<Artifact> {
    let request = PutRequest::new("large").resume(serde_json::from_str(checkpoint).unwrap());
    store.put(&cx(), &request, content(mib)).await
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on() {
    let server = StrictStorage::start().await;
    let checkpoint = broken_off(&store(&server.url()), 27).await;
    assert_eq!((server.received(), server.sum_of("large")), (24 * MIB, None));
    // By another process, which has nothing but the checkpoint.
    let artifact = resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
    assert!(artifact.is(sum(40).await), "{artifact}");
    assert_eq!((server.received(), server.open_sessions()), (40 * MIB, 0), "nothing was sent twice");
    let again = resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
    assert_eq!((again.version, server.received()), (artifact.version, 40 * MIB), "its end is an end");

    // What was deleted since is put again, whatever the checkpoint says.
    store(&server.url()).delete(&cx(), "large").await.unwrap();
    let anew = resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
    assert_eq!((server.sum_of("large"), anew.is(sum(40).await)), (Some(sum(40).await), true));
}

#[tokio::test]
async fn an_upload_that_is_over_does_not_go_on_with_another_content() {
    let server = StrictStorage::start().await;
    let checkpoint = broken_off(&store(&server.url()), 27).await;
    resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
    let request = PutRequest::new("large").replace().resume(serde_json::from_str(&checkpoint).unwrap());
    let error = store(&server.url()).put(&cx(), &request, content(30)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
    assert_eq!(server.sum_of("large"), Some(sum(40).await), "what it had put is left as it is");
    store(&server.url()).put(&cx(), &request, content(40)).await.unwrap();
}

#[tokio::test]
async fn the_server_says_where_an_upload_goes_on() {
    // It has less, and then more, than the last checkpoint says.
    for (fault, received) in [(Fault::Take(MIB as usize), 40 + 7 + 7), (Fault::LoseAnswer, 40)] {
        let server = StrictStorage::start().await;
        let checkpoint = broken_off(&store(&server.url()), 18).await;
        server.fault(2, fault);
        if fault != Fault::LoseAnswer {
            server.fault(3, Fault::Refuse(503));
        }
        let error = resume(&store(&server.url()), &checkpoint, 40).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::None), "{error}");
        let artifact = resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
        assert!(artifact.is(sum(40).await), "{artifact}");
        assert_eq!(server.received(), received * MIB, "{fault:?}");
    }
}

#[tokio::test]
async fn a_part_that_is_taken_in_part_is_completed() {
    let server = StrictStorage::start().await;
    server.fault(1, Fault::Take(3 << 20));
    server.fault(2, Fault::Take(256 << 10));
    server.fault(4, Fault::Take(MIB as usize));
    let artifact = store(&server.url()).put(&cx(), &PutRequest::new("large"), content(20)).await.unwrap();
    assert!(artifact.is(sum(20).await), "{artifact}");
    server.fault(server.parts(), Fault::Take(0));
    let stuck = store(&server.url()).put(&cx(), &PutRequest::new("stuck"), content(20)).await.unwrap_err();
    assert_eq!((stuck.kind(), server.sum_of("stuck")), (ErrorKind::Unavailable, None), "{stuck}");
}

#[tokio::test]
async fn an_upload_goes_on_in_the_middle_of_a_piece() {
    let whole = Bytes::from((0..20_u32 << 18).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
    for length in [1000, 100_003, 3 << 20] {
        let pieces = || {
            let (whole, begins) = (whole.clone(), (0..whole.len()).step_by(length));
            let piece = move |begin: usize| Ok(whole.slice(begin..whole.len().min(begin + length)));
            stream::iter(begins.map(piece).collect::<Vec<_>>()).boxed()
        };
        let server = StrictStorage::start().await;
        // Of the second part a little, and then nothing any more.
        server.fault(1, Fault::Take(256 << 10));
        server.fault(2, Fault::Refuse(503));
        let last = Arc::new(Mutex::new(None));
        let seen = last.clone();
        let request = PutRequest::new("large");
        let request = request.watched(move |progress| seen.lock().unwrap().clone_from(&progress.checkpoint));
        let error = store(&server.url()).put(&cx(), &request, pieces()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::None), "{error}");
        let checkpoint = last.lock().unwrap().take().unwrap();
        let request = PutRequest::new("large").resume(checkpoint);
        let artifact = store(&server.url()).put(&cx(), &request, pieces()).await.unwrap();
        assert!(artifact.is(Sum::of(&whole)), "{artifact}");
        // Behind what was taken of the second part, the rest was sent twice.
        assert_eq!(server.received(), 20 * MIB + 2 * (8 * MIB - (256 << 10)), "{length}");
        assert_eq!(store(&server.url()).read(&cx(), "large").await.unwrap(), Some(whole.clone()));
    }
}

#[tokio::test]
async fn an_upload_that_the_server_has_forgotten_begins_anew() {
    let server = StrictStorage::start().await;
    let checkpoint = broken_off(&store(&server.url()), 18).await;
    server.fault(2, Fault::Forget);
    let gone = resume(&store(&server.url()), &checkpoint, 40).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    let artifact = resume(&store(&server.url()), &checkpoint, 40).await.unwrap();
    assert!(artifact.is(sum(40).await), "{artifact}");
}

#[tokio::test]
async fn another_content_does_not_go_on_with_an_upload() {
    let server = StrictStorage::start().await;
    let checkpoint = broken_off(&store(&server.url()), 27).await;
    let request = || PutRequest::new("large").resume(serde_json::from_str(&checkpoint).unwrap());
    let other = content(40).map_ok(|piece| piece.slice(8..)).boxed();
    for (what, other) in [("other", other), ("too short", content(10)), ("empty", content(0))] {
        let error = store(&server.url()).put(&cx(), &request(), other).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{what}: {error}");
        assert_eq!(server.sum_of("large"), None, "{what}");
    }
    // What differs only after the checkpoint is no other content.
    let artifact = store(&server.url()).put(&cx(), &request(), content(30)).await.unwrap();
    assert!(artifact.is(sum(30).await), "{artifact}");
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_second_upload() {
    for mib in [1, 20] {
        let server = StrictStorage::start().await;
        let last = mib as usize / 8;
        server.fault(last, Fault::LoseAnswer);
        let lost = store(&server.url()).put(&cx(), &PutRequest::new("x"), content(mib)).await.unwrap_err();
        assert_eq!((lost.kind(), lost.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{lost}");
        let artifact = store(&server.url()).put(&cx(), &PutRequest::new("x"), content(mib)).await.unwrap();
        assert!(artifact.is(sum(mib).await), "{artifact}");
        assert_eq!(server.received(), mib * MIB);
    }
}

#[tokio::test]
async fn what_arrives_damaged_is_not_put() {
    for (mib, part) in [(1, 0), (20, 1)] {
        for fault in [Fault::Corrupt, Fault::CorruptUnseen] {
            let server = StrictStorage::start().await;
            server.fault(part, fault);
            let error = store(&server.url()).put(&cx(), &PutRequest::new("x"), content(mib)).await.unwrap_err();
            assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unhealthy, Effect::None), "{fault:?}: {error}");
            assert_eq!(server.sum_of("x"), None, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn what_was_damaged_in_the_store_is_noticed_at_the_end() {
    let server = StrictStorage::start().await;
    let store = store(&server.url());
    put(&store, "123456789").await.unwrap();
    server.damage("x");
    let (_, content) = store.get(&cx(), "x").await.unwrap().unwrap();
    let pieces: Vec<Result<Bytes>> = content.collect().await;
    let error = pieces.last().unwrap().as_ref().unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
    assert_eq!(store.read(&cx(), "x").await.unwrap_err().kind(), ErrorKind::Unhealthy);
}

#[tokio::test]
async fn a_content_that_cannot_be_read_is_asked_for_once() {
    const BROKEN: &str = "X-Goog-Generation: 7\r\nContent-Length: 9\r\n\r\n12345";
    const SHORT: &str = "X-Goog-Generation: 7\r\nContent-Length: 5\r\n\r\n12345";
    const NONE: &str = "Retry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let gone = (404, NONE);
    for (answer, expected) in [
        ((200, BROKEN), Err(ErrorKind::Unavailable)),
        ((200, SHORT), Err(ErrorKind::Unhealthy)),
        (gone, Ok(None)),
        ((401, NONE), Err(ErrorKind::Unauthenticated)),
        ((403, NONE), Err(ErrorKind::Forbidden)),
        ((412, NONE), Err(ErrorKind::Conflict)),
        ((429, NONE), Err(ErrorKind::Throttled)),
        ((503, NONE), Err(ErrorKind::Unavailable)),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let url = answering(move |_| match counter.fetch_add(1, Ordering::Relaxed) {
            0 => Some((200, NINE_DIGITS)),
            _ => Some(answer),
        })
        .await;
        let read = store(&url).read(&cx(), "x").await;
        assert_eq!(read.as_ref().map_err(Error::kind).map(|content| content.as_ref().map(Bytes::len)), expected);
        if let Err(error) = read {
            assert_eq!(error.effect_of(), Effect::None, "{error}");
            let after = error.is_transient() && answer.0 != 200;
            assert_eq!(error.retry_after_of(), after.then_some(Duration::from_secs(7)), "{error}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "what it is, and what is in it: {answer:?}");
    }
}

#[tokio::test]
async fn who_was_faster_is_not_overwritten() {
    for (content, expected) in [("123456789", Ok("7")), ("987654321", Err(ErrorKind::AlreadyExists))] {
        let mut raced = false;
        let url = answering(move |method| match method {
            "GET" if raced => Some((200, NINE_DIGITS)),
            "GET" => Some((404, "Content-Length: 0\r\n\r\n")),
            _ => {
                raced = true;
                Some((412, "Content-Length: 0\r\n\r\n"))
            }
        })
        .await;
        let put = put(&store(&url), content).await;
        assert_eq!(put.map(|artifact| artifact.version.unwrap()).map_err(|e| e.kind()), expected.map(str::to_owned));
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_told_from_one_that_is_empty() {
    let Some(server) = FakeGcs::start().await else { return };
    let api = ApiConfig::new().endpoint(server.url()).anonymous();
    let missing = CloudStorage::new(StorageConfig::new("no-such-bucket").api(api)).unwrap();
    assert_eq!(missing.head(&cx(), "x").await.unwrap(), None);
    for error in [put(&missing, "y").await.unwrap_err(), missing.list(&cx(), "").await.unwrap_err()] {
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::NotFound, Effect::None), "{error}");
        assert!(error.target().starts_with("gs://no-such-bucket/"), "{error}");
    }
    assert_eq!(store(&server.url()).list(&cx(), "").await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable() {
    let Some(mut server) = FakeGcs::start().await else { return };
    let store = store(&server.url());
    assert_eq!(store.head(&cx(), "nothing").await.unwrap(), None);
    server.stop();
    for error in [
        store.head(&cx(), "x").await.unwrap_err(),
        store.read(&cx(), "x").await.unwrap_err(),
        store.list(&cx(), "x").await.unwrap_err(),
        store.delete(&cx(), "x").await.unwrap_err(),
        put(&store, "y").await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
        assert_eq!(error.effect_of(), Effect::None, "it was never connected: {error}");
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    const EMPTY: &str = "Retry-After: 7\r\nContent-Length: 0\r\n\r\n";
    for (status, kind, transient, effect) in [
        (401, ErrorKind::Unauthenticated, false, Effect::None),
        (403, ErrorKind::Forbidden, false, Effect::None),
        (429, ErrorKind::Throttled, true, Effect::None),
        (500, ErrorKind::Unavailable, true, Effect::Unknown),
        (503, ErrorKind::Unavailable, true, Effect::Unknown),
    ] {
        // Nothing is there yet, so that it comes to writing.
        let writing = store(&answering(move |method| Some((if method == "GET" { 404 } else { status }, EMPTY))).await);
        for write in [put(&writing, "y").await.unwrap_err(), writing.delete(&cx(), "x").await.unwrap_err()] {
            assert_eq!((write.kind(), write.is_transient(), write.effect_of()), (kind, transient, effect), "{write}");
            assert_eq!(write.retry_after_of(), transient.then_some(Duration::from_secs(7)), "{write}");
        }
        let reading = store(&always(Some((status, EMPTY))).await);
        let (get, head) = (reading.read(&cx(), "x").await, reading.head(&cx(), "x").await);
        let list = reading.list(&cx(), "x").await;
        for read in [get.unwrap_err(), head.unwrap_err(), list.unwrap_err()] {
            assert_eq!((read.kind(), read.effect_of()), (kind, Effect::None), "{status}: {read}");
        }
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let url = always(None).await;
    let soon = || cx_of(Duration::from_millis(200));
    let error = store(&url).head(&soon(), "x").await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None), "{error}");
    let writing = answering(|method| (method == "GET").then_some((404, "Content-Length: 0\r\n\r\n"))).await;
    let error = store(&writing).put(&soon(), &PutRequest::new("x"), content_of("y")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    let api = ApiConfig::new().endpoint(url).anonymous().response_timeout(Duration::from_millis(200));
    let error = with(api).read(&cx(), "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "its own time is earlier: {error}");
}

#[tokio::test]
async fn a_bad_key_is_refused_and_not_shown() {
    for key in [r#"very-secret"#, r#"{"type": "service_account", "private_key": "very-secret"}"#] {
        let error = with(ApiConfig::new().key(key)).head(&cx(), "x").await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false), "{error}");
        assert!(!format!("{error} {error:?}").contains("very-secret"), "{error:?}");
    }
    let error = with(ApiConfig::new().key_file("/does/not/exist.json")).head(&cx(), "x").await.unwrap_err();
    assert!(error.message().contains("/does/not/exist.json"), "{error}");
}
