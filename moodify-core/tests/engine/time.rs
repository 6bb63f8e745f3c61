//! Time that counts is time that was watched; no jump of the wall clock changes that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moodify_core::clock::Clock;
use moodify_core::engine::Ending;
use moodify_core::event::{Progress, ProgressKind, Signal};
use moodify_core::journal::{Outcome, Record};
use moodify_core::model::Track;
use moodify_core::testing::{BackendKind, Scenario, Simulator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// A clock that somebody sets.
#[derive(Debug)]
struct Jumping {
    inner: Arc<dyn Clock>,
    seconds: AtomicI64,
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        self.inner.now() + SignedDuration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
}

/// Runs the release of the runbook while the clock jumps by so many seconds at every minute, and an engine is replaced
/// after 20 minutes. Says how long it took.
async fn released_while_the_clock_jumps(jump: i64) -> Duration {
    let stage = Stage::named(plan(), "healthy");
    let clock = Arc::new(Jumping { inner: stage.simulator.clock(), seconds: AtomicI64::new(0) });
    let first = stage.engine.clone().with_clock(clock.clone());
    let run = first.create(&stage.plan, "test").await.unwrap();
    let stop = CancellationToken::new();
    let begun = tokio::time::Instant::now();
    let jumps = async {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            clock.seconds.fetch_add(jump, Ordering::Relaxed);
        }
    };
    let drive = async {
        let interrupted = async {
            tokio::time::sleep(Duration::from_secs(20 * 60)).await;
            stop.cancel();
        };
        let (ending, ()) = tokio::join!(first.drive(&run, &stop), interrupted);
        ending.unwrap();
        // As if the machine had been off, and its clock is wrong.
        clock.seconds.fetch_add(jump * 100, Ordering::Relaxed);
        let second = stage.another_engine().with_clock(clock.clone());
        second.drive(&run, &CancellationToken::new()).await.unwrap()
    };
    let ending = tokio::select! {
        ending = drive => ending,
        () = jumps => unreachable!("it jumps for ever"),
    };
    assert_eq!(outcome(&ending), Outcome::Completed, "jumping by {jump} s: {ending:?}");
    begun.elapsed()
}

#[test]
fn a_clock_that_jumps_neither_promotes_early_nor_hangs() {
    for jump in [-3600, -1, 1, 59, 3600, 40_000] {
        let took = on_virtual_time(released_while_the_clock_jumps(jump));
        assert!(took >= Duration::from_secs(45 * 60), "jumping by {jump} s it was promoted after {took:?}");
        assert!(took <= Duration::from_secs(48 * 60), "jumping by {jump} s it took {took:?}");
    }
}

