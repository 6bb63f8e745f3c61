//! Redis backend of moodify: [`RedisCache`] administers a Redis or Valkey, be it a single server, watched by sentinels
//! or a cluster.
//!
//! ```no_run
//! # async fn example() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_core::backend::CacheAdmin;
//! use moodify_core::{CallContext, IdempotencyKey, RunId};
//! use moodify_redis::{RedisCache, RedisConfig};
//!
//! let cache = RedisCache::new(RedisConfig::new("sessions", "rediss://cache.internal:6379").password("from a vault"))?;
//! let run = RunId::new("r1").expect("a valid id");
//! let cx = CallContext::new(run, IdempotencyKey::new("r1/cache"), Duration::from_secs(10));
//! let info = cache.info(&cx).await?;
//! println!("{}: {} keys in {} bytes", info.engine, info.keys(), info.used_memory());
//! # Ok(())
//! # }
//! ```
//!
//! No name of the `redis` crate is part of this crate's signatures, and TLS is rustls with ring, chosen here and not
//! by whatever default the process has installed.

mod access;
mod address;
mod cache_admin;
mod cluster;
mod config;
mod connection;
mod delete;
mod dump;
mod error;
mod failover;
mod flush;
mod info;
mod kept;
mod pace;
mod slot;
mod snapshot;
mod topology;
mod warm;

pub use cache_admin::RedisCache;
pub use config::RedisConfig;
