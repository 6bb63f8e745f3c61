use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::Engine;
use super::undo::{step, there};
use crate::action::{BaselineParams, Services, kinds};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Color, Layout, Phase, Plan, Service, Target, Track, Weight};

/// The longest that looking at what serves may take.
const LOOK: Duration = Duration::from_secs(60);

fn refuse(plan: &Plan, message: &str) -> Error {
    Error::new(ErrorKind::Invalid, "engine", "leave", message).on(plan.name.as_str())
}

/// A service as it serves now, and which of its two workloads does.
async fn serving(engine: &Engine, cx: &CallContext, target: Target) -> Result<(Service, Color)> {
    let deployer = engine.backends.deployer()?;
    let color = deployer.serving(cx, &target).await?;
    let target = target.with_layout(Layout::Colors(color));
    let workload = deployer.observe(cx, &target, Track::Stable).await?.ok_or_else(|| {
        let message = "the workload that serves is not there any more";
        Error::new(ErrorKind::NotFound, "engine", "leave", message).on(target.to_string())
    })?;
    let Service { config, .. } = &target.service;
    let config = config.iter().map(|config| there(config, &workload.config)).collect();
    Ok((Service { image: workload.image, config, ..target.service }, color))
}

/// The plan with which what takes turns in a plan becomes one plain workload again: what serves is brought to the one that
/// the plan names, without a failed request, and the other one goes.
pub(super) async fn plan(engine: &Engine, plan: &Plan, reason: &str) -> Result<Plan> {
    let cx = CallContext::by_hand("leave", LOOK);
    let turns = plan.targets().into_iter().filter(|target| matches!(target.layout, Layout::Colors(_)));
    let looked = futures::future::try_join_all(turns.map(|target| serving(engine, &cx, target))).await?;
    if looked.is_empty() {
        let message = "none of its services has two workloads that take turns: what moodify released is plain already";
        return Err(refuse(plan, message));
    }
    let moved: Vec<String> =
        looked.iter().filter(|(_, color)| *color == Color::Green).map(|(service, _)| service.name.clone()).collect();
    let expect: BTreeMap<_, _> = looked.iter().map(|(s, _)| (s.name.clone(), s.image.clone())).collect();
    let baseline = BaselineParams { services: Vec::new(), expect };
    let mut steps = vec![step("leave-baseline", kinds::BASELINE, json!(baseline))];
    // What a run left behind that nobody could take back.
    let mirrored: Vec<&String> = looked
        .iter()
        .filter(|(service, _)| engine.backends.mirror(&service.traffic.router).is_ok())
        .map(|(service, _)| &service.name)
        .collect();
    if !mirrored.is_empty() {
        steps.push(step("leave-stop-mirror", kinds::STOP_MIRROR, json!({"services": mirrored})));
    }
    if !moved.is_empty() {
        let services = json!(Services { services: moved.clone() });
        let deploy = json!({"weight": Weight::FULL, "plain": true, "services": moved});
        steps.push(step("leave-deploy", kinds::DEPLOY_CANARY, deploy));
        steps.push(step("leave-hand-over", kinds::HAND_OVER, services.clone()));
        steps.push(step("leave-retire", kinds::RETIRE_OLD, services));
    }
    steps.push(step("leave", kinds::LEAVE, json!({})));
    let mut release = plan.release.clone();
    release.services = looked.into_iter().map(|(service, _)| service).collect();
    let mut environment = plan.environment.clone();
    // No version changes, and no data.
    environment.backups = Vec::new();
    let name = match reason {
        "" => format!("leave: {}", plan.name),
        reason => format!("leave: {}: {reason}", plan.name),
    };
    let phases = vec![Phase { name: "leave".to_owned(), parallel: false, steps }].into();
    Ok(Plan { name, environment, release, phases, backends: plan.backends.clone() })
}
