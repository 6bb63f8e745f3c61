//! The peers of the tests: `moto_server` and `versitygw` on free ports of 127.0.0.1, stopped by their process ids, and a
//! server that always gives the same answer.

#![allow(dead_code, reason = "each test uses what it needs")]

pub(crate) mod gateway;
pub(crate) mod s3;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The credentials that the servers of S3 know.
pub(crate) const KEY: &str = "AKIAMOODIFY";
pub(crate) const SECRET: &str = "a-secret-key";

const VARIABLE: &str = "MOODIFY_MOTO_SERVER";

/// The server's binary; without it tests are skipped, loudly, and fail where everything must be there.
fn binary() -> Option<PathBuf> {
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("moto_server")).find(|file| file.is_file())
    };
    let found = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no moto_server on PATH or in {VARIABLE}");
        // Not a print macro, whose output the test harness would swallow.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no moto_server on PATH or in {VARIABLE}");
    }
    found
}

#[derive(Debug)]
pub(crate) struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// A server that all tests share while any of them runs, since it takes seconds to start; each has its own
    /// cluster. `None` if there is no binary.
    pub(crate) async fn shared() -> Option<Arc<Self>> {
        static SHARED: tokio::sync::Mutex<Weak<Moto>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    async fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(binary()?)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut moto = Self { child, port };
        for _ in 0..1500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(moto);
            }
            if let Some(status) = moto.child.try_wait().unwrap() {
                panic!("moto_server ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("moto_server does not listen");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a cluster, not through the crate under test. moto refuses the engine docdb.
    pub(crate) fn create_cluster(&self, id: &str, encrypted: bool) {
        self.request(&format!(
            "Action=CreateDBCluster&Version=2014-10-31&DBClusterIdentifier={id}&Engine=aurora-mysql&\
             MasterUsername=root&MasterUserPassword=12345678&StorageEncrypted={encrypted}"
        ));
    }

    /// Sends a request of the query protocol; any other than success ends the test.
    pub(crate) fn request(&self, form: &str) -> String {
        let (status, body) = self.ask(form);
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Sends a request of the query protocol; returns the status and the body of the answer.
    pub(crate) fn ask(&self, form: &str) -> (u16, String) {
        self.ask_of("rds", form)
    }

    /// The same of another service than that of DocumentDB.
    pub(crate) fn ask_of(&self, service: &str, form: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // The scope of the credentials is how moto tells services apart.
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=AKIA/20260101/eu-central-1/{service}/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{form}",
            self.port,
            form.len(),
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server whose every answer is this one; without one it takes the request and never answers.
pub(crate) async fn always(answer: Option<(u16, &'static str)>) -> String {
    answering(move |_| answer.map(|(status, body)| (status, body.to_owned()))).await
}

/// A server that answers to the form of a request with a status and a body.
async fn answering(mut answer: impl FnMut(&str) -> Option<(u16, String)> + Send + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = String::new();
            while !request.contains("Action=") && stream.readable().await.is_ok() {
                let mut part = vec![0; 16 << 10];
                let Ok(1..) = stream.read(&mut part).await.inspect(|read| part.truncate(*read)) else { break };
                request.push_str(&String::from_utf8_lossy(&part));
            }
            let form = request.rsplit("\r\n").next().unwrap_or_default();
            match answer(form) {
                Some((status, body)) => {
                    let head =
                        format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                }
                None => silent.push(stream),
            }
        }
    });
    url
}

/// The body of an error of the query protocol.
pub(crate) fn error_of(code: &str, message: &str) -> &'static str {
    let body = format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>1</RequestId></ErrorResponse>"
    );
    Box::leak(body.into_boxed_str())
}

/// The elements of an answer and their texts.
fn elements(body: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for part in body.split('<').filter(|part| part.starts_with(|c: char| c.is_ascii_alphabetic())) {
        let (tag, text) = part.split_once('>').unwrap_or((part, ""));
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        all.entry(name).or_default().insert(text.trim());
    }
    all
}

/// Where an answer of the fake is unlike one of moto: elements that moto does not have, and other values of what ends with
/// `Status`. Moto may have more elements. What is `known` is left out.
pub(crate) fn differences(fake: &str, moto: &str, known: &[&str]) -> Vec<String> {
    let (fake, moto) = (elements(fake), elements(moto));
    let unlike = |(name, is): (&&str, &BTreeSet<&str>)| match moto.get(name) {
        None => Some(format!("{name} is in none of moto's")),
        Some(other) if name.ends_with("Status") && other != is => {
            Some(format!("{name} is {is:?}, and moto's {other:?}"))
        }
        Some(_) => None,
    };
    fake.iter().filter(|(name, _)| !known.contains(name)).filter_map(unlike).collect()
}
