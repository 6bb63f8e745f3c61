//! `VirtualService` of Istio. Pure.

use serde_json::Value;

use super::list::{self, Destination};
use super::rule::{Edit, Kind, Rule, Services, remembered};
use super::testers;

/// A `VirtualService` with routes for HTTP, TLS or TCP. Istio reports nothing about it that follows the data plane.
///
/// Weights of one route add up to 100, as versions of Istio before 1.12 demand.
#[derive(Debug)]
pub(super) struct Istio;

/// The lists of routes, each with `route` in it.
const PROTOCOLS: [&str; 3] = ["http", "tls", "tcp"];

/// The Service that a host means, with its namespace if it says one: `web`, `web.ns`, `web.ns.svc` and
/// `web.ns.svc.cluster.local`, whatever the cluster's domain is.
fn service_of(host: &str) -> Option<(&str, Option<&str>)> {
    let Some((name, rest)) = host.split_once('.') else { return Some((host, None)) };
    match rest.split_once('.') {
        None => Some((name, Some(rest))),
        Some((namespace, domain)) if domain == "svc" || domain.starts_with("svc.") => Some((name, Some(namespace))),
        Some(_) => None,
    }
}

fn host(route: &Value) -> &str {
    route["destination"]["host"].as_str().unwrap_or("?")
}

/// The host stays spelled as it is but for the name. Subsets are the stable Service's, by labels of its pods; the
/// other Service has all of its own.
pub(super) fn redirect(route: &mut Value, service: &str) {
    let domain = host(route).split_once('.').map(|(_, domain)| format!(".{domain}")).unwrap_or_default();
    route["destination"]["host"] = format!("{service}{domain}").into();
    route["destination"].as_object_mut().map(|fields| fields.remove("subset"));
}

impl Destination for Istio {
    fn leads_to(&self, route: &Value, service: &str, namespace: &str) -> bool {
        service_of(host(route)).is_some_and(|(name, of)| name == service && of.unwrap_or(namespace) == namespace)
    }

    /// A destination alone gets everything; beside others, none is nothing.
    fn weight(&self, route: &Value, of: usize) -> u64 {
        if of == 1 { 100 } else { list::written(route).unwrap_or(0) }
    }

    fn name(&self, route: &Value) -> String {
        match route["destination"]["subset"].as_str() {
            Some(subset) => format!("{} (subset {subset})", host(route)),
            None => host(route).to_owned(),
        }
    }
}

