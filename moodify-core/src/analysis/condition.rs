use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

/// A comparison with a number: `> 5%`, `<= 2s`, `> 0`. A percentage is kept as a fraction, a time in seconds.
///
/// ```
/// use moodify_core::analysis::Condition;
/// let limit: Condition = "> 5%".parse().unwrap();
/// assert!(limit.holds(0.12) && !limit.holds(0.05));
/// assert!(!limit.holds(f64::NAN), "what is not a number satisfies nothing");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    comparison: Comparison,
    value: f64,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    None,
    Percent,
    Seconds,
    Millis,
}

impl Unit {
    const ALL: [(Self, &'static str, f64); 4] =
        [(Self::Percent, "%", 0.01), (Self::Millis, "ms", 0.001), (Self::Seconds, "s", 1.0), (Self::None, "", 1.0)];

    fn suffix(self) -> &'static str {
        Self::ALL.iter().find(|(unit, ..)| *unit == self).map_or("", |(_, suffix, _)| suffix)
    }

    fn factor(self) -> f64 {
        Self::ALL.iter().find(|(unit, ..)| *unit == self).map_or(1.0, |(.., factor)| *factor)
    }
}

impl Condition {
    /// Whether `value` (a fraction, seconds or a plain number) satisfies it. Never true for what is not a number.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        let limit = self.limit();
        match self.comparison {
            Comparison::Above => value > limit,
            Comparison::AtLeast => value >= limit,
            Comparison::Below => value < limit,
            Comparison::AtMost => value <= limit,
        }
    }

    /// The number compared with, as a fraction, in seconds or plain.
    #[must_use]
    pub fn limit(&self) -> f64 {
        self.value * self.unit.factor()
    }

    /// A value of the same unit, written for people: `12.0 %`, `6.00 s`.
    #[must_use]
    pub fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Percent => format!("{:.1} %", value * 100.0),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Millis => format!("{:.0} ms", value * 1000.0),
            Unit::None => format!("{value}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
        };
        write!(f, "{sign} {}{}", self.value, self.unit.suffix())
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a condition; write it like \"> 5%\", \"<= 2s\" or \"> 0\"");
        let trimmed = text.trim();
        let signs = [
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
        ];
        let (sign, comparison) = signs.into_iter().find(|(sign, _)| trimmed.starts_with(sign)).ok_or_else(bad)?;
        let rest = trimmed[sign.len()..].trim();
        let digits = rest.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%' || c == ' ');
        let suffix = rest[digits.len()..].trim();
        let unit = Unit::ALL.iter().find(|(_, s, _)| *s == suffix).map(|(unit, ..)| *unit).ok_or_else(bad)?;
        let value: f64 = digits.trim().parse().map_err(|_| bad())?;
        if !value.is_finite() {
            return Err(bad());
        }
        Ok(Self { comparison, value, unit })
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A comparison (>, >=, <, <=) with a number, a percentage or a time in s or ms.",
            "pattern": r"^\s*(>=|<=|>|<)\s*-?[0-9.]+\s*(%|s|ms)?\s*$",
            "examples": ["> 5%", "<= 2s", "> 0"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_unit() {
        for (text, holds, fails) in
            [("> 5%", 0.051, 0.05), (">= 250ms", 0.25, 0.2), ("< 2s", 1.9, 2.0), ("<= 0", 0.0, 1.0)]
        {
            let condition: Condition = text.parse().unwrap();
            assert!(condition.holds(holds), "{text} {holds}");
            assert!(!condition.holds(fails), "{text} {fails}");
            assert_eq!(condition.to_string(), text);
        }
        for bad in ["5%", "> ", "> 5 minutes", "= 3", "> NaN", "> inf"] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
    }
}
