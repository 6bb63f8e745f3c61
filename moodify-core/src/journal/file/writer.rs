//! The thread that writes: it takes all requests that wait, makes them durable with one sync, and answers.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::process::Process;
use super::root::storage;
use super::segments::Log;
use super::wal::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::Lease;
use crate::journal::codec::{self, Chain};
use crate::journal::memory::fenced;
use crate::model::RunId;

pub(super) const CREATE: &str = "create the run";
pub(super) const APPEND: &str = "append to the journal";
/// Requests that share one sync at most.
const TOGETHER: usize = 4096;
/// Files of runs that are open at most.
const OPEN: usize = 256;

/// Something to be made durable.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) run: RunId,
    pub(super) what: What,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

#[derive(Debug)]
pub(super) enum What {
    Create { json: String },
    Append { lease: Lease, expected: u64, jsons: Vec<String>, commands: Vec<String> },
}

/// A process and its writing thread. Dropping it waits until everything is in the runs' own files.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) process: Arc<Process>,
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn begin(process: Process, segment: u64) -> io::Result<Self> {
        let process = Arc::new(process);
        let log = Log::new(&process.root, &process.dir, &process.id, segment)?;
        let (requests, waiting) = channel();
        let worker = Worker { process: process.clone(), log, open: VecDeque::new(), batch: 0 };
        let thread = std::thread::Builder::new().name("moodify-journal".to_owned());
        let thread = thread.spawn(move || worker.work(&waiting))?;
        Ok(Self { process, requests: Some(requests), thread: Some(thread) })
    }

    /// Hands a request over; it is answered when it is durable.
    pub(super) fn send(&self, run: &RunId, what: What) -> oneshot::Receiver<Result<()>> {
        let (answer, answered) = oneshot::channel();
        // Without the thread the answer is dropped, which is an answer, too.
        if let Some(requests) = &self.requests {
            let _ = requests.send(Request { run: run.clone(), what, answer });
        }
        answered
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    process: Arc<Process>,
    log: Log,
    /// Runs whose file is open, the oldest first.
    open: VecDeque<RunId>,
    /// How many batches there were.
    batch: u64,
}

/// A request whose lines are in the batch.
struct Staged {
    run: RunId,
    place: Range<usize>,
    kind: Kind,
    answer: oneshot::Sender<Result<()>>,
}

enum Kind {
    Create,
    Append { lease: Lease, seq: u64, chain: Chain, commands: Vec<String> },
}

impl Worker {
    fn work(mut self, requests: &Receiver<Request>) {
        let mut later: VecDeque<Request> = VecDeque::new();
        while let Some(first) = later.pop_front().or_else(|| requests.recv().ok()) {
            let mut batch = vec![first];
            batch.extend(later.drain(..));
            batch.extend(requests.try_iter().take(TOGETHER));
            later.extend(self.commit(batch));
        }
        let Self { process, log, .. } = self;
        process.runs().clear();
        if log.close() {
            // All is in the runs' own files: nobody has to recover anything.
            let _ = process.root.disk.remove_dir_all(&process.dir);
        }
    }

    /// Makes requests durable and answers them; returns those that have to come after them.
    fn commit(&mut self, requests: Vec<Request>) -> Vec<Request> {
        let mut batch = Batch::default();
        let (staged, later) = self.stage(requests, &mut batch);
        if staged.is_empty() {
            return later;
        }
        if let Err(e) = self.log.append(&batch) {
            let path = self.log.path();
            for one in staged {
                let error = storage(one.operation(), &path, copy(&e));
                self.fail(one, error);
            }
            return later;
        }
        // Who takes a run over from us ends our session, and then goes on with a copy of the run's file. So what is
        // opened before it is seen that the session lasts is not the file of somebody else; and if it still lasts after
        // the writing, then what was written is in the copy, whenever that is made.
        let opened: Vec<Result<()>> = staged.iter().map(|one| self.open_file(one)).collect();
        self.process.note_ended();
        let put = staged.iter().zip(opened).map(|(one, opened)| opened.and_then(|()| self.put(one, &batch)));
        let put: Vec<Result<()>> = put.collect();
        self.process.note_ended();
        self.close_files();
        for (one, result) in staged.into_iter().zip(put) {
            match result.and_then(|()| self.still_owned(&one)) {
                Ok(()) => one.succeed(&self.process),
                Err(e) => self.fail(one, e),
            }
        }
        later
    }

