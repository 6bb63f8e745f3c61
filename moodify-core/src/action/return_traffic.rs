use async_trait::async_trait;

use super::services::{ByService, Services, baseline, check, each};
use super::shift_traffic::{Way, reset, settle, weight_before};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Granularity, Traffic, WeightChange};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Target, Weight};

/// Sends all traffic to the stable workloads, which run the new version by now. Undoing it is nothing: what takes the
/// release back from here is undoing the promotion.
#[derive(Debug)]
pub(super) struct ReturnTraffic;

impl ReturnTraffic {
    /// A way back sets the weight to nothing whatever it is; going on, one that somebody else set is left to them.
    async fn expect_ours(cx: &StepContext, target: Target) -> Result<()> {
        let router = cx.backends().router(&target.service.traffic.router)?;
        if router.capabilities().granularity == Granularity::Instances {
            return Ok(());
        }
        settle(cx).await?;
        let ours = weight_before(cx);
        let capacity = baseline(cx, &target)?.replicas;
        // Setting what is there writes nothing, but compares.
        match router.set(&cx.call()?, &target, WeightChange { from: ours, to: ours, capacity }).await {
            Err(e) if e.kind() == ErrorKind::Drift => {
                // An attempt before this one may have done it already. Reading would not do: what is read may be past.
                let done = WeightChange { from: Weight::ZERO, to: Weight::ZERO, capacity };
                let compared = router.set(&cx.call()?, &target, done).await;
                compared.map(drop).map_err(|other| if other.kind() == ErrorKind::Drift { e } else { other })
            }
            other => other.map(drop),
        }
    }
}

#[async_trait]
impl Action for ReturnTraffic {
    type Params = Services;
    type Output = ByService<Traffic>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<ByService<Traffic>> {
        each(&params.targets(cx)?, |target| Self::expect_ours(cx, target)).await?;
        reset(cx, &params.services, Way::On).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<ByService<Traffic>>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&ByService<Traffic>>) -> Result<()> {
        Ok(())
    }
}
