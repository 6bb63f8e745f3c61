use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, fails, good};
use crate::backend::{CronJobRef, JobPhase, JobRequest, JobTemplate, Jobs, JobsExt};
use crate::error::ErrorKind;
use crate::model::ImageRef;

/// What the suite of [`Jobs`] needs.
#[async_trait]
pub trait JobsHarness: Send + Sync {
    /// What is under test.
    fn jobs(&self) -> Arc<dyn Jobs>;

    /// A service of the release that is there, or a `CronJob`.
    fn template(&self) -> JobTemplate;

    /// What comes to a good end after a few seconds, and writes `done`.
    fn good(&self, request: JobRequest) -> JobRequest;

    /// A `CronJob` that is there, and another image than it runs.
    fn cron_job(&self) -> (CronJobRef, ImageRef);

    /// How many jobs there are.
    async fn count(&self) -> usize;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts [`Jobs`] to their contract.
///
/// # Panics
/// If it is not kept.
pub async fn jobs(harness: &dyn JobsHarness) {
    runs_once_under_its_key(harness).await;
    is_removed_while_it_runs(harness).await;
    sets_the_image_of_a_cron_job(harness).await;
    suspends_a_cron_job(harness).await;
}

async fn runs_once_under_its_key(harness: &dyn JobsHarness) {
    let (jobs, template) = (harness.jobs(), harness.template());
    let request = harness.good(JobRequest::new(template.clone()));
    let cx = || context("jobs/once", harness.patience());
    let before = harness.count().await;
    let first = good("it can be started", jobs.start(&cx(), &request).await);
    let second = good("it can be asked for again", jobs.start(&cx(), &request).await);
    assert_eq!(first.name, second.name, "the same key is the same job");
    let ended = good("it comes to its end", jobs.wait_for_end(&cx(), &template, &|_| ()).await);
    assert_eq!((ended.name, ended.phase), (first.name.clone(), JobPhase::Succeeded));
    let again = good("it can be asked for after its end", jobs.start(&cx(), &request).await);
    assert_eq!((again.name, again.phase), (first.name, JobPhase::Succeeded), "it is not run again");
    assert_eq!(harness.count().await, before + 1);
    let written = good("what it wrote is there", jobs.tail(&cx(), &template, 1).await);
    assert_eq!(written, ["done"]);
    good("it can be removed", jobs.remove(&cx(), &template).await);
    assert_eq!(harness.count().await, before);
}

async fn is_removed_while_it_runs(harness: &dyn JobsHarness) {
    let (jobs, template) = (harness.jobs(), harness.template());
    let request = harness.good(JobRequest::new(template.clone()));
    let cx = || context("jobs/removed", harness.patience());
    good("there is nothing to remove yet", jobs.remove(&cx(), &template).await);
    let before = harness.count().await;
    good("it can be started", jobs.start(&cx(), &request).await);
    let other = context("jobs/other", harness.patience());
    good("another key has no job", jobs.remove(&other, &template).await);
    assert_eq!(harness.count().await, before + 1, "it is not the other key's");
    good("it can be removed", jobs.remove(&cx(), &template).await);
    assert_eq!(harness.count().await, before);
    good("it is removed already", jobs.remove(&cx(), &template).await);
}

async fn sets_the_image_of_a_cron_job(harness: &dyn JobsHarness) {
    let (jobs, (cron, to)) = (harness.jobs(), harness.cron_job());
    let cx = || context("jobs/cron", harness.patience());
    let image = async || good("its image can be read", jobs.cron_image(&cx(), &cron).await);
    let from = image().await;
    assert_ne!(from, to);
    for _ in 0..2 {
        good("it can be set", jobs.set_cron_image(&cx(), &cron, &from, &to).await);
        assert_eq!(image().await, to);
    }
    let third: ImageRef = "registry.test/third:v3".parse().expect("this is an image");
    let foreign = jobs.set_cron_image(&cx(), &cron, &from, &third).await;
    good("what is there may be what is expected", jobs.set_cron_image(&cx(), &cron, &from, &to).await);
    fails("an unexpected image is drift", ErrorKind::Drift, foreign);
    assert_eq!(image().await, to);
    good("it can be put back", jobs.set_cron_image(&cx(), &cron, &to, &from).await);
    assert_eq!(image().await, from);
}

async fn suspends_a_cron_job(harness: &dyn JobsHarness) {
    let (jobs, (cron, _)) = (harness.jobs(), harness.cron_job());
    let cx = || context("jobs/suspend", harness.patience());
    let is = async || good("it says whether it is suspended", jobs.cron_suspended(&cx(), &cron).await);
    let before = is().await;
    for wanted in [!before, !before, before] {
        good("it can be set, twice too", jobs.set_cron_suspended(&cx(), &cron, wanted).await);
        assert_eq!(is().await, wanted);
    }
}
