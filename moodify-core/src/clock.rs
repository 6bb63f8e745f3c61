//! Wall time, owned by whoever runs the engine. Monotonic time and sleeping are tokio's, so that a paused runtime
//! makes a 15-minute bake instant.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Says what time it is.
///
/// # Contract
/// Wall time may jump back or forward; nothing in moodify measures a length of time with it inside one process.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that starts at a given time and goes on with tokio's monotonic time, also when that is paused.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use moodify_core::clock::{Clock, TokioClock};
/// let clock = TokioClock::starting_at("2026-11-24T15:00:00Z".parse().unwrap());
/// assert_eq!(clock.now().to_string()[..16], *"2026-11-24T15:00");
/// # });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    base: Timestamp,
    start: Instant,
}

impl TokioClock {
    /// A clock that shows `base` now. Must be called inside a tokio runtime.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Self {
        Self { base, start: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.base + self.start.elapsed()
    }
}

/// The time from `earlier` to `later`; zero if the clock was set back.
#[must_use]
pub fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}
