//! `check`: what is wrong with a plan, and what it would change.

use moodify_core::action::{ShiftParams, kinds};
use moodify_core::backend::{Backends, CanarySpec, Granularity, Verification};
use moodify_core::model::{Layout, Plan, Target, Track, Weight};
use moodify_core::strategy::{batch, split};
use moodify_core::{CallContext, Result};
use moodify_k8s::HeadRoom;
use serde::Deserialize;

use crate::args::Check;
use crate::backends::{self, Settings};
use crate::exit::{Exit, Stop};
use crate::plan::Loaded;
use crate::preflight::check_context;
use crate::show::{phase_name, say, step_words};
use crate::{runtime, simulate};

pub(crate) fn check(args: &Check) -> Result<Exit, Stop> {
    let loaded = Loaded::read(&args.plan)?;
    let settings = Settings::read(&loaded.source)?;
    if args.simulate {
        let runtime = simulate::runtime().map_err(|e| Stop::refused(format!("the runtime cannot start: {e}")))?;
        return runtime.block_on(async {
            let (all, _) = simulate::world(&loaded.plan, &crate::args::Simulation::default())?;
            loaded.check(&all).await?;
            outline(&loaded.plan);
            changes(&loaded.plan, &all, "in a simulated world").await
        });
    }
    runtime()?.block_on(async {
        if args.offline {
            let all = settings.offline().map_err(|errors| backends::placed(&loaded.source, errors))?;
            loaded.check_offline(&all)?;
            outline(&loaded.plan);
            say("\nThe file is sound. Whether the cluster can do it was not asked.");
            return Ok(Exit::Completed);
        }
        let opened = settings.open().await.map_err(|errors| backends::placed(&loaded.source, errors))?;
        loaded.check(&opened.backends).await?;
        opened.preflight(&loaded.plan).await?;
        outline(&loaded.plan);
        let place = format!("in {} ({})", loaded.plan.environment.namespace, opened.kube.server());
        let exit = changes(&loaded.plan, &opened.backends, &place).await?;
        let room = opened.kube.head_room_of_plan(&check_context(), &loaded.plan).await;
        if room != HeadRoom::Enough {
            say(&format!("\nNote: {room}."));
        }
        Ok(exit)
    })
}

/// The phases and steps, strategies expanded.
fn outline(plan: &Plan) {
    say(&format!(
        "{}: {} to {} ({})",
        plan.name, plan.release.version, plan.environment.name, plan.environment.namespace
    ));
    let width = plan.steps().map(|(_, step)| step.name.chars().count()).max().unwrap_or_default();
    for phase in &plan.phases {
        say(&format!("\n{}", phase_name(&phase.name, phase.parallel)));
        for step in &phase.steps {
            say(&format!("  {:width$}  {}", step.name, step_words(step)));
        }
    }
}

/// What would change, in order. Only reads and dry runs.
async fn changes(plan: &Plan, all: &Backends, place: &str) -> Result<Exit, Stop> {
    let cx = check_context();
    let weights = weights(plan);
    let mut lines = Vec::new();
    let stops = plan.steps().any(|(_, step)| step.action == kinds::STOP);
    if weights.is_empty() && !stops {
        say("\nNo step of this plan moves traffic.");
        return Ok(Exit::Completed);
    }
    for target in plan.targets() {
        lines.extend(service_changes(&cx, plan, all, &target, &weights).await?);
    }
    say(&format!("\nWhat would change {place}; nothing was changed:"));
    lines.iter().for_each(|line| say(&format!("  {line}")));
    Ok(Exit::Completed)
}

