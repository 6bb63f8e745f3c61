//! The only place where what HTTP says becomes a [`moodify_core::Error`].

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use moodify_core::clock::{Clock, SystemClock, since};
use moodify_core::secret::{self, ExposeSecret};
use moodify_core::{CallContext, Effect, Error, ErrorKind};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};

use crate::client::{Answer, Call};

/// A server that asks for more than this has not understood what waits for it.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

fn new(call: &Call<'_>, kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, call.backend, call.operation, message).effect(effect(call)).on(call.endpoint.to_string())
}

/// The effect of a request of which no answer tells whether it was carried out.
fn effect(call: &Call<'_>) -> Effect {
    if call.changes { Effect::Unknown } else { Effect::None }
}

/// An error of the context, which knows neither address nor method.
pub(crate) fn about(call: &Call<'_>, error: Error) -> Error {
    let error = error.on(call.endpoint.to_string());
    if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) { error.effect(effect(call)) } else { error }
}

/// The context had ended before anything was sent.
pub(crate) fn not_sent(cx: &CallContext, call: &Call<'_>) -> Error {
    let (kind, message) = if cx.cancel().is_cancelled() {
        (ErrorKind::Cancelled, "cancelled before the request was sent")
    } else {
        (ErrorKind::Timeout, "the deadline passed before the request was sent")
    };
    new(call, kind, message).effect(Effect::None)
}

/// There was no answer, or only a part of one.
pub(crate) fn from_reqwest(call: &Call<'_>, roots: usize, error: reqwest::Error) -> Error {
    // The address may hold secrets; `on` tells what people may read of it.
    let error = error.without_url();
    let reason = reason(&error);
    let mapped = if error.is_builder() {
        new(call, ErrorKind::Invalid, format!("the request cannot be made: {reason}")).effect(Effect::None)
    } else if let Some(tls) = tls_error(&error) {
        let hint = match tls {
            rustls::Error::InvalidCertificate(_) if roots == 0 => {
                "this machine trusts no certificates: install ca-certificates, or name the server's CA in `ca-file`"
            }
            rustls::Error::InvalidCertificate(_) => "mend the server's certificate, or name its CA in `ca-file`",
            _ => "does that address speak https?",
        };
        // Not a matter of waiting, but of somebody mending it; and nothing is sent before TLS stands.
        let message = format!("TLS failed: {tls}");
        new(call, ErrorKind::Unavailable, message).effect(Effect::None).transient(false).hint(hint)
    } else if error.is_connect() {
        new(call, ErrorKind::Unavailable, format!("no connection: {reason}")).effect(Effect::None)
    } else if error.is_timeout() {
        new(call, ErrorKind::Timeout, reason)
    } else {
        new(call, ErrorKind::Unavailable, format!("the connection broke before the answer was complete: {reason}"))
    };
    mapped.with_source(error)
}

/// The answer is larger than anything that is asked for.
pub(crate) fn too_large(call: &Call<'_>, limit: usize) -> Error {
    let message = format!("the answer is larger than {} MiB and was not read to its end", limit / (1024 * 1024));
    new(call, ErrorKind::Invalid, message).hint("check the address: is it what should be asked?")
}

/// The answer came with a good status, and cannot be read.
pub(crate) fn not_understood(call: &Call<'_>, answer: &Answer, why: &dyn fmt::Display) -> Error {
    let excerpt = excerpt(call, answer);
    let told = if excerpt.is_empty() { "an empty body".to_owned() } else { excerpt };
    let why = redact(call, why.to_string());
    new(call, ErrorKind::Invalid, format!("the answer cannot be understood: {why}; it says: {told}"))
        .hint("check the address: is it what should be asked?")
}

/// The answer's status is none of 200 to 299.
pub(crate) fn from_status(call: &Call<'_>, answer: &Answer) -> Error {
    use ErrorKind::{Conflict, Forbidden, Invalid, NotFound, Throttled, Timeout, Unauthenticated, Unavailable};
    let status = answer.status;
    let (kind, hint) = match status.as_u16() {
        300..=399 => (Invalid, Some("redirects are not followed: write the address where it leads, if it is right")),
        401 if call.token.is_none() => (Unauthenticated, Some("no token was sent; name one with `token-env`")),
        401 => (Unauthenticated, Some("the token is wrong or has expired; renew it")),
        403 => (Forbidden, Some("who owns the token may not do this; ask for the right, or use another token")),
        404 | 410 => (NotFound, Some("check the address")),
        405 => (Invalid, Some("the address answers, but not to this method; is it the right one?")),
        408 => (Timeout, None),
        409 | 412 => (Conflict, None),
        420 | 429 => (Throttled, None),
        500.. => (Unavailable, None),
        _ => (Invalid, None),
    };
    // Who refuses has done nothing; who fails may have done it before failing.
    let refused = status.as_u16() < 500 && kind != Timeout;
    let excerpt = excerpt(call, answer);
    let mut message = format!("answered {}", named(status));
    if let (true, Some(to)) = (status.is_redirection(), text(&answer.headers, LOCATION)) {
        message += &format!(", which leads to {}", call.endpoint.redirect(to));
    } else if !excerpt.is_empty() {
        message += &format!(": {excerpt}");
    }
    let mut error = new(call, kind, message);
    if refused {
        error = error.effect(Effect::None);
    }
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    match retry_after(&answer.headers) {
        Some(after) if matches!(kind, Throttled | Unavailable) => error.retry_after(after),
        _ => error,
    }
}

