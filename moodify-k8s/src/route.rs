//! An `HTTPRoute`'s rules as weights, and the patches that change them. Pure.

use moodify_core::backend::{Traffic, Verification};
use moodify_core::model::Weight;
use moodify_core::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::error::Ask;

/// The largest weight that the Gateway API allows.
const LARGEST: u64 = 1_000_000;

/// A rule whose traffic is divided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    /// Its place among the route's rules.
    index: usize,
    /// Its `backendRefs`, as they stand.
    refs: Vec<Value>,
    stable: Option<usize>,
    canary: Option<usize>,
}

/// The rules of `route` that lead to the Service `stable` or to `canary`.
pub(crate) fn rules(route: &Value, stable: &str, canary: &str) -> Vec<Rule> {
    let rules = route["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let divided = rules.iter().enumerate().filter_map(|(index, rule)| {
        let refs = rule["backendRefs"].as_array()?.clone();
        let place = |name: &str| refs.iter().position(|r| is_service(r, name, route));
        let (stable, canary) = (place(stable), place(canary));
        (stable.is_some() || canary.is_some()).then_some(Rule { index, refs, stable, canary })
    });
    divided.collect()
}

/// Whether a reference is to the Service of that name in the route's own namespace.
fn is_service(reference: &Value, name: &str, route: &Value) -> bool {
    let or = |key: &str, default: &str| reference[key].as_str().unwrap_or(default) == default;
    let namespace = &route["metadata"]["namespace"];
    reference["name"] == name
        && or("kind", "Service")
        && or("group", "")
        && reference.get("namespace").is_none_or(|n| n.is_null() || n == namespace)
}

fn weight_of(reference: &Value) -> u64 {
    reference["weight"].as_u64().unwrap_or(1)
}

impl Rule {
    fn weight(&self, place: Option<usize>) -> u64 {
        place.map_or(0, |i| weight_of(&self.refs[i]))
    }

    fn share(&self) -> f64 {
        let (stable, canary) = (self.weight(self.stable), self.weight(self.canary));
        if canary == 0 { 0.0 } else { canary as f64 / (canary + stable) as f64 }
    }

    /// The weight of the stable reference when there is no canary: its own, or what our sums remember of it.
    ///
    /// While there is a canary, the two weights add up to a hundred times that. So the way back restores it exactly,
    /// and needs no memory of its own.
    fn original(&self) -> u64 {
        let sum = self.weight(self.stable) + self.weight(self.canary);
        match self.canary {
            None => sum.max(1),
            Some(_) if sum > 0 && sum.is_multiple_of(100) => sum / 100,
            Some(_) => 1,
        }
    }

    /// References to others that get traffic.
    fn others(&self) -> Vec<&str> {
        let ours = |i: usize| Some(i) == self.stable || Some(i) == self.canary;
        let others = self.refs.iter().enumerate().filter(|(i, r)| !ours(*i) && weight_of(r) > 0);
        others.map(|(_, r)| r["name"].as_str().unwrap_or("?")).collect()
    }

    /// The references with this weight for the canary.
    fn with_weight(&self, ask: &Ask, canary_name: &str, weight: Weight) -> Result<Vec<Value>, Error> {
        let Some(stable) = self.stable else {
            let message = format!("rule {} leads to the canary but not to the stable Service", self.index + 1);
            return Err(ask.error(ErrorKind::Drift, message));
        };
        let others = self.others();
        if !others.is_empty() {
            let message = format!(
                "rule {} sends traffic also to {}, which is not ours to divide",
                self.index + 1,
                others.join(", ")
            );
            return Err(ask.error(ErrorKind::Unsupported, message).hint("give the canary a rule with one backend"));
        }
        let original = self.original();
        let unit = if original * 100 <= LARGEST { original } else { 1 };
        let percent = u64::from(weight.percent());
        let mut refs = self.refs.clone();
        let canary = self.canary.unwrap_or_else(|| {
            // A copy: same port, same filters.
            let mut canary = refs[stable].clone();
            canary["name"] = canary_name.into();
            refs.insert(stable + 1, canary);
            stable + 1
        });
        // Inserting behind the stable one does not move it.
        refs[stable]["weight"] = (unit * (100 - percent)).into();
        refs[canary]["weight"] = (unit * percent).into();
        Ok(refs)
    }

