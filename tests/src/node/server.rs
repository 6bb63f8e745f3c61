//! The process of a pod: a small server of HTTP and gRPC on the pod's own address, with faults by script and metrics in
//! the format of Prometheus.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::group::Member;
use super::log::Log;
use crate::grpc;

const BUCKETS: [(f64, &str); 8] =
    [(0.05, "0.05"), (0.1, "0.1"), (0.25, "0.25"), (0.5, "0.5"), (1.0, "1"), (2.5, "2.5"), (5.0, "5"), (10.0, "10")];

/// The header of the answers in which a pod says its version.
const VERSION_HEADER: &str = "x-version";

/// How long a pod answers on when it is told to end: longer than the rig takes to tell who routes there.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// A running server; dropping it stops it at once, as a crash would.
pub(super) struct Server {
    app: Arc<App>,
    _task: AbortOnDropHandle<io::Result<()>>,
}

struct App {
    member: Arc<Member>,
    log: Arc<Log>,
    started: Instant,
    answers: AtomicU32,
    good: AtomicU64,
    bad: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    in_flight: AtomicU32,
    /// Cancelled when the pod is on its way out.
    ends: CancellationToken,
}

impl Server {
    /// Starts to listen; the counters begin at zero, as those of every new process.
    pub(super) async fn start(ip: Ipv4Addr, port: u16, member: Arc<Member>, log: Arc<Log>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((ip, port))).await?;
        let app = Arc::new(App {
            member,
            log,
            started: Instant::now(),
            answers: AtomicU32::new(0),
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            buckets: Default::default(),
            micros: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            ends: CancellationToken::new(),
        });
        let ends = app.ends.clone();
        let router = Router::new()
            .route("/healthz", axum::routing::get(healthz))
            .route("/metrics", axum::routing::get(metrics))
            .fallback(answer)
            .layer(axum::middleware::map_response_with_state(Arc::clone(&app), close_at_the_end))
            .with_state(Arc::clone(&app));
        Ok(Self { app, _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, router, ends))) })
    }

    /// Answers for a while longer, until who routes here has learned of the end, and until all answers are given.
    pub(super) async fn drain(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.app.ends.cancel();
        sleep(grace.min(LAST_ANSWERS)).await;
        while self.app.in_flight.load(Relaxed) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl App {
    fn began(&self, after: Duration) -> bool {
        self.member.faults_begin(self.started).is_some_and(|begin| begin + after <= Instant::now())
    }
}

/// Unlike those of `axum::serve`, connections end with the server, as those of any process that ends.
async fn accept(listener: TcpListener, router: Router, ends: CancellationToken) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(serve(accepted?.0, router.clone(), ends.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, router: Router, ends: CancellationToken) {
    // An answer is one small write, which must not wait for the client to acknowledge the one before.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let mut first = [0; 3];
    // No request of HTTP/1 begins so. How a connection ends is for the client to see.
    if !matches!(stream.peek(&mut first).await, Ok(3) if first == *b"PRI") {
        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let builder = http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // Who comes at the very end is answered as any other.
    if !ends.is_cancelled() {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = ends.cancelled() => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = connection.await;
}

/// Who keeps a connection is told to make another one in time; of HTTP/2, which has its own way, hyper leaves the
/// header out.
async fn close_at_the_end(State(app): State<Arc<App>>, mut response: Response) -> Response {
    if app.ends.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let begun = Instant::now();
    app.in_flight.fetch_add(1, Relaxed);
    let behaviour = app.member.behaviour();
    if let Some(latency) = behaviour.latency.filter(|latency| app.began(latency.after)) {
        sleep(latency.amount).await;
    }
    let failing = behaviour.errors.is_some_and(|errors| app.began(errors.after));
    let failed = failing && behaviour.is_error(app.answers.fetch_add(1, Relaxed));
    let took = begun.elapsed();
    if let Some(bucket) = BUCKETS.iter().position(|(limit, _)| took.as_secs_f64() <= *limit) {
        app.buckets[bucket].fetch_add(1, Relaxed);
    }
    app.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    if failed {
        app.log.write(format!("ERROR GET / answered 500 after {} ms", took.as_millis()));
    }
    if failed { &app.bad } else { &app.good }.fetch_add(1, Relaxed);
    app.in_flight.fetch_sub(1, Relaxed);
    if grpc::is_call(&headers) {
        return grpc::answer(&behaviour.version, failed);
    }
    let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    (status, [(VERSION_HEADER, behaviour.version.as_str())], format!("{}\n", behaviour.version)).into_response()
}

async fn healthz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    let member = &app.member;
    let failing = member.behaviour().unready.is_some_and(|unready| app.began(unready.after));
    if failing && member.behaviour().is_unready(member.ordinal()) {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(app): State<Arc<App>>) -> String {
    let (good, bad) = (app.good.load(Relaxed), app.bad.load(Relaxed));
    let mut text = format!(
        "# TYPE http_requests_total counter\n\
         http_requests_total{{code=\"200\"}} {good}\n\
         http_requests_total{{code=\"500\"}} {bad}\n\
         # TYPE http_request_duration_seconds histogram\n"
    );
    let mut sum = 0;
    for ((_, le), bucket) in BUCKETS.iter().zip(&app.buckets) {
        sum += bucket.load(Relaxed);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "http_request_duration_seconds_bucket{{le=\"{le}\"}} {sum}");
    }
    let all = good + bad;
    #[expect(clippy::cast_precision_loss, reason = "seconds to the microsecond are exact for centuries")]
    let seconds = app.micros.load(Relaxed) as f64 / 1e6;
    let _ = writeln!(text, "http_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}");
    let _ = writeln!(text, "http_request_duration_seconds_sum {seconds}\nhttp_request_duration_seconds_count {all}");
    text
}
