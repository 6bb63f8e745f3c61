//! Connections under TLS that can be reset as a network resets them.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::task::AtomicWaker;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::BoxError;

/// Resets one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Scissors(Arc<Cut>);

#[derive(Debug, Default)]
struct Cut {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Scissors {
    /// Nothing passes any more, and the other side is told of a reset, not of an end.
    pub(super) fn cut(&self) {
        self.0.done.store(true, SeqCst);
        self.0.waker.wake();
    }

    fn is_cut(&self) -> bool {
        self.0.done.load(SeqCst)
    }

    /// Lets a connection that waits notice the cut.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.0.waker.register(cx.waker());
        if self.is_cut() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Connected<IncomingStream<'_, Door>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection of a client.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    scissors: Scissors,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.scissors.is_cut() {
            // Without it, closing would be an orderly end.
            let _ = self.stream.get_ref().0.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.scissors.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.scissors.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.scissors.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.scissors.check(cx)?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

/// Where clients come in.
pub(super) struct Door {
    accepted: mpsc::Receiver<Connection>,
    _task: AbortOnDropHandle<()>,
}

impl Door {
    /// Opens it, with the certificate and the key in `dir`; returns its port too.
    pub(super) async fn open(dir: &Path) -> Result<(Self, u16), BoxError> {
        let chain = CertificateDer::pem_file_iter(dir.join("server.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth().with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (sender, accepted) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            let mut greetings = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                // One client that does not go on with its greeting must not keep the others waiting.
                greetings.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send(Connection { stream, scissors: Scissors::default() }).await;
                    }
                });
            }
        });
        Ok((Self { accepted, _task: AbortOnDropHandle::new(task) }, port))
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = Scissors;

    async fn accept(&mut self) -> (Connection, Scissors) {
        match self.accepted.recv().await {
            Some(connection) => {
                let scissors = connection.scissors.clone();
                (connection, scissors)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Scissors> {
        Ok(Scissors::default())
    }
}
