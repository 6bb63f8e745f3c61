use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use moodify_core::backend::{Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};
use moodify_core::model::{Layout, Target, Weight};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::Value;

use super::kind::{Router, leads_nowhere};
use super::rule::{self, Kind, Rule, Services};
use super::{gateway, gateway_status};
use crate::client::{Kube, Object, typed, until_error};
use crate::error::{Access, Ask};
use crate::ownership::{Editor, drift, last_foreign, last_if_foreign};

/// Divides traffic by weights inside a routing object that is there already.
///
/// In every rule that leads to the stable Service, the canary's Service (`<service>-canary`) is put beside it. One
/// patch changes nothing but the destinations of these rules, and only if they are still as they were read.
///
/// The way back restores the weights that were there before. In the Gateway API they follow from the sums: while there
/// is a canary, its weight and the stable one's add up to a hundred times what the stable one's was, so that 1 becomes
/// 90 and 10, and a weight of 100 becomes 9000 and 1000. Elsewhere, and where that would be too large, weights add up to
/// 100, and what they were is kept in the annotation `moodify.dev/weights-before` as long as there is a canary.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct RouteRouter {
    kube: Kube,
    router: Router,
    kind: &'static dyn Kind,
}

/// A routing object, and what of it we divide.
struct Route {
    object: Object,
    meta: ObjectMeta,
    value: Value,
    rules: Vec<Rule>,
    services: Services,
}

impl Route {
    /// Who wrote the rules last, if `search` finds somebody who did.
    fn editor(&self, search: impl Fn(&[&str]) -> Option<Editor>) -> Option<Editor> {
        let found = self.rules.iter().filter_map(|rule| {
            let fields = rule.fields();
            search(&fields.iter().map(String::as_str).collect::<Vec<_>>())
        });
        found.max_by_key(Editor::time)
    }

    fn drift(&self, ask: &Ask, ours: &str, message: &str) -> Error {
        let editor = self.editor(|path| last_foreign(&self.meta, ours, path));
        drift(ask, message, editor.or_else(|| last_foreign(&self.meta, ours, &["f:spec"])))
    }
}

impl RouteRouter {
    /// `None` for a router whose weights are not inside the object of the plan.
    pub(crate) fn new(kube: Kube, router: Router) -> Option<Self> {
        router.rules().map(|kind| Self { kube, router, kind })
    }

    fn route(&self, target: &Target, value: Value) -> Result<Route> {
        let object = self.router.object(target)?;
        let services = Services::of(target);
        let ask = object.ask(Access::Read, "get");
        let meta = typed(&ask, value["metadata"].clone())?;
        let rules = self.kind.rules(&value, &services);
        if rules.is_empty() {
            let why = self.kind.obstacle(&value, &services).map(|why| ask.error(ErrorKind::Unsupported, why));
            return Err(why.unwrap_or_else(|| leads_nowhere(&ask, &services)));
        }
        Ok(Route { object, meta, value, rules, services })
    }

    fn traffic(&self, route: &Route) -> Traffic {
        let editor = route.editor(|path| last_if_foreign(&route.meta, self.kube.manager(), path));
        rule::traffic(self.kind, &route.value, &route.rules, editor.map(|e| e.manager))
    }

    /// The same of what was written a moment ago: nobody was asked yet who carries it.
    fn written(&self, route: &Route) -> Traffic {
        let mut traffic = self.traffic(route);
        if traffic.verification == Verification::Verified {
            traffic.verification = Verification::NotYet;
        }
        traffic
    }

