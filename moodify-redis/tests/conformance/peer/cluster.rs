//! A cluster of three primaries with a replica each.

use redis::RedisResult;

use super::{Certificate, RedisServer, free_port, until};

const SHARDS: usize = 3;

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<RedisServer>,
}

impl Cluster {
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// One whose nodes speak TLS to one another, and to clients on a second port.
    pub(crate) async fn start_tls(certificate: &Certificate) -> Option<Self> {
        Self::start_with(Some(certificate)).await
    }

    async fn start_with(certificate: Option<&Certificate>) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..2 * SHARDS {
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
            let options = [&options[..], &["--repl-diskless-sync-delay", "0"]].concat();
            let node = match certificate {
                None => RedisServer::start(&options).await?,
                Some(certificate) => {
                    let options = [&options[..], &["--tls-cluster", "yes"]].concat();
                    RedisServer::start_beside_tls(&options, certificate).await?
                }
            };
            nodes.push((node, bus));
        }
        for (n, (node, _)) in nodes.iter().enumerate() {
            let () = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            if n > 0 {
                let (first, bus) = (&nodes[0].0, &nodes[0].1);
                let port = if certificate.is_some() { first.tls_port } else { first.port };
                let () = node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), bus]);
            }
        }
        let cluster = Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() };
        let all = format!("cluster_known_nodes:{}", 2 * SHARDS);
        until("all nodes have met", || cluster.all(&["CLUSTER", "INFO"], &all)).await;
        for (n, bounds) in [(0, 5460), (5461, 10_922), (10_923, 16_383)].into_iter().enumerate() {
            let (first, last) = (bounds.0.to_string(), bounds.1.to_string());
            let () = cluster.nodes[n].ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        }
        for n in 0..SHARDS {
            let primary: String = cluster.nodes[n].ask(&["CLUSTER", "MYID"]);
            let replica = &cluster.nodes[n + SHARDS];
            until("a replica knows its primary", || {
                let client = redis::Client::open(replica.url()).unwrap();
                let mut connection = client.get_connection().unwrap();
                let told: RedisResult<()> = redis::cmd("CLUSTER").arg("REPLICATE").arg(&primary).query(&mut connection);
                told.is_ok()
            })
            .await;
        }
        cluster.wait_until_whole().await;
        Some(cluster)
    }

    /// Waits until all nodes that run think that all is well, and every primary has a replica that follows it.
    async fn wait_until_whole(&self) {
        until("the cluster is whole", || self.all(&["CLUSTER", "INFO"], "cluster_state:ok")).await;
        let replicas =
            || self.nodes.iter().filter(|node| node.ask::<String>(&["INFO"]).contains("master_link_status:up"));
        until("replicas follow", || replicas().count() == SHARDS).await;
        let known = |node: &RedisServer| {
            let nodes: String = node.ask(&["CLUSTER", "NODES"]);
            nodes.matches(" slave ").count() + nodes.matches(" myself,slave ").count()
        };
        until("all know the replicas", || self.nodes.iter().all(|node| known(node) == SHARDS)).await;
    }

    fn all(&self, question: &[&str], part: &str) -> bool {
        self.nodes.iter().all(|node| node.ask::<String>(question).contains(part))
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::address).collect()
    }

    pub(crate) fn tls_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.tls_port)).collect()
    }

    /// Tells two primaries that a slot is on its way from the first to the second, as `redis-cli --cluster reshard` does.
    pub(crate) fn open(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let ids: [String; 2] = [from, to].map(|node| self.nodes[node].ask(&["CLUSTER", "MYID"]));
        let () = self.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
        let () = self.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    }

    /// Moves the keys of an open slot, and tells all primaries whose it is now.
    pub(crate) fn close(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let port = self.nodes[to].port.to_string();
        loop {
            let keys: Vec<String> = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            // Somebody else may have deleted them meanwhile: then it says NOKEY.
            let _: String = self.nodes[from].ask(&words);
        }
        let id: String = self.nodes[to].ask(&["CLUSTER", "MYID"]);
        for node in [to, from].into_iter().chain((0..SHARDS).filter(|node| ![to, from].contains(node))) {
            let () = self.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Writes keys, each to where it belongs.
    pub(crate) fn fill(&self, prefix: &str, keys: u32) {
        for (n, shard) in self.nodes[..SHARDS].iter().enumerate() {
            let client = redis::Client::open(shard.url()).unwrap();
            let mut connection = client.get_connection().unwrap();
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for key in 0..keys {
                pipe.cmd("SET").arg(format!("{prefix}{key}")).arg("value");
            }
            let answers: Vec<RedisResult<redis::Value>> = pipe.query(&mut connection).unwrap();
            // The others are told to go elsewhere.
            assert!(answers.iter().any(Result::is_ok), "shard {n} takes some");
        }
    }

    /// The nodes of those ports that are primaries now.
    pub(crate) fn primaries(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.runs() && node.ask::<String>(&["INFO"]).contains("role:master"))
    }

    pub(crate) fn count(&self) -> u64 {
        self.primaries().map(|node| node.count(0)).sum()
    }
}
