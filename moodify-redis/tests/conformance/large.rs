//! A million keys, and the memory that it takes to delete half of them.

use std::process::{Command, Stdio};

use moodify_core::backend::DeletedKeys;
use moodify_redis::RedisConfig;

use crate::peer::RedisServer;
use crate::{cache, cx, matching, unheard};

const HALF: u64 = 500_000;
const MIB: u64 = 1 << 20;
/// What a delete may take, however many keys there are: the whole process, at its highest.
const MEMORY: u64 = 64 * MIB;
const URL: &str = "MOODIFY_TEST_DELETE_URL";
const DIR: &str = "MOODIFY_TEST_DELETE_DIR";

/// The highest that the resident memory of this process ever was, in bytes.
fn highest_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_million_keys_are_deleted_in_little_memory() {
    let Some(server) = RedisServer::start(&["--enable-debug-command", "local"]).await else { return };
    for prefix in ["mood", "other"] {
        let () = server.ask(&["DEBUG", "POPULATE", &HALF.to_string(), prefix, "8"]);
    }
    assert_eq!(server.count(0), 2 * HALF);
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "large::deletes", "--ignored"])
        .env(URL, server.url())
        .env(DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
    let (memory, deleted): (u64, DeletedKeys) = serde_json::from_str(&told).unwrap();
    assert!(deleted.deleted == HALF && deleted.found >= HALF, "each once: {deleted:?}");
    assert!(memory < MEMORY, "{} MiB", memory / MIB);

    let cache = cache(RedisConfig::new("sessions", server.url()));
    assert_eq!(server.count(0), HALF);
    let others = cache.delete_matching(&cx(), &matching("other:*").dry_run(), &unheard()).await.unwrap();
    assert!(others.found >= HALF, "no others were deleted: {others:?}");
}

/// The delete; run by the other test as a process.
#[tokio::test]
#[ignore = "a part of another test"]
async fn deletes() {
    let (url, dir) = (std::env::var(URL).unwrap(), std::path::PathBuf::from(std::env::var(DIR).unwrap()));
    let cache = cache(RedisConfig::new("sessions", url));
    let deleted = cache.delete_matching(&cx(), &matching("mood:*"), &unheard()).await.unwrap();
    std::fs::write(dir.join("told"), serde_json::to_string(&(highest_memory(), deleted)).unwrap()).unwrap();
}
