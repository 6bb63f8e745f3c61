//! Reads what servers say of themselves: `INFO`, `CLIENT LIST`.

use std::collections::HashMap;
use std::time::Duration;

use moodify_core::backend::{CacheClient, CacheRole, CacheServer};
use moodify_core::model::Period;

use crate::address::Address;

/// The fields of an answer to `INFO`.
#[derive(Debug)]
pub(crate) struct Fields(HashMap<String, String>);

/// What a node says about its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saves {
    /// One is being made.
    pub(crate) running: bool,
    /// When the last good one was complete, in seconds since 1970.
    pub(crate) last: i64,
    /// Whether the last one was good.
    pub(crate) good: bool,
    /// How long it took.
    pub(crate) took: Duration,
}

/// How far the history of a node's data had come at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    history: String,
    /// In bytes of what the node has told its replicas.
    offset: u64,
}

impl Point {
    /// The end of the history, wherever that is: no node that takes over is known to have come so far.
    pub(crate) fn unconfirmed(self) -> Self {
        Self { offset: u64::MAX, ..self }
    }

    pub(crate) fn is_in_history_of(&self, later: &Self) -> bool {
        self.history == later.history && self.offset <= later.offset
    }
}

impl Fields {
    pub(crate) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// `standalone`, `cluster` or `sentinel`.
    pub(crate) fn mode(&self) -> &str {
        // Valkey says it under both names.
        self.get("redis_mode").or_else(|| self.get("server_mode")).unwrap_or("standalone")
    }

    pub(crate) fn role(&self) -> CacheRole {
        if self.get("role") == Some("slave") { CacheRole::Replica } else { CacheRole::Primary }
    }

    /// Names the history of a node's data: another one after each failover, also on a node that was primary before.
    pub(crate) fn history(&self) -> String {
        self.get("master_replid").or_else(|| self.get("run_id")).unwrap_or_default().to_owned()
    }

    /// How far its data has come.
    pub(crate) fn point(&self) -> Point {
        Point { history: self.history(), offset: self.number("master_repl_offset").unwrap_or(u64::MAX) }
    }

    /// Whether its data has come to this point: then it is told in the words of the node's own history. A replica that takes
    /// over goes on from where it had followed its primary, and says where that was.
    pub(crate) fn has(&self, point: &Point) -> Option<Point> {
        let history = self.history();
        let before = self.get("master_replid2").zip(self.number("second_repl_offset").ok());
        let followed = |(id, offset): (&str, u64)| id == point.history && point.offset < offset;
        (history == point.history || before.is_some_and(followed)).then_some(Point { history, offset: point.offset })
    }

    /// The point up to which every replica that follows has confirmed what it was told; `None` if none follows.
    pub(crate) fn confirmed(&self) -> Option<Point> {
        let offset = self.followers().into_iter().min()?;
        Some(Point { history: self.history(), offset })
    }

    /// What each replica that follows has confirmed.
    pub(crate) fn followers(&self) -> Vec<u64> {
        let known = self.known_replicas();
        let online = known.filter(|told| told.split(',').any(|part| part == "state=online"));
        online.filter_map(|told| part(told, "offset")?.parse().ok()).collect()
    }

    /// Whether a replica has all that its primary has, but for the last moment.
    pub(crate) fn follows(&self) -> bool {
        self.get("master_link_status") == Some("up") && self.get("master_sync_in_progress") != Some("1")
    }

    /// The replicas that a primary knows: `slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0`.
    fn known_replicas(&self) -> impl Iterator<Item = &str> {
        let known = self.0.iter().filter(|(name, _)| {
            name.strip_prefix("slave").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        known.map(|(_, told)| told.as_str())
    }

    /// Where those are.
    pub(crate) fn replicas(&self) -> Vec<Address> {
        let address = |told: &str| Some(Address::new(part(told, "ip")?, part(told, "port")?.parse().ok()?));
        let mut all: Vec<Address> = self.known_replicas().filter_map(address).collect();
        all.sort();
        all
    }

    /// What it says of itself, with the keys of one database; `Err` names the field that is missing.
    pub(crate) fn cache_node(&self, address: &Address, database: i64) -> Result<CacheServer, &'static str> {
        Ok(CacheServer {
            address: address.to_string(),
            role: self.role(),
            used_memory: self.number("used_memory")?,
            max_memory: Some(self.number("maxmemory")?).filter(|limit| *limit > 0),
            clients: self.number("connected_clients")?,
            hits: self.number("keyspace_hits")?,
            misses: self.number("keyspace_misses")?,
            keys: self.keys(database),
            replicas: self.number("connected_slaves").ok().and_then(|n| n.try_into().ok()).unwrap_or(0),
        })
    }

    pub(crate) fn engine(&self) -> Result<String, &'static str> {
        // Valkey also reports a redis_version, for the sake of old clients.
        match (self.get("valkey_version"), self.get("redis_version")) {
            (Some(version), _) => Ok(format!("valkey {version}")),
            (None, Some(version)) => Ok(format!("redis {version}")),
            (None, None) => Err("redis_version"),
        }
    }

