//! The only place where errors of Google's SDK and API become moodify's.

use std::error::Error as StdError;
use std::time::Duration;

use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::Error as Sdk;
use google_cloud_gax::error::rpc::Code;
use http::HeaderMap;
use moodify_core::{Effect, Error, ErrorKind};

pub(crate) const STORAGE: &str = "cloud-storage";
pub(crate) const FIRESTORE: &str = "firestore";

/// What the addresses of the metadata server begin with, on whatever host.
const METADATA_PATH: &str = "/computeMetadata/";

const GET_NEW: &str = "get new ones, then resume";

/// A request as errors tell it, and whether it may change something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) backend: &'static str,
    pub(crate) operation: &'static str,
    writes: bool,
}

impl Call {
    /// A request that changes nothing, whatever happens.
    pub(crate) const fn read(backend: &'static str, operation: &'static str) -> Self {
        Self { backend, operation, writes: false }
    }

    /// A request that, lost after it was sent, may have changed something.
    pub(crate) const fn write(backend: &'static str, operation: &'static str) -> Self {
        Self { backend, operation, writes: true }
    }

    /// The effect of a request whose answer never came.
    pub(crate) fn unanswered(self) -> Effect {
        if self.writes { Effect::Unknown } else { Effect::None }
    }

    pub(crate) fn fail(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, self.backend, self.operation, message).effect(Effect::None)
    }
}

/// Maps a failed request of the SDK.
pub(crate) fn from_sdk(error: Sdk, call: Call) -> Error {
    if error.is_authentication() {
        // Its causes may quote what a token endpoint answered, so only its own sentence is told.
        let cause = chain(&error).find_map(|cause| cause.downcast_ref::<CredentialsError>());
        return match cause {
            Some(cause) => from_credentials(cause, call),
            None => from_key(error.to_string(), call.backend),
        };
    }
    let (kind, effect) = classify(&error, call);
    let message = match (error.status(), error.http_status_code()) {
        (Some(status), Some(code)) if status.code == Code::Unknown => format!("HTTP status {code}: {}", status.message),
        (Some(status), _) => format!("{}: {}", status.code.name(), status.message),
        (None, Some(code)) => format!("HTTP status {code}"),
        (None, None) => causes(&error),
    };
    let after = error.http_headers().and_then(retry_after);
    with_retry_after(refused(call, kind, message).effect(effect).with_source(error), after)
}

fn classify(error: &Sdk, call: Call) -> (ErrorKind, Effect) {
    // An answer without a status of the API's own is given as Unknown; then the HTTP status says more.
    let status = error.status().filter(|status| status.code != Code::Unknown || error.http_status_code().is_none());
    if let Some(status) = status {
        let kind = of_code(status.code);
        // The server refused; only its own failures leave it open how far it came.
        let open = matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal);
        // The transport also reports as a status that it could not connect.
        let open = open && !refused_connection(error);
        return (kind, if open { call.unanswered() } else { Effect::None });
    }
    match error.http_status_code() {
        Some(code) => of_http(code, call),
        None if error.is_connect() || refused_connection(error) => (ErrorKind::Unavailable, Effect::None),
        None if error.is_timeout() => (ErrorKind::Timeout, call.unanswered()),
        None if error.is_io() || error.is_transport() => (ErrorKind::Unavailable, call.unanswered()),
        None if error.is_binding() || error.is_serialization() => (ErrorKind::Invalid, Effect::None),
        None => (ErrorKind::Internal, call.unanswered()),
    }
}

