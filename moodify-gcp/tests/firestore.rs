//! What goes wrong with exports and imports of Firestore.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::time::Duration;

use moodify_core::backend::{
    Backup, BackupRequest, BackupState, BackupStore, BackupStoreExt, DeleteRequest, RestoreRequest, RestoreState,
    Restored, Retention,
};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, Result, RunId};
use moodify_gcp::{ApiConfig, FirestoreBackups, FirestoreConfig, LiveRestore, StorageConfig};
use peer::FakeGcs;
use peer::firestore::{FakeFirestore, Fault};
use peer::storage::StrictStorage;
use serde_json::{Value, json};

const ROOT: &str = "firestore/_default/";

struct Scene {
    server: FakeGcs,
    firestore: FakeFirestore,
}

impl Scene {
    async fn new() -> Option<Self> {
        let server = FakeGcs::start().await?;
        let firestore = FakeFirestore::start(server.url()).await;
        Some(Self { server, firestore })
    }

    fn config(&self) -> FirestoreConfig {
        let api = ApiConfig::new().endpoint(self.server.url()).anonymous();
        let storage = StorageConfig::new("artifacts").prefix("firestore/").api(api);
        FirestoreConfig::new("moodify", storage).api(self.firestore.api())
    }

    /// As another process would make it: it knows nothing.
    fn store(&self) -> FirestoreBackups {
        FirestoreBackups::new(self.config()).unwrap()
    }

    async fn create(&self, key: &str) -> Result<Backup> {
        self.store().create(&cx(key), &BackupRequest::new()).await
    }

    /// A backup that is complete.
    async fn backup(&self, key: &str) -> String {
        let id = self.create(key).await.unwrap().id;
        self.store().wait_available(&cx(key), &id, &|_| ()).await.unwrap().id
    }

    async fn restore(&self, key: &str, backup: &str, target: &str) -> Result<Restored> {
        let request = RestoreRequest::new(backup, target);
        self.store().wait_restored(&cx(key), &request, &|_| ()).await
    }

    /// Restores without a pause between two looks.
    async fn restore_now(&self, key: &str, backup: &str, target: &str) -> RestoreState {
        for _ in 0..20 {
            let restored = self.store().restore(&cx(key), &RestoreRequest::new(backup, target)).await.unwrap();
            if !matches!(restored.state, RestoreState::Creating(_)) {
                return restored.state;
            }
        }
        panic!("it never ends");
    }

    /// The same for discarding.
    async fn discard_now(&self, key: &str, target: &str) {
        for _ in 0..20 {
            if self.store().discard(&cx(key), target).await.unwrap() {
                return;
            }
        }
        panic!("it never ends");
    }

    async fn restore_into_live(&self, key: &str, backup: &str) -> Result<Restored> {
        let request = LiveRestore::confirmed(backup, "(default)", "(default)").unwrap();
        for _ in 0..20 {
            let restored = self.store().restore_into_live(&cx(key), &request).await?;
            if !matches!(restored.state, RestoreState::Creating(_)) {
                return Ok(restored);
            }
        }
        panic!("it never ends");
    }

    fn delete_object(&self, name: &str) {
        let path = format!("/storage/v1/b/artifacts/o/{}", format!("{ROOT}{name}").replace('/', "%2F"));
        assert!(self.server.ask("DELETE", &path, "").unwrap().starts_with("HTTP/1.1 20"));
    }
}

fn cx(key: &str) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new(key), Duration::from_secs(300))
}

fn typed(id: &str) -> DeleteRequest {
    DeleteRequest::confirmed(id, id).unwrap()
}