#[test]
fn a_deadline_has_the_right_rest_after_a_restart_also_when_the_clock_jumped() {
    for (jump, crash) in [(-7200, false), (0, false), (7200, false), (0, true), (7200, true)] {
        on_virtual_time(async {
            let patient = "world: {progress-deadline: 24h}\ncanary: [{never-ready: true}]";
            let mut plan = plan();
            plan.environment.gates.clear();
            let simulator = Simulator::new(&plan.targets(), Scenario::from_yaml(patient).unwrap());
            let stage = Stage::new(plan, simulator);
            let clock = Arc::new(Jumping { inner: stage.simulator.clock(), seconds: AtomicI64::new(0) });
            let first = stage.engine.clone().with_clock(clock.clone());
            let run = first.create(&stage.plan, "test").await.unwrap();
            let stop = CancellationToken::new();
            let begun = tokio::time::Instant::now();
            let person = async {
                tokio::time::sleep(Duration::from_secs(6 * 60)).await;
                clock.seconds.store(jump, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(60)).await;
                if !crash {
                    stop.cancel();
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ending = first.drive(&run, &stop) => assert_eq!(ending.unwrap(), Ending::Interrupted),
                () = person => {}
            }
            // Nobody is there for an hour: that does not count.
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let second = stage.another_engine().with_clock(clock.clone());
            let ending = second.drive(&run, &CancellationToken::new()).await.unwrap();
            assert_eq!(outcome(&ending), Outcome::RolledBack);
            let took = begun.elapsed() - Duration::from_secs(3600);
            // The plan's deadline for a version to become ready is 10 minutes.
            let expected = Duration::from_secs(10 * 60)..Duration::from_secs(if crash { 660 } else { 630 });
            assert!(expected.contains(&took), "jumped by {jump} s, crash {crash}, gave up after {took:?}");
        });
    }
}

#[test]
fn records_keep_monotonic_time_apart_from_wall_time() {
    on_virtual_time(async {
        let stage = Stage::named(brief(plan()), "healthy");
        let clock = Arc::new(Jumping { inner: stage.simulator.clock(), seconds: AtomicI64::new(0) });
        let engine = stage.engine.clone().with_clock(clock.clone());
        let run = engine.create(&stage.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        let (ending, ()) = tokio::join!(engine.drive(&run, &stop), async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            clock.seconds.store(-86_400, Ordering::Relaxed);
        });
        assert_eq!(outcome(&ending.unwrap()), Outcome::Completed);
        let entries = stage.journal.load(&run).await.unwrap();
        assert!(entries.windows(2).any(|w| w[1].time < w[0].time), "the wall clock went back");
        let lived: u64 = entries.iter().filter_map(|e| e.elapsed_ms).sum();
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
        assert!(lived.abs_diff(took) < 100, "{lived} ms recorded of {took} ms");
        let owned = entries.iter().find(|e| matches!(e.record, Record::Owned { .. })).unwrap();
        assert_eq!(owned.elapsed_ms, Some(0));
    });
}

/// Pods that were never seen are no data, however often another source is asked meanwhile: a hold that each question
/// ended and each answer began again would never have lasted too long.
#[test]
fn a_hold_is_one_hold_also_while_other_metrics_are_asked() {
    on_virtual_time(async {
        let mut plan = plan();
        plan.release.services.truncate(1);
        for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == "bake") {
            step.with["period"] = "2s".into();
            step.with["analysis"]["interval"] = "5s".into();
            step.with["analysis"]["no-data"] = json!({"after": 3, "hold": "30s", "then": "attention"});
            step.with["analysis"]["metrics"] = json!([
                {"name": "error-rate", "source": "prometheus", "fail": "> 5%"},
                {"name": "crash-loop", "source": "pods", "fail": "> 0"},
            ]);
        }
        let stage = Stage::named(plan, "healthy");
        let bakes = begins(&stage.engine, "bake");
        let blind = async {
            bakes.await;
            // The watch of the pods is there, and shows nothing.
            tokio::time::sleep(Duration::from_millis(25)).await;
            stage.simulator.faults().partition(BackendKind::Diagnostics, Duration::ZERO, Duration::from_secs(86_400));
            std::future::pending::<()>().await;
        };
        let begun = tokio::time::Instant::now();
        let (_, ending) = tokio::select! {
            ended = stage.run() => ended,
            () = blind => unreachable!("it waits for ever"),
        };
        assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    });
}

/// What is available is behind its name in the data plane only a while later; what is gone still is.
#[test]
fn traffic_moves_only_when_the_data_plane_had_time_to_learn_of_the_instances() {
    on_virtual_time(async {
        let stage = Stage::named(brief(plan()), "healthy");
        let mut signals = stage.engine.subscribe();
        let watch = async {
            let (mut waits, mut known, mut changed) = (Vec::new(), HashMap::new(), tokio::time::Instant::now());
            while let Some(signal) = signals.next().await {
                match signal {
                    Signal::Progress(Progress {
                        kind: ProgressKind::Workload { service, track, available, .. },
                        ..
                    }) => {
                        // Canaries are looked at once more before traffic is sent there.
                        let same = known.insert((service, track), available) == Some(available);
                        if track == Track::Stable || !same {
                            changed = tokio::time::Instant::now();
                        }
                    }
                    Signal::Progress(Progress { kind: ProgressKind::Traffic { weight, .. }, .. }) => {
                        waits.push((weight.percent(), changed.elapsed()));
                    }
                    Signal::Event(event) if event.is_terminal() => break,
                    _ => {}
                }
            }
            waits
        };
        let ((_, ending), waits) = tokio::join!(stage.run(), watch);
        assert_eq!(outcome(&ending), Outcome::Completed);
        for weight in [10, 50, 100, 0] {
            let waited = waits.iter().find(|(to, _)| *to == weight).map(|(_, waited)| *waited);
            assert!(waited.is_some_and(|waited| waited >= Duration::from_secs(5)), "to {weight} %: {waits:?}");
        }
    });
}
