//! Copies of requests behind a `TraefikService`: a second one of our own, of the kind `mirroring`, stands between the weighted
//! one and the stable Service while there are copies. Of the weighted one no more is changed than where its stable member
//! leads.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use moodify_core::backend::TrafficMirror;
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::kind::{Router, edited, leads_nowhere, take_out};
use super::mirror::unsupported;
use super::rule::{Kind as _, Services, compare_and_set};
use super::traefik::{LIST, Traefik, is_mirrored, mirror_of};
use crate::canary::object_labels;
use crate::client::{Kube, Object, SERVICE, TRAEFIK_SERVICE, typed};
use crate::error::{Access, Ask};
use crate::names::canary_service;
use crate::ownership::{self, Owner, drift, last_foreign};

/// Larger bodies are not copied: until Traefik knows whether there is to be a copy, it holds a body in memory.
const LARGEST_BODY: u64 = 1 << 20;

/// The name of our `TraefikService` while the requests of this target are mirrored.
pub(crate) fn own_name(target: &Target) -> String {
    mirror_of(&target.service.traffic.service)
}

fn own(target: &Target) -> Object {
    Object::new(TRAEFIK_SERVICE, &target.namespace, &own_name(target))
}

/// What ours says, of a stable member of the weighted one.
fn mirroring(member: &Value, services: &Services, percent: Weight) -> Value {
    let mut main = member.clone();
    if is_mirrored(member, &services.stable) {
        main["name"] = services.stable.as_str().into();
        main.as_object_mut().map(|fields| fields.remove("kind"));
    }
    main.as_object_mut().map(|fields| fields.remove("weight"));
    let mut copy = main.clone();
    copy["name"] = services.canary.as_str().into();
    copy["percent"] = percent.percent().into();
    // By the address of the Service: with its pods, of which none may be ready, Traefik would give up the whole of it.
    copy["nativeLB"] = true.into();
    main["maxBodySize"] = LARGEST_BODY.into();
    main["mirrors"] = json!([copy]);
    json!({"mirroring": main})
}

/// The same, whether or not it is written down that a Service is one.
fn plain(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for place in ["/mirroring", "/mirroring/mirrors/0"] {
        let fields = spec.pointer_mut(place).and_then(Value::as_object_mut);
        fields.filter(|fields| fields.get("kind") == Some(&json!("Service"))).map(|fields| fields.remove("kind"));
    }
    spec
}

/// The stable member, led to ours. All else stays, for the way back.
fn led_to_ours(member: &Value, services: &Services) -> Value {
    let mut member = member.clone();
    member["name"] = mirror_of(&services.stable).into();
    member["kind"] = "TraefikService".into();
    member
}

/// The same led back to where ours leads, if it is still there.
fn led_back(member: &Value, services: &Services, ours: Option<&Value>) -> Value {
    let mut member = member.clone();
    member["name"] = services.stable.as_str().into();
    match ours.map(|ours| &ours["spec"]["mirroring"]["kind"]).filter(|kind| kind.is_string()) {
        Some(kind) => member["kind"] = kind.clone(),
        None => drop(member.as_object_mut().map(|fields| fields.remove("kind"))),
    }
    member
}

/// The stable member of a weighted `TraefikService`, and where it is.
fn stable_member(ask: &Ask, route: &Value, services: &Services) -> Result<(String, Value)> {
    let rules = Traefik.rules(route, services);
    let rule = rules.first().ok_or_else(|| leads_nowhere(ask, services))?;
    rule.check(ask)?;
    let index = rule.stable.map_or(0, |place| place.index);
    Ok((format!("{LIST}/{index}"), rule.value[index].clone()))
}

/// The patch that leads back all members that lead to ours.
fn back(route: &Value, services: &Services, ours: Option<&Value>) -> Vec<Value> {
    let members = route.pointer(LIST).and_then(Value::as_array).into_iter().flatten().enumerate();
    let mirrored = members.filter(|(_, member)| is_mirrored(member, &services.stable));
    mirrored
        .flat_map(|(index, member)| {
            compare_and_set(&format!("{LIST}/{index}"), member, &led_back(member, services, ours))
        })
        .collect()
}

/// Ours. The labels of the weighted one are those by which a Traefik may choose what it looks at; it is owned by that one,
/// so that tools which track by labels leave it alone.
fn body(own: &Object, route: &Value, spec: &Value, target: &Target, cx: &CallContext) -> Value {
    let mut labels = route["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.extend(object_labels(target, cx.run_id()));
    json!({
        "apiVersion": TRAEFIK_SERVICE.api_version(),
        "kind": TRAEFIK_SERVICE.kind,
        "metadata": {
            "name": own.name,
            "namespace": own.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": TRAEFIK_SERVICE.api_version(),
                "kind": TRAEFIK_SERVICE.kind,
                "name": route["metadata"]["name"],
                "uid": route["metadata"]["uid"],
            }],
        },
        "spec": spec,
    })
}

