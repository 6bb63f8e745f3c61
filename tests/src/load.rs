//! Constant load through a data plane. Each answer is counted by the version that gave it, each failure with its
//! reason.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::{grpc, wall_clock};

/// An answer that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// What requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A GET by HTTP/1.1; 200 is good.
    Http,
    /// A unary call by gRPC, over HTTP/2; status 0 is good.
    Grpc,
}

/// Where requests go, how many, and by what connections.
#[derive(Debug, Clone)]
pub struct Aim {
    /// The address of the gateway, or of a Service.
    pub address: SocketAddr,
    /// The host that is asked for.
    pub host: String,
    /// What it is asked by.
    pub protocol: Protocol,
    /// Requests a second, if they are answered in time.
    pub rate: u32,
    /// Clients that keep their connection for as long as the server does.
    pub kept: u32,
    /// Clients that make a new connection for each request.
    pub fresh: u32,
}

impl Aim {
    /// Through a gateway, which divides what comes by old connections too.
    #[must_use]
    pub fn through(address: SocketAddr, host: &str, protocol: Protocol, rate: u32) -> Self {
        Self { address, host: host.to_owned(), protocol, rate, kept: 24, fresh: 8 }
    }
}

/// Load that goes on until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    log: Arc<Mutex<Report>>,
    stop: CancellationToken,
    clients: Vec<AbortOnDropHandle<()>>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Report {
    versions: Vec<String>,
    answers: Vec<Answer>,
    /// The requests that were not answered well.
    pub failures: Vec<Failure>,
    /// Requests that were sent again, because the server had closed a connection that it had kept until then, without
    /// a word: what any HTTP client does.
    pub repeated: usize,
}

/// A good answer.
#[derive(Debug, Clone, Copy)]
struct Answer {
    sent: Timestamp,
    done: Timestamp,
    /// The place of the version among the versions.
    version: usize,
}

/// A request that was not answered well.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it was sent.
    pub sent: Timestamp,
    /// When it had failed.
    pub done: Timestamp,
    /// Whether its connection was new.
    pub fresh: bool,
    /// Why.
    pub reason: String,
}

/// How many of the answers of some time came from a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Those from the version.
    pub of: usize,
    /// All of them.
    pub all: usize,
}

impl Load {
    /// Begins to send.
    pub fn start(aim: &Aim) -> Self {
        let (log, stop) = (Arc::new(Mutex::new(Report::default())), CancellationToken::new());
        let clients = aim.kept + aim.fresh;
        let pause = Duration::from_secs(1) * clients / aim.rate;
        let client = |number: u32| {
            let client = Client {
                address: aim.address,
                host: aim.host.clone(),
                protocol: aim.protocol,
                fresh: number >= aim.kept,
                log: Arc::clone(&log),
            };
            // Evenly, not all of them in the same moment.
            let first = Instant::now() + pause * number / clients;
            AbortOnDropHandle::new(tokio::spawn(client.run(first, pause, stop.clone())))
        };
        Self { clients: (0..clients).map(client).collect(), log, stop }
    }

