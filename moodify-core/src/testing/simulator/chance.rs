//! Chance that a seed decides: the same question always has the same answer.

use std::hash::Hasher;

/// Mixes numbers into one (splitmix64 over each).
pub(super) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A number from 0 to below 1 that depends on the seed, some words and a number.
pub(super) fn fraction(seed: u64, words: &[&str], number: u64) -> f64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for word in words {
        hash.write(word.as_bytes());
        hash.write(&[0]);
    }
    (mix(&[seed, hash.finish(), number]) >> 11) as f64 / (1_u64 << 53) as f64
}

/// FNV-1a: the same on every machine and in every version, unlike the standard library's hashers.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
