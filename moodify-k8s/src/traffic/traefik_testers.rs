//! Routes for testers beside a `TraefikService`: an `IngressRoute` of our own, with a copy of each rule of the namespace's
//! that leads there, which asks for a header besides and leads to the canary. Nothing of other people's is changed.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::ListParams;
use moodify_core::backend::{Mark, TesterRoutes, Testers};
use moodify_core::model::Target;
use moodify_core::{CallContext, ErrorKind, Result, RunId};
use serde_json::{Map, Value, json};

use super::kind::{Router, leads_nowhere};
use super::rule::{Kind as _, Services};
use super::testers::cookie_pattern;
use super::traefik::Traefik;
use crate::canary::object_labels;
use crate::client::{INGRESS_ROUTE, Kube, Object, SERVICE, typed};
use crate::error::Access;
use crate::names::with_suffix;
use crate::ownership::{self, Owner, drift, last_foreign};

/// How the class of an `IngressRoute` is named.
const CLASS: &str = "kubernetes.io/ingress.class";

/// The name of our `IngressRoute` beside a `TraefikService`.
pub(crate) fn own_name(route: &str) -> String {
    with_suffix(route, "testers")
}

fn own(target: &Target) -> Result<Object> {
    let service = Router::Traefik.object(target)?;
    Ok(Object::new(INGRESS_ROUTE, &target.namespace, &own_name(&service.name)))
}

/// What the rule asks for besides.
fn matcher(testers: &Testers) -> String {
    // Texts in a rule are quoted as those in JSON, at least visible ASCII is.
    match testers.mark() {
        Mark::Header(name) => format!("Header({}, {})", json!(name), json!(testers.value)),
        Mark::Cookie(name) => format!("HeaderRegexp(\"Cookie\", {})", json!(cookie_pattern(name, &testers.value))),
    }
}

/// The priority that a rule has: the longer the rule, the higher, if none is written down.
fn priority(route: &Value) -> usize {
    let written = route["priority"].as_u64().filter(|priority| *priority > 0).and_then(|p| p.try_into().ok());
    written.unwrap_or_else(|| route["match"].as_str().unwrap_or_default().len())
}

fn routes(ingress_route: &Value) -> impl Iterator<Item = &Value> {
    ingress_route["spec"]["routes"].as_array().into_iter().flatten()
}

/// Class and spec of our `IngressRoute`, of those of the namespace that lead to the `TraefikService`; `None` if none does,
/// and why not if there cannot be one.
fn wanted(
    others: &[Value],
    name: &str,
    to: &Value,
    services: &Services,
    testers: &Testers,
) -> Result<Option<(Value, Value)>, String> {
    let mut frame: Option<(Value, Map<String, Value>)> = None;
    let mut made = Vec::new();
    for other in others {
        let called = other["metadata"]["name"].as_str().unwrap_or("?");
        for route in routes(other) {
            let list = route["services"].as_array().map(Vec::as_slice).unwrap_or_default();
            let leads = |to: &Value| {
                let here = to["namespace"].as_str().is_none_or(|namespace| namespace == services.namespace);
                to["kind"] == "TraefikService" && to["name"] == name && here
            };
            if !list.iter().any(leads) {
                continue;
            }
            let rule = route["match"].as_str().unwrap_or_default();
            if list.len() > 1 {
                return Err(format!("the rule {rule} of the IngressRoute {called} sends traffic also elsewhere"));
            }
            if route["syntax"] == "v2" {
                return Err(format!("the rule {rule} of the IngressRoute {called} is in the syntax of Traefik 2"));
            }
            let mut rest = other["spec"].as_object().cloned().unwrap_or_default();
            rest.remove("routes");
            let class = other["metadata"]["annotations"][CLASS].clone();
            let frame = frame.get_or_insert_with(|| (class.clone(), rest.clone()));
            if *frame != (class, rest) {
                return Err(format!(
                    "the IngressRoute {called} differs from another that leads there in more than rules"
                ));
            }
            // Just before the one that it is a copy of, and behind all that come before that.
            let next = priority(route) + 1;
            let tie = others.iter().flat_map(routes).find(|other| priority(other) == next);
            if let Some(tie) = tie {
                return Err(format!(
                    "the rules {rule} and {} have priorities that leave none for testers between them",
                    tie["match"].as_str().unwrap_or_default()
                ));
            }
            let mut copy = route.clone();
            copy["match"] = format!("({rule}) && {}", matcher(testers)).into();
            copy["priority"] = next.into();
            copy["services"] = json!([to]);
            made.push(copy);
        }
    }
    Ok(frame.map(|(class, mut spec)| {
        spec.insert("routes".to_owned(), made.into());
        (class, spec.into())
    }))
}

