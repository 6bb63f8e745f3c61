//! Caches: a primary and a replica each, at first with a thousand keys, and none of a user's.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;

use crate::backend::{
    CacheAdmin, CacheCapabilities, CacheClient, CacheDump, CacheEntry, CacheInfo, CacheLatency, CacheRole, CacheServer,
    CacheSnapshot, DeleteKeys, DeletedKeys, Failover, FailoverRequest, FlushRequest, SlowCommand, WarmRequest, Warmed,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::Period;

use super::cluster::Facet;
use super::fault::BackendKind;
use super::state::{Caller, State};

const NODES: [&str; 2] = ["cache-0:6379", "cache-1:6379"];

/// What is in a cache. Its keys have no values.
#[derive(Debug, Clone)]
pub(super) struct SimCache {
    keys: Arc<BTreeSet<Vec<u8>>>,
    /// Which node takes the writes.
    primary: usize,
    pub(super) snapshots: u32,
    /// Since when the applications also look up what was written: once a second, by the world's clock.
    warm: Option<Duration>,
}

impl Default for SimCache {
    fn default() -> Self {
        let keys = (0..1000).map(|n| format!("key-{n}").into_bytes()).collect();
        Self { keys: Arc::new(keys), primary: 0, snapshots: 0, warm: None }
    }
}

impl SimCache {
    pub(super) fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    fn info(&self, now: Duration) -> CacheInfo {
        let found = self.warm.map_or(0, |since| now.saturating_sub(since).as_secs());
        let node = |place: usize| CacheServer {
            address: NODES[place].to_owned(),
            role: if place == self.primary { CacheRole::Primary } else { CacheRole::Replica },
            used_memory: self.len() << 10,
            max_memory: Some(1 << 30),
            clients: 3,
            hits: if place == self.primary { 19 * self.len() + found } else { 0 },
            misses: if place == self.primary { self.len() } else { 0 },
            keys: self.len(),
            replicas: u32::from(place == self.primary),
        };
        CacheInfo { engine: "simulated 1.0".to_owned(), nodes: vec![node(self.primary), node(1 - self.primary)] }
    }
}

fn flush(state: &mut State, caller: &Caller, request: &FlushRequest) -> Result<u64> {
    let name = &caller.subject;
    if !request.dry_run && request.confirmed_name != *name {
        let message = format!("{:?} was confirmed, but this is {name:?}", request.confirmed_name);
        return Err(caller.fails(ErrorKind::Refused, message));
    }
    if !request.dry_run && !request.in_production {
        return Err(caller.fails(ErrorKind::Refused, format!("{name:?} is of production")));
    }
    let cache = state.caches.entry(name.clone()).or_default();
    let keys = cache.len();
    if let Some(most) = request.at_most.filter(|most| !request.dry_run && keys > *most) {
        return Err(caller.fails(ErrorKind::Refused, format!("{name:?} has {keys} keys, more than {most}")));
    }
    if !request.dry_run {
        cache.keys = Arc::default();
        state.wrote(format!("{keys} keys of {name} deleted"));
    }
    Ok(keys)
}

fn delete(state: &mut State, name: &str, request: &DeleteKeys) -> DeletedKeys {
    let cache = state.caches.entry(name.to_owned()).or_default();
    let before = cache.len();
    let found = cache.keys.iter().filter(|key| request.pattern.matches(key)).count() as u64;
    if request.dry_run {
        return DeletedKeys { found, deleted: 0 };
    }
    Arc::make_mut(&mut cache.keys).retain(|key| !request.pattern.matches(key));
    let deleted = before - cache.len();
    state.wrote(format!("{deleted} keys of {name} deleted"));
    DeletedKeys { found, deleted }
}

fn warm(state: &mut State, name: &str, entries: &[CacheEntry]) -> Warmed {
    let now = state.now;
    let cache = state.caches.entry(name.to_owned()).or_default();
    cache.warm.get_or_insert(now);
    let keys = Arc::make_mut(&mut cache.keys);
    let written = entries.iter().filter(|entry| keys.insert(entry.key.clone())).count() as u64;
    state.wrote(format!("{written} keys of {name} written"));
    Warmed { written, present: entries.len() as u64 - written, unsure: 0 }
}

fn failover(state: &mut State, caller: &Caller, request: &FailoverRequest) -> Result<Failover> {
    let place = NODES.iter().position(|node| *node == request.from);
    let place = place.ok_or_else(|| caller.fails(ErrorKind::NotFound, format!("there is no node {}", request.from)))?;
    let cache = state.caches.entry(caller.subject.clone()).or_default();
    let takes_over = cache.primary == place;
    if takes_over {
        cache.primary = 1 - place;
    }
    let to = NODES[cache.primary];
    if takes_over {
        state.wrote(format!("{to} takes the writes of {}", caller.subject));
    }
    Ok(Failover { from: request.from.clone(), to: to.to_owned() })
}

impl Facet {
    fn cache(&self, operation: &'static str) -> Caller {
        self.caller(BackendKind::CacheAdmin, operation, &self.name)
    }

    /// Looks at the cache without changing it.
    async fn look<T: Send>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        look: impl Fn(&SimCache, &State) -> T + Send + 'static,
    ) -> Result<T> {
        let name = self.name.clone();
        let effect = move |state: &mut State| {
            let cache = state.caches.get(&*name).cloned().unwrap_or_default();
            Ok(look(&cache, state))
        };
        self.world.call(cx, self.cache(operation).reading(), effect).await
    }
}

