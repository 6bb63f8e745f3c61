//! The only place where errors of the AWS SDK become moodify's.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_docdb::config::http::HttpResponse;
use aws_sdk_docdb::error::{ProvideErrorMetadata, SdkError};
use http::HeaderMap;
use moodify_core::{Effect, Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};

pub(crate) const DOCUMENTDB: &str = "documentdb";
pub(crate) const ELASTICACHE: &str = "elasticache";
pub(crate) const S3: &str = "s3";

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
pub(crate) fn from_sdk<E>(
    error: SdkError<E, HttpResponse>,
    backend: &'static str,
    operation: &'static str,
    access: Access,
) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let Some(cause) = credentials_error(&error) {
        return from_credentials(cause, backend, operation);
    }
    let (kind, message, effect) = match &error {
        SdkError::ConstructionFailure(_) => (ErrorKind::Invalid, innermost(&error), Effect::None),
        SdkError::TimeoutError(_) => {
            (ErrorKind::Timeout, "the API did not answer in time".to_owned(), access.unanswered())
        }
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            (ErrorKind::Invalid, innermost(&error), Effect::None)
        }
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            (ErrorKind::Timeout, innermost(&error), access.unanswered())
        }
        SdkError::DispatchFailure(_) => {
            let effect = if refused_connection(&error) { Effect::None } else { access.unanswered() };
            (ErrorKind::Unavailable, format!("cannot reach the API: {}", innermost(&error)), effect)
        }
        SdkError::ServiceError(answer) => {
            return from_answer(&error, answer.raw().status().as_u16(), (backend, operation), access);
        }
        SdkError::ResponseError(answer) => {
            return from_answer(&error, answer.raw().status().as_u16(), (backend, operation), access);
        }
        _ => (ErrorKind::Internal, innermost(&error), access.unanswered()),
    };
    Error::new(kind, backend, operation, message).effect(effect).with_source(error)
}

/// Credentials that are missing, or not usable. The causes may quote what was found, so only the own sentence is told.
pub(crate) fn from_credentials(cause: &CredentialsError, backend: &'static str, operation: &'static str) -> Error {
    let message = match cause {
        CredentialsError::CredentialsNotLoaded(_) => "no AWS credentials were found".to_owned(),
        cause => format!("no usable AWS credentials: {cause}"),
    };
    Error::new(ErrorKind::Unauthenticated, backend, operation, message)
        .hint("set an access key, or run where AWS provides credentials")
}

/// What S3 answered, as far as it was kept.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The text of an element of an error: `<Error><Code>...</Code><Message>...</Message></Error>`.
    fn element(&self, name: &str) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let text = body.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
        text.map(|(text, _)| text.to_owned()).unwrap_or_default()
    }

    fn is_error(&self) -> bool {
        self.status >= 300 || self.body.windows(7).any(|part| part == b"<Error>")
    }
}

/// Maps a failed request of `object_store`: by what was answered to it, if anything was.
pub(crate) fn from_store(
    error: object_store::Error,
    answer: Option<Answer>,
    backend: &'static str,
    operation: &'static str,
    access: Access,
) -> Error {
    if let Some(answer) = answer.filter(Answer::is_error) {
        return from_answered(&answer, backend, operation, access).with_source(error);
    }
    let http = chain(&error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind);
    let (kind, effect) = match http {
        _ if refused_connection(&error) => (ErrorKind::Unavailable, Effect::None),
        Some(HttpErrorKind::Connect) => (ErrorKind::Unavailable, Effect::None),
        Some(HttpErrorKind::Timeout) => (ErrorKind::Timeout, access.unanswered()),
        Some(HttpErrorKind::Request | HttpErrorKind::Interrupted) => (ErrorKind::Unavailable, access.unanswered()),
        Some(_) => (ErrorKind::Unavailable, access.unanswered()),
        None => (ErrorKind::Internal, access.unanswered()),
    };
    let message = match kind {
        ErrorKind::Internal => format!("the answer is not one of S3: {}", innermost(&error)),
        _ => format!("cannot reach the API: {}", innermost(&error)),
    };
    Error::new(kind, backend, operation, message).effect(effect).with_source(error)
}

/// Maps a failed request that was not made through `object_store`.
pub(crate) fn from_http(
    error: reqwest::Error,
    backend: &'static str,
    operation: &'static str,
    access: Access,
) -> Error {
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    let effect = if error.is_connect() { Effect::None } else { access.unanswered() };
    let error = error.without_url();
    let message = format!("cannot reach the API: {}", innermost(&error));
    Error::new(kind, backend, operation, message).effect(effect).with_source(error)
}

