//! The contracts of `BackupStore`, held against moto, which speaks the same API for Aurora, and of `ArtifactStore`, held
//! against a real server of S3.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig, S3Artifacts, S3Config};
use moodify_core::backend::{BackupRequest, BackupState, BackupStore, DeleteRequest};
use moodify_core::testing::conformance::{artifact_store, backup_store};
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, RunId};
use peer::gateway::Gateway;
use peer::{Moto, always, error_of};

fn cx_of(key: &str, timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new(key), timeout)
}

fn cx(key: &str) -> CallContext {
    cx_of(key, Duration::from_secs(60))
}

fn config(url: &str, cluster: &str) -> DocumentDbConfig {
    DocumentDbConfig::new(api(url), cluster).engine("aurora-mysql").instances(1, "db.r6g.large")
}

fn api(url: &str) -> ApiConfig {
    ApiConfig::new("eu-central-1").endpoint(url).credentials(
        "AKIAMOODIFY",
        "a-secret-key",
        Some("a-session-token".into()),
    )
}

fn typed(id: &str) -> DeleteRequest {
    DeleteRequest::confirmed(id, id).unwrap()
}

fn store(config: DocumentDbConfig) -> Box<dyn BackupStore> {
    Box::new(DocumentDbBackups::new(config).unwrap())
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_store() {
    let Some(moto) = Moto::shared().await else { return };
    moto.create_cluster("contract", true);
    backup_store(store(config(&moto.url(), "contract")).as_ref(), Duration::from_secs(60)).await;
}

/// Not in moto: of an upload in parts it keeps a checksum of checksums, also where one of the whole object was asked for.
#[tokio::test]
async fn artifacts_in_a_real_server() {
    let Some(server) = Gateway::start().await else { return };
    let api = ApiConfig::new("eu-central-1").endpoint(server.url()).credentials(peer::KEY, peer::SECRET, None);
    std::fs::write(server.bucket().join("elsewhere"), "seen by nobody").unwrap();
    for prefix in ["", "production/"] {
        let config = S3Config::new(api.clone(), "artifacts").prefix(prefix);
        artifact_store(&S3Artifacts::new(config).unwrap(), Duration::from_secs(300)).await;
    }
    assert!(server.bucket().join("elsewhere").is_file());
}

#[tokio::test]
async fn a_backup_is_made_once_per_key_and_described() {
    let Some(moto) = Moto::shared().await else { return };
    moto.create_cluster("backed", true);
    let store = store(config(&moto.url(), "backed"));
    assert_eq!(store.describe(&cx("x"), "no-such-snapshot").await.unwrap(), None);

    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    assert_eq!((made.source.as_str(), made.encrypted), ("backed", Some(true)));
    assert!(made.engine.as_deref().unwrap().starts_with("aurora-mysql "), "{made:?}");
    assert_eq!(
        store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id,
        made.id,
        "the same key is the same backup"
    );
    let other = store.create(&cx("r2/backup"), &BackupRequest::new()).await.unwrap();
    assert_ne!(other.id, made.id);

    let described = store.describe(&cx("x"), &made.id).await.unwrap().unwrap();
    assert_eq!(described.state, BackupState::Available);
    assert!(described.created.is_some(), "{described:?}");
    let listed: Vec<String> = store.list(&cx("x")).await.unwrap().into_iter().map(|backup| backup.id).collect();
    assert_eq!(listed[..2], [other.id, made.id.clone()], "newest first");
    assert!(listed[2].starts_with("rds:"), "automated snapshots too: {listed:?}");
    assert_eq!(store.verify(&cx("x"), &made.id).await.unwrap(), described);
}

#[tokio::test]
async fn a_taken_name_without_our_tag_is_somebody_elses() {
    let Some(moto) = Moto::shared().await else { return };
    moto.create_cluster("taken", true);
    let store = store(config(&moto.url(), "taken"));
    let id = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id;
    store.delete(&cx("x"), &typed(&id)).await.unwrap();
    moto.request(&format!(
        "Action=CreateDBClusterSnapshot&Version=2014-10-31&DBClusterIdentifier=taken&DBClusterSnapshotIdentifier={id}"
    ));
    let error = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::AlreadyExists, Effect::None), "{error}");
}

#[tokio::test]
async fn a_backup_that_is_not_good_fails_verification() {
    let Some(moto) = Moto::shared().await else { return };
    moto.create_cluster("bad", false);
    let id = store(config(&moto.url(), "bad")).create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id;
    for (config, id, why) in [
        (config(&moto.url(), "bad"), "no-such-snapshot", "there is no such snapshot"),
        (config(&moto.url(), "bad"), id.as_str(), "not encrypted"),
        (
            config(&moto.url(), "bad").require_encryption(false).engine("docdb"),
            id.as_str(),
            "not by a version of docdb",
        ),
    ] {
        let error = store(config).verify(&cx("x"), id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unhealthy, "{error}");
        assert!(error.message().contains(why), "{error}");
    }
    store(config(&moto.url(), "bad").require_encryption(false)).verify(&cx("x"), &id).await.unwrap();
}

