use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::journal::{Disk, RealDisk};

/// A real directory on a disk that fills up, fails, and can lose its power: it remembers what was synced.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    syncs: u64,
    written: u64,
    files: HashMap<u64, Content>,
    /// The entries of each directory that are durable.
    dirs: HashMap<u64, (File, BTreeMap<OsString, u64>)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Faults {
    /// The disk is full when so many bytes more are written.
    room: Option<u64>,
    /// How many syncs are still well.
    syncs: Option<u64>,
    /// How many fail after them.
    failing: u64,
    read_only: bool,
}

/// What is known of a file.
#[derive(Debug)]
struct Content {
    /// Keeps its number from being given to another.
    file: File,
    durable: Vec<u8>,
    /// What was written since.
    dirty: Vec<Range<usize>>,
}

impl FaultyDisk {
    /// A disk without faults for the journal in that directory. What is in there is durable.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        let disk = Self { root, state: Arc::default() };
        disk.state().know_tree(&disk.root)?;
        Ok(disk)
    }

    /// From now on, the disk is full after so many bytes: a write that goes beyond is cut off there, and fails.
    pub fn full_after(&self, bytes: u64) {
        self.state().faults.room = Some(bytes);
    }

    /// After so many syncs that are well, some fail. What was to be synced is lost then, though it can still be read:
    /// a later sync does not bring it back.
    pub fn fail_syncs(&self, after: u64, count: u64) {
        let faults = &mut self.state().faults;
        (faults.syncs, faults.failing) = (Some(after), count);
    }

    /// From now on, nothing can be written.
    pub fn make_read_only(&self) {
        self.state().faults.read_only = true;
    }

    /// The disk is well again.
    pub fn heal(&self) {
        self.state().faults = Faults::default();
    }

    /// How many syncs there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How many bytes were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.state().written
    }

    /// Makes `to` what the disk holds if the power goes now. Everything that was not synced is lost; with a seed, chance
    /// decides for each entry of a directory and each page of a file whether it is.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn cut_power(&self, to: &Path, seed: Option<u64>) -> io::Result<()> {
        let state = self.state();
        let root = fs::metadata(&self.root)?.ino();
        fs::create_dir_all(to)?;
        state.copy(root, to, &mut Chance(seed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says of each thing that was not synced whether it is there all the same.
struct Chance(Option<u64>);

impl Chance {
    fn spares(&mut self) -> bool {
        let Some(state) = &mut self.0 else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) & 1 == 1
    }
}

fn listing(dir: &Path) -> io::Result<BTreeMap<OsString, u64>> {
    fs::read_dir(dir)?.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.metadata()?.ino())))).collect()
}

impl State {
    fn know_tree(&mut self, dir: &Path) -> io::Result<()> {
        let entries = listing(dir)?;
        for name in entries.keys() {
            let path = dir.join(name);
            if path.is_dir() {
                self.know_tree(&path)?;
            } else {
                let durable = fs::read(&path)?;
                let content = Content { file: File::open(&path)?, durable, dirty: Vec::new() };
                self.files.insert(fs::metadata(&path)?.ino(), content);
            }
        }
        self.dirs.insert(fs::metadata(dir)?.ino(), (File::open(dir)?, entries));
        Ok(())
    }

    fn content(&mut self, file: &File) -> io::Result<&mut Content> {
        let number = file.metadata()?.ino();
        let file = file.try_clone()?;
        Ok(self.files.entry(number).or_insert(Content { file, durable: Vec::new(), dirty: Vec::new() }))
    }

