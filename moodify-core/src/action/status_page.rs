use std::time::Duration;

use async_trait::async_trait;

use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Incident, IncidentStatus, IncidentUpdate};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{Error, Result};
use crate::mutation::{self, Mutation};

/// Says something in the run's incident on the status page: opens it if need be, and resolves it with the status
/// `resolved`. Undone, the incident is resolved: what a run opened it closes.
#[derive(Debug)]
pub(super) struct UpdateStatusPage;

impl UpdateStatusPage {
    /// All steps of a run speak in one incident.
    fn call(cx: &StepContext) -> Result<CallContext> {
        let key = IdempotencyKey::new(format!("{}/status-page", cx.run_id()));
        Ok(cx.call()?.with_key(key))
    }

    /// The run's open incident: as the page says, or, as a page's search may not show yet what was just opened, as the
    /// steps before this one left it.
    async fn find(cx: &StepContext) -> Result<Option<Incident>> {
        if let Some(found) = cx.backends().status_page()?.find(&Self::call(cx)?).await? {
            return Ok(Some(found));
        }
        let told = cx.plan().steps().filter(|(_, step)| step.action == cx.step().action);
        let last = told.filter_map(|(_, step)| cx.output::<Option<Incident>>(&step.name).ok().flatten()).last();
        Ok(last.filter(|incident| incident.status != IncidentStatus::Resolved))
    }
}

#[async_trait]
impl Action for UpdateStatusPage {
    type Params = IncidentUpdate;
    type Output = Option<Incident>;

    fn is_observer(&self) -> bool {
        true
    }

    fn deadline(&self, _: &IncidentUpdate) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    async fn check(&self, cx: &CheckContext<'_>, _: &IncidentUpdate) -> Result<(), Vec<Error>> {
        cx.backends.status_page().map(drop).map_err(|e| vec![e])
    }

    async fn execute(&self, cx: &StepContext, update: &IncidentUpdate) -> Result<Option<Incident>> {
        let page = cx.backends().status_page()?;
        if mutation::on(Mutation::OpenTwice) {
            return page.open(&cx.call()?, update).await.map(Some);
        }
        match Self::find(cx).await? {
            Some(incident) => page.update(&Self::call(cx)?, &incident.id, update).await.map(Some),
            None if update.status == IncidentStatus::Resolved => Ok(None),
            None => page.open(&Self::call(cx)?, update).await.map(Some),
        }
    }

    async fn observe(&self, _: &StepContext, _: &IncidentUpdate) -> Result<Observed<Option<Incident>>> {
        // Doing it again finds the incident by its key.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &IncidentUpdate, _: Option<&Option<Incident>>) -> Result<()> {
        if mutation::on(Mutation::LeaveIncidentOpen) {
            return Ok(());
        }
        let page = cx.backends().status_page()?;
        if let Some(incident) = Self::find(cx).await? {
            let message = "The change was taken back; the version before it serves.".to_owned();
            let update = IncidentUpdate { status: IncidentStatus::Resolved, message };
            page.update(&Self::call(cx)?, &incident.id, &update).await?;
        }
        Ok(())
    }
}
