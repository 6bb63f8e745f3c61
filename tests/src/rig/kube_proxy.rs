//! kube-proxy: the data plane behind the addresses of Services.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::process::{Process, free_port};
use super::state::DATA_PLANE;
use super::{Namespace, Rig};
use crate::{http, require};

const PATIENCE: Duration = Duration::from_secs(60);

/// A real kube-proxy, by nftables, for all Services of the rig. It stops when this is dropped.
#[derive(Debug)]
pub struct KubeProxy {
    _process: Process,
    _dir: TempDir,
    /// A network namespace has one.
    _turn: File,
}

impl Rig {
    /// A kube-proxy, when no other test has one; nothing, said aloud, where there is none, or no nftables.
    ///
    /// # Panics
    ///
    /// When it does not start; and on a cluster that is not the rig's own, which has one.
    pub async fn kube_proxy(&self) -> Option<KubeProxy> {
        let program = require("kube-proxy")?;
        let nft = require("nft")?;
        let state = self.state();
        assert!(state.is_own(), "a test with a data plane takes Rig::own");
        let turn = self.turn("kube-proxy.lock", File::lock).await;
        let dir = TempDir::new_in(&state.dir).expect("the rig's directory can be written");
        let ports = [free_port().expect("a port is free"), free_port().expect("another one is free")];
        let [health, metrics] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "nftables", "bindAddress": "127.0.0.1", "hostnameOverride": state.node.name,
            "clientConnection": {"kubeconfig": state.kubeconfig(DATA_PLANE), "qps": 1000, "burst": 2000},
            "clusterCIDR": "10.244.0.0/16",
            "healthzBindAddress": health.to_string(), "metricsBindAddress": metrics.to_string(),
            // These would be settings of the whole machine.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let path = dir.path().join("kube-proxy.json");
        fs::write(&path, config.to_string()).expect("so can this one");
        let mut command = Command::new(program);
        command.arg("--config").arg(path);
        // It looks for nft by itself.
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::env::split_paths(&paths).chain(nft.parent().map(Into::into));
        command.env("PATH", std::env::join_paths(paths).expect("it was a PATH"));
        let mut process = Process::start("kube-proxy", &mut command, dir.path()).expect("kube-proxy can be run");
        let deadline = Instant::now() + PATIENCE;
        while !matches!(http::get(health, "/healthz").await, Ok((200, _))) {
            let alive = process.is_running() && Instant::now() < deadline;
            assert!(alive, "kube-proxy does not answer:\n{}", process.last_words());
            sleep(Duration::from_millis(50)).await;
        }
        Some(KubeProxy { _process: process, _dir: dir, _turn: turn })
    }
}

impl Namespace {
    /// The address of a Service in here, once it leads somewhere. That takes a [`KubeProxy`].
    ///
    /// # Panics
    ///
    /// When it never does.
    pub async fn service_address(&self, service: &str) -> SocketAddr {
        let found: Service = self.wait_for(service, |_| true).await;
        let spec = found.spec.unwrap_or_default();
        let address = spec.cluster_ip.and_then(|ip| ip.parse::<Ipv4Addr>().ok()).expect("a Service with an address");
        let port = spec.ports.iter().flatten().find_map(|port| u16::try_from(port.port).ok()).expect("a port");
        let address = SocketAddr::from((address, port));
        let deadline = Instant::now() + PATIENCE;
        while !matches!(http::get(address, "/").await, Ok((200, _))) {
            assert!(Instant::now() < deadline, "nothing answers at {address}, the address of {service}");
            sleep(Duration::from_millis(50)).await;
        }
        address
    }
}
