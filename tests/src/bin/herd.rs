//! Many releases at once of two services each, in one process with one client and one journal; prints what that takes.
//!
//! ```sh
//! tests/run --exec target/debug/herd 200
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use moodify_core::engine::Ending;
use moodify_core::journal::{FileJournal, Outcome};
use moodify_core::model::Plan;
use moodify_core::{Engine, planfile};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig, deployment};
use moodify_tests::routes::route;
use moodify_tests::{BoxError, wall_clock};
use serde_json::{Value, json};
use tokio::time::sleep;

/// The services of each release.
const SERVICES: [&str; 2] = ["backend", "frontend"];
/// How many objects are applied by one kubectl.
const BATCH: usize = 100;
/// How long old versions may take to be ready, each.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let count: usize = std::env::args().nth(1).map_or(Ok(200), |count| count.parse())?;
    let Some(rig) = Rig::own().await else { return Ok(ExitCode::FAILURE) };
    let namespace = rig.namespace("herd").await;
    prepare(&namespace, count).await?;
    let dir = tempfile::tempdir()?;
    let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await?;
    let engine = Engine::new(Arc::new(FileJournal::open(dir.path())?), kube.backends());
    let plans = (0..count).map(|number| plan(&namespace, number)).collect::<Result<Vec<Plan>, _>>()?;

    let (begun, from) = (Instant::now(), wall_clock());
    let endings = try_join_all(plans.iter().map(|plan| engine.run(plan, "herd"))).await?;
    let took = begun.elapsed();
    let completed = endings.iter().filter(|(_, ending)| matches!(ending, Ending::Ended(Outcome::Completed, _))).count();
    for (run, ending) in endings.iter().filter(|(_, e)| !matches!(e, Ending::Ended(Outcome::Completed, _))) {
        eprintln!("herd: {run}: {ending:?}");
    }
    let requests = namespace.audit();
    let ours = requests.iter().filter(|e| e.at >= from && e.user_agent.starts_with("moodify"));
    let (writes, reads): (Vec<_>, Vec<_>) = ours.partition(|entry| entry.is_write());
    println!(
        "{completed} of {count} releases of {} services at once: {:.0} s, at most {} MiB, {:.1} writes and {:.1} reads each",
        SERVICES.len(),
        took.as_secs_f64(),
        peak_memory()?,
        writes.len() as f64 / count as f64,
        reads.len() as f64 / count as f64,
    );
    Ok(if completed == count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name(number: usize, service: &str) -> String {
    format!("{service}-{number}")
}

/// The old version of every service of every release, with a Service and a route, one instance of each.
async fn prepare(namespace: &Namespace, count: usize) -> Result<(), BoxError> {
    let names = (0..count).flat_map(|number| SERVICES.map(|service| name(number, service)));
    let objects = names.flat_map(|name| {
        let image = "registry.test/any:v1";
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        [deployment(&name, image, 1), service, route("http-route", &name, &name)]
    });
    let objects: Vec<Value> = objects.collect();
    for batch in objects.chunks(BATCH) {
        namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": batch}).to_string()).await;
    }
    let wanted = count * SERVICES.len();
    let deadline = Instant::now() + PATIENCE * u32::try_from(wanted)?;
    let deployments = namespace.api::<Deployment>().await;
    loop {
        let all = deployments.list(&ListParams::default()).await?;
        let available = |d: &&Deployment| d.status.as_ref().is_some_and(|status| status.available_replicas == Some(1));
        let ready = all.iter().filter(available).count();
        if ready == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("only {ready} of {wanted} old versions are ready").into());
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Half of the traffic, then all of it, each watched for half a minute by what the pods say.
fn plan(namespace: &Namespace, number: usize) -> Result<Plan, BoxError> {
    let services = SERVICES.map(|service| {
        let name = name(number, service);
        let traffic = json!({"router": "http-route", "service": name, "route": name});
        json!({"name": name, "workload": name, "image": "registry.test/any:v2", "traffic": traffic})
    });
    let metrics = json!([{"name": "crash-loop", "source": "pods", "fail": "> 0"}]);
    let canary = json!({"weights": [50, 100], "bake": "30s", "analysis": {"metrics": metrics}});
    let plan = json!({
        "name": format!("release-{number}"),
        "environment": {"name": "production", "kind": "production", "namespace": namespace.name()},
        "release": {"version": "v2", "services": services},
        "phases": [{"name": "rollout", "strategy": {"canary": canary}}],
    });
    Ok(planfile::read(&plan.to_string(), "herd.json")?.0.expand())
}

/// The most memory that this process ever had, in MiB.
fn peak_memory() -> Result<u64, BoxError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}
