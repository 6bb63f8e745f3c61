//! A GiB that is put by a process which is killed in the middle, and read again, and the memory that it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Uri;
use axum::response::IntoResponse;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use moodify_core::CallContext;
use moodify_core::backend::{ArtifactStore, Content, PutRequest, Sum};
use moodify_gcp::{ApiConfig, CloudStorage, StorageConfig};
use peer::storage::StrictStorage;
use serde_json::json;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// What an upload or a reading may take, whatever its size: the whole process, at its highest.
const MEMORY: u64 = 64 * MIB;
const URL: &str = "MOODIFY_TEST_UPLOAD_URL";
const DIR: &str = "MOODIFY_TEST_UPLOAD_DIR";
const TIMEOUT: Duration = Duration::from_secs(300);

/// A GiB in pieces of 64 KiB, in which no two are alike.
fn content() -> Content {
    let piece = |n: u64| Ok(Bytes::from(n.to_be_bytes().repeat(8 << 10)));
    stream::iter(0..GIB / (64 << 10)).map(piece).boxed()
}

/// The highest that the resident memory of a process ever was, in bytes.
fn highest_memory(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn store(url: String) -> CloudStorage {
    let api = ApiConfig::new().endpoint(url).anonymous();
    CloudStorage::new(StorageConfig::new("artifacts").api(api)).unwrap()
}

/// This program, running [`uploads`] or [`reads`].
fn run(what: &str, url: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", what, "--ignored"])
        .env(URL, url)
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gib_whose_upload_is_killed_goes_on_in_little_memory() {
    let server = StrictStorage::start().await;
    server.forget_contents();
    let dir = tempfile::tempdir().unwrap();
    let mut child = run("uploads", &server.url(), dir.path());
    while server.received() < GIB / 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = highest_memory(&child.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(server.received() < GIB && server.sum_of("large").is_none(), "it was killed in the middle");

    let mut child = run("uploads", &server.url(), dir.path());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(server.sum_of("large"), Some(Sum::of_content(content()).await.unwrap()));
    assert!(server.received() <= GIB + 8 * MIB, "only what was on its way is sent twice: {}", server.received());
    let second: u64 = std::fs::read_to_string(dir.path().join("memory")).unwrap().parse().unwrap();
    for memory in [first, second] {
        assert!(memory < MEMORY, "{} MiB", memory / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gib_is_read_in_little_memory() {
    let sum = Sum::of_content(content()).await.unwrap();
    let crc32c = BASE64_STANDARD.encode(sum.crc32c.to_be_bytes());
    let object = json!({"name": "large", "size": GIB.to_string(), "generation": "7", "crc32c": crc32c}).to_string();
    let answer = async move |uri: Uri| match uri.query() {
        Some(query) if query.contains("alt=media") => {
            let head = [("x-goog-generation", "7".to_owned()), ("content-length", GIB.to_string())];
            (head, Body::from_stream(content())).into_response()
        }
        _ => object.into_response(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    let dir = tempfile::tempdir().unwrap();
    let mut child = run("reads", &url, dir.path());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    let memory: u64 = std::fs::read_to_string(dir.path().join("memory")).unwrap().parse().unwrap();
    assert!(memory < MEMORY, "{} MiB", memory / MIB);
}

/// One reading to its end, where the sum is compared; run by the other test as a process.
#[tokio::test]
#[ignore = "a part of another test"]
async fn reads() {
    let (url, dir) = (std::env::var(URL).unwrap(), std::path::PathBuf::from(std::env::var(DIR).unwrap()));
    let cx = CallContext::by_hand("read", TIMEOUT);
    let (artifact, mut content) = store(url).get(&cx, "large").await.unwrap().unwrap();
    let mut bytes = 0;
    while let Some(piece) = content.next().await {
        bytes += piece.unwrap().len() as u64;
    }
    assert_eq!((artifact.bytes, bytes), (GIB, GIB));
    std::fs::write(dir.join("memory"), highest_memory("self").to_string()).unwrap();
}

/// One upload that goes on where the last checkpoint in the directory says; run by the other test as a process.
#[tokio::test]
#[ignore = "a part of another test"]
async fn uploads() {
    let (url, dir) = (std::env::var(URL).unwrap(), std::path::PathBuf::from(std::env::var(DIR).unwrap()));
    let file = dir.join("checkpoint");
    let store = store(url);
    let mut request = PutRequest::new("large").size(GIB);
    if let Ok(text) = std::fs::read_to_string(&file) {
        request = request.resume(serde_json::from_str(&text).unwrap());
    }
    let request = request.watched(move |progress| {
        if let Some(checkpoint) = &progress.checkpoint {
            std::fs::write(file.with_extension("new"), serde_json::to_string(checkpoint).unwrap()).unwrap();
            std::fs::rename(file.with_extension("new"), &file).unwrap();
        }
    });
    store.put(&CallContext::by_hand("upload", TIMEOUT), &request, content()).await.unwrap();
    std::fs::write(dir.join("memory"), highest_memory("self").to_string()).unwrap();
}
