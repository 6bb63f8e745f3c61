use async_trait::async_trait;

use super::hand_over::expect_unchanged;
use super::services::{Services, baseline, by_hand, check, each, wait_available, wait_until};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Remedy, Scale, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Layout, Target, Track};

/// Scales the workloads that served before the release to nothing. Undone, they get their instances back, and that is
/// waited for: what is undone next lets the services' names stand for them.
#[derive(Debug)]
pub(super) struct RetireOld;

impl RetireOld {
    /// What is not well any more must not lose its way back. How many instances it has is its own affair by now: an
    /// autoscaler goes by its name.
    async fn expect_well(cx: &StepContext, target: &Target) -> Result<()> {
        let well = |w: &Workload| w.replicas.desired > 0 && w.has_available(w.replicas.desired);
        wait_until(cx, target, Track::Canary, &well).await.map(drop)
    }

    /// Who gave the name back to the version before by hand wants it to serve.
    async fn expect_handed_over(cx: &StepContext, target: &Target) -> Result<()> {
        let serving = cx.backends().deployer()?.serving(&cx.call()?, target).await?;
        if target.layout != Layout::Colors(serving) {
            return Ok(());
        }
        let service = &target.service.traffic.service;
        let message = format!("somebody let {service} lead to the version before again ({serving}): it serves");
        Err(Error::new(ErrorKind::Drift, "engine", "retire the version before", message)
            .on(target.to_string())
            .hint("both versions keep their instances; decide which shall serve, then release it or roll back by hand"))
    }

    async fn away(cx: &StepContext, target: Target) -> Result<()> {
        Self::expect_well(cx, &target).await?;
        Self::expect_handed_over(cx, &target).await?;
        expect_unchanged(cx, &target).await?;
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
