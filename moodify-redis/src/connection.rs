//! One multiplexed connection, made when it is first needed and made anew after it broke.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moodify_core::{CallContext, Effect, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::config::{RedisConfig, Server};
use crate::error::{Access, BACKEND, from_connect, from_redis, from_tls_setup};

/// The way to one server.
pub(crate) struct Connector {
    server: Server,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connect_timeout: Duration,
    response_timeout: Duration,
    current: Mutex<Option<Arc<Link>>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the trust store, but does not connect.
    pub(crate) fn new(config: &RedisConfig, server: Server) -> Result<Self> {
        let tls = if server.tls { Some(tls(config.authorities(), &server.host)?) } else { None };
        let (connect_timeout, response_timeout) = config.timeouts();
        Ok(Self { server, tls, connect_timeout, response_timeout, current: Mutex::new(None) })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Sends one command and reads its answer.
    ///
    /// One at a time and no transactions: the errors of pipelines hide their codes, and version 1.8.1 of the client
    /// library panics over a transaction that an ACL refuses.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        access: Access,
        command: &Cmd,
    ) -> Result<T> {
        let address = || self.server.address();
        let connect = cx.at_most(self.connect_timeout);
        let link = connect
            .run(BACKEND, operation, self.link(operation))
            .await
            .map_err(|e| e.effect(Effect::None).on(address()))?;

        let in_flight = InFlight(&link);
        let answer = async {
            let answer = command.query_async(&mut link.connection.clone()).await;
            // An error of the server is an answer too; after any other one the connection is of no more use.
            if answer.as_ref().err().is_none_or(|e| !e.is_unrecoverable_error()) {
                in_flight.answered();
            }
            answer.map_err(|e| from_redis(e, operation, access))
        };
        cx.at_most(self.response_timeout).run(BACKEND, operation, answer).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { access.unanswered() };
            e.effect(effect).on(address())
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
        debug!(server = %self.server.address(), "connecting");
        let link = Arc::new(self.connect(operation).await?);
        *current = Some(link.clone());
        Ok(link)
    }

    async fn connect(&self, operation: &'static str) -> Result<Link> {
        let Server { host, port, .. } = &self.server;
        let broken = |e: io::Error| from_connect(e, operation);
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        match &self.tls {
            None => self.log_in(stream, operation).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await.map_err(broken)?;
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
        let (connection, driver) = MultiplexedConnection::new_with_config(&self.server.login, stream, no_timeouts)
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
fn tls(authorities: Option<&Path>, host: &str) -> Result<(TlsConnector, ServerName<'static>)> {
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
    let name =
        ServerName::try_from(host.to_owned()).map_err(|e| from_tls_setup(format!("bad host name {host:?}"), e))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
