use super::Entry;
use super::codec::{self, Chain, Journal};
use crate::error::Result;

/// Where the text of a journal ends, for stores that keep it line by line: each line has a checksum that is chained to
/// the line before, so that damage, a gap and tampering are found and named, wherever the lines are kept.
///
/// ```
/// use moodify_core::journal::{Entry, Record, Tail};
/// let entry = |seq| Entry { seq, time: jiff::Timestamp::UNIX_EPOCH, elapsed_ms: Some(0), token: 1, record: Record::Lived };
/// let (header, mut tail) = Tail::begin();
/// let lines = [tail.line(&entry(1)).unwrap(), tail.line(&entry(2)).unwrap()];
///
/// let text = format!("{header}\n{}\n{}\n", lines[0], lines[1]);
/// let (entries, read) = Tail::read(&text).unwrap();
/// assert_eq!((entries.len(), &read), (2, &tail));
/// let damaged = Tail::read(&text.replacen("lived", "ended", 1)).unwrap_err();
/// assert!(damaged.to_string().contains("line 2"), "{damaged}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    chain: Chain,
    seq: u64,
    /// The minor number of its format.
    minor: u32,
}

impl Tail {
    /// The first line of a new journal, without its line break, and where that ends.
    #[must_use]
    pub fn begin() -> (String, Self) {
        let (mut header, chain) = codec::begin();
        header.pop();
        (header, Self { chain, seq: 0, minor: codec::MINOR })
    }

    /// All records of a journal's text, and where it ends.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with the line that is damaged;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if its format is a newer one.
    pub fn read(text: &str) -> Result<(Vec<Entry>, Self)> {
        let journal = Journal::parse(text.as_bytes())?;
        let entries = journal.entries()?;
        let chain = journal.chain_after(entries.len());
        let seq = entries.last().map_or(0, |last| last.seq);
        Ok((entries, Self { chain, seq, minor: journal.minor }))
    }

    /// The number of the last record; 0 if there is none.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether this version may write to it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if it was begun by a newer version.
    pub fn writable(&self) -> Result<()> {
        codec::writable(self.minor)
    }

    /// The line of the next record, without its line break; the text ends with it then.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the journal was begun by a newer version.
    pub fn line(&mut self, entry: &Entry) -> Result<String> {
        self.writable()?;
        let mut line = Vec::new();
        self.chain = codec::push_line(&mut line, &codec::json(entry)?, self.chain);
        self.seq = entry.seq;
        line.pop();
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}
