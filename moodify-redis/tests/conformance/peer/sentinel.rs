//! A primary and a replica that three sentinels watch.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Certificate, RedisServer, binary, free_port, until};

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
    tls_port: u16,
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
        Self::start_with(options, None).await
    }

    /// Everybody speaks TLS to everybody, and to clients on a second port.
    pub(crate) async fn start_tls(certificate: &Certificate) -> Option<Self> {
        Self::start_with(&[], Some(certificate)).await
    }

    async fn start_with(options: &[&str], certificate: Option<&Certificate>) -> Option<Self> {
        let start = async |options: &[&str]| match certificate {
            None => RedisServer::start(options).await,
            Some(certificate) => RedisServer::start_beside_tls(options, certificate).await,
        };
        let primary = start(options).await?;
        let port = if certificate.is_some() { primary.tls_port } else { primary.port };
        let follow = ["--replicaof", &format!("127.0.0.1 {port}"), "--repl-diskless-sync-delay", "0"];
        let replica = start(&[options, &follow].concat()).await?;
        // Sentinels look for replicas at once, and then only every 10 s.
        until("the replica follows", || replica.ask::<String>(&["INFO"]).contains("master_link_status:up")).await;
        let sentinels = (0..SENTINELS).map(|_| sentinel(port, certificate)).collect();
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

    pub(crate) fn tell_sentinels(&self, words: &[&str]) {
        for sentinel in &self.sentinels {
            let client = redis::Client::open(format!("redis://127.0.0.1:{}", sentinel.port)).unwrap();
            let mut command = redis::cmd(words[0]);
            let () = command.arg(&words[1..]).query(&mut client.get_connection().unwrap()).unwrap();
        }
    }

    pub(crate) fn tls_sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.tls_port)).collect()
    }

    pub(crate) fn primary(&self) -> &RedisServer {
        let is_primary = |node: &&RedisServer| node.runs() && node.ask::<String>(&["INFO"]).contains("role:master");
        self.nodes.iter().find(is_primary).unwrap()
    }
}

fn sentinel(primary: u16, certificate: Option<&Certificate>) -> Sentinel {
    let (dir, port, tls_port) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let file = dir.path().join("sentinel.conf");
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor sessions 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds sessions 1000\nsentinel failover-timeout sessions 5000\n",
        dir.path().display()
    );
    if let Some(certificate) = certificate {
        text.push_str(&format!("tls-port {tls_port}\n"));
        certificate.options().iter().for_each(|(name, value)| text.push_str(&format!("{name} {value}\n")));
    }
    std::fs::write(&file, text).unwrap();
    let program = binary().unwrap();
    let child = Command::new(program).arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
    Sentinel { child, port, tls_port, _dir: dir }
}

fn known(port: u16) -> Option<HashMap<String, String>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    redis::cmd("SENTINEL").arg("MASTER").arg("sessions").query(&mut client.get_connection().ok()?).ok()
}
