//! Commands in the name of a container: processes of this machine, over the WebSocket protocol `v5.channel.k8s.io` that
//! the API server passes through (the node declares `ExtendWebSocketsToKubelet`).

use std::process::Stdio;

use axum::Router;
use axum::extract::{Path, RawQuery, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::process;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// The versions that are spoken, the best first. Only the first can say that the input has ended.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What the API server sends commands to.
pub(super) fn router() -> Router {
    Router::new().route("/exec/{namespace}/{pod}/{container}", get(upgrade).post(upgrade))
}

/// What is asked for.
struct Ask {
    argv: Vec<String>,
    input: bool,
}

fn asked(query: &str) -> Ask {
    let url = reqwest::Url::parse(&format!("http://node/?{query}"));
    let pairs: Vec<(String, String)> = url.iter().flat_map(|url| url.query_pairs().into_owned()).collect();
    let argv = pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    Ask { argv, input: pairs.iter().any(|(key, value)| key == "input" && value == "1") }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn upgrade(
    Path((_namespace, pod, _container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    mut request: Request,
) -> Response {
    let ask = asked(query.as_deref().unwrap_or_default());
    let upgraded = request.extensions_mut().remove::<OnUpgrade>();
    let headers = request.headers();
    let offered = text(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let known = PROTOCOLS.iter().find(|known| offered.split(',').any(|offer| offer.trim() == **known));
    let accept = derive_accept_key(text(headers, &header::SEC_WEBSOCKET_KEY).as_bytes());
    let (Some(protocol), Some(upgraded)) = (known, upgraded) else {
        let message = format!("the node speaks {} only, not {offered:?}", PROTOCOLS.join(" and "));
        return (StatusCode::BAD_REQUEST, message).into_response();
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            serve(socket, ask, &pod).await;
        }
    });
    let headers = [
        (header::UPGRADE, "websocket".to_owned()),
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, (*protocol).to_owned()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Runs the command for as long as the connection stands.
async fn serve(socket: Socket, ask: Ask, pod: &str) {
    let (mut sink, messages) = socket.split();
    // The client waits for a first word, which is empty.
    let _ = sink.send(Message::binary(vec![STDOUT])).await;
    let mut command = process::command(ask.argv.iter(), pod);
    command.stdin(if ask.input { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (status, reader) = match command.spawn() {
        Ok(mut child) => {
            // On its own: a command that reads nothing while it waits for us to read must not stop us.
            let mut reader = tokio::spawn(heed(child.stdin.take(), messages));
            let code = tokio::select! {
                code = run(child, &mut sink) => code,
                // The connection ended first, and the process does with it.
                _ = &mut reader => return,
            };
            let Some(code) = code else { return };
            (ended(code), reader)
        }
        Err(error) => {
            let program = ask.argv.first().map_or("", String::as_str);
            let message = format!("error executing command in container: exec: {program:?}: {error}");
            let reason = "InternalError";
            let status =
                json!({"metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": 500});
            (status, tokio::spawn(heed(None, messages)))
        }
    };
    let mut last = vec![STATUS];
    last.extend(status.to_string().into_bytes());
    let _ = sink.send(Message::binary(last)).await;
    // Without a code the other end takes it for a failure.
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(normal))).await;
    // Until the other end has closed, too: what is unread would be lost with the connection.
    let _ = reader.await;
}

/// The exit code, after both outputs; `None` if nobody reads them any more.
async fn run(mut child: Child, sink: &mut SplitSink<Socket, Message>) -> Option<i32> {
    let (output, mut outputs) = mpsc::channel::<Vec<u8>>(16);
    tokio::spawn(copy(child.stdout.take(), STDOUT, output.clone()));
    tokio::spawn(copy(child.stderr.take(), STDERR, output));
    while let Some(chunk) = outputs.recv().await {
        sink.send(Message::binary(chunk)).await.ok()?;
    }
    Some(process::exit_code(&child.wait().await))
}

/// Passes the input on, until the connection ends.
async fn heed(mut stdin: Option<ChildStdin>, mut messages: SplitStream<Socket>) {
    while let Some(Ok(message)) = messages.next().await {
        let Message::Binary(data) = message else { continue };
        let input = match &data[..] {
            [STDIN, input @ ..] => input,
            [CLOSE, STDIN] => {
                stdin = None;
                continue;
            }
            _ => continue,
        };
        let Some(open) = &mut stdin else { continue };
        // A process that reads no more has closed its end.
        if open.write_all(input).await.is_err() {
            stdin = None;
        }
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, channel: u8, to: mpsc::Sender<Vec<u8>>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        let chunk = [&[channel], &buffer[..length]].concat();
        if to.send(chunk).await.is_err() {
            return;
        }
    }
}

/// How a kubelet tells the end of a command.
fn ended(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}
