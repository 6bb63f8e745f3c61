use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Backends, Notification, Notifier, Urgency};
use crate::error::{Error, Result};

/// Tells people something. A message cannot be taken back.
#[derive(Debug)]
pub(super) struct Notify;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The notifier, by its registered name; left out, every one that is set up.
    #[serde(default)]
    to: Option<String>,
    /// One line.
    title: String,
    /// The rest.
    #[serde(default)]
    body: String,
    /// How much it matters.
    #[serde(default)]
    urgency: Urgency,
}

fn channels<'a>(backends: &'a Backends, to: Option<&str>) -> Result<Vec<&'a Arc<dyn Notifier>>> {
    match to {
        Some(name) => Ok(vec![backends.notifier(name)?]),
        None if backends.notifiers.is_empty() => backends.notifier("any").map(|n| vec![n]),
        None => Ok(backends.notifiers.values().collect()),
    }
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
        channels(cx.backends, params.to.as_deref()).map(drop).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<()> {
        let (title, body) = (params.title.clone(), params.body.clone());
        let notification = Notification { title, body, urgency: params.urgency };
        let channels = channels(cx.backends(), params.to.as_deref())?;
        let told = channels.into_iter().map(async |channel| channel.notify(&cx.call()?, &notification).await);
        StepContext::all(told).await.map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
