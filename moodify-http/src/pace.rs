use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moodify_core::{CallContext, Effect, Result};
use tokio::time::{Instant, sleep_until};

/// Keeps requests apart, as a server with a limit wants it.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, next: Mutex::new(None) }
    }

    /// Waits for one's turn, no longer than the context. Whoever gives up leaves a gap, and does no harm.
    pub(crate) async fn turn(&self, cx: &CallContext, backend: &'static str, operation: &'static str) -> Result<()> {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(at + self.every);
            at
        };
        let waited = cx
            .run(backend, operation, async {
                sleep_until(at).await;
                Ok(())
            })
            .await;
        waited.map_err(|e| e.effect(Effect::None))
    }
}
