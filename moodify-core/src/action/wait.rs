use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Action, Observed, StepContext};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;

/// Lets time pass. The time that passed before a crash counts.
#[derive(Debug)]
pub(super) struct Wait;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// How long.
    period: Period,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Waited {
    waited: Period,
}

/// How often the time that passed is written down.
const NOTE_EVERY: Duration = Duration::from_secs(30);

#[async_trait]
impl Action for Wait {
    type Params = Params;
    type Output = ();

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, _: &Params) -> Option<Duration> {
        None
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let mut waited = cx.last_checkpoint::<Waited>().unwrap_or_default().waited.get();
        while let Some(left) = params.period.get().checked_sub(waited).filter(|left| !left.is_zero()) {
            let begun = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(left.min(NOTE_EVERY)) => {}
                () = cx.cancelled().cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "engine", "wait", "stopped before its time"));
                }
            }
            waited += begun.elapsed();
            cx.checkpoint(&Waited { waited: waited.into() }).await?;
        }
        Ok(())
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
