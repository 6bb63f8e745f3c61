//! Copies by the filter `RequestMirror` of an `HTTPRoute`, and which gateways can send them.

use moodify_core::model::Weight;
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::{Value, json};

use super::gateway::Gateway;
use super::list::Destination;
use super::mirror::{Copies, Form, unsupported};
use super::rule::Services;
use crate::client::{GATEWAY, GATEWAY_CLASS, Kube, Object};
use crate::error::{Access, Ask};

/// What a class of gateways reports that can copy requests, and what one that can copy some of them.
const ALL: &str = "HTTPRouteRequestMirror";
const SOME: &str = "HTTPRouteRequestPercentageMirror";
/// A controller whose classes report nothing of what it can, and which can do both.
const ISTIO: &str = "istio.io/gateway-controller";

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// To where this filter sends copies, if it does.
fn destination(filter: &Value) -> Option<&Value> {
    (filter["type"] == "RequestMirror").then_some(&filter["requestMirror"]["backendRef"])
}

fn is_ours(filter: &Value, services: &Services) -> bool {
    destination(filter).is_some_and(|to| Gateway.leads_to(to, &services.canary, &services.namespace))
}

impl Form for Gateway {
    fn list(&self) -> &'static str {
        "/spec/rules"
    }

    fn copies(&self, rule: &Value, services: &Services) -> Copies {
        let filters = list(rule, "filters");
        if let Some(ours) = filters.iter().find(|filter| is_ours(filter, services)) {
            let mirror = &ours["requestMirror"];
            let fraction = mirror["fraction"]["numerator"].as_f64();
            let fraction = fraction.map(|n| 100.0 * n / mirror["fraction"]["denominator"].as_f64().unwrap_or(100.0));
            return Copies::Ours(mirror["percent"].as_f64().or(fraction).unwrap_or(100.0));
        }
        let of_references = list(rule, "backendRefs").iter().flat_map(|reference| list(reference, "filters"));
        match filters.iter().chain(of_references).find_map(destination) {
            Some(other) => Copies::Others(format!("mirrors its requests to {}", self.name(other))),
            None => Copies::None,
        }
    }

    fn with(&self, rule: &Value, stable: usize, services: &Services, percent: Weight) -> Value {
        let mut to = rule["backendRefs"][stable].clone();
        to["name"] = services.canary.as_str().into();
        // A weight and filters are a share's.
        for field in ["weight", "filters"] {
            to.as_object_mut().map(|fields| fields.remove(field));
        }
        let mut mirror = json!({"backendRef": to});
        // All is what is meant where nothing is said, also by gateways that know no share.
        if percent != Weight::FULL {
            mirror["percent"] = percent.percent().into();
        }
        let (mut rule, mut filters) = (rule.clone(), list(rule, "filters").to_vec());
        filters.push(json!({"type": "RequestMirror", "requestMirror": mirror}));
        rule["filters"] = filters.into();
        rule
    }

    fn without(&self, rule: &Value, services: &Services) -> Value {
        let (mut rule, mut filters) = (rule.clone(), list(rule, "filters").to_vec());
        let before = filters.len();
        filters.retain(|filter| !is_ours(filter, services));
        match filters.is_empty() {
            _ if filters.len() == before => {}
            true => drop(rule.as_object_mut().map(|fields| fields.remove("filters"))),
            false => rule["filters"] = filters.into(),
        }
        rule
    }

    fn without_by_hand(&self, Services { canary, .. }: &Services) -> String {
        format!(
            "(.spec.rules[] | select(.filters)) |= (.filters |= map(select(.requestMirror.backendRef.name != \
             \"{canary}\")) | if .filters == [] then del(.filters) else . end)"
        )
    }
}

