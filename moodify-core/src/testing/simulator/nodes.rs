//! The nodes of simulated caches: a primary and its replicas, which restart and fail over.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::backend::{CacheNode, CacheNodes, NodeCapabilities, NodeEvent, NodeRole, NodeState};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};

use super::cluster::Facet;
use super::fault::BackendKind;
use super::state::{Caller, State};

/// How many nodes a cache has.
const NODES: usize = 3;

/// For so long a node that is about to restart still seems to be available, as with real providers: a second request
/// would restart it again.
const LAG: Duration = Duration::from_secs(3);

/// How long a restart takes, from when it was asked for.
const RESTART: Duration = Duration::from_secs(40);

/// How long a group is busy with a fail-over.
const FAIL_OVER: Duration = Duration::from_secs(20);

/// A node of a cache in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimNode {
    /// Its id.
    pub id: String,
    /// Whether it is the primary.
    pub primary: bool,
    /// When each of its restarts was asked for, from the start of the simulation.
    pub restarts: Vec<Duration>,
    /// When a fail-over of its group was asked for last.
    failed_over: Option<Duration>,
}

impl SimNode {
    fn view(&self, now: Duration, base: Timestamp) -> CacheNode {
        let over = |asked: &&Duration| **asked + RESTART <= now;
        let restarting = self.restarts.last().is_some_and(|asked| (*asked + LAG..*asked + RESTART).contains(&now));
        let modifying = self.failed_over.is_some_and(|asked| now < asked + FAIL_OVER);
        let state = match (restarting, modifying) {
            (true, _) => NodeState::Busy("restarting".to_owned()),
            (false, true) => NodeState::Busy("failing over".to_owned()),
            (false, false) => NodeState::Available,
        };
        CacheNode {
            id: self.id.clone(),
            group: "1".to_owned(),
            role: if self.primary { NodeRole::Primary } else { NodeRole::Replica },
            state,
            restarted: self.restarts.iter().rfind(over).map(|asked| base + *asked + RESTART),
            failed_over: self.failed_over.map(|asked| base + asked),
            zone: Some("simulated".to_owned()),
            engine: Some("simulated 1.0".to_owned()),
            endpoint: Some(format!("{}.simulated.invalid:6379", self.id)),
        }
    }
}

impl State {
    /// The nodes of the cache of that name.
    pub(super) fn nodes(&mut self, cache: &str) -> &mut Vec<SimNode> {
        self.cache_nodes.entry(cache.to_owned()).or_insert_with(|| {
            let node = |n: usize| SimNode {
                id: format!("{cache}-{n}"),
                primary: n == 1,
                restarts: Vec::new(),
                failed_over: None,
            };
            (1..=NODES).map(node).collect()
        })
    }
}

fn look<'a>(state: &'a mut State, caller: &Caller, id: &str) -> Result<(&'a mut SimNode, CacheNode)> {
    let (now, base) = (state.now, state.base);
    let found = state.nodes(&caller.subject).iter_mut().find(|node| node.id == id);
    let missing = || caller.fails(ErrorKind::NotFound, format!("there is no node {id}"));
    let node = found.ok_or_else(missing)?;
    let view = node.view(now, base);
    Ok((node, view))
}

fn restart(state: &mut State, caller: &Caller, seen: &CacheNode) -> Result<CacheNode> {
    let now = state.now;
    let (node, view) = look(state, caller, &seen.id)?;
    if view.was_restarted_since(seen) || !view.is_available() {
        return Ok(view);
    }
    node.restarts.push(now);
    state.wrote(format!("node {} restarted", seen.id));
    Ok(CacheNode { state: NodeState::Busy("restarting".to_owned()), ..view })
}

fn fail_over(state: &mut State, caller: &Caller, primary: &CacheNode) -> Result<()> {
    let now = state.now;
    let (old, view) = look(state, caller, &primary.id)?;
    if !old.primary {
        return Ok(());
    }
    if !view.is_available() {
        return Err(caller.fails(ErrorKind::Conflict, format!("node {view}")));
    }
    let nodes = state.nodes(&caller.subject);
    let next = nodes.iter().position(|node| !node.primary);
    for (n, node) in nodes.iter_mut().enumerate() {
        node.primary = Some(n) == next;
        node.failed_over = Some(now);
    }
    state.wrote(format!("{} is no primary any more", primary.id));
    Ok(())
}

impl Facet {
    fn node(&self, operation: &'static str) -> Caller {
        self.caller(BackendKind::CacheNodes, operation, &self.name)
    }
}

#[async_trait]
impl CacheNodes for Facet {
    fn capabilities(&self) -> NodeCapabilities {
        NodeCapabilities::all()
    }

    async fn nodes(&self, cx: &CallContext) -> Result<Vec<CacheNode>> {
        let name = self.name.clone();
        let effect = move |state: &mut State| {
            let (now, base) = (state.now, state.base);
            Ok(state.nodes(&name).iter().map(|node| node.view(now, base)).collect())
        };
        self.world.call(cx, self.node("nodes").reading(), effect).await
    }

    async fn restart(&self, cx: &CallContext, seen: &CacheNode) -> Result<CacheNode> {
        let (caller, seen) = (self.node("restart"), seen.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| restart(state, &asks, &seen)).await
    }

    async fn fail_over(&self, cx: &CallContext, primary: &CacheNode) -> Result<()> {
        let (caller, primary) = (self.node("fail_over"), primary.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| fail_over(state, &asks, &primary)).await
    }

    async fn events(&self, cx: &CallContext, since: Timestamp) -> Result<Vec<NodeEvent>> {
        let name = self.name.clone();
        let effect = move |state: &mut State| {
            let (now, base) = (state.now, state.base);
            let of = |node: &SimNode| {
                let over = node.restarts.iter().map(|asked| *asked + RESTART).filter(|at| *at <= now);
                let event = |at| NodeEvent { at: base + at, source: node.id.clone(), message: "restarted".to_owned() };
                over.map(event).collect::<Vec<_>>()
            };
            let mut events: Vec<NodeEvent> = state.nodes(&name).iter().flat_map(of).collect();
            events.retain(|event| event.at >= since);
            events.sort_by_key(|event| event.at);
            Ok(events)
        };
        self.world.call(cx, self.node("events").reading(), effect).await
    }
}
