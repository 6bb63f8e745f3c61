use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::backend::{CacheCapabilities, CacheRole, FailoverRequest, FlushRequest};
use moodify_core::testing::conformance::cache_admin;
use moodify_redis::{RedisCache, RedisConfig};
use tokio::time::{Instant, sleep};

use crate::peer::{Certificate, Cluster, RedisServer, until};
use crate::{Harness, PATIENCE, cache, cx, matching, unheard};

fn config(cluster: &Cluster) -> RedisConfig {
    RedisConfig::cluster("sessions", cluster.addresses())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_of_every_cache() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.fill("key-", 30);
    cache_admin(&Harness(cache(config(&cluster)), 30)).await;
    assert_eq!(cluster.count(), 0);
}

#[tokio::test]
async fn all_nodes_are_found_by_one_of_them() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.fill("key-", 30);
    let by_a_replica = cache(RedisConfig::cluster("sessions", [&cluster.addresses()[4]]));
    let info = by_a_replica.info(&cx()).await.unwrap();
    let roles = |role: CacheRole| info.nodes.iter().filter(|node| node.role == role).count();
    assert_eq!((roles(CacheRole::Primary), roles(CacheRole::Replica), info.keys()), (3, 3, 30), "{info:?}");
    assert!(info.primaries().all(|node| node.replicas == 1), "{info:?}");
    let error = by_a_replica.failover(&cx(), &FailoverRequest::from_primary("127.0.0.1:1")).await.unwrap_err();
    assert!(error.message().contains(&cluster.addresses()[0]), "it says which there are: {error}");
}

/// Kills a primary in the middle, for good, and waits for what its replica makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_interrupts_goes_on() {
    let Some(mut cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 20_000);
    cluster.fill("other:", 500);
    let cache = cache(config(&cluster));
    let (done, begun) = (unheard(), Instant::now());
    // Slow enough to be caught in the act.
    let request = matching("mood:*").keys_per_second(8000.try_into().unwrap()).page(200.try_into().unwrap());
    let context = cx();
    let delete = cache.delete_matching(&context, &request, &done);
    let kill = async {
        until("some keys are gone", || *done.borrow() > 3000).await;
        cluster.nodes[1].stop();
    };
    let (deleted, ()) = tokio::join!(delete, kill);
    let deleted = deleted.unwrap();
    assert!(deleted.deleted >= 20_000 && deleted.found >= deleted.deleted, "{deleted:?}");
    assert!(begun.elapsed() > Duration::from_secs(2), "it went on after the failover");
    assert_eq!(cluster.count(), 500, "all that match, and no others");

    let info = cache.info(&cx()).await.unwrap();
    assert_eq!(info.primaries().count(), 3, "{info:?}");
    let gone = cluster.addresses()[1].clone();
    assert!(info.nodes.iter().all(|node| node.address != gone), "{info:?}");
}

/// One shard fails over, by hand, when it is flushed; another one loses its primary before it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_a_failover_interrupts_deletes_nothing_that_was_written_since() {
    let Some(mut cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 3000);
    // It answers questions, and its flush waits.
    let () = cluster.nodes[1].ask(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let (cache, context) = (cache(config(&cluster)), cx());
    let request = FlushRequest::confirmed("sessions").in_production();
    let meanwhile = async {
        let empty = |nodes: &[usize]| nodes.iter().all(|node| cluster.nodes[*node].count(0) == 0);
        until("the two others are flushed", || empty(&[0, 2, 3])).await;
        let () = cluster.nodes[3].ask(&["CLUSTER", "FAILOVER"]);
        let over = |node: usize| {
            let nodes: String = cluster.nodes[node].ask(&["CLUSTER", "NODES"]);
            let of = |line: &&str| line.contains(&cluster.nodes[3].address());
            nodes.lines().find(of).is_some_and(|line| line.contains("master") && line.contains("0-5460"))
        };
        until("a replica took over, and all know it", || (0..6).all(over)).await;
        let () = cluster.nodes[3].ask(&["SET", "bar", "written since"]);
        let () = cluster.nodes[2].ask(&["SET", "foo", "written since"]);
        assert!(cluster.nodes[1].count(0) > 0, "it was not flushed yet");
        cluster.nodes[1].stop();
    };
    let (flushed, ()) = tokio::join!(cache.flush(&context, &request), meanwhile);
    assert_eq!(flushed.unwrap(), 3000, "those of the begin");
    assert_eq!(cluster.nodes[4].count(0), 0, "who took over is flushed");
    for (node, key) in [(3, "bar"), (2, "foo")] {
        assert_eq!(cluster.nodes[node].ask::<Option<String>>(&["GET", key]).as_deref(), Some("written since"), "{key}");
    }
    assert_eq!(cluster.count(), 2);
}

