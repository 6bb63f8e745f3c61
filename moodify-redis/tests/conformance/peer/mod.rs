//! Real servers on free ports of 127.0.0.1, stopped by their process ids.

mod cluster;
mod sentinel;

use std::ffi::OsString;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) use cluster::Cluster;
use redis::{Commands, FromRedisValue};
pub(crate) use sentinel::Watched;
use tempfile::TempDir;

const VARIABLE: &str = "MOODIFY_REDIS_SERVER";

/// The server's binary; without it tests are skipped, loudly, and fail where everything must be there.
fn binary() -> Option<PathBuf> {
    program("redis-server", VARIABLE)
}

fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(name)).find(|f| f.is_file());
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no {name} on PATH or in {variable}");
        // Not a print macro, whose output the test harness would swallow.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no {name} on PATH or in {variable}");
    }
    found
}

#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    dir: TempDir,
    options: Vec<OsString>,
    /// 0 without TLS.
    pub(crate) tls_port: u16,
}

/// A key, and a certificate of `localhost` and 127.0.0.1 that is its own authority.
#[derive(Debug)]
pub(crate) struct Certificate(TempDir);

impl Certificate {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self(dir)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// What a server is told: names and values.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        let file = |name: &str| self.0.path().join(name).display().to_string();
        let mut options = vec![("tls-cert-file", file("ca.pem")), ("tls-key-file", file("key.pem"))];
        options.extend([("tls-ca-cert-file", file("ca.pem")), ("tls-auth-clients", "no".to_owned())]);
        options.extend([("tls-replication", "yes".to_owned())]);
        options
    }
}

impl RedisServer {
    /// Starts a server that speaks TLS on a second port, and to other servers.
    pub(crate) async fn start_beside_tls(options: &[&str], certificate: &Certificate) -> Option<Self> {
        let port = free_port();
        let tls = certificate.options().into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        let mut all: Vec<String> = ["--tls-port".to_owned(), port.to_string()].into_iter().chain(tls).collect();
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut server = Self::start(&all).await?;
        server.tls_port = port;
        Some(server)
    }

    /// Starts a server with extra options; `None` if there is no binary.
    pub(crate) async fn start(options: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut all = os(&["--port", &port.to_string()]);
        all.extend(os(options));
        Self::start_in(dir, port, all).await
    }

    /// Starts a Valkey with extra options.
    pub(crate) async fn start_valkey(options: &[&str]) -> Option<Self> {
        let binary = program("valkey-server", "MOODIFY_VALKEY_SERVER")?;
        let port = free_port();
        let mut all = os(&["--port", &port.to_string()]);
        all.extend(os(options));
        Some(Self::start_as(&binary, tempfile::tempdir().unwrap(), port, all).await)
    }

    /// Starts a server that speaks TLS only, as `localhost`.
    pub(crate) async fn start_tls() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut options = os(&["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
        for (option, file) in
            [("--tls-cert-file", "ca.pem"), ("--tls-ca-cert-file", "ca.pem"), ("--tls-key-file", "key.pem")]
        {
            options.extend([option.into(), dir.path().join(file).into()]);
        }
        Self::start_in(dir, port, options).await
    }

    /// The authority that a TLS server's certificate is of.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    async fn start_in(dir: TempDir, port: u16, options: Vec<OsString>) -> Option<Self> {
        Some(Self::start_as(&binary()?, dir, port, options).await)
    }

    async fn start_as(binary: &PathBuf, dir: TempDir, port: u16, options: Vec<OsString>) -> Self {
        let child = spawn(binary, &dir, &options);
        let mut server = Self { child, port, dir, options, tls_port: 0 };
        server.wait_until_it_listens().await;
        server
    }

    pub(crate) fn runs(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// Where it keeps its files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Asks it, not through the crate under test.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut client.get_connection().unwrap()).unwrap()
    }

    /// Starts it again on the same port, after `stop`.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&binary().unwrap(), &self.dir, &self.options);
        self.wait_until_it_listens().await;
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// STOP makes it hang without closing anything; CONT lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Writes keys to a database, not through the crate under test.
    pub(crate) fn fill(&self, database: u8, keys: u32) {
        let client = redis::Client::open(format!("{}/{database}", self.url())).unwrap();
        let mut connection = client.get_connection().unwrap();
        for key in 0..keys {
            connection.set::<_, _, ()>(format!("key-{key}"), "value").unwrap();
        }
    }

    pub(crate) fn count(&self, database: u8) -> u64 {
        let client = redis::Client::open(format!("{}/{database}", self.url())).unwrap();
        redis::cmd("DBSIZE").query(&mut client.get_connection().unwrap()).unwrap()
    }

    async fn wait_until_it_listens(&mut self) {
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("redis-server ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not listen");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until something is true, for at most half a minute.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within 30 s");
}

/// A port that nothing listens on, and that no other test of this process was given: two servers that want the same one
/// are told apart by none of their clients.
pub(crate) fn free_port() -> u16 {
    // Below the ports that outgoing connections take: one of those may connect to itself, and look like a server.
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(37);
    let port = |n: u32| u16::try_from(FIRST + begin.wrapping_add(n) % COUNT).unwrap();
    let mut ports = std::iter::repeat_with(|| port(NEXT.fetch_add(1, Ordering::Relaxed)));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn os(options: &[&str]) -> Vec<OsString> {
    options.iter().map(Into::into).collect()
}

fn spawn(binary: &PathBuf, dir: &TempDir, options: &[OsString]) -> Child {
    Command::new(binary)
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
