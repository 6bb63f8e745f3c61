//! The figures of a release, measured on the rig and printed; nothing is asserted.
//!
//! ```sh
//! cargo build --release --bin moodify && tests/run --exec target/debug/figures
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moodify_core::journal::MemoryJournal;
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, planfile};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use moodify_tests::{BoxError, wall_clock};

/// How often the breach is measured.
const BREACHES: usize = 5;

fn main() -> Result<(), BoxError> {
    simulated()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let Some(rig) = Rig::own().await else { return Ok(()) };
        for router in ["http-route", "replica-ratio"] {
            writes(rig, router).await?;
        }
        breaches(rig).await
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

/// The write requests of one release of one Deployment, by kind and user agent.
async fn writes(rig: &'static Rig, router: &str) -> Result<(), BoxError> {
    let namespace = rig.namespace("figures").await;
    let Some(scene) = Scene::new(&namespace, &[("backend", "v2")], router).await else { return Ok(()) };
    let begun = wall_clock();
    let finished = scene.release().await;
    finished.ended("completed");
    println!("\nrequests of a release of one Deployment by {router}, 10, 50, 100 %:");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut total = (0, 0);
    for entry in namespace.audit().into_iter().filter(|e| e.at >= begun && e.user_agent.starts_with("moodify/")) {
        if entry.is_write() {
            total.0 += 1;
        } else {
            total.1 += 1;
        }
        *counts.entry(format!("{:9} {:12} {}", entry.verb, entry.resource, entry.user_agent)).or_default() += 1;
    }
    for (what, count) in counts {
        println!("  {count:4}  {what}");
    }
    println!("  {} writes, {} reads", total.0, total.1);
    Ok(())
}

/// From the breach being visible in Prometheus to the write that sends all traffic back.
async fn breaches(rig: &'static Rig) -> Result<(), BoxError> {
    let mut seconds = Vec::new();
    for _ in 0..BREACHES {
        let namespace = rig.namespace("breach").await;
        let Some(seconds_of_one) = breach(&namespace).await? else { return Ok(()) };
        seconds.push(seconds_of_one);
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "\nbreach visible in Prometheus to traffic back, measured every second, none tolerated: n {}, min {:.2}, median {:.2}, max {:.2} s",
        seconds.len(),
        seconds[0],
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
    Ok(())
}

async fn breach(namespace: &Namespace) -> Result<Option<f64>, BoxError> {
    let Some(mut scene) = Scene::new(namespace, &[("backend", "v2-err12after25s")], "http-route").await else {
        return Ok(None);
    };
    scene.canary()["bake"] = "120s".into();
    scene.canary()["analysis"]["metrics"][0]["tolerance"] = 0.into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-10").await;
    let requests = |code: &str| {
        format!(
            "sum(rate(http_requests_total{{namespace=\"{}\",pod=~\"backend-canary-.*\"{code}}}[5s]))",
            namespace.name()
        )
    };
    let query = format!("{} / {}", requests(",code=\"500\""), requests(""));
    scene.prometheus.wait_for(&query, |ratio| ratio > 0.05).await;
    let seen = wall_clock();
    running.until("the way back", |e| e["event"] == "rollback-started").await;
    running.finish().await.ended("rolled-back");
    let back = namespace.audit().into_iter().filter(|e| e.resource == "httproutes" && e.verb == "patch").map(|e| e.at);
    let back = back.max().ok_or("no route was patched")?;
    let took = Duration::try_from(back.duration_since(seen)).unwrap_or_default();
    Ok(Some(took.as_secs_f64()))
}
