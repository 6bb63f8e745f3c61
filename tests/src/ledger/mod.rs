//! The requests that a release costs the API server, from its own audit log.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::rig::{AuditEntry, Rig};
use crate::scene::{Finished, Scene};
use crate::wall_clock;

/// A way to release a Deployment by 10, 50 and 100 %, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// What people call it.
    pub title: &'static str,
    /// The router of its service.
    pub router: &'static str,
    /// Whether two Deployments take turns, in place of a canary beside one.
    pub turns: bool,
    /// The most writes.
    pub most_writes: usize,
}

const fn in_place(title: &'static str, router: &'static str) -> Way {
    Way { title, router, turns: false, most_writes: 13 }
}

/// All ways.
pub const WAYS: [Way; 6] = [
    Way { title: "blue-green, `HTTPRoute`", router: "http-route", turns: true, most_writes: 10 },
    in_place("canary in place, `HTTPRoute`", "http-route"),
    in_place("canary in place, replica ratio", "replica-ratio"),
    in_place("canary in place, ingress-nginx", "ingress-nginx"),
    in_place("canary in place, Istio", "istio"),
    in_place("canary in place, Traefik", "traefik"),
];

/// What was measured of others with the same release, on the same API server with 10 replicas: tool and router, writes,
/// reads, events, reads while it waits.
const OTHERS: [[&str; 5]; 5] = [
    ["Argo Rollouts 1.10.1, replica ratio", "41", "0", "21", "0, and 6 writes a minute"],
    ["Argo Rollouts 1.10.1, nginx", "40", "2", "17", "0, and 6 writes a minute"],
    ["Argo Rollouts 1.10.1, Istio", "42", "2", "18", "0, and 6 writes a minute"],
    ["Flagger 1.44.0, Gateway API", "14", "98", "8", "78 a minute"],
    ["Flagger 1.44.0, nginx", "14", "105", "8", "78 a minute"],
];

/// What a release cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// How it was released.
    pub way: Way,
    /// Its writes in order, as `patch httproutes/backend`.
    pub writes: Vec<String>,
    /// How often it read what, watches included.
    pub reads: BTreeMap<String, usize>,
    /// What it read while it waited, but for the one list with which each watch begins.
    pub while_waiting: Vec<String>,
}

impl Ledger {
    /// Whether it cost no more than it may.
    pub fn is_within(&self) -> bool {
        self.writes.len() <= self.way.most_writes && self.while_waiting.is_empty()
    }
}

/// Releases a Deployment in this way, and looks up what that cost. `None`, said aloud, where that cannot be measured.
///
/// # Panics
///
/// When the release does not complete.
pub async fn measure(rig: &'static Rig, way: Way) -> Option<Ledger> {
    let namespace = rig.namespace("ledger").await;
    let mut scene = Scene::new(&namespace, &[("backend", "v2")], way.router).await?;
    if way.turns {
        scene.take_turns("1s").await;
    }
    let begun = wall_clock();
    let finished = scene.release().await;
    finished.ended("completed");
    let ours = |entry: &AuditEntry| entry.at >= begun && entry.user_agent.starts_with("moodify/");
    let entries: Vec<AuditEntry> = namespace.ledger()?.into_iter().filter(ours).collect();
    let told = |entry: &AuditEntry| {
        let name = if entry.name.is_empty() { String::new() } else { format!("/{}", entry.name) };
        format!("{} {}{name}", entry.verb, entry.resource)
    };
    let mut reads = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.is_write()) {
        *reads.entry(told(entry)).or_default() += 1;
    }
    let writes = entries.iter().filter(|entry| entry.is_write()).map(told).collect();
    let bakes = bakes(&finished);
    let while_waiting = bakes.into_iter().flat_map(|(from, to)| {
        let reads =
            entries.iter().filter(move |e| e.at > from && e.at < to && matches!(e.verb.as_str(), "get" | "list"));
        let mut lists = Vec::new();
        let again = reads.filter(move |entry| {
            let first = entry.verb == "list" && !lists.contains(&entry.resource);
            lists.push(entry.resource.clone());
            !first
        });
        again.map(told).collect::<Vec<_>>()
    });
    Some(Ledger { way, writes, reads, while_waiting: while_waiting.collect() })
}

/// From when to when it baked.
fn bakes(finished: &Finished) -> Vec<(Timestamp, Timestamp)> {
    let time = |event: &Value| event["time"].as_str().and_then(|time| time.parse().ok());
    let of = |kind: &'static str| {
        let step = move |e: &&Value| e["event"] == kind && e["step"].as_str().is_some_and(|s| s.contains("-bake-"));
        finished.events.iter().filter(step).filter_map(time)
    };
    of("step-started").zip(of("step-finished")).collect()
}

/// A table for people, and the writes of each way one by one.
pub fn table(ledgers: &[Ledger]) -> String {
    let mut text = String::from(
        "| One Deployment by 10, 50, 100 % | Writes | Reads and watches | Events | Reads while it waits |\n|---|---|---|---|---|\n",
    );
    for ledger in ledgers {
        let reads: usize = ledger.reads.values().sum();
        let (writes, waiting) = (ledger.writes.len(), ledger.while_waiting.len());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| moodify, {} | {writes} | {reads} | 0 | {waiting} |", ledger.way.title);
    }
    for row in OTHERS {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    for ledger in ledgers {
        let _ = writeln!(text, "\nThe writes of {}:\n", ledger.way.title);
        for (number, write) in (1..).zip(&ledger.writes) {
            let _ = writeln!(text, "{number}. {write}");
        }
        let reads: Vec<String> = ledger.reads.iter().map(|(what, times)| format!("{times} {what}")).collect();
        let _ = writeln!(text, "\nIts reads: {}.", reads.join(", "));
    }
    text
}
