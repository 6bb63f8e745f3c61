//! The smallest program with moodify in it: a plan built in Rust, and a release that goes back by itself.
//!
//! It runs in the simulator, on tokio's paused clock, so that 45 minutes take no time. A real program gives the engine
//! real backends (`Kube::connect(..).await?.backends()`) and a `FileJournal`.

use std::collections::BTreeMap;
use std::sync::Arc;

use moodify_core::event::{EventKind, Signal};
use moodify_core::journal::MemoryJournal;
use moodify_core::model::{Environment, EnvironmentKind, Release, Routing, Service, WorkloadKind};
use moodify_core::strategy::Canary;
use moodify_core::testing::{Behaviour, Scenario, Simulator};
use moodify_core::{Engine, Plan, Result};

fn plan() -> Plan {
    let image = "registry.example/moodify/backend:v1.2.3".parse().expect("an image in source code can be read");
    let backend = Service {
        name: "backend".to_owned(),
        workload: "backend-deployment".to_owned(),
        kind: WorkloadKind::Deployment,
        container: None,
        image,
        traffic: Routing::new("replica-ratio", "backend-service", None),
        config: Vec::new(),
    };
    Plan {
        name: "weekly release".to_owned(),
        environment: Environment {
            name: "production".to_owned(),
            kind: EnvironmentKind::Production,
            namespace: "moodify-production".to_owned(),
            gates: Vec::new(),
            backups: Vec::new(),
            audiences: BTreeMap::new(),
        },
        release: Release { version: "v1.2.3".to_owned(), services: vec![backend] },
        phases: Canary::default().phases("rollout").into(),
        backends: BTreeMap::new(),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let plan = plan();
    // The new version answers 12 % of requests with an error as soon as it has half of the traffic.
    let scenario = Scenario::default().canary(Behaviour::error_rate(0.12).from_weight(50));
    let simulator = Simulator::for_plan(&plan, scenario);
    let journal = Arc::new(MemoryJournal::new());
    let engine = Engine::new(journal, simulator.backends_for(&plan)).with_clock(simulator.clock());

    let mut audience = engine.subscribe();
    let (run, ending) = engine.run(&plan, "ana").await?;
    drop(engine);
    while let Some(signal) = audience.next().await {
        if let Signal::Event(event) = signal {
            match event.kind {
                EventKind::StepFinished { step, .. } => println!("{}  {step} is done", event.time),
                EventKind::UndoFinished { step } => println!("{}  {step} is taken back", event.time),
                EventKind::RunEnded { outcome, summary } => println!("{}  {outcome}: {summary}", event.time),
                _ => {}
            }
        }
    }
    println!("{run}: {ending:?}");
    Ok(())
}
