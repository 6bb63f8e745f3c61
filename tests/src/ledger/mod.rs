//! The requests that a release costs the API server, from its own audit log.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::rig::{AuditEntry, Namespace, Rig};
use crate::routes::resource;
use crate::scene::{Finished, Scene};
use crate::wall_clock;

mod ways;

pub use ways::{Strategy, WAYS, Way};

/// How long a weight is watched, and how long the looks may take with which that begins.
const BAKE: &str = "6s";
const LOOKS: SignedDuration = SignedDuration::from_secs(3);

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
    /// What it read while it waited, but for the looks with which watches begin.
    pub while_waiting: Vec<String>,
}

impl Ledger {
    /// What is not as it should be: other writes than those of its way, too many of them, too many reads, or one while it waited.
    pub fn problems(&self) -> Vec<String> {
        let (way, reads) = (self.way, self.reads());
        let mut problems = Vec::new();
        if self.writes != way.writes() {
            problems.push(format!("its writes are [{}], not [{}]", self.writes.join(", "), way.writes().join(", ")));
        }
        if self.writes.len() > way.strategy.goal() {
            problems.push(format!("{} writes, which is more than {}", self.writes.len(), way.strategy.goal()));
        }
        if reads > way.most_reads {
            problems.push(format!("{reads} reads, which is more than {}: {:?}", way.most_reads, self.reads));
        }
        if !self.while_waiting.is_empty() {
            problems.push(format!("while it waits it reads: {}", self.while_waiting.join(", ")));
        }
        problems
    }

    /// How many reads there were, watches included.
    pub fn reads(&self) -> usize {
        self.reads.values().sum()
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
    if (way.strategy, way.router) == (Strategy::Turns, "istio") {
        // The host alone leads to whichever of the two serves.
        let subset = r#"[{"op": "remove", "path": "/spec/http/1/route/0/destination/subset"}]"#;
        namespace.kubectl(&["patch", resource("istio"), "backend", "--type", "json", "--patch", subset]).await;
    }
    prepare(&namespace, &mut scene, way.strategy).await;
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
    // A watch begins with looks; they are over soon.
    let while_waiting = bakes(&finished).into_iter().flat_map(|(from, to)| {
        let waits =
            move |e: &&AuditEntry| e.at > from + LOOKS && e.at < to && matches!(e.verb.as_str(), "get" | "list");
        entries.iter().filter(waits).map(told)
    });
    Some(Ledger { way, writes, reads, while_waiting: while_waiting.collect() })
}

/// Sets the strategy, with short bakes that only pods are asked about.
async fn prepare(namespace: &Namespace, scene: &mut Scene<'_>, strategy: Strategy) {
    scene.canary()["bake"] = BAKE.into();
    let metrics = scene.canary()["analysis"]["metrics"].as_array_mut().expect("metrics");
    metrics.retain(|metric| metric["source"] == "pods");
    let mut in_one = |name: &str, weights: Option<&str>| {
        let mut settings = scene.canary().take();
        let all = settings.as_object_mut().and_then(|settings| settings.remove("weights")).expect("weights");
        if let Some(weights) = weights {
            settings[weights] = all;
        }
        scene.plan["phases"][0]["strategy"] = json!({name: settings});
        scene.plan["release"]["services"][0]["kind"] = "deployment".into();
    };
    match strategy {
        Strategy::InPlace => {}
        Strategy::Turns => scene.take_turns("1s").await,
        Strategy::Switch => {
            scene.canary()["weights"] = json!([100]);
            scene.take_turns("1s").await;
        }
        Strategy::Rolling => {
            in_one("rolling", Some("batches"));
            // One pod after the other, so that a batch is never begun by the one before it.
            let slowly = r#"{"spec": {"minReadySeconds": 3, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}"#;
            namespace.kubectl(&["patch", "deployment", "backend", "--patch", slowly]).await;
            namespace.kubectl(&["rollout", "status", "deployment/backend", "--timeout=60s"]).await;
        }
        Strategy::Recreate => in_one("recreate", None),
    }
    scene.grant().await;
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
        let (writes, reads, waiting) = (ledger.writes.len(), ledger.reads(), ledger.while_waiting.len());
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
