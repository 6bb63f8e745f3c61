//! Starts etcd, the API server, the controllers, the scheduler and the node.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kube::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::client;
use super::process::{Process, free_port};
use super::state::{ADMIN, COMPONENTS, State, USERS};
use crate::{BoxError, http, node};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a pod is ready, or gone, before the endpoints of its Services say so.
const ENDPOINTS_LAG: Duration = Duration::from_secs(2);

/// Where the definitions of routing objects are, among what was built.
pub(super) const CRDS: [&str; 3] = ["crds", "traefik-crds", "istio-crds"];

/// The processes of a rig, in the order in which they were started.
#[derive(Debug)]
pub struct ControlPlane {
    /// What the tests are told.
    pub state: State,
    pub(super) processes: Vec<Process>,
    /// The way to a cluster outside of the network namespace.
    pub(super) _way: Option<AbortOnDropHandle<()>>,
}

impl ControlPlane {
    /// Starts everything in `dir`, with the commands in `assets/bin`, and returns when pods can run.
    ///
    /// # Errors
    ///
    /// When a component cannot be started or does not become ready; with its last words.
    pub async fn start(dir: &Path, assets: &Path) -> Result<Self, BoxError> {
        let port = free_port()?;
        let state = State {
            dir: dir.to_owned(),
            bin: assets.join("bin"),
            server: format!("https://127.0.0.1:{port}"),
            audit_log: Some(dir.join("audit.log")),
            node: node::Identity::default(),
            logs: true,
            pids: Default::default(),
        };
        let mut plane = Self { state, processes: Vec::new(), _way: None };
        plane.write_files()?;
        plane.start_etcd_and_server(port).await?;
        plane.start_controllers()?;
        plane.start_node("rig-node")?;
        plane.install_crds(&CRDS.map(|crds| assets.join(crds)))?;
        plane.wait_for_node().await?;
        Ok(plane)
    }

    /// A component that has ended by itself, with its last words.
    pub fn casualty(&mut self) -> Option<String> {
        let dead = self.processes.iter_mut().find_map(|process| (!process.is_running()).then_some(process))?;
        Some(format!("{} has ended by itself:\n{}", dead.name(), dead.last_words()))
    }

