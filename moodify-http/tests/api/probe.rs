use std::sync::{Arc, Mutex};
use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::backend::{Probe, ProbeRequest, SampleRequest};
use moodify_http::HttpProbe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
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

/// Answers one request on each connection: every fourth by the new version; the hosts that were asked for.
async fn fourths() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/ready", listener.local_addr().unwrap());
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let seen = hosts.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut answered = false;
                loop {
                    let mut request = vec![0; 4096];
                    let Ok(read @ 1..) = stream.read(&mut request).await else { return };
                    let text = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
                    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(host);
                    // A second request on a connection would be told.
                    let version = if answered {
                        "kept"
                    } else if number % 4 == 0 {
                        "v2"
                    } else {
                        "v1"
                    };
                    answered = true;
                    let status = if number % 3 == 0 { "503 Service Unavailable" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\nx-version: {version}\r\ncontent-length: 2\r\n\r\nok");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, hosts)
}

fn sample_of(url: &str, requests: u32) -> SampleRequest {
    SampleRequest {
        url: url.to_owned(),
        host: Some("shop.example".to_owned()),
        header: "X-Version".to_owned(),
        version: "v2".to_owned(),
        requests,
    }
}

#[tokio::test]
async fn a_sample_counts_who_answers_each_over_a_connection_of_its_own() {
    let (url, hosts) = fourths().await;
    let sample = HttpProbe::new(client()).sample(&cx(), &sample_of(&url, 200)).await.unwrap();
    assert_eq!((sample.of("v2"), sample.of("v1"), sample.all(), sample.failed), (50, 150, 200, 0), "{sample:?}");
    let hosts = hosts.lock().unwrap();
    assert_eq!(hosts.len(), 200);
    assert!(hosts.iter().all(|host| host == "shop.example"), "{:?}", hosts[0]);
}

#[tokio::test]
async fn what_is_not_answered_is_counted_and_an_end_of_the_context_is_an_error() {
    let probe = HttpProbe::new(client());
    let refused = probe.sample(&cx(), &sample_of("http://127.0.0.1:1/", 5)).await.unwrap();
    assert_eq!((refused.all(), refused.failed), (0, 5));
    assert!(refused.detail.unwrap().contains("127.0.0.1:1"));
    let invalid = probe.sample(&cx(), &sample_of("shop.example", 5)).await.unwrap_err();
    assert_eq!(invalid.kind(), ErrorKind::Invalid);

    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(30));
    Mock::given(method("GET")).respond_with(slow).mount(&server).await;
    let late = probe.sample(&cx_for(Duration::from_millis(200)), &sample_of(&server.uri(), 20)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let plain = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(200)).mount(&plain).await;
    let without = probe.sample(&cx(), &sample_of(&plain.uri(), 20)).await.unwrap();
    assert_eq!((without.of(""), without.of("v2")), (20, 0), "it says nothing of its version");
}
