use std::time::Duration;

use futures::{StreamExt as _, stream};
use moodify_core::backend::{CacheCapabilities, CacheDump, CacheEntry, FailoverRequest, FlushRequest, WarmRequest};
use moodify_core::model::EnvironmentKind;
use moodify_core::testing::conformance::cache_admin;
use moodify_core::{Effect, ErrorKind};
use moodify_redis::{RedisCache, RedisConfig};
use tokio_util::sync::CancellationToken;

use crate::peer::{RedisServer, free_port, until};
use crate::{Harness, cache, cx, cx_of, matching, unheard};

fn flush() -> FlushRequest {
    FlushRequest::confirmed("sessions").in_production()
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_cache() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 30);
    server.fill(1, 7);
    cache_admin(&Harness(cache(RedisConfig::new("sessions", server.url())), 30)).await;
    assert_eq!((server.count(0), server.count(1)), (0, 7));
}

#[tokio::test]
async fn it_pings_and_describes_one_database() {
    let Some(server) = RedisServer::start(&["--maxmemory", "64mb"]).await else { return };
    server.fill(0, 12);
    server.fill(3, 5);
    let cache = cache(RedisConfig::new("sessions", format!("{}/3", server.url())));
    assert!(cache.capabilities().flush && !cache.capabilities().failover);
    cache.ping(&cx()).await.unwrap();
    let info = cache.info(&cx()).await.unwrap();
    assert!(info.engine.starts_with("redis ") || info.engine.starts_with("valkey "), "{}", info.engine);
    assert_eq!((info.keys(), info.max_memory()), (5, Some(64 << 20)));
    assert!(info.used_memory() > 0 && info.clients() >= 1, "{info:?}");
    assert_eq!(info.hit_rate(), None, "nothing was looked up yet");
}

#[tokio::test]
async fn one_connection_serves_all_calls() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let context = cx();
    let (a, b, c) = tokio::join!(cache.info(&context), cache.ping(&context), cache.info(&context));
    assert_eq!(a.unwrap().clients(), 1);
    b.unwrap();
    assert_eq!(c.unwrap().clients(), 1);
}

#[tokio::test]
async fn a_flush_needs_the_name_and_deletes_one_database() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 40);
    server.fill(1, 7);
    let config = |kind| cache(RedisConfig::new("sessions", server.url()).environment(kind));
    let cache = config(EnvironmentKind::Production);
    let careless = FlushRequest::confirmed("sessions");
    for wrong in [
        FlushRequest::confirmed("session").in_production(),
        FlushRequest::confirmed("").in_production(),
        careless.clone(),
    ] {
        let error = cache.flush(&cx(), &wrong).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of(), error.is_transient()), (ErrorKind::Refused, Effect::None, false));
    }
    assert_eq!(cache.flush(&cx(), &FlushRequest::dry_run()).await.unwrap(), 40);
    assert_eq!(server.count(0), 40, "refusals and dry runs delete nothing");
    assert_eq!(cache.flush(&cx(), &flush()).await.unwrap(), 40);
    assert_eq!((server.count(0), server.count(1)), (0, 7));
    assert_eq!(cache.flush(&cx(), &flush()).await.unwrap(), 0, "again is fine");
    server.fill(0, 3);
    let staging = config(EnvironmentKind::Staging);
    assert_eq!(staging.flush(&cx(), &careless).await.unwrap(), 3, "of an environment in which nobody minds");
}

#[tokio::test]
async fn a_password_is_needed_and_never_shown() {
    let Some(server) = RedisServer::start(&["--requirepass", "open-sesame"]).await else { return };
    let config = || RedisConfig::new("sessions", server.url());
    cache(config().password("open-sesame")).ping(&cx()).await.unwrap();
    cache(RedisConfig::new("sessions", server.url().replace("//", "//:open-sesame@"))).ping(&cx()).await.unwrap();
    for wrong in [config(), config().password("open-barley")] {
        let error = cache(wrong).ping(&cx()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unauthenticated, false), "{error}");
        assert!(!format!("{error} {error:?}").contains("open-barley"), "{error:?}");
    }
}

