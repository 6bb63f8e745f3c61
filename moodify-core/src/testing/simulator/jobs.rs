//! Programs that run to their end, and what runs by a schedule. Every `CronJob` that is asked for is there.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::backend::{CronJobRef, JobPhase, JobRequest, JobState, JobTemplate, Jobs};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{ErrorKind, Result};
use crate::model::ImageRef;

use super::chance;
use super::cluster::Facet;
use super::fault::BackendKind;
use super::state::{Caller, State};

/// A job, as long as it is there.
#[derive(Debug, Clone)]
pub(super) struct SimJob {
    name: String,
    namespace: String,
    key: IdempotencyKey,
    begun: Duration,
    tries: u32,
}

impl SimJob {
    /// When it is at its end.
    fn ends(&self, state: &State) -> Duration {
        let script = &state.scenario.jobs;
        let tries = if script.fails.is_some() { self.tries } else { 1 };
        self.begun + script.takes.get() * tries
    }

    fn state(&self, state: &State) -> JobState {
        let script = &state.scenario.jobs;
        let passed = state.now.saturating_sub(self.begun).as_secs_f64();
        let phase = match &script.fails {
            _ if state.now < self.ends(state) => {
                JobPhase::Running { failed: (passed / script.takes.get().as_secs_f64()) as u32 }
            }
            None => JobPhase::Succeeded,
            Some(why) => JobPhase::Failed(why.clone()),
        };
        JobState { name: self.name.clone(), phase }
    }
}

fn found<'a>(state: &'a State, namespace: &str, key: Option<&IdempotencyKey>) -> Option<&'a SimJob> {
    state.jobs.iter().find(|job| job.namespace == namespace && Some(&job.key) == key)
}

fn start(state: &mut State, caller: &Caller, key: &IdempotencyKey, request: &JobRequest) -> Result<JobState> {
    let (namespace, name) = (request.template.namespace(), request.template.name());
    if let Some(job) = found(state, namespace, Some(key)) {
        return Ok(job.state(state));
    }
    if let JobTemplate::Service(target) = &request.template
        && state.service(target).is_none_or(|service| service.stable.is_none())
    {
        let message = format!("there is no workload {} to copy", target.service.workload);
        return Err(caller.fails(ErrorKind::NotFound, message));
    }
    let number = chance::mix(&[state.scenario.seed, state.now.as_nanos() as u64, state.jobs.len() as u64]) >> 32;
    let job = SimJob {
        name: format!("{name}-{number:08x}"),
        namespace: namespace.to_owned(),
        key: key.clone(),
        begun: state.now,
        tries: request.tries,
    };
    let now = job.state(state);
    state.wrote(format!("job {} started", job.name));
    state.jobs.push(job);
    Ok(now)
}

fn known(cron: &CronJobRef) -> String {
    match &cron.container {
        None => cron.name.clone(),
        Some(container) => format!("{}/{container}", cron.name),
    }
}

impl State {
    /// The image that a `CronJob` runs.
    fn cron_image(&self, caller: &Caller, cron: &CronJobRef) -> Result<ImageRef> {
        let set = self.cron_images.get(&known(cron)).or_else(|| self.scenario.jobs.cron_jobs.get(&cron.name));
        let first = || format!("simulated/{}:previous", cron.name).parse();
        set.cloned().map_or_else(first, Ok).map_err(|e| caller.fails(ErrorKind::Invalid, e))
    }

    fn is_suspended(&self, cron: &str) -> bool {
        let first = || self.scenario.jobs.suspended.iter().any(|name| name == cron);
        self.suspended.get(cron).copied().unwrap_or_else(first)
    }

    pub(super) fn job_names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.name.clone()).collect()
    }

    /// When a job ends next by itself.
    pub(super) fn next_job(&self) -> Option<Duration> {
        self.jobs.iter().map(|job| job.ends(self)).filter(|at| *at > self.now).min()
    }
}

impl Facet {
    fn jobs(&self, operation: &'static str, subject: &str) -> Caller {
        self.caller(BackendKind::Jobs, operation, subject)
    }
}

