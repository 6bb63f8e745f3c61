//! Holds back what shall not go faster than so many keys a second.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moodify_core::{CallContext, Result};
use tokio::time::Instant;

use crate::topology::pause;

#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    keys: AtomicU64,
    per_second: Option<NonZeroU32>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { begun: Instant::now(), keys: AtomicU64::new(0), per_second }
    }

    /// Waits until it is time for so many keys more.
    pub(crate) async fn wait(&self, cx: &CallContext, operation: &'static str, keys: u64) -> Result<()> {
        let Some(per_second) = self.per_second.filter(|_| keys > 0) else { return Ok(()) };
        let before = self.keys.fetch_add(keys, Ordering::Relaxed);
        let due = Duration::from_millis(before.saturating_mul(1000) / u64::from(per_second.get()));
        match due.checked_sub(self.begun.elapsed()) {
            Some(early) if !early.is_zero() => pause(cx, operation, early).await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_go_no_faster_than_they_may() {
        let cx = CallContext::by_hand("delete", Duration::from_secs(60));
        let pace = Pace::new(NonZeroU32::new(100));
        let begun = Instant::now();
        for _ in 0..5 {
            pace.wait(&cx, "delete", 50).await.unwrap();
        }
        assert_eq!(begun.elapsed().as_millis(), 2000, "200 keys before the last 50, at 100 a second");
        Pace::new(None).wait(&cx, "delete", u64::MAX).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), 2000);
    }
}
