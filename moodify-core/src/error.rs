//! The one error type: what failed, on what, what state it is in now, what to do next.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret;

/// The result of everything in moodify that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure this is; decides what the engine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// It exists already, and is not ours.
    AlreadyExists,
    /// The object changed between read and write; read again.
    Conflict,
    /// Somebody else edited what this run owns. Never overwritten blindly.
    Drift,
    /// The identity that we use may not do this.
    Forbidden,
    /// The credentials are missing, wrong or expired.
    Unauthenticated,
    /// The backend cannot do this at all.
    Unsupported,
    /// The backend could not be reached or is failing.
    Unavailable,
    /// The backend asks us to slow down.
    Throttled,
    /// A deadline passed.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
    /// It works as a request, but the thing did not become or stay healthy.
    Unhealthy,
    /// There is no data to decide by: neither well nor unwell.
    Inconclusive,
    /// A gate does not hold.
    Refused,
    /// Another engine owns the run now.
    Fenced,
    /// The journal could not be written or read.
    Storage,
    /// The journal is damaged.
    Corrupt,
    /// A defect in moodify or in a backend.
    Internal,
}

/// Whether the remote side may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Certainly nothing was changed.
    None,
    /// It may have been changed: observe before you decide.
    Unknown,
}

/// A failure, told for the person at 3 a.m.
///
/// `Display` never prints the source (walk [`StdError::source`] for it). Secrets that the process knows of are
/// [taken out](crate::secret) of every part, the sources' words too.
///
/// ```
/// use moodify_core::{Error, ErrorKind};
/// let e = Error::new(ErrorKind::NotFound, "kubernetes", "get Deployment", "it does not exist")
///     .on("moodify-production/backend-deployment")
///     .hint("check the name of the workload in the plan");
/// assert!(!e.is_transient());
/// assert_eq!(
///     e.to_string(),
///     "kubernetes: get Deployment on moodify-production/backend-deployment: it does not exist \
///      (check the name of the workload in the plan)"
/// );
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    backend: Cow<'static, str>,
    operation: Cow<'static, str>,
    target: String,
    message: String,
    hint: Option<String>,
    effect: Effect,
    transient: bool,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error: the kind, who reports it, what was being done, and what went wrong.
    ///
    /// Transience and effect follow from the kind (a timeout is transient with an unknown effect); the builder
    /// methods change them.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        backend: impl Into<Cow<'static, str>>,
        operation: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        use ErrorKind::{Cancelled, Conflict, Throttled, Timeout, Unavailable};
        Self(Box::new(Inner {
            kind,
            backend: backend.into(),
            operation: operation.into(),
            target: String::new(),
            message: secret::redacted(message.into()),
            hint: None,
            effect: if matches!(kind, Timeout | Cancelled) { Effect::Unknown } else { Effect::None },
            transient: matches!(kind, Unavailable | Throttled | Timeout | Conflict),
            retry_after: None,
            source: None,
        }))
    }

    /// On what it failed: namespace/name, address, bucket.
    #[must_use]
    pub fn on(mut self, target: impl Into<String>) -> Self {
        self.0.target = secret::redacted(target.into());
        self
    }

    /// What the reader can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(secret::redacted(hint.into()));
        self
    }

    /// The remote side may have changed.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// Overrides whether a repeat can help.
    #[must_use]
    pub fn transient(mut self, transient: bool) -> Self {
        self.0.transient = transient;
        self
    }

    /// The backend said when to come back; implies that a repeat can help.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self.0.transient = true;
        self
    }

    /// The error beneath this one. If it would say a secret, another one with the rest of its words stands in its stead.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(secret::safe_source(source.into()));
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the remote side may have changed.
    #[must_use]
    pub fn effect_of(&self) -> Effect {
        self.0.effect
    }

    /// Whether a repeat of the same call can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// When the backend asked us to come back, if it did.
    #[must_use]
    pub fn retry_after_of(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What went wrong, without the surroundings.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// On what it failed; empty if nothing in particular.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// This error as data, for journal, events and reports.
    #[must_use]
    pub fn to_record(&self) -> ErrorRecord {
        ErrorRecord {
            kind: self.0.kind,
            backend: self.0.backend.to_string(),
            operation: self.0.operation.to_string(),
            target: self.0.target.clone(),
            message: self.0.message.clone(),
            hint: self.0.hint.clone(),
            effect: self.0.effect,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_record().fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// An [`Error`] as it stands in journal, events and reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorRecord {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// Who reports it.
    pub backend: String,
    /// What was being done.
    pub operation: String,
    /// On what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// What went wrong.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the remote side may have changed.
    pub effect: Effect,
}

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.backend, self.operation)?;
        if !self.target.is_empty() {
            write!(f, " on {}", self.target)?;
        }
        write!(f, ": {}", self.message)?;
        if self.effect == Effect::Unknown {
            write!(f, "; whether it took effect is unknown")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}
