//! The peers of the tests: fake-gcs-server on a free port of 127.0.0.1, stopped by its process id; fakes of what no
//! emulator has; and a server that always gives the same answer.

#![allow(dead_code, reason = "each test uses what it needs")]

pub(crate) mod firestore;
pub(crate) mod storage;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

const VARIABLE: &str = "MOODIFY_FAKE_GCS_SERVER";
const NAMES: [&str; 2] = ["fake-gcs-server", "fake-gcs-server-linux-amd64"];

/// The server's binary; without it tests are skipped, loudly, and fail where everything must be there.
fn binary() -> Option<PathBuf> {
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        let mut files = std::env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name)));
        files.find(|file| file.is_file())
    };
    let found = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        skip(&format!("no fake-gcs-server on PATH or in {VARIABLE}"));
    }
    found
}

fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    // Not a print macro, whose output the test harness would swallow.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

#[derive(Debug)]
pub(crate) struct FakeGcs {
    child: Child,
    port: u16,
}

impl FakeGcs {
    /// Starts a server; `None` if there is no binary.
    pub(crate) async fn start() -> Option<Self> {
        let binary = binary()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(binary)
            .args(["-backend", "memory", "-scheme", "http", "-log-level", "error", "-host", "127.0.0.1"])
            .args(["-port", &port.to_string(), "-public-host", &address])
            .args(["-external-url", &format!("http://{address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, port };
        for _ in 0..500 {
            // An answer, not only a connection: one may be taken by a listener that is just being closed.
            if server.ask("GET", "/storage/v1/b?project=p", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                server.request("POST", "/storage/v1/b", r#"{"name": "artifacts"}"#);
                return Some(server);
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("fake-gcs-server ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("fake-gcs-server does not listen");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Writes an object, not through the crate under test.
    pub(crate) fn write(&self, object: &str, content: &str) {
        self.request("POST", &format!("/upload/storage/v1/b/artifacts/o?uploadType=media&name={object}"), content);
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let answer = self.ask(method, path, body).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for FakeGcs {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A server whose every answer is this HTTP status with these headers and content; without one it takes the request
/// and never answers.
pub(crate) async fn always(answer: Option<(u16, &'static str)>) -> String {
    answering(move |_| answer).await
}

/// A server that answers to the method of a request.
pub(crate) async fn answering(mut answer: impl FnMut(&str) -> Option<(u16, &'static str)> + Send + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            match answer(request.split(' ').next().unwrap_or_default()) {
                Some((status, rest)) => {
                    let answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{rest}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                None => silent.push(stream),
            }
        }
    });
    url
}
