use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result, secret};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::{PodRow, Select, Verbs, Workload};
use crate::client::{Object, POD};
use crate::error::{self, Access, Ask, BACKEND};

/// A command in a container: a list of arguments, which no shell reads.
///
/// ```
/// use std::time::Duration;
/// use moodify_k8s::verbs::ExecRequest;
/// let ask = ExecRequest::new(["psql", "-c", "SELECT 1;"]).container("db").timeout(Duration::from_secs(10));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecRequest {
    pub(super) command: Vec<String>,
    container: Option<String>,
    stdin: Option<Vec<u8>>,
    timeout: Option<Duration>,
    most: usize,
}

impl fmt::Debug for ExecRequest {
    /// Without the input, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input = self.stdin.as_ref().map(Vec::len);
        let mut shown = f.debug_struct("ExecRequest");
        shown.field("command", &self.command).field("container", &self.container).field("stdin_bytes", &input);
        shown.field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// How much is kept of each output, unless the request says otherwise.
const KEPT: usize = 1 << 20;

impl ExecRequest {
    /// A command and its arguments, in the default container.
    #[must_use]
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(command: I) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self { command, container: None, stdin: None, timeout: None, most: KEPT }
    }

    /// In this container.
    #[must_use]
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    /// With this as its input. By default it has none.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(input.into());
        self
    }

    /// At most so long; the context's deadline holds too.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Keeps so many bytes of each output. Default 1 MiB; what is more is read and forgotten.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutput {
    /// The pod that it ran in.
    pub pod: String,
    /// Its exit code; 0 is success.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more than is kept.
    pub cut: bool,
}

impl ExecOutput {
    /// The output as text. Secrets that the process knows of are [taken out](moodify_core::secret).
    #[must_use]
    pub fn text(&self) -> String {
        secret::redact(&String::from_utf8_lossy(&self.stdout)).into_owned()
    }

    /// The standard error as text, likewise.
    #[must_use]
    pub fn error_text(&self) -> String {
        secret::redact(&String::from_utf8_lossy(&self.stderr)).into_owned()
    }
}

impl Verbs {
    /// Runs a command in a container of a pod, and waits for its end: `kubectl exec POD -- COMMAND`. A command that
    /// fails is no error: see [`ExecOutput::code`].
    ///
    /// Whoever stops waiting does not stop the command: Kubernetes only closes its input and outputs.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) and [`Invalid`](ErrorKind::Invalid) when there is no such pod, container or
    /// program; [`Timeout`](ErrorKind::Timeout) and [`Unavailable`](ErrorKind::Unavailable), whose effect is unknown.
    pub async fn exec(&self, cx: &CallContext, pod: &str, request: &ExecRequest) -> Result<ExecOutput> {
        let object = Object::new(POD, &self.namespace, pod);
        let ask = object.ask(Access::Write, "execute a command in");
        object.request(&ask)?;
        if request.command.is_empty() {
            return Err(ask.error(ErrorKind::Invalid, "there is no command").hint("name a program and its arguments"));
        }
        let cx = request.timeout.map_or_else(|| cx.clone(), |timeout| cx.at_most(timeout));
        let result = cx.run(BACKEND, "exec", self.attached(&cx, &ask, pod, request)).await;
        result.map_err(|e| match e.kind() {
            ErrorKind::Timeout | ErrorKind::Cancelled if e.target().is_empty() => {
                let message = format!("{} has not ended", request.command[0]);
                ask.error(e.kind(), message)
                    .effect(Effect::Unknown)
                    .hint("it may still run in the container: look there")
            }
            _ => e,
        })
    }

    /// Runs a command in one pod of a workload, a ready one if there is one: `kubectl exec deployment/NAME -- COMMAND`.
    ///
    /// # Errors
    /// As [`exec`](Self::exec); [`NotFound`](ErrorKind::NotFound) if the workload has no pod.
    pub async fn exec_in(&self, cx: &CallContext, workload: &Workload, request: &ExecRequest) -> Result<ExecOutput> {
        let selector = self.selector_of(cx, workload).await?;
        let mut pods = self.pods(cx, &Select::all().labels(selector)).await?;
        // As kubectl: running before not, ready before not, and of those the one that has been there for longest.
        let is_running = |p: &PodRow| p.status == "Running";
        pods.sort_by_key(|p| (!is_running(p), p.ready < p.containers, p.created));
        let Some(pod) = pods.first() else {
            let ask = workload.object(&self.namespace).ask(Access::Write, "execute a command in a pod of");
            return Err(ask.error(ErrorKind::NotFound, "it has no pod").hint("scale it up, or look at its events"));
        };
        self.exec(cx, &pod.name, request).await
    }

