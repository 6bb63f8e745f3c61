//! What the steps that administer caches share.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{CheckContext, StepContext};
use crate::backend::{CacheAdmin, CacheCapabilities};
use crate::error::{Error, ErrorKind, Result};

/// How long a step may take that goes through all keys if the plan does not say.
pub(super) const ALL_KEYS: Duration = Duration::from_secs(3600);

/// How often is told how many keys were handled.
const TELL: Duration = Duration::from_secs(5);

/// Whether the cache is there and can do what is asked of it.
pub(super) fn check(
    cx: &CheckContext<'_>,
    cache: &str,
    what: &str,
    can: impl FnOnce(CacheCapabilities) -> bool,
) -> Result<()> {
    if can(cx.backends.cache(cache)?.admin()?.capabilities()) {
        return Ok(());
    }
    let message = format!("the cache {cache:?} cannot {what}");
    Err(Error::new(ErrorKind::Unsupported, "engine", "check the step", message).on(cx.step.name.as_str()))
}

pub(super) fn admin<'a>(cx: &'a StepContext, cache: &str) -> Result<&'a Arc<dyn CacheAdmin>> {
    cx.backends().cache(cache)?.admin()
}

/// Tells how many keys were handled while `work` goes on.
pub(super) async fn telling<T>(
    cx: &StepContext,
    done: &watch::Sender<u64>,
    what: &str,
    work: impl Future<Output = T>,
) -> T {
    let mut seen = done.subscribe();
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(TELL) => {
                if seen.has_changed().unwrap_or(false) {
                    cx.note(format!("{} keys {what}", *seen.borrow_and_update()));
                }
            }
        }
    }
}
