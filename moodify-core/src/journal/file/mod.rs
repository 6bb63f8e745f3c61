mod disk;
mod held;
mod inbox;
mod process;
mod recovery;
mod root;
mod segments;
mod wal;
mod writer;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::disk::{Disk, RealDisk};
use self::held::Held;
use self::inbox::Inbox;
use self::process::{Process, Standing, standing, unrecovered};
use self::root::{LeaseFile, Root, blocking, storage};
use self::writer::{APPEND, CREATE, What, Writer};
use super::codec::{self, Journal};
use super::memory::owned;
use super::{Command, Entry, JournalStore, Lease, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::model::RunId;

/// A directory of journals, safe against several processes, crashes of any of them, and loss of power.
///
/// - `RUN/journal`: the records of a run, one line each, with chained checksums;
/// - `RUN/lease`: who has it;
/// - `.processes/ID`: what a living process needs, with its write-ahead log; gone when it ends as it should;
/// - `.inbox/RUN.ID`: commands that wait.
///
/// Appends of many runs share one sync: one thread takes all that wait, makes them durable in a write-ahead log, and
/// writes them into the runs' own files, which are synced later. What a dead process left in its log is put into the
/// runs' files when the journal is opened, or when one of its runs is taken.
///
/// Whoever owns runs keeps a lock for as long as its process lives, so that runs of a dead process are taken over at
/// once. Those of a stuck one are taken over when its session runs out, by a clock that counts since the start of the
/// machine. So all processes must run on one machine, and the directory must be on a file system of its own, not on a
/// network. An owner is one place in one process: two that use the same name are two owners.
///
/// An append that fails has no effect that anybody acts on: the run must be taken again, and its records read, before
/// there can be another. The journal itself needs no new start when the disk is well again.
///
/// Dropping the last clone of it waits until everything is in the runs' own files, which takes milliseconds.
///
/// ```no_run
/// use moodify_core::journal::FileJournal;
/// let journal = FileJournal::open(".moodify").unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct FileJournal {
    inner: Arc<Inner>,
}

/// How a [`FileJournal`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileJournalOptions {
    /// How often the inboxes of runs are looked into, while anybody waits: the most that a command of another process
    /// waits. One look serves all runs.
    pub poll: Duration,
    /// The largest size of a segment of the write-ahead log, in bytes; the first one is smaller. Two of them may be
    /// there at a time.
    pub segment: u64,
}

impl Default for FileJournalOptions {
    /// A look 5 times a second; segments of 8 MiB at most.
    fn default() -> Self {
        Self { poll: Duration::from_millis(200), segment: 8 * 1024 * 1024 }
    }
}

#[derive(Debug)]
struct Inner {
    root: Root,
    segment: u64,
    inbox: Inbox,
    /// Begun when this process first writes.
    writer: Mutex<Option<Arc<Writer>>>,
}

impl FileJournal {
    /// Opens a directory, and makes it if need be. Recovers what dead processes left, as far as that can be done; what
    /// cannot be recovered is logged, and the runs that it concerns cannot be taken.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] if it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(root, &FileJournalOptions::default())
    }

    /// The same, with other options.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(root: impl Into<PathBuf>, options: &FileJournalOptions) -> Result<Self> {
        Self::open_on(root.into(), options, Arc::new(RealDisk))
    }

    pub(crate) fn open_on(path: PathBuf, options: &FileJournalOptions, disk: Arc<dyn Disk>) -> Result<Self> {
        fs::create_dir_all(&path).map_err(|e| storage("open the journal", &path, e))?;
        let root = Root { path: path.into(), disk };
        if let Err(e) = recovery::recover(&root) {
            // Reading is still of use, and taking a run that is concerned says it again.
            tracing::error!(error = %e, "what dead processes wrote to the journal could not be recovered");
        }
        let &FileJournalOptions { poll, segment } = options;
        let inbox = Inbox::new(root.clone(), poll);
        Ok(Self { inner: Arc::new(Inner { root, segment, inbox, writer: Mutex::default() }) })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root.path
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        blocking(operation, move || work(&inner)).await
    }

    /// Hands a request to the writer and waits for the answer.
    async fn write(&self, operation: &'static str, run: &RunId, what: What) -> Result<()> {
        let writer = match self.inner.begun() {
            Some(writer) => writer,
            None => self.blocking(operation, Inner::writer).await?,
        };
        let answer = writer.send(run, what);
        let answered =
            if clock_stands() { blocking(operation, || Ok(answer.blocking_recv())).await? } else { answer.await };
        answered.unwrap_or_else(|e: oneshot::error::RecvError| {
            Err(Error::new(ErrorKind::Internal, "journal", operation, "the writing thread has ended")
                .on(run.as_str())
                .hint("start this process anew and resume")
                .with_source(e))
        })
    }
}