/// The canary as a destination: a copy of the stable one.
fn destination(traefik_service: &Value, services: &Services) -> Option<Value> {
    let rules = Traefik.rules(traefik_service, services);
    let rule = rules.first()?;
    let mut to = rule.value[rule.stable?.index].clone();
    to["name"] = services.canary.as_str().into();
    for field in ["weight", "kind"] {
        to.as_object_mut().map(|fields| fields.remove(field));
    }
    Some(to)
}

fn body(own: &Object, class: &Value, spec: &Value, target: &Target, run: &RunId, owner: &str) -> Value {
    let mut body = json!({
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "IngressRoute",
        "metadata": {
            "name": own.name,
            "namespace": own.namespace,
            "labels": object_labels(target, run),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": Services::of(target).canary, "uid": owner}],
        },
        "spec": spec,
    });
    if class.is_string() {
        body["metadata"]["annotations"] = json!({CLASS: class});
    }
    body
}

/// Routes for testers in `IngressRoute`s. They belong to the run, and are owned by the canary's Service.
#[derive(Debug, Clone)]
pub(crate) struct TraefikTesters {
    kube: Kube,
}

impl TraefikTesters {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }
}

#[async_trait]
impl TesterRoutes for TraefikTesters {
    fn check(&self, _: &Testers) -> Result<()> {
        Ok(())
    }

    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()> {
        let (service, own, services) = (Router::Traefik.object(target)?, own(target)?, Services::of(target));
        let found = self.kube.find::<Value>(cx, &service).await.map_err(|e| Router::Traefik.explained(e))?;
        let ask = service.ask(Access::Read, "admit testers to");
        let traefik_service = found.ok_or_else(|| service.missing())?;
        let to = destination(&traefik_service, &services).ok_or_else(|| leads_nowhere(&ask, &services))?;
        let mut all: Vec<Value> = self.kube.list(cx, INGRESS_ROUTE, &target.namespace, &ListParams::default()).await?;
        let at = all.iter().position(|one| one["metadata"]["name"] == *own.name);
        let there = at.map(|at| all.remove(at));
        let wanted = wanted(&all, &service.name, &to, &services, testers).map_err(|why| {
            let hint = "write priorities into the rules that lead there, so that one is free above each; or release \
                        without testers";
            ask.error(ErrorKind::Unsupported, why).hint(hint)
        })?;
        let (class, spec) = wanted.ok_or_else(|| {
            let message = "no IngressRoute of its namespace leads to it: there is no rule to let testers in by";
            ask.error(ErrorKind::NotFound, message).hint("release without testers, or put an IngressRoute beside it")
        })?;
        if let Some(there) = there {
            let ask = own.ask(Access::Compare, "admit testers to");
            let meta: ObjectMeta = typed(&ask, there["metadata"].clone())?;
            ownership::check(&meta, cx.run_id(), self.kube.manager(), "check the testers' route", &own.to_string())?;
            if meta.deletion_timestamp.is_some() {
                return Err(
                    ask.error(ErrorKind::Conflict, "the testers' IngressRoute is being deleted; it must be gone first")
                );
            }
            if there["spec"] != spec {
                let editor = last_foreign(&meta, self.kube.manager(), &["f:spec"]);
                return Err(drift(&ask, "it is for other testers, or the rules changed that it was made of", editor));
            }
            return Ok(());
        }
        let owner = Object::new(SERVICE, &target.namespace, &services.canary);
        let found = self.kube.find::<Service>(cx, &owner).await?;
        let uid = found.ok_or_else(|| owner.missing())?.metadata.uid.unwrap_or_default();
        let body = body(&own, &class, &spec, target, cx.run_id(), &uid);
        self.kube.create::<Value>(cx, &own, &body).await.map(drop).map_err(|e| match e.kind() {
            // Perhaps our own of an attempt whose answer was lost: whose it is, the next look says.
            ErrorKind::AlreadyExists => own
                .ask(Access::Compare, "create")
                .error(ErrorKind::Conflict, "it was made between our read and our write"),
            _ => e,
        })
    }

    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let own = own(target)?;
        let found = self.kube.find::<Value>(cx, &own).await.map_err(|e| Router::Traefik.explained(e))?;
        let Some(there) = found else { return Ok(()) };
        let meta: ObjectMeta = typed(&own.ask(Access::Read, "get"), there["metadata"].clone())?;
        if ownership::owner(&meta, cx.run_id()) != Owner::Us {
            tracing::warn!(object = %own, run = %cx.run_id(), "not removed: it belongs to somebody else");
            return Ok(());
        }
        if meta.deletion_timestamp.is_none() {
            self.kube.delete(cx, &own, meta.uid.unwrap_or_default()).await?;
        }
        Ok(())
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let own = own(target).into_iter();
        let command = |o: Object| {
            format!("kubectl -n {} delete ingressroutes.traefik.io {} --ignore-not-found", o.namespace, o.name)
        };
        own.map(command).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::services;
    use super::*;

