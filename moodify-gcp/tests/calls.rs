//! How many requests one backup and one restore of Firestore take, of the Admin API and of the bucket: a write each that is
//! needed and no second one, and as many reads as there are questions by the schedule of waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use moodify_core::backend::{BackupRequest, BackupStore, BackupStoreExt, RestoreRequest};
use moodify_core::{CallContext, IdempotencyKey, RunId};
use moodify_gcp::{ApiConfig, FirestoreBackups, FirestoreConfig, StorageConfig};
use peer::FakeGcs;
use peer::firestore::FakeFirestore;

fn cx(key: &str) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new(key), Duration::from_secs(120))
}

/// Hands on requests to a server, and keeps what they were.
#[derive(Clone)]
struct Counter {
    to: String,
    http: reqwest::Client,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Counter {
    async fn start(to: String) -> (Self, String) {
        // Nothing is encrypted here, but reqwest wants to be able to.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let counter = Self { to, http: reqwest::Client::new(), requests: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(hand_on).with_state(counter.clone());
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        (counter, url)
    }
}

async fn hand_on(
    State(counter): State<Counter>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    counter.requests.lock().unwrap().push(format!("{method} {uri}"));
    headers.remove("host");
    let request = counter.http.request(method, format!("{}{uri}", counter.to)).headers(headers).body(body);
    let answer = request.send().await.unwrap();
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    (status, headers, answer.bytes().await.unwrap()).into_response()
}

/// What was asked for, and how often it was waited for.
struct Made {
    turns: usize,
    reads: usize,
    writes: Vec<String>,
}

/// What is asked of both while something is done that says how often it looked. Never sooner than by the schedule: after
/// 1 s, 2 s, 4 s, 8 s, and then 15 s.
async fn count(firestore: &FakeFirestore, bucket: &Counter, work: impl Future<Output = usize>) -> Made {
    drop((firestore.take_requests(), std::mem::take(&mut *bucket.requests.lock().unwrap())));
    let begun = Instant::now();
    let turns = work.await;
    let least: u64 = (1..turns).map(|turn| (1_u64 << (turn - 1)).min(15)).sum();
    assert!(begun.elapsed() >= Duration::from_secs(least), "{turns} turns in {:?}", begun.elapsed());
    let of_bucket = std::mem::take(&mut *bucket.requests.lock().unwrap());
    let requests = firestore.take_requests().into_iter().chain(of_bucket);
    let (reads, writes): (Vec<_>, Vec<_>) = requests.partition(|request| request.starts_with("GET "));
    Made { turns, reads: reads.len(), writes }
}

/// The writes by kind, in order of the alphabet.
fn kinds(made: &Made) -> Vec<&str> {
    let names = [
        (":exportDocuments", "export"),
        (":importDocuments", "import"),
        ("databaseId=", "database"),
        ("/upload/", "object"),
    ];
    let kind = |write: &str| names.iter().find(|(part, _)| write.contains(part)).map(|(_, name)| *name);
    let mut kinds: Vec<&str> = made.writes.iter().map(|write| kind(write).unwrap_or(write)).collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test]
async fn a_backup_and_a_restore_of_firestore() {
    let Some(server) = FakeGcs::start().await else { return };
    let firestore = FakeFirestore::start(server.url()).await;
    let (bucket, url) = Counter::start(server.url()).await;
    let storage = StorageConfig::new("artifacts").api(ApiConfig::new().endpoint(url).anonymous());
    let store = FirestoreBackups::new(FirestoreConfig::new("moodify", storage).api(firestore.api())).unwrap();

    let (turns, mut id) = (AtomicUsize::new(0), String::new());
    let backup = count(&firestore, &bucket, async {
        id = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id;
        let seen = |_: &_| _ = turns.fetch_add(1, Ordering::Relaxed);
        store.wait_available(&cx("r1/backup"), &id, &seen).await.unwrap();
        store.verify(&cx("r1/backup"), &id).await.unwrap();
        turns.swap(0, Ordering::Relaxed)
    })
    .await;
    let restore = count(&firestore, &bucket, async {
        let seen = |_: &_| _ = turns.fetch_add(1, Ordering::Relaxed);
        store.wait_restored(&cx("r1/restore"), &RestoreRequest::new(&id, "moods-2"), &seen).await.unwrap();
        turns.load(Ordering::Relaxed)
    })
    .await;
    let told = |made: &Made| format!("{} reads in {} turns, {} writes", made.reads, made.turns, made.writes.len());
    println!("Firestore | backup: {} | restore: {}", told(&backup), told(&restore));
    // Its record, and the manifest of what was verified.
    assert_eq!(kinds(&backup), ["export", "object", "object"]);
    // Its record, and that it is over. The second request for the database is refused: as long as a database cannot be
    // seen, asking for it is the only way to know that it was asked for.
    assert_eq!(kinds(&restore), ["database", "database", "import", "object", "object"]);
    assert!(backup.reads <= 15 + 2 * backup.turns, "operations and objects a turn: {}", backup.reads);
    assert!(restore.reads <= 13 + 8 * (restore.turns - 1), "after the first turn: {}", restore.reads);
}
