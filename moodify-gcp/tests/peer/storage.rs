//! Cloud Storage's JSON API as its documentation has it, where fake-gcs-server is laxer: upload sessions that can be
//! asked and go on, conditions, checksums that are compared. And what goes wrong with uploads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::stream;
use moodify_core::backend::Sum;
use serde_json::{Value, json};

/// Parts of an upload that is not over are of such multiples.
const GRANULE: usize = 256 << 10;

/// What goes wrong with one sending of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is taken, but the answer is lost.
    LoseAnswer,
    /// It is refused with this status.
    Refuse(u16),
    /// Only so many bytes of it are taken.
    Take(usize),
    /// A byte of it is another when it arrives.
    Corrupt,
    /// The same, and the checksum is not compared.
    CorruptUnseen,
    /// The session is forgotten.
    Forget,
}

struct Object {
    content: Vec<u8>,
    sum: Sum,
    generation: u64,
}

struct Session {
    name: String,
    generation: Option<u64>,
    content: Vec<u8>,
    sum: Sum,
    /// Whether checksums are compared.
    careful: bool,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    sessions: BTreeMap<String, Session>,
    /// What the sessions that are over have made.
    finished: BTreeMap<String, Value>,
    begun: u64,
    generation: u64,
    /// How many parts were sent, and how many bytes of content in all.
    parts: usize,
    received: u64,
    faults: BTreeMap<usize, Fault>,
    /// Contents are counted and dropped.
    forgets_contents: bool,
    /// What the bucket is like, beside its location.
    bucket: Value,
}

#[derive(Clone)]
pub(crate) struct StrictStorage {
    state: Arc<Mutex<State>>,
    url: Arc<str>,
}

impl StrictStorage {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).into();
        let storage = Self { state: Arc::default(), url };
        let router = axum::Router::new().fallback(answer).with_state(storage.clone());
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        storage
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        self.url.to_string()
    }

    /// Contents are counted and dropped, so that large ones can be put.
    pub(crate) fn forget_contents(&self) {
        self.lock().forgets_contents = true;
    }

    /// What the bucket is like, beside its location.
    pub(crate) fn set_bucket(&self, bucket: Value) {
        self.lock().bucket = bucket;
    }

    /// What goes wrong with the sending of that number, counted from 0 over all that are sent.
    pub(crate) fn fault(&self, part: usize, fault: Fault) {
        self.lock().faults.insert(part, fault);
    }

    /// How many bytes of content were sent in all.
    pub(crate) fn received(&self) -> u64 {
        self.lock().received
    }

    /// How many parts were sent in all.
    pub(crate) fn parts(&self) -> usize {
        self.lock().parts
    }

    /// How many sessions are open.
    pub(crate) fn open_sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    pub(crate) fn sum_of(&self, name: &str) -> Option<Sum> {
        self.lock().objects.get(name).map(|object| object.sum)
    }

    /// Somebody else changes an object in secret: its checksum stays.
    pub(crate) fn damage(&self, name: &str) {
        self.lock().objects.get_mut(name).unwrap().content[0] ^= 1;
    }
}

async fn answer(Shared(storage): Shared<StrictStorage>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    if matches!(head.method, Method::POST | Method::PUT) {
        let length = head.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
        assert_eq!(length, Some(body.len().to_string()), "contents say how long they are");
    }
    let query = query_of(&head.uri);
    let path: Vec<String> = head.uri.path().trim_matches('/').split('/').map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut state = storage.lock();
    let bucket = |bucket: &str| bucket == "artifacts";
    match (&head.method, path.as_slice()) {
        (&Method::POST, ["upload", "storage", "v1", "b", name, "o"]) if bucket(name) => {
            match query["uploadType"].as_str() {
                "resumable" => state.begin(&storage.url, &query, &body),
                _ => state.at_once(&query, &head.headers, &body),
            }
        }
        (&Method::PUT, ["session", id]) => state.part(id, &head.headers, &body),
        (&Method::DELETE, ["session", id]) => {
            state.sessions.remove(*id);
            refused(499, "cancelled")
        }
        (&Method::GET, ["storage", "v1", "b", name]) if bucket(name) => {
            let mut described = json!({"location": "US-CENTRAL1"});
            let own = state.bucket.as_object().cloned().unwrap_or_default();
            // Only what is asked for is told.
            let asked = |name: &String| query.get("fields").is_none_or(|fields| fields.split(',').any(|f| f == name));
            described.as_object_mut().unwrap().extend(own.into_iter().filter(|(name, _)| asked(name)));
            described.to_string().into_response()
        }
        (&Method::GET, ["storage", "v1", "b", name, "o"]) if bucket(name) => state.list(&query),
        (method, ["storage", "v1", "b", name, "o", object]) if bucket(name) => state.object(method, object, &query),
        _ => refused(404, "no such bucket"),
    }
}

