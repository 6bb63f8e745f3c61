use std::fmt;
use std::num::NonZeroU32;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{CacheClient, CacheInfo, CacheLatency, CacheSnapshot, KeyPattern, SlowCommand};
use crate::context::CallContext;
use crate::error::Result;
use crate::model::Period;

/// What the administration of a cache's data can do, or is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheCapabilities {
    /// It can delete everything.
    pub flush: bool,
    /// It can delete the keys of a pattern.
    pub delete: bool,
    /// It can write entries that are missing.
    pub warm: bool,
    /// It can make snapshots.
    pub snapshot: bool,
    /// It can let a replica take over.
    pub failover: bool,
    /// It can tell who is connected and what was slow: beyond how the cache is, which every one can.
    pub diagnostics: bool,
}

impl CacheCapabilities {
    /// All that is done with keys: flush, delete and warm.
    #[must_use]
    pub fn keys() -> Self {
        Self { flush: true, delete: true, warm: true, ..Self::default() }
    }

    /// The same, with snapshots or without.
    #[must_use]
    pub fn snapshot(mut self, can: bool) -> Self {
        self.snapshot = can;
        self
    }

    /// The same, with failover or without.
    #[must_use]
    pub fn failover(mut self, can: bool) -> Self {
        self.failover = can;
        self
    }

    /// The same, with diagnostics or without.
    #[must_use]
    pub fn diagnostics(mut self, can: bool) -> Self {
        self.diagnostics = can;
        self
    }
}

/// What to flush. The name must be typed, so that nobody flushes the wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlushRequest {
    /// The name of the cache, typed by whoever asks for it.
    pub confirmed_name: String,
    /// Whoever asks knows that customers use it.
    pub in_production: bool,
    /// Only count what would be deleted.
    pub dry_run: bool,
    /// How many keys may be there at most: with more of them nothing is deleted.
    pub at_most: Option<u64>,
}

impl FlushRequest {
    /// Flush the cache of that name, unless it is one of production.
    #[must_use]
    pub fn confirmed(name: &str) -> Self {
        Self { confirmed_name: name.to_owned(), in_production: false, dry_run: false, at_most: None }
    }

    /// The same, also in production.
    #[must_use]
    pub fn in_production(mut self) -> Self {
        self.in_production = true;
        self
    }

    /// Count what flushing would delete.
    #[must_use]
    pub fn dry_run() -> Self {
        Self { confirmed_name: String::new(), in_production: false, dry_run: true, at_most: None }
    }

    /// The same, unless there are more keys than that.
    #[must_use]
    pub fn at_most(mut self, keys: u64) -> Self {
        self.at_most = Some(keys);
        self
    }
}

/// How many keys are looked at or written in one request if nobody says.
pub const KEYS_A_PAGE: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");

/// Which keys to delete, and how fast.
///
/// ```
/// use std::num::NonZeroU32;
/// use moodify_core::backend::DeleteKeys;
/// let request = DeleteKeys::matching("mood:user:*".parse()?).keys_per_second(NonZeroU32::new(20_000).unwrap());
/// assert!(!request.dry_run);
/// # Ok::<(), moodify_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteKeys {
    /// The keys.
    pub pattern: KeyPattern,
    /// Only count what would be deleted.
    pub dry_run: bool,
    /// How many keys each node looks at in one request; the longest that it serves nobody else.
    pub page: NonZeroU32,
    /// The most keys a second that are deleted, over all nodes.
    pub keys_per_second: Option<NonZeroU32>,
}

impl DeleteKeys {
    /// Delete the keys that match, as fast as the cache can.
    #[must_use]
    pub fn matching(pattern: KeyPattern) -> Self {
        Self { pattern, dry_run: false, page: KEYS_A_PAGE, keys_per_second: None }
    }

    /// Only count them.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// So many keys in one request; [`KEYS_A_PAGE`] by default.
    #[must_use]
    pub fn page(mut self, keys: NonZeroU32) -> Self {
        self.page = keys;
        self
    }

    /// No more than so many keys a second.
    #[must_use]
    pub fn keys_per_second(mut self, keys: NonZeroU32) -> Self {
        self.keys_per_second = Some(keys);
        self
    }
}

/// What came of deleting keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeletedKeys {
    /// Keys that were found. A key may be found twice, while the server's table grows or shrinks or after a failover.
    pub found: u64,
    /// Keys that the cache has said it deleted.
    pub deleted: u64,
}

/// Something to be in a cache. Its value is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// How long it stays; `None` for ever.
    pub ttl: Option<Period>,
}

impl CacheEntry {
    /// An entry that stays for ever.
    #[must_use]
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: value.into(), ttl: None }
    }

    /// The same, for so long; no less than a millisecond.
    #[must_use]
    pub fn ttl(mut self, ttl: impl Into<Period>) -> Self {
        self.ttl = Some(ttl.into());
        self
    }
}

impl fmt::Debug for CacheEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        f.debug_struct("CacheEntry").field("key", &key).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// How to warm a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmRequest {
    /// How many entries are written in one request.
    pub page: NonZeroU32,
    /// The most entries a second.
    pub keys_per_second: Option<NonZeroU32>,
}

