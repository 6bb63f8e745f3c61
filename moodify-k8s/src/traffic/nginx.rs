mod testers;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::ListParams;
use moodify_core::backend::{Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::ingress;
use super::kind::Router;
use super::rule::Services;
use crate::client::{INGRESS, Kube, Object, SERVICE, typed, until_error};
use crate::error::{Access, Ask};
use crate::names::{RUN, canary_of};
use crate::ownership::{self, Owner, drift, last_foreign, last_if_foreign};
use crate::patch;

/// Divides traffic by the canary annotations of ingress-nginx.
///
/// The `Ingress` of the plan is only read. Beside it a second one, `<route>-canary`, is made with those of its paths that
/// lead to the stable Service, and the canary's Service in their place. It belongs to the run, is owned by the canary's
/// Service, and is deleted on the way back. Whatever else it is asked for than the rules of the first one is drift, and
/// so is a change of these rules.
///
/// nginx takes one canary for each path. Another one in the namespace is refused; one in another namespace is not seen.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct NginxRouter {
    kube: Kube,
}

/// The stable `Ingress`, and the canary's if there is one.
struct Pair {
    object: Object,
    stable: Value,
    /// What the canary's spec has to be.
    spec: Value,
    canary: Option<Canary>,
}

/// The canary's `Ingress`.
struct Canary {
    object: Object,
    meta: ObjectMeta,
    value: Value,
}

/// The fields that make a canary. Who changes the weight owns that field alone; the others are told apart by time.
const FIELDS: [&[&str]; 3] = [
    &["f:metadata", "f:annotations", "f:nginx.ingress.kubernetes.io/canary-weight"],
    &["f:metadata", "f:annotations"],
    &["f:spec"],
];

fn canary_object(target: &Target) -> Result<Object> {
    let stable = Router::IngressNginx.object(target)?;
    Ok(Object::new(INGRESS, &target.namespace, &canary_of(&stable.name)))
}

fn none() -> Traffic {
    Traffic { weight: Weight::ZERO, share: 0.0, verification: Verification::CannotTell, edited_by: None }
}

impl Canary {
    fn new(object: Object, value: Value) -> Result<Self> {
        let meta = typed(&object.ask(Access::Read, "get"), value["metadata"].clone())?;
        Ok(Self { object, meta, value })
    }

    fn traffic(&self, ours: &str) -> Traffic {
        let edited_by = FIELDS.iter().find_map(|path| last_if_foreign(&self.meta, ours, path)).map(|e| e.manager);
        let share = ingress::share(&self.value);
        Traffic { weight: ingress::weight(&self.value), share, edited_by, ..none() }
    }

    fn drift(&self, ask: &Ask, ours: &str, message: &str) -> Error {
        drift(ask, message, FIELDS.iter().find_map(|path| last_foreign(&self.meta, ours, path)))
    }
}

impl NginxRouter {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    async fn find(&self, cx: &CallContext, target: &Target) -> Result<Option<Canary>> {
        let object = canary_object(target)?;
        let found = self.kube.find(cx, &object).await.map_err(|e| Router::IngressNginx.explained(e))?;
        found.map(|value| Canary::new(object, value)).transpose()
    }

    async fn get(&self, cx: &CallContext, target: &Target) -> Result<Pair> {
        let object = Router::IngressNginx.object(target)?;
        let (stable, canary) = tokio::try_join!(self.kube.find::<Value>(cx, &object), self.find(cx, target))?;
        let stable = stable.ok_or_else(|| object.missing())?;
        let spec = ingress::spec(&object.ask(Access::Read, "get"), &stable, &Services::of(target))?;
        Ok(Pair { object, stable, spec, canary })
    }

    /// Refuses if somebody else's canary divides this traffic already.
    async fn check_rivals(&self, cx: &CallContext, pair: &Pair, own: &Object) -> Result<()> {
        let others: Vec<Value> = self.kube.list(cx, INGRESS, &own.namespace, &ListParams::default()).await?;
        match ingress::rival(&others, &pair.spec, &own.name) {
            None => Ok(()),
            Some(rival) => Err(own
                .ask(Access::Read, "plan")
                .error(
                    ErrorKind::Unsupported,
                    format!("the Ingress {rival} is a canary of the same host and path already"),
                )
                .hint("nginx takes one canary for each path: remove the other one, or let its rollout end")),
        }
    }

    /// Whether a canary could be made, without making one.
    pub(crate) async fn examine(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let pair = self.get(cx, target).await?;
        if let Some(canary) = &pair.canary {
            self.check_owner(cx, canary)?;
        }
        self.check_rivals(cx, &pair, &canary_object(target)?).await
    }

    fn check_owner(&self, cx: &CallContext, canary: &Canary) -> Result<()> {
        let object = canary.object.to_string();
        ownership::check(&canary.meta, cx.run_id(), self.kube.manager(), "check the canary", &object)
    }

    /// Refuses a canary that is not this run's, or about to go.
    fn check_usable(&self, cx: &CallContext, canary: &Canary, ask: &Ask) -> Result<()> {
        self.check_owner(cx, canary)?;
        if canary.meta.deletion_timestamp.is_some() {
            return Err(ask.error(ErrorKind::Conflict, "the canary's Ingress is being deleted; it must be gone first"));
        }
        Ok(())
    }

