//! Routes for testers.

use async_trait::async_trait;

use crate::backend::{TesterRoutes, Testers};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::Target;

use super::cluster::Facet;
use super::state::State;

#[async_trait]
impl TesterRoutes for Facet {
    fn check(&self, _: &Testers) -> Result<()> {
        Ok(())
    }

    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        let (caller, target, testers) = (self.router("admit", target), target.clone(), testers.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let service = state.service_mut(&target).filter(|service| service.route.is_some());
            let missing = || asks.fails(ErrorKind::NotFound, "there is no routing object");
            let there = &mut service.ok_or_else(missing)?.testers;
            match there {
                Some(others) if *others != testers => Err(asks.fails(ErrorKind::Drift, format!("it has {others}"))),
                Some(_) => Ok(()),
                None => {
                    *there = Some(testers.clone());
                    state.wrote(format!("{testers} to the canary of {target}"));
                    Ok(())
                }
            }
        };
        self.world.call(cx, caller, effect).await
    }

    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (caller, target) = (self.router("dismiss", target), target.clone());
        let effect = move |state: &mut State| {
            if state.service_mut(&target).is_some_and(|service| service.testers.take().is_some()) {
                state.wrote(format!("testers of {target} where all go"));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        vec![format!("simulate no testers {target}")]
    }
}
