//! What observers see, and that none of them can stall or fail a run.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use moodify_core::engine::Ending;
use moodify_core::event::{Event, EventKind, Progress, ProgressKind, Signal};
use moodify_core::journal::{Entry, FileJournal, JournalStore, MemoryJournal, Outcome};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, ErrorKind, Plan, planfile};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn plan() -> Plan {
    let text = include_str!("../../examples/plans/minimal.yaml");
    planfile::read(text, "minimal.yaml").unwrap().0.expand()
}

fn engine(scenario: &str) -> (Engine, Plan) {
    let plan = plan();
    let world = Simulator::for_plan(&plan, Scenario::named(scenario).unwrap());
    let engine = Engine::new(Arc::new(MemoryJournal::new()), world.backends_for(&plan)).with_clock(world.clock());
    (engine, plan)
}

#[tokio::test(start_paused = true)]
async fn events_are_numbered_and_can_be_had_again_from_any_number() {
    for scenario in ["healthy", "errors-at-50", "edited-by-hand"] {
        let (engine, plan) = engine(scenario);
        let run = engine.create(&plan, "ana").await.unwrap();
        let live = tokio::spawn(engine.follow(&run, 1).await.unwrap().collect::<Vec<Event>>());
        engine.drive(&run, &CancellationToken::new()).await.unwrap();
        let all = engine.events(&run, 1).await.unwrap();
        assert_eq!(live.await.unwrap(), all, "{scenario}: who follows sees what is replayed");
        assert!(all.iter().map(|event| event.number).eq(1..=all.len() as u64), "{scenario}");
        assert!(all.is_sorted_by_key(|event| event.time), "{scenario}");
        let terminal: Vec<u64> = all.iter().filter(|event| event.is_terminal()).map(|event| event.number).collect();
        assert_eq!(terminal, [all.len() as u64], "{scenario}: exactly one, and the last");
        for from in [1, 2, all.len() / 2, all.len(), all.len() + 1] {
            let expected = &all[from - 1..];
            assert_eq!(engine.events(&run, from as u64).await.unwrap(), expected, "{scenario} from {from}");
            let followed: Vec<Event> = engine.follow(&run, from as u64).await.unwrap().collect().await;
            assert_eq!(followed, expected, "{scenario} from {from}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_gets_all_from_where_he_wants_and_nothing_twice() {
    let (engine, plan) = engine("errors-at-50");
    let run = engine.create(&plan, "ana").await.unwrap();
    let (other, again) = (engine.clone(), run.clone());
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(600)).await;
        other.follow(&again, 3).await.unwrap().collect::<Vec<Event>>().await
    });
    engine.drive(&run, &CancellationToken::new()).await.unwrap();
    assert_eq!(late.await.unwrap(), engine.events(&run, 3).await.unwrap());
}

/// How long a run takes, with what ending, and how many events it had.
async fn driven(engine: &Engine, plan: &Plan) -> (Duration, Ending, usize) {
    let begun = Instant::now();
    let (run, ending) = engine.run(plan, "ana").await.unwrap();
    (begun.elapsed(), ending, engine.events(&run, 1).await.unwrap().len())
}

#[tokio::test(start_paused = true)]
async fn observers_that_do_not_read_or_are_slow_or_panic_change_nothing() {
    for (scenario, outcome) in [("healthy", Outcome::Completed), ("errors-at-50", Outcome::RolledBack)] {
        let (alone, plan) = engine(scenario);
        let expected = driven(&alone, &plan).await;
        assert!(matches!(&expected.1, Ending::Ended(ended, _) if *ended == outcome), "{expected:?}");

        let (engine, plan) = engine(scenario);
        let (never, mut slow, mut panics) = (engine.subscribe(), engine.subscribe(), engine.subscribe());
        let slow = tokio::spawn(async move {
            let (mut events, mut progress) = (Vec::new(), 0);
            while let Some(signal) = slow.next().await {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                match signal {
                    Signal::Event(event) => events.push(event.number),
                    Signal::Progress(_) => progress += 1,
                }
            }
            (events, progress)
        });
        let panics = tokio::spawn(async move {
            panics.next().await;
            panic!("an observer of the run panics, as this test wants it");
        });
        assert_eq!(driven(&engine, &plan).await, expected, "{scenario}");
        assert!(panics.await.unwrap_err().is_panic());
        drop(never);
        drop(engine);
        // However slow: it misses progress, but no event.
        let (events, progress) = slow.await.unwrap();
        assert!(events.iter().copied().eq(1..=expected.2 as u64), "{scenario}: {events:?}");
        assert!(progress <= 257, "{scenario}: it was far behind, and {progress} were kept");
    }
}

#[test]
fn old_readers_read_what_is_new_as_unknown() {
    let event = r#"{"number": 7, "time": "2026-11-24T15:00:00Z", "run": "r1", "event": "sighed", "how": "deeply"}"#;
    let event: Event = serde_json::from_str(event).unwrap();
    assert_eq!((event.number, event.kind), (7, EventKind::Unknown));
    let progress = r#"{"run": "r1", "step": "s", "progress": "sighing", "depth": 3}"#;
    let progress: Progress = serde_json::from_str(progress).unwrap();
    assert_eq!(progress.kind, ProgressKind::Unknown);
}

/// A record is no event: what an engine does not understand it must not drive on from.
#[tokio::test(start_paused = true)]
async fn a_run_with_a_record_that_is_not_known_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan();
    let world = Simulator::for_plan(&plan, Scenario::default());
    let journal = Arc::new(FileJournal::open(dir.path()).unwrap());
    let engine = Engine::new(journal.clone(), world.backends_for(&plan)).with_clock(world.clock());
    let run = engine.create(&plan, "ana").await.unwrap();

    let path = dir.path().join(run.as_str()).join("journal");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let chain = text.lines().last().unwrap().split(' ').next().unwrap();
    let entry = format!(r#"{{"seq":2,"time":"{}","token":1,"record":{{"type":"sighed"}}}}"#, world.clock().now());
    assert!(serde_json::from_str::<Entry>(&entry).unwrap_err().to_string().contains("unknown variant `sighed`"));
    let digest = Sha256::new().chain_update(chain).chain_update(&entry).finalize();
    let sum = digest.iter().take(16).fold(String::new(), |mut sum, byte| {
        write!(sum, "{byte:02x}").unwrap();
        sum
    });
    writeln!(text, "{sum} {entry}").unwrap();
    std::fs::write(&path, &text).unwrap();

    let refused = engine.state(&run).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert!(refused.to_string().contains("unknown variant `sighed`"), "{refused}");
    let refused = engine.drive(&run, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert!(world.world().canaries().is_empty());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing was written");
    assert_eq!(journal.holder(&run).await.unwrap(), None, "and nobody keeps it");
}
