use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use moodify_core::backend::{
    Deployer as _, Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange,
};
use moodify_core::model::{Target, Track, Weight};
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::Value;

use crate::client::{Kube, typed, until_error};
use crate::deployer::{DeploymentDeployer, deployment_of, stable_service};
use crate::error::{Access, Ask};
use crate::ownership::{Editor, drift, last_if_foreign};
use crate::turns;

/// Sends all traffic to the one or the other of two Deployments that take turns, by the selector of the Service: no
/// gateway is needed, and nothing less than all can be sent.
///
/// Nothing reports that nodes follow. A connection that is kept alive stays where it is until its pod ends: what served
/// before keeps its instances for the strategy's `keep`, and answers on them.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct SelectorRouter {
    deployer: DeploymentDeployer,
}

fn traffic(switched: bool, edited_by: Option<Editor>) -> Traffic {
    let weight = if switched { Weight::FULL } else { Weight::ZERO };
    let edited_by = edited_by.map(|editor| editor.manager);
    Traffic { weight, share: weight.fraction(), verification: Verification::CannotTell, edited_by }
}

/// Who else wrote the selector last, if that was not us.
fn editor(kube: &Kube, ask: &Ask, service: &Value) -> Result<Option<Editor>> {
    let meta = typed(ask, service["metadata"].clone())?;
    Ok(last_if_foreign(&meta, kube.manager(), &["f:spec", "f:selector"]))
}

impl SelectorRouter {
    /// The name under which plans ask for it.
    pub const NAME: &'static str = "service-selector";

    pub(crate) fn new(kube: Kube) -> Self {
        Self { deployer: DeploymentDeployer::new(kube) }
    }

    async fn switch(&self, cx: &CallContext, target: &Target, to: Track) -> Result<Traffic> {
        self.deployer.hand_over(cx, target, to).await?;
        Ok(traffic(to == Track::Canary, None))
    }

    /// Where the Service leads, and who else wrote that last.
    async fn look(&self, cx: &CallContext, target: &Target) -> Result<(Traffic, Option<Editor>)> {
        let (serving, service) = self.deployer.serving_by(cx, target).await?;
        let editor = editor(&self.deployer.kube, &stable_service(target).ask(Access::Read, "get"), &service)?;
        Ok((traffic(target.layout.color(Track::Canary) == Some(serving), editor.clone()), editor))
    }
}

#[async_trait]
impl TrafficRouter for SelectorRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Whole, false)
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        Ok(self.look(cx, target).await?.0)
    }

    /// A Service that leads to neither of the two any more, or goes away, ends the stream with an error. The labels of the
    /// pods are read once: they never change.
    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let kube = self.deployer.kube.clone();
        let (stable, canary) = (deployment_of(target, Track::Stable), deployment_of(target, Track::Canary));
        let (stable, canary) = tokio::try_join!(kube.find::<Value>(cx, &stable), kube.find::<Value>(cx, &canary))?;
        let base = stable_service(target);
        let ask = base.ask(Access::Read, "watch where it leads:");
        let states = kube.clone().watch_object(cx, &stable_service(target)).map(move |found| {
            let found = found?.ok_or_else(|| base.missing())?;
            let service = serde_json::to_value(found).map_err(|e| ask.error(ErrorKind::Internal, e.to_string()))?;
            let (selector, editor) = (turns::selector(&service), editor(&kube, &ask, &service)?);
            let leads = |to: &Option<Value>| to.as_ref().is_some_and(|to| turns::leads_to(&selector, to));
            match (leads(&stable), leads(&canary)) {
                (false, true) => Ok(traffic(true, editor)),
                (true, false) => Ok(traffic(false, editor)),
                _ => {
                    let message = "somebody changed its selector: it does not lead to one of the two versions";
                    Err(drift(&ask, message, editor))
                }
            }
        });
        Ok(until_error(states))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let (now, editor) = self.look(cx, target).await?;
        let ask = stable_service(target).ask(Access::Compare, "switch");
        match change.to {
            to if to != Weight::ZERO && to != Weight::FULL => {
                let message = format!("a Service leads to one version or the other: it cannot send {to}");
                Err(ask
                    .error(ErrorKind::Unsupported, message)
                    .hint("write `weights: [100]`, or take a router by weights"))
            }
            to if to == now.weight => Ok(now),
            _ if change.from != now.weight => {
                let message =
                    format!("{} of the traffic goes to the new version, where we expected {}", now.weight, change.from);
                Err(drift(&ask, &message, editor))
            }
            to => self.switch(cx, target, if to == Weight::FULL { Track::Canary } else { Track::Stable }).await,
        }
    }

    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        self.switch(cx, target, Track::Stable).await
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        self.deployer.by_hand(target, &moodify_core::backend::Remedy::HandOver(Track::Stable))
    }
}
