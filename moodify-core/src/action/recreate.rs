//! Stopping the old version and starting the new one in its place, for what cannot run twice.

use async_trait::async_trait;

use super::roll_batch::single;
use super::services::{ByService, Services, baseline, by_hand, check, each, explain, planned};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{DeployerExt, ImageChange, Remedy, Scale, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Target, Track};

/// Waits until the workload has no instance: whatever runs next must not meet them.
async fn gone(cx: &StepContext, target: &Target) -> Result<()> {
    let none = |w: &Workload| w.observed && w.replicas.desired == 0 && w.replicas.total == 0;
    let deployer = cx.backends().deployer()?;
    deployer.wait(&cx.call()?, target, Track::Stable, &none, &|_| ()).await.map(drop)
}

/// Waits until the workload runs this version, and nothing else.
async fn whole(cx: &StepContext, target: &Target, image: ImageRef) -> Result<()> {
    let done = move |w: &Workload| w.image == image && w.is_complete();
    let deployer = cx.backends().deployer()?;
    match deployer.wait(&cx.call()?, target, Track::Stable, &done, &|_| ()).await {
        Ok(_) => Ok(()),
        Err(e) => Err(explain(cx, target, Track::Stable, e).await),
    }
}

fn replicas_by_hand(cx: &StepContext, params: &Services) -> Vec<String> {
    by_hand(cx, &params.services, |deployer, target| {
        let Ok(before) = baseline(cx, target) else { return Vec::new() };
        let mut commands = deployer.by_hand(target, &Remedy::Image(before.image));
        commands.extend(deployer.by_hand(target, &Remedy::Replicas(before.replicas)));
        commands
    })
}

/// Leaves the workloads no instance. Undone, the version before gets its instances back.
#[derive(Debug)]
pub(super) struct Stop;

#[async_trait]
impl Action for Stop {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        let mut problems = Vec::new();
        for target in planned(&params.services, cx.plan).map_err(|e| vec![e])? {
            match single(cx, &target) {
                Ok(single) if !single.stops => {
                    let message = format!("a {} has an instance on each node: it cannot be stopped", single.kind);
                    let e = Error::new(ErrorKind::Unsupported, "engine", "check the strategy", message);
                    problems.push(e.on(target.to_string()).hint("take the strategy rolling"));
                }
                other => problems.extend(other.err()),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        each(&params.targets(cx)?, async |target| {
            let scale = Scale { from: baseline(cx, &target)?.replicas, to: 0 };
            cx.backends().deployer()?.scale(&cx.call()?, &target, Track::Stable, scale).await?;
            gone(cx, &target).await
        })
        .await
        .map(drop)
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Services, _: Option<&()>) -> Result<()> {
        each(&params.targets(cx)?, async |target| {
            let before = baseline(cx, &target)?;
            let scale = Scale { from: 0, to: before.replicas };
            cx.backends().deployer()?.scale(&cx.call()?, &target, Track::Stable, scale).await?;
            whole(cx, &target, before.image).await
        })
        .await
        .map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &Services) -> Vec<String> {
        replicas_by_hand(cx, params)
    }
}

/// Starts the new version where the old one was stopped. Undone, it is stopped; the version before is started by undoing
/// what stopped it.
#[derive(Debug)]
pub(super) struct Start;

#[async_trait]
impl Action for Start {
    type Params = Services;
    type Output = ByService<ImageRef>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<ByService<ImageRef>> {
        each(&params.targets(cx)?, async |target| {
            let (before, to) = (baseline(cx, &target)?, target.service.image.clone());
            let scale = Some(Scale { from: 0, to: before.replicas });
            let config = target.service.config_refs();
            let change = ImageChange { from: before.image, to: to.clone(), config, scale };
            cx.backends().deployer()?.set_image(&cx.call()?, &target, &change).await?;
            whole(cx, &target, to.clone()).await?;
            Ok(to)
        })
        .await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<ByService<ImageRef>>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Services, _: Option<&ByService<ImageRef>>) -> Result<()> {
        each(&params.targets(cx)?, async |target| {
            let before = baseline(cx, &target)?;
            let scale = Some(Scale { from: before.replicas, to: 0 });
            let (from, config) = (target.service.image.clone(), before.config);
            let change = ImageChange { from, to: before.image, config, scale };
            cx.backends().deployer()?.set_image(&cx.call()?, &target, &change).await?;
            gone(cx, &target).await
        })
        .await
        .map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &Services) -> Vec<String> {
        replicas_by_hand(cx, params)
    }
}
