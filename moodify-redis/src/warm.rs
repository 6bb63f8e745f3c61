//! Writes what is missing.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use moodify_core::backend::{CacheEntry, WarmRequest, Warmed};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::sync::{Mutex, watch};

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::info::Fields;
use crate::kept::{Item, Kept};
use crate::pace::Pace;
use crate::topology::{Servers, Topology};

const WARM: &str = "warm";

/// How long replicas are waited for when they have not confirmed much, in milliseconds.
const CONFIRM: u32 = 200;

/// Goes through the entries once. What had no answer when a failover came is written again, which changes nothing if it
/// had been written; so is what had one and did not get as far as the replica that took over.
pub(crate) async fn warm(
    servers: &Servers,
    cx: &CallContext,
    entries: BoxStream<'static, Result<CacheEntry>>,
    request: &WarmRequest,
    done: &watch::Sender<u64>,
) -> Result<Warmed> {
    let pace = Pace::new(request.keys_per_second);
    let kept = servers.can_fail_over().then(Kept::default);
    let work = Work { cx, request, done, entries, left: Vec::new(), page: 0, kept, warmed: Warmed::default() };
    let (work, pace) = (&Mutex::new(work), &pace);
    let pass = |topology: Arc<Topology>| async move {
        let mut work = work.lock().await;
        work.settle(&topology);
        while work.fill().await? {
            pace.wait(cx, WARM, work.page as u64).await?;
            work.write(&topology).await?;
            work.confirm(&topology).await?;
        }
        if work.kept.is_some() && work.settle(&servers.topology(cx, WARM).await?) {
            return Err(Error::new(ErrorKind::Unavailable, BACKEND, WARM, "another node took over meanwhile"));
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
    left: Vec<Item>,
    /// How many of those are written next.
    page: usize,
    /// Known to be at a primary, and not at its replicas; of use only where one of those can take over.
    kept: Option<Kept>,
    warmed: Warmed,
}

/// What became of an entry.
enum Fate {
    Written,
    Present,
    /// To be tried again on another node, or for good.
    Failed(Error),
}

impl Work<'_> {
    /// Takes the next page unless there is something left; `false` at the end.
    async fn fill(&mut self) -> Result<bool> {
        let page = usize::try_from(self.request.page.get()).unwrap_or(usize::MAX);
        while self.left.len() < page {
            let entries = &mut self.entries;
            let next = self.cx.run(BACKEND, WARM, async { entries.next().await.transpose() }).await?;
            let Some(entry) = next else { break };
            self.left.push(Item { entry, written: false });
        }
        self.page = self.left.len().min(page);
        Ok(self.page > 0)
    }

    async fn write(&mut self, topology: &Topology) -> Result<()> {
        let mut by_primary: Vec<Vec<Item>> = topology.primaries.iter().map(|_| Vec::new()).collect();
        for item in &self.left[..self.page] {
            by_primary[topology.place_of(&item.entry.key)].push(item.clone());
        }
        let (cx, asks) = (self.cx, self.kept.is_some());
        let of = |(place, items): (usize, Vec<Item>)| async move {
            let (fates, fields) = set(cx, &topology.primaries[place].node, &items, asks).await;
            (place, items, fates, fields)
        };
        let writes = by_primary.into_iter().enumerate().filter(|(_, items)| !items.is_empty()).map(of);
        // What is left when this is dropped is written again.
        let written = join_all(writes).await;
        self.left.drain(..self.page);
        let mut failure = None;
        for (place, items, fates, fields) in written {
            let mut there = Vec::new();
            for (mut item, fate) in items.into_iter().zip(fates) {
                match fate {
                    Fate::Written => item.written = true,
                    Fate::Present => {}
                    Fate::Failed(problem) => {
                        self.left.push(item);
                        // One that no other node can help with is told first.
                        let for_good = problem.kind() != ErrorKind::Unavailable;
                        if for_good || failure.is_none() {
                            failure = Some(problem);
                        }
                        continue;
                    }
                }
                *if item.written { &mut self.warmed.written } else { &mut self.warmed.present } += 1;
                there.push(item);
            }
            if let Some(kept) = self.kept.as_mut().filter(|_| !there.is_empty()) {
                let primary = &topology.primaries[place].fields;
                let after = fields.as_ref().map_or_else(|| primary.point().unconfirmed(), Fields::point);
                kept.keep(after, there);
                fields.iter().for_each(|fields| kept.confirm(fields));
            }
        }
        let handled = self.warmed.written + self.warmed.present;
        self.done.send_modify(|done| *done = handled.max(*done));
        failure.map_or(Ok(()), Err)
    }

    /// Waits a moment for the replicas if much is not confirmed, and then lets go of the oldest: nobody keeps all of it.
    async fn confirm(&mut self, topology: &Topology) -> Result<()> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.is_much()) else { return Ok(()) };
        let asked = topology.primaries.iter().map(|primary| async {
            let mut commands = redis::pipe();
            // Only lets them say so earlier, and may be forbidden: what counts is what the primary knows of them.
            commands.cmd("WAIT").arg(primary.fields.followers().len()).arg(CONFIRM).cmd("INFO").arg("replication");
            let answers: Vec<RedisResult<Value>> =
                primary.node.ask_all(self.cx, WARM, Access::Read, &mut commands).await?;
            Ok(answers.into_iter().nth(1).and_then(told))
        });
        let told: Vec<Option<Fields>> = join_all(asked).await.into_iter().collect::<Result<_>>()?;
        told.iter().flatten().for_each(|fields| kept.confirm(fields));
        kept.let_go();
        Ok(())
    }

    /// Takes back what none of the primaries has: it is written again. Returns whether there is anything.
    fn settle(&mut self, topology: &Topology) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        let primaries: Vec<_> = topology.primaries.iter().map(|primary| &primary.fields).collect();
        let lost = kept.settle(&primaries);
        let written = lost.entries.iter().filter(|item| item.written).count() as u64;
        self.warmed.written -= written;
        self.warmed.present -= lost.entries.len() as u64 - written;
        self.warmed.unsure += lost.forgotten;
        let any = !lost.entries.is_empty();
        self.left.extend(lost.entries);
        any
    }
}

