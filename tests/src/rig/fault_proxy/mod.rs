//! A way to the API server on which single requests meet faults.
//!
//! It speaks TLS with both sides, so it sees requests; callers tell who they are by token, which is passed on. Watches and
//! logs are passed on as they come; what upgrades its connection, as `exec` does, cannot pass.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header, request};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, BoxStream, StreamExt as _};
use kube::Client;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::door::{Door, Scissors};
use super::{ADMIN, Namespace};
use crate::BoxError;

mod rule;

pub use rule::{Fault, Passed, Rule};

/// More than any object of the tests.
const LARGEST: usize = 16 << 20;
/// How long a watch goes well before it meets its fault.
const WATCHED: Duration = Duration::from_secs(1);

/// A proxy between a program under test and the API server, which injects faults by rules and keeps a ledger.
#[derive(Debug)]
pub struct FaultProxy {
    server: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    upstream: Client,
    known: Mutex<Known>,
}

/// What the proxy has seen and shall do.
#[derive(Debug, Default)]
struct Known {
    rules: Vec<Rule>,
    random: fastrand::Rng,
    ledger: Vec<Passed>,
    /// Whether a write has come.
    begun: bool,
    /// The answers to reads of an object, one for each version of it, as they came.
    versions: HashMap<String, Vec<(String, u16, Bytes)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("known", &self.known).finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// A kubeconfig of `user` by this way.
    pub fn kubeconfig(&self, namespace: &Namespace, user: &str) -> PathBuf {
        namespace.write_kubeconfig(user, &self.server, None)
    }

    /// A fault from now on. Of several that a request meets, the one that was added first happens.
    pub fn add(&self, rule: Rule) {
        self.shared.known().rules.push(rule);
    }

    /// No more faults.
    pub fn clear(&self) {
        self.shared.known().rules.clear();
    }

    /// What rules with a chance draw from.
    pub fn seed(&self, seed: u64) {
        self.shared.known().random = fastrand::Rng::with_seed(seed);
    }

    /// The requests so far.
    pub fn ledger(&self) -> Vec<Passed> {
        self.shared.known().ledger.clone()
    }
}

impl Namespace {
    /// A way to the API server with faults, for a test that took [`Rig::own`](super::Rig::own).
    ///
    /// # Panics
    ///
    /// When the control plane is not the rig's own, or no port is free.
    pub async fn fault_proxy(&self) -> FaultProxy {
        self.open_fault_proxy().await.expect("the proxy can be opened")
    }

    async fn open_fault_proxy(&self) -> Result<FaultProxy, BoxError> {
        let state = self.rig().state();
        assert!(state.is_own(), "only the rig's own control plane has a key for the proxy: a test takes Rig::own");
        let mut kubeconfig = Kubeconfig::read_from(state.kubeconfig(ADMIN))?;
        for user in &mut kubeconfig.auth_infos {
            // Who asks is told by the requests themselves.
            user.auth_info = Some(AuthInfo::default());
        }
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        (config.default_retry, config.read_timeout) = (false, None);
        let shared = Arc::new(Shared { upstream: Client::try_from(config)?, known: Mutex::default() });
        let (door, port) = Door::open(&state.dir).await?;
        let router = axum::Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let service = router.into_make_service_with_connect_info::<Scissors>();
        let task = tokio::spawn(async move {
            let _ = axum::serve(door, service).await;
        });
        let server = format!("https://127.0.0.1:{port}");
        Ok(FaultProxy { server, shared, _task: AbortOnDropHandle::new(task) })
    }
}

impl Shared {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down; its number, and the fault that it meets.
    fn note(&self, parts: &request::Parts, body: &[u8]) -> (usize, Option<Fault>) {
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let is_watch = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let verb = if is_watch { "WATCH" } else { parts.method.as_str() }.to_owned();
        let path = parts.uri.path().to_owned();
        let body = serde_json::from_slice(body).unwrap_or_default();
        let mut passed = Passed { verb, path, query, body, at: Instant::now(), fault: None, code: None };
        let known = &mut *self.known();
        known.begun |= passed.is_write();
        let (begun, random) = (known.begun, &mut known.random);
        passed.fault = known.rules.iter_mut().find_map(|rule| rule.meets(&passed, begun, random));
        known.ledger.push(passed);
        let number = known.ledger.len() - 1;
        (number, known.ledger[number].fault)
    }

