//! Puts a GiB into S3, cut into parts, the checksum of each and of the whole counted and compared, resumable after each
//! part, against what is least: the same bytes by one plain request of reqwest to the same server, and in plain parts of
//! the same size, one after the other, of which nothing is compared.
//!
//! The server is Versity's S3 gateway over a directory of `TMPDIR`, where writing takes most of the time: with parts it
//! writes all twice, since it puts them together in the end. Say `TMPDIR=/dev/shm` to leave the disk out of it.
//!
//! `cargo bench -p moodify-aws --bench upload` needs versitygw on the PATH or in `MOODIFY_VERSITYGW`; numbers after `--`
//! are the size in MiB and the number of rounds.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on shall stop")]

#[path = "../tests/peer/mod.rs"]
mod peer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;
use moodify_aws::{ApiConfig, S3Artifacts, S3Config};
use moodify_core::CallContext;
use moodify_core::backend::{ArtifactStore, Content, PutRequest, Sum};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ObjectStoreExt, PutPayload};
use peer::gateway::Gateway;
use tokio::runtime::{Builder, Runtime};

const MIB: u64 = 1 << 20;
/// As a file is read.
const PIECE: usize = 64 << 10;
const PART: usize = 8 << 20;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
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

/// S3 as `object_store` has it, which does not sign contents.
fn plain(url: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_region("eu-central-1")
        .with_endpoint(url)
        .with_allow_http(true)
        .with_bucket_name("artifacts")
        .with_access_key_id(peer::KEY)
        .with_secret_access_key(peer::SECRET)
        .with_unsigned_payload(true)
        .build()
        .unwrap()
}

/// By one request, whose answer is only looked at.
fn in_one(source: &Source, url: &str) {
    runtime().block_on(async {
        let path = Path::from("one");
        let signed = plain(url).signed_url(Method::PUT, &path, Duration::from_secs(600)).await.unwrap();
        let body = reqwest::Body::wrap_stream(stream::iter(source.clone().pieces().map(Ok::<_, std::io::Error>)));
        let put = reqwest::Client::new().put(signed).header("content-length", source.bytes()).body(body);
        assert!(put.send().await.unwrap().status().is_success());
        plain(url).delete(&path).await.unwrap();
    });
}

/// By one request a part.
fn in_parts(source: &Source, url: &str) {
    runtime().block_on(async {
        let (store, path) = (plain(url), Path::from("parts"));
        let id = store.create_multipart(&path).await.unwrap();
        let (mut pieces, mut parts) = (source.clone().pieces(), Vec::new());
        loop {
            let part: PutPayload = pieces.by_ref().take(PART / PIECE).collect();
            if part.content_length() == 0 {
                break;
            }
            parts.push(store.put_part(&path, &id, parts.len(), part).await.unwrap());
        }
        store.complete_multipart(&path, &id, parts).await.unwrap();
        store.delete(&path).await.unwrap();
    });
}

/// As releases do it.
fn by_moodify(source: &Source, url: &str, sum: Sum) {
    runtime().block_on(async {
        let api = ApiConfig::new("eu-central-1").endpoint(url).credentials(peer::KEY, peer::SECRET, None);
        let store = S3Artifacts::new(S3Config::new(api, "artifacts")).unwrap();
        let cx = CallContext::by_hand("bench", Duration::from_secs(600));
        let request = PutRequest::new("large").size(source.bytes());
        let artifact = store.put(&cx, &request, source.content()).await.unwrap();
        assert!(artifact.is(sum) && artifact.crc32c.is_some(), "{artifact}");
        store.delete(&cx, "large").await.unwrap();
    });
}

fn main() {
    // Cargo gives an argument of its own.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let (mib, rounds) = (numbers.next().unwrap_or(1024), numbers.next().unwrap_or(5) as usize);
    // Nothing is encrypted here, but reqwest wants to be able to.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = Source::of(mib);
    let sum = runtime().block_on(Sum::of_content(source.content())).unwrap();
    let server = runtime().block_on(Gateway::start()).expect("versitygw is there");
    let url = server.url();
    let ways: [(&str, &dyn Fn()); 3] = [
        ("plain parts of 8 MiB", &|| in_parts(&source, &url)),
        ("S3Artifacts::put", &|| by_moodify(&source, &url, sum)),
        ("one plain request", &|| in_one(&source, &url)),
    ];
    // All of them in turn, round by round, so that what else the machine does is the same for each.
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for ((_, way), times) in ways.iter().zip(&mut times) {
            let begun = Instant::now();
            way();
            times.push(begun.elapsed());
        }
    }
    println!("To versitygw, {mib} MiB, median of {rounds}:");
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[rounds / 2]
    });
    for ((name, _), took) in ways.iter().zip(medians) {
        let (rate, share) = (mib as f64 / took.as_secs_f64(), medians[0].as_secs_f64() / took.as_secs_f64());
        println!("  {name:<22} {took:>8.2?} {rate:>6.0} MiB/s  {share:.2} of plain parts");
    }
}
