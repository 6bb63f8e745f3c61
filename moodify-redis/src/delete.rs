//! Deletes keys by pattern.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream;
use moodify_core::backend::{DeleteKeys, DeletedKeys};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::sync::watch;

use crate::connection::Node;
use crate::error::{Access, BACKEND, is_elsewhere};
use crate::pace::Pace;
use crate::slot;
use crate::topology::{Primary, Servers, Topology};

const DELETE: &str = "delete keys";

/// How many primaries are gone through at once.
const AT_ONCE: usize = 8;

/// Goes through all keys of all primaries. After a failover it begins anew, with those who are primaries then: only so
/// is every key met that was there the whole time. In a cluster that goes by slots: one that had the same owner from the
/// begin of a pass to its end is done; those that were moved meanwhile, or are on their way, are gone through once more.
pub(crate) async fn delete_matching(
    servers: &Servers,
    cx: &CallContext,
    request: &DeleteKeys,
    done: &watch::Sender<u64>,
) -> Result<DeletedKeys> {
    let sweep = Sweep {
        cx,
        request,
        done,
        pace: Pace::new(request.keys_per_second),
        found: AtomicU64::new(0),
        deleted: AtomicU64::new(0),
        left: Mutex::new(vec![true; usize::from(slot::SLOTS)]),
    };
    let sweep = &sweep;
    let pass = |topology: Arc<Topology>| async move {
        sweep.pass(&topology).await?;
        if !topology.clustered {
            return servers.unchanged(cx, DELETE, &topology).await;
        }
        let now = servers.topology(cx, DELETE).await?;
        match sweep.settle(&topology, &now) {
            0 => Ok(()),
            left => Err(moving(left)),
        }
    };
    let result = servers.follow(cx, DELETE, pass).await;
    let counted = sweep.counted();
    result.map(|()| counted).map_err(|problem| {
        let so_far = format!("{} keys were deleted before; deleting again goes on", counted.deleted);
        if counted.deleted > 0 { problem.hint(so_far) } else { problem }
    })
}

struct Sweep<'a> {
    cx: &'a CallContext,
    request: &'a DeleteKeys,
    done: &'a watch::Sender<u64>,
    pace: Pace,
    found: AtomicU64,
    deleted: AtomicU64,
    /// By slot, whether its keys are still to be gone through; of use in a cluster only.
    left: Mutex<Vec<bool>>,
}

/// Part of the work of one pass.
struct Part<'a> {
    primary: &'a Primary,
    /// The slots that are gone through; all keys where there are none.
    slots: Option<&'a [bool]>,
}

impl Part<'_> {
    fn has(&self, key: &[u8]) -> bool {
        self.slots.is_none_or(|slots| slots[usize::from(slot::of(key))])
    }
}

impl Sweep<'_> {
    fn counted(&self) -> DeletedKeys {
        DeletedKeys { found: self.found.load(Ordering::Relaxed), deleted: self.deleted.load(Ordering::Relaxed) }
    }

    fn left(&self) -> MutexGuard<'_, Vec<bool>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, topology: &Topology) -> Result<()> {
        let left = self.left().clone();
        let slots = topology.clustered.then_some(left.as_slice());
        let has_left = |primary: &&Primary| {
            let mut ranges = primary.slots.iter().map(|(first, last)| usize::from(*first)..=usize::from(*last));
            slots.is_none_or(|slots| ranges.any(|range| slots[range].contains(&true)))
        };
        let parts = topology.primaries.iter().filter(has_left).map(|primary| self.node(Part { primary, slots }));
        let parts: Vec<_> = parts.collect();
        let results: Vec<Result<()>> = stream::iter(parts).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// Notes the slots that a pass has dealt with; returns how many are left.
    fn settle(&self, before: &Topology, after: &Topology) -> usize {
        let mut left = self.left();
        for ((left, before), after) in left.iter_mut().zip(before.owners()).zip(after.owners()) {
            *left &= before.is_none() || before != after;
        }
        left.iter().filter(|left| **left).count()
    }

    /// One round trip a page: what one page found is deleted while the next one is looked for.
    async fn node(&self, part: Part<'_>) -> Result<()> {
        let (node, clustered) = (&part.primary.node, part.slots.is_some());
        let (mut keys, mut cursor) = (Vec::new(), Some(0));
        while cursor.is_some() || !keys.is_empty() {
            self.pace.wait(self.cx, DELETE, keys.len() as u64).await?;
            let mut commands = Pipeline::new();
            unlink(&mut commands, &keys, clustered);
            let unlinks = commands.len();
            if let Some(cursor) = cursor {
                let scan = commands.cmd("SCAN").arg(cursor).arg("MATCH").arg(self.request.pattern.as_str());
                scan.arg("COUNT").arg(self.request.page.get());
            }
            let access = if unlinks == 0 { Access::Read } else { Access::Write };
            let answers: Vec<RedisResult<Value>> = node.ask_all(self.cx, DELETE, access, &mut commands).await?;
            let mut answers = answers.into_iter();
            // All of them are counted before the first error is told.
            let unlinked: Vec<Result<u64>> = answers.by_ref().take(unlinks).map(|a| unlinked(node, a)).collect();
            let deleted: u64 = unlinked.iter().flatten().sum();
            self.deleted.fetch_add(deleted, Ordering::Relaxed);
            unlinked.into_iter().collect::<Result<Vec<_>>>()?;
            (keys, cursor) = match answers.next() {
                Some(page) => self.found(&part, read(node, page, access)?),
                None => (Vec::new(), None),
            };
        }
        Ok(())
    }

    /// What is to be deleted of a page, and where the next one begins.
    fn found(&self, part: &Part<'_>, (next, mut keys): (u64, Vec<Vec<u8>>)) -> (Vec<Vec<u8>>, Option<u64>) {
        keys.retain(|key| part.has(key));
        let so_far = self.found.fetch_add(keys.len() as u64, Ordering::Relaxed) + keys.len() as u64;
        self.done.send_modify(|done| *done = so_far.max(*done));
        let keys = if self.request.dry_run { Vec::new() } else { keys };
        (keys, (next != 0).then_some(next))
    }
}

/// In passing: the slots are somewhere when they have arrived.
fn moving(slots: usize) -> Error {
    let message = format!("{slots} slots are moved from node to node, and their keys are gone through once more");
    let error = Error::new(ErrorKind::Unavailable, BACKEND, DELETE, message).on("the cluster");
    error.hint("redis-cli --cluster check says which slots are open; one that nobody moves on has to be closed by hand")
}

/// How many were deleted. A key that is elsewhere by now is in a slot that was moved, and is met again.
fn unlinked(node: &Node, answer: RedisResult<Value>) -> Result<u64> {
    match answer {
        Err(e) if is_elsewhere(&e) => Ok(0),
        answer => read(node, answer, Access::Write),
    }
}

fn read<T: redis::FromRedisValue>(node: &Node, answer: RedisResult<Value>, access: Access) -> Result<T> {
    let value = answer.and_then(|value| Ok(from_redis_value(value)?));
    value.map_err(|e| node.failed(e, DELETE, access))
}

/// UNLINK frees the memory in the background. In a cluster one takes keys of one slot only.
fn unlink(commands: &mut Pipeline, keys: &[Vec<u8>], clustered: bool) {
    if clustered {
        for key in keys {
            commands.cmd("UNLINK").arg(key);
        }
    } else if !keys.is_empty() {
        commands.cmd("UNLINK").arg(keys);
    }
}
