//! What all kinds of routing objects have in common: places where traffic is divided, and the patches that change them.
//! Pure.

use std::fmt;

use moodify_core::backend::{Traffic, Verification};
use moodify_core::model::{Target, Weight};
use moodify_core::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::error::Ask;
use crate::names::canary_service;
use crate::patch;

/// The annotation that holds what the weights were before, where their sums cannot: a list, one entry for each rule.
pub(super) const BEFORE: &str = "moodify.dev/weights-before";

/// The Services between which traffic is divided.
#[derive(Debug, Clone)]
pub(super) struct Services {
    pub(super) namespace: String,
    pub(super) stable: String,
    pub(super) canary: String,
}

impl Services {
    pub(super) fn of(target: &Target) -> Self {
        let stable = target.service.traffic.service.clone();
        Self { namespace: target.namespace.clone(), stable, canary: canary_service(target) }
    }
}

/// A destination's place in its list, and its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) weight: u64,
}

/// One place in a routing object where traffic is divided, as it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    /// What people call it: `rule 2`.
    pub(super) name: String,
    /// Where in the object it is, as a JSON pointer.
    pub(super) path: String,
    /// What stands there.
    pub(super) value: Value,
    pub(super) stable: Option<Place>,
    pub(super) canary: Option<Place>,
    /// Destinations of other people that get traffic.
    pub(super) others: Vec<String>,
    /// The weight of the stable destination when there is no canary; none if it is not written down.
    pub(super) original: Option<u64>,
}

/// A change of one rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Edit {
    /// These weights for the stable destination and the canary's, which is made a copy of the stable one if need be.
    Divide { stable: u64, canary: u64 },
    /// No canary, and the original weight for the stable destination.
    Restore,
}

/// A kind of routing object that holds weights.
pub(super) trait Kind: fmt::Debug + Send + Sync {
    /// The rules that lead to the stable Service or to the canary's.
    fn rules(&self, object: &Value, services: &Services) -> Vec<Rule>;

    /// Why no weights can be set in this object, if so.
    fn obstacle(&self, object: &Value, services: &Services) -> Option<String>;

    /// Why two workloads cannot take turns behind these rules, if so.
    fn obstacle_to_turns(&self, _: &[Rule]) -> Option<String> {
        None
    }

    /// What stands at the rule's place after this change.
    fn edited(&self, rule: &Rule, services: &Services, edit: Edit) -> Value;

    /// What one percent is as a weight.
    fn unit(&self, _: &Rule) -> u64 {
        1
    }

    /// Whether the original weights of these rules have to be kept in [`BEFORE`].
    fn remembers(&self, _: &[Rule]) -> bool {
        true
    }

    /// What whoever carries the object says of its present state.
    fn verification(&self, _: &Value) -> Verification {
        Verification::CannotTell
    }

    /// The `jq` program that does by hand what [`reset`] does.
    fn by_hand(&self, services: &Services) -> String;
}

impl Rule {
    pub(super) fn share(&self) -> f64 {
        let weight = |place: Option<Place>| place.map_or(0, |p| p.weight);
        let (stable, canary) = (weight(self.stable), weight(self.canary));
        if canary == 0 { 0.0 } else { canary as f64 / (canary + stable) as f64 }
    }

    /// The fields of the object that own the rule, as managed fields name them: lists are owned as a whole.
    pub(super) fn fields(&self) -> Vec<String> {
        let names = self.path.split('/').skip(1).take_while(|name| name.parse::<usize>().is_err());
        names.map(|name| format!("f:{}", name.replace("~1", "/").replace("~0", "~"))).collect()
    }

    /// Whether its traffic is ours to divide.
    pub(super) fn check(&self, ask: &Ask) -> Result<(), Error> {
        if self.stable.is_none() {
            let message = format!("{} leads to the canary but not to the stable Service", self.name);
            return Err(ask.error(ErrorKind::Drift, message).hint("find out what they want; it is not overwritten"));
        }
        if !self.others.is_empty() {
            let message =
                format!("{} sends traffic also to {}, which is not ours to divide", self.name, self.others.join(", "));
            return Err(ask.error(ErrorKind::Unsupported, message).hint("give the canary a rule with one destination"));
        }
        Ok(())
    }
}

