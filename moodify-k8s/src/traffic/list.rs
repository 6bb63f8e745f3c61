//! Destinations with weights in a list, as most kinds have them. Pure.

use serde_json::Value;

use super::rule::{Edit, Place, Rule, Services};

/// How the destinations of one kind are read.
pub(super) trait Destination {
    /// Whether it is the Service of that name in the namespace of the object.
    fn leads_to(&self, destination: &Value, service: &str, namespace: &str) -> bool;

    /// Its weight, in a list of so many.
    fn weight(&self, destination: &Value, of: usize) -> u64;

    /// What people call it.
    fn name(&self, destination: &Value) -> String;
}

/// Makes a destination lead to another Service of the namespace.
pub(super) type Redirect = fn(&mut Value, &str);

/// The same where the name alone says where it leads.
pub(super) fn rename(destination: &mut Value, service: &str) {
    destination["name"] = service.into();
}

/// What is written down as the weight.
pub(super) fn written(destination: &Value) -> Option<u64> {
    destination["weight"].as_u64()
}

/// The rule that a list of destinations is, if it leads to one of the Services. Its original weight is what is written
/// down, as long as there is no canary.
pub(super) fn rule(
    how: &dyn Destination,
    name: String,
    path: String,
    list: &[Value],
    services: &Services,
) -> Option<Rule> {
    let place = |service: &str| {
        let index = list.iter().position(|d| how.leads_to(d, service, &services.namespace))?;
        Some(Place { index, weight: how.weight(&list[index], list.len()) })
    };
    let (stable, canary) = (place(&services.stable), place(&services.canary));
    if stable.is_none() && canary.is_none() {
        return None;
    }
    let ours = |index: usize| [stable, canary].into_iter().flatten().any(|place| place.index == index);
    let others = list.iter().enumerate().filter(|(i, d)| !ours(*i) && how.weight(d, list.len()) > 0);
    let original = stable.filter(|_| canary.is_none()).and_then(|place| written(&list[place.index]));
    let others = others.map(|(_, destination)| how.name(destination)).collect();
    Some(Rule { name, path, value: list.into(), stable, canary, others, original })
}

/// The rule's list after a change.
pub(super) fn edited(how: &dyn Destination, redirect: Redirect, rule: &Rule, services: &Services, edit: Edit) -> Value {
    let mut list = rule.value.as_array().cloned().unwrap_or_default();
    match (edit, rule.stable, rule.canary) {
        (Edit::Divide { stable: share, canary: rest }, Some(stable), canary) => {
            let canary = canary.map_or(stable.index + 1, |place| place.index);
            if rule.canary.is_none() {
                // A copy: same port, same filters. Inserted behind the stable one it does not move it.
                let mut copy = list[stable.index].clone();
                redirect(&mut copy, &services.canary);
                list.insert(canary, copy);
            }
            list[stable.index]["weight"] = share.into();
            list[canary]["weight"] = rest.into();
        }
        (Edit::Restore, Some(stable), Some(canary)) => {
            list.remove(canary.index);
            let stable = stable.index - usize::from(canary.index < stable.index);
            weigh(how, &mut list, stable, rule.original);
        }
        // Somebody took the stable one out. A rule that leads nowhere would answer with errors.
        (Edit::Restore, None, Some(canary)) => {
            redirect(&mut list[canary.index], &services.stable);
            weigh(how, &mut list, canary.index, rule.original);
        }
        _ => {}
    }
    list.into()
}

/// Writes down the original weight, or none if there was none; but none must not mean nothing.
fn weigh(how: &dyn Destination, list: &mut [Value], index: usize, original: Option<u64>) {
    list[index].as_object_mut().map(|fields| fields.remove("weight"));
    let needed = original.or_else(|| (how.weight(&list[index], list.len()) == 0).then_some(100));
    if let Some(weight) = needed {
        list[index]["weight"] = weight.into();
    }
}
