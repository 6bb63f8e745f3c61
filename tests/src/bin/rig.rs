//! Starts the rig, runs a command in it, and stops everything.
//!
//! ```text
//! rig up -- COMMAND...     with MOODIFY_RIG in its environment; exits as the command does
//! rig up --until-eof       prints the path of the state file and lives until its input ends
//! rig bridge -- COMMAND... with a way from its network namespace to the cluster of MOODIFY_RIG_KUBECONFIG
//! rig node KUBECONFIG DIR [NAME BLOCK]
//!                          the node alone, telling Prometheus in DIR of its pods; `up` starts it
//! ```
//!
//! With `MOODIFY_RIG_KUBECONFIG` in its environment, `up` starts no control plane, but adds a node to that cluster.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use moodify_tests::BoxError;
use moodify_tests::node::{self, Identity};
use moodify_tests::rig::{BRIDGE, ControlPlane, EXISTING, VARIABLE, has_pod_network, outer_end};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

const USAGE: &str = "usage: rig up -- COMMAND... | rig up --until-eof | rig bridge -- COMMAND... | rig node KUBECONFIG DIR [NAME BLOCK]";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["up", "--until-eof"] => up(None).await,
        ["up", "--", command @ ..] if !command.is_empty() => up(Some(command)).await,
        ["bridge", "--", command @ ..] if !command.is_empty() => bridge(command).await,
        ["node", kubeconfig, targets] => run_node(kubeconfig, targets, Identity::default()).await,
        ["node", kubeconfig, targets, name, block] => match block.parse() {
            Ok(block) => run_node(kubeconfig, targets, Identity { name: (*name).to_owned(), block: Some(block) }).await,
            Err(error) => Err(format!("BLOCK: {error}").into()),
        },
        _ => Err(USAGE.into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("rig: {error}");
        ExitCode::FAILURE
    })
}

async fn up(command: Option<&[&str]>) -> Result<ExitCode, BoxError> {
    if !has_pod_network() {
        return Err("this is not the rig's network namespace: use tests/rig/inside, or tests/run".into());
    }
    // Asked for before anything starts, so that an interrupt meanwhile stops all of it.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let interrupted = async move {
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        }
    };
    tokio::select! {
        code = interrupted => Ok(ExitCode::from(code)),
        result = supervise(command) => result,
    }
}

/// Everything that is started in here stops when this ends or is dropped.
async fn supervise(command: Option<&[&str]>) -> Result<ExitCode, BoxError> {
    let begun = Instant::now();
    let dir = tempfile::Builder::new().prefix("moodify-rig-").tempdir()?;
    let mut plane = match existing() {
        Some(kubeconfig) => ControlPlane::join(dir.path(), &assets()?, &kubeconfig).await?,
        None => ControlPlane::start(dir.path(), &assets()?).await?,
    };
    let path = plane.state.write()?;
    eprintln!("rig: ready in {:.1} s", begun.elapsed().as_secs_f32());
    let done = async {
        match command {
            Some(command) => run(command, VARIABLE, &path).await,
            None => until_eof(&path).await,
        }
    };
    tokio::select! {
        result = done => result,
        problem = watch(&mut plane) => Err(problem.into()),
    }
}

/// Waits for a component to end by itself.
async fn watch(plane: &mut ControlPlane) -> String {
    let mut ticks = interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        if let Some(problem) = plane.casualty() {
            return problem;
        }
    }
}

async fn run(command: &[&str], variable: &str, value: &Path) -> Result<ExitCode, BoxError> {
    let mut process = tokio::process::Command::new(command[0]);
    process.args(&command[1..]).env(variable, value).kill_on_drop(true);
    // What the command has started must not go on when the rig ends. A shell at a terminal has to stay in its group.
    let alone = !std::io::stdin().is_terminal();
    if alone {
        process.process_group(0);
    }
    let mut child = process.spawn().map_err(|error| format!("{}: {error}", command[0]))?;
    let _group = Group(child.id().filter(|_| alone).and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    let code = child.wait().await?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Processes that are killed together when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // None may be left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn until_eof(state: &Path) -> Result<ExitCode, BoxError> {
    println!("{}", state.display());
    // Not awaited by the runtime when a signal comes first, as a read from standard input cannot be cancelled.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    let _ = receiver.await;
    Ok(ExitCode::SUCCESS)
}

/// A cluster that is there already, and to be used.
fn existing() -> Option<PathBuf> {
    std::env::var_os(EXISTING).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Keeps the outer end of the bridge for as long as the command runs. An interrupt is for `up` in there to heed: it
/// needs the way to clean up.
async fn bridge(command: &[&str]) -> Result<ExitCode, BoxError> {
    let _heard = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let kubeconfig = existing().ok_or_else(|| format!("{EXISTING} is not set"))?;
    let dir = tempfile::Builder::new().prefix("moodify-bridge-").tempdir()?;
    let socket = dir.path().join("api-server");
    let _way = outer_end(&kubeconfig, &socket)?;
    run(command, BRIDGE, &socket).await
}

/// The directory that `tests/rig/build` makes, or has made.
fn assets() -> Result<PathBuf, BoxError> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/rig/build");
    let output = Command::new(script).stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{script} failed").into());
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

async fn run_node(kubeconfig: &str, targets: &str, identity: Identity) -> Result<ExitCode, BoxError> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The node reports again by itself.
    config.default_retry = false;
    node::run(Client::try_from(config)?, identity, Path::new(targets)).await?;
    Ok(ExitCode::SUCCESS)
}
