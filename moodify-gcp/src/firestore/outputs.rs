//! What an export says it has written.
//!
//! Its metadata names the objects with documents, `output-0`, `output-1` and so on, among bytes of a format that is not
//! documented. The names are all that is looked for.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use moodify_core::Result;
use moodify_core::backend::{Artifact, Content};

use super::export::OUTPUT;

/// More digits than numbers of outputs have are no number.
const DIGITS: usize = 9;

/// Looks for names in bytes that come in pieces, of which it keeps the beginning of one name.
#[derive(Debug, Default)]
struct Scan {
    /// How much of the word is there.
    matched: usize,
    digits: String,
    found: BTreeSet<u32>,
}

impl Scan {
    fn piece(&mut self, piece: &[u8]) {
        let word = OUTPUT.as_bytes();
        for byte in piece {
            if self.matched == word.len() && byte.is_ascii_digit() {
                // Of what is too long one digit more is kept, so that it is known to be.
                if self.digits.len() <= DIGITS {
                    self.digits.push(char::from(*byte));
                }
                continue;
            }
            self.end_name();
            // No other letter of the word is its first: what does not fit begins anew.
            let fits = word.get(self.matched) == Some(byte);
            self.matched = if fits { self.matched + 1 } else { usize::from(*byte == word[0]) };
        }
    }

    /// A name ends where no digit follows.
    fn end_name(&mut self) {
        if self.matched == OUTPUT.len() {
            if self.digits.len() <= DIGITS {
                self.found.extend(self.digits.parse::<u32>());
            }
            self.matched = 0;
        }
        self.digits.clear();
    }

    fn finish(mut self) -> BTreeSet<u32> {
        self.end_name();
        self.found
    }
}

/// The numbers of the outputs that a metadata object names; reads it to its end, and so verifies its checksum.
pub(super) async fn named(mut content: Content) -> Result<BTreeSet<u32>> {
    let mut scan = Scan::default();
    while let Some(piece) = content.try_next().await? {
        scan.piece(&piece);
    }
    Ok(scan.finish())
}

/// Which of the named outputs are not among the objects beneath the folder of the metadata that names them.
pub(super) fn missing(metadata: &Artifact, named: &BTreeSet<u32>, objects: &[Artifact]) -> Vec<String> {
    let folder = metadata.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let there = |number: &&u32| {
        let name = format!("/{OUTPUT}{number}");
        objects.iter().any(|object| object.path.starts_with(folder) && object.path.ends_with(&name))
    };
    let gone = named.iter().filter(|number| !there(number));
    gone.map(|number| format!("{} names {OUTPUT}{number}, which is not there", metadata.path)).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn names_are_found_wherever_pieces_end() {
        let text =
            b"\x00\x81\x0aoutput-0\x12output-12\xffoooutput-3x output- output-99999999999 outoutput-4output-5".to_vec();
        for size in [1, 2, 3, 7, 1000] {
            let pieces: Vec<Result<Bytes>> = text.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let found = named(Box::pin(stream::iter(pieces))).await.unwrap();
            assert_eq!(found.into_iter().collect::<Vec<_>>(), [0, 3, 4, 5, 12], "pieces of {size}");
        }
        assert!(named(Box::pin(stream::iter([]))).await.unwrap().is_empty());
    }

    #[test]
    fn an_output_is_looked_for_beneath_its_metadata() {
        let object =
            |path: &str| Artifact { path: path.to_owned(), bytes: 1, crc32c: None, updated: None, version: None };
        let objects = ["x/a/output-0", "x/a/output-10", "x/b/output-1"].map(object);
        let numbers = BTreeSet::from([0, 1, 10]);
        assert_eq!(missing(&object("x/x.overall_export_metadata"), &numbers, &objects), [""; 0]);
        let found = missing(&object("x/a/a.export_metadata"), &numbers, &objects);
        assert_eq!(found, ["x/a/a.export_metadata names output-1, which is not there"]);
    }
}
