use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::backend::{CacheCapabilities, CacheEntry, WarmRequest};
use moodify_core::testing::conformance::cache_admin;
use moodify_redis::{RedisCache, RedisConfig};
use tokio::time::Instant;

use futures::{StreamExt as _, stream};

use crate::peer::{Certificate, Watched, until};
use crate::{Harness, cache, cx, matching, unheard};

fn config(watched: &Watched) -> RedisConfig {
    RedisConfig::sentinel("sessions", "sessions", watched.sentinels())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_of_every_cache() {
    let Some(watched) = Watched::start(&[]).await else { return };
    watched.primary().fill(0, 30);
    until("the replica has them", || watched.nodes[1].count(0) == 30).await;
    cache_admin(&Harness(cache(config(&watched)), 30)).await;
}

#[tokio::test]
async fn an_unknown_master_and_dead_sentinels_are_told() {
    let Some(watched) = Watched::start(&[]).await else { return };
    let unknown = cache(RedisConfig::sentinel("sessions", "nobody", watched.sentinels()));
    let error = unknown.info(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("No such master"), "{error}");
    let one = [watched.sentinels()[0].clone(), "127.0.0.1:1".to_owned()];
    cache(RedisConfig::sentinel("sessions", "sessions", one)).ping(&cx()).await.unwrap();
    let none = cache(RedisConfig::sentinel("sessions", "sessions", ["127.0.0.1:1"]));
    assert_eq!(none.ping(&cx()).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_a_failover_interrupts_goes_on() {
    let Some(mut watched) = Watched::start(&[]).await else { return };
    watched.primary().fill(0, 10_000);
    until("the replica has them", || watched.nodes[1].count(0) == 10_000).await;
    let cache = cache(config(&watched));
    let (done, begun, context) = (unheard(), Instant::now(), cx());
    let request = matching("key-*").keys_per_second(4000.try_into().unwrap()).page(200.try_into().unwrap());
    let delete = cache.delete_matching(&context, &request, &done);
    let kill = async {
        until("some keys are gone", || *done.borrow() > 3000).await;
        watched.nodes[0].stop();
    };
    let (deleted, ()) = tokio::join!(delete, kill);
    let deleted = deleted.unwrap();
    assert!(deleted.deleted >= 10_000, "{deleted:?}");
    assert!(begun.elapsed() > Duration::from_secs(2), "it went on after the failover");
    assert_eq!(watched.primary().count(0), 0);
    assert_eq!(watched.primary().address(), watched.nodes[1].address());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_a_failover_interrupts_is_of_the_new_primary() {
    // A snapshot that takes some seconds.
    let Some(mut watched) = Watched::start(&["--rdb-key-save-delay", "10000"]).await else { return };
    watched.primary().fill(0, 300);
    let (cache, context) = (cache(config(&watched)), cx());
    let kill = async {
        let node = &watched.nodes[0];
        until("a snapshot is being made", || node.ask::<String>(&["INFO"]).contains("rdb_bgsave_in_progress:1")).await;
        watched.nodes[0].stop();
    };
    let (made, ()) = tokio::join!(cache.snapshot(&context), kill);
    let made = made.unwrap();
    let primary = watched.primary();
    assert_eq!((made.len(), made[0].node.clone(), made[0].keys), (1, primary.address(), 300));
    assert_eq!(made[0].completed.as_second(), primary.ask::<i64>(&["LASTSAVE"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_that_a_failover_interrupts_writes_every_entry() {
    let Some(mut watched) = Watched::start(&[]).await else { return };
    let (cache, context, done) = (cache(config(&watched)), cx(), unheard());
    let entries = (0..4000).map(|n| Ok(CacheEntry::new(format!("mood:{n}"), "happy")));
    let request = WarmRequest::new().page(100.try_into().unwrap()).keys_per_second(2000.try_into().unwrap());
    let warm = cache.warm(&context, stream::iter(entries).boxed(), &request, &done);
    let kill = async {
        let (primary, replica) = (&watched.nodes[0], &watched.nodes[1]);
        until("some entries are there", || *done.borrow() > 1000).await;
        let () = primary.ask(&["DEL", "mood:0"]);
        until("the replica has them", || replica.count(0) > 900 && replica.ask::<i64>(&["EXISTS", "mood:0"]) == 0)
            .await;
        // From now on the replica hears of nothing.
        let () = replica.ask(&["CONFIG", "SET", "masterauth", "wrong"]);
        let () = primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
        until("many more are there", || *done.borrow() > 2800).await;
        assert!(replica.count(0) < 2500, "it lacks what it was not told: {}", replica.count(0));
        watched.nodes[0].stop();
    };
    let (warmed, ()) = tokio::join!(warm, kill);
    let warmed = warmed.unwrap();
    assert_eq!((warmed.written + warmed.present, warmed.unsure), (4000, 0), "{warmed:?}");
    let primary = watched.primary();
    assert_eq!(primary.address(), watched.nodes[1].address());
    assert_eq!(primary.ask::<i64>(&["EXISTS", "mood:0"]), 0, "what the replica had is not written again");
    assert_eq!(primary.count(0), 3999, "all others are there: {warmed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_it_is_found_and_goes_on_after_a_failover() {
    let certificate = Certificate::new();
    let Some(mut watched) = Watched::start_tls(&certificate).await else { return };
    watched.primary().fill(0, 30);
    let config = RedisConfig::sentinel("sessions", "sessions", watched.tls_sentinels()).tls();
    let untrusted = cache(config.clone()).ping(&cx()).await.unwrap_err();
    assert_eq!(untrusted.kind(), ErrorKind::Invalid, "{untrusted}");
    assert!(untrusted.message().contains("not trusted"), "{untrusted}");
    let cache = cache(config.ca_file(certificate.ca_file()));
    let info = cache.info(&cx()).await.unwrap();
    assert_eq!((info.nodes.len(), info.keys()), (2, 30), "{info:?}");
    assert_eq!(info.nodes[0].address, format!("127.0.0.1:{}", watched.nodes[0].tls_port));
    watched.nodes[0].stop();
    let deleted = cache.delete_matching(&cx(), &matching("key-*"), &unheard()).await.unwrap();
    assert_eq!((deleted.deleted, watched.primary().count(0)), (30, 0));
    assert_eq!(watched.primary().address(), watched.nodes[1].address());
}

#[tokio::test]
async fn the_right_to_fail_over_is_asked_for_at_the_sentinels() {
    let Some(watched) = Watched::start(&[]).await else { return };
    let rules = ["on", ">s3cret-s3cret", "-@all", "+ping", "+sentinel|master", "+acl|whoami", "+acl|dryrun"];
    watched.tell_sentinels(&[&["ACL", "SETUSER", "moodify"][..], &rules].concat());
    let config = config(&watched).sentinel_login(Some("moodify"), "s3cret-s3cret");
    let cache = RedisCache::new(config).unwrap();
    let needed = CacheCapabilities::default().failover(true);
    let problems = cache.preflight(&cx(), needed).await;
    assert_eq!(problems.len(), 3, "one of each sentinel: {problems:?}");
    for problem in &problems {
        assert!(problem.message().contains("commands SENTINEL REPLICAS, SENTINEL FAILOVER;"), "{problem}");
    }
    watched.tell_sentinels(&["ACL", "SETUSER", "moodify", "+sentinel|replicas", "+sentinel|failover"]);
    assert!(cache.preflight(&cx(), needed).await.is_empty());
}
