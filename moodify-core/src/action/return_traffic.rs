use async_trait::async_trait;

use super::services::{ByService, Services, check};
use super::shift_traffic::reset;
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::Traffic;
use crate::error::{Error, Result};

/// Sends all traffic to the stable workloads, which run the new version by now. Undoing it is nothing: what takes the
/// release back from here is undoing the promotion.
#[derive(Debug)]
pub(super) struct ReturnTraffic;

#[async_trait]
impl Action for ReturnTraffic {
    type Params = Services;
    type Output = ByService<Traffic>;

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<ByService<Traffic>> {
        reset(cx, &params.services).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<ByService<Traffic>>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&ByService<Traffic>>) -> Result<()> {
        Ok(())
    }
}