impl Kind for Istio {
    fn rules(&self, object: &Value, services: &Services) -> Vec<Rule> {
        let of_testers = &testers::made(object);
        let of_protocol = |protocol: &&'static str| {
            let protocol = *protocol;
            let routes = object["spec"][protocol].as_array().map(Vec::as_slice).unwrap_or_default();
            // Those for testers are not about shares.
            let others = routes.iter().enumerate().filter(|(_, route)| !of_testers.contains(route));
            others.filter_map(move |(index, route)| {
                let (name, path) =
                    (format!("{protocol} route {}", index + 1), format!("/spec/{protocol}/{index}/route"));
                list::rule(self, name, path, route["route"].as_array()?, services)
            })
        };
        let mut rules: Vec<Rule> = PROTOCOLS.iter().flat_map(of_protocol).collect();
        let before = remembered(object, rules.len());
        let divided = rules.iter_mut().zip(before).filter(|(rule, _)| rule.canary.is_some());
        divided.for_each(|(rule, before)| rule.original = before);
        rules
    }

    fn obstacle(&self, _: &Value, _: &Services) -> Option<String> {
        None
    }

    /// A subset chooses among the Service's pods by labels of their own, which those of the other workload need not have.
    fn obstacle_to_turns(&self, rules: &[Rule]) -> Option<String> {
        rules.iter().find_map(|rule| {
            let destination = &rule.value[rule.stable?.index];
            destination["destination"]["subset"].as_str()?;
            let (rule, subset) = (&rule.name, self.name(destination));
            Some(format!("its {rule} leads to {subset}, in which the pods of the other workload need not be"))
        })
    }

    fn edited(&self, rule: &Rule, services: &Services, edit: Edit) -> Value {
        list::edited(self, redirect, rule, services, edit)
    }

    fn by_hand(&self, Services { stable, canary, .. }: &Services) -> String {
        format!(
            "(.spec.http, .spec.tls, .spec.tcp | arrays | .[] | select(.route) | .route) |= \
             map(select(.destination.host | test(\"^{canary}([.]|$)\") | not) | \
             if .destination.host | test(\"^{stable}([.]|$)\") then .weight = 100 else . end)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rule::testing::{back, services, step, there_and_back, try_step};
    use moodify_core::ErrorKind;
    use serde_json::json;

    fn object(route: &Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"hosts": ["web"], "http": [
                {"match": [{"uri": {"prefix": "/other"}}], "route": [{"destination": {"host": "other"}}]},
                {"timeout": "5s", "mirror": {"host": "web"}, "route": route},
                {"redirect": {"uri": "/"}},
            ]},
        })
    }

    fn divided(object: &Value) -> &Value {
        &object["spec"]["http"][1]["route"]
    }

    #[test]
    fn nobody_takes_turns_behind_a_subset() {
        let obstacle = |route: &Value| Istio.obstacle_to_turns(&Istio.rules(&object(route), &services()));
        let why = obstacle(&json!([{"destination": {"host": "web", "subset": "v1"}}])).unwrap();
        assert!(why.starts_with("its http route 2 leads to web (subset v1), in which"), "{why}");
        assert_eq!(obstacle(&json!([{"destination": {"host": "web"}}])), None);
        // The one that is to be tested has a host of its own, whose subsets are not ours.
        let beside = json!([{"destination": {"host": "web"}}, {"destination": {"host": "web-canary", "subset": "v1"}}]);
        assert_eq!(obstacle(&beside), None);
    }

    #[test]
    fn there_and_back_leaves_it_as_it_was() {
        let alone = |weight: Option<u64>| {
            let mut route = json!([{"destination": {"host": "web", "subset": "v1", "port": {"number": 80}}}]);
            weight.into_iter().for_each(|weight| route[0]["weight"] = weight.into());
            object(&route)
        };
        for before in [alone(None), alone(Some(100)), alone(Some(1))] {
            there_and_back(&Istio, &before);
        }
        let mut all = alone(Some(100));
        all["metadata"]["annotations"] = json!({"note": "keep"});
        all["spec"]["tls"] = json!([{"match": [{"port": 443}], "route": [{"destination": {"host": "web.ns"}}]}]);
        all["spec"]["tcp"] = json!([{"route": [{"destination": {"host": "web.ns.svc.cluster.local"}}]}]);
        there_and_back(&Istio, &all);
        assert_eq!(step(&Istio, &all, 10)["metadata"]["annotations"][super::super::rule::BEFORE], "[100,null,null]");
    }

    #[test]
    fn the_canary_is_a_host_of_its_own_spelled_as_the_stable_one() {
        for (stable, canary) in [
            ("web", "web-canary"),
            ("web.ns", "web-canary.ns"),
            ("web.ns.svc", "web-canary.ns.svc"),
            ("web.ns.svc.cluster.local", "web-canary.ns.svc.cluster.local"),
        ] {
            let destination = json!({"destination": {"host": stable, "subset": "v1", "port": {"number": 80}},
                "headers": {"request": {"set": {"a": "b"}}}});
            let now = step(&Istio, &object(&json!([destination])), 10);
            let (mut old, mut new) = (destination.clone(), destination.clone());
            old["weight"] = 90.into();
            new["weight"] = 10.into();
            new["destination"] = json!({"host": canary, "port": {"number": 80}});
            assert_eq!(*divided(&now), json!([old, new]));
            assert_eq!(now["spec"]["http"][0], object(&json!([]))["spec"]["http"][0], "other routes stay");
            assert_eq!(now["spec"]["http"][1]["mirror"], json!({"host": "web"}));
        }
    }

    #[test]
    fn other_hosts_are_other_services() {
        for host in ["web.elsewhere", "web.elsewhere.svc.cluster.local", "web.example.com", "web2", "*"] {
            let rules = Istio.rules(&object(&json!([{"destination": {"host": host}}])), &services());
            assert!(rules.is_empty(), "{host}");
        }
    }

    #[test]
    fn others_in_the_same_route_are_not_ours_to_divide() {
        let subsets = object(&json!([
            {"destination": {"host": "web", "subset": "v1"}, "weight": 80},
            {"destination": {"host": "web", "subset": "v2"}, "weight": 20}]));
        let error = try_step(&Istio, &subsets, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("http route 2 sends traffic also to web (subset v2)"), "{error}");
        let idle = object(&json!([
            {"destination": {"host": "web"}, "weight": 100}, {"destination": {"host": "old"}, "weight": 0}]));
        there_and_back(&Istio, &idle);
        // Beside others, no weight is no traffic: whoever lost our memory still gets all of it back.
        let mut half = step(&Istio, &idle, 50);
        half["metadata"]["annotations"] = json!({});
        assert_eq!(divided(&back(&Istio, &half))[0]["weight"], 100);
    }

    #[test]
    fn a_way_back_does_not_leave_a_route_that_leads_nowhere() {
        let taken = object(&json!([{"destination": {"host": "web-canary.ns"}, "weight": 100}]));
        assert_eq!(*divided(&back(&Istio, &taken)), json!([{"destination": {"host": "web.ns"}}]));
    }

    #[test]
    fn a_route_that_came_meanwhile_does_not_confuse_the_memory() {
        let mut now = step(&Istio, &object(&json!([{"destination": {"host": "web"}, "weight": 100}])), 50);
        let more = json!({"route": [{"destination": {"host": "web"}}]});
        now["spec"]["http"].as_array_mut().unwrap().push(more);
        let after = back(&Istio, &now);
        assert_eq!(*divided(&after), json!([{"destination": {"host": "web"}}]), "alone it needs no weight");
        assert_eq!(after["metadata"].get("annotations"), None);
        let after = back(&Istio, &step(&Istio, &now, 100));
        assert_eq!(*divided(&after), json!([{"destination": {"host": "web"}}]));
    }
}
