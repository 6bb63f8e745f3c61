//! A plain value into a type, telling every mistake with its JSON pointer instead of the first one with none.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::tree::child;

/// Something wrong in a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Mistake {
    /// Where, as a JSON pointer from the value on.
    pub pointer: String,
    /// It is the key there, not the value, that is wrong.
    pub on_key: bool,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
    /// What else there is to know.
    pub note: Option<String>,
    /// Where the other one is, if two collide; a JSON pointer too.
    pub also: Option<String>,
}

impl Mistake {
    /// A mistake in the value at `pointer`.
    #[must_use]
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), ..Self::default() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))?;
        self.note.iter().try_for_each(|note| write!(f, " ({note})"))
    }
}

/// `value` as a `T`: what `serde_json::from_value` does, but with every mistake that can be found at once, each with
/// its pointer. For the parameters of steps; [`Source::explain`](super::Source::explain) adds the place.
///
/// # Errors
/// All mistakes.
///
/// ```
/// use moodify_core::model::RetryPolicy;
/// let value = serde_json::json!({"attemps": 3, "delay": "soon"});
/// let mistakes = moodify_core::planfile::from_value::<RetryPolicy>(&value).unwrap_err();
/// assert_eq!(mistakes.len(), 2);
/// assert_eq!(mistakes[0].hint.as_deref(), Some(r#"did you mean "attempts"?"#));
/// assert_eq!(mistakes[1].pointer, "/delay");
/// ```
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Mistake>> {
    match decode(value) {
        (Some(decoded), mistakes) if mistakes.is_empty() => Ok(decoded),
        (_, mistakes) => Err(mistakes),
    }
}

/// More mistakes than these help nobody.
const MOST: usize = 50;

/// Decodes again and again, each time without what was found wrong so far. The result is there if nothing is wrong
/// but keys that nobody knows.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> (Option<T>, Vec<Mistake>) {
    let mut skip = Skip::new();
    let mut mistakes: Vec<Mistake> = Vec::new();
    while mistakes.len() < MOST {
        let failure = match T::deserialize(Decoder { value, pointer: String::new(), skip: &skip }) {
            Ok(decoded) => {
                let complete = skip.values().all(|skipped| matches!(skipped, Skipped::UnknownKey { .. }));
                return (complete.then_some(decoded), mistakes);
            }
            Err(failure) => failure,
        };
        let at = failure.at.clone().unwrap_or_default();
        let skipped = match &failure.what {
            What::UnknownKey { name, known } => Skipped::UnknownKey { meant: nearest(name, known) },
            _ => Skipped::Wrong,
        };
        if !failure.follows_from(&skip) {
            mistakes.push(failure.into_mistake());
        }
        // What is skipped already cannot fail again; should a type manage to, this ends here.
        if at.pointer.is_empty() || skip.insert(at.pointer, skipped).is_some() {
            break;
        }
    }
    (None, mistakes)
}

/// What is left out, by pointer, because it is known to be wrong.
type Skip = BTreeMap<String, Skipped>;

#[derive(Debug)]
enum Skipped {
    UnknownKey { meant: Option<&'static str> },
    Wrong,
}

#[derive(Debug, Clone, Default)]
struct At {
    pointer: String,
    on_key: bool,
}

#[derive(Debug)]
struct Failure {
    at: Option<At>,
    what: What,
}

#[derive(Debug)]
enum What {
    UnknownKey { name: String, known: &'static [&'static str] },
    UnknownValue { name: String, known: &'static [&'static str] },
    Missing(&'static str),
    Other { message: String, hint: Option<&'static str> },
}

impl Failure {
    fn new(what: What) -> Self {
        Self { at: None, what }
    }

    fn at(mut self, pointer: &str) -> Self {
        self.at.get_or_insert_with(|| At { pointer: pointer.to_owned(), on_key: false });
        self
    }

    fn at_key(mut self, pointer: &str) -> Self {
        self.at.get_or_insert_with(|| At { pointer: pointer.to_owned(), on_key: true });
        self
    }

    /// Whether this is only the echo of what was found before: something is missing because it was left out.
    fn follows_from(&self, skip: &Skip) -> bool {
        let pointer = self.at.as_ref().map_or("", |at| at.pointer.as_str());
        let inside = |other: &str| other.strip_prefix(pointer).is_some_and(|rest| rest.starts_with('/'));
        let mut inner = skip.iter().filter(|(other, _)| inside(other));
        match self.what {
            What::UnknownKey { .. } => false,
            What::Missing(key) => inner.any(|(other, skipped)| match skipped {
                Skipped::UnknownKey { meant } => *meant == Some(key),
                Skipped::Wrong => *other == child(pointer, key),
            }),
            What::UnknownValue { .. } | What::Other { .. } => inner.next().is_some(),
        }
    }

    fn into_mistake(self) -> Mistake {
        let At { pointer, on_key } = self.at.unwrap_or_default();
        let list = |known: &[&str]| (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")));
        let meant = |name: &str, known| nearest(name, known).map(|near| format!("did you mean {near:?}?"));
        let (message, hint, note) = match self.what {
            What::UnknownKey { name, known } => (format!("unknown key {name:?}"), meant(&name, known), list(known)),
            What::UnknownValue { name, known } => {
                (format!("unknown {} {name:?}", if on_key { "key" } else { "value" }), meant(&name, known), list(known))
            }
            What::Missing(key) => (format!("the key {key:?} is missing"), None, None),
            What::Other { message, hint } => (message, hint.map(str::to_owned), None),
        };
        Mistake { pointer, on_key, message, hint, note, also: None }
    }
}

/// The known name that was probably meant.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let distance = |other: &str| strsim::damerau_levenshtein(&plain(name), &plain(other));
    let (near, distance) = known.iter().map(|other| (*other, distance(other))).min_by_key(|(_, distance)| *distance)?;
    (distance <= (near.chars().count() / 3).max(1)).then_some(near)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Failure {}

impl serde::de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other { message: message.to_string(), hint: None })
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = plainly(&expected.to_string());
        let bare = matches!(unexpected, Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_))
            || matches!(unexpected, Unexpected::Bool(_));
        let hint = (bare && expected == "a text").then_some("put it in quotes");
        Self::new(What::Other { message: format!("expected {expected}, found {}", found(unexpected)), hint })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let range = match expected.to_string().as_str() {
            "u8" => format!("a whole number from 0 to {}", u8::MAX),
            "u16" => format!("a whole number from 0 to {}", u16::MAX),
            "u32" => format!("a whole number from 0 to {}", u32::MAX),
            other => plainly(other),
        };
        Self::custom(format!("expected {range}, found {}", found(unexpected)))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {}, found {length} of them", plainly(&expected.to_string())))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownValue { name: name.to_owned(), known })
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { name: name.to_owned(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing(key))
    }
}

