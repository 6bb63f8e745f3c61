use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::services::{ByService, baseline, by_hand, canaries, check, each, planned, select, wait_available};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{CanarySpec, Granularity, Remedy};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Layout, Target, Track, Weight};
use crate::mutation::{self, Mutation};

/// Makes the canary workloads, sized for their first weight, and waits until they are available. No traffic yet, but
/// for ratios of instances, where a canary that is there has its share.
#[derive(Debug)]
pub(super) struct DeployCanary;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The first weight.
    weight: Weight,
    /// The services by name; left out, all of them.
    #[serde(default)]
    services: Vec<String>,
    /// Whether a workload that has the image already comes back as it was when it served.
    #[serde(default)]
    restore: bool,
    /// Whether it becomes what it was before the first release, without what two workloads are told apart by.
    #[serde(default)]
    plain: bool,
}

/// What this step has written down before it makes anything: the most traffic that the canary may get.
#[derive(Debug, Serialize)]
struct Allowed {
    weight: Weight,
}

impl DeployCanary {
    async fn one(cx: &StepContext, target: Target, params: &Params) -> Result<String> {
        let weight = params.weight;
        let before = baseline(cx, &target)?;
        let router = cx.backends().router(&target.service.traffic.router)?;
        let shares = router.capabilities().granularity == Granularity::Instances;
        let replicas = canaries(router.as_ref(), before.replicas, weight);
        let version = &cx.plan().release.version;
        let spec = CanarySpec::new(target.service.image.clone(), version, replicas, shares);
        let mut spec = spec.reading(target.service.config_refs());
        spec.restore = params.restore;
        spec.plain = params.plain;
        let deployer = cx.backends().deployer()?;
        deployer.deploy(&cx.call()?, &target, &spec).await?;
        if mutation::on(Mutation::HandOverBlindly) && matches!(target.layout, Layout::Colors(_)) {
            deployer.hand_over(&cx.call()?, &target, Track::Canary).await?;
        }
        let canary = wait_available(cx, &target, Track::Canary, replicas).await?;
        Ok(canary.name)
    }
}

#[async_trait]
impl Action for DeployCanary {
    type Params = Params;
    type Output = ByService<String>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        let kinds = cx.backends.deployer().map(|deployer| deployer.capabilities().kinds).unwrap_or_default();
        let targets = planned(&params.services, cx.plan).map_err(|e| vec![e])?;
        let beside = |target: &&Target| !kinds.iter().any(|kind| kind == target.service.kind.name());
        let refuse = |target: &Target| {
            let message = format!("this deployer cannot put a canary beside a {}", target.service.kind);
            Error::new(ErrorKind::Unsupported, "engine", "check the strategy", message)
                .on(target.to_string())
                .hint("take the strategy rolling or recreate")
        };
        let problems: Vec<Error> = targets.iter().filter(beside).map(refuse).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<ByService<String>> {
        cx.checkpoint(&Allowed { weight: params.weight }).await?;
        let targets = select(&params.services, cx)?;
        each(&targets, |target| Self::one(cx, target, params)).await
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<ByService<String>>> {
        // Deploying again observes by itself: what is there as asked for is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, _: Option<&ByService<String>>) -> Result<()> {
        if mutation::on(Mutation::LeaveCanary) {
            return Ok(());
        }
        let targets = select(&params.services, cx)?;
        each(&targets, async |target| cx.backends().deployer()?.remove(&cx.call()?, &target).await).await?;
        Ok(())
    }

    fn by_hand(&self, cx: &StepContext, params: &Params) -> Vec<String> {
        by_hand(cx, &params.services, |deployer, target| deployer.by_hand(target, &Remedy::RemoveCanary))
    }
}
