//! Makes snapshots, and makes sure of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use moodify_core::backend::CacheSnapshot;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use redis::{RedisResult, cmd};

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::info::Saves;
use crate::topology::{Primary, Servers, Tenure, Topology, fields, pause};

const SNAPSHOT: &str = "snapshot";

/// How often a node is asked whether it is ready: at first, and in the end.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where the snapshot of one node stands.
#[derive(Debug, Clone)]
enum Stage {
    /// Asked for, when the last one was of the time `before`; `running` if it certainly began.
    Begun {
        before: i64,
        running: bool,
    },
    Complete(CacheSnapshot),
}

/// Lets all primaries make one at once. After a failover those who are primaries then make theirs; what is complete of
/// those who stayed is not made again.
pub(crate) async fn snapshot(servers: &Servers, cx: &CallContext) -> Result<Vec<CacheSnapshot>> {
    let stages = &Stages::default();
    let pass = |topology: Arc<Topology>| async move {
        stages.begin(&topology);
        let nodes = topology.primaries.iter().map(|primary| stages.make(cx, primary));
        let made = join_all(nodes).await.into_iter().collect::<Result<Vec<_>>>()?;
        servers.unchanged(cx, SNAPSHOT, &topology).await?;
        Ok(made)
    };
    servers.follow(cx, SNAPSHOT, pass).await
}

/// By tenure: what was saved of data with another history, or of other slots, does not count.
#[derive(Debug, Default)]
struct Stages(Mutex<BTreeMap<Tenure, Stage>>);

impl Stages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Tenure, Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When slots have moved, a key may be in none of the snapshots that were made before and after.
    fn begin(&self, topology: &Topology) {
        let (tenures, mut stages) = (topology.tenures(), self.lock());
        let same_slots = |known: &Tenure| tenures.iter().any(|now| now.has_slots_of(known));
        if !stages.keys().all(same_slots) {
            stages.clear();
        }
        stages.retain(|known, _| tenures.contains(known));
    }

    async fn make(&self, cx: &CallContext, primary: &Primary) -> Result<CacheSnapshot> {
        let (node, tenure) = (&primary.node, primary.tenure());
        let mut wait = LOOK.0;
        loop {
            let stage = match self.lock().get(&tenure).cloned() {
                Some(Stage::Complete(made)) => return Ok(made),
                Some(Stage::Begun { before, running }) => Some((before, running)),
                None => None,
            };
            let fields = fields(cx, SNAPSHOT, node).await?;
            let unreadable = |field| unusable(node, &format!("INFO has no usable {field}"));
            let saves = fields.saves().map_err(unreadable)?;
            match stage {
                Some((before, _)) if saves.last > before && saves.good => {
                    let made = complete(cx, node, saves, fields.all_keys()).await?;
                    self.lock().insert(tenure.clone(), Stage::Complete(made));
                    continue;
                }
                Some((before, _)) if saves.running => {
                    self.lock().insert(tenure.clone(), Stage::Begun { before, running: true });
                }
                // What runs when we come may have begun before the last writes: it is waited for.
                None if saves.running => {}
                Some((_, true)) if !saves.good => return Err(failed(node)),
                // Lost on the way, or put off by the node: asked for once more, which begins none beside one that runs.
                Some((before, _)) => self.ask(cx, node, &tenure, before).await?,
                None => {
                    let now: (i64, i64) = node.ask(cx, SNAPSHOT, Access::Read, &cmd("TIME")).await?;
                    // Times are in seconds: in the next one a new snapshot can be told from the last.
                    if now.0 > saves.last {
                        self.ask(cx, node, &tenure, saves.last).await?;
                    } else {
                        wait = LOOK.0;
                    }
                }
            }
            pause(cx, SNAPSHOT, wait).await.map_err(|e| late(e, node))?;
            wait = (wait * 2).min(LOOK.1);
        }
    }

    async fn ask(&self, cx: &CallContext, node: &Node, tenure: &Tenure, before: i64) -> Result<()> {
        self.lock().insert(tenure.clone(), Stage::Begun { before, running: false });
        let mut save = cmd("BGSAVE");
        // While the node rewrites its log, which no snapshot can be made beside, it puts the snapshot off.
        save.arg("SCHEDULE");
        match node.ask::<String>(cx, SNAPSHOT, Access::Write, &save).await {
            Ok(answer) => {
                let running = !answer.contains("schedul");
                self.lock().insert(tenure.clone(), Stage::Begun { before, running });
                Ok(())
            }
            // Somebody else's began between the question and this: when it is over, ours is asked for.
            Err(e) if e.message().contains("in progress") => {
                self.lock().remove(tenure);
                Ok(())
            }
            Err(e) => {
                if e.effect_of() == Effect::None {
                    self.lock().remove(tenure);
                }
                Err(e)
            }
        }
    }
}

async fn complete(cx: &CallContext, node: &Node, saves: Saves, keys: u64) -> Result<CacheSnapshot> {
    let completed = Timestamp::from_second(saves.last).map_err(|e| unusable(node, &e.to_string()))?;
    let file = file(cx, node).await?;
    Ok(CacheSnapshot { node: node.address().to_string(), completed, took: saves.took.into(), keys, file })
}

/// Where the node keeps it. Not every user may know, and not every provider lets anybody.
async fn file(cx: &CallContext, node: &Node) -> Result<Option<String>> {
    let mut questions = redis::pipe();
    questions.cmd("CONFIG").arg("GET").arg("dir").cmd("CONFIG").arg("GET").arg("dbfilename");
    let answers: Vec<RedisResult<BTreeMap<String, String>>> =
        node.ask_all(cx, SNAPSHOT, Access::Read, &mut questions).await?;
    let values: Vec<String> = answers.into_iter().flatten().flat_map(BTreeMap::into_values).collect();
    Ok(match values.as_slice() {
        [dir, name] => Some(format!("{}/{name}", dir.trim_end_matches('/'))),
        _ => None,
    })
}

fn failed(node: &Node) -> Error {
    let message = "the node says that the snapshot failed; the last good one is still there";
    let error = Error::new(ErrorKind::Unhealthy, BACKEND, SNAPSHOT, message).on(node.label());
    error.hint("its log says why: a full disk, or no memory for the second process")
}

fn late(error: Error, node: &Node) -> Error {
    error.on(node.label()).hint("a snapshot that is being made goes on, and is complete without anybody waiting")
}

fn unusable(node: &Node, problem: &str) -> Error {
    Error::new(ErrorKind::Internal, BACKEND, SNAPSHOT, problem.to_owned()).on(node.label())
}
