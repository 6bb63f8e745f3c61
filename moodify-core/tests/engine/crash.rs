use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use moodify_core::Engine;
use moodify_core::backend::Measurement;

use moodify_core::error::ErrorKind;
use moodify_core::journal::{FileJournal, JournalStore, MemoryJournal, Outcome, Record, fold};
use moodify_core::testing::Simulator;
use moodify_core::testing::mocks::MockMetricSource;
use tokio_util::sync::CancellationToken;

use crate::common::*;

#[test]
fn broken_off_at_any_record_it_ends_as_it_would_have() {
    for (name, wanted) in
        [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%, from-weight: 50", Outcome::RolledBack)]
    {
        for ratio in [false, true] {
            let mut n = 1;
            loop {
                let mut reached_the_end = false;
                for durable in [false, true] {
                    on_virtual_time(async {
                        let plan = brief(if ratio { by_ratio(plan()) } else { plan() });
                        let simulator = Simulator::new(&plan.targets(), bad(name));
                        let memory: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
                        let left = AtomicU64::new(n);
                        let breaking: Arc<dyn JournalStore> = Arc::new(Breaking {
                            inner: memory.clone(),
                            left,
                            durable,
                            stuck: Arc::default(),
                            unclear: 0.into(),
                        });
                        let first = engine(&breaking, &simulator, &plan);
                        let run = first.create(&plan, "test").await.unwrap();
                        let stop = CancellationToken::new();
                        let broken = first.drive(&run, &stop).await;
                        reached_the_end |= broken.is_ok();
                        let ending = engine(&memory, &simulator, &plan).drive(&run, &stop).await.unwrap();
                        let context = format!("{name}, ratio {ratio}, record {n}, durable {durable}: {ending:?}");
                        assert_eq!(outcome(&ending), wanted, "{context}");
                        assert_whole(&simulator, &plan, wanted);
                        fold(&memory.load(&run).await.unwrap()).unwrap();
                    });
                }
                if reached_the_end {
                    break;
                }
                n += 1;
            }
            assert!(n > 20, "{n} records are too few to have been all");
        }
    }
}

/// What the dead engine saw is enough: a good measurement later does not undo it.
#[test]
fn a_breach_that_was_counted_is_acted_on_without_another_measurement() {
    on_virtual_time(async {
        let plan = brief(plan());
        let usual = Stage::new(plan.clone(), Simulator::new(&plan.targets(), bad("error-rate: 50%")));
        let (run, _) = usual.run().await;
        let entries = usual.journal.load(&run).await.unwrap();
        let failed = entries.iter().find(|e| matches!(e.record, Record::StepFailed { .. })).unwrap().seq;

        let simulator = Simulator::new(&plan.targets(), bad("error-rate: 50%"));
        let memory: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        // The first record is not appended.
        let left = AtomicU64::new(failed - 1);
        let breaking =
            Breaking { inner: memory.clone(), left, durable: false, stuck: Arc::default(), unclear: 0.into() };
        let first = engine(&(Arc::new(breaking) as Arc<dyn JournalStore>), &simulator, &plan);
        let run = first.create(&plan, "test").await.unwrap();
        first.drive(&run, &CancellationToken::new()).await.unwrap_err();
        let last = memory.load(&run).await.unwrap().pop().unwrap();
        assert!(matches!(last.record, Record::Checkpoint { .. }), "the count is the last that is known: {last:?}");

        let mut calm = simulator.backends_for(&plan);
        for source in calm.metrics.values_mut() {
            let mut good = MockMetricSource::new();
            let at = simulator.clock().now();
            good.expect_query().returning(move |_, _| Ok(Measurement { value: Some(0.0), at }));
            *source = Arc::new(good);
        }
        let second = Engine::new(memory, calm).with_clock(simulator.clock());
        let ending = second.drive(&run, &CancellationToken::new()).await.unwrap();
        assert!(format!("{ending:?}").contains("was beyond its limit"), "{ending:?}");
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        assert_whole(&simulator, &plan, Outcome::RolledBack);
    });
}

#[test]
fn the_file_journal_finds_damage_and_drops_a_torn_line() {
    on_virtual_time(async {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan();
        let simulator = simulator(&plan, "errors-at-10");
        let journal: Arc<dyn JournalStore> = Arc::new(FileJournal::open(dir.path()).unwrap());
        let (run, ending) = engine(&journal, &simulator, &plan).run(&plan, "test").await.unwrap();
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        let path = dir.path().join(run.as_str()).join("journal");
        let whole = std::fs::read(&path).unwrap();
        let entries = journal.load(&run).await.unwrap().len();

        let mut torn = whole.clone();
        torn.extend_from_slice(b"0123 {\"half a rec");
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(journal.load(&run).await.unwrap().len(), entries);

        let text = String::from_utf8(whole.clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without: String =
            lines.iter().enumerate().filter(|(i, _)| *i != 4).map(|(_, l)| format!("{l}\n")).collect();
        let changed = text.replacen("gates-passed", "gates-passes", 1);
        for bad in [without, changed] {
            std::fs::write(&path, bad).unwrap();
            let error = journal.load(&run).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("line "), "{error}");
        }
    });
}
