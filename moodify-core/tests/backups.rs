//! Waiting for backups and restores, and what goes wrong with them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{secs, target};
use moodify_core::backend::{
    Backup, BackupRequest, BackupState, BackupStore, BackupStoreExt, DeleteRequest, RestoreRequest, Retention,
};
use moodify_core::testing::conformance::context;
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, RunId};

fn simulator(backups: &str) -> (Simulator, Arc<dyn BackupStore>) {
    let scenario = Scenario::from_yaml(&format!("backups: {{{backups}}}")).unwrap();
    let simulator = Simulator::new(&[target("backend", "http-route")], scenario);
    let store = simulator.backends().backup_stores["simulated"].clone();
    (simulator, store)
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_and_a_late_backup_says_how_far_it_is() {
    let (_, store) = simulator("takes: 100s");
    let made = store.create(&context("backup", secs(300)), &BackupRequest::new()).await.unwrap();
    let error = store.wait_available(&context("wait", secs(40)), &made.id, &|_| ()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None));
    assert!(error.message().contains("being made, 3"), "{error}");
    assert!(error.to_string().contains("goes on at the provider"), "{error}");

    let seen: Mutex<Vec<String>> = Mutex::default();
    let look = |backup: &Backup| seen.lock().unwrap().push(backup.state.to_string());
    let begun = tokio::time::Instant::now();
    store.wait_available(&context("wait", secs(300)), &made.id, &look).await.unwrap();
    assert!(begun.elapsed() < secs(80), "no longer than one turn after it is complete: {:?}", begun.elapsed());
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() < 12, "it does not ask too often: {seen:?}");
    assert!(seen.is_sorted() && seen[0].starts_with("being made, "), "{seen:?}");
    assert_eq!(seen.last().unwrap(), "complete");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_ends_the_wait_at_once() {
    let (_, store) = simulator("takes: 5s, fails: the disk is full");
    let cx = context("backup", secs(300));
    let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
    let error = store.wait_available(&cx, &made.id, &|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy);
    assert!(error.message().contains("the disk is full") && !error.is_transient(), "{error}");
    let again = store.create(&cx, &BackupRequest::new()).await.unwrap();
    assert!(matches!(again.state, BackupState::Failed(_)), "the same key is the same backup, also when it failed");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_fails_in_passing_is_asked_again_and_any_other_ends_the_wait() {
    for (kind, ends) in [(ErrorKind::Throttled, false), (ErrorKind::Unauthenticated, true)] {
        let (simulator, store) = simulator("takes: 5s");
        let cx = context("backup", secs(60));
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        let rule = Rule::new(Fault::ErrorBefore(kind)).backend(BackendKind::BackupStore).operation("describe");
        simulator.faults().add(rule);
        let error = store.wait_available(&cx, &made.id, &|_| ()).await.unwrap_err();
        assert_eq!((error.kind(), ends), (if ends { kind } else { ErrorKind::Timeout }, cx.remaining() > secs(50)));
        assert!(ends || error.message().contains("the last question failed"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_no_second_backup_and_no_second_target() {
    let (simulator, store) = simulator("takes: 5s");
    for operation in ["create", "restore"] {
        let rule = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).backend(BackendKind::BackupStore);
        simulator.faults().add(rule.operation(operation).times(1));
    }
    let cx = context("backup", secs(300));
    let lost = store.create(&cx, &BackupRequest::new()).await.unwrap_err();
    assert_eq!(lost.effect_of(), Effect::Unknown);
    let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
    store.wait_available(&cx, &made.id, &|_| ()).await.unwrap();
    assert_eq!(simulator.world().backups().len(), 1);
    let restored = store.wait_restored(&cx, &RestoreRequest::new(&made.id, "new"), &|_| ()).await.unwrap();
    assert_eq!(restored.endpoint.as_deref(), Some("new.simulated.invalid"));
    assert_eq!(simulator.world().restored().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_pruned_is_old_and_nobodys() {
    let (simulator, store) = simulator("takes: 1s");
    let mut ids = Vec::new();
    for run in ["r1", "r2", "r3", "r4"] {
        let key = IdempotencyKey::new(format!("{run}/backup"));
        let cx = CallContext::new(RunId::new(run).unwrap(), key, secs(60));
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        ids.push(store.wait_available(&cx, &made.id, &|_| ()).await.unwrap().id);
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let retention: Retention = serde_json::from_str(r#"{"newest": 1}"#).unwrap();
    let (cx, now) = (context("prune", secs(60)), simulator.clock().now());
    let needed = |backup: &Backup| backup.run.as_ref().is_some_and(|run| run.as_str() == "r2");
    let deleted = store.prune(&cx, &retention, now, &needed).await.unwrap();
    assert_eq!(deleted, [ids[0].clone(), ids[2].clone()], "oldest first");
    assert_eq!(store.newest(&cx).await.unwrap().unwrap().id, ids[3]);
    let typed = DeleteRequest::confirmed(&ids[1], &ids[1]).unwrap();
    store.delete(&cx, &typed).await.unwrap();
    assert_eq!(simulator.world().backups().len(), 1);
}