#[tokio::test]
async fn a_restored_database_has_the_documents_of_the_backup() {
    let Some(scene) = Scene::new().await else { return };
    let before = scene.firestore.documents("(default)");
    let id = scene.backup("r1/backup").await;
    scene.firestore.write("(default)", "moods/ana", "2");
    scene.firestore.write("(default)", "moods/eve", "1");
    let verified = scene.store().verify(&cx("x"), &id).await.unwrap();
    assert!(verified.bytes.unwrap() > 50 && verified.run.is_some(), "{verified:?}");
    let restored = scene.restore("r1/restore", &id, "moods-restored").await.unwrap();
    assert_eq!(restored.endpoint.as_deref(), Some("projects/moodify/databases/moods-restored"));
    assert_eq!(scene.firestore.documents("moods-restored"), before);
    // What Firestore forgets is known by what is in the bucket.
    scene.firestore.forget_operations();
    assert_eq!(scene.store().describe(&cx("x"), &id).await.unwrap().unwrap().state, BackupState::Available);
    assert_eq!(scene.restore("r1/restore", &id, "moods-restored").await.unwrap(), restored);
    assert_eq!(scene.firestore.count(":importDocuments"), 1);
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_export_database_or_import() {
    let Some(scene) = Scene::new().await else { return };
    for request in [":exportDocuments", "databaseId=", ":importDocuments"] {
        scene.firestore.fault(request, Fault::LoseAnswer);
    }
    let lost = scene.create("r1/backup").await.unwrap_err();
    assert_eq!((lost.kind(), lost.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{lost}");
    let id = scene.backup("r1/backup").await;
    scene.restore("r1/restore", &id, "moods-restored").await.unwrap();
    for request in [":exportDocuments", ":importDocuments"] {
        assert_eq!(scene.firestore.count(request), 1, "{request}");
    }
    assert_eq!(scene.firestore.documents("moods-restored"), scene.firestore.documents("(default)"));
}

#[tokio::test]
async fn what_is_throttled_or_refused_changed_nothing() {
    let Some(scene) = Scene::new().await else { return };
    for (status, code, kind) in [
        (429, "RESOURCE_EXHAUSTED", ErrorKind::Throttled),
        (403, "PERMISSION_DENIED", ErrorKind::Forbidden),
        (400, "INVALID_ARGUMENT", ErrorKind::Invalid),
    ] {
        scene.firestore.fault(":exportDocuments", Fault::Refuse(status, code));
        let error = scene.create("r1/backup").await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (kind, Effect::None), "{error}");
    }
    scene.firestore.fault(":exportDocuments", Fault::Refuse(503, "UNAVAILABLE"));
    let error = scene.create("r1/backup").await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    assert_eq!(scene.store().list(&cx("x")).await.unwrap(), []);
    // Waiting asks again, where nothing can be made twice.
    let id = scene.create("r1/backup").await.unwrap().id;
    scene.firestore.fault("/operations", Fault::Refuse(429, "RESOURCE_EXHAUSTED"));
    scene.store().wait_available(&cx("x"), &id, &|_| ()).await.unwrap();
}

#[tokio::test]
async fn an_export_that_breaks_off_is_a_failed_backup() {
    let Some(scene) = Scene::new().await else { return };
    for (n, (fault, why)) in [
        (Fault::Fail, "its operation failed: FAILED half-way"),
        (Fault::Cancel, "somebody cancelled its operation"),
        (Fault::Forget, "overall_export_metadata is missing"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("r1/backup-{n}");
        scene.firestore.fault(":exportDocuments", fault);
        let id = scene.create(&key).await.unwrap().id;
        let error = scene.store().wait_available(&cx(&key), &id, &|_| ()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
        assert!(error.message().contains(why), "{error}");
        assert_eq!(scene.store().verify(&cx("x"), &id).await.unwrap_err().kind(), ErrorKind::Unhealthy);
        let again = scene.create(&key).await.unwrap();
        assert!(matches!(again.state, BackupState::Failed(_)), "the same key is the same backup: {again:?}");
        let error = scene.restore("r1/restore", &id, "moods-restored").await.unwrap_err();
        assert_eq!((error.kind(), scene.firestore.count("databaseId=")), (ErrorKind::Unhealthy, 0), "{error}");
        scene.store().delete(&cx("x"), &typed(&id)).await.unwrap();
    }
}

#[tokio::test]
async fn an_import_that_breaks_off_is_a_failed_restore_that_can_be_discarded() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    for (fault, why) in [(Fault::Fail, "FAILED half-way"), (Fault::Cancel, "somebody cancelled")] {
        scene.firestore.fault(":importDocuments", fault);
        let error = scene.restore("r1/restore", &id, "moods-restored").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unhealthy, "{error}");
        assert!(error.message().contains(why) && error.message().contains("a part of the documents"), "{error}");
        assert!(!scene.firestore.documents("moods-restored").unwrap().is_empty(), "it did break off half-way");
        scene.store().wait_discarded(&cx("r1/restore"), "moods-restored").await.unwrap();
        assert_eq!(scene.firestore.documents("moods-restored"), None);
    }
    scene.restore("r1/restore", &id, "moods-restored").await.unwrap();
}

#[tokio::test]
async fn a_restored_database_that_is_not_as_asked_for_fails() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    for (request, fault, why) in [
        (":importDocuments", Fault::Forget, "is over with 2 documents, but the backup has 3"),
        ("databaseId=", Fault::Elsewhere, "its location is us-east1, but us-central1 was asked for"),
    ] {
        scene.firestore.fault(request, fault);
        let state = scene.restore_now("r1/restore", &id, "moods-restored").await;
        assert!(matches!(&state, RestoreState::Failed(told) if told.contains(why)), "{state}");
        let again = scene.restore_now("r1/restore", &id, "moods-restored").await;
        assert_eq!(again, state, "it does not get better by asking");
        scene.discard_now("r1/restore", "moods-restored").await;
    }
    scene.firestore.fault(":importDocuments", Fault::Forget);
    let error = scene.restore_into_live("r1/live", &id).await.map(|restored| restored.state);
    assert!(matches!(&error, Ok(RestoreState::Failed(why)) if why.contains("the backup has 3")), "{error:?}");
}

#[tokio::test]
async fn what_is_discarded_before_it_can_be_seen_does_not_come_to_light_later() {
    let Some(scene) = Scene::new().await else { return };
    let (id, target) = (scene.backup("r1/backup").await, "moods-restored");
    let request = RestoreRequest::new(&id, target);
    for answered in [true, false] {
        if !answered {
            scene.firestore.fault("databaseId=", Fault::LoseAnswer);
        }
        let begun = scene.store().restore(&cx("r1/restore"), &request).await;
        assert_eq!(begun.is_ok(), answered, "{begun:?}");
        assert!(!scene.store().target_exists(&cx("x"), target).await.unwrap(), "it is on its way");
        assert!(!scene.store().discard(&cx("r1/restore"), target).await.unwrap(), "which is not gone");
        // The answer to its deletion is lost too.
        scene.firestore.fault("DELETE", Fault::LoseAnswer);
        let lost = scene.store().wait_discarded(&cx("r1/restore"), target).await.unwrap_err();
        assert_eq!(lost.effect_of(), Effect::Unknown, "{lost}");
        scene.discard_now("r1/restore", target).await;
        for _ in 0..5 {
            assert!(!scene.store().target_exists(&cx("x"), target).await.unwrap());
        }
        assert_eq!(scene.firestore.documents(target), None);
        assert!(scene.store().discard(&cx("r1/restore"), target).await.unwrap(), "nothing is noted of it any more");
    }
    // Where nothing was begun for certain, nothing is made only to be deleted.
    scene.firestore.fault("databaseId=", Fault::Refuse(403, "PERMISSION_DENIED"));
    let error = scene.store().restore(&cx("r1/restore"), &request).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Forbidden, Effect::None), "{error}");
    let asked = scene.firestore.count("databaseId=");
    assert!(scene.store().discard(&cx("r1/restore"), target).await.unwrap());
    assert_eq!(scene.firestore.count("databaseId="), asked);
}