#[tokio::test]
async fn an_acl_user_may_do_what_its_rules_say() {
    let Some(server) = RedisServer::start(&[
        "--user", "reader", "on", ">r-pass", "+ping", "+info", "+dbsize", "--user", "flusher", "on", ">f-pass",
        "+info", "+dbsize", "+flushdb",
    ])
    .await
    else {
        return;
    };
    server.fill(0, 9);
    let user = |name: &str, password: &str| {
        cache(RedisConfig::new("sessions", server.url()).username(name).password(password))
    };
    assert_eq!(user("reader", "r-pass").info(&cx()).await.unwrap().keys(), 9);
    let error = user("reader", "f-pass").ping(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let error = user("reader", "r-pass").flush(&cx(), &flush()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Forbidden, Effect::None), "{error}");
    assert_eq!(server.count(0), 9);
    assert_eq!(user("flusher", "f-pass").flush(&cx(), &flush()).await.unwrap(), 9);
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable_until_it_is_back() {
    let Some(mut server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    cache.ping(&cx()).await.unwrap();
    server.stop();
    for _ in 0..2 {
        let error = cache.flush(&cx(), &flush()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true), "{error}");
        assert!(error.target().contains(&server.port.to_string()), "{error}");
    }
    server.restart().await;
    cache.ping(&cx()).await.unwrap();
}

#[tokio::test]
async fn a_restart_between_two_calls_costs_no_failed_call() {
    let Some(mut server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    cache.ping(&cx()).await.unwrap();
    server.stop();
    server.restart().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    cache.ping(&cx()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_at_the_deadline() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 3);
    let patient = cache(RedisConfig::new("sessions", server.url()));
    let hasty = cache(RedisConfig::new("sessions", server.url()).response_timeout(Duration::from_millis(100)));
    for cache in [&patient, &hasty] {
        cache.ping(&cx()).await.unwrap();
    }
    server.signal("STOP");
    let soon = || cx_of(Duration::from_millis(200));
    let ping = patient.ping(&soon()).await.unwrap_err();
    assert_eq!((ping.kind(), ping.effect_of()), (ErrorKind::Timeout, Effect::None), "{ping}");
    let ping = hasty.ping(&cx()).await.unwrap_err();
    assert_eq!(ping.kind(), ErrorKind::Timeout, "its own response timeout is earlier: {ping}");
    let token = CancellationToken::new();
    let context = cx().with_cancel(token.clone());
    let (cancelled, ()) = tokio::join!(patient.ping(&context), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        token.cancel();
    });
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    server.signal("CONT");
    assert_eq!(patient.info(&cx()).await.unwrap().keys(), 3, "on a fresh connection");
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    // Left out, the port of the cluster bus is one that nobody has asked about.
    let bus = free_port().to_string();
    let started = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let Some(server) = started else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    cache.ping(&cx()).await.unwrap();
    for error in [
        cache.info(&cx()).await.unwrap_err(),
        cache.flush(&cx(), &flush()).await.unwrap_err(),
        cache.flush(&cx(), &FlushRequest::dry_run()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[tokio::test]
async fn tls_trusts_the_given_authority_only() {
    let Some(server) = RedisServer::start_tls().await else { return };
    let over_tls = |host: &str| RedisConfig::new("sessions", format!("rediss://{host}:{}", server.port));
    let trusted = cache(over_tls("localhost").ca_file(server.ca_file()));
    trusted.ping(&cx()).await.unwrap();
    assert_eq!(trusted.info(&cx()).await.unwrap().keys(), 0);
    for (untrusted, why) in [
        (over_tls("localhost"), "the machine's authorities do not know it"),
        (over_tls("127.0.0.1").ca_file(server.ca_file()), "the certificate is of another name"),
    ] {
        let error = cache(untrusted).ping(&cx()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Invalid, false), "{why}: {error}");
    }
    let Some(plain) = RedisServer::start(&[]).await else { return };
    let error = cache(RedisConfig::new("sessions", plain.url().replace("redis:", "rediss:")).ca_file(server.ca_file()))
        .ping(&cx_of(Duration::from_secs(2)))
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
}

#[test]
fn an_unreadable_authority_is_refused_before_connecting() {
    let config = RedisConfig::new("sessions", "rediss://localhost").ca_file("/does/not/exist.pem");
    let error = RedisCache::new(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("/does/not/exist.pem"), "{error}");
}

#[tokio::test]
async fn a_valkey_keeps_the_contract_too() {
    let Some(server) = RedisServer::start_valkey(&[]).await else { return };
    server.fill(0, 30);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    assert!(cache.info(&cx()).await.unwrap().engine.starts_with("valkey "));
    cache_admin(&Harness(cache, 30)).await;
}

#[tokio::test]
async fn over_tls_it_keeps_the_contract_too() {
    let Some(server) = RedisServer::start_tls().await else { return };
    let config = RedisConfig::new("sessions", format!("rediss://localhost:{}", server.port));
    cache_admin(&Harness(cache(config.ca_file(server.ca_file())), 0)).await;
}

/// The rules that the documentation of `RedisCache` gives.
const RULES: &str = "resetchannels -@all +ping +info +client|list +slowlog|get +dbsize +flushdb +scan +unlink +set +wait \
                     +bgsave +time +config|get";

#[tokio::test]
async fn a_user_with_the_documented_rights_keeps_the_contract() {
    let user = ["--user", "moodify", "on", ">m-pass", "~conformance*"];
    let Some(server) = RedisServer::start(&[&user[..], &RULES.split_whitespace().collect::<Vec<_>>()].concat()).await
    else {
        return;
    };
    server.fill(0, 30);
    let cache = cache(RedisConfig::new("sessions", server.url()).username("moodify").password("m-pass"));
    cache_admin(&Harness(cache.clone(), 30)).await;
    let elsewhere = stream::iter([Ok(CacheEntry::new("key-1", "value"))]).boxed();
    let error = cache.warm(&cx(), elsewhere, &WarmRequest::new(), &unheard()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    server.fill(0, 3);
    let error = cache.delete_matching(&cx(), &matching("key-*"), &unheard()).await.unwrap_err();
    assert_eq!((error.kind(), server.count(0)), (ErrorKind::Forbidden, 3), "{error}");
}

#[tokio::test]
async fn what_a_user_may_not_is_forbidden_and_a_snapshot_is_one_without_its_file() {
    let rules = RULES.replace(" +config|get", "").replace("+client|list", "");
    let user = ["--user", "moodify", "on", ">m-pass"];
    let Some(server) = RedisServer::start(&[&user[..], &rules.split_whitespace().collect::<Vec<_>>()].concat()).await
    else {
        return;
    };
    let cache = cache(RedisConfig::new("sessions", server.url()).username("moodify").password("m-pass"));
    let error = cache.clients(&cx()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Forbidden, Effect::None), "{error}");
    let made = cache.snapshot(&cx()).await.unwrap().remove(0);
    assert_eq!(made.file, None);
    assert!(matches!(&made.dump, CacheDump::Unseen { why } if why.contains("+config|get")), "{made:?}");
    assert!(made.dump.to_string().contains("NOT looked at"), "{}", made.dump);
}

#[tokio::test]
async fn a_snapshot_is_on_the_disk_and_one_that_fails_is_told() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 12);
    server.fill(3, 5);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let made = cache.snapshot(&cx()).await.unwrap().remove(0);
    assert_eq!((made.node.clone(), made.keys), (server.address(), 17));
    let file = std::path::PathBuf::from(made.file.unwrap());
    assert_eq!(file.canonicalize().unwrap(), server.dir().join("dump.rdb").canonicalize().unwrap());
    assert_eq!(made.completed.as_second(), server.ask::<i64>(&["LASTSAVE"]));
    let again = cache.snapshot(&cx()).await.unwrap().remove(0);
    assert!(again.completed > made.completed, "another one was made");

    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = cache.snapshot(&cx()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unhealthy, false), "{error}");
    std::fs::remove_dir(&file).unwrap();
    cache.snapshot(&cx()).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_runs_is_waited_for_and_another_one_made() {
    let Some(server) = RedisServer::start(&["--rdb-key-save-delay", "2000"]).await else { return };
    server.fill(0, 500);
    server.ask::<String>(&["BGSAVE"]);
    server.fill(1, 1);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let made = cache.snapshot(&cx()).await.unwrap().remove(0);
    assert_eq!(made.keys, 501);
    // The first one and ours.
    let info: String = server.ask(&["INFO"]);
    assert!(info.contains("rdb_saves:2"), "{info}");
    let () = server.ask(&["CONFIG", "SET", "rdb-key-save-delay", "20000"]);
    let late = cache.snapshot(&cx_of(Duration::from_secs(3))).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(late.to_string().contains("goes on"), "{late}");
}

#[tokio::test]
async fn slow_commands_are_told_without_what_they_were_about() {
    let Some(server) = RedisServer::start(&["--slowlog-log-slower-than", "0"]).await else { return };
    let () = server.ask(&["SET", "mood:7", "hush-hush"]);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let slow = cache.slow_log(&cx(), 100).await.unwrap();
    assert!(slow.iter().any(|slow| slow.command == "SET" && slow.client.starts_with("127.0.0.1:")), "{slow:?}");
    assert!(!format!("{slow:?}").contains("hush-hush"), "{slow:?}");
    assert!(slow.is_sorted_by(|a, b| (a.at, a.id) >= (b.at, b.id)), "newest first: {slow:?}");
    assert_eq!(cache.slow_log(&cx(), 2).await.unwrap().len(), 2);
    let clients = cache.clients(&cx()).await.unwrap();
    assert_eq!((clients.len(), clients[0].user.as_deref()), (1, Some("default")), "{clients:?}");
}

#[tokio::test]
async fn deleting_goes_no_faster_than_it_may_and_ends_when_nobody_waits() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 3000);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let slowly = matching("key-*").page(100.try_into().unwrap()).keys_per_second(2000.try_into().unwrap());
    let (token, done) = (CancellationToken::new(), unheard());
    let context = cx().with_cancel(token.clone());
    let (cancelled, ()) = tokio::join!(cache.delete_matching(&context, &slowly, &done), async {
        until("some keys are found", || *done.borrow() >= 1000).await;
        token.cancel();
    });
    let cancelled = cancelled.unwrap_err();
    assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
    assert!(cancelled.to_string().contains("keys were deleted before"), "{cancelled}");
    let left = server.count(0);
    assert!(left > 1000 && left < 3000, "{left}");
    let begun = tokio::time::Instant::now();
    let deleted = cache.delete_matching(&cx(), &slowly, &unheard()).await.unwrap();
    assert_eq!((deleted.deleted, server.count(0)), (left, 0), "deleting again goes on");
    assert!(begun.elapsed().as_millis() >= u128::from(left - 200) / 2, "{:?} for {left} keys", begun.elapsed());
}

