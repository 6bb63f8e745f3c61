//! All cases, side by side.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::Timestamp;

use super::case::{Case, Played};
use super::stage::Stage;
use super::world::History;
use super::{Point, Side, Spot, Story, label, stories};
use crate::BoxError;
use crate::rig::{AuditEntry, Rig};

/// Cases at once. Most of their time they wait for instances to come up and for canaries to drain.
const WORKERS: usize = 24;

/// Of so many cases, one in which the successor is killed as well.
const SECOND_KILL: usize = 4;

/// Which part of the cases is played: `0/3` is every third, from the first on. All of them if it is not set.
const PART: &str = "MOODIFY_CRASH_SWEEP";

/// What a story is without a crash.
struct Usual {
    history: History,
    /// The requests that changed something.
    requests: usize,
    cases: VecDeque<Case>,
}

/// What the workers share.
struct Shared {
    rig: &'static Rig,
    begun: Instant,
    total: usize,
    stories: RefCell<BTreeMap<&'static str, Queue>>,
    stages: RefCell<Vec<Stage>>,
    results: RefCell<Vec<(Case, Result<Played, BoxError>)>>,
}

struct Queue {
    usual: Arc<History>,
    cases: VecDeque<Case>,
    workers: usize,
}

/// Kills every story at each of its points, and prints what came of it.
///
/// # Panics
///
/// When a case does not end as it should, or a point is not reached.
pub async fn sweep(rig: &'static Rig) {
    let begun = Instant::now();
    let (part, of) = part();
    let told = stories().iter().map(async |story| {
        let mut stage = Stage::new(rig, story).await?;
        let case = Case { story, first: Point::never(), second: None };
        let played = case.play(&mut stage, None).await;
        Some((story, stage, played.unwrap_or_else(|e| panic!("{} without a crash: {e}", story.name))))
    });
    let (mut stages, mut usuals) = (Vec::new(), BTreeMap::new());
    for one in join_all(told).await {
        let Some((story, stage, played)) = one else { return };
        stages.push(stage);
        usuals.insert(story.name, usual(story, &played));
    }
    let mut number = 0;
    let mut all = 0;
    let mut queues = BTreeMap::new();
    let mut requests = BTreeMap::new();
    for (name, mut usual) in usuals {
        all += usual.cases.len();
        usual.cases.retain(|_| {
            number += 1;
            (number - 1) % of == part
        });
        requests.insert(name, usual.requests);
        queues.insert(name, Queue { usual: Arc::new(usual.history), cases: usual.cases, workers: 0 });
    }
    let total = queues.values().map(|queue| queue.cases.len()).sum();
    say(&format!("{total} of {all} cases, {} s for the stories without a crash", begun.elapsed().as_secs()));
    let shared = Shared {
        rig,
        begun,
        total,
        stories: RefCell::new(queues),
        stages: RefCell::new(stages),
        results: RefCell::default(),
    };
    join_all((0..WORKERS).map(|_| work(&shared))).await;
    report(rig, shared.results.into_inner(), &requests, total, begun);
}

fn part() -> (usize, usize) {
    let Ok(text) = std::env::var(PART) else { return (0, 1) };
    let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parts.filter(|(part, of)| part < of).unwrap_or_else(|| panic!("{PART} is {text:?}, and should be like 0/3"))
}

