use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{CronJobRef, JobRequest, JobTemplate, JobsExt};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Plan};

/// How many of its last lines are shown of a job that failed.
const LINES: u32 = 10;

/// Runs a program to its end, once: a migration of the database, a warm-up, a job that else goes by a schedule. Undone, one
/// that runs is ended; what it did by then stays done.
#[derive(Debug)]
pub(super) struct RunJob;

/// The parameters of a `run-job` step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunJobParams {
    /// The service of the release whose new version runs it, in a pod like its others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Or the `CronJob` whose pod runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_job: Option<String>,
    /// The container of the `CronJob`; left out, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Another image than the service's new one or the `CronJob`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Another command, with its arguments; no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How often its pod may be tried, the first time included; 1 if left out. More only for what can be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tries: Option<u32>,
}

impl RunJobParams {
    /// What is to run in this plan.
    ///
    /// # Errors
    /// What is wrong with the parameters, for people.
    pub fn request(&self, plan: &Plan) -> std::result::Result<JobRequest, String> {
        let template = match (&self.service, &self.cron_job) {
            (Some(_), Some(_)) | (None, None) => return Err("give either `service` or `cron-job`".to_owned()),
            (Some(_), None) if self.container.is_some() => {
                return Err("`container` is of use with `cron-job` only: a service has its own".to_owned());
            }
            (Some(_), None) if self.command.is_empty() => {
                return Err("give `command`: what the service itself runs never ends".to_owned());
            }
            (Some(name), None) => {
                let service = plan.release.service(name).ok_or_else(|| {
                    let known: Vec<&str> = plan.release.services.iter().map(|service| service.name.as_str()).collect();
                    format!("the release has no service {name:?}; it has: {}", known.join(", "))
                })?;
                JobTemplate::Service(Box::new(plan.target(service)))
            }
            (None, Some(name)) => JobTemplate::CronJob(CronJobRef {
                namespace: plan.environment.namespace.clone(),
                name: name.clone(),
                container: self.container.clone(),
            }),
        };
        if self.tries == Some(0) {
            return Err("`tries` must be at least 1, the first".to_owned());
        }
        let mut request = JobRequest::new(template).command(&self.command).tries(self.tries.unwrap_or(1));
        request.image.clone_from(&self.image);
        Ok(request)
    }

    fn read(&self, cx: &StepContext) -> Result<JobRequest> {
        self.request(cx.plan()).map_err(|problem| invalid(&cx.step().name, problem))
    }
}

pub(super) fn invalid(step: &str, problem: String) -> Error {
    Error::new(ErrorKind::Invalid, "engine", "check the step", problem).on(step)
}

#[async_trait]
impl Action for RunJob {
    type Params = RunJobParams;
    /// The job's name.
    type Output = String;

    fn deadline(&self, _: &RunJobParams) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &RunJobParams) -> Result<(), Vec<Error>> {
        let wrong = params.request(cx.plan).err().map(|problem| invalid(&cx.step.name, problem));
        let problems: Vec<Error> = wrong.into_iter().chain(cx.backends.jobs().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &RunJobParams) -> Result<String> {
        let (jobs, request) = (cx.backends().jobs()?, params.read(cx)?);
        jobs.start(&cx.call()?, &request).await?;
        let ended = jobs.wait_for_end(&cx.call()?, &request.template, &|state| cx.note(state.to_string())).await;
        match ended {
            Ok(state) => Ok(state.name),
            Err(e) if matches!(e.kind(), ErrorKind::Unhealthy | ErrorKind::Timeout) => {
                let lines = match cx.last_call() {
                    Ok(call) => jobs.tail(&call, &request.template, LINES).await.unwrap_or_default(),
                    Err(_) => Vec::new(),
                };
                let last = if lines.is_empty() { "it wrote nothing".to_owned() } else { lines.join("\n") };
                let message = format!("{}; its last lines:\n{last}", e.message());
                // It is there under its key: another attempt would find it as it ended.
                Err(Error::new(ErrorKind::Unhealthy, "engine", "run the job", message)
                    .on(request.template.name())
                    .with_source(e))
            }
            Err(e) => Err(e),
        }
    }

    async fn observe(&self, _: &StepContext, _: &RunJobParams) -> Result<Observed<String>> {
        // Under its key it is found as it is: started again, it is not started twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, params: &RunJobParams, output: Option<&String>) -> Result<()> {
        match output {
            Some(name) => cx.note(format!("what the job {name} did stays done")),
            None => cx.backends().jobs()?.remove(&cx.call()?, &params.read(cx)?.template).await?,
        }
        Ok(())
    }
}
