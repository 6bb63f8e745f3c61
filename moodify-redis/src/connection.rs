//! One multiplexed connection to each node, made when it is first needed and made anew after it broke.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moodify_core::{CallContext, Effect, Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisConnectionInfo, RedisResult};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::address::Address;
use crate::config::Timeouts;
use crate::error::{Access, BACKEND, from_connect, from_redis, from_tls_setup};

/// How all nodes are reached.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) login: RedisConnectionInfo,
    tls: Option<TlsConnector>,
    timeouts: Timeouts,
}

impl Way {
    /// Reads the trust store if there is TLS.
    pub(crate) fn new(
        login: RedisConnectionInfo,
        tls: bool,
        authorities: Option<&Path>,
        timeouts: Timeouts,
    ) -> Result<Self> {
        let tls = tls.then(|| self::tls(authorities)).transpose()?;
        Ok(Self { login, tls, timeouts })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The same servers, where another login is needed.
    pub(crate) fn with_login(&self, login: RedisConnectionInfo) -> Self {
        Self { login, ..self.clone() }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("login", &self.login).field("tls", &self.is_tls()).finish_non_exhaustive()
    }
}

/// One server.
pub(crate) struct Node {
    address: Address,
    way: Arc<Way>,
    current: Mutex<Option<Arc<Link>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.label()).finish()
    }
}

impl Node {
    /// Does not connect yet.
    pub(crate) fn new(address: Address, way: Arc<Way>) -> Self {
        Self { address, way, current: Mutex::new(None) }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// How errors name it: `rediss://host:6379/0`, without credentials.
    pub(crate) fn label(&self) -> String {
        let scheme = if self.way.is_tls() { "rediss" } else { "redis" };
        format!("{scheme}://{}/{}", self.address, self.way.login.db())
    }

    /// Sends one command and reads its answer.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        access: Access,
        command: &Cmd,
    ) -> Result<T> {
        let request = |mut connection: MultiplexedConnection| async move { command.query_async(&mut connection).await };
        self.send(cx, operation, access, request).await
    }

    /// Sends many commands at once, and reads the answer to each, which may be an error. No transactions: version 1.8.1
    /// of the client library panics over one that an ACL refuses.
    pub(crate) async fn ask_all<T: FromRedisValue>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        access: Access,
        commands: &mut Pipeline,
    ) -> Result<Vec<RedisResult<T>>> {
        let commands = &*commands.ignore_errors();
        let request =
            |mut connection: MultiplexedConnection| async move { commands.query_async(&mut connection).await };
        self.send(cx, operation, access, request).await
    }

    /// The error of one of many commands.
    pub(crate) fn failed(&self, error: redis::RedisError, operation: &'static str, access: Access) -> Error {
        from_redis(error, operation, access).on(self.label())
    }

    async fn send<T, F: Future<Output = RedisResult<T>>>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        access: Access,
        request: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T> {
        let connect = cx.at_most(self.way.timeouts.connect);
        let link = connect
            .run(BACKEND, operation, self.link(operation))
            .await
            .map_err(|e| e.effect(Effect::None).on(self.label()))?;

        let in_flight = InFlight(&link);
        let answer = async {
            let answer = request(link.connection.clone()).await;
            // An error of the server is an answer too; after any other one the connection is of no more use.
            if answer.as_ref().err().is_none_or(|e| !e.is_unrecoverable_error()) {
                in_flight.answered();
            }
            answer.map_err(|e| from_redis(e, operation, access))
        };
        cx.at_most(self.way.timeouts.response).run(BACKEND, operation, answer).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { access.unanswered() };
            e.effect(effect).on(self.label())
        })
    }

    /// The current connection, or a new one. Callers that come meanwhile wait for the same one.
    async fn link(&self, operation: &'static str) -> Result<Arc<Link>> {
        let mut current = self.current.lock().await;
        if let Some(link) = current.as_ref().filter(|link| link.usable()) {
            return Ok(link.clone());
        }
        // Closes the broken one, also if no new one can be made.
        *current = None;
        debug!(server = %self.label(), "connecting");
        let link = Arc::new(self.connect(operation).await?);
        *current = Some(link.clone());
        Ok(link)
    }

    async fn connect(&self, operation: &'static str) -> Result<Link> {
        let Address { host, port } = &self.address;
        let broken = |e: io::Error| from_connect(e, operation);
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        match &self.way.tls {
            None => self.log_in(stream, operation).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|e| from_tls_setup(format!("bad host name {host:?}"), e))?;
                let stream = tls.connect(name, stream).await.map_err(broken)?;
                self.log_in(stream, operation).await
            }
        }
    }

    async fn log_in(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        operation: &'static str,
    ) -> Result<Link> {
        // Our own deadlines bound every request.
        let no_timeouts = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&self.way.login, stream, no_timeouts)
            .await
            .map_err(|e| from_redis(e, operation, Access::Read))?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Link { connection, driver, broken: AtomicBool::new(false) })
    }
}

/// A connection and the task that drives it.
struct Link {
    connection: MultiplexedConnection,
    driver: AbortHandle,
    broken: AtomicBool,
}

impl Link {
    fn usable(&self) -> bool {
        !self.broken.load(Ordering::Acquire) && !self.driver.is_finished()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Marks the connection as broken unless the answer came: after a deadline or a cancellation nobody knows whether
/// the server still answers on it, and no other request shall queue behind that.
struct InFlight<'a>(&'a Link);

impl InFlight<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Release);
    }
}

/// TLS with ring and the given authorities, or else the machine's.
fn tls(authorities: Option<&Path>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(file) => {
            let unreadable = |e| from_tls_setup(format!("cannot read {}", file.display()), e);
            for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
                roots
                    .add(certificate.map_err(unreadable)?)
                    .map_err(|e| from_tls_setup(format!("bad certificate in {}", file.display()), e))?;
            }
        }
        // Some unreadable ones among the machine's many are not our concern.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(from_tls_setup("no authority to trust", "give one with ca-file"));
    }
    // The provider is named, because the process-wide default belongs to the program that embeds us.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| from_tls_setup("no common TLS version", e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