/// Copies by a `TraefikService` of the kind `mirroring`. It belongs to the run, and is owned by the weighted one.
///
/// At every moment both are complete for Traefik: ours is there before anything leads to it, and until nothing does.
#[derive(Debug, Clone)]
pub(crate) struct TraefikMirror {
    kube: Kube,
}

impl TraefikMirror {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    fn ask(object: &Object) -> Ask {
        object.ask(Access::Compare, "mirror the requests of")
    }

    /// Whether the requests could be mirrored, without writing anything. There need be no canary yet.
    pub(crate) async fn examine(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, found) = Router::Traefik.find(&self.kube, cx, target).await?;
        let (services, ask) = (Services::of(target), Self::ask(&object));
        stable_member(&ask, &found.ok_or_else(|| object.missing())?, &services)?;
        // Of which the canary's will be a copy.
        self.has_address(cx, target, &ask, &services.stable).await
    }

    /// Copies are sent to the address of a Service, so it must have one.
    async fn has_address(&self, cx: &CallContext, target: &Target, ask: &Ask, service: &str) -> Result<()> {
        let object = Object::new(SERVICE, &target.namespace, service);
        let found: Service = self.kube.find(cx, &object).await?.ok_or_else(|| object.missing())?;
        let address = found.spec.and_then(|spec| spec.cluster_ip).filter(|ip| !ip.is_empty() && ip != "None");
        address.map(drop).ok_or_else(|| unsupported(ask, format!("the Service {service} has no address of its own")))
    }

    /// Makes ours, or checks that it is as it would be made.
    async fn made(&self, cx: &CallContext, target: &Target, route: &Value, spec: &Value) -> Result<()> {
        let own = own(target);
        let Some(there) = self.kube.find::<Value>(cx, &own).await? else {
            let body = body(&own, route, spec, target, cx);
            return self.kube.create::<Value>(cx, &own, &body).await.map(drop).map_err(|e| match e.kind() {
                // Perhaps our own of an attempt whose answer was lost: whose it is, the next look says.
                ErrorKind::AlreadyExists => own
                    .ask(Access::Compare, "create")
                    .error(ErrorKind::Conflict, "it was made between our read and our write"),
                _ => e,
            });
        };
        let ask = own.ask(Access::Compare, "mirror requests by");
        let meta: ObjectMeta = typed(&ask, there["metadata"].clone())?;
        ownership::check(&meta, cx.run_id(), self.kube.manager(), "check the mirroring of requests", &own.to_string())?;
        if meta.deletion_timestamp.is_some() {
            return Err(ask.error(ErrorKind::Conflict, "it is being deleted; it must be gone first"));
        }
        if plain(&there["spec"]) != plain(spec) {
            let editor = last_foreign(&meta, self.kube.manager(), &["f:spec"]);
            return Err(drift(&ask, "it sends another share of the requests, or not as the stable ones go", editor));
        }
        Ok(())
    }

    fn edited(&self, ask: &Ask, route: &Value, error: Error) -> Error {
        if error.kind() == ErrorKind::Drift { edited(&self.kube, ask, route, error.message()) } else { error }
    }
}

#[async_trait]
impl TrafficMirror for TraefikMirror {
    async fn start(&self, cx: &CallContext, target: &Target, percent: Weight) -> Result<()> {
        let (object, found) = Router::Traefik.find(&self.kube, cx, target).await?;
        let route: Value = found.ok_or_else(|| object.missing())?;
        let (services, ask) = (Services::of(target), Self::ask(&object));
        let (path, member) = stable_member(&ask, &route, &services).map_err(|e| self.edited(&ask, &route, e))?;
        self.has_address(cx, target, &ask, &canary_service(target)).await?;
        // First, so that nothing ever leads to what is not there.
        self.made(cx, target, &route, &mirroring(&member, &services, percent)).await?;
        if !is_mirrored(&member, &services.stable) {
            let operations = compare_and_set(&path, &member, &led_to_ours(&member, &services));
            self.kube.patch::<Value>(cx, &object, operations.into()).await?;
        }
        Ok(())
    }

