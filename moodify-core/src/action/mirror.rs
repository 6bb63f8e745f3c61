use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::services::{Services, check, each, planned, select};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::TrafficMirror;
use crate::error::{Error, Result};
use crate::model::{Target, Weight};

/// Sends a copy of the requests to the new version, before it gets a share of them. Undone, there are no copies any more.
#[derive(Debug)]
pub(super) struct Mirror;

/// Sends no more copies. Undoing it is nothing.
#[derive(Debug)]
pub(super) struct StopMirror;

/// The parameters of a `mirror` step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorParams {
    /// Of how many of the requests there is a copy, in percent.
    pub percent: Weight,
    /// The services by name; left out, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

fn mirror<'a>(cx: &'a StepContext, target: &Target) -> Result<&'a dyn TrafficMirror> {
    cx.backends().mirror(&target.service.traffic.router).map(AsRef::as_ref)
}

/// Whether the router of each of these services can do it.
fn check_mirrors(cx: &CheckContext<'_>, services: &[String]) -> Result<(), Vec<Error>> {
    check(cx, services)?;
    let targets = planned(services, cx.plan).map_err(|e| vec![e])?;
    let missing =
        |target: &Target| Some(cx.backends.mirror(&target.service.traffic.router).err()?.on(target.to_string()));
    let problems: Vec<Error> = targets.iter().filter_map(missing).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

async fn stop(cx: &StepContext, services: &[String]) -> Result<()> {
    each(&select(services, cx)?, async |target| mirror(cx, &target)?.stop(&cx.call()?, &target).await).await?;
    Ok(())
}

#[async_trait]
impl Action for Mirror {
    type Params = MirrorParams;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &MirrorParams) -> Result<(), Vec<Error>> {
        check_mirrors(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &MirrorParams) -> Result<()> {
        each(&select(&params.services, cx)?, async |target| {
            mirror(cx, &target)?.start(&cx.call()?, &target, params.percent).await?;
            cx.note(format!("a copy of {} of the requests of {target} goes to the new version", params.percent));
            Ok(())
        })
        .await
        .map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &MirrorParams) -> Result<Observed<()>> {
        // What is so already is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &MirrorParams, _: Option<&()>) -> Result<()> {
        stop(cx, &params.services).await
    }

    fn by_hand(&self, cx: &StepContext, params: &MirrorParams) -> Vec<String> {
        let targets = select(&params.services, cx).unwrap_or_default();
        targets.iter().filter_map(|target| Some(mirror(cx, target).ok()?.by_hand(target))).flatten().collect()
    }
}

#[async_trait]
impl Action for StopMirror {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check_mirrors(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        stop(cx, &params.services).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