/// A status as people know it: `503 Service Unavailable`.
pub(crate) fn named(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// What a server says about its own failure, in one line, without anything that is secret.
pub(crate) fn excerpt(call: &Call<'_>, answer: &Answer) -> String {
    const LIMIT: usize = 200;
    if text(&answer.headers, CONTENT_TYPE).is_some_and(|kind| kind.contains("html")) {
        return "a page of HTML".to_owned();
    }
    let body = String::from_utf8_lossy(&answer.body);
    let said = serde_json::from_str::<serde_json::Value>(&body)
        .ok()
        .and_then(|json| ["error", "message"].iter().find_map(|name| json.get(name)?.as_str().map(str::to_owned)));
    let said = redact(call, said.unwrap_or_else(|| body.into_owned()));
    let line = said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Servers like to repeat what they were sent.
fn redact(call: &Call<'_>, mut text: String) -> String {
    let mut secrets = call.endpoint.secrets();
    secrets.extend(call.token.map(|token| token.expose_secret().to_owned()));
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret.as_str(), "...");
    }
    // Before anything is cut: half a secret is one that nobody finds.
    secret::redact(&text).into_owned()
}

/// `Retry-After`, in seconds or as a date. A date is compared with the server's own clock, if it tells it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER)?.trim();
    let after = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = text(headers, DATE).and_then(http_date).unwrap_or_else(|| SystemClock.now());
            since(now, http_date(value)?)
        }
    };
    Some(after.min(RETRY_AFTER_LIMIT))
}

/// A mail server refused, or could not be reached.
#[cfg(feature = "smtp")]
pub(crate) fn from_smtp(operation: &'static str, server: &str, error: lettre::transport::smtp::Error) -> Error {
    use ErrorKind::{Invalid, Timeout, Unauthenticated, Unavailable};

    let refused = chain(&error).find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind)
        == Some(io::ErrorKind::ConnectionRefused);
    let tls = error.is_tls() || tls_error(&error).is_some();
    let code = error.status().map(u16::from);
    let (kind, effect, hint) = match code {
        // Who refuses has sent nothing on.
        Some(530 | 534 | 535 | 538) => (Unauthenticated, Effect::None, Some("check user and password")),
        Some(550 | 551 | 553) => (Invalid, Effect::None, Some("check the addresses of sender and receivers")),
        Some(code) if code < 500 => (Unavailable, Effect::None, None),
        Some(_) => (Invalid, Effect::None, None),
        None if refused => (Unavailable, Effect::None, None),
        // Nothing is sent before TLS stands.
        None if tls => (Unavailable, Effect::None, Some("mend the server's certificate, or name its CA in `ca-file`")),
        None if error.is_client() => (Invalid, Effect::None, None),
        None if error.is_timeout() => (Timeout, Effect::Unknown, None),
        None => (Unavailable, Effect::Unknown, None),
    };
    let said = secret::redact(&reason(&error)).into_owned();
    let message = match code {
        Some(code) => format!("answered {code}: {said}"),
        None => said,
    };
    let mut mapped = Error::new(kind, crate::smtp::BACKEND, operation, message).effect(effect).on(server);
    if tls {
        mapped = mapped.transient(false);
    }
    if let Some(hint) = hint {
        mapped = mapped.hint(hint);
    }
    mapped.with_source(error)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text.trim()).ok().map(|zoned| zoned.timestamp())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The innermost error: `Connection refused` rather than `error sending request`.
fn reason(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    chain(error).find_map(|e| e.downcast_ref())
}

/// An error and all beneath it. An `io::Error` hides what it wraps from `source`, hence the detour.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
        None => e.source(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(retry_after: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        super::retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let seconds = Duration::from_secs;
        assert_eq!(after("17", None), Some(seconds(17)));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(after(date, Some("Wed, 21 Oct 2015 07:27:30 GMT")), Some(seconds(30)));
        assert_eq!(after(date, None), Some(Duration::ZERO), "long ago");
        assert_eq!(after("18446744073709551615", None), Some(RETRY_AFTER_LIMIT));
        assert_eq!(after("soon", None), None);
    }
}