    /// The references without the canary.
    fn without_canary(&self, stable_name: &str) -> Vec<Value> {
        let mut refs = self.refs.clone();
        match (self.stable, self.canary) {
            (_, None) => {}
            (Some(stable), Some(canary)) => {
                refs[stable]["weight"] = self.original().into();
                refs.remove(canary);
            }
            // Somebody took the stable one out. A rule that leads nowhere would answer with errors.
            (None, Some(canary)) => {
                refs[canary]["name"] = stable_name.into();
                refs[canary]["weight"] = self.original().into();
            }
        }
        refs
    }

    /// A compare-and-set of exactly this rule's references.
    fn patch(&self, refs: &[Value]) -> [Value; 2] {
        let path = format!("/spec/rules/{}/backendRefs", self.index);
        [json!({"op": "test", "path": path, "value": self.refs}), json!({"op": "replace", "path": path, "value": refs})]
    }
}

/// The patch that gives the canary this weight in all rules; empty if it has it.
pub(crate) fn set(ask: &Ask, rules: &[Rule], canary: &str, weight: Weight) -> Result<Vec<Value>, Error> {
    let mut patch = Vec::new();
    for rule in rules {
        // A canary that is not there has nothing already.
        let missing = rule.canary.is_none() && weight != Weight::ZERO;
        if percent(rule.share()) != weight || missing {
            patch.extend(rule.patch(&rule.with_weight(ask, canary, weight)?));
        }
    }
    Ok(patch)
}

/// The patch that takes the canary out of all rules; empty if it is in none.
pub(crate) fn reset(rules: &[Rule], stable: &str) -> Vec<Value> {
    let ours = rules.iter().filter(|rule| rule.canary.is_some());
    ours.flat_map(|rule| rule.patch(&rule.without_canary(stable))).collect()
}

/// The patch that changes nothing and fails if the rules are not as they were read.
pub(crate) fn unchanged(rules: &[Rule]) -> Vec<Value> {
    rules.iter().flat_map(|rule| rule.patch(&rule.refs).into_iter().take(1)).collect()
}

/// The canary's weights, one for each rule.
pub(crate) fn weights(rules: &[Rule]) -> Vec<Weight> {
    rules.iter().map(|rule| percent(rule.share())).collect()
}

fn percent(share: f64) -> Weight {
    Weight::new((share * 100.0).round() as u8).unwrap_or(Weight::FULL)
}

/// How a route divides. Where rules differ, the one with most for the canary counts: its share is never understated.
pub(crate) fn traffic(route: &Value, rules: &[Rule], edited_by: Option<String>) -> Traffic {
    let share = rules.iter().map(Rule::share).fold(0.0, f64::max);
    Traffic { weight: percent(share), share, verification: verification(route), edited_by }
}

