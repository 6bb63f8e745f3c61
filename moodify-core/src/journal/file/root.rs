//! Where everything lies, and the small things that every part does with files.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::model::RunId;

/// How long it is waited for another process to let go of a lock, which it holds for a moment only.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory of the journal, on its disk.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) path: Arc<Path>,
    pub(super) disk: Arc<dyn Disk>,
}

/// What `RUN/lease` says: who has the run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct LeaseFile {
    pub(super) owner: String,
    pub(super) token: u64,
    /// The process of the owner; none if the run was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<String>,
    /// The owner's session in it.
    #[serde(default)]
    pub(super) session: u64,
}

impl Root {
    /// What of a run is here: its directory. None of the names beside them is that of a run.
    pub(super) fn run(&self, run: &RunId) -> PathBuf {
        self.path.join(run.as_str())
    }

    pub(super) fn journal(&self, run: &RunId) -> PathBuf {
        self.run(run).join("journal")
    }

    pub(super) fn processes(&self) -> PathBuf {
        self.path.join(".processes")
    }

    pub(super) fn inbox(&self) -> PathBuf {
        self.path.join(".inbox")
    }

    /// Makes a directory beside the runs, if it is not there.
    pub(super) fn ensure(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        match self.disk.create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(storage("open the journal", dir, e)),
            _ => self.disk.sync_dir(&self.path).map_err(|e| storage("open the journal", dir, e)),
        }
    }

    /// Locks a run's directory against other processes and threads.
    pub(super) fn lock_run(&self, run: &RunId, operation: &'static str) -> Result<File> {
        let path = self.run(run);
        loop {
            let dir = match File::open(&path) {
                Ok(dir) => dir,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.no_such_run(run, operation)),
                Err(e) => return Err(storage(operation, &path, e)),
            };
            lock(&dir, &path, operation)?;
            // It may have been removed while we waited.
            let same = |path: &Path| Ok::<_, io::Error>(dir.metadata()?.ino() == path.metadata()?.ino());
            match same(&path) {
                Ok(true) => return Ok(dir),
                Ok(false) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(storage(operation, &path, e)),
            }
        }
    }

    pub(super) fn no_such_run(&self, run: &RunId, operation: &'static str) -> Error {
        Error::new(ErrorKind::NotFound, "journal", operation, "there is no such run")
            .on(run.as_str())
            .hint(format!("the journal is in {}", self.path.display()))
    }

    /// A run's own file, whole.
    pub(super) fn read_journal(&self, run: &RunId, operation: &'static str) -> Result<Vec<u8>> {
        let path = self.journal(run);
        match read(&path) {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.no_such_run(run, operation)),
            Err(e) => Err(storage(operation, &path, e)),
        }
    }

    pub(super) fn read_lease(&self, run: &RunId) -> Result<LeaseFile> {
        let path = self.run(run).join("lease");
        match read(&path) {
            // It is not synced, since it means nothing after a crash of the machine; this is what one may leave.
            Ok(bytes) if bytes.iter().all(|b| *b == 0) => Ok(LeaseFile::default()),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(ErrorKind::Corrupt, "journal", "read the lease", e.to_string())
                    .on(path.display().to_string())
                    .hint("once no process uses this journal, delete that file and resume")
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(LeaseFile::default()),
            Err(e) => Err(storage("read the lease", &path, e)),
        }
    }

    /// Writes the lease, under the run's lock; whole or not at all, as far as living processes can see.
    pub(super) fn write_lease(&self, run: &RunId, lease: &LeaseFile) -> Result<()> {
        let (dir, path) = (self.run(run), self.run(run).join("lease"));
        let new = dir.join(".lease");
        let write = || {
            let bytes = serde_json::to_vec(lease)?;
            let file = self.disk.create(&new)?;
            self.disk.set_len(&file, 0)?;
            self.disk.write_at(&file, &bytes, 0)?;
            self.disk.rename(&new, &path)
        };
        write().map_err(|e| storage("write the lease", &path, e))
    }
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or_default());
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Locks a file that is never locked for long. Gives up if its holder seems to be stopped.
#[expect(clippy::disallowed_methods, reason = "a lock is waited for on a thread that may block")]
pub(super) fn lock(file: &File, path: &Path, operation: &'static str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process has held its lock for {PATIENCE:?}");
                return Err(Error::new(ErrorKind::Storage, "journal", operation, message)
                    .on(path.display().to_string())
                    .hint("locks are held for moments only: a process that uses this journal is stopped; let it go on, or kill it"));
            }
            Err(TryLockError::Error(e)) => return Err(storage(operation, path, e)),
        }
    }
}

pub(super) fn storage(operation: &'static str, path: &Path, e: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "journal", operation, e.to_string())
        .on(path.display().to_string())
        .effect(Effect::Unknown)
        .hint("free the disk or mend its permissions, then resume; nothing was begun that is not in the journal")
        .with_source(e)
}

/// Milliseconds since the machine was started, also while it slept: no change of the wall clock moves it.
pub(super) fn boot_time() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}

/// Does `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Internal, "journal", operation, "the worker panicked").with_source(e))
    })
}
