use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::{Effect, ErrorKind};
use moodify_http::{SlackNotifier, WebhookNotifier};
use serde_json::json;
use wiremock::matchers::{body_json, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{client, cx};

fn message() -> Notification {
    Notification::new("rolled back").with_body("error rate 12 %").with_urgency(Urgency::Critical)
}

#[tokio::test]
async fn a_webhook_gets_everything_and_the_key() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/hook"))
        .and(header("idempotency-key", "r1/announce"))
        .and(header("authorization", "Bearer t0ken"))
        .and(header("content-type", "application/json"))
        .and(body_json(json!({
            "title": "rolled back", "body": "error rate 12 %", "urgency": "critical",
            "run": "r1", "key": "r1/announce",
        })))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&server)
        .await;
    let url = format!("{}/hook", server.uri()).into();
    WebhookNotifier::new(client(), &url).unwrap().with_token("t0ken".into()).notify(&cx(), &message()).await.unwrap();
}

#[tokio::test]
async fn slack_gets_a_text_and_its_refusals_are_told() {
    let server = MockServer::start().await;
    Mock::given(body_json(json!({"text": ":rotating_light: *rolled back*\nerror rate 12 %"})))
        .respond_with(ResponseTemplate::new(200).set_body_string("ok"))
        .up_to_n_times(1)
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(404).set_body_string("no_service"))
        .mount(&server)
        .await;
    let slack = SlackNotifier::new(client(), &format!("{}/services/T0/B0", server.uri()).into()).unwrap();
    slack.notify(&cx(), &message()).await.unwrap();
    let error = slack.notify(&cx(), &message()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::NotFound, Effect::None));
    assert!(error.message().contains("404 Not Found: no_service"), "{error}");
}
