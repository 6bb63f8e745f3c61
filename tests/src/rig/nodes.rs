//! Nodes beside the rig's own, for what runs a pod on each of several.

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Rig;
use crate::node::{self, Identity};

/// Two nodes that run in the test's own process. Only pods that tolerate [`MARK`](node::MARK) go to them.
#[derive(Debug)]
pub struct Nodes {
    rig: &'static Rig,
    names: Vec<String>,
    _running: JoinSet<()>,
    _targets: TempDir,
}

impl Rig {
    /// Two more nodes, ready.
    ///
    /// # Panics
    ///
    /// When they do not become ready, or the control plane is not the rig's own: the test takes [`Rig::own`].
    pub async fn two_more_nodes(&'static self) -> Nodes {
        let targets = TempDir::new().expect("a directory can be made");
        let (mut running, mut names) = (JoinSet::new(), Vec::new());
        for identity in [0x1234_5678_0000_0001, 0x1234_5679_0000_0002].map(Identity::numbered) {
            let (client, dir) = (self.admin_client().await, targets.path().to_owned());
            names.push(identity.name.clone());
            running.spawn(async move { node::run(client, identity, &dir).await.expect("a node runs") });
        }
        for name in &names {
            self.kubectl(&["wait", "--for=create", &format!("node/{name}"), "--timeout=30s"]).await;
            self.kubectl(&["wait", "--for=condition=Ready", &format!("node/{name}"), "--timeout=60s"]).await;
        }
        Nodes { rig: self, names, _running: running, _targets: targets }
    }
}

impl Nodes {
    /// Takes them away. What runs on them has to be deleted before, or nobody would ever say that it ended.
    ///
    /// # Panics
    ///
    /// When they cannot be deleted.
    pub async fn delete(self) {
        for name in &self.names {
            self.rig.kubectl(&["delete", "node", name]).await;
        }
    }
}
