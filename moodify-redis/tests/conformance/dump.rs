//! Snapshots whose files are looked at, and what becomes of those that are not what the node wrote.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moodify_core::backend::{CacheAdmin, CacheDump, CacheSnapshot};
use moodify_core::{ErrorKind, Result};
use moodify_redis::RedisConfig;

use crate::peer::{RedisServer, until};
use crate::{cache, cx};

/// With these a snapshot of [`KEYS`] takes some seconds.
const SLOW: [&str; 2] = ["--rdb-key-save-delay", "4000"];
const KEYS: u32 = 500;

fn of(server: &RedisServer) -> Arc<dyn CacheAdmin> {
    cache(RedisConfig::new("sessions", server.url()))
}

/// Makes a snapshot, and meddles with its file when the node has written it and not said so yet.
async fn meddled(
    server: &RedisServer,
    cache: &Arc<dyn CacheAdmin>,
    meddle: impl FnOnce(&Path),
) -> Result<CacheSnapshot> {
    let file = server.dir().join("dump.rdb");
    let _ = std::fs::remove_file(&file);
    let context = cx();
    let meanwhile = async {
        until("a snapshot is being made", || server.ask::<String>(&["INFO"]).contains("rdb_bgsave_in_progress:1"))
            .await;
        // Its child goes on writing.
        server.signal("STOP");
        until("the file is there", || file.is_file()).await;
        meddle(&file);
        server.signal("CONT");
    };
    let (made, ()) = tokio::join!(cache.snapshot(&context), meanwhile);
    made.map(|mut made| made.remove(0))
}

fn length(file: &Path) -> u64 {
    file.metadata().unwrap().len()
}

fn cut(file: &Path) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(length(file) - 20).unwrap();
}

fn flip(file: &Path, at: u64) {
    let (mut byte, open) = ([0], OpenOptions::new().read(true).write(true).open(file).unwrap());
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// What somebody does to a file.
type Damage<'a> = &'a dyn Fn(&Path);

async fn damage_is_told(server: &RedisServer) {
    server.fill(0, KEYS);
    let (cache, file) = (of(server), server.dir().join("dump.rdb"));
    let whole = meddled(server, &cache, |_| {}).await.unwrap();
    assert_eq!(whole.dump, CacheDump::Verified { bytes: length(&file) });
    assert_eq!((whole.keys, whole.completed.as_second()), (u64::from(KEYS), server.ask::<i64>(&["LASTSAVE"])));
    let halfway = |file: &Path| flip(file, length(file) / 2);
    let unsummed =
        |file: &Path| File::options().write(true).open(file).unwrap().write_all_at(&[0; 8], length(file) - 8);
    let damages: [(&str, Damage<'_>); 4] = [
        ("cut off", &cut),
        ("checksum", &halfway),
        ("does not begin", &|file| flip(file, 1)),
        ("checksum is gone", &|file| unsummed(file).unwrap()),
    ];
    for (what, damage) in damages {
        let error = meddled(server, &cache, damage).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Corrupt, false), "{what}: {error}");
        assert!(error.message().contains(what) && error.message().contains("dump.rdb"), "{what}: {error}");
    }
    assert!(matches!(cache.snapshot(&cx()).await.unwrap()[0].dump, CacheDump::Verified { .. }), "the next one is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_damaged_is_no_snapshot() {
    let Some(server) = RedisServer::start(&SLOW).await else { return };
    damage_is_told(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_valkey_that_is_damaged_is_no_snapshot() {
    let Some(server) = RedisServer::start_valkey(&SLOW).await else { return };
    damage_is_told(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_snapshot_is_not_taken_for_this_one() {
    let Some(server) = RedisServer::start(&SLOW).await else { return };
    server.fill(0, KEYS);
    let (guessed, elsewhere) = (of(&server), tempfile::tempdir().unwrap());
    let first = meddled(&server, &guessed, |_| {}).await.unwrap();
    let old = elsewhere.path().join("old");
    std::fs::copy(first.file.unwrap(), &old).unwrap();
    let replace = |file: &Path| {
        std::fs::copy(&old, file).unwrap();
    };
    let made = meddled(&server, &guessed, replace).await.unwrap();
    assert!(matches!(&made.dump, CacheDump::Unseen { why } if why.contains("another snapshot")), "{made:?}");

    let config = || RedisConfig::new("sessions", server.url());
    let told = cache(config().dump_dir(server.address(), server.dir()));
    let error = meddled(&server, &told, replace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconclusive, "it has to be there: {error}");
    let made = told.snapshot(&cx()).await.unwrap().remove(0);
    assert!(matches!(made.dump, CacheDump::Verified { .. }), "{made:?}");
    let wrong = cache(config().dump_dir(server.address(), elsewhere.path()));
    let error = wrong.snapshot(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inconclusive, "{error}");
    assert!(error.to_string().contains("dump-dirs"), "{error}");
}

/// Somebody else saves right after each of ours: what is looked at is a good file, whichever of them it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_save_right_after_is_not_taken_for_damage() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, KEYS);
    let cache = cache(RedisConfig::new("sessions", server.url()).dump_dir(server.address(), server.dir()));
    for _ in 0..5 {
        let (before, context) = (server.ask::<i64>(&["LASTSAVE"]), cx());
        let another = async {
            while server.ask::<i64>(&["LASTSAVE"]) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.ask::<String>(&["BGSAVE"]);
        };
        let (made, ()) = tokio::join!(cache.snapshot(&context), another);
        let made = made.unwrap().remove(0);
        assert!(matches!(made.dump, CacheDump::Verified { .. }) && made.completed.as_second() > before, "{made:?}");
    }
}

#[tokio::test]
async fn a_file_without_checksum_is_said_to_be_one() {
    let Some(server) = RedisServer::start(&["--rdbchecksum", "no"]).await else { return };
    server.fill(0, 3);
    let made = of(&server).snapshot(&cx()).await.unwrap().remove(0);
    assert_eq!(made.dump, CacheDump::WithoutChecksum { bytes: length(&server.dir().join("dump.rdb")) });
    assert!(made.dump.to_string().contains("no checksum"), "{}", made.dump);
}
