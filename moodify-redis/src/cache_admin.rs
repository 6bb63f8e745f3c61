use async_trait::async_trait;
use moodify_core::backend::{CacheAdmin, CacheCapabilities, CacheInfo, FlushRequest};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use redis::cmd;
use tracing::info;

use crate::config::RedisConfig;
use crate::connection::Connector;
use crate::error::{Access, BACKEND};
use crate::info::Fields;

/// Administers one Redis or Valkey server over one connection, which is made when it is first needed and made anew
/// after it broke.
///
/// `info` and `flush` are about the database that the configuration selects. A node of a cluster and a sentinel are
/// refused as [`Unsupported`](ErrorKind::Unsupported): what one node says or deletes is not the cache.
///
/// An ACL user needs `+ping +info +select`, and for flushing `+dbsize +flushdb`. The keys
/// that a flush returns were counted right before it.
///
/// Dropping the future of a call is safe: `ping` and `info` change nothing; a `flush` may still be carried out, and
/// repeating it is fine. The next call connects anew.
///
/// ```
/// use moodify_redis::{RedisCache, RedisConfig};
/// let cache = RedisCache::new(RedisConfig::new("sessions", "redis://127.0.0.1:6379")).unwrap();
/// assert_eq!(cache.name(), "sessions");
/// ```
#[derive(Debug)]
pub struct RedisCache {
    name: String,
    connector: Connector,
}

impl RedisCache {
    /// Checks the configuration and reads the trust store; connects later.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    #[expect(clippy::needless_pass_by_value, reason = "the configuration has a secret; one copy of it is enough")]
    pub fn new(config: RedisConfig) -> Result<Self> {
        config.validate()?;
        let server = config.server().map_err(|problem| Error::new(ErrorKind::Invalid, BACKEND, "connect", problem))?;
        Ok(Self { name: config.name().to_owned(), connector: Connector::new(&config, server)? })
    }

    /// The name by which a flush is confirmed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Error {
        Error::new(kind, BACKEND, operation, message).on(self.connector.server().address())
    }

    /// What the server says of itself; refuses what is not a single server.
    async fn fields<T>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        read: impl FnOnce(&Fields<'_>) -> Result<T>,
    ) -> Result<T> {
        // Without sections: naming several of them at once is younger than Redis 7.
        let text: String = self.connector.ask(cx, operation, Access::Read, &cmd("INFO")).await?;
        let fields = Fields::parse(&text);
        match fields.mode() {
            "standalone" => read(&fields),
            mode => Err(self.error(
                ErrorKind::Unsupported,
                operation,
                format!("the server runs in {mode} mode, and this backend administers single servers"),
            )),
        }
    }
}

#[async_trait]
impl CacheAdmin for RedisCache {
    fn capabilities(&self) -> CacheCapabilities {
        CacheCapabilities::new(true, true, false)
    }

    async fn ping(&self, cx: &CallContext) -> Result<()> {
        let answer: String = self.connector.ask(cx, "ping", Access::Read, &cmd("PING")).await?;
        if answer == "PONG" {
            return Ok(());
        }
        Err(self.error(ErrorKind::Internal, "ping", format!("answered {answer:?} instead of PONG")))
    }

    async fn info(&self, cx: &CallContext) -> Result<CacheInfo> {
        self.fields(cx, "info", |fields| {
            fields
                .cache_info(self.connector.server().login.db())
                .map_err(|field| self.error(ErrorKind::Internal, "info", format!("the answer has no usable {field}")))
        })
        .await
    }

    async fn flush(&self, cx: &CallContext, request: &FlushRequest) -> Result<u64> {
        const FLUSH: &str = "flush";
        if !request.dry_run && request.confirmed_name != self.name {
            return Err(self.error(
                ErrorKind::Refused,
                FLUSH,
                format!(
                    "confirmed was {:?}, but this cache is {:?}; nothing was deleted",
                    request.confirmed_name, self.name
                ),
            ));
        }
        self.fields(cx, FLUSH, |_| Ok(())).await?;
        let keys = self.connector.ask(cx, FLUSH, Access::Read, &cmd("DBSIZE")).await?;
        if request.dry_run {
            return Ok(keys);
        }
        // ASYNC frees the memory in the background, so that the server goes on serving meanwhile.
        let () = self.connector.ask(cx, FLUSH, Access::Write, cmd("FLUSHDB").arg("ASYNC")).await?;
        info!(cache = %self.name, run = %cx.run_id(), keys, "flushed");
        Ok(keys)
    }
}
