//! Where credentials come from, and what is said when there are none or they are good no more. The usual places of
//! credentials are of the process, so the cases run in processes of their own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::http::{StatusCode, Uri};
use moodify_core::backend::ArtifactStore;
use moodify_core::{CallContext, ErrorKind, IdempotencyKey, RunId};
use moodify_gcp::{ApiConfig, CloudStorage, FirestoreBackups, FirestoreConfig, StorageConfig};
use peer::{always, answering};
use serde_json::json;

fn cx() -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("x"), Duration::from_secs(60))
}

/// A process with nothing of the surroundings' credentials, which uses a bucket there and tells what comes of it.
fn child(home: &Path, bucket: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "with_the_usual_places", "--ignored", "--nocapture"]);
    child.env_clear().env("HOME", home).env("TEST_URL", bucket);
    child
}

/// What a process told, after it was seen to end well.
fn told(mut child: Command) -> Vec<String> {
    let ran = child.output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
    let told: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("TOLD ").map(str::to_owned)).collect();
    assert!(!told.is_empty(), "{text}");
    told
}

/// Where nobody listens.
fn nobody() -> String {
    format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
}

/// A node's metadata server, which knows of tokens only: of a universe of its own it knows nothing.
async fn metadata((status, rest): (u16, &'static str)) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (_, body) = rest.split_once("\r\n\r\n").or(rest.split_once("\r\n")).unwrap();
    let router = axum::Router::new().fallback(move |uri: Uri| async move {
        let status = if uri.path().ends_with("/token") { status } else { 404 };
        (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json")], body)
    });
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    host
}

/// Credentials as gcloud keeps them, with that server of tokens.
fn user(dir: &Path, tokens: &str) -> std::path::PathBuf {
    let file = dir.join("user.json");
    let user = json!({
        "type": "authorized_user", "client_id": "moodify", "client_secret": "a-client-secret",
        "refresh_token": "a-refresh-token", "token_uri": format!("{tokens}/token"),
    });
    std::fs::write(&file, user.to_string()).unwrap();
    file
}

const OBJECT: &str = "\r\n{\"name\": \"x\", \"size\": \"1\", \"generation\": \"1\", \"crc32c\": \"AAAAAA==\"}";
const TOKEN: &str = "Content-Type: application/json\r\n\r\n\
                     {\"access_token\": \"a-fake-token\", \"expires_in\": 3600, \"token_type\": \"Bearer\"}";

// The servers answer while a process is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_credentials_it_is_one_sentence() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut alone = child(nowhere.path(), &always(Some((200, OBJECT))).await);
    alone.env("GCE_METADATA_HOST", nobody());
    let hint =
        "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or run on a node with workload identity";
    let why = format!("no credentials were found, and no metadata server answers here ({hint})");
    assert_eq!(
        told(alone),
        [
            format!("Unauthenticated false cloud-storage: head object on gs://artifacts/x: {why}"),
            format!("Unauthenticated false firestore: list exports on projects/moodify/databases/(default): {why}"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_s_metadata_server_is_asked() {
    let (nowhere, bucket) = (tempfile::tempdir().unwrap(), always(Some((200, OBJECT))).await);
    let on_node = async |answer| {
        let mut node = child(nowhere.path(), &bucket);
        node.env("GCE_METADATA_HOST", metadata(answer).await);
        told(node).remove(0)
    };
    assert_eq!(on_node((200, TOKEN)).await, "found x");
    let without = on_node((404, "\r\nno service account")).await;
    assert!(
        without.starts_with("Unauthenticated false") && without.contains("HTTP status 404 (set GOOGLE"),
        "{without}"
    );
    let failing = on_node((503, "\r\nlater")).await;
    assert!(failing.starts_with("Unavailable true") && failing.contains("answers with HTTP status 503"), "{failing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_are_one_sentence_that_quotes_nothing() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), always(Some((200, OBJECT))).await);
    let with = async |answer| {
        let mut user_of = child(dir.path(), &bucket);
        user_of.env("GOOGLE_APPLICATION_CREDENTIALS", user(dir.path(), &answering(move |_| Some(answer)).await));
        told(user_of).remove(0)
    };
    assert_eq!(with((200, TOKEN)).await, "found x");
    let revoked = "Content-Type: application/json\r\n\r\n{\"error\": \"invalid_grant\", \"echo\": \"a-refresh-token\"}";
    assert_eq!(
        with((400, revoked)).await,
        "Unauthenticated false cloud-storage: head object on gs://artifacts/x: the credentials are expired or revoked: \
         no token is given for them any more (invalid_grant) (get new ones, then resume)"
    );
    let failing = with((503, "\r\nlater")).await;
    assert!(failing.starts_with("Unavailable true") && failing.contains("HTTP status 503"), "{failing}");
    let mut away = child(dir.path(), &bucket);
    away.env("GOOGLE_APPLICATION_CREDENTIALS", user(dir.path(), &format!("http://{}", nobody())));
    let away = told(away).remove(0);
    assert!(away.starts_with("Unavailable true"), "who gives tokens may come back: {away}");
    let mut missing = child(dir.path(), &bucket);
    missing.env("GOOGLE_APPLICATION_CREDENTIALS", dir.path().join("none.json"));
    let missing = told(missing).remove(0);
    assert!(missing.starts_with("Unauthenticated false") && missing.contains("none.json"), "{missing}");
}

/// A token that is not taken any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = always(Some((401, "\r\n{\"error\": {\"message\": \"Invalid Credentials\"}}"))).await;
    let mut node = child(dir.path(), &bucket);
    node.env("GCE_METADATA_HOST", metadata((200, TOKEN)).await);
    let refused = told(node).remove(0);
    assert!(refused.ends_with("HTTP status 401: Invalid Credentials (get new ones, then resume)"), "{refused}");
}

#[tokio::test]
#[ignore = "needs an environment; the tests above make it"]
async fn with_the_usual_places() {
    let Ok(url) = std::env::var("TEST_URL") else { return };
    let storage = StorageConfig::new("artifacts").api(ApiConfig::new().endpoint(&url));
    let store = CloudStorage::new(storage.clone()).unwrap();
    let tell = |error: moodify_core::Error| {
        let (shown, transient) = (format!("{:?} {} {error}", error.kind(), error.is_transient()), error.is_transient());
        for secret in ["a-refresh-token", "a-client-secret", "a-fake-token"] {
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
        assert_eq!(transient, error.kind() == ErrorKind::Unavailable);
        println!("\nTOLD {shown}");
    };
    match store.head(&cx(), "x").await {
        Ok(found) => println!("\nTOLD found {}", found.unwrap().path),
        Err(error) => {
            tell(error);
            let config = FirestoreConfig::new("moodify", storage).api(ApiConfig::new().endpoint(url));
            let listed = moodify_core::backend::BackupStore::list(&FirestoreBackups::new(config).unwrap(), &cx()).await;
            tell(listed.unwrap_err());
        }
    }
}
