//! Deletes keys by pattern against what people do by hand, `redis-cli --scan | xargs redis-cli unlink`: a million on
//! loopback, and a hundred thousand where every round trip takes a millisecond: by hand, a million would take there about six
//! minutes. Fails if it is not as many times faster as it should be.
//!
//! `cargo bench -p moodify-redis` needs redis-server, redis-cli and xargs on the PATH; numbers after `--` are the two counts of keys.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on shall stop")]
#![expect(clippy::disallowed_methods, reason = "half a millisecond is less than tokio's timer can tell")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use moodify_core::CallContext;
use moodify_core::backend::{CacheAdmin, DeleteKeys};
use moodify_redis::{RedisCache, RedisConfig};
use tokio::sync::watch;

const PATTERN: &str = "mood:*";

/// How many times as fast it should be at least: on loopback, and with a millisecond a round trip.
const LOOPBACK: f64 = 2.3;
const ONE_MS: f64 = 30.0;

/// Keys that match no pattern, and have to be there afterwards.
const OTHERS: u64 = 1000;

struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _dir: dir }
    }

    fn connect(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap().get_connection().unwrap()
    }

    fn fill(&self, keys: u64) {
        let mut connection = self.connect();
        let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        let mut set = |names: &mut dyn Iterator<Item = String>| loop {
            let mut page = redis::pipe();
            for name in (&mut *names).take(10_000) {
                page.cmd("SET").arg(name).arg("happy").ignore();
            }
            if page.is_empty() {
                return;
            }
            let () = page.query(&mut connection).unwrap();
        };
        set(&mut (0..keys).map(|n| format!("mood:user:{n}")));
        set(&mut (0..OTHERS).map(|n| format!("session:{n}")));
    }

    fn count(&self) -> u64 {
        redis::cmd("DBSIZE").query(&mut self.connect()).unwrap()
    }
}

/// Hands on everything after a while, in either direction; returns the port that it listens on.
fn delayed(to: u16, by: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            for (from, into) in [(&client, &server), (&server, &client)] {
                from.set_nodelay(true).unwrap();
                hand_on(from.try_clone().unwrap(), into.try_clone().unwrap(), by);
            }
        }
    });
    port
}

/// What comes is read at once, so that much can be on its way at the same time.
fn hand_on(mut from: TcpStream, mut into: TcpStream, by: Duration) {
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if send.send((Instant::now() + by, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if into.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = into.shutdown(Shutdown::Both);
    });
}

fn by_moodify(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = RedisCache::new(RedisConfig::new("bench", format!("redis://127.0.0.1:{port}"))).unwrap();
        let cx = CallContext::by_hand("bench", Duration::from_secs(600));
        let request = DeleteKeys::matching(PATTERN.parse().unwrap());
        cache.delete_matching(&cx, &request, &watch::Sender::new(0)).await.unwrap();
    });
}

fn by_hand(port: u16) {
    let line = format!("redis-cli -p {port} --scan --pattern '{PATTERN}' | xargs redis-cli -p {port} unlink");
    let status = Command::new("sh").args(["-c", &line]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// How many times as fast as by hand it is.
fn compare(server: &Server, port: u16, keys: u64, rounds: usize, what: &str) -> f64 {
    let time = |delete: fn(u16)| {
        let mut times: Vec<Duration> = (0..rounds)
            .map(|_| {
                server.fill(keys);
                let begun = Instant::now();
                delete(port);
                let took = begun.elapsed();
                assert_eq!(server.count(), OTHERS, "all that match, and no others");
                took
            })
            .collect();
        times.sort_unstable();
        times[rounds / 2]
    };
    let (ours, theirs) = (time(by_moodify), time(by_hand));
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("{keys} keys, {what}: {ours:.2?}, by hand {theirs:.2?}: {ratio:.1} times as fast");
    ratio
}

fn main() -> ExitCode {
    // Cargo gives an argument of its own.
    let mut counts = std::env::args().filter_map(|argument| argument.parse().ok());
    let (near, far) = (counts.next().unwrap_or(1_000_000), counts.next().unwrap_or(100_000));
    let server = Server::start();
    let delayed = delayed(server.port, Duration::from_micros(500));
    let ratios = [
        (compare(&server, server.port, near, 3, "on loopback"), LOOPBACK),
        (compare(&server, delayed, far, 1, "1 ms a round trip"), ONE_MS),
    ];
    for (ratio, least) in ratios.iter().filter(|(ratio, least)| ratio < least) {
        println!("{ratio:.1} times as fast is too slow: it should be at least {least}");
    }
    if ratios.iter().all(|(ratio, least)| ratio >= least) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
