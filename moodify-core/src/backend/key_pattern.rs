use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind, Result};

/// Which keys of a cache are meant: a glob with `*`, `?`, `[abc]`, `[^a-c]`, and `\` before what is meant literally.
///
/// It is checked before anything is asked of a cache. What matches every key is no pattern, because deleting everything
/// is a flush, and has its own guards.
///
/// ```
/// use moodify_core::backend::KeyPattern;
/// let pattern: KeyPattern = "mood:user:*".parse().unwrap();
/// assert!(pattern.matches(b"mood:user:7") && !pattern.matches(b"session:7"));
/// for wrong in ["", "*", "**", "*?", "mood:[ab", "mood:\\"] {
///     assert!(wrong.parse::<KeyPattern>().is_err(), "{wrong:?}");
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPattern(String);

impl KeyPattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is meant to match this key.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        matches(self.0.as_bytes(), key)
    }
}

fn matches(pattern: &[u8], key: &[u8]) -> bool {
    // Where to go on after the last star: one byte more of the key is the star's then.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut k) = (0, 0);
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, k));
            continue;
        }
        if p == pattern.len() && k == key.len() {
            return true;
        }
        match key.get(k).and_then(|byte| one(&pattern[p..], *byte)) {
            Some(length) => (p, k) = (p + length, k + 1),
            None => match star {
                Some((after, from)) if from < key.len() => {
                    (p, k) = (after, from + 1);
                    star = Some((after, from + 1));
                }
                _ => return false,
            },
        }
    }
}

/// The length of what at the begin of the pattern matches this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', ..] => {
            let (length, hit) = class(pattern, byte)?;
            hit.then_some(length)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// The length of a class, and whether it has this byte; `None` if it is never closed.
fn class(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut hit = false;
    loop {
        match pattern.get(at..)? {
            [b']', ..] => return Some((at + 1, hit != negated)),
            [b'\\', literal, ..] => {
                hit |= *literal == byte;
                at += 2;
            }
            [first, b'-', last, ..] => {
                hit |= (*first.min(last)..=*first.max(last)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                hit |= *literal == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

/// What is wrong with a pattern.
fn problem(pattern: &str) -> Option<&'static str> {
    let bytes = pattern.as_bytes();
    let (mut at, mut literal) = (0, false);
    while at < bytes.len() {
        at += match bytes[at] {
            b'*' | b'?' => 1,
            b'\\' if at + 1 == bytes.len() => return Some("it ends in the middle of an escape"),
            b'\\' => {
                literal = true;
                2
            }
            b'[' => {
                literal = true;
                match class(&bytes[at..], 0) {
                    Some((length, _)) => length,
                    None => return Some("a [ is never closed"),
                }
            }
            _ => {
                literal = true;
                1
            }
        };
    }
    (!literal).then_some(if pattern.is_empty() { "it is empty" } else { "it says nothing of any key: that is a flush" })
}

impl FromStr for KeyPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match problem(text) {
            None => Ok(Self(text.to_owned())),
            Some(problem) => Err(Error::new(ErrorKind::Invalid, "moodify", "read a key pattern", problem).on(text)),
        }
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KeyPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match problem(&text) {
            None => Ok(Self(text)),
            Some(problem) => Err(de::Error::custom(format!("{text:?} is no key pattern: {problem}"))),
        }
    }
}

impl JsonSchema for KeyPattern {
    fn schema_name() -> Cow<'static, str> {
        "KeyPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "A glob over keys: *, ?, [abc], [^a-c], and \\ before what is meant literally."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_server_matches_them() {
        for (pattern, hits, misses) in [
            ("mood:*", &["mood:", "mood:1"][..], &["moo", "a-mood:1"][..]),
            ("*:7", &["a:7", ":7", "a:7:7"], &["a:77", "7"]),
            ("a?c", &["abc", "a?c"], &["ac", "abbc"]),
            ("a[bc]d", &["abd", "acd"], &["aad", "ad"]),
            ("a[^b-d]e", &["aae", "aze"], &["abe", "ade"]),
            ("a\\*", &["a*"], &["ab", "a\\*"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]),
            ("[\\]]x", &["]x"], &["\\x"]),
        ] {
            let pattern: KeyPattern = pattern.parse().unwrap();
            for key in hits {
                assert!(pattern.matches(key.as_bytes()), "{pattern} matches {key}");
            }
            for key in misses {
                assert!(!pattern.matches(key.as_bytes()), "{pattern} does not match {key}");
            }
        }
    }
}
