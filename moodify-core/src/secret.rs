//! What must never be seen: values that cannot be printed, and a net below them.
//!
//! A [`Secret`] has no `Display`, no `Serialize` and a `Debug` that says nothing. But a server may repeat what it was sent:
//! an error page with the request's headers, a redirect with the token in its address. So every `Secret` is remembered by
//! the process when it is made, and [`redact`] takes remembered values out of any text. moodify applies it where text
//! leaves the hands of a backend: to every [`Error`](crate::Error) and its sources, and to every record, event and
//! progress before anybody sees it. A program applies it to its logs with [`Redacting`].
//!
//! Found are the value itself whatever the case of its letters, its Base64 (both alphabets, also in the middle of
//! something longer, such as `user:password`), its percent-encoding and its escaped forms. Of an address the password and
//! a long path and its long parts count, of a JSON key file the fields that are secret, of a PEM file every line. Values shorter than
//! [`SHORTEST`] bytes are not looked for: too much else would be hit.
//!
//! Not found is what nobody told this module: a token that a plugin of kubectl fetches, or one that a cloud's metadata
//! server hands out. Nor what a server encodes in a way of its own, such as compressed or cut in pieces.
//!
//! ```
//! use moodify_core::secret::{ExposeSecret, Secret, redact};
//! let token = Secret::from("correct-horse-battery");
//! assert_eq!(token.expose_secret(), "correct-horse-battery");
//! assert_eq!(format!("{token:?}"), "Secret([redacted])");
//! assert_eq!(redact("401: Bearer correct-horse-battery is wrong"), "401: Bearer [redacted] is wrong");
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
pub use secrecy::ExposeSecret;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::mutation::{self, Mutation};

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// Shorter values are not looked for.
pub const SHORTEST: usize = 6;

/// The path of an address counts as a secret from this length on: that of a chat's webhook does.
const LONG_PATH: usize = 16;

/// What Rust's `url` encodes in a path.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}');

/// What nobody needs to encode, and few do.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Everything to look for, in small letters; the longest first, so that no part is left of it.
static KNOWN: RwLock<Vec<SecretString>> = RwLock::new(Vec::new());

/// A value that is neither printed nor written, and remembered to be taken out of texts.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Remembers it and keeps it. Remembered values are never forgotten.
    #[must_use]
    pub fn new(value: String) -> Self {
        remember(&value);
        Self(SecretString::from(value))
    }
}

impl ExposeSecret<str> for Secret {
    fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({REDACTED})")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value.to_owned())
    }
}

impl From<SecretString> for Secret {
    fn from(value: SecretString) -> Self {
        remember(value.expose_secret());
        Self(value)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Remembers a secret that is kept by somebody else, such as a client library.
pub fn remember(value: &str) {
    let mut forms = BTreeSet::new();
    add_parts(value.trim(), &mut forms);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    forms.retain(|form| form.len() >= SHORTEST && !known.iter().any(|k| k.expose_secret() == form));
    known.extend(forms.into_iter().map(SecretString::from));
    known.sort_by_key(|form| std::cmp::Reverse(form.expose_secret().len()));
}

/// What of a value is secret: all of it, or the parts of an address, of a key file, of a PEM file.
fn add_parts(value: &str, forms: &mut BTreeSet<String>) {
    if let Some((_, rest)) =
        value.split_once("://").filter(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        let password =
            authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
        if let Some(password) = password {
            add_forms(password, forms);
            add_forms(&percent_decode_str(password).decode_utf8_lossy(), forms);
        }
        let values = path.split(['/', '?', '&', '#']).map(|part| part.split_once('=').map_or(part, |(_, value)| value));
        for part in [path, path.trim_start_matches('/')].into_iter().chain(values).filter(|p| p.len() >= LONG_PATH) {
            add_forms(part, forms);
            add_forms(&percent_decode_str(part).decode_utf8_lossy(), forms);
        }
        return;
    }
    match serde_json::from_str::<Value>(value) {
        Ok(json @ (Value::Object(_) | Value::Array(_))) => return add_json("", &json, forms),
        _ => add_forms(value, forms),
    }
    for line in value.lines().map(str::trim).filter(|line| line.len() >= LONG_PATH && !line.starts_with("-----")) {
        add_forms(line, forms);
    }
}

fn add_json(name: &str, value: &Value, forms: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| add_json(name, value, forms)),
        Value::Array(items) => items.iter().for_each(|item| add_json(name, item, forms)),
        Value::String(text) if ["key", "secret", "token", "password"].iter().any(|word| name.contains(word)) => {
            add_parts(text.trim(), forms);
        }
        _ => {}
    }
}

