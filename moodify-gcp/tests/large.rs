//! An upload of a GiB whose process is killed in the middle, and the memory that it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use moodify_core::CallContext;
use moodify_core::backend::{ArtifactStore, Content, PutRequest, Sum};
use moodify_gcp::{ApiConfig, CloudStorage, StorageConfig};
use peer::storage::StrictStorage;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// What an upload may take, whatever its size: the whole process, at its highest.
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

/// This program, running [`uploads`].
fn upload(url: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "uploads", "--ignored"])
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
    let mut child = upload(&server.url(), dir.path());
    while server.received() < GIB / 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = highest_memory(&child.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(server.received() < GIB && server.sum_of("large").is_none(), "it was killed in the middle");

    let mut child = upload(&server.url(), dir.path());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(server.sum_of("large"), Some(Sum::of_content(content()).await.unwrap()));
    assert!(server.received() <= GIB + 8 * MIB, "only what was on its way is sent twice: {}", server.received());
    let second: u64 = std::fs::read_to_string(dir.path().join("memory")).unwrap().parse().unwrap();
    for memory in [first, second] {
        assert!(memory < MEMORY, "{} MiB", memory / MIB);
    }
}

/// One upload that goes on where the last checkpoint in the directory says; run by the other test as a process.
#[tokio::test]
#[ignore = "a part of another test"]
async fn uploads() {
    let (url, dir) = (std::env::var(URL).unwrap(), std::path::PathBuf::from(std::env::var(DIR).unwrap()));
    let file = dir.join("checkpoint");
    let api = ApiConfig::new().endpoint(url).anonymous();
    let store = CloudStorage::new(StorageConfig::new("artifacts").api(api)).unwrap();
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