#[tokio::test]
async fn a_flush_waits_for_slots_that_are_moved_and_deletes_nothing_meanwhile() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 300);
    let cache = cache(config(&cluster).failover_timeout(Duration::from_secs(2)));
    let request = FlushRequest::confirmed("sessions").in_production();
    cluster.open(7, 0, 1);
    let error = cache.flush(&cx(), &request).await.unwrap_err();
    assert_eq!((error.kind(), cluster.count()), (ErrorKind::Unavailable, 300), "{error}");
    assert!(error.to_string().contains("1 slots are being moved"), "{error}");
    cluster.close(7, 0, 1);
    assert_eq!((cache.flush(&cx(), &request).await.unwrap(), cluster.count()), (300, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_a_failover_interrupts_is_of_the_new_primaries() {
    let Some(mut cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 1000);
    for node in &cluster.nodes {
        // A snapshot that takes some seconds.
        let () = node.ask(&["CONFIG", "SET", "rdb-key-save-delay", "10000"]);
    }
    let (cache, context) = (cache(config(&cluster)), cx());
    let kill = async {
        let node = &cluster.nodes[2];
        until("a snapshot is being made", || node.ask::<String>(&["INFO"]).contains("rdb_bgsave_in_progress:1")).await;
        cluster.nodes[2].stop();
    };
    let (made, ()) = tokio::join!(cache.snapshot(&context), kill);
    let mut made: Vec<String> = made.unwrap().into_iter().map(|of| of.node).collect();
    made.sort_unstable();
    let mut primaries: Vec<String> = cluster.primaries().map(RedisServer::address).collect();
    primaries.sort_unstable();
    assert_eq!(made, primaries);
    for node in cluster.primaries() {
        assert!(node.dir().join("dump.rdb").is_file(), "{node:?}");
    }
}

#[tokio::test]
async fn slots_of_nobody_end_a_call_when_nobody_takes_over() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let patience = Duration::from_secs(3);
    let cache = cache(config(&cluster).failover_timeout(patience));
    cache.ping(&cx()).await.unwrap();
    cluster.nodes[0].stop();
    cluster.nodes[3].stop();
    // Until the others know.
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let error = cache.info(&cx()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
    assert!(begun.elapsed() >= patience && begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    let error = cache.ping(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_it_keeps_the_contract_of_every_cache() {
    let certificate = Certificate::new();
    let Some(cluster) = Cluster::start_tls(&certificate).await else { return };
    cluster.fill("key-", 30);
    let config = RedisConfig::cluster("sessions", cluster.tls_addresses()).tls();
    let untrusted = cache(config.clone()).ping(&cx()).await.unwrap_err();
    assert_eq!(untrusted.kind(), ErrorKind::Invalid, "{untrusted}");
    cache_admin(&Harness(cache(config.ca_file(certificate.ca_file())), 30)).await;
    assert_eq!(cluster.count(), 0);
}

/// Keys go to another node before the delete reaches them, behind its back, and in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_goes_on_while_slots_move() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 20_000);
    cluster.fill("other:", 500);
    let cache = cache(config(&cluster));
    let (done, context) = (unheard(), cx());
    let request = matching("mood:*").keys_per_second(8000.try_into().unwrap()).page(200.try_into().unwrap());
    let delete = cache.delete_matching(&context, &request, &done);
    let moved = async {
        until("some keys are gone", || *done.borrow() > 1000).await;
        // From each to each: some of these the delete has been through, and some it has not.
        for n in 0..60 {
            let (from, to, slot) = [(0, 2, n), (1, 0, 5461 + n), (2, 1, 16_383 - n)][usize::from(n % 3)];
            cluster.open(slot, from, to);
            // The last of them stay open for a while.
            sleep(Duration::from_millis(if n < 57 { 20 } else { 3000 })).await;
            cluster.close(slot, from, to);
        }
    };
    let (deleted, ()) = tokio::join!(delete, moved);
    let deleted = deleted.unwrap();
    assert_eq!(deleted.deleted, 20_000, "each once: {deleted:?}");
    assert_eq!(cluster.count(), 500, "all that match, and no others");
}

#[tokio::test]
async fn a_slot_that_nobody_moves_on_is_told_and_its_keys_are_left() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.fill("mood:", 3000);
    let cache = cache(config(&cluster).failover_timeout(Duration::from_secs(2)));
    cluster.open(7, 0, 1);
    let error = cache.delete_matching(&cx(), &matching("mood:*"), &unheard()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
    assert!(error.to_string().contains("1 slots are moved"), "{error}");
    cluster.close(7, 0, 1);
    let deleted = cache.delete_matching(&cx(), &matching("mood:*"), &unheard()).await.unwrap();
    assert_eq!(cluster.count(), 0, "{deleted:?}");
}

#[tokio::test]
async fn the_right_to_fail_over_is_asked_for_at_the_replicas() {
    let Some(cluster) = Cluster::start().await else { return };
    let rules = ["on", ">s3cret-s3cret", "-@all", "+ping", "+info", "+cluster|nodes", "+acl|whoami", "+acl|dryrun"];
    let allow = |rules: &[&str]| {
        cluster.nodes.iter().for_each(|node| node.ask(&[&["ACL", "SETUSER", "moodify"][..], rules].concat()));
    };
    allow(&rules);
    let cache = RedisCache::new(config(&cluster).username("moodify").password("s3cret-s3cret")).unwrap();
    let needed = CacheCapabilities::default().failover(true);
    let problems = cache.preflight(&cx(), needed).await;
    assert_eq!(problems.len(), 3, "one of each replica: {problems:?}");
    for problem in &problems {
        assert!(problem.to_string().contains("ACL SETUSER <user> +cluster|failover"), "{problem}");
    }
    allow(&["+cluster|failover"]);
    assert!(cache.preflight(&cx(), needed).await.is_empty());
}
