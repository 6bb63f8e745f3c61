use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use moodify_core::backend::{Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::Value;

use crate::client::{HTTP_ROUTE, Kube, Object, typed, until_error};
use crate::error::{Access, Ask};
use crate::names::canary_of;
use crate::ownership::{last_foreign, last_if_foreign};
use crate::route;

/// Divides traffic by the weights of a Gateway API `HTTPRoute` (`gateway.networking.k8s.io/v1`).
///
/// In every rule that leads to the stable Service, the canary's Service (`<service>-canary`) is put beside it. One
/// patch changes nothing but the references of these rules, and only if they are still as they were read.
///
/// While there is a canary, its weight and the stable one's add up to a hundred times what the stable one's was before,
/// so that the way back restores exactly that: 1 becomes 90 and 10, a weight of 100 becomes 9000 and 1000.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct HttpRouteRouter {
    kube: Kube,
}

/// An `HTTPRoute`, and what of it we divide.
struct Route {
    object: Object,
    meta: ObjectMeta,
    value: Value,
    rules: Vec<route::Rule>,
    stable: String,
    canary: String,
}

impl Route {
    fn new(target: &Target, value: Value) -> Result<Self> {
        let object = route_of(target)?;
        let stable = target.service.traffic.service.clone();
        let canary = canary_of(&stable);
        let ask = object.ask(Access::Read, "get");
        let meta = typed(&ask, value["metadata"].clone())?;
        let rules = route::rules(&value, &stable, &canary);
        if rules.is_empty() {
            return Err(ask
                .error(ErrorKind::NotFound, format!("none of its rules leads to the Service {stable}"))
                .hint("check route and service of the service's traffic in the plan"));
        }
        Ok(Self { object, meta, value, rules, stable, canary })
    }

    fn traffic(&self, ours: &str) -> Traffic {
        let editor = last_if_foreign(&self.meta, ours, &["f:spec"]);
        route::traffic(&self.value, &self.rules, editor.map(|e| e.manager))
    }

    fn drift(&self, ask: &Ask, ours: &str, message: &str) -> Error {
        let editor = last_foreign(&self.meta, ours, &["f:spec", "f:rules"])
            .or_else(|| last_foreign(&self.meta, ours, &["f:spec"]));
        let by = editor.map_or_else(|| "nobody who left a name".to_owned(), |e| e.to_string());
        ask.error(ErrorKind::Drift, format!("{message}; last edited by {by}"))
            .hint("find out what they want; it is not overwritten")
    }
}

fn route_of(target: &Target) -> Result<Object> {
    let name = target.service.traffic.route.as_deref().ok_or_else(|| {
        let ask = Ask::new(Access::Read, "find the HTTPRoute", target.to_string());
        ask.error(ErrorKind::Invalid, "the service's traffic names no route")
            .hint("add `route:` with the name of the HTTPRoute to the service's traffic in the plan")
    })?;
    Ok(Object::new(HTTP_ROUTE, &target.namespace, name))
}

impl HttpRouteRouter {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    async fn get(&self, cx: &CallContext, target: &Target) -> Result<Route> {
        let object = route_of(target)?;
        let value: Option<Value> = self.kube.find(cx, &object).await?;
        let value = value.ok_or_else(|| missing(&object))?;
        Route::new(target, value)
    }
}

fn missing(object: &Object) -> Error {
    let message = format!("there is no HTTPRoute {} in the namespace {}", object.name, object.namespace);
    object
        .ask(Access::Read, "get")
        .error(ErrorKind::NotFound, message)
        .hint("check its name and the namespace in the plan")
}