    /// What it says of its snapshots; `Err` names the field that is missing.
    pub(crate) fn saves(&self) -> Result<Saves, &'static str> {
        const LAST: &str = "rdb_last_save_time";
        const STATUS: &str = "rdb_last_bgsave_status";
        let seconds = self.get("rdb_last_bgsave_time_sec").and_then(|text| text.parse().ok());
        Ok(Saves {
            running: self.number("rdb_bgsave_in_progress")? != 0,
            last: self.get(LAST).and_then(|text| text.parse().ok()).ok_or(LAST)?,
            good: self.get(STATUS).ok_or(STATUS)? == "ok",
            // -1 before the first one.
            took: Duration::from_secs(seconds.unwrap_or(0)),
        })
    }

    fn number(&self, field: &'static str) -> Result<u64, &'static str> {
        self.get(field).and_then(|text| text.parse().ok()).ok_or(field)
    }

    /// Keys of all databases.
    pub(crate) fn all_keys(&self) -> u64 {
        let numbered = |name: &str| name.strip_prefix("db").and_then(|n| n.parse::<i64>().ok());
        self.0.keys().filter_map(|name| numbered(name)).map(|database| self.keys(database)).sum()
    }

    /// An empty database is not listed at all: `db0:keys=12,expires=3,avg_ttl=0`.
    fn keys(&self, database: i64) -> u64 {
        self.get(&format!("db{database}"))
            .and_then(|counts| counts.split(',').find_map(|count| count.strip_prefix("keys=")))
            .and_then(|keys| keys.parse().ok())
            .unwrap_or(0)
    }
}

/// The value of one part of `name=value,name=value`.
fn part<'a>(told: &'a str, wanted: &str) -> Option<&'a str> {
    told.split(',').find_map(|part| part.strip_prefix(wanted)?.strip_prefix('='))
}