#[tokio::test]
async fn what_is_changed_after_it_was_verified_is_noticed() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    scene.store().verify(&cx("x"), &id).await.unwrap();
    let object = format!("{id}/all_namespaces/all_kinds/output-0");
    scene.server.write(&format!("{ROOT}{object}"), "{\"moods/ana\": \"9\"}");
    let error = scene.store().verify(&cx("x"), &id).await.unwrap_err();
    assert!(error.message().contains(&object) && error.message().contains("was verified as"), "{error}");
    scene.delete_object(&object);
    let error = scene.restore("r1/restore", &id, "moods-restored").await.unwrap_err();
    assert_eq!((error.kind(), scene.firestore.count("databaseId=")), (ErrorKind::Unhealthy, 0), "{error}");
    assert!(error.message().contains("is gone since it was verified"), "{error}");
}

#[tokio::test]
async fn what_vanished_before_it_was_first_verified_is_noticed() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    scene.delete_object(&format!("{id}/all_namespaces/all_kinds/output-1"));
    let error = scene.store().verify(&cx("x"), &id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy, "{error}");
    assert!(error.message().contains("overall_export_metadata names output-1, which is not there"), "{error}");
    let error = scene.restore("r1/restore", &id, "moods-restored").await.unwrap_err();
    assert_eq!((error.kind(), scene.firestore.count("databaseId=")), (ErrorKind::Unhealthy, 0), "{error}");
}

