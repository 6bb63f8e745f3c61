//! Firestore's Admin API: databases, exports that write objects into a storage emulator, imports that read them. What
//! takes time is done after so many looks at it, so that tests do not depend on time. And what goes wrong with it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_gcp::ApiConfig;
use serde_json::{Value, json};

type Documents = BTreeMap<String, String>;

const TYPES: &str = "type.googleapis.com/google.firestore.admin.v1";

/// What goes wrong with the next request of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused with this HTTP status and status of the API, and nothing happens.
    Refuse(u16, &'static str),
    /// It happens, but the answer is lost.
    LoseAnswer,
    /// The operation fails half-way.
    Fail,
    /// Somebody cancels the operation half-way.
    Cancel,
    /// The operation says that it is done, but has not written, or read, its last object.
    Forget,
    /// The database is made in another location than asked for.
    Elsewhere,
}

#[derive(Debug, Clone)]
struct Operation {
    name: String,
    database: String,
    import: bool,
    uri: String,
    begun: String,
    /// Looks until it is over.
    looks: u32,
    fault: Option<Fault>,
    /// Its state as the API tells it, once it is over.
    over: Option<&'static str>,
    documents: usize,
}

#[derive(Debug, Clone)]
struct Database {
    location: String,
    created: String,
    /// Looks until it is there.
    looks: u32,
    documents: Documents,
}

#[derive(Debug, Default)]
struct State {
    databases: BTreeMap<String, Database>,
    operations: Vec<Operation>,
    faults: Vec<(&'static str, Fault)>,
    requests: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct FakeFirestore {
    state: Arc<Mutex<State>>,
    url: Arc<str>,
    storage: Arc<str>,
}

impl FakeFirestore {
    /// A server with a default database of three documents, which exports to the storage at that address.
    pub(crate) async fn start(storage: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).into();
        let firestore = Self { state: Arc::default(), url, storage: storage.into() };
        let documents = ["moods/ana", "moods/ben", "users/ana"].map(|name| (name.to_owned(), "1".to_owned()));
        firestore.lock().databases.insert(
            "(default)".to_owned(),
            Database { location: "us-central1".to_owned(), created: now(), looks: 0, documents: documents.into() },
        );
        let router = axum::Router::new().fallback(answer).with_state(firestore.clone());
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        firestore
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn api(&self) -> ApiConfig {
        ApiConfig::new().endpoint(&*self.url).anonymous()
    }

    /// What goes wrong with the next request that contains this.
    pub(crate) fn fault(&self, request: &'static str, fault: Fault) {
        self.lock().faults.push((request, fault));
    }

    /// All requests since the last time, method first.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    /// How many requests contained this.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.lock().requests.iter().filter(|made| made.contains(request)).count()
    }

    /// The documents of a database, if it is there.
    pub(crate) fn documents(&self, database: &str) -> Option<Documents> {
        self.lock().databases.get(database).map(|database| database.documents.clone())
    }

    /// Somebody writes a document.
    pub(crate) fn write(&self, database: &str, document: &str, text: &str) {
        let mut state = self.lock();
        state.databases.get_mut(database).unwrap().documents.insert(document.to_owned(), text.to_owned());
    }

    /// Somebody else makes a database, empty.
    pub(crate) fn create(&self, database: &str) {
        let made =
            Database { location: "us-central1".to_owned(), created: now(), looks: 0, documents: Documents::new() };
        self.lock().databases.insert(database.to_owned(), made);
    }

    /// The database is lost.
    pub(crate) fn lose(&self, database: &str) {
        self.lock().databases.remove(database);
    }

    /// Firestore keeps its operations for a while only.
    pub(crate) fn forget_operations(&self) {
        self.lock().operations.clear();
    }

    /// One more look at what takes time.
    fn turn(&self, database: &str) {
        let mut state = self.lock();
        if let Some(database) = state.databases.get_mut(database) {
            database.looks = database.looks.saturating_sub(1);
        }
        let State { databases, operations, .. } = &mut *state;
        for operation in operations.iter_mut().filter(|made| made.database == database && made.over.is_none()) {
            operation.looks -= 1;
            if let Some(fault @ (Fault::Fail | Fault::Cancel)) = operation.fault.filter(|_| operation.looks == 1) {
                operation.over = Some(if fault == Fault::Fail { "FAILED" } else { "CANCELLED" });
            }
            let part = operation.fault.is_some();
            if operation.looks > 0 && operation.over.is_none() {
                continue;
            }
            let database = databases.get_mut(database).unwrap();
            if operation.import {
                self.import(database, operation, part);
            } else {
                self.export(database, operation, part);
            }
            operation.over = operation.over.or(Some("SUCCESSFUL"));
        }
    }

    /// Writes one object a collection, and in the end the metadata, which names them.
    fn export(&self, database: &Database, operation: &mut Operation, part: bool) {
        let mut collections: BTreeMap<&str, Documents> = BTreeMap::new();
        for (name, text) in &database.documents {
            let (collection, _) = name.split_once('/').unwrap();
            collections.entry(collection).or_default().insert(name.clone(), text.clone());
        }
        let (bucket, prefix) = operation.uri.strip_prefix("gs://").unwrap().split_once('/').unwrap();
        let name = prefix.rsplit('/').next().unwrap();
        let mut written = Vec::new();
        for (n, (_, documents)) in collections.iter().enumerate() {
            let object = format!("{prefix}/all_namespaces/all_kinds/output-{n}");
            self.object(bucket, &object, &serde_json::to_string(documents).unwrap());
            operation.documents += documents.len();
            written.push(object);
            if part {
                return;
            }
        }
        let kinds = format!("{prefix}/all_namespaces/all_kinds/all_namespaces_all_kinds.export_metadata");
        // As in the real ones, names are among bytes of another format.
        let names = (0..written.len()).map(|n| format!("\u{1}\u{12}output-{n}")).collect::<String>();
        self.object(bucket, &kinds, &names);
        self.object(bucket, &format!("{prefix}/{name}.overall_export_metadata"), &json!(written).to_string());
    }

    /// Adds and replaces documents, and deletes none.
    fn import(&self, database: &mut Database, operation: &mut Operation, part: bool) {
        let (bucket, prefix) = operation.uri.strip_prefix("gs://").unwrap().split_once('/').unwrap();
        let name = prefix.rsplit('/').next().unwrap();
        let metadata = self.read(bucket, &format!("{prefix}/{name}.overall_export_metadata"));
        let Some(metadata) = metadata else {
            operation.over = Some("FAILED");
            return;
        };
        for object in serde_json::from_str::<Vec<String>>(&metadata).unwrap() {
            let documents: Documents = serde_json::from_str(&self.read(bucket, &object).unwrap()).unwrap();
            operation.documents += documents.len();
            database.documents.extend(documents);
            if part {
                return;
            }
        }
    }

    fn object(&self, bucket: &str, name: &str, content: &str) {
        let path = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}");
        assert!(self.ask("POST", &path, content).0 == 200);
    }

