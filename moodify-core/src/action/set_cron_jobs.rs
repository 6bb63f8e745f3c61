use std::collections::BTreeMap;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::run_job::invalid;
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::CronJobRef;
use crate::error::{Error, Result};
use crate::model::ImageRef;

/// Lets `CronJob`s run another image from their next time on. Undone, they run the one of before.
#[derive(Debug)]
pub(super) struct SetCronJobs;

/// The parameters of a `set-cron-jobs` step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SetCronJobsParams {
    /// Which of them, and the image of each.
    #[schemars(length(min = 1))]
    pub cron_jobs: Vec<CronJobImage>,
}

/// A `CronJob` and what it shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CronJobImage {
    /// Its name.
    pub name: String,
    /// The container; left out, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The image that it shall run.
    pub image: ImageRef,
}

/// The images of before, by `CronJob`.
type Before = BTreeMap<String, ImageRef>;

impl SetCronJobsParams {
    /// With what each was known by in [`Before`].
    fn each<'a>(&'a self, cx: &'a StepContext) -> impl Iterator<Item = (String, CronJobRef, &'a ImageRef)> {
        self.cron_jobs.iter().map(|wanted| {
            let (namespace, name) = (cx.plan().environment.namespace.clone(), wanted.name.clone());
            let known = wanted.container.as_ref().map_or_else(|| name.clone(), |of| format!("{name}/{of}"));
            (known, CronJobRef { namespace, name, container: wanted.container.clone() }, &wanted.image)
        })
    }
}

#[async_trait]
impl Action for SetCronJobs {
    type Params = SetCronJobsParams;
    type Output = Before;

    async fn check(&self, cx: &CheckContext<'_>, params: &SetCronJobsParams) -> Result<(), Vec<Error>> {
        let mut problems: Vec<Error> = cx.backends.jobs().err().into_iter().collect();
        if params.cron_jobs.is_empty() {
            problems.push(invalid(&cx.step.name, "no cron jobs: nothing would happen".to_owned()));
        }
        for (index, one) in params.cron_jobs.iter().enumerate() {
            let same = |other: &&CronJobImage| (&other.name, &other.container) == (&one.name, &one.container);
            if params.cron_jobs[..index].iter().any(|other| same(&other)) {
                problems.push(invalid(&cx.step.name, format!("the CronJob {:?} is there twice", one.name)));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &SetCronJobsParams) -> Result<Before> {
        let jobs = cx.backends().jobs()?;
        let before = match cx.last_checkpoint::<Before>() {
            Some(before) => before,
            None => {
                let mut before = Before::new();
                for (known, cron, _) in params.each(cx) {
                    before.insert(known, jobs.cron_image(&cx.call()?, &cron).await?);
                }
                // Durable before the first of them is another one.
                cx.checkpoint(&before).await?;
                before
            }
        };
        for (known, cron, to) in params.each(cx) {
            let from = before.get(&known).unwrap_or(to);
            jobs.set_cron_image(&cx.call()?, &cron, from, to).await?;
            cx.note(format!("{cron}: {from} -> {to}"));
        }
        Ok(before)
    }

    async fn observe(&self, _: &StepContext, _: &SetCronJobsParams) -> Result<Observed<Before>> {
        // What is so already is not written again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &SetCronJobsParams, _: Option<&Before>) -> Result<()> {
        let jobs = cx.backends().jobs()?;
        let before = cx.last_checkpoint::<Before>().unwrap_or_default();
        for (known, cron, to) in params.each(cx) {
            if let Some(from) = before.get(&known) {
                jobs.set_cron_image(&cx.call()?, &cron, to, from).await?;
            }
        }
        Ok(())
    }

    fn by_hand(&self, cx: &StepContext, params: &SetCronJobsParams) -> Vec<String> {
        let before = cx.last_checkpoint::<Before>().unwrap_or_default();
        let Ok(jobs) = cx.backends().jobs() else { return Vec::new() };
        let one =
            |(known, cron, _): (String, CronJobRef, _)| before.get(&known).map(|image| jobs.by_hand(&cron, image));
        params.each(cx).filter_map(one).flatten().collect()
    }
}
