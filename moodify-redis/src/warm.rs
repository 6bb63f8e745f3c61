//! Writes what is missing.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use moodify_core::backend::{CacheEntry, WarmRequest, Warmed};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{Pipeline, RedisResult, Value};
use tokio::sync::{Mutex, watch};

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::pace::Pace;
use crate::topology::{Servers, Topology};

const WARM: &str = "warm";

/// Goes through the entries once. What had no answer when a failover came is written again, which changes nothing if it
/// had been written.
pub(crate) async fn warm(
    servers: &Servers,
    cx: &CallContext,
    entries: BoxStream<'static, Result<CacheEntry>>,
    request: &WarmRequest,
    done: &watch::Sender<u64>,
) -> Result<Warmed> {
    let pace = Pace::new(request.keys_per_second);
    let work = Mutex::new(Work { cx, request, done, entries, left: Vec::new(), warmed: Warmed::default() });
    let (work, pace) = (&work, &pace);
    let pass = |topology: Arc<Topology>| async move {
        let mut work = work.lock().await;
        while work.fill().await? {
            pace.wait(cx, WARM, work.left.len() as u64).await?;
            work.write(&topology).await?;
        }
        Ok(work.warmed)
    };
    servers.follow(cx, WARM, pass).await
}

struct Work<'a> {
    cx: &'a CallContext,
    request: &'a WarmRequest,
    done: &'a watch::Sender<u64>,
    entries: BoxStream<'static, Result<CacheEntry>>,
    /// Taken from the entries and not known to be there.
    left: Vec<CacheEntry>,
    warmed: Warmed,
}

/// What became of an entry.
enum Fate {
    Written,
    Present,
    /// To be tried again on another node, or for good.
    Failed(CacheEntry, Error),
}

impl Work<'_> {
    /// Takes the next page unless there is something left; `false` at the end.
    async fn fill(&mut self) -> Result<bool> {
        let page = usize::try_from(self.request.page.get()).unwrap_or(usize::MAX);
        while self.left.len() < page {
            let entries = &mut self.entries;
            let next = self.cx.run(BACKEND, WARM, async { entries.next().await.transpose() }).await?;
            let Some(entry) = next else { break };
            self.left.push(entry);
        }
        Ok(!self.left.is_empty())
    }

    async fn write(&mut self, topology: &Topology) -> Result<()> {
        let mut by_primary: Vec<Vec<CacheEntry>> = topology.primaries.iter().map(|_| Vec::new()).collect();
        for entry in &self.left {
            by_primary[topology.place_of(&entry.key)].push(entry.clone());
        }
        let of = |(place, entries): (usize, Vec<CacheEntry>)| set(self.cx, &topology.primaries[place].node, entries);
        let writes = by_primary.into_iter().enumerate().filter(|(_, entries)| !entries.is_empty()).map(of);
        // What is left when this is dropped is written again.
        let fates = join_all(writes).await;
        self.left.clear();
        let mut failure = None;
        for fate in fates.into_iter().flatten() {
            match fate {
                Fate::Written => self.warmed.written += 1,
                Fate::Present => self.warmed.present += 1,
                Fate::Failed(entry, problem) => {
                    self.left.push(entry);
                    // One that no other node can help with is told first.
                    let for_good = problem.kind() != ErrorKind::Unavailable;
                    if for_good || failure.is_none() {
                        failure = Some(problem);
                    }
                }
            }
        }
        self.done.send_replace(self.warmed.written + self.warmed.present);
        failure.map_or(Ok(()), Err)
    }
}

async fn set(cx: &CallContext, node: &Node, entries: Vec<CacheEntry>) -> Vec<Fate> {
    let mut commands = Pipeline::with_capacity(entries.len());
    for entry in &entries {
        let set = commands.cmd("SET").arg(&entry.key).arg(&entry.value).arg("NX");
        if let Some(ttl) = entry.ttl {
            let millis = u64::try_from(ttl.get().as_millis()).unwrap_or(u64::MAX);
            set.arg("PX").arg(millis.max(1));
        }
    }
    let answers: Result<Vec<RedisResult<Value>>> = node.ask_all(cx, WARM, Access::Write, &mut commands).await;
    let fate = |entry, answer| match answer {
        Ok(Value::Nil) => Fate::Present,
        Ok(_) => Fate::Written,
        Err(problem) => Fate::Failed(entry, node.failed(problem, WARM, Access::Write)),
    };
    match answers {
        Ok(answers) => entries.into_iter().zip(answers).map(|(entry, answer)| fate(entry, answer)).collect(),
        Err(problem) => {
            // One error stands for all of them.
            let again = |entry| Fate::Failed(entry, Error::new(problem.kind(), BACKEND, WARM, problem.message()));
            let mut fates: Vec<Fate> = entries.into_iter().map(again).collect();
            if let Some(Fate::Failed(_, first)) = fates.first_mut() {
                *first = problem;
            }
            fates
        }
    }
}
