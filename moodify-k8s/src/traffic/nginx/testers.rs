//! Routes for testers: annotations of the canary's `Ingress`, which has a weight of 0 until the first one is set.

use async_trait::async_trait;
use moodify_core::backend::{Mark, TesterRoutes, Testers};
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::{NginxRouter, canary_object};
use crate::client::Object;
use crate::error::{Access, Ask};
use crate::names::RUN;
use crate::ownership::{self, Owner};
use crate::patch;
use crate::traffic::ingress;

#[async_trait]
impl TesterRoutes for NginxRouter {
    fn check(&self, testers: &Testers) -> Result<()> {
        match testers.mark() {
            Mark::Cookie(name) if testers.value != ingress::ALWAYS => {
                let ask = Ask::new(Access::Read, "check the testers of", "ingress-nginx");
                let message = format!("nginx does not know the cookie {name}={}", testers.value);
                Err(ask
                    .error(ErrorKind::Unsupported, message)
                    .hint("give the cookie the value `always`, or take a header"))
            }
            _ => Ok(()),
        }
    }

    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        self.check(testers)?;
        let (pair, marks) = (self.get(cx, target).await?, ingress::marks(testers));
        let Some(canary) = &pair.canary else {
            return self.create_with(cx, target, &pair, Weight::ZERO, &marks).await.map(drop);
        };
        let ask = canary.object.ask(Access::Compare, "admit testers to");
        self.check_usable(cx, canary, &ask)?;
        self.check_rules(&pair, canary, &ask)?;
        let there = ingress::marked(&canary.value);
        if there == marks {
            return Ok(());
        }
        if !there.is_empty() {
            return Err(canary.drift(&ask, self.kube.manager(), "it is for other testers"));
        }
        let mut operations = vec![json!({"op": "test", "path": patch::label(RUN), "value": cx.run_id().as_str()})];
        operations.extend(ingress::mark(&marks));
        self.kube.patch::<Value>(cx, &canary.object, operations).await.map(drop)
    }

    /// Deletes the canary's `Ingress` if it has no weight besides.
    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let Some(canary) = self.find(cx, target).await? else { return Ok(()) };
        let (object, there) = (&canary.object, ingress::marked(&canary.value));
        if there.is_empty() || canary.meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        if ownership::owner(&canary.meta, cx.run_id()) != Owner::Us {
            tracing::warn!(%object, run = %cx.run_id(), "not changed: it belongs to somebody else");
            return Ok(());
        }
        if ingress::weight(&canary.value) == Weight::ZERO {
            return self.kube.delete(cx, object, canary.meta.uid.unwrap_or_default()).await;
        }
        self.kube.patch::<Value>(cx, object, ingress::unmark(&there)).await.map(drop)
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let object = canary_object(target).into_iter();
        let marks = ingress::MARKS.map(|key| format!("{key}-")).join(" ");
        let command = |o: Object| format!("kubectl -n {} annotate ingress {} {marks}", o.namespace, o.name);
        object.map(command).collect()
    }
}
