use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Good to know.
    #[default]
    Info,
    /// Look at it soon.
    Warning,
    /// Wake somebody.
    Critical,
}

/// A message to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// One line.
    pub title: String,
    /// The rest.
    #[serde(default)]
    pub body: String,
    /// How much it matters.
    #[serde(default)]
    pub urgency: Urgency,
}

/// Tells people.
///
/// # Contract
/// Delivered at least once; the idempotency key goes with the message where the channel has a place for it.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// Sends one message.
    ///
    /// # Errors
    /// When the channel cannot be reached or refuses.
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()>;
}