impl State {
    fn list(&self, query: &BTreeMap<String, String>) -> Response {
        // Pages of two, so that there are some.
        let prefix = query.get("prefix").map_or("", String::as_str);
        let from = query.get("pageToken").map_or("", String::as_str);
        let mut fits = self.objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() >= from);
        let items: Vec<Value> = fits.by_ref().take(2).map(|(name, object)| described(name, object)).collect();
        let mut page = json!({"items": items});
        if let Some((next, _)) = fits.next() {
            page["nextPageToken"] = json!(next);
        }
        page.to_string().into_response()
    }

    fn object(&mut self, method: &Method, name: &str, query: &BTreeMap<String, String>) -> Response {
        let Some(object) = self.objects.get(name) else { return refused(404, "no such object") };
        let wanted = query.get("ifGenerationMatch").or(query.get("generation"));
        if wanted.is_some_and(|wanted| *wanted != object.generation.to_string()) {
            return refused(412, "another generation");
        }
        match (method, query.get("alt").map(String::as_str)) {
            (&Method::DELETE, _) => {
                self.objects.remove(name);
                StatusCode::NO_CONTENT.into_response()
            }
            (_, Some("media")) => {
                ([("x-goog-generation", object.generation.to_string())], object.content.clone()).into_response()
            }
            _ => described(name, object).to_string().into_response(),
        }
    }

    fn create(&mut self, session: Session) -> Response {
        let there = self.objects.get(&session.name).map_or(0, |object| object.generation);
        if session.generation.is_some_and(|wanted| wanted != there) {
            return refused(412, "another generation");
        }
        self.generation += 1;
        let object = Object { content: session.content, sum: session.sum, generation: 1000 + self.generation };
        let answer = described(&session.name, &object).to_string().into_response();
        self.objects.insert(session.name, object);
        answer
    }

    fn at_once(&mut self, query: &BTreeMap<String, String>, headers: &HeaderMap, body: &Bytes) -> Response {
        let kind = headers["content-type"].to_str().unwrap();
        let boundary = format!("--{}", kind.strip_prefix("multipart/related; boundary=").unwrap());
        let parts = split(body, boundary.as_bytes());
        let [_, metadata, content, end] = parts.as_slice() else { return refused(400, "not two parts") };
        assert_eq!(*end, b"--\r\n");
        let inner = |part: &[u8]| {
            let begin = part.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            part[begin..part.len() - 2].to_vec()
        };
        let metadata: Value = serde_json::from_slice(&inner(metadata)).unwrap();
        let mut content = inner(content);
        let fault = self.take_fault(content.len());
        if let Some(Fault::Refuse(status)) = fault {
            return refused(status, "fault");
        }
        if matches!(fault, Some(Fault::Corrupt | Fault::CorruptUnseen)) {
            content[0] ^= 1;
        }
        let sum = Sum::of(&content);
        if metadata["crc32c"] != encoded(sum) && fault != Some(Fault::CorruptUnseen) {
            return refused(400, "Provided CRC32C doesn't match calculated CRC32C");
        }
        let name = metadata["name"].as_str().unwrap().to_owned();
        let answer = self.create(Session { name, generation: generation(query), content, sum, careful: true });
        if fault == Some(Fault::LoseAnswer) { lost() } else { answer }
    }

    fn begin(&mut self, url: &str, query: &BTreeMap<String, String>, body: &Bytes) -> Response {
        let metadata: Value = serde_json::from_slice(body).unwrap();
        let name = metadata["name"].as_str().unwrap().to_owned();
        self.begun += 1;
        let id = format!("upload-session-{}", self.begun);
        let location = format!("{url}/session/{id}");
        let (generation, content, sum) = (generation(query), Vec::new(), Sum::default());
        self.sessions.insert(id, Session { name, generation, content, sum, careful: true });
        ([("location", location)], "{}").into_response()
    }

    fn take_fault(&mut self, bytes: usize) -> Option<Fault> {
        self.parts += 1;
        self.received += bytes as u64;
        self.faults.remove(&(self.parts - 1))
    }

    fn part(&mut self, id: &str, headers: &HeaderMap, body: &Bytes) -> Response {
        assert!(!headers.contains_key("authorization"), "a session is not shown credentials");
        let range = headers["content-range"].to_str().unwrap().strip_prefix("bytes ").unwrap();
        let (range, whole) = range.split_once('/').unwrap();
        let whole: Option<u64> = whole.parse().ok();
        let asked = range == "*" && whole.is_none();
        let fault = if asked { None } else { self.take_fault(body.len()) };
        if fault == Some(Fault::Forget) {
            self.sessions.remove(id);
        }
        if let Some(made) = self.finished.get(id) {
            return made.to_string().into_response();
        }
        let Some(session) = self.sessions.get_mut(id) else { return refused(410, "no such session") };
        if let Some(Fault::Refuse(status)) = fault {
            return refused(status, "fault");
        }
        if range != "*" {
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(last + 1 - first, body.len() as u64, "the range is that of the content");
            if first != session.sum.bytes {
                return refused(400, "not where it broke off");
            }
            if whole.is_none() && !body.len().is_multiple_of(GRANULE) {
                return refused(400, "not a multiple of 256 KiB");
            }
        }
        let taken = match fault {
            Some(Fault::Take(bytes)) => bytes,
            _ => body.len(),
        };
        let mut part = body[..taken].to_vec();
        if matches!(fault, Some(Fault::Corrupt | Fault::CorruptUnseen)) {
            part[0] ^= 1;
            session.careful = fault == Some(Fault::Corrupt);
        }
        session.sum.add(&part);
        if !self.forgets_contents {
            session.content.extend_from_slice(&part);
        }
        let stored = session.sum.bytes;
        let answer = if whole == Some(stored) && !asked {
            let session = self.sessions.remove(id).unwrap();
            let hash = headers.get("x-goog-hash").map(|hash| hash.to_str().unwrap().to_owned());
            if session.careful && hash != Some(format!("crc32c={}", encoded(session.sum))) {
                return refused(400, "Provided CRC32C doesn't match calculated CRC32C");
            }
            let name = session.name.clone();
            let answer = self.create(session);
            if answer.status().is_success() {
                self.finished.insert(id.to_owned(), described(&name, &self.objects[&name]));
            }
            answer
        } else if stored == 0 {
            StatusCode::PERMANENT_REDIRECT.into_response()
        } else {
            (StatusCode::PERMANENT_REDIRECT, [("range", format!("bytes=0-{}", stored - 1))]).into_response()
        };
        if fault == Some(Fault::LoseAnswer) { lost() } else { answer }
    }
}

fn described(name: &str, object: &Object) -> Value {
    json!({
        "name": name, "size": object.sum.bytes.to_string(), "generation": object.generation.to_string(),
        "crc32c": encoded(object.sum), "updated": "2026-11-24T15:00:00.123Z",
    })
}

fn encoded(sum: Sum) -> String {
    BASE64_STANDARD.encode(sum.crc32c.to_be_bytes())
}

fn generation(query: &BTreeMap<String, String>) -> Option<u64> {
    query.get("ifGenerationMatch").map(|text| text.parse().unwrap())
}

fn refused(status: u16, message: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), json!({"error": {"message": message}}).to_string()).into_response()
}

/// An answer that breaks off.
fn lost() -> Response {
    let broken = stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("the connection is lost"))]);
    Response::new(Body::from_stream(broken))
}

fn split<'a>(mut text: &'a [u8], word: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(word.len()).position(|window| window == word) {
        parts.push(&text[..at]);
        text = &text[at + word.len()..];
    }
    parts.push(text);
    parts
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

fn query_of(uri: &Uri) -> BTreeMap<String, String> {
    let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " ")))).collect()
}
