use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::services::{Services, check, each, planned, select};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{TesterRoutes, Testers};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Target;

/// Sends the requests of testers to the new version, before it gets a share of the others. Undone, they go where all go.
#[derive(Debug)]
pub(super) struct AdmitTesters;

/// Sends the requests of testers where all requests go. Undoing it is nothing.
#[derive(Debug)]
pub(super) struct DismissTesters;

/// The parameters of an `admit-testers` step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdmitParams {
    /// How testers are known.
    pub testers: Testers,
    /// The services by name; left out, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

fn routes<'a>(cx: &'a StepContext, target: &Target) -> Result<&'a dyn TesterRoutes> {
    cx.backends().tester_routes(&target.service.traffic.router).map(AsRef::as_ref)
}

/// Whether the router of each of these services can do it.
fn check_routes(cx: &CheckContext<'_>, services: &[String], testers: Option<&Testers>) -> Result<(), Vec<Error>> {
    check(cx, services)?;
    let targets = planned(services, cx.plan).map_err(|e| vec![e])?;
    let can = |target: &Target| {
        let routes = cx.backends.tester_routes(&target.service.traffic.router)?;
        testers.map_or(Ok(()), |testers| routes.check(testers))
    };
    let problem = |target: &Target| Some(can(target).err()?.on(target.to_string()));
    let wrong = testers.map(Testers::problems).unwrap_or_default().into_iter();
    let wrong = wrong.map(|(_, what)| Error::new(ErrorKind::Invalid, "engine", "check the testers", what));
    let problems: Vec<Error> = wrong.chain(targets.iter().filter_map(problem)).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

async fn dismiss(cx: &StepContext, services: &[String]) -> Result<()> {
    each(&select(services, cx)?, async |target| routes(cx, &target)?.dismiss(&cx.call()?, &target).await).await?;
    Ok(())
}

#[async_trait]
impl Action for AdmitTesters {
    type Params = AdmitParams;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &AdmitParams) -> Result<(), Vec<Error>> {
        check_routes(cx, &params.services, Some(&params.testers))
    }

    async fn execute(&self, cx: &StepContext, params: &AdmitParams) -> Result<()> {
        each(&select(&params.services, cx)?, async |target| {
            routes(cx, &target)?.admit(&cx.call()?, &target, &params.testers).await?;
            cx.note(format!("{} go to the new version of {target}", params.testers));
            Ok(())
        })
        .await
        .map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &AdmitParams) -> Result<Observed<()>> {
        // What is so already is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &AdmitParams, _: Option<&()>) -> Result<()> {
        dismiss(cx, &params.services).await
    }

    fn by_hand(&self, cx: &StepContext, params: &AdmitParams) -> Vec<String> {
        let targets = select(&params.services, cx).unwrap_or_default();
        targets.iter().filter_map(|target| Some(routes(cx, target).ok()?.by_hand(target))).flatten().collect()
    }
}

#[async_trait]
impl Action for DismissTesters {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check_routes(cx, &params.services, None)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        dismiss(cx, &params.services).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
