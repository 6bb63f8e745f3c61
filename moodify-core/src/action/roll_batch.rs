use async_trait::async_trait;
use serde::Serialize;

use super::services::{ByService, baseline, by_hand, check, each, planned, select, wait_available};
use super::{Action, CheckContext, Observed, ShiftParams, StepContext, kinds};
use crate::backend::{CanarySpec, DeployerExt, Remedy, Single, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Target, Track, Weight};
use crate::strategy::batch;

/// Lets a part of the workloads' own instances run the new version, and waits until they are available. Undone, the
/// version before comes back everywhere, at once and not batch by batch.
#[derive(Debug)]
pub(super) struct RollBatch;

/// Written down before the instances change: the most traffic that the new version may get.
#[derive(Debug, Serialize)]
struct Allowed {
    weight: Weight,
}

/// What the deployer can do with a service that is one workload; a refusal if it cannot do that at all.
pub(super) fn single(cx: &CheckContext<'_>, target: &Target) -> Result<Single> {
    let kind = target.service.kind;
    let known = cx.backends.deployer()?.capabilities().single;
    known.into_iter().find(|single| single.kind == kind).ok_or_else(|| {
        let message = format!("this deployer cannot put a new version in the place of the old one in a {kind}");
        Error::new(ErrorKind::Unsupported, "engine", "check the strategy", message).on(target.to_string())
    })
}

impl RollBatch {
    async fn one(cx: &StepContext, target: Target, weight: Weight) -> Result<u32> {
        let capacity = baseline(cx, &target)?.replicas;
        let instances = batch(capacity, weight).ok_or_else(|| {
            let message = format!("{weight} of {capacity} instance is none or all of it");
            Error::new(ErrorKind::Invalid, "engine", "roll a batch", message)
                .on(target.to_string())
                .hint("release it with `batches: [100]`")
        })?;
        let spec = CanarySpec::new(target.service.image.clone(), &cx.plan().release.version, instances, true)
            .reading(target.service.config_refs());
        cx.backends().deployer()?.deploy(&cx.call()?, &target, &spec).await?;
        wait_available(cx, &target, Track::Canary, instances).await?;
        Ok(instances)
    }

    async fn back(cx: &StepContext, target: Target) -> Result<()> {
        let before = baseline(cx, &target)?;
        let deployer = cx.backends().deployer()?;
        deployer.remove(&cx.call()?, &target).await?;
        let done = move |w: &Workload| before.is_back(w) && w.is_complete();
        deployer.wait(&cx.call()?, &target, Track::Stable, &done, &|_| ()).await.map(drop)
    }

    /// The most traffic that the new version may get while a batch rolls.
    fn allowed(cx: &StepContext, targets: &[Target], weight: Weight) -> Result<Weight> {
        let known = cx.backends().deployer()?.capabilities().single;
        let exact = |target: &Target| known.iter().any(|single| single.kind == target.service.kind && single.exact);
        Ok(if targets.iter().all(exact) { weight } else { Weight::FULL })
    }
}

#[async_trait]
impl Action for RollBatch {
    type Params = ShiftParams;
    type Output = ByService<u32>;

    async fn check(&self, cx: &CheckContext<'_>, params: &ShiftParams) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        let targets = planned(&params.services, cx.plan).map_err(|e| vec![e])?;
        let problems: Vec<Error> = targets.iter().filter_map(|target| single(cx, target).err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &ShiftParams) -> Result<ByService<u32>> {
        let targets = select(&params.services, cx)?;
        cx.checkpoint(&Allowed { weight: Self::allowed(cx, &targets, params.weight)? }).await?;
        each(&targets, |target| Self::one(cx, target, params.weight)).await
    }

    async fn observe(&self, _: &StepContext, _: &ShiftParams) -> Result<Observed<ByService<u32>>> {
        // A batch that is as large as asked for already is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &ShiftParams, _: Option<&ByService<u32>>) -> Result<()> {
        if cx.later_is_undone(kinds::ROLL_BATCH) {
            return Ok(());
        }
        each(&select(&params.services, cx)?, |target| Self::back(cx, target)).await.map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &ShiftParams) -> Vec<String> {
        by_hand(cx, &params.services, |deployer, target| {
            let image = baseline(cx, target).map(|before| before.image).ok();
            image.map(|image| deployer.by_hand(target, &Remedy::Image(image))).unwrap_or_default()
        })
    }
}
