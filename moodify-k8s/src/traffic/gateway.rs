//! `HTTPRoute` and `GRPCRoute` of the Gateway API. Pure.

use moodify_core::backend::Verification;
use serde_json::Value;

use super::list::{self, Destination};
use super::rule::{Edit, Kind, Place, Rule, Services, remembered};
use super::testers;

/// The largest weight that the Gateway API allows.
const LARGEST: u64 = 1_000_000;

/// Routes whose rules have `backendRefs`.
///
/// The API server writes down every weight, 1 if nobody said one. While there is a canary, its weight and the stable
/// one's add up to a hundred times what the stable one's was before. So the way back restores exactly that, and needs no
/// memory of its own (but for weights above 10,000, whose sums would be too large).
#[derive(Debug)]
pub(super) struct Gateway;

impl Destination for Gateway {
    fn leads_to(&self, reference: &Value, service: &str, namespace: &str) -> bool {
        let or = |key: &str, default: &str| reference[key].as_str().unwrap_or(default) == default;
        reference["name"] == service && or("kind", "Service") && or("group", "") && or("namespace", namespace)
    }

    fn weight(&self, reference: &Value, _: usize) -> u64 {
        list::written(reference).unwrap_or(1)
    }

    fn name(&self, reference: &Value) -> String {
        reference["name"].as_str().unwrap_or("?").to_owned()
    }
}

impl Kind for Gateway {
    fn rules(&self, route: &Value, services: &Services) -> Vec<Rule> {
        let rules = route["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Those for testers are not about shares.
        let of_testers = testers::made(route);
        let others = rules.iter().enumerate().filter(|(_, rule)| !of_testers.contains(rule));
        let divided = others.filter_map(|(index, rule)| {
            let (name, path) = (format!("rule {}", index + 1), format!("/spec/rules/{index}/backendRefs"));
            list::rule(self, name, path, rule["backendRefs"].as_array()?, services)
        });
        let mut rules: Vec<Rule> = divided.collect();
        let before = remembered(route, rules.len());
        for (rule, before) in rules.iter_mut().zip(before) {
            rule.original = before.filter(|_| rule.canary.is_some()).or_else(|| Some(original(rule)));
        }
        rules
    }

    fn obstacle(&self, _: &Value, _: &Services) -> Option<String> {
        None
    }

    fn edited(&self, rule: &Rule, services: &Services, edit: Edit) -> Value {
        list::edited(self, list::rename, rule, services, edit)
    }

    fn unit(&self, rule: &Rule) -> u64 {
        rule.original.filter(|_| !is_large(rule.original)).unwrap_or(1)
    }

    fn remembers(&self, rules: &[Rule]) -> bool {
        rules.iter().any(|rule| is_large(rule.original))
    }

    /// What the gateways that carry the route say of its present generation. What they say of themselves is theirs.
    fn verification(&self, route: &Value) -> Verification {
        let parents = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
        if parents.is_empty() {
            return Verification::CannotTell;
        }
        let generation = route["metadata"]["generation"].as_i64().unwrap_or(0);
        let in_force = parents.iter().all(|parent| {
            let condition = |kind: &str| parent["conditions"].as_array()?.iter().find(|c| c["type"] == kind);
            let observed = |c: &Value| c["observedGeneration"].as_i64();
            // Not every gateway reports the other two of a route, nor of which generation they are.
            let fine = |c: &Value| c["status"] != "False" && observed(c).is_none_or(|g| g >= generation);
            condition("Accepted").is_some_and(|c| c["status"] == "True" && observed(c).is_some_and(|g| g >= generation))
                && condition("ResolvedRefs").is_none_or(fine)
                && condition("Programmed").is_none_or(fine)
        });
        if in_force { Verification::Verified } else { Verification::NotYet }
    }

    fn by_hand(&self, Services { stable, canary, .. }: &Services) -> String {
        format!(
            "(.spec.rules[] | select(.backendRefs) | .backendRefs) |= \
             map(select(.name != \"{canary}\") | if .name == \"{stable}\" then .weight = 1 else . end)"
        )
    }
}

/// What a gateway has against the route as it is now. A release over it would wait in vain for its weights to be taken.
pub(super) fn refusal(route: &Value) -> Option<String> {
    let generation = route["metadata"]["generation"].as_i64().unwrap_or(0);
    let now = |c: &&Value| c["observedGeneration"].as_i64().is_none_or(|observed| observed >= generation);
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let conditions = parents.flat_map(|parent| parent["conditions"].as_array().into_iter().flatten()).filter(now);
    let told = |c: &Value| c["message"].as_str().filter(|message| !message.is_empty()).map(|m| format!(": {m}"));
    let mut refused = conditions
        .filter(|c| {
            ["Accepted", "ResolvedRefs", "Programmed"].iter().any(|kind| c["type"] == *kind) && c["status"] == "False"
        })
        .map(|c| {
            let text = |key: &str| c[key].as_str().unwrap_or("?");
            format!("{} is False ({}){}", text("type"), text("reason"), told(c).unwrap_or_default())
        });
    refused.next()
}

/// Whether a hundred times this would be too much.
fn is_large(weight: Option<u64>) -> bool {
    weight.is_some_and(|weight| weight > LARGEST / 100)
}

/// The weight of the stable reference when there is no canary: its own, or what our sums remember of it.
fn original(rule: &Rule) -> u64 {
    let weight = |place: Option<Place>| place.map_or(0, |p| p.weight);
    let sum = weight(rule.stable) + weight(rule.canary);
    match rule.canary {
        None => sum.max(1),
        Some(_) if sum > 0 && sum.is_multiple_of(100) => sum / 100,
        Some(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rule::testing::{back, services, step, there_and_back, try_step};
    use serde_json::json;

    fn route(refs: &Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns", "generation": 3},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": [
                {"matches": [{"path": {"value": "/other"}}], "backendRefs": [{"name": "other", "port": 80, "weight": 7}]},
                {"filters": [{"type": "RequestHeaderModifier"}], "backendRefs": refs},
            ]},
        })
    }