fn add_forms(value: &str, forms: &mut BTreeSet<String>) {
    if value.len() < SHORTEST {
        return;
    }
    let debug = format!("{value:?}");
    let json = Value::from(value).to_string();
    let unquoted = |text: String| text[1..text.len() - 1].to_owned();
    let mut add = |form: &str| forms.insert(form.to_ascii_lowercase());
    add(value);
    add(&unquoted(debug));
    let json = unquoted(json);
    add(&json);
    add(&json.replace('/', "\\/"));
    for set in [NON_ALPHANUMERIC, PATH] {
        add(&utf8_percent_encode(value, set).to_string());
    }
    let encoded = utf8_percent_encode(value, UNRESERVED).to_string();
    add(&encoded);
    add(&encoded.replace("%20", "+"));
    // Base64 depends on the place modulo three; what does not depend on the neighbours is looked for.
    for skip in 0..3 {
        let padded = [&[0; 2][..skip], value.as_bytes()].concat();
        let (first, whole) = ((skip * 8).div_ceil(6), padded.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            let inner = &encoded[first..whole];
            // What is as short as that could be anything.
            if inner.len() >= SHORTEST {
                add(inner);
            }
        }
    }
}

/// The text without any remembered secret in it.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    if mutation::on(Mutation::TellSecrets) {
        return Cow::Borrowed(text);
    }
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let mut result = Cow::Borrowed(text);
    let mut lowered = if known.is_empty() { String::new() } else { text.to_ascii_lowercase() };
    for form in known.iter().map(ExposeSecret::expose_secret) {
        if lowered.contains(form) {
            let mut rest = 0;
            let mut clean = String::with_capacity(text.len());
            for (at, found) in lowered.match_indices(form) {
                clean.push_str(&result[rest..at]);
                clean.push_str(REDACTED);
                rest = at + found.len();
            }
            clean.push_str(&result[rest..]);
            lowered = clean.to_ascii_lowercase();
            result = Cow::Owned(clean);
        }
    }
    result
}

/// Whether a text holds a remembered secret.
#[must_use]
pub fn is_in(text: &str) -> bool {
    matches!(redact(text), Cow::Owned(_))
}

pub(crate) fn redacted(text: String) -> String {
    match redact(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(clean) => clean,
    }
}

/// The same value, without any remembered secret in its texts.
pub(crate) fn without<T: serde::Serialize + serde::de::DeserializeOwned>(value: T) -> T {
    if KNOWN.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
        return value;
    }
    // Escaped quotes and line ends do not hide a secret: its escaped form is looked for as well.
    let Ok(text) = serde_json::to_string(&value) else { return value };
    let Cow::Owned(_) = redact(&text) else { return value };
    let cleaned = serde_json::from_str(&text).map(|mut json: Value| {
        clean(&mut json);
        json
    });
    cleaned.ok().and_then(|json| serde_json::from_value(json).ok()).unwrap_or(value)
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = redacted(std::mem::take(text)),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => {
            let all = std::mem::take(fields);
            for (name, mut value) in all {
                clean(&mut value);
                fields.insert(redacted(name), value);
            }
        }
        _ => {}
    }
}

/// An error of somebody else that would say a secret, in its stead.
struct Told {
    display: String,
    debug: String,
    source: Option<Box<Told>>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display)
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.debug)
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|told| told as &(dyn StdError + 'static))
    }
}

impl Told {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let source = error.source().map(|source| Box::new(Self::of(source)));
        Self { display: redacted(error.to_string()), debug: redacted(format!("{error:?}")), source }
    }
}

