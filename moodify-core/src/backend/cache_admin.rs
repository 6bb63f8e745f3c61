use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// What a cache's administration can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCapabilities {
    /// It can ping and describe the data plane.
    pub data: bool,
    /// It can flush.
    pub flush: bool,
    /// It can restart nodes.
    pub restart: bool,
}

impl CacheCapabilities {
    /// Capabilities of a cache's administration.
    #[must_use]
    pub fn new(data: bool, flush: bool, restart: bool) -> Self {
        Self { data, flush, restart }
    }
}

/// How a cache is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Engine and version: `redis 7.0.15`.
    pub engine: String,
    /// Memory in use, in bytes, over all nodes.
    pub used_memory: u64,
    /// The limit in bytes, if there is one.
    pub max_memory: Option<u64>,
    /// Connected clients.
    pub clients: u64,
    /// Hits of all look-ups since the start, as a fraction; `None` before the first look-up.
    pub hit_rate: Option<f64>,
    /// Keys.
    pub keys: u64,
}

/// What to flush. The name must be typed, so that nobody flushes the wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlushRequest {
    /// The name of the cache, typed by whoever asks for it.
    pub confirmed_name: String,
    /// Only count what would be deleted.
    pub dry_run: bool,
}

impl FlushRequest {
    /// Flush the cache of that name.
    #[must_use]
    pub fn confirmed(name: &str) -> Self {
        Self { confirmed_name: name.to_owned(), dry_run: false }
    }

    /// Count what flushing would delete.
    #[must_use]
    pub fn dry_run() -> Self {
        Self { confirmed_name: String::new(), dry_run: true }
    }
}

/// Administers a cache.
///
/// # Contract
/// - `ping` and `info` read only.
/// - `flush` deletes only if the confirmed name is the cache's; else [`Refused`](crate::ErrorKind::Refused).
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait CacheAdmin: Send + Sync + fmt::Debug {
    /// What this one can do.
    fn capabilities(&self) -> CacheCapabilities;

    /// Whether the cache answers.
    ///
    /// # Errors
    /// When it does not.
    async fn ping(&self, cx: &CallContext) -> Result<()>;

    /// How the cache is doing.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn info(&self, cx: &CallContext) -> Result<CacheInfo>;

    /// Deletes every key; returns how many there were.
    ///
    /// # Errors
    /// As in the contract.
    async fn flush(&self, cx: &CallContext, request: &FlushRequest) -> Result<u64>;
}
