use std::fmt;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Target};

/// Whose pods a job's pod is like.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobTemplate {
    /// Those of a service of the release, as its new version is to run: its image, and the configuration that ships with it.
    Service(Box<Target>),
    /// Those of a `CronJob`.
    CronJob(CronJobRef),
}

impl JobTemplate {
    /// The namespace in which the job runs.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Service(target) => &target.namespace,
            Self::CronJob(cron) => &cron.namespace,
        }
    }

    /// What the job is named after.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Service(target) => &target.service.name,
            Self::CronJob(cron) => &cron.name,
        }
    }
}

/// A `CronJob`, and the container in it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronJobRef {
    /// The namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The container; `None` for the only one.
    pub container: Option<String>,
}

impl fmt::Display for CronJobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CronJob {}/{}", self.namespace, self.name)
    }
}

/// A program that shall run to its end, once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobRequest {
    /// Whose pods its pod is like.
    pub template: JobTemplate,
    /// Another image than the template's.
    pub image: Option<ImageRef>,
    /// Another command than the template's, with its arguments; no shell.
    pub command: Vec<String>,
    /// How often its pod may be tried, the first time included.
    pub tries: u32,
}

impl JobRequest {
    /// What the template says, tried once.
    #[must_use]
    pub fn new(template: JobTemplate) -> Self {
        Self { template, image: None, command: Vec::new(), tries: 1 }
    }

    /// With this image.
    #[must_use]
    pub fn image(mut self, image: ImageRef) -> Self {
        self.image = Some(image);
        self
    }

    /// With this command.
    #[must_use]
    pub fn command<T: Into<String>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Tried so often, the first time included.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobPhase {
    /// Its pod is to run, or runs; so many failed before it.
    Running {
        /// Pods that failed.
        failed: u32,
    },
    /// It came to a good end.
    Succeeded,
    /// It is not tried any more; why.
    Failed(String),
}

/// A job as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: JobPhase,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phase {
            JobPhase::Running { failed: 0 } => write!(f, "the job {} runs", self.name),
            JobPhase::Running { failed } => write!(f, "the job {} runs, after {failed} pods failed", self.name),
            JobPhase::Succeeded => write!(f, "the job {} succeeded", self.name),
            JobPhase::Failed(why) => write!(f, "the job {} failed: {why}", self.name),
        }
    }
}

/// Runs programs to their end, and changes what runs by a schedule.
///
/// # Contract
/// - `start` returns when the job is accepted. A job belongs to the run and the key under which it was started: under the same
///   key that job is found, whatever became of it, and none is started. A job's pod gets no traffic of any Service.
/// - `remove` ends a job that runs, with its pods. It is fine if there is none under this key.
/// - `set_cron_image` compares before it writes, and the comparison holds at the moment of the write: it is refused as
///   [`ErrorKind::Drift`] if neither `from` nor `to` is there. What is so already is not written. Pods that run go on.
/// - What is not there is [`ErrorKind::NotFound`].
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Jobs: Send + Sync + fmt::Debug {
    /// Starts a job under the context's key.
    ///
    /// # Errors
    /// As in the contract.
    async fn start(&self, cx: &CallContext, request: &JobRequest) -> Result<JobState>;

    /// The job under the context's key now and after every change, until the context ends; `None` items while it is missing.
    ///
    /// # Errors
    /// As in the contract.
    async fn watch(
        &self,
        cx: &CallContext,
        template: &JobTemplate,
    ) -> Result<BoxStream<'static, Result<Option<JobState>>>>;

    /// The last lines that the job under the context's key wrote, of its newest pod.
    ///
    /// # Errors
    /// As in the contract.
    async fn tail(&self, cx: &CallContext, template: &JobTemplate, lines: u32) -> Result<Vec<String>>;

    /// Removes the job under the context's key.
    ///
    /// # Errors
    /// As in the contract.
    async fn remove(&self, cx: &CallContext, template: &JobTemplate) -> Result<()>;

    /// The image that a `CronJob` runs.
    ///
    /// # Errors
    /// As in the contract.
    async fn cron_image(&self, cx: &CallContext, cron: &CronJobRef) -> Result<ImageRef>;

    /// Lets a `CronJob` run another image from its next time on.
    ///
    /// # Errors
    /// As in the contract.
    async fn set_cron_image(&self, cx: &CallContext, cron: &CronJobRef, from: &ImageRef, to: &ImageRef) -> Result<()>;

    /// Whether a `CronJob` is suspended, so that it starts nothing.
    ///
    /// # Errors
    /// As in the contract.
    async fn cron_suspended(&self, cx: &CallContext, cron: &CronJobRef) -> Result<bool>;

    /// Suspends a `CronJob`, or lets it go on at its next time. What is so already is not written.
    ///
    /// # Errors
    /// As in the contract.
    async fn set_cron_suspended(&self, cx: &CallContext, cron: &CronJobRef, suspended: bool) -> Result<()>;

    /// Commands with which a person suspends a `CronJob` without moodify, or lets it go on. Asks nobody.
    fn by_hand_suspended(&self, cron: &CronJobRef, suspended: bool) -> Vec<String>;

    /// Commands with which a person puts a `CronJob`'s image back without moodify. Asks nobody.
    fn by_hand(&self, cron: &CronJobRef, image: &ImageRef) -> Vec<String>;
}

/// Comfort on top of any [`Jobs`].
#[async_trait]
pub trait JobsExt {
    /// Waits for the end of the job under the context's key. `seen` is told every state on the way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with the last state; [`ErrorKind::Unhealthy`] if it failed;
    /// [`ErrorKind::NotFound`] if it goes away.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting.
    async fn wait_for_end(
        &self,
        cx: &CallContext,
        template: &JobTemplate,
        seen: &(dyn for<'a> Fn(&'a JobState) + Send + Sync),
    ) -> Result<JobState>;
}

#[async_trait]
impl<J: Jobs + ?Sized> JobsExt for J {
    async fn wait_for_end(
        &self,
        cx: &CallContext,
        template: &JobTemplate,
        seen: &(dyn for<'a> Fn(&'a JobState) + Send + Sync),
    ) -> Result<JobState> {
        const OPERATION: &str = "wait for the job";
        let error = |kind, message: String| Error::new(kind, "moodify", OPERATION, message);
        let mut last: Option<JobState> = None;
        let waiting = async {
            let mut states = self.watch(cx, template).await?;
            while let Some(state) = states.next().await {
                let Some(state) = state? else {
                    // A watch may begin before the cache behind it has seen our own write.
                    if last.is_some() {
                        return Err(error(ErrorKind::NotFound, "it went away while we waited for it".to_owned()));
                    }
                    continue;
                };
                seen(&state);
                match &state.phase {
                    JobPhase::Succeeded => return Ok(state),
                    JobPhase::Failed(why) => return Err(error(ErrorKind::Unhealthy, why.clone())),
                    JobPhase::Running { .. } => last = Some(state),
                }
            }
            Err(error(ErrorKind::Unavailable, "the watch ended".to_owned()))
        };
        let result = cx.run("moodify", OPERATION, waiting).await;
        result.map_err(|e| match e.kind() {
            ErrorKind::Timeout => {
                let state = last.map_or_else(|| "it was never seen".to_owned(), |state| state.to_string());
                error(ErrorKind::Timeout, format!("not at its end at the deadline: {state}")).on(template.name())
            }
            _ if e.target().is_empty() => e.on(template.name()),
            _ => e,
        })
    }
}
