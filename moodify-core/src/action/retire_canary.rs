use async_trait::async_trait;

use super::services::{Services, check, each};
use super::{Action, CheckContext, Observed, StepContext};
use crate::error::{Error, Result};

/// Removes the canary workloads, once nothing refers to them. Undoing it is nothing: the stable workloads serve.
#[derive(Debug)]
pub(super) struct RetireCanary;

#[async_trait]
impl Action for RetireCanary {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        let targets = params.targets(cx)?;
        each(&targets, async |target| cx.backends().deployer()?.remove(&cx.call()?, &target).await).await?;
        Ok(())
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}
