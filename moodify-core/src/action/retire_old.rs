use async_trait::async_trait;

use super::hand_over::whole;
use super::services::{Services, baseline, by_hand, check, each, wait_available};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Remedy, Scale};
use crate::error::{Error, Result};
use crate::model::{Target, Track};

/// Scales the workloads that served before the release to nothing. Undone, they get their instances back, and that is
/// waited for: what is undone next lets the services' names stand for them.
#[derive(Debug)]
pub(super) struct RetireOld;

impl RetireOld {
    async fn away(cx: &StepContext, target: Target) -> Result<()> {
        // What is not whole any more must not lose its way back.
        whole(cx, &target).await?;
        let scale = Scale { from: baseline(cx, &target)?.replicas, to: 0 };
        cx.backends().deployer()?.scale(&cx.call()?, &target, Track::Stable, scale).await.map(drop)
    }

    async fn back(cx: &StepContext, target: Target) -> Result<()> {
        let replicas = baseline(cx, &target)?.replicas;
        let deployer = cx.backends().deployer()?;
        deployer.scale(&cx.call()?, &target, Track::Stable, Scale { from: 0, to: replicas }).await?;
        wait_available(cx, &target, Track::Stable, replicas).await.map(drop)
    }
}

#[async_trait]
impl Action for RetireOld {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        each(&params.targets(cx)?, |target| Self::away(cx, target)).await.map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Services, _: Option<&()>) -> Result<()> {
        each(&params.targets(cx)?, |target| Self::back(cx, target)).await.map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &Services) -> Vec<String> {
        by_hand(cx, &params.services, |deployer, target| {
            let replicas = baseline(cx, target).map(|before| before.replicas).ok();
            replicas.map(|count| deployer.by_hand(target, &Remedy::Replicas(count))).unwrap_or_default()
        })
    }
}
