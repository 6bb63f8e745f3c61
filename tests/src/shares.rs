//! What the requests of a release met, compared with what its journal says: no version ever gets more of them than it is
//! allowed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moodify_core::model::Weight;
use moodify_core::strategy::split;
use serde_json::Value;
use tokio::time::sleep;

use crate::load::{Load, Report};
use crate::rig::Namespace;

/// Below and above what the journal allows, as a fraction of one.
const TOLERANCE: f64 = 0.01;
/// A data plane that takes over what it is told late.
pub const LATE: Duration = Duration::from_secs(2);

/// How a data plane divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// By weights, round robin.
    Weights,
    /// By weights, at random.
    Chance,
    /// By instances, at random.
    Instances,
}

impl Division {
    /// The new version's share that a weight means, of five instances.
    ///
    /// # Panics
    ///
    /// When it is no weight.
    pub fn share(self, weight: f64) -> f64 {
        match self {
            Self::Weights | Self::Chance => weight / 100.0,
            Self::Instances => split(5, Weight::new(weight as u8).expect("a weight")).share(),
        }
    }

    /// How far from it so many requests may be.
    pub fn slack(self, share: f64, requests: usize) -> f64 {
        let requests = requests as f64;
        let chance = match self {
            // Time cuts a round in two at either end.
            Self::Weights => 2.0,
            // Five standard deviations: once in more than a million.
            Self::Chance | Self::Instances => 5.0 * (requests * share * (1.0 - share)).sqrt(),
        };
        TOLERANCE * requests + chance
    }

    /// How long after the journal says that all is back some requests may still meet the new version: instances that are
    /// on their way out answer until the data plane knows.
    fn echo(self) -> Duration {
        match self {
            Self::Weights | Self::Chance => Duration::ZERO,
            Self::Instances => Duration::from_secs(4),
        }
    }
}

/// Ends the load of a release that is over, and says what it met.
///
/// # Panics
///
/// When an event has no time.
pub async fn ended(namespace: &Namespace, load: Load, events: &[Value]) -> Report {
    // What was removed at the very end is missed only now.
    sleep(LATE + Duration::from_secs(1)).await;
    let report = load.stop().await;
    println!("{}: {report}", namespace.name());
    explain(namespace, events, &report);
    report
}

/// Prints what happened around the first failure, if there is one: who did what, and in which order.
fn explain(namespace: &Namespace, events: &[Value], report: &Report) {
    let Some(failed) = report.failures.iter().map(|failure| failure.sent).min() else { return };
    let near = |at: Timestamp| at.duration_since(failed).abs() < SignedDuration::from_secs(3);
    let mut lines: Vec<(Timestamp, String)> = vec![(failed, "the first request fails".to_owned())];
    for event in events {
        lines.push((time(event), format!("{} {}", event["event"], event["step"])));
    }
    for entry in namespace.rig().audit().into_iter().filter(|entry| entry.namespace == namespace.name()) {
        if entry.is_write() && entry.resource != "events" {
            let what = [entry.verb, entry.resource, entry.subresource, entry.name].join(" ");
            lines.push((entry.at, format!("{}: {what} {}", entry.user, entry.code)));
        }
    }
    lines.retain(|(at, _)| near(*at));
    lines.sort();
    for (at, line) in lines {
        println!("{at} {line}");
    }
}

/// From when on what weight is the most that the journal allows the new version, until the end.
fn allowed(events: &[Value], division: Division) -> Vec<(Timestamp, f64)> {
    let mut allowed = vec![(time(&events[0]), 0.0)];
    for event in events {
        match event["event"].as_str() {
            Some("checkpoint") => allowed.extend(event["data"]["weight"].as_f64().map(|weight| (time(event), weight))),
            Some("undo-finished") if event["step"] == "rollout-shift-10" => {
                allowed.push((time(event) + division.echo(), 0.0));
            }
            _ => {}
        }
    }
    allowed.push((time(&events[events.len() - 1]) + LATE, 0.0));
    allowed
}

fn time(event: &Value) -> Timestamp {
    let time = event["time"].as_str().and_then(|time| time.parse().ok());
    time.unwrap_or_else(|| panic!("an event without a time: {event}"))
}

/// The new version gets what each weight says while it stands, and never more than the journal allows.
///
/// # Panics
///
/// When it did not, or when no weight stood long enough to be measured.
pub fn check_shares(events: &[Value], report: &Report, division: Division) {
    for period in allowed(events, division).windows(2) {
        let [(begin, weight), (end, _)] = [period[0], period[1]];
        let share = division.share(weight);
        // In slices, too: an excess must not hide in what is missing before or after.
        let second = |n: i64| (begin + SignedDuration::from_secs(n), begin + SignedDuration::from_secs(n + 1));
        let slices = (0..).map(second).take_while(|(_, to)| *to <= end);
        for (from, to) in slices.chain([(begin, end)]) {
            let got = report.share("v2", from, to);
            let most = share * got.all as f64 + division.slack(share, got.all);
            assert!(got.of as f64 <= most, "{got:?} from {from} to {to}, where {weight} % was allowed");
        }
    }
    let mut measured = 0;
    for (place, event) in events.iter().enumerate().filter(|(_, event)| event["event"] == "step-started") {
        let Some(weight) = event["step"].as_str().and_then(|step| step.strip_prefix("rollout-bake-")) else { continue };
        let share = division.share(weight.parse().expect("the name of a step ends with its weight"));
        let is_end = |event: &&Value| {
            matches!(event["event"].as_str(), Some("step-finished" | "step-failed" | "rollback-started" | "commanded"))
        };
        let (begin, end) = (time(event), events[place..].iter().find(is_end).map_or(time(event), time));
        // What a gateway reports as programmed is in force a little later, on a busy machine.
        let got = report.share("v2", begin + end.duration_since(begin) / 2, end);
        println!("  at {weight} %: {:.2} % of {} requests", got.fraction() * 100.0, got.all);
        // Where a bad version went before it was measured, there is too little to compare.
        if got.all >= 500 {
            measured += 1;
            let off = (got.of as f64 - share * got.all as f64).abs();
            assert!(off <= division.slack(share, got.all), "{got:?} at {weight} %");
        }
    }
    assert!(measured > 0, "no weight stood long enough to be measured");
}
