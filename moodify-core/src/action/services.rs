use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Baseline, Baselines, CheckContext, StepContext, kinds};
use crate::backend::{Deployer, DeployerExt, Granularity, TrafficRouter, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::event::ProgressKind;
use crate::model::{Layout, Plan, Service, Target, Track, Weight};
use crate::strategy::split;

/// Which services of the release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Services {
    /// By name; left out, all of them, in lockstep.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// By service.
pub(super) type ByService<T> = BTreeMap<String, T>;

impl Services {
    pub(super) fn targets(&self, cx: &StepContext) -> Result<Vec<Target>> {
        select(&self.services, cx)
    }
}

/// The targets of these services as the plan has them; all of them for none.
pub(super) fn planned(services: &[String], plan: &Plan) -> Result<Vec<Target>> {
    Ok(chosen(services, plan)?.into_iter().map(|service| plan.target(service)).collect())
}

/// The same as they are in this run.
pub(super) fn select(services: &[String], cx: &StepContext) -> Result<Vec<Target>> {
    Ok(chosen(services, cx.plan())?.into_iter().map(|service| target(cx, service)).collect())
}

/// A service as it is in this run: which of two workloads serves is what the baseline found.
pub(super) fn target(cx: &StepContext, service: &Service) -> Target {
    let mut target = cx.plan().target(service);
    if let Layout::Colors(_) = target.layout
        && let Some(serving) = baseline(cx, &target).ok().and_then(|before| before.serving)
    {
        target.layout = Layout::Colors(serving);
    }
    target
}

/// These services of the release; all of them for none.
pub(super) fn chosen<'a>(services: &[String], plan: &'a Plan) -> Result<Vec<&'a Service>> {
    for name in services {
        if plan.release.service(name).is_none() {
            let known: Vec<&str> = plan.release.services.iter().map(|s| s.name.as_str()).collect();
            let message = format!("the release has no service {name:?}; it has: {}", known.join(", "));
            return Err(Error::new(ErrorKind::Invalid, "engine", "find the services", message));
        }
    }
    let wanted = |service: &&Service| services.is_empty() || services.contains(&service.name);
    Ok(plan.release.services.iter().filter(wanted).collect())
}

/// What a check of a step on services finds: the services, their routers, the deployer.
pub(super) fn check(cx: &CheckContext<'_>, services: &[String]) -> std::result::Result<(), Vec<Error>> {
    let mut problems = Vec::new();
    match planned(services, cx.plan) {
        Ok(targets) => {
            for target in targets {
                problems
                    .extend(cx.backends.router(&target.service.traffic.router).err().map(|e| e.on(target.to_string())));
            }
        }
        Err(e) => problems.push(e),
    }
    problems.extend(cx.backends.deployer().err());
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

pub(super) fn baseline(cx: &StepContext, target: &Target) -> Result<Baseline> {
    let all: Baselines = cx.output_of_kind(kinds::BASELINE)?;
    all.get(&target.service.name).cloned().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "engine", "read the baseline", "this service has none").on(target.to_string())
    })
}

/// How many canaries carry `weight` of what `capacity` stable instances carried.
pub(super) fn canaries(router: &dyn TrafficRouter, capacity: u32, weight: Weight) -> u32 {
    match router.capabilities().granularity {
        Granularity::Instances => split(capacity, weight).canary,
        Granularity::Percent | Granularity::Whole => (capacity * u32::from(weight.percent())).div_ceil(100).max(1),
    }
}

/// What a person types for each of these services.
pub(super) fn by_hand(
    cx: &StepContext,
    services: &[String],
    commands: impl Fn(&dyn Deployer, &Target) -> Vec<String>,
) -> Vec<String> {
    let targets = select(services, cx).unwrap_or_default();
    let deployer = cx.backends().deployer();
    deployer.map(|d| targets.iter().flat_map(|t| commands(d.as_ref(), t)).collect()).unwrap_or_default()
}

/// Waits until `replicas` instances of a track are available, showing how far they are.
pub(super) async fn wait_available(cx: &StepContext, target: &Target, track: Track, replicas: u32) -> Result<Workload> {
    wait_until(cx, target, track, &move |w| w.has_available(replicas)).await
}

/// Waits until a track is as it shall be, showing how far it is.
pub(super) async fn wait_until(
    cx: &StepContext,
    target: &Target,
    track: Track,
    done: &(dyn for<'a> Fn(&'a Workload) -> bool + Send + Sync),
) -> Result<Workload> {
    let seen = |w: &Workload| {
        cx.progress(ProgressKind::Workload {
            service: target.service.name.clone(),
            track,
            available: w.replicas.available,
            desired: w.replicas.desired,
        });
    };
    let deployer = cx.backends().deployer()?;
    match deployer.wait(&cx.call()?, target, track, done, &seen).await {
        Ok(workload) => Ok(workload),
        Err(e) => Err(explain(cx, target, track, e).await),
    }
}

/// Adds to an error what the pods say, and ends the retries: the deadline has passed.
pub(super) async fn explain(cx: &StepContext, target: &Target, track: Track, error: Error) -> Error {
    if !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unhealthy) {
        return error;
    }
    let mut reasons = Vec::new();
    if let (Ok(diagnostics), Ok(call)) = (cx.backends().diagnostics(), cx.last_call()) {
        let pods = diagnostics.pods(&call, target, track).await.unwrap_or_default();
        reasons.extend(pods.iter().filter(|p| !p.ready).take(5).map(ToString::to_string));
        if reasons.is_empty() {
            // Pods that could not even be made: a quota, an admission.
            let warnings = diagnostics.warnings(&call, target, track).await.unwrap_or_default();
            reasons.extend(warnings.into_iter().rev().take(2));
        }
    }
    let message = match reasons.as_slice() {
        [] => error.message().to_owned(),
        reasons => format!("{}; {}", error.message(), reasons.join("; ")),
    };
    Error::new(ErrorKind::Unhealthy, "engine", "wait for the new version", message)
        .on(format!("{target} ({track})"))
        .with_source(error)
}

/// Runs one future a service at once; every one is driven to its end, the first error wins.
pub(super) async fn each<T, F>(targets: &[Target], work: impl Fn(Target) -> F) -> Result<ByService<T>>
where
    F: Future<Output = Result<T>>,
{
    let named = |target: &Target| {
        let (name, future) = (target.service.name.clone(), work(target.clone()));
        async move { Ok((name, future.await?)) }
    };
    let results = StepContext::all(targets.iter().map(named)).await?;
    Ok(results.into_iter().collect())
}
