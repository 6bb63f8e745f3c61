use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Period;

/// What a node of a cache is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheRole {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
}

/// How one node of a cache is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheServer {
    /// Where it is: `host:port`.
    pub address: String,
    /// What it is to the others.
    pub role: CacheRole,
    /// Memory in use, in bytes.
    pub used_memory: u64,
    /// The limit in bytes, if there is one.
    pub max_memory: Option<u64>,
    /// Connected clients.
    pub clients: u64,
    /// Look-ups since its start that found their key.
    pub hits: u64,
    /// Look-ups since its start that did not.
    pub misses: u64,
    /// Keys, of the database that is administered.
    pub keys: u64,
    /// Replicas that follow it now.
    pub replicas: u32,
}

/// How a cache is doing: its nodes, and sums over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Engine and version: `redis 7.0.15`.
    pub engine: String,
    /// All nodes that are known, primaries first.
    pub nodes: Vec<CacheServer>,
}

#[expect(clippy::cast_precision_loss, reason = "a fraction needs no more than 52 bits")]
fn fraction(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl CacheInfo {
    /// The nodes that take writes.
    pub fn primaries(&self) -> impl Iterator<Item = &CacheServer> {
        self.nodes.iter().filter(|node| node.role == CacheRole::Primary)
    }

    fn sum(&self, of: impl Fn(&CacheServer) -> u64) -> u64 {
        self.primaries().map(of).sum()
    }

    /// Keys of the whole cache; those of replicas are the same ones.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.sum(|node| node.keys)
    }

    /// Memory in use by primaries, in bytes.
    #[must_use]
    pub fn used_memory(&self) -> u64 {
        self.sum(|node| node.used_memory)
    }

    /// The limit of all primaries together in bytes; `None` if one has none.
    #[must_use]
    pub fn max_memory(&self) -> Option<u64> {
        self.primaries().map(|node| node.max_memory).sum()
    }

    /// Memory of the node that is fullest, as a fraction of its limit; `None` if no node has one.
    #[must_use]
    pub fn memory_share(&self) -> Option<f64> {
        let shares = self.nodes.iter().filter_map(|node| fraction(node.used_memory, node.max_memory?));
        shares.reduce(f64::max)
    }

    /// Connected clients, of all nodes.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.nodes.iter().map(|node| node.clients).sum()
    }

    /// Hits of all look-ups since the nodes began, as a fraction; `None` before the first look-up.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let (hits, misses) = self.look_ups();
        fraction(hits, hits + misses)
    }

    /// Hits of the look-ups since `earlier`, as a fraction; `None` if there were none, or if a node began anew.
    #[must_use]
    pub fn hit_rate_since(&self, earlier: &Self) -> Option<f64> {
        let ((hits, misses), (hits_then, misses_then)) = (self.look_ups(), earlier.look_ups());
        let (hits, misses) = (hits.checked_sub(hits_then)?, misses.checked_sub(misses_then)?);
        fraction(hits, hits + misses)
    }

    fn look_ups(&self) -> (u64, u64) {
        let of = |count: fn(&CacheServer) -> u64| self.nodes.iter().map(count).sum();
        (of(|node| node.hits), of(|node| node.misses))
    }
}

/// Somebody who is connected to a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheClient {
    /// The node: `host:port`.
    pub node: String,
    /// The node's number for the connection.
    pub id: u64,
    /// Where it comes from: `host:port`.
    pub address: String,
    /// The name it gave itself; empty if it gave none.
    pub name: String,
    /// The user it logged in as, if the server says.
    pub user: Option<String>,
    /// The database it uses.
    pub database: u32,
    /// How long it has been connected, to the second.
    pub connected: Period,
    /// How long it has said nothing, to the second.
    pub idle: Period,
    /// Its last command, without arguments; empty before the first one.
    pub command: String,
}

/// A command that took long. Its arguments are not told: they may be secrets, and are customers' data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowCommand {
    /// The node: `host:port`.
    pub node: String,
    /// The node's number for it.
    pub id: u64,
    /// When it ran, to the second.
    pub at: Timestamp,
    /// How long it took, without waiting and the network.
    pub took: Period,
    /// Its name.
    pub command: String,
    /// Who sent it: `host:port`.
    pub client: String,
}