    /// The route now and after every change.
    fn routes(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<(Traffic, Value)>>> {
        let object = self.router.object(target)?;
        let (this, target) = (self.clone(), target.clone());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let found = found.map_err(|e| this.router.explained(e))?.ok_or_else(|| object.missing())?;
            let value = serde_json::to_value(found)
                .map_err(|e| object.ask(Access::Read, "watch").error(ErrorKind::Internal, e.to_string()))?;
            let route = this.route(&target, value)?;
            Ok((this.traffic(&route), route.value))
        });
        Ok(states.boxed())
    }

    async fn find(&self, cx: &CallContext, object: &Object) -> Result<Option<Value>> {
        self.kube.find(cx, object).await.map_err(|e| self.router.explained(e))
    }

    async fn get(&self, cx: &CallContext, target: &Target) -> Result<Route> {
        let object = self.router.object(target)?;
        let value = self.find(cx, &object).await?.ok_or_else(|| object.missing())?;
        self.route(target, value)
    }

    fn patch(&self, ask: &Ask, route: &Route, weight: Weight) -> Result<Vec<Value>> {
        let patch = rule::set(self.kind, ask, &route.value, &route.rules, &route.services, weight);
        patch.map_err(|e| match e.kind() {
            ErrorKind::Drift => route.drift(ask, self.kube.manager(), e.message()),
            _ => e,
        })
    }

    /// Whether the object is there and its traffic can be divided, without writing anything.
    pub(crate) async fn examine(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let route = self.get(cx, target).await?;
        let ask = route.object.ask(Access::Read, "check");
        self.patch(&ask, &route, Weight::FULL)?;
        let turns = matches!(target.layout, Layout::Colors(_));
        if let Some(why) = self.kind.obstacle_to_turns(&route.rules).filter(|_| turns) {
            return Err(ask
                .error(ErrorKind::Unsupported, format!("two workloads cannot take turns behind it: {why}"))
                .hint("lead it to the host alone: whichever of the two serves, the Service's own selector says"));
        }
        if !self.router.verifies() {
            return Ok(());
        }
        if let Some(why) = gateway::refusal(&route.value) {
            return Err(ask
                .error(ErrorKind::Invalid, format!("its gateway does not take it as it is: {why}"))
                .hint("mend the route first; what a gateway refuses it refuses with weights too"));
        }
        match gateway_status::refusal(&self.kube, cx, &route.value).await? {
            None => Ok(()),
            Some(why) => Err(ask
                .error(ErrorKind::Invalid, format!("no weight would come into force: {why}"))
                .hint("mend the Gateway first, or wait until its controller has made it ready")),
        }
    }
}