#[tokio::test]
async fn entries_have_their_time_and_overwrite_nothing() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    let () = server.ask(&["SET", "mood:1", "sad"]);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let entry = |n: u32| CacheEntry::new(format!("mood:{n}"), "happy");
    let entries = vec![Ok(entry(1)), Ok(entry(2)), Ok(entry(3).ttl(Duration::from_secs(60)))];
    let warmed = cache.warm(&cx(), stream::iter(entries).boxed(), &WarmRequest::new(), &unheard()).await.unwrap();
    assert_eq!((warmed.written, warmed.present), (2, 1));
    assert_eq!(server.ask::<String>(&["GET", "mood:1"]), "sad");
    assert_eq!(server.ask::<i64>(&["TTL", "mood:2"]), -1);
    assert!((55..=60).contains(&server.ask::<i64>(&["TTL", "mood:3"])));
}

#[tokio::test]
async fn a_single_server_has_nobody_to_take_over() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let request = FailoverRequest::from_primary(&server.address());
    assert_eq!(cache.failover(&cx(), &request).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn what_the_user_may_not_is_told_before_anything_is_done() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 3);
    let base = ["ACL", "SETUSER", "moodify", "on", ">s3cret-s3cret", "~*", "-@all", "+ping", "+info"];
    let () = server.ask(&[&base[..], &["+dbsize", "+scan"]].concat());
    let config = RedisConfig::new("sessions", server.url()).username("moodify").password("s3cret-s3cret");
    let cache = RedisCache::new(config).unwrap();
    let mut needed = CacheCapabilities::keys().snapshot(true);
    assert!(cache.preflight(&cx(), needed).await.is_empty(), "it may not ask, so nobody can tell");
    let () = server.ask(&["ACL", "SETUSER", "moodify", "+acl|whoami", "+acl|dryrun"]);
    let problems = cache.preflight(&cx(), needed).await;
    let [problem] = problems.as_slice() else { panic!("one problem a server: {problems:?}") };
    assert_eq!(problem.kind(), ErrorKind::Forbidden, "{problem}");
    assert!(problem.message().contains("FLUSHDB, UNLINK, SET, BGSAVE, TIME;"), "{problem}");
    assert!(problem.to_string().contains("ACL SETUSER <user> +flushdb +unlink +set +bgsave +time"), "{problem}");
    let looks = CacheCapabilities::default().diagnostics(true);
    let problems = cache.preflight(&cx(), looks).await;
    assert!(problems[0].message().contains("commands CLIENT LIST, SLOWLOG GET;"), "{problems:?}");
    let () = server.ask(&["ACL", "SETUSER", "moodify", "+client|list", "+slowlog|get"]);
    assert!(cache.preflight(&cx(), looks).await.is_empty());
    let files = RedisConfig::new("sessions", server.url()).username("moodify").password("s3cret-s3cret");
    let files = RedisCache::new(files.dump_dir(server.address(), server.dir())).unwrap();
    let problems = files.preflight(&cx(), CacheCapabilities::default().snapshot(true)).await;
    assert!(problems[0].to_string().contains("+bgsave +time +config|get"), "{problems:?}");
    let () = server.ask(&["ACL", "SETUSER", "moodify", "+flushdb", "+unlink", "+set"]);
    needed.snapshot = false;
    assert!(cache.preflight(&cx(), needed).await.is_empty());
    assert_eq!(server.count(0), 3, "nothing was done");
    let wrong = RedisCache::new(RedisConfig::new("sessions", "redis://127.0.0.1:1")).unwrap();
    assert_eq!(wrong.preflight(&cx(), needed).await[0].kind(), ErrorKind::Unavailable);
}