    /// What became of the requests so far.
    pub fn so_far(&self) -> Report {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the version has given this many answers, and says when it gave the last of them.
    pub async fn until_answered(&self, version: &str, times: usize) -> Timestamp {
        loop {
            {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                let number = log.versions.iter().position(|v| v == version);
                let mut answers = log.answers.iter().filter(|answer| Some(answer.version) == number);
                if let Some(answer) = answers.nth(times.saturating_sub(1)) {
                    return answer.done;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends no more, and waits for the answers that are under way.
    ///
    /// # Panics
    ///
    /// When a client has panicked.
    pub async fn stop(self) -> Report {
        self.stop.cancel();
        for client in self.clients {
            client.await.expect("no client panics");
        }
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Report {
    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.answers.len() + self.failures.len()
    }

    /// How many of the requests that were sent between two moments a version answered, whenever it did.
    pub fn share(&self, version: &str, from: Timestamp, to: Timestamp) -> Share {
        let number = self.versions.iter().position(|v| v == version);
        let mut share = Share { of: 0, all: 0 };
        for answer in self.answers.iter().filter(|answer| (from..to).contains(&answer.sent)) {
            share.all += 1;
            share.of += usize::from(Some(answer.version) == number);
        }
        share
    }

    /// When the last request was sent that a version answered.
    pub fn last(&self, version: &str) -> Option<Timestamp> {
        let number = self.versions.iter().position(|v| v == version)?;
        self.answers.iter().filter(|answer| answer.version == number).map(|answer| answer.sent).max()
    }

    /// Fails if a request failed.
    ///
    /// # Panics
    ///
    /// Then; with the number of failures, and the first ones.
    pub fn assert_none_failed(&self) {
        let first: Vec<String> = self.failures.iter().take(20).map(ToString::to_string).collect();
        assert!(
            first.is_empty(),
            "{} of {} requests failed:\n{}",
            self.failures.len(),
            self.requests(),
            first.join("\n")
        );
    }

    fn add(&mut self, sent: Timestamp, fresh: bool, outcome: Result<String, String>) {
        let done = wall_clock();
        match outcome {
            Ok(version) => {
                let known = self.versions.iter().position(|v| *v == version);
                let version = known.unwrap_or_else(|| {
                    self.versions.push(version);
                    self.versions.len() - 1
                });
                self.answers.push(Answer { sent, done, version });
            }
            Err(reason) => self.failures.push(Failure { sent, done, fresh, reason }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for answer in &self.answers {
            *counts.entry(&self.versions[answer.version]).or_default() += 1;
        }
        write!(f, "{} requests, {} failed, {} repeated", self.requests(), self.failures.len(), self.repeated)?;
        counts.iter().try_for_each(|(version, count)| write!(f, ", {version} {count}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = if self.fresh { "a new connection" } else { "a kept connection" };
        write!(f, "sent {} by {connection}, failed {}: {}", self.sent, self.done, self.reason)
    }
}

impl Share {
    /// As a number from 0 to 1; 0 of nothing.
    #[expect(clippy::cast_precision_loss, reason = "far fewer requests than a float can count")]
    pub fn fraction(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.of as f64 / self.all as f64 }
    }
}

/// One of those who ask.
struct Client {
    address: SocketAddr,
    host: String,
    protocol: Protocol,
    fresh: bool,
    log: Arc<Mutex<Report>>,
}

impl Client {
    async fn run(self, first: Instant, pause: Duration, stop: CancellationToken) {
        let mut kept = None;
        let mut ticks = interval_at(first, pause);
        // Who waited for a slow answer does not hurry afterwards.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let sent = wall_clock();
            let asked = timeout(PATIENCE, self.ask(&mut kept)).await;
            let outcome = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let outcome = outcome.unwrap_or_else(|error| Err(reason(&error)));
            self.log.lock().unwrap_or_else(PoisonError::into_inner).add(sent, self.fresh, outcome);
        }
    }

    /// The version that answers, or why what is answered is not good.
    async fn ask(&self, kept: &mut Option<Connection>) -> io::Result<Result<String, String>> {
        if let Some(mut connection) = kept.take() {
            match connection.exchange(&self.host).await {
                // Closed while nothing was under way; the request was not taken.
                Err(Broken { silent: true, .. }) => {
                    self.log.lock().unwrap_or_else(PoisonError::into_inner).repeated += 1;
                }
                other => return self.answered(connection, other, kept),
            }
        }
        let mut connection = Connection::open(self.address, self.protocol).await?;
        let answer = connection.exchange(&self.host).await;
        self.answered(connection, answer, kept)
    }

    fn answered(
        &self,
        connection: Connection,
        answer: Result<Message, Broken>,
        kept: &mut Option<Connection>,
    ) -> io::Result<Result<String, String>> {
        let message = answer.map_err(|broken| broken.error)?;
        if !message.closes && !self.fresh {
            *kept = Some(connection);
        }
        Ok(message.outcome)
    }
}

/// An error with its causes.
fn reason(error: &io::Error) -> String {
    let causes = std::iter::successors(error.get_ref().and_then(|inner| inner.source()), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What requests go over, one after the other.
enum Connection {
    Http(TcpStream),
    Grpc(grpc::Connection),
}

impl Connection {
    async fn open(address: SocketAddr, protocol: Protocol) -> io::Result<Self> {
        match protocol {
            Protocol::Http => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Http(stream))
            }
            Protocol::Grpc => grpc::Connection::open(address).await.map(Self::Grpc),
        }
    }

    async fn exchange(&mut self, host: &str) -> Result<Message, Broken> {
        match self {
            Self::Http(stream) => exchange(stream, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await,
            Self::Grpc(connection) => match connection.call(host).await {
                Ok(outcome) => Ok(Message { outcome, closes: connection.is_closed() }),
                Err(grpc::Broken { error, unsent }) => Err(Broken { error, silent: unsent }),
            },
        }
    }
}

struct Message {
    /// The version that answers, or what is answered instead of 200.
    outcome: Result<String, String>,
    /// The server closes the connection.
    closes: bool,
}

struct Broken {
    error: io::Error,
    /// Nothing was answered at all.
    silent: bool,
}

/// Sends a request and reads the answer, whose length the server has to tell.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<Message, Broken> {
    let mut answer = Vec::with_capacity(512);
    let result = async {
        stream.write_all(request.as_bytes()).await?;
        let head = loop {
            if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {text}"));
        let status: u16 =
            text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| bad("no status"))?;
        let header = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
        };
        let length: usize =
            header("content-length").and_then(|length| length.parse().ok()).ok_or_else(|| bad("no length"))?;
        while answer.len() < head + length {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let body = String::from_utf8_lossy(&answer[head..head + length]).trim_end().to_owned();
        let outcome = if status == 200 { Ok(body) } else { Err(format!("{status} {body}")) };
        Ok(Message { outcome, closes: header("connection") == Some("close") })
    };
    let result = result.await;
    result.map_err(|error| Broken { error, silent: answer.is_empty() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each connection's requests with these, one after the other, and closes it then without a word; an empty
    /// one is no answer at all.
    async fn serve(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    for answer in answers {
                        match stream.read(&mut request).await {
                            Ok(1..) => stream.write_all(answer.as_bytes()).await.unwrap(),
                            _ => return,
                        }
                    }
                });
            }
        });
        address
    }

    const V1: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nv1\n";
    const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nnone";

    async fn tried(answers: &'static [&'static str], kept: u32, fresh: u32) -> Report {
        let address = serve(answers).await;
        let load = Load::start(&Aim { address, host: "test".into(), protocol: Protocol::Http, rate: 200, kept, fresh });
        while load.so_far().requests() < 12 {
            sleep(Duration::from_millis(10)).await;
        }
        load.stop().await
    }

    #[tokio::test]
    async fn a_kept_connection_that_was_closed_is_no_failure() {
        let report = tried(&[V1, V1], 1, 0).await;
        report.assert_none_failed();
        assert!(report.repeated >= 4, "{report}");
        let report = tried(&[V1, V1], 0, 2).await;
        report.assert_none_failed();
        assert_eq!(report.repeated, 0, "whose connection is new every time never meets a closed one");
    }

    #[tokio::test]
    async fn what_is_not_a_good_answer_is_a_failure() {
        for (answers, reason) in [(&[V1, BAD] as &[&str], "503 none"), (&[""], "unexpected end of file")] {
            let report = tried(answers, 1, 0).await;
            assert!(report.failures.iter().all(|failure| failure.reason.contains(reason)), "{:?}", report.failures);
            assert!(report.failures.len() >= 5, "{report}");
        }
        let cut: &[&str] = &["HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nv1"];
        assert!(tried(cut, 0, 1).await.failures.len() >= 12, "an answer that breaks off");
    }

    #[tokio::test]
    async fn shares_are_of_what_was_sent_in_a_time() {
        let report = tried(&[V1], 0, 1).await;
        let begin = report.answers[0].sent;
        let end = report.answers[5].sent;
        assert_eq!(report.share("v1", begin, end), Share { of: 5, all: 5 });
        assert_eq!(report.share("v2", begin, end), Share { of: 0, all: 5 });
        assert_eq!(report.share("v2", end, begin).fraction(), 0.0);
    }
}
