//! The artifact store against fake-gcs-server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::time::Duration;

use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, RunId};
use moodify_gcp::{ArtifactStore, StorageConfig};
use peer::{FakeGcs, always, answering};

const BUCKET: &str = "artifacts";

fn cx_of(timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/export"), timeout)
}

fn cx() -> CallContext {
    cx_of(Duration::from_secs(30))
}

fn store(url: &str) -> ArtifactStore {
    ArtifactStore::new(StorageConfig::new().endpoint(url).anonymous()).unwrap()
}

#[tokio::test]
async fn an_object_is_described() {
    let Some(server) = FakeGcs::start().await else { return };
    server.write("report.txt", "123456789");
    let info = store(&server.url()).head(&cx(), BUCKET, "report.txt").await.unwrap().unwrap();
    // The check value that the definition of CRC32C gives for these nine digits.
    assert_eq!((info.bytes, info.crc32c), (9, Some(0xE306_9283)));
    assert!(info.updated.is_some() && info.generation > 0, "{info:?}");
}

#[tokio::test]
async fn what_is_not_there_is_none() {
    let Some(server) = FakeGcs::start().await else { return };
    let store = store(&server.url());
    for bucket in [BUCKET, "no-such-bucket"] {
        assert_eq!(store.head(&cx(), bucket, "nothing").await.unwrap(), None);
        assert_eq!(store.get(&cx(), bucket, "nothing").await.unwrap(), None);
    }
    let error = store.put(&cx(), "no-such-bucket", "x", b"y".to_vec()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::NotFound, Effect::None), "{error}");
    assert_eq!(error.target(), "gs://no-such-bucket/x");
}

#[tokio::test]
async fn what_was_put_is_read_back_and_never_overwritten() {
    let Some(server) = FakeGcs::start().await else { return };
    let store = store(&server.url());
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let put = store.put(&cx(), BUCKET, "dir/export", content.clone()).await.unwrap();
    assert_eq!(put.bytes, 3_000_000);
    assert_eq!(store.head(&cx(), BUCKET, "dir/export").await.unwrap().unwrap().crc32c, put.crc32c);
    assert!(store.get(&cx(), BUCKET, "dir/export").await.unwrap().unwrap() == content);

    let again = store.put(&cx(), BUCKET, "dir/export", content.clone()).await.unwrap();
    assert_eq!(again.generation, put.generation, "the same content again writes nothing");
    let error = store.put(&cx(), BUCKET, "dir/export", b"other".to_vec()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::AlreadyExists, Effect::None), "{error}");
    assert!(store.get(&cx(), BUCKET, "dir/export").await.unwrap().unwrap() == content);

    let empty = store.put(&cx(), BUCKET, "empty", Vec::new()).await.unwrap();
    assert_eq!((empty.bytes, empty.crc32c), (0, Some(0)));
    assert_eq!(store.get(&cx(), BUCKET, "empty").await.unwrap(), Some(Vec::new()));
}