/// Whether all who carry the route can send the copies, by what their classes report. One that cannot must answer with errors
/// instead, and not each says so about the route: it is not tried.
pub(super) async fn check(kube: &Kube, cx: &CallContext, ask: &Ask, route: &Value, percent: Weight) -> Result<()> {
    let here = route["metadata"]["namespace"].as_str().unwrap_or_default();
    for parent in list(&route["spec"], "parentRefs") {
        let text = |key: &str, default: &'static str| parent[key].as_str().unwrap_or(default).to_owned();
        let (kind, name) = (text("kind", GATEWAY.kind), text("name", "?"));
        if kind != GATEWAY.kind || text("group", GATEWAY.group) != GATEWAY.group {
            return Err(unsupported(
                ask,
                format!(
                    "it is carried by the {kind} {name}, which has no class that tells whether it can mirror requests"
                ),
            ));
        }
        let gateway = Object::new(GATEWAY, parent["namespace"].as_str().unwrap_or(here), &name);
        let found: Value = kube.find(cx, &gateway).await?.ok_or_else(|| {
            unsupported(ask, format!("its {gateway} is not there, and nobody tells whether it can mirror requests"))
        })?;
        let class = found["spec"]["gatewayClassName"].as_str().unwrap_or_default();
        let features = features(kube, cx, class).await?;
        let needed = [Some(ALL), (percent != Weight::FULL).then_some(SOME)];
        if let Some(lacks) = needed.into_iter().flatten().find(|needed| !features.iter().any(|known| known == needed)) {
            let why = format!(
                "the class {class} of its {gateway} does not report {lacks}: for requests that it cannot mirror so, a \
                 gateway answers with errors"
            );
            return Err(unsupported(ask, why));
        }
    }
    Ok(())
}

