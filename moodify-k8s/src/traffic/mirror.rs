//! Copies of requests for the canary, by what the rules of a routing object themselves say about copies. In every rule that
//! leads to the stable Service there is one, and it is known as ours by where it leads: to the canary's Service.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use moodify_core::backend::{TrafficMirror, Verification};
use moodify_core::model::{Target, Weight};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::gateway::{self, Gateway};
use super::gateway_mirror;
use super::istio::{self, Istio};
use super::kind::{Router, edited, leads_nowhere, take_out};
use super::list::Destination;
use super::rule::{Kind, Rule, Services, compare_and_set};
use super::traefik_mirror::TraefikMirror;
use crate::client::{Kube, Object};
use crate::error::{Access, Ask};

/// How long a gateway has to say that it has taken a route.
const REPORT: Duration = Duration::from_secs(30);

/// What one rule says about copies.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Copies {
    None,
    /// To the canary, of so many percent of its requests.
    Ours(f64),
    /// What somebody else wrote, as the end of a sentence about the rule.
    Others(String),
}

impl Copies {
    fn are(&self, percent: Weight) -> bool {
        *self == Self::Ours(f64::from(percent.percent()))
    }
}

/// How the rules of a kind say it. Pure.
pub(super) trait Form: Kind {
    /// Where the rules are, as a JSON pointer.
    fn list(&self) -> &'static str;

    /// What a rule of the list says.
    fn copies(&self, rule: &Value, services: &Services) -> Copies;

    /// A rule with copies for the canary, which is reached as the destination at `stable` is.
    fn with(&self, rule: &Value, stable: usize, services: &Services, percent: Weight) -> Value;

    /// A rule without them.
    fn without(&self, rule: &Value, services: &Services) -> Value;

    /// The `jq` program that takes them out by hand.
    fn without_by_hand(&self, services: &Services) -> String;
}

impl Form for Istio {
    fn list(&self) -> &'static str {
        "/spec/http"
    }

    fn copies(&self, rule: &Value, services: &Services) -> Copies {
        const SHARES: [&str; 3] = ["mirrorPercentage", "mirrorPercent", "mirror_percent"];
        let to = |destination: &Value| destination["host"].as_str().unwrap_or("?").to_owned();
        if self.leads_to(&json!({"destination": rule["mirror"]}), &services.canary, &services.namespace) {
            return Copies::Ours(rule["mirrorPercentage"]["value"].as_f64().unwrap_or(100.0));
        }
        if let Some(first) = rule["mirrors"].as_array().and_then(|mirrors| mirrors.first()) {
            return Copies::Others(format!("mirrors its requests to {}", to(&first["destination"])));
        }
        if rule["mirror"].is_null() {
            let share = SHARES.into_iter().find(|share| !rule[share].is_null());
            return share.map_or(Copies::None, |share| Copies::Others(format!("has {share}, and no mirror")));
        }
        Copies::Others(format!("mirrors its requests to {}", to(&rule["mirror"])))
    }

    fn with(&self, rule: &Value, stable: usize, services: &Services, percent: Weight) -> Value {
        let mut destination = rule["route"][stable].clone();
        istio::redirect(&mut destination, &services.canary);
        let mut rule = rule.clone();
        rule["mirror"] = destination["destination"].take();
        rule["mirrorPercentage"] = json!({"value": percent.percent()});
        rule
    }

    fn without(&self, rule: &Value, _: &Services) -> Value {
        let mut rule = rule.clone();
        for field in ["mirror", "mirrorPercentage"] {
            rule.as_object_mut().map(|fields| fields.remove(field));
        }
        rule
    }

    fn without_by_hand(&self, Services { canary, .. }: &Services) -> String {
        format!(
            "(.spec.http[] | select(.mirror.host // \"\" | test(\"^{canary}([.]|$)\"))) |= del(.mirror, .mirrorPercentage)"
        )
    }
}

/// Why there can be no copies, and what to do about it.
pub(super) fn unsupported(ask: &Ask, why: String) -> Error {
    ask.error(ErrorKind::Unsupported, why).hint("leave `mirror` out of the plan, or change what is in its way")
}

/// The rules of the list that lead to the stable Service: where each is, and the index of the destination in it.
fn led_to_stable(form: &dyn Form, ask: &Ask, route: &Value, services: &Services) -> Result<Vec<(Rule, String, usize)>> {
    let rules = form.rules(route, services);
    if rules.is_empty() {
        return Err(leads_nowhere(ask, services));
    }
    let mut led = Vec::new();
    for rule in rules {
        let Some((path, _)) = rule.path.rsplit_once('/').filter(|(path, _)| path.starts_with(form.list())) else {
            continue;
        };
        rule.check(ask)?;
        let (path, stable) = (path.to_owned(), rule.stable.map_or(0, |place| place.index));
        led.push((rule, path, stable));
    }
    if led.is_empty() {
        let why = format!("it leads to {} by connections only, and no request of these can be copied", services.stable);
        return Err(unsupported(ask, why));
    }
    Ok(led)
}

