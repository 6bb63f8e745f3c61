use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::{Application, Counts, Instances, OperationsExt, Repair, WorkloadRef};
use crate::error::{Error, ErrorKind, Result};
use crate::model::WorkloadKind;

/// Which workloads of the environment's namespace are stopped and started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApplicationParams {
    /// These: a Deployment by its name, else `stateful-set/NAME`. Left out, all Deployments and stateful sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadRef>,
    /// But not these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<WorkloadRef>,
}

impl ApplicationParams {
    pub(super) fn application(&self, cx: &StepContext) -> Application {
        let all = Application::all_of(&cx.plan().environment.namespace);
        all.workloads(&self.workloads).except(&self.except)
    }

    /// What is wrong with them: where, from these parameters on, and what.
    pub(crate) fn problems(&self) -> Vec<(String, String)> {
        let named = |workload: &&WorkloadRef| !self.workloads.is_empty() && !self.workloads.contains(workload);
        let lost = self.except.iter().enumerate().filter(|(_, workload)| named(workload));
        let told = |(index, workload): (usize, &WorkloadRef)| {
            (format!("/except/{index}"), format!("{workload} is not among the workloads, so it cannot be excepted"))
        };
        let scaled = |(_, workload): &(usize, &WorkloadRef)| workload.kind == WorkloadKind::DaemonSet;
        let unscaled = self.workloads.iter().enumerate().filter(scaled).map(|(index, workload)| {
            let why = "has an instance on every node and no number of them, so it cannot be stopped; leave it out, and \
                       stop by hand what of it writes to the database";
            (format!("/workloads/{index}"), format!("the DaemonSet {} {why}", workload.name))
        });
        unscaled.chain(lost.map(told)).collect()
    }
}

fn show(cx: &StepContext, now: &[Instances]) {
    let ready: u32 = now.iter().map(|of| of.ready).sum();
    let all: u32 = now.iter().map(|of| of.all).sum();
    cx.note(format!("{all} instances, {ready} of them ready"));
}

async fn stop(cx: &StepContext, counts: &Counts) -> Result<()> {
    let operations = cx.backends().operations()?;
    operations.stop(&cx.call()?, counts).await?;
    operations.wait_stopped(&cx.call()?, counts, &|now| show(cx, now)).await
}

async fn start(cx: &StepContext, counts: &Counts) -> Result<()> {
    let operations = cx.backends().operations()?;
    operations.start(&cx.call()?, counts).await?;
    operations.wait_started(&cx.call()?, counts, &|now| show(cx, now)).await
}

fn by_hand(cx: &StepContext, repair: &Repair) -> Vec<String> {
    cx.backends().operations().map(|operations| operations.by_hand(repair)).unwrap_or_default()
}

/// Takes every workload to no instance, and waits until none is left. How many there were is written down before, and on
/// the workload itself. Undone, they come back.
#[derive(Debug)]
pub(super) struct StopApplication;

#[async_trait]
impl Action for StopApplication {
    type Params = ApplicationParams;
    type Output = Counts;

    async fn check(&self, cx: &CheckContext<'_>, params: &ApplicationParams) -> Result<(), Vec<Error>> {
        let invalid = |(_, message): (String, String)| {
            Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str())
        };
        let mut wrong: Vec<Error> = params.problems().into_iter().map(invalid).collect();
        wrong.extend(cx.backends.operations().err());
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &ApplicationParams) -> Result<Counts> {
        let counts = match cx.last_checkpoint::<Counts>() {
            Some(counts) => counts,
            None => {
                let counts = cx.backends().operations()?.counts(&cx.call()?, &params.application(cx)).await?;
                cx.checkpoint(&counts).await?;
                counts
            }
        };
        stop(cx, &counts).await?;
        Ok(counts)
    }

    async fn observe(&self, _: &StepContext, _: &ApplicationParams) -> Result<Observed<Counts>> {
        // What is stopped is not stopped twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &ApplicationParams, output: Option<&Counts>) -> Result<()> {
        // Without either it came to nothing.
        match output.cloned().or_else(|| cx.last_checkpoint()) {
            Some(counts) => start(cx, &counts).await,
            None => Ok(()),
        }
    }

    fn by_hand(&self, cx: &StepContext, _: &ApplicationParams) -> Vec<String> {
        cx.last_checkpoint().map(|counts| by_hand(cx, &Repair::Start(counts))).unwrap_or_default()
    }
}

/// Brings every workload that the plan stopped back to the number of instances that it had, and waits until they are
/// ready. Undone, they are stopped again.
#[derive(Debug)]
pub(super) struct StartApplication;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartParams {}

#[async_trait]
impl Action for StartApplication {
    type Params = StartParams;
    type Output = ();

    fn deadline(&self, _: &StartParams) -> Option<Duration> {
        Some(Duration::from_secs(900))
    }

    async fn check(&self, cx: &CheckContext<'_>, _: &StartParams) -> Result<(), Vec<Error>> {
        let mut wrong: Vec<Error> = cx.backends.operations().err().into_iter().collect();
        let mut earlier = cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
        if !earlier.any(|step| step.action == kinds::STOP_APPLICATION) {
            let message = "no step before this one stops the application";
            wrong.push(Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, _: &StartParams) -> Result<()> {
        start(cx, &cx.output_of_kind(kinds::STOP_APPLICATION)?).await
    }

    async fn observe(&self, _: &StepContext, _: &StartParams) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &StartParams, _: Option<&()>) -> Result<()> {
        stop(cx, &cx.output_of_kind(kinds::STOP_APPLICATION)?).await
    }

    fn by_hand(&self, cx: &StepContext, _: &StartParams) -> Vec<String> {
        let counts = cx.output_of_kind(kinds::STOP_APPLICATION);
        counts.map(|counts| by_hand(cx, &Repair::Stop(counts))).unwrap_or_default()
    }
}
