//! Text in, a JSON value and the place of everything in it out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, Spanned};

use super::source::Place;

/// Where one value stands, and its key if it is in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) key: Option<Place>,
    pub(super) value: Place,
}

/// A key that was written twice.
#[derive(Debug)]
pub(super) struct Twice {
    pub(super) key: String,
    pub(super) first: Place,
    pub(super) second: Place,
}

/// A text as a value, with the place of everything in it by JSON pointer.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) spots: BTreeMap<String, Spot>,
    pub(super) twice: Vec<Twice>,
}

/// Why a text is neither YAML nor JSON, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Option<Place>,
    pub(super) message: String,
}

impl Tree {
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let root: Spanned<Kind> =
            serde_saphyr::from_str_with_options(text, options()).map_err(|e| syntax_error(&e, text))?;
        let mut tree = Self::default();
        tree.value = tree.add(root, String::new(), None);
        Ok(tree)
    }

    fn add(&mut self, node: Spanned<Kind>, pointer: String, key: Option<Place>) -> Value {
        let value = place(node.defined);
        let result = match node.value {
            Kind::Scalar(value) => value,
            Kind::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| self.add(item, child(&pointer, index), None))
                .collect(),
            Kind::Map(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let at = place(key.defined);
                    let pointer = child(&pointer, &key.value);
                    if let Some(Spot { key: Some(first), .. }) = self.spots.get(&pointer) {
                        self.twice.push(Twice { key: key.value, first: *first, second: at });
                        continue;
                    }
                    let value = self.add(node, pointer, Some(at));
                    map.insert(key.value, value);
                }
                Value::Object(map)
            }
        };
        self.spots.insert(pointer, Spot { key, value });
        result
    }
}

/// The JSON pointer of a child: RFC 6901.
pub(super) fn child(pointer: &str, name: impl fmt::Display) -> String {
    format!("{pointer}/{}", name.to_string().replace('~', "~0").replace('/', "~1"))
}

fn place(location: Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

/// How deep a plan may nest, also through aliases. Each level costs about 50 kB of stack in an unoptimised build, and
/// threads have 2 MB.
const DEEPEST: usize = 24;

/// YAML 1.2 without the traps of 1.1 (`no` and `0755` are text), and small: a plan has no use for a bomb of aliases.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST, max_events: 100_000, max_nodes: 50_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        // Both keys reach the visitor, so that both places can be told.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        reject_unsupported_tags: true,
        emit_comments: false,
        with_snippet: false,
    }
}

fn syntax_error(error: &serde_saphyr::Error, text: &str) -> SyntaxError {
    use serde_saphyr::Error as E;
    let message = match error {
        E::AliasError { error, .. } => syntax_error(error, text).message,
        E::AliasReplayLimitExceeded { .. } => "the aliases repeat too much; write out what is meant".to_owned(),
        E::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("nested too deeply; {DEEPEST} levels are the most")
        }
        E::Budget { .. } => "larger than any plan should be".to_owned(),
        E::MultipleDocuments { .. } => "a second document begins here; a file holds one".to_owned(),
        E::NullIntoString { .. } | E::Unexpected { .. } => "a key must be a text; put it in quotes".to_owned(),
        E::RecursiveReferencesRequireWeakTypes { .. } => "an alias stands inside of what it stands for".to_owned(),
        E::NonFiniteFloat { value, .. } => format!("{value} is not a number that can be used; put text in quotes"),
        other => {
            // The place is told apart from the message.
            let told = other.to_string();
            let message = told.split(" at line ").next().unwrap_or(&told).trim();
            match message {
                "mapping values are not allowed in this context" => {
                    "a key is not possible here; a text with \": \" in it needs quotes, and the keys of a map stand in \
                     one column"
                        .to_owned()
                }
                "illegal placement of ':' indicator" => {
                    "a key is not possible here; perhaps a bracket before it is not closed".to_owned()
                }
                _ => message.to_owned(),
            }
        }
    };
    let place = error.location().map(place);
    match place.and_then(|place| indenting_tab(text, place)) {
        Some(tab) if message.contains("tab") => {
            SyntaxError { place: Some(tab), message: format!("{message}; indent with spaces") }
        }
        _ => SyntaxError { place, message },
    }
}

/// The first tab that indents a line from `place` on: the parser may report the beginning of what it is in.
fn indenting_tab(text: &str, place: Place) -> Option<Place> {
    text.lines().enumerate().skip(place.line.saturating_sub(1)).find_map(|(index, line)| {
        let blank = line.chars().position(|c| c != ' ')?;
        (line.chars().nth(blank) == Some('\t')).then_some(Place { line: index + 1, column: blank + 1 })
    })
}

enum Kind {
    Scalar(Value),
    List(Vec<Spanned<Kind>>),
    Map(Vec<(Spanned<String>, Spanned<Kind>)>),
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> de::Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false, a list or a map")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Kind, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.into()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Kind, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Kind, E> {
        Err(E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Kind, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("{value} is not a number")))?;
        Ok(Kind::Scalar(number.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar(value.into()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Kind::Map(entries))
    }
}
