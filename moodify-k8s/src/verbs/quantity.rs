//! Amounts as Kubernetes writes them: `250m`, `1.5`, `4Gi`, `12345678n`, `1e3`.

/// In billionths, rounded up; `None` for what is no amount.
pub(crate) fn nanos(text: &str) -> Option<u128> {
    const ONE: u128 = 1_000_000_000;
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // numerator / denominator of what one of the unit is, in billionths.
    let (unit, part) = match suffix {
        "" => (ONE, 1),
        "n" => (1, 1),
        "u" => (1_000, 1),
        "m" => (1_000_000, 1),
        "k" => (ONE * 1_000, 1),
        "M" => (ONE * 1_000_000, 1),
        "G" => (ONE * 1_000_000_000, 1),
        "T" => (ONE * 1_000_000_000_000, 1),
        "P" => (ONE * 1_000_000_000_000_000, 1),
        "Ki" => (ONE << 10, 1),
        "Mi" => (ONE << 20, 1),
        "Gi" => (ONE << 30, 1),
        "Ti" => (ONE << 40, 1),
        "Pi" => (ONE << 50, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (ONE, power) } else { (ONE.checked_mul(power)?, 1) }
        }
    };
    let decimals = u32::try_from(fraction.len()).ok()?;
    let amount: u128 = format!("{whole}{fraction}").parse().ok()?;
    Some(amount.checked_mul(unit)?.div_ceil(10_u128.checked_pow(decimals)?.checked_mul(part)?))
}

/// In thousandths, rounded up.
pub(super) fn millis(text: &str) -> Option<u64> {
    nanos(text).and_then(|n| u64::try_from(n.div_ceil(1_000_000)).ok())
}

/// In whole ones, rounded up.
pub(super) fn units(text: &str) -> Option<u64> {
    nanos(text).and_then(|n| u64::try_from(n.div_ceil(1_000_000_000)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("1", 1000),
            ("1.5", 1500),
            ("250m", 250),
            ("12345678n", 13),
            ("1u", 1),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("15e-1", 1500),
            (".5", 500),
            ("0", 0),
        ] {
            assert_eq!(millis(text), Some(value), "{text}");
        }
        assert_eq!((units("4Gi"), units("1.5Ki"), units("100M")), (Some(4 << 30), Some(1536), Some(100_000_000)));
        for text in ["", "Gi", "1x", "1.2.3", "-1", "1e", "e3"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
