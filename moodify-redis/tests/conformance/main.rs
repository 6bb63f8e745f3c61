//! The contract of `CacheAdmin`, held against real servers: one, one that sentinels watch, and a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod cluster;
mod dump;
mod large;
mod peer;
mod sentinel;
mod single;

use std::sync::Arc;
use std::time::Duration;

use moodify_core::backend::{CacheAdmin, DeleteKeys};
use moodify_core::testing::conformance::CacheHarness;
use moodify_core::{CallContext, IdempotencyKey, RunId};
use moodify_redis::{RedisCache, RedisConfig};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);

fn cx_of(timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/cache"), timeout)
}

fn cx() -> CallContext {
    cx_of(PATIENCE)
}

fn cache(config: RedisConfig) -> Arc<dyn CacheAdmin> {
    Arc::new(RedisCache::new(config).unwrap())
}

fn matching(pattern: &str) -> DeleteKeys {
    DeleteKeys::matching(pattern.parse().unwrap())
}

fn unheard() -> watch::Sender<u64> {
    watch::Sender::new(0)
}

/// A cache named `sessions`, and how many keys are in it.
struct Harness(Arc<dyn CacheAdmin>, u64);

impl CacheHarness for Harness {
    fn cache(&self) -> Arc<dyn CacheAdmin> {
        self.0.clone()
    }

    fn name(&self) -> String {
        "sessions".to_owned()
    }

    fn keys(&self) -> u64 {
        self.1
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}
