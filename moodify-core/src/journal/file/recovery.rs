//! What dead processes left in their logs is put into the files of the runs. It may be broken off at any place and done
//! again, and only one process does it at a time.
//!
//! A run's file is what its log says, as far as the log goes: if it has lost its end, it gets it back; if it holds
//! something that was never acknowledged, in whose place the log has the record of a later lease, the log wins. What the
//! log holds of an append that failed is added if nobody went on without it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::process::{Standing, lives, standing};
use super::root::{Root, lock, read, storage};
use super::wal::{Piece, read_segment};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::codec::{self, Chain, Journal, Line};
use crate::model::RunId;

const RECOVER: &str = "recover the journal";

/// A process whose log could not be recovered, so that it is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) process: String,
    pub(super) error: Error,
}

/// Recovers what all dead processes left.
///
/// # Errors
/// [`ErrorKind::Storage`] if it could not even be looked at.
pub(super) fn recover(root: &Root) -> Result<Vec<Kept>> {
    let processes = root.processes();
    let failed = |e| storage(RECOVER, &processes, e);
    let dir = match File::open(&processes) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    if dead(&processes).map_err(failed)?.is_empty() {
        return Ok(Vec::new());
    }
    lock(&dir, &processes, RECOVER)?;
    let dead = dead(&processes).map_err(failed)?;
    let mut kept: Vec<Kept> = Vec::new();
    let mut runs: BTreeMap<RunId, Vec<Found>> = BTreeMap::new();
    for process in &dead {
        if let Err(error) = gather(&processes, process, &mut runs) {
            kept.push(Kept { process: process.clone(), error });
        }
    }
    for (run, mut found) in runs {
        // Stable: what one lease wrote stays in its order.
        found.sort_by_key(|line| line.token);
        if let Err(error) = mend(root, &run, &found) {
            let (kind, why) = (error.kind(), error.to_string());
            for line in found {
                if !kept.iter().any(|k| k.process == line.process) {
                    let error = Error::new(kind, "journal", RECOVER, why.clone()).on(run.as_str());
                    kept.push(Kept { process: line.process, error });
                }
            }
        }
    }
    for process in dead {
        if kept.iter().any(|k| k.process == process) {
            continue;
        }
        let dir = processes.join(&process);
        if let Err(e) = remove(root, &dir) {
            kept.push(Kept { process, error: storage(RECOVER, &dir, e) });
        }
    }
    root.disk.sync_dir(&processes).map_err(failed)?;
    for Kept { process, error } in &kept {
        tracing::error!(process, %error, "what a dead process wrote to the journal could not be recovered");
    }
    Ok(kept)
}

/// The names of processes that are dead and have left something.
fn dead(processes: &Path) -> io::Result<Vec<String>> {
    let mut dead = Vec::new();
    for entry in fs::read_dir(processes)? {
        let entry = entry?;
        if lives(&entry.path())? == Some(false)
            && let Ok(name) = entry.file_name().into_string()
        {
            dead.push(name);
        }
    }
    dead.sort();
    Ok(dead)
}

fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("wal-") {
            segments.push(entry.path());
        }
    }
    segments.sort();
    Ok(segments)
}

/// A line that a log holds of a run.
struct Found {
    process: String,
    origin: String,
    seq: u64,
    token: u64,
    line: Vec<u8>,
}

/// Reads the log of a process, as far as it is whole.
fn gather(processes: &Path, process: &str, runs: &mut BTreeMap<RunId, Vec<Found>>) -> Result<()> {
    let dir = processes.join(process);
    let mut damage = Ok(());
    for path in segments(&dir).map_err(|e| storage(RECOVER, &dir, e))? {
        let text = read(&path).map_err(|e| storage(RECOVER, &path, e))?;
        let pieces = match read_segment(&text) {
            Ok(pieces) => pieces,
            Err((error, pieces)) => {
                damage = Err(error.on(path.display().to_string()).hint(
                    "runs of that process may lack their last records: look at them by hand, then remove this file",
                ));
                pieces
            }
        };
        for Piece { run, origin, lines } in pieces {
            let found = runs.entry(run).or_default();
            for text in lines.split_inclusive(|b| *b == b'\n') {
                let parsed = text.strip_suffix(b"\n").and_then(|line| Line::parse(line).ok());
                if let Some(head) = parsed.and_then(|line| line.head().ok()) {
                    let (process, origin) = (process.to_owned(), origin.clone());
                    found.push(Found { process, origin, seq: head.seq, token: head.token, line: text.to_vec() });
                }
            }
        }
    }
    damage
}