/// Reads a line of `CLIENT LIST`: `id=3 addr=127.0.0.1:50000 name= age=7 idle=0 db=0 cmd=client|list user=default`.
pub(crate) fn client(node: &Address, line: &str) -> Option<CacheClient> {
    let fields: HashMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
    let number = |field: &str| fields.get(field)?.parse::<u64>().ok();
    let text = |field: &str| fields.get(field).map(|value| (*value).to_owned());
    Some(CacheClient {
        node: node.to_string(),
        id: number("id")?,
        address: text("addr")?,
        name: text("name").unwrap_or_default(),
        user: text("user"),
        database: number("db")?.try_into().ok()?,
        connected: Period::from_secs(number("age")?),
        idle: Period::from_secs(number("idle")?),
        command: text("cmd").filter(|command| command != "NULL").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIS: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n# Clients\r\n\
        connected_clients:3\r\n\r\n# Memory\r\nused_memory:1048576\r\nmaxmemory:0\r\n\r\n# Persistence\r\n\
        rdb_bgsave_in_progress:0\r\nrdb_last_save_time:1795900000\r\nrdb_last_bgsave_status:ok\r\n\
        rdb_last_bgsave_time_sec:-1\r\n\r\n# Stats\r\n\
        keyspace_hits:3\r\nkeyspace_misses:1\r\n\r\n# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
        slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0\r\nslave_read_only:1\r\nmaster_replid:ab12\r\n\r\n\
        # Keyspace\r\ndb0:keys=12,expires=3,avg_ttl=0\r\n\
        db2:keys=7,expires=0,avg_ttl=0,subexpiry=0\r\n";

    fn here() -> Address {
        Address::new("10.0.0.1", 6379)
    }

    #[test]
    fn redis_answers() {
        let fields = Fields::parse(REDIS);
        assert_eq!(
            fields.cache_node(&here(), 2).unwrap(),
            CacheServer {
                address: "10.0.0.1:6379".to_owned(),
                role: CacheRole::Primary,
                used_memory: 1_048_576,
                max_memory: None,
                clients: 3,
                hits: 3,
                misses: 1,
                keys: 7,
                replicas: 1,
            }
        );
        assert_eq!((fields.engine().unwrap().as_str(), fields.history().as_str()), ("redis 7.0.15", "ab12"));
        assert_eq!((fields.cache_node(&here(), 1).unwrap().keys, fields.all_keys()), (0, 19));
        assert_eq!(fields.replicas(), [Address::new("10.0.0.2", 6379)]);
        let saves = Saves { running: false, last: 1_795_900_000, good: true, took: Duration::ZERO };
        assert_eq!(fields.saves(), Ok(saves));
    }

    #[test]
    fn valkey_answers() {
        let text = REDIS
            .replace("redis_version:7.0.15", "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1")
            .replace("maxmemory:0", "maxmemory:2097152")
            .replace("role:master", "role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0");
        let fields = Fields::parse(&text);
        assert_eq!(fields.engine().unwrap(), "valkey 8.1.1");
        let node = fields.cache_node(&here(), 0).unwrap();
        assert_eq!((node.max_memory, node.role, node.keys), (Some(2_097_152), CacheRole::Replica, 12));
        assert!(fields.follows() && !Fields::parse(REDIS).follows());
    }

    #[test]
    fn a_node_that_took_over_says_up_to_where_it_had_followed() {
        let former = Fields::parse(
            "master_replid:ab12\r\nmaster_repl_offset:70\r\n\
            slave0:ip=10.0.0.2,port=6379,state=online,offset=60,lag=0\r\n\
            slave1:ip=10.0.0.3,port=6379,state=online,offset=55,lag=1\r\n\
            slave2:ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0",
        );
        let now = Fields::parse(
            "master_replid:cd34\r\nmaster_replid2:ab12\r\nmaster_repl_offset:90\r\nsecond_repl_offset:61",
        );
        let at = |history: &str, offset| Point { history: history.to_owned(), offset };
        assert_eq!((former.point(), former.confirmed()), (at("ab12", 70), Some(at("ab12", 55))));
        assert_eq!(now.has(&at("ab12", 60)), Some(at("cd34", 60)));
        assert_eq!(
            (now.has(&at("ab12", 61)), now.has(&former.point().unconfirmed())),
            (None, None),
            "it never came so far"
        );
        assert_eq!((now.has(&at("ef56", 1)), now.confirmed()), (None, None), "another history, and nobody follows");
        assert_eq!(former.has(&former.point().unconfirmed()), Some(at("ab12", u64::MAX)), "its own is its own");
        assert!(at("ab12", 55).is_in_history_of(&at("ab12", 55)) && !at("ab12", 56).is_in_history_of(&at("ab12", 55)));
        assert!(!at("cd34", 5).is_in_history_of(&at("ab12", 55)));
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(Fields::parse("used_memory:7").cache_node(&here(), 0).unwrap_err(), "maxmemory");
        assert_eq!(Fields::parse("used_memory:7").engine().unwrap_err(), "redis_version");
    }

    #[test]
    fn clients_are_read_without_what_they_ask_for() {
        let line = "id=7 addr=10.0.0.9:50422 laddr=10.0.0.1:6379 fd=9 name=worker age=62 idle=3 flags=N db=2 sub=0 \
                    argv-mem=10 cmd=set user=moodify library-name=redis-py resp=2";
        let read = client(&here(), line).unwrap();
        assert_eq!(
            (read.id, read.address.as_str(), read.name.as_str(), read.database),
            (7, "10.0.0.9:50422", "worker", 2)
        );
        assert_eq!((read.connected, read.idle), (Period::from_secs(62), Period::from_secs(3)));
        assert_eq!((read.command.as_str(), read.user.as_deref()), ("set", Some("moodify")));
        assert_eq!(client(&here(), "id=7 addr=10.0.0.9:50422 name= age=1 idle=1 db=0 cmd=NULL").unwrap().command, "");
        assert_eq!(client(&here(), "nonsense"), None);
    }
}
