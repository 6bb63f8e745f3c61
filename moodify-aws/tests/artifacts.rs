//! What goes wrong with artifacts in S3, and how large uploads go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use moodify_aws::{ApiConfig, S3Artifacts, S3Config};
use moodify_core::backend::{Artifact, ArtifactStore, ArtifactStoreExt, Checkpoint, PutRequest, Sum, content_of};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use peer::gateway::Gateway;
use peer::s3::{Answer, S3Answers};

const MIB: u64 = 1 << 20;

fn cx_of(timeout: Duration) -> CallContext {
    CallContext::by_hand("artifacts", timeout)
}

fn cx() -> CallContext {
    cx_of(Duration::from_secs(60))
}

fn api(url: &str) -> ApiConfig {
    ApiConfig::new("eu-central-1").endpoint(url).credentials(peer::KEY, peer::SECRET, None)
}

fn store(url: &str) -> S3Artifacts {
    S3Artifacts::new(S3Config::new(api(url), "artifacts")).unwrap()
}

async fn put(store: &S3Artifacts, content: &'static str) -> Result<Artifact> {
    store.put(&cx(), &PutRequest::new("x"), content_of(content)).await
}

/// So many MiB, in which no two are alike.
fn content(mib: u64) -> BoxStream<'static, Result<Bytes>> {
    stream::iter(0..mib).map(|n: u64| Ok(Bytes::from(n.to_be_bytes().repeat(128 << 10)))).boxed()
}

async fn sum(mib: u64) -> Sum {
    Sum::of_content(content(mib)).await.unwrap()
}

/// Breaks off an upload of 40 MiB after 27; returns the last checkpoint, as it would be kept in a file.
async fn broken_off(store: &S3Artifacts) -> String {
    let last = Arc::new(Mutex::new(None));
    let seen = last.clone();
    let request = PutRequest::new("large").size(40 * MIB);
    let request = request.watched(move |progress| seen.lock().unwrap().clone_from(&progress.checkpoint));
    let broken = Error::new(ErrorKind::Unavailable, "test", "read", "the disk is gone");
    let error = store.put(&cx(), &request, content(27).chain(stream::iter([Err(broken)])).boxed()).await.unwrap_err();
    assert_eq!((error.message(), error.effect_of()), ("the disk is gone", Effect::None));
    let checkpoint: Checkpoint = last.lock().unwrap().take().unwrap();
    assert_eq!(checkpoint.stored, sum(24).await);
    serde_json::to_string(&checkpoint).unwrap()
}