/// Whether tokio's clock is paused. Then it must be told that something is under way, or it jumps ahead while the disk
/// is waited for; it is told so by waiting on a thread that may block.
fn clock_stands() -> bool {
    Instant::now() == Instant::now()
}

impl Inner {
    fn begun(&self) -> Option<Arc<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn writer(&self) -> Result<Arc<Writer>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.as_ref() {
            return Ok(writer.clone());
        }
        let process = Process::begin(&self.root)?;
        let dir = process.dir.clone();
        let begun = Writer::begin(process, self.segment).map_err(|e| storage("begin to write", &dir, e))?;
        Ok(writer.insert(Arc::new(begun)).clone())
    }

    /// Locks a run that nobody has, or that `owner` of this process has; ends a session that ran out. Says also where the
    /// owner before stands.
    fn claim(
        &self,
        run: &RunId,
        owner: Option<(&Process, &str)>,
        operation: &'static str,
    ) -> Result<(File, LeaseFile, Standing)> {
        let mut recovered = None;
        loop {
            let lock = self.root.lock_run(run, operation)?;
            let lease = self.root.read_lease(run)?;
            if owner.is_some_and(|(process, owner)| process.is_own(&lease, owner)) {
                return Ok((lock, lease, Standing::Free));
            }
            match standing(&self.root, run, &lease, true)? {
                free @ (Standing::Free | Standing::RanOut | Standing::Over) => return Ok((lock, lease, free)),
                Standing::Owned => return Err(owned(run, &lease.owner)),
                Standing::Dead => {
                    let dead = lease.process.unwrap_or_default();
                    if let Some(kept) = recovered {
                        let kept: Vec<recovery::Kept> = kept;
                        let why = kept.into_iter().find(|kept| kept.process == dead).map(|kept| kept.error);
                        let kind = why.as_ref().map_or(ErrorKind::Storage, Error::kind);
                        let why = why.map_or_else(|| "it is being recovered".to_owned(), |e| e.to_string());
                        return Err(unrecovered(run, &dead, kind, &why));
                    }
                    drop(lock);
                    recovered = Some(recovery::recover(&self.root)?);
                }
            }
        }
    }

    fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "take the run";
        let writer = self.writer()?;
        let process = &writer.process;
        let (_lock, before, standing) = self.claim(run, Some((process, owner)), OPERATION)?;
        // From here on, nothing more is appended under an older lease.
        process.runs().remove(run);
        let bytes = self.root.read_journal(run, OPERATION)?;
        if standing == Standing::Over {
            self.detach(run, &bytes).map_err(|e| storage(OPERATION, &self.root.journal(run), e))?;
        }
        let journal = Journal::parse(&bytes).map_err(|e| e.on(run.as_str()))?;
        journal.writable().map_err(|e| e.on(run.as_str()))?;
        let last = journal.last().map_err(|e| e.on(run.as_str()))?;
        let whole = journal.whole as u64;
        if bytes.len() as u64 > whole {
            let path = self.root.journal(run);
            let cut = self.root.disk.open(&path).and_then(|file| self.root.disk.set_len(&file, whole));
            cut.map_err(|e| storage(OPERATION, &path, e))?;
        }
        let session = process.session(owner, ttl)?;
        let lease = Lease { owner: owner.to_owned(), token: before.token.max(last.token) + 1 };
        self.root.write_lease(run, &process.lease(owner, lease.token, &session))?;
        let held = Held {
            token: lease.token,
            session,
            seq: last.seq,
            chain: journal.chain_after(journal.lines().len()),
            origin: journal.chain_after(1),
            whole,
            batch: 0,
            file: None,
            failed: false,
        };
        process.runs().insert(run.clone(), held);
        Ok(lease)
    }

    /// Puts a copy in the place of a run's file, out of reach for an owner before that may go on with a write.
    fn detach(&self, run: &RunId, bytes: &[u8]) -> io::Result<()> {
        let (dir, disk) = (self.root.run(run), &self.root.disk);
        let new = dir.join(".journal");
        let file = disk.create(&new)?;
        disk.set_len(&file, 0)?;
        disk.write_at(&file, bytes, 0)?;
        disk.sync(&file)?;
        disk.rename(&new, &dir.join("journal"))?;
        disk.sync_dir(&dir)
    }

    fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        let _lock = self.root.lock_run(run, "give up the run")?;
        let current = self.root.read_lease(run)?;
        if current.token != lease.token || current.owner != lease.owner {
            return Ok(());
        }
        if let Some(writer) = self.begun() {
            writer.process.runs().remove(run);
        }
        let free = LeaseFile { token: current.token, ..LeaseFile::default() };
        self.root.write_lease(run, &free).or_else(|e| {
            // On a full disk there is no place for a new file, but the old one can go: the token is in the records.
            let path = self.root.run(run).join("lease");
            self.root.disk.remove_file(&path).map_err(|_| e)
        })
    }

    fn holder(&self, run: &RunId) -> Result<Option<String>> {
        if !self.root.journal(run).exists() {
            return Err(self.root.no_such_run(run, "find the owner"));
        }
        let lease = self.root.read_lease(run)?;
        let living = matches!(standing(&self.root, run, &lease, false)?, Standing::Owned | Standing::RanOut);
        Ok(living.then_some(lease.owner))
    }

    fn remove(&self, run: &RunId) -> Result<()> {
        const OPERATION: &str = "remove the run";
        let (_lock, ..) = self.claim(run, None, OPERATION)?;
        let dir = self.root.run(run);
        let random = uuid::Uuid::now_v7().simple().to_string();
        let gone = self.root.path.join(format!(".removed-{run}-{}", &random[random.len() - 12..]));
        // When its directory is durably gone, no log brings it back; the rest may be broken off.
        let remove = || {
            self.root.disk.rename(&dir, &gone)?;
            self.root.disk.sync_dir(&self.root.path)?;
            inbox::clear(&self.root, run)?;
            self.root.disk.remove_dir_all(&gone)
        };
        remove().map_err(|e| storage(OPERATION, &dir, e))
    }

    fn list(&self) -> Result<Vec<RunId>> {
        let failed = |e| storage("list the runs", &self.root.path, e);
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.root.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let run = name.into_string().ok().and_then(|name| RunId::new(name).ok());
            runs.extend(run.filter(|run| self.root.journal(run).exists()));
        }
        runs.sort();
        Ok(runs)
    }
}

