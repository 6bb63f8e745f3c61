//! An Istio of one test: istiod, and an Envoy as its gateway, through which the requests go.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::Namespace;
use super::process::{Process, free_port};
use super::state::DATA_PLANE;
use crate::{http, require};

const PATIENCE: Duration = Duration::from_secs(60);

/// What of istiod a gateway without a mesh has no use for: certificates, webhooks, other APIs, and taking turns with
/// other istiods. And what takes an Envoy that Istio has built: filters of its own.
const SETTINGS: [(&str, &str); 11] = [
    ("ENABLE_CA_SERVER", "false"),
    ("PILOT_CERT_PROVIDER", "none"),
    ("XDS_AUTH", "false"),
    ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
    ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
    ("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER", "false"),
    ("PILOT_ENABLE_IP_AUTOALLOCATE", "false"),
    ("ENABLE_LEADER_ELECTION", "false"),
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    ("PILOT_ENABLE_ALPN_FILTER", "false"),
    // The tests ask whether a host is served by it.
    ("PILOT_HTTP10", "true"),
];

/// A real istiod for one namespace, and an Envoy that does as it says. They stop when this is dropped.
///
/// In the namespace there is a Gateway `edge`, which takes HTTP for all hosts.
#[derive(Debug)]
pub struct Istio {
    address: SocketAddr,
    // The one that asks the other stops first.
    _envoy: Process,
    _istiod: Process,
    _dir: TempDir,
}

impl Istio {
    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until requests for `host` are answered with 200.
    ///
    /// # Panics
    ///
    /// When they never are, with the last answer.
    pub async fn serves(&self, host: &str) {
        http::until_served("Istio's gateway", self.address, host).await;
    }
}

impl Namespace {
    /// An Istio for this namespace, whose gateway hears of a change when nothing else has changed for `lag`, but no
    /// later than that after the first one; nothing, said aloud, where there is none.
    ///
    /// # Panics
    ///
    /// When it does not start; and on a cluster that is not the rig's own, where it would have to be installed.
    pub async fn istio(&self, lag: Duration) -> Option<Istio> {
        self.istio_of(lag, false).await
    }

    /// The same, but that the gateway `edge` is one of the Gateway API.
    ///
    /// # Panics
    ///
    /// As [`Namespace::istio`].
    pub async fn istio_gateway(&self, lag: Duration) -> Option<Istio> {
        self.istio_of(lag, true).await
    }

    async fn istio_of(&self, lag: Duration, gateway_api: bool) -> Option<Istio> {
        let (istiod, envoy) = (require("pilot-discovery")?, require("envoy")?);
        let state = self.rig().state();
        assert!(state.is_own(), "a test with a data plane takes Rig::own");
        let name = self.name();
        let [address, grpc, web, monitoring, debugging] =
            [(); 5].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port is free"))));
        let gateway = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
            "spec": {
                "selector": {"istio": "edge"},
                "servers": [{
                    "bind": address.ip().to_string(), "hosts": ["*"],
                    "port": {"number": address.port(), "name": "http", "protocol": "HTTP"},
                }],
            },
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "edge"},
            "spec": {"selector": {"istio": "edge"}, "ports": [{"name": "http", "port": address.port()}]},
        });
        // One that istiod does not deploy: the Service says where it is.
        let of_gateway_api = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"},
            "spec": {
                "gatewayClassName": "istio",
                "addresses": [{"type": "Hostname", "value": format!("edge.{name}.svc.cluster.local")}],
                "listeners": [{"name": "http", "port": address.port(), "protocol": "HTTP"}],
            },
        });
        for object in if gateway_api { vec![service, of_gateway_api] } else { vec![gateway] } {
            self.apply(&object.to_string()).await;
        }

        let dir = TempDir::new_in(&state.dir).expect("the rig's directory can be written");
        let write = |file: &str, content: Value| {
            let path = dir.path().join(file);
            fs::write(&path, content.to_string()).expect("so can this one");
            path
        };
        let mesh = json!({
            "rootNamespace": name, "enableAutoMtls": false, "ingressControllerMode": "OFF",
            // What it would send again by itself, a test is to see.
            "defaultHttpRetryPolicy": {"attempts": 0},
        });
        let mut command = Command::new(istiod);
        command.current_dir(dir.path()).envs(SETTINGS).args([
            "discovery".to_owned(),
            format!("--kubeconfig={}", state.kubeconfig(DATA_PLANE).display()),
            format!("--namespace={name}"),
            format!("--meshConfig={}", write("mesh.json", mesh).display()),
            format!("--grpcAddr={grpc}"),
            format!("--httpAddr={web}"),
            format!("--monitoringAddr={monitoring}"),
            "--httpsAddr=".to_owned(),
            "--secureGRPCAddr=".to_owned(),
            format!("--ctrlz_address={}", debugging.ip()),
            format!("--ctrlz_port={}", debugging.port()),
            "--kubernetesApiQPS=1000".to_owned(),
            "--kubernetesApiBurst=2000".to_owned(),
        ]);
        let lag = format!("{}ms", lag.as_millis());
        command.env("PILOT_ENABLE_GATEWAY_API", gateway_api.to_string());
        command.env("PILOT_DEBOUNCE_AFTER", &lag).env("PILOT_DEBOUNCE_MAX", &lag);
        command.env("POD_NAMESPACE", name).env("POD_NAME", "istiod").env("ISTIO_WATCH_NAMESPACE", name);
        let istiod = Process::start("istiod", &mut command, dir.path()).expect("istiod can be run");
        let istiod = until_answers(istiod, web, "/ready", |status| status == 200).await;

        let bootstrap = write("envoy.json", bootstrap(name, grpc));
        let mut command = Command::new(envoy);
        command.current_dir(dir.path()).arg("--config-path").arg(bootstrap);
        // There are others on this machine, none of which it takes over from.
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]);
        let envoy = Process::start("envoy", &mut command, dir.path()).expect("Envoy can be run");
        // Whom it does not know where to send it answers too, as soon as it was told of the gateway.
        let envoy = until_answers(envoy, address, "/", |_| true).await;
        Some(Istio { address, _envoy: envoy, _istiod: istiod, _dir: dir })
    }
}

async fn until_answers(mut process: Process, address: SocketAddr, path: &str, good: fn(u16) -> bool) -> Process {
    let deadline = Instant::now() + PATIENCE;
    while !matches!(http::get(address, path).await, Ok((status, _)) if good(status)) {
        let alive = process.is_running() && Instant::now() < deadline;
        assert!(alive, "{} is not ready:\n{}", process.name(), process.last_words());
        sleep(Duration::from_millis(50)).await;
    }
    process
}

/// An Envoy that knows where its istiod is and as what it asks; all the rest it is told.
fn bootstrap(namespace: &str, istiod: SocketAddr) -> Value {
    let socket =
        |address: SocketAddr| json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    json!({
        "node": {
            "id": format!("router~{}~edge.{namespace}~{namespace}.svc.cluster.local", Ipv4Addr::LOCALHOST),
            "cluster": "edge",
            "metadata": {
                "NAMESPACE": namespace, "CLUSTER_ID": "Kubernetes", "LABELS": {"istio": "edge"},
                "ISTIO_VERSION": "1.31.0",
            },
        },
        "dynamic_resources": {
            "lds_config": ads, "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "istiod"}}],
            },
        },
        "static_resources": {"clusters": [{
            "name": "istiod", "type": "STATIC", "connect_timeout": "5s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {
                "cluster_name": "istiod",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(istiod)}}]}],
            },
        }]},
    })
}
