//! A journal as text: a header, then one line a record, each with a checksum that is chained to the line before. So
//! damage, a cut in the middle and tampering are found and named; a torn last line is what a crash leaves, and dropped.

use sha2::{Digest, Sha256};

use super::Entry;
use crate::error::{Error, ErrorKind, Result};

/// The first line. The major number changes when older readers cannot read it any more.
const HEADER: &str = "moodify-journal 1.0";
const MAJOR: &str = "moodify-journal 1.";

/// Hex digits of the checksum kept a line: 128 bits.
const DIGITS: usize = 32;

/// The chained checksum of the last line, to which the next is chained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain(String);

impl Chain {
    pub(super) fn start() -> Self {
        Self("0".repeat(DIGITS))
    }

    fn next(&self, json: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update(json.as_bytes());
        let digest = hash.finalize();
        Self(digest.iter().take(DIGITS / 2).map(|b| format!("{b:02x}")).collect())
    }
}

pub(super) fn header() -> String {
    format!("{HEADER}\n")
}

/// Encodes entries as lines; returns them and the chain after them.
pub(super) fn encode(entries: &[Entry], chain: &Chain) -> Result<(String, Chain)> {
    let mut text = String::new();
    let mut chain = chain.clone();
    for entry in entries {
        let json = serde_json::to_string(entry).map_err(|e| {
            Error::new(ErrorKind::Internal, "journal", "encode a record", "it has no JSON form").with_source(e)
        })?;
        chain = chain.next(&json);
        text.push_str(&chain.0);
        text.push(' ');
        text.push_str(&json);
        text.push('\n');
    }
    Ok((text, chain))
}

/// What a journal's text holds.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) entries: Vec<Entry>,
    pub(super) chain: Chain,
    /// The bytes that are whole; what follows is a torn line.
    pub(super) whole: usize,
}

/// Decodes a journal.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the line that is damaged.
pub(super) fn decode(text: &[u8]) -> Result<Decoded> {
    let corrupt = |line: usize, what: &str| {
        Error::new(ErrorKind::Corrupt, "journal", "read the records", format!("line {line}: {what}"))
            .hint("the run must be looked at by hand; nothing was changed")
    };
    let mut decoded = Decoded { entries: Vec::new(), chain: Chain::start(), whole: 0 };
    let mut number = 0;
    let mut rest = text;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        number += 1;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| corrupt(number, "it is not text"))?;
        if number == 1 {
            if !line.starts_with(MAJOR) {
                return Err(corrupt(1, &format!("{line:?} is not a format that this version reads ({HEADER})")));
            }
        } else {
            let (sum, json) = line.split_once(' ').ok_or_else(|| corrupt(number, "it has no checksum"))?;
            let chain = decoded.chain.next(json);
            if chain.0 != sum {
                return Err(corrupt(number, "the checksum is wrong: it, or a line before it, was changed or removed"));
            }
            let entry = serde_json::from_str(json).map_err(|e| corrupt(number, &e.to_string()))?;
            decoded.entries.push(entry);
            decoded.chain = chain;
        }
        decoded.whole += end + 1;
        rest = &rest[end + 1..];
    }
    Ok(decoded)
}
