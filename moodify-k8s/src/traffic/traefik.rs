//! `TraefikService` of Traefik. Pure.

use serde_json::Value;

use super::list::{self, Destination};
use super::rule::{Edit, Kind, Rule, Services, remembered};
use crate::names::with_suffix;

/// Where the members are, as a JSON pointer.
pub(super) const LIST: &str = "/spec/weighted/services";

/// The name of our `TraefikService` that copies the requests of a stable Service.
pub(super) fn mirror_of(stable: &str) -> String {
    with_suffix(stable, "canary-mirror")
}

/// Whether a member leads to a Service by way of that one.
pub(super) fn is_mirrored(member: &Value, service: &str) -> bool {
    member["kind"] == "TraefikService" && member["name"] == mirror_of(service)
}

/// A `TraefikService` with `spec.weighted.services`. Traefik reports nothing about it.
#[derive(Debug)]
pub(super) struct Traefik;

impl Destination for Traefik {
    fn leads_to(&self, service: &Value, name: &str, namespace: &str) -> bool {
        let or = |key: &str, default: &str| service[key].as_str().unwrap_or(default) == default;
        let itself = || service["name"] == name && or("kind", "Service");
        or("namespace", namespace) && (itself() || is_mirrored(service, name))
    }

    fn weight(&self, service: &Value, _: usize) -> u64 {
        list::written(service).unwrap_or(1)
    }

    fn name(&self, service: &Value) -> String {
        service["name"].as_str().unwrap_or("?").to_owned()
    }
}

impl Kind for Traefik {
    fn rules(&self, object: &Value, services: &Services) -> Vec<Rule> {
        let Some(list) = object["spec"]["weighted"]["services"].as_array() else { return Vec::new() };
        let name = "its list of weighted services";
        let mut rule = list::rule(self, name.to_owned(), LIST.to_owned(), list, services);
        if let Some(rule) = rule.as_mut().filter(|rule| rule.canary.is_some()) {
            rule.original = remembered(object, 1)[0];
        }
        rule.into_iter().collect()
    }

    fn obstacle(&self, object: &Value, services: &Services) -> Option<String> {
        let mut members = object.pointer(LIST)?.as_array()?.iter();
        let mirrored = members.any(|member| is_mirrored(member, &services.stable));
        mirrored.then(|| "its requests are mirrored to the canary, which comes before any share of them".to_owned())
    }

    fn edited(&self, rule: &Rule, services: &Services, edit: Edit) -> Value {
        list::edited(self, list::rename, rule, services, edit)
    }

    fn by_hand(&self, Services { stable, canary, .. }: &Services) -> String {
        format!(
            ".spec.weighted.services |= \
             map(select(.name != \"{canary}\") | if .name == \"{stable}\" then .weight = 1 else . end)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rule::testing::{back, services, step, there_and_back, try_step};
    use serde_json::json;

    fn object(services: &Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"weighted": {"services": services, "sticky": {"cookie": {"name": "lvl"}}}},
        })
    }

    #[test]
    fn there_and_back_leaves_it_as_it_was() {
        there_and_back(&Traefik, &object(&json!([{"name": "web", "port": 80}])));
        let mut before = object(&json!([
            {"name": "old", "port": 80, "weight": 0},
            {"name": "web", "port": 80, "weight": 7, "passHostHeader": false}]));
        there_and_back(&Traefik, &before);
        before["metadata"]["annotations"] = json!({"note": "keep"});
        there_and_back(&Traefik, &before);
    }

    #[test]
    fn weights_read_as_percent() {
        let now = step(&Traefik, &object(&json!([{"name": "web", "port": 80, "strategy": "p2c"}])), 10);
        let expected = json!([
            {"name": "web", "port": 80, "strategy": "p2c", "weight": 90},
            {"name": "web-canary", "port": 80, "strategy": "p2c", "weight": 10}]);
        assert_eq!(now["spec"]["weighted"]["services"], expected);
        assert_eq!(now["spec"]["weighted"]["sticky"], json!({"cookie": {"name": "lvl"}}));
    }

    #[test]
    fn only_the_service_of_the_namespace_counts() {
        for other in [
            json!([{"name": "web", "kind": "TraefikService"}]),
            json!([{"name": "web", "namespace": "elsewhere"}]),
            json!([{"name": "web-2"}]),
        ] {
            assert!(Traefik.rules(&object(&other), &services()).is_empty(), "{other}");
        }
        let spelled = object(&json!([{"name": "web", "kind": "Service", "namespace": "ns"}]));
        assert_eq!(Traefik.rules(&spelled, &services()).len(), 1);
        let mirror = json!({"metadata": {}, "spec": {"mirroring": {"name": "web", "port": 80}}});
        assert!(Traefik.rules(&mirror, &services()).is_empty());
    }

    #[test]
    fn others_with_traffic_are_not_ours_to_divide() {
        let shared = object(&json!([{"name": "web", "weight": 3}, {"name": "old"}]));
        let error = try_step(&Traefik, &shared, 10).unwrap_err();
        assert!(error.message().contains("sends traffic also to old"), "{error}");
    }

    #[test]
    fn a_way_back_needs_neither_memory_nor_the_stable_one() {
        let taken = object(&json!([{"name": "web-canary", "port": 80, "weight": 100}]));
        assert_eq!(back(&Traefik, &taken), object(&json!([{"name": "web", "port": 80}])));
        let mut half = step(&Traefik, &object(&json!([{"name": "web", "port": 80, "weight": 7}])), 50);
        half["metadata"]["annotations"] = json!({});
        assert_eq!(back(&Traefik, &half)["spec"], object(&json!([{"name": "web", "port": 80}]))["spec"]);
    }
}
