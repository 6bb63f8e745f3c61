//! A real Kubernetes for tests, without containers, shared by all tests of a run.
//!
//! `tests/run` starts the rig once, by the command `rig up`, and every test binary finds it through the file that
//! `MOODIFY_RIG` names. A test binary that finds none starts one for itself, which ends with it. Tests are kept apart
//! by namespaces: see [`Rig::namespace`]; one that disturbs everybody takes [`Rig::alone`].
//!
//! Where `MOODIFY_RIG_KUBECONFIG` names a kubeconfig, the rig starts no control plane: it adds a node to that cluster.
//! Tests that need the rig's own control plane, for its audit log, its users or to stop it, take [`Rig::own`]; they are
//! left out there, aloud.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::OnceCell;

use crate::{BoxError, missing, node, program};

mod audit;
mod bridge;
mod control_plane;
mod door;
mod existing;
mod fault_proxy;
mod istio;
mod kube_proxy;
mod namespace;
mod nodes;
mod process;
mod prometheus;
mod proxy;
mod state;
mod traefik;
mod webhook;

pub use audit::AuditEntry;
pub use bridge::{BRIDGE, outer_end};
pub use control_plane::ControlPlane;
pub use existing::EXISTING;
pub use fault_proxy::{Fault, FaultProxy, Passed, Rule};
pub use istio::Istio;
pub use kube_proxy::KubeProxy;
pub use namespace::{Alone, Namespace, Paused, deployment};
pub use nodes::Nodes;
pub use process::{Process, free_port};
pub use prometheus::Prometheus;
pub use proxy::ApiProxy;
pub use state::{ADMIN, State, USERS, VARIABLE};
pub use traefik::{PROMPT, Traefik};
pub use webhook::{Denies, Failing, Webhook};

/// The rig as a test sees it.
#[derive(Debug)]
pub struct Rig {
    state: State,
    /// The supervisor that this process started for itself; it ends when our end of its input closes.
    _supervisor: Option<Child>,
}

impl Rig {
    /// The rig of this test run; nothing, said aloud, where there can be none.
    ///
    /// # Panics
    ///
    /// When the rig does not start; and with `CI=true`, when there can be none.
    pub async fn shared() -> Option<&'static Self> {
        static RIG: OnceCell<Option<Rig>> = OnceCell::const_new();
        let rig = RIG.get_or_init(|| async { Self::find() }).await.as_ref();
        if rig.is_none() {
            missing("the rig needs a network namespace of its own");
        }
        rig
    }

    /// The rig of this test run, if its control plane is its own; nothing, said aloud, otherwise.
    ///
    /// # Panics
    ///
    /// As [`Rig::shared`].
    pub async fn own() -> Option<&'static Self> {
        let rig = Self::shared().await?;
        if rig.state.is_own() {
            return Some(rig);
        }
        missing(&format!("needs a control plane of the rig's own, and {EXISTING} names a cluster"));
        None
    }

    /// Whether `kubectl logs` can answer; said aloud where it cannot: when the API server does not reach the node.
    ///
    /// # Panics
    ///
    /// With `CI=true`, when it cannot.
    pub fn has_logs(&self) -> bool {
        if !self.state.logs {
            missing(&format!("the logs of pods need a cluster that reaches the rig's node, unlike that of {EXISTING}"));
        }
        self.state.logs
    }

    fn find() -> Option<Self> {
        if let Some(path) = std::env::var_os(VARIABLE) {
            let state = State::read(Path::new(&path)).expect("the file that MOODIFY_RIG names");
            return Some(Self { state, _supervisor: None });
        }
        has_pod_network().then(|| Self::start().expect("the rig starts"))
    }

    fn start() -> Result<Self, BoxError> {
        let program = program("rig");
        let mut command = Command::new(&program);
        command.args(["up", "--until-eof"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let state = State::read(Path::new(line.trim()))?;
        Ok(Self { state, _supervisor: Some(child) })
    }

    /// What the supervisor told: paths, process ids.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A client that may do everything. Each call makes one, as a client belongs to the runtime of its test.
    ///
    /// # Panics
    ///
    /// When the kubeconfig cannot be used.
    pub async fn admin_client(&self) -> Client {
        self.client_for(ADMIN).await
    }

    /// A client of one of [`USERS`], who may do what the test's roles say.
    ///
    /// # Panics
    ///
    /// When there is no such user, as on a cluster that is not the rig's own: the test takes [`Rig::own`].
    pub async fn client_for(&self, user: &str) -> Client {
        client(&self.kubeconfig_for(user)).await.expect("a kubeconfig of the rig")
    }

    /// The path of the kubeconfig of [`ADMIN`] or one of [`USERS`].
    ///
    /// # Panics
    ///
    /// When there is no such user, as on a cluster that is not the rig's own: the test takes [`Rig::own`].
    pub fn kubeconfig_for(&self, user: &str) -> PathBuf {
        self.assert_user(user);
        self.state.kubeconfig(user)
    }

    /// Runs kubectl as administrator and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails, with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(ADMIN, arguments, "").await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {stderr}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs kubectl as any user, with `input`, whatever comes of it.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub async fn try_kubectl(&self, user: &str, arguments: &[&str], input: &str) -> Output {
        use tokio::io::AsyncWriteExt as _;
        let mut command = tokio::process::Command::new(self.state.bin.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig_for(user)).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("kubectl can be run");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        // kubectl may end without reading it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await.expect("kubectl can be awaited")
    }

    /// The users are told by tokens that only the rig's own API server knows.
    fn assert_user(&self, user: &str) {
        let known = self.state.is_own() || user == ADMIN;
        assert!(known, "the cluster of {EXISTING} knows no user {user}: a test that needs one takes Rig::own");
    }

    fn audit_log(&self) -> &Path {
        let log = self.state.audit_log.as_deref();
        log.unwrap_or_else(|| {
            panic!("the cluster of {EXISTING} has no audit log: a test that needs one takes Rig::own")
        })
    }

    /// All answered requests so far, of all tests.
    ///
    /// # Panics
    ///
    /// When the log cannot be read; and where there is none, for which a test takes [`Rig::own`].
    pub fn audit(&self) -> Vec<AuditEntry> {
        audit::read(self.audit_log(), None).expect("the audit log can be read")
    }
}

/// A client as a kubeconfig says, without the retries that kube does by default: they would hide what tests look for.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, BoxError> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Whether pods can have addresses here: whether this is the network namespace that `tests/run` makes.
pub fn has_pod_network() -> bool {
    TcpListener::bind((node::ADDRESS, 0)).is_ok()
}
