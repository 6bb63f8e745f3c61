//! DocumentDB with its real states and faults, on a fake that is held against moto where moto can.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod fake;
mod peer;

use std::time::Duration;

use fake::{Fake, Fault};
use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig};
use moodify_core::backend::{
    Backup, BackupRequest, BackupStore, BackupStoreExt, RestorePoint, RestoreRequest, RestoreState, Restored, Retention,
};
use moodify_core::testing::conformance::backup_store;
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, Result, RunId};
use peer::{Moto, differences};

const CLUSTER: &str = "moods";

fn cx_of(key: &str, timeout: Duration) -> CallContext {
    let run = key.split('/').next().unwrap();
    CallContext::new(RunId::new(run).unwrap(), IdempotencyKey::new(key), timeout)
}

fn cx(key: &str) -> CallContext {
    cx_of(key, Duration::from_secs(60))
}

fn config(fake: &Fake) -> DocumentDbConfig {
    let api = ApiConfig::new("eu-central-1").endpoint(fake.url()).credentials("AKIAMOODIFY", "a-secret-key", None);
    DocumentDbConfig::new(api, CLUSTER)
}

/// A cluster with two instances that is not as any other.
async fn fake(looks: u32) -> (Fake, DocumentDbBackups) {
    let fake = Fake::start().await;
    let created =
        fake.ask(&format!("Action=CreateDBCluster&DBClusterIdentifier={CLUSTER}&Engine=docdb&StorageEncrypted=true"));
    assert_eq!(created.0, 200);
    for n in ["a", "b"] {
        let form = format!(
            "Action=CreateDBInstance&DBInstanceIdentifier={n}&DBClusterIdentifier={CLUSTER}&DBInstanceClass=db.r6g.large"
        );
        assert_eq!(fake.ask(&form).0, 200);
    }
    let mut world = fake.world();
    let cluster = world.clusters.get_mut(CLUSTER).unwrap();
    for (name, value) in [
        ("DBSubnetGroup", "private"),
        ("groups", "sg-1,sg-2"),
        ("DBClusterParameterGroup", "moods-parameters"),
        ("DeletionProtection", "true"),
        ("Port", "27018"),
    ] {
        cluster.set(name, value);
    }
    world.looks = looks;
    drop(world);
    let store = DocumentDbBackups::new(config(&fake)).unwrap();
    (fake, store)
}

async fn backed_up(store: &DocumentDbBackups) -> Backup {
    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap()
}

async fn restored(store: &DocumentDbBackups, request: &RestoreRequest) -> Result<Restored> {
    store.wait_restored(&cx("r1/restore"), request, &|_| ()).await
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_store() {
    let (_fake, store) = fake(1).await;
    backup_store(&store, Duration::from_secs(120)).await;
}

#[tokio::test]
async fn a_restored_cluster_is_like_the_one_that_was_backed_up_and_can_be_taken_back() {
    let (fake, store) = fake(1).await;
    let made = backed_up(&store).await;
    let request = RestoreRequest::new(&made.id, "moods-2");
    let told = std::sync::Mutex::new(Vec::new());
    let seen = |restored: &Restored| told.lock().unwrap().push(restored.state.to_string());
    let there = store.wait_restored(&cx("r1/restore"), &request, &seen).await.unwrap();
    assert_eq!(there.endpoint.as_deref(), Some("moods-2.cluster-c1.eu-central-1.docdb.amazonaws.com"));
    let told = told.into_inner().unwrap().join("; ");
    for part in ["the cluster is being made", "the cluster is creating", "0 of 2 instances", "complete"] {
        assert!(told.contains(part), "{told}");
    }
    {
        let world = fake.world();
        let (old, new) = (&world.clusters[CLUSTER], &world.clusters["moods-2"]);
        for name in ["DBSubnetGroup", "groups", "DBClusterParameterGroup", "DeletionProtection", "Port", "KmsKeyId"] {
            assert_eq!(new.get(name), old.get(name), "{name}");
            assert_ne!(new.get(name), "", "{name}");
        }
        let of: Vec<_> = world.instances.values().filter(|i| i.get("DBClusterIdentifier") == "moods-2").collect();
        assert!(of.len() == 2 && of.iter().all(|i| i.get("DBInstanceClass") == "db.r6g.large"), "{of:?}");
    }
    let described = store.describe_cluster(&cx("r1/x"), "moods-2").await.unwrap().unwrap();
    assert_eq!((described.status.as_str(), described.encrypted), ("available", true));
    let writers = described.instances.iter().filter(|instance| instance.writer).count();
    assert_eq!((described.instances.len(), writers), (2, 1), "{described:?}");
    assert_eq!(store.describe_cluster(&cx("r1/x"), "none").await.unwrap(), None);

    let error = store.discard(&cx("r1/restore"), CLUSTER).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "never the one that is backed up: {error}");
    store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    let world = fake.world();
    assert_eq!((world.clusters.len(), world.clusters.contains_key(CLUSTER)), (1, true));
    assert!(world.instances.contains_key("a") && world.instances.contains_key("b"));
}

