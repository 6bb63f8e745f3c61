//! What the engine costs: a step without the disk, and many runs that wait. `cargo bench -p moodify-core --bench engine`;
//! `MOODIFY_BENCH_RUNS` says how many runs wait (100,000 by default), `MOODIFY_BENCH_DIR` where their journal is.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on shall stop")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use moodify_core::action::{Action, Observed, Registry, StepContext, kinds};
use moodify_core::backend::{
    CanarySpec, Change, Deployer, DeployerCapabilities, Diagnostics, Granularity, ImageChange, LogRequest, Measurement,
    MetricQuery, MetricSource, Pods, Remedy, Replicas, RouterCapabilities, Scale, Traffic, TrafficRouter, Verification,
    WeightChange, Workload,
};
use moodify_core::engine::EngineOptions;
use moodify_core::journal::{FileJournal, JournalStore, MemoryJournal};
use moodify_core::model::{
    Color, ConfigRefs, Environment, Phase, Plan, Release, RetryPolicy, Routing, RunId, Service, Step, Target, Track,
    Weight, WorkloadKind,
};
use moodify_core::{Backends, CallContext, Engine, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A step that does nothing: what is left is the engine's.
#[derive(Debug)]
struct Nothing;

#[derive(Debug, Deserialize, JsonSchema)]
struct NoParams {}

#[async_trait]
impl Action for Nothing {
    type Params = NoParams;
    type Output = ();

    async fn execute(&self, _: &StepContext, _: &NoParams) -> Result<()> {
        Ok(())
    }

    async fn observe(&self, _: &StepContext, _: &NoParams) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &NoParams, _: Option<&()>) -> Result<()> {
        Ok(())
    }
}

/// A cluster in which all is well and nothing happens.
#[derive(Debug)]
struct Quiet;

fn workload(target: &Target, track: Track) -> Workload {
    let count = if track == Track::Canary { 1 } else { 10 };
    Workload {
        name: format!("{}-{track}", target.service.workload),
        image: "registry.example/app:v1".parse().unwrap(),
        config: ConfigRefs::new(),
        replicas: Replicas { desired: count, total: count, updated: count, ready: count, available: count },
        generation: 1,
        observed: true,
        stalled: None,
    }
}

fn traffic(weight: Weight) -> Traffic {
    Traffic { weight, share: weight.fraction(), verification: Verification::Verified, edited_by: None }
}

fn ten() -> Weight {
    Weight::new(10).unwrap()
}

fn now_and_never_again<T: Send + 'static>(item: T) -> BoxStream<'static, Result<T>> {
    stream::once(async { Ok(item) }).chain(stream::pending()).boxed()
}

#[async_trait]
impl Deployer for Quiet {
    fn capabilities(&self) -> DeployerCapabilities {
        DeployerCapabilities::new(&["Deployment"], false)
    }

    async fn observe(&self, _: &CallContext, target: &Target, track: Track) -> Result<Option<Workload>> {
        Ok((track == Track::Stable).then(|| workload(target, track)))
    }

    async fn watch(
        &self,
        _: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Option<Workload>>>> {
        Ok(now_and_never_again(Some(workload(target, track))))
    }

    async fn deploy(&self, _: &CallContext, target: &Target, _: &CanarySpec) -> Result<Workload> {
        Ok(workload(target, Track::Canary))
    }

    async fn scale(&self, _: &CallContext, target: &Target, track: Track, _: Scale) -> Result<Workload> {
        Ok(workload(target, track))
    }

    async fn set_image(&self, _: &CallContext, target: &Target, _: &ImageChange) -> Result<Workload> {
        Ok(workload(target, Track::Stable))
    }

    async fn serving(&self, _: &CallContext, _: &Target) -> Result<Color> {
        Ok(Color::Blue)
    }

    async fn hand_over(&self, _: &CallContext, _: &Target, _: Track) -> Result<()> {
        Ok(())
    }

    async fn leave(&self, _: &CallContext, _: &Target) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &CallContext, _: &Target) -> Result<()> {
        Ok(())
    }

