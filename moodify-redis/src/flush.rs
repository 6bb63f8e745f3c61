//! Deletes everything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use moodify_core::backend::FlushRequest;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::{RedisResult, Value, cmd, from_redis_value};
use tracing::info;

use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::info::{Fields, Point};
use crate::topology::{Primary, Servers, Topology};

const FLUSH: &str = "flush";

/// Flushes all primaries at once, and after a failover those whose data has come to no flush yet: whoever took over with
/// the flush behind it, or was primary all the time, keeps what was written since.
pub(crate) async fn flush(servers: &Servers, name: &str, cx: &CallContext, request: &FlushRequest) -> Result<u64> {
    let work = &Work { cx, name, keys: Mutex::default(), flushed: Mutex::default() };
    let pass = |topology: Arc<Topology>| async move {
        let keys = work.count(&topology, request).await?;
        if request.dry_run {
            return Ok(keys);
        }
        work.pass(&topology).await?;
        work.settle(&servers.topology(cx, FLUSH).await?).map(|()| keys)
    };
    servers.follow(cx, FLUSH, pass).await
}

/// Whether whoever asks for a flush knows what it would do.
pub(crate) fn allow(name: &str, production: bool, request: &FlushRequest) -> Result<()> {
    if request.confirmed_name != name {
        let message = format!("{:?} was typed; nothing was deleted", request.confirmed_name);
        return Err(refused(name, message, "type the whole name of the cache"));
    }
    if production && !request.in_production {
        let message = "it is a cache of production; nothing was deleted".to_owned();
        let hint = "say that production is meant, or set up the environment that it is of";
        return Err(refused(name, message, hint));
    }
    Ok(())
}

fn refused(name: &str, message: String, hint: &str) -> Error {
    Error::new(ErrorKind::Refused, BACKEND, FLUSH, message).on(name).hint(hint)
}

struct Work<'a> {
    cx: &'a CallContext,
    name: &'a str,
    /// The first count: after a failover there is less to delete.
    keys: Mutex<Option<u64>>,
    flushed: Mutex<Vec<Flushed>>,
}

/// What a primary said yes to.
#[derive(Debug)]
struct Flushed {
    after: Point,
    slots: Vec<(u16, u16)>,
}

impl Flushed {
    /// Whether nothing is in the primary that was there before.
    fn covers(&self, primary: &Primary) -> bool {
        let has = |(first, last): &(u16, u16)| self.slots.iter().any(|(from, to)| from <= first && last <= to);
        primary.fields.has(&self.after).is_some() && primary.slots.iter().all(has)
    }
}

impl Work<'_> {
    fn flushed(&self) -> MutexGuard<'_, Vec<Flushed>> {
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what is there before anything is deleted, and refuses if that is too much.
    async fn count(&self, topology: &Topology, request: &FlushRequest) -> Result<u64> {
        let known = || self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = *known() {
            return Ok(keys);
        }
        let count =
            async |primary: &Primary| primary.node.ask::<u64>(self.cx, FLUSH, Access::Read, &cmd("DBSIZE")).await;
        let counts = join_all(topology.primaries.iter().map(count)).await.into_iter().collect::<Result<Vec<_>>>()?;
        let keys = counts.iter().sum();
        if let Some(most) = request.at_most.filter(|most| !request.dry_run && keys > *most) {
            let message = format!("it has {keys} keys, and no more than {most} are to be deleted; nothing was");
            return Err(refused(
                self.name,
                message,
                "look whether it is the right cache, and raise the limit if it is",
            ));
        }
        if !request.dry_run {
            info!(cache = %self.name, run = %self.cx.run_id(), keys, "all keys will be deleted");
        }
        *known() = Some(keys);
        Ok(keys)
    }

    async fn pass(&self, topology: &Topology) -> Result<()> {
        self.adopt(topology);
        still(topology)?;
        let left: Vec<&Primary> = topology.primaries.iter().filter(|primary| !self.is_flushed(primary)).collect();
        join_all(left.into_iter().map(|primary| self.node(primary))).await.into_iter().collect()
    }

    /// Whether all is deleted that those who are primaries now had.
    fn settle(&self, now: &Topology) -> Result<()> {
        self.adopt(now);
        still(now)?;
        if now.primaries.iter().all(|primary| self.is_flushed(primary)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, BACKEND, FLUSH, "another node took over meanwhile"))
    }

    fn is_flushed(&self, primary: &Primary) -> bool {
        self.flushed().iter().any(|flushed| flushed.covers(primary))
    }

    /// Tells what was flushed in the words of those who are primaries now; what none of them has come to is of no more use.
    fn adopt(&self, topology: &Topology) {
        self.flushed().retain_mut(|flushed| {
            let now = topology.primaries.iter().find_map(|primary| primary.fields.has(&flushed.after));
            now.map(|point| flushed.after = point).is_some()
        });
    }

    async fn node(&self, primary: &Primary) -> Result<()> {
        let mut commands = redis::pipe();
        // ASYNC frees the memory in the background, so that the server goes on serving meanwhile.
        commands.cmd("FLUSHDB").arg("ASYNC").cmd("INFO").arg("replication");
        let node: &Node = &primary.node;
        let answers: Vec<RedisResult<Value>> = node.ask_all(self.cx, FLUSH, Access::Write, &mut commands).await?;
        let mut answers = answers.into_iter();
        let flushed = answers.next().unwrap_or(Ok(Value::Nil));
        flushed.map_err(|e| node.failed(e, FLUSH, Access::Write))?;
        let told = answers.next().and_then(Result::ok).and_then(|told| from_redis_value::<String>(told).ok());
        // Where it does not say how far it is, only it itself is known to have come to the flush.
        let after = told.map_or_else(|| primary.fields.point().unconfirmed(), |told| Fields::parse(&told).point());
        self.flushed().push(Flushed { after, slots: primary.slots.clone() });
        Ok(())
    }
}

/// A key on its way from a node that is not flushed yet to one that is would outlive the flush.
fn still(topology: &Topology) -> Result<()> {
    let moving: BTreeSet<u16> = topology.primaries.iter().flat_map(|primary| &primary.moving).copied().collect();
    if moving.is_empty() {
        return Ok(());
    }
    let message = format!("{} slots are being moved from node to node, and their keys would be missed", moving.len());
    let error = Error::new(ErrorKind::Unavailable, BACKEND, FLUSH, message).on("the cluster");
    Err(error
        .hint("redis-cli --cluster check says which slots are open; one that nobody moves on has to be closed by hand"))
}
