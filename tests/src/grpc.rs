//! Unary gRPC calls without generated code: what the pods answer, and the client of the load. HTTP/2 with prior knowledge.
//!
//! The one method has an empty request. Its answer is a message with one field, the version of the pod.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// The service and the method that are called.
const METHOD: &str = "/web.Web/Version";
const GRPC: &str = "application/grpc";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const OK: &str = "0";
const INTERNAL: &str = "13";
/// Field 1, a text.
const VERSION: u8 = 1 << 3 | 2;

/// Whether a request with these headers is a call.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()))
}

/// What a pod answers to a call: its version, or that it failed.
pub(crate) fn answer(version: &str, failed: bool) -> Response<Body> {
    let status = |code| HeaderMap::from_iter([(http::HeaderName::from_static(STATUS), HeaderValue::from_static(code))]);
    let mut response = if failed {
        // Who has no message to send has no trailers either: the headers are the end.
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = status(INTERNAL);
        response.headers_mut().insert(MESSAGE, HeaderValue::from_static("as the image says"));
        response
    } else {
        let end = std::future::ready(Some(Ok(status(OK))));
        Response::new(Body::new(Full::new(framed(version)).with_trailers(end)))
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

/// The one message of an answer, not compressed, after its length.
fn framed(version: &str) -> Bytes {
    let text = u8::try_from(version.len()).ok().filter(|length| *length < 128).expect("a version is a short word");
    let mut frame = vec![0, 0, 0, 0, text + 2, VERSION, text];
    frame.extend_from_slice(version.as_bytes());
    frame.into()
}

/// The version in a body that is such a message and nothing else.
fn version(body: &[u8]) -> Option<&str> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let (field, text) = message.split_first_chunk::<2>()?;
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 128)?;
    let whole = *prefix == [0, 0, 0, 0, length + 2] && *field == [VERSION, length];
    whole.then(|| std::str::from_utf8(text).ok()).flatten()
}

/// A connection over which calls are made, one after the other.
pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

/// A call without an answer.
pub(crate) struct Broken {
    pub(crate) error: io::Error,
    /// It was never sent: the server had ended the connection before.
    pub(crate) unsent: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (requests, connection) = handshake.map_err(io::Error::other)?;
        let driver = async move {
            // How it ends is told to the calls.
            let _ = connection.await;
        };
        Ok(Self { requests, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
    }

    /// Whether the server takes no more calls over it.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Calls the host and waits for the whole answer: a version, or why there is none. Only `grpc-status: 0` is good.
    pub(crate) async fn call(&mut self, host: &str) -> Result<Result<String, String>, Broken> {
        let request = Request::post(format!("http://{host}{METHOD}"))
            .header(CONTENT_TYPE, GRPC)
            .header(TE, "trailers")
            .body(Full::from(vec![0; 5]))
            .map_err(|error| Broken { error: io::Error::other(error), unsent: false })?;
        let sent = self.requests.try_send_request(request).await;
        let response = sent.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            Broken { error: io::Error::other(failed.into_error()), unsent }
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| Broken { error: io::Error::other(error), unsent: false })?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(read(head.status, &head.headers, &body.to_bytes(), &trailers))
    }
}

/// What the parts of an answer say. The status is in the trailers, or in the headers of an answer that is nothing else.
fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], trailers: &HeaderMap) -> Result<String, String> {
    let end = if body.is_empty() && trailers.is_empty() { headers } else { trailers };
    let text = |name: &str| end.get(name).and_then(|value| value.to_str().ok());
    match text(STATUS) {
        Some(OK) if status == StatusCode::OK && is_call(headers) => {
            version(body).map(str::to_owned).ok_or_else(|| format!("no message: {body:?}"))
        }
        Some(code) => Err(format!("{status}, {STATUS} {code} {}", text(MESSAGE).unwrap_or_default())),
        None => Err(format!("{status}, no {STATUS}: {}", String::from_utf8_lossy(body).trim_end())),
    }
}

/// Waits until calls of `host` are answered by the data plane of this name.
///
/// # Panics
///
/// When they are not for a minute, with the last answer.
pub(crate) async fn until_served(plane: &str, address: SocketAddr, host: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = match Connection::open(address).await {
            Ok(mut connection) => connection.call(host).await.unwrap_or_else(|broken| Err(broken.error.to_string())),
            Err(error) => Err(error.to_string()),
        };
        let Err(reason) = answer else { return };
        assert!(Instant::now() < deadline, "{plane} does not serve calls of {host}: {reason}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_back(answer: Response<Body>) -> Result<String, String> {
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        read(head.status, &head.headers, &body.to_bytes(), &trailers)
    }

    #[tokio::test]
    async fn answers_read_as_what_they_say() {
        assert_eq!(read_back(answer("v1", false)).await, Ok("v1".to_owned()));
        assert_eq!(read_back(answer("v1", true)).await, Err("200 OK, grpc-status 13 as the image says".to_owned()));
    }

    #[test]
    fn a_call_without_its_status_or_its_message_has_failed() {
        let kind = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(GRPC))]);
        let good = HeaderMap::from_iter([(http::HeaderName::from_static(STATUS), HeaderValue::from_static(OK))]);
        let none = HeaderMap::new();
        let message = framed("v2");
        assert_eq!(read(StatusCode::OK, &kind, &message, &good), Ok("v2".to_owned()));
        for (status, headers, body, trailers) in [
            (StatusCode::OK, &kind, &message[..], &none),
            (StatusCode::OK, &kind, &message[..message.len() - 1], &good),
            (StatusCode::OK, &kind, &[][..], &good),
            (StatusCode::OK, &none, &message[..], &good),
            (StatusCode::BAD_GATEWAY, &kind, &message[..], &good),
            (StatusCode::BAD_GATEWAY, &none, &b"Bad Gateway"[..], &none),
        ] {
            assert!(read(status, headers, body, trailers).is_err(), "{status} {headers:?} {body:?} {trailers:?}");
        }
    }
}
