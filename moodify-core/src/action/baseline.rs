use std::collections::BTreeMap;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::services::{check, each, select};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::Workload;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Color, ConfigRefs, ImageRef, Layout, Target, Track, Weight};
use crate::mutation::{self, Mutation};

/// What served one service before the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The stable workload.
    pub workload: String,
    /// Its image.
    pub image: ImageRef,
    /// Which objects it reads, of the configuration that ships with the service.
    #[serde(default, skip_serializing_if = "ConfigRefs::is_empty")]
    pub config: ConfigRefs,
    /// Its instances: the capacity that is never gone below.
    pub replicas: u32,
    /// Where two workloads take turns, which of them this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Color>,
}

impl Baseline {
    /// Whether a workload is asked for what it was then.
    pub(super) fn is_back(&self, workload: &Workload) -> bool {
        workload.image == self.image && workload.config == self.config
    }
}

/// By service.
pub type Baselines = BTreeMap<String, Baseline>;

/// The parameters of a `baseline` step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BaselineParams {
    /// The services by name; left out, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// What must serve now, by service, and is to be left; something else is refused. Left out, anything may serve, if it
    /// is well, but what the release has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, ImageRef>,
}

/// Records what serves before the release, and refuses what cannot be released over. Changes nothing.
#[derive(Debug)]
pub(super) struct TakeBaseline;

impl TakeBaseline {
    async fn one(cx: &StepContext, mut target: Target, expected: Option<&ImageRef>) -> Result<Baseline> {
        let deployer = cx.backends().deployer()?;
        let mut serving = None;
        if let Layout::Colors(_) = target.layout {
            let color = deployer.serving(&cx.call()?, &target).await?;
            target.layout = Layout::Colors(color);
            serving = Some(color);
        }
        let refuse = |kind, message: String| {
            Error::new(kind, "engine", "look at what serves now", message).on(target.to_string())
        };
        let stable = deployer.observe(&cx.call()?, &target, Track::Stable).await?.ok_or_else(|| {
            refuse(ErrorKind::NotFound, format!("there is no workload {:?}", target.service.workload))
                .hint("a release needs a version that serves already; create the workload first, or mend the plan")
        })?;
        if let Some(expected) = expected.filter(|expected| **expected != stable.image) {
            let message = format!("{} serves by now, not {expected}", stable.image);
            return Err(
                refuse(ErrorKind::Refused, message).hint("something else was released since; release what shall serve")
            );
        }
        // Who says that this is what serves, and releases it all the same, wants it elsewhere.
        if stable.image == target.service.image && expected != Some(&stable.image) {
            let same = stable.config == target.service.config_refs();
            let message = match (same, target.layout) {
                (true, _) => Some(format!("{} is what serves already", stable.image)),
                (false, Layout::Single) => Some(format!(
                    "{} is what serves already, and with the same image nobody could tell the two versions apart here",
                    stable.image
                )),
                (false, _) => None,
            };
            if let Some(message) = message {
                return Err(refuse(ErrorKind::Refused, message));
            }
        }
        // Who takes back what serves leaves it: it may be as ill as it likes, or stopped.
        let goes_on = expected.is_none() || mutation::on(Mutation::TakeBackAsksHealth);
        if stable.replicas.desired == 0 && goes_on {
            return Err(refuse(ErrorKind::Refused, "it is scaled to 0: there is no traffic to divide".to_owned()));
        }
        if !stable.is_complete() && goes_on {
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
        Ok(Baseline {
            workload: stable.name,
            image: stable.image,
            config: stable.config,
            replicas: stable.replicas.desired,
            serving,
        })
    }
}

#[async_trait]
impl Action for TakeBaseline {
    type Params = BaselineParams;
    type Output = Baselines;

    fn has_effects(&self) -> bool {
        false
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &BaselineParams) -> Result<(), Vec<Error>> {
        check(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &BaselineParams) -> Result<Baselines> {
        let one = async |target: Target| {
            let expected = params.expect.get(&target.service.name);
            Self::one(cx, target, expected).await
        };
        each(&select(&params.services, cx)?, one).await
    }

    async fn observe(&self, _: &StepContext, _: &BaselineParams) -> Result<Observed<Baselines>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &BaselineParams, _: Option<&Baselines>) -> Result<()> {
        Ok(())
    }
}
