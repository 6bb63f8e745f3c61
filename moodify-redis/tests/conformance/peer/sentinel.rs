//! A primary and a replica that three sentinels watch.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{RedisServer, binary, free_port, until};

const SENTINELS: usize = 3;

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) nodes: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watched {
    /// With extra options of the two servers.
    pub(crate) async fn start(options: &[&str]) -> Option<Self> {
        let primary = RedisServer::start(options).await?;
        let follow = ["--replicaof", &format!("127.0.0.1 {}", primary.port), "--repl-diskless-sync-delay", "0"];
        let replica = RedisServer::start(&[options, &follow].concat()).await?;
        // Sentinels look for replicas at once, and then only every 10 s.
        until("the replica follows", || replica.ask::<String>(&["INFO"]).contains("master_link_status:up")).await;
        let sentinels = (0..SENTINELS).map(|_| sentinel(primary.port)).collect();
        let watched = Self { nodes: vec![primary, replica], sentinels };
        watched.wait_until_whole().await;
        Some(watched)
    }

    /// Waits until the sentinels know all of one another and of the servers.
    async fn wait_until_whole(&self) {
        let others = (SENTINELS - 1).to_string();
        until("the sentinels have met", || {
            self.sentinels.iter().all(|sentinel| {
                let Some(known) = known(sentinel.port) else { return false };
                let is = |field: &str, value: &str| known.get(field).map(String::as_str) == Some(value);
                is("num-other-sentinels", &others) && is("num-slaves", "1") && is("flags", "master")
            })
        })
        .await;
    }

    pub(crate) fn sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect()
    }

    pub(crate) fn primary(&self) -> &RedisServer {
        let is_primary = |node: &&RedisServer| node.runs() && node.ask::<String>(&["INFO"]).contains("role:master");
        self.nodes.iter().find(is_primary).unwrap()
    }
}

fn sentinel(primary: u16) -> Sentinel {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = dir.path().join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor sessions 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds sessions 1000\nsentinel failover-timeout sessions 5000\n",
        dir.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let program = binary().unwrap();
    let child = Command::new(program).arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
    Sentinel { child, port, _dir: dir }
}

fn known(port: u16) -> Option<HashMap<String, String>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    redis::cmd("SENTINEL").arg("MASTER").arg("sessions").query(&mut client.get_connection().ok()?).ok()
}
