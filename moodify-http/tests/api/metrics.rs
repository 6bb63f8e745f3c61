use moodify_core::backend::MetricSource;
use moodify_core::{Effect, ErrorKind};
use moodify_http::{JsonMetric, JsonSource, JsonUnit, PrometheusSource};
use serde_json::json;
use wiremock::matchers::{body_string_contains, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{client, cx, query};

async fn prometheus(status: u16, body: serde_json::Value) -> (MockServer, PrometheusSource) {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(status).set_body_json(body);
    Mock::given(method("POST")).and(path("/api/v1/query")).respond_with(answer).mount(&server).await;
    let source = PrometheusSource::new(client(), &server.uri()).unwrap();
    (server, source)
}

fn vector(result: &serde_json::Value) -> serde_json::Value {
    json!({"status": "success", "warnings": ["ignored"], "data": {"resultType": "vector", "result": result}})
}

#[tokio::test]
async fn one_series_or_a_scalar_is_a_figure_and_its_time() {
    let (_server, source) = prometheus(200, vector(&json!([{"metric": {}, "value": [1_700_000_000.5, "0.12"]}]))).await;
    let measured = source.query(&cx(), &query("error-rate")).await.unwrap();
    assert_eq!(measured.value, Some(0.12));
    assert_eq!(measured.at.as_millisecond(), 1_700_000_000_500);

    let scalar = json!({"status": "success", "data": {"resultType": "scalar", "result": [1_700_000_000, "3"]}});
    let (_server, source) = prometheus(200, scalar).await;
    assert_eq!(source.query(&cx(), &query("error-rate")).await.unwrap().value, Some(3.0));
}

#[tokio::test]
async fn empty_and_not_finite_is_no_data() {
    let (_server, source) = prometheus(200, vector(&json!([]))).await;
    assert_eq!(source.query(&cx(), &query("error-rate")).await.unwrap().value, None);
    for figure in ["NaN", "+Inf", "-Inf"] {
        let (_server, source) = prometheus(200, vector(&json!([{"metric": {}, "value": [1, figure]}]))).await;
        assert_eq!(source.query(&cx(), &query("latency-p95")).await.unwrap().value, None, "{figure}");
    }
}

#[tokio::test]
async fn what_is_not_one_figure_is_an_error() {
    let two = json!([{"metric": {"pod": "a"}, "value": [1, "0"]}, {"metric": {"pod": "b"}, "value": [1, "0"]}]);
    let histogram = json!([{"metric": {}, "histogram": [1, {"count": "1"}]}]);
    let matrix = json!({"status": "success", "data": {"resultType": "matrix", "result": []}});
    for (body, says) in [
        (vector(&two), r#"gives 2 series where one is needed, the first two of them {"pod":"a"} and {"pod":"b"}"#),
        (vector(&histogram), "gives a histogram"),
        (matrix, "gives a matrix, neither a vector nor a scalar"),
        (json!({"hello": "world"}), "cannot be understood"),
    ] {
        let (_server, source) = prometheus(200, body).await;
        let error = source.query(&cx(), &query("error-rate")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.effect_of(), Effect::None, "a question changes nothing, also when it is posted");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn prometheus_own_errors_keep_their_message() {
    for (status, kind, transient) in
        [(400, ErrorKind::Invalid, false), (422, ErrorKind::Unavailable, true), (503, ErrorKind::Unavailable, true)]
    {
        let body = json!({"status": "error", "errorType": "bad_data", "error": "parse error: no closing brace"});
        let (_server, source) = prometheus(status, body).await;
        let error = source.query(&cx(), &query("error-rate")).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient(), error.effect_of()), (kind, transient, Effect::None), "{error}");
        assert!(error.message().contains("parse error: no closing brace"), "{error}");
    }
}

#[tokio::test]
async fn the_question_carries_version_window_token_and_time_left() {
    let server = MockServer::start().await;
    Mock::given(header("authorization", "Bearer let-me-in"))
        .and(body_string_contains("backend-canary-%5Ba-z0-9%5D%2B"))
        .and(body_string_contains("%5B60s%5D"))
        .and(body_string_contains("timeout="))
        .respond_with(ResponseTemplate::new(200).set_body_json(vector(&json!([]))))
        .expect(1)
        .mount(&server)
        .await;
    let source = PrometheusSource::new(client(), &server.uri()).unwrap().with_token("let-me-in".into());
    source.query(&cx(), &query("error-rate")).await.unwrap();
}

#[tokio::test]
async fn values_cannot_leave_their_quotes() {
    let server = MockServer::start().await;
    Mock::given(body_string_contains("query=sum%28up%7Bv%3D%22a%5C%22%7D+or+vector%281%29%22%7D%29&"))
        .respond_with(ResponseTemplate::new(200).set_body_json(vector(&json!([]))))
        .expect(1)
        .mount(&server)
        .await;
    let source =
        PrometheusSource::new(client(), &server.uri()).unwrap().with_query("ups", r#"sum(up{v="{{version}}"})"#);
    let mut question = query("ups");
    question.version = r#"a"} or vector(1)"#.to_owned();
    source.query(&cx(), &question).await.unwrap();
}

#[test]
fn a_question_without_answer_is_refused_before_anybody_is_asked() {
    let source = PrometheusSource::new(client(), "http://127.0.0.1:1").unwrap().with_query("mine", "vector(1)");
    for known in ["error-rate", "latency-p95", "mine"] {
        source.check(&query(known)).unwrap();
    }
    let error = source.check(&query("queue-length")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("known are error-rate, latency-p95, mine"), "{error}");

    let mut own = query("queue-length");
    own.query = Some("sum(q{v=\"{{version}}\"})".to_owned());
    source.check(&own).unwrap();
    own.query = Some("sum(q{v=\"{{versoin}}\"})".to_owned());
    let error = source.check(&own).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("{{versoin}}"), "{error}");
}

async fn json_answer(body: &str) -> MockServer {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_raw(body, "application/json");
    Mock::given(method("GET")).and(path("/metrics")).respond_with(answer).mount(&server).await;
    server
}

#[tokio::test]
async fn json_figures_are_found_and_converted() {
    use JsonUnit::{Fraction, Millis, Percent, Seconds};
    for (body, pointer, unit, value) in [
        ("0.12", "", Fraction, Some(0.12)),
        (r#"{"error_rate": 12}"#, "/error_rate", Percent, Some(0.12)),
        (r#"{"a": [{"p95": " 250 "}]}"#, "/a/0/p95", Millis, Some(0.25)),
        (r#"{"p95": 2}"#, "/p95", Seconds, Some(2.0)),
        (r#"{"p95": null}"#, "/p95", Seconds, None),
        (r#"{"p95": "NaN"}"#, "/p95", Seconds, None),
        (r#"{"p95": 1}"#, "/p59", Seconds, None),
        ("null", "", Seconds, None),
    ] {
        let server = json_answer(body).await;
        let metric = JsonMetric::new(&format!("{}/metrics", server.uri())).at(pointer).in_unit(unit).mixed(true);
        let source = JsonSource::new(client()).with_metric("m", metric);
        assert_eq!(source.query(&cx(), &query("m")).await.unwrap().value, value, "{body} {pointer}");
    }
}

#[tokio::test]
async fn json_that_is_none_or_no_number_is_an_error() {
    for (body, pointer, says) in [
        ("<html>", "", "cannot be understood"),
        ("", "", "an empty body"),
        (r#"{"a": "soon"}"#, "/a", "/a is not a number"),
        (r#"{"a": 1}"#, "", "the whole answer is not a number"),
    ] {
        let server = json_answer(body).await;
        let metric = JsonMetric::new(&format!("{}/metrics", server.uri())).at(pointer).mixed(true);
        let error = JsonSource::new(client()).with_metric("m", metric).query(&cx(), &query("m")).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None));
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_checks_own_query_is_an_address_with_a_pointer() {
    let server = MockServer::start().await;
    Mock::given(path("/metrics"))
        .and(query_param("version", "v2&x=1"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"error_rate": 0.5})))
        .mount(&server)
        .await;
    let mut own = query("error-rate");
    own.version = "v2&x=1".to_owned();
    own.query = Some(format!("{}/metrics?version={{{{version}}}}#/error_rate", server.uri()));
    assert_eq!(JsonSource::new(client()).query(&cx(), &own).await.unwrap().value, Some(0.5));
}

#[test]
fn json_questions_without_a_sound_answer_are_refused() {
    let source = JsonSource::new(client())
        .with_metric("mixed", JsonMetric::new("http://api.example/metrics"))
        .with_metric("apart", JsonMetric::new("http://api.example/metrics/{{track}}"))
        .with_metric("pointer", JsonMetric::new("http://api.example/{{version}}").at("error_rate"));
    source.check(&query("apart")).unwrap();
    for (metric, kind, says) in [
        ("mixed", ErrorKind::Invalid, "does not tell versions apart"),
        ("pointer", ErrorKind::Invalid, "is not a JSON pointer"),
        ("other", ErrorKind::Unsupported, "known are apart, mixed, pointer"),
    ] {
        let error = source.check(&query(metric)).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(says), "{error}");
    }
}
