//! What the supervisor of the rig tells the tests, in a file that `MOODIFY_RIG` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::BoxError;

/// The environment variable with the path of the state file.
pub const VARIABLE: &str = "MOODIFY_RIG";

/// The user that may do everything.
pub const ADMIN: &str = "admin";
/// Users that may do nothing, until a test binds a role to them.
pub const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
/// The rig's own components; their reads are left out of the audit log.
pub(super) const COMPONENTS: [&str; 3] = ["rig-controller-manager", "rig-scheduler", "rig-node"];

/// A running rig, as it is handed from process to process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Everything the rig writes is in here.
    pub dir: PathBuf,
    /// The directory of kubectl and the other commands.
    pub bin: PathBuf,
    /// The URL of the API server.
    pub server: String,
    /// The certificate authority of the API server.
    pub authority: PathBuf,
    /// The audit log.
    pub audit_log: PathBuf,
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

    /// A kubeconfig with any server, token and default namespace.
    pub fn kubeconfig_text(&self, server: &str, token: &str, namespace: &str) -> String {
        // JSON is YAML, and quotes by itself.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{"name": "rig", "cluster": {"server": server, "certificate-authority": self.authority}}],
            "users": [{"name": "rig", "user": {"token": token}}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": namespace}}],
        });
        format!("{config:#}\n")
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