#[tokio::test]
async fn what_the_configuration_says_is_carried_instead_also_when_the_old_cluster_is_gone() {
    let (fake, store) = fake(0).await;
    let made = backed_up(&store).await;
    fake.world().clusters.clear();
    let request = RestoreRequest::new(&made.id, "moods-2");
    let error = store.restore(&cx("r1/restore"), &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("set instance-class"), "{error}");
    assert_eq!(fake.count("RestoreDBClusterFromSnapshot"), 0, "before any effect");

    let config = config(&fake).restore_into("other", ["sg-9"]).parameter_group("calm").deletion_protection(false);
    let store = DocumentDbBackups::new(config.kms_key("key").instances(1, "db.t4g.medium")).unwrap();
    restored(&store, &request).await.unwrap();
    let world = fake.world();
    let new = &world.clusters["moods-2"];
    let carried = ["DBSubnetGroup", "groups", "DBClusterParameterGroup", "DeletionProtection", "KmsKeyId"];
    assert_eq!(carried.map(|name| new.get(name)), ["other", "sg-9", "calm", "false", "key"]);
    assert_eq!(world.instances["moods-2-1"].get("DBInstanceClass"), "db.t4g.medium");
}

#[tokio::test]
async fn a_point_in_time_is_restored_with_its_parameter_group() {
    let (fake, store) = fake(0).await;
    let at = |time: &str| RestoreRequest::from(RestorePoint::Time(time.parse().unwrap()), "moods-then");
    let error = store.restore(&cx("r1/restore"), &at("2026-11-24T13:00:00Z")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None), "{error}");
    restored(&store, &at("2026-11-24T11:00:00Z")).await.unwrap();
    assert_eq!(fake.world().clusters["moods-then"].get("DBClusterParameterGroup"), "moods-parameters");
}

