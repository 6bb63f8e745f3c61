//! Deletes keys by pattern.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream;
use moodify_core::backend::{DeleteKeys, DeletedKeys};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::sync::watch;

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::pace::Pace;
use crate::topology::{Primary, Servers, Topology};

const DELETE: &str = "delete keys";

/// How many primaries are gone through at once.
const AT_ONCE: usize = 8;

/// Goes through all keys of all primaries. After a failover it begins anew, with those who are primaries then: only so
/// is every key met that was there the whole time.
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
    };
    let sweep = &sweep;
    let pass = |topology: Arc<Topology>| async move {
        sweep.pass(&topology).await?;
        servers.unchanged(cx, DELETE, &topology).await?;
        if topology.is_moving() {
            return Err(sweep.moving());
        }
        Ok(())
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
}

impl Sweep<'_> {
    fn counted(&self) -> DeletedKeys {
        DeletedKeys { found: self.found.load(Ordering::Relaxed), deleted: self.deleted.load(Ordering::Relaxed) }
    }

    async fn pass(&self, topology: &Topology) -> Result<()> {
        let nodes: Vec<_> = topology.primaries.iter().map(|primary| self.node(primary, topology.clustered)).collect();
        let results: Vec<Result<()>> = stream::iter(nodes).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// One round trip a page: what one page found is deleted while the next one is looked for.
    async fn node(&self, primary: &Primary, clustered: bool) -> Result<()> {
        let node = &primary.node;
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
            let unlinked: Vec<Result<u64>> = answers.by_ref().take(unlinks).map(|a| read(node, a, access)).collect();
            let deleted: u64 = unlinked.iter().flatten().sum();
            self.deleted.fetch_add(deleted, Ordering::Relaxed);
            unlinked.into_iter().collect::<Result<Vec<_>>>()?;
            (keys, cursor) = match answers.next() {
                Some(page) => self.found(read(node, page, access)?),
                None => (Vec::new(), None),
            };
        }
        Ok(())
    }

    /// What is to be deleted of a page, and where the next one begins.
    fn found(&self, (next, keys): (u64, Vec<Vec<u8>>)) -> (Vec<Vec<u8>>, Option<u64>) {
        let so_far = self.found.fetch_add(keys.len() as u64, Ordering::Relaxed) + keys.len() as u64;
        self.done.send_modify(|done| *done = so_far.max(*done));
        let keys = if self.request.dry_run { Vec::new() } else { keys };
        (keys, (next != 0).then_some(next))
    }

    fn moving(&self) -> Error {
        let message = "slots are being moved from node to node, and keys on their way may have been missed";
        let error = Error::new(ErrorKind::Conflict, BACKEND, DELETE, message).on("the cluster");
        error.hint("delete again when redis-cli --cluster check says that no slot is open")
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
