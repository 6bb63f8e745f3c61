//! A journal as text: a header, then one line a record, each with a checksum that is chained to the line before. So
//! damage, a cut in the middle and tampering are found and named; a torn last line is what a crash leaves, and dropped.

use std::fmt;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Entry;
use crate::error::{Error, ErrorKind, Result};

/// What the first line begins with; the format's number follows.
const NAME: &str = "moodify-journal ";
/// The major number changes when older readers cannot read the format any more. A newer minor number is read, as far as
/// its records are known, but not written to: what it means is not known here.
const MAJOR: u32 = 1;
pub(super) const MINOR: u32 = 1;

/// Hex digits of the checksum kept a line: 128 bits.
const DIGITS: usize = 32;

/// The chained checksum of a line, as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Chain([u8; DIGITS]);

impl Chain {
    /// The chain of a journal that begins with that header: from 1.1 on, the header is under the checksum, too.
    fn start(header: &str, minor: u32) -> Self {
        if minor == 0 { Self([b'0'; DIGITS]) } else { Self::of(&[header.as_bytes()]) }
    }

    pub(super) fn of(parts: &[&[u8]]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let mut digits = [0; DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hash.finalize()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(digits)
    }

    fn next(self, json: &[u8]) -> Self {
        Self::of(&[&self.0, json])
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        Some(Self(digits.try_into().ok()?))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The beginning of a new journal: its text, and the chain after it.
pub(super) fn begin() -> (String, Chain) {
    let header = format!("{NAME}{MAJOR}.{MINOR}");
    let chain = Chain::start(&header, MINOR);
    (header + "\n", chain)
}

/// A record without its checksum.
pub(super) fn json(entry: &Entry) -> Result<String> {
    serde_json::to_string(entry).map_err(|e| {
        Error::new(ErrorKind::Internal, "journal", "encode a record", "it has no JSON form").with_source(e)
    })
}

/// Adds a record's line to `text`; returns the chain after it.
pub(super) fn push_line(text: &mut Vec<u8>, json: &str, chain: Chain) -> Chain {
    let chain = chain.next(json.as_bytes());
    text.extend_from_slice(&chain.0);
    text.push(b' ');
    text.extend_from_slice(json.as_bytes());
    text.push(b'\n');
    chain
}

/// What of a record says where it stands.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) token: u64,
}

/// One line of a record, taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    sum: Chain,
    json: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a line apart, without its line break.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, &'static str> {
        let (sum, json) = line.split_at_checked(DIGITS).ok_or("it has no checksum")?;
        let (sum, json) = Chain::parse(sum).zip(json.strip_prefix(b" ")).ok_or("it has no checksum")?;
        let json = std::str::from_utf8(json).map_err(|_| "it is not text")?;
        Ok(Self { sum, json })
    }

    /// The chain after this line, if it can follow.
    pub(super) fn follows(&self, chain: Chain) -> Option<Chain> {
        (chain.next(self.json.as_bytes()) == self.sum).then_some(self.sum)
    }

    /// Its bytes, with its line break.
    pub(super) fn length(&self) -> usize {
        DIGITS + 1 + self.json.len() + 1
    }

    pub(super) fn head(&self) -> serde_json::Result<Head> {
        serde_json::from_str(self.json)
    }
}

/// A journal's text, taken apart and checked.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    /// The minor number of its format.
    pub(super) minor: u32,
    lines: Vec<Line<'a>>,
    /// The chain of an empty journal of this format.
    start: Chain,
    header: usize,
    /// The bytes that are whole; what follows is a torn line.
    pub(super) whole: usize,
}

fn corrupt(line: usize, what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "journal", "read the records", format!("line {line}: {what}"))
        .hint("the run must be looked at by hand; nothing was changed")
}

