use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::model::{Target, Track};

/// One pod, as a person needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Its name.
    pub name: String,
    /// The image of the container that carries the release.
    pub image: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it was ready at some time, so that not being ready now is a failure and not a start.
    pub was_ready: bool,
    /// Restarts of its containers.
    pub restarts: u32,
    /// Whether it crashes again and again.
    pub crash_looping: bool,
    /// Why it is not running or not ready: `CrashLoopBackOff: exit code 1`, `ImagePullBackOff`, `Unschedulable: ...`.
    pub reason: Option<String>,
}

impl fmt::Display for PodState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}: {}", self.name, if self.ready { "ready" } else { "not ready" })?;
        if self.restarts > 0 {
            write!(f, ", {} restarts", self.restarts)?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ", {reason}")?;
        }
        Ok(())
    }
}

/// The pods of one track, without those that are being deleted.
pub type Pods = Vec<PodState>;

/// Which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRequest {
    /// At most so many lines from the end of each pod's log.
    pub tail: u32,
    /// Of the container before the last restart.
    pub previous: bool,
}

impl LogRequest {
    /// The last lines of the running containers.
    #[must_use]
    pub fn tail(lines: u32) -> Self {
        Self { tail: lines, previous: false }
    }
}

/// Sees what happens inside: pods, events, logs. Reads only.
///
/// # Contract
/// - `watch_pods` yields the pods now and after every change until the context ends, and survives short absences of
///   the server; an item is an error only if going on is hopeless.
/// - A track without pods is an empty list, not an error.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Diagnostics: Send + Sync + fmt::Debug {
    /// The pods of a track now.
    ///
    /// # Errors
    /// When the server cannot be asked.
    async fn pods(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Pods>;

    /// The pods of a track now and after every change.
    ///
    /// # Errors
    /// When the watch cannot begin.
    async fn watch_pods(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Pods>>>;

    /// The warnings of the last hour about a track's objects, newest last, for people.
    ///
    /// # Errors
    /// When the server cannot be asked.
    async fn warnings(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Vec<String>>;

    /// Log lines of a track's pods, by pod.
    ///
    /// # Errors
    /// When the server cannot be asked.
    async fn logs(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
        request: &LogRequest,
    ) -> Result<Vec<(String, String)>>;
}
