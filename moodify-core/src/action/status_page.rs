use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::template::Template;
use super::{Action, CheckContext, Observed, StepContext};
use crate::backend::{Incident, IncidentStatus, IncidentUpdate, Maintenance};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;
use crate::mutation::{self, Mutation};

/// Says something in the run's incident on the status page: opens it if need be, and resolves it with the status
/// `resolved`. Undone, the incident is resolved: what a run opened it closes.
#[derive(Debug)]
pub(super) struct UpdateStatusPage;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// Where it stands.
    status: IncidentStatus,
    /// The message.
    message: Template,
    /// The maintenance that the status `scheduled` announces. Later steps begin and resolve it.
    #[serde(default)]
    maintenance: Option<Window>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Window {
    /// How long after this step it begins; left out, at once.
    #[serde(default)]
    starts_in: Period,
    /// How long it takes.
    lasts: Period,
}

impl UpdateStatusPage {
    /// All steps of a run speak in one incident.
    fn call(cx: &StepContext) -> Result<CallContext> {
        let key = IdempotencyKey::new(format!("{}/status-page", cx.run_id()));
        Ok(cx.call()?.with_key(key))
    }

    /// The run's open incident: as the page says, or, as a page's search may not show yet what was just opened, as the
    /// steps before this one left it.
    async fn find(cx: &StepContext) -> Result<Option<Incident>> {
        let found = cx.backends().status_page()?.find(&Self::call(cx)?).await;
        if let Ok(Some(_)) = found {
            return found;
        }
        let told = cx.plan().steps().filter(|(_, step)| step.action == cx.step().action);
        let last = told.filter_map(|(_, step)| cx.output::<Option<Incident>>(&step.name).ok().flatten()).last();
        last.filter(|incident| incident.status != IncidentStatus::Resolved).map_or(found, |last| Ok(Some(last)))
    }

    /// Begins what no step before this one has begun.
    async fn begin(cx: &StepContext, params: &Params, update: &IncidentUpdate) -> Result<Incident> {
        let (page, call) = (cx.backends().status_page()?, Self::call(cx)?);
        match &params.maintenance {
            Some(window) => {
                let from = cx.clock().now() + window.starts_in.get();
                let maintenance = Maintenance::new(from, from + window.lasts.get(), &*update.message);
                page.schedule(&call, &maintenance).await
            }
            None => page.open(&call, update).await,
        }
    }
}

#[async_trait]
impl Action for UpdateStatusPage {
    type Params = Params;
    type Output = Option<Incident>;

    fn is_observer(&self) -> bool {
        true
    }

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let refuse = |kind, message| Err(vec![Error::new(kind, "engine", "check the step", message)]);
        let page = cx.backends.status_page().map_err(|e| vec![e])?;
        match (&params.maintenance, params.status) {
            (None, IncidentStatus::Scheduled) => refuse(
                ErrorKind::Invalid,
                "the status `scheduled` needs `maintenance`: when it begins and how long it takes",
            ),
            (Some(_), status) if status != IncidentStatus::Scheduled => refuse(
                ErrorKind::Invalid,
                "a `maintenance` is announced with the status `scheduled`, and begun by a later step",
            ),
            (Some(window), _) if window.lasts == Period::ZERO => {
                refuse(ErrorKind::Invalid, "the maintenance takes no time at all")
            }
            (Some(_), _) if !page.capabilities().maintenance => {
                refuse(ErrorKind::Unsupported, "the status page has no place for maintenances")
            }
            _ => Ok(()),
        }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<Option<Incident>> {
        let page = cx.backends().status_page()?;
        let update = IncidentUpdate::new(params.status, params.message.fill(cx));
        if mutation::on(Mutation::OpenTwice) {
            return page.open(&cx.call()?, &update).await.map(Some);
        }
        match Self::find(cx).await {
            Ok(Some(incident)) => page.update(&Self::call(cx)?, &incident.id, &update).await.map(Some),
            Ok(None) if update.status == IncidentStatus::Resolved => Ok(None),
            Err(e) if update.status == IncidentStatus::Resolved => Err(e),
            // Of several pages one may be down: opening adopts what there is, and reaches the others.
            Ok(None) | Err(_) => Self::begin(cx, params, &update).await.map(Some),
        }
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<Option<Incident>>> {
        // Doing it again finds the incident by its key.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &Params, _: Option<&Option<Incident>>) -> Result<()> {
        if mutation::on(Mutation::LeaveIncidentOpen) {
            return Ok(());
        }
        let page = cx.backends().status_page()?;
        if let Some(incident) = Self::find(cx).await? {
            let message = "The change was taken back; the version before it serves.";
            let update = IncidentUpdate::new(IncidentStatus::Resolved, message);
            page.update(&Self::call(cx)?, &incident.id, &update).await?;
        }
        Ok(())
    }
}