    fn read(&self, bucket: &str, name: &str) -> Option<String> {
        let path = format!("/storage/v1/b/{bucket}/o/{}?alt=media", name.replace('/', "%2F"));
        let (status, body) = self.ask("GET", &path, "");
        (status == 200).then_some(body)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let host = self.storage.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn respond(&self, method: &Method, path: &str, query: &str, body: &Value, fault: Option<Fault>) -> Response {
        let rest = path.strip_prefix("/v1/projects/moodify/databases").unwrap();
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        if let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("databaseId=")) {
            return self.make(id, body, fault);
        }
        let id = rest.split(['/', ':']).next().unwrap();
        let token = query.split('&').find_map(|pair| pair.strip_prefix("pageToken="));
        // The next page of a list is not another look.
        let at: usize = token.and_then(|token| token.parse().ok()).unwrap_or_default();
        if at == 0 {
            self.turn(id);
        }
        let mut state = self.lock();
        let there = state.databases.get(id).filter(|database| database.looks == 0).cloned();
        let Some(database) = there else { return refused(404, "NOT_FOUND", "no such database") };
        match (method, rest[id.len()..].trim_start_matches(['/', ':'])) {
            (&Method::GET, "") => json!({
                "name": format!("projects/moodify/databases/{id}"), "uid": "u", "type": "FIRESTORE_NATIVE",
                "locationId": database.location, "createTime": database.created,
            })
            .to_string()
            .into_response(),
            (&Method::DELETE, "") => {
                state.databases.remove(id);
                state.operations.retain(|operation| operation.database != id);
                json!({"name": "d", "done": true}).to_string().into_response()
            }
            // A page each, so that there are some.
            (&Method::GET, "operations") => {
                let all: Vec<&Operation> = state.operations.iter().filter(|made| made.database == id).collect();
                let page: Vec<Value> = all.iter().skip(at).take(1).map(|operation| described(operation)).collect();
                let next = if at + 1 < all.len() { (at + 1).to_string() } else { String::new() };
                json!({"operations": page, "nextPageToken": next}).to_string().into_response()
            }
            (&Method::POST, verb @ ("exportDocuments" | "importDocuments")) => {
                let import = verb == "importDocuments";
                let field = if import { "inputUriPrefix" } else { "outputUriPrefix" };
                let operation = Operation {
                    name: format!("projects/moodify/databases/{id}/operations/{}", state.operations.len()),
                    database: id.to_owned(),
                    import,
                    uri: body[field].as_str().unwrap().to_owned(),
                    begun: now(),
                    looks: 3,
                    fault: fault.filter(|fault| *fault != Fault::LoseAnswer),
                    over: None,
                    documents: 0,
                };
                let answer = described(&operation).to_string().into_response();
                state.operations.push(operation);
                answer
            }
            other => panic!("no such method: {other:?}"),
        }
    }

