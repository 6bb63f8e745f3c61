//! What the Gateways report that carry a route: whether their data plane has what it was told.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use moodify_core::backend::{Traffic, Verification};
use moodify_core::{CallContext, ErrorKind, Result};
use serde_json::Value;

use crate::client::{GATEWAY, Kube, Object, until_error};

const PROGRAMMED: &str = "Programmed";
/// The reasons of the Gateway API for not being programmed that are about addresses alone.
const ADDRESSES: [&str; 3] = ["AddressNotAssigned", "AddressNotUsable", "UnsupportedAddress"];

/// A Gateway that carries a route, and by which of its listeners, where the route says so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parent {
    namespace: String,
    name: String,
    section: Option<String>,
    port: Option<i64>,
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The Gateways that have taken the route, by its status. What else may carry one (a Service in a mesh) has no such status.
pub(super) fn parents(route: &Value) -> Vec<Parent> {
    let here = route["metadata"]["namespace"].as_str().unwrap_or_default();
    let parent = |status: &Value| {
        let of = &status["parentRef"];
        let text = |key: &str| of[key].as_str().map(str::to_owned);
        let is = |key: &str, default: &str| of[key].as_str().unwrap_or(default) == default;
        (is("kind", GATEWAY.kind) && is("group", GATEWAY.group)).then_some(())?;
        let namespace = text("namespace").unwrap_or_else(|| here.to_owned());
        Some(Parent { namespace, name: text("name")?, section: text("sectionName"), port: of["port"].as_i64() })
    };
    let mut all: Vec<Parent> = list(&route["status"], "parents").iter().filter_map(parent).collect();
    all.sort();
    all.dedup();
    all
}

/// The less sure of two.
fn least(one: Verification, other: Verification) -> Verification {
    match (one, other) {
        (Verification::NotYet, _) | (_, Verification::NotYet) => Verification::NotYet,
        (Verification::CannotTell, _) | (_, Verification::CannotTell) => Verification::CannotTell,
        _ => Verification::Verified,
    }
}

/// What its condition is worth of the generation that stands; none if it does not report this.
fn programmed(of: &Value, generation: i64) -> Option<bool> {
    let condition = list(of, "conditions").iter().find(|c| c["type"] == PROGRAMMED)?;
    // Whether it has an address says nothing of what it was told: there may be no load balancer to give it one.
    if ADDRESSES.iter().any(|reason| condition["reason"] == *reason) {
        return None;
    }
    let is_fresh = condition["observedGeneration"].as_i64().is_none_or(|observed| observed >= generation);
    Some(is_fresh && condition["status"] == "True")
}

impl Parent {
    pub(super) fn object(&self) -> Object {
        Object::new(GATEWAY, &self.namespace, &self.name)
    }

    /// The listeners by which the route may have come in.
    fn listeners<'a>(&self, gateway: &'a Value) -> Vec<&'a Value> {
        let port_of = |name: &Value| {
            let listener = list(&gateway["spec"], "listeners").iter().find(|listener| listener["name"] == *name);
            listener.and_then(|listener| listener["port"].as_i64())
        };
        let is_meant = |status: &&Value| {
            self.section.as_deref().is_none_or(|section| status["name"] == section)
                && self.port.is_none_or(|port| port_of(&status["name"]) == Some(port))
        };
        list(&gateway["status"], "listeners").iter().filter(is_meant).collect()
    }

    fn verification(&self, gateway: &Value) -> Verification {
        let generation = gateway["metadata"]["generation"].as_i64().unwrap_or(0);
        let listeners = self.listeners(gateway);
        // Of several the route is at those that it fits, which only the gateway knows: one has to do.
        let listens = match listeners.is_empty() {
            true => self.section.is_none(),
            false => listeners.iter().any(|listener| programmed(listener, generation) != Some(false)),
        };
        match programmed(&gateway["status"], generation) {
            None => Verification::CannotTell,
            Some(true) if listens => Verification::Verified,
            Some(_) => Verification::NotYet,
        }
    }

    /// What was found says. One that is gone, or that may not be read (in a namespace that our Role is not of), keeps
    /// nobody waiting.
    fn said(&self, found: Result<Option<Value>>) -> Result<Verification> {
        match found {
            Ok(found) => Ok(found.map_or(Verification::CannotTell, |gateway| self.verification(&gateway))),
            Err(e) if e.kind() == ErrorKind::Forbidden => Ok(Verification::CannotTell),
            Err(e) => Err(e),
        }
    }

    async fn ask(&self, kube: &Kube, cx: &CallContext) -> Result<Verification> {
        self.said(kube.find(cx, &self.object()).await)
    }
}

