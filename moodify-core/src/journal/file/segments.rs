//! The segments of a write-ahead log: made before they are needed, and removed when the runs' own files are durable.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::root::Root;
use super::wal::{Batch, header};
use crate::model::RunId;

/// The first segment's size; each is four times as large as the one before, up to the size that is asked for.
const FIRST: u64 = 256 * 1024;
/// If a segment is about more runs than that, their files are synced with the whole file system, at once.
const TOGETHER: usize = 64;
/// More than the first line of a batch takes.
const HEAD: u64 = 128;

/// The log that this process writes.
#[derive(Debug)]
pub(super) struct Log {
    root: Root,
    dir: PathBuf,
    /// The largest size of a segment, and the next one's.
    limit: u64,
    size: u64,
    current: Option<Segment>,
    number: u64,
    /// The runs whose own files hold something only since this segment, and whether they were made since.
    touched: HashMap<RunId, bool>,
    helper: Sender<Job>,
    ready: Receiver<io::Result<Segment>>,
    /// The next segment is being made.
    preparing: bool,
    thread: JoinHandle<bool>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    header: String,
    file: File,
    size: u64,
    at: u64,
    batches: u64,
}

enum Job {
    Prepare { number: u64, size: u64 },
    Retire { path: PathBuf, touched: HashMap<RunId, bool> },
}

impl Log {
    /// An empty log in the directory of a process; `limit` is the largest size of a segment, in bytes.
    pub(super) fn new(root: &Root, dir: &Path, process: &str, limit: u64) -> io::Result<Self> {
        let ((helper, jobs), (made, ready)) = (channel(), channel());
        let maker = Maker { root: root.clone(), dir: dir.to_owned(), process: process.to_owned() };
        let thread = std::thread::Builder::new().name("moodify-journal-sync".to_owned());
        let thread = thread.spawn({
            let maker = maker.clone();
            move || maker.work(&jobs, &made)
        })?;
        let Maker { root, dir, .. } = maker;
        Ok(Self {
            root,
            dir,
            limit,
            size: FIRST.min(limit),
            current: None,
            number: 0,
            touched: HashMap::new(),
            helper,
            ready,
            preparing: false,
            thread,
        })
    }

    /// The file that is written to now, for errors.
    pub(super) fn path(&self) -> PathBuf {
        self.current.as_ref().map_or_else(|| self.dir.clone(), |segment| segment.path.clone())
    }

    /// Makes a batch durable. If that fails, what the disk holds of it is unknown, and what the cache says about it
    /// means nothing: the segment is not written to any more.
    pub(super) fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let disk = self.root.disk.clone();
        let room = batch.len() + HEAD;
        let segment = self.room_for(room)?;
        segment.batches += 1;
        let frame = batch.frame(&segment.header, segment.batches);
        let written = disk.write_at(&segment.file, &frame, segment.at).and_then(|()| disk.sync(&segment.file));
        segment.at += frame.len() as u64;
        let half = segment.at > segment.size / 2;
        match written {
            Ok(()) if half && !self.preparing => {
                self.prepare();
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(e) => {
                self.retire();
                Err(e)
            }
        }
    }

    /// Notes that the segment must stay until a run's own file is durable.
    pub(super) fn touch(&mut self, run: &RunId, made: bool) {
        match self.touched.get_mut(run) {
            Some(before) => *before |= made,
            None => drop(self.touched.insert(run.clone(), made)),
        }
    }

    /// Makes the runs' own files durable and removes the log; says whether nothing of it is left.
    pub(super) fn close(mut self) -> bool {
        self.retire();
        let Self { helper, ready, thread, .. } = self;
        drop((helper, ready));
        thread.join().unwrap_or(false)
    }

