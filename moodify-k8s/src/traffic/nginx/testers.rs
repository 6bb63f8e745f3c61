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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, cx, kube, not_found, stable_service, target};
    use moodify_core::backend::{TrafficRouter as _, WeightChange};
    use std::sync::{Arc, Mutex};

    type Ingress = Arc<Mutex<Option<Value>>>;

    /// A cluster with the stable `Ingress` and the canary's Service, and the canary's `Ingress` as it is written.
    fn cluster() -> (NginxRouter, Asked, Ingress) {
        let path = json!({"path": "/", "backend": {"service": {"name": "web-svc", "port": {"number": 80}}}});
        let stable = json!({"metadata": {"name": "web-route", "namespace": "ns"},
            "spec": {"rules": [{"http": {"paths": [path]}}]}});
        let canary = Ingress::default();
        let written = canary.clone();
        let (kube, asked) = kube(move |method, uri, body| {
            let mut canary = canary.lock().unwrap();
            match (method, uri.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default()) {
                ("GET", "web-route") => (200, stable.clone()),
                ("GET", "web-svc-canary") => (200, stable_service()),
                ("GET", "ingresses") => (200, json!({"items": [stable]})),
                ("GET", "web-route-canary") => canary.clone().map_or_else(|| not_found(uri), |c| (200, c)),
                ("POST", "ingresses") => {
                    *canary = Some(body.clone());
                    (201, body.clone())
                }
                ("PATCH", "web-route-canary") => {
                    let made = canary.as_mut().unwrap();
                    json_patch::patch(made, &serde_json::from_value::<json_patch::Patch>(body.clone()).unwrap())
                        .unwrap();
                    (200, made.clone())
                }
                ("DELETE", "web-route-canary") => {
                    *canary = None;
                    (200, json!({}))
                }
                _ => not_found(uri),
            }
        });
        (NginxRouter::new(kube), asked, written)
    }

    fn annotation(ingress: &Ingress, key: &str) -> Option<String> {
        let ingress = ingress.lock().unwrap();
        let annotations = &ingress.as_ref()?["metadata"]["annotations"];
        annotations[format!("nginx.ingress.kubernetes.io/{key}")].as_str().map(str::to_owned)
    }

    #[tokio::test]
    async fn testers_come_before_the_first_weight_and_may_go_before_it_does() {
        let (router, asked, ingress) = cluster();
        let testers = Testers::by_header("X-Tester", "yes");
        router.admit(&cx(), &target(), &testers).await.unwrap();
        let marks =
            || ["canary-weight", "canary-by-header", "canary-by-header-value"].map(|key| annotation(&ingress, key));
        assert_eq!(marks(), ["0", "X-Tester", "yes"].map(|text| Some(text.to_owned())));
        asked.lock().unwrap().clear();
        router.admit(&cx(), &target(), &testers).await.unwrap();
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET")), "{asked:?}");

        let ten = Weight::new(10).unwrap();
        let change = WeightChange { from: Weight::ZERO, to: ten, capacity: 4 };
        assert_eq!(router.set(&cx(), &target(), change).await.unwrap().weight, ten);
        assert_eq!(marks(), ["10", "X-Tester", "yes"].map(|text| Some(text.to_owned())), "the weight is of the others");
        router.dismiss(&cx(), &target()).await.unwrap();
        assert_eq!(marks(), [Some("10".to_owned()), None, None]);
        router.admit(&cx(), &target(), &Testers::by_cookie("tester", "always")).await.unwrap();
        assert_eq!(annotation(&ingress, "canary-by-cookie").as_deref(), Some("tester"));
        router.reset(&cx(), &target(), 4).await.unwrap();
        assert!(ingress.lock().unwrap().is_none(), "the way back takes both");
        router.dismiss(&cx(), &target()).await.unwrap();
    }

    #[tokio::test]
    async fn a_cookie_that_nginx_does_not_know_is_refused() {
        let (router, _, _) = cluster();
        assert!(router.check(&Testers::by_cookie("tester", "always")).is_ok());
        assert!(router.check(&Testers::by_header("tester", "yes")).is_ok());
        let error = router.check(&Testers::by_cookie("tester", "yes")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.message(), "nginx does not know the cookie tester=yes");
    }
}
