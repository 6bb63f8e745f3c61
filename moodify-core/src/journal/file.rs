use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::codec::{self, Chain};
use super::memory::{fenced, owned};
use super::{Command, Entry, JournalStore, Lease};
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::model::RunId;

/// A directory of journals: `RUN/journal`, `RUN/lease`, `RUN/inbox/ID`.
///
/// Safe against several processes: every change of a run's files is made under an advisory lock on `RUN/lock`. A
/// second lock, `RUN/alive`, is held by the owner for as long as its process lives, so that a run of a dead process is
/// taken over at once, and one of a stuck process when its lease expires.
///
/// ```no_run
/// use moodify_core::journal::FileJournal;
/// let journal = FileJournal::open(".moodify").unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct FileJournal {
    root: PathBuf,
    held: Arc<Mutex<HashMap<RunId, Held>>>,
}

/// What this process keeps of a run that it owns.
#[derive(Debug)]
struct Held {
    /// Its lock tells other processes that this one lives.
    _alive: File,
    journal: File,
    chain: Chain,
    /// The journal's length; what is beyond was never acknowledged.
    whole: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaseFile {
    owner: String,
    token: u64,
    until: Option<Timestamp>,
}

impl FileJournal {
    /// Opens a directory, and makes it if need be.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] if it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|e| storage("open the journal", &root, e))?;
        Ok(Self { root, held: Arc::default() })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn dir(&self, run: &RunId) -> PathBuf {
        self.root.join(run.as_str())
    }

    /// Does `work` on a thread that may block, under the run's lock.
    async fn locked<T: Send + 'static>(
        &self,
        run: &RunId,
        operation: &'static str,
        work: impl FnOnce(&Self, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, run) = (self.clone(), run.clone());
        blocking(operation, move || {
            let dir = this.dir(&run);
            let path = dir.join("lock");
            let lock = match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(lock) => lock,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::NotFound, "journal", operation, "there is no such run")
                        .on(run.as_str())
                        .hint(format!("the journal is in {}", this.root.display())));
                }
                Err(e) => return Err(storage(operation, &path, e)),
            };
            lock.lock().map_err(|e| storage(operation, &path, e))?;
            work(&this, &dir)
        })
        .await
    }

    fn held<T>(&self, change: impl FnOnce(&mut HashMap<RunId, Held>) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Internal, "journal", operation, "the worker panicked").with_source(e))
    })
}

fn storage(operation: &'static str, path: &Path, e: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "journal", operation, e.to_string())
        .on(path.display().to_string())
        .effect(Effect::Unknown)
        .hint("free the disk or mend its permissions, then resume; nothing was begun that is not in the journal")
        .with_source(e)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a whole file so that it is there completely or not at all, also after a crash.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn read_lease(dir: &Path) -> Result<LeaseFile> {
    let path = dir.join("lease");
    match read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "journal", "read the lease", e.to_string()).on(path.display().to_string())
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(LeaseFile { owner: String::new(), token: 0, until: None }),
        Err(e) => Err(storage("read the lease", &path, e)),
    }
}

fn write_lease(dir: &Path, lease: &LeaseFile) -> Result<()> {
    let bytes = serde_json::to_vec(lease).unwrap_or_default();
    replace(dir, "lease", &bytes).map_err(|e| storage("write the lease", &dir.join("lease"), e))
}

fn check_lease(dir: &Path, run: &RunId, lease: &Lease) -> Result<LeaseFile> {
    let current = read_lease(dir)?;
    if current.token == lease.token { Ok(current) } else { Err(fenced(run, &current.owner)) }
}

