use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// Where an incident or a maintenance stands, in the words that status pages share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentStatus {
    /// A maintenance that is announced and has not begun.
    Scheduled,
    /// Somebody looks at it. The runbook opens a planned deployment so. Of a maintenance: it is going on.
    Investigating,
    /// The cause is known. Of a maintenance: it is going on.
    Identified,
    /// It is mended, and watched.
    Monitoring,
    /// It is over.
    Resolved,
}

/// What customers read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentUpdate {
    /// Where it stands.
    pub status: IncidentStatus,
    /// The message.
    pub message: String,
}

impl IncidentUpdate {
    /// What customers shall read.
    #[must_use]
    pub fn new(status: IncidentStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// A maintenance that is announced before it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Maintenance {
    /// When it begins.
    pub from: Timestamp,
    /// When it ends, as far as one knows. It is over when it is resolved.
    pub until: Timestamp,
    /// The message.
    pub message: String,
}

impl Maintenance {
    /// A maintenance between two moments.
    #[must_use]
    pub fn new(from: Timestamp, until: Timestamp, message: impl Into<String>) -> Self {
        Self { from, until, message: message.into() }
    }
}

/// An incident or a maintenance on the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The page's own id of it.
    pub id: String,
    /// Where it stands.
    pub status: IncidentStatus,
    /// The last message.
    pub message: String,
}

impl Incident {
    /// The incident `id` as this update leaves it.
    #[must_use]
    pub fn after(id: impl Into<String>, update: &IncidentUpdate) -> Self {
        Self { id: id.into(), status: update.status, message: update.message.clone() }
    }

    /// Whether customers read this already.
    #[must_use]
    pub fn says(&self, update: &IncidentUpdate) -> bool {
        self.status == update.status && self.message == update.message
    }
}

/// What a status page can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StatusPageCapabilities {
    /// It has a place for maintenances that are announced before they begin.
    pub maintenance: bool,
}

impl StatusPageCapabilities {
    /// A page that can announce maintenances, or cannot.
    #[must_use]
    pub const fn new(maintenance: bool) -> Self {
        Self { maintenance }
    }
}

/// Tells customers.
///
/// # Contract
/// - There is at most one open incident under a key, a maintenance counting as one: `open` and `schedule` under a key that
///   has one return that, as it is. So a crashed run's incident is adopted, never doubled, also when the answer to its
///   creation was lost.
/// - `update` to the status and message that are there already changes nothing. An id stays good; where a page gives
///   out a new one for a change, the returned incident has it.
/// - A maintenance is begun, updated and resolved by `update`, as an incident is. A page without the capability
///   refuses `schedule` as [`Unsupported`](crate::ErrorKind::Unsupported).
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait StatusPage: Send + Sync + fmt::Debug {
    /// What it can do. Asks nobody.
    fn capabilities(&self) -> StatusPageCapabilities;

    /// Opens an incident under the context's key.
    ///
    /// # Errors
    /// When the page cannot be reached or refuses; [`Throttled`](crate::ErrorKind::Throttled) with the time to wait where
    /// the page tells it.
    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident>;

    /// Announces a maintenance under the context's key. One that has begun already is going on at once.
    ///
    /// # Errors
    /// As for [`open`](Self::open); [`Invalid`](crate::ErrorKind::Invalid) if it ends before it begins.
    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident>;

    /// Finds the open incident or maintenance under the context's key.
    ///
    /// # Errors
    /// When the page cannot be reached or refuses.
    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>>;

    /// Updates an incident; `Resolved` closes it.
    ///
    /// # Errors
    /// When the page cannot be reached or refuses; [`NotFound`](crate::ErrorKind::NotFound) if there is none of that id.
    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident>;
}
