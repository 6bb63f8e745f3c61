use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::data_plane::follows;
use super::services::{ByService, baseline, canaries, check, each, planned, select, wait_available};
use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::{Granularity, Scale, Traffic, Verification, WeightChange};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::event::ProgressKind;
use crate::model::{Layout, Target, Track, Weight};
use crate::mutation::{self, Mutation};
use crate::strategy::split;

/// The parameters of a `shift-traffic` step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShiftParams {
    /// The canary's share.
    pub weight: Weight,
    /// The services by name; left out, all of them, in lockstep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// Written down before the traffic moves: the most that the canary may get.
#[derive(Debug, Serialize)]
struct Allowed {
    weight: Weight,
}

/// Sizes the canaries for a share of the traffic, and when they are available sends it to them. Undone, everything
/// goes to stable, whatever the share was before: a bad version gets no stage on its way out.
#[derive(Debug)]
pub(super) struct ShiftTraffic;

/// The weight that the steps before this one left in force.
pub(super) fn weight_before(cx: &StepContext) -> Weight {
    let earlier = cx.plan().steps().map(|(_, s)| s).take_while(|s| s.name != cx.step().name);
    let shifts = earlier.filter(|s| s.action == kinds::SHIFT_TRAFFIC);
    let last = shifts.last().and_then(|s| ShiftParams::deserialize(&s.with).ok());
    last.map_or(Weight::ZERO, |p| p.weight)
}

impl ShiftTraffic {
    /// How many canaries are asked for, where the plan made it `planned`, and how many stable instances: an autoscaler
    /// may have found since that more are needed. What somebody else made of the canary is found as drift.
    async fn sizes(cx: &StepContext, target: &Target, planned: u32) -> Result<(u32, u32)> {
        let deployer = cx.backends().deployer()?;
        let call = cx.call()?;
        let look = async |track| {
            let seen = deployer.observe(&call, target, track).await?;
            Ok::<_, Error>(seen.map(|workload| workload.replicas.desired))
        };
        let (canary, stable) = tokio::try_join!(look(Track::Canary), look(Track::Stable))?;
        Ok((canary.unwrap_or(planned), stable.unwrap_or_default()))
    }

    async fn one(cx: &StepContext, target: Target, to: Weight) -> Result<Traffic> {
        let capacity = baseline(cx, &target)?.replicas;
        let router = cx.backends().router(&target.service.traffic.router)?;
        let from = weight_before(cx);
        if router.capabilities().granularity != Granularity::Instances {
            // A canary deployed for the first weight has its size already; so has one of an attempt before this.
            let before = canaries(router.as_ref(), capacity, if from == Weight::ZERO { to } else { from });
            let mut replicas = canaries(router.as_ref(), capacity, to);
            if before != replicas {
                let (now, needed) = Self::sizes(cx, &target, before).await?;
                replicas = canaries(router.as_ref(), needed.max(capacity), to).max(now);
                if now != replicas {
                    let deployer = cx.backends().deployer()?;
                    deployer.scale(&cx.call()?, &target, Track::Canary, Scale { from: now, to: replicas }).await?;
                }
            }
            wait_available(cx, &target, Track::Canary, replicas).await?;
            if from == Weight::ZERO || before != replicas {
                settle(cx).await?;
                // What fails in its first seconds has failed by now, and nobody was sent there.
                wait_available(cx, &target, Track::Canary, replicas).await?;
            }
        }
        let mut change = WeightChange { from, to, capacity };
        if mutation::on(Mutation::OverwriteDrift) {
            change.from = router.read(&cx.call()?, &target).await?.weight;
        }
        let mut traffic = router.set(&cx.call()?, &target, change).await?;
        show(cx, &target, &traffic);
        traffic = in_force(cx, &cx.call()?, &target, traffic).await?;
        let before = match router.capabilities().granularity {
            Granularity::Instances => split(capacity, from).share(),
            _ => from.fraction(),
        };
        follows(cx, &cx.call()?, &target, before, traffic.share).await?;
        Ok(traffic)
    }
}

fn show(cx: &StepContext, target: &Target, traffic: &Traffic) {
    let service = target.service.name.clone();
    cx.progress(ProgressKind::Traffic { service, weight: traffic.weight, share: traffic.share });
}

/// Waits until the router reports a change as in force, if this one can.
async fn in_force(cx: &StepContext, call: &CallContext, target: &Target, mut traffic: Traffic) -> Result<Traffic> {
    const OPERATION: &str = "wait for the router";
    let router = cx.backends().router(&target.service.traffic.router)?;
    if !router.capabilities().verifies || traffic.verification != Verification::NotYet {
        return Ok(traffic);
    }
    let mut states = router.watch_in_force(call, target).await?;
    while traffic.verification == Verification::NotYet {
        let next = call.run("engine", OPERATION, async { Ok(states.next().await) }).await?;
        traffic = next.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "engine", OPERATION, "the watch ended").on(target.to_string())
        })??;
        show(cx, target, &traffic);
    }
    Ok(traffic)
}

