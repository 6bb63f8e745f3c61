//! A way to the API server that a test can cut, without harm to other tests.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Namespace;
use super::bridge::host_and_port;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Stalled,
    Cut,
}

/// A proxy that passes bytes on between a program under test and the API server.
#[derive(Debug)]
pub struct ApiProxy {
    server: String,
    way: Arc<watch::Sender<Way>>,
    _task: AbortOnDropHandle<()>,
}

impl ApiProxy {
    /// The URL of the API server by this way.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A kubeconfig of `user` by this way.
    pub fn kubeconfig(&self, namespace: &Namespace, user: &str) -> PathBuf {
        namespace.write_kubeconfig(user, &self.server, None)
    }

    /// Nothing passes any more, in either direction, and connections stay open; as behind a stopped server.
    pub fn stall(&self) {
        self.way.send_replace(Way::Stalled);
    }

    /// Connections break, and new ones are closed at once.
    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// Bytes pass again; those that were held back too.
    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }
}

impl Namespace {
    /// A way to the API server that this test can cut.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn api_proxy(&self) -> ApiProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let target = host_and_port(&self.rig().state().server).expect("the URL of a server");
        let way = Arc::new(watch::Sender::new(Way::Open));
        let sender = Arc::clone(&way);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, target.clone(), sender.subscribe()));
            }
        });
        ApiProxy { server: format!("https://{address}"), way, _task: AbortOnDropHandle::new(task) }
    }
}

/// Passes bytes on for as long as the way is open. A stalled copy is left as it is, with what it has read and not yet
/// written, so that nothing is lost.
async fn pass(mut client: TcpStream, target: (String, u16), mut way: watch::Receiver<Way>) {
    let copy = async {
        let mut server = TcpStream::connect(target).await?;
        copy_bidirectional(&mut client, &mut server).await
    };
    let mut copy = std::pin::pin!(copy);
    loop {
        let now = *way.borrow_and_update();
        let changed = match now {
            Way::Cut => return,
            Way::Stalled => way.changed().await,
            Way::Open => tokio::select! {
                // The end of either side is the end of both; the reason is theirs to see.
                _ = &mut copy => return,
                changed = way.changed() => changed,
            },
        };
        if changed.is_err() {
            return;
        }
    }
}
