use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::action::{BaselineParams, Baselines, RestoredLive, kinds};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Outcome, RunState, StepStatus};
use crate::model::{ConfigRefs, ConfigVersion, ImageRef, Phase, Plan, RetryPolicy, Service, Step, Weight};
use crate::mutation::{self, Mutation};

/// The plan that takes a completed run back: what its baseline found is rolled out again.
pub(super) fn plan(state: &RunState, reason: &str) -> Result<Plan> {
    let refuse =
        |message: String| Error::new(ErrorKind::Invalid, "engine", "take the run back", message).on(state.run.as_str());
    match &state.ended {
        Some((Outcome::Completed, _)) => {}
        Some((outcome, _)) => return Err(refuse(format!("it did not complete: {outcome}"))),
        None => {
            return Err(refuse("it has not ended".to_owned()).hint("abort it: that takes back what it did so far"));
        }
    }
    let before = baselines(state);
    let services = if mutation::on(Mutation::TakeBackHalf) { 1 } else { usize::MAX };
    let old: Vec<Service> = state
        .plan
        .release
        .services
        .iter()
        .filter_map(|service| {
            let before = before.get(&service.name)?;
            let config = service.config.iter().map(|config| there(config, &before.config)).collect();
            Some(Service { image: before.image.clone(), config, ..service.clone() })
        })
        .take(services)
        .collect();
    if state.plan.steps().any(|(_, step)| step.action == kinds::SWITCH_CONNECTION) {
        let message = "the way back ended when it was confirmed that the application is well on the restored database";
        return Err(refuse(message.to_owned())
            .hint("point it to the old one, if that is still there, or restore another backup: a plan of its own"));
    }
    if let Some((_, step)) = state.plan.steps().find(|(_, step)| step.action == kinds::RESTORE_LIVE) {
        let message = "it restored a backup into the database itself, which nothing takes back by itself";
        let before = match state.status(&step.name) {
            StepStatus::Finished(output) => output.read::<RestoredLive>().ok().map(|done| done.before),
            _ => None,
        };
        let hint = format!(
            "backup {} has what was there before: a plan of its own brings it back",
            before.unwrap_or_default()
        );
        return Err(refuse(message.to_owned()).hint(hint));
    }
    if old.is_empty() {
        return Err(refuse("it recorded no version that served before it".to_owned()));
    }
    let expect: BTreeMap<String, ImageRef> = old
        .iter()
        .filter_map(|service| Some((service.name.clone(), state.plan.release.service(&service.name)?.image.clone())))
        .collect();
    let mut release = state.plan.release.clone();
    release.version = format!("before {}", state.plan.release.version);
    release.services = old;
    let mut environment = state.plan.environment.clone();
    // The way back is never held up by what may begin and what may not.
    environment.gates = Vec::new();
    environment.backups = Vec::new();
    let baseline = serde_json::to_value(BaselineParams { services: Vec::new(), expect }).unwrap_or_default();
    let baseline = step("undo-baseline", kinds::BASELINE, baseline);
    // Where two workloads take turns, the other one has the version before already.
    let turn = state.plan.steps().any(|(_, step)| step.action == kinds::HAND_OVER);
    let mut steps = match turn {
        true => vec![
            baseline,
            step("undo-deploy", kinds::DEPLOY_CANARY, json!({"weight": Weight::FULL, "restore": true})),
            step("undo-hand-over", kinds::HAND_OVER, Value::Null),
            step("undo-retire", kinds::RETIRE_OLD, Value::Null),
        ],
        false => vec![baseline, step("undo-roll", kinds::ROLL, Value::Null)],
    };
    // A plan of somebody's own may have left the copies on.
    if let Some((_, mirror)) = state.plan.steps().find(|(_, step)| step.action == kinds::MIRROR) {
        let services = json!({"services": mirror.with["services"].as_array().cloned().unwrap_or_default()});
        steps.insert(1, step("undo-mirror", kinds::STOP_MIRROR, services));
    }
    let name = match reason {
        "" => format!("undo of {}", state.plan.name),
        reason => format!("undo of {}: {reason}", state.plan.name),
    };
    let phases = vec![Phase { name: "undo".to_owned(), parallel: false, steps }].into();
    Ok(Plan { name, environment, release, phases, backends: state.plan.backends.clone() })
}

/// A step without anything special.
pub(super) fn step(name: &str, action: &str, with: Value) -> Step {
    let (name, action) = (name.to_owned(), action.to_owned());
    Step { name, action, with, deadline: None, retry: RetryPolicy::default() }
}

/// The same configuration as it is read already: an object that is there.
pub(super) fn there(config: &ConfigVersion, read: &ConfigRefs) -> ConfigVersion {
    let version = read.get(&config.key()).unwrap_or(&config.name).clone();
    ConfigVersion { data: None, version: Some(version), ..config.clone() }
}

/// What the run found, by service.
fn baselines(state: &RunState) -> Baselines {
    let steps = state.plan.steps().filter(|(_, step)| step.action == kinds::BASELINE);
    let outputs = steps.filter_map(|(_, step)| match state.status(&step.name) {
        StepStatus::Finished(output) => output.read::<Baselines>().ok(),
        _ => None,
    });
    let mut found = Baselines::new();
    for (service, before) in outputs.flatten() {
        // The first one that was found is what served before the run.
        found.entry(service).or_insert(before);
    }
    found
}
