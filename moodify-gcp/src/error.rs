//! The only place where errors of Google's SDK become moodify's.

use std::error::Error as StdError;

use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_storage::Error as Sdk;
use google_cloud_storage::error::{ReadError, WriteError};
use moodify_core::{Effect, Error, ErrorKind};

pub(crate) const BACKEND: &str = "cloud-storage";

/// What a failed request may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It changes nothing, whatever happens.
    Read,
    /// Lost after it was sent, it may have changed something.
    Write,
}

impl Access {
    /// The effect of a request whose answer never came.
    pub(crate) fn unanswered(self) -> Effect {
        match self {
            Self::Read => Effect::None,
            Self::Write => Effect::Unknown,
        }
    }
}

/// Maps a failed request.
pub(crate) fn from_sdk(error: Sdk, operation: &'static str, access: Access) -> Error {
    if error.is_authentication() {
        // Its causes may quote what a token endpoint answered, so only its own sentence is told.
        let cause = chain(&error).find_map(|cause| cause.downcast_ref::<CredentialsError>());
        return match cause {
            Some(cause) => from_credentials(cause, operation),
            None => unauthenticated(operation, error.to_string()),
        };
    }
    let (kind, effect) = classify(&error, access);
    let message = match (error.status(), error.http_status_code()) {
        (Some(status), Some(code)) if status.code == Code::Unknown => format!("HTTP status {code}: {}", status.message),
        (Some(status), _) => format!("{}: {}", status.code.name(), status.message),
        (None, Some(code)) => format!("HTTP status {code}"),
        (None, None) => causes(&error),
    };
    Error::new(kind, BACKEND, operation, message).effect(effect).with_source(error)
}

fn classify(error: &Sdk, access: Access) -> (ErrorKind, Effect) {
    if is_corrupt(error) {
        return (ErrorKind::Unhealthy, access.unanswered());
    }
    // An answer without a status of the API's own is given as Unknown; then the HTTP status says more.
    let status = error.status().filter(|status| status.code != Code::Unknown || error.http_status_code().is_none());
    if let Some(status) = status {
        let kind = of_code(status.code);
        // The server refused; only its own failures leave it open how far it came.
        let open = matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Internal);
        // The transport also reports as a status that it could not connect.
        let open = open && !refused_connection(error);
        return (kind, if open { access.unanswered() } else { Effect::None });
    }
    match error.http_status_code() {
        Some(code @ 400..=499) => (of_http(code), Effect::None),
        Some(code) => (of_http(code), access.unanswered()),
        None if error.is_connect() || refused_connection(error) => (ErrorKind::Unavailable, Effect::None),
        None if error.is_timeout() => (ErrorKind::Timeout, access.unanswered()),
        None if error.is_io() || error.is_transport() => (ErrorKind::Unavailable, access.unanswered()),
        None if error.is_binding() || error.is_serialization() => (ErrorKind::Invalid, Effect::None),
        None => (ErrorKind::Internal, access.unanswered()),
    }
}

fn of_code(code: Code) -> ErrorKind {
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

fn of_http(code: u16) -> ErrorKind {
    match code {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Invalid,
        501 => ErrorKind::Unsupported,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// A request for metadata without an answer. It changes nothing, so the effect is none.
pub(crate) fn from_http(error: reqwest::Error, operation: &'static str) -> Error {
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    let error = error.without_url();
    Error::new(kind, BACKEND, operation, causes(&error)).effect(Effect::None).with_source(error)
}

/// An answer to a request for metadata that is an error: `{"error": {"message": "..."}}`, or anything.
pub(crate) fn from_answer(status: u16, body: &[u8], operation: &'static str) -> Error {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|body| body.pointer("/error/message")?.as_str()).unwrap_or_default();
    let message = format!("HTTP status {status}{}{said}", if said.is_empty() { "" } else { ": " });
    Error::new(of_http(status), BACKEND, operation, message).effect(Effect::None)
}

/// Credentials that brought no token.
pub(crate) fn from_credentials(error: &CredentialsError, operation: &'static str) -> Error {
    if error.is_transient() {
        return Error::new(ErrorKind::Unavailable, BACKEND, operation, format!("cannot get a token: {error}"));
    }
    unauthenticated(operation, error.to_string())
}

fn unauthenticated(operation: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Unauthenticated, BACKEND, operation, message)
        .hint("give a service account's key, or run where Google provides credentials")
}

/// A client that could not be made.
pub(crate) fn from_build(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, "set up the client", causes(&error)).with_source(error)
}

/// Credentials that are missing or not usable.
pub(crate) fn from_key(message: impl Into<String>) -> Error {
    unauthenticated("find credentials", message.into())
}

fn is_corrupt(error: &Sdk) -> bool {
    chain(error).any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(ReadError::ChecksumMismatch(_) | ReadError::ShortRead(_) | ReadError::LongRead { .. })
        ) || matches!(cause.downcast_ref(), Some(WriteError::ChecksumMismatch { .. }))
    })
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
