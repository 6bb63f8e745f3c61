use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::services::{Services, check, each};
use super::{Action, CheckContext, Observed, StepContext};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Target, Track, Weight};

/// What served one service before the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The stable workload.
    pub workload: String,
    /// Its image.
    pub image: ImageRef,
    /// Its instances: the capacity that is never gone below.
    pub replicas: u32,
}

/// By service.
pub type Baselines = BTreeMap<String, Baseline>;

/// Records what serves before the release, and refuses what cannot be released over. Changes nothing.
#[derive(Debug)]
pub(super) struct TakeBaseline;

impl TakeBaseline {
    async fn one(cx: &StepContext, target: Target) -> Result<Baseline> {
        let deployer = cx.backends().deployer()?;
        let refuse = |kind, message: String| {
            Error::new(kind, "engine", "look at what serves now", message).on(target.to_string())
        };
        let stable = deployer.observe(&cx.call()?, &target, Track::Stable).await?.ok_or_else(|| {
            refuse(ErrorKind::NotFound, format!("there is no workload {:?}", target.service.workload))
                .hint("a release needs a version that serves already; create the workload first, or mend the plan")
        })?;
        if stable.image == target.service.image {
            return Err(refuse(ErrorKind::Refused, format!("{} is what serves already", stable.image)));
        }
        if stable.replicas.desired == 0 {
            return Err(refuse(ErrorKind::Refused, "it is scaled to 0: there is no traffic to divide".to_owned()));
        }
        if !stable.is_complete() {
            let message = format!("what serves now is not well, or is being changed: {stable}");
            return Err(refuse(ErrorKind::Unhealthy, message).hint("wait for it or mend it, then release"));
        }
        deployer.observe(&cx.call()?, &target, Track::Canary).await?;
        let router = cx.backends().router(&target.service.traffic.router)?;
        let traffic = router.read(&cx.call()?, &target).await?;
        if traffic.weight != Weight::ZERO {
            let message = format!("{} of the traffic goes to a canary already", traffic.weight);
            return Err(refuse(ErrorKind::Refused, message)
                .hint("end the rollout that is going on, or send all traffic to stable"));
        }
        Ok(Baseline { workload: stable.name, image: stable.image, replicas: stable.replicas.desired })
    }
}

#[async_trait]
impl Action for TakeBaseline {
    type Params = Services;
    type Output = Baselines;

    fn has_effects(&self) -> bool {
        false
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<Baselines> {
        each(&params.targets(cx.plan())?, |target| Self::one(cx, target)).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<Baselines>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Services, _: Option<&Baselines>) -> Result<()> {
        Ok(())
    }
}
