//! The figures of a release, measured on the rig and printed; nothing is asserted.
//!
//! ```sh
//! cargo build --release --bin moodify && tests/run --exec target/debug/figures [BREACHES [AT ONCE]]
//! ```
//!
//! Five breaches, one after the other, take about ten minutes; the 99th percentile needs a hundred.

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use moodify_core::journal::MemoryJournal;
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, planfile};
use moodify_tests::load::{Aim, Load, Protocol};
use moodify_tests::rig::{Namespace, PROMPT, Rig};
use moodify_tests::scene::Scene;
use moodify_tests::{BoxError, wall_clock};

/// How often the breach is measured, if nobody says it.
const BREACHES: usize = 5;

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let count = arguments.next().transpose()?.unwrap_or(BREACHES);
    let at_once = arguments.next().transpose()?.unwrap_or(1);
    simulated()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let Some(rig) = Rig::own().await else { return Ok(()) };
        for signal in [Signal::Readiness, Signal::Errors] {
            breaches(rig, signal, count, at_once).await?;
        }
        Ok(())
    })
}

/// How long the runbook's release takes on the virtual clock.
fn simulated() -> Result<(), BoxError> {
    let text = include_str!("../../../examples/plans/moodify-release.yaml");
    let plan = planfile::read(text, "moodify-release.yaml")?.0.expand();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let begun = Instant::now();
    let virtual_time = runtime.block_on(async {
        let world = Simulator::builder(&plan.targets())
            .scenario(Scenario::default())
            .starting_at("2026-11-24T15:30:00Z".parse()?)
            .build();
        let begun = tokio::time::Instant::now();
        let engine = Engine::new(Arc::new(MemoryJournal::new()), world.backends_for(&plan)).with_clock(world.clock());
        engine.run(&plan, "figures").await?;
        Ok::<_, BoxError>(begun.elapsed())
    })?;
    println!(
        "simulated release of {} minutes, two services: {:.0} ms",
        virtual_time.as_secs() / 60,
        begun.elapsed().as_secs_f64() * 1000.0
    );
    Ok(())
}

/// From the breach being visible to the write that sends all traffic back, and to the last request that went to the new
/// version all the same.
async fn breaches(rig: &'static Rig, signal: Signal, count: usize, at_once: usize) -> Result<(), BoxError> {
    let one = async |_| {
        let namespace = rig.namespace("breach").await.quiet();
        breach(&namespace, signal).await
    };
    let (mut written, mut followed) = (Vec::new(), Vec::new());
    let mut all = stream::iter(0..count).map(one).buffer_unordered(at_once.max(1));
    while let Some(measured) = all.next().await {
        let Some((write, last)) = measured? else { return Ok(()) };
        written.push(write);
        followed.push(last);
        eprintln!("{} of {count}: {write:.2} s in the API, {last:.2} s in the data plane", written.len());
    }
    println!("\nbreach visible in {}, measured every second, none tolerated:", signal.name());
    println!("  to all traffic back in the API:        {}", spread(written));
    println!("  to all traffic back in the data plane: {}", spread(followed));
    Ok(())
}

fn spread(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let (n, last) = (seconds.len(), seconds.len() - 1);
    let high = (n * 99).div_ceil(100) - 1;
    let [min, median, high, max] = [0, n / 2, high, last].map(|at| seconds[at]);
    format!("n {n}, min {min:.2}, median {median:.2}, 99th percentile {high:.2}, max {max:.2} s")
}

/// What tells that the new version is bad.
#[derive(Clone, Copy)]
enum Signal {
    /// Prometheus, which scrapes every second.
    Errors,
    /// The pods, which are watched.
    Readiness,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Errors => "Prometheus",
            Self::Readiness => "the state of the pods",
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Errors => "v2-err12after25s",
            Self::Readiness => "v2-unready100after25s",
        }
    }

    /// Waits until Prometheus shows it, and says since when; nothing of what only the API server was told.
    async fn shown(self, namespace: &Namespace, scene: &Scene<'_>) -> Option<Timestamp> {
        let Self::Errors = self else { return None };
        let requests = |code: &str| {
            let canary = format!("namespace=\"{}\",pod=~\"backend-canary-.*\"{code}", namespace.name());
            format!("sum(rate(http_requests_total{{{canary}}}[5s]))")
        };
        let query = format!("{} / {}", requests(",code=\"500\""), requests(""));
        scene.prometheus.wait_for(&query, |ratio| ratio > 0.05).await;
        Some(wall_clock())
    }
}

/// What the node said last of the pod of the canary before the traffic went back.
fn said(namespace: &Namespace, back: Timestamp) -> Result<Timestamp, BoxError> {
    let said = namespace.rig().audit().into_iter().filter(|entry| {
        entry.namespace == namespace.name()
            && entry.resource == "pods"
            && entry.subresource == "status"
            && entry.name.starts_with("backend-canary-")
            && entry.at <= back
    });
    said.map(|entry| entry.at).max().ok_or_else(|| "the node said nothing of the canary".into())
}

async fn breach(namespace: &Namespace, signal: Signal) -> Result<Option<(f64, f64)>, BoxError> {
    let Some(traefik) = namespace.traefik(PROMPT).await else { return Ok(None) };
    namespace.kubectl(&["create", "service", "clusterip", "admin", "--tcp=80"]).await;
    let Some(mut scene) = Scene::new(namespace, &[("backend", signal.tag())], "http-route").await else {
        return Ok(None);
    };
    traefik.serves("backend").await;
    let load = Load::start(&Aim::through(traefik.address(), "backend", Protocol::Http, 400));
    scene.canary()["bake"] = "120s".into();
    for metric in scene.canary()["analysis"]["metrics"].as_array_mut().into_iter().flatten() {
        metric["tolerance"] = 0.into();
    }
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let shown = signal.shown(namespace, &scene).await;
    running.until("the way back", |e| e["event"] == "rollback-started").await;
    running.finish().await.ended("rolled-back");
    let report = load.stop().await;
    let patches = namespace
        .audit()
        .into_iter()
        .filter(|e| e.resource == "httproutes" && e.verb == "patch" && e.user_agent.starts_with("moodify/"));
    let back = patches.map(|e| e.at).max().ok_or("no route was patched")?;
    let seen = shown.map_or_else(|| said(namespace, back), Ok)?;
    let last = report.last("v2").ok_or("the new version answered nothing")?;
    let after = |at: Timestamp| at.duration_since(seen).as_secs_f64();
    Ok(Some((after(back), after(last))))
}
