use std::collections::BTreeMap;
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

/// Many requests to one address, and how the version is known that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRequest {
    /// The address, asked by `GET`.
    pub url: String,
    /// The host that is asked for, where it is not the one of the address.
    pub host: Option<String>,
    /// The header of the answers that says which version gave them.
    pub header: String,
    /// What the version says there that is looked for.
    pub version: String,
    /// How many.
    pub requests: u32,
}

/// Who answered them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The number of answers by what the header says; nothing for those without it. Of very many versions not each is told.
    pub answers: BTreeMap<String, u32>,
    /// The number of requests without any answer.
    pub failed: u32,
    /// What was wrong with one of these, for people.
    pub detail: Option<String>,
}

impl Sample {
    /// How many different things are told apart.
    const KINDS: usize = 10;

    /// Adds an answer to what is looked for by `request`, whatever its status.
    pub fn answered(&mut self, request: &SampleRequest, header: Option<&str>) {
        let version: String = header.unwrap_or_default().trim().chars().take(request.version.len().max(64)).collect();
        let is_known = version == request.version || self.answers.contains_key(&version);
        let version = if is_known || self.answers.len() < Self::KINDS { version } else { "others".to_owned() };
        *self.answers.entry(version).or_default() += 1;
    }

    /// Adds a request that was not answered.
    pub fn unanswered(&mut self, why: String) {
        self.failed += 1;
        self.detail.get_or_insert(why);
    }

    /// How many answers are a version's.
    #[must_use]
    pub fn of(&self, version: &str) -> u32 {
        self.answers.get(version).copied().unwrap_or(0)
    }

    /// How many answers there are.
    #[must_use]
    pub fn all(&self) -> u32 {
        self.answers.values().sum()
    }
}

/// Asks an endpoint whether it is well, and who answers there.
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

    /// Asks many times, each time over a new connection, and counts who answers, whatever the status.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the address cannot be understood;
    /// [`Timeout`](crate::ErrorKind::Timeout) if not all was asked before the context ended.
    async fn sample(&self, cx: &CallContext, request: &SampleRequest) -> Result<Sample>;
}