/// How long the data plane may be behind what the API says. Of a gateway that heard of instances 2 s late, and took over
/// changes every 2 s, requests failed without this time between one change and the next, and none with it.
pub(crate) const LAG: Duration = Duration::from_secs(5);
/// How long a way back waits for a router to report: it must not depend on one that never does.
const REPORT: Duration = Duration::from_secs(30);

/// Lets the data plane learn which instances have come and which have gone, before more traffic is sent to them: the
/// first is not behind the canary's name as soon as it is available, and one that is gone is still behind stable's.
pub(super) async fn settle(cx: &StepContext) -> Result<()> {
    lag(cx, LAG, "let the data plane learn of the instances").await
}

async fn lag(cx: &StepContext, time: Duration, operation: &'static str) -> Result<()> {
    let elapsed = async {
        tokio::time::sleep(time).await;
        Ok(())
    };
    cx.call()?.run("engine", operation, elapsed).await
}

/// How long a way back waits to learn whether there is anything to go back to.
const LOOK: Duration = Duration::from_secs(5);

/// Where the run is going while it sends all traffic to what the service's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On: the router's report is waited for as long as the step lasts, as the canary carries what has not moved yet.
    On,
    /// Back, which must not depend on that report: it is waited for a while.
    Back,
}

/// Refuses to send traffic to nobody: that is worse than a bad version. What cannot be found out holds nothing up.
async fn expect_somebody(cx: &StepContext, target: &Target, way: Way) -> Result<()> {
    // Where two workloads take turns, the name stands for the new version by then.
    let track =
        if way == Way::On && matches!(target.layout, Layout::Colors(_)) { Track::Canary } else { Track::Stable };
    let Err(nobody) = expect_available(cx, target, track).await else { return Ok(()) };
    let router = cx.backends().router(&target.service.traffic.router)?;
    if router.read(&cx.call()?, target).await.is_ok_and(|now| now.weight == Weight::ZERO) {
        return Ok(());
    }
    Err(nobody)
}

/// That a track has instances, as far as that can be found out.
pub(super) async fn expect_available(cx: &StepContext, target: &Target, track: Track) -> Result<()> {
    let there = cx.backends().deployer()?.observe(&cx.call()?.at_most(LOOK), target, track).await;
    if there.is_err() || matches!(&there, Ok(Some(w)) if w.replicas.available > 0) {
        return Ok(());
    }
    let message = format!(
        "no {track} instance is available: all requests would fail there; the canary keeps the traffic that it has"
    );
    Err(Error::new(ErrorKind::Unhealthy, "engine", "send all traffic to the service's name", message)
        .on(target.to_string())
        .hint(format!("make {} available; it is tried again until then", target.service.workload)))
}

/// Sends all traffic to stable, for every service even if one of them fails, and lets the canaries drain.
pub(super) async fn reset(cx: &StepContext, services: &[String], way: Way) -> Result<ByService<Traffic>> {
    let targets = select(services, cx)?;
    each(&targets, async |target| {
        let capacity = baseline(cx, &target)?.replicas;
        let router = cx.backends().router(&target.service.traffic.router)?;
        // A router by ratios makes the instances itself, and waits for them.
        if router.capabilities().granularity != Granularity::Instances {
            expect_somebody(cx, &target, way).await?;
        }
        // Where the name itself was switched, all traffic goes by it already.
        let traffic = match router.capabilities().granularity {
            Granularity::Whole if way == Way::On => router.read(&cx.call()?, &target).await?,
            _ => router.reset(&cx.call()?, &target, capacity).await?,
        };
        show(cx, &target, &traffic);
        if router.capabilities().granularity != Granularity::Instances {
            let patient = if way == Way::On { cx.call()? } else { cx.call()?.at_most(REPORT) };
            match in_force(cx, &patient, &target, traffic.clone()).await {
                Err(e) if way == Way::On => return Err(e),
                Err(e) => cx.note(format!("{target}: the router does not report that all traffic is back: {e}")),
                Ok(_) => {}
            }
            // Going on, what the name stands for is the new version by now.
            let share = if way == Way::On { 1.0 } else { 0.0 };
            match follows(cx, &patient, &target, share, share).await {
                Err(e) if way == Way::On => return Err(e),
                Err(e) => cx.note(format!("{target}: it cannot be seen that all traffic is back: {e}")),
                Ok(()) => {}
            }
            // What the API accepted is not in the data plane yet, and answers are on their way. Of two workloads that run the
            // same version no answer tells which of them gave it: there the canaries stay for as long as the plan gives it.
            let alike = way == Way::On && target.layout == Layout::InPlace;
            let slow = target.service.traffic.verify.as_ref().filter(|_| alike && !router.capabilities().verifies);
            lag(cx, slow.map_or(LAG, |plane| plane.within.get().max(LAG)), "let the canaries drain").await?;
        }
        Ok(traffic)
    })
    .await
}

