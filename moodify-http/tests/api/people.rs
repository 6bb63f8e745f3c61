//! Every notifier is put to the contract on a channel that refuses what its published API does not know.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::ErrorKind;
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::testing::conformance::{NotifierHarness, notifier};
use moodify_http::{
    HttpClient, OpsgenieNotifier, PagerDutyNotifier, SIGNATURE_HEADER, SlackNotifier, TeamsNotifier, WebhookNotifier,
    verify_signature,
};
use serde_json::{Map, Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::fakes::header;
use crate::published::{OPSGENIE, PAGERDUTY, SLACK, TEAMS};
use crate::{PATIENCE, client, cx};

#[derive(Default)]
struct Kept {
    messages: Vec<String>,
    keys: Vec<String>,
    alerts: BTreeSet<String>,
    refuses: bool,
}

type Answer = Result<u16, (u16, &'static str)>;

/// A channel of one kind.
#[derive(Clone)]
struct Channel {
    kept: Arc<Mutex<Kept>>,
    take: fn(&mut Kept, &Request) -> Answer,
    has_keys: bool,
    has_alerts: bool,
}

impl Respond for Channel {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut kept = self.kept.lock().unwrap();
        let taken = if kept.refuses { Err((403, "refused")) } else { (self.take)(&mut kept, request) };
        match taken {
            Ok(status) => ResponseTemplate::new(status).set_body_json(json!({"status": "success"})),
            Err((status, why)) => ResponseTemplate::new(status).set_body_json(json!({"status": "bad", "message": why})),
        }
    }
}

struct Harness {
    channel: Channel,
    notifier: Arc<dyn Notifier>,
    _server: MockServer,
}

impl Harness {
    async fn new<N: Notifier + 'static>(
        take: fn(&mut Kept, &Request) -> Answer,
        (has_keys, has_alerts): (bool, bool),
        notifier: impl FnOnce(HttpClient, String) -> N,
    ) -> Self {
        let (server, kept) = (MockServer::start().await, Arc::default());
        let channel = Channel { kept, take, has_keys, has_alerts };
        Mock::given(any()).respond_with(channel.clone()).mount(&server).await;
        let notifier = Arc::new(notifier(client(), server.uri()));
        Self { channel, notifier, _server: server }
    }
}

#[async_trait]
impl NotifierHarness for Harness {
    fn notifier(&self) -> Arc<dyn Notifier> {
        self.notifier.clone()
    }

    async fn received(&self) -> Vec<String> {
        self.channel.kept.lock().unwrap().messages.clone()
    }

    async fn keys(&self) -> Option<Vec<String>> {
        self.channel.has_keys.then(|| self.channel.kept.lock().unwrap().keys.clone())
    }

    async fn alerts(&self) -> Option<Vec<String>> {
        self.channel.has_alerts.then(|| self.channel.kept.lock().unwrap().alerts.iter().cloned().collect())
    }

