//! The contract of `CacheAdmin`, held against a real redis-server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::sync::Arc;
use std::time::Duration;

use moodify_core::backend::{CacheAdmin, FlushRequest};
use moodify_core::testing::conformance::{CacheHarness, cache_admin};
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, RunId};
use moodify_redis::{RedisCache, RedisConfig};
use peer::{RedisServer, free_port};
use tokio_util::sync::CancellationToken;

fn cx_of(timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/cache"), timeout)
}

fn cx() -> CallContext {
    cx_of(Duration::from_secs(20))
}

fn cache(config: RedisConfig) -> Box<dyn CacheAdmin> {
    Box::new(RedisCache::new(config).unwrap())
}

struct Harness(Arc<dyn CacheAdmin>);

impl CacheHarness for Harness {
    fn cache(&self) -> Arc<dyn CacheAdmin> {
        self.0.clone()
    }

    fn name(&self) -> String {
        "sessions".to_owned()
    }

    fn keys(&self) -> u64 {
        30
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_cache() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 30);
    server.fill(1, 7);
    cache_admin(&Harness(cache(RedisConfig::new("sessions", server.url())).into())).await;
    assert_eq!((server.count(0), server.count(1)), (0, 7));
}

#[tokio::test]
async fn it_pings_and_describes_one_database() {
    let Some(server) = RedisServer::start(&["--maxmemory", "64mb"]).await else { return };
    server.fill(0, 12);
    server.fill(3, 5);
    let cache = cache(RedisConfig::new("sessions", format!("{}/3", server.url())));
    assert!(cache.capabilities().data && cache.capabilities().flush && !cache.capabilities().restart);
    cache.ping(&cx()).await.unwrap();
    let info = cache.info(&cx()).await.unwrap();
    assert!(info.engine.starts_with("redis ") || info.engine.starts_with("valkey "), "{}", info.engine);
    assert_eq!((info.keys, info.max_memory), (5, Some(64 << 20)));
    assert!(info.used_memory > 0 && info.clients >= 1, "{info:?}");
    assert_eq!(info.hit_rate, None, "nothing was looked up yet");
}

#[tokio::test]
async fn one_connection_serves_all_calls() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    let context = cx();
    let (a, b, c) = tokio::join!(cache.info(&context), cache.ping(&context), cache.info(&context));
    assert_eq!(a.unwrap().clients, 1);
    b.unwrap();
    assert_eq!(c.unwrap().clients, 1);
}

#[tokio::test]
async fn a_flush_needs_the_name_and_deletes_one_database() {
    let Some(server) = RedisServer::start(&[]).await else { return };
    server.fill(0, 40);
    server.fill(1, 7);
    let cache = cache(RedisConfig::new("sessions", server.url()));
    for wrong in [FlushRequest::confirmed("session"), FlushRequest::confirmed("")] {
        let error = cache.flush(&cx(), &wrong).await.unwrap_err();
        assert_eq!((error.kind(), error.effect_of(), error.is_transient()), (ErrorKind::Refused, Effect::None, false));
    }
    assert_eq!(cache.flush(&cx(), &FlushRequest::dry_run()).await.unwrap(), 40);
    assert_eq!(server.count(0), 40, "refusals and dry runs delete nothing");
    assert_eq!(cache.flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap(), 40);
    assert_eq!((server.count(0), server.count(1)), (0, 7));
    assert_eq!(cache.flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap(), 0, "again is fine");
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
    assert_eq!(user("reader", "r-pass").info(&cx()).await.unwrap().keys, 9);
    let error = user("reader", "f-pass").ping(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let error = user("reader", "r-pass").flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Forbidden, Effect::None), "{error}");
    assert_eq!(server.count(0), 9);
    assert_eq!(user("flusher", "f-pass").flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap(), 9);
}

#[tokio::test]
async fn a_server_that_went_away_is_unavailable_until_it_is_back() {
    let Some(mut server) = RedisServer::start(&[]).await else { return };
    let cache = cache(RedisConfig::new("sessions", server.url()));
    cache.ping(&cx()).await.unwrap();
    server.stop();
    for _ in 0..2 {
        let error = cache.flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap_err();
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
    assert_eq!(patient.info(&cx()).await.unwrap().keys, 3, "on a fresh connection");
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
        cache.flush(&cx(), &FlushRequest::confirmed("sessions")).await.unwrap_err(),
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
    assert_eq!(trusted.info(&cx()).await.unwrap().keys, 0);
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
