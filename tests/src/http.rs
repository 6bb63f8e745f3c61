//! The smallest HTTP client that the rig needs: one request, one connection, the whole answer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Sends a GET and waits for the whole answer: its status and its body. One that breaks off is an error.
///
/// HTTP/1.0, because its answers end with the connection and have no chunks.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    get_from(address, &address.to_string(), path).await
}

/// The same from one of the hosts behind an address.
pub(crate) async fn get_from(address: SocketAddr, host: &str, path: &str) -> io::Result<(u16, String)> {
    get_with(address, host, path, "").await
}

/// The same with more header lines, each with its line end.
pub(crate) async fn get_with(address: SocketAddr, host: &str, path: &str, headers: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    // "HTTP/1.0 200 OK"
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Waits until requests for `host` are answered with 200 by the data plane of this name.
///
/// # Panics
///
/// When they are not for a minute, with the last answer.
pub(crate) async fn until_served(plane: &str, address: SocketAddr, host: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match get_from(address, host, "/").await {
            Ok((200, _)) => return,
            answer => assert!(Instant::now() < deadline, "{plane} does not serve {host}: {answer:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Percent-encodes what is not safe in the value of a query.
pub(crate) fn encode(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
