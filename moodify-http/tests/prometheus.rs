//! The default queries on a real Prometheus that scrapes real figures.
//!
//! The test's own server counts requests of several versions side by side, at known rates; Prometheus (of the Debian
//! package `prometheus`) scrapes it every second.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::analysis::metrics::{ERROR_RATE, LATENCY_P95};
use moodify_core::backend::{MetricQuery, MetricSource};
use moodify_core::model::{Period, Routing, Service, Target, Track, WorkloadKind};
use moodify_core::testing::conformance::{MetricHarness, metric_source};
use moodify_core::{CallContext, ErrorKind, IdempotencyKey, RunId};
use moodify_http::{HttpClient, PrometheusSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Requests per second of a version that has traffic.
const RATE: f64 = 100.0;

/// A pod, its share of errors, and its share of requests below 0.1 s, 1 s, 5 s and 10 s.
struct Pod(&'static str, Option<f64>, [f64; 4]);

const FAST: [f64; 4] = [0.9, 1.0, 1.0, 1.0];
/// 95 % lie in the middle of what lies between 5 s and 10 s.
const SLOW: [f64; 4] = [0.5, 0.8, 0.9, 1.0];

const PODS: [Pod; 5] = [
    Pod("backend-7d9f8c6b5d-abcde", None, FAST),
    Pod("backend-7d9f8c6b5d-fghij", None, FAST),
    Pod("backend-canary-5c4d3b2a19-klmno", Some(0.12), SLOW),
    // Neither of these is `backend`: another workload, and a StatefulSet's pod.
    Pod("backend-worker-5c4d3b2a19-pqrst", Some(1.0), SLOW),
    Pod("backend-queue-0", Some(1.0), SLOW),
];

fn exposition(seconds: f64) -> String {
    let mut text = String::from("# TYPE http_requests_total counter\n");
    for Pod(pod, errors, _) in &PODS {
        let labels = format!("namespace=\"shop\",pod=\"{pod}\"");
        let (all, failed) = (seconds * RATE, errors.unwrap_or(0.0));
        text += &format!("http_requests_total{{{labels},code=\"200\"}} {}\n", all * (1.0 - failed));
        if errors.is_some() {
            text += &format!("http_requests_total{{{labels},code=\"503\"}} {}\n", all * failed);
        }
    }
    // There, and asked nothing.
    text += "http_requests_total{namespace=\"shop\",pod=\"idle-5c4d3b2a19-klmno\",code=\"200\"} 7\n";
    text += "# TYPE http_request_duration_seconds histogram\n";
    let bucket = |pod: &str, le: &str, count: f64| {
        format!("http_request_duration_seconds_bucket{{namespace=\"shop\",pod=\"{pod}\",le=\"{le}\"}} {count}\n")
    };
    for Pod(pod, _, below) in &PODS {
        for (le, share) in ["0.1", "1", "5", "10"].iter().zip(below) {
            text += &bucket(pod, le, seconds * RATE * share);
        }
        text += &bucket(pod, "+Inf", seconds * RATE);
    }
    text += &bucket("idle-5c4d3b2a19-klmno", "1", 7.0);
    text += &bucket("idle-5c4d3b2a19-klmno", "+Inf", 7.0);
    text
}

/// Serves the figures, and returns its address.
async fn serve() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let start = Instant::now();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let body = exposition(start.elapsed().as_secs_f64());
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close";
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// A Prometheus that stops with this value, whatever becomes of the test.
struct Prometheus {
    url: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// `None` without the program, loudly; a panic in CI, where a skipped test must not look like a passed one.
    async fn start(scrape: std::net::SocketAddr) -> Option<Self> {
        let there = Command::new("prometheus").arg("--version").output().await.is_ok_and(|out| out.status.success());
        if !there {
            let message = "SKIPPED: there is no `prometheus` on PATH; apt-get install prometheus";
            assert!(std::env::var_os("CI").is_none(), "{message}");
            eprintln!("{message}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let job = format!("{{job_name: pods, honor_labels: true, static_configs: [{{targets: ['{scrape}']}}]}}");
        let text = format!("global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: [{job}]\n");
        std::fs::write(&config, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self { url: format!("http://127.0.0.1:{port}"), child, dir })
    }

    /// Waits until the figures of all pods span some scrapes.
    async fn ready(&mut self, source: &PrometheusSource) {
        let mut question = query("scrapes", "backend");
        question.query = Some("min(count_over_time(http_requests_total[1m]))".to_owned());
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let scrapes = source.query(&cx(), &question).await;
            if scrapes.as_ref().is_ok_and(|scrapes| scrapes.value.is_some_and(|scrapes| scrapes >= 4.0)) {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "prometheus ended: {}", log());
            assert!(Instant::now() < patience, "prometheus scraped nothing: {scrapes:?} {}", log());
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn cx() -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/bake"), Duration::from_secs(10))
}

fn query(metric: &str, workload: &str) -> MetricQuery {
    let service = Service {
        name: "backend".into(),
        workload: "backend".into(),
        kind: WorkloadKind::Deployment,
        container: None,
        image: "registry.example/backend:v2".parse().unwrap(),
        traffic: Routing::new("replica-ratio", "backend", None),
        config: Vec::new(),
    };
    let target = Target::new("test", "shop", service);
    let mut query = MetricQuery::new(metric, target, Track::Canary, workload, "v2");
    query.window = Period::from_secs(10);
    query
}

fn assert_about(found: Option<f64>, wanted: f64) {
    assert!(found.is_some_and(|found| (found - wanted).abs() < 0.01 * wanted.max(0.1)), "{found:?} is not {wanted}");
}

#[tokio::test]
async fn the_default_queries_tell_versions_apart() {
    let Some(mut prometheus) = Prometheus::start(serve().await).await else { return };
    let source = PrometheusSource::new(HttpClient::new().unwrap(), &prometheus.url).unwrap();
    prometheus.ready(&source).await;
    let measure = async |metric, workload| source.query(&cx(), &query(metric, workload)).await.unwrap().value;

    assert_eq!(measure(ERROR_RATE, "backend").await, Some(0.0), "no series of errors is no errors");
    assert_about(measure(ERROR_RATE, "backend-canary").await, 0.12);
    assert_about(measure(LATENCY_P95, "backend").await, 0.55);
    assert_about(measure(LATENCY_P95, "backend-canary").await, 7.5);
    for nothing in ["idle", "absent"] {
        assert_eq!(measure(ERROR_RATE, nothing).await, None, "{nothing}: no requests are no data, and no health");
        assert_eq!(measure(LATENCY_P95, nothing).await, None, "{nothing}");
    }
    let mut elsewhere = query(ERROR_RATE, "backend");
    elsewhere.target.namespace = "staging".into();
    assert_eq!(source.query(&cx(), &elsewhere).await.unwrap().value, None, "another namespace is another version");

    let mut own = query("own", "backend");
    own.query = Some("sum by (pod) (http_requests_total)".to_owned());
    let many = source.query(&cx(), &own).await.unwrap_err();
    assert!(many.kind() == ErrorKind::Invalid && many.message().contains("6 series"), "{many}");
    own.query = Some("sum(rate(".to_owned());
    let broken = source.query(&cx(), &own).await.unwrap_err();
    assert!(broken.kind() == ErrorKind::Invalid && broken.message().contains("parse error"), "{broken}");
    own.query = Some("http_requests_total * on(namespace) http_requests_total".to_owned());
    let failed = source.query(&cx(), &own).await.unwrap_err();
    assert!(failed.kind() == ErrorKind::Unavailable && failed.is_transient(), "{failed}");

    prometheus.child.kill().await.unwrap();
    let gone = source.query(&cx(), &query(ERROR_RATE, "backend")).await.unwrap_err();
    assert!(gone.kind() == ErrorKind::Unavailable && gone.is_transient(), "{gone}");
}

struct Harness {
    prometheus: Mutex<Prometheus>,
    source: Arc<PrometheusSource>,
}

#[async_trait]
impl MetricHarness for Harness {
    fn source(&self) -> Arc<dyn MetricSource> {
        self.source.clone()
    }

    fn known(&self) -> Vec<(MetricQuery, RangeInclusive<f64>)> {
        let stable = |metric| {
            let mut query = query(metric, "backend");
            query.track = Track::Stable;
            query
        };
        let canary = |metric| query(metric, "backend-canary");
        vec![
            (stable(ERROR_RATE), 0.0..=0.0),
            (canary(ERROR_RATE), 0.118..=0.122),
            (stable(LATENCY_P95), 0.54..=0.56),
            (canary(LATENCY_P95), 7.4..=7.6),
        ]
    }

    fn silent(&self) -> MetricQuery {
        query(ERROR_RATE, "idle")
    }

    fn unanswerable(&self) -> Option<MetricQuery> {
        Some(query("happiness", "backend"))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    async fn stop(&self) {
        self.prometheus.lock().await.child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_source() {
    let Some(mut prometheus) = Prometheus::start(serve().await).await else { return };
    let source = Arc::new(PrometheusSource::new(HttpClient::new().unwrap(), &prometheus.url).unwrap());
    prometheus.ready(&source).await;
    metric_source(&Harness { prometheus: Mutex::new(prometheus), source }).await;
}
