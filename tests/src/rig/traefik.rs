//! A Traefik of one test: the data plane through which the requests go.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::Namespace;
use super::process::{Process, free_port};
use super::state::{ADMIN, DATA_PLANE};
use crate::{grpc, http, require};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long Traefik waits at least between two changes of its configuration, where a test says nothing else.
pub const PROMPT: Duration = Duration::from_millis(100);

/// A real Traefik for one namespace: with the Gateway API, its own custom resources and the annotations of
/// ingress-nginx. It stops when this is dropped.
///
/// In the namespace there is a Gateway `edge`, whose one listener takes HTTP for all hosts; an `Ingress` is of the class
/// `nginx`.
#[derive(Debug)]
pub struct Traefik {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Traefik {
    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers to one request for `host` with these header lines: status and body.
    ///
    /// # Panics
    ///
    /// When the answer breaks off.
    pub async fn ask(&self, host: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        http::get_with(self.address, host, "/", &lines).await.expect("an answer")
    }

    /// Waits until requests for `host` are answered with 200.
    ///
    /// # Panics
    ///
    /// When they never are, with the last answer.
    pub async fn serves(&self, host: &str) {
        http::until_served("Traefik", self.address, host).await;
    }

    /// Waits until gRPC calls of `host` are answered.
    ///
    /// # Panics
    ///
    /// When they never are, with the last answer.
    pub async fn serves_calls(&self, host: &str) {
        grpc::until_served("Traefik", self.address, host).await;
    }
}

impl Namespace {
    /// A Traefik for this namespace, which takes over a change at once, but then waits for `throttle` before the next;
    /// nothing, said aloud, where there is none.
    ///
    /// # Panics
    ///
    /// When it does not start; and on a cluster that is not the rig's own, where it would have to be installed.
    pub async fn traefik(&self, throttle: Duration) -> Option<Traefik> {
        let program = require("traefik")?;
        let state = self.rig().state();
        assert!(state.is_own(), "a test with a data plane takes Rig::own");
        let name = self.name();
        let ports = [free_port().expect("a port is free"), free_port().expect("another one is free")];
        let [address, own] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let labels = json!({"rig.moodify.dev/gateway": name});
        let classes = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": {"name": name, "labels": labels},
                "spec": {"controllerName": "traefik.io/gateway-controller"},
            },
            {
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
                "spec": {
                    "gatewayClassName": name,
                    "listeners": [{"name": "web", "port": address.port(), "protocol": "HTTP"}],
                },
            },
        ]});
        self.apply(&classes.to_string()).await;
        // Of the whole cluster: of two tests that make it at the same time, a client-side apply would refuse one.
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "nginx"},
            "spec": {"controller": "k8s.io/ingress-nginx"},
        });
        let apply = ["apply", "--server-side", "--filename", "-"];
        let output = self.rig().try_kubectl(ADMIN, &apply, &class.to_string()).await;
        assert!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));

        let dir = TempDir::new_in(&state.dir).expect("the rig's directory can be written");
        let kubeconfig = self.write_kubeconfig(DATA_PLANE, &state.server, None);
        let mut command = Command::new(program);
        command.env("KUBECONFIG", kubeconfig).current_dir(dir.path()).args([
            format!("--entrypoints.web.address={address}"),
            format!("--entrypoints.traefik.address={own}"),
            "--ping=true".to_owned(),
            "--log.level=INFO".to_owned(),
            "--global.checknewversion=false".to_owned(),
            "--global.sendanonymoususage=false".to_owned(),
            format!("--providers.providersthrottleduration={}ms", throttle.as_millis()),
            "--providers.kubernetesgateway=true".to_owned(),
            format!("--providers.kubernetesgateway.namespaces={name}"),
            format!("--providers.kubernetesgateway.labelselector=rig.moodify.dev/gateway={name}"),
            "--providers.kubernetesgateway.statusaddress.ip=127.0.0.1".to_owned(),
            // With the default limits, its reports would be what every test waits for.
            "--providers.kubernetesgateway.qps=1000".to_owned(),
            "--providers.kubernetesgateway.burst=2000".to_owned(),
            "--providers.kubernetescrd=true".to_owned(),
            format!("--providers.kubernetescrd.namespaces={name}"),
            // As other gateways do: one Service without pods is no reason to leave out what refers to it.
            "--providers.kubernetescrd.allowemptyservices=true".to_owned(),
            "--providers.kubernetesingressnginx=true".to_owned(),
            format!("--providers.kubernetesingressnginx.watchnamespace={name}"),
        ]);
        let mut process = Process::start("traefik", &mut command, dir.path()).expect("Traefik can be run");
        let deadline = Instant::now() + PATIENCE;
        while !matches!(http::get(own, "/ping").await, Ok((200, _))) {
            let alive = process.is_running() && Instant::now() < deadline;
            assert!(alive, "Traefik does not answer:\n{}", process.last_words());
            sleep(Duration::from_millis(50)).await;
        }
        Some(Traefik { address, _process: process, _dir: dir })
    }
}