fn resumed(checkpoint: &str) -> PutRequest {
    PutRequest::new("large").resume(serde_json::from_str(checkpoint).unwrap())
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_in_another_process() {
    let Some(server) = Gateway::start().await else { return };
    let checkpoint = broken_off(&store(&server.url())).await;
    assert_eq!(server.unfinished(), 24 * MIB);
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let request = resumed(&checkpoint).watched(move |progress| seen.lock().unwrap().push(progress.stored / MIB));
    let artifact = store(&server.url()).put(&cx(), &request, content(40)).await.unwrap();
    assert!(artifact.is(sum(40).await) && artifact.crc32c.is_some(), "{artifact}");
    assert_eq!(*told.lock().unwrap(), [32, 40, 40], "what was there was not sent again");
    assert_eq!(server.unfinished(), 0);
    assert_eq!(store(&server.url()).verify(&cx(), "large").await.unwrap().unwrap(), artifact);
    let again = store(&server.url()).put(&cx(), &request, content(40)).await.unwrap();
    assert_eq!(again, artifact, "its end is an end");
    // What was deleted since is put again, whatever the checkpoint says.
    store(&server.url()).delete(&cx(), "large").await.unwrap();
    let anew = store(&server.url()).put(&cx(), &resumed(&checkpoint), content(40)).await.unwrap();
    assert!(anew.is(sum(40).await), "{anew}");
}

#[tokio::test]
async fn another_content_does_not_go_on_with_an_upload() {
    let Some(server) = Gateway::start().await else { return };
    let store = store(&server.url());
    for other in [content(40).map_ok(|piece| piece.slice(8..)).boxed(), content(10), content(0)] {
        let checkpoint = broken_off(&store).await;
        let error = store.put(&cx(), &resumed(&checkpoint), other).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
        assert_eq!((store.head(&cx(), "large").await.unwrap(), server.unfinished()), (None, 0), "it was aborted");
    }
}

#[tokio::test]
async fn what_nobody_can_go_on_with_is_aborted() {
    let Some(server) = Gateway::start().await else { return };
    let store = store(&server.url());
    let broken = || Error::new(ErrorKind::Unavailable, "test", "read", "the disk is gone");
    let part = content(27).chain(stream::iter([Err(broken())])).boxed();
    store.put(&cx(), &PutRequest::new("large"), part).await.unwrap_err();
    assert_eq!(server.unfinished(), 0, "nobody was told of a checkpoint");
    let announced = PutRequest::new("large").sum(sum(41).await).watched(|_| ());
    let error = store.put(&cx(), &announced, content(40)).await.unwrap_err();
    assert_eq!((error.kind(), server.unfinished()), (ErrorKind::Invalid, 0), "{error}");
}

#[tokio::test]
async fn what_was_damaged_in_the_store_is_noticed_at_the_end() {
    let Some(server) = Gateway::start().await else { return };
    let store = store(&server.url());
    put(&store, "123456789").await.unwrap();
    std::fs::write(server.bucket().join("x"), "123456780").unwrap();
    let error = store.read(&cx(), "x").await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
}

#[tokio::test]
async fn of_two_at_once_one_is_first() {
    let Some(server) = Gateway::start().await else { return };
    let store = store(&server.url());
    for mib in [1, 9] {
        let path = format!("raced-{mib}");
        let (one, other) = (PutRequest::new(&path), PutRequest::new(&path));
        let others = content(mib).map_ok(|piece| piece.slice(8..)).boxed();
        let (cx, again) = (cx(), cx());
        let both = tokio::join!(store.put(&cx, &one, content(mib)), store.put(&again, &other, others));
        let kinds = [both.0.as_ref().map_err(Error::kind).err(), both.1.as_ref().map_err(Error::kind).err()];
        let refused = Some(ErrorKind::AlreadyExists);
        assert!(kinds == [None, refused] || kinds == [refused, None], "{both:?}");
    }
}

#[tokio::test]
async fn bad_credentials_and_buckets_are_told() {
    let Some(server) = Gateway::start().await else { return };
    let config = |secret: &str, bucket: &str| {
        let api = ApiConfig::new("eu-central-1").endpoint(server.url()).credentials(peer::KEY, secret, None);
        S3Artifacts::new(S3Config::new(api, bucket)).unwrap()
    };
    let wrong = config("another-secret", "artifacts");
    let error = wrong.list(&cx(), "").await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false), "{error}");
    assert!(!format!("{error} {error:?} {wrong:?}").contains("another-secret"), "{error:?}");
    let missing = config(peer::SECRET, "no-such-bucket");
    for error in [put(&missing, "y").await.unwrap_err(), missing.list(&cx(), "").await.unwrap_err()] {
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::NotFound, Effect::None), "{error}");
        assert!(error.target().starts_with("s3://no-such-bucket/"), "{error}");
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    let xml = |code: &str| format!("<Error><Code>{code}</Code><Message>why</Message></Error>");
    for (status, code, kind, transient, effect) in [
        (403, "AccessDenied", ErrorKind::Forbidden, false, Effect::None),
        (403, "ExpiredToken", ErrorKind::Unauthenticated, false, Effect::None),
        (503, "SlowDown", ErrorKind::Throttled, true, Effect::Unknown),
        (500, "InternalError", ErrorKind::Unavailable, true, Effect::Unknown),
        (400, "BadDigest", ErrorKind::Unhealthy, false, Effect::None),
        (501, "NotImplemented", ErrorKind::Unsupported, false, Effect::Unknown),
    ] {
        let body = xml(code);
        // Nothing is there yet, so that it comes to writing.
        let server = S3Answers::start(move |request| match request.split(' ').next() {
            Some("HEAD") => Answer::status(404),
            _ => Answer::status(status).body(&body),
        })
        .await;
        let writing = store(&server.url());
        let error = put(&writing, "y").await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient(), error.effect_of()), (kind, transient, effect), "{error}");
        let error = writing.list(&cx(), "").await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (kind, Effect::None), "{code}: {error}");
        assert_eq!(server.asked(), 3, "nothing is repeated");
    }
}

#[tokio::test]
async fn a_completion_that_failed_after_all_is_a_failure() {
    let server = S3Answers::start(|request| match request.split(' ').next() {
        Some("HEAD") => Answer::status(404),
        Some("POST") if request.contains("uploads=") => {
            Answer::status(200).body("<R><UploadId>an-upload-id</UploadId></R>")
        }
        Some("POST") => Answer::status(200).body("<Error><Code>InternalError</Code><Message>why</Message></Error>"),
        Some("PUT") => Answer::status(200).header("ETag: \"p\""),
        _ => Answer::status(204),
    })
    .await;
    let error = store(&server.url()).put(&cx(), &PutRequest::new("x"), content(9)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    assert!(!format!("{error} {error:?}").contains("an-upload-id"), "{error:?}");
}

#[tokio::test]
async fn a_server_without_checksums_is_refused() {
    let mut there = false;
    let server = S3Answers::start(move |request| match request.split(' ').next() {
        Some("HEAD") if there => {
            Answer::status(200).header("ETag: \"p\"\r\nLast-Modified: Mon, 30 Nov 2026 08:00:00 GMT")
        }
        Some("HEAD") => Answer::status(404),
        Some("PUT") => {
            there = true;
            Answer::status(200).header("ETag: \"p\"")
        }
        _ => Answer::status(204),
    })
    .await;
    let error = put(&store(&server.url()), "").await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unsupported, Effect::None), "{error}");
    assert!(error.message().contains("keeps no CRC32C") && error.message().contains("deleted again"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let soon = cx_of(Duration::from_millis(200));
    let error = store(&url).head(&soon, "x").await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None), "{error}");
    let hasty = S3Config::new(api(&url).response_timeout(Duration::from_millis(200)), "artifacts");
    let error = S3Artifacts::new(hasty).unwrap().read(&cx(), "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "its own time is earlier: {error}");
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable() {
    let Some(mut server) = Gateway::start().await else { return };
    let store = store(&server.url());
    assert_eq!(store.head(&cx(), "nothing").await.unwrap(), None);
    server.stop();
    for error in [
        store.head(&cx(), "x").await.unwrap_err(),
        store.list(&cx(), "x").await.unwrap_err(),
        store.delete(&cx(), "x").await.unwrap_err(),
        put(&store, "y").await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
        assert_eq!(error.effect_of(), Effect::None, "it was never connected: {error}");
    }
}
