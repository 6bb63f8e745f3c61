use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{Artifact, ArtifactStore, ArtifactStoreExt, Content, PutRequest, Sum, content_of};
use crate::error::{Effect, Error, ErrorKind, Result};

/// Larger than what a store sends at once, and no round number.
const LARGE: usize = (20 << 20) + 12_345;
const DIR: &str = "conformance/artifacts/";

/// Puts an [`ArtifactStore`] to its contract. What it puts it deletes; each call may take `patience`.
///
/// # Panics
/// If it is not kept.
pub async fn artifact_store(store: &dyn ArtifactStore, patience: Duration) {
    let cx = context("artifact", patience);
    let path = |name: &str| format!("{DIR}{name}");
    assert_eq!(good("there is none", store.head(&cx, &path("none")).await), None);
    assert!(good("there is none", store.get(&cx, &path("none")).await).is_none());
    good("deleting what never existed is fine", store.delete(&cx, &path("none")).await);
    assert_eq!(good("nothing begins so", store.list(&cx, DIR).await), []);
    for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\nb"] {
        fails("that is no path", ErrorKind::Invalid, store.head(&cx, bad).await);
        let put = store.put(&cx, &PutRequest::new(bad), content_of("x")).await;
        fails("that is no path", ErrorKind::Invalid, put);
    }
    ends_with_its_context(patience, async |cx| store.list(&cx, DIR).await).await;
    ends_with_its_context(patience, async |cx| store.put(&cx, &PutRequest::new(path("late")), slow()).await).await;
    good("whatever was put is deleted", store.delete(&cx, &path("late")).await);

    small_ones(store, patience).await;
    a_large_one(store, patience).await;
    what_breaks_off(store, patience).await;

    let all = good("all are listed", store.list(&cx, DIR).await);
    let paths: Vec<&str> = all.iter().map(|artifact| artifact.path.as_str()).collect();
    let expected = ["empty", "large", "odd name %2F+#?&ü.txt", "small"].map(path);
    assert_eq!(paths, expected, "by path, and no other");
    let some = good("a part of a name is a prefix", store.list(&cx, &path("sm")).await);
    assert_eq!(some.len(), 1, "{some:?}");
    for artifact in &all {
        let head = good("it can be described", store.head(&cx, &artifact.path).await);
        assert_eq!(head.as_ref().map(|head| (&head.path, head.bytes)), Some((&artifact.path, artifact.bytes)));
        good("it can be deleted", store.delete(&cx, &artifact.path).await);
        assert_eq!(good("it is gone", store.head(&cx, &artifact.path).await), None);
        good("deleting again is fine", store.delete(&cx, &artifact.path).await);
    }
    assert_eq!(good("all are gone", store.list(&cx, DIR).await), []);
}

async fn small_ones(store: &dyn ArtifactStore, patience: Duration) {
    let cx = context("artifact", patience);
    for (name, bytes) in [("small", "123456789"), ("empty", ""), ("odd name %2F+#?&ü.txt", "odd")] {
        let path = format!("{DIR}{name}");
        let put = good("it can be put", store.put(&cx, &PutRequest::new(&path), content_of(bytes)).await);
        assert!(put.path == path && put.is(Sum::of(bytes.as_bytes())), "{put:?}");
        assert_eq!(good("it can be read", store.read(&cx, &path).await), Some(Bytes::from(bytes)));
        let again = good("again is fine", store.put(&cx, &PutRequest::new(&path), content_of(bytes)).await);
        assert_eq!(again.version, put.version, "the same content again writes nothing");
        let known = good("again is fine", store.write(&cx, &path, bytes.into()).await);
        assert_eq!(known.version, put.version, "nor when its sum is known before");
    }
    let path = format!("{DIR}small");
    // Of the same length, so that only the checksum tells them apart.
    for other in ["other one", "another, which is longer"] {
        let refused = store.put(&cx, &PutRequest::new(&path), content_of(other)).await;
        let error = fails("another content is not put over it", ErrorKind::AlreadyExists, refused);
        assert_eq!(error.effect_of(), Effect::None, "{error}");
        assert_eq!(good("it is as it was", store.read(&cx, &path).await), Some("123456789".into()));
        let replaced = good("unless asked", store.put(&cx, &PutRequest::new(&path).replace(), content_of(other)).await);
        assert!(replaced.is(Sum::of(other.as_bytes())), "{replaced:?}");
        assert_eq!(good("it is replaced", store.read(&cx, &path).await), Some(Bytes::from(other)));
        let back = PutRequest::new(&path).replace().sum(Sum::of(b"123456789"));
        good("and back", store.put(&cx, &back, content_of("123456789")).await);
    }
    for wrong in [Sum::of(b"12345678"), Sum::of(b"12345678X"), Sum::of(b"1234567890")] {
        let request = PutRequest::new(format!("{DIR}wrong")).sum(wrong);
        let put = store.put(&cx, &request, content_of("123456789")).await;
        fails("it is not what was announced", ErrorKind::Invalid, put);
        assert_eq!(good("it is not put", store.head(&cx, &request.path).await), None);
    }
}

