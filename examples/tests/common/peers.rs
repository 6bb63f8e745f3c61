//! Real servers on free ports of 127.0.0.1, stopped by their process ids.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server's program; without it tests are skipped, loudly, and fail where everything must be there.
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

/// Below the ports that outgoing connections take.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(37);
    let port = |n: u32| u16::try_from(12_000 + begin.wrapping_add(n) % 18_000).unwrap();
    let mut ports = std::iter::repeat_with(|| port(NEXT.fetch_add(1, Ordering::Relaxed)));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[derive(Debug)]
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(server.child.try_wait().unwrap(), None, "{command:?} ended");
            assert!(begun.elapsed() < Duration::from_secs(60), "{command:?} does not listen");
            #[expect(clippy::disallowed_methods, reason = "another process needs real time")]
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn send(&self, request: &str, mut over: impl FnMut(&str) -> bool) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut part) = (String::new(), [0; 4096]);
        while !over(&answer) {
            let read = stream.read(&mut part).unwrap();
            answer.push_str(&String::from_utf8_lossy(&part[..read]));
            if read == 0 {
                break;
            }
        }
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis whose only user is `moodify`.
#[derive(Debug)]
pub(crate) struct Redis {
    server: Server,
    password: &'static str,
    dir: TempDir,
}

impl Redis {
    pub(crate) fn start(password: &'static str) -> Option<Self> {
        Self::start_with(password, "")
    }

    /// The same, whose user has more rights.
    pub(crate) fn start_with(password: &'static str, rights: &str) -> Option<Self> {
        let program = program("redis-server", "MOODIFY_REDIS_SERVER")?;
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = dir.path().join("redis.conf");
        let may = "+ping +info +dbsize +flushdb +scan +unlink +set +get +bgsave +time +acl|whoami +acl|dryrun";
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsave \"\"\nmaxmemory 64mb\ndir {}\nuser default off\n\
             user moodify on >{password} ~* -@all {may} {rights}\n",
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg(file);
        Some(Self { server: Server::start(&mut command, port), password, dir })
    }

    /// Where it writes its snapshots.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.server.port)
    }

    /// The answer to a command in Redis' own words, such as `:3` or `+OK`.
    pub(crate) fn ask(&self, command: &str) -> String {
        let request = format!("AUTH moodify {}\r\n{command}\r\n", self.password);
        let answer = self.server.send(&request, |answer| answer.matches("\r\n").count() >= 2);
        answer.lines().nth(1).unwrap().to_owned()
    }
}

/// An emulated AWS.
#[derive(Debug)]
pub(crate) struct Moto(Server);

impl Moto {
    pub(crate) fn start() -> Option<Self> {
        let program = program("moto_server", "MOODIFY_MOTO_SERVER")?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        Some(Self(Server::start(&mut command, port)))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port)
    }

    /// Makes a cluster; it refuses the engine docdb.
    pub(crate) fn create_cluster(&self, id: &str) {
        let form = format!(
            "Action=CreateDBCluster&Version=2014-10-31&DBClusterIdentifier={id}&Engine=aurora-mysql&\
             MasterUsername=root&MasterUserPassword=12345678&StorageEncrypted=true"
        );
        // The scope of the credentials is how it tells services apart.
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=AKIA/20260101/eu-central-1/rds/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{form}",
            form.len()
        );
        let answer = self.0.send(&request, |_| false);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
