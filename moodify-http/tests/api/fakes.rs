//! Status pages as their published API describes them: what has other fields or words is refused.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::published::{CACHET, STATUSPAGE};

/// What a page keeps, and how it shall fail.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) incidents: Vec<Value>,
    /// It does what it is asked to, and answers so many requests that change something with an error.
    pub(crate) lose_answers: u32,
    /// So many requests in a second are answered; 0 is none at all.
    pub(crate) limit: Option<usize>,
    recent: VecDeque<Instant>,
}

impl Kept {
    fn throttled(&mut self) -> bool {
        let Some(limit) = self.limit else { return false };
        let now = Instant::now();
        self.recent.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        self.recent.push_back(now);
        self.recent.len() > limit
    }
}

type Answer = Result<(u16, Value), (u16, &'static str)>;

/// A page that answers as one kind of page does.
#[derive(Clone)]
pub(crate) struct FakePage {
    pub(crate) kept: Arc<Mutex<Kept>>,
    answer: fn(&mut Kept, &Request) -> Answer,
    throttled: fn() -> ResponseTemplate,
}

impl FakePage {
    pub(crate) async fn statuspage() -> (MockServer, Self) {
        let throttled = || ResponseTemplate::new(420).set_body_json(json!({"error": "Enhance your calm"}));
        Self::start(Self { kept: Arc::default(), answer: statuspage, throttled }).await
    }

    pub(crate) async fn cachet() -> (MockServer, Self) {
        let throttled = || ResponseTemplate::new(429).insert_header("retry-after", "17");
        Self::start(Self { kept: Arc::default(), answer: cachet, throttled }).await
    }

    async fn start(page: Self) -> (MockServer, Self) {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(page.clone()).mount(&server).await;
        (server, page)
    }
}

impl Respond for FakePage {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut kept = self.kept.lock().unwrap();
        if kept.throttled() {
            return (self.throttled)();
        }
        let answer = (self.answer)(&mut kept, request);
        if request.method.as_str() != "GET" && kept.lose_answers > 0 {
            kept.lose_answers -= 1;
            return ResponseTemplate::new(502).set_body_string("bad gateway");
        }
        match answer {
            Ok((status, body)) => ResponseTemplate::new(status).set_body_json(body),
            Err((status, why)) => ResponseTemplate::new(status).set_body_json(json!({"error": why})),
        }
    }
}

pub(crate) fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

fn found<'a>(incidents: &'a mut [Value], id: &str) -> Result<&'a mut Value, (u16, &'static str)> {
    let number = id.parse::<u64>().ok();
    let named = |incident: &&mut Value| incident["id"] == id || number.is_some_and(|number| incident["id"] == number);
    incidents.iter_mut().find(named).ok_or((404, "not found"))
}

fn statuspage(kept: &mut Kept, request: &Request) -> Answer {
    if header(request, "authorization") != Some("OAuth t0ken") {
        return Err((401, "Could not authenticate"));
    }
    let id = request.url.path().strip_prefix("/v1/pages/p4ge/incidents").ok_or((404, "no such page"))?;
    let id = id.trim_start_matches('/');
    let sent = |operation: &str| -> Result<Map<String, Value>, (u16, &'static str)> {
        let body: Value = request.body_json().map_err(|_| (400, "not JSON"))?;
        STATUSPAGE.refuse(operation, &body)?;
        Ok(body["incident"].as_object().cloned().unwrap_or_default())
    };
    let store = |incident: &mut Value, sent: Map<String, Value>| -> Result<(), (u16, &'static str)> {
        let planned = sent.contains_key("scheduled_for") || incident["scheduled_for"].is_string();
        let words: [&str; 4] = match planned {
            true => ["scheduled", "in_progress", "verifying", "completed"],
            false => ["investigating", "identified", "monitoring", "resolved"],
        };
        if !words.iter().any(|word| sent["status"] == *word) {
            return Err((422, "no such status of an incident of this kind"));
        }
        let update = json!({"status": sent["status"], "body": sent["body"]});
        for (name, value) in sent {
            if name != "body" {
                incident[name] = value;
            }
        }
        incident["incident_updates"].as_array_mut().unwrap().insert(0, update);
        Ok(())
    };
    let shown = |incident: &Value| STATUSPAGE.shown("incident", incident);
    match (request.method.as_str(), id) {
        ("GET", "") => Ok((200, kept.incidents.iter().rev().take(100).map(shown).collect())),
        ("GET", id) => found(&mut kept.incidents, id).map(|incident| (200, shown(incident))),
        ("POST", "") => {
            let sent = sent("POST /pages/{page_id}/incidents")?;
            let id = format!("inc{}", kept.incidents.len() + 1);
            let mut incident = json!({"id": id, "scheduled_for": null, "incident_updates": []});
            store(&mut incident, sent)?;
            kept.incidents.push(incident.clone());
            Ok((201, shown(&incident)))
        }
        ("PATCH", id) => {
            let incident = found(&mut kept.incidents, id)?;
            store(incident, sent("PATCH /pages/{page_id}/incidents/{incident_id}")?)?;
            Ok((200, shown(incident)))
        }
        _ => Err((405, "not of this API")),
    }
}

fn cachet(kept: &mut Kept, request: &Request) -> Answer {
    let id = request.url.path().strip_prefix("/api/v1/incidents").ok_or((404, "not of this API"))?;
    let id = id.trim_start_matches('/');
    if request.method.as_str() != "GET" && header(request, "x-cachet-token") != Some("t0ken") {
        return Err((401, "You are not authorized to view this content"));
    }
    let sent = |operation: &str| -> Result<Map<String, Value>, (u16, &'static str)> {
        let body: Value = request.body_json().map_err(|_| (400, "not JSON"))?;
        CACHET.refuse(operation, &body)?;
        Ok(body.as_object().cloned().unwrap_or_default())
    };
    let shown = |incident: &Value| CACHET.shown("incident", incident);
    match (request.method.as_str(), id) {
        ("GET", "") => {
            let newest: Vec<Value> = kept.incidents.iter().rev().take(100).map(shown).collect();
            Ok((200, json!({"meta": {"pagination": {"total": kept.incidents.len()}}, "data": newest})))
        }
        ("GET", id) => found(&mut kept.incidents, id).map(|incident| (200, json!({"data": shown(incident)}))),
        ("POST", "") => {
            let mut incident = Value::Object(sent("POST /incidents")?);
            incident["id"] = json!(kept.incidents.len() + 1);
            kept.incidents.push(incident.clone());
            Ok((200, json!({"data": shown(&incident)})))
        }
        ("PUT", id) => {
            let incident = found(&mut kept.incidents, id)?;
            for (name, value) in sent("PUT /incidents/{incident}")? {
                incident[name] = value;
            }
            Ok((200, json!({"data": shown(incident)})))
        }
        _ => Err((405, "not of this API")),
    }
}
