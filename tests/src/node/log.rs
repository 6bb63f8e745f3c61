//! What the containers have written, and the part of the kubelet's own API that `kubectl logs` reaches through the API
//! server.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{BoxError, wall_clock};

/// Lines that are kept of each container.
const KEPT: usize = 1000;

type Lines = VecDeque<(Timestamp, String)>;

/// The logs of all pods, by namespace and name.
#[derive(Default)]
pub(super) struct Logs(Mutex<HashMap<(String, String), Arc<Log>>>);

/// The log of one pod: of the running container and of the one before.
#[derive(Default)]
pub(super) struct Log(Mutex<[Lines; 2]>);

impl Logs {
    /// A new log for a pod.
    pub(super) fn open(&self, namespace: String, pod: String) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The log of a pod that is gone has no other owner.
        logs.retain(|_, log| Arc::strong_count(log) > 1);
        logs.insert((namespace, pod), Arc::clone(&log));
        log
    }

    fn find(&self, namespace: String, pod: String) -> Option<Arc<Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(namespace, pod)).cloned()
    }
}

impl Log {
    /// A new container writes from now on.
    pub(super) fn restart(&self) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines[1] = std::mem::take(&mut lines[0]);
    }

    /// Adds a line.
    pub(super) fn write(&self, line: String) {
        let current = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner)[0];
        if current.len() == KEPT {
            current.pop_front();
        }
        current.push_back((wall_clock(), line));
    }

    fn text(&self, options: &Options) -> String {
        let lines = &self.0.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(options.previous)];
        let wanted = options.tail_lines.unwrap_or(KEPT).min(lines.len());
        let lines = lines.range(lines.len() - wanted..);
        let line = |(at, line): &(Timestamp, String)| match options.timestamps {
            true => format!("{at} {line}\n"),
            false => format!("{line}\n"),
        };
        lines.map(line).collect()
    }
}

/// What the API server passes on of a request for logs, as far as it is heeded here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    tail_lines: Option<usize>,
    previous: bool,
    timestamps: bool,
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

/// Serves the logs to the API server, for ever.
pub(super) async fn serve(listener: TlsListener, logs: Arc<Logs>) -> Result<(), BoxError> {
    let router = Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(answer)).with_state(logs);
    let router = router.route("/healthz", get(|| async { "ok" }));
    Ok(axum::serve(listener, router).await?)
}

async fn answer(
    State(logs): State<Arc<Logs>>,
    Path((namespace, pod, _container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> (StatusCode, String) {
    match logs.find(namespace, pod) {
        Some(log) => (StatusCode::OK, log.text(&options)),
        None => (StatusCode::NOT_FOUND, "the pod has no log\n".to_owned()),
    }
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
