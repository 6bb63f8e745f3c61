use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::BoxStream;
use jiff::Timestamp;
use moodify_core::backend::{
    CacheAdmin, CacheCapabilities, CacheClient, CacheEntry, CacheInfo, CacheLatency, CacheRole, CacheSnapshot,
    DeleteKeys, DeletedKeys, Failover, FailoverRequest, FlushRequest, SlowCommand, WarmRequest, Warmed,
};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::cmd;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::config::{Place, RedisConfig};
use crate::connection::Node;
use crate::error::{Access, BACKEND};
use crate::info::{Fields, client};
use crate::topology::{Primary, Servers, Topology, fields};
use crate::{access, delete, failover, flush, snapshot, warm};

/// Administers a Redis or Valkey: one server, a primary with replicas that sentinels watch, or a cluster. There is one
/// connection to each node, made when it is first needed and made anew after it broke.
///
/// All is about the database that the configuration selects, but snapshots, which are of all databases.
///
/// # What its user must be allowed to
/// `+ping +info` always, `+cluster|nodes` in a cluster, `+client|list +slowlog|get` to look on; `+dbsize +flushdb`
/// to flush, `+scan +unlink` on the keys to delete, `+set` on those to warm (and `+wait`, not to wait longer than needed for
/// replicas), `+bgsave +time` for snapshots (and `+config|get` to know their files), `+cluster|failover` for failovers; `+select` if the database is not 0. At the
/// sentinels `+ping +sentinel|master +sentinel|replicas +sentinel|failover`:
///
/// ```text
/// ACL SETUSER moodify on >PASSWORD ~mood:* resetchannels -@all +ping +info +cluster|nodes +client|list +slowlog|get
///   +dbsize +flushdb +scan +unlink +set +wait +bgsave +time +config|get +cluster|failover
/// ```
///
/// # Failovers
/// With sentinels and in clusters, whatever is under way when a primary goes away waits for the next one, for at most
/// the configured time without any. A replica that takes over has not always all that its primary had said yes to: so deleting
/// begins anew there, and keys that came back are deleted, and counted, again. By what it says of how far it had followed, a
/// flush is repeated, and entries are written again, only where they did not get to it.
///
/// Dropping the future of a call is safe: what it had sent may still be carried out, and repeating it is fine.
///
/// ```
/// use moodify_redis::{RedisCache, RedisConfig};
/// let cache = RedisCache::new(RedisConfig::new("sessions", "redis://127.0.0.1:6379")).unwrap();
/// assert_eq!(cache.name(), "sessions");
/// ```
#[derive(Debug)]
pub struct RedisCache {
    name: String,
    production: bool,
    servers: Servers,
}

impl RedisCache {
    /// Checks the configuration and reads the trust store; connects later.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    #[expect(clippy::needless_pass_by_value, reason = "the configuration has a secret; one copy of it is enough")]
    pub fn new(config: RedisConfig) -> Result<Self> {
        config.validate()?;
        let (name, production) = (config.name().to_owned(), config.is_production());
        Ok(Self { name, production, servers: Servers::new(&config)? })
    }

    /// The name by which a flush is confirmed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, without changing anything, whether every primary answers and the user may do what is `needed`, as far as the
    /// server tells: that takes Redis 7, and a user with `+acl|whoami +acl|dryrun`. Returns every problem found; none is
    /// good news.
    pub async fn preflight(&self, cx: &CallContext, needed: CacheCapabilities) -> Vec<Error> {
        access::preflight(&self.servers, cx, needed).await
    }

    /// Asks all primaries at once.
    async fn each<T, F: Future<Output = Result<T>>>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        ask: impl Fn(Arc<Node>) -> F,
    ) -> Result<Vec<T>> {
        let ask = &ask;
        let pass = |topology: Arc<Topology>| async move {
            let asked = topology.primaries.iter().map(|primary| ask(primary.node.clone()));
            join_all(asked).await.into_iter().collect()
        };
        self.servers.follow(cx, operation, pass).await
    }

    async fn describe(&self, cx: &CallContext, topology: &Topology) -> Result<CacheInfo> {
        let database = self.servers.database();
        let unusable = |node: &Node, field: &str| {
            let message = format!("the answer has no usable {field}");
            Error::new(ErrorKind::Internal, BACKEND, INFO, message).on(node.label())
        };
        let of = |node: &Node, fields: &Fields| {
            fields.cache_node(node.address(), database).map_err(|field| unusable(node, field))
        };
        let mut engine = String::new();
        let mut nodes = Vec::new();
        for Primary { node, fields, .. } in &topology.primaries {
            engine = fields.engine().map_err(|field| unusable(node, field))?;
            nodes.push(of(node, fields)?);
        }
        let replicas = topology.primaries.iter().flat_map(|primary| &primary.replicas);
        let answers = join_all(replicas.map(async |node| (node, fields(cx, INFO, node).await))).await;
        for (node, answer) in answers {
            // One that takes over just now is among the primaries next time.
            if let Some(fields) = answer.ok().filter(|fields| fields.role() == CacheRole::Replica) {
                nodes.push(of(node, &fields)?);
            }
        }
        Ok(CacheInfo { engine, nodes })
    }
}

const PING: &str = "ping";
const INFO: &str = "info";
const CLIENTS: &str = "list clients";
const SLOW_LOG: &str = "read the slow log";
const LATENCY: &str = "measure latency";