/// Rules as they are to be, each with its place.
type Wanted = Vec<(String, Value)>;

/// What the rules are to be so that all of them send copies; nothing for those that do.
fn started(form: &dyn Form, ask: &Ask, route: &Value, services: &Services, percent: Weight) -> Result<Wanted> {
    let mut wanted = Vec::new();
    for (rule, path, stable) in led_to_stable(form, ask, route, services)? {
        let now = &route.pointer(&path).cloned().unwrap_or_default();
        match form.copies(now, services) {
            copies if copies.are(percent) => {}
            Copies::None => wanted.push((path, form.with(now, stable, services, percent))),
            Copies::Others(what) => return Err(unsupported(ask, format!("its {} {what} already", rule.name))),
            Copies::Ours(other) => {
                let message = format!("its {} sends copies of {other} % to the canary, not of {percent}", rule.name);
                return Err(ask.error(ErrorKind::Drift, message));
            }
        }
    }
    Ok(wanted)
}

/// What the rules are to be so that none of them sends copies, wherever else they lead by now.
fn stopped(form: &dyn Form, route: &Value, services: &Services) -> Wanted {
    let rules = route.pointer(form.list()).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let sends = rules.iter().enumerate().filter(|(_, rule)| matches!(form.copies(rule, services), Copies::Ours(_)));
    sends.map(|(index, rule)| (format!("{}/{index}", form.list()), form.without(rule, services))).collect()
}

/// The patch that makes them so, if they are as they were read.
fn patch(route: &Value, wanted: &Wanted) -> Vec<Value> {
    let replace = |(path, to): &(String, Value)| compare_and_set(path, route.pointer(path).unwrap_or(&Value::Null), to);
    wanted.iter().flat_map(replace).collect()
}

/// Whether the requests of a target could be mirrored, without writing anything. That its router cannot at all is told
/// elsewhere.
pub(crate) async fn examine_mirror(kube: &Kube, cx: &CallContext, target: &Target, percent: Weight) -> Result<()> {
    match Router::of(target) {
        Some(Router::Traefik) => TraefikMirror::new(kube.clone()).examine(cx, target).await,
        router => match router.and_then(|router| RuleMirror::new(kube.clone(), router)) {
            Some(mirror) => mirror.examine(cx, target, percent).await,
            None => Ok(()),
        },
    }
}

/// Copies by `VirtualService`s and `HTTPRoute`s.
#[derive(Debug, Clone)]
pub(crate) struct RuleMirror {
    kube: Kube,
    router: Router,
    form: &'static dyn Form,
}

impl RuleMirror {
    /// `None` for a router whose rules say nothing about copies.
    pub(crate) fn new(kube: Kube, router: Router) -> Option<Self> {
        let form: &'static dyn Form = match router {
            Router::Istio => &Istio,
            Router::HttpRoute => &Gateway,
            _ => return None,
        };
        Some(Self { kube, router, form })
    }

    /// What has to be written so that all copies are sent, with the services; or why they cannot be. Writes nothing.
    async fn prepare(
        &self,
        cx: &CallContext,
        target: &Target,
        route: &Value,
        percent: Weight,
    ) -> Result<(Wanted, Services)> {
        let services = Services::of(target);
        let ask = self.router.object(target)?.ask(Access::Compare, "mirror the requests of");
        let wanted = started(self.form, &ask, route, &services, percent).map_err(|e| match e.kind() {
            ErrorKind::Drift => edited(&self.kube, &ask, route, e.message()),
            _ => e,
        })?;
        if self.router == Router::HttpRoute && !wanted.is_empty() {
            gateway_mirror::check(&self.kube, cx, &ask, route, percent).await?;
        }
        Ok((wanted, services))
    }

    /// Whether the requests could be mirrored, without writing anything.
    async fn examine(&self, cx: &CallContext, target: &Target, percent: Weight) -> Result<()> {
        let (object, found) = self.router.find(&self.kube, cx, target).await?;
        self.prepare(cx, target, &found.ok_or_else(|| object.missing())?, percent).await.map(drop)
    }

    /// Waits until whoever carries the route has taken it. What is refused, or not taken in time, is taken back.
    async fn taken(&self, cx: &CallContext, target: &Target, object: &Object) -> Result<()> {
        if !self.router.verifies() {
            return Ok(());
        }
        let ask = object.ask(Access::Compare, "mirror the requests of");
        let patient = cx.at_most(REPORT);
        let mut states = pin!(self.kube.watch_object(&patient, object));
        let why = loop {
            let Some(found) = states.next().await else {
                break format!("its gateway did not report within {} s that it sends copies", REPORT.as_secs());
            };
            let route = serde_json::to_value(found?.ok_or_else(|| object.missing())?);
            let route = route.map_err(|e| ask.error(ErrorKind::Internal, e.to_string()))?;
            if let Some(why) = gateway::refusal(&route) {
                break format!("its gateway does not take it with copies: {why}");
            }
            if Gateway.verification(&route) != Verification::NotYet {
                return Ok(());
            }
        };
        self.stop(cx, target).await?;
        Err(unsupported(&ask, format!("{why}; it is as it was")))
    }
}