    /// Puts into the batch what may be written, and answers the rest; the second request of one run comes later.
    fn stage(&mut self, requests: Vec<Request>, batch: &mut Batch) -> (Vec<Staged>, Vec<Request>) {
        self.batch += 1;
        let (mut staged, mut later) = (Vec::with_capacity(requests.len()), Vec::new());
        let (creates, appends): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|r| matches!(r.what, What::Create { .. }));
        self.stage_creates(creates, batch, &mut staged);
        let mut runs = self.process.runs();
        let mut lines = Vec::new();
        for Request { run, what, answer } in appends {
            let What::Append { lease, expected, jsons, commands } = what else { continue };
            let held = match runs.get_mut(&run) {
                Some(held) if held.batch == self.batch => {
                    let what = What::Append { lease, expected, jsons, commands };
                    later.push(Request { run, what, answer });
                    continue;
                }
                Some(held) if held.is_by(&lease) => held,
                _ => {
                    let _ = answer.send(Err(self.fenced(&run)));
                    continue;
                }
            };
            if held.failed {
                let message = "an append before it failed, so that it is unknown where the journal ends";
                let error = Error::new(ErrorKind::Storage, "journal", APPEND, message).on(run.as_str());
                let _ = answer.send(Err(error.hint("when the disk is well, resume the run")));
                continue;
            }
            if held.seq != expected {
                let message = format!("record {} cannot follow record {}", expected + 1, held.seq);
                let _ = answer.send(Err(Error::new(ErrorKind::Internal, "journal", APPEND, message).on(run.as_str())));
                continue;
            }
            lines.clear();
            let chain = jsons.iter().fold(held.chain, |chain, json| codec::push_line(&mut lines, json, chain));
            let place = batch.add(&run, held.origin, &lines);
            held.batch = self.batch;
            let seq = expected + jsons.len() as u64;
            staged.push(Staged { run, place, kind: Kind::Append { lease, seq, chain, commands }, answer });
        }
        (staged, later)
    }

    /// A run's directory is durable before its first record is: one that is missing was removed.
    fn stage_creates(&self, creates: Vec<Request>, batch: &mut Batch, staged: &mut Vec<Staged>) {
        let root = &self.process.root;
        let mut made = Vec::new();
        for request in creates {
            let dir = root.run(&request.run);
            match root.disk.create_dir(&dir) {
                Ok(()) => made.push(request),
                Err(e) => {
                    let error = if e.kind() == io::ErrorKind::AlreadyExists {
                        Error::new(ErrorKind::AlreadyExists, "journal", CREATE, "it exists").on(request.run.as_str())
                    } else {
                        storage(CREATE, &dir, e)
                    };
                    let _ = request.answer.send(Err(error));
                }
            }
        }
        let synced = if made.is_empty() { Ok(()) } else { root.disk.sync_dir(&root.path) };
        for Request { run, what, answer } in made {
            let What::Create { json } = what else { continue };
            let (_, start) = codec::begin();
            let mut lines = Vec::new();
            let origin = codec::push_line(&mut lines, &json, start);
            let one = Staged { run, place: 0..0, kind: Kind::Create, answer };
            match &synced {
                Ok(()) => staged.push(Staged { place: batch.add(&one.run, origin, &lines), ..one }),
                Err(e) => self.fail(one, storage(CREATE, &root.path, copy(e))),
            }
        }
    }

    /// Opens the run's own file, if it is not open.
    fn open_file(&mut self, one: &Staged) -> Result<()> {
        let root = &self.process.root;
        if let Kind::Append { lease, .. } = &one.kind
            && let Some(held) = self.process.runs().get_mut(&one.run)
            && held.is_by(lease)
            && held.file.is_none()
        {
            let path = root.journal(&one.run);
            held.file = Some(root.disk.open(&path).map_err(|e| storage(APPEND, &path, e))?);
            self.open.push_back(one.run.clone());
        }
        Ok(())
    }

    fn close_files(&mut self) {
        let mut runs = self.process.runs();
        while self.open.len() > OPEN {
            if let Some(held) = self.open.pop_front().and_then(|oldest| runs.get_mut(&oldest)) {
                held.file = None;
            }
        }
    }

    /// Writes into a run's own file what is durable in the log.
    fn put(&mut self, one: &Staged, batch: &Batch) -> Result<()> {
        let root = &self.process.root;
        let (path, lines) = (|| root.journal(&one.run), batch.lines(one.place.clone()));
        let Kind::Append { lease, seq, chain, .. } = &one.kind else {
            let text = [codec::begin().0.as_bytes(), lines].concat();
            let file = root.disk.create(&path()).and_then(|file| root.disk.write_at(&file, &text, 0));
            file.map_err(|e| storage(CREATE, &path(), e))?;
            self.log.touch(&one.run, true);
            return Ok(());
        };
        let mut runs = self.process.runs();
        let held = runs.get_mut(&one.run).filter(|held| held.is_by(lease) && !held.session.was_ended());
        let Some((held, file)) = held.and_then(|held| held.file.take().map(|file| (held, file))) else {
            drop(runs);
            return Err(self.fenced(&one.run));
        };
        if let Err(e) = root.disk.write_at(&file, lines, held.whole) {
            let _ = root.disk.set_len(&file, held.whole);
            return Err(storage(APPEND, &path(), e));
        }
        held.file = Some(file);
        held.whole += lines.len() as u64;
        held.seq = *seq;
        held.chain = *chain;
        self.log.touch(&one.run, false);
        Ok(())
    }

    fn still_owned(&self, one: &Staged) -> Result<()> {
        let Kind::Append { lease, .. } = &one.kind else { return Ok(()) };
        match self.process.runs().get(&one.run) {
            Some(held) if held.is_by(lease) && held.session.was_ended() => Err(self.fenced(&one.run)),
            // Taken again by its own owner meanwhile, who has read what was written.
            _ => Ok(()),
        }
    }

    fn fail(&self, one: Staged, error: Error) {
        match &one.kind {
            // The log may have it; without its directory it is nothing.
            Kind::Create => {
                let _ = self.process.root.disk.remove_dir_all(&self.process.root.run(&one.run));
            }
            Kind::Append { lease, .. } => {
                if let Some(held) = self.process.runs().get_mut(&one.run).filter(|held| held.token == lease.token) {
                    held.failed = true;
                    held.file = None;
                }
            }
        }
        let _ = one.answer.send(Err(error));
    }

    fn fenced(&self, run: &RunId) -> Error {
        let owner = self.process.root.read_lease(run).map(|lease| lease.owner).unwrap_or_default();
        fenced(run, if owner.is_empty() { "it was given up" } else { &owner })
    }
}

impl Staged {
    fn operation(&self) -> &'static str {
        if matches!(self.kind, Kind::Create) { CREATE } else { APPEND }
    }

    fn succeed(self, process: &Process) {
        if let Kind::Append { commands, .. } = &self.kind {
            // They are on the record now.
            for id in commands {
                let _ = process.root.disk.remove_file(&super::inbox::file(&process.root, &self.run, id));
            }
        }
        let _ = self.answer.send(Ok(()));
    }
}

fn copy(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(|| io::Error::new(e.kind(), e.to_string()), io::Error::from_raw_os_error)
}