/// What the Gateways say beside the route, which has told this.
pub(super) async fn read(kube: &Kube, cx: &CallContext, route: &Value, told: Verification) -> Result<Verification> {
    let mut said = told;
    if told == Verification::Verified {
        for parent in parents(route) {
            said = least(said, parent.ask(kube, cx).await?);
        }
    }
    Ok(said)
}

/// Why a release over this route would wait in vain: a Gateway of it that is not programmed.
pub(super) async fn refusal(kube: &Kube, cx: &CallContext, route: &Value) -> Result<Option<String>> {
    for parent in parents(route) {
        let found: Result<Option<Value>> = kube.find(cx, &parent.object()).await;
        let gateway = match found {
            Ok(Some(gateway)) => gateway,
            Err(e) if e.kind() != ErrorKind::Forbidden => return Err(e),
            _ => continue,
        };
        if parent.verification(&gateway) != Verification::NotYet {
            continue;
        }
        let places = [&gateway["status"]].into_iter().chain(parent.listeners(&gateway));
        let mut conditions = places.flat_map(|place| list(place, "conditions"));
        let condition = conditions.find(|c| c["type"] == PROGRAMMED && c["status"] != "True");
        let text = |key: &str| condition.and_then(|c| c[key].as_str()).filter(|text| !text.is_empty());
        let reason = text("reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
        let message = text("message").map(|message| format!(": {message}")).unwrap_or_default();
        let why = format!("{} is not programmed{reason}{message}", parent.object());
        return Ok(Some(why));
    }
    Ok(None)
}

/// A route with its Gateways, of which one is watched only while it keeps the route waiting.
struct Follower {
    kube: Kube,
    cx: CallContext,
    news: SelectAll<BoxStream<'static, News>>,
    route: Option<(Traffic, Vec<Parent>)>,
    said: BTreeMap<Parent, Verification>,
}

enum News {
    Route(Result<(Traffic, Vec<Parent>)>),
    Gateway(Parent, Result<Option<Value>>),
}

/// The states of a route, each verified only if its Gateways say so too.
pub(super) fn in_force(
    kube: Kube,
    cx: CallContext,
    routes: BoxStream<'static, Result<(Traffic, Vec<Parent>)>>,
) -> BoxStream<'static, Result<Traffic>> {
    let news = [routes.map(News::Route).boxed()].into_iter().collect();
    let follower = Follower { kube, cx, news, route: None, said: BTreeMap::new() };
    until_error(stream::unfold(follower, |mut follower| async move {
        let state = follower.next().await?;
        Some((state, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Traffic>> {
        let heard = match self.news.next().await? {
            News::Route(Err(e)) => Err(e),
            News::Route(Ok((traffic, parents))) => {
                let asked = match traffic.verification {
                    Verification::Verified => self.ask(&parents).await,
                    _ => Ok(()),
                };
                self.route = Some((traffic, parents));
                asked
            }
            News::Gateway(parent, found) => parent.said(found).map(|said| {
                self.said.insert(parent, said);
            }),
        };
        if let Err(e) = heard {
            return Some(Err(e));
        }
        // Gateways have news only after a route.
        let (mut traffic, parents) = self.route.clone()?;
        let said = parents.iter().filter_map(|parent| self.said.get(parent)).copied();
        traffic.verification = said.fold(traffic.verification, least);
        Some(Ok(traffic))
    }

    /// Asks each once, and goes on listening to those that are not ready.
    async fn ask(&mut self, parents: &[Parent]) -> Result<()> {
        for parent in parents {
            if self.said.contains_key(parent) {
                continue;
            }
            let said = parent.ask(&self.kube, &self.cx).await?;
            self.said.insert(parent.clone(), said);
            if said == Verification::NotYet {
                let of = parent.clone();
                let states = self.kube.watch_object(&self.cx, &parent.object());
                let news = states.map(move |found| {
                    let found = found.map(|found| found.and_then(|object| serde_json::to_value(object).ok()));
                    News::Gateway(of.clone(), found)
                });
                self.news.push(news.boxed());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, kube};
    use serde_json::json;

    fn condition(status: &str, generation: i64) -> Value {
        json!([{"type": "Accepted", "status": "True", "observedGeneration": generation},
            {"type": PROGRAMMED, "status": status, "reason": "Pending", "message": "no address yet",
                "observedGeneration": generation}])
    }

    /// Of generation 3, with two listeners.
    fn gateway(itself: &Value, web: &Value, admin: &Value) -> Value {
        json!({
            "metadata": {"name": "edge", "namespace": "ns", "generation": 3},
            "spec": {"listeners": [{"name": "web", "port": 80}, {"name": "admin", "port": 81}]},
            "status": {"conditions": itself, "listeners": [
                {"name": "web", "conditions": web}, {"name": "admin", "conditions": admin}]},
        })
    }

    fn route(reference: &Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "ns"}, "status": {"parents": [{"parentRef": reference}]}})
    }

    fn of(reference: &Value, gateway: &Value) -> Verification {
        parents(&route(reference))[0].verification(gateway)
    }

    #[test]
    fn a_gateway_is_programmed_in_its_present_generation() {
        let (yes, edge) = (condition("True", 3), json!({"name": "edge"}));
        for (itself, wanted) in [
            (condition("True", 3), Verification::Verified),
            (condition("True", 2), Verification::NotYet),
            (condition("False", 3), Verification::NotYet),
            (condition("Unknown", 3), Verification::NotYet),
            (json!([{"type": "Accepted", "status": "True"}]), Verification::CannotTell),
        ] {
            assert_eq!(of(&edge, &gateway(&itself, &yes, &yes)), wanted, "{itself}");
        }
        let mut nowhere = condition("False", 3);
        nowhere[1]["reason"] = ADDRESSES[0].into();
        assert_eq!(of(&edge, &gateway(&nowhere, &yes, &yes)), Verification::CannotTell, "without a load balancer");
    }

    #[test]
    fn the_listener_counts_by_which_the_route_comes_in() {
        let (yes, no) = (condition("True", 3), condition("False", 3));
        let one = gateway(&yes, &yes, &no);
        for (reference, wanted) in [
            (json!({"name": "edge"}), Verification::Verified),
            (json!({"name": "edge", "sectionName": "web"}), Verification::Verified),
            (json!({"name": "edge", "sectionName": "admin"}), Verification::NotYet),
            (json!({"name": "edge", "sectionName": "gone"}), Verification::NotYet),
            (json!({"name": "edge", "port": 80}), Verification::Verified),
            (json!({"name": "edge", "port": 81}), Verification::NotYet),
        ] {
            assert_eq!(of(&reference, &one), wanted, "{reference}");
        }
        assert_eq!(of(&json!({"name": "edge"}), &gateway(&yes, &no, &no)), Verification::NotYet);
    }

    #[test]
    fn what_is_no_gateway_has_no_such_status() {
        assert!(parents(&route(&json!({"name": "web", "kind": "Service", "group": ""}))).is_empty());
        let elsewhere = parents(&route(&json!({"name": "edge", "namespace": "infra", "kind": "Gateway"})));
        assert_eq!(elsewhere[0].object().to_string(), "Gateway infra/edge");
    }

    #[tokio::test]
    async fn one_that_may_not_be_read_is_no_error_and_one_that_is_not_ready_is_told() {
        let edge = route(&json!({"name": "edge", "namespace": "infra"}));
        let (kube_of_others, asked) =
            kube(|_, _, _| (403, json!({"code": 403, "reason": "Forbidden", "message": "no"})));
        let said = read(&kube_of_others, &cx(), &edge, Verification::Verified).await.unwrap();
        assert_eq!(said, Verification::CannotTell);
        assert_eq!(refusal(&kube_of_others, &cx(), &edge).await.unwrap(), None);
        assert!(asked.lock().unwrap()[0].contains("/namespaces/infra/gateways/edge"));
        let before = asked.lock().unwrap().len();
        let said = read(&kube_of_others, &cx(), &edge, Verification::NotYet).await.unwrap();
        assert_eq!((said, asked.lock().unwrap().len()), (Verification::NotYet, before), "the route has not said so");

        let (kube, _) = kube(|_, _, _| {
            let (yes, no) = (condition("True", 3), condition("False", 3));
            (200, gateway(&no, &yes, &yes))
        });
        assert_eq!(read(&kube, &cx(), &edge, Verification::Verified).await.unwrap(), Verification::NotYet);
        let why = refusal(&kube, &cx(), &edge).await.unwrap().unwrap();
        assert_eq!(why, "Gateway infra/edge is not programmed (Pending): no address yet");
    }
}