impl Default for WarmRequest {
    fn default() -> Self {
        Self { page: KEYS_A_PAGE, keys_per_second: None }
    }
}

impl WarmRequest {
    /// As fast as the cache can.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// So many entries in one request; [`KEYS_A_PAGE`] by default.
    #[must_use]
    pub fn page(mut self, entries: NonZeroU32) -> Self {
        self.page = entries;
        self
    }

    /// No more than so many entries a second.
    #[must_use]
    pub fn keys_per_second(mut self, entries: NonZeroU32) -> Self {
        self.keys_per_second = Some(entries);
        self
    }
}

/// What came of warming a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Warmed {
    /// Entries that were missing, and are there now.
    pub written: u64,
    /// Entries whose key was there already; they were left as they were.
    pub present: u64,
    /// Of all these, how many a failover may have undone and nobody could look at again: too many had not got to a replica
    /// when it came. 0 where no failover came, and usually where one did.
    #[serde(default)]
    pub unsure: u64,
}

/// Which primary a replica shall take over from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailoverRequest {
    /// The primary that is to be one no more: `host:port`, as in [`CacheInfo`]. In a cluster it names the shard.
    pub from: String,
}

impl FailoverRequest {
    /// A replica of this primary shall take over.
    #[must_use]
    pub fn from_primary(address: &str) -> Self {
        Self { from: address.to_owned() }
    }
}

/// Who takes the writes now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The former primary.
    pub from: String,
    /// The primary.
    pub to: String,
}

/// Administers the data of a cache, whatever it consists of: one server, a primary that others stand by to replace, or
/// many shards.
///
/// # Contract
/// - `ping`, `info`, `clients`, `slow_log` and `latency` read only, and so does every dry run.
/// - `flush` deletes only if the confirmed name is the cache's, in production only if the request says so, and only if no
///   more keys are there than the request allows, which are counted before anything is deleted; else
///   [`Refused`](crate::ErrorKind::Refused). A cache is one of production unless it was set up as another one.
/// - `delete_matching` deletes every key that matched from its begin to its end, and none that does not match.
/// - `warm` writes what is missing and overwrites nothing.
/// - `snapshot` returns only what is complete and was begun after it was called, one of each primary. It looks at the file
///   where it can, and says so where it cannot.
/// - `failover` returns when another node takes the writes. Where `from` is no primary any more nothing is done: so
///   asking twice is one failover.
/// - A failover while any of them is under way is waited for, and then it goes on; all of them may be repeated.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait CacheAdmin: Send + Sync + fmt::Debug {
    /// What this one can do.
    fn capabilities(&self) -> CacheCapabilities;

    /// Whether every primary answers.
    ///
    /// # Errors
    /// When one does not.
    async fn ping(&self, cx: &CallContext) -> Result<()>;

    /// How the cache is doing, node by node. A replica that does not answer is left out.
    ///
    /// # Errors
    /// When a primary cannot be asked.
    async fn info(&self, cx: &CallContext) -> Result<CacheInfo>;

    /// Who is connected to the primaries.
    ///
    /// # Errors
    /// When one cannot be asked.
    async fn clients(&self, cx: &CallContext) -> Result<Vec<CacheClient>>;

    /// The last commands that took long, newest first, at most `limit` of each primary.
    ///
    /// # Errors
    /// When one cannot be asked.
    async fn slow_log(&self, cx: &CallContext, limit: u32) -> Result<Vec<SlowCommand>>;

    /// How long each primary takes to answer, measured by so many requests one after the other.
    ///
    /// # Errors
    /// When one cannot be asked.
    async fn latency(&self, cx: &CallContext, pings: NonZeroU32) -> Result<Vec<CacheLatency>>;

    /// Deletes every key; returns how many there were right before.
    ///
    /// # Errors
    /// As in the contract.
    async fn flush(&self, cx: &CallContext, request: &FlushRequest) -> Result<u64>;

    /// Deletes the keys of a pattern, page by page; `done` holds how many were found so far.
    ///
    /// # Errors
    /// When the cache cannot be asked; some keys may be deleted then. Deleting again is fine.
    async fn delete_matching(
        &self,
        cx: &CallContext,
        request: &DeleteKeys,
        done: &watch::Sender<u64>,
    ) -> Result<DeletedKeys>;

    /// Writes the entries that are missing, page by page; `done` holds how many were handled so far.
    ///
    /// # Errors
    /// The stream's first one, or when the cache cannot be asked; some entries may be written then. Again is fine.
    async fn warm(
        &self,
        cx: &CallContext,
        entries: BoxStream<'static, Result<CacheEntry>>,
        request: &WarmRequest,
        done: &watch::Sender<u64>,
    ) -> Result<Warmed>;

    /// Makes a snapshot of every primary and waits until all are complete. One that is being made already is waited for,
    /// and then another one made, because it may have begun before the last writes.
    ///
    /// # Errors
    /// [`Unhealthy`](crate::ErrorKind::Unhealthy) if a node says that it failed, and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a file is not what the node has written.
    async fn snapshot(&self, cx: &CallContext) -> Result<Vec<CacheSnapshot>>;

    /// Lets a replica take over, and waits until it has.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no such node.
    async fn failover(&self, cx: &CallContext, request: &FailoverRequest) -> Result<Failover>;
}
