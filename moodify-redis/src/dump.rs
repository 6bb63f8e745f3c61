//! Looks at the file of a snapshot: whether it is whole, and of which time.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crc::{CRC_64_REDIS, Crc, Table};

static SUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// How much of a file is in memory at once. What stands at its head is far shorter.
const PIECE: usize = 256 << 10;

/// `REDIS` and four digits, or `VALKEY` and three.
const MAGIC: usize = 9;

/// The sum at the end, eight bytes with the lowest first.
const TRAILER: usize = 8;

/// The first version with a sum.
const OLDEST: u32 = 5;

const AUXILIARY: u8 = 0xfa;
const END: u8 = 0xff;

/// A file from begin to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) bytes: u64,
    /// Whether it has a checksum, which is right then.
    pub(crate) summed: bool,
    /// When it was begun, by the node's clock, in seconds since 1970.
    pub(crate) begun: Option<i64>,
}

#[derive(Debug)]
pub(crate) enum Problem {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is not what a node writes.
    Damaged(String),
    /// Nobody waits for it any more.
    Left,
}

fn damaged(what: impl Into<String>) -> Problem {
    Problem::Damaged(what.into())
}

/// Reads a file, piece by piece, as long as somebody waits for it.
pub(crate) fn read(file: &Path, waited_for: impl Fn() -> bool) -> Result<Dump, Problem> {
    // To open a pipe would wait for its writer.
    if !std::fs::metadata(file).map_err(Problem::Unreadable)?.is_file() {
        return Err(Problem::Unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")));
    }
    let mut file = File::open(file).map_err(Problem::Unreadable)?;
    let bytes = file.metadata().map_err(Problem::Unreadable)?.len();
    let mut left = bytes.saturating_sub(TRAILER as u64);
    if left <= MAGIC as u64 {
        return Err(damaged(format!("it is cut off: it has only {bytes} bytes")));
    }
    let mut next = |piece: &mut [u8]| {
        file.read_exact(piece).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it became shorter while it was read"),
            _ => Problem::Unreadable(e),
        })
    };
    let (mut digest, mut piece, mut last, mut begun, mut head) = (SUM.digest(), vec![0; PIECE], 0, None, true);
    while left > 0 {
        if !waited_for() {
            return Err(Problem::Left);
        }
        let piece = &mut piece[..usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        next(piece)?;
        if std::mem::take(&mut head) {
            magic(piece)?;
            begun = time(&piece[MAGIC..]);
        }
        digest.update(piece);
        last = piece[piece.len() - 1];
        left -= piece.len() as u64;
    }
    let mut trailer = [0; TRAILER];
    next(&mut trailer)?;
    if last != END {
        return Err(damaged(format!("it is cut off: its {bytes} bytes do not end as they should")));
    }
    let (sum, right) = (u64::from_le_bytes(trailer), digest.finalize());
    if sum != 0 && sum != right {
        return Err(damaged(format!("its checksum is {sum:016x}, and its {bytes} bytes give {right:016x}")));
    }
    Ok(Dump { bytes, summed: sum != 0, begun })
}

fn magic(head: &[u8]) -> Result<(), Problem> {
    let magic = head.get(..MAGIC).unwrap_or_default();
    let version = magic.strip_prefix(b"REDIS").or_else(|| magic.strip_prefix(b"VALKEY"));
    let number = version.filter(|digits| digits.iter().all(u8::is_ascii_digit));
    match number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok()) {
        Some(OLDEST..) => Ok(()),
        _ => Err(damaged("it does not begin as a dump of Redis or Valkey does")),
    }
}

/// The time that is told behind the magic, among some fields with names.
fn time(mut head: &[u8]) -> Option<i64> {
    while head.split_off_first() == Some(&AUXILIARY) {
        let (name, value) = (text(&mut head)?, text(&mut head)?);
        if name == b"ctime" {
            return std::str::from_utf8(&value).ok()?.parse().ok();
        }
    }
    None
}