/// What the gateways that carry the route say of its present generation.
fn verification(route: &Value) -> Verification {
    let parents = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parents.is_empty() {
        return Verification::CannotTell;
    }
    let generation = route["metadata"]["generation"].as_i64().unwrap_or(0);
    let in_force = parents.iter().all(|parent| {
        let condition = |kind: &str| parent["conditions"].as_array()?.iter().find(|c| c["type"] == kind);
        let current = |c: &Value| c["observedGeneration"].as_i64().is_some_and(|g| g >= generation);
        condition("Accepted").is_some_and(|c| c["status"] == "True" && current(c))
            && condition("ResolvedRefs").is_none_or(|c| c["status"] != "False")
    });
    if in_force { Verification::Verified } else { Verification::NotYet }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Access;

    fn route(refs: &Value) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns", "generation": 3},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": [
                {"matches": [{"path": {"value": "/other"}}], "backendRefs": [{"name": "other", "port": 80, "weight": 7}]},
                {"filters": [{"type": "RequestHeaderModifier"}], "backendRefs": refs},
            ]},
        })
    }

    fn ask() -> Ask {
        Ask::new(Access::Compare, "set the weight of", "ns/web")
    }

    fn percent_of(p: u8) -> Weight {
        Weight::new(p).unwrap()
    }

    /// Applies a patch of tests and replaces, as the server would.
    fn patched(mut route: Value, patch: &[Value]) -> Value {
        for operation in patch {
            let place = route.pointer_mut(operation["path"].as_str().unwrap()).unwrap();
            match operation["op"].as_str().unwrap() {
                "test" => assert_eq!(*place, operation["value"]),
                _ => *place = operation["value"].clone(),
            }
        }
        route
    }

    fn step(route: &Value, weight: u8) -> Value {
        let rules = rules(route, "web", "web-canary");
        patched(route.clone(), &set(&ask(), &rules, "web-canary", percent_of(weight)).unwrap())
    }

    #[test]
    fn there_and_back_leaves_the_route_as_it_was() {
        for weight in [json!(1), json!(100), json!(3)] {
            let before = route(&json!([{"name": "web", "port": 80, "weight": weight}]));
            let mut now = before.clone();
            for percent in [10, 50, 100] {
                now = step(&now, percent);
                assert_eq!(weights(&rules(&now, "web", "web-canary")), [percent_of(percent)]);
            }
            let back = reset(&rules(&now, "web", "web-canary"), "web");
            assert_eq!(patched(now, &back), before);
        }
    }

    #[test]
    fn the_plain_case_reads_as_percent() {
        let now = step(&route(&json!([{"name": "web", "port": 80}])), 10);
        let expected =
            json!([{"name": "web", "port": 80, "weight": 90}, {"name": "web-canary", "port": 80, "weight": 10}]);
        assert_eq!(now["spec"]["rules"][1]["backendRefs"], expected);
        assert_eq!(now["spec"]["rules"][0], route(&json!([]))["spec"]["rules"][0], "other rules stay");
        assert_eq!(now["spec"]["rules"][1]["filters"], json!([{"type": "RequestHeaderModifier"}]));
    }

    #[test]
    fn what_is_in_force_is_not_written_again() {
        let now = step(&route(&json!([{"name": "web"}])), 50);
        assert!(set(&ask(), &rules(&now, "web", "web-canary"), "web-canary", percent_of(50)).unwrap().is_empty());
        assert!(reset(&rules(&route(&json!([{"name": "web"}])), "web", "web-canary"), "web").is_empty());
    }

    #[test]
    fn only_references_to_the_service_count() {
        let elsewhere = json!([{"name": "web", "namespace": "other"}, {"name": "web", "kind": "Bucket", "group": "x"}]);
        assert!(rules(&route(&elsewhere), "web", "web-canary").is_empty());
        let spelled = json!([{"name": "web", "namespace": "ns", "kind": "Service", "group": ""}]);
        assert_eq!(rules(&route(&spelled), "web", "web-canary").len(), 1);
    }

    #[test]
    fn others_in_the_same_rule_are_not_ours_to_divide() {
        let shared = |weight: u64| route(&json!([{"name": "web"}, {"name": "old", "weight": weight}]));
        let rules_of = |r: &Value| rules(r, "web", "web-canary");
        let error = set(&ask(), &rules_of(&shared(1)), "web-canary", percent_of(10)).unwrap_err();
        assert!(error.message().contains("rule 2 sends traffic also to old"), "{error}");
        assert!(set(&ask(), &rules_of(&shared(0)), "web-canary", percent_of(10)).is_ok());
    }

    #[test]
    fn a_way_back_does_not_leave_a_rule_that_leads_nowhere() {
        let taken = route(&json!([{"name": "web-canary", "port": 80, "weight": 100}]));
        let back = reset(&rules(&taken, "web", "web-canary"), "web");
        let refs = &patched(taken, &back)["spec"]["rules"][1]["backendRefs"];
        assert_eq!(*refs, json!([{"name": "web", "port": 80, "weight": 1}]));
    }

    #[test]
    fn gateways_say_whether_it_is_in_force() {
        let with = |parents: Value| {
            let mut route = route(&json!([{"name": "web"}]));
            route["status"] = json!({"parents": parents});
            verification(&route)
        };
        let parent = |status: &str, generation: i64, refs: &str| {
            json!({"conditions": [
                {"type": "Accepted", "status": status, "observedGeneration": generation},
                {"type": "ResolvedRefs", "status": refs, "observedGeneration": generation}]})
        };
        assert_eq!(with(json!([])), Verification::CannotTell);
        assert_eq!(with(json!([parent("True", 3, "True")])), Verification::Verified);
        assert_eq!(with(json!([parent("True", 3, "True"), parent("True", 2, "True")])), Verification::NotYet);
        assert_eq!(with(json!([parent("False", 3, "True")])), Verification::NotYet);
        assert_eq!(with(json!([parent("True", 3, "False")])), Verification::NotYet);
    }
}
