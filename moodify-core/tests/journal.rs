//! The journals keep their contract; the one in files is found as it was after processes died, were stopped, or were of
//! another version.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "common/journal.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{LONG, begun, copy, entry, fill, named, on_disk, segments};
use moodify_core::ErrorKind;
use moodify_core::journal::{
    Command, CommandKind, FileJournal, FileJournalOptions, JournalStore, MemoryJournal, Outcome, Record, fold,
};
use moodify_core::model::RunId;
use moodify_core::testing::{Scenario, Simulator, conformance};
use moodify_core::{Engine, engine::Ending};
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn the_journal_in_memory_keeps_the_contract() {
    conformance::journal_store(&MemoryJournal::new(), Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_in_files_keeps_the_contract() {
    let dir = on_disk();
    conformance::journal_store(&FileJournal::open(dir.path()).unwrap(), Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_share_syncs_and_segments() {
    let dir = on_disk();
    let mut options = FileJournalOptions::default();
    options.segment = 64 * 1024;
    let journal = Arc::new(FileJournal::open_with(dir.path(), &options).unwrap());
    let tasks = (0..64).map(|n| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let (run, lease) = begun(journal.as_ref(), &format!("run-{n}"), "me").await;
            fill(journal.as_ref(), &run, &lease, 2, 100).await;
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let left = segments(dir.path());
    assert!(left.len() <= 3, "full segments go: {left:?}");
    assert!(!left.last().unwrap().ends_with("wal-00000001"), "there was more than one: {left:?}");
    for journal in [journal.as_ref().clone(), FileJournal::open(dir.path()).unwrap()] {
        assert_eq!(journal.list().await.unwrap().len(), 64);
        for run in journal.list().await.unwrap() {
            let entries = journal.load(&run).await.unwrap();
            let wanted: Vec<_> = (1..=100).map(|seq| entry(seq, u64::from(seq > 1))).collect();
            assert_eq!(entries, wanted, "{run}");
        }
    }
    drop(journal);
    let left: Vec<_> = fs::read_dir(dir.path().join(".processes")).unwrap().collect();
    assert!(left.is_empty(), "what ends as it should leaves nothing to recover: {left:?}");
}

#[tokio::test]
async fn of_two_processes_one_owns_a_run_and_the_other_is_told_who() {
    let dir = on_disk();
    let (one, two) = (FileJournal::open(dir.path()).unwrap(), FileJournal::open(dir.path()).unwrap());
    let (run, first) = begun(&one, "run", "ann").await;
    for owner in ["bob", "ann"] {
        let refused = two.acquire(&run, owner, LONG).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "an owner is one place in one process");
        assert!(refused.to_string().contains("owned by ann"), "{refused}");
    }
    assert_eq!(two.holder(&run).await.unwrap().as_deref(), Some("ann"));
    fill(&one, &run, &first, 2, 3).await;
    assert_eq!(two.load(&run).await.unwrap().len(), 3, "what is acknowledged is seen by others");
    drop(one);
    assert_eq!(two.holder(&run).await.unwrap(), None, "its process is gone");
    let second = two.acquire(&run, "bob", LONG).await.unwrap();
    assert!(second.token > first.token);
    fill(&two, &run, &second, 4, 5).await;
}

#[tokio::test]
async fn a_session_that_ran_out_is_ended_by_another_process() {
    let dir = on_disk();
    let (one, two) = (FileJournal::open(dir.path()).unwrap(), FileJournal::open(dir.path()).unwrap());
    let (run, _) = begun(&one, "run", "ann").await;
    let lease = one.acquire(&run, "ann", LONG).await.unwrap();
    one.renew("ann", Duration::from_millis(100)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let next = two.acquire(&run, "bob", LONG).await.unwrap();
    let late = one.append(&run, &lease, 1, &[entry(2, lease.token)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
    assert!(late.to_string().contains("bob"), "{late}");
    assert_eq!(one.renew("ann", LONG).await.unwrap_err().kind(), ErrorKind::Fenced);
    fill(&two, &run, &next, 2, 4).await;
    // What the late one wrote is in its log, and stays out of the run when that is recovered.
    let copied = on_disk();
    copy(dir.path(), copied.path());
    let found = FileJournal::open(copied.path()).unwrap();
    found.acquire(&run, "eve", LONG).await.unwrap();
    assert_eq!(found.load(&run).await.unwrap(), two.load(&run).await.unwrap());
}

#[tokio::test]
async fn a_command_of_another_process_wakes_within_the_poll() {
    let dir = on_disk();
    let (one, two) = (FileJournal::open(dir.path()).unwrap(), FileJournal::open(dir.path()).unwrap());
    let (run, lease) = begun(&one, "run", "ann").await;
    let (other, _) = begun(&one, "other", "ann").await;
    let command = Command::new(CommandKind::Abort, "bob", "a customer called");
    let nothing = BTreeSet::new();
    let sent = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        two.send(&run, &command).await.unwrap();
        Instant::now()
    };
    let waits = async { (one.commands(&run, &nothing).await.unwrap(), Instant::now()) };
    let ((taken, woken), sent) = tokio::select! {
        both = async { tokio::join!(waits, sent) } => both,
        _ = one.commands(&other, &nothing) => panic!("the other run has none"),
    };
    assert_eq!(taken, std::slice::from_ref(&command));
    assert!(woken.saturating_duration_since(sent) < Duration::from_secs(1), "{:?}", woken - sent);

    let file = dir.path().join(format!(".inbox/{run}.{}", command.id));
    assert!(file.exists());
    let mut record = entry(2, lease.token);
    record.record = Record::Commanded { command, refused: None };
    one.append(&run, &lease, 1, &[record]).await.unwrap();
    assert!(!file.exists(), "what is on the record needs no inbox");

    let mut evil = Command::new(CommandKind::Pause, "eve", "");
    evil.id = "../../etc/passwd".to_owned();
    assert_eq!(two.send(&run, &evil).await.unwrap_err().kind(), ErrorKind::Invalid);
}

/// What a machine that lost its power finds: the log, but not what was not synced.
#[tokio::test]
async fn the_log_brings_back_what_the_files_of_the_runs_have_lost() {
    let dir = on_disk();
    let journal = FileJournal::open(dir.path()).unwrap();
    let names = ["whole", "shorter", "torn", "zeros", "empty", "missing"];
    for name in names {
        let (run, lease) = begun(&journal, name, "ann").await;
        fill(&journal, &run, &lease, 2, 9).await;
    }
    let (removed, lease) = begun(&journal, "removed", "ann").await;
    fill(&journal, &removed, &lease, 2, 3).await;
    journal.give_up(&removed, &lease).await.unwrap();
    journal.remove(&removed).await.unwrap();
    let copied = on_disk();
    copy(dir.path(), copied.path());
    let file = |name: &str| copied.path().join(name).join("journal");
    let text = fs::read(file("whole")).unwrap();
    fs::write(file("shorter"), &text[..text.len() / 2]).unwrap();
    fs::write(file("torn"), [&text[..text.len() / 2], &[0; 300]].concat()).unwrap();
    fs::write(file("zeros"), vec![0; text.len()]).unwrap();
    fs::write(file("empty"), []).unwrap();
    fs::remove_file(file("missing")).unwrap();

    let found = FileJournal::open(copied.path()).unwrap();
    assert!(segments(copied.path()).is_empty(), "it is recovered");
    let mut wanted: Vec<RunId> = names.map(named).to_vec();
    wanted.sort();
    assert_eq!(found.list().await.unwrap(), wanted, "what was removed stays so");
    for run in wanted {
        let lease = found.acquire(&run, "bob", LONG).await.unwrap();
        assert_eq!(lease.token, 2);
        let entries = found.load(&run).await.unwrap();
        assert_eq!(entries, journal.load(&run).await.unwrap(), "{run}");
        fill(&found, &run, &lease, 10, 11).await;
    }
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_dropped_and_damage_in_it_is_named() {
    let dir = on_disk();
    let journal = FileJournal::open(dir.path()).unwrap();
    let (run, lease) = begun(&journal, "run", "ann").await;
    let (other, given) = begun(&journal, "other", "ann").await;
    fill(&journal, &run, &lease, 2, 9).await;
    journal.give_up(&other, &given).await.unwrap();
    let text = fs::read(&segments(dir.path())[0]).unwrap();
    let end = text.iter().rposition(|b| *b != 0).unwrap();
    let last = text[..end].windows(6).rposition(|w| w == b"batch ").unwrap();

    let torn = on_disk();
    copy(dir.path(), torn.path());
    let mut bytes = text.clone();
    bytes[last + 60..=end].fill(0);
    fs::write(&segments(torn.path())[0], bytes).unwrap();
    fs::write(torn.path().join("run/journal"), []).unwrap();
    let found = FileJournal::open(torn.path()).unwrap();
    found.acquire(&run, "bob", LONG).await.unwrap();
    assert_eq!(found.load(&run).await.unwrap().len(), 8, "all but the torn one");

    let damaged = on_disk();
    copy(dir.path(), damaged.path());
    let mut bytes = text.clone();
    bytes[last - 10] ^= 1;
    fs::write(&segments(damaged.path())[0], bytes).unwrap();
    for _ in 0..2 {
        let found = FileJournal::open(damaged.path()).unwrap();
        let error = found.acquire(&run, "bob", LONG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("wal-00000001") && error.to_string().contains("line "), "{error}");
        assert_eq!(found.load(&run).await.unwrap().len(), 9, "it can be looked at");
        let lease = found.acquire(&other, "bob", LONG).await.unwrap();
        found.give_up(&other, &lease).await.unwrap();
    }
    fs::remove_file(&segments(damaged.path())[0]).unwrap();
    let found = FileJournal::open(damaged.path()).unwrap();
    found.acquire(&run, "bob", LONG).await.unwrap();
}

#[tokio::test]
async fn a_record_that_is_missing_before_one_in_the_log_is_named() {
    let dir = on_disk();
    let mut options = FileJournalOptions::default();
    options.segment = 4096;
    let journal = FileJournal::open_with(dir.path(), &options).unwrap();
    let (run, lease) = begun(&journal, "run", "ann").await;
    fill(&journal, &run, &lease, 2, 60).await;
    let copied = on_disk();
    copy(dir.path(), copied.path());
    assert!(!segments(copied.path())[0].ends_with("wal-00000001"), "the first records are in the file alone");
    let file = copied.path().join("run/journal");
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() / 10]).unwrap();
    let found = FileJournal::open(copied.path()).unwrap();
    let error = found.acquire(&run, "bob", LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("what was before it is not there"), "{error}");
    assert_eq!(fs::read(&file).unwrap().len(), text.len() / 10, "nothing was changed");
}

/// Written by the version before, which kept no log, no sessions and an inbox a run.
#[test]
fn a_journal_of_format_1_0_is_read_resumed_and_appended_to() {
    let virtual_time = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    virtual_time.block_on(async {
        let dir = on_disk();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-1.0"), dir.path());
        let journal = Arc::new(FileJournal::open(dir.path()).unwrap());
        let [open, ended] = <[RunId; 2]>::try_from(journal.list().await.unwrap()).unwrap();
        let before = fold(&journal.load(&ended).await.unwrap()).unwrap();
        assert_eq!(before.ended.unwrap().0, Outcome::Refused);

        let before = journal.load(&open).await.unwrap();
        let state = fold(&before).unwrap();
        assert!(state.ended.is_none() && state.abort.is_none());
        let simulator = Simulator::builder(&state.plan.targets())
            .scenario(Scenario::default())
            .starting_at("2026-11-24T15:35:00Z".parse().unwrap())
            .build();
        let engine = Engine::new(journal.clone(), simulator.backends_for(&state.plan)).with_clock(simulator.clock());
        let ending = engine.drive(&open, &CancellationToken::new()).await.unwrap();
        let Ending::Ended(Outcome::RolledBack, summary) = ending else { panic!("{ending:?}") };
        assert!(summary.contains("a customer called"), "the command in its inbox was obeyed: {summary}");
        let after = journal.load(&open).await.unwrap();
        assert_eq!(after[..before.len()], before[..]);
        assert!(after.len() > before.len());
        drop((engine, journal));
        let again = FileJournal::open(dir.path()).unwrap();
        assert_eq!(again.load(&open).await.unwrap(), after);

        // As if that version still ran there.
        let alive = fs::File::open(dir.path().join(ended.as_str()).join("alive")).unwrap();
        alive.lock().unwrap();
        assert_eq!(again.acquire(&ended, "bob", LONG).await.unwrap_err().kind(), ErrorKind::Refused);
    });
}

#[tokio::test]
async fn a_newer_format_is_not_written_to() {
    let dir = on_disk();
    let journal = FileJournal::open(dir.path()).unwrap();
    let (run, lease) = begun(&journal, "run", "ann").await;
    journal.give_up(&run, &lease).await.unwrap();
    let path = dir.path().join("run/journal");
    let written = fs::read_to_string(&path).unwrap();
    assert!(written.starts_with("moodify-journal 1.1\n"), "{written}");
    fs::write(&path, "moodify-journal 1.7\n").unwrap();
    assert_eq!(journal.load(&run).await.unwrap().len(), 0, "a newer minor is read");
    let error = journal.acquire(&run, "ann", LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "and not written to");
    assert!(error.to_string().contains("1.7"), "{error}");
    fs::write(&path, written.replacen("1.1", "2.0", 1)).unwrap();
    for error in [journal.load(&run).await.unwrap_err(), journal.acquire(&run, "ann", LONG).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("2.0") && error.to_string().contains("1.x"), "{error}");
    }
}

/// Another process, which takes runs and appends to them until it is killed, and says what is acknowledged.
struct Appender {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Appender {
    fn start(dir: &Path, ttl: Duration) -> Self {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "appender", "--ignored", "--nocapture"])
            .env("MOODIFY_TEST_APPENDER", dir)
            .env("MOODIFY_TEST_TTL", ttl.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// Reads on until it says something that begins so; returns the line.
    fn wait_for(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "it ended without saying {beginning:?}");
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    fn signal(&self, signal: &str) {
        let done = Process::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Kills it at once; returns what else it had said.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        rest
    }
}

const RUNS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests as a process of its own"]
async fn appender() {
    let dir = std::env::var_os("MOODIFY_TEST_APPENDER").expect("it is started by other tests");
    let ttl = Duration::from_millis(std::env::var("MOODIFY_TEST_TTL").unwrap().parse().unwrap());
    let mut options = FileJournalOptions::default();
    options.segment = 16 * 1024;
    let journal = FileJournal::open_with(&dir, &options).unwrap();
    let tasks = (0..RUNS).map(|n| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let run = named(&format!("run-{n}"));
            match journal.create(&run, &entry(1, 0)).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                other => other.unwrap(),
            }
            let lease = journal.acquire(&run, "appender", ttl).await.unwrap();
            let mut seq = journal.load(&run).await.unwrap().len() as u64;
            loop {
                if let Err(e) = journal.append(&run, &lease, seq, &[entry(seq + 1, lease.token)]).await {
                    break say(&format!("failed {:?}\n", e.kind()));
                }
                seq += 1;
                say(&format!("ok {n} {seq} {}\n", lease.token));
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let keeping = tokio::spawn(async move {
        loop {
            tokio::time::sleep(ttl / 8).await;
            let _ = journal.renew("appender", ttl).await;
        }
    });
    for task in tasks {
        task.await.unwrap();
    }
    keeping.abort();
}

/// In one piece, so that what is said is whole when the process is killed.
fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

#[test]
fn what_a_killed_process_was_told_is_durable_is_there() {
    let dir = on_disk();
    let mut acknowledged: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    let note = |line: &str, acknowledged: &mut BTreeMap<_, _>| {
        let mut words = line.split(' ').skip(1).map(|word| word.trim().parse::<u64>());
        if let (true, Some(Ok(run)), Some(Ok(seq)), Some(Ok(token))) =
            (line.starts_with("ok ") && line.ends_with('\n'), words.next(), words.next(), words.next())
        {
            acknowledged.insert((usize::try_from(run).unwrap(), seq), token);
        }
    };
    let mut pause = 1;
    for round in 1..=20 {
        let mut appender = Appender::start(dir.path(), LONG);
        note(&appender.wait_for("ok "), &mut acknowledged);
        // At moments that have nothing to do with what it does.
        pause = (pause * 48_271) % 2_147_483_647;
        let until = Instant::now() + Duration::from_micros(pause % 60_000);
        while Instant::now() < until {
            note(&appender.wait_for("ok "), &mut acknowledged);
        }
        appender.kill().split_inclusive('\n').for_each(|line| note(line, &mut acknowledged));

        let found = FileJournal::open(dir.path()).unwrap();
        assert!(segments(dir.path()).is_empty(), "it is recovered");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            for run in found.list().await.unwrap() {
                let n: usize = run.as_str()[4..].parse().unwrap();
                let entries = found.load(&run).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
                for (seq, one) in (1..).zip(&entries) {
                    assert_eq!(one, &entry(seq, one.token), "round {round}, {run}: in order");
                }
                for (_, (seq, token)) in
                    acknowledged.iter().map(|((run, seq), token)| (run, (seq, token))).filter(|(r, _)| **r == n)
                {
                    let there = entries.get(usize::try_from(*seq).unwrap() - 1);
                    assert_eq!(there, Some(&entry(*seq, *token)), "round {round}, {run}: it was acknowledged");
                }
            }
        });
    }
    assert!(acknowledged.len() > 200, "{} records are too few to say anything", acknowledged.len());
}

#[test]
fn a_stopped_process_loses_its_runs_and_changes_nothing_when_it_goes_on() {
    let dir = on_disk();
    for _ in 0..3 {
        let mut appender = Appender::start(dir.path(), Duration::from_secs(4));
        for _ in 0..20 {
            appender.wait_for("ok ");
        }
        appender.signal("-STOP");
        let journal = FileJournal::open(dir.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = named("run-0");
        let after = runtime.block_on(async {
            let refused = journal.acquire(&run, "next", LONG).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused, "its session may last: {refused}");
            tokio::time::sleep(Duration::from_millis(4200)).await;
            let lease = journal.acquire(&run, "next", LONG).await.unwrap();
            let seq = journal.load(&run).await.unwrap().len() as u64;
            fill(&journal, &run, &lease, seq + 1, seq + 3).await;
            journal.load(&run).await.unwrap()
        });
        appender.signal("-CONT");
        assert_eq!(appender.wait_for("failed").trim(), "failed Fenced");
        appender.child.wait().unwrap();
        let found = runtime.block_on(journal.load(&run)).unwrap();
        assert_eq!(found, after);
    }
}