async fn ping(cx: &CallContext, operation: &'static str, node: &Node) -> Result<()> {
    let answer: String = node.ask(cx, operation, Access::Read, &cmd("PING")).await?;
    if answer == "PONG" {
        return Ok(());
    }
    let message = format!("answered {answer:?} instead of PONG");
    Err(Error::new(ErrorKind::Internal, BACKEND, operation, message).on(node.label()))
}

/// An entry of `SLOWLOG GET`: id, time, microseconds, command with arguments, address and name of the client.
type Slow = (u64, i64, u64, Vec<Vec<u8>>, String, String);

fn slow(node: &Node, (id, at, micros, mut words, client, _): Slow) -> Option<SlowCommand> {
    let command = if words.is_empty() { Vec::new() } else { words.swap_remove(0) };
    Some(SlowCommand {
        node: node.address().to_string(),
        id,
        at: Timestamp::from_second(at).ok()?,
        took: std::time::Duration::from_micros(micros).into(),
        command: String::from_utf8_lossy(&command).into_owned(),
        client,
    })
}

#[async_trait]
impl CacheAdmin for RedisCache {
    fn capabilities(&self) -> CacheCapabilities {
        CacheCapabilities::keys().snapshot(true).failover(self.servers.can_fail_over()).diagnostics(true)
    }

    async fn ping(&self, cx: &CallContext) -> Result<()> {
        if let Place::Single(address) = self.servers.place() {
            return ping(cx, PING, &self.servers.node(address)).await;
        }
        let topology = self.servers.topology(cx, PING).await?;
        join_all(topology.primaries.iter().map(|primary| ping(cx, PING, &primary.node))).await.into_iter().collect()
    }

    async fn info(&self, cx: &CallContext) -> Result<CacheInfo> {
        let pass = |topology: Arc<Topology>| async move { self.describe(cx, &topology).await };
        self.servers.follow(cx, INFO, pass).await
    }

    async fn clients(&self, cx: &CallContext) -> Result<Vec<CacheClient>> {
        let ask = |node: Arc<Node>| async move {
            let text: String = node.ask(cx, CLIENTS, Access::Read, cmd("CLIENT").arg("LIST")).await?;
            Ok(text.lines().filter_map(|line| client(node.address(), line)).collect::<Vec<_>>())
        };
        Ok(self.each(cx, CLIENTS, ask).await?.into_iter().flatten().collect())
    }

    async fn slow_log(&self, cx: &CallContext, limit: u32) -> Result<Vec<SlowCommand>> {
        let ask = |node: Arc<Node>| async move {
            let all: Vec<Slow> = node.ask(cx, SLOW_LOG, Access::Read, cmd("SLOWLOG").arg("GET").arg(limit)).await?;
            Ok(all.into_iter().filter_map(|entry| slow(&node, entry)).collect::<Vec<_>>())
        };
        let mut all: Vec<SlowCommand> = self.each(cx, SLOW_LOG, ask).await?.into_iter().flatten().collect();
        all.sort_by_key(|slow| std::cmp::Reverse((slow.at, slow.id)));
        Ok(all)
    }

    async fn latency(&self, cx: &CallContext, pings: NonZeroU32) -> Result<Vec<CacheLatency>> {
        let ask = |node: Arc<Node>| async move {
            let mut round_trips = Vec::new();
            // The first one may have to connect.
            ping(cx, LATENCY, &node).await?;
            for _ in 0..pings.get() {
                let begun = Instant::now();
                ping(cx, LATENCY, &node).await?;
                round_trips.push(begun.elapsed());
            }
            Ok(CacheLatency::of(&node.address().to_string(), round_trips))
        };
        Ok(self.each(cx, LATENCY, ask).await?.into_iter().flatten().collect())
    }

    async fn flush(&self, cx: &CallContext, request: &FlushRequest) -> Result<u64> {
        if !request.dry_run {
            flush::allow(&self.name, self.production, request)?;
        }
        let keys = flush::flush(&self.servers, &self.name, cx, request).await?;
        if !request.dry_run {
            info!(cache = %self.name, run = %cx.run_id(), keys, "flushed");
        }
        Ok(keys)
    }

    async fn delete_matching(
        &self,
        cx: &CallContext,
        request: &DeleteKeys,
        done: &watch::Sender<u64>,
    ) -> Result<DeletedKeys> {
        let keys = delete::delete_matching(&self.servers, cx, request, done).await?;
        if !request.dry_run {
            let (pattern, deleted) = (request.pattern.as_str(), keys.deleted);
            info!(cache = %self.name, run = %cx.run_id(), pattern, deleted, "keys deleted");
        }
        Ok(keys)
    }

    async fn warm(
        &self,
        cx: &CallContext,
        entries: BoxStream<'static, Result<CacheEntry>>,
        request: &WarmRequest,
        done: &watch::Sender<u64>,
    ) -> Result<Warmed> {
        warm::warm(&self.servers, cx, entries, request, done).await
    }

    async fn snapshot(&self, cx: &CallContext) -> Result<Vec<CacheSnapshot>> {
        snapshot::snapshot(&self.servers, cx).await
    }

    async fn failover(&self, cx: &CallContext, request: &FailoverRequest) -> Result<Failover> {
        let over = failover::failover(&self.servers, cx, request).await?;
        info!(cache = %self.name, run = %cx.run_id(), from = over.from, to = over.to, "another node takes the writes");
        Ok(over)
    }
}
