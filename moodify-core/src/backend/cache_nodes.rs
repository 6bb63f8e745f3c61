use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use async_trait::async_trait;
use futures::FutureExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup_store::poll;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};

/// What can be done with the nodes of a cache. What cannot says why, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeCapabilities {
    /// It can restart a node.
    pub restart: Result<(), String>,
    /// It can make a replica the primary.
    pub fail_over: Result<(), String>,
}

impl NodeCapabilities {
    /// It can do everything.
    #[must_use]
    pub fn all() -> Self {
        Self { restart: Ok(()), fail_over: Ok(()) }
    }

    /// The same, but it cannot restart a node.
    #[must_use]
    pub fn without_restart(mut self, why: impl Into<String>) -> Self {
        self.restart = Err(why.into());
        self
    }

    /// The same, but it cannot make a replica the primary.
    #[must_use]
    pub fn without_fail_over(mut self, why: impl Into<String>) -> Self {
        self.fail_over = Err(why.into());
        self
    }
}

/// What a node does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// It follows the primary.
    Replica,
    /// The provider does not say.
    Unknown,
    /// It takes the writes.
    Primary,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replica => "replica",
            Self::Unknown => "role not known",
            Self::Primary => "primary",
        })
    }
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It serves.
    Available,
    /// Something is being done with it that passes, in the provider's words.
    Busy(String),
    /// It does not come back by itself, in the provider's words.
    Failed(String),
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available => f.write_str("available"),
            Self::Busy(what) | Self::Failed(what) => f.write_str(what),
        }
    }
}

/// A node of a cache, as its provider describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheNode {
    /// The provider's id of it.
    pub id: String,
    /// The group (shard) of a primary and its replicas that it belongs to.
    pub group: String,
    /// What it does there.
    pub role: NodeRole,
    /// How it is.
    pub state: NodeState,
    /// When it was started again last, by the provider's clock; `None` if the provider knows of no such time.
    pub restarted: Option<Timestamp>,
    /// When a fail-over of its group was last begun or completed, by the provider's clock; `None` if the provider knows of
    /// no such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_over: Option<Timestamp>,
    /// Its availability zone, if the provider says.
    pub zone: Option<String>,
    /// Its engine and version, if the provider says.
    pub engine: Option<String>,
    /// Where it answers: host and port.
    pub endpoint: Option<String>,
}

impl CacheNode {
    /// Whether it serves.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.state == NodeState::Available
    }

    /// Whether it was started again since it was as `seen`. Only times of the provider's clock are compared.
    #[must_use]
    pub fn was_restarted_since(&self, seen: &Self) -> bool {
        self.restarted > seen.restarted
    }

    /// Whether a fail-over of its group was begun or completed since it was as `seen`. Only times of the provider's clock
    /// are compared.
    #[must_use]
    pub fn was_failed_over_since(&self, seen: &Self) -> bool {
        self.failed_over > seen.failed_over
    }
}

impl fmt::Display for CacheNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.id, self.role, self.state)
    }
}

/// Something that a provider says has happened to a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When, by the provider's clock.
    pub at: Timestamp,
    /// To what: the id of a node or of the cache.
    pub source: String,
    /// What, in the provider's words.
    pub message: String,
}

/// The order in which nodes are restarted, one at a time: replicas before primaries, so that what goes wrong with the
/// first one takes no writes.
///
/// ```
/// # use moodify_core::backend::{CacheNode, NodeRole, NodeState, restart_order};
/// # let node = |id: &str, role| CacheNode {
/// #     id: id.to_owned(), group: "0001".to_owned(), role, state: NodeState::Available, restarted: None,
/// #     failed_over: None, zone: None, engine: None, endpoint: None,
/// # };
/// let nodes = [node("a", NodeRole::Primary), node("c", NodeRole::Replica), node("b", NodeRole::Replica)];
/// let order: Vec<&str> = restart_order(&nodes).iter().map(|node| node.id.as_str()).collect();
/// assert_eq!(order, ["b", "c", "a"]);
/// ```
#[must_use]
pub fn restart_order(nodes: &[CacheNode]) -> Vec<&CacheNode> {
    let mut order: Vec<&CacheNode> = nodes.iter().collect();
    order.sort_by_key(|node| (node.role, &node.group, &node.id));
    order
}

/// Administers the nodes of a cache, where its provider lets one.
///
/// # Contract
/// - A node that is to be changed is given as it was seen before the intent was written down. So one intent is one
///   restart, however often it is asked for, by whatever process: `restart` does nothing with a node that was started
///   again since, or is not available now; `fail_over` does nothing if the node is no primary any more, or its group was
///   failed over since. Where the provider does not tell roles, any node stands for its group.
/// - Both return when the provider has begun; wait with [`CacheNodesExt`].
/// - A provider may say for a while after a restart was begun that the node is available. That it is over is known only
///   when `restarted` has changed.
/// - What cannot be done is [`Unsupported`](crate::ErrorKind::Unsupported), with the reason of the capabilities.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait CacheNodes: Send + Sync + fmt::Debug {
    /// What can be done with these nodes. Asks nobody.
    fn capabilities(&self) -> NodeCapabilities;

    /// All nodes, as they are now.
    ///
    /// # Errors
    /// When the provider cannot be asked.
    async fn nodes(&self, cx: &CallContext) -> Result<Vec<CacheNode>>;

    /// Begins to restart a node, and returns it as it is now.
    ///
    /// # Errors
    /// As in the contract; [`NotFound`](crate::ErrorKind::NotFound) if it is gone; when the provider refuses.
    async fn restart(&self, cx: &CallContext, seen: &CacheNode) -> Result<CacheNode>;

    /// Begins to make a replica the primary of the group in which `primary` is it.
    ///
    /// # Errors
    /// As in the contract, and when the provider refuses.
    async fn fail_over(&self, cx: &CallContext, primary: &CacheNode) -> Result<()>;

    /// What has happened to the nodes since a moment, oldest first.
    ///
    /// # Errors
    /// When the provider cannot be asked.
    async fn events(&self, cx: &CallContext, since: Timestamp) -> Result<Vec<NodeEvent>>;
}

