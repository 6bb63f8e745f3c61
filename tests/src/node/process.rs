//! A container that is a process of this machine.

use std::process::Stdio;

use k8s_openapi::api::core::v1::Container;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;

use super::log::Log;

/// Whether the container says what to run. Without it is one of the node's own servers.
pub(super) fn is_one(container: &Container) -> bool {
    argv(container).next().is_some()
}

/// The arguments alone are the command, as with an image whose program runs what it is given.
fn argv(container: &Container) -> impl Iterator<Item = &String> {
    container.command.iter().chain(&container.args).flatten()
}

/// The command as a process in the name of a pod, with the variables of the container.
pub(super) fn command<'a>(mut argv: impl Iterator<Item = &'a String>, pod: &str) -> Command {
    let mut command = Command::new(argv.next().map_or("", String::as_str));
    command.args(argv).env("HOSTNAME", pod).kill_on_drop(true);
    command
}

/// Runs it to its end and returns its exit code; both outputs go to the log. Dropped, it is killed.
pub(super) async fn run(container: &Container, pod: &str, log: &Log) -> i32 {
    let mut command = command(argv(container), pod);
    for variable in container.env.iter().flatten() {
        command.env(&variable.name, variable.value.as_deref().unwrap_or_default());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            log.write(format!("exec failed: {error}"));
            return 127;
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::join!(copy(stdout, log), copy(stderr, log));
    exit_code(&child.wait().await)
}

/// The exit code as a container runtime tells it.
pub(super) fn exit_code(status: &std::io::Result<std::process::ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
        Err(_) => -1,
    }
}

async fn copy(output: Option<impl AsyncRead + Unpin>, log: &Log) {
    let Some(output) = output else { return };
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.write(line);
    }
}
