//! Properties of the state machine and of plan files.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::sync::Arc;

use moodify_core::event::{Event, Signal};
use moodify_core::journal::{
    Cause, Command, CommandKind, Entry, JournalStore, MemoryJournal, Next, Outcome, Record, RunState, fold,
};
use moodify_core::model::{Period, Plan};
use moodify_core::planfile::{self, PlanFile};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Effect, Engine, Error, ErrorKind};
use proptest::prelude::*;
use serde_json::json;

fn plan_file() -> PlanFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plans/moodify-release.yaml");
    planfile::read(&std::fs::read_to_string(path).unwrap(), "plan.yaml").unwrap_or_else(|e| panic!("{e}")).0
}

fn plan() -> Plan {
    plan_file().expand()
}

/// A real run's journal, and the events that were seen while it ran.
fn lived(scenario: &str) -> (Vec<Entry>, Vec<Event>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let plan = plan();
        let simulator = Simulator::builder(&plan.targets())
            .scenario(Scenario::named(scenario).unwrap())
            .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
            .build();
        let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
        let engine = Engine::new(journal.clone(), simulator.backends_for(&plan)).with_clock(simulator.clock());
        let mut seen = engine.subscribe();
        let (run, _) = engine.run(&plan, "test").await.unwrap();
        let replayed = engine.events(&run, 1).await.unwrap();
        drop(engine);
        let mut live = Vec::new();
        while let Some(signal) = seen.next().await {
            if let Signal::Event(event) = signal {
                live.push(event);
            }
        }
        assert_eq!(live, replayed, "{scenario}: what is replayed is what was seen");
        (journal.load(&run).await.unwrap(), live)
    })
}

fn assert_prefix_stable(entries: &[Entry]) {
    let whole = fold(entries).unwrap();
    for cut in 1..entries.len() {
        let mut state: RunState = fold(&entries[..cut]).unwrap();
        for entry in &entries[cut..] {
            state.accepts(entry).unwrap();
            state.apply(entry.clone());
        }
        assert_eq!(state, whole, "cut after {cut} records");
    }
}

#[test]
fn a_fold_does_not_depend_on_where_it_was_cut_and_a_replay_is_what_ran_live() {
    for scenario in Scenario::NAMES {
        let (entries, events) = lived(scenario);
        assert_prefix_stable(&entries);
        assert!(events.iter().map(|e| e.number).eq(1..=events.len() as u64), "{scenario}: without a gap");
        assert_eq!(events.iter().filter(|e| e.is_terminal()).count(), 1, "{scenario}");
        assert!(events.last().unwrap().is_terminal(), "{scenario}: nothing comes after the end");
        for event in &events {
            let text = serde_json::to_string(event).unwrap();
            assert_eq!(&serde_json::from_str::<Event>(&text).unwrap(), event);
        }
    }
}