/// Comfort on top of any [`CacheNodes`].
///
/// Providers of caches cannot be watched, so waiting asks again and again: after 1 s at first, doubling up to 15 s. A
/// question that fails in passing is simply asked again at the next turn.
///
/// ```no_run
/// # async fn example(nodes: &dyn moodify_core::backend::CacheNodes) -> moodify_core::Result<()> {
/// use moodify_core::backend::{CacheNode, CacheNodesExt, restart_order};
/// use moodify_core::CallContext;
/// let cx = CallContext::by_hand("restart", std::time::Duration::from_secs(3600));
/// for seen in restart_order(&nodes.nodes(&cx).await?) {
///     nodes.restart(&cx, seen).await?;
///     let over = |node: &CacheNode| node.is_available() && node.was_restarted_since(seen);
///     println!("{}", nodes.wait_node(&cx, &seen.id, &over, &|_| ()).await?);
/// }
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait CacheNodesExt {
    /// Waits until `wanted` is true of a node, and returns it. `seen` is told how it is at every turn.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with the last state in the message; [`ErrorKind::Unhealthy`] if
    /// the node failed; [`ErrorKind::NotFound`] if there is none.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting.
    async fn wait_node(
        &self,
        cx: &CallContext,
        id: &str,
        wanted: &(dyn for<'a> Fn(&'a CacheNode) -> bool + Send + Sync),
        seen: &(dyn for<'a> Fn(&'a CacheNode) + Send + Sync),
    ) -> Result<CacheNode>;

    /// Makes a replica the primary, and waits until it is and all nodes of the group are available. Returns the new one.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline; else as [`CacheNodes::fail_over`].
    ///
    /// # Cancellation
    /// What was begun goes on; asking again for the same node finds it.
    async fn wait_failed_over(&self, cx: &CallContext, primary: &CacheNode) -> Result<CacheNode>;

    /// Fails every group over, one after the other, and waits for each. Returns the new primaries. The nodes are given as
    /// they were `seen` before the intent was written down: a group that was failed over since is not again.
    ///
    /// # Errors
    /// As [`wait_failed_over`](Self::wait_failed_over); the groups before are failed over, the ones after are not.
    ///
    /// # Cancellation
    /// What was begun goes on; asking again with the same nodes finds it.
    async fn wait_all_failed_over(&self, cx: &CallContext, seen: &[CacheNode]) -> Result<Vec<CacheNode>>;
}

#[async_trait]
impl<N: CacheNodes + ?Sized> CacheNodesExt for N {
    async fn wait_node(
        &self,
        cx: &CallContext,
        id: &str,
        wanted: &(dyn for<'a> Fn(&'a CacheNode) -> bool + Send + Sync),
        seen: &(dyn for<'a> Fn(&'a CacheNode) + Send + Sync),
    ) -> Result<CacheNode> {
        const OPERATION: &str = "wait for the node";
        let fail = move |kind, why: String| Err(Error::new(kind, "moodify", OPERATION, why).on(id));
        let waiting = poll(cx, (OPERATION, id), || {
            async move {
                let Some(node) = self.nodes(cx).await?.into_iter().find(|node| node.id == id) else {
                    return fail(ErrorKind::NotFound, "there is no such node".to_owned());
                };
                seen(&node);
                match &node.state {
                    NodeState::Failed(why) => fail(ErrorKind::Unhealthy, format!("the node failed: {why}")),
                    _ if wanted(&node) => Ok(ControlFlow::Break(node)),
                    _ => Ok(ControlFlow::Continue(node.to_string())),
                }
            }
            .boxed()
        });
        waiting.await.map_err(|e| e.effect(crate::error::Effect::None))
    }

    async fn wait_failed_over(&self, cx: &CallContext, primary: &CacheNode) -> Result<CacheNode> {
        self.fail_over(cx, primary).await?;
        poll(cx, ("wait for the new primary", &primary.group), || {
            async move {
                let all = self.nodes(cx).await?.into_iter();
                let group: Vec<CacheNode> = all.filter(|node| node.group == primary.group).collect();
                let steady = group.iter().all(CacheNode::is_available);
                let changed = |node: &CacheNode| match primary.role {
                    NodeRole::Unknown => node.was_failed_over_since(primary),
                    _ => node.id != primary.id,
                };
                let new = group.iter().find(|node| node.role == NodeRole::Primary && changed(node));
                Ok(match new {
                    Some(new) if steady => ControlFlow::Break(new.clone()),
                    _ => {
                        let all: Vec<String> = group.iter().map(ToString::to_string).collect();
                        ControlFlow::Continue(all.join(", "))
                    }
                })
            }
            .boxed()
        })
        .await
    }

    async fn wait_all_failed_over(&self, cx: &CallContext, seen: &[CacheNode]) -> Result<Vec<CacheNode>> {
        let groups: BTreeSet<&str> = seen.iter().map(|node| node.group.as_str()).collect();
        let mut primaries = Vec::new();
        for group in groups {
            let of = seen.iter().filter(|node| node.group == group);
            // A primary where roles are told, else any.
            if let Some(primary) = of.max_by_key(|node| node.role) {
                primaries.push(self.wait_failed_over(cx, primary).await?);
            }
        }
        Ok(primaries)
    }
}
