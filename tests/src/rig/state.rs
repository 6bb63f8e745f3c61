//! What the supervisor of the rig tells the tests, in a file that `MOODIFY_RIG` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::existing::reroute;
use crate::BoxError;
use crate::node::Identity;

/// The environment variable with the path of the state file.
pub const VARIABLE: &str = "MOODIFY_RIG";

/// The user that may do everything.
pub const ADMIN: &str = "admin";
/// Users that may do nothing, until a test binds a role to them.
pub const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
/// The rig's own components; their reads are left out of the audit log.
pub(super) const COMPONENTS: [&str; 4] = ["rig-controller-manager", "rig-scheduler", "rig-node", DATA_PLANE];
/// As whom gateways and kube-proxy work.
pub(super) const DATA_PLANE: &str = "rig-data-plane";

/// A running rig, as it is handed from process to process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Everything the rig writes is in here.
    pub dir: PathBuf,
    /// The directory of kubectl and the other commands.
    pub bin: PathBuf,
    /// The URL of the API server.
    pub server: String,
    /// The audit log; none where the control plane is not the rig's own.
    pub audit_log: Option<PathBuf>,
    /// The node.
    pub node: Identity,
    /// Whether the API server reaches the node, so that it can tell what the pods have written.
    pub logs: bool,
    /// The ids of the processes by name.
    pub pids: BTreeMap<String, u32>,
}

impl State {
    /// The path of a user's kubeconfig.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.kubeconfig"))
    }

    /// The directory in which the node tells Prometheus of its pods.
    pub(super) fn targets(&self) -> PathBuf {
        self.dir.join("targets")
    }

    /// The bearer token of a user.
    pub fn token(user: &str) -> String {
        format!("token-of-{user}")
    }

    /// Whether the control plane is the rig's own, and its users and audit log are there.
    pub fn is_own(&self) -> bool {
        self.audit_log.is_some()
    }

    /// The kubeconfig of a user of the rig's own control plane.
    pub(super) fn own_kubeconfig(&self, user: &str, authority: &Path) -> String {
        // JSON is YAML, and quotes by itself.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{"name": "rig", "cluster": {"server": self.server, "certificate-authority": authority}}],
            "users": [{"name": "rig", "user": {"token": Self::token(user)}}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": "default"}}],
        });
        format!("{config:#}\n")
    }

    /// The kubeconfig of a user with another server, another token if any, and a default namespace.
    ///
    /// # Errors
    ///
    /// When the user has none, or one that names no server.
    pub fn kubeconfig_text(
        &self,
        user: &str,
        server: &str,
        token: Option<&str>,
        namespace: &str,
    ) -> Result<String, BoxError> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.kubeconfig(user))?)?;
        reroute(&mut config["clusters"][0]["cluster"], server)?;
        if let Some(token) = token {
            config["users"][0]["user"] = json!({"token": token});
        }
        config["contexts"][0]["context"]["namespace"] = json!(namespace);
        Ok(format!("{config:#}\n"))
    }

    /// Writes the file that [`State::read`] reads.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self) -> Result<PathBuf, BoxError> {
        let path = self.dir.join("rig.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)?;
        Ok(path)
    }

    /// Reads what a supervisor wrote.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it is of something else.
    pub fn read(path: &Path) -> Result<Self, BoxError> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