    async fn attached(&self, cx: &CallContext, ask: &Ask, pod: &str, request: &ExecRequest) -> Result<ExecOutput> {
        let params = AttachParams {
            container: request.container.clone(),
            stdin: request.stdin.is_some(),
            stdout: true,
            stderr: true,
            ..AttachParams::default()
        };
        let asked = Object::new(POD, &self.namespace, pod).request(ask)?;
        let asked = asked.exec(pod, request.command.iter().map(String::as_str), &params);
        let asked = asked.map_err(|e| error::from_client(ask, kube::Error::BuildRequest(e)))?;
        let connect = async { self.kube.client().connect(asked).await.map_err(|e| error::from_client(ask, e)) };
        let connected = cx.at_most(self.kube.timeout()).run(BACKEND, "request", connect).await;
        let connection = connected.map_err(|e| error::given_up(ask, e, self.kube.timeout()))?;
        if request.stdin.is_some() && !connection.supports_stream_close() {
            let message = "this API server is too old to be told where the input ends (it needs v5.channel.k8s.io)";
            return Err(ask.error(ErrorKind::Unsupported, message).hint("give the input as an argument"));
        }
        let (sink, messages) = connection.into_stream().split();
        // Both at once: a command that writes while it reads would else wait for us, and we for it.
        tokio::select! {
            never = send(sink, request.stdin.as_deref()) => match never {},
            output = receive(ask, messages, pod, request.most) => output,
        }
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;
/// How much of the input is a message.
const CHUNK: usize = 32 << 10;
/// A connection on which nothing happens is cut off by whatever is in between.
const ALIVE: Duration = Duration::from_secs(30);

/// Sends the input and that it has ended, then signs of life. What cannot be sent is for [`receive`] to say.
async fn send(mut sink: impl Sink<Message> + Unpin, input: Option<&[u8]>) -> Infallible {
    let with = |channel: u8, data: &[u8]| Message::binary([&[channel], data].concat());
    if let Some(input) = input {
        for chunk in input.chunks(CHUNK) {
            if sink.send(with(STDIN, chunk)).await.is_err() {
                return std::future::pending().await;
            }
        }
        let _ = sink.send(with(CLOSE, &[STDIN])).await;
    }
    loop {
        tokio::time::sleep(ALIVE).await;
        if sink.send(Message::Ping(Bytes::new())).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Reads the outputs until the status comes, which is the last message.
async fn receive<E: std::error::Error + Send + Sync + 'static>(
    ask: &Ask,
    mut messages: impl Stream<Item = std::result::Result<Message, E>> + Unpin,
    pod: &str,
    most: usize,
) -> Result<ExecOutput> {
    let lost = |why: String| {
        ask.error(ErrorKind::Unavailable, format!("the connection broke before the command had ended{why}"))
            .effect(Effect::Unknown)
            .hint("it may still run in the container: look there")
    };
    let mut output = ExecOutput { pod: pod.to_owned(), code: 0, stdout: Vec::new(), stderr: Vec::new(), cut: false };
    loop {
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(e)) => return Err(lost(format!(": {e}")).with_source(e)),
            None => return Err(lost(String::new())),
        };
        let Message::Binary(data) = message else { continue };
        let (kept, data) = match data.split_first() {
            Some((&STDOUT, data)) => (&mut output.stdout, data),
            Some((&STDERR, data)) => (&mut output.stderr, data),
            Some((&STATUS, data)) => {
                let status = serde_json::from_slice(data).map_err(|e| error::unreadable(ask, e))?;
                output.code = exit_code(ask, &status)?;
                return Ok(output);
            }
            _ => continue,
        };
        let room = most.saturating_sub(kept.len());
        output.cut |= data.len() > room;
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }
}

/// The exit code that a kubelet puts into the status at the end.
fn exit_code(ask: &Ask, status: &Status) -> Result<i32, Error> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|d| d.causes.iter().flatten());
    let code =
        causes.filter(|c| c.reason.as_deref() == Some("ExitCode")).find_map(|c| c.message.as_ref()?.parse().ok());
    match code {
        Some(code) if status.reason.as_deref() == Some("NonZeroExitCode") => Ok(code),
        _ => {
            let why = status.message.as_deref().unwrap_or("no reason was given");
            Err(ask
                .error(ErrorKind::Invalid, format!("the command could not be run: {why}"))
                .hint("check that the container has this program, and that it runs"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_in_the_causes() {
        let ask = Object::new(POD, "shop", "web-1").ask(Access::Write, "exec");
        let code = |status| exit_code(&ask, &serde_json::from_value(status).unwrap());
        assert_eq!(code(json!({"status": "Success"})).unwrap(), 0);
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(code(failed).unwrap(), 3);
        let none = json!({"status": "Failure", "reason": "InternalError", "message": "no such file: psql"});
        assert!(code(none).unwrap_err().message().contains("no such file: psql"));
    }

    async fn received(messages: &[(u8, &str)], most: usize) -> Result<ExecOutput> {
        let ask = Object::new(POD, "shop", "web-1").ask(Access::Write, "exec");
        let message = |(channel, text): &(u8, &str)| {
            Ok::<_, std::io::Error>(Message::binary([&[*channel], text.as_bytes()].concat()))
        };
        let messages: Vec<_> = messages.iter().map(message).collect();
        receive(&ask, futures::stream::iter(messages), "web-1", most).await
    }

    #[tokio::test]
    async fn what_is_too_much_is_read_and_forgotten() {
        let done = r#"{"status": "Success"}"#;
        let messages = [(STDOUT, ""), (STDOUT, "ab"), (STDERR, "x"), (STDOUT, "cd"), (STATUS, done)];
        let output = received(&messages, 3).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice(), output.cut), (&b"abc"[..], &b"x"[..], true));
        assert!(!received(&messages, 4).await.unwrap().cut);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_leaves_the_effect_unknown() {
        let broken = received(&[(STDOUT, "half")], 100).await.unwrap_err();
        assert_eq!((broken.kind(), broken.effect_of()), (ErrorKind::Unavailable, Effect::Unknown));
    }
}