#[async_trait]
impl Jobs for Facet {
    async fn start(&self, cx: &CallContext, request: &JobRequest) -> Result<JobState> {
        let caller = self.jobs("start", request.template.name()).in_context(cx);
        let (asks, key, request) = (caller.clone(), cx.key().clone(), request.clone());
        self.world.call(cx, caller, move |state| start(state, &asks, &key, &request)).await
    }

    async fn watch(
        &self,
        cx: &CallContext,
        template: &JobTemplate,
    ) -> Result<BoxStream<'static, Result<Option<JobState>>>> {
        let caller = self.jobs("watch", template.name()).reading();
        self.world.call(cx, caller.clone(), |_| Ok(())).await?;
        let (key, namespace) = (cx.key().clone(), template.namespace().to_owned());
        let look = move |state: &State| Ok(found(state, &namespace, Some(&key)).map(|job| job.state(state)));
        Ok(self.world.watch(cx, &caller, look))
    }

    async fn tail(&self, cx: &CallContext, template: &JobTemplate, lines: u32) -> Result<Vec<String>> {
        let (key, namespace) = (cx.key().clone(), template.namespace().to_owned());
        let effect = move |state: &mut State| {
            let written = &state.scenario.jobs.writes;
            let job = found(state, &namespace, Some(&key));
            Ok(job.map_or_else(Vec::new, |_| written.iter().rev().take(lines as usize).rev().cloned().collect()))
        };
        self.world.call(cx, self.jobs("tail", template.name()).reading(), effect).await
    }

    async fn remove(&self, cx: &CallContext, template: &JobTemplate) -> Result<()> {
        let (key, namespace) = (cx.key().clone(), template.namespace().to_owned());
        let effect = move |state: &mut State| {
            if let Some(name) = found(state, &namespace, Some(&key)).map(|job| job.name.clone()) {
                state.jobs.retain(|job| job.name != name);
                state.wrote(format!("job {name} removed"));
            }
            Ok(())
        };
        self.world.call(cx, self.jobs("remove", template.name()), effect).await
    }

    async fn cron_image(&self, cx: &CallContext, cron: &CronJobRef) -> Result<ImageRef> {
        let (caller, cron) = (self.jobs("cron_image", &cron.name).reading(), cron.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| state.cron_image(&asks, &cron)).await
    }

    async fn set_cron_image(&self, cx: &CallContext, cron: &CronJobRef, from: &ImageRef, to: &ImageRef) -> Result<()> {
        let (caller, cron, from, to) =
            (self.jobs("set_cron_image", &cron.name), cron.clone(), from.clone(), to.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let now = state.cron_image(&asks, &cron)?;
            if now != from && now != to {
                let message = format!("{cron} runs {now}, neither {from} nor {to}: somebody else set it");
                return Err(asks.fails(ErrorKind::Drift, message));
            }
            if now != to {
                state.wrote(format!("{cron} runs {to}"));
                state.cron_images.insert(known(&cron), to.clone());
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn cron_suspended(&self, cx: &CallContext, cron: &CronJobRef) -> Result<bool> {
        let name = cron.name.clone();
        let effect = move |state: &mut State| Ok(state.is_suspended(&name));
        self.world.call(cx, self.jobs("cron_suspended", &cron.name).reading(), effect).await
    }

    async fn set_cron_suspended(&self, cx: &CallContext, cron: &CronJobRef, suspended: bool) -> Result<()> {
        let cron = cron.clone();
        let caller = self.jobs("set_cron_suspended", &cron.name);
        let effect = move |state: &mut State| {
            if state.is_suspended(&cron.name) != suspended {
                state.wrote(format!("{cron} {}", if suspended { "suspended" } else { "goes on" }));
                state.suspended.insert(cron.name.clone(), suspended);
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    fn by_hand_suspended(&self, cron: &CronJobRef, suspended: bool) -> Vec<String> {
        vec![format!("simulated: {} {cron}", if suspended { "suspend" } else { "let go on" })]
    }

    fn by_hand(&self, cron: &CronJobRef, image: &ImageRef) -> Vec<String> {
        vec![format!("simulated: let {cron} run {image}")]
    }
}