impl<'a> Journal<'a> {
    /// Takes a journal apart and checks its checksums; records are not decoded.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] with the line that is damaged; [`ErrorKind::Unsupported`] if its format is a newer one.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self> {
        let (journal, damage) = Self::scan(text)?;
        damage.map_or(Ok(journal), Err)
    }

    /// The same, but of a damaged journal what is before the damage, and that it is damaged.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if its format is a newer one.
    pub(super) fn prefix(text: &'a [u8]) -> Result<(Self, bool)> {
        Self::scan(text).map(|(journal, damage)| (journal, damage.is_some()))
    }

    fn scan(text: &'a [u8]) -> Result<(Self, Option<Error>)> {
        let (fresh, start) = begin();
        let mut journal = Self { minor: MINOR, lines: Vec::new(), start, header: 0, whole: 0 };
        let Some(end) = memchr::memchr(b'\n', text) else {
            let torn = fresh.as_bytes().starts_with(text) || b"moodify-journal 1.0".starts_with(text);
            return Ok((journal, (!torn).then(|| corrupt(1, "it is not the first line of a journal"))));
        };
        let (header, minor) = match read_header(&text[..end]) {
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok((journal, Some(e))),
            other => other?,
        };
        journal.minor = minor;
        journal.start = Chain::start(header, minor);
        journal.header = end + 1;
        journal.whole = end + 1;
        let (mut chain, mut rest) = (journal.start, &text[end + 1..]);
        let wrong = "the checksum is wrong: it, or a line before it, was changed or removed";
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let number = journal.lines.len() + 2;
            let followed = Line::parse(&rest[..end]).and_then(|line| Ok((line, line.follows(chain).ok_or(wrong)?)));
            match followed {
                Ok((line, after)) => {
                    journal.lines.push(line);
                    chain = after;
                }
                Err(what) => return Ok((journal, Some(corrupt(number, what)))),
            }
            journal.whole += end + 1;
            rest = &rest[end + 1..];
        }
        // A crash leaves a part of a line, never a whole one that ends with something else than a line break.
        let changed = rest.split_last().and_then(|(_, line)| Line::parse(line).ok()?.follows(chain));
        let damage = changed.map(|_| corrupt(journal.lines.len() + 2, "its line break was changed"));
        Ok((journal, damage))
    }

    /// The length of its first line; 0 if it has none.
    pub(super) fn header_length(&self) -> usize {
        self.header
    }

    /// The chain after the first `n` records.
    pub(super) fn chain_after(&self, n: usize) -> Chain {
        n.checked_sub(1).and_then(|last| self.lines.get(last)).map_or(self.start, |line| line.sum)
    }

    pub(super) fn lines(&self) -> &[Line<'a>] {
        &self.lines
    }

    /// Where the line of record `n`, counted from 0, begins.
    pub(super) fn offset(&self, n: usize) -> usize {
        let after: usize = self.lines[n..].iter().map(Line::length).sum();
        self.whole - after
    }

    /// Where the last record stands; zeros if there is none.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub(super) fn last(&self) -> Result<Head> {
        let Some(last) = self.lines.last() else { return Ok(Head { seq: 0, token: 0 }) };
        last.head().map_err(|e| self.unreadable(self.lines.len() - 1, &e))
    }

    /// Whether this version knows all that the format may mean.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it is newer.
    pub(super) fn writable(&self) -> Result<()> {
        writable(self.minor)
    }

    /// All records.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.lines.len());
        for (n, line) in self.lines.iter().enumerate() {
            let entry: Entry = serde_json::from_str(line.json).map_err(|e| self.unreadable(n, &e))?;
            if entry.seq != n as u64 + 1 {
                return Err(corrupt(n + 2, format!("it holds record {}, where record {} should be", entry.seq, n + 1)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn unreadable(&self, n: usize, e: &serde_json::Error) -> Error {
        if self.minor <= MINOR {
            return corrupt(n + 2, e);
        }
        let message = format!("line {}: {e}; the journal is of a newer format, {MAJOR}.{}", n + 2, self.minor);
        Error::new(ErrorKind::Unsupported, "journal", "read the records", message)
            .hint(format!("read it with the version that wrote it; this one knows {MAJOR}.{MINOR}"))
    }
}

/// Whether this version knows all that a format with that minor number may mean.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is newer.
pub(super) fn writable(minor: u32) -> Result<()> {
    if minor <= MINOR {
        return Ok(());
    }
    let message = format!("it was begun by a newer version, in format {MAJOR}.{minor}");
    Err(Error::new(ErrorKind::Unsupported, "journal", "write to the journal", message)
        .hint(format!("resume it with that version; this one writes {MAJOR}.{MINOR}")))
}

fn read_header(line: &[u8]) -> Result<(&str, u32)> {
    let wrong = || corrupt(1, format!("{:?} is not the first line of a journal", String::from_utf8_lossy(line)));
    let header = std::str::from_utf8(line).map_err(|_| wrong())?;
    let (major, minor) = header.strip_prefix(NAME).and_then(|v| v.split_once('.')).ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| n.to_string() == text).ok_or_else(wrong);
    let (major, minor) = (number(major)?, number(minor)?);
    if major != MAJOR {
        let message = format!("line 1: the format is {major}.{minor}; this version reads {MAJOR}.x");
        return Err(Error::new(ErrorKind::Unsupported, "journal", "read the records", message)
            .hint("read it with the version that wrote it; nothing was changed"));
    }
    Ok((header, minor))
}