#[async_trait]
impl TrafficRouter for RouteRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Percent, self.router.verifies())
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let route = self.get(cx, target).await?;
        let mut traffic = self.traffic(&route);
        if self.router.verifies() {
            traffic.verification = gateway_status::read(&self.kube, cx, &route.value, traffic.verification).await?;
        }
        Ok(traffic)
    }

    /// A routing object that goes away ends the stream with [`ErrorKind::NotFound`].
    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        Ok(until_error(self.routes(cx, target)?.map(|state| state.map(|(traffic, _)| traffic))))
    }

    async fn watch_in_force(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        if !self.router.verifies() {
            return self.watch(cx, target).await;
        }
        let routes = self.routes(cx, target)?;
        let with_parents = |(traffic, route): (Traffic, Value)| (traffic, gateway_status::parents(&route));
        let routes = routes.map(move |state| state.map(with_parents)).boxed();
        Ok(gateway_status::in_force(self.kube.clone(), cx.clone(), routes))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let route = self.get(cx, target).await?;
        let ask = route.object.ask(Access::Compare, "set the weight of");
        let unexpected = rule::weights(&route.rules).into_iter().find(|w| ![change.from, change.to].contains(w));
        if let Some(weight) = unexpected {
            let message = format!("the canary's weight is {weight}, where we expected {}", change.from);
            return Err(route.drift(&ask, self.kube.manager(), &message));
        }
        let patch = self.patch(&ask, &route, change.to)?;
        if patch.is_empty() {
            return Ok(self.written(&route));
        }
        let patched = self.route(target, self.kube.patch(cx, &route.object, patch).await?)?;
        // The answer is what is stored: a webhook may have put something else there.
        if let Some(weight) = rule::weights(&patched.rules).into_iter().find(|w| *w != change.to) {
            let message = format!("we set the canary's weight to {}, and the server made it {weight}", change.to);
            return Err(patched.drift(&ask, self.kube.manager(), &message).effect(Effect::Unknown));
        }
        Ok(self.written(&patched))
    }

    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        let object = self.router.object(target)?;
        // No object, or one that leads elsewhere by now: no traffic goes to the canary.
        let none =
            Traffic { weight: Weight::ZERO, share: 0.0, verification: Verification::CannotTell, edited_by: None };
        let Some(value) = self.find(cx, &object).await? else { return Ok(none) };
        let route = match self.route(target, value) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => return Ok(none),
            other => other?,
        };
        let patch = rule::reset(self.kind, &route.value, &route.rules, &route.services);
        let patched = match patch.is_empty() {
            // What was read may be past, and a way back must not end on that: let the server compare.
            true => self.kube.compare(cx, &route.object, rule::unchanged(&route.rules)).await?,
            false => self.kube.patch(cx, &route.object, patch).await?,
        };
        let patched = self.route(target, patched)?;
        let left = rule::weights(&patched.rules).into_iter().find(|w| *w != Weight::ZERO);
        if let Some(weight) = left {
            let ask = route.object.ask(Access::Compare, "take the canary out of");
            let message = format!("we took the canary out, and it still has {weight}");
            return Err(patched.drift(&ask, self.kube.manager(), &message).effect(Effect::Unknown));
        }
        Ok(self.written(&patched))
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        let (namespace, resource) = (&target.namespace, self.router.kind().kind.to_lowercase());
        let all_to_stable = self.kind.by_hand(&Services::of(target));
        let program = format!("{all_to_stable} | del(.metadata.annotations[\"{}\"]?)", rule::BEFORE);
        vec![format!("kubectl -n {namespace} get {resource} {route} -o json | jq '{program}' | kubectl replace -f -")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, cx, kube, not_found, target};
    use moodify_core::model::Color;
    use serde_json::json;

    fn http_route(kube: Kube) -> RouteRouter {
        RouteRouter::new(kube, Router::HttpRoute).unwrap()
    }

    /// A cluster with a route whose Service has this weight for the canary.
    fn cluster(canary: u64, manager: &'static str) -> (RouteRouter, Asked) {
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
        (http_route(kube), asked)
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
        let gone = http_route(kube);
        gone.reset(&cx(), &target(), 4).await.unwrap();
        let error = gone.read(&cx(), &target()).await.unwrap_err();
        assert_eq!(error.message(), "there is no HTTPRoute web-route in the namespace ns");
    }

    #[tokio::test]
    async fn a_cluster_without_the_gateway_api_says_so() {
        for (router, words) in [
            (Router::HttpRoute, "the kind HTTPRoute needs the Gateway API (gateway.networking.k8s.io/v1); install it"),
            (Router::GrpcRoute, "the kind GRPCRoute needs the Gateway API"),
            (Router::Traefik, "the kind TraefikService needs the custom resource definitions of Traefik"),
            (Router::Istio, "the kind VirtualService needs Istio"),
        ] {
            let (kube, _) = kube(|_, _, _| (404, json!("404 page not found")));
            let router = kube.router(router);
            let error = router.read(&cx(), &target()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(router.reset(&cx(), &target(), 4).await.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }

    #[tokio::test]
    async fn an_ingress_without_an_action_says_what_it_lacks() {
        let (kube, asked) = kube(|_, _, _| {
            let path = json!({"path": "/", "backend": {"service": {"name": "web-svc", "port": {"number": 80}}}});
            (200, json!({"metadata": {"name": "web-route"}, "spec": {"rules": [{"http": {"paths": [path]}}]}}))
        });
        let router = kube.router(Router::Alb);
        let error = router.read(&cx(), &target()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("lead it to an action that forwards to web-svc"), "{error}");
        router.reset(&cx(), &target(), 4).await.unwrap();
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET")));
    }

    #[tokio::test]
    async fn behind_a_subset_nobody_takes_turns() {
        let (kube, _) = kube(|_, _, _| {
            let route = json!([{"destination": {"host": "web-svc", "subset": "v1"}}]);
            (200, json!({"metadata": {"name": "web-route", "namespace": "ns"}, "spec": {"http": [{"route": route}]}}))
        });
        let router = RouteRouter::new(kube, Router::Istio).unwrap();
        router.examine(&cx(), &target()).await.unwrap();
        let turns = target().with_layout(Layout::Colors(Color::Blue));
        let error = router.examine(&cx(), &turns).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("http route 1 leads to web-svc (subset v1)"), "{error}");
    }

    #[tokio::test]
    async fn a_rule_without_its_stable_service_is_drift_with_the_editor_s_name() {
        let (kube, _) = kube(|_, _, _| {
            let route = json!({
                "metadata": {"name": "web-route", "namespace": "ns", "managedFields": [{"manager": "gitops",
                    "operation": "Apply", "time": "2026-11-24T12:03:04Z", "fieldsV1": {"f:spec": {"f:http": {}}}}]},
                "spec": {"http": [{"route": [{"destination": {"host": "web-svc-canary"}, "weight": 100}]}]},
            });
            (200, route)
        });
        let router = kube.router(Router::Istio);
        let error = router.set(&cx(), &target(), change(100, 50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.message().contains("http route 1 leads to the canary but not"), "{error}");
        assert!(error.message().contains("last edited by \"gitops\" (Apply)"), "{error}");
    }
}
