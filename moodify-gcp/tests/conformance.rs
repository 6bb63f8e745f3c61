//! The contracts of the traits, held against fake-gcs-server and what goes by its side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::time::Duration;

use moodify_core::testing::conformance::{artifact_store, backup_store};
use moodify_gcp::{ApiConfig, CloudStorage, FirestoreBackups, FirestoreConfig, StorageConfig};
use peer::FakeGcs;
use peer::firestore::FakeFirestore;
use peer::storage::StrictStorage;

const PATIENCE: Duration = Duration::from_secs(300);

fn storage(url: &str, prefix: &str) -> StorageConfig {
    StorageConfig::new("artifacts").prefix(prefix).api(ApiConfig::new().endpoint(url).anonymous())
}

#[tokio::test]
async fn artifacts_in_the_emulator() {
    let Some(server) = FakeGcs::start().await else { return };
    server.write("elsewhere", "seen by nobody");
    for prefix in ["", "production/", "part-of-a-name-"] {
        artifact_store(&CloudStorage::new(storage(&server.url(), prefix)).unwrap(), PATIENCE).await;
    }
    assert!(server.ask("GET", "/storage/v1/b/artifacts/o/elsewhere", "").unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn artifacts_in_a_strict_server() {
    let server = StrictStorage::start().await;
    artifact_store(&CloudStorage::new(storage(&server.url(), "")).unwrap(), PATIENCE).await;
}

#[tokio::test]
async fn backups_of_firestore() {
    let Some(server) = FakeGcs::start().await else { return };
    let firestore = FakeFirestore::start(server.url()).await;
    let config = FirestoreConfig::new("moodify", storage(&server.url(), "firestore/")).api(firestore.api());
    backup_store(&FirestoreBackups::new(config).unwrap(), PATIENCE).await;
}
