//! A test's own part of the rig.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace as Resource, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::existing::EXISTING;
use super::process::send;
use super::prometheus::Prometheus;
use super::state::ADMIN;
use super::{AuditEntry, Rig, audit};
use crate::node::{LOAD, MARK};
use crate::{http, missing};

const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of one test, deleted when dropped; that takes its time in the background. When the test panics, its
/// pods and events are printed.
#[derive(Debug)]
pub struct Namespace {
    rig: &'static Rig,
    name: String,
    /// Whether pods get no requests but those of the test.
    quiet: bool,
    /// Shared by all tests, but not with one that is [`Alone`].
    _turn: File,
}

/// A namespace while no other test has one: for a test that disturbs everybody.
#[derive(Debug)]
pub struct Alone(Namespace);

/// A stopped process, which goes on when this is dropped.
#[derive(Debug)]
pub struct Paused(u32);

impl Rig {
    /// A namespace of the test's own, with a unique name that begins with `name`.
    ///
    /// # Panics
    ///
    /// When it cannot be created.
    pub async fn namespace(&'static self, name: &str) -> Namespace {
        let turn = self.turn("turn.lock", |file| file.lock_shared()).await;
        self.create_namespace(name, turn).await
    }

    /// A namespace, when all others of the run are dropped; none is given out as long as this one is held.
    ///
    /// # Panics
    ///
    /// When it cannot be created.
    pub async fn alone(&'static self, name: &str) -> Alone {
        let turn = self.turn("turn.lock", File::lock).await;
        Alone(self.create_namespace(name, turn).await)
    }

    /// A lock on a file holds between test binaries, and between the threads of one.
    pub(super) async fn turn(&self, file: &str, lock: fn(&File) -> std::io::Result<()>) -> File {
        let path = self.state.dir.join(file);
        let wait = move || {
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            lock(&file).map(|()| file)
        };
        tokio::task::spawn_blocking(wait).await.expect("no panic in there").expect("the rig's directory can be written")
    }

    async fn create_namespace(&'static self, name: &str, turn: File) -> Namespace {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let mut name = format!("{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let node = &self.state.node;
        if !self.state.is_own() {
            name = format!("{name}-{}", node.name);
        }
        let labels = json!({MARK: node.name});
        let resource: Resource =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a namespace");
        let api = Api::all(self.admin_client().await);
        api.create(&PostParams::default(), &resource).await.expect("the namespace can be created");
        Namespace { rig: self, name, quiet: false, _turn: turn }
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on, [`Namespace::deploy`] makes pods that the node sends no requests: the test sends them.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The rig that it is a part of.
    pub fn rig(&self) -> &'static Rig {
        self.rig
    }