/// The error as it is, or without its secrets if it would say one.
pub(crate) fn safe_source(error: Box<dyn StdError + Send + Sync>) -> Box<dyn StdError + Send + Sync> {
    let says = |e: &(dyn StdError + 'static)| is_in(&e.to_string()) || is_in(&format!("{e:?}"));
    let top: &(dyn StdError + 'static) = error.as_ref();
    let leaks = std::iter::successors(Some(top), |&e| e.source()).any(says);
    if leaks { Box::new(Told::of(top)) } else { error }
}

/// A writer that takes secrets out of whatever is written, for logs. What is written at once is looked at as a whole:
/// give it whole lines, as log formatters do.
///
/// ```
/// use std::io::Write;
/// use moodify_core::secret::{Redacting, Secret};
/// let _token = Secret::from("hunter2-hunter2");
/// let mut log = Redacting(Vec::new());
/// writeln!(log, "sent hunter2-hunter2").unwrap();
/// assert_eq!(log.0, b"sent [redacted]\n");
/// ```
#[derive(Debug, Clone)]
pub struct Redacting<W>(pub W);

impl<W: Write> Write for Redacting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(redact(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.write(text.to_string().as_bytes()).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn every_form_of_a_secret_is_taken_out() {
        let secret = "cAn4ry/+pass word\"1";
        let _kept = Secret::from(secret);
        let basic = STANDARD.encode(format!("user:{secret}"));
        let middle = STANDARD.encode(format!("ab{secret}cd"));
        let url = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        for told in [
            secret.to_owned(),
            secret.to_ascii_uppercase(),
            secret
                .chars()
                .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
                .collect(),
            STANDARD.encode(secret),
            basic,
            middle,
            URL_SAFE_NO_PAD.encode(secret),
            url.clone(),
            url.to_lowercase(),
            format!("{secret:?}"),
            serde_json::json!({"a": secret}).to_string(),
        ] {
            let text = format!("before {told} after");
            let clean = redact(&text);
            assert!(
                clean.contains(REDACTED) && clean.starts_with("before ") && clean.ends_with(" after"),
                "{told}: {clean}"
            );
            assert!(!clean.to_lowercase().contains("an4ry"), "{clean}");
        }
        assert_eq!(redact("nothing of that kind"), "nothing of that kind");
    }

    #[test]
    fn of_an_address_only_what_is_secret_is_taken_out() {
        let _redis = Secret::from("redis://ana:s%40fe-password@cache.internal:6379/0");
        let clean = redact("cache.internal:6379 refused ana with s@fe-password (s%40fe-password)").into_owned();
        assert_eq!(clean, "cache.internal:6379 refused ana with [redacted] ([redacted])");
        let _hook = Secret::from("https://hooks.example/services/T0001/B0001/abcdefgh");
        assert_eq!(
            redact("no POST /services/T0001/B0001/abcdefgh at hooks.example"),
            "no POST [redacted] at hooks.example"
        );
        let _plain = Secret::from("redis://127.0.0.1:6379/0");
        assert_eq!(redact("redis://127.0.0.1:6379/0"), "redis://127.0.0.1:6379/0");
    }

    #[test]
    fn of_a_key_file_what_is_secret_is_taken_out() {
        let _key = Secret::from(
            r#"{"type": "service_account", "client_email": "release@project.example",
                "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"}"#,
        );
        let clean = redact("release@project.example: bad key MIIEvQIBADANBgkqhkiG9w0B").into_owned();
        assert_eq!(clean, "release@project.example: bad key [redacted]");
    }

    #[test]
    fn values_are_cleaned_and_sources_too() {
        let _token = Secret::from("value-canary-1");
        let value = serde_json::json!({"a": ["x value-canary-1"], "value-canary-1": 1, "b": 2});
        assert_eq!(without(value), serde_json::json!({"a": ["x [redacted]"], "[redacted]": 1, "b": 2}));
        let source = io::Error::other(io::Error::other("it said value-canary-1"));
        let safe = safe_source(Box::new(source));
        assert!(!format!("{safe} {safe:?}").contains("canary"), "{safe:?}");
        let harmless = safe_source(Box::new(io::Error::other("well")));
        assert!(harmless.downcast_ref::<io::Error>().is_some(), "what says nothing stays what it is");
    }

    #[test]
    fn what_is_short_is_not_looked_for() {
        let _short = Secret::from("web");
        assert_eq!(redact("web"), "web");
    }
}
