use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Notification, Urgency};
use crate::error::{Error, Result};

/// Tells people something. A message cannot be taken back.
#[derive(Debug)]
pub(super) struct Notify;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The notifier, by its registered name.
    to: String,
    /// One line.
    title: String,
    /// The rest.
    #[serde(default)]
    body: String,
    /// How much it matters.
    #[serde(default)]
    urgency: Urgency,
}

#[async_trait]
impl Action for Notify {
    type Params = Params;
    type Output = ();

    fn has_effects(&self) -> bool {
        // None that a rollback would have to take back.
        false
    }

    fn is_observer(&self) -> bool {
        true
    }

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        cx.backends.notifier(&params.to).map(drop).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let (title, body) = (params.title.clone(), params.body.clone());
        let notification = Notification { title, body, urgency: params.urgency };
        cx.backends().notifier(&params.to)?.notify(&cx.call()?, &notification).await
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