/// Maps an answer of S3 that is an error.
pub(crate) fn from_answered(answer: &Answer, backend: &'static str, operation: &'static str, access: Access) -> Error {
    // A completion that failed after all is told by an answer that began as a success.
    let status = if answer.status < 300 { 500 } else { answer.status };
    let (code, said) = (answer.element("Code"), answer.element("Message"));
    let error = from_code(&code, &said, status, (backend, operation), access);
    let after =
        answer.headers.get(http::header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    match after.map(Duration::from_secs) {
        Some(after) if error.is_transient() => error.retry_after(after),
        _ => error,
    }
}

/// Maps an answer that is an error. Without a code (a proxy's page, a cut answer) the HTTP status decides.
fn from_answer(
    error: &(impl ProvideErrorMetadata + StdError),
    status: u16,
    (backend, operation): (&'static str, &'static str),
    access: Access,
) -> Error {
    let (code, said) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
    from_code(code, said, status, (backend, operation), access)
}

fn from_code(
    code: &str,
    said: &str,
    status: u16,
    (backend, operation): (&'static str, &'static str),
    access: Access,
) -> Error {
    let kind = if code.is_empty() { of_status(status) } else { of_code(code, status) };
    let message = match (kind, code) {
        // AWS explains a bad signature by quoting the signed request, session token included.
        (ErrorKind::Unauthenticated, "ExpiredToken" | "ExpiredTokenException" | "RequestExpired") => {
            format!("{code}: the credentials have expired")
        }
        (ErrorKind::Unauthenticated, _) => format!("{code}: the credentials were not accepted"),
        (_, "") => format!("HTTP status {status} without an AWS error code"),
        _ => format!("{code}: {said}"),
    };
    let refused = (400..500).contains(&status);
    let error = Error::new(kind, backend, operation, message);
    let error = error.effect(if refused { Effect::None } else { access.unanswered() });
    match hint(code) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What to do next, where AWS's own words do not say.
fn hint(code: &str) -> Option<&'static str> {
    let hint = match code {
        code if code.starts_with("SnapshotQuotaExceeded") => {
            "the account has as many manual snapshots as it may: delete old ones, or have the quota raised"
        }
        code if code.contains("QuotaExceeded") || code.contains("QuotaForCustomerExceeded") => {
            "the account has as many of these as it may: remove some, or have the quota raised"
        }
        code if code.contains("State") && code.starts_with("Invalid") => {
            "something else is being done with it: it is tried again; look at its status"
        }
        "TestFailoverNotAvailableFault" => "AWS lets nobody test a fail-over of it now: look at its events",
        "SnapshotFeatureNotSupportedFault" => "Memcached and the smallest types of node have no snapshots",
        code if code.starts_with("Insufficient") => "AWS has no capacity for this just now: later, or another class",
        "KMSKeyNotAccessibleFault" => "the key is disabled, or this identity may not use it",
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => "get new ones, then resume",
        "BadDigest" | "XAmzContentChecksumMismatch" => "it was damaged on its way, and not put: put it again",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" => "the bucket is in another region: correct the settings",
        "NoSuchBucket" => "make the bucket, or correct its name",
        _ => return None,
    };
    Some(hint)
}

fn of_code(code: &str, status: u16) -> ErrorKind {
    match code {
        "AccessDenied"
        | "AccessDeniedException"
        | "NotAuthorized"
        | "UnauthorizedOperation"
        | "OptInRequired"
        | "KMSKeyNotAccessibleFault" => ErrorKind::Forbidden,
        "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => ErrorKind::Unauthenticated,
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "APICallRateForCustomerExceeded"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "SlowDown" => ErrorKind::Throttled,
        "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" => ErrorKind::Unhealthy,
        "PreconditionFailed" | "ConditionalRequestConflict" | "OperationAborted" => ErrorKind::Conflict,
        "RequestTimeout" => ErrorKind::Unavailable,
        "NotImplemented" => ErrorKind::Unsupported,
        code if code.contains("AlreadyExists") => ErrorKind::AlreadyExists,
        code if code.contains("NotFound") => ErrorKind::NotFound,
        "SnapshotFeatureNotSupportedFault" => ErrorKind::Unsupported,
        // The cluster is being changed, or the snapshot is not complete: later it may work.
        code if code.starts_with("Invalid") && code.contains("State") => ErrorKind::Conflict,
        code if code.starts_with("Insufficient") => ErrorKind::Unavailable,
        _ => of_status(status),
    }
}

fn of_status(status: u16) -> ErrorKind {
    match status {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        412 => ErrorKind::Conflict,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Invalid,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// The SDK wraps the cause many times, and says nothing in its own words.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().unwrap_or(error).to_string()
}

fn credentials_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

fn refused_connection(error: &(dyn StdError + 'static)) -> bool {
    let refused = |cause: &io::Error| cause.kind() == io::ErrorKind::ConnectionRefused;
    chain(error).any(|cause| cause.downcast_ref().is_some_and(refused))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for (code, status, kind) in [
            ("DBClusterSnapshotNotFoundFault", 404, ErrorKind::NotFound),
            ("DBClusterSnapshotAlreadyExistsFault", 400, ErrorKind::AlreadyExists),
            ("InvalidDBClusterStateFault", 400, ErrorKind::Conflict),
            ("SnapshotQuotaExceededFault", 400, ErrorKind::Invalid),
            ("InsufficientStorageClusterCapacity", 400, ErrorKind::Unavailable),
            ("SnapshotNotFoundFault", 404, ErrorKind::NotFound),
            ("ReplicationGroupAlreadyExists", 400, ErrorKind::AlreadyExists),
            ("InvalidCacheClusterState", 400, ErrorKind::Conflict),
            ("SnapshotFeatureNotSupportedFault", 400, ErrorKind::Unsupported),
            ("APICallRateForCustomerExceeded", 400, ErrorKind::Throttled),
            ("Throttling", 400, ErrorKind::Throttled),
            ("AccessDenied", 403, ErrorKind::Forbidden),
            ("ExpiredToken", 403, ErrorKind::Unauthenticated),
            ("InvalidParameterValue", 400, ErrorKind::Invalid),
            ("NoSuchUpload", 404, ErrorKind::NotFound),
            ("PreconditionFailed", 412, ErrorKind::Conflict),
            ("BadDigest", 400, ErrorKind::Unhealthy),
            ("SlowDown", 503, ErrorKind::Throttled),
            ("InternalFailure", 500, ErrorKind::Unavailable),
        ] {
            assert_eq!(of_code(code, status), kind, "{code}");
        }
    }
}
