use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// What is asked of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The question: what would happen if they agree.
    pub question: String,
    /// The roles that must agree, each by another person (runbook: production needs CTO and DevOps lead).
    pub roles: Vec<String>,
}

/// What one person said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Who.
    pub person: String,
    /// In which role.
    pub role: String,
    /// Yes or no.
    pub approved: bool,
    /// Why.
    pub comment: String,
    /// When.
    pub at: Timestamp,
}

/// Asks people.
///
/// # Contract
/// A request is known by its idempotency key: asking twice is one question. Decisions are never forgotten or changed.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Approvals: Send + Sync + fmt::Debug {
    /// Puts the question.
    ///
    /// # Errors
    /// When it cannot be delivered.
    async fn request(&self, cx: &CallContext, request: &ApprovalRequest) -> Result<()>;

    /// The decisions so far on the question under this context's key.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn decisions(&self, cx: &CallContext) -> Result<Vec<Decision>>;
}