/// The next string. Numbers are told as such, and what is compressed is left out: no time is.
fn text(head: &mut &[u8]) -> Option<Vec<u8>> {
    let integer = |value: i32| Some(value.to_string().into_bytes());
    let [first] = take(head)?;
    match first {
        0xc0 => integer(i8::from_le_bytes(take(head)?).into()),
        0xc1 => integer(i16::from_le_bytes(take(head)?).into()),
        0xc2 => integer(i32::from_le_bytes(take(head)?)),
        0xc3 => {
            let ([compressed], [whole]) = (take(head)?, take(head)?);
            let compressed = length(compressed, head)?;
            length(whole, head)?;
            head.split_off(..compressed).map(|_| Vec::new())
        }
        first => {
            let length = length(first, head)?;
            head.split_off(..length).map(<[u8]>::to_vec)
        }
    }
}

/// A length whose first byte was taken: of 6, 14 or 32 bits.
fn length(first: u8, head: &mut &[u8]) -> Option<usize> {
    match first {
        0x00..=0x3f => Some(first.into()),
        0x40..=0x7f => take(head).map(|[low]| usize::from(u16::from_be_bytes([first & 0x3f, low]))),
        0x80 => usize::try_from(u32::from_be_bytes(take(head)?)).ok(),
        _ => None,
    }
}

fn take<const N: usize>(head: &mut &[u8]) -> Option<[u8; N]> {
    head.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump without keys, of the time 1795900000, with fields before it that are written in each way.
    fn dump(magic: &[u8], sum: Option<u64>) -> Vec<u8> {
        let mut bytes = magic.to_vec();
        bytes.extend(b"\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x01a\xc1\x00\x01");
        bytes.extend(b"\xfa\x01b\xc3\x02\x05xy\xfa\x40\x01c\x80\x00\x00\x00\x01d");
        bytes.extend(b"\xfa\x05ctime\xc2");
        bytes.extend(1_795_900_000_i32.to_le_bytes());
        bytes.push(END);
        let sum = sum.unwrap_or_else(|| SUM.checksum(&bytes));
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    fn look(bytes: &[u8]) -> Result<Dump, Problem> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dump.rdb");
        std::fs::write(&file, bytes).unwrap();
        read(&file, || true)
    }

    #[test]
    fn a_whole_file_tells_its_time() {
        assert_eq!(SUM.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca, "as Redis has it");
        for magic in [b"REDIS0010", b"VALKEY080"] {
            let bytes = dump(magic, None);
            let whole = Dump { bytes: bytes.len() as u64, summed: true, begun: Some(1_795_900_000) };
            assert_eq!(look(&bytes).unwrap(), whole);
            assert_eq!(look(&dump(magic, Some(0))).unwrap(), Dump { summed: false, ..whole });
        }
    }

    #[test]
    fn one_that_is_longer_than_a_piece_is_read_to_its_end() {
        let mut bytes = dump(b"REDIS0010", None);
        bytes.truncate(bytes.len() - 1 - TRAILER);
        bytes.resize(2 * PIECE + 7, b'x');
        bytes.push(END);
        bytes.extend(SUM.checksum(&bytes).to_le_bytes());
        assert!(look(&bytes).unwrap().summed);
        bytes[PIECE + 1] ^= 1;
        assert!(matches!(look(&bytes), Err(Problem::Damaged(what)) if what.contains("checksum")));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let whole = dump(b"REDIS0010", None);
        for length in 0..whole.len() {
            assert!(matches!(look(&whole[..length]), Err(Problem::Damaged(_))), "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(matches!(look(&flipped), Err(Problem::Damaged(_))), "byte {at}");
        }
        assert!(matches!(look(&dump(b"REDIS0004", None)), Err(Problem::Damaged(_))), "without a sum at its end");
    }

    #[test]
    fn what_is_no_file_or_waited_for_by_nobody_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), || true), Err(Problem::Unreadable(_))));
        assert!(matches!(read(&dir.path().join("none"), || true), Err(Problem::Unreadable(_))));
        let file = dir.path().join("dump.rdb");
        std::fs::write(&file, dump(b"REDIS0010", None)).unwrap();
        assert!(matches!(read(&file, || false), Err(Problem::Left)));
    }
}
