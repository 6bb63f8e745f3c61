//! What the tests of the journal share.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moodify_core::journal::{Entry, JournalStore, Lease, Record};
use moodify_core::model::RunId;

pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn named(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

/// A record that is different for each number and token.
pub(crate) fn entry(seq: u64, token: u64) -> Entry {
    let record = Record::Held { step: "bake".to_owned(), reason: format!("record {seq} of token {token}") };
    Entry { seq, time: "2026-11-24T15:30:00Z".parse().unwrap(), elapsed_ms: Some(seq), token, record }
}

/// Creates a run and takes it.
pub(crate) async fn begun(store: &dyn JournalStore, name: &str, owner: &str) -> (RunId, Lease) {
    let run = named(name);
    store.create(&run, &entry(1, 0)).await.unwrap();
    let lease = store.acquire(&run, owner, LONG).await.unwrap();
    (run, lease)
}

/// Appends records up to that number.
pub(crate) async fn fill(store: &dyn JournalStore, run: &RunId, lease: &Lease, from: u64, to: u64) {
    for seq in from..=to {
        store.append(run, lease, seq - 1, &[entry(seq, lease.token)]).await.unwrap();
    }
}

/// A directory on a disk, not in memory.
pub(crate) fn on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Copies a directory as it is: what a machine that died just now would find. None of its processes lives in the copy.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A directory in memory, if there is one: where the disk is only pretended, syncing the real one would take its time.
pub(crate) fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The segments of the write-ahead logs below a journal's directory.
pub(crate) fn segments(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for process in fs::read_dir(root.join(".processes")).into_iter().flatten() {
        for file in fs::read_dir(process.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("wal-") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