/// What serde and its derives expect, in the words of somebody who writes YAML.
fn plainly(expected: &str) -> String {
    match expected {
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "newtype variant" | "struct variant" | "tuple variant" => "settings below it".to_owned(),
        other if other.starts_with("struct ") => "keys with values".to_owned(),
        other => other.to_owned(),
    }
}

fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "keys with values".to_owned(),
        Unexpected::UnitVariant => "only the name".to_owned(),
        other => other.to_string(),
    }
}

struct Decoder<'de> {
    value: &'de Value,
    pointer: String,
    skip: &'de Skip,
}

impl<'de> Decoder<'de> {
    fn entries(&self) -> impl Iterator<Item = (&'de str, Self)> + use<'de> {
        let (pointer, skip) = (self.pointer.clone(), self.skip);
        let entries = self.value.as_object().into_iter().flatten();
        let children =
            entries.map(move |(key, value)| (key.as_str(), Decoder { value, pointer: child(&pointer, key), skip }));
        children.filter(|(_, decoder)| !decoder.skip.contains_key(&decoder.pointer))
    }

    fn items(&self) -> impl Iterator<Item = Self> + use<'de> {
        let (pointer, skip) = (self.pointer.clone(), self.skip);
        let items = self.value.as_array().into_iter().flatten().enumerate();
        let children = items.map(move |(index, value)| Decoder { value, pointer: child(&pointer, index), skip });
        children.filter(|decoder| !decoder.skip.contains_key(&decoder.pointer))
    }
}

impl<'de> Deserializer<'de> for Decoder<'de> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(_) => visitor.visit_seq(Items(self.items())),
            Value::Object(_) => visitor.visit_map(Entries { entries: self.entries(), value: None }),
        };
        result.map_err(|failure| failure.at(&self.pointer))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let pointer = self.pointer.clone();
        let mut entries = self.entries();
        let result = match (self.value, entries.next(), entries.next()) {
            (Value::String(name), ..) => visitor.visit_enum(StrDeserializer::<Failure>::new(name)),
            (Value::Object(_), Some((name, decoder)), None) => visitor.visit_enum(Variant { name, decoder }),
            (Value::Object(map), ..) => {
                let message = format!("expected exactly one of {}, found {} keys", known.join(", "), map.len());
                Err(Failure::new(What::Other { message, hint: None }))
            }
            _ => {
                let message = format!("expected one of {}", known.join(", "));
                Err(Failure::new(What::Other { message, hint: None }))
            }
        };
        result.map_err(|failure| failure.at(&pointer))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<I>(I);

impl<'de, I: Iterator<Item = Decoder<'de>>> SeqAccess<'de> for Items<I> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        self.0.next().map(|item| decode_child(item, seed)).transpose()
    }
}

struct Entries<'de, I> {
    entries: I,
    value: Option<Decoder<'de>>,
}

impl<'de, I: Iterator<Item = (&'de str, Decoder<'de>)>> MapAccess<'de> for Entries<'de, I> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let pointer = value.pointer.clone();
        self.value = Some(value);
        let key = seed.deserialize(BorrowedStrDeserializer::new(key));
        key.map(Some).map_err(|failure: Failure| failure.at_key(&pointer))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        let value = self.value.take().ok_or_else(|| Failure::new(What::Missing("value")))?;
        decode_child(value, seed)
    }
}

struct Variant<'de> {
    name: &'de str,
    decoder: Decoder<'de>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Failure;
    type Variant = Decoder<'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Decoder<'de>), Failure> {
        let name = seed.deserialize(BorrowedStrDeserializer::new(self.name));
        match name {
            Ok(name) => Ok((name, self.decoder)),
            Err(failure) => Err(Failure::at_key(failure, &self.decoder.pointer)),
        }
    }
}

impl<'de> VariantAccess<'de> for Decoder<'de> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        decode_child(self, std::marker::PhantomData)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        decode_child(self, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_any(visitor)
    }
}

/// What fails after the value was taken (`try_from`, say) belongs to that value's place too.
fn decode_child<'de, T: DeserializeSeed<'de>>(decoder: Decoder<'de>, seed: T) -> Result<T::Value, Failure> {
    let pointer = decoder.pointer.clone();
    seed.deserialize(decoder).map_err(|failure| failure.at(&pointer))
}