    /// The resources of a kind in here, as administrator.
    pub async fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.rig.admin_client().await, &self.name)
    }

    /// A client whose default namespace does not matter: see [`Namespace::kubeconfig`] for programs that have one.
    pub async fn client(&self) -> Client {
        self.rig.admin_client().await
    }

    /// A kubeconfig of `user` whose default namespace is this one.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.rig.assert_user(user);
        self.write_kubeconfig(user, &self.rig.state.server, None)
    }

    /// A kubeconfig with any server and any token, for bad ones and for proxies.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn kubeconfig_with(&self, server: &str, token: &str) -> PathBuf {
        self.write_kubeconfig(ADMIN, server, Some(token))
    }

    pub(super) fn write_kubeconfig(&self, user: &str, server: &str, token: Option<&str>) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.rig.state.dir.join(format!("{}-{number}.kubeconfig", self.name));
        let text = self.rig.state.kubeconfig_text(user, server, token, &self.name).expect("a kubeconfig of the rig");
        fs::write(&path, text).expect("the directory is writable");
        path
    }

    /// Runs kubectl in here as administrator.
    ///
    /// # Panics
    ///
    /// When it fails, with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.rig.kubectl(&[&["--namespace", &self.name], arguments].concat()).await
    }

    /// Applies YAML or JSON.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn apply(&self, manifest: &str) {
        let arguments = ["--namespace", &self.name, "apply", "--filename", "-"];
        let output = self.rig.try_kubectl(ADMIN, &arguments, manifest).await;
        assert!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates a [`deployment`] and a Service of the same name.
    ///
    /// # Panics
    ///
    /// When the API server refuses them.
    pub async fn deploy(&self, name: &str, image: &str, replicas: u32) {
        let mut deployment = deployment(name, image, replicas);
        self.place(&mut deployment["spec"]["template"]);
        if self.quiet {
            deployment["spec"]["template"]["metadata"]["annotations"] = json!({LOAD: "0"});
        }
        self.apply(&deployment.to_string()).await;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        self.apply(&service.to_string()).await;
    }

    /// Sends the pods of a template to the rig's node, where the cluster may have others. [`Namespace::deploy`] does so
    /// by itself.
    pub fn place(&self, template: &mut Value) {
        let node = &self.rig.state.node;
        if !self.rig.state.is_own() {
            template["spec"]["nodeSelector"] = json!({MARK: node.name});
            template["spec"]["tolerations"] = json!([{"key": MARK, "operator": "Exists"}]);
        }
    }

    /// Waits until a Deployment's rollout is complete.
    ///
    /// # Panics
    ///
    /// When that takes more than a minute.
    pub async fn wait_ready(&self, deployment: &str) {
        self.kubectl(&["rollout", "status", "deployment", deployment, "--timeout=60s"]).await;
    }

    /// Puts a workload of another kind, such as `stateful-set`, in the place of a Deployment, with the same pods.
    ///
    /// # Panics
    ///
    /// When the cluster does not take it.
    pub async fn run_as(&self, kind: &str, name: &str) {
        if kind == "deployment" {
            return;
        }
        let text = self.kubectl(&["get", "deployment", name, "--output", "json"]).await;
        let mut deployed: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        self.kubectl(&["delete", "deployment", name]).await;
        let mut spec = json!({
            "selector": deployed["spec"]["selector"].take(), "template": deployed["spec"]["template"].take(),
        });
        let kubernetes = match kind {
            "stateful-set" => {
                (spec["replicas"], spec["serviceName"]) = (deployed["spec"]["replicas"].take(), name.into());
                "StatefulSet"
            }
            "daemon-set" => {
                spec["template"]["spec"]["tolerations"] = json!([{"key": MARK, "operator": "Exists"}]);
                "DaemonSet"
            }
            other => panic!("no kind {other}"),
        };
        let object = json!({"apiVersion": "apps/v1", "kind": kubernetes, "metadata": {"name": name}, "spec": spec});
        self.apply(&object.to_string()).await;
        self.kubectl(&["rollout", "status", &kubernetes.to_lowercase(), name, "--timeout=60s"]).await;
    }

    /// Waits until `condition` holds for an object, looking again all the time, and returns the object.
    ///
    /// # Panics
    ///
    /// When a minute was not enough, with the object as it is.
    pub async fn wait_for<K>(&self, name: &str, condition: impl Fn(&K) -> bool) -> K
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api = self.api::<K>().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let object = api.get_opt(name).await.expect("the API server answers");
            match object {
                Some(object) if condition(&object) => return object,
                object => assert!(Instant::now() < deadline, "{name} never came to be as wanted: {object:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many requests the pods have answered whose names begin so, by their own count. Probes are none of them.
    ///
    /// # Panics
    ///
    /// When there is no such pod, or one does not say.
    pub async fn answered(&self, pods: &str) -> u64 {
        let all: Api<Pod> = self.api().await;
        let mut answered = 0;
        let mut asked = 0;
        for pod in all.list(&ListParams::default()).await.expect("a list") {
            let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()) else { continue };
            if !pod.name_any().starts_with(pods) {
                continue;
            }
            let address = SocketAddr::new(ip.parse().expect("an address"), 8080);
            let (_, text) = http::get(address, "/metrics").await.expect("a pod says what it did");
            let counts = text.lines().filter(|line| line.starts_with("http_requests_total{"));
            answered += counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>();
            asked += 1;
        }
        assert!(asked > 0, "there are no pods {pods}*");
        answered
    }

    /// The answered requests that concern this namespace, except those of the rig's own components.
    ///
    /// # Panics
    ///
    /// When the log cannot be read; and where there is none, for which a test takes [`Rig::own`] or
    /// [`Namespace::ledger`].
    pub fn audit(&self) -> Vec<AuditEntry> {
        let entries = audit::read(self.rig.audit_log(), Some(&self.name)).expect("the audit log can be read");
        entries.into_iter().filter(|entry| !super::state::COMPONENTS.contains(&entry.user.as_str())).collect()
    }

    /// What [`Namespace::audit`] says; nothing, said aloud, where the control plane is not the rig's own.
    ///
    /// # Panics
    ///
    /// When the log cannot be read; and with `CI=true`, when there is none.
    pub fn ledger(&self) -> Option<Vec<AuditEntry>> {
        if self.rig.state.is_own() {
            return Some(self.audit());
        }
        missing(&format!("the cluster of {EXISTING} has no audit log that the rig can read"));
        None
    }

    /// A Prometheus that watches the pods in here; nothing, said aloud, where none is installed.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn prometheus(&self) -> Option<Prometheus> {
        Prometheus::start_for(&self.rig.state, &self.name).await
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let kubectl = |arguments: &[&str]| {
            let mut command = Command::new(self.rig.state.bin.join("kubectl"));
            command.arg("--kubeconfig").arg(self.rig.kubeconfig_for(ADMIN)).args(arguments).stdin(Stdio::null());
            command
        };
        if std::thread::panicking() {
            let arguments = ["--namespace", &self.name, "--request-timeout=5s", "get", "deployments,pods,events"];
            if let Ok(output) = kubectl(&arguments).args(["--output", "wide"]).output() {
                eprintln!("namespace {}:\n{}", self.name, String::from_utf8_lossy(&output.stdout));
            }
        }
        // Nobody waits for it: it outlives this process if need be, and ends with the rig.
        let mut delete = kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

impl Alone {
    /// Stops the API server, as a machine that hangs: connections stay open and nothing answers.
    ///
    /// # Panics
    ///
    /// When the rig has no such process, as on a cluster that is not its own: the test takes [`Rig::own`].
    pub fn pause_api_server(&self) -> Paused {
        self.pause("kube-apiserver")
    }

    /// Stops any process of the rig by name, as `node` or `kube-controller-manager`.
    ///
    /// # Panics
    ///
    /// When the rig has no such process.
    pub fn pause(&self, process: &str) -> Paused {
        let pid = *self.0.rig.state.pids.get(process).unwrap_or_else(|| {
            panic!("the rig has no process {process} of its own here: a test that stops it takes Rig::own")
        });
        send(pid, Signal::STOP);
        Paused(pid)
    }
}

impl std::ops::Deref for Alone {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

impl Paused {
    /// Lets the process go on.
    pub fn resume(self) {
        drop(self);
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        send(self.0, Signal::CONT);
    }
}

/// A Deployment of pods of the rig's node, labelled `app: NAME`, probed every second.
pub fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": name, "image": image,
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2,
                        },
                    }],
                },
            },
        },
    })
}