    fn changes(&self) -> io::Result<()> {
        if self.faults.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    fn copy(&self, dir: u64, to: &Path, chance: &mut Chance) -> io::Result<()> {
        let Some((_, durable)) = self.dirs.get(&dir) else { return Ok(()) };
        let mut entries = durable.clone();
        // What is in the directory now, by the same number.
        let here = fs::read_link(format!("/proc/self/fd/{}", self.descriptor(dir)))?;
        let current = listing(&here).unwrap_or_default();
        for (name, number) in &current {
            if durable.get(name) != Some(number) && chance.spares() {
                entries.insert(name.clone(), *number);
            }
        }
        for name in durable.keys() {
            if !current.contains_key(name) && chance.spares() {
                entries.remove(name);
            }
        }
        for (name, number) in entries {
            let path = to.join(name);
            if self.dirs.contains_key(&number) {
                fs::create_dir(&path)?;
                self.copy(number, &path, chance)?;
            } else if let Some(content) = self.files.get(&number) {
                fs::write(&path, content.after_power_cut(chance)?)?;
            }
        }
        Ok(())
    }

    fn descriptor(&self, dir: u64) -> i32 {
        use std::os::fd::AsRawFd;
        self.dirs.get(&dir).map_or(-1, |(file, _)| file.as_raw_fd())
    }
}

impl Content {
    fn now(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.file.metadata()?.len()).unwrap_or_default()];
        let mut at = 0;
        while at < bytes.len() {
            match self.file.read_at(&mut bytes[at..], at as u64)? {
                0 => break,
                n => at += n,
            }
        }
        Ok(bytes)
    }

    fn synced(&mut self) -> io::Result<()> {
        let now = self.now()?;
        self.durable.resize(now.len(), 0);
        for range in self.dirty.drain(..) {
            let range = range.start.min(now.len())..range.end.min(now.len());
            self.durable[range.clone()].copy_from_slice(&now[range]);
        }
        Ok(())
    }

    fn after_power_cut(&self, chance: &mut Chance) -> io::Result<Vec<u8>> {
        const PAGE: usize = 512;
        let (now, mut bytes) = (self.now()?, self.durable.clone());
        if now.len() != bytes.len() && chance.spares() {
            bytes.resize(now.len(), 0);
        }
        for range in &self.dirty {
            for page in (range.start / PAGE * PAGE..range.end).step_by(PAGE) {
                let part = page.max(range.start)..(page + PAGE).min(range.end).min(now.len()).min(bytes.len());
                if part.start < part.end && chance.spares() {
                    bytes[part.clone()].copy_from_slice(&now[part]);
                }
            }
        }
        Ok(bytes)
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.changes()?;
        RealDisk.create_dir(path)?;
        let dir = File::open(path)?;
        state.dirs.insert(dir.metadata()?.ino(), (dir, BTreeMap::new()));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.state();
        state.changes()?;
        let file = RealDisk.create(path)?;
        state.content(&file)?;
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let mut state = self.state();
        state.changes()?;
        let file = RealDisk.open(path)?;
        state.content(&file)?;
        Ok(file)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.changes()?;
        // What overwrites needs no room.
        let (end, length) = (offset + bytes.len() as u64, file.metadata()?.len());
        let needed = end.saturating_sub(length.max(offset));
        let fits = state.faults.room.map_or(needed, |room| room.min(needed));
        if let Some(room) = &mut state.faults.room {
            *room -= fits;
        }
        let cut = bytes.len() - usize::try_from(needed - fits).unwrap_or_default();
        state.written += fits;
        RealDisk.write_at(file, &bytes[..cut], offset)?;
        let start = usize::try_from(offset).unwrap_or_default();
        state.content(file)?.dirty.push(start..start + cut);
        if fits < needed { Err(Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.changes()?;
        state.content(file)?;
        RealDisk.set_len(file, length)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        let is_dir = file.metadata()?.is_dir();
        let fails = match &mut state.faults.syncs {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if fails && state.faults.failing > 0 {
            state.faults.failing -= 1;
            if !is_dir {
                state.content(file)?.dirty.clear();
            }
            return Err(Errno::IO.into());
        }
        if !is_dir {
            return state.content(file)?.synced();
        }
        let number = file.metadata()?.ino();
        let here = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
        let entries = listing(&here)?;
        state.dirs.insert(number, (file.try_clone()?, entries));
        Ok(())
    }

    fn sync_all(&self, _: &File) -> io::Result<()> {
        let known: Vec<File> = {
            let state = self.state();
            let files = state.files.values().map(|content| &content.file);
            let all = files.chain(state.dirs.values().map(|(dir, _)| dir));
            all.map(File::try_clone).collect::<io::Result<_>>()?
        };
        known.iter().try_for_each(|file| self.sync(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().changes()?;
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state().changes()?;
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state().changes()?;
        RealDisk.remove_dir_all(path)
    }
}
