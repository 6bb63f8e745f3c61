//! The pages of other providers.

use std::time::Duration;

use moodify_core::backend::{IncidentStatus, IncidentUpdate, Maintenance, StatusPage};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::testing::conformance::{context, status_page};
use moodify_core::{Effect, ErrorKind};
use moodify_http::{AtlassianStatuspage, CachetPage};
use serde_json::json;
use tokio::time::Instant;
use wiremock::MockServer;

use crate::fakes::FakePage;
use crate::{PATIENCE, client, cx};

/// The fake counts ten in a second; a client that does not wait asks more often.
const INTERVAL: Duration = Duration::from_millis(130);

fn statuspage(server: &MockServer) -> AtlassianStatuspage {
    let page = AtlassianStatuspage::new(client(), "p4ge", "t0ken".into()).unwrap();
    page.at(&format!("{}/v1", server.uri())).unwrap().with_interval(Duration::ZERO)
}

fn cachet(server: &MockServer) -> CachetPage {
    CachetPage::new(client(), &server.uri(), "t0ken".into()).unwrap()
}

fn planned() -> IncidentUpdate {
    IncidentUpdate::new(IncidentStatus::Investigating, "Planned deployment in progress")
}

#[tokio::test]
async fn what_is_too_long_for_the_page_is_cut() {
    let (server, fake) = FakePage::statuspage().await;
    let page = statuspage(&server).with_title(&"Deployment ".repeat(30));
    let long = IncidentUpdate::new(IncidentStatus::Investigating, "x".repeat(30_000));
    let opened = page.open(&cx(), &long).await.unwrap();
    page.update(&cx(), &opened.id, &long).await.unwrap();
    let kept = fake.kept.lock().unwrap();
    let updates = kept.incidents[0]["incident_updates"].as_array().unwrap();
    assert_eq!(updates.len(), 1, "the same, cut, is not told twice");
    assert!(updates[0]["body"].as_str().unwrap().ends_with("(cut)"));
}

#[tokio::test]
async fn statuspage_keeps_the_contract_within_its_limit() {
    let (server, fake) = FakePage::statuspage().await;
    fake.kept.lock().unwrap().limit = Some(10);
    status_page(&statuspage(&server).with_interval(INTERVAL), &SystemClock, PATIENCE).await;
    let kept = fake.kept.lock().unwrap();
    let ended = kept.incidents.iter().filter(|i| i["status"] == "resolved" || i["status"] == "completed").count();
    assert_eq!((kept.incidents.len(), ended), (4, 4), "{:?}", kept.incidents);
    for incident in &kept.incidents {
        let updates = incident["incident_updates"].as_array().unwrap();
        assert!(updates.windows(2).all(|pair| pair[0] != pair[1]), "nobody is mailed twice: {updates:?}");
    }
}

#[tokio::test]
async fn cachet_keeps_the_contract() {
    let (server, fake) = FakePage::cachet().await;
    status_page(&cachet(&server), &SystemClock, PATIENCE).await;
    let kept = fake.kept.lock().unwrap();
    assert!(kept.incidents.len() == 4 && kept.incidents.iter().all(|i| i["status"] == 4), "{:?}", kept.incidents);
}

#[tokio::test]
async fn statuspage_hides_the_key_and_marks_the_components() {
    let (server, fake) = FakePage::statuspage().await;
    let page = statuspage(&server).with_title("moodify").with_components(["c0mp"]);
    let incident = page.open(&cx(), &planned()).await.unwrap();
    {
        let made = &fake.kept.lock().unwrap().incidents[0];
        assert_eq!(made["name"], "moodify");
        assert_eq!(made["metadata"], json!({"moodify": {"key": "r1/announce", "run": "r1"}}));
        assert_eq!(
            (&made["component_ids"], &made["components"]["c0mp"]),
            (&json!(["c0mp"]), &json!("under_maintenance"))
        );
        assert_eq!(made["incident_updates"][0]["body"], "Planned deployment in progress");
    }
    page.update(&cx(), &incident.id, &IncidentUpdate::new(IncidentStatus::Resolved, "done")).await.unwrap();
    assert_eq!(fake.kept.lock().unwrap().incidents[0]["components"]["c0mp"], "operational");
}

