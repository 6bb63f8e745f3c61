use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result, secret};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

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
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecRequest {
    pub(super) command: Vec<String>,
    container: Option<String>,
    stdin: Option<Vec<u8>>,
    timeout: Option<Duration>,
    most: usize,
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
    /// Runs a command in a container of a pod, and waits for its end: `kubectl exec POD -- COMMAND`. A command that fails is
    /// no error: see [`ExecOutput::code`].
    ///
    /// Whoever stops waiting does not stop the command: Kubernetes only closes its input and outputs.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) and [`Invalid`](ErrorKind::Invalid) when there is no such pod, container or program;
    /// [`Timeout`](ErrorKind::Timeout) and [`Unavailable`](ErrorKind::Unavailable), whose effect is unknown.
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
        let api: Api<Pod> = Api::namespaced(self.kube.client().clone(), &self.namespace);
        let params = AttachParams {
            container: request.container.clone(),
            stdin: request.stdin.is_some(),
            stdout: true,
            stderr: true,
            tty: false,
            max_stdin_buf_size: Some(64 << 10),
            max_stdout_buf_size: Some(64 << 10),
            max_stderr_buf_size: Some(64 << 10),
        };
        let connect = async {
            let connected = api.exec(pod, request.command.iter().map(String::as_str), &params).await;
            connected.map_err(|e| error::from_client(ask, e))
        };
        let connected = cx.at_most(self.kube.timeout()).run(BACKEND, "request", connect).await;
        let mut process = connected.map_err(|e| error::given_up(ask, e, self.kube.timeout()))?;
        let (stdin, stdout, stderr) = (process.stdin(), process.stdout(), process.stderr());
        let status = process.take_status();
        let input = async {
            if let (Some(mut stdin), Some(input)) = (stdin, &request.stdin) {
                // A command may end without reading it.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let status = async {
            match status {
                Some(status) => status.await,
                None => None,
            }
        };
        let ((), stdout, stderr, status) =
            tokio::join!(input, read(stdout, request.most), read(stderr, request.most), status);
        let status = status.ok_or_else(|| {
            ask.error(ErrorKind::Unavailable, "the connection broke before the command had ended")
                .effect(Effect::Unknown)
                .hint("it may still run in the container: look there")
        })?;
        let code = exit_code(ask, &status)?;
        let cut = stdout.len() > request.most || stderr.len() > request.most;
        let kept = |mut bytes: Vec<u8>| {
            bytes.truncate(request.most);
            bytes
        };
        Ok(ExecOutput { pod: pod.to_owned(), code, stdout: kept(stdout), stderr: kept(stderr), cut })
    }
}

/// All that can be read, one byte more than `most` of it at most.
async fn read(from: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let Some(mut from) = from else { return kept };
    // An output that breaks off ends; the status says why.
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        let room = (most + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
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

    #[tokio::test]
    async fn what_is_too_much_is_read_and_forgotten() {
        assert_eq!(read(Some(&b"abcdef"[..]), 3).await, b"abcd");
        assert_eq!(read(Some(&b"abc"[..]), 3).await, b"abc");
    }
}