    fn write_files(&self) -> Result<(), BoxError> {
        let dir = &self.state.dir;
        let mut tokens = String::new();
        for user in [ADMIN].iter().chain(&COMPONENTS) {
            tokens += &format!("{},{user},{user},system:masters\n", State::token(user));
        }
        for user in USERS {
            tokens += &format!("{},{user},{user}\n", State::token(user));
        }
        fs::write(dir.join("tokens.csv"), tokens)?;
        for user in [ADMIN].iter().chain(&COMPONENTS).chain(&USERS) {
            fs::write(self.state.kubeconfig(user), self.state.own_kubeconfig(user, &dir.join("ca.crt")))?;
        }
        // The ledger of the tests: who asked for what. What the rig's own components read says nothing about anyone.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [
                {"level": "None", "users": COMPONENTS, "verbs": ["get", "list", "watch"]},
                {"level": "None", "users": ["system:apiserver"]},
                {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
                {"level": "Metadata"},
            ],
        });
        fs::write(dir.join("audit-policy.json"), policy.to_string())?;
        self.write_certificates()
    }

    fn write_certificates(&self) -> Result<(), BoxError> {
        let dir = &self.state.dir;
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "rig authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.join("ca.crt"), authority.self_signed(&authority_key)?.pem())?;
        let issuer = Issuer::new(authority, authority_key);

        let names = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let key = KeyPair::generate()?;
        fs::write(dir.join("server.crt"), server.signed_by(&key, &issuer)?.pem())?;
        fs::write(dir.join("server.key"), key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        fs::write(dir.join("accounts.key"), accounts.serialize_pem())?;
        fs::write(dir.join("accounts.pub"), accounts.public_key_pem())?;
        Ok(())
    }

    fn spawn(&mut self, name: &str, arguments: &[String]) -> Result<(), BoxError> {
        let mut command = Command::new(self.state.bin.join(name));
        command.args(arguments).current_dir(&self.state.dir);
        self.add(name, &mut command)
    }

    fn add(&mut self, name: &str, command: &mut Command) -> Result<(), BoxError> {
        let process = Process::start(name, command, &self.state.dir.join("logs"))
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        self.state.pids.insert(name.to_owned(), process.pid());
        self.processes.push(process);
        Ok(())
    }

    async fn start_etcd_and_server(&mut self, port: u16) -> Result<(), BoxError> {
        let dir = self.state.dir.display().to_string();
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let (etcd, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        self.spawn(
            "etcd",
            &[
                format!("--data-dir={dir}/etcd"),
                "--unsafe-no-fsync".into(),
                "--log-level=warn".into(),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        )?;
        // An API server that finds no etcd waits long before it asks again.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, client_port));
        self.until("etcd", || async { matches!(http::get(address, "/health").await, Ok((200, _))) }).await?;

        self.spawn(
            "kube-apiserver",
            &[
                format!("--etcd-servers={etcd}"),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                // No default route leads out of the namespace, from which it would guess its own address.
                format!("--advertise-address={}", node::ADDRESS),
                "--kubelet-preferred-address-types=InternalIP".into(),
                "--endpoint-reconciler-type=none".into(),
                format!("--cert-dir={dir}"),
                format!("--tls-cert-file={dir}/server.crt"),
                format!("--tls-private-key-file={dir}/server.key"),
                "--service-account-issuer=https://rig.test".into(),
                format!("--service-account-key-file={dir}/accounts.pub"),
                format!("--service-account-signing-key-file={dir}/accounts.key"),
                format!("--token-auth-file={dir}/tokens.csv"),
                "--authorization-mode=RBAC".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                // Pods here have no use for tokens, and their admission would wait for them.
                "--disable-admission-plugins=ServiceAccount".into(),
                format!("--audit-policy-file={dir}/audit-policy.json"),
                format!("--audit-log-path={dir}/audit.log"),
                "--audit-log-maxsize=4096".into(),
            ],
        )?;
        let admin = client(&self.state.kubeconfig(ADMIN)).await?;
        self.until("kube-apiserver", || is_ready(&admin)).await
    }

    fn start_controllers(&mut self) -> Result<(), BoxError> {
        let dir = self.state.dir.display().to_string();
        let common = |user: &str, port: u16| {
            vec![
                format!("--kubeconfig={}", self.state.kubeconfig(user).display()),
                "--leader-elect=false".into(),
                // With the default limits they would be what every test waits for.
                "--kube-api-qps=1000".into(),
                "--kube-api-burst=2000".into(),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                format!("--cert-dir={dir}"),
            ]
        };
        let mut manager = common("rig-controller-manager", free_port()?);
        manager.push(format!("--service-account-private-key-file={dir}/accounts.key"));
        manager.push(format!("--root-ca-file={dir}/ca.crt"));
        // As in a busy cluster: gateways hear of pods that come and go later than Deployments do.
        manager.push(format!("--endpointslice-updates-batch-period={}s", ENDPOINTS_LAG.as_secs()));
        let scheduler = common("rig-scheduler", free_port()?);
        self.spawn("kube-controller-manager", &manager)?;
        self.spawn("kube-scheduler", &scheduler)
    }

    /// The node is another process of this very program, so that tests can stop it like a machine that fails.
    pub(super) fn start_node(&mut self, user: &str) -> Result<(), BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node").arg(self.state.kubeconfig(user)).arg(self.state.targets());
        if let Some(block) = self.state.node.block {
            command.arg(&self.state.node.name).arg(block.to_string());
        }
        fs::create_dir(self.state.targets())?;
        self.add("node", &mut command)
    }

    fn install_crds(&self, directories: &[PathBuf]) -> Result<(), BoxError> {
        let mut command = Command::new(self.state.bin.join("kubectl"));
        command.arg("--kubeconfig").arg(self.state.kubeconfig(ADMIN)).arg("create");
        for directory in directories {
            // With a slash at the end, as kubectl does not look into what is a link.
            command.arg("-f").arg(directory.join(""));
        }
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "the definitions of routing objects cannot be installed: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into())
    }

    /// The scheduler places nothing on a node until a controller has seen it ready and removed its taint.
    pub(super) async fn wait_for_node(&mut self) -> Result<(), BoxError> {
        use k8s_openapi::api::core::v1::Node;
        let nodes: kube::Api<Node> = kube::Api::all(client(&self.state.kubeconfig(ADMIN)).await?);
        let name = self.state.node.name.clone();
        self.until("node", || async {
            let spec = nodes.get(&name).await.ok().and_then(|node| node.spec);
            spec.is_some_and(|spec| spec.taints.iter().flatten().all(|taint| taint.key == node::MARK))
        })
        .await
    }

    async fn until<F: Future<Output = bool>>(&mut self, name: &str, ready: impl Fn() -> F) -> Result<(), BoxError> {
        let deadline = Instant::now() + PATIENCE;
        while !ready().await {
            if let Some(problem) = self.casualty() {
                return Err(problem.into());
            }
            if Instant::now() > deadline {
                let process = self.processes.iter().find(|process| process.name() == name);
                let words = process.map(Process::last_words).unwrap_or_default();
                return Err(format!("{name} is not ready after {} s:\n{words}", PATIENCE.as_secs()).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let own = self.state.is_own();
        if !own {
            self.delete_namespaces();
        }
        // All at once, then wait for each: they take seconds to end, and the last ones started depend on the first.
        for process in self.processes.iter().rev() {
            process.end();
        }
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
        if !own {
            self.delete_node();
        }
    }
}

async fn is_ready(client: &Client) -> bool {
    // The request is a constant, so building it cannot fail.
    let request = axum::http::Request::get("/readyz").body(Vec::new()).expect("a valid request");
    client.request_text(request).await.is_ok()
}
