//! The journal in files, and an engine on it, when the disk is full, fails, cannot be written to, or loses its power:
//! nothing that was acknowledged is lost, nothing is done that is not on the record, and when the disk is well again,
//! the run goes on and ends as it would have.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "common/journal.rs"]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{LONG, begun, entry, fill, in_memory, named, on_disk};
use moodify_core::engine::Ending;
use moodify_core::journal::{FileJournal, FileJournalOptions, JournalStore, Outcome, Record};
use moodify_core::model::{Plan, RunId};
use moodify_core::testing::journal::{FaultyDisk, open_on};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, ErrorKind, Result, planfile};
use tokio_util::sync::CancellationToken;

fn options(segment: u64) -> FileJournalOptions {
    let mut options = FileJournalOptions::default();
    options.segment = segment;
    options
}

fn on_virtual_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test)
}

/// The plan of a release, with brief bakes.
fn plan() -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/plans/moodify-release.yaml");
    let text = fs::read_to_string(path).unwrap();
    let mut plan = planfile::read(&text, "moodify-release.yaml").unwrap().0.expand();
    for step in plan.phases.iter_mut().flat_map(|phase| &mut phase.steps).filter(|step| step.action == "bake") {
        step.with["period"] = "30s".into();
    }
    plan
}

/// A release that is driven on a journal.
struct Release {
    plan: Plan,
    simulator: Simulator,
    engine: Engine,
    run: RunId,
}

impl Release {
    async fn create(journal: &FileJournal) -> Self {
        let plan = plan();
        let simulator = Simulator::builder(&plan.targets())
            .scenario(Scenario::default())
            .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
            .build();
        let engine =
            Engine::new(Arc::new(journal.clone()), simulator.backends_for(&plan)).with_clock(simulator.clock());
        let run = engine.create(&plan, "test").await.unwrap();
        Self { plan, simulator, engine, run }
    }

    async fn drive(&self) -> Result<Ending> {
        self.engine.drive(&self.run, &CancellationToken::new()).await
    }

    /// Every effect was announced before, as far as this journal knows.
    async fn assert_announced(&self, journal: &FileJournal, context: &str) {
        let lease = journal.acquire(&self.run, "reader", LONG).await.unwrap_or_else(|e| panic!("{context}: {e}"));
        let entries = journal.load(&self.run).await.unwrap();
        journal.give_up(&self.run, &lease).await.unwrap();
        let started: BTreeSet<&str> = entries
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::StepStarted { step, .. } => Some(step.as_str()),
                _ => None,
            })
            .collect();
        for write in self.simulator.world().writes() {
            let key = write.key.as_ref().unwrap().as_str().to_owned();
            let step = key.split('/').nth(1).unwrap();
            assert!(started.contains(step), "{context}: {key} was done, but {started:?} is all that was begun");
        }
    }

    /// The engine stopped, and changes nothing any more.
    async fn assert_still(&self, context: &str) {
        let before = self.simulator.world().writes().len();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(self.simulator.world().writes().len(), before, "{context}: it goes on without a journal");
    }

    async fn assert_ends_well(&self, context: &str) {
        let ending = self.drive().await.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(matches!(ending, Ending::Ended(Outcome::Completed, _)), "{context}: {ending:?}");
        for service in &self.plan.release.services {
            let share = self.simulator.world().share(&service.name, &service.image);
            assert!((share - 1.0).abs() < 1e-9, "{context}: {} has {share}", service.name);
        }
    }
}

/// Drives a release on a disk that gets a fault; says whether it came to its end all the same.
fn with_fault(context: &str, fault: impl FnOnce(&FaultyDisk)) -> bool {
    on_virtual_time(async {
        let dir = in_memory();
        let disk = FaultyDisk::new(dir.path().join("journal")).unwrap();
        let journal = open_on(dir.path().join("journal"), &options(16 * 1024), &disk).unwrap();
        let release = Release::create(&journal).await;
        fault(&disk);
        let driven = release.drive().await;
        let ended = driven.is_ok();
        if let Err(e) = driven {
            assert_eq!(e.kind(), ErrorKind::Storage, "{context}: {e}");
            assert!(e.to_string().contains("resume"), "{context}: it says what to do: {e}");
            release.assert_still(context).await;
            for seed in [None, Some(1), Some(2)] {
                let cut = dir.path().join(format!("cut-{seed:?}"));
                disk.cut_power(&cut, seed).unwrap();
                release.assert_announced(&FileJournal::open(&cut).unwrap(), context).await;
            }
        }
        disk.heal();
        release.assert_ends_well(context).await;
        release.assert_announced(&journal, context).await;
        ended
    })
}

#[test]
fn a_full_disk_stops_the_run_before_the_effect_and_it_goes_on_when_there_is_room() {
    let mut ended = 0;
    for room in (0..100_000).step_by(1777) {
        if with_fault(&format!("room for {room} bytes"), |disk| disk.full_after(room)) {
            ended += 1;
            if ended == 3 {
                return;
            }
        }
    }
    panic!("it needs more room than it should");
}