/// What a story without a crash says of the points at which it can be killed.
fn usual(story: &'static Story, played: &Played) -> Usual {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut spots = Vec::new();
    let mut begins = false;
    for entry in &played.entries {
        let label = label(entry);
        let nth = seen.entry(label.clone()).or_default();
        *nth += 1;
        begins |= label == story.from;
        if begins {
            spots.push(Spot::Record { label, nth: *nth });
        }
    }
    assert!(begins, "{}: there is no record {:?}", story.name, story.from);
    let records = spots.len();
    let mut cases: Vec<Case> = Vec::new();
    for (index, spot) in spots.iter().enumerate() {
        for (side, first) in Point::both(spot).into_iter().enumerate() {
            cases.push(Case { story, first: first.clone(), second: None });
            // The next process owns the run, and then does what is left.
            let left = 1 + records - index - side;
            if (2 * index + side) % SECOND_KILL == SECOND_KILL - 1 && left > 1 {
                let nth = 1 + (index % 4).min(left - 1);
                let side = if index % 2 == 0 { Side::Before } else { Side::After };
                let second = Point { spot: Spot::Own { nth }, side };
                cases.push(Case { story, first, second: Some(second) });
            }
        }
    }
    let is_request = |line: &&String| line.starts_with("request ");
    let requests = played.lines.iter().filter(is_request).count();
    let from = format!("record {}", story.from);
    let before = played.lines.iter().take_while(|line| **line != from).filter(is_request).count();
    for nth in before + 1..=requests {
        cases.extend(Point::both(&Spot::Request { nth }).map(|first| Case { story, first, second: None }));
    }
    Usual { history: played.history.clone(), requests, cases: cases.into() }
}

/// Plays cases until none is left.
async fn work(shared: &Shared) {
    let mut stage: Option<Stage> = None;
    while let Some((case, usual)) = next(shared, stage.as_ref().map(|stage| stage.story.name)) {
        if stage.as_ref().is_none_or(|stage| stage.story.name != case.story.name) {
            if let Some(other) = stage.take() {
                shared.stages.borrow_mut().push(other);
            }
            let free = {
                let mut stages = shared.stages.borrow_mut();
                let place = stages.iter().position(|stage| stage.story.name == case.story.name);
                place.map(|place| stages.swap_remove(place))
            };
            stage = match free {
                Some(stage) => Some(stage),
                None => Stage::new(shared.rig, case.story).await,
            };
        }
        let Some(at) = stage.as_mut() else { return };
        let begun = Instant::now();
        let result = case.play(at, Some(&usual)).await;
        if result.is_err() {
            // Whatever it is, the next case is not to suffer from it.
            stage = None;
        }
        let done = {
            let mut results = shared.results.borrow_mut();
            results.push((case.clone(), result));
            let (case, result) = results.last().expect("it was just put there");
            let how = match result {
                Ok(played) => ended(played),
                Err(e) => format!("FAILED: {e}"),
            };
            format!("{:3}/{} {:60} {how}", results.len(), shared.total, name(case, result))
        };
        let (took, since) = (begun.elapsed().as_secs_f64(), shared.begun.elapsed().as_secs());
        say(&format!("{since:4} s  {took:5.1} s  {done}"));
    }
}

/// The next case: of the same story while there is one, else of the one with most to do.
fn next(shared: &Shared, same: Option<&str>) -> Option<(Case, Arc<History>)> {
    let mut stories = shared.stories.borrow_mut();
    if let Some(queue) = same.and_then(|name| stories.get_mut(name)) {
        if let Some(case) = queue.cases.pop_front() {
            return Some((case, Arc::clone(&queue.usual)));
        }
        queue.workers -= 1;
    }
    // A stage is worth it only where there is more to do than those who are at it do at once.
    let most = stories.values_mut().filter(|queue| queue.cases.len() > queue.workers);
    let queue = most.max_by_key(|queue| queue.cases.len() / (queue.workers + 1))?;
    let case = queue.cases.pop_front()?;
    queue.workers += 1;
    Some((case, Arc::clone(&queue.usual)))
}

fn name(case: &Case, result: &Result<Played, BoxError>) -> String {
    let request = match (&case.first.spot, result) {
        (Spot::Request { .. }, Ok(played)) => played.lines.iter().rev().find_map(|line| line.strip_prefix("request ")),
        _ => None,
    };
    let request = request.map_or_else(String::new, |what| format!(" ({})", short(what)));
    let second = case.second.as_ref().map_or_else(String::new, |second| format!(", then {second}"));
    format!("{}: {}{request}{second}", case.story.name, case.first)
}

