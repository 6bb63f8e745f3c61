//! Statuses, limits, redirects, TLS, and whether the remote side may have changed.

use std::sync::Arc;
use std::time::Duration;

use moodify_core::backend::{MetricSource, Notification, Notifier, Probe, ProbeRequest};
use moodify_core::{Effect, Error, ErrorKind};
use moodify_http::{HttpClient, HttpProbe, PrometheusSource, WebhookNotifier};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{client, cx, cx_for, query};

/// A question and a change, both answered alike.
async fn both(url: &str) -> (Error, Error) {
    (ask(url).await, change(url, Duration::from_secs(20)).await)
}

async fn ask(url: &str) -> Error {
    PrometheusSource::new(client(), url).unwrap().query(&cx(), &query("error-rate")).await.unwrap_err()
}

async fn change(url: &str, timeout: Duration) -> Error {
    let note = Notification::new("t").with_body("b");
    WebhookNotifier::new(client(), &url.into()).unwrap().notify(&cx_for(timeout), &note).await.unwrap_err()
}

async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    server
}

#[tokio::test]
async fn every_status_has_its_kind_and_effect() {
    use Effect::{None, Unknown};
    use ErrorKind::*;
    for (status, kind, effect) in [
        (401, Unauthenticated, None),
        (403, Forbidden, None),
        (404, NotFound, None),
        (409, Conflict, None),
        (418, Invalid, None),
        (429, Throttled, None),
        (500, Unavailable, Unknown),
        (502, Unavailable, Unknown),
        (503, Unavailable, Unknown),
    ] {
        let server = answering(ResponseTemplate::new(status)).await;
        let (asked, changed) = both(&server.uri()).await;
        assert_eq!((asked.kind(), asked.effect_of()), (kind, None), "{asked}");
        assert_eq!((changed.kind(), changed.effect_of()), (kind, effect), "{changed}");
    }
}

#[tokio::test]
async fn a_throttling_server_is_believed_and_asked_once() {
    let server = answering(ResponseTemplate::new(429).insert_header("retry-after", "7")).await;
    let error = ask(&server.uri()).await;
    assert_eq!((error.kind(), error.retry_after_of()), (ErrorKind::Throttled, Some(Duration::from_secs(7))));
    let dated = ResponseTemplate::new(503)
        .insert_header("date", "Wed, 21 Oct 2015 07:27:30 GMT")
        .insert_header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_eq!(ask(&answering(dated).await.uri()).await.retry_after_of(), Some(Duration::from_secs(30)));
    assert_eq!(server.received_requests().await.unwrap().len(), 1, "retries belong to the engine");
}

#[tokio::test]
async fn a_refused_connection_changed_nothing() {
    let (asked, changed) = both("http://127.0.0.1:1").await;
    for error in [asked, changed] {
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::None));
        assert!(error.is_transient() && error.message().contains("Connection refused"), "{error}");
    }
}

#[tokio::test]
async fn a_hanging_server_is_left_at_the_deadline_or_when_cancelled() {
    let server = answering(ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let source = PrometheusSource::new(client(), &server.uri()).unwrap();
    let late = source.query(&cx_for(Duration::from_millis(100)), &query("error-rate")).await.unwrap_err();
    assert_eq!((late.kind(), late.effect_of()), (ErrorKind::Timeout, Effect::None));
    assert!(late.target().contains("/api/v1/query"), "{late}");
    let changed = change(&server.uri(), Duration::from_millis(100)).await;
    assert_eq!((changed.kind(), changed.effect_of()), (ErrorKind::Timeout, Effect::Unknown));
    let unsent = change(&server.uri(), Duration::ZERO).await;
    assert_eq!((unsent.kind(), unsent.effect_of()), (ErrorKind::Timeout, Effect::None));

    let cancel = CancellationToken::new();
    let cx = cx().with_cancel(cancel.clone());
    let question = query("error-rate");
    let (error, ()) = tokio::join!(source.query(&cx, &question), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_huge_body_is_not_read_but_a_probe_does_not_mind() {
    let huge = ResponseTemplate::new(200).set_body_bytes(vec![b'x'; 5 * 1024 * 1024]);
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::any()).respond_with(huge).mount(&server).await;
    let error = ask(&server.uri()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("larger than 4 MiB"), "{error}");
    let probed = HttpProbe::new(client()).probe(&cx(), &ProbeRequest::get(&server.uri())).await.unwrap();
    assert!(probed.healthy);
}

#[tokio::test]
async fn redirects_are_told_and_not_followed() {
    let elsewhere = MockServer::start().await;
    Mock::given(wiremock::matchers::any()).respond_with(ResponseTemplate::new(200)).expect(0).mount(&elsewhere).await;
    let to = format!("{}/login?session=planted", elsewhere.uri());
    let server = answering(ResponseTemplate::new(307).insert_header("location", to.as_str())).await;
    let error = ask(&server.uri()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let shown = format!("which leads to {}/login?session=...", elsewhere.uri());
    assert!(error.message().contains(&shown), "{error}");
}

#[tokio::test]
async fn a_broken_answer_leaves_the_effect_unknown() {
    let server = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", None).await;
    let (asked, changed) = both(&format!("http://{server}")).await;
    assert_eq!((asked.kind(), asked.effect_of()), (ErrorKind::Unavailable, Effect::None), "{asked}");
    assert_eq!((changed.kind(), changed.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{changed}");
}

const NO_DATA: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"data\":{\"resultType\":\"vector\",\"result\":[]}}";

#[tokio::test]
async fn tls_is_verified_and_an_own_authority_can_be_named() {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let server = raw(NO_DATA, Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let url = format!("https://{server}");

    let distrusted = ask(&url).await;
    assert_eq!((distrusted.kind(), distrusted.is_transient()), (ErrorKind::Unavailable, false), "{distrusted}");
    assert!(distrusted.to_string().contains("certificate"), "{distrusted}");

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, issued.cert.pem()).unwrap();
    let source = PrometheusSource::new(HttpClient::with_ca_file(&ca).unwrap(), &url).unwrap();
    assert_eq!(source.query(&cx(), &query("error-rate")).await.unwrap().value, None);

    std::fs::write(&ca, "no certificate").unwrap();
    assert_eq!(HttpClient::with_ca_file(&ca).unwrap_err().kind(), ErrorKind::Invalid);
    let missing = HttpClient::with_ca_file(&dir.path().join("nowhere.pem")).unwrap_err();
    assert!(missing.to_string().contains("nowhere.pem"), "{missing}");
}

#[tokio::test]
async fn https_on_a_plain_port_is_told_as_such() {
    let server = raw(NO_DATA, None).await;
    let error = ask(&format!("https://{server}")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("does that address speak https?"), "{error}");
}

/// A server that reads what comes first, answers with these bytes, and closes.
async fn raw(answer: &'static [u8], tls: Option<TlsAcceptor>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, answer).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, answer).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let mut request = vec![0; 64 * 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}