    fn room_for(&mut self, bytes: u64) -> io::Result<&mut Segment> {
        if self.current.as_ref().is_some_and(|segment| segment.at + bytes > segment.size) {
            self.retire();
        }
        if self.current.is_none() {
            if !self.preparing {
                self.prepare();
            }
            self.preparing = false;
            let gone = || io::Error::other("the thread that makes segments has ended");
            let mut segment = self.ready.recv().map_err(|_| gone())?;
            let fits = |made: &Segment| made.at + bytes <= made.size;
            if !segment.as_ref().is_ok_and(fits) {
                // It failed when it was made beforehand, or the disk is too full for a large one, or the batch is.
                if let Ok(small) = segment {
                    let _ = self.helper.send(Job::Retire { path: small.path, touched: HashMap::new() });
                }
                self.number += 1;
                let (number, size) = (self.number, FIRST.min(self.limit).max(bytes + HEAD));
                let _ = self.helper.send(Job::Prepare { number, size });
                segment = self.ready.recv().map_err(|_| gone())?;
            }
            self.current = Some(segment?);
        }
        self.current.as_mut().ok_or_else(|| io::Error::other("there is no segment"))
    }

    fn prepare(&mut self) {
        self.number += 1;
        self.preparing = self.helper.send(Job::Prepare { number: self.number, size: self.size }).is_ok();
        self.size = (self.size * 4).min(self.limit);
    }

    fn retire(&mut self) {
        if let Some(segment) = self.current.take() {
            let touched = std::mem::take(&mut self.touched);
            let _ = self.helper.send(Job::Retire { path: segment.path, touched });
        }
    }
}

/// What the thread does that makes and removes segments.
#[derive(Debug, Clone)]
struct Maker {
    root: Root,
    dir: PathBuf,
    process: String,
}

impl Maker {
    /// Says in the end whether all segments are removed.
    fn work(&self, jobs: &Receiver<Job>, made: &Sender<io::Result<Segment>>) -> bool {
        let mut kept = VecDeque::new();
        let mut broken = false;
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Prepare { number, size } => {
                    let segment = self.make(number, size);
                    // Nobody wants it any more: it is empty.
                    if let Err(unwanted) = made.send(segment)
                        && let Ok(segment) = unwanted.0
                    {
                        kept.push_back((segment.path, HashMap::new()));
                    }
                }
                Job::Retire { path, touched } => kept.push_back((path, touched)),
            }
            // The oldest goes first. When a file could not be synced, nothing is known of what its disk holds, and
            // asking again would not tell: the log stays, and whoever recovers it writes the file anew.
            while let Some((path, touched)) = kept.front()
                && !broken
            {
                match self.settle(touched).and_then(|()| self.remove(path)) {
                    Ok(()) => drop(kept.pop_front()),
                    Err(e) => {
                        tracing::error!(path = %path.display(), error = %e, "the journal could not be synced; its log is kept until the next start");
                        broken = true;
                    }
                }
            }
        }
        !broken
    }

    fn make(&self, number: u64, size: u64) -> io::Result<Segment> {
        let disk = &self.root.disk;
        let path = self.dir.join(format!("wal-{number:08}"));
        let header = header(&self.process, number);
        let make = || {
            let file = disk.create(&path)?;
            let zeros = vec![0; 1024 * 1024];
            let mut at = 0;
            while at < size {
                let part = (size - at).min(zeros.len() as u64);
                disk.write_at(&file, &zeros[..usize::try_from(part).unwrap_or(zeros.len())], at)?;
                at += part;
            }
            disk.write_at(&file, header.as_bytes(), 0)?;
            disk.sync(&file)?;
            disk.sync_dir(&self.dir)?;
            Ok(file)
        };
        match make() {
            Ok(file) => {
                let at = header.len() as u64;
                Ok(Segment { path, header, file, size, at, batches: 0 })
            }
            Err(e) => {
                let _ = disk.remove_file(&path);
                Err(e)
            }
        }
    }

    /// Makes the own files of runs durable.
    fn settle(&self, touched: &HashMap<RunId, bool>) -> io::Result<()> {
        let exists = |result: io::Result<()>| match result {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        if touched.len() > TOGETHER {
            match File::open(&self.root.path).and_then(|dir| self.root.disk.sync_all(&dir)) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                other => return other,
            }
        }
        for (run, made) in touched {
            // A run that is not there any more was removed.
            let file = File::open(self.root.journal(run)).and_then(|file| self.root.disk.sync(&file));
            exists(file)?;
            if *made {
                exists(self.root.disk.sync_dir(&self.root.run(run)))?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.root.disk.remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