/// `PATCH httproutes/backend` of a method and a path.
fn short(request: &str) -> String {
    let (method, path) = request.split_once(' ').unwrap_or_default();
    let parts: Vec<&str> = path.rsplit('/').take(2).collect();
    format!("{method} {}", parts.into_iter().rev().collect::<Vec<_>>().join("/"))
}

fn ended(played: &Played) -> String {
    let how = played.outcome.map_or_else(|| "there is no run".to_owned(), |outcome| outcome.to_string());
    match &played.resumed {
        Some((_, took)) => format!("{how}; owned by another process after {:.2} s", took.as_secs_f64()),
        None => format!("{how}; nothing to resume"),
    }
}

/// Not `eprintln!`, which the test harness would swallow.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The first request of the process that took over, and all that changed something in the case.
fn requests<'a>(played: &Played, log: &'a [AuditEntry]) -> (Option<Duration>, Vec<&'a AuditEntry>) {
    let ours = |at: Timestamp| {
        log.iter().filter(move |e| {
            e.namespace == played.namespace
                && e.user_agent.starts_with("moodify/")
                && e.at >= at
                && e.at <= played.ended
        })
    };
    let first = played.resumed.as_ref().and_then(|(at, _)| {
        let first = ours(*at).next()?.at;
        Duration::try_from(first.duration_since(*at)).ok()
    });
    (first, ours(played.begun).filter(|e| e.is_write()).collect())
}

fn report(
    rig: &'static Rig,
    results: Vec<(Case, Result<Played, BoxError>)>,
    usual: &BTreeMap<&str, usize>,
    total: usize,
    begun: Instant,
) {
    let log = if rig.state().is_own() { rig.audit() } else { Vec::new() };
    let mut table = String::new();
    let mut failures = Vec::new();
    let mut takeovers = Vec::new();
    let mut killed = BTreeSet::new();
    let mut sorted = results;
    sorted.sort_by(|(a, _), (b, _)| (a.story.name, &a.first, &a.second).cmp(&(b.story.name, &b.first, &b.second)));
    for (case, result) in &sorted {
        killed.insert((case.story.name, case.first.clone(), case.second.clone()));
        match result {
            Err(e) => failures.push(format!("{}: {e}", name(case, result))),
            Ok(played) => {
                let (first, writes) = requests(played, &log);
                let seconds =
                    |d: Option<Duration>| d.map_or_else(|| "-".to_owned(), |d| format!("{:.2}", d.as_secs_f64()));
                let record = played.resumed.as_ref().map(|(_, took)| *took);
                takeovers.extend(record);
                let how = played.outcome.map_or_else(|| "no run".to_owned(), |outcome| outcome.to_string());
                let _ = writeln!(
                    table,
                    "| {:84} | {how:11} | {:>6} | {:>6} | {:>6} |",
                    name(case, result),
                    seconds(record),
                    seconds(first),
                    writes.len()
                );
                // One whose answer nobody waited for may be missing here; nothing is written a second time.
                let (done, once) = (writes.iter().filter(|e| e.code < 300).count(), usual[case.story.name]);
                if done > once {
                    let all: Vec<String> = writes.iter().map(|e| format!("{} {} {}", e.verb, e.uri, e.code)).collect();
                    failures.push(format!("{}: {done} writes, where {once} do: {all:#?}", name(case, result)));
                }
            }
        }
    }
    say(&format!(
        "\n| {:84} | {:11} | {:>6} | {:>6} | {:>6} |\n|{:-<86}|{:-<13}|{:-<8}|{:-<8}|{:-<8}|\n{table}",
        "killed", "ended", "record", "asked", "writes", "", "", "", "", ""
    ));
    takeovers.sort();
    if let (Some(least), Some(most)) = (takeovers.first(), takeovers.last()) {
        say(&format!(
            "{} of {total} cases as they should be in {} s; a new process owned the run after {:.2} to {:.2} s, in the middle {:.2} s",
            total - failures.len().min(total),
            begun.elapsed().as_secs(),
            least.as_secs_f64(),
            most.as_secs_f64(),
            takeovers[takeovers.len() / 2].as_secs_f64(),
        ));
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(killed.len(), total, "every point was killed, and once");
}
