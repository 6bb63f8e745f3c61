use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{
    Deployer, DeployerExt, Granularity, Remedy, RouterCapabilities, Scale, Traffic, TrafficRouter, Verification,
    WeightChange, Workload,
};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Target, Track, Weight};
use crate::strategy::{Split, split};

const BACKEND: &str = ReplicaRatio::NAME;

/// How long a way back waits for the stable version's capacity before the canary goes all the same.
const CAPACITY_WAIT: Duration = Duration::from_secs(60);

/// Divides traffic by the number of instances behind one Service, where there is no mesh and no ingress: a
/// [`TrafficRouter`] over any [`Deployer`].
///
/// Going up, canaries are added and available before stable instances go; coming back, the other way round. So the
/// capacity never falls below what there was before, and the share only moves towards the one that is asked for.
pub struct ReplicaRatio {
    deployer: Arc<dyn Deployer>,
}

impl ReplicaRatio {
    /// The name in plans.
    pub const NAME: &str = "replica-ratio";

    /// A router that scales by means of `deployer`.
    #[must_use]
    pub fn new(deployer: Arc<dyn Deployer>) -> Self {
        Self { deployer }
    }

    async fn track(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<Workload>> {
        self.deployer.observe(cx, target, track).await
    }

    async fn stable(&self, cx: &CallContext, target: &Target) -> Result<Workload> {
        self.track(cx, target, Track::Stable).await?.ok_or_else(|| missing(target, Track::Stable))
    }

    async fn scale_and_wait(&self, cx: &CallContext, target: &Target, track: Track, scale: Scale) -> Result<Workload> {
        self.deployer.scale(cx, target, track, scale).await?;
        let settled = move |w: &Workload| {
            w.observed && w.replicas.desired == scale.to && w.has_available(scale.to) && w.replicas.total <= scale.to
        };
        self.deployer.wait(cx, target, track, &settled, &|_| ()).await
    }
}

impl fmt::Debug for ReplicaRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaRatio").finish_non_exhaustive()
    }
}

fn missing(target: &Target, track: Track) -> Error {
    Error::new(ErrorKind::NotFound, BACKEND, "divide traffic", format!("there is no {track} workload"))
        .on(target.to_string())
}

fn traffic(stable: Option<&Workload>, canary: Option<&Workload>) -> Traffic {
    let available = |w: Option<&Workload>| w.map_or(0, |w| w.replicas.available);
    let now = Split { stable: available(stable), canary: available(canary) };
    let asked = |w: Option<&Workload>| w.map_or(0, |w| w.replicas.desired);
    let wanted = Split { stable: asked(stable), canary: asked(canary) };
    let settled = now == wanted;
    Traffic {
        weight: now.weight(),
        share: now.share(),
        verification: if settled { Verification::Verified } else { Verification::NotYet },
        edited_by: None,
    }
}

#[async_trait]
impl TrafficRouter for ReplicaRatio {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Instances, true)
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let stable = self.stable(cx, target).await?;
        let canary = self.track(cx, target, Track::Canary).await?;
        Ok(traffic(Some(&stable), canary.as_ref()))
    }

    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let stable = self.deployer.watch(cx, target, Track::Stable).await?.map(|w| (Track::Stable, w));
        let canary = self.deployer.watch(cx, target, Track::Canary).await?.map(|w| (Track::Canary, w));
        let mut now: (Option<Workload>, Option<Workload>) = (None, None);
        let states = stream::select(stable, canary).map(move |(track, state)| {
            match track {
                Track::Stable => now.0 = state?,
                Track::Canary => now.1 = state?,
            }
            Ok(traffic(now.0.as_ref(), now.1.as_ref()))
        });
        Ok(states.boxed())
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let wanted = split(change.capacity, change.to);
        let before = split(change.capacity, change.from);
        let canary = self.track(cx, target, Track::Canary).await?.ok_or_else(|| missing(target, Track::Canary))?;
        let stable = self.stable(cx, target).await?;
        // Half-way states of an attempt before this one are ours too: the canary grown, stable not yet shrunk. The capacity
        // of before is not, once there is a weight: an autoscaler has set it back.
        let ours = [before.stable, wanted.stable];
        if !ours.contains(&stable.replicas.desired) {
            let message = format!(
                "the stable version is asked for {} instances; this run expects {}: somebody else scaled it",
                stable.replicas.desired, before.stable
            );
            return Err(Error::new(ErrorKind::Drift, BACKEND, "divide traffic", message).on(target.to_string()));
        }
        let canaries = canary.replicas.desired.max(wanted.canary);
        let grow = Scale { from: canary.replicas.desired, to: canaries };
        let mut canary = self.scale_and_wait(cx, target, Track::Canary, grow).await?;
        let shrink = Scale { from: stable.replicas.desired, to: wanted.stable };
        let stable = self.scale_and_wait(cx, target, Track::Stable, shrink).await?;
        if canaries > wanted.canary {
            let shrink = Scale { from: canaries, to: wanted.canary };
            canary = self.scale_and_wait(cx, target, Track::Canary, shrink).await?;
        }
        Ok(traffic(Some(&stable), Some(&canary)))
    }

    async fn reset(&self, cx: &CallContext, target: &Target, capacity: u32) -> Result<Traffic> {
        let stable = self.stable(cx, target).await?;
        // More than there was before is somebody else's wish, and in nobody's way.
        if stable.replicas.desired < capacity {
            let grow = Scale { from: stable.replicas.desired, to: capacity };
            self.deployer.scale(cx, target, Track::Stable, grow).await?;
        }
        let wait = cx.at_most(CAPACITY_WAIT);
        let full = move |w: &Workload| w.has_available(capacity);
        let waited = self.deployer.wait(&wait, target, Track::Stable, &full, &|_| ()).await;
        if let Err(e) = waited {
            // Less capacity is better than a bad version, but none at all is not.
            if self.stable(cx, target).await?.replicas.available == 0 {
                return Err(e.hint("no stable instance is available; the canary keeps what traffic there is"));
            }
        }
        let canary = self.deployer.observe(cx, target, Track::Canary).await.or_else(drifted)?;
        // Also where none is seen: to remove nothing is fine, and to believe an old answer is not.
        if canary.is_none_or(|c| c.replicas.desired > 0) {
            self.deployer.remove(cx, target).await?;
        }
        Ok(Traffic { weight: Weight::ZERO, share: 0.0, verification: Verification::CannotTell, edited_by: None })
    }

    fn by_hand(&self, target: &Target, capacity: u32) -> Vec<String> {
        let mut commands = self.deployer.by_hand(target, &Remedy::Replicas(capacity));
        commands.extend(self.deployer.by_hand(target, &Remedy::RemoveCanary));
        commands
    }
}

/// A way back does not care who edited the canary, but it does not take it away from them either.
fn drifted(e: Error) -> Result<Option<Workload>> {
    if e.kind() == ErrorKind::Drift { Ok(None) } else { Err(e) }
}