#[async_trait]
impl CacheAdmin for Facet {
    fn capabilities(&self) -> CacheCapabilities {
        CacheCapabilities::keys().snapshot(true).failover(true).diagnostics(true)
    }

    async fn ping(&self, cx: &CallContext) -> Result<()> {
        self.look(cx, "ping", |_, _| ()).await
    }

    async fn info(&self, cx: &CallContext) -> Result<CacheInfo> {
        self.look(cx, "info", |cache, state| cache.info(state.now)).await
    }

    async fn clients(&self, cx: &CallContext) -> Result<Vec<CacheClient>> {
        self.look(cx, "clients", |cache, state| {
            let client = |id: u64| CacheClient {
                node: NODES[cache.primary].to_owned(),
                id,
                address: format!("10.0.0.{id}:40000"),
                name: String::new(),
                user: None,
                database: 0,
                connected: Period::from(state.now),
                idle: Period::ZERO,
                command: "get".to_owned(),
            };
            (1..=3).map(client).collect()
        })
        .await
    }

    async fn slow_log(&self, cx: &CallContext, limit: u32) -> Result<Vec<SlowCommand>> {
        self.look(cx, "slow log", move |cache, state| {
            let slow = SlowCommand {
                node: NODES[cache.primary].to_owned(),
                id: 0,
                at: state.base,
                took: Duration::from_millis(12).into(),
                command: "keys".to_owned(),
                client: "10.0.0.1:40000".to_owned(),
            };
            if limit == 0 { Vec::new() } else { vec![slow] }
        })
        .await
    }

    async fn latency(&self, cx: &CallContext, pings: NonZeroU32) -> Result<Vec<CacheLatency>> {
        self.look(cx, "latency", move |cache, state| {
            let time = Period::from(state.scenario.world.call_time.get());
            let node = NODES[cache.primary].to_owned();
            vec![CacheLatency { node, pings: pings.get(), min: time, median: time, max: time }]
        })
        .await
    }

    async fn flush(&self, cx: &CallContext, request: &FlushRequest) -> Result<u64> {
        if request.dry_run {
            return self.look(cx, "count keys", |cache, _| cache.len()).await;
        }
        let (caller, request) = (self.cache("flush"), request.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| flush(state, &asks, &request)).await
    }

    async fn delete_matching(
        &self,
        cx: &CallContext,
        request: &DeleteKeys,
        done: &watch::Sender<u64>,
    ) -> Result<DeletedKeys> {
        let (name, request) = (self.name.clone(), request.clone());
        let caller = self.cache("delete keys");
        let caller = if request.dry_run { caller.reading() } else { caller };
        let deleted = self.world.call(cx, caller, move |state| Ok(delete(state, &name, &request))).await?;
        done.send_replace(deleted.found);
        Ok(deleted)
    }

    async fn warm(
        &self,
        cx: &CallContext,
        entries: BoxStream<'static, Result<CacheEntry>>,
        _: &WarmRequest,
        done: &watch::Sender<u64>,
    ) -> Result<Warmed> {
        let (caller, name) = (self.cache("warm"), self.name.clone());
        let entries: Vec<CacheEntry> = cx.run(caller.backend.name(), "warm", entries.try_collect()).await?;
        let warmed = self.world.call(cx, caller, move |state| Ok(warm(state, &name, &entries))).await?;
        done.send_replace(warmed.written + warmed.present);
        Ok(warmed)
    }

    async fn snapshot(&self, cx: &CallContext) -> Result<Vec<CacheSnapshot>> {
        let (caller, name) = (self.cache("snapshot"), self.name.clone());
        let effect = move |state: &mut State| {
            let completed = state.wall();
            let cache = state.caches.entry(name.to_string()).or_default();
            cache.snapshots += 1;
            let (node, keys) = (NODES[cache.primary].to_owned(), cache.len());
            state.wrote(format!("snapshot of {name} made"));
            let dump = CacheDump::Unseen { why: "a simulated node has no disk".to_owned() };
            Ok(vec![CacheSnapshot { node, completed, took: Period::ZERO, keys, file: None, dump }])
        };
        self.world.call(cx, caller, effect).await
    }

    async fn failover(&self, cx: &CallContext, request: &FailoverRequest) -> Result<Failover> {
        let (caller, request) = (self.cache("failover"), request.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| failover(state, &asks, &request)).await
    }
}