/// What a node says of its replication.
fn told(answer: RedisResult<Value>) -> Option<Fields> {
    let text: String = from_redis_value(answer.ok()?).ok()?;
    Some(Fields::parse(&text))
}

/// Writes entries to one node; `asks` it how far its replicas are then.
async fn set(cx: &CallContext, node: &Node, items: &[Item], asks: bool) -> (Vec<Fate>, Option<Fields>) {
    let mut commands = Pipeline::with_capacity(items.len() + 1);
    for Item { entry, .. } in items {
        let set = commands.cmd("SET").arg(&entry.key).arg(&entry.value).arg("NX");
        if let Some(ttl) = entry.ttl {
            let millis = u64::try_from(ttl.get().as_millis()).unwrap_or(u64::MAX);
            set.arg("PX").arg(millis.max(1));
        }
    }
    if asks {
        commands.cmd("INFO").arg("replication");
    }
    let answers: Result<Vec<RedisResult<Value>>> = node.ask_all(cx, WARM, Access::Write, &mut commands).await;
    let fate = |answer| match answer {
        Ok(Value::Nil) => Fate::Present,
        Ok(_) => Fate::Written,
        Err(problem) => Fate::Failed(node.failed(problem, WARM, Access::Write)),
    };
    match answers {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            let fates = answers.by_ref().take(items.len()).map(fate).collect();
            (fates, answers.next().and_then(told))
        }
        Err(problem) => {
            // One error stands for all of them.
            let again = |_: &Item| Fate::Failed(Error::new(problem.kind(), BACKEND, WARM, problem.message()));
            let mut fates: Vec<Fate> = items.iter().map(again).collect();
            if let Some(Fate::Failed(first)) = fates.first_mut() {
                *first = problem;
            }
            (fates, None)
        }
    }
}
