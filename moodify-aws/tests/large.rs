//! An upload of a GiB whose process is killed in the middle, and the memory that it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use moodify_aws::{ApiConfig, S3Artifacts, S3Config};
use moodify_core::CallContext;
use moodify_core::backend::{ArtifactStore, ArtifactStoreExt, Content, PutRequest, Sum};
use peer::gateway::Gateway;

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

fn store(url: &str) -> S3Artifacts {
    let api = ApiConfig::new("eu-central-1").endpoint(url).credentials(peer::KEY, peer::SECRET, None);
    S3Artifacts::new(S3Config::new(api, "artifacts")).unwrap()
}

/// This program, running [`uploads`].
fn upload(url: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "uploads", "--ignored", "--nocapture"])
        .env(URL, url)
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gib_whose_upload_is_killed_goes_on_in_little_memory() {
    let Some(server) = Gateway::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut child = upload(&server.url(), dir.path());
    while server.unfinished() < GIB / 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = highest_memory(&child.id().to_string());
    child.kill().unwrap();
    child.wait().unwrap();
    let cx = CallContext::by_hand("look", TIMEOUT);
    assert_eq!(store(&server.url()).head(&cx, "large").await.unwrap(), None, "it was killed in the middle");

    let mut child = upload(&server.url(), dir.path());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    let sent: u64 = std::fs::read_to_string(dir.path().join("sent")).unwrap().parse().unwrap();
    assert!(sent <= GIB / 2 + 8 * MIB, "what was there was not sent again: {sent}");
    let there = store(&server.url()).verify(&cx, "large").await.unwrap().unwrap();
    assert!(there.is(Sum::of_content(content()).await.unwrap()) && there.crc32c.is_some(), "{there}");
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
    let checkpoint = || -> Option<moodify_core::backend::Checkpoint> {
        serde_json::from_str(&std::fs::read_to_string(&file).ok()?).unwrap()
    };
    let begun = checkpoint().map_or(0, |checkpoint| checkpoint.stored.bytes);
    // As a step does: the server may still be busy with a part of whoever was killed.
    for attempt in 1.. {
        let mut request = PutRequest::new("large").size(GIB);
        let from = checkpoint();
        let stored = from.as_ref().map_or(0, |checkpoint| checkpoint.stored.bytes);
        if let Some(checkpoint) = from {
            request = request.resume(checkpoint);
        }
        let file = file.clone();
        let request = request.watched(move |progress| {
            if let Some(checkpoint) = &progress.checkpoint {
                assert!(checkpoint.stored.bytes > stored, "it goes on");
                std::fs::write(file.with_extension("new"), serde_json::to_string(checkpoint).unwrap()).unwrap();
                std::fs::rename(file.with_extension("new"), &file).unwrap();
            }
        });
        match store(&url).put(&CallContext::by_hand("upload", TIMEOUT), &request, content()).await {
            Ok(_) => break,
            Err(e) if e.is_transient() && attempt < 5 => eprintln!("attempt {attempt}: {e}"),
            Err(e) => panic!("attempt {attempt}: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    std::fs::write(dir.join("sent"), (GIB - begun).to_string()).unwrap();
    std::fs::write(dir.join("memory"), highest_memory("self").to_string()).unwrap();
}
