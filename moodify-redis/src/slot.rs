//! Which slot of a cluster a key is in.

pub(crate) const SLOTS: u16 = 16_384;

/// CRC-16 with the polynomial 0x1021, begun at zero (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// The slot goes by what stands between the first braces of a key, if anything does, and else by the whole key.
pub(crate) fn of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// How many slots are in none of these ranges, which overlap nowhere.
pub(crate) fn missing(ranges: impl Iterator<Item = (u16, u16)>) -> u32 {
    let there: u32 = ranges.map(|(first, last)| u32::from(last.saturating_sub(first)) + 1).sum();
    u32::from(SLOTS).saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_a_cluster_puts_them() {
        // As CLUSTER KEYSLOT of Redis 7.0 says.
        for (key, slot) in
            [("foo", 12_182), ("123456789", 12_739), ("", 0), ("{foo}bar", 12_182), ("a{foo}{b}", 12_182)]
        {
            assert_eq!(of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(of(b"{}foo"), crc16(b"{}foo") % SLOTS, "nothing between the braces");
        assert_eq!(of(b"{foo"), crc16(b"{foo") % SLOTS, "never closed");
    }

    #[test]
    fn slots_of_nobody_are_counted() {
        assert_eq!(missing([(0, 5460), (5461, 16_383)].into_iter()), 0);
        assert_eq!(missing([(0, 99)].into_iter()), 16_284);
    }
}