/// What would change in a workload that gets the new version batch by batch.
async fn batches(
    cx: &CallContext,
    plan: &Plan,
    all: &Backends,
    target: &Target,
    weights: &[Weight],
    capacity: u32,
) -> Result<Vec<String>, Stop> {
    let kind = target.service.kind;
    if weights.is_empty() {
        let image = &target.service.image;
        return Ok(vec![format!(
            "{target}: the {kind} is stopped, then starts with {image} and its {capacity} instances; nobody is served in between"
        )]);
    }
    let sizes: Option<Vec<(Weight, u32)>> = weights.iter().map(|w| Some((*w, batch(capacity, *w)?))).collect();
    let Some(sizes) = sizes else {
        let message = format!("{target}: {capacity} instance cannot be released in batches; write `batches: [100]`");
        return Err(Stop::refused(message));
    };
    let first = sizes[0].1;
    let spec = CanarySpec::new(target.service.image.clone(), &plan.release.version, first, true);
    let preview = all.deployer()?.preview(cx, target, &spec).await?;
    let mut lines: Vec<String> = preview.iter().map(|change| format!("{}: {}", change.object, change.what)).collect();
    lines.extend(
        sizes.iter().map(|(weight, size)| format!("{target}: {weight} becomes {size} of {capacity} instances")),
    );
    let single = all.deployer()?.capabilities().single;
    if single.iter().any(|single| single.kind == kind && !single.exact) {
        lines.push(format!("{target}: a {kind} may replace more at once, as its maxSurge and maxUnavailable allow"));
    }
    Ok(lines)
}

/// The weights that the plan goes through.
fn weights(plan: &Plan) -> Vec<Weight> {
    let moves = [kinds::SHIFT_TRAFFIC, kinds::ROLL_BATCH];
    let shifts = plan.steps().filter(|(_, step)| moves.contains(&step.action.as_str()));
    shifts.filter_map(|(_, step)| ShiftParams::deserialize(&step.with).ok()).map(|params| params.weight).collect()
}

/// How it is known that a weight is in force, if nobody says so of himself.
fn verification(target: &Target, verifies: bool, now: Verification) -> Option<String> {
    let traffic = &target.service.traffic;
    let object = format!("{} {}", traffic.router, traffic.route.as_deref().unwrap_or(&traffic.service));
    if let Some(plane) = &traffic.verify {
        let (url, header) = (&plane.url, &plane.version_header);
        return Some(format!("{object}: its weights are verified by requests to {url}, by {header} of the answers"));
    }
    let why = match (verifies, now) {
        (false, _) => "nothing reports what the data plane does",
        (true, Verification::CannotTell) => "no Gateway that we may read reports on it (`moodify rbac` has the rule)",
        _ => return None,
    };
    Some(format!("{object}: its weights cannot be verified: {why}; `verify` in the service's traffic would"))
}

async fn service_changes(
    cx: &CallContext,
    plan: &Plan,
    all: &Backends,
    target: &Target,
    weights: &[Weight],
) -> Result<Vec<String>, Stop> {
    let (deployer, traffic) = (all.deployer()?, &target.service.traffic);
    let router = all.router(&traffic.router)?;
    let Some(stable) = deployer.observe(cx, target, Track::Stable).await? else {
        return Err(Stop::refused(format!("{target}: there is no workload {:?}", target.service.workload)));
    };
    let capacity = stable.replicas.desired;
    if target.layout == Layout::Single {
        return batches(cx, plan, all, target, weights, capacity).await;
    }
    let by_instances = router.capabilities().granularity == Granularity::Instances;
    let first = weights[0];
    let replicas = if by_instances {
        split(capacity, first).canary
    } else {
        (capacity * u32::from(first.percent())).div_ceil(100).max(1)
    };
    let spec = CanarySpec::new(target.service.image.clone(), &plan.release.version, replicas, by_instances);
    let preview = deployer.preview(cx, target, &spec).await?;
    let mut lines: Vec<String> = preview.iter().map(|change| format!("{}: {}", change.object, change.what)).collect();
    if by_instances {
        lines.extend(weights.iter().map(|weight| {
            let split = split(capacity, *weight);
            let (share, total) = (split.share() * 100.0, split.stable + split.canary);
            format!("{target}: {weight} becomes {share:.0} %: {} of {total} pods", split.canary)
        }));
    } else {
        let steps: Vec<String> = weights.iter().map(ToString::to_string).collect();
        let route = traffic.route.as_deref().unwrap_or(&traffic.service);
        lines.push(format!("{} {route}: the new version's weight goes 0 %, {}", traffic.router, steps.join(", ")));
        let now = router.read(cx, target).await?;
        lines.extend(verification(target, router.capabilities().verifies, now.verification));
    }
    Ok(lines)
}
