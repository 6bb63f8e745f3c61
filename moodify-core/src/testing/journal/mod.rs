//! For tests of the journal in files: a disk with faults, and its formats without the files around them.

mod disk;

use std::path::PathBuf;

pub use disk::FaultyDisk;

use crate::error::Result;
use crate::journal::{Entry, FileJournal, FileJournalOptions, format};

/// Opens a journal on a disk with faults.
///
/// # Errors
/// As for [`FileJournal::open`].
pub fn open_on(root: impl Into<PathBuf>, options: &FileJournalOptions, disk: &FaultyDisk) -> Result<FileJournal> {
    FileJournal::open_on(root.into(), options, std::sync::Arc::new(disk.clone()))
}

/// A journal's text.
///
/// # Errors
/// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if a record has no form as text.
pub fn encode(entries: &[Entry]) -> Result<Vec<u8>> {
    format::encode(entries)
}

/// What a journal's text holds, without a torn last line.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), with
/// the line.
pub fn decode(text: &[u8]) -> Result<Vec<Entry>> {
    format::decode(text)
}

/// How many pieces a segment of a write-ahead log holds, without a torn end.
///
/// # Errors
/// As for [`decode`].
pub fn read_log(text: &[u8]) -> Result<usize> {
    format::read_log(text)
}