#[tokio::test]
async fn deleting_is_idempotent_and_only_of_this_cluster() {
    let Some(moto) = Moto::shared().await else { return };
    for cluster in ["deleted", "others"] {
        moto.create_cluster(cluster, true);
    }
    moto.request(
        "Action=CreateDBClusterSnapshot&Version=2014-10-31&DBClusterIdentifier=others&DBClusterSnapshotIdentifier=theirs",
    );
    let store = store(config(&moto.url(), "deleted"));
    let id = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id;
    for _ in 0..2 {
        store.delete(&cx("x"), &typed(&id)).await.unwrap();
        assert_eq!(store.describe(&cx("x"), &id).await.unwrap(), None);
    }
    let error = store.delete(&cx("x"), &typed("theirs")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(store.describe(&cx("x"), "theirs").await.unwrap().is_some());
}

#[tokio::test]
async fn a_cluster_that_is_not_there_has_no_backups_and_gets_none() {
    let Some(moto) = Moto::shared().await else { return };
    let store = store(config(&moto.url(), "missing"));
    assert_eq!(store.list(&cx("x")).await.unwrap(), []);
    let error = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of(), error.is_transient()), (ErrorKind::NotFound, Effect::None, false));
}

#[tokio::test]
async fn failures_are_told_apart() {
    for (status, body, kind, transient, effect) in [
        (400, error_of("Throttling", "Rate exceeded"), ErrorKind::Throttled, true, Effect::None),
        (403, error_of("AccessDenied", "not authorized"), ErrorKind::Forbidden, false, Effect::None),
        (403, error_of("ExpiredToken", "a-session-token"), ErrorKind::Unauthenticated, false, Effect::None),
        (403, error_of("SignatureDoesNotMatch", "a-session-token"), ErrorKind::Unauthenticated, false, Effect::None),
        (400, error_of("InvalidDBClusterStateFault", "is modifying"), ErrorKind::Conflict, true, Effect::None),
        (400, error_of("SnapshotQuotaExceeded", "quota"), ErrorKind::Invalid, false, Effect::None),
        (500, error_of("InternalFailure", "oops"), ErrorKind::Unavailable, true, Effect::Unknown),
        (503, "<html>a proxy</html>", ErrorKind::Unavailable, true, Effect::Unknown),
        (200, "not xml", ErrorKind::Internal, false, Effect::Unknown),
    ] {
        let error = store(config(&always(Some((status, body))).await, "moods"))
            .create(&cx("r1/backup"), &BackupRequest::new())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.is_transient(), error.effect_of()),
            (kind, transient, effect),
            "{body}: {error}"
        );
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("a-session-token") && !shown.contains("a-secret-key"), "{shown}");
    }
}

#[tokio::test]
async fn a_silent_api_is_given_up_at_the_deadline() {
    let silent = always(None).await;
    let soon = || cx_of("r1/backup", Duration::from_millis(200));
    let error = store(config(&silent, "moods")).create(&soon(), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    let error = store(config(&silent, "moods")).list(&soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None), "{error}");
    let hasty = DocumentDbConfig::new(api(&silent).response_timeout(Duration::from_millis(200)), "moods");
    let error = store(hasty).list(&cx("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "its own response timeout is earlier: {error}");
}

#[tokio::test]
async fn an_api_that_is_not_there_is_unavailable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = store(config(&format!("http://127.0.0.1:{port}"), "moods"))
        .create(&cx("x"), &BackupRequest::new())
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
    assert_eq!(error.effect_of(), Effect::None, "it was never connected");
    assert!(error.message().contains("refused"), "it names the cause: {error}");
}

/// The usual places of credentials are of the process, so these cases run in processes of their own.
#[tokio::test]
async fn credentials_come_from_the_environment_or_are_missed() {
    let Some(moto) = Moto::shared().await else { return };
    let nowhere = tempfile::tempdir().unwrap();
    let child = |expected: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "with_the_default_chain", "--ignored"]);
        child.env_clear().env("HOME", nowhere.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        child.env("TEST_URL", moto.url()).env("TEST_EXPECTED", expected);
        child
    };
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAMOODIFY"), ("AWS_SECRET_ACCESS_KEY", "a-secret-key")];
    for mut case in [child("missing"), {
        let mut c = child("there");
        c.envs(keys);
        c
    }] {
        let ran = case.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    }
}

#[tokio::test]
#[ignore = "needs an environment; the test above makes it"]
async fn with_the_default_chain() {
    let Ok(url) = std::env::var("TEST_URL") else { return };
    let store = store(DocumentDbConfig::new(ApiConfig::new("eu-central-1").endpoint(url), "chain"));
    let listed = store.list(&cx("x")).await;
    match std::env::var("TEST_EXPECTED").unwrap().as_str() {
        "there" => assert_eq!(listed.unwrap(), []),
        _ => {
            let error = listed.unwrap_err();
            assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false), "{error}");
            let sentence = "documentdb: list snapshots on chain: no AWS credentials were found \
                            (set an access key, or run where AWS provides credentials)";
            assert_eq!(error.to_string(), sentence);
        }
    }
}
