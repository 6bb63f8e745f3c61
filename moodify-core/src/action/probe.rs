use std::time::Duration;

use async_trait::async_trait;

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{ProbeRequest, ProbeResult};
use crate::error::{Error, ErrorKind, Result};

/// Asks an endpoint until it is well; a step's retries and deadline say how often and how long.
#[derive(Debug)]
pub(super) struct ProbeEndpoint;

/// The longest that one request may take.
const LONGEST_REQUEST: Duration = Duration::from_secs(10);

#[async_trait]
impl Action for ProbeEndpoint {
    type Params = ProbeRequest;
    type Output = ProbeResult;

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, _: &ProbeRequest) -> Option<Duration> {
        Some(Duration::from_secs(120))
    }

    async fn check(&self, cx: &CheckContext<'_>, _: &ProbeRequest) -> Result<(), Vec<Error>> {
        cx.backends.probe().map(drop).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, request: &ProbeRequest) -> Result<ProbeResult> {
        let call = cx.call()?.at_most(LONGEST_REQUEST);
        let result = cx.backends().probe()?.probe(&call, request).await?;
        if result.healthy {
            return Ok(result);
        }
        let detail = result.detail.unwrap_or_else(|| "it answers badly".to_owned());
        Err(Error::new(ErrorKind::Unhealthy, "engine", "probe", detail).on(request.url.as_str()).transient(true))
    }

    async fn observe(&self, _: &StepContext, _: &ProbeRequest) -> Result<Observed<ProbeResult>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &ProbeRequest, _: Option<&ProbeResult>) -> Result<()> {
        Ok(())
    }
}