/// A compare-and-set of exactly what stands at one place.
pub(super) fn compare_and_set(path: &str, from: &Value, to: &Value) -> [Value; 2] {
    [json!({"op": "test", "path": path, "value": from}), json!({"op": "replace", "path": path, "value": to})]
}

/// What the weights were before, as an annotation of the object remembers it for so many rules.
pub(super) fn remembered(object: &Value, rules: usize) -> Vec<Option<u64>> {
    let text = object["metadata"]["annotations"][BEFORE].as_str().unwrap_or_default();
    let before: Vec<Option<u64>> = serde_json::from_str(text).unwrap_or_default();
    // Rules came or went since: nobody knows any more which was which.
    if before.len() == rules { before } else { vec![None; rules] }
}

/// The patch that makes the annotation [`BEFORE`] this text, or takes it away; empty if it is so.
fn remember(object: &Value, text: Option<&str>) -> Vec<Value> {
    let annotations = &object["metadata"]["annotations"];
    let now = annotations[BEFORE].as_str();
    if now == text {
        return Vec::new();
    }
    let path = patch::annotation(BEFORE);
    match text {
        Some(text) if annotations.is_null() => vec![
            json!({"op": "test", "path": "/metadata/annotations", "value": null}),
            json!({"op": "add", "path": "/metadata/annotations", "value": {BEFORE: text}}),
        ],
        Some(text) => {
            vec![json!({"op": "test", "path": path, "value": now}), json!({"op": "add", "path": path, "value": text})]
        }
        None => vec![json!({"op": "test", "path": path, "value": now}), json!({"op": "remove", "path": path})],
    }
}

/// The patch that gives the canary this weight in all rules; empty if it has it.
pub(super) fn set(
    kind: &dyn Kind,
    ask: &Ask,
    object: &Value,
    rules: &[Rule],
    services: &Services,
    weight: Weight,
) -> Result<Vec<Value>, Error> {
    let mut patch = Vec::new();
    let mut after = object.clone();
    for rule in rules {
        // A canary that is not there has nothing already.
        let missing = rule.canary.is_none() && weight != Weight::ZERO;
        if percent(rule.share()) != weight || missing {
            rule.check(ask)?;
            if let Some(why) = kind.obstacle(object, services) {
                return Err(ask.error(ErrorKind::Unsupported, why));
            }
            let (unit, canary) = (kind.unit(rule), u64::from(weight.percent()));
            let edit = Edit::Divide { stable: unit * (100 - canary), canary: unit * canary };
            let edited = kind.edited(rule, services, edit);
            patch.extend(compare_and_set(&rule.path, &rule.value, &edited));
            after.pointer_mut(&rule.path).into_iter().for_each(|place| *place = edited.clone());
        }
    }
    // Text has more ways to say a thing than we know of: what is sent has to read as what is wanted.
    if let Some((rule, _)) = rules.iter().zip(weights(&kind.rules(&after, services))).find(|(_, w)| *w != weight) {
        let message = format!("{} is written in a way that cannot be changed", rule.name);
        return Err(ask.error(ErrorKind::Unsupported, message).hint("write each name in it once and without escapes"));
    }
    if !patch.is_empty() && kind.remembers(rules) {
        let before: Vec<Option<u64>> = rules.iter().map(|rule| rule.original).collect();
        // Nothing written down, and nothing to be restored.
        let text = before.iter().any(Option::is_some).then(|| json!(before).to_string());
        patch.extend(remember(object, text.as_deref()));
    }
    Ok(patch)
}

/// The patch that takes the canary out of all rules; empty if it is in none.
pub(super) fn reset(kind: &dyn Kind, object: &Value, rules: &[Rule], services: &Services) -> Vec<Value> {
    let ours = rules.iter().filter(|rule| rule.canary.is_some());
    let restored = |rule: &Rule| compare_and_set(&rule.path, &rule.value, &kind.edited(rule, services, Edit::Restore));
    ours.flat_map(restored).chain(remember(object, None)).collect()
}