#[test]
fn a_sync_that_fails_stops_the_run_before_the_effect() {
    let mut ended = 0;
    for n in 0..200 {
        for count in [1, 3] {
            let context = format!("{count} failing after {n} syncs");
            ended += u32::from(with_fault(&context, |disk| disk.fail_syncs(n, count)));
        }
        if ended >= 6 {
            assert!(n > 20, "{n} syncs are too few to have been all");
            return;
        }
    }
    panic!("it syncs more often than it should");
}

#[test]
fn a_disk_that_cannot_be_written_to_stops_the_run_before_the_effect() {
    assert!(!with_fault("read-only", FaultyDisk::make_read_only));
}

#[test]
fn a_failed_sync_leaves_nothing_that_contradicts_what_came_after() {
    for (after, cut_seed) in (0..6).flat_map(|after| [None, Some(7), Some(8), Some(9)].map(|seed| (after, seed))) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let context = format!("after {after} syncs, {cut_seed:?}");
            let dir = in_memory();
            let disk = FaultyDisk::new(dir.path().join("journal")).unwrap();
            let journal = open_on(dir.path().join("journal"), &options(16 * 1024), &disk).unwrap();
            let (run, mut lease) = begun(&journal, "run", "ann").await;
            disk.fail_syncs(after, 1);
            let mut seq = 1;
            let mut failed = 0;
            while seq < 12 {
                match journal.append(&run, &lease, seq, &[entry(seq + 1, lease.token)]).await {
                    Ok(()) => seq += 1,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Storage, "{context}: {e}");
                        let again = journal.append(&run, &lease, seq, &[entry(seq + 1, lease.token)]).await;
                        assert_eq!(again.unwrap_err().kind(), ErrorKind::Storage, "{context}: read it first");
                        lease = journal.acquire(&run, "ann", LONG).await.unwrap();
                        seq = journal.load(&run).await.unwrap().len() as u64;
                        failed += 1;
                    }
                }
            }
            assert_eq!(failed, 1, "{context}");
            let cut = dir.path().join("cut");
            disk.cut_power(&cut, cut_seed).unwrap();
            let found = FileJournal::open(&cut).unwrap();
            found.acquire(&run, "bob", LONG).await.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(found.load(&run).await.unwrap(), journal.load(&run).await.unwrap(), "{context}");
        });
    }
}

