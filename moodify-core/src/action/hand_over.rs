use async_trait::async_trait;

use super::services::{Services, baseline, by_hand, canaries, check, each, planned, wait_available};
use super::shift_traffic::{expect_available, settle};
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Granularity, Remedy};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Layout, Target, Track, Weight};

/// Lets the services' names stand for the new version's workloads, which carry all of the traffic by their own names
/// already: what was tested is what serves. Undone, they stand for the version before again.
#[derive(Debug)]
pub(super) struct HandOver;

impl HandOver {
    async fn to(cx: &StepContext, target: Target, track: Track) -> Result<()> {
        cx.backends().deployer()?.hand_over(&cx.call()?, &target, track).await
    }

    /// Refuses to give the name, and with it all traffic, to a version before that has no instance any more. Where the
    /// name stands for it all the same, there is nothing to refuse.
    async fn expect_somebody(cx: &StepContext, target: &Target) -> Result<()> {
        let Err(nobody) = expect_available(cx, target, Track::Stable).await else { return Ok(()) };
        let serving = cx.backends().deployer()?.serving(&cx.call()?, target).await?;
        if target.layout == Layout::Colors(serving) { Ok(()) } else { Err(nobody) }
    }
}

/// Waits until the new version has as many instances available as what served before: a name that stands for fewer
/// would lose requests.
async fn whole(cx: &StepContext, target: &Target) -> Result<()> {
    let router = cx.backends().router(&target.service.traffic.router)?;
    let replicas = canaries(router.as_ref(), baseline(cx, target)?.replicas, Weight::FULL);
    wait_available(cx, target, Track::Canary, replicas).await.map(drop)
}

/// Refuses to take away what somebody else changed since the run looked: who mends the old version while the new one is
/// tried wants it to serve.
pub(super) async fn expect_unchanged(cx: &StepContext, target: &Target) -> Result<()> {
    let before = baseline(cx, target)?;
    let drift = |message: String| {
        Error::new(ErrorKind::Drift, "engine", "look at the version before", message)
            .on(target.to_string())
            .hint("both versions are left as they are; decide which shall serve, then release it or roll back by hand")
    };
    match cx.backends().deployer()?.observe(&cx.call()?, target, Track::Stable).await? {
        Some(now) if before.is_back(&now) => Ok(()),
        Some(now) if now.image != before.image => {
            Err(drift(format!("{} was changed to {} since this run found {} in it", now.name, now.image, before.image)))
        }
        Some(now) => Err(drift(format!("{} reads other configuration since this run found it", now.name))),
        None => Err(drift(format!("somebody took {} away, which served before", before.workload))),
    }
}

/// Whether two workloads can take turns for each of these services.
pub(super) fn check_turns(cx: &CheckContext<'_>, services: &[String]) -> Result<(), Vec<Error>> {
    let mut problems = Vec::new();
    let refuse = |message: &str, target: &Target| {
        Error::new(ErrorKind::Unsupported, "engine", "check the strategy", message).on(target.to_string())
    };
    for target in planned(services, cx.plan).map_err(|e| vec![e])? {
        if !cx.backends.deployer().is_ok_and(|deployer| deployer.capabilities().colors) {
            problems.push(refuse("this deployer cannot let two workloads take turns", &target));
        }
        let router = cx.backends.router(&target.service.traffic.router);
        if router.is_ok_and(|router| router.capabilities().granularity == Granularity::Instances) {
            let message = "a router that divides by the number of instances cannot keep two whole versions apart";
            problems.push(refuse(message, &target).hint("take a router by weights, or the strategy canary"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[async_trait]
impl Action for HandOver {
    type Params = Services;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, params: &Services) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        check_turns(cx, &params.services)
    }

    async fn execute(&self, cx: &StepContext, params: &Services) -> Result<()> {
        each(&params.targets(cx)?, async |target| {
            whole(cx, &target).await?;
            expect_unchanged(cx, &target).await?;
            Self::to(cx, target, Track::Canary).await
        })
        .await?;
        // Whom the name stands for the data plane learns later; the instances of both are there until then.
        settle(cx).await
    }

    async fn observe(&self, _: &StepContext, _: &Services) -> Result<Observed<()>> {
        // Handing over again observes by itself: what stands for it already is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Services, _: Option<&()>) -> Result<()> {
        each(&params.targets(cx)?, async |target| {
            Self::expect_somebody(cx, &target).await?;
            Self::to(cx, target, Track::Stable).await
        })
        .await
        .map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &Services) -> Vec<String> {
        by_hand(cx, &params.services, |deployer, target| deployer.by_hand(target, &Remedy::HandOver(Track::Stable)))
    }
}