    fn make(&self, id: &str, body: &Value, fault: Option<Fault>) -> Response {
        let mut state = self.lock();
        if state.databases.contains_key(id) {
            return refused(409, "ALREADY_EXISTS", "it exists");
        }
        let asked = body["locationId"].as_str().unwrap();
        let location = if fault == Some(Fault::Elsewhere) { "us-east1" } else { asked }.to_owned();
        let made = Database { location, created: now(), looks: 2, documents: Documents::new() };
        state.databases.insert(id.to_owned(), made);
        json!({"name": "projects/moodify/databases/x/operations/create"}).to_string().into_response()
    }
}

async fn answer(Shared(firestore): Shared<FakeFirestore>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8().unwrap().into_owned();
    let fault = {
        let mut state = firestore.lock();
        let request = format!("{} {path}?{}", head.method, head.uri.query().unwrap_or_default());
        let at = state.faults.iter().position(|(part, _)| request.contains(part));
        state.requests.push(request);
        at.map(|at| state.faults.remove(at).1)
    };
    if let Some(Fault::Refuse(status, code)) = fault {
        return refused(status, code, "fault");
    }
    let body = serde_json::from_slice(&body).unwrap_or_default();
    // It speaks to the storage emulator, and waits for it.
    let query = head.uri.query().unwrap_or_default().to_owned();
    let work = tokio::task::spawn_blocking(move || firestore.respond(&head.method, &path, &query, &body, fault));
    let response = work.await.unwrap();
    if fault == Some(Fault::LoseAnswer) { lost() } else { response }
}

fn described(operation: &Operation) -> Value {
    let kind = if operation.import { "ImportDocumentsMetadata" } else { "ExportDocumentsMetadata" };
    let field = if operation.import { "inputUriPrefix" } else { "outputUriPrefix" };
    let mut described = json!({
        "name": operation.name,
        "metadata": {
            "@type": format!("{TYPES}.{kind}"), "startTime": operation.begun, field: operation.uri,
            "operationState": operation.over.unwrap_or("PROCESSING"),
            "progressDocuments": {"estimatedWork": "3", "completedWork": operation.documents.to_string()},
        },
    });
    match operation.over {
        Some("SUCCESSFUL") => {
            described["done"] = json!(true);
            described["response"] = json!({"@type": "type.googleapis.com/google.protobuf.Empty"});
        }
        Some(state) => {
            described["done"] = json!(true);
            let code = if state == "CANCELLED" { 1 } else { 8 };
            described["error"] = json!({"code": code, "message": format!("{state} half-way")});
        }
        None => {}
    }
    described
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": status, "status": code, "message": message}});
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json")], body.to_string()).into_response()
}

/// An answer that breaks off.
fn lost() -> Response {
    let broken = stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("the connection is lost"))]);
    Response::new(Body::from_stream(broken))
}

fn now() -> String {
    SystemClock.now().to_string()
}