#[async_trait]
impl Action for ShiftTraffic {
    type Params = ShiftParams;
    type Output = ByService<Traffic>;

    fn deadline(&self, _: &ShiftParams) -> Option<Duration> {
        Some(Duration::from_secs(600))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &ShiftParams) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        let targets = planned(&params.services, cx.plan).map_err(|e| vec![e])?;
        let whole = |target: &Target| {
            let router = cx.backends.router(&target.service.traffic.router).ok()?;
            if router.capabilities().granularity != Granularity::Whole {
                return None;
            }
            let (message, hint) = match (target.layout, params.weight) {
                (Layout::Colors(_), Weight::FULL) => return None,
                (Layout::Colors(_), weight) => {
                    (format!("it switches all or nothing, and cannot send {weight}"), "write `weights: [100]`")
                }
                _ => ("it switches between two workloads that take turns".to_owned(), "take the strategy blue-green"),
            };
            let message = format!("the router {}: {message}", target.service.traffic.router);
            let e = Error::new(ErrorKind::Unsupported, "engine", "check the strategy", message);
            Some(e.on(target.to_string()).hint(hint))
        };
        let mut problems: Vec<Error> = targets.iter().filter_map(whole).collect();
        for (target, plane) in targets.iter().filter_map(|t| Some((t, t.service.traffic.verify.as_ref()?))) {
            let wrong = plane.problems().into_iter();
            problems.extend(wrong.map(|(at, what)| {
                let message = format!("verify{}: {what}", at.replace('/', "."));
                Error::new(ErrorKind::Invalid, "engine", "check how the data plane is asked", message)
                    .on(target.to_string())
            }));
            problems.extend(cx.backends.probe().err().map(|e| e.on(target.to_string())));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &ShiftParams) -> Result<ByService<Traffic>> {
        let targets = select(&params.services, cx)?;
        if mutation::on(Mutation::ShiftBeforeCheckpoint) {
            let moved = each(&targets, |target| Self::one(cx, target, params.weight)).await?;
            cx.checkpoint(&Allowed { weight: params.weight }).await?;
            return Ok(moved);
        }
        cx.checkpoint(&Allowed { weight: params.weight }).await?;
        each(&targets, |target| Self::one(cx, target, params.weight)).await
    }

    async fn observe(&self, cx: &StepContext, params: &ShiftParams) -> Result<Observed<ByService<Traffic>>> {
        let targets = select(&params.services, cx)?;
        let now = each(&targets, async |target| {
            cx.backends().router(&target.service.traffic.router)?.read(&cx.call()?, &target).await
        });
        let now = now.await?;
        let there = |t: &Traffic| t.weight == params.weight && t.verification != Verification::NotYet;
        let exact = targets.iter().all(|t| {
            let router = cx.backends().router(&t.service.traffic.router);
            router.is_ok_and(|r| r.capabilities().granularity != Granularity::Instances)
        });
        // Nor is it known what the data plane does, where that has to be asked.
        let asked = targets.iter().any(|t| t.service.traffic.verify.is_some());
        // Ratios of instances are never exact: set them again, which writes nothing that is there already.
        Ok(if exact && !asked && now.values().all(there) { Observed::Done(now) } else { Observed::NotDone })
    }

    async fn undo(&self, cx: &StepContext, params: &ShiftParams, _: Option<&ByService<Traffic>>) -> Result<()> {
        if cx.later_is_undone(kinds::SHIFT_TRAFFIC) {
            return Ok(());
        }
        reset(cx, &params.services, Way::Back).await.map(drop)
    }

    fn by_hand(&self, cx: &StepContext, params: &ShiftParams) -> Vec<String> {
        let targets = select(&params.services, cx).unwrap_or_default();
        let commands = |target: &Target| {
            let capacity = baseline(cx, target).map_or(1, |before| before.replicas);
            let router = cx.backends().router(&target.service.traffic.router);
            router.map(|router| router.by_hand(target, capacity)).unwrap_or_default()
        };
        targets.iter().flat_map(commands).collect()
    }
}