async fn a_large_one(store: &dyn ArtifactStore, patience: Duration) {
    let (cx, path) = (context("large artifact", patience), format!("{DIR}large"));
    let sum = good("a content can be counted", Sum::of_content(large(LARGE).boxed()).await);
    let stored = Arc::new(Mutex::new(Vec::new()));
    let seen = stored.clone();
    let request = PutRequest::new(&path).watched(move |progress| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(progress.stored);
    });
    let put = good("a large one of unknown size can be put", store.put(&cx, &request, large(LARGE).boxed()).await);
    assert!(put.is(sum), "{put}, but it is {sum}");
    let stored = stored.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(stored.is_sorted() && stored.last() == Some(&sum.bytes), "it is told how far it is: {stored:?}");
    let verified = good("it can be verified", store.verify(&cx, &path).await);
    assert_eq!(verified.map(|artifact| artifact.bytes), Some(sum.bytes));
    let known = PutRequest::new(&path).sum(sum);
    let again: Artifact = good("again is fine", store.put(&cx, &known, unread()).await);
    assert_eq!(again.version, put.version, "what is known to be there is not even read");
}

async fn what_breaks_off(store: &dyn ArtifactStore, patience: Duration) {
    let (cx, path) = (context("broken artifact", patience), format!("{DIR}broken"));
    for (pieces, whole) in [(1, 1 << 20), (18, 18 << 20)] {
        let broken = || Error::new(ErrorKind::Forbidden, "conformance", "read", "the content breaks off");
        let content = large(whole).take(pieces).chain(stream::iter([Err(broken())])).boxed();
        let request = PutRequest::new(&path).size(LARGE as u64);
        fails("its error is told", ErrorKind::Forbidden, store.put(&cx, &request, content).await);
        assert_eq!(good("no part of it appears", store.head(&cx, &path).await), None);
        assert!(good("no part of it can be read", store.get(&cx, &path).await).is_none());
    }
    // Whoever puts it goes away in the middle.
    let endless = large(18 << 20).chain(stream::pending()).boxed();
    drop(tokio::time::timeout(Duration::from_secs(2), store.put(&cx, &PutRequest::new(&path), endless)).await);
    assert_eq!(good("no part of it appears", store.head(&cx, &path).await), None);
}

/// So many bytes that do not repeat themselves too soon, in pieces that end nowhere near what a store sends at once.
fn large(bytes: usize) -> BoxStream<'static, Result<Bytes>> {
    const PIECE: usize = 999_983;
    let piece = move |from: usize| {
        let mut state = (from as u32).wrapping_mul(0x9E37_79B9) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        Ok(std::iter::repeat_with(&mut next).take(PIECE.min(bytes - from)).collect::<Vec<u8>>().into())
    };
    stream::iter((0..bytes).step_by(PIECE)).map(piece).boxed()
}

/// A content that takes for ever.
fn slow() -> Content {
    content_of("x").chain(stream::pending()).boxed()
}

/// A content that nobody shall read.
fn unread() -> Content {
    let error = Error::new(ErrorKind::Internal, "conformance", "read", "the content was read");
    stream::iter([Err(error)]).boxed()
}
