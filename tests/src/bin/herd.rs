//! Many releases at once, in one process with one client and one journal; prints what that takes.
//!
//! ```sh
//! tests/run --exec target/debug/herd [RELEASES [SERVICES OF EACH]]
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use moodify_core::engine::Ending;
use moodify_core::journal::{FileJournal, Outcome};
use moodify_core::model::Plan;
use moodify_core::{Engine, planfile};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::node::LOAD;
use moodify_tests::rig::{Namespace, Rig, deployment};
use moodify_tests::routes::route;
use moodify_tests::{BoxError, wall_clock};
use serde_json::{Value, json};
use tokio::time::sleep;

/// The services of each release, if all take part.
const SERVICES: [&str; 2] = ["backend", "frontend"];
/// How many objects are applied by one kubectl.
const BATCH: usize = 100;
/// How long old versions may take to be ready, each.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let number = |nth: usize, default: usize| std::env::args().nth(nth).map_or(Ok(default), |text| text.parse());
    let (count, each) = (number(1, 200)?, number(2, SERVICES.len())?);
    let services =
        SERVICES.get(..each).filter(|services| !services.is_empty()).ok_or("a release has 1 or 2 services")?;
    let Some(rig) = Rig::own().await else { return Ok(ExitCode::FAILURE) };
    let namespace = rig.namespace("herd").await;
    prepare(&namespace, services, count).await?;
    eprintln!("herd: {} old versions are ready", count * each);
    let dir = tempfile::tempdir()?;
    let kube = Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"))).await?;
    let engine = Engine::new(Arc::new(FileJournal::open(dir.path())?), kube.backends());
    let plans = (0..count).map(|number| plan(&namespace, services, number)).collect::<Result<Vec<Plan>, _>>()?;

    let (begun, from) = (Instant::now(), wall_clock());
    let ended = AtomicUsize::new(0);
    let one = async |plan| {
        let ending = engine.run(plan, "herd").await;
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of(50) {
            eprintln!("herd: {ended} of {count} have ended after {:.0} s", begun.elapsed().as_secs_f64());
        }
        ending
    };
    let endings = try_join_all(plans.iter().map(one)).await?;
    let took = begun.elapsed();
    let completed = endings.iter().filter(|(_, ending)| matches!(ending, Ending::Ended(Outcome::Completed, _))).count();
    for (run, ending) in endings.iter().filter(|(_, e)| !matches!(e, Ending::Ended(Outcome::Completed, _))) {
        eprintln!("herd: {run}: {ending:?}");
    }
    let requests = namespace.audit();
    let ours = requests.iter().filter(|e| e.at >= from && e.user_agent.starts_with("moodify"));
    let (writes, reads): (Vec<_>, Vec<_>) = ours.partition(|entry| entry.is_write());
    println!(
        "{completed} of {count} releases of {each} services at once: {:.0} s, {:.0} s of one core, at most {} MiB, \
         {:.1} writes and {:.1} reads each",
        took.as_secs_f64(),
        cpu_seconds()?,
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
async fn prepare(namespace: &Namespace, services: &[&str], count: usize) -> Result<(), BoxError> {
    let names = (0..count).flat_map(|number| services.iter().map(move |service| name(number, service)));
    let objects = names.flat_map(|name| {
        let image = "registry.test/any:v1";
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        let mut workload = deployment(&name, image, 1);
        // What is watched needs no requests, and a thousand pods have two cores: asked every second, as the rig's pods
        // are, they answer late, are not ready, and report that to the API server again and again.
        let template = &mut workload["spec"]["template"];
        template["metadata"]["annotations"] = json!({LOAD: "0"});
        let probe = &mut template["spec"]["containers"][0]["readinessProbe"];
        (probe["periodSeconds"], probe["timeoutSeconds"]) = (json!(30), json!(10));
        [workload, service, route("http-route", &name, &name)]
    });
    let objects: Vec<Value> = objects.collect();
    for batch in objects.chunks(BATCH) {
        namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": batch}).to_string()).await;
    }
    let wanted = count * services.len();
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
fn plan(namespace: &Namespace, services: &[&str], number: usize) -> Result<Plan, BoxError> {
    let services = services.iter().map(|service| {
        let name = name(number, service);
        let traffic = json!({"router": "http-route", "service": name, "route": name});
        json!({"name": name, "workload": name, "image": "registry.test/any:v2", "traffic": traffic})
    });
    let services: Vec<Value> = services.collect();
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

/// The time of a processor that this process has had, in seconds.
fn cpu_seconds() -> Result<f64, BoxError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which may have spaces in it: the 12th and 13th, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(ticks.sum::<Result<u32, _>>().map(f64::from)? / 100.0)
}