    fn ingress_route(name: &str, rules: &[(&str, &str)]) -> Value {
        let rule = |(rule, to): &(&str, &str)| {
            json!({"kind": "Rule", "match": rule, "middlewares": [{"name": "auth"}],
                "services": [{"kind": "TraefikService", "name": to}]})
        };
        let rules: Vec<Value> = rules.iter().map(rule).collect();
        json!({"metadata": {"name": name, "annotations": {CLASS: "edge"}},
            "spec": {"entryPoints": ["web"], "routes": rules}})
    }

    fn made(others: &[Value]) -> Result<Option<(Value, Value)>, String> {
        let to = json!({"name": "web-canary", "port": 80});
        wanted(others, "web", &to, &services(), &Testers::by_header("X-Tester", "a\"b"))
    }

    #[test]
    fn testers_are_led_as_all_others_but_to_the_canary() {
        let others = [
            ingress_route("web", &[("PathPrefix(`/`)", "web"), ("PathPrefix(`/admin`)", "admin")]),
            ingress_route("else", &[("PathPrefix(`/else`)", "else")]),
        ];
        let (class, spec) = made(&others).unwrap().unwrap();
        let rule = json!({"kind": "Rule", "match": "(PathPrefix(`/`)) && Header(\"X-Tester\", \"a\\\"b\")", "priority": 16,
            "middlewares": [{"name": "auth"}], "services": [{"name": "web-canary", "port": 80}]});
        assert_eq!(spec, json!({"entryPoints": ["web"], "routes": [rule]}));
        assert_eq!(class, "edge");
        assert_eq!(made(&others[1..]), Ok(None), "nobody leads there");
    }

    #[test]
    fn what_could_lead_others_or_not_all_testers_is_refused() {
        let tie = [ingress_route("web", &[("PathPrefix(`/`)", "web"), ("PathPrefix(`/a`)", "a")])];
        let why = made(&tie).unwrap_err();
        assert!(why.contains("PathPrefix(`/a`) have priorities that leave none for testers"), "{why}");
        let mut other = ingress_route("other", &[("Host(`a.test`)", "web")]);
        other["spec"]["entryPoints"] = json!(["websecure"]);
        let why = made(&[ingress_route("web", &[("PathPrefix(`/`)", "web")]), other.clone()]).unwrap_err();
        assert!(why.contains("the IngressRoute other differs"), "{why}");
        other["spec"]["routes"][0]["services"] = json!([{"name": "web", "kind": "TraefikService"}, {"name": "old"}]);
        assert!(made(&[other]).unwrap_err().contains("sends traffic also elsewhere"));
    }

    #[test]
    fn the_canary_is_reached_as_the_stable_service_is() {
        let service = json!({"metadata": {}, "spec": {"weighted": {"services": [
            {"name": "old", "weight": 0}, {"name": "web", "port": 80, "weight": 7, "passHostHeader": false}]}}});
        let to = destination(&service, &services());
        assert_eq!(to, Some(json!({"name": "web-canary", "port": 80, "passHostHeader": false})));
    }
}
