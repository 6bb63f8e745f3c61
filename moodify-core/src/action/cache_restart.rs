use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{CacheNode, CacheNodes, CacheNodesExt, restart_order};
use crate::error::{Effect, Error, ErrorKind, Result};

/// Restarts the nodes of a cache one at a time, replicas before primaries, and waits for each. There is no way back from
/// that, and none is needed: undone, nothing happens.
#[derive(Debug)]
pub(super) struct RestartCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
}

/// What a `cache-restart` step gives to later ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartedCache {
    /// The ids of the nodes that were restarted, in order.
    pub nodes: Vec<String>,
}

/// How far it is. Written down before each request, so that no process restarts a node again that another one has.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journey {
    done: Vec<String>,
    left: Vec<String>,
    now: Option<Turn>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Turn {
    /// The node, as it was before the request.
    seen: CacheNode,
    /// When the request was sent, by our clock.
    asked: Timestamp,
    /// Whether the provider has said yes.
    begun: bool,
}

/// For so long a request whose answer never came is looked for before it is sent again: a provider may say for a while
/// that nothing happens.
const SETTLE: Duration = Duration::from_secs(300);

const RESTART: &str = "restart the cache";

/// Whether it is on its way or was there already.
fn shows(turn: &Turn, node: &CacheNode) -> bool {
    !node.is_available() || node.was_restarted_since(&turn.seen)
}

impl RestartCache {
    /// Brings one node to its end, from wherever it stands.
    async fn go_on(cx: &StepContext, nodes: &dyn CacheNodes, journey: &mut Journey) -> Result<()> {
        let Some(turn) = journey.now.clone() else { return Ok(()) };
        if !turn.begun && !Self::is_begun(cx, nodes, &turn).await? {
            journey.now = Self::ask(cx, nodes, journey, &turn.seen).await?;
        }
        let id = &turn.seen.id;
        let over = |node: &CacheNode| node.is_available() && node.was_restarted_since(&turn.seen);
        let told = |node: &CacheNode| cx.note(format!("{} of {}: {node}", journey.done.len() + 1, journey.len()));
        nodes.wait_node(&cx.call()?, id, &over, &told).await?;
        journey.done.push(id.clone());
        journey.now = None;
        cx.checkpoint(journey).await
    }

    /// Whether a request whose answer is not known has had an effect.
    async fn is_begun(cx: &StepContext, nodes: &dyn CacheNodes, turn: &Turn) -> Result<bool> {
        let passed = Duration::try_from(cx.clock().now().duration_since(turn.asked)).unwrap_or_default();
        let call = cx.call()?;
        let wait = call.at_most(SETTLE.saturating_sub(passed));
        match nodes.wait_node(&wait, &turn.seen.id, &|node| shows(turn, node), &|_| ()).await {
            Ok(_) => Ok(true),
            // A question that could not be answered is no answer.
            Err(e) if e.kind() == ErrorKind::Timeout && !call.remaining().is_zero() => {
                let all = nodes.nodes(&call).await?;
                Ok(all.iter().any(|node| node.id == turn.seen.id && shows(turn, node)))
            }
            Err(e) => Err(e),
        }
    }

    /// Sends the request for a node, and writes down before that it is sent and after that it was taken.
    async fn ask(
        cx: &StepContext,
        nodes: &dyn CacheNodes,
        journey: &mut Journey,
        seen: &CacheNode,
    ) -> Result<Option<Turn>> {
        let mut turn = Turn { seen: seen.clone(), asked: cx.clock().now(), begun: false };
        journey.now = Some(turn.clone());
        cx.checkpoint(journey).await?;
        match nodes.restart(&cx.call()?, seen).await {
            Ok(_) => turn.begun = true,
            Err(e) if e.effect_of() == Effect::None => {
                // Nothing was begun, so the next attempt need not look for it.
                journey.now = None;
                journey.left.insert(0, seen.id.clone());
                cx.checkpoint(journey).await?;
                return Err(e);
            }
            Err(e) => return Err(e),
        }
        journey.now = Some(turn.clone());
        cx.checkpoint(journey).await?;
        Ok(Some(turn))
    }
}

impl Journey {
    fn len(&self) -> usize {
        self.done.len() + self.left.len() + usize::from(self.now.is_some())
    }

    async fn begin(cx: &StepContext, nodes: &dyn CacheNodes) -> Result<Self> {
        if let Some(journey) = cx.last_checkpoint::<Self>() {
            return Ok(journey);
        }
        let all = nodes.nodes(&cx.call()?).await?;
        let left = restart_order(&all).into_iter().map(|node| node.id.clone()).collect();
        Ok(Self { done: Vec::new(), left, now: None })
    }
}

#[async_trait]
impl Action for RestartCache {
    type Params = Params;
    type Output = RestartedCache;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let nodes = cx.backends.cache_nodes(&params.cache).map_err(|e| vec![e])?;
        nodes.capabilities().restart.map_err(|why| {
            let message = format!("the nodes of the cache {:?} cannot be restarted: {why}", params.cache);
            let error = Error::new(ErrorKind::Unsupported, "engine", "check the step", message);
            vec![error.on(cx.step.name.as_str())]
        })
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<RestartedCache> {
        let nodes = cx.backends().cache_nodes(&params.cache)?.as_ref();
        let mut journey = Journey::begin(cx, nodes).await?;
        Self::go_on(cx, nodes, &mut journey).await?;
        while !journey.left.is_empty() {
            let id = journey.left.remove(0);
            // Whatever else is being done with it must be over first, and with the one before it too.
            let all = nodes.nodes(&cx.call()?).await?;
            if let Some(busy) = all.iter().find(|node| !node.is_available()) {
                let message = format!("node {busy}; {} of {} nodes were restarted", journey.done.len(), all.len());
                let error = Error::new(ErrorKind::Conflict, "engine", RESTART, message).on(params.cache.as_str());
                return Err(error.hint("no node is restarted while another one does not serve"));
            }
            let Some(seen) = all.iter().find(|node| node.id == id) else {
                cx.note(format!("node {id} is gone"));
                continue;
            };
            journey.now = Self::ask(cx, nodes, &mut journey, seen).await?;
            Self::go_on(cx, nodes, &mut journey).await?;
        }
        Ok(RestartedCache { nodes: journey.done })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<RestartedCache>> {
        // What was begun is in the checkpoint, and is looked for from there.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &Params, _: Option<&RestartedCache>) -> Result<()> {
        cx.note(format!("nothing is to be taken back of the restart of {}", params.cache));
        Ok(())
    }
}
