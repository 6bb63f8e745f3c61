use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// Where an incident stands, in the words that status pages share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentStatus {
    /// Somebody looks at it. The runbook opens a planned deployment so.
    Investigating,
    /// The cause is known.
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

/// An incident on the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The page's own id of it.
    pub id: String,
    /// Where it stands.
    pub status: IncidentStatus,
    /// The last message.
    pub message: String,
}

/// Tells customers.
///
/// # Contract
/// - `open` under a key that has an open incident returns that one: a crashed run's incident is adopted, never doubled.
/// - `update` to the status and message that are there already changes nothing.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait StatusPage: Send + Sync + fmt::Debug {
    /// Opens an incident under the context's key.
    ///
    /// # Errors
    /// When the page cannot be reached or refuses.
    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident>;

    /// Finds the open incident under the context's key.
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
