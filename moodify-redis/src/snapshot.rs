//! Makes snapshots, and makes sure of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use moodify_core::backend::{CacheDump, CacheSnapshot};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use redis::{RedisResult, cmd};

use crate::connection::Node;
use crate::dump::{self, Dump, Problem};
use crate::error::{Access, BACKEND};
use crate::info::Saves;
use crate::topology::{Primary, Servers, Tenure, Topology, fields, pause};

const SNAPSHOT: &str = "snapshot";

/// How often a node is asked whether it is ready: at first, and in the end.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How far the clock of which snapshots take their time may be behind that of `TIME`, in microseconds. It is the kernel's
/// coarse one, which goes on with each tick, so every 10 ms at worst; a busy machine is given more.
const COARSE: i64 = 200_000;

/// Times of snapshots are in seconds: whether one that begins now can be told from the last. `now` is in seconds, and
/// microseconds.
fn is_of_a_later_second((second, micros): (i64, i64), last: i64) -> bool {
    second > last + 1 || (second == last + 1 && micros >= COARSE)
}

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
    let stages = &Stages { servers, of: Mutex::default() };
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
struct Stages<'a> {
    servers: &'a Servers,
    of: Mutex<BTreeMap<Tenure, Stage>>,
}

impl Stages<'_> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Tenure, Stage>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
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
            let saves = fields.saves().map_err(|field| unusable(node, &no_usable(field)))?;
            match stage {
                Some((before, _)) if saves.last > before && saves.good => {
                    // None while another one takes its place.
                    if let Some(made) = self.complete(cx, node, before, saves, fields.all_keys()).await? {
                        self.lock().insert(tenure.clone(), Stage::Complete(made));
                        continue;
                    }
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
                    if is_of_a_later_second(now, saves.last) {
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

    /// Looks at the file of a snapshot that is complete. `None` if that is of a later one, which is not said to be complete yet.
    async fn complete(
        &self,
        cx: &CallContext,
        node: &Node,
        before: i64,
        saves: Saves,
        keys: u64,
    ) -> Result<Option<CacheSnapshot>> {
        let completed = Timestamp::from_second(saves.last).map_err(|e| unusable(node, &e.to_string()))?;
        let place = Place::of(cx, node).await?;
        let dump = match self.seen_at(node, &place) {
            Err(why) => CacheDump::Unseen { why },
            Ok((file, sure)) => match look(cx, node, &file, sure).await? {
                Look::Unseen(why) => CacheDump::Unseen { why },
                Look::Seen(dump) => match dump.begun {
                    Some(begun) if (before + 1..=saves.last).contains(&begun) => match (dump.summed, place.sums) {
                        (true, _) => CacheDump::Verified { bytes: dump.bytes },
                        (false, true) => return Err(corrupt(node, &file, "its checksum is gone")),
                        (false, false) => CacheDump::WithoutChecksum { bytes: dump.bytes },
                    },
                    Some(begun) if begun > saves.last && is_replaced(cx, node, saves).await? => return Ok(None),
                    _ => CacheDump::Unseen { why: not_it(node, &file, sure, "it is the file of another snapshot")? },
                },
            },
        };
        let (node, took, file) = (node.address().to_string(), saves.took.into(), place.file());
        Ok(Some(CacheSnapshot { node, completed, took, keys, file, dump }))
    }

    /// Where this process sees the file, and whether that is sure; or why it does not.
    fn seen_at(&self, node: &Node, place: &Place) -> Result<(PathBuf, bool), String> {
        let Some(name) = &place.name else {
            return Err("the node does not tell where it is; allow +config|get".to_owned());
        };
        if let Some(dir) = self.servers.dump_dir(node.address()) {
            return Ok((dir.join(name), true));
        }
        match &place.dir {
            Some(dir) if node.address().is_loopback() => Ok((Path::new(dir).join(name), false)),
            _ => Err("it is on the node's disk; dump-dirs says where that is seen".to_owned()),
        }
    }
}

/// Where a node keeps its snapshot. Not every user may know, and not every provider lets anybody.
#[derive(Debug)]
struct Place {
    dir: Option<String>,
    name: Option<String>,
    /// Whether the node certainly writes checksums.
    sums: bool,
}

impl Place {
    async fn of(cx: &CallContext, node: &Node) -> Result<Self> {
        let mut questions = redis::pipe();
        for parameter in ["dir", "dbfilename", "rdbchecksum"] {
            questions.cmd("CONFIG").arg("GET").arg(parameter);
        }
        let answers: Vec<RedisResult<BTreeMap<String, String>>> =
            node.ask_all(cx, SNAPSHOT, Access::Read, &mut questions).await?;
        let mut told: BTreeMap<String, String> = answers.into_iter().flatten().flatten().collect();
        let sums = told.get("rdbchecksum").is_some_and(|sums| sums == "yes");
        Ok(Self { dir: told.remove("dir"), name: told.remove("dbfilename"), sums })
    }

    fn file(&self) -> Option<String> {
        self.dir.as_ref().zip(self.name.as_ref()).map(|(dir, name)| format!("{}/{name}", dir.trim_end_matches('/')))
    }
}

/// What is seen of a file.
#[derive(Debug)]
enum Look {
    Seen(Dump),
    Unseen(String),
}

/// Reads a file; `sure` if it is one that has to be there.
async fn look(cx: &CallContext, node: &Node, file: &Path, sure: bool) -> Result<Look> {
    // The reading ends when nobody waits for it any more.
    let (path, token) = (file.to_owned(), cx.cancel().child_token());
    let _ends_with_this = token.clone().drop_guard();
    let read = async {
        let read = tokio::task::spawn_blocking(move || dump::read(&path, || !token.is_cancelled())).await;
        read.map_err(|e| unusable(node, &format!("the file could not be read: {e}")))
    };
    match cx.run(BACKEND, SNAPSHOT, read).await? {
        Ok(dump) => Ok(Look::Seen(dump)),
        Err(Problem::Damaged(what)) => Err(corrupt(node, file, &what)),
        Err(Problem::Unreadable(e)) => not_it(node, file, sure, &e.to_string()).map(Look::Unseen),
        Err(Problem::Left) => Err(Error::new(ErrorKind::Cancelled, BACKEND, SNAPSHOT, "nobody waits for it any more")),
    }
}

fn corrupt(node: &Node, file: &Path, what: &str) -> Error {
    let message = format!("the node says that the snapshot is complete, but {} is not whole: {what}", file.display());
    let error = Error::new(ErrorKind::Corrupt, BACKEND, SNAPSHOT, message).on(node.label());
    error.hint("do not rely on this file; look at the node's disk and its log, and make another snapshot")
}

/// Another snapshot was complete since, or is being made.
async fn is_replaced(cx: &CallContext, node: &Node, known: Saves) -> Result<bool> {
    let now = fields(cx, SNAPSHOT, node).await?.saves().map_err(|field| unusable(node, &no_usable(field)))?;
    Ok(now.running || now.last != known.last)
}

/// There is no file to look at: which fails only where one has to be.
fn not_it(node: &Node, file: &Path, sure: bool, problem: &str) -> Result<String> {
    let why = format!("{}: {problem}", file.display());
    if !sure {
        return Ok(why);
    }
    let message = format!("the node says that the snapshot is complete, but it cannot be looked at: {why}");
    let error = Error::new(ErrorKind::Inconclusive, BACKEND, SNAPSHOT, message).on(node.label());
    Err(error.hint("dump-dirs says where the files of this node are seen: correct it, or leave it out"))
}

fn no_usable(field: &str) -> String {
    format!("INFO has no usable {field}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_begun_when_even_a_clock_that_is_behind_shows_a_later_second() {
        for (now, later) in [
            ((99, 900_000), false),
            ((100, 999_999), false),
            ((101, 0), false),
            ((101, 9_999), false),
            ((101, COARSE), true),
            ((102, 0), true),
        ] {
            assert_eq!(is_of_a_later_second(now, 100), later, "{now:?}");
        }
    }
}
