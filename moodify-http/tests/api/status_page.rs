use std::sync::{Arc, Mutex};

use moodify_core::backend::{IncidentStatus, IncidentUpdate, StatusPage};
use moodify_core::clock::SystemClock;
use moodify_core::testing::conformance::status_page;
use moodify_core::{Effect, ErrorKind};
use moodify_http::RunbookStatusPage;
use serde_json::{Value, json};
use wiremock::matchers::{body_json, header, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::{PATIENCE, client, cx};

const INCIDENTS: &str = "/api/incidents";

fn update(status: IncidentStatus, message: &str) -> IncidentUpdate {
    IncidentUpdate { status, message: message.to_owned() }
}

async fn page(listed: Value) -> (MockServer, RunbookStatusPage) {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path(INCIDENTS))
        .and(header("authorization", "Bearer t0ken"))
        .respond_with(ResponseTemplate::new(200).set_body_json(listed))
        .mount(&server)
        .await;
    let page = RunbookStatusPage::new(client(), &server.uri(), "t0ken".into()).unwrap();
    (server, page)
}

#[tokio::test]
async fn opens_as_the_runbook_does_and_with_the_key() {
    let (server, page) =
        page(json!([{"id": 1, "status": "investigating", "message": "other", "key": "r0/announce"}])).await;
    Mock::given(method("POST"))
        .and(path(INCIDENTS))
        .and(header("authorization", "Bearer t0ken"))
        .and(header("idempotency-key", "r1/announce"))
        .and(body_json(json!({
            "status": "investigating", "message": "Planned deployment in progress", "key": "r1/announce",
        })))
        .respond_with(ResponseTemplate::new(201).set_body_json(json!({"id": 17})))
        .expect(1)
        .mount(&server)
        .await;
    let planned = update(IncidentStatus::Investigating, "Planned deployment in progress");
    let incident = page.open(&cx(), &planned).await.unwrap();
    assert_eq!((incident.id.as_str(), incident.status), ("17", IncidentStatus::Investigating));
}

#[tokio::test]
async fn a_crashed_runs_incident_is_adopted() {
    for listed in [
        json!([{"id": "a7", "status": "monitoring", "message": "m", "key": "r1/announce"}]),
        json!({"incidents": [
            {"id": 1, "status": "resolved", "message": "m", "key": "r1/announce"},
            {"id": "a7", "status": "monitoring", "message": "m", "key": "r1/announce", "more": {}},
        ]}),
    ] {
        let (server, page) = page(listed).await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(500)).expect(0).mount(&server).await;
        let incident = page.open(&cx(), &update(IncidentStatus::Investigating, "again")).await.unwrap();
        assert_eq!((incident.id.as_str(), incident.status), ("a7", IncidentStatus::Monitoring));
        assert_eq!(page.find(&cx()).await.unwrap(), Some(incident));
    }
    let (_server, page) = page(json!([{"id": 3, "status": "strange", "message": null}])).await;
    assert_eq!(page.find(&cx()).await.unwrap(), None);
}

#[tokio::test]
async fn updates_once_and_closes_also_while_the_list_is_broken() {
    let (server, page) = page(json!([{"id": 17, "status": "monitoring", "message": "at 50 %"}])).await;
    Mock::given(method("PATCH"))
        .and(path("/api/incidents/17"))
        .and(body_json(json!({"status": "resolved", "message": "done"})))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&server)
        .await;
    page.update(&cx(), "17", &update(IncidentStatus::Monitoring, "at 50 %")).await.unwrap();
    let closed = page.update(&cx(), "17", &update(IncidentStatus::Resolved, "done")).await.unwrap();
    assert_eq!((closed.id.as_str(), closed.status), ("17", IncidentStatus::Resolved));

    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(500)).mount(&server).await;
    Mock::given(method("PATCH")).respond_with(ResponseTemplate::new(200)).expect(1).mount(&server).await;
    let page = RunbookStatusPage::new(client(), &server.uri(), "t0ken".into()).unwrap();
    page.update(&cx(), "17", &update(IncidentStatus::Resolved, "done")).await.unwrap();
    let error = page.open(&cx(), &update(IncidentStatus::Investigating, "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::None), "never doubled blindly");
}

#[tokio::test]
async fn an_unknown_incident_is_not_found_and_an_odd_id_stays_in_its_place() {
    let (server, page) = page(json!([])).await;
    Mock::given(method("PATCH")).respond_with(ResponseTemplate::new(404)).mount(&server).await;
    let done = update(IncidentStatus::Resolved, "done");
    assert_eq!(page.update(&cx(), "99", &done).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(page.update(&cx(), "..", &done).await.unwrap_err().kind(), ErrorKind::Invalid);
    page.update(&cx(), "../../admin", &done).await.unwrap_err();
    let last = server.received_requests().await.unwrap().pop().unwrap();
    assert_eq!(last.url.path(), "/api/incidents/..%2F..%2Fadmin");
}

#[tokio::test]
async fn an_incident_without_id_may_exist() {
    let (server, page) = page(json!([])).await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200).set_body_json(json!({}))).mount(&server).await;
    let error = page.open(&cx(), &update(IncidentStatus::Investigating, "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::Unknown), "{error}");
}

/// A page that keeps its incidents, as the runbook's does.
#[derive(Default, Clone)]
struct Page(Arc<Mutex<Vec<Value>>>);

impl Respond for Page {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let answer = |status, body: Value| ResponseTemplate::new(status).set_body_json(body);
        if request.headers.get("authorization").is_none_or(|given| given != "Bearer t0ken") {
            return answer(401, json!({"error": "who are you?"}));
        }
        let mut incidents = self.0.lock().unwrap();
        let sent = || request.body_json::<Value>().unwrap();
        match (request.method.as_str(), request.url.path().strip_prefix(INCIDENTS)) {
            ("GET", Some("")) => {
                let open: Vec<&Value> = incidents.iter().filter(|incident| incident["status"] != "resolved").collect();
                answer(200, json!(open))
            }
            ("POST", Some("")) => {
                let mut incident = sent();
                incident["id"] = json!(incidents.len() + 1);
                incidents.push(incident.clone());
                answer(201, incident)
            }
            ("PATCH", Some(id)) => {
                let named = |incident: &&mut Value| Some(incident["id"].to_string().as_str()) == id.strip_prefix('/');
                let Some(incident) = incidents.iter_mut().find(named) else {
                    return answer(404, json!({"error": "there is no such incident"}));
                };
                for (name, value) in sent().as_object().unwrap() {
                    incident[name] = value.clone();
                }
                answer(200, incident.clone())
            }
            _ => answer(405, json!({"error": "not of this page"})),
        }
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_page() {
    let (server, kept) = (MockServer::start().await, Page::default());
    Mock::given(wiremock::matchers::any()).respond_with(kept.clone()).mount(&server).await;
    let page = RunbookStatusPage::new(client(), &server.uri(), "t0ken".into()).unwrap();
    status_page(&page, &SystemClock, PATIENCE).await;
    let incidents = kept.0.lock().unwrap();
    assert!(incidents.len() == 2 && incidents.iter().all(|incident| incident["status"] == "resolved"), "{incidents:?}");
}