/// What was acknowledged before the power went is there, and nothing that was never asked for.
#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    const RUNS: usize = 6;
    const EACH: u64 = 9;
    let dir = in_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let disk = FaultyDisk::new(dir.path().join("journal")).unwrap();
    let journal = open_on(dir.path().join("journal"), &options(8 * 1024), &disk).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<[AtomicU64; RUNS]> = Arc::default();
    // What each may write before the next cut.
    let allowed = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..RUNS)
        .map(|n| {
            let (journal, done, acknowledged) = (journal.clone(), done.clone(), acknowledged.clone());
            let allowed = allowed.clone();
            runtime.spawn(async move {
                let (run, mut lease) = begun(&journal, &format!("run-{n}"), "one").await;
                acknowledged[n].store(1, Ordering::SeqCst);
                let mut seq = 1;
                while !done.load(Ordering::SeqCst) {
                    if seq >= allowed.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    journal.append(&run, &lease, seq, &[entry(seq + 1, lease.token)]).await.unwrap();
                    seq += 1;
                    acknowledged[n].store(seq, Ordering::SeqCst);
                    if seq % 17 == 0 {
                        // From one owner to another and back.
                        journal.give_up(&run, &lease).await.unwrap();
                        lease = journal.acquire(&run, if seq % 2 == 0 { "one" } else { "two" }, LONG).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut most = 0;
    for round in 0..30_u64 {
        // Somewhere in what is written now.
        allowed.store((round + 1) * EACH, Ordering::SeqCst);
        let enough = (round * EACH + round * 7 % EACH) * RUNS as u64;
        let before = loop {
            let now: Vec<u64> = acknowledged.iter().map(|seq| seq.load(Ordering::SeqCst)).collect();
            if now.iter().sum::<u64>() > enough {
                break now;
            }
            assert!(!tasks.iter().any(tokio::task::JoinHandle::is_finished), "somebody could not write");
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        };
        let cut = dir.path().join(format!("cut-{round}"));
        disk.cut_power(&cut, (round % 3 != 0).then_some(round)).unwrap();
        runtime.block_on(async {
            let found = FileJournal::open_with(&cut, &options(8 * 1024)).unwrap();
            for (n, seq) in before.into_iter().enumerate().filter(|(_, seq)| *seq > 0) {
                let run = named(&format!("run-{n}"));
                let context = format!("round {round}, {run}, {seq} acknowledged");
                let lease = found.acquire(&run, "next", LONG).await.unwrap_or_else(|e| panic!("{context}: {e}"));
                let entries = found.load(&run).await.unwrap_or_else(|e| panic!("{context}: {e}"));
                assert!(entries.len() as u64 >= seq, "{context}, {} there", entries.len());
                for (seq, one) in (1..).zip(&entries) {
                    assert_eq!(one, &entry(seq, one.token), "{context}");
                }
                let end = entries.len() as u64;
                assert!(entries.iter().all(|one| one.token < lease.token), "{context}: its token is the greatest");
                fill(&found, &run, &lease, end + 1, end + 2).await;
                most = most.max(end);
            }
        });
        fs::remove_dir_all(&cut).unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    assert!(most > 200, "{most} records are too few to say anything");
}

/// The power goes again and again while what was lost is being recovered.
#[tokio::test]
async fn recovery_can_be_broken_off_at_any_write() {
    let dir = in_memory();
    let disk = FaultyDisk::new(dir.path().join("journal")).unwrap();
    let journal = open_on(dir.path().join("journal"), &options(1024 * 1024), &disk).unwrap();
    let mut wanted = Vec::new();
    for name in ["a", "b", "c"] {
        let (run, lease) = begun(&journal, name, "ann").await;
        fill(&journal, &run, &lease, 2, 20).await;
        wanted.push((run.clone(), journal.load(&run).await.unwrap()));
    }
    let cut = dir.path().join("cut-0");
    disk.cut_power(&cut, None).unwrap();
    let mut last = cut;
    for n in 0..40_u64 {
        let again = FaultyDisk::new(&last).unwrap();
        again.fail_syncs(n % 8, 1);
        again.full_after(n * 500);
        drop(open_on(&last, &options(1024 * 1024), &again).unwrap());
        let next = dir.path().join(format!("cut-{}", n + 1));
        again.cut_power(&next, (n % 2 == 0).then_some(n)).unwrap();
        last = next;
    }
    let found = FileJournal::open(&last).unwrap();
    for (run, entries) in wanted {
        found.acquire(&run, "bob", LONG).await.unwrap();
        assert_eq!(found.load(&run).await.unwrap(), entries);
    }
}

/// A file system of its own, as long as it lives.
struct Mount(PathBuf);

impl Mount {
    /// 1 MiB in memory. `None`, and a word about it, where nothing can be mounted; that must not happen in CI.
    fn tiny(dir: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir.to_owned())),
            other => {
                let why = other.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stderr).into_owned());
                assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "nothing can be mounted: {why}");
                eprintln!("LEFT OUT: a disk that is really full or read-only, since nothing can be mounted: {why}");
                None
            }
        }
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(done.success(), "remount {how}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_really_full_disk_too() {
    let dir = on_disk();
    let Some(mount) = Mount::tiny(dir.path()) else { return };
    on_virtual_time(async {
        for left in [0, 4, 8] {
            let journal = FileJournal::open(mount.0.join(format!("journal-{left}"))).unwrap();
            let release = Release::create(&journal).await;
            let filler = mount.0.join("filler");
            let context = format!("{left} KiB left");
            fill_up(&filler, left);
            let error = release.drive().await.expect_err(&context);
            assert_eq!(error.kind(), ErrorKind::Storage, "{context}: {error}");
            assert!(error.to_string().contains("No space left"), "{context}: {error}");
            release.assert_still(&context).await;
            fs::remove_file(&filler).unwrap();
            release.assert_announced(&journal, &context).await;
            release.assert_ends_well(&context).await;
            drop((release, journal));
            fs::remove_dir_all(mount.0.join(format!("journal-{left}"))).unwrap();
        }
    });
}

/// Takes all the room but so many KiB.
fn fill_up(path: &Path, left: usize) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(left as u64 * 1024)).unwrap();
}

#[tokio::test]
async fn a_file_system_that_is_mounted_read_only_can_be_looked_at() {
    let dir = on_disk();
    let Some(mount) = Mount::tiny(dir.path()) else { return };
    let root = mount.0.join("journal");
    let journal = FileJournal::open(&root).unwrap();
    let (run, lease) = begun(&journal, "run", "ann").await;
    fill(&journal, &run, &lease, 2, 5).await;
    drop(journal);
    mount.remount("ro");
    let journal = FileJournal::open(&root).unwrap();
    assert_eq!(journal.list().await.unwrap(), std::slice::from_ref(&run));
    assert_eq!(journal.load(&run).await.unwrap().len(), 5);
    assert_eq!(journal.holder(&run).await.unwrap(), None);
    let error = journal.acquire(&run, "ann", LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    mount.remount("rw");
    let lease = journal.acquire(&run, "ann", LONG).await.unwrap();
    fill(&journal, &run, &lease, 6, 7).await;
}
