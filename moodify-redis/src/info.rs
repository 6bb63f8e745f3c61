//! Reads what `INFO` answers.

use std::collections::HashMap;

use moodify_core::backend::CacheInfo;

/// The fields of an answer to `INFO`.
pub(crate) struct Fields<'a>(HashMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        Self(text.lines().filter_map(|line| line.trim().split_once(':')).collect())
    }

    /// `standalone`, `cluster` or `sentinel`.
    pub(crate) fn mode(&self) -> &'a str {
        // Valkey says it under both names.
        self.0.get("redis_mode").or_else(|| self.0.get("server_mode")).copied().unwrap_or("standalone")
    }

    /// What it says of the server, with the keys of one database; `Err` names the field that is missing.
    pub(crate) fn cache_info(&self, database: i64) -> Result<CacheInfo, &'static str> {
        let (hits, misses) = (self.number("keyspace_hits")?, self.number("keyspace_misses")?);
        let look_ups = hits + misses;
        Ok(CacheInfo {
            engine: self.engine()?,
            used_memory: self.number("used_memory")?,
            max_memory: Some(self.number("maxmemory")?).filter(|limit| *limit > 0),
            clients: self.number("connected_clients")?,
            #[expect(clippy::cast_precision_loss, reason = "a fraction needs no more than 52 bits")]
            hit_rate: (look_ups > 0).then(|| hits as f64 / look_ups as f64),
            keys: self.keys(database),
        })
    }

    fn engine(&self) -> Result<String, &'static str> {
        let of = |field| self.0.get(field).copied();
        // Valkey also reports a redis_version, for the sake of old clients.
        match (of("valkey_version"), of("redis_version")) {
            (Some(version), _) => Ok(format!("valkey {version}")),
            (None, Some(version)) => Ok(format!("redis {version}")),
            (None, None) => Err("redis_version"),
        }
    }

    fn number(&self, field: &'static str) -> Result<u64, &'static str> {
        self.0.get(field).and_then(|text| text.parse().ok()).ok_or(field)
    }

    /// An empty database is not listed at all: `db0:keys=12,expires=3,avg_ttl=0`.
    fn keys(&self, database: i64) -> u64 {
        self.0
            .get(format!("db{database}").as_str())
            .and_then(|counts| counts.split(',').find_map(|count| count.strip_prefix("keys=")))
            .and_then(|keys| keys.parse().ok())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIS: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n# Clients\r\n\
        connected_clients:3\r\n\r\n# Memory\r\nused_memory:1048576\r\nmaxmemory:0\r\n\r\n# Stats\r\n\
        keyspace_hits:3\r\nkeyspace_misses:1\r\n\r\n# Keyspace\r\ndb0:keys=12,expires=3,avg_ttl=0\r\n\
        db2:keys=7,expires=0,avg_ttl=0,subexpiry=0\r\n";

    #[test]
    fn redis_answers() {
        let info = Fields::parse(REDIS).cache_info(2).unwrap();
        assert_eq!(
            info,
            CacheInfo {
                engine: "redis 7.0.15".to_owned(),
                used_memory: 1_048_576,
                max_memory: None,
                clients: 3,
                hit_rate: Some(0.75),
                keys: 7,
            }
        );
        assert_eq!(Fields::parse(REDIS).cache_info(1).unwrap().keys, 0);
    }

    #[test]
    fn valkey_answers() {
        let text = REDIS
            .replace("redis_version:7.0.15", "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1")
            .replace("maxmemory:0", "maxmemory:2097152")
            .replace("hits:3", "hits:0")
            .replace("misses:1", "misses:0");
        let info = Fields::parse(&text).cache_info(0).unwrap();
        assert_eq!(info.engine, "valkey 8.1.1");
        assert_eq!((info.max_memory, info.hit_rate, info.keys), (Some(2_097_152), None, 12));
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(Fields::parse("redis_version:7").cache_info(0).unwrap_err(), "keyspace_hits");
    }
}
