//! Who writes: this process with its sessions, and what can be known of others.
//!
//! A process that writes has a directory, `.processes/ID`, with
//! - `alive`, locked for as long as the process lives;
//! - `gate`, locked while somebody reads, extends or ends a session;
//! - `session-N`, one an owner: until when it lasts. It is ended by removing the file;
//! - `wal-N`, segments of its write-ahead log.
//!
//! So one file is touched to renew what an owner has, however many runs these are; and who takes over a run from a
//! session that ran out ends all of that session, and goes on with copies of the files: whatever the process writes later
//! is kept out of the runs. It need not be waited for, wherever it was stopped.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::held::Held;
use super::root::{LeaseFile, Root, boot_time, lock, storage};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::memory::ended;
use crate::model::RunId;

const BEGIN: &str = "begin to write to the journal";

/// This process, as a writer to one journal.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) root: Root,
    pub(super) id: String,
    pub(super) dir: PathBuf,
    /// Its lock tells other processes that this one lives.
    _alive: File,
    gate: Mutex<File>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// What it owns, by run.
    runs: Mutex<HashMap<RunId, Held>>,
}

/// What one owner has in common for all its runs: the time until which they are its own.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) owner: String,
    number: u64,
    path: PathBuf,
    file: File,
    /// Until when it lasts, by the time since the machine was started, as far as this process knows.
    until: AtomicU64,
    ended: AtomicBool,
}

impl Session {
    /// Whether it was ended by another owner. Ended once, ended for good.
    pub(super) fn is_ended(&self) -> bool {
        if !self.ended.load(Ordering::Acquire) && self.file.metadata().is_ok_and(|file| file.nlink() == 0) {
            self.ended.store(true, Ordering::Release);
        }
        self.was_ended()
    }

    /// The same, as far as this process has noticed.
    pub(super) fn was_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Process {
    /// Makes this process known.
    pub(super) fn begin(root: &Root) -> Result<Self> {
        let random = uuid::Uuid::now_v7().simple().to_string();
        let id = format!("{}-{}", std::process::id(), &random[random.len() - 12..]);
        let processes = root.processes();
        root.ensure(&processes)?;
        // It appears with its lock held, or it might be taken for dead; meanwhile nobody cleans up.
        let hold = File::open(&processes).and_then(|dir| dir.lock_shared().map(|()| dir));
        let _hold = hold.map_err(|e| storage(BEGIN, &processes, e))?;
        let (new, dir) = (processes.join(format!(".{id}")), processes.join(&id));
        let make = || {
            root.disk.create_dir(&new)?;
            let alive = root.disk.create(&new.join("alive"))?;
            alive.lock()?;
            let gate = root.disk.create(&new.join("gate"))?;
            root.disk.rename(&new, &dir)?;
            root.disk.sync_dir(&processes)?;
            Ok((alive, gate))
        };
        let (alive, gate) = make().map_err(|e| {
            let _ = fs::remove_dir_all(&new);
            storage(BEGIN, &dir, e)
        })?;
        Ok(Self {
            root: root.clone(),
            id,
            dir,
            _alive: alive,
            gate: Mutex::new(gate),
            sessions: Mutex::default(),
            runs: Mutex::default(),
        })
    }

    /// What it owns.
    pub(super) fn runs(&self) -> MutexGuard<'_, HashMap<RunId, Held>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` while nobody else looks at the sessions of this process, or ends one.
    pub(super) fn in_gate<T>(&self, operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        lock(&gate, &self.dir, operation)?;
        let result = work();
        let _ = gate.unlock();
        result
    }

    /// When the gate is needed as well, the gate comes first.
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notices which sessions were ended by others.
    pub(super) fn note_ended(&self) {
        self.sessions().retain(|_, session| !session.is_ended());
    }

    /// The owner's session, which lasts for `ttl` from now at least.
    pub(super) fn session(&self, owner: &str, ttl: Duration) -> Result<Arc<Session>> {
        self.in_gate("begin a session", || {
            let mut sessions = self.sessions();
            if let Some(session) = sessions.get(owner).filter(|session| !session.is_ended()) {
                if until(ttl) > session.until.load(Ordering::Relaxed) {
                    self.extend(session, ttl)?;
                }
                return Ok(session.clone());
            }
            let number = next_number();
            let path = self.dir.join(format!("session-{number}"));
            let file = self.root.disk.create(&path).map_err(|e| storage("begin a session", &path, e))?;
            let (until, ended) = (AtomicU64::new(0), AtomicBool::new(false));
            let session = Arc::new(Session { owner: owner.to_owned(), number, path, file, until, ended });
            if let Err(e) = self.extend(&session, ttl) {
                let _ = fs::remove_file(&session.path);
                return Err(e);
            }
            sessions.insert(owner.to_owned(), session.clone());
            Ok(session)
        })
    }

    /// Lets the owner's session last for `ttl` from now.
    pub(super) fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        let session = self.sessions().get(owner).cloned();
        self.in_gate("renew the session", || match session.filter(|session| !session.is_ended()) {
            Some(session) => self.extend(&session, ttl),
            None => {
                self.runs().retain(|_, held| !held.session.is_ended());
                Err(ended(owner))
            }
        })
    }