#[async_trait]
impl TrafficMirror for RuleMirror {
    async fn start(&self, cx: &CallContext, target: &Target, percent: Weight) -> Result<()> {
        let (object, found) = self.router.find(&self.kube, cx, target).await?;
        let route: Value = found.ok_or_else(|| object.missing())?;
        let (wanted, services) = self.prepare(cx, target, &route, percent).await?;
        if !wanted.is_empty() {
            let operations = patch(&route, &wanted);
            // What the server does not know it leaves out, and of all requests there would be copies: ask before.
            let would: Value = self.kube.compare(cx, &object, operations.clone()).await?;
            let kept = |(path, _): &(String, Value)| {
                would.pointer(path).is_some_and(|rule| self.form.copies(rule, &services).are(percent))
            };
            if !wanted.iter().all(kept) {
                let why = format!("in this cluster it cannot say that {percent} of its requests are mirrored");
                return Err(unsupported(&object.ask(Access::Compare, "mirror the requests of"), why));
            }
            self.kube.patch::<Value>(cx, &object, operations).await?;
        }
        self.taken(cx, target, &object).await
    }

    async fn stop(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, found) = self.router.find(&self.kube, cx, target).await?;
        // No object: nobody's requests are copied.
        let Some(route) = found else { return Ok(()) };
        let services = Services::of(target);
        let operations = patch(&route, &stopped(self.form, &route, &services));
        let Some(now) = take_out(&self.kube, cx, &object, &route, operations).await? else { return Ok(()) };
        if !stopped(self.form, &now, &services).is_empty() {
            let ask = object.ask(Access::Compare, "end the copies of");
            let message = "we took the copies for the canary out, and they are still there";
            return Err(edited(&self.kube, &ask, &now, message).effect(Effect::Unknown));
        }
        Ok(())
    }

    fn by_hand(&self, target: &Target) -> Vec<String> {
        let Some(route) = &target.service.traffic.route else { return Vec::new() };
        let (namespace, resource) = (&target.namespace, self.router.kind().kind.to_lowercase());
        let program = self.form.without_by_hand(&Services::of(target));
        vec![format!("kubectl -n {namespace} get {resource} {route} -o json | jq '{program}' | kubectl replace -f -")]
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! What the tests of the kinds share.

    use super::super::rule::testing::{patched, services, weight};
    use super::*;

    pub(crate) fn start(form: &dyn Form, route: &Value, percent: u8) -> Result<Value> {
        let ask = Ask::new(Access::Compare, "mirror the requests of", "ns/web");
        let wanted = started(form, &ask, route, &services(), weight(percent))?;
        Ok(patched(route.clone(), &patch(route, &wanted)))
    }

    pub(crate) fn stop(form: &dyn Form, route: &Value) -> Value {
        patched(route.clone(), &patch(route, &stopped(form, route, &services())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::testing::{back, step, weight};
    use super::testing::{start, stop};
    use super::*;
    use crate::testing::{cx, kube, not_found, target};

    fn virtual_service() -> Value {
        let to = |host: &str| json!([{"destination": {"host": host, "subset": "v1", "port": {"number": 80}}, "weight": 100}]);
        json!({"metadata": {"name": "web", "namespace": "ns", "resourceVersion": "7"}, "spec": {
            "http": [{"match": [{"uri": {"prefix": "/admin"}}], "mirror": {"host": "audit"}, "route": to("admin")},
                {"match": [{"uri": {"prefix": "/api"}}], "route": to("web.ns.svc")},
                {"timeout": "5s", "route": to("web")}],
            "tls": [{"match": [{"port": 443}], "route": to("web")}]}})
    }

    #[test]
    fn the_canary_gets_copies_of_what_the_stable_service_gets() {
        let before = virtual_service();
        let with = start(&Istio, &before, 10).unwrap();
        let mut wanted = before.clone();
        for (index, host) in [(1, "web-canary.ns.svc"), (2, "web-canary")] {
            wanted["spec"]["http"][index]["mirror"] = json!({"host": host, "port": {"number": 80}});
            wanted["spec"]["http"][index]["mirrorPercentage"] = json!({"value": 10});
        }
        assert_eq!(with, wanted, "and nothing else is changed");
        assert_eq!(start(&Istio, &with, 10).unwrap(), with, "it is so already");
        assert_eq!(stop(&Istio, &with), before);
        assert_eq!(stop(&Istio, &before), before, "the copies of others are theirs");
    }

    #[test]
    fn weights_and_copies_are_of_no_concern_to_each_other() {
        let with = start(&Istio, &virtual_service(), 100).unwrap();
        let divided = step(&Istio, &with, 10);
        assert_eq!(stop(&Istio, &divided), step(&Istio, &virtual_service(), 10));
        assert_eq!(back(&Istio, &divided), with);
    }

    #[test]
    fn the_copies_of_somebody_else_are_named() {
        for (field, value, named) in [
            ("mirror", json!({"host": "audit"}), "mirrors its requests to audit already"),
            ("mirror", json!({"host": "web-canary.elsewhere"}), "mirrors its requests to web-canary.elsewhere"),
            ("mirrors", json!([{"destination": {"host": "audit"}}]), "mirrors its requests to audit already"),
            ("mirrorPercentage", json!({"value": 5}), "has mirrorPercentage, and no mirror"),
        ] {
            let mut route = virtual_service();
            route["spec"]["http"][2][field] = value;
            let error = start(&Istio, &route, 10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(&format!("its http route 3 {named}")), "{error}");
            assert_eq!(stop(&Istio, &route), route);
        }
    }

    #[test]
    fn another_share_is_drift_and_goes_all_the_same() {
        let mut with = start(&Istio, &virtual_service(), 10).unwrap();
        with["spec"]["http"][2]["mirrorPercentage"]["value"] = json!(50.0);
        let error = start(&Istio, &with, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.message().contains("http route 3 sends copies of 50 % to the canary, not of 10 %"), "{error}");
        with["spec"]["http"][1]["route"] = json!([{"destination": {"host": "elsewhere"}}]);
        with["spec"]["http"][2].as_object_mut().unwrap().remove("mirrorPercentage");
        let left = stop(&Istio, &with);
        assert!(["mirror\"", "mirrorPercentage"].iter().all(|f| !left["spec"]["http"][1].to_string().contains(f)));
        assert_eq!(left["spec"]["http"][2], virtual_service()["spec"]["http"][2]);
    }

    #[test]
    fn what_leads_there_by_connections_only_or_also_elsewhere_is_refused() {
        let mut route = virtual_service();
        route["spec"]["http"] = json!([]);
        let error = start(&Istio, &route, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("leads to web by connections only"), "{error}");
        route["spec"] = json!({"http": [{"route": [{"destination": {"host": "other"}}]}]});
        assert_eq!(start(&Istio, &route, 10).unwrap_err().kind(), ErrorKind::NotFound);
        let both =
            json!([{"destination": {"host": "web"}, "weight": 90}, {"destination": {"host": "old"}, "weight": 10}]);
        route["spec"] = json!({"http": [{"route": both}]});
        let error = start(&Istio, &route, 10).unwrap_err();
        assert!(error.message().contains("sends traffic also to old"), "{error}");
    }

    #[tokio::test]
    async fn what_the_server_would_leave_out_is_not_written() {
        let (kube, asked) = kube(|_, uri, _| match uri.contains("nowhere") {
            true => not_found(uri),
            false => (
                200,
                json!({"metadata": {"name": "web-route", "namespace": "ns", "resourceVersion": "7"},
                "spec": {"http": [{"route": [{"destination": {"host": "web-svc"}}]}]}}),
            ),
        });
        let mirror = RuleMirror::new(kube, Router::Istio).unwrap();
        let error = mirror.start(&cx(), &target(), weight(10)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.message().contains("in this cluster it cannot say that 10 % of its requests are mirrored"),
            "{error}"
        );
        mirror.stop(&cx(), &target()).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert!(asked.iter().all(|line| line.starts_with("GET") || line.contains("dryRun=All")), "{asked:?}");
        let mut nowhere = target();
        nowhere.service.traffic.route = Some("nowhere".to_owned());
        assert_eq!(mirror.start(&cx(), &nowhere, weight(10)).await.unwrap_err().kind(), ErrorKind::NotFound);
        mirror.stop(&cx(), &nowhere).await.unwrap();
    }
}
