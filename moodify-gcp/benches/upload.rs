//! Puts a GiB into Cloud Storage, cut into chunks, its checksum counted and compared, resumable after each chunk, against
//! what is least: the same bytes by one plain request of reqwest to the same server, of which nothing is compared, and
//! copied over a TCP connection without HTTP.
//!
//! The server on loopback counts the checksum of what it is sent, in a thread of its own, and keeps nothing. (With
//! fake-gcs-server one would measure that: what it takes for a resumable upload grows with the square of its chunks.)
//!
//! `cargo bench -p moodify-gcp --bench upload`; numbers after `--` are the size in MiB and the number of rounds.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on shall stop")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use moodify_core::CallContext;
use moodify_core::backend::{ArtifactStore, Content, PutRequest, Sum};
use moodify_gcp::{ApiConfig, CloudStorage, StorageConfig};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

const MIB: u64 = 1 << 20;
/// As a file is read.
const PIECE: usize = 64 << 10;

/// Uploads that are not over, by the path of their session, and then the objects.
type Sums = Arc<Mutex<BTreeMap<String, Sum>>>;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server that counts what it is sent; returns its address.
fn counting() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tell.send(url.clone()).unwrap();
            let router = Router::new().fallback(answer).with_state((Sums::default(), url));
            axum::serve(listener, router).await.unwrap();
        });
    });
    told.recv().unwrap()
}

async fn answer(State((sums, url)): State<(Sums, String)>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    if head.method == Method::GET {
        return StatusCode::NOT_FOUND.into_response();
    }
    if query.contains("uploadType=resumable") {
        let session = format!("/{}", sums.lock().unwrap().len());
        sums.lock().unwrap().insert(session.clone(), Sum::default());
        return ([("location", format!("{url}{session}"))], "{}").into_response();
    }
    let session = head.uri.path();
    let mut sum = sums.lock().unwrap().get(session).copied().unwrap_or_default();
    let mut body = body.into_data_stream();
    while let Some(piece) = body.next().await {
        sum.add(&piece.unwrap());
    }
    if head.headers.get("content-range").is_some_and(|range| range.to_str().unwrap().ends_with("/*")) {
        sums.lock().unwrap().insert(session.to_owned(), sum);
        let range = format!("bytes=0-{}", sum.bytes - 1);
        return (StatusCode::PERMANENT_REDIRECT, [("range", range)]).into_response();
    }
    let crc32c = BASE64_STANDARD.encode(sum.crc32c.to_be_bytes());
    json!({"name": "large", "size": sum.bytes.to_string(), "generation": "1", "crc32c": crc32c})
        .to_string()
        .into_response()
}

/// The bytes that are sent, no two pieces alike.
#[derive(Clone)]
struct Source {
    pieces: Arc<Vec<Bytes>>,
    count: usize,
}

impl Source {
    fn of(mib: u64) -> Self {
        let pieces = (0..1024_u64).map(|n| Bytes::from((n * 0x9E37_79B9).to_be_bytes().repeat(PIECE / 8))).collect();
        Self { pieces: Arc::new(pieces), count: usize::try_from(mib * MIB).unwrap() / PIECE }
    }

    fn pieces(self) -> impl Iterator<Item = Bytes> + Send + 'static {
        (0..self.count).map(move |n| self.pieces[n % self.pieces.len()].clone())
    }

    fn content(&self) -> Content {
        stream::iter(self.clone().pieces().map(Ok)).boxed()
    }

    fn bytes(&self) -> u64 {
        (self.count * PIECE) as u64
    }
}

/// Over a connection, to a thread that reads.
fn by_tcp(source: &Source) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reading = thread::spawn(move || {
        let (mut stream, mut buffer, mut bytes) = (listener.accept().unwrap().0, vec![0; PIECE], 0);
        while let read @ 1.. = stream.read(&mut buffer).unwrap() {
            bytes += read as u64;
        }
        bytes
    });
    for piece in source.clone().pieces() {
        stream.write_all(&piece).unwrap();
    }
    drop(stream);
    assert_eq!(reading.join().unwrap(), source.bytes());
}

/// By one request, whose answer is only looked at.
fn plainly(source: &Source, url: &str) {
    runtime().block_on(async {
        let body = reqwest::Body::wrap_stream(stream::iter(source.clone().pieces().map(Ok::<_, std::io::Error>)));
        let post =
            reqwest::Client::new().post(format!("{url}/upload/storage/v1/b/artifacts/o?uploadType=media&name=plain"));
        let answer = post.header("content-length", source.bytes()).body(body).send().await.unwrap();
        assert!(answer.status().is_success());
        let object: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(object["size"], source.bytes().to_string());
    });
}

/// As releases do it.
fn by_moodify(source: &Source, url: &str, sum: Sum) {
    runtime().block_on(async {
        let api = ApiConfig::new().endpoint(url).anonymous();
        let store = CloudStorage::new(StorageConfig::new("artifacts").api(api)).unwrap();
        let cx = CallContext::by_hand("bench", Duration::from_secs(600));
        let request = PutRequest::new("large").size(source.bytes());
        let artifact = store.put(&cx, &request, source.content()).await.unwrap();
        assert!(artifact.is(sum) && artifact.crc32c.is_some(), "{artifact}");
        store.delete(&cx, "large").await.ok();
    });
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// All of them in turn, round by round, so that what else the machine does is the same for each.
fn compare(what: &str, rounds: usize, source: &Source, ways: &mut [(&str, &mut dyn FnMut())]) {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for ((_, way), times) in ways.iter_mut().zip(&mut times) {
            times.push(time(way));
        }
    }
    println!("{what}, {} MiB, median of {rounds}:", source.bytes() / MIB);
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    for ((name, _), took) in ways.iter().zip(&medians) {
        let rate = (source.bytes() / MIB) as f64 / took.as_secs_f64();
        let share = medians[0].as_secs_f64() / took.as_secs_f64();
        println!("  {name:<30} {took:>8.2?} {rate:>7.0} MiB/s  {share:.2} of the plain request");
    }
}

fn main() {
    // Cargo gives an argument of its own.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let (mib, rounds) = (numbers.next().unwrap_or(1024), numbers.next().unwrap_or(5) as usize);
    // Nothing is encrypted here, but reqwest wants to be able to.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = Source::of(mib);
    let sum = runtime().block_on(Sum::of_content(source.content())).unwrap();
    let url = counting();
    compare(
        "To a server that counts",
        rounds,
        &source,
        &mut [
            ("a plain request", &mut || plainly(&source, &url)),
            ("CloudStorage::put", &mut || by_moodify(&source, &url, sum)),
            ("TCP, without HTTP", &mut || by_tcp(&source)),
        ],
    );
}