#[async_trait]
impl TrafficRouter for HttpRouteRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Percent, true)
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        Ok(self.get(cx, target).await?.traffic(self.kube.manager()))
    }

    /// A route that goes away ends the stream with [`ErrorKind::NotFound`].
    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let object = route_of(target)?;
        let (ours, target) = (self.kube.manager().to_owned(), target.clone());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let found = found?.ok_or_else(|| missing(&object))?;
            let value = serde_json::to_value(found)
                .map_err(|e| object.ask(Access::Read, "watch").error(ErrorKind::Internal, e.to_string()))?;
            Ok(Route::new(&target, value)?.traffic(&ours))
        });
        Ok(until_error(states))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let route = self.get(cx, target).await?;
        let ask = route.object.ask(Access::Compare, "set the weight of");
        let unexpected = route::weights(&route.rules).into_iter().find(|w| ![change.from, change.to].contains(w));
        if let Some(weight) = unexpected {
            let message = format!("the canary's weight is {weight}, where we expected {}", change.from);
            return Err(route.drift(&ask, self.kube.manager(), &message));
        }
        let patch = route::set(&ask, &route.rules, &route.canary, change.to)?;
        if patch.is_empty() {
            return Ok(route.traffic(self.kube.manager()));
        }
        let patched = Route::new(target, self.kube.patch(cx, &route.object, patch).await?)?;
        // The answer is what is stored: a webhook may have put something else there.
        if let Some(weight) = route::weights(&patched.rules).into_iter().find(|w| *w != change.to) {
            let message = format!("we set the canary's weight to {}, and the server made it {weight}", change.to);
            return Err(patched.drift(&ask, self.kube.manager(), &message).effect(moodify_core::Effect::Unknown));
        }
        Ok(patched.traffic(self.kube.manager()))
    }

    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        let object = route_of(target)?;
        let found: Option<Value> = self.kube.find(cx, &object).await?;
        // No route, or one that leads elsewhere by now: no traffic goes to the canary.
        let none =
            Traffic { weight: Weight::ZERO, share: 0.0, verification: Verification::CannotTell, edited_by: None };
        let Some(value) = found else { return Ok(none) };
        let route = match Route::new(target, value) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(none),
            other => other?,
        };
        let mut patch = route::reset(&route.rules, &route.stable);
        if patch.is_empty() {
            // What was read may be past, and a way back must not end on that: let the server compare.
            patch = route::unchanged(&route.rules);
        }
        let patched = Route::new(target, self.kube.patch(cx, &route.object, patch).await?)?;
        Ok(patched.traffic(self.kube.manager()))
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        let (namespace, stable) = (&target.namespace, &target.service.traffic.service);
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        let canary = canary_of(stable);
        let all_to_stable = format!(
            "(.spec.rules[] | select(.backendRefs) | .backendRefs) |= \
             map(select(.name != \"{canary}\") | if .name == \"{stable}\" then .weight = 1 else . end)"
        );
        vec![format!(
            "kubectl -n {namespace} get httproute {route} -o json | jq '{all_to_stable}' | kubectl replace -f -"
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, cx, kube, not_found, target};
    use serde_json::json;

    /// A cluster with a route whose Service has this weight for the canary.
    fn cluster(canary: u64, manager: &'static str) -> (HttpRouteRouter, Asked) {
        let (kube, asked) = kube(move |method, _, body| {
            let mut refs =
                vec![json!({"name": "web-svc", "port": 80, "weight": if canary > 0 { 100 - canary } else { 1 }})];
            if canary > 0 {
                refs.push(json!({"name": "web-svc-canary", "port": 80, "weight": canary}));
            }
            let mut route = json!({
                "metadata": {"name": "web-route", "namespace": "ns", "managedFields": [{"manager": manager,
                    "operation": "Update", "time": "2026-11-24T12:03:04Z", "fieldsV1": {"f:spec": {"f:rules": {}}}}]},
                "spec": {"rules": [{"backendRefs": refs}]},
            });
            if method == "PATCH" && body[1].is_object() {
                route["spec"]["rules"][0]["backendRefs"] = body[1]["value"].clone();
                route["metadata"]["managedFields"][0]["manager"] = "moodify".into();
            }
            (200, route)
        });
        (HttpRouteRouter::new(kube), asked)
    }

    fn change(from: u8, to: u8) -> WeightChange {
        let weight = |p| Weight::new(p).unwrap();
        WeightChange { from: weight(from), to: weight(to), capacity: 4 }
    }

    #[tokio::test]
    async fn a_weight_takes_one_read_and_one_write() {
        let (router, asked) = cluster(0, "kubectl");
        let traffic = router.set(&cx(), &target(), change(0, 10)).await.unwrap();
        assert_eq!((traffic.weight.percent(), traffic.edited_by), (10, None));
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked[1].starts_with("PATCH /apis/gateway.networking.k8s.io/v1/namespaces/ns/httproutes/web-route?"));
        assert!(asked[1].contains(r#""op":"test","path":"/spec/rules/0/backendRefs""#), "{asked:?}");
    }

    #[tokio::test]
    async fn what_is_in_force_is_not_written_again_and_what_nobody_expects_is_drift() {
        let (router, asked) = cluster(50, "kubectl-edit");
        let traffic = router.set(&cx(), &target(), change(10, 50)).await.unwrap();
        assert_eq!((traffic.weight.percent(), traffic.edited_by.as_deref()), (50, Some("kubectl-edit")));
        let error = router.set(&cx(), &target(), change(10, 20)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.message().contains("\"kubectl-edit\" (Update) at 2026-11-24 12:03:04 UTC"), "{error}");
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET")));
    }

    #[tokio::test]
    async fn the_way_back_takes_one_write_and_only_a_comparison_if_there_is_nothing_to_do() {
        let (router, asked) = cluster(50, "kubectl-edit");
        assert_eq!(router.reset(&cx(), &target(), 4).await.unwrap().weight, Weight::ZERO);
        assert_eq!(asked.lock().unwrap().len(), 2);
        let (router, asked) = cluster(0, "kubectl");
        router.reset(&cx(), &target(), 4).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked[1].contains(r#""op":"test""#) && !asked[1].contains(r#""op":"replace""#), "{asked:?}");
        let (kube, _) = kube(|_, uri, _| not_found(uri));
        let gone = HttpRouteRouter::new(kube);
        gone.reset(&cx(), &target(), 4).await.unwrap();
        let error = gone.read(&cx(), &target()).await.unwrap_err();
        assert_eq!(error.message(), "there is no HTTPRoute web-route in the namespace ns");
    }

    #[tokio::test]
    async fn a_cluster_without_the_gateway_api_says_so() {
        let (kube, _) = kube(|_, _, _| (404, json!("404 page not found")));
        let error = HttpRouteRouter::new(kube).read(&cx(), &target()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Gateway API"), "{error}");
    }
}