/// How long a node takes to answer, the network included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLatency {
    /// The node: `host:port`.
    pub node: String,
    /// How often it was asked.
    pub pings: u32,
    /// The fastest answer.
    pub min: Period,
    /// The answer in the middle.
    pub median: Period,
    /// The slowest answer.
    pub max: Period,
}

impl CacheLatency {
    /// Of these round trips; `None` if there are none.
    #[must_use]
    pub fn of(node: &str, mut round_trips: Vec<std::time::Duration>) -> Option<Self> {
        round_trips.sort_unstable();
        let (min, max) = (*round_trips.first()?, *round_trips.last()?);
        Some(Self {
            node: node.to_owned(),
            pings: u32::try_from(round_trips.len()).unwrap_or(u32::MAX),
            min: min.into(),
            median: round_trips[round_trips.len() / 2].into(),
            max: max.into(),
        })
    }
}

/// A snapshot that a node has made of its keys on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSnapshot {
    /// The node: `host:port`.
    pub node: String,
    /// When it was complete, by the node's clock, to the second.
    pub completed: Timestamp,
    /// How long it took, to the second.
    pub took: Period,
    /// Keys of all databases when it was complete.
    pub keys: u64,
    /// The file on the node's disk; `None` if the node does not tell.
    pub file: Option<String>,
    /// What is known of that file.
    #[serde(default)]
    pub dump: CacheDump,
}

/// What is known of the file of a snapshot, by more than the word of the node that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CacheDump {
    /// It was read from begin to end, and its checksum is right.
    Verified {
        /// Its size.
        bytes: u64,
    },
    /// It was read, and has a begin and an end; whether it is right between them nobody knows, because the node writes no
    /// checksums.
    WithoutChecksum {
        /// Its size.
        bytes: u64,
    },
    /// It was not looked at.
    Unseen {
        /// Why not.
        why: String,
    },
}

impl Default for CacheDump {
    fn default() -> Self {
        Self::Unseen { why: "nobody said anything of it".to_owned() }
    }
}

impl fmt::Display for CacheDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified { bytes } => write!(f, "its file of {bytes} bytes was read, and its checksum is right"),
            Self::WithoutChecksum { bytes } => {
                write!(f, "its file of {bytes} bytes has a begin and an end, and no checksum to tell more by")
            }
            Self::Unseen { why } => write!(f, "its file was NOT looked at: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: CacheRole, keys: u64, (hits, misses): (u64, u64), max_memory: Option<u64>) -> CacheServer {
        let address = "127.0.0.1:6379".to_owned();
        CacheServer { address, role, used_memory: 100, max_memory, clients: 2, hits, misses, keys, replicas: 0 }
    }

    fn info(nodes: Vec<CacheServer>) -> CacheInfo {
        CacheInfo { engine: "redis 7.0.15".to_owned(), nodes }
    }

    #[test]
    fn replicas_add_look_ups_and_clients_but_no_keys() {
        let (primary, replica) = (CacheRole::Primary, CacheRole::Replica);
        let then = info(vec![node(primary, 7, (10, 0), Some(400)), node(replica, 7, (0, 0), Some(200))]);
        assert_eq!((then.keys(), then.clients(), then.used_memory(), then.max_memory()), (7, 4, 100, Some(400)));
        assert_eq!((then.memory_share(), then.hit_rate()), (Some(0.5), Some(1.0)));
        let now = info(vec![node(primary, 7, (11, 0), None), node(replica, 7, (0, 3), None)]);
        assert_eq!(now.hit_rate_since(&then), Some(0.25));
        assert_eq!((now.max_memory(), now.memory_share()), (None, None));
        assert_eq!((now.hit_rate_since(&now), then.hit_rate_since(&now)), (None, None), "no look-up, or began anew");
    }

    #[test]
    fn latency_is_of_what_was_measured() {
        let ms = std::time::Duration::from_millis;
        let of = CacheLatency::of("n", vec![ms(9), ms(1), ms(2)]).unwrap();
        assert_eq!((of.pings, of.min.get(), of.median.get(), of.max.get()), (3, ms(1), ms(2), ms(9)));
        assert_eq!(CacheLatency::of("n", Vec::new()), None);
    }
}