#[tokio::test]
async fn a_restored_cluster_that_is_not_as_asked_for_fails_with_both_values() {
    let (fake, store) = fake(0).await;
    let made = backed_up(&store).await;
    let request = RestoreRequest::new(&made.id, "moods-2");
    for (kind, field, value, why) in [
        ("cluster", "StorageEncrypted", "false", "encryption false instead of true"),
        ("cluster", "KmsKeyId", "other", "kms key other instead of arn:aws:kms:eu-central-1:123456789012:key/1"),
        ("cluster", "EngineVersion", "4.0.0", "engine version 4.0.0 instead of 5.0.0"),
        ("cluster", "DBSubnetGroup", "public", "subnet group public instead of private"),
        ("cluster", "groups", "sg-2", "security groups sg-2 instead of sg-1 sg-2"),
        ("cluster", "DeletionProtection", "false", "deletion protection false instead of true"),
        ("cluster", "Port", "27017", "port 27017 instead of 27018"),
        ("instance", "DBInstanceClass", "db.t3.medium", "is db.t3.medium, but db.r6g.large was asked for"),
    ] {
        fake.world().twists = vec![(kind, field, value)];
        let error = restored(&store, &request).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unhealthy && error.message().contains(why), "{error}");
        store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    }
    // The order of groups is AWS's, and its parameter group is set once more.
    fake.world().twists = vec![("cluster", "groups", "sg-2,sg-1"), ("cluster", "DBClusterParameterGroup", "other")];
    restored(&store, &request).await.unwrap();
    assert_eq!(fake.world().clusters["moods-2"].get("DBClusterParameterGroup"), "moods-parameters");
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_nothing_twice() {
    let (fake, store) = fake(0).await;
    for action in ["CreateDBClusterSnapshot", "RestoreDBClusterFromSnapshot", "CreateDBInstance", "DeleteDBCluster"] {
        fake.fault(action, 1, &Fault::LoseAnswer);
    }
    let lost = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((lost.kind(), lost.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{lost}");
    let made = backed_up(&store).await;
    restored(&store, &RestoreRequest::new(&made.id, "moods-2")).await.unwrap();
    {
        let world = fake.world();
        assert_eq!((world.snapshots.len(), world.clusters.len(), world.instances.len()), (1, 2, 4));
        let sent = |action: &str| world.requests.iter().filter(|request| *request == action).count();
        assert_eq!((sent("RestoreDBClusterFromSnapshot"), sent("CreateDBInstance")), (1, 2), "looked at first");
    }
    store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    assert_eq!(fake.world().clusters.len(), 1);
}

#[tokio::test]
async fn tags_name_the_run_the_plan_and_the_time() {
    let (fake, store) = fake(0).await;
    let request = BackupRequest::new().label("plan", "weekly <release> v1.2");
    let made = store.create(&cx("r1/backup"), &request).await.unwrap();
    assert_eq!(made.run.as_ref().map(RunId::as_str), Some("r1"));
    let shown = format!("{:?}", fake.world().snapshots[&made.id]);
    for part in [
        "(\"moodify:run\", \"r1\")",
        "(\"moodify:plan\", \"weekly _release_ v1.2\")",
        "\"moodify:time\"",
        "\"moodify:key\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn all_pages_are_listed_and_retention_spares_what_has_no_tag_of_ours() {
    let (fake, store) = fake(0).await;
    let mut ids = Vec::new();
    for run in ["r1", "r2", "r3", "r4"] {
        let cx = cx(&format!("{run}/backup"));
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        ids.push(store.wait_available(&cx, &made.id, &|_| ()).await.unwrap().id);
    }
    let nightly = format!("DBClusterSnapshotIdentifier=nightly&DBClusterIdentifier={CLUSTER}");
    // The name says that a run made it, but it has no tag.
    let forged = format!("DBClusterSnapshotIdentifier=moodify-r0-0123456789abcd&DBClusterIdentifier={CLUSTER}");
    assert_eq!(fake.ask(&format!("Action=CreateDBClusterSnapshot&{nightly}")).0, 200);
    let listed = store.list(&cx("r1/x")).await.unwrap();
    let runs: Vec<_> = listed.iter().map(|backup| backup.run.as_ref().map_or("", RunId::as_str)).collect();
    assert_eq!(runs, ["", "r4", "r3", "r2", "r1"], "all pages, newest first");

    let retention: Retention = serde_json::from_str(r#"{"newest": 2}"#).unwrap();
    let now = "2026-11-25T00:00:00Z".parse().unwrap();
    let deleted = store.prune(&cx("r1/x"), &retention, now, &|_| false).await.unwrap();
    assert_eq!(deleted, ids[..2]);
    assert_eq!(fake.ask(&format!("Action=CreateDBClusterSnapshot&{forged}")).0, 200);
    store.wait_available(&cx("r1/x"), "moodify-r0-0123456789abcd", &|_| ()).await.unwrap();
    let all: Retention = serde_json::from_str(r#"{"newest": 1}"#).unwrap();
    store.prune(&cx("r1/x"), &all, now, &|_| false).await.unwrap();
    let fresh = store.create(&cx("r9/backup"), &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx("r9/backup"), &fresh.id, &|_| ()).await.unwrap();
    assert_eq!(store.prune(&cx("r1/x"), &all, now, &|_| false).await.unwrap(), [""; 0]);
    assert!(fake.world().snapshots.contains_key("moodify-r0-0123456789abcd"));
}

#[tokio::test]
async fn throttling_is_waited_out_and_an_expired_token_is_not() {
    let (fake, store) = fake(0).await;
    let made = backed_up(&store).await;
    fake.fault("DescribeDBClusterSnapshots", 2, &Fault::Refuse(400, "Throttling"));
    store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap();
    fake.fault("DescribeDBClusterSnapshots", 1, &Fault::Refuse(403, "ExpiredToken"));
    let error = store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false));
    assert!(error.to_string().contains("the credentials have expired (get new ones, then resume)"), "{error}");
}

/// What a backup and a restore cost in requests, when AWS is done at the first look; each further one is one more for a
/// backup and two or three for a restore.
#[tokio::test]
async fn a_backup_takes_3_requests_and_a_restore_of_two_instances_13() {
    let (fake, store) = fake(0).await;
    let made = backed_up(&store).await;
    store.verify(&cx("r1/backup"), &made.id).await.unwrap();
    let backup = ["CreateDBClusterSnapshot", "DescribeDBClusterSnapshots", "DescribeDBClusterSnapshots"];
    assert_eq!(std::mem::take(&mut fake.world().requests), backup);
    restored(&store, &RestoreRequest::new(&made.id, "moods-2")).await.unwrap();
    let restore = [
        // Is there one already? What is the old one like, and what is in the snapshot?
        "DescribeDBClusters",
        "DescribeDBClusters",
        "DescribeDBInstances",
        "DescribeDBClusterSnapshots",
        "RestoreDBClusterFromSnapshot",
        // The cluster is there and ours: its instances.
        "DescribeDBClusters",
        "ListTagsForResource",
        "DescribeDBInstances",
        "CreateDBInstance",
        "CreateDBInstance",
        // All are there.
        "DescribeDBClusters",
        "ListTagsForResource",
        "DescribeDBInstances",
    ];
    assert_eq!(std::mem::take(&mut fake.world().requests), restore);
}

#[tokio::test]
async fn quotas_states_and_keys_are_explained() {
    for (code, kind, transient, says) in [
        ("SnapshotQuotaExceeded", ErrorKind::Invalid, false, "delete old ones, or have the quota raised"),
        ("InvalidDBClusterStateFault", ErrorKind::Conflict, true, "look at its status"),
        ("KMSKeyNotAccessibleFault", ErrorKind::Forbidden, false, "the key is disabled"),
        ("InsufficientDBClusterCapacityFault", ErrorKind::Unavailable, true, "no capacity"),
        ("DBClusterQuotaExceededFault", ErrorKind::Invalid, false, "remove some"),
        ("Throttling", ErrorKind::Throttled, true, "Throttling"),
    ] {
        let (fake, store) = fake(0).await;
        fake.fault("CreateDBClusterSnapshot", 1, &Fault::Refuse(400, code));
        let error = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(fake.world().snapshots.is_empty());
    }
    let (fake, store) = fake(0).await;
    fake.world().clusters.get_mut(CLUSTER).unwrap().set("Status", "modifying");
    let error = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Conflict, true), "{error}");
}

#[tokio::test]
async fn what_is_stuck_or_fails_half_way_says_so() {
    let soon = |key: &str| cx_of(key, Duration::from_millis(2500));
    let (fake, store) = fake(0).await;
    fake.world().ends.insert("snapshot", None);
    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    let error = store.wait_available(&soon("r1/backup"), &made.id, &|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("being made, 40 %"), "{error}");
    assert_eq!(store.verify(&cx("r1/x"), &made.id).await.unwrap_err().kind(), ErrorKind::Unhealthy);

    fake.world().ends.clear();
    let other = store.create(&cx("r2/backup"), &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx("r2/backup"), &other.id, &|_| ()).await.unwrap();
    let request = RestoreRequest::new(&other.id, "half");
    fake.world().ends.insert("instance", Some("incompatible-network"));
    let error = restored(&store, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy);
    assert!(error.message().contains("instance half-1 is \"incompatible-network\""), "{error}");
    store.wait_discarded(&cx("r1/restore"), "half").await.unwrap();

    fake.world().ends.insert("cluster", None);
    let error = store.wait_restored(&soon("r1/restore"), &request, &|_| ()).await.unwrap_err();
    assert!(error.message().contains("being made: the cluster is creating"), "{error}");
    let state = store.restore(&cx("r1/restore"), &request).await.unwrap().state;
    assert!(matches!(state, RestoreState::Creating(_)), "it goes on at the provider: {state}");
    assert_eq!(fake.count("RestoreDBClusterFromSnapshot"), 2);
}

/// Where the two are known to be unlike, by action: a cluster of the fake's is there at once, and a snapshot of moto's.
const KNOWN: [(&str, &[&str]); 2] = [("CreateDBCluster&", &["Status"]), ("CreateDBClusterSnapshot&", &["Status"])];

/// The same requests, raw, have the same answers from both: status and error code, elements and states.
#[tokio::test]
async fn the_fake_agrees_with_moto_where_moto_can() {
    let Some(moto) = Moto::shared().await else { return };
    let fake = Fake::start().await;
    let mut unlike = Vec::new();
    let code = |body: &str| {
        let inner = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        inner.map(|(code, _)| code.to_owned()).unwrap_or_default()
    };
    let cluster = "DBClusterIdentifier=agreed";
    let snapshot = "DBClusterSnapshotIdentifier=agreed-1";
    for form in [
        format!("DescribeDBClusters&{cluster}"),
        format!("CreateDBClusterSnapshot&{snapshot}&{cluster}"),
        format!(
            "CreateDBCluster&{cluster}&Engine=aurora-mysql&MasterUsername=root&MasterUserPassword=12345678&\
             StorageEncrypted=true"
        ),
        format!("DescribeDBClusters&{cluster}"),
        format!("DescribeDBClusterSnapshots&{snapshot}"),
        format!("CreateDBClusterSnapshot&{snapshot}&{cluster}"),
        format!("CreateDBClusterSnapshot&{snapshot}&{cluster}"),
        format!("DescribeDBClusterSnapshots&{snapshot}"),
        "RestoreDBClusterFromSnapshot&DBClusterIdentifier=agreed-2&SnapshotIdentifier=none&Engine=aurora-mysql".into(),
        "RestoreDBClusterFromSnapshot&DBClusterIdentifier=agreed-2&SnapshotIdentifier=agreed-1&Engine=aurora-mysql"
            .into(),
        "DescribeDBClusters&DBClusterIdentifier=agreed-2".into(),
        format!("DeleteDBClusterSnapshot&{snapshot}"),
        format!("DeleteDBClusterSnapshot&{snapshot}"),
    ] {
        let form = format!("Action={form}&Version=2014-10-31");
        let (status, body) = moto.ask(&form);
        let (fake_status, fake_code, fake_body) = fake.answer(&form);
        assert_eq!((fake_status, fake_code), (status, code(&body)), "{form}: {body}");
        let known = KNOWN.iter().find(|(action, _)| form.contains(action)).map_or(&[][..], |(_, known)| *known);
        unlike.extend(differences(&fake_body, &body, known).into_iter().map(|what| format!("{form}: {what}")));
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}
