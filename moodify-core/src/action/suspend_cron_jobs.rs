use std::collections::BTreeMap;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::run_job::invalid;
use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::backend::CronJobRef;
use crate::error::{Error, Result};

/// Lets `CronJob`s start nothing more; what they have started goes on. Undone, those that were not suspended before start
/// again at their times.
#[derive(Debug)]
pub(super) struct SuspendCronJobs;

/// The parameters of a `suspend-cron-jobs` step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SuspendCronJobsParams {
    /// Which of them, by name.
    #[schemars(length(min = 1))]
    pub cron_jobs: Vec<String>,
}

/// Whether each was suspended before.
type Before = BTreeMap<String, bool>;

fn cron(cx: &StepContext, name: &str) -> CronJobRef {
    CronJobRef { namespace: cx.plan().environment.namespace.clone(), name: name.to_owned(), container: None }
}

/// Suspends those that were not, or lets them go on.
async fn set(cx: &StepContext, before: &Before, suspended: bool) -> Result<()> {
    let jobs = cx.backends().jobs()?;
    for (name, _) in before.iter().filter(|(_, was)| !**was) {
        let cron = cron(cx, name);
        jobs.set_cron_suspended(&cx.call()?, &cron, suspended).await?;
        cx.note(format!("{cron} {}", if suspended { "is suspended" } else { "goes on" }));
    }
    Ok(())
}

/// Commands with which a person does the same.
fn by_hand(cx: &StepContext, before: &Before, suspended: bool) -> Vec<String> {
    let Ok(jobs) = cx.backends().jobs() else { return Vec::new() };
    let changed = before.iter().filter(|(_, was)| !**was);
    changed.flat_map(|(name, _)| jobs.by_hand_suspended(&cron(cx, name), suspended)).collect()
}

#[async_trait]
impl Action for SuspendCronJobs {
    type Params = SuspendCronJobsParams;
    type Output = Before;

    async fn check(&self, cx: &CheckContext<'_>, params: &SuspendCronJobsParams) -> Result<(), Vec<Error>> {
        let mut problems: Vec<Error> = cx.backends.jobs().err().into_iter().collect();
        if params.cron_jobs.is_empty() {
            problems.push(invalid(&cx.step.name, "no cron jobs: nothing would happen".to_owned()));
        }
        for (index, name) in params.cron_jobs.iter().enumerate() {
            if params.cron_jobs[..index].contains(name) {
                problems.push(invalid(&cx.step.name, format!("the CronJob {name:?} is there twice")));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &SuspendCronJobsParams) -> Result<Before> {
        let jobs = cx.backends().jobs()?;
        let before = match cx.last_checkpoint::<Before>() {
            Some(before) => before,
            None => {
                let mut before = Before::new();
                for name in &params.cron_jobs {
                    before.insert(name.clone(), jobs.cron_suspended(&cx.call()?, &cron(cx, name)).await?);
                }
                // Durable before the first of them is suspended.
                cx.checkpoint(&before).await?;
                before
            }
        };
        set(cx, &before, true).await?;
        Ok(before)
    }

    async fn observe(&self, _: &StepContext, _: &SuspendCronJobsParams) -> Result<Observed<Before>> {
        // What is suspended is not suspended twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &SuspendCronJobsParams, _: Option<&Before>) -> Result<()> {
        // Without a checkpoint it came to nothing.
        set(cx, &cx.last_checkpoint::<Before>().unwrap_or_default(), false).await
    }

    fn by_hand(&self, cx: &StepContext, _: &SuspendCronJobsParams) -> Vec<String> {
        by_hand(cx, &cx.last_checkpoint::<Before>().unwrap_or_default(), false)
    }
}

/// Lets the `CronJob`s that the plan suspended start again at their times; those that were suspended before stay so.
/// Undone, they are suspended again.
#[derive(Debug)]
pub(super) struct ResumeCronJobs;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeParams {}

#[async_trait]
impl Action for ResumeCronJobs {
    type Params = ResumeParams;
    type Output = ();

    async fn check(&self, cx: &CheckContext<'_>, _: &ResumeParams) -> Result<(), Vec<Error>> {
        let mut problems: Vec<Error> = cx.backends.jobs().err().into_iter().collect();
        let mut earlier = cx.plan.steps().map(|(_, step)| step).take_while(|step| step.name != cx.step.name);
        if !earlier.any(|step| step.action == kinds::SUSPEND_CRON_JOBS) {
            problems.push(invalid(&cx.step.name, "no step before this one suspends cron jobs".to_owned()));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, _: &ResumeParams) -> Result<()> {
        set(cx, &cx.output_of_kind(kinds::SUSPEND_CRON_JOBS)?, false).await
    }

    async fn observe(&self, _: &StepContext, _: &ResumeParams) -> Result<Observed<()>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &ResumeParams, _: Option<&()>) -> Result<()> {
        set(cx, &cx.output_of_kind(kinds::SUSPEND_CRON_JOBS)?, true).await
    }

    fn by_hand(&self, cx: &StepContext, _: &ResumeParams) -> Vec<String> {
        by_hand(cx, &cx.output_of_kind(kinds::SUSPEND_CRON_JOBS).unwrap_or_default(), true)
    }
}
