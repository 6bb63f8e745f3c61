//! Copies of requests.

use async_trait::async_trait;

use crate::backend::TrafficMirror;
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::{Target, Weight};

use super::cluster::Facet;
use super::state::State;

#[async_trait]
impl TrafficMirror for Facet {
    async fn start(&self, cx: &CallContext, target: &Target, percent: Weight) -> Result<()> {
        let (caller, target) = (self.router("mirror", target), target.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let service = state.service_mut(&target).filter(|service| service.route.is_some());
            let there =
                &mut service.ok_or_else(|| asks.fails(ErrorKind::NotFound, "there is no routing object"))?.mirrored;
            match there {
                Some(other) if *other != percent => Err(asks.fails(ErrorKind::Drift, format!("it mirrors {other}"))),
                Some(_) => Ok(()),
                None => {
                    *there = Some(percent);
                    state.wrote(format!("a copy of {percent} to the canary of {target}"));
                    Ok(())
                }
            }
        };
        self.world.call(cx, caller, effect).await
    }

    async fn stop(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (caller, target) = (self.router("stop-mirror", target), target.clone());
        let effect = move |state: &mut State| {
            if state.service_mut(&target).is_some_and(|service| service.mirrored.take().is_some()) {
                state.wrote(format!("no copies to the canary of {target}"));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        vec![format!("simulate no copies {target}")]
    }
}
