use std::fmt;

use async_trait::async_trait;

use crate::context::CallContext;
use crate::error::Result;
use crate::model::{Target, Weight};

/// Sends a copy of the requests to the canary, before it gets a share of them; its answers are thrown away. Not every router
/// can: one that can is among the backends by the router's name.
///
/// What a request does the canary does once more: only requests without effect may be mirrored.
///
/// # Contract
/// - The requests themselves go where they went, and are answered from there.
/// - `start` may be called again; if all is as asked for already, nothing is written. What others wrote in the routing object
///   stays.
/// - `start` is done when whoever carries the routing object has taken it, where that is told. What is refused is taken back.
/// - While requests are mirrored, no weight is set.
/// - `stop` removes what `start` made, also in an object that somebody else edited meanwhile. Fine if there is nothing.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait TrafficMirror: Send + Sync + fmt::Debug {
    /// Begins to send a copy of so many percent of the requests.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no routing object;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if somebody else mirrors its requests, or if it is not taken;
    /// [`Drift`](crate::ErrorKind::Drift) if another share of them is mirrored to the canary already.
    async fn start(&self, cx: &CallContext, target: &Target, percent: Weight) -> Result<()>;

    /// Sends no more copies.
    ///
    /// # Errors
    /// When the routing object cannot be changed.
    async fn stop(&self, cx: &CallContext, target: &Target) -> Result<()>;

    /// Commands with which a person does what [`stop`](Self::stop) does without moodify. Asks nobody.
    fn by_hand(&self, target: &Target) -> Vec<String>;
}