#[tokio::test]
async fn a_bucket_elsewhere_is_refused_before_anything_is_begun() {
    let Some(scene) = Scene::new().await else { return };
    let elsewhere = FirestoreBackups::new(scene.config().locations(["EU"])).unwrap();
    let error = elsewhere.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
    assert!(error.message().contains("it is in US-CENTRAL1, and the database in us-central1"), "{error}");
    let missing = FirestoreBackups::new(scene.config().database("moods")).unwrap();
    let error = missing.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.target()), (ErrorKind::NotFound, "projects/moodify/databases/moods"));
    assert_eq!(scene.firestore.count(":exportDocuments"), 0);
}

#[tokio::test]
async fn a_bucket_whose_rules_are_not_ours_is_refused_before_anything_is_begun() {
    let storage = StrictStorage::start().await;
    let firestore = FakeFirestore::start(storage.url()).await;
    let config = StorageConfig::new("artifacts").prefix("firestore/");
    let config = config.api(ApiConfig::new().endpoint(storage.url()).anonymous());
    let store = FirestoreBackups::new(FirestoreConfig::new("moodify", config).api(firestore.api())).unwrap();
    let deletes =
        |condition: &Value| json!({"lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": condition}]}});
    for (bucket, why) in [
        (json!({"retentionPolicy": {"retentionPeriod": "5184000"}}), "lets nobody delete objects for 60 days"),
        (json!({"defaultEventBasedHold": true}), "holds every new object"),
        (deletes(&json!({"createdBefore": "2999-01-01"})), "deletes objects after 0 days"),
        (deletes(&json!({"age": 3, "matchesSuffix": [".json"]})), "deletes objects after 3 days"),
    ] {
        storage.set_bucket(bucket);
        let error = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
        assert!(error.message().contains(why), "{error}");
    }
    assert_eq!(firestore.count(":exportDocuments"), 0);
    let mut harmless = deletes(&json!({"age": 3, "matchesSuffix": [".log"]}));
    harmless["retentionPolicy"] = json!({"retentionPeriod": "86400"});
    storage.set_bucket(harmless);
    store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_database_is_left_as_it_is() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    scene.firestore.create("theirs");
    let error = scene.restore("r1/restore", &id, "theirs").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let error = scene.store().discard(&cx("r1/restore"), "theirs").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(scene.firestore.documents("theirs"), Some(Default::default()));
    for bad in ["(default)", "no", "Moods", "moods/x"] {
        let error = scene.restore("r1/restore", &id, bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    let second = scene.backup("r2/backup").await;
    scene.restore("r1/restore", &id, "moods-restored").await.unwrap();
    let error = scene.restore("r1/restore", &second, "moods-restored").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "not with another backup: {error}");
}

