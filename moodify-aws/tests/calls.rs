//! How many requests one backup and one restore take: a write each that is needed and no second one, and as many reads as
//! there are questions by the schedule of waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod fake;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::Fake;
use moodify_aws::{ApiConfig, CacheId, DocumentDbBackups, DocumentDbConfig, ElastiCacheBackups, ElastiCacheConfig};
use moodify_core::backend::{BackupRequest, BackupStore, BackupStoreExt, RestoreRequest};
use moodify_core::{CallContext, IdempotencyKey, RunId};

/// How many looks a change takes.
const LOOKS: u32 = 1;

fn cx(key: &str) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new(key), Duration::from_secs(120))
}

async fn fake(forms: &[&str]) -> (Fake, ApiConfig) {
    let fake = Fake::start().await;
    for form in forms {
        assert_eq!(fake.ask(form), (200, String::new()), "{form}");
    }
    fake.world().looks = LOOKS;
    let api = ApiConfig::new("eu-central-1").endpoint(fake.url()).credentials("AKIAMOODIFY", "a-secret-key", None);
    (fake, api)
}

/// What was asked for, and how often it was waited for.
struct Made {
    turns: usize,
    reads: usize,
    writes: Vec<String>,
}

/// What is asked of the fake while something is done that says how often it looked. Never sooner than by the schedule: after
/// 1 s, 2 s, 4 s, 8 s, and then 15 s.
async fn count(fake: &Fake, work: impl Future<Output = usize>) -> Made {
    fake.world().requests.clear();
    let begun = Instant::now();
    let turns = work.await;
    let least: u64 = (1..turns).map(|turn| (1_u64 << (turn - 1)).min(15)).sum();
    assert!(begun.elapsed() >= Duration::from_secs(least), "{turns} turns in {:?}", begun.elapsed());
    let requests = std::mem::take(&mut fake.world().requests);
    let reading = |action: &String| action.starts_with("Describe") || action.starts_with("List");
    let (reads, writes): (Vec<_>, Vec<_>) = requests.into_iter().partition(reading);
    Made { turns, reads: reads.len(), writes }
}

/// One backup that is made, waited for and verified, and one restore of it.
async fn made(fake: &Fake, store: &dyn BackupStore) -> (Made, Made) {
    let (turns, mut id) = (AtomicUsize::new(0), String::new());
    let backup = count(fake, async {
        id = store.create(&cx("r1/backup"), &BackupRequest::new()).await.unwrap().id;
        let seen = |_: &_| _ = turns.fetch_add(1, Ordering::Relaxed);
        store.wait_available(&cx("r1/backup"), &id, &seen).await.unwrap();
        store.verify(&cx("r1/backup"), &id).await.unwrap();
        turns.swap(0, Ordering::Relaxed)
    })
    .await;
    let restore = count(fake, async {
        let seen = |_: &_| _ = turns.fetch_add(1, Ordering::Relaxed);
        store.wait_restored(&cx("r1/restore"), &RestoreRequest::new(&id, "moods-2"), &seen).await.unwrap();
        turns.load(Ordering::Relaxed)
    })
    .await;
    (backup, restore)
}

fn tell(provider: &str, backup: &Made, restore: &Made) {
    let told = |made: &Made| format!("{} reads in {} turns, {} writes", made.reads, made.turns, made.writes.len());
    println!("{provider} | backup: {} | restore: {}", told(backup), told(restore));
}

#[tokio::test]
async fn a_backup_and_a_restore_of_documentdb() {
    let (fake, api) = fake(&[
        "Action=CreateDBCluster&DBClusterIdentifier=moods&Engine=docdb&StorageEncrypted=true",
        "Action=CreateDBInstance&DBInstanceIdentifier=a&DBClusterIdentifier=moods&DBInstanceClass=db.r6g.large",
        "Action=CreateDBInstance&DBInstanceIdentifier=b&DBClusterIdentifier=moods&DBInstanceClass=db.r6g.large",
    ])
    .await;
    let (backup, restore) = made(&fake, &DocumentDbBackups::new(DocumentDbConfig::new(api, "moods")).unwrap()).await;
    tell("DocumentDB", &backup, &restore);
    assert_eq!(backup.writes, ["CreateDBClusterSnapshot"]);
    assert_eq!(backup.reads, backup.turns + 1, "one a turn, and one to verify it");
    assert_eq!(restore.writes, ["RestoreDBClusterFromSnapshot", "CreateDBInstance", "CreateDBInstance"]);
    assert!(restore.reads <= 3 * restore.turns, "cluster, its tags and its instances a turn: {}", restore.reads);
}

#[tokio::test]
async fn a_backup_and_a_restore_of_elasticache() {
    let (fake, api) = fake(&[
        "Action=CreateReplicationGroup&ReplicationGroupId=moods&NumCacheClusters=3&Engine=redis&EngineVersion=7.1&\
         CacheNodeType=cache.r6g.large&CacheSubnetGroupName=private&AutomaticFailoverEnabled=true&MultiAZEnabled=true",
    ])
    .await;
    let config = ElastiCacheConfig::new(api, CacheId::ReplicationGroup("moods".to_owned()));
    let (backup, restore) = made(&fake, &ElastiCacheBackups::new(config).unwrap()).await;
    tell("ElastiCache", &backup, &restore);
    assert_eq!(backup.writes, ["CreateSnapshot"]);
    assert_eq!(backup.reads, backup.turns + 2, "what to snapshot, one a turn, and one to verify it");
    assert_eq!(restore.writes, ["CreateReplicationGroup"]);
    assert_eq!(
        restore.reads,
        5 + 2 * (restore.turns - 1),
        "what it is to be like; group and tags a turn; what it became"
    );
}
