//! Versity's S3 gateway over a directory: a real S3 server, which checks signatures and checksums.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{KEY, SECRET};

const VARIABLE: &str = "MOODIFY_VERSITYGW";

/// The server's binary; without it tests are skipped, loudly, and fail where everything must be there.
fn binary() -> Option<PathBuf> {
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("versitygw")).find(|file| file.is_file())
    };
    let found = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no versitygw on PATH or in {VARIABLE}");
        // Not a print macro, whose output the test harness would swallow.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no versitygw on PATH or in {VARIABLE}");
    }
    found
}

#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Gateway {
    /// Starts a server with the bucket `artifacts`; `None` if there is no binary.
    pub(crate) async fn start() -> Option<Self> {
        let binary = binary()?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("artifacts")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(binary)
            .args(["--access", KEY, "--secret", SECRET, "--region", "eu-central-1", "--quiet"])
            .args(["--port", &format!("127.0.0.1:{port}"), "posix"])
            .arg(dir.path())
            // It keeps names of users and the like where it is started.
            .current_dir(dir.path().parent().unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut gateway = Self { child, port, dir };
        for _ in 0..1500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(gateway);
            }
            if let Some(status) = gateway.child.try_wait().unwrap() {
                panic!("versitygw ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("versitygw does not listen");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the objects of the bucket are, as files.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.dir.path().join("artifacts")
    }

    /// How many bytes there are in uploads that are not completed.
    pub(crate) fn unfinished(&self) -> u64 {
        fn bytes(dir: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            let entries = entries.flatten().map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => bytes(&entry.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            });
            entries.sum()
        }
        bytes(&self.bucket().join(".sgwtmp").join("multipart"))
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}