/// A line of a run as it is to be: its chain, and the token that wrote it.
struct Placed<'a> {
    chain: Chain,
    token: u64,
    /// Its text, if it comes from a log.
    line: Option<&'a [u8]>,
}

/// Puts into a run's file what logs hold of it, and makes the file durable.
fn mend(root: &Root, run: &RunId, found: &[Found]) -> Result<()> {
    let _lock = match root.lock_run(run, RECOVER) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let path = root.journal(run);
    let failed = |e| storage(RECOVER, &path, e);
    let lease = root.read_lease(run)?;
    let living = matches!(standing(root, run, &lease, false)?, Standing::Owned | Standing::RanOut | Standing::Over);
    if !living {
        let bytes = match read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(failed)?,
        };
        write(root, run, &bytes, found)?;
    }
    // Who owns the run now has all of it in the file, as far as it was acknowledged: only to be made durable.
    let sync = || {
        root.disk.sync(&File::open(&path)?)?;
        root.disk.sync_dir(&root.run(run))
    };
    match sync() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

fn write(root: &Root, run: &RunId, bytes: &[u8], found: &[Found]) -> Result<()> {
    let path = root.journal(run);
    let failed = |e| storage(RECOVER, &path, e);
    let (journal, damaged) = Journal::prefix(bytes)?;
    let (fresh, start) = codec::begin();
    let empty = journal.lines().is_empty();
    let mut start_of_lines = journal.header_length();
    let mut placed: Vec<Placed<'_>> = Vec::with_capacity(journal.lines().len() + found.len());
    for (n, line) in journal.lines().iter().enumerate() {
        let token = line.head().map_err(|e| unreadable(run, n, &e))?.token;
        placed.push(Placed { chain: journal.chain_after(n + 1), token, line: None });
    }
    let begin = if empty { start } else { journal.chain_after(0) };
    if empty {
        start_of_lines = fresh.len();
    }
    // Where the file is first cut, if something in it has to give way.
    let mut keep = placed.len();
    for one in found {
        let Some(line) = one.line.strip_suffix(b"\n").and_then(|line| Line::parse(line).ok()) else { continue };
        let at = usize::try_from(one.seq).unwrap_or(usize::MAX).saturating_sub(1);
        // Of another run of that name, which was removed.
        if placed.first().is_some_and(|first| first.chain.as_str() != one.origin) {
            continue;
        }
        let missing = || {
            let message = format!("{run}: record {} is in a log, but what was before it is not there", one.seq);
            Error::new(ErrorKind::Corrupt, "journal", RECOVER, message)
                .hint("the run must be looked at by hand; nothing was changed")
        };
        if at > placed.len() {
            return Err(missing());
        }
        let before = at.checked_sub(1).map_or(begin, |last| placed[last].chain);
        match (line.follows(before), placed.get(at)) {
            (Some(chain), Some(there)) if there.chain == chain => placed[at].line = Some(&one.line),
            (Some(chain), Some(there)) if one.token > there.token => {
                placed.truncate(at);
                keep = keep.min(at);
                placed.push(Placed { chain, token: one.token, line: Some(&one.line) });
            }
            (Some(chain), None) => placed.push(Placed { chain, token: one.token, line: Some(&one.line) }),
            // Overtaken by what a later lease wrote.
            (_, Some(_)) => {}
            (None, None) => return Err(missing()),
        }
    }
    if placed.is_empty() {
        return Ok(());
    }
    let file = root.disk.create(&path).map_err(failed)?;
    let put = || {
        if keep < journal.lines().len() {
            root.disk.set_len(&file, journal.offset(keep) as u64)?;
        } else if !damaged && bytes.len() > journal.whole {
            root.disk.set_len(&file, journal.whole as u64)?;
        }
        if empty {
            root.disk.write_at(&file, fresh.as_bytes(), 0)?;
        }
        // Written again also where it is there already: what is in the cache need not be on the disk.
        let mut at = start_of_lines;
        for (n, one) in placed.iter().enumerate() {
            let length = match one.line {
                Some(line) => {
                    root.disk.write_at(&file, line, at as u64)?;
                    line.len()
                }
                None => journal.lines()[n].length(),
            };
            at += length;
        }
        Ok(())
    };
    put().map_err(failed)
}

fn unreadable(run: &RunId, n: usize, e: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "journal", RECOVER, format!("line {}: {e}", n + 2)).on(run.as_str())
}

/// Removes what is left of a process: the oldest segment first, since what is in a later one may correct it.
fn remove(root: &Root, dir: &Path) -> io::Result<()> {
    for path in segments(dir)? {
        root.disk.remove_file(&path)?;
    }
    root.disk.remove_dir_all(dir)
}