#[tokio::test]
async fn a_database_that_was_lost_is_restored() {
    let Some(scene) = Scene::new().await else { return };
    let before = scene.firestore.documents("(default)");
    let id = scene.backup("r1/backup").await;
    scene.firestore.lose("(default)");
    assert_eq!(scene.store().list(&cx("x")).await.unwrap()[0].id, id);
    scene.restore("r1/restore", &id, "moods-restored").await.unwrap();
    assert_eq!(scene.firestore.documents("moods-restored"), before);
}

#[tokio::test]
async fn only_what_a_run_made_is_pruned_and_nothing_that_is_still_written() {
    let Some(scene) = Scene::new().await else { return };
    let older = scene.backup("r1/backup").await;
    let begun = scene.create("r2/backup").await.unwrap();
    let error = scene.store().delete(&cx("x"), &typed(&begun.id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    scene.store().wait_available(&cx("x"), &begun.id, &|_| ()).await.unwrap();
    // Made by a person: it has no record.
    scene.server.write(&format!("{ROOT}nightly/nightly.overall_export_metadata"), "[]");
    let retention: Retention = serde_json::from_str(r#"{"newest": 1}"#).unwrap();
    let now = SystemClock.now();
    let deleted = scene.store().prune(&cx("x"), &retention, now, &|_| false).await.unwrap();
    assert!(deleted.contains(&older) && !deleted.contains(&"nightly".to_owned()), "{deleted:?}");
    assert_eq!(scene.store().describe(&cx("x"), &older).await.unwrap(), None);
    let nightly = scene.store().describe(&cx("x"), "nightly").await.unwrap().unwrap();
    assert_eq!(nightly.run, None);
    scene.store().delete(&cx("x"), &typed("nightly")).await.unwrap();
    assert_eq!(scene.store().describe(&cx("x"), "nightly").await.unwrap(), None);
}

#[tokio::test]
async fn into_the_live_database_only_after_an_export_of_it() {
    let Some(scene) = Scene::new().await else { return };
    let id = scene.backup("r1/backup").await;
    scene.firestore.write("(default)", "moods/ana", "2");
    scene.firestore.write("(default)", "moods/eve", "1");
    let changed = scene.firestore.documents("(default)").unwrap();

    scene.firestore.fault(":exportDocuments", Fault::Fail);
    let error = scene.restore_into_live("r1/failed", &id).await.unwrap_err();
    assert_eq!((error.kind(), scene.firestore.count(":importDocuments")), (ErrorKind::Unhealthy, 0), "{error}");
    assert_eq!(scene.firestore.documents("(default)"), Some(changed.clone()));

    scene.firestore.fault(":importDocuments", Fault::LoseAnswer);
    let lost = scene.restore_into_live("r1/live", &id).await.unwrap_err();
    assert_eq!(lost.effect_of(), Effect::Unknown, "{lost}");
    let restored = scene.restore_into_live("r1/live", &id).await.unwrap();
    assert_eq!(restored.state, RestoreState::Available);
    assert_eq!(scene.firestore.count(":importDocuments"), 1);
    let mut expected = changed.clone();
    expected.insert("moods/ana".to_owned(), "1".to_owned());
    assert_eq!(scene.firestore.documents("(default)"), Some(expected), "it adds and replaces, and deletes none");

    // What was there can be had again.
    let backups = scene.store().list(&cx("x")).await.unwrap();
    let before = backups.iter().find(|backup| backup.id != id && backup.state == BackupState::Available).unwrap();
    scene.restore("r1/restore", &before.id, "moods-before").await.unwrap();
    assert_eq!(scene.firestore.documents("moods-before"), Some(changed));

    // Another step imports the same backup again.
    scene.firestore.write("(default)", "moods/ana", "3");
    scene.restore_into_live("r2/live", &id).await.unwrap();
    assert_eq!(scene.firestore.documents("(default)").unwrap()["moods/ana"], "1");
    let other = LiveRestore::confirmed(&id, "other", "other").unwrap();
    let error = scene.store().restore_into_live(&cx("r3/live"), &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