    fn extend(&self, session: &Session, ttl: Duration) -> Result<()> {
        let until = until(ttl);
        // As long as ever, so that renewing needs no space.
        let text = format!("{until:020}\n");
        let written = self.root.disk.write_at(&session.file, text.as_bytes(), 0);
        written.map_err(|e| storage("renew the session", &session.path, e))?;
        session.until.store(until, Ordering::Relaxed);
        Ok(())
    }

    /// The lease of a run for an owner of this process.
    pub(super) fn lease(&self, owner: &str, token: u64, session: &Session) -> LeaseFile {
        let process = Some(self.id.clone());
        LeaseFile { owner: owner.to_owned(), token, process, session: session.number }
    }

    /// Whether a lease is that owner's own, and lasts.
    pub(super) fn is_own(&self, lease: &LeaseFile, owner: &str) -> bool {
        let own = lease.process.as_ref() == Some(&self.id) && lease.owner == owner;
        own && self.sessions().get(owner).is_some_and(|session| session.number == lease.session)
    }
}

fn until(ttl: Duration) -> u64 {
    boot_time().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What has become of the owner that a lease names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has the run.
    Free,
    /// Its owner has it.
    Owned,
    /// Its owner lives, but did not renew its session in time.
    RanOut,
    /// Another owner ended its session. Its process lives, and may be stopped in the middle of a write.
    Over,
    /// Its owner's process is dead; what it wrote may have to be recovered.
    Dead,
}

/// Whether the process with that directory lives; none if it has none, since it ended as it should or was recovered.
pub(super) fn lives(dir: &Path) -> io::Result<Option<bool>> {
    match File::open(dir.join("alive")) {
        // Shared: so two that ask at once do not take each other for the process.
        Ok(alive) => match alive.try_lock_shared() {
            Ok(()) => Ok(Some(false)),
            Err(TryLockError::WouldBlock) => Ok(Some(true)),
            Err(TryLockError::Error(e)) => Err(e),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(dir.is_dir().then_some(false)),
        Err(e) => Err(e),
    }
}

/// Where the owner stands that a lease names. With `end`, a session that ran out is ended.
pub(super) fn standing(root: &Root, run: &RunId, lease: &LeaseFile, end: bool) -> Result<Standing> {
    const OPERATION: &str = "look at the owner";
    let Some(process) = &lease.process else {
        // As version 1.0 of the format left it: a lock of its own on each run tells whether its owner lives.
        let path = root.run(run).join("alive");
        let living = match File::open(&path) {
            Ok(alive) => matches!(alive.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(storage(OPERATION, &path, e)),
        };
        return Ok(if living { Standing::Owned } else { Standing::Free });
    };
    let dir = root.processes().join(process);
    match lives(&dir).map_err(|e| storage(OPERATION, &dir, e))? {
        None => return Ok(Standing::Free),
        Some(false) => return Ok(Standing::Dead),
        Some(true) => {}
    }
    let session = dir.join(format!("session-{}", lease.session));
    let gate = dir.join("gate");
    let look = || -> io::Result<Standing> {
        let gate = File::open(&gate)?;
        lock(&gate, &dir, OPERATION).map_err(io::Error::other)?;
        let text = fs::read_to_string(&session)?;
        let until: u64 = text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is not a time")))?;
        if boot_time() < until {
            return Ok(Standing::Owned);
        }
        if !end {
            return Ok(Standing::RanOut);
        }
        root.disk.remove_file(&session)?;
        Ok(Standing::Over)
    };
    match look() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Standing::Over),
        other => other.map_err(|e| match e.downcast::<Error>() {
            Ok(error) => error,
            Err(e) => storage(OPERATION, &session, e),
        }),
    }
}

/// Why a run of a dead process cannot be taken.
pub(super) fn unrecovered(run: &RunId, process: &str, kind: ErrorKind, why: &str) -> Error {
    let message = format!("what its last owner's process {process} wrote cannot be recovered: {why}");
    Error::new(kind, "journal", "take the run", message).on(run.as_str())
}
