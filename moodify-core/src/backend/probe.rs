use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// One request to an endpoint, and what counts as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// The address.
    pub url: String,
    /// The method; `GET` by default.
    #[serde(default = "get")]
    pub method: String,
    /// A body to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The status codes that count as well; empty means 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
}

fn get() -> String {
    "GET".to_owned()
}

impl ProbeRequest {
    /// `GET url`, well if it answers 200 to 299.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self { url: url.to_owned(), method: get(), body: None, expect: Vec::new() }
    }

    /// Whether a status counts as well.
    #[must_use]
    pub fn accepts(&self, status: u16) -> bool {
        if self.expect.is_empty() { (200..300).contains(&status) } else { self.expect.contains(&status) }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Whether it counts as well.
    pub healthy: bool,
    /// The status code, if there was an answer.
    pub status: Option<u16>,
    /// The time until the answer was complete.
    pub latency: Duration,
    /// What was wrong, for people.
    pub detail: Option<String>,
}

/// Asks an endpoint whether it is well.
///
/// # Contract
/// An endpoint that refuses, hangs until the deadline or answers badly is an unhealthy result, not an error. An error
/// means that the question itself makes no sense.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Probe: Send + Sync + fmt::Debug {
    /// Asks once.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if address or method cannot be understood.
    async fn probe(&self, cx: &CallContext, request: &ProbeRequest) -> Result<ProbeResult>;
}