/// What the gateways of this class can, as far as anybody knows.
async fn features(kube: &Kube, cx: &CallContext, class: &str) -> Result<Vec<String>> {
    let ask = Ask::new(Access::Read, "get GatewayClass", class);
    if class.is_empty() || !class.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) {
        return Err(ask.error(ErrorKind::Invalid, "it is not the name of a GatewayClass"));
    }
    let path = format!("{}/{}/{class}", GATEWAY_CLASS.root(), GATEWAY_CLASS.plural);
    let body = kube.raw(cx, &ask, &path).await.map_err(|e| match e.kind() {
        ErrorKind::Forbidden => e.hint("it is of the whole cluster: `moodify rbac PLAN` prints the ClusterRole"),
        _ => e,
    })?;
    let found: Value = serde_json::from_slice(&body).map_err(|e| crate::error::unreadable(&ask, e))?;
    let reported = list(&found["status"], "supportedFeatures");
    if reported.is_empty() && found["spec"]["controllerName"] == ISTIO {
        return Ok(vec![ALL.to_owned(), SOME.to_owned()]);
    }
    // Before version 1.3 of the Gateway API they were names and nothing else.
    let name = |feature: &Value| feature.as_str().or(feature["name"].as_str()).map(str::to_owned);
    Ok(reported.iter().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::super::mirror::testing::{start, stop};
    use super::super::rule::testing::{back, services, step, weight};
    use super::*;
    use crate::testing::{cx, kube};

    fn route() -> Value {
        json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"parentRefs": [{"name": "edge"}], "rules": [
            {"filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "audit", "port": 80}}}],
                "backendRefs": [{"name": "other", "port": 80, "weight": 1}]},
            {"filters": [{"type": "URLRewrite"}], "backendRefs": [
                {"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 7, "filters": [{"type": "CORS"}]}]},
            {"backendRefs": [{"name": "web", "port": 80, "weight": 1}]}]}})
    }

    #[test]
    fn the_canary_gets_copies_by_a_filter() {
        let with = start(&Gateway, &route(), 10).unwrap();
        let mut wanted = route();
        let filter = |to: Value| json!({"type": "RequestMirror", "requestMirror": {"backendRef": to, "percent": 10}});
        let spelled = json!({"group": "", "kind": "Service", "name": "web-canary", "port": 80});
        wanted["spec"]["rules"][1]["filters"] = json!([{"type": "URLRewrite"}, filter(spelled)]);
        wanted["spec"]["rules"][2]["filters"] = json!([filter(json!({"name": "web-canary", "port": 80}))]);
        assert_eq!(with, wanted, "and nothing else is changed");
        assert_eq!(start(&Gateway, &with, 10).unwrap(), with, "it is so already");
        assert_eq!(stop(&Gateway, &with), route());
        assert_eq!(stop(&Gateway, &route()), route(), "the copies of others are theirs");
        let all = start(&Gateway, &route(), 100).unwrap();
        assert_eq!(all["spec"]["rules"][2]["filters"][0]["requestMirror"].get("percent"), None);
        assert_eq!(start(&Gateway, &all, 100).unwrap(), all);
        assert_eq!(start(&Gateway, &all, 10).unwrap_err().kind(), ErrorKind::Drift);
        assert_eq!(stop(&Gateway, &step(&Gateway, &all, 10)), step(&Gateway, &route(), 10));
        assert_eq!(back(&Gateway, &step(&Gateway, &all, 10)), all);
    }

    #[test]
    fn fractions_are_read_too() {
        let mut with = start(&Gateway, &route(), 100).unwrap();
        with["spec"]["rules"][1]["filters"][1]["requestMirror"]["fraction"] = json!({"numerator": 1, "denominator": 8});
        let copies = Gateway.copies(&with["spec"]["rules"][1], &services());
        assert_eq!(copies, Copies::Ours(12.5));
    }

    #[test]
    fn the_copies_of_somebody_else_are_named() {
        let audit = json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "audit"}}}]);
        for place in ["/spec/rules/1/filters", "/spec/rules/1/backendRefs/0/filters"] {
            let mut route = route();
            *route.pointer_mut(place).unwrap() = audit.clone();
            let error = start(&Gateway, &route, 10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains("its rule 2 mirrors its requests to audit already"), "{error}");
            assert_eq!(stop(&Gateway, &route), route);
        }
    }

    /// What comes of a class that reports this.
    async fn asked(parent: Value, supported: Value, percent: u8) -> Result<()> {
        let of = if supported.is_string() { json!({"controllerName": supported}) } else { Value::Null };
        let (kube, _) = kube(move |_, uri, _| match uri.contains("gatewayclasses/edge-class") {
            true => (200, json!({"spec": of, "status": {"supportedFeatures": supported}})),
            false => (200, json!({"metadata": {"name": "edge"}, "spec": {"gatewayClassName": "edge-class"}})),
        });
        let mut route = route();
        route["spec"]["parentRefs"][0] = parent;
        let ask = Ask::new(Access::Compare, "mirror the requests of", "ns/web");
        check(&kube, &cx(), &ask, &route, weight(percent)).await
    }

    #[tokio::test]
    async fn only_a_gateway_that_can_is_asked_to() {
        let all = json!([{"name": "Gateway"}, {"name": ALL}]);
        let edge = json!({"name": "edge"});
        asked(edge.clone(), all.clone(), 100).await.unwrap();
        asked(edge.clone(), json!([ALL, SOME]), 10).await.unwrap();
        asked(edge.clone(), json!(ISTIO), 10).await.unwrap();
        for (parent, supported, words) in [
            (
                edge.clone(),
                all,
                "the class edge-class of its Gateway ns/edge does not report HTTPRouteRequestPercentageMirror",
            ),
            (edge.clone(), json!([{"name": "Gateway"}]), "does not report HTTPRouteRequestMirror"),
            (edge, Value::Null, "does not report HTTPRouteRequestMirror"),
            (json!({"name": "web", "kind": "Service", "group": ""}), json!([ALL, SOME]), "carried by the Service web"),
        ] {
            let error = asked(parent, supported, 10).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(words), "{error}");
        }
    }
}
