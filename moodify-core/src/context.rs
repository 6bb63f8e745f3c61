//! What every call to a backend gets: idempotency key, deadline, cancellation, and the run on whose behalf it is.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock as _, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::model::RunId;

/// Names one intended effect. The same key twice is the same effect once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A key from its text, by convention `run/step`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of a part of this effect, for example of one service of several.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        Self(format!("{}/{part}", self.0))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The context of one call to a backend.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use moodify_core::{CallContext, ErrorKind, IdempotencyKey, RunId};
/// let cx = CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/backup"), Duration::from_millis(5));
/// let late = cx.run("demo", "wait", async { std::future::pending::<moodify_core::Result<()>>().await }).await;
/// assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct CallContext {
    run: RunId,
    key: IdempotencyKey,
    deadline: Instant,
    cancel: CancellationToken,
}

impl CallContext {
    /// A context for `run`, under `key`, whose deadline is `timeout` from now.
    #[must_use]
    pub fn new(run: RunId, key: IdempotencyKey, timeout: Duration) -> Self {
        Self { run, key, deadline: Instant::now() + timeout, cancel: CancellationToken::new() }
    }

    /// A context for what no plan asked for, as a tool that a person runs: `what` says what it does, and a fresh name
    /// stands for the run.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let cx = moodify_core::CallContext::by_hand("restart", std::time::Duration::from_secs(60));
    /// assert!(cx.key().as_str().ends_with("/restart"));
    /// # });
    /// ```
    #[must_use]
    pub fn by_hand(what: &str, timeout: Duration) -> Self {
        let run = RunId::generate(SystemClock.now());
        let key = IdempotencyKey::new(format!("{run}/{what}"));
        Self::new(run, key, timeout)
    }

    /// The same, cancelled when `token` is.
    #[must_use]
    pub fn with_cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// The same with another key.
    #[must_use]
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = key;
        self
    }

    /// The same, with a deadline no later than `timeout` from now.
    #[must_use]
    pub fn at_most(&self, timeout: Duration) -> Self {
        let mut cx = self.clone();
        cx.deadline = cx.deadline.min(Instant::now() + timeout);
        cx
    }

    /// The run on whose behalf the call is made; labels what a backend creates.
    #[must_use]
    pub fn run_id(&self) -> &RunId {
        &self.run
    }

    /// The idempotency key of the effect.
    #[must_use]
    pub fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// When the call must have ended.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time left until the deadline.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Cancelled when nobody waits for the call any more.
    #[must_use]
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Drives `call` until it ends, the deadline passes or the context is cancelled.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] and [`ErrorKind::Cancelled`], both with an unknown effect; else what `call` returns.
    pub async fn run<T>(
        &self,
        backend: &'static str,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            result = call => result,
            () = self.cancel.cancelled() => {
                Err(Error::new(ErrorKind::Cancelled, backend, operation, "cancelled before the answer came"))
            }
            () = tokio::time::sleep_until(self.deadline) => {
                Err(Error::new(ErrorKind::Timeout, backend, operation, "no answer before the deadline"))
            }
        }
    }
}