#[async_trait]
impl JournalStore for FileJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        const OPERATION: &str = "create the run";
        let (this, run, first) = (self.clone(), run.clone(), first.clone());
        blocking(OPERATION, move || {
            let dir = this.dir(&run);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(
                        Error::new(ErrorKind::AlreadyExists, "journal", OPERATION, "it exists").on(run.as_str())
                    );
                }
                other => other.map_err(|e| storage(OPERATION, &dir, e))?,
            }
            let (lines, _) = codec::encode(&[first], &Chain::start())?;
            let text = codec::header() + &lines;
            let make = || {
                fs::create_dir(dir.join("inbox"))?;
                File::create(dir.join("lock"))?;
                replace(&dir, "journal", text.as_bytes())?;
                File::open(&this.root)?.sync_all()
            };
            make().map_err(|e| storage(OPERATION, &dir, e))
        })
        .await
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        const OPERATION: &str = "append to the journal";
        let (run_id, lease, entries) = (run.clone(), lease.clone(), entries.to_vec());
        self.locked(run, OPERATION, move |this, dir| {
            check_lease(dir, &run_id, &lease)?;
            let path = dir.join("journal");
            this.held(|all| {
                let held = all.get_mut(&run_id).ok_or_else(|| fenced(&run_id, "this process gave it up"))?;
                if entries.first().is_some_and(|e| e.seq != expected + 1) {
                    let message = format!("record {} cannot follow record {expected}", entries[0].seq);
                    return Err(Error::new(ErrorKind::Internal, "journal", OPERATION, message));
                }
                let (lines, chain) = codec::encode(&entries, &held.chain)?;
                let write = |file: &mut File| {
                    file.seek(SeekFrom::Start(held.whole))?;
                    file.write_all(lines.as_bytes())?;
                    file.sync_data()
                };
                if let Err(e) = write(&mut held.journal) {
                    // What was not acknowledged is taken out again, so that the next append starts clean.
                    let _ = held.journal.set_len(held.whole);
                    return Err(storage(OPERATION, &path, e));
                }
                held.whole += lines.len() as u64;
                held.chain = chain;
                Ok(())
            })
        })
        .await
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        let run_id = run.clone();
        self.locked(run, "read the journal", move |_, dir| {
            let path = dir.join("journal");
            let bytes = read(&path).map_err(|e| storage("read the journal", &path, e))?;
            codec::decode(&bytes).map(|d| d.entries).map_err(|e| e.on(run_id.as_str()))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        let root = self.root.clone();
        blocking("list the runs", move || {
            let listed = fs::read_dir(&root).map_err(|e| storage("list the runs", &root, e))?;
            let names = listed.flatten().filter(|d| d.path().join("journal").exists());
            let mut runs: Vec<RunId> =
                names.filter_map(|d| RunId::new(d.file_name().to_string_lossy().into_owned()).ok()).collect();
            runs.sort();
            Ok(runs)
        })
        .await
    }

    async fn acquire(&self, run: &RunId, owner: &str, now: Timestamp, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "take the run";
        let (run_id, owner) = (run.clone(), owner.to_owned());
        self.locked(run, OPERATION, move |this, dir| {
            let current = read_lease(dir)?;
            let path = dir.join("alive");
            let alive = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let alive = alive.map_err(|e| storage(OPERATION, &path, e))?;
            this.held(|all| all.remove(&run_id).filter(|_| current.owner == owner).map(drop));
            match alive.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if current.until.is_some_and(|until| until > now) => {
                    return Err(owned(&run_id, &current.owner));
                }
                // Alive but stuck: it is fenced by the token from here on.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(storage(OPERATION, &path, e)),
            }
            let path = dir.join("journal");
            let bytes = read(&path).map_err(|e| storage(OPERATION, &path, e))?;
            let decoded = codec::decode(&bytes).map_err(|e| e.on(run_id.as_str()))?;
            let journal = OpenOptions::new().write(true).open(&path).map_err(|e| storage(OPERATION, &path, e))?;
            let whole = decoded.whole as u64;
            if bytes.len() > decoded.whole {
                journal.set_len(whole).map_err(|e| storage(OPERATION, &path, e))?;
            }
            let lease = Lease { owner: owner.clone(), token: current.token + 1 };
            write_lease(dir, &LeaseFile { owner, token: lease.token, until: Some(now + ttl) })?;
            let held = Held { _alive: alive, journal, chain: decoded.chain, whole };
            this.held(|all| all.insert(run_id, held));
            Ok(lease)
        })
        .await
    }

    async fn renew(&self, run: &RunId, lease: &Lease, now: Timestamp, ttl: Duration) -> Result<()> {
        let (run_id, lease) = (run.clone(), lease.clone());
        self.locked(run, "renew the lease", move |_, dir| {
            let current = check_lease(dir, &run_id, &lease)?;
            write_lease(dir, &LeaseFile { until: Some(now + ttl), ..current })
        })
        .await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        let (run_id, lease) = (run.clone(), lease.clone());
        self.locked(run, "give up the run", move |this, dir| {
            let current = read_lease(dir)?;
            if current.token == lease.token {
                write_lease(dir, &LeaseFile { until: None, ..current })?;
            }
            this.held(|all| all.remove(&run_id));
            Ok(())
        })
        .await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        const OPERATION: &str = "find the owner";
        self.locked(run, OPERATION, move |_, dir| {
            let current = read_lease(dir)?;
            let path = dir.join("alive");
            let alive = match OpenOptions::new().write(true).open(&path) {
                Ok(alive) => alive,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(storage(OPERATION, &path, e)),
            };
            // Whoever lives holds the lock; nobody takes the run meanwhile, because this is done under `RUN/lock`.
            match alive.try_lock() {
                Err(TryLockError::WouldBlock) => Ok(Some(current.owner)),
                Ok(()) => Ok(None),
                Err(TryLockError::Error(e)) => Err(storage(OPERATION, &path, e)),
            }
        })
        .await
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        let command = command.clone();
        self.locked(run, "send a command", move |_, dir| {
            let inbox = dir.join("inbox");
            let bytes = serde_json::to_vec(&command).unwrap_or_default();
            replace(&inbox, &command.id, &bytes).map_err(|e| storage("send a command", &inbox, e))
        })
        .await
    }

    async fn inbox(&self, run: &RunId) -> Result<Vec<Command>> {
        const OPERATION: &str = "read the inbox";
        // Without the lock: files appear whole, and this is asked several times a second.
        let inbox = self.dir(run).join("inbox");
        blocking(OPERATION, move || {
            let listed = fs::read_dir(&inbox).map_err(|e| storage(OPERATION, &inbox, e))?;
            let visible = |name: &std::ffi::OsStr| !name.to_string_lossy().starts_with('.');
            let mut names: Vec<_> = listed.flatten().map(|d| d.file_name()).filter(|n| visible(n)).collect();
            names.sort();
            let mut commands = Vec::new();
            for name in names {
                let path = inbox.join(&name);
                let bytes = read(&path).map_err(|e| storage(OPERATION, &path, e))?;
                match serde_json::from_slice(&bytes) {
                    Ok(command) => commands.push(command),
                    Err(e) => tracing::warn!(path = %path.display(), %e, "a file in the inbox is not a command"),
                }
            }
            Ok(commands)
        })
        .await
    }
}
