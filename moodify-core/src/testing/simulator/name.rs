//! The simulated switch: what the service's name stands for.

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::backend::{Deployer, Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::{Target, Track, Weight};

use super::cluster::Facet;
use super::state::{Caller, State};

/// Lets the name stand for the one or the other of two workloads that take turns.
#[derive(Debug, Clone)]
pub(super) struct NameRouter {
    facet: Facet,
}

fn traffic(state: &State, caller: &Caller, target: &Target) -> Result<Traffic> {
    let service = state.service(target).filter(|service| service.stable.is_some());
    let service = service.ok_or_else(|| caller.fails(ErrorKind::NotFound, "there is no workload of that name"))?;
    let switched = Some(service.name.stands_for) == target.layout.color(Track::Canary);
    let weight = if switched { Weight::FULL } else { Weight::ZERO };
    let verification = if service.name.is_in_force() { Verification::Verified } else { Verification::NotYet };
    let edited_by = service.name.edited_by.clone();
    Ok(Traffic { weight, share: weight.fraction(), verification, edited_by })
}

impl NameRouter {
    pub(super) fn new(facet: Facet) -> Self {
        Self { facet }
    }

    async fn switch(&self, cx: &CallContext, target: &Target, to: Track) -> Result<Traffic> {
        self.facet.hand_over(cx, target, to).await?;
        self.read(cx, target).await
    }
}

#[async_trait]
impl TrafficRouter for NameRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Whole, true)
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let (caller, target) = (self.facet.router("read", target).reading(), target.clone());
        let asks = caller.clone();
        self.facet.world.call(cx, caller, move |state| traffic(state, &asks, &target)).await
    }

    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let (caller, target) = (self.facet.router("watch", target).reading(), target.clone());
        let (asks, of) = (caller.clone(), target.clone());
        self.facet.world.call(cx, caller.clone(), move |state| traffic(state, &asks, &of).map(drop)).await?;
        let asks = caller.clone();
        Ok(self.facet.world.watch(cx, &caller, move |state| traffic(state, &asks, &target)))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let now = self.read(cx, target).await?;
        let asks = self.facet.router("set", target);
        match change.to {
            to if to != Weight::ZERO && to != Weight::FULL => {
                Err(asks.fails(ErrorKind::Unsupported, format!("a name cannot stand for {to}")))
            }
            to if to == now.weight => Ok(now),
            _ if change.from != now.weight => {
                let by = now.edited_by.as_deref().unwrap_or("somebody else");
                let message = format!("{by} switched the name: {} instead of {}", now.weight, change.from);
                Err(asks.fails(ErrorKind::Drift, message))
            }
            to => self.switch(cx, target, if to == Weight::FULL { Track::Canary } else { Track::Stable }).await,
        }
    }

    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        self.switch(cx, target, Track::Stable).await
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        vec![format!("simulate hand-over {target} stable")]
    }
}