    async fn preview(&self, _: &CallContext, _: &Target, _: &CanarySpec) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    fn by_hand(&self, _: &Target, _: &Remedy) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl TrafficRouter for Quiet {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Percent, true)
    }

    async fn read(&self, _: &CallContext, _: &Target) -> Result<Traffic> {
        Ok(traffic(Weight::ZERO))
    }

    async fn watch(&self, _: &CallContext, _: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        Ok(now_and_never_again(traffic(ten())))
    }

    async fn set(&self, _: &CallContext, _: &Target, change: WeightChange) -> Result<Traffic> {
        Ok(traffic(change.to))
    }

    async fn reset(&self, _: &CallContext, _: &Target, _: u32) -> Result<Traffic> {
        Ok(traffic(Weight::ZERO))
    }

    fn by_hand(&self, _: &Target, _: u32) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl Diagnostics for Quiet {
    async fn pods(&self, _: &CallContext, _: &Target, _: Track) -> Result<Pods> {
        Ok(Vec::new())
    }

    async fn watch_pods(&self, _: &CallContext, _: &Target, _: Track) -> Result<BoxStream<'static, Result<Pods>>> {
        Ok(now_and_never_again(Vec::new()))
    }

    async fn warnings(&self, _: &CallContext, _: &Target, _: Track) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn logs(&self, _: &CallContext, _: &Target, _: Track, _: &LogRequest) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl MetricSource for Quiet {
    fn check(&self, _: &MetricQuery) -> Result<()> {
        Ok(())
    }

    async fn query(&self, _: &CallContext, _: &MetricQuery) -> Result<Measurement> {
        Ok(Measurement { value: Some(0.001), at: Timestamp::UNIX_EPOCH })
    }
}

fn backends() -> Backends {
    let quiet = Arc::new(Quiet);
    let mut backends = Backends::default();
    backends.deployer = Some(quiet.clone());
    backends.diagnostics = Some(quiet.clone());
    backends.routers.insert("quiet".to_owned(), quiet.clone());
    backends.metrics.insert("prometheus".to_owned(), quiet);
    backends
}

fn plan(version: usize, steps: Vec<Step>) -> Plan {
    let routing = Routing::new("quiet", "app", Some("app"));
    let service = Service {
        name: "app".into(),
        workload: "app-deployment".into(),
        kind: WorkloadKind::Deployment,
        container: None,
        image: format!("registry.example/app:v{}", version + 2).parse().unwrap(),
        traffic: routing,
        config: Vec::new(),
    };
    let environment: Environment =
        serde_json::from_value(json!({"name": "production", "kind": "production", "namespace": "production"})).unwrap();
    let release = Release { version: format!("v{}", version + 2), services: vec![service] };
    let phases = vec![Phase { name: "release".into(), parallel: false, steps }].into();
    Plan { name: "bench".into(), environment, release, phases, backends: Default::default() }
}

fn step(name: String, action: &str, with: serde_json::Value) -> Step {
    Step { name, action: action.into(), with, deadline: None, retry: RetryPolicy::default() }
}

/// Microseconds a step, with the journal in memory.
async fn step_cost(steps: usize) -> f64 {
    let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
    let registry = Registry::with_builtins().register("nothing", Nothing);
    let engine = Engine::new(journal, backends()).with_registry(registry);
    let plan = plan(0, (0..steps).map(|n| step(format!("step-{n}"), "nothing", json!({}))).collect());
    let rounds = 20;
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let run = engine.create(&plan, "bench").await.unwrap();
        let begun = Instant::now();
        engine.drive(&run, &CancellationToken::new()).await.unwrap();
        spent += begun.elapsed();
    }
    spent.as_secs_f64() * 1e6 / f64::from(rounds) / steps as f64
}

/// Kilobytes of memory in use.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Seconds of processor time used so far.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// An engine of a new process, as far as the journal can tell.
fn engine(dir: &PathBuf, owner: &str) -> Engine {
    let mut options = EngineOptions::default();
    options.owner = owner.to_owned();
    options.lease = Duration::from_secs(60);
    Engine::new(Arc::new(FileJournal::open(dir).unwrap()), backends()).with_options(options)
}