/// The emulator does not honour preconditions of resumable uploads, so this one needs a fake.
#[tokio::test]
async fn who_was_faster_is_not_overwritten() {
    const NINE_DIGITS: &str =
        "Content-Length: 60\r\n\r\n{\"size\": \"9\", \"generation\": \"7\", \"crc32c\": \"4waSgw==\"      }";
    for (content, expected) in [("123456789", Ok(7)), ("987654321", Err(ErrorKind::AlreadyExists))] {
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
        let put = store(&url).put(&cx(), BUCKET, "x", content.into()).await;
        assert_eq!(put.map(|info| info.generation).map_err(|e| e.kind()), expected);
    }
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable() {
    let Some(mut server) = FakeGcs::start().await else { return };
    let store = store(&server.url());
    assert_eq!(store.head(&cx(), BUCKET, "nothing").await.unwrap(), None);
    server.stop();
    for error in [
        store.head(&cx(), BUCKET, "x").await.unwrap_err(),
        store.get(&cx(), BUCKET, "x").await.unwrap_err(),
        store.put(&cx(), BUCKET, "x", b"y".to_vec()).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
        assert_eq!(error.effect_of(), Effect::None, "it was never connected: {error}");
    }
}

#[tokio::test]
async fn failures_are_told_apart() {
    const EMPTY: &str = "Content-Length: 0\r\n\r\n";
    for (status, kind, transient, effect) in [
        (401, ErrorKind::Unauthenticated, false, Effect::None),
        (403, ErrorKind::Forbidden, false, Effect::None),
        (429, ErrorKind::Throttled, true, Effect::None),
        (500, ErrorKind::Unavailable, true, Effect::Unknown),
        (503, ErrorKind::Unavailable, true, Effect::Unknown),
    ] {
        // Nothing is there yet, so that it comes to writing.
        let writing = store(&answering(move |method| Some((if method == "GET" { 404 } else { status }, EMPTY))).await);
        let put = writing.put(&cx(), BUCKET, "x", b"y".to_vec()).await.unwrap_err();
        assert_eq!((put.kind(), put.is_transient(), put.effect_of()), (kind, transient, effect), "{status}: {put}");
        let reading = store(&always(Some((status, EMPTY))).await);
        for read in
            [reading.get(&cx(), BUCKET, "x").await.unwrap_err(), reading.head(&cx(), BUCKET, "x").await.unwrap_err()]
        {
            assert_eq!((read.kind(), read.effect_of()), (kind, Effect::None), "{status}: {read}");
        }
    }
}

#[tokio::test]
async fn content_that_does_not_match_its_checksum_is_not_passed_on() {
    // The checksum is of "123456789".
    let wrong = "x-goog-hash: crc32c=4waSgw==\r\nx-goog-generation: 1\r\nx-goog-metageneration: 1\r\n\
                 x-goog-stored-content-length: 9\r\nContent-Length: 9\r\n\r\n12345678X";
    let error = store(&always(Some((200, wrong))).await).get(&cx(), BUCKET, "x").await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let url = always(None).await;
    let soon = || cx_of(Duration::from_millis(200));
    let error = store(&url).head(&soon(), BUCKET, "x").await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None), "{error}");
    let writing = answering(|method| (method == "GET").then_some((404, "Content-Length: 0\r\n\r\n"))).await;
    let error = store(&writing).put(&soon(), BUCKET, "x", b"y".to_vec()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    let config = StorageConfig::new().endpoint(url).anonymous().response_timeout(Duration::from_millis(200));
    let error = ArtifactStore::new(config).unwrap().get(&cx(), BUCKET, "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "its own time is earlier: {error}");
}

#[tokio::test]
async fn a_bad_key_is_refused_and_not_shown() {
    for key in [r#"very-secret"#, r#"{"type": "service_account", "private_key": "very-secret"}"#] {
        let store = ArtifactStore::new(StorageConfig::new().key(key)).unwrap();
        let error = store.head(&cx(), BUCKET, "x").await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false), "{error}");
        assert!(!format!("{error} {error:?}").contains("very-secret"), "{error:?}");
    }
    let store = ArtifactStore::new(StorageConfig::new().key_file("/does/not/exist.json")).unwrap();
    let error = store.head(&cx(), BUCKET, "x").await.unwrap_err();
    assert!(error.message().contains("/does/not/exist.json"), "{error}");
}

/// Calls can be made from spawned tasks. Never run: that it compiles is the test.
#[allow(dead_code, reason = "compiled only")]
fn calls_are_send(store: &ArtifactStore, cx: &CallContext) {
    fn is_send(_: impl Send) {}
    is_send(store.head(cx, BUCKET, "x"));
    is_send(store.get(cx, BUCKET, "x"));
    is_send(store.put(cx, BUCKET, "x", Vec::new()));
}