    async fn stop(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, route) = Router::Traefik.find(&self.kube, cx, target).await?;
        let (own, services) = (own(target), Services::of(target));
        let leads = |route: &Value| !back(route, &services, None).is_empty();
        let ours = match self.kube.find::<Value>(cx, &own).await {
            // Who may not even look has made none.
            Err(e) if e.kind() == ErrorKind::Forbidden && !route.as_ref().is_some_and(leads) => return Ok(()),
            found => found?,
        };
        let meta =
            ours.as_ref().map(|ours| typed::<ObjectMeta>(&own.ask(Access::Read, "get"), ours["metadata"].clone()));
        let meta = meta.transpose()?;
        if meta.as_ref().is_some_and(|meta| ownership::owner(meta, cx.run_id()) == Owner::Stranger) {
            tracing::warn!(object = %own, run = %cx.run_id(), "not removed: it belongs to somebody else");
            return Ok(());
        }
        if let Some(route) = route {
            let operations = back(&route, &services, ours.as_ref());
            let now = take_out(&self.kube, cx, &object, &route, operations).await?;
            if let Some(now) = now.filter(leads) {
                let ask = object.ask(Access::Compare, "end the copies of");
                let message = "we led it back to the stable Service, and it still leads to the copies";
                return Err(edited(&self.kube, &ask, &now, message).effect(Effect::Unknown));
            }
        }
        // Last, for the same reason.
        if let Some(meta) = meta.filter(|meta| meta.deletion_timestamp.is_none()) {
            self.kube.delete(cx, &own, meta.uid.unwrap_or_default()).await?;
        }
        Ok(())
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        let (namespace, own, stable) = (&target.namespace, own_name(target), &target.service.traffic.service);
        let kubectl = format!("kubectl -n {namespace}");
        let program = format!(
            "(.spec.weighted.services[] | select(.kind == \"TraefikService\" and .name == \"{own}\")) |= \
             (.name = \"{stable}\" | del(.kind))"
        );
        vec![
            format!("{kubectl} get traefikservices.traefik.io {route} -o json | jq '{program}' | kubectl replace -f -"),
            format!("{kubectl} delete traefikservices.traefik.io {own} --ignore-not-found"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::{patched, services, step, try_step, weight};
    use super::*;
    use crate::testing::{cx, kube, not_found, target};

    fn weighted(members: &Value) -> Value {
        json!({"metadata": {"name": "web-route", "namespace": "ns", "uid": "u-7", "resourceVersion": "7"},
            "spec": {"weighted": {"services": members, "sticky": {"cookie": {"name": "lvl"}}}}})
    }

    fn ask() -> Ask {
        Ask::new(Access::Compare, "mirror the requests of", "ns/web")
    }

    fn led(route: &Value) -> Value {
        let (path, member) = stable_member(&ask(), route, &services()).unwrap();
        patched(route.clone(), &compare_and_set(&path, &member, &led_to_ours(&member, &services())))
    }

    #[test]
    fn there_and_back_leaves_it_as_it_was() {
        for member in [
            json!({"name": "web", "port": 80}),
            json!({"name": "web", "port": 80, "kind": "Service", "namespace": "ns", "weight": 7, "strategy": "p2c"}),
        ] {
            let before = weighted(&json!([{"name": "old", "port": 80, "weight": 0}, member]));
            let with = led(&before);
            let mut wanted = before.clone();
            wanted["spec"]["weighted"]["services"][1]["name"] = "web-canary-mirror".into();
            wanted["spec"]["weighted"]["services"][1]["kind"] = "TraefikService".into();
            assert_eq!(with, wanted, "and nothing else is changed");
            let spec = mirroring(&member, &services(), weight(10));
            let again = mirroring(&with["spec"]["weighted"]["services"][1], &services(), weight(10));
            assert_eq!(plain(&again), plain(&spec), "it is known again from what leads to it");
            let ours = json!({"spec": spec});
            assert_eq!(patched(with.clone(), &back(&with, &services(), Some(&ours))), before);
            assert!(back(&before, &services(), Some(&ours)).is_empty());
        }
    }

    #[test]
    fn copies_go_as_the_requests_go_but_to_the_address_of_the_canary() {
        let member = json!({"name": "web", "port": 80, "weight": 7, "passHostHeader": false});
        let copy = json!({"name": "web-canary", "port": 80, "passHostHeader": false, "percent": 10, "nativeLB": true});
        let main =
            json!({"name": "web", "port": 80, "passHostHeader": false, "maxBodySize": 1_048_576, "mirrors": [copy]});
        assert_eq!(mirroring(&member, &services(), weight(10)), json!({"mirroring": main}));
    }

    #[test]
    fn what_is_mirrored_is_not_divided() {
        let with = led(&weighted(&json!([{"name": "web", "port": 80}])));
        assert_eq!(Traefik.rules(&with, &services()).len(), 1, "it still leads to the stable Service");
        let error = try_step(&Traefik, &with, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("its requests are mirrored"), "{error}");
        assert_eq!(step(&Traefik, &with, 0), with);
    }

    #[test]
    fn a_list_that_also_leads_elsewhere_or_nowhere_is_refused() {
        let refused = |members: &Value| stable_member(&ask(), &weighted(members), &services()).unwrap_err();
        let error = refused(&json!([{"name": "web"}, {"name": "old"}]));
        assert!(error.message().contains("sends traffic also to old"), "{error}");
        assert_eq!(refused(&json!([{"name": "old"}])).kind(), ErrorKind::NotFound);
        // A copy of somebody's own, of the same kind.
        assert_eq!(refused(&json!([{"name": "web", "kind": "TraefikService"}])).kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn ours_is_there_before_anything_leads_to_it_and_until_nothing_does() {
        let (kube, asked) = kube(|method, uri, _| match (method, uri) {
            ("GET", uri) if uri.contains("/services/") => (200, json!({"spec": {"clusterIP": "10.96.0.7"}})),
            ("GET", uri) if uri.contains("-mirror") => not_found(uri),
            _ => (200, weighted(&json!([{"name": "web-svc", "port": 80}]))),
        });
        TraefikMirror::new(kube).start(&cx(), &target(), weight(10)).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        let writes: Vec<&String> = asked.iter().filter(|line| !line.starts_with("GET")).collect();
        assert_eq!(writes.len(), 2, "{asked:?}");
        assert!(writes[0].starts_with("POST") && writes[0].contains("u-7"), "{writes:?}");
        assert!(writes[1].starts_with("PATCH") && writes[1].contains("web-svc-canary-mirror"), "{writes:?}");

        let led = json!({"name": "web-svc-canary-mirror", "kind": "TraefikService", "port": 80});
        let (kube, asked) = crate::testing::kube(move |method, uri, _| match (method, uri) {
            ("GET", uri) if uri.contains("-mirror") => {
                let labels = json!({"app.kubernetes.io/managed-by": "moodify", "moodify.dev/run": "r0"});
                (200, json!({"metadata": {"name": "m", "uid": "u-8", "labels": labels}, "spec": {"mirroring": {}}}))
            }
            ("GET", _) => (200, weighted(&json!([led]))),
            _ => (200, weighted(&json!([{"name": "web-svc", "port": 80}]))),
        });
        TraefikMirror::new(kube).stop(&cx(), &target()).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        let writes: Vec<&String> = asked.iter().filter(|line| !line.starts_with("GET")).collect();
        assert_eq!(writes.len(), 2, "{asked:?}");
        assert!(writes[0].starts_with("PATCH") && writes[1].starts_with("DELETE"), "{writes:?}");
    }

    #[tokio::test]
    async fn what_has_no_address_gets_no_copies() {
        let (kube, asked) = kube(|_, uri, _| match uri.contains("/services/") {
            true => (200, json!({"spec": {"clusterIP": "None"}})),
            false => (200, weighted(&json!([{"name": "web-svc", "port": 80}]))),
        });
        let mirror = TraefikMirror::new(kube);
        for error in [
            mirror.examine(&cx(), &target()).await.unwrap_err(),
            mirror.start(&cx(), &target(), weight(10)).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains("has no address of its own"), "{error}");
        }
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET")));
    }

    #[tokio::test]
    async fn what_is_of_somebody_else_stays_and_who_may_not_look_has_nothing_to_end() {
        let stranger = json!({"name": "web-svc-canary-mirror", "kind": "TraefikService"});
        let (kube, asked) = kube(move |_, uri, _| match uri.contains("-mirror") {
            true => (200, json!({"metadata": {"name": "m", "uid": "u-8"}, "spec": {"mirroring": {"name": "audit"}}})),
            false => (200, weighted(&json!([stranger]))),
        });
        TraefikMirror::new(kube).stop(&cx(), &target()).await.unwrap();
        assert!(asked.lock().unwrap().iter().all(|line| line.starts_with("GET")));
        let (kube, _) = crate::testing::kube(|_, uri, _| match uri.contains("-mirror") {
            true => (403, json!({"code": 403, "reason": "Forbidden", "message": "no"})),
            false => (200, weighted(&json!([{"name": "web-svc"}]))),
        });
        TraefikMirror::new(kube).stop(&cx(), &target()).await.unwrap();
    }
}
