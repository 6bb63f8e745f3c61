//! The write-ahead log of one process: what is in it is durable, whatever becomes of the files of the runs. A segment is
//! text, filled up with zeros to the length that it was given before:
//!
//! ```text
//! moodify-wal 1.0 PROCESS SEGMENT
//! batch NUMBER LENGTH CHECKSUM
//! RUN ORIGIN LENGTH
//! lines as they are in the run's own file
//! ```
//!
//! A batch is written and synced at once. So only the last one can be torn, and it was not acknowledged then; damage
//! that has a whole batch after it is damage.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::journal::codec::Chain;
use crate::model::RunId;

const NAME: &str = "moodify-wal 1.0";
/// What each segment begins with, up to its number.
const FORMAT: &str = "moodify-wal ";

pub(super) fn header(process: &str, segment: u64) -> String {
    format!("{NAME} {process} {segment:08}\n")
}

/// A batch in the making.
#[derive(Debug, Default)]
pub(super) struct Batch {
    body: Vec<u8>,
}

impl Batch {
    /// Adds lines of one run; returns where they are.
    pub(super) fn add(&mut self, run: &RunId, origin: Chain, lines: &[u8]) -> Range<usize> {
        self.body.extend_from_slice(format!("{run} {} {}\n", origin.as_str(), lines.len()).as_bytes());
        let start = self.body.len();
        self.body.extend_from_slice(lines);
        start..self.body.len()
    }

    pub(super) fn len(&self) -> u64 {
        self.body.len() as u64
    }

    pub(super) fn lines(&self, place: Range<usize>) -> &[u8] {
        &self.body[place]
    }

    /// As it stands in the log.
    pub(super) fn frame(&self, header: &str, number: u64) -> Vec<u8> {
        let mut frame = frame_head(header, number, &self.body).into_bytes();
        frame.extend_from_slice(&self.body);
        frame
    }
}

fn frame_head(header: &str, number: u64, body: &[u8]) -> String {
    let number = number.to_string();
    let sum = Chain::of(&[header.as_bytes(), number.as_bytes(), b" ", body]);
    format!("batch {number} {} {}\n", body.len(), sum.as_str())
}

/// What a log holds of one run, in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) run: RunId,
    /// The checksum of the run's first record.
    pub(crate) origin: String,
    /// Lines, whole.
    pub(crate) lines: Vec<u8>,
}

/// Reads a segment: its pieces in order, without what is torn at its end.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the line and the batch that is damaged, and the pieces before it.
pub(crate) fn read_segment(text: &[u8]) -> Result<Vec<Piece>, (Error, Vec<Piece>)> {
    let mut pieces = Vec::new();
    let Some(end) = text.iter().position(|b| *b == b'\n') else { return Ok(pieces) };
    let header = &text[..=end];
    // A segment is made before it is used: then it may still be without its first line.
    if header.starts_with(b"\0") {
        return Ok(pieces);
    }
    if !header.starts_with(NAME.as_bytes()) {
        let shown = String::from_utf8_lossy(&header[..end]).chars().take(80).collect::<String>();
        let kind = if shown.starts_with(FORMAT) { ErrorKind::Unsupported } else { ErrorKind::Corrupt };
        let message = format!("line 1: {shown:?} is not the first line of a write-ahead log that this version reads");
        return Err((Error::new(kind, "journal", "read the write-ahead log", message), pieces));
    }
    let (mut at, mut number, mut line) = (end + 1, 1, 2);
    loop {
        if text[at..].iter().all(|b| *b == 0) {
            return Ok(pieces);
        }
        let Some(body) = batch_at(text, at, header, number) else { break };
        for piece in pieces_of(&text[body.clone()]).unwrap_or_default() {
            pieces.push(piece);
        }
        line += 1 + text[body.clone()].iter().filter(|b| **b == b'\n').count();
        at = body.end;
        number += 1;
    }
    // The last batch may be torn. If a later one is whole, then this one had been synced, and is damaged.
    let later = memchr::memmem::find_iter(&text[at..], b"batch ").map(|offset| at + offset);
    for candidate in later {
        let Some(found) = number_at(text, candidate) else { continue };
        if found > number && batch_at(text, candidate, header, found).is_some() {
            let message =
                format!("line {line}, byte {at}: batch {number} is damaged, and batch {found} after it is whole");
            return Err((Error::new(ErrorKind::Corrupt, "journal", "read the write-ahead log", message), pieces));
        }
    }
    Ok(pieces)
}

fn number_at(text: &[u8], at: usize) -> Option<u64> {
    let line = text.get(at..)?.split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}

/// Where the body of batch `number` is, if it begins at `at` and is whole.
fn batch_at(text: &[u8], at: usize, header: &[u8], number: u64) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let end = memchr::memchr(b'\n', &rest[..rest.len().min(128)])?;
    let head = std::str::from_utf8(&rest[..=end]).ok()?;
    let length: usize = head.split(' ').nth(2)?.parse().ok()?;
    let body = (at + end + 1)..(at + end + 1).checked_add(length)?;
    let wanted = frame_head(std::str::from_utf8(header).ok()?, number, text.get(body.clone())?);
    (wanted == head).then_some(body)
}

/// The checksum of the batch was right, so this is as it was written.
fn pieces_of(mut body: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while !body.is_empty() {
        let end = memchr::memchr(b'\n', body)?;
        let mut words = std::str::from_utf8(&body[..end]).ok()?.split(' ');
        let run = RunId::new(words.next()?).ok()?;
        let origin = words.next()?.to_owned();
        let (lines, rest) = body[end + 1..].split_at_checked(words.next()?.parse().ok()?)?;
        pieces.push(Piece { run, origin, lines: lines.to_vec() });
        body = rest;
    }
    Some(pieces)
}