    /// Refuses if the stable `Ingress` has changed since.
    fn check_rules(&self, pair: &Pair, canary: &Canary, ask: &Ask) -> Result<()> {
        if canary.value["spec"] == pair.spec {
            return Ok(());
        }
        let (ours, meta) = (self.kube.manager(), typed(ask, pair.stable["metadata"].clone())?);
        let message = format!("the rules of {} are not those any more that the canary was made of", pair.object);
        let editor = last_foreign(&meta, ours, &["f:spec", "f:rules"]);
        Err(drift(ask, &message, editor.or_else(|| last_foreign(&meta, ours, &["f:spec"]))))
    }

    async fn create(&self, cx: &CallContext, target: &Target, pair: &Pair, weight: Weight) -> Result<Canary> {
        self.create_with(cx, target, pair, weight, &[]).await
    }

    /// The same with more annotations.
    async fn create_with(
        &self,
        cx: &CallContext,
        target: &Target,
        pair: &Pair,
        weight: Weight,
        marks: &[(&str, String)],
    ) -> Result<Canary> {
        let object = canary_object(target)?;
        let owner = Object::new(SERVICE, &target.namespace, &Services::of(target).canary);
        let (found, ()) =
            tokio::try_join!(self.kube.find::<Service>(cx, &owner), self.check_rivals(cx, pair, &object),)?;
        let uid = found.ok_or_else(|| owner.missing())?.metadata.uid.unwrap_or_default();
        let mut body = ingress::canary(&pair.stable, &pair.spec, target, cx.run_id(), &uid, weight);
        for (key, value) in marks {
            body["metadata"]["annotations"][*key] = value.as_str().into();
        }
        let made = self.kube.create(cx, &object, &body).await.map_err(|e| match e.kind() {
            // Perhaps our own of an attempt whose answer was lost: whose it is, the next look says.
            ErrorKind::AlreadyExists => {
                let message = "it was made between our read and our write";
                object.ask(Access::Compare, "create").error(ErrorKind::Conflict, message)
            }
            _ => e,
        });
        Canary::new(object.clone(), made?)
    }

    /// Changes the weight of a canary that is as this run made it.
    async fn reweigh(&self, cx: &CallContext, canary: &Canary, weight: Weight) -> Result<Canary> {
        let mut patch = vec![json!({"op": "test", "path": patch::label(RUN), "value": cx.run_id().as_str()})];
        patch.extend(ingress::reweigh(&canary.value, weight));
        Canary::new(canary.object.clone(), self.kube.patch(cx, &canary.object, patch).await?)
    }
}

#[async_trait]
impl TrafficRouter for NginxRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Percent, false)
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let pair = self.get(cx, target).await?;
        Ok(pair.canary.map_or_else(none, |canary| canary.traffic(self.kube.manager())))
    }

    /// Only the canary's `Ingress` is watched: the other one is compared whenever a weight is set.
    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let object = canary_object(target)?;
        let ours = self.kube.manager().to_owned();
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let Some(found) = found.map_err(|e| Router::IngressNginx.explained(e))? else { return Ok(none()) };
            let value = serde_json::to_value(found)
                .map_err(|e| object.ask(Access::Read, "watch").error(ErrorKind::Internal, e.to_string()))?;
            Ok(Canary::new(object.clone(), value)?.traffic(&ours))
        });
        Ok(until_error(states))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let pair = self.get(cx, target).await?;
        let ours = self.kube.manager();
        let now = pair.canary.as_ref().map_or(Weight::ZERO, |canary| ingress::weight(&canary.value));
        let ask = canary_object(target)?.ask(Access::Compare, "set the weight of");
        let unexpected = ![change.from, change.to].contains(&now);
        let message = format!("the canary's weight is {now}, where we expected {}", change.from);
        let Some(canary) = &pair.canary else {
            if unexpected {
                return Err(drift(&ask, &format!("somebody deleted it: {message}"), None));
            }
            if change.to == Weight::ZERO {
                return Ok(none());
            }
            let made = self.create(cx, target, &pair, change.to).await?;
            return self.as_set(&ask, &made, &pair.spec, change.to);
        };
        self.check_usable(cx, canary, &ask)?;
        if unexpected {
            return Err(canary.drift(&ask, ours, &message));
        }
        self.check_rules(&pair, canary, &ask)?;
        if now == change.to {
            return Ok(canary.traffic(ours));
        }
        self.as_set(&ask, &self.reweigh(cx, canary, change.to).await?, &pair.spec, change.to)
    }

    /// Deletes the canary's `Ingress` if it is this run's.
    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        let Some(canary) = self.find(cx, target).await? else { return Ok(none()) };
        let object = &canary.object;
        if ownership::owner(&canary.meta, cx.run_id()) != Owner::Us {
            tracing::warn!(%object, run = %cx.run_id(), "not removed: it belongs to somebody else");
            return Ok(canary.traffic(self.kube.manager()));
        }
        if canary.meta.deletion_timestamp.is_none() {
            self.kube.delete(cx, object, canary.meta.uid.unwrap_or_default()).await?;
        }
        Ok(none())
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        let object = canary_object(target).into_iter();
        let command = |o: Object| format!("kubectl -n {} delete ingress {} --ignore-not-found", o.namespace, o.name);
        object.map(command).collect()
    }
}