    async fn refuse(&self) {
        self.channel.kept.lock().unwrap().refuses = true;
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn sent(request: &Request) -> Result<Value, (u16, &'static str)> {
    request.body_json().map_err(|_| (400, "not JSON"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All texts in a value, however deep.
fn texts(value: &Value, found: &mut String) {
    match value {
        Value::String(text) => *found += &format!("{text}\n"),
        Value::Array(all) => all.iter().for_each(|value| texts(value, found)),
        Value::Object(all) => all.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Our own API has our own fields.
fn only(given: &Value, known: &[&str]) -> Result<Map<String, Value>, (u16, &'static str)> {
    let given = given.as_object().ok_or((422, "not an object"))?;
    match given.keys().all(|name| known.contains(&name.as_str())) {
        true => Ok(given.clone()),
        false => Err((422, "a field that the API does not have")),
    }
}

fn slack(kept: &mut Kept, request: &Request) -> Answer {
    let body = sent(request)?;
    SLACK.refuse("POST webhook", &body)?;
    let text = body["text"].as_str().ok_or((400, "no_text"))?;
    if text.contains("<!") {
        return Err((400, "the whole company is awake"));
    }
    kept.messages.push(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"));
    Ok(200)
}

fn teams(kept: &mut Kept, request: &Request) -> Answer {
    if request.body.len() > 28 * 1024 {
        return Err((413, "larger than 28 KB"));
    }
    let body = sent(request)?;
    TEAMS.refuse("POST webhook", &body)?;
    let mut all = String::new();
    texts(&body["attachments"], &mut all);
    kept.messages.push(all);
    Ok(202)
}

fn webhook(kept: &mut Kept, request: &Request) -> Answer {
    let signature = header(request, SIGNATURE_HEADER).ok_or((401, "not signed"))?;
    verify_signature(&"it is between us".into(), signature, &request.body, SystemClock.now(), Duration::from_secs(60))
        .map_err(|_| (401, "wrongly signed"))?;
    let known = ["title", "body", "urgency", "run", "key", "link", "topic", "resolved", "alert"];
    let body = only(&sent(request)?, &known)?;
    if header(request, "idempotency-key") != body["key"].as_str() {
        return Err((400, "two keys"));
    }
    kept.keys.push(text(&body["key"]));
    kept.messages
        .push(["title", "body", "urgency", "link"].map(|name| text(body.get(name).unwrap_or(&Value::Null))).join("\n"));
    Ok(204)
}

fn pagerduty(kept: &mut Kept, request: &Request) -> Answer {
    let body = sent(request)?;
    match body["event_action"].as_str() {
        Some("trigger") => PAGERDUTY.refuse("POST /v2/enqueue, trigger", &body)?,
        _ => PAGERDUTY.refuse("POST /v2/enqueue, resolve", &body)?,
    }
    if request.url.path() != "/v2/enqueue" || body["routing_key"] != "r0uting" {
        return Err((400, "invalid routing key"));
    }
    let alert = text(&body["dedup_key"]);
    match body["event_action"].as_str() {
        Some("trigger") => drop(kept.alerts.insert(alert)),
        Some("resolve") => drop(kept.alerts.remove(&alert)),
        _ => return Err((400, "no such action")),
    }
    let mut all = String::new();
    texts(&body["payload"], &mut all);
    texts(body.get("links").unwrap_or(&Value::Null), &mut all);
    kept.messages.push(all);
    kept.keys.push(text(&body["payload"]["custom_details"]["key"]));
    Ok(202)
}

fn opsgenie(kept: &mut Kept, request: &Request) -> Answer {
    if header(request, "authorization") != Some("GenieKey k3y-of-it") {
        return Err((401, "Could not authenticate"));
    }
    if let Some(alias) = request.url.path().strip_prefix("/v2/alerts/").and_then(|rest| rest.strip_suffix("/close")) {
        let body = sent(request)?;
        OPSGENIE.refuse("POST /v2/alerts/{identifier}/close", &body)?;
        if request.url.query() != Some("identifierType=alias") {
            return Err((422, "no such id"));
        }
        kept.alerts.remove(&alias.replace("%2F", "/"));
        kept.messages.push(text(&body["note"]));
        kept.keys.push(String::new());
        return Ok(202);
    }
    let body = sent(request)?;
    OPSGENIE.refuse("POST /v2/alerts", &body)?;
    if request.url.path() != "/v2/alerts" {
        return Err((404, "not of this API"));
    }
    kept.alerts.insert(text(&body["alias"]));
    let mut all = String::new();
    for name in ["message", "description", "priority"] {
        texts(&body[name], &mut all);
    }
    kept.messages.push(all);
    kept.keys.push(text(&body["details"]["key"]));
    Ok(202)
}

fn pager(client: HttpClient, url: &str) -> PagerDutyNotifier {
    PagerDutyNotifier::new(client, "r0uting".into()).unwrap().at(&format!("{url}/v2/enqueue")).unwrap()
}

#[tokio::test]
async fn slack_keeps_the_contract() {
    let made = |client, url: String| SlackNotifier::new(client, &url.into()).unwrap();
    notifier(&Harness::new(slack, (false, false), made).await).await;
}

#[tokio::test]
async fn teams_keeps_the_contract() {
    let made = |client, url: String| TeamsNotifier::new(client, &url.into()).unwrap();
    notifier(&Harness::new(teams, (false, false), made).await).await;
}

#[tokio::test]
async fn a_signed_webhook_keeps_the_contract() {
    let made =
        |client, url: String| WebhookNotifier::new(client, &url.into()).unwrap().with_secret("it is between us".into());
    notifier(&Harness::new(webhook, (true, false), made).await).await;
}

#[tokio::test]
async fn pagerduty_keeps_the_contract() {
    notifier(&Harness::new(pagerduty, (true, true), |client, url| pager(client, &url)).await).await;
}

#[tokio::test]
async fn opsgenie_keeps_the_contract() {
    let made = |client, url: String| OpsgenieNotifier::new(client, "k3y-of-it".into()).unwrap().at(&url).unwrap();
    notifier(&Harness::new(opsgenie, (true, true), made).await).await;
}

#[tokio::test]
async fn a_repeated_message_is_one_alert_and_its_urgency_is_the_severity() {
    let harness = Harness::new(pagerduty, (true, true), |client, url| pager(client, &url)).await;
    let burns = Notification::new("it burns").with_urgency(Urgency::Warning);
    for _ in 0..2 {
        harness.notifier.notify(&cx(), &burns).await.unwrap();
    }
    assert_eq!(harness.alerts().await, Some(vec!["r1/announce".to_owned()]));
    assert!(harness.received().await[0].contains("warning"));
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_not_repeated() {
    let harness = Harness::new(pagerduty, (true, true), |client, url| {
        let pager = PagerDutyNotifier::new(client, "planted-routing-key".into()).unwrap();
        pager.at(&format!("{url}/v2/enqueue")).unwrap()
    })
    .await;
    let error = harness.notifier.notify(&cx(), &Notification::new("it burns")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("invalid routing key") && !format!("{error:?}").contains("planted"), "{error:?}");
}

#[tokio::test]
async fn a_webhook_whose_secret_differs_is_refused() {
    let made =
        |client, url: String| WebhookNotifier::new(client, &url.into()).unwrap().with_secret("another one".into());
    let harness = Harness::new(webhook, (true, false), made).await;
    let error = harness.notifier.notify(&cx(), &Notification::new("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
}