pub(crate) fn of_code(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::Forbidden,
        Code::ResourceExhausted => ErrorKind::Throttled,
        Code::FailedPrecondition | Code::Aborted => ErrorKind::Conflict,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unavailable | Code::Cancelled | Code::Internal | Code::Unknown => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn of_http(code: u16, call: Call) -> (ErrorKind, Effect) {
    let kind = match code {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 | 410 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Invalid,
        501 => ErrorKind::Unsupported,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    (kind, if matches!(code, 400..=499) { Effect::None } else { call.unanswered() })
}

/// A request of the JSON API without an answer.
pub(crate) fn from_http(error: reqwest::Error, call: Call) -> Error {
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    let effect = if error.is_connect() || error.is_builder() { Effect::None } else { call.unanswered() };
    let error = error.without_url();
    call.fail(kind, causes(&error)).effect(effect).with_source(error)
}

/// An answer of the JSON API that is an error: `{"error": {"message": "..."}}`, or anything.
pub(crate) fn from_answer(status: u16, headers: &HeaderMap, body: &[u8], call: Call) -> Error {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|body| body.pointer("/error/message")?.as_str()).unwrap_or_default();
    let message = format!("HTTP status {status}{}{said}", if said.is_empty() { "" } else { ": " });
    let (kind, effect) = of_http(status, call);
    with_retry_after(refused(call, kind, message).effect(effect), retry_after(headers))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn with_retry_after(error: Error, after: Option<Duration>) -> Error {
    match after {
        Some(after) if error.is_transient() => error.retry_after(after),
        _ => error,
    }
}

/// Credentials that brought no token. The causes may quote a whole answer, of whoever gave it, so they are not told.
pub(crate) fn from_credentials(error: &CredentialsError, call: Call) -> Error {
    let http = chain(error).find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    // Where nothing else is configured, the metadata server is asked, wherever this runs.
    let of_metadata = http.and_then(reqwest::Error::url).is_some_and(|url| url.path().starts_with(METADATA_PATH));
    if of_metadata && http.is_some_and(reqwest::Error::is_connect) {
        return unauthenticated(call, "no credentials were found, and no metadata server answers here".to_owned());
    }
    // Whoever else gives tokens, its answer is an error of reqwest.
    let metadata = chain(error).find_map(|cause| cause.downcast_ref::<Sdk>().and_then(Sdk::http_status_code));
    let answer = match (metadata, http.and_then(reqwest::Error::status)) {
        (Some(status), _) => Some(format!("the metadata server answers with HTTP status {status}")),
        (None, Some(status)) => Some(format!("the server of tokens answers with HTTP status {}", status.as_u16())),
        (None, None) => None,
    };
    if error.is_transient() {
        let why = answer.unwrap_or_else(|| chain(error).last().map_or_else(String::new, ToString::to_string));
        return call.fail(ErrorKind::Unavailable, format!("cannot get a token: {why}"));
    }
    if chain(error).any(|cause| cause.to_string().contains("invalid_grant")) {
        let message = "the credentials are expired or revoked: no token is given for them any more (invalid_grant)";
        return call.fail(ErrorKind::Unauthenticated, message).hint(GET_NEW);
    }
    unauthenticated(call, answer.unwrap_or_else(|| "no token can be made of the credentials".to_owned()))
}

fn unauthenticated(call: Call, message: String) -> Error {
    call.fail(ErrorKind::Unauthenticated, message).hint(
        "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or run on a node with workload identity",
    )
}

/// What an API answered that it does not do.
fn refused(call: Call, kind: ErrorKind, message: String) -> Error {
    let error = call.fail(kind, message);
    if kind == ErrorKind::Unauthenticated { error.hint(GET_NEW) } else { error }
}

/// A client that could not be made.
pub(crate) fn from_build(error: impl StdError + Send + Sync + 'static, backend: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, backend, "set up the client", causes(&error)).with_source(error)
}

/// Credentials that are missing or not usable.
pub(crate) fn from_key(message: impl Into<String>, backend: &'static str) -> Error {
    unauthenticated(Call::read(backend, "find credentials"), message.into())
}

fn refused_connection(error: &Sdk) -> bool {
    let refused = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::ConnectionRefused;
    chain(error).any(|cause| cause.downcast_ref().is_some_and(refused))
}

/// The libraries say little in their own words, so the causes are told too, each once.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut said = Vec::new();
    for cause in chain(error).map(ToString::to_string) {
        if !said.iter().any(|earlier: &String| earlier.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