/// Records in any order; most of them cannot follow each other.
fn record() -> impl Strategy<Value = Record> {
    let names: Vec<String> = plan().steps().map(|(_, s)| s.name.clone()).take(5).collect();
    let name = proptest::sample::select(names);
    let error = (any::<bool>(), any::<bool>()).prop_map(|(unknown, drift)| {
        let kind = if drift { ErrorKind::Drift } else { ErrorKind::Unavailable };
        let effect = if unknown { Effect::Unknown } else { Effect::None };
        Error::new(kind, "test", "try", "it failed").effect(effect).to_record()
    });
    let kind = proptest::sample::select(vec![
        CommandKind::Pause,
        CommandKind::Continue,
        CommandKind::Abort,
        CommandKind::Approve,
        CommandKind::Reject,
        CommandKind::Skip,
    ]);
    let retry = proptest::option::of(Just(Period::from_secs(1)));
    prop_oneof![
        Just(Record::GatesPassed),
        Just(Record::Lived),
        Just(Record::Stopped),
        Just(Record::Owned { owner: "somebody".into() }),
        (name.clone(), 1..4u32, any::<bool>(), any::<bool>()).prop_map(|(step, attempt, effects, observer)| {
            Record::StepStarted { step, attempt, effects, pivot: false, observer }
        }),
        name.clone().prop_map(|step| Record::Checkpoint { step, data: json!({"weight": 10}) }),
        name.clone().prop_map(|step| Record::StepFinished { step, output: json!(null) }),
        (name.clone(), error.clone(), retry.clone()).prop_map(|(step, error, retry_in)| Record::StepFailed {
            step,
            attempt: 1,
            error,
            retry_in
        }),
        name.clone().prop_map(|step| Record::Held { step, reason: "no data".into() }),
        name.clone().prop_map(|step| Record::Released { step }),
        (kind, any::<u64>(), proptest::option::of(Just("no".to_owned()))).prop_map(|(kind, id, refused)| {
            let command = Command { id: id.to_string(), ..Command::new(kind, "ann", "because") };
            Record::Commanded { command, refused }
        }),
        Just(Record::RollbackStarted { cause: Cause::Abort { by: "ann".into(), reason: String::new() } }),
        name.clone().prop_map(|step| Record::UndoStarted { step, attempt: 1 }),
        name.clone().prop_map(|step| Record::UndoFinished { step }),
        (name, error, retry).prop_map(|(step, error, retry_in)| Record::UndoFailed {
            step,
            attempt: 1,
            error,
            retry_in,
            by_hand: vec!["do it".into()],
        }),
        Just(Record::Ended { outcome: Outcome::NeedsAttention, summary: "look".into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is accepted folds the same in one go and in two, survives its text, and says what is next.
    #[test]
    fn any_accepted_records_fold_alike(records in proptest::collection::vec((record(), 0..100_000u64), 0..40)) {
        let (first, _) = (Record::Created {
            run: moodify_core::RunId::new("run").unwrap(),
            plan: Box::new(plan()),
            by: "test".into(),
            undoes: None,
        }, ());
        let time = "2026-11-24T15:30:00Z".parse().unwrap();
        let mut entries = vec![Entry { seq: 1, time, elapsed_ms: Some(0), token: 0, record: first }];
        for (record, elapsed) in records {
            let state = fold(&entries).unwrap();
            let elapsed_ms = Some(elapsed);
            let entry = Entry { seq: state.seq + 1, time, elapsed_ms, token: 1, record };
            if state.accepts(&entry).is_ok() {
                entries.push(entry);
            } else {
                let mut refused = entries.clone();
                refused.push(entry);
                prop_assert_eq!(fold(&refused).unwrap_err().kind(), ErrorKind::Corrupt);
            }
        }
        assert_prefix_stable(&entries);
        let state = fold(&entries).unwrap();
        prop_assert_eq!(state.next() == Next::Nothing, state.ended.is_some());
        if state.abort.is_some() && state.ended.is_none() && state.rollback.is_none() {
            prop_assert!(matches!(state.next(), Next::Rollback(cause) if matches!(*cause, Cause::Abort { .. })), "abort wins: {:?}", state.next());
        }
        for entry in &entries {
            let text = serde_json::to_string(entry).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }

    /// plan -> file -> plan is the identity, by YAML's own writer and by JSON, which is read as YAML.
    #[test]
    fn a_plan_that_is_written_and_read_again_is_the_same_plan(
        name in "[a-z][a-z0-9 ]{0,20}[a-z]",
        version in "v[0-9]{1,3}\\.[0-9]{1,3}",
        mut weights in proptest::collection::btree_set(1..100u8, 0..4),
        bake in 1..100_000u64,
        interval in 1..600u64,
        tolerance in 0..5u32,
        parallel in any::<bool>(),
        // Control characters are not YAML, as which JSON is read, too.
        title in "[^\\p{C}]{1,30}",
        // A deadline of no time at all is refused.
        seconds in 1..5000u64,
    ) {
        weights.insert(100);
        let mut file = serde_json::to_value(plan_file()).unwrap();
        file["name"] = name.into();
        file["release"]["version"] = version.into();
        let canary = &mut file["phases"][1]["strategy"]["canary"];
        canary["weights"] = json!(weights);
        canary["bake"] = json!(format!("{bake}s"));
        canary["analysis"]["interval"] = json!(format!("{interval}s"));
        canary["analysis"]["metrics"][0]["tolerance"] = json!(tolerance);
        file["phases"][0]["parallel"] = json!(parallel);
        file["phases"][0]["steps"][0]["with"]["title"] = json!(title);
        file["phases"][0]["steps"][0]["deadline"] = json!(Period::from_secs(seconds).to_string());
        let text = file.to_string();
        let (read, _) = planfile::read(&text, "plan.json").map_err(|e| TestCaseError::fail(e.to_string()))?;
        for text in [serde_json::to_string_pretty(&read).unwrap(), serde_saphyr::to_string(&read).unwrap()] {
            let (again, _) = planfile::read(&text, "plan").map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(&again, &read);
            prop_assert_eq!(again.expand(), read.clone().expand());
        }
    }
}
