use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use super::{Incident, IncidentStatus, IncidentUpdate, Maintenance, StatusPage, StatusPageCapabilities};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};

const BACKEND: &str = "status pages";

/// Several status pages as one: what is said is said on all of them, at once. One that is down keeps nothing from the
/// others; the call then fails with its error, and done again, it reaches who was not reached.
///
/// ```
/// # use std::sync::Arc;
/// # fn both(public: Arc<dyn moodify_core::backend::StatusPage>, silence: Arc<dyn moodify_core::backend::StatusPage>) {
/// use moodify_core::backend::StatusPages;
/// let pages = StatusPages::default().with("public", public).with("alerts", silence);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StatusPages {
    pages: BTreeMap<String, Arc<dyn StatusPage>>,
}

/// The ids of one incident, by page.
type Ids = BTreeMap<String, String>;

impl StatusPages {
    /// The same with one page more, by a name that stays the same: it is part of the incidents' ids.
    #[must_use]
    pub fn with(mut self, name: &str, page: Arc<dyn StatusPage>) -> Self {
        self.pages.insert(name.to_owned(), page);
        self
    }

    /// Asks all pages at once, and waits for all.
    async fn all<'a, T, F: Future<Output = Result<T>>>(
        &'a self,
        ask: impl Fn(&'a str, &'a dyn StatusPage) -> F,
    ) -> (BTreeMap<&'a str, T>, Option<Error>) {
        let asked = self.pages.iter().map(|(name, page)| ask(name, page.as_ref()));
        let (mut answers, mut failed) = (BTreeMap::new(), None);
        for (name, answer) in self.pages.keys().zip(join_all(asked).await) {
            match answer {
                Ok(answer) => drop(answers.insert(name.as_str(), answer)),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        (answers, failed)
    }

    /// The pages that can announce maintenances. Where none can, the first one says so.
    fn with_maintenance(&self) -> Self {
        let able = |page: &Arc<dyn StatusPage>| page.capabilities().maintenance;
        match self.pages.values().any(able) {
            true => {
                let pages = self.pages.iter().filter(|(_, page)| able(page));
                Self { pages: pages.map(|(name, page)| (name.clone(), page.clone())).collect() }
            }
            false => self.clone(),
        }
    }
}

/// The incidents of several pages as one, if there are any. It stands where the first one stands.
fn joined(incidents: &BTreeMap<&str, Incident>) -> Option<Incident> {
    let (_, first) = incidents.iter().next()?;
    let ids: BTreeMap<&str, &str> = incidents.iter().map(|(name, incident)| (*name, incident.id.as_str())).collect();
    let id = serde_json::to_string(&ids).ok()?;
    Some(Incident { id, ..first.clone() })
}

fn at_least_one(incidents: &BTreeMap<&str, Incident>, operation: &'static str) -> Result<Incident> {
    joined(incidents).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, BACKEND, operation, "there is no page among the status pages")
    })
}

#[async_trait]
impl StatusPage for StatusPages {
    /// What at least one of them can do; the others are left out of it.
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(self.pages.values().any(|page| page.capabilities().maintenance))
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        let (opened, failed) = self.all(|_, page| page.open(cx, update)).await;
        failed.map_or_else(|| at_least_one(&opened, "open incident"), Err)
    }

    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident> {
        let able = self.with_maintenance();
        let (opened, failed) = able.all(|_, page| page.schedule(cx, maintenance)).await;
        failed.map_or_else(|| at_least_one(&opened, "schedule maintenance"), Err)
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let (found, failed) = self.all(|_, page| page.find(cx)).await;
        let found = found.into_iter().filter_map(|(name, found)| Some((name, found?))).collect();
        // One page's incident is enough to go on with; none is not to be told from one that could not be seen.
        match (joined(&found), failed) {
            (None, Some(e)) => Err(e),
            (found, _) => Ok(found),
        }
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        let ids: Ids = serde_json::from_str(id).map_err(|_| {
            let message = format!("there is no incident {id:?}: it would name an id for each page");
            Error::new(ErrorKind::NotFound, BACKEND, "update incident", message)
        })?;
        let (updated, failed) = self.all(|name, page| one(cx, page, ids.get(name), update)).await;
        if let Some(e) = failed {
            return Err(e);
        }
        let updated = updated.into_iter().filter_map(|(name, updated)| Some((name, updated?))).collect();
        at_least_one(&updated, "update incident")
    }
}

/// Updates the incident on one page; opens it where the page was down, or new, when it was opened elsewhere.
async fn one(
    cx: &CallContext,
    page: &dyn StatusPage,
    id: Option<&String>,
    update: &IncidentUpdate,
) -> Result<Option<Incident>> {
    let found = match id {
        Some(id) => Some(id.clone()),
        None => page.find(cx).await?.map(|incident| incident.id),
    };
    match found {
        Some(id) => page.update(cx, &id, update).await.map(Some),
        None if matches!(update.status, IncidentStatus::Resolved | IncidentStatus::Scheduled) => Ok(None),
        None => page.open(cx, update).await.map(Some),
    }
}