    /// The answer of the API server, the beginning of it.
    async fn ask(&self, number: usize, parts: request::Parts, body: Bytes) -> Response {
        let mut request = http::Request::builder().method(parts.method).uri(parts.uri);
        for name in [header::AUTHORIZATION, header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT] {
            if let Some(value) = parts.headers.get(&name) {
                request = request.header(name, value);
            }
        }
        // The parts are those of a request that arrived.
        let request = request.body(kube::client::Body::from(body.to_vec())).expect("a valid request");
        match self.upstream.send(request).await {
            Ok(answer) => {
                self.known().ledger[number].code = Some(answer.status().as_u16());
                answer.map(Body::new)
            }
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }

    /// The whole answer of the API server.
    async fn ask_all(&self, number: usize, parts: request::Parts, body: Bytes) -> (StatusCode, HeaderMap, Bytes) {
        let (head, body) = self.ask(number, parts, body).await.into_parts();
        let body = to_bytes(body, LARGEST).await.unwrap_or_default();
        self.remember(number, head.status.as_u16(), &body);
        (head.status, head.headers, body)
    }

    /// Keeps the version of the object in an answer, if it is another one than the last.
    fn remember(&self, number: usize, code: u16, body: &Bytes) {
        let known = &mut *self.known();
        let passed = &known.ledger[number];
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let named = answer["metadata"]["name"].as_str().is_some_and(|name| passed.path.ends_with(name));
        let version = match code {
            404 => "none",
            200 | 201 if named && passed.is_write() | (passed.verb == "GET") => {
                answer["metadata"]["resourceVersion"].as_str().unwrap_or_default()
            }
            _ => return,
        };
        let versions = known.versions.entry(passed.path.clone()).or_default();
        if versions.last().is_none_or(|(last, ..)| last != version) {
            versions.push((version.to_owned(), code, body.clone()));
        }
    }

    /// The version of the object before the newest that is known.
    fn stale(&self, number: usize) -> Option<Response> {
        let known = self.known();
        let versions = known.versions.get(&known.ledger[number].path)?;
        let (_, code, body) = versions.iter().rev().nth(1)?;
        Some(answer(*code, body.clone()))
    }
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(way): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST).await.unwrap_or_default();
    let (number, fault) = shared.note(&parts, &body);
    let is_watch = shared.known().ledger[number].verb == "WATCH" || parts.uri.path().ends_with("/log");
    let after_a_while = || sleep(WATCHED);
    match fault {
        Some(Fault::Throttle(seconds)) => {
            let mut answer = refusal(429, "too many requests: the proxy asks to slow down");
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            return answer;
        }
        Some(Fault::Refuse(code)) => return refusal(code, "the proxy refuses it"),
        Some(Fault::ResetBefore) => return reset(&way).await,
        Some(Fault::Stall(time)) => {
            // It goes on when the client is gone, as in a network.
            let late = tokio::spawn(async move {
                sleep(time).await;
                shared.ask_all(number, parts, body).await
            });
            return late.await.map_or_else(|_| StatusCode::BAD_GATEWAY.into_response(), plain);
        }
        Some(Fault::Stale) if let Some(stale) = shared.stale(number) => return stale,
        _ => {}
    }
    if is_watch {
        let (head, body) = shared.ask(number, parts, body).await.into_parts();
        let events = body.into_data_stream().map(|chunk| chunk.map_err(io::Error::other));
        let events: BoxStream<'static, io::Result<Bytes>> = match fault {
            Some(Fault::ResetInAnswer | Fault::LoseAnswer) => {
                events.take_until(after_a_while()).chain(stream::once(async move { cut(&way) })).boxed()
            }
            Some(Fault::CloseWatch) => events.take_until(after_a_while()).boxed(),
            Some(Fault::Expire) => {
                let expired = json!({"type": "ERROR", "object": status(410, "too old resource version")});
                let expired = Ok(Bytes::from(format!("{expired}\n")));
                events.take_until(after_a_while()).chain(stream::once(async { expired })).boxed()
            }
            _ => events.boxed(),
        };
        return Response::from_parts(head, Body::from_stream(events));
    }
    let whole = shared.ask_all(number, parts, body).await;
    match fault {
        Some(Fault::LoseAnswer) => reset(&way).await,
        Some(Fault::ResetInAnswer) => {
            let (code, mut headers, body) = whole;
            headers.insert(header::CONTENT_LENGTH, body.len().into());
            let half = body.slice(..body.len() / 2);
            let rest = async move {
                // What is sent first must be on its way.
                sleep(Duration::from_millis(50)).await;
                cut(&way)
            };
            let halved = stream::once(async { Ok(half) }).chain(stream::once(rest));
            (code, headers, Body::from_stream(halved)).into_response()
        }
        _ => plain(whole),
    }
}

fn plain((code, mut headers, body): (StatusCode, HeaderMap, Bytes)) -> Response {
    headers.remove(header::TRANSFER_ENCODING);
    (code, headers, body).into_response()
}

/// Resets the connection in place of an answer.
async fn reset(way: &Scissors) -> Response {
    way.cut();
    std::future::pending().await
}

/// Resets the connection in place of the rest of an answer.
fn cut(way: &Scissors) -> io::Result<Bytes> {
    way.cut();
    Err(io::ErrorKind::ConnectionReset.into())
}

fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code})
}

fn refusal(code: u16, message: &str) -> Response {
    answer(code, status(code, message).to_string().into())
}

fn answer(code: u16, body: Bytes) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