    #[test]
    fn there_and_back_leaves_the_route_as_it_was() {
        for weight in [1, 100, 3, 1_000_000] {
            let idle = json!({"name": "old", "port": 80, "weight": 0});
            let refs = json!([idle, {"name": "web", "port": 80, "weight": weight}]);
            there_and_back(&Gateway, &route(&refs));
            let most = step(&Gateway, &route(&refs), 100);
            let weights =
                most["spec"]["rules"][1]["backendRefs"].as_array().unwrap().iter().map(|r| r["weight"].as_u64());
            assert!(weights.flatten().all(|w| w <= LARGEST), "{most}");
        }
    }

    #[test]
    fn the_plain_case_reads_as_percent() {
        let now = step(&Gateway, &route(&json!([{"name": "web", "port": 80}])), 10);
        let expected =
            json!([{"name": "web", "port": 80, "weight": 90}, {"name": "web-canary", "port": 80, "weight": 10}]);
        assert_eq!(now["spec"]["rules"][1]["backendRefs"], expected);
        assert_eq!(now["spec"]["rules"][0], route(&json!([]))["spec"]["rules"][0], "other rules stay");
        assert_eq!(now["spec"]["rules"][1]["filters"], json!([{"type": "RequestHeaderModifier"}]));
        assert_eq!(now["metadata"].get("annotations"), None, "sums remember");
    }

    #[test]
    fn only_references_to_the_service_count() {
        let elsewhere = json!([{"name": "web", "namespace": "other"}, {"name": "web", "kind": "Bucket", "group": "x"}]);
        assert!(Gateway.rules(&route(&elsewhere), &services()).is_empty());
        let spelled = json!([{"name": "web", "namespace": "ns", "kind": "Service", "group": ""}]);
        assert_eq!(Gateway.rules(&route(&spelled), &services()).len(), 1);
    }

    #[test]
    fn others_in_the_same_rule_are_not_ours_to_divide() {
        let shared = |weight: u64| route(&json!([{"name": "web"}, {"name": "old", "weight": weight}]));
        let error = try_step(&Gateway, &shared(1), 10).unwrap_err();
        assert!(error.message().contains("rule 2 sends traffic also to old"), "{error}");
        assert!(try_step(&Gateway, &shared(0), 10).is_ok());
    }

    #[test]
    fn a_way_back_does_not_leave_a_rule_that_leads_nowhere() {
        let taken = route(&json!([{"name": "web-canary", "port": 80, "weight": 100}]));
        let refs = &back(&Gateway, &taken)["spec"]["rules"][1]["backendRefs"];
        assert_eq!(*refs, json!([{"name": "web", "port": 80, "weight": 1}]));
    }

    #[test]
    fn gateways_say_whether_it_is_in_force() {
        let with = |parents: Value| {
            let mut route = route(&json!([{"name": "web"}]));
            route["status"] = json!({"parents": parents});
            Gateway.verification(&route)
        };
        let condition = |kind: &str, status: &str, generation: i64| json!({"type": kind, "status": status, "observedGeneration": generation});
        let parent = |status: &str, generation: i64, refs: &str| json!({"conditions": [condition("Accepted", status, generation), condition("ResolvedRefs", refs, generation)]});
        assert_eq!(with(json!([])), Verification::CannotTell);
        assert_eq!(with(json!([parent("True", 3, "True")])), Verification::Verified);
        assert_eq!(with(json!([parent("True", 3, "True"), parent("True", 2, "True")])), Verification::NotYet);
        assert_eq!(with(json!([parent("False", 3, "True")])), Verification::NotYet);
        assert_eq!(with(json!([parent("True", 3, "False")])), Verification::NotYet);
        for (status, generation, wanted) in
            [("True", 3, Verification::Verified), ("True", 2, Verification::NotYet), ("False", 3, Verification::NotYet)]
        {
            let mut reported = parent("True", 3, "True");
            reported["conditions"].as_array_mut().unwrap().push(condition("Programmed", status, generation));
            assert_eq!(with(json!([reported])), wanted, "programmed: {status} of generation {generation}");
        }
    }

    #[test]
    fn what_a_gateway_refuses_now_is_told_before_a_release() {
        let with = |kind: &str, status: &str, generation: i64| {
            let mut route = route(&json!([{"name": "web"}]));
            let told = json!({"type": kind, "status": status, "reason": "BackendNotFound",
                "message": "no Service admin", "observedGeneration": generation});
            route["status"] = json!({"parents": [{"conditions": [told]}]});
            refusal(&route)
        };
        let told = with("ResolvedRefs", "False", 3);
        assert_eq!(told.as_deref(), Some("ResolvedRefs is False (BackendNotFound): no Service admin"));
        assert_eq!(with("ResolvedRefs", "False", 2), None, "it may be mended by now");
        assert_eq!(with("ResolvedRefs", "True", 3), None);
        assert_eq!(with("PartiallyInvalid", "False", 3), None);
    }
}
