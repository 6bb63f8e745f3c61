//! The one way out of the rig's network namespace: to the API server of a cluster that is there already, by a socket in
//! the file system, which network namespaces share.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use axum::http::Uri;
use kube::config::Kubeconfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::BoxError;

/// The environment variable with the path of the bridge's socket.
pub const BRIDGE: &str = "MOODIFY_RIG_BRIDGE";

/// The outer end: what comes in at `socket` goes to the API server of the kubeconfig's current context.
///
/// # Errors
///
/// When the kubeconfig names no server, or the socket cannot be bound.
pub fn outer_end(kubeconfig: &Path, socket: &Path) -> Result<AbortOnDropHandle<()>, BoxError> {
    let (host, port) = host_and_port(&server(kubeconfig)?)?;
    let listener = UnixListener::bind(socket)?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            let host = host.clone();
            tokio::spawn(async move {
                match TcpStream::connect((host.as_str(), port)).await {
                    // The end of either side is the end of both.
                    Ok(mut outer) => drop(copy_bidirectional(&mut inner, &mut outer).await),
                    Err(error) => eprintln!("rig: {host}:{port}: {error}"),
                }
            });
        }
    })))
}

/// The inner end: a port of this network namespace that leads to `socket`.
pub(super) async fn inner_end(socket: PathBuf) -> Result<(u16, AbortOnDropHandle<()>), BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut outer = UnixStream::connect(socket).await?;
                copy_bidirectional(&mut inner, &mut outer).await
            });
        }
    });
    Ok((port, AbortOnDropHandle::new(task)))
}

/// Where a server's URL leads.
pub(super) fn host_and_port(server: &str) -> Result<(String, u16), BoxError> {
    let uri: Uri = server.parse().map_err(|error| format!("{server}: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("{server} names no host"))?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

fn server(kubeconfig: &Path) -> Result<String, BoxError> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let current = config.current_context.as_deref().ok_or("the kubeconfig has no current context")?;
    let context = config.contexts.iter().find(|context| context.name == current);
    let cluster = context.and_then(|context| context.context.as_ref()).map(|context| context.cluster.as_str());
    let cluster = config.clusters.iter().find(|named| Some(named.name.as_str()) == cluster);
    let server = cluster.and_then(|named| named.cluster.as_ref()?.server.clone());
    server.ok_or_else(|| format!("the context {current} of {} names no server", kubeconfig.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_server_is_in_its_url() {
        let read = |url| host_and_port(url).unwrap();
        assert_eq!(read("https://127.0.0.1:6443"), ("127.0.0.1".to_owned(), 6443));
        assert_eq!(read("https://[::1]:6443"), ("::1".to_owned(), 6443));
        assert_eq!(read("https://api.example.test/clusters/a"), ("api.example.test".to_owned(), 443));
        assert!(host_and_port("/").is_err());
    }
}