#[tokio::test]
async fn a_maintenance_begins_and_ends_without_us() {
    let (server, fake) = FakePage::statuspage().await;
    let now = SystemClock.now();
    let from = now + Duration::from_secs(600);
    let maintenance = Maintenance::new(from, from + Duration::from_secs(2700), "45 minutes");
    statuspage(&server).schedule(&cx(), &maintenance).await.unwrap();
    let made = fake.kept.lock().unwrap().incidents[0].clone();
    assert_eq!((&made["scheduled_for"], &made["scheduled_until"]), (&json!(from), &json!(maintenance.until)));
    assert!(made["scheduled_auto_in_progress"] == true && made["scheduled_auto_completed"] == true, "{made}");

    let (server, fake) = FakePage::cachet().await;
    let scheduled = cachet(&server).schedule(&cx(), &maintenance).await.unwrap();
    let text = fake.kept.lock().unwrap().incidents[0]["message"].as_str().unwrap().to_owned();
    let time = from.strftime("From %F %H:%M to ").to_string();
    assert!(text.starts_with("45 minutes\n\n[//]: # (moodify r1/announce)\n\n") && text.contains(&time), "{text}");
    for (status, message) in [(IncidentStatus::Monitoring, "at 50 %"), (IncidentStatus::Resolved, "done")] {
        let update = IncidentUpdate::new(status, message);
        cachet(&server).update(&cx(), &scheduled.id, &update).await.unwrap();
        let updated = fake.kept.lock().unwrap().incidents[0]["message"].as_str().unwrap().to_owned();
        assert_eq!(updated, text.replace("45 minutes", message), "from when to when it is stays");
    }
}

/// Creates with the answer lost, and again: one incident.
async fn lost(page: &dyn StatusPage, fake: &FakePage) {
    fake.kept.lock().unwrap().lose_answers = 1;
    let error = page.open(&cx(), &planned()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    let adopted = page.open(&cx(), &planned()).await.unwrap();
    assert!(adopted.says(&planned()), "{adopted:?}");
    fake.kept.lock().unwrap().lose_answers = 1;
    let maintenance = Maintenance::new(SystemClock.now(), SystemClock.now() + Duration::from_secs(60), "m");
    page.schedule(&context("other", PATIENCE), &maintenance).await.unwrap_err();
    page.schedule(&context("other", PATIENCE), &maintenance).await.unwrap();
    assert_eq!(fake.kept.lock().unwrap().incidents.len(), 2, "one for each key");
}

#[tokio::test]
async fn an_incident_whose_answer_was_lost_is_adopted() {
    let (server, fake) = FakePage::statuspage().await;
    lost(&statuspage(&server), &fake).await;
    let (server, fake) = FakePage::cachet().await;
    lost(&cachet(&server), &fake).await;
}

#[tokio::test]
async fn a_page_that_wants_less_says_when_to_come_back() {
    let (server, fake) = FakePage::statuspage().await;
    fake.kept.lock().unwrap().limit = Some(0);
    let error = statuspage(&server).open(&cx(), &planned()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Throttled, Effect::None), "{error}");
    assert_eq!(error.retry_after_of(), Some(Duration::from_secs(1)), "the published limit");
    let (server, fake) = FakePage::cachet().await;
    fake.kept.lock().unwrap().limit = Some(0);
    let error = cachet(&server).open(&cx(), &planned()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after_of()), (ErrorKind::Throttled, Some(Duration::from_secs(17))));
}

#[tokio::test]
async fn whoever_waits_for_a_turn_waits_no_longer_than_the_context() {
    let (server, _fake) = FakePage::statuspage().await;
    let page = statuspage(&server).with_interval(Duration::from_secs(3600));
    page.find(&cx()).await.unwrap();
    let begun = Instant::now();
    let late = page.find(&crate::cx_for(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!((late.kind(), late.effect_of()), (ErrorKind::Timeout, Effect::None), "{late}");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_wrong_key_and_an_odd_id_are_refused() {
    let (server, _fake) = FakePage::statuspage().await;
    let wrong = AtlassianStatuspage::new(client(), "p4ge", "wr0ng-key".into()).unwrap();
    let wrong = wrong.at(&format!("{}/v1", server.uri())).unwrap();
    assert_eq!(wrong.find(&cx()).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(AtlassianStatuspage::new(client(), "..", "k".into()).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(statuspage(&server).update(&cx(), "..", &planned()).await.unwrap_err().kind(), ErrorKind::Invalid);
    let (server, _fake) = FakePage::cachet().await;
    let wrong = CachetPage::new(client(), &server.uri(), "wr0ng-token".into()).unwrap();
    assert_eq!(wrong.open(&cx(), &planned()).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
}
