//! What the journal in files costs, against what the disk itself can do. All of it in one run, so that the ratios mean
//! something whatever the disk: `cargo bench -p moodify-core --bench journal`. `MOODIFY_BENCH_DIR` names another
//! directory than one below the target directory; it should be on a disk, not in memory.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on shall stop")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moodify_core::journal::{Entry, FileJournal, JournalStore, Record};
use moodify_core::model::RunId;

/// How long each rate is measured at a time, and how often, in turn: disks are moody, and neighbours are near.
const SPAN: Duration = Duration::from_millis(300);
const ROUNDS: usize = 25;
const LEASE: Duration = Duration::from_secs(3600);

fn run(n: usize) -> RunId {
    RunId::new(format!("run-{n:06}")).unwrap()
}

/// A record whose line is 200 bytes long.
fn entry(seq: u64, token: u64) -> Entry {
    let record = Record::Held { step: "bake".to_owned(), reason: "x".repeat(48) };
    Entry { seq, time: "2026-11-24T15:30:00Z".parse().unwrap(), elapsed_ms: Some(17), token, record }
}

/// Lines of 200 bytes a second, each synced.
fn bare(dir: &Path) -> f64 {
    let path = dir.join("bare");
    let mut file = File::create(&path).unwrap();
    let line = [b'x'; 200];
    let (begun, mut n) = (Instant::now(), 0);
    while begun.elapsed() < SPAN {
        file.write_all(&line).unwrap();
        file.sync_data().unwrap();
        n += 1;
    }
    let rate = f64::from(n) / begun.elapsed().as_secs_f64();
    fs::remove_file(path).unwrap();
    rate
}

/// Durable records a second, of that many runs at once.
async fn records(dir: &Path, runs: usize) -> f64 {
    let journal = Arc::new(FileJournal::open(dir.join("journal")).unwrap());
    let mut leases = Vec::new();
    for n in 0..runs {
        journal.create(&run(n), &entry(1, 0)).await.unwrap();
        leases.push(journal.acquire(&run(n), "bench", LEASE).await.unwrap());
    }
    let begun = Instant::now();
    let tasks = leases.into_iter().enumerate().map(|(n, lease)| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let (run, mut seq) = (run(n), 1);
            while begun.elapsed() < SPAN {
                journal.append(&run, &lease, seq, &[entry(seq + 1, lease.token)]).await.unwrap();
                seq += 1;
            }
            seq - 1
        })
    });
    let mut total = 0;
    for task in tasks.collect::<Vec<_>>() {
        total += task.await.unwrap();
    }
    let rate = total as f64 / begun.elapsed().as_secs_f64();
    drop(journal);
    fs::remove_dir_all(dir.join("journal")).unwrap();
    rate
}

/// The time to load a journal of so many records, the best of some.
async fn load(dir: &Path, records: u64) -> (Duration, u64) {
    let journal = FileJournal::open(dir.join("journal")).unwrap();
    journal.create(&run(0), &entry(1, 0)).await.unwrap();
    let lease = journal.acquire(&run(0), "bench", LEASE).await.unwrap();
    let entries: Vec<Entry> = (2..=records).map(|seq| entry(seq, lease.token)).collect();
    journal.append(&run(0), &lease, 1, &entries).await.unwrap();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(journal.load(&run(0)).await.unwrap().len() as u64, records);
        best = best.min(begun.elapsed());
    }
    let bytes = fs::metadata(dir.join("journal").join(run(0).as_str()).join("journal")).unwrap().len();
    drop(journal);
    fs::remove_dir_all(dir.join("journal")).unwrap();
    (best, bytes / records)
}

/// The times to create so many runs, to close the journal, to open it and to list them.
async fn many(dir: &Path, runs: usize) -> [Duration; 4] {
    let journal = Arc::new(FileJournal::open(dir.join("journal")).unwrap());
    let begun = Instant::now();
    let tasks = (0..100).map(|part| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for n in (0..runs).skip(part).step_by(100) {
                journal.create(&run(n), &entry(1, 0)).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let created = begun.elapsed();
    let begun = Instant::now();
    drop(journal);
    let closed = begun.elapsed();
    let begun = Instant::now();
    let journal = FileJournal::open(dir.join("journal")).unwrap();
    let opened = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(journal.list().await.unwrap().len(), runs);
    let listed = begun.elapsed();
    fs::remove_dir_all(dir.join("journal")).unwrap();
    [created, closed, opened, listed]
}

/// The type of the file system that holds a directory, and where it is mounted.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap();
    let mounted = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let here = mounted.filter(|(place, _)| dir.starts_with(place)).max_by_key(|(place, _)| place.len());
    here.map_or_else(|| "unknown".to_owned(), |(place, kind)| format!("{kind} at {place}"))
}

/// A quarter, a half and three quarters of the values are below these.
fn quarters(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[values.len() * part / 4];
    (at(1), at(2), at(3))
}

fn main() {
    let base = std::env::var_os("MOODIFY_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let temporary = tempfile::tempdir_in(base).unwrap();
    let dir = temporary.path();
    println!("directory {}, {}", dir.display(), file_system(dir));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut single, mut together, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = bare(dir);
        let one = runtime.block_on(records(dir, 1));
        let between = bare(dir);
        let many = runtime.block_on(records(dir, 64));
        let after = bare(dir);
        disk.push(between);
        single.push(one * 2.0 / (before + between));
        together.push(many * 2.0 / (between + after));
    }
    let (low, half, high) = quarters(disk);
    println!("bare append and sync: {half:.0}/s, half of the rounds between {low:.0} and {high:.0}");
    let (low, half, high) = quarters(single);
    println!("one run: {half:.2} times that, half of the rounds between {low:.2} and {high:.2} (goal: 0.9)");
    let (low, half, high) = quarters(together);
    println!("64 runs at once: {half:.1} times that, half of the rounds between {low:.1} and {high:.1} (goal: 20)");
    let (time, bytes) = runtime.block_on(load(dir, 10_000));
    println!("load of 10000 records of {bytes} bytes: {time:.1?} (goal: 50 ms)");
    let [created, closed, opened, listed] = runtime.block_on(many(dir, 100_000));
    println!(
        "100000 runs: created in {created:.1?}, closed in {closed:.1?}, opened in {opened:.1?}, listed in {listed:.1?}"
    );
}
