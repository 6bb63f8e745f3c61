//! A journal's text holds what was put into it; damage in it is found and named, and nothing that is read makes it panic.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "common/journal.rs"]
mod common;

use std::fs;
use std::path::Path;

use common::{begun, entry, fill, on_disk, segments};
use moodify_core::journal::{Cause, Command, CommandKind, Entry, FileJournal, Outcome, Record};
use moodify_core::testing::journal::{decode, encode, read_log};
use moodify_core::{ErrorKind, planfile};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn record() -> impl Strategy<Value = Record> {
    let text = || "\\PC{0,40}";
    prop_oneof![
        text().prop_map(|owner| Record::Owned { owner }),
        Just(Record::GatesPassed),
        (text(), any::<u32>(), any::<[bool; 3]>()).prop_map(|(step, attempt, [effects, pivot, observer])| {
            Record::StepStarted { step, attempt, effects, pivot, observer }
        }),
        (text(), text(), any::<i64>())
            .prop_map(|(step, key, n)| Record::Checkpoint { step, data: serde_json::json!({ key: [n, null, true] }) }),
        (text(), text()).prop_map(|(step, reason)| Record::Held { step, reason }),
        (text(), text()).prop_map(|(by, reason)| Record::RollbackStarted { cause: Cause::Abort { by, reason } }),
        (text(), text(), text()).prop_map(|(by, reason, refused)| Record::Commanded {
            command: Command::new(CommandKind::Pause, &by, &reason),
            refused: Some(refused)
        }),
        text().prop_map(|summary| Record::Ended { outcome: Outcome::NeedsAttention, summary }),
    ]
}

fn entries(least: usize) -> impl Strategy<Value = Vec<Entry>> {
    let one = (record(), any::<u64>(), proptest::option::of(any::<u64>()), 0..4_000_000_000_i64);
    vec(one, least..12).prop_map(|all| {
        let numbered = (1..).zip(all);
        let entry = |(seq, (record, token, elapsed_ms, time)): (u64, (Record, u64, Option<u64>, i64))| Entry {
            seq,
            time: jiff::Timestamp::from_second(time).unwrap(),
            elapsed_ms,
            token,
            record,
        };
        numbered.map(entry).collect()
    })
}

/// Where the line is that an error names.
fn named_line(text: &[u8]) -> usize {
    let error = decode(text).expect_err("the damage is found");
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
    let message = error.message();
    let number = message.strip_prefix("line ").and_then(|rest| rest.split(':').next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("it names the line: {error}"))
}

/// The number, from 1, of the line that holds the byte.
fn line_of(text: &[u8], byte: usize) -> usize {
    1 + text[..byte].iter().filter(|b| **b == b'\n').count()
}

proptest! {
    #[test]
    fn what_is_put_in_comes_out(entries in entries(0)) {
        prop_assert_eq!(decode(&encode(&entries).unwrap()).unwrap(), entries);
    }

    #[test]
    fn a_changed_byte_is_found_and_named(entries in entries(1), at: Index, to: u8) {
        let mut text = encode(&entries).unwrap();
        let at = at.index(text.len());
        prop_assume!(text[at] != to);
        let line = line_of(&text, at);
        text[at] = to;
        // A header that says another version is found where its first checksum is.
        let named = named_line(&text);
        prop_assert!(named == line || (line == 1 && named == 2), "line {} was changed, {} is named", line, named);
    }

    #[test]
    fn a_line_taken_out_or_put_elsewhere_is_found_and_named(entries in entries(3), one: Index, other: Index) {
        let text = encode(&entries).unwrap();
        let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
        // Without its last line, it is what it was before that.
        let one = one.index(lines.len() - 1);
        let mut without = lines.clone();
        without.remove(one);
        prop_assert_eq!(named_line(&without.concat()), one + 1);

        let other = other.index(lines.len());
        prop_assume!(lines[one] != lines[other]);
        let mut swapped = lines.clone();
        swapped.swap(one, other);
        prop_assert_eq!(named_line(&swapped.concat()), one.min(other) + 1);
    }

    #[test]
    fn a_part_cut_out_is_found(entries in entries(2), from: Index, to: Index) {
        let text = encode(&entries).unwrap();
        let (a, b) = (from.index(text.len()), to.index(text.len()));
        let (from, to) = (a.min(b), a.max(b));
        let rest = [&text[..from], &text[to..]].concat();
        prop_assume!(from < to);
        // Whole lines cut off at the end leave a journal that is shorter.
        prop_assume!(!text.starts_with(&rest));
        let line = line_of(&text, from);
        let named = named_line(&rest);
        prop_assert!(named == line || (line == 1 && named == 2), "line {} was cut, {} is named", line, named);
    }

    #[test]
    fn a_text_cut_at_its_end_is_a_journal_that_is_shorter(entries in entries(1), end: Index) {
        let text = encode(&entries).unwrap();
        let found = decode(&text[..end.index(text.len())]).unwrap();
        prop_assert!(found.len() < entries.len());
        prop_assert_eq!(&found[..], &entries[..found.len()]);
    }
}

