use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::{JournalStore, Outcome};
use tokio_util::sync::CancellationToken;

use crate::common::*;

#[test]
fn an_interrupted_run_is_resumed_and_the_bake_goes_on_where_it_was() {
    on_virtual_time(async {
        let Stage { plan, simulator, journal, .. } = Stage::named(plan(), "healthy");
        let first = engine(&journal, &simulator, &plan);
        let run = first.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        let (ending, ()) = tokio::join!(first.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            stop.cancel();
        });
        assert_eq!(ending.unwrap(), Ending::Interrupted);
        let ending = engine(&journal, &simulator, &plan).drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(45 * 60), "not promoted early: {took:?}");
        assert!(took <= Duration::from_secs(48 * 60), "what was baked before counts: {took:?}");
    });
}

#[test]
fn while_it_is_not_known_whether_the_owner_is_alive_the_engine_asks_again() {
    on_virtual_time(async {
        let Stage { plan, simulator, journal, .. } = Stage::named(plan(), "healthy");
        let (left, unclear) = (AtomicU64::new(u64::MAX), AtomicU64::new(20));
        let waits = Arc::new(Breaking { inner: journal, left, durable: true, stuck: Arc::default(), unclear });
        let store: Arc<dyn JournalStore> = waits.clone();
        let engine = engine(&store, &simulator, &plan);
        let run = engine.create(&plan, "test").await.unwrap();
        let begun = tokio::time::Instant::now();
        let ending = engine.drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "longer than a lease: {:?}", engine.options().lease);
        assert!(begun.elapsed() > Duration::from_secs(20));

        let run = engine.create(&plan, "test").await.unwrap();
        waits.unclear.store(u64::MAX, Ordering::Relaxed);
        let stop = CancellationToken::new();
        let (refused, ()) = tokio::join!(engine.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            stop.cancel();
        });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused, "who is told to stop need not know it any more");
    });
}

#[test]
fn a_second_engine_is_told_who_has_the_run_and_a_fenced_one_changes_nothing_any_more() {
    on_virtual_time(async {
        let Stage { plan, simulator, journal, .. } = Stage::named(plan(), "healthy");
        let stuck: Arc<AtomicBool> = Arc::default();
        let left = AtomicU64::new(u64::MAX);
        let breaking: Arc<dyn JournalStore> =
            Arc::new(Breaking { inner: journal.clone(), left, durable: true, stuck: stuck.clone(), unclear: 0.into() });
        let first = engine(&breaking, &simulator, &plan);
        let run = first.create(&plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let (ending, ()) = tokio::join!(first.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            let second = engine(&journal, &simulator, &plan);
            let refused = second.drive(&run, &CancellationToken::new()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused);
            assert!(refused.to_string().contains("owned by process"), "{refused}");
            // The first one cannot renew its session, which runs out: somebody takes over.
            stuck.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(15)).await;
            journal.acquire(&run, "another engine", Duration::from_secs(3600)).await.unwrap();
        });
        assert_eq!(ending.unwrap_err().kind(), ErrorKind::Fenced);
        let writes = simulator.world().writes().len();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(simulator.world().writes().len(), writes);
    });
}
