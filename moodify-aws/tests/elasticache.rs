//! ElastiCache with its real states and faults, on a fake that is held against moto where moto can.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod fake;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, Fault};
use moodify_aws::{ApiConfig, CacheId, ElastiCacheBackups, ElastiCacheConfig, ElastiCacheNodes};
use moodify_core::backend::{
    Backends, Backup, BackupRequest, BackupState, BackupStore, BackupStoreExt, Cache, CacheNodes, CacheNodesExt,
    DeleteRequest, NodeRole, RestoreRequest, Restored, Retention,
};
use moodify_core::journal::{MemoryJournal, Outcome};
use moodify_core::model::{Phase, RetryPolicy, Step};
use moodify_core::testing::conformance::{backup_store, cache_nodes};
use moodify_core::{CallContext, Effect, Engine, ErrorKind, IdempotencyKey, Result, RunId, planfile};
use peer::{Moto, differences};

const CACHE: &str = "moods";

fn cx_of(key: &str, timeout: Duration) -> CallContext {
    let run = key.split('/').next().unwrap();
    CallContext::new(RunId::new(run).unwrap(), IdempotencyKey::new(key), timeout)
}

fn cx(key: &str) -> CallContext {
    cx_of(key, Duration::from_secs(60))
}

fn group() -> CacheId {
    CacheId::ReplicationGroup(CACHE.to_owned())
}

fn config(url: &str, cache: CacheId) -> ElastiCacheConfig {
    let api = ApiConfig::new("eu-central-1").endpoint(url).credentials("AKIAMOODIFY", "a-secret-key", None);
    ElastiCacheConfig::new(api, cache)
}

const LIKE: &str = "Engine=redis&EngineVersion=7.1&CacheNodeType=cache.r6g.large&CacheSubnetGroupName=private&\
                    CacheParameterGroupName=moods-parameters&SecurityGroupIds.SecurityGroupId.1=sg-1&\
                    SecurityGroupIds.SecurityGroupId.2=sg-2&AutomaticFailoverEnabled=true";

/// A group of a primary and two replicas, some with cluster mode, and a cluster that stands alone.
async fn fake(looks: u32) -> Fake {
    let fake = Fake::start().await;
    for form in [
        format!(
            "Action=CreateReplicationGroup&ReplicationGroupId={CACHE}&NumCacheClusters=3&MultiAZEnabled=true&{LIKE}"
        ),
        format!(
            "Action=CreateReplicationGroup&ReplicationGroupId=shards&NumNodeGroups=1&ReplicasPerNodeGroup=1&{LIKE}"
        ),
        format!("Action=CreateReplicationGroup&ReplicationGroupId=pair&NumNodeGroups=2&ReplicasPerNodeGroup=1&{LIKE}"),
        format!("Action=CreateReplicationGroup&ReplicationGroupId=bare&NumNodeGroups=2&ReplicasPerNodeGroup=0&{LIKE}"),
        format!("Action=CreateCacheCluster&CacheClusterId=alone&{LIKE}"),
    ] {
        assert_eq!(fake.ask(&form), (200, String::new()), "{form}");
    }
    fake.world().looks = looks;
    fake
}

fn store(fake: &Fake) -> ElastiCacheBackups {
    ElastiCacheBackups::new(config(&fake.url(), group())).unwrap()
}

fn nodes(fake: &Fake, cache: CacheId) -> ElastiCacheNodes {
    ElastiCacheNodes::new(config(&fake.url(), cache)).unwrap()
}

fn clustered(fake: &Fake, id: &str) -> ElastiCacheNodes {
    let config = config(&fake.url(), CacheId::ReplicationGroup(id.to_owned())).cluster_mode();
    ElastiCacheNodes::new(config).unwrap()
}

async fn backed_up(store: &ElastiCacheBackups) -> Backup {
    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap()
}