/// The patch that changes nothing and fails if the rules are not as they were read.
pub(super) fn unchanged(rules: &[Rule]) -> Vec<Value> {
    rules.iter().map(|rule| json!({"op": "test", "path": rule.path, "value": rule.value})).collect()
}

/// The canary's weights, one for each rule.
pub(super) fn weights(rules: &[Rule]) -> Vec<Weight> {
    rules.iter().map(|rule| percent(rule.share())).collect()
}

/// The nearest whole percent.
pub(super) fn percent(share: f64) -> Weight {
    Weight::new((share * 100.0).round() as u8).unwrap_or(Weight::FULL)
}

/// How an object divides. Where rules differ, the one with most for the canary counts: its share is never understated.
pub(super) fn traffic(kind: &dyn Kind, object: &Value, rules: &[Rule], edited_by: Option<String>) -> Traffic {
    let share = rules.iter().map(Rule::share).fold(0.0, f64::max);
    Traffic { weight: percent(share), share, verification: kind.verification(object), edited_by }
}

#[cfg(test)]
pub(super) mod testing {
    //! What the tests of the kinds share.

    use super::*;
    use crate::error::Access;

    pub(crate) fn services() -> Services {
        Services { namespace: "ns".to_owned(), stable: "web".to_owned(), canary: "web-canary".to_owned() }
    }

    pub(crate) fn weight(percent: u8) -> Weight {
        Weight::new(percent).unwrap()
    }

    /// Applies a patch as the server would: what is missing is null for a test, and an empty map of annotations is none.
    /// Nothing is written that was not compared just before.
    pub(crate) fn patched(mut object: Value, patch: &[Value]) -> Value {
        let mut compared = "";
        for operation in patch {
            let path = operation["path"].as_str().unwrap();
            if operation["op"] == "test" {
                assert_eq!(object.pointer(path).unwrap_or(&Value::Null), &operation["value"], "{path}");
                compared = path;
                continue;
            }
            assert_eq!(compared, path, "it is compared before it is written");
            let (parent, key) = path.rsplit_once('/').unwrap();
            let (parent, key) = (object.pointer_mut(parent).unwrap(), key.replace("~1", "/"));
            match operation["op"].as_str().unwrap() {
                "remove" => assert!(parent.as_object_mut().unwrap().remove(&key).is_some(), "{path}"),
                _ => match parent.as_array_mut() {
                    Some(list) => list[key.parse::<usize>().unwrap()] = operation["value"].clone(),
                    None => parent[&key] = operation["value"].clone(),
                },
            }
        }
        let annotations = object["metadata"]["annotations"].as_object();
        if annotations.is_some_and(serde_json::Map::is_empty) {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
        }
        object
    }

    pub(crate) fn try_step(kind: &dyn Kind, object: &Value, to: u8) -> Result<Vec<Value>, Error> {
        let ask = Ask::new(Access::Compare, "set the weight of", "ns/web");
        let services = services();
        set(kind, &ask, object, &kind.rules(object, &services), &services, weight(to))
    }

    pub(crate) fn step(kind: &dyn Kind, object: &Value, to: u8) -> Value {
        patched(object.clone(), &try_step(kind, object, to).unwrap())
    }

    pub(crate) fn back(kind: &dyn Kind, object: &Value) -> Value {
        let services = services();
        let patch = reset(kind, object, &kind.rules(object, &services), &services);
        patched(object.clone(), &patch)
    }

    /// Goes up through all weights and back, and expects each in between and the very object in the end.
    pub(crate) fn there_and_back(kind: &dyn Kind, before: &Value) {
        let mut now = before.clone();
        for percent in [10, 50, 100, 33] {
            now = step(kind, &now, percent);
            let rules = kind.rules(&now, &services());
            assert!(weights(&rules).iter().all(|w| *w == weight(percent)), "{percent} %: {now:#}");
            assert!(try_step(kind, &now, percent).unwrap().is_empty(), "what is in force is not written again");
        }
        now = back(kind, &now);
        assert_eq!(now, *before);
        assert_eq!(back(kind, &now), *before, "and nothing is left to do");
    }
}
