use async_trait::async_trait;

use super::services::{ByService, Services, baseline, by_hand, check, each, explain};
use super::{Action, Baseline, CheckContext, Observed, StepContext};
use crate::backend::{DeployerExt, Granularity, ImageChange, Remedy, Scale, Workload};
use crate::error::{Error, Result};
use crate::event::ProgressKind;
use crate::model::{ImageRef, Layout, Target, Track};

/// Rolls the stable workloads to the new version: while the canaries carry all of the traffic, so that no capacity is
/// taken from what serves, or at once, without any canary. Undone, they are rolled back to the version before.
#[derive(Debug)]
pub(super) struct Promote {
    /// Whether canaries carry the traffic.
    pub(super) after_canary: bool,
}

impl Promote {
    async fn roll(cx: &StepContext, target: &Target, change: &ImageChange) -> Result<Workload> {
        let deployer = cx.backends().deployer()?;
        deployer.set_image(&cx.call()?, target, change).await?;
        let seen = |w: &Workload| {
            cx.progress(ProgressKind::Workload {
                service: target.service.name.clone(),
                track: Track::Stable,
                available: w.replicas.available.min(w.replicas.updated),
                desired: w.replicas.desired,
            });
        };
        let change = change.clone();
        let done = move |w: &Workload| w.image == change.to && w.config == change.config && w.is_complete();
        match deployer.wait(&cx.call()?, target, Track::Stable, &done, &seen).await {
            Ok(workload) => Ok(workload),
            Err(e) => Err(explain(cx, target, Track::Stable, e).await),
        }
    }

    async fn one(&self, cx: &StepContext, target: Target) -> Result<ImageRef> {
        let before = baseline(cx, &target)?;
        let router = cx.backends().router(&target.service.traffic.router)?;
        // Where ratios of instances divide the traffic, stable has none by now.
        let scale = match router.capabilities().granularity {
            Granularity::Instances if self.after_canary && target.layout == Layout::InPlace => {
                Some(Scale { from: 0, to: before.replicas })
            }
            _ => None,
        };
        let (to, config) = (target.service.image.clone(), target.service.config_refs());
        let change = ImageChange { from: before.image, to, config, scale };
        Self::roll(cx, &target, &change).await.map(|w| w.image)
    }

    async fn back(cx: &StepContext, target: Target) -> Result<()> {
        let Baseline { image, config, .. } = baseline(cx, &target)?;
        let change = ImageChange { from: target.service.image.clone(), to: image, config, scale: None };
        Self::roll(cx, &target, &change).await.map(drop)
    }
}

#[async_trait]
impl Action for Promote {
    type Params = Services;
    type Output = ByService<ImageRef>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<ByService<ImageRef>> {
        each(&params.targets(cx)?, |target| self.one(cx, target)).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<ByService<ImageRef>>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Services, _: Option<&ByService<ImageRef>>) -> Result<()> {
        each(&params.targets(cx)?, |target| Self::back(cx, target)).await.map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &Services) -> Vec<String> {
        by_hand(cx, &params.services, |deployer, target| {
            let image = baseline(cx, target).map(|before| before.image).ok();
            image.map(|image| deployer.by_hand(target, &Remedy::Image(image))).unwrap_or_default()
        })
    }
}