#[async_trait]
impl JournalStore for FileJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        self.write(CREATE, run, What::Create { json: codec::json(first)? }).await
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        let mut jsons = Vec::with_capacity(entries.len());
        let mut commands = Vec::new();
        for (seq, entry) in (expected + 1..).zip(entries) {
            if entry.seq != seq {
                let message = format!("record {} cannot follow record {}", entry.seq, seq - 1);
                return Err(Error::new(ErrorKind::Internal, "journal", APPEND, message).on(run.as_str()));
            }
            if let Record::Commanded { command, .. } = &entry.record {
                commands.push(command.id.clone());
            }
            jsons.push(codec::json(entry)?);
        }
        self.write(APPEND, run, What::Append { lease: lease.clone(), expected, jsons, commands }).await
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        const OPERATION: &str = "read the journal";
        let run = run.clone();
        self.blocking(OPERATION, move |inner| {
            let bytes = inner.root.read_journal(&run, OPERATION)?;
            Journal::parse(&bytes).and_then(|journal| journal.entries()).map_err(|e| e.on(run.as_str()))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        self.blocking("list the runs", Inner::list).await
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        let run = run.clone();
        self.blocking("remove the run", move |inner| inner.remove(&run)).await
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        let (run, owner) = (run.clone(), owner.to_owned());
        self.blocking("take the run", move |inner| inner.acquire(&run, &owner, ttl)).await
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        let owner = owner.to_owned();
        self.blocking("renew the session", move |inner| inner.writer()?.process.renew(&owner, ttl)).await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        let (run, lease) = (run.clone(), lease.clone());
        self.blocking("give up the run", move |inner| inner.give_up(&run, &lease)).await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        let run = run.clone();
        self.blocking("find the owner", move |inner| inner.holder(&run)).await
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.inner.inbox.send(run, command).await
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        self.inner.inbox.commands(run, known).await
    }
}

/// The formats without the files around them.
#[cfg(feature = "testing")]
pub(crate) mod format {
    use super::super::codec::{self, Journal};
    use super::wal;
    use crate::error::Result;
    use crate::journal::Entry;

    pub(crate) fn encode(entries: &[Entry]) -> Result<Vec<u8>> {
        let (header, mut chain) = codec::begin();
        let mut text = header.into_bytes();
        for entry in entries {
            chain = codec::push_line(&mut text, &codec::json(entry)?, chain);
        }
        Ok(text)
    }

    pub(crate) fn decode(text: &[u8]) -> Result<Vec<Entry>> {
        Journal::parse(text)?.entries()
    }

    pub(crate) fn read_log(text: &[u8]) -> Result<usize> {
        wal::read_segment(text).map(|pieces| pieces.len()).map_err(|(error, _)| error)
    }
}