async fn restored(store: &ElastiCacheBackups, request: &RestoreRequest) -> Result<Restored> {
    store.wait_restored(&cx("r1/restore"), request, &|_| ()).await
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_store() {
    for cache in [group(), CacheId::ReplicationGroup("shards".to_owned()), CacheId::Cluster("alone".to_owned())] {
        let fake = fake(0).await;
        let store = ElastiCacheBackups::new(config(&fake.url(), cache)).unwrap();
        backup_store(&store, Duration::from_secs(120)).await;
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_all_nodes() {
    let fake = fake(1).await;
    let patience = Duration::from_secs(120);
    let clustered = config(&fake.url(), CacheId::ReplicationGroup("shards".to_owned())).cluster_mode();
    let clustered = ElastiCacheNodes::new(clustered).unwrap();
    let (group, alone) = (nodes(&fake, group()), nodes(&fake, CacheId::Cluster("alone".to_owned())));
    tokio::join!(cache_nodes(&group, patience), cache_nodes(&alone, patience), cache_nodes(&clustered, patience));
    assert_eq!((fake.count("RebootCacheCluster"), fake.count("TestFailover")), (4, 2));
}

#[tokio::test]
async fn nodes_are_told_with_role_zone_version_and_endpoint() {
    let fake = fake(0).await;
    let all = nodes(&fake, group()).nodes(&cx("r1/x")).await.unwrap();
    let roles: Vec<_> = all.iter().map(|node| (node.id.as_str(), node.role)).collect();
    let expected =
        [("moods-001", NodeRole::Primary), ("moods-002", NodeRole::Replica), ("moods-003", NodeRole::Replica)];
    assert_eq!(roles, expected);
    let told = (all[1].zone.as_deref(), all[1].engine.as_deref(), all[1].endpoint.as_deref(), all[1].group.as_str());
    let address = "moods-002.c1.euc1.cache.amazonaws.com:6380";
    assert_eq!(told, (Some("eu-central-1a"), Some("redis 7.1.0"), Some(address), "0001"));
}

#[tokio::test]
async fn what_cannot_be_restarted_is_refused_before_any_effect() {
    let fake = fake(0).await;
    let serverless = nodes(&fake, CacheId::Serverless("moods".to_owned()));
    let hidden = nodes(&fake, CacheId::ReplicationGroup("shards".to_owned()));
    let alone = nodes(&fake, CacheId::Cluster("alone".to_owned()));
    assert!(hidden.capabilities().restart.is_ok(), "its configuration does not say that it has cluster mode");
    for (nodes, says) in [(&serverless, "has no nodes"), (&hidden, "with cluster mode")] {
        let found: Vec<String> = nodes.preflight(&cx("r1/x")).await.iter().map(ToString::to_string).collect();
        assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        let seen = alone.nodes(&cx("r1/x")).await.unwrap().remove(0);
        let error = nodes.restart(&cx("r1/x"), &seen).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Unsupported, Effect::None), "{error}");
        assert!(error.message().contains(says), "{error}");
    }
    let shards = clustered(&fake, "pair").nodes(&cx("r1/x")).await.unwrap();
    let bare = clustered(&fake, "bare").nodes(&cx("r1/x")).await.unwrap();
    for (nodes, seen, kind, says) in [
        (&serverless, &shards[0], ErrorKind::Unsupported, "has no nodes"),
        (&alone, &shards[0], ErrorKind::Unsupported, "has no replica"),
        (&clustered(&fake, "bare"), &bare[1], ErrorKind::Unsupported, "shard 0002 has no replica"),
        (&clustered(&fake, "bare"), &shards[0], ErrorKind::NotFound, "has no node pair-0001-001"),
    ] {
        let error = nodes.fail_over(&cx("r1/x"), seen).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (kind, Effect::None), "{error}");
        assert!(error.message().contains(says), "{error}");
    }
    let error = serverless.nodes(&cx("r1/x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        alone.preflight(&cx("r1/x")).await.is_empty() && nodes(&fake, group()).preflight(&cx("r1/x")).await.is_empty()
    );
    let missing = nodes(&fake, CacheId::Cluster("missing".to_owned())).preflight(&cx("r1/x")).await;
    assert_eq!(missing[0].kind(), ErrorKind::NotFound);
    assert_eq!((fake.count("RebootCacheCluster"), fake.count("TestFailover")), (0, 0));

    for (id, nodes) in [(CACHE, nodes(&fake, group())), ("pair", clustered(&fake, "pair"))] {
        fake.world().groups.get_mut(id).unwrap().set("AutomaticFailover", "disabled");
        let primary = nodes.nodes(&cx("r1/x")).await.unwrap().remove(0);
        let error = nodes.fail_over(&cx("r1/x"), &primary).await.unwrap_err();
        assert!(error.to_string().contains("enable it for the replication group"), "{error}");
    }
    assert_eq!(fake.count("TestFailover"), 0);
    let error = ElastiCacheBackups::new(config(&fake.url(), CacheId::Serverless("moods".to_owned()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// With cluster mode, one shard after the other. What another process has begun, or brought to its end, is known by AWS's
/// events.
#[tokio::test]
async fn shards_are_failed_over_one_by_one_each_once() {
    let fake = fake(1).await;
    let pair = || clustered(&fake, "pair");
    let seen = pair().nodes(&cx("r1/x")).await.unwrap();
    assert!(seen.len() == 4 && seen.iter().all(|node| node.role == NodeRole::Unknown), "{seen:?}");

    // The answer for the first shard is lost, and AWS wants no more requests for a while after it.
    fake.fault("TestFailover", 1, &Fault::LoseAnswer);
    let lost = pair().wait_all_failed_over(&cx("r1/x"), &seen).await.unwrap_err();
    assert_eq!((lost.kind(), lost.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{lost}");
    assert_eq!(pair().nodes(&cx("r1/x")).await.unwrap()[0].role, NodeRole::Unknown, "nobody knows meanwhile");
    fake.fault("TestFailover", 1, &Fault::Refuse(400, "APICallRateForCustomerExceeded"));
    let later = pair().wait_all_failed_over(&cx("r1/x"), &seen).await.unwrap_err();
    assert_eq!((later.kind(), later.effect_of()), (ErrorKind::Throttled, Effect::None), "the second: {later}");

    for _ in 0..2 {
        let new = pair().wait_all_failed_over(&cx("r1/x"), &seen).await.unwrap();
        let ids: Vec<&str> = new.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids, ["pair-0001-002", "pair-0002-002"]);
    }
    let called = |fake: &Fake| {
        let world = fake.world();
        let called = world.events.iter().filter(|event| event.get("Message").starts_with("Test Failover API"));
        called.map(|event| event.get("Message").rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(called(&fake), ["0001", "0002"], "one after the other, each once");

    // Another intent is another fail-over: what is seen now goes back.
    let now = pair().nodes(&cx("r2/x")).await.unwrap();
    let primaries: Vec<&str> =
        now.iter().filter(|node| node.role == NodeRole::Primary).map(|node| node.id.as_str()).collect();
    assert_eq!(primaries, ["pair-0001-002", "pair-0002-002"]);
    let new = pair().wait_all_failed_over(&cx("r2/x"), &now).await.unwrap();
    assert_eq!(new.iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["pair-0001-001", "pair-0002-001"]);
    assert_eq!(called(&fake), ["0001", "0002", "0001", "0002"]);
}

#[tokio::test]
async fn a_shard_that_never_fails_over_says_so_at_the_deadline() {
    let fake = fake(u32::MAX).await;
    let nodes = clustered(&fake, "pair");
    let seen = nodes.nodes(&cx("r1/x")).await.unwrap();
    let soon = cx_of("r1/x", Duration::from_millis(2500));
    let error = nodes.wait_failed_over(&soon, &seen[3]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("0002") && error.message().contains("modifying"), "{error}");
}

/// The step restarts each node once, though the answers to some requests are lost and AWS says for a while that nothing
/// happens.
#[tokio::test]
async fn the_step_restarts_replicas_then_the_primary_each_once() {
    let fake = fake(0).await;
    fake.fault("RebootCacheCluster", 1, &Fault::LoseAnswer);
    fake.fault("DescribeCacheClusters", 1, &Fault::Refuse(400, "Throttling"));
    let text = include_str!("../../examples/plans/moodify-release.yaml");
    let mut plan = planfile::read(text, "moodify-release.yaml").unwrap().0.expand();
    plan.environment.gates.clear();
    let step = Step {
        name: "restart".into(),
        action: "cache-restart".into(),
        with: serde_json::json!({"cache": CACHE}),
        deadline: None,
        retry: RetryPolicy::default(),
    };
    plan.phases = vec![Phase { name: "cache".into(), parallel: false, steps: vec![step] }].into();
    let mut backends = Backends::default();
    backends.caches.insert(CACHE.to_owned(), Cache::of_nodes(Arc::new(nodes(&fake, group()))));
    let engine = Engine::new(Arc::new(MemoryJournal::new()), backends);
    let (_, ending) = engine.run(&plan, "test").await.unwrap();
    let moodify_core::engine::Ending::Ended(outcome, _) = &ending else { panic!("{ending:?}") };
    assert_eq!(*outcome, Outcome::Completed, "{ending:?}");
    let world = fake.world();
    let events = world.events.iter().map(|e| (e.get("SourceIdentifier"), e.get("Message")));
    let (shut, back) = ("Cache node 0001 shutdown", "Cache node 0001 restarted");
    let order = ["moods-002", "moods-003", "moods-001"];
    let expected: Vec<_> = order.iter().flat_map(|id| [(*id, shut), (*id, back)]).collect();
    assert_eq!(events.collect::<Vec<_>>(), expected, "one at a time, replicas first");
}

#[tokio::test]
async fn a_snapshot_is_of_a_replica_and_a_restored_group_like_the_source() {
    let fake = fake(1).await;
    let store = store(&fake);
    let made = backed_up(&store).await;
    assert_eq!((made.source.as_str(), made.bytes), (CACHE, Some(5 << 20)));
    assert_eq!(made.engine.as_deref(), Some("redis 7.1.0"));
    assert_eq!(fake.world().cache_snapshots[&made.id].get("CacheClusterId"), "moods-002", "the primary is spared");
    let told = std::sync::Mutex::new(Vec::new());
    let seen = |restored: &Restored| told.lock().unwrap().push(restored.state.to_string());
    let request = RestoreRequest::new(&made.id, "moods-2");
    let there = store.wait_restored(&cx("r1/restore"), &request, &seen).await.unwrap();
    assert_eq!(there.endpoint.as_deref(), Some("moods-2.c1.euc1.cache.amazonaws.com:6380"));
    let told = told.into_inner().unwrap().join("; ");
    for part in ["group is being made", "group is creating", "complete"] {
        assert!(told.contains(part), "{told}");
    }
    {
        let world = fake.world();
        let (old, new) = (&world.groups[CACHE], &world.groups["moods-2"]);
        for name in ["CacheNodeType", "AutomaticFailover", "MultiAZ", "Engine", "ClusterEnabled", "version"] {
            assert_eq!(new.get(name), old.get(name), "{name}");
        }
        let count = |id: &str| world.nodes.values().filter(|node| node.get("ReplicationGroupId") == id).count();
        assert_eq!((count(CACHE), count("moods-2")), (3, 3));
        let (old, new) = (&world.nodes["moods-001"], &world.nodes["moods-2-001"]);
        for name in ["CacheSubnetGroupName", "groups", "parameters"] {
            assert_eq!(new.get(name), old.get(name), "{name}");
            assert_ne!(new.get(name), "", "{name}");
        }
    }
    store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    assert_eq!(fake.world().groups.len(), 4);

    // What is gone is as the snapshot says, and what the configuration says comes first.
    fake.world().groups.remove(CACHE);
    let config = config(&fake.url(), group()).nodes("cache.t4g.small", 0).restore_into("other", ["sg-9"]);
    let store = ElastiCacheBackups::new(config.parameter_group("calm").kms_key("key")).unwrap();
    restored(&store, &request).await.unwrap();
    let world = fake.world();
    let (new, node) = (&world.groups["moods-2"], &world.nodes["moods-2-001"]);
    assert_eq!(
        ["CacheNodeType", "KmsKeyId", "AutomaticFailover"].map(|n| new.get(n)),
        ["cache.t4g.small", "key", "disabled"]
    );
    assert_eq!(["CacheSubnetGroupName", "groups", "parameters"].map(|n| node.get(n)), ["other", "sg-9", "calm"]);
}

/// What a backup, a restore and a look at three nodes cost in requests, when AWS is done at the first look; each further
/// one is one more for a backup and two for a restore.
#[tokio::test]
async fn a_backup_takes_4_requests_a_restore_8_and_a_look_at_three_nodes_7() {
    let fake = fake(0).await;
    let store = store(&fake);
    let made = backed_up(&store).await;
    store.verify(&cx("r1/backup"), &made.id).await.unwrap();
    let backup = ["DescribeReplicationGroups", "CreateSnapshot", "DescribeSnapshots", "DescribeSnapshots"];
    assert_eq!(std::mem::take(&mut fake.world().requests), backup);
    restored(&store, &RestoreRequest::new(&made.id, "moods-2")).await.unwrap();
    let restore = [
        // Is there one already? What is in the snapshot, and what is the old one like?
        "DescribeReplicationGroups",
        "DescribeSnapshots",
        "DescribeReplicationGroups",
        "DescribeCacheClusters",
        "CreateReplicationGroup",
        // It is there, and ours: is it as asked for?
        "DescribeReplicationGroups",
        "ListTagsForResource",
        "DescribeCacheClusters",
    ];
    assert_eq!(std::mem::take(&mut fake.world().requests), restore);
    nodes(&fake, group()).nodes(&cx("r1/x")).await.unwrap();
    let node = ["DescribeCacheClusters", "DescribeEvents"];
    let look: Vec<&str> = std::iter::once("DescribeReplicationGroups").chain([node; 3].concat()).collect();
    assert_eq!(std::mem::take(&mut fake.world().requests), look);
}

#[tokio::test]
async fn a_restored_group_that_is_not_as_asked_for_fails_with_both_values() {
    let fake = fake(0).await;
    let config = config(&fake.url(), group()).kms_key("key");
    let store = ElastiCacheBackups::new(config.auth_token("a-very-long-auth-token")).unwrap();
    let made = backed_up(&store).await;
    let request = RestoreRequest::new(&made.id, "moods-2");
    for (kind, field, value, why) in [
        ("group", "AtRestEncryptionEnabled", "false", "encryption at rest false instead of true"),
        ("group", "KmsKeyId", "other", "kms key other instead of key"),
        ("group", "AuthTokenEnabled", "false", "password false instead of true"),
        ("group", "CacheNodeType", "cache.t4g.micro", "node type cache.t4g.micro instead of cache.r6g.large"),
        ("group", "MultiAZ", "disabled", "multi AZ false instead of true"),
        ("node", "EngineVersion", "6.2.6", "engine version 6.2.6 instead of 7.1"),
        ("node", "CacheSubnetGroupName", "public", "subnet group public instead of private"),
        ("node", "groups", "sg-1", "security groups sg-1 instead of sg-1 sg-2"),
        ("node", "parameters", "default", "parameter group default instead of moods-parameters"),
    ] {
        fake.world().twists = vec![(kind, field, value)];
        let error = restored(&store, &request).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unhealthy && error.message().contains(why), "{error}");
        store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    }
    fake.world().twists.clear();
    restored(&store, &request).await.unwrap();
}

#[tokio::test]
async fn a_password_is_asked_for_before_any_effect_and_told_to_nobody() {
    let fake = fake(0).await;
    let made = backed_up(&store(&fake)).await;
    fake.world().groups.get_mut(CACHE).unwrap().set("AuthTokenEnabled", "true");
    let request = RestoreRequest::new(&made.id, "moods-2");
    let error = store(&fake).restore(&cx("r1/restore"), &request).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Invalid, Effect::None));
    assert!(error.to_string().contains("set auth-token in the configuration"), "{error}");
    assert_eq!(fake.count("CreateReplicationGroup"), 0);
    let with = ElastiCacheBackups::new(config(&fake.url(), group()).auth_token("a-very-long-auth-token")).unwrap();
    restored(&with, &request).await.unwrap();
    assert_eq!(fake.world().groups["moods-2"].get("AuthTokenEnabled"), "true");
    assert!(!format!("{with:?}").contains("a-very-long"));
    // Users of a group of users are no secret, and are carried.
    fake.world().groups.get_mut(CACHE).unwrap().set("users", "people");
    restored(&store(&fake), &RestoreRequest::new(&made.id, "moods-3")).await.unwrap();
    assert_eq!(fake.world().groups["moods-3"].get("users"), "people");
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_nothing_twice() {
    let fake = fake(0).await;
    let store = store(&fake);
    for action in ["CreateSnapshot", "CopySnapshot", "CreateReplicationGroup", "DeleteReplicationGroup"] {
        fake.fault(action, 1, &Fault::LoseAnswer);
    }
    let lost = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap_err();
    assert_eq!((lost.kind(), lost.effect_of()), (ErrorKind::Unavailable, Effect::Unknown), "{lost}");
    let made = backed_up(&store).await;
    let lost = store.copy(&cx("r1/copy"), &made.id, "kept").await.unwrap_err();
    assert_eq!(lost.effect_of(), Effect::Unknown, "{lost}");
    assert_eq!(store.copy(&cx("r1/copy"), &made.id, "kept").await.unwrap().id, "kept");
    let error = store.copy(&cx("r2/copy"), &made.id, "kept").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "another's: {error}");
    restored(&store, &RestoreRequest::new(&made.id, "moods-2")).await.unwrap();
    assert_eq!(fake.world().cache_snapshots.len(), 2);
    assert_eq!(fake.count("CreateReplicationGroup"), 1, "looked at first");
    store.wait_discarded(&cx("r1/restore"), "moods-2").await.unwrap();
    assert!(!fake.world().groups.contains_key("moods-2"));
}

#[tokio::test]
async fn retention_spares_what_has_no_tag_of_ours_and_what_is_of_another_cache() {
    let fake = fake(0).await;
    let store = store(&fake);
    let mut ids = Vec::new();
    for run in ["r1", "r2", "r3"] {
        let cx = cx(&format!("{run}/backup"));
        let made = store.create(&cx, &BackupRequest::new().label("plan", "weekly <release>")).await.unwrap();
        ids.push(store.wait_available(&cx, &made.id, &|_| ()).await.unwrap().id);
        nodes(&fake, group()).wait_node(&cx, "moods-002", &|node| node.is_available(), &|_| ()).await.unwrap();
    }
    let tags = format!("{:?}", fake.world().cache_snapshots[&ids[0]]);
    for part in ["(\"moodify:run\", \"r1\")", "(\"moodify:plan\", \"weekly _release_\")", "\"moodify:time\""] {
        assert!(tags.contains(part), "{part}: {tags}");
    }
    for form in ["SnapshotName=nightly&CacheClusterId=moods-003", "SnapshotName=theirs&CacheClusterId=alone"] {
        assert_eq!(fake.ask(&format!("Action=CreateSnapshot&{form}")).0, 200);
    }
    store.wait_available(&cx("r1/x"), "nightly", &|_| ()).await.unwrap();
    let listed: Vec<String> = store.list(&cx("r1/x")).await.unwrap().into_iter().map(|backup| backup.id).collect();
    assert_eq!(listed, ["nightly".to_owned(), ids[2].clone(), ids[1].clone(), ids[0].clone()], "newest first");
    let typed = DeleteRequest::confirmed("theirs", "theirs").unwrap();
    let error = store.delete(&cx("r1/x"), &typed).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.message().contains("it is of \"alone\""), "{error}");
    let newest: Retention = serde_json::from_str(r#"{"newest": 1}"#).unwrap();
    let now = "2026-11-25T00:00:00Z".parse().unwrap();
    assert_eq!(store.prune(&cx("r1/x"), &newest, now, &|_| false).await.unwrap(), ids[..2]);
    let left: Vec<String> = fake.world().cache_snapshots.keys().cloned().collect();
    assert_eq!(left, [ids[2].clone(), "nightly".to_owned(), "theirs".to_owned()]);
}

#[tokio::test]
async fn what_is_stuck_or_fails_half_way_says_so() {
    let soon = |key: &str| cx_of(key, Duration::from_millis(2500));
    let fake = fake(0).await;
    let store = store(&fake);
    fake.world().ends.insert("cache-snapshot", None);
    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    let error = store.wait_available(&soon("r1/backup"), &made.id, &|_| ()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.message().contains("being made"), "{error}");
    assert_eq!(store.verify(&cx("r1/x"), &made.id).await.unwrap_err().kind(), ErrorKind::Unhealthy);

    fake.world().ends.clear();
    nodes(&fake, group()).wait_node(&cx("r1/x"), "moods-002", &|node| node.is_available(), &|_| ()).await.unwrap();
    let other = store.create(&cx("r2/backup"), &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx("r2/backup"), &other.id, &|_| ()).await.unwrap();
    let request = RestoreRequest::new(&other.id, "half");
    fake.world().ends.insert("group", Some("create-failed"));
    let error = restored(&store, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy);
    assert!(error.message().contains("replication group half is \"create-failed\""), "{error}");
    store.wait_discarded(&cx("r1/restore"), "half").await.unwrap();

    fake.world().ends.insert("group", None);
    // Whose it is AWS tells only later.
    fake.fault("ListTagsForResource", 1, &Fault::Refuse(400, "InvalidReplicationGroupState"));
    let error = store.wait_restored(&soon("r1/restore"), &request, &|_| ()).await.unwrap_err();
    assert!(error.message().contains("being made: the replication group is creating"), "{error}");
}

#[tokio::test]
async fn throttling_is_waited_out_and_an_expired_token_is_one_sentence() {
    let fake = fake(0).await;
    let store = store(&fake);
    let made = backed_up(&store).await;
    fake.fault("DescribeSnapshots", 2, &Fault::Refuse(400, "Throttling"));
    store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap();
    fake.fault("DescribeSnapshots", 1, &Fault::Refuse(403, "ExpiredToken"));
    let error = store.wait_available(&cx("r1/backup"), &made.id, &|_| ()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false));
    let sentence = format!(
        "elasticache: describe snapshot on {}: ExpiredToken: the credentials have expired (get new ones, then resume)",
        made.id
    );
    assert_eq!(error.to_string(), sentence);
    for (code, kind, transient, says) in [
        ("SnapshotQuotaExceededFault", ErrorKind::Invalid, false, "delete old ones, or have the quota raised"),
        ("InvalidCacheClusterState", ErrorKind::Conflict, true, "look at its status"),
        ("SnapshotFeatureNotSupportedFault", ErrorKind::Unsupported, false, "have no snapshots"),
    ] {
        fake.fault("CreateSnapshot", 1, &Fault::Refuse(400, code));
        let error = store.create(&cx("r2/backup"), &BackupRequest::new()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient(), error.effect_of()), (kind, transient, Effect::None), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Snapshots as moto has them. It tells nothing of their parts, so none of them is good.
#[tokio::test]
async fn snapshots_are_made_once_per_key_described_listed_and_deleted_on_moto() {
    let Some(moto) = Moto::shared().await else { return };
    let made = moto.ask_of(
        "elasticache",
        "Action=CreateCacheCluster&Version=2015-02-02&CacheClusterId=on-moto&Engine=redis&EngineVersion=7.1&\
         CacheNodeType=cache.t4g.small&NumCacheNodes=1",
    );
    assert_eq!(made.0, 200, "{}", made.1);
    let store = ElastiCacheBackups::new(config(&moto.url(), CacheId::Cluster("on-moto".to_owned()))).unwrap();
    assert_eq!(store.describe(&cx("r1/x"), "no-such-snapshot").await.unwrap(), None);
    let made = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    assert_eq!((made.source.as_str(), made.run.as_ref().map(RunId::as_str)), ("on-moto", Some("r1")));
    let again = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap();
    assert_eq!(again.id, made.id, "the same key is the same backup");
    let other = store.create(&cx("r2/backup"), &BackupRequest::new()).await.unwrap();
    assert_ne!(other.id, made.id);
    let described = store.describe(&cx("r1/x"), &made.id).await.unwrap().unwrap();
    assert_eq!(described.state, BackupState::Available);
    assert_eq!(store.list(&cx("r1/x")).await.unwrap().len(), 2);
    let error = store.verify(&cx("r1/x"), &made.id).await.unwrap_err();
    assert!(error.message().contains("content of 0 of 1 shards"), "{error}");
    let request = RestoreRequest::new(&other.id, "restored-on-moto");
    let there = restored(&store, &request).await.unwrap();
    assert!(there.endpoint.as_deref().unwrap().starts_with("master.restored-on-moto."), "{there:?}");
    let theirs = store.restore(&cx("r2/restore"), &request).await.unwrap_err();
    assert_eq!(theirs.kind(), ErrorKind::AlreadyExists, "{theirs}");
    for _ in 0..2 {
        store.delete(&cx("r1/x"), &DeleteRequest::confirmed(&made.id, &made.id).unwrap()).await.unwrap();
        assert_eq!(store.describe(&cx("r1/x"), &made.id).await.unwrap(), None);
    }
}

/// What moto does not tell of a cluster and of a snapshot.
const CLUSTER: [&str; 12] = [
    "PreferredAvailabilityZone",
    "EngineVersion",
    "CacheSubnetGroupName",
    "CacheNodes",
    "CacheNode",
    "CacheNodeId",
    "Endpoint",
    "Address",
    "Port",
    "SecurityGroups",
    "CacheParameterGroup",
    "CacheParameterGroupName",
];
const SNAPSHOT: [&str; 8] = [
    "EngineVersion",
    "CacheSubnetGroupName",
    "NodeSnapshots",
    "NodeSnapshot",
    "CacheNodeId",
    "CacheSize",
    "SnapshotCreateTime",
    // A snapshot of moto's is there at once. That a complete one is told as such is said by its description.
    "SnapshotStatus",
];

/// Where the two are known to be unlike, by action.
const KNOWN: [(&str, &[&str]); 6] = [
    ("CreateCacheCluster&", &CLUSTER),
    ("DescribeCacheClusters&", &CLUSTER),
    ("CreateSnapshot&", &SNAPSHOT),
    ("DescribeSnapshots&", SNAPSHOT.split_at(7).0),
    ("DeleteSnapshot&", SNAPSHOT.split_at(7).0),
    // In moto the shards of a group that is being deleted stay available.
    ("DeleteReplicationGroup&", &["Status"]),
];

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
    let cluster = "CacheClusterId=agreed";
    let snapshot = "SnapshotName=agreed-1";
    let group = "ReplicationGroupId=agreed-2";
    for form in [
        format!("DescribeCacheClusters&{cluster}"),
        format!("CreateSnapshot&{snapshot}&{cluster}"),
        format!("CreateCacheCluster&{cluster}&Engine=redis&CacheNodeType=cache.t4g.small&NumCacheNodes=1"),
        format!("CreateCacheCluster&{cluster}&Engine=redis&CacheNodeType=cache.t4g.small&NumCacheNodes=1"),
        format!("DescribeCacheClusters&{cluster}"),
        format!("DescribeSnapshots&{snapshot}"),
        format!("CreateSnapshot&{snapshot}&{cluster}"),
        format!("CreateSnapshot&{snapshot}&{cluster}"),
        format!("DescribeSnapshots&{snapshot}"),
        format!("DescribeReplicationGroups&{group}"),
        format!("CreateReplicationGroup&{group}&ReplicationGroupDescription=x&Engine=redis&NumCacheClusters=1"),
        format!("CreateReplicationGroup&{group}&ReplicationGroupDescription=x&Engine=redis&NumCacheClusters=1"),
        format!("DescribeReplicationGroups&{group}"),
        format!("DeleteReplicationGroup&{group}"),
        format!("DeleteSnapshot&{snapshot}"),
        format!("DeleteSnapshot&{snapshot}"),
    ] {
        let form = format!("Action={form}&Version=2015-02-02");
        let (status, body) = moto.ask_of("elasticache", &form);
        let (fake_status, fake_code, fake_body) = fake.answer(&form);
        assert_eq!((fake_status, fake_code), (status, code(&body)), "{form}: {body}");
        let known = KNOWN.iter().find(|(action, _)| form.contains(action)).map_or(&[][..], |(_, known)| *known);
        unlike.extend(differences(&fake_body, &body, known).into_iter().map(|what| format!("{form}: {what}")));
    }
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}