impl NginxRouter {
    /// The answer is what is stored: a webhook may have put something else there.
    fn as_set(&self, ask: &Ask, stored: &Canary, spec: &Value, wanted: Weight) -> Result<Traffic> {
        let (ours, weight) = (self.kube.manager(), ingress::weight(&stored.value));
        if weight == wanted && stored.value["spec"] == *spec {
            return Ok(stored.traffic(ours));
        }
        let message =
            format!("we set the canary's weight to {wanted}, and the server made something else of it: {weight}");
        Err(stored.drift(ask, ours, &message).effect(Effect::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::weight;
    use super::*;
    use crate::testing::{Asked, cx, kube, not_found, stable_service, target};
    use std::sync::Mutex;

    fn stable() -> Value {
        json!({"metadata": {"name": "web-route", "namespace": "ns"}, "spec": {"rules": [{"http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web-svc", "port": {"number": 80}}}}]}}]}})
    }

    /// A cluster with the stable `Ingress`, the canary's Service, and the canary's `Ingress` as it is written.
    fn cluster() -> (NginxRouter, Asked) {
        let canary = Mutex::new(None::<Value>);
        let (kube, asked) = kube(move |method, uri, body| {
            let mut canary = canary.lock().unwrap();
            match (method, uri.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default()) {
                ("GET", "web-route") => (200, stable()),
                ("GET", "web-svc-canary") => (200, stable_service()),
                ("GET", "ingresses") => (200, json!({"items": [stable()]})),
                ("GET", "web-route-canary") => canary.clone().map_or_else(|| not_found(uri), |c| (200, c)),
                ("POST", "ingresses") => {
                    let mut made = body.clone();
                    made["metadata"]["uid"] = "u-9".into();
                    *canary = Some(made.clone());
                    (201, made)
                }
                ("PATCH", "web-route-canary") => {
                    let made = canary.as_mut().unwrap();
                    made["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] =
                        body[2]["value"].clone();
                    (200, made.clone())
                }
                ("DELETE", "web-route-canary") => {
                    *canary = None;
                    (200, json!({}))
                }
                _ => not_found(uri),
            }
        });
        (NginxRouter::new(kube), asked)
    }

    fn change(from: u8, to: u8) -> WeightChange {
        WeightChange { from: weight(from), to: weight(to), capacity: 4 }
    }

    /// What was asked since, as methods.
    fn methods(asked: &Asked) -> String {
        let mut methods: Vec<String> = std::mem::take(&mut *asked.lock().unwrap())
            .iter()
            .map(|a| a.split(' ').next().unwrap().to_owned())
            .collect();
        methods.dedup();
        methods.join(" ")
    }

    #[tokio::test]
    async fn a_weight_takes_one_write() {
        let (router, asked) = cluster();
        router.set(&cx(), &target(), change(0, 0)).await.unwrap();
        assert_eq!(methods(&asked), "GET", "nothing is compared with nothing");
        for (from, to, expected) in [(0, 10, "GET POST"), (10, 10, "GET"), (10, 50, "GET PATCH"), (10, 50, "GET")] {
            let traffic = router.set(&cx(), &target(), change(from, to)).await.unwrap();
            assert_eq!((traffic.weight, methods(&asked).as_str()), (weight(to), expected), "{from} to {to}");
        }
        router.reset(&cx(), &target(), 4).await.unwrap();
        assert_eq!(methods(&asked), "GET DELETE");
        router.reset(&cx(), &target(), 4).await.unwrap();
        assert_eq!(methods(&asked), "GET");
    }

    #[tokio::test]
    async fn what_nobody_expects_is_drift() {
        let (router, asked) = cluster();
        let error = router.set(&cx(), &target(), change(10, 50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.message().contains("the canary's weight is 0 %, where we expected 10 %"), "{error}");
        router.set(&cx(), &target(), change(0, 10)).await.unwrap();
        assert_eq!(router.set(&cx(), &target(), change(20, 30)).await.unwrap_err().kind(), ErrorKind::Drift);
        assert_eq!(methods(&asked), "GET POST GET");
    }

    #[tokio::test]
    async fn without_the_canary_s_service_nothing_is_made() {
        let (kube, asked) = kube(|_, uri, _| match uri.split('?').next().unwrap_or_default() {
            path if path.ends_with("/web-route") => (200, stable()),
            path if path.ends_with("/ingresses") => (200, json!({"items": []})),
            path => not_found(path),
        });
        let router = NginxRouter::new(kube);
        let error = router.set(&cx(), &target(), change(0, 10)).await.unwrap_err();
        assert_eq!(error.message(), "there is no Service web-svc-canary in the namespace ns");
        assert_eq!(methods(&asked), "GET");
    }
}
