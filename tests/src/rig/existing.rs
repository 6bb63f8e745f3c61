//! The rig on a cluster that is there already: nothing of its own but a node.
//!
//! The node has a taint and a label with its name, so that nothing but the pods of this rig's tests comes to it, and
//! those come nowhere else: [`Namespace::place`](super::Namespace::place). What the rig leaves in the cluster when it
//! ends are the definitions of routing objects, if it was the one to install them: others may use them by then.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::bridge::{self, BRIDGE};
use super::control_plane::{CRDS, ControlPlane};
use super::state::{ADMIN, State};
use crate::BoxError;
use crate::node::{Identity, MARK};

/// The environment variable with the path of the kubeconfig of a cluster that is to be used as it is.
pub const EXISTING: &str = "MOODIFY_RIG_KUBECONFIG";

impl ControlPlane {
    /// Starts a node for the cluster that a kubeconfig names, with the commands in `assets/bin`, and returns when pods
    /// can run on it. Dropping it deletes the namespaces of the tests and the node.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer, or does not take the node.
    pub async fn join(dir: &Path, assets: &Path, kubeconfig: &Path) -> Result<Self, BoxError> {
        let mut config = flattened(&assets.join("bin"), kubeconfig)?;
        let mut way = None;
        if let Some(socket) = std::env::var_os(BRIDGE) {
            let (port, task) = bridge::inner_end(PathBuf::from(socket)).await?;
            reroute(&mut config["clusters"][0]["cluster"], &format!("https://127.0.0.1:{port}"))?;
            way = Some(task);
        }
        let server = config["clusters"][0]["cluster"]["server"].as_str().ok_or("the kubeconfig names no server")?;
        let number = RandomState::new().hash_one(std::process::id());
        let state = State {
            dir: dir.to_owned(),
            bin: assets.join("bin"),
            server: server.to_owned(),
            audit_log: None,
            node: Identity::numbered(number),
            logs: false,
            pids: Default::default(),
        };
        fs::write(state.kubeconfig(ADMIN), format!("{config:#}\n"))?;
        let mut plane = Self { state, processes: Vec::new(), _way: way };
        plane.kubectl(&["version", "--request-timeout=10s"])?;
        plane.start_node(ADMIN)?;
        for crds in CRDS {
            // With a slash at the end, as kubectl does not look into what is a link.
            plane.install_missing(&assets.join(crds).join(""))?;
        }
        plane.wait_for_node().await?;
        // A cluster elsewhere cannot reach the node.
        let health = format!("/api/v1/nodes/{}/proxy/healthz", plane.state.node.name);
        plane.state.logs = plane.kubectl(&["get", "--raw", &health, "--request-timeout=5s"]).is_ok();
        Ok(plane)
    }

    fn install_missing(&self, crds: &Path) -> Result<(), BoxError> {
        for entry in fs::read_dir(crds)? {
            let path = entry?.path();
            let file = path.to_string_lossy();
            if self.kubectl(&["get", "--filename", &file]).is_err()
                && let Err(error) = self.kubectl(&["create", "--filename", &file])
                && !error.to_string().contains("AlreadyExists")
            {
                return Err(format!("the definition of a routing object cannot be installed: {error}").into());
            }
        }
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "--filename", &crds.to_string_lossy()])
    }

    /// Deletes the namespaces of the tests. The node still runs and lets their pods end.
    pub(super) fn delete_namespaces(&self) {
        let selector = format!("--selector={MARK}={}", self.state.node.name);
        self.or_say(&["delete", "namespace", &selector, "--timeout=90s"]);
    }

    /// Deletes what the node itself has in the cluster. It no longer runs, or it would renew its lease.
    pub(super) fn delete_node(&self) {
        let node = self.state.node.name.as_str();
        self.or_say(&["delete", "node", node, "--ignore-not-found", "--timeout=30s"]);
        self.or_say(&["delete", "lease", node, "--namespace=kube-node-lease", "--ignore-not-found", "--timeout=30s"]);
    }

    fn or_say(&self, arguments: &[&str]) {
        if let Err(error) = self.kubectl(arguments) {
            eprintln!("rig: left in the cluster: {error}");
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<(), BoxError> {
        let mut command = Command::new(self.state.bin.join("kubectl"));
        command.arg("--kubeconfig").arg(self.state.kubeconfig(ADMIN)).args(arguments).stdin(Stdio::null());
        // An interrupt from the terminal must not end the cleaning up.
        let output = command.process_group(0).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// The current context of a kubeconfig and nothing else, with the contents of the files that it names.
fn flattened(bin: &Path, kubeconfig: &Path) -> Result<Value, BoxError> {
    let mut command = Command::new(bin.join("kubectl"));
    command.arg("--kubeconfig").arg(kubeconfig);
    let output = command.args(["config", "view", "--raw", "--flatten", "--minify", "--output=json"]).output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", kubeconfig.display(), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Sends a cluster of a kubeconfig by another way, where it has to prove that it is the same server all the same.
pub(super) fn reroute(cluster: &mut Value, server: &str) -> Result<(), BoxError> {
    let before = cluster["server"].as_str().ok_or("the kubeconfig names no server")?.to_owned();
    let (was, is) = (bridge::host_and_port(&before)?.0, bridge::host_and_port(server)?.0);
    let path = before.parse::<http::Uri>()?.path().trim_end_matches('/').to_owned();
    let has_name = cluster["tls-server-name"].as_str().is_some_and(|name| !name.is_empty());
    if was != is && !has_name {
        cluster["tls-server-name"] = json!(was);
    }
    let server = server.trim_end_matches('/');
    cluster["server"] = if server.ends_with(&path) { json!(server) } else { json!(format!("{server}{path}")) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_way_leads_to_the_same_server() {
        let mut cluster = json!({"server": "https://api.test/clusters/a"});
        reroute(&mut cluster, "https://127.0.0.1:1").unwrap();
        assert_eq!(cluster, json!({"server": "https://127.0.0.1:1/clusters/a", "tls-server-name": "api.test"}));
        reroute(&mut cluster, "https://127.0.0.1:2").unwrap();
        assert_eq!(cluster["tls-server-name"], "api.test");
        let mut cluster = json!({"server": "https://127.0.0.1:1"});
        reroute(&mut cluster, "https://127.0.0.1:2").unwrap();
        assert_eq!(cluster, json!({"server": "https://127.0.0.1:2"}));
    }
}