#[test]
fn a_text_without_a_step_in_its_numbers_is_named() {
    let text = encode(&[entry(1, 0), entry(3, 0)]).unwrap();
    assert_eq!(named_line(&text), 3);
}

/// Changes a valid input in ways that are often of interest.
fn mutate(seed: &[u8], changes: &[(Index, u8, u8)]) -> Vec<u8> {
    const WORDS: [&str; 12] =
        ["\n", "\0", " ", "batch ", "18446744073709551616", "-1", "{", "]", "\"", ": ", "&a [*a]", "\u{feff}"];
    let mut text = seed.to_vec();
    for (at, how, what) in changes {
        let at = at.index(text.len() + 1);
        let end = (at + usize::from(*what)).min(text.len());
        match how % 6 {
            0 if at < text.len() => text[at] = *what,
            1 => drop(text.drain(at..end)),
            2 => text.truncate(at),
            3 => drop(text.splice(at..at, WORDS[usize::from(*what) % WORDS.len()].bytes())),
            4 => {
                let part = text[at..end].to_vec();
                drop(text.splice(at..at, part));
            }
            _ if at < text.len() => text[at] ^= 1 << (what % 8),
            _ => {}
        }
    }
    text
}

/// A short run of what `fuzz/` does for longer.
fn never_panics(seed: &[u8], cases: u32, read: impl Fn(&[u8])) {
    let changes = vec((any::<Index>(), any::<u8>(), any::<u8>()), 0..6);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let result = runner.run(&changes, |changes| {
        read(&mutate(seed, &changes));
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn whatever_a_journal_holds_it_is_read_or_the_line_is_named() {
    let fixture = "tests/fixtures/journal-1.0/20261124-153500-79bab5/journal";
    let seed = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
    never_panics(&seed, 3000, |text| {
        if decode(text).is_err() {
            named_line(text);
        }
    });
}

#[tokio::test]
async fn whatever_a_log_holds_it_is_read_or_the_line_is_named() {
    let dir = on_disk();
    let journal = FileJournal::open(dir.path()).unwrap();
    let (run, lease) = begun(&journal, "run", "ann").await;
    fill(&journal, &run, &lease, 2, 6).await;
    let text = fs::read(&segments(dir.path())[0]).unwrap();
    let end = text.iter().rposition(|b| *b != 0).unwrap() + 100;
    assert_eq!(read_log(&text).unwrap(), 6);
    never_panics(&text[..end], 3000, |text| {
        if let Err(e) = read_log(text) {
            assert!(e.message().starts_with("line "), "it names the line: {e}");
        }
    });
}

#[test]
fn whatever_a_plan_holds_it_is_read_or_its_mistakes_have_a_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plans/moodify-release.yaml");
    let seed = fs::read(path).unwrap();
    never_panics(&seed, 500, |text| {
        let text = String::from_utf8_lossy(text);
        if let Err(e) = planfile::read(&text, "plan.yaml") {
            let shown = e.to_string();
            let line = shown.strip_prefix("plan.yaml:").and_then(|rest| rest.split(':').next());
            assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "it has a line: {shown}");
        }
    });
}
