//! What the containers have written, and how `kubectl logs` reads it through the API server.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{BoxError as BodyError, Router};
use futures::stream;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{BoxError, wall_clock};

/// Lines that are kept of each container.
const KEPT: usize = 1000;

type Key = (String, String, String);

/// The logs of all containers, by namespace, pod and name.
#[derive(Default)]
pub(super) struct Logs(Mutex<HashMap<Key, Arc<Log>>>);

/// The log of one container: of the present run and of the one before.
#[derive(Default)]
pub(super) struct Log {
    runs: Mutex<Runs>,
    /// Changes when there is something new to read.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Runs {
    /// How many have begun.
    count: u32,
    now: VecDeque<Line>,
    before: VecDeque<Line>,
    /// The number of the next line.
    next: u64,
    /// Nothing more will come.
    ended: bool,
}

struct Line {
    number: u64,
    at: Timestamp,
    text: String,
}

impl Logs {
    /// A new log for a container of a pod.
    pub(super) fn open(&self, namespace: &str, pod: &str, container: &str) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The log of a pod that is gone has no other owner.
        logs.retain(|_, log| Arc::strong_count(log) > 1);
        logs.insert((namespace.to_owned(), pod.to_owned(), container.to_owned()), Arc::clone(&log));
        log
    }

    fn find(&self, key: &Key) -> Option<Arc<Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

impl Log {
    /// A new run writes from now on.
    pub(super) fn restart(&self) {
        self.change(|runs| {
            runs.before = std::mem::take(&mut runs.now);
            runs.count += 1;
        });
    }

    /// Adds a line.
    pub(super) fn write(&self, text: String) {
        self.change(|runs| {
            if runs.now.len() == KEPT {
                runs.now.pop_front();
            }
            let number = runs.next;
            runs.next += 1;
            runs.now.push_back(Line { number, at: wall_clock(), text });
        });
    }

    /// The container writes nothing any more.
    pub(super) fn end(&self) {
        self.change(|runs| runs.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Runs)) {
        change(&mut self.runs.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.send_modify(|version| *version += 1);
    }

    /// The lines that are asked for, and how to go on from there; `None` if there is no run before.
    fn read(&self, options: &Options) -> Option<(String, Next)> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if options.previous && runs.count < 2 {
            return None;
        }
        let lines = if options.previous { &runs.before } else { &runs.now };
        let since = options.since();
        let recent = lines.iter().skip_while(|line| since.is_some_and(|since| line.at < since));
        let recent: Vec<&Line> = recent.collect();
        let wanted = options.tail_lines.unwrap_or(KEPT).min(recent.len());
        let text = recent[recent.len() - wanted..].iter().map(|line| options.show(line)).collect();
        Some((text, Next { run: runs.count, number: runs.next }))
    }

    /// The lines from `next` on; `None` after the last one of that run.
    fn more(&self, next: &mut Next, options: &Options) -> Option<String> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let over = runs.count != next.run || runs.ended;
        let lines = if runs.count == next.run + 1 { &runs.before } else { &runs.now };
        let text: String = lines.iter().filter(|l| l.number >= next.number).map(|line| options.show(line)).collect();
        next.number = runs.next;
        (!over || !text.is_empty()).then_some(text)
    }
}

/// Where to go on reading.
struct Next {
    run: u32,
    number: u64,
}

/// What the API server passes on of a request for logs, as far as it is heeded here.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    tail_lines: Option<usize>,
    previous: bool,
    timestamps: bool,
    follow: bool,
    since_seconds: Option<u64>,
    since_time: Option<Timestamp>,
}

impl Options {
    fn since(&self) -> Option<Timestamp> {
        self.since_time.or_else(|| self.since_seconds.map(|seconds| wall_clock() - Duration::from_secs(seconds)))
    }

    fn show(&self, Line { at, text, .. }: &Line) -> String {
        if self.timestamps { format!("{at:.9} {text}\n") } else { format!("{text}\n") }
    }
}

/// Binds the port of the kubelet's API: any that is free, as the node's status names it and the usual one may have
/// another rig's node.
pub(super) async fn bind(address: Ipv4Addr) -> Result<TlsListener, BoxError> {
    let identity = rcgen::generate_simple_self_signed([address.to_string()])?;
    let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_no_client_auth().with_single_cert(vec![identity.cert.der().clone()], key.into())?;
    let tcp = TcpListener::bind(SocketAddr::from((address, 0))).await?;
    Ok(TlsListener { tcp, tls: TlsAcceptor::from(Arc::new(config)) })
}

/// What the API server asks for logs at.
pub(super) fn router(logs: Arc<Logs>) -> Router {
    Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(answer)).with_state(logs)
}

async fn answer(State(logs): State<Arc<Logs>>, Path(key): Path<Key>, Query(options): Query<Options>) -> Response {
    let Some(log) = logs.find(&key) else {
        return (StatusCode::NOT_FOUND, "the pod has no log\n").into_response();
    };
    // Before the first look, so that nothing is missed after it.
    let news = log.news.subscribe();
    let (pod, container) = (&key.1, &key.2);
    match log.read(&options) {
        None => {
            let message = format!("previous terminated container {container:?} in pod {pod:?} not found");
            (StatusCode::BAD_REQUEST, message).into_response()
        }
        Some((text, next)) if options.follow && !options.previous => {
            let followed = follow(log, news, next, options);
            let text = stream::once(std::future::ready(Ok::<_, BodyError>(text)));
            Body::from_stream(futures::StreamExt::chain(text, followed)).into_response()
        }
        Some((text, _)) => text.into_response(),
    }
}

/// The lines that are written from now on, until the run ends.
fn follow(
    log: Arc<Log>,
    news: watch::Receiver<u64>,
    next: Next,
    options: Options,
) -> impl futures::Stream<Item = Result<String, BodyError>> {
    stream::unfold((log, news, next), move |(log, mut news, mut next)| {
        let options = options.clone();
        async move {
            loop {
                news.mark_unchanged();
                let text = log.more(&mut next, &options)?;
                if !text.is_empty() {
                    return Some((Ok(text), (log, news, next)));
                }
                news.changed().await.ok()?;
            }
        }
    })
}

pub(super) struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl TlsListener {
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.tcp.local_addr()?.port())
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// One handshake after the other: the API server is the only client.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.tcp.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            match self.tls.accept(stream).await {
                Ok(stream) => return (stream, peer),
                Err(error) => eprintln!("node: {peer}: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