/// Drives all runs, and returns when every one bakes.
async fn drive_all(engine: &Engine, runs: &[RunId]) -> (Vec<tokio::task::JoinHandle<()>>, Duration) {
    let begun = Instant::now();
    let baking = Arc::new(tokio::sync::Semaphore::new(0));
    let shared = Arc::new((engine.clone(), CancellationToken::new()));
    let tasks = runs.iter().map(|run| {
        let (shared, run, baking) = (shared.clone(), run.clone(), baking.clone());
        tokio::spawn(async move {
            let (engine, stop) = &*shared;
            let drive = engine.drive(&run, stop);
            tokio::pin!(drive);
            // It bakes when it has come to rest.
            let first = Box::pin(tokio::time::timeout(Duration::from_millis(1), &mut drive)).await;
            baking.add_permits(1);
            if first.is_err() {
                drive.await.unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let _ = baking.acquire_many(u32::try_from(runs.len()).unwrap()).await.unwrap();
    let bakes = async |run: &RunId| {
        let state = engine.state(run).await.unwrap();
        state
            .steps
            .get("bake")
            .is_some_and(|bake| state.owner.as_deref() == Some(&*owner_of(engine)) && bake.attempts > 0)
    };
    while !bakes(runs.last().unwrap()).await || !bakes(&runs[0]).await || !bakes(&runs[runs.len() / 2]).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (tasks, begun.elapsed())
}

fn owner_of(engine: &Engine) -> String {
    engine.options().owner.clone()
}

async fn waiting(runs: usize) {
    let target =
        std::env::var_os("MOODIFY_BENCH_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(target).unwrap();
    let dir = dir.path().join("journal");
    let bake = json!({"weight": 10, "period": "6h", "analysis": {"interval": "1m", "metrics": [
        {"name": "error-rate", "source": "prometheus", "fail": "> 5%"},
        {"name": "crash-loop", "source": "pods", "fail": "> 0"},
    ]}});
    let steps = || {
        vec![
            step("baseline".into(), kinds::BASELINE, json!({})),
            step("deploy".into(), kinds::DEPLOY_CANARY, json!({"weight": 10})),
            step("bake".into(), kinds::BAKE, bake.clone()),
        ]
    };
    let first = engine(&dir, "first");
    let before = memory();
    let begun = Instant::now();
    let mut ids = Vec::new();
    for chunk in (0..runs).collect::<Vec<_>>().chunks(1000) {
        let made = chunk.iter().map(|n| {
            let (engine, plan) = (first.clone(), plan(*n, steps()));
            tokio::spawn(async move { engine.create(&plan, "bench").await.unwrap() })
        });
        for run in made.collect::<Vec<_>>() {
            ids.push(run.await.unwrap());
        }
    }
    println!("{runs} runs created in {:.1} s", begun.elapsed().as_secs_f64());
    let (tasks, took) = drive_all(&first, &ids).await;
    println!("all of them bake after {:.1} s", took.as_secs_f64());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (used, watched) = (processor(), Duration::from_secs(60));
    tokio::time::sleep(watched).await;
    let used = (processor() - used) / watched.as_secs_f64() * 100.0;
    let kilobytes = memory().saturating_sub(before);
    println!(
        "waiting: {:.0} MiB in all, {:.1} KiB a run; {used:.1} % of one processor",
        kilobytes as f64 / 1024.0,
        kilobytes as f64 / runs as f64
    );
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        let _ = task.await;
    }
    drop(first);
    let second = engine(&dir, "second");
    let (_tasks, took) = drive_all(&second, &ids).await;
    println!("after a restart all of them bake again after {:.1} s", took.as_secs_f64());
    std::process::exit(0);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for steps in [10, 100] {
            let cost = step_cost(steps).await;
            println!("a step of a plan of {steps}, without the disk: {cost:.1} us (goal: below 50)");
        }
        let runs = std::env::var("MOODIFY_BENCH_RUNS").ok().map_or(100_000, |n| n.parse().unwrap());
        waiting(runs).await;
    });
}
