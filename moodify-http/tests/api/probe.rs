use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::backend::{Probe, ProbeRequest};
use moodify_http::HttpProbe;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{body_string, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{client, cx, cx_for};

#[tokio::test]
async fn statuses_are_judged_by_the_request() {
    let server = MockServer::start().await;
    Mock::given(path("/well")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    Mock::given(path("/ill")).respond_with(ResponseTemplate::new(503)).mount(&server).await;
    Mock::given(path("/moved"))
        .respond_with(ResponseTemplate::new(302).insert_header("location", "/well"))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/users/login"))
        .and(header("content-type", "application/json"))
        .and(body_string("{}"))
        .respond_with(ResponseTemplate::new(400))
        .mount(&server)
        .await;
    let probe = HttpProbe::new(client());
    let ask = async |path: &str, expect: &[u16]| {
        let mut request = ProbeRequest::get(&format!("{}{path}", server.uri()));
        request.expect = expect.to_vec();
        if path == "/users/login" {
            request.method = "post".to_owned();
            request.body = Some("{}".to_owned());
        }
        probe.probe(&cx(), &request).await.unwrap()
    };
    assert!(ask("/well", &[]).await.healthy);
    assert!(ask("/moved", &[302]).await.healthy, "redirects are not followed");
    assert!(ask("/users/login", &[400]).await.healthy);
    let ill = ask("/ill", &[]).await;
    assert_eq!((ill.healthy, ill.status), (false, Some(503)));
    assert!(ill.detail.unwrap().ends_with("/ill answered 503 Service Unavailable"));
    assert!(!ask("/moved", &[]).await.healthy);
}

#[tokio::test]
async fn refusal_and_hanging_are_unhealthy_results_and_cancellation_is_none() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(30));
    Mock::given(method("GET")).respond_with(slow).mount(&server).await;
    let (probe, request) = (HttpProbe::new(client()), ProbeRequest::get(&server.uri()));

    let late = probe.probe(&cx_for(Duration::from_millis(100)), &request).await.unwrap();
    assert_eq!((late.healthy, late.status), (false, None));
    assert!(late.latency >= Duration::from_millis(99) && late.latency < Duration::from_secs(10));
    assert!(late.detail.unwrap().contains("no answer before the deadline"));
    let short = probe.clone().with_timeout(Duration::from_millis(50)).probe(&cx(), &request).await.unwrap();
    assert!(!short.healthy);

    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = probe.probe(&cx().with_cancel(cancel), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);

    let refused = probe.probe(&cx(), &ProbeRequest::get("http://127.0.0.1:1/health")).await.unwrap();
    assert!(!refused.healthy);
    assert!(refused.detail.unwrap().contains("Connection refused"));
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_an_error() {
    let mut request = ProbeRequest::get("http://127.0.0.1:1/");
    request.method = "GET /".to_owned();
    for request in [request, ProbeRequest::get("api.moodify.com/health")] {
        let error = HttpProbe::new(client()).probe(&cx(), &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}
