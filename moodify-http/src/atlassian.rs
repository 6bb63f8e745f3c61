use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::backend::{
    Incident, IncidentStatus, IncidentUpdate, Maintenance, StatusPage, StatusPageCapabilities,
};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::pace::Pace;
use crate::status_page::{backwards, checked_id};
use crate::text::cut;

const BACKEND: &str = "Statuspage";

/// Where Atlassian serves the API.
const ADDRESS: &str = "https://api.statuspage.io/v1";

/// The published limit: one request a second for each key.
const INTERVAL: Duration = Duration::from_secs(1);

/// The published limits of what is written, in characters.
const NAME_LIMIT: usize = 255;
const BODY_LIMIT: usize = 25_000;

/// The largest page of a list. Newest first, it holds everything that a run may have opened.
const NEWEST: &str = "100";

/// A page of Atlassian Statuspage.
///
/// The idempotency key is kept in the incident's metadata, as `moodify.key`: customers do not see it, and the incident of a
/// run that crashed is found by it. The API has no other protection against doubles, so nothing is created before
/// the newest incidents were looked through.
///
/// Requests keep one second apart, as the published limit wants it; an answer of 420 or 429 is an error that says when to
/// come back. Share one value (it is cheap to clone) among all that use the same key.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{AtlassianStatuspage, HttpClient};
/// let page = AtlassianStatuspage::new(HttpClient::new()?, "kctbh9vrtdwd", "the key".into())?
///     .with_title("Deployment of moodify")
///     .with_components(["8kbf7d35c070"]);
/// assert!(!format!("{page:?}").contains("the key"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AtlassianStatuspage {
    client: HttpClient,
    incidents: Endpoint,
    page: String,
    key: Secret,
    title: String,
    components: Vec<String>,
    pace: Arc<Pace>,
}

impl AtlassianStatuspage {
    /// The page of that id, with an API key that may manage its incidents.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `page` is not an id.
    pub fn new(client: HttpClient, page: &str, key: Secret) -> Result<Self> {
        let page = checked_id(BACKEND, "set up", page).map_err(|e| e.on("page"))?.to_owned();
        let base = Endpoint::public(ADDRESS).map_err(|e| Error::new(ErrorKind::Internal, BACKEND, "set up", e))?;
        let incidents = base.below(&["pages", &page, "incidents"]);
        let (title, pace) = ("Deployment".to_owned(), Arc::new(Pace::new(INTERVAL)));
        Ok(Self { client, incidents, page, key, title, components: Vec::new(), pace })
    }

    /// The same at another address than Atlassian's, the part before `/pages`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn at(mut self, url: &str) -> Result<Self> {
        let base = Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        self.incidents = base.below(&["pages", &self.page, "incidents"]);
        Ok(self)
    }

    /// The same, which gives its incidents this title. By default `Deployment`.
    #[must_use]
    pub fn with_title(mut self, title: &str) -> Self {
        self.title = title.to_owned();
        self
    }

    /// The same, which shows these components as under maintenance while the incident is open, and as operational after
    /// it.
    #[must_use]
    pub fn with_components<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.components = ids.into_iter().map(Into::into).collect();
        self
    }

    /// The same, which lets so much time pass between two requests. By default one second.
    #[must_use]
    pub fn with_interval(mut self, every: Duration) -> Self {
        self.pace = Arc::new(Pace::new(every));
        self
    }

    fn call<'a>(&'a self, operation: &'static str, method: Method, endpoint: &'a Endpoint) -> Call<'a> {
        Call::new(BACKEND, operation, method, endpoint).prefixed_token("OAuth", &self.key)
    }

    async fn ask<T: DeserializeOwned>(&self, cx: &CallContext, call: &Call<'_>) -> Result<T> {
        self.pace.turn(cx, BACKEND, call.operation).await?;
        let answer = self.client.send_ok(cx, call).await.map_err(|e| match e.kind() {
            ErrorKind::Throttled if e.retry_after_of().is_none() => e.retry_after(INTERVAL),
            _ => e,
        })?;
        answer.json(call)
    }

    async fn create(&self, cx: &CallContext, operation: &'static str, mut incident: Value) -> Result<Incident> {
        if let Some(adopted) = self.find(cx).await? {
            return Ok(adopted);
        }
        incident["name"] = json!(cut(&self.title, NAME_LIMIT));
        // What is at the top of the metadata has to be an object.
        incident["metadata"] = json!({"moodify": {"key": cx.key(), "run": cx.run_id()}});
        if !self.components.is_empty() {
            incident["component_ids"] = json!(self.components);
        }
        let call = self.call(operation, Method::POST, &self.incidents).json(&json!({ "incident": incident }))?;
        self.ask::<Listed>(cx, &call).await.map(Listed::shown)
    }

    /// All components in this state.
    fn components(&self, state: &str) -> BTreeMap<&str, String> {
        self.components.iter().map(|id| (id.as_str(), state.to_owned())).collect()
    }
}

#[async_trait]
impl StatusPage for AtlassianStatuspage {
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(true)
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        let mut incident = json!({"status": word(update.status, false), "body": cut(&update.message, BODY_LIMIT)});
        if !self.components.is_empty() {
            incident["components"] = json!(self.components("under_maintenance"));
        }
        self.create(cx, "open incident", incident).await
    }

    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident> {
        const OPERATION: &str = "schedule maintenance";
        backwards(BACKEND, OPERATION, maintenance)?;
        let begun = maintenance.from <= SystemClock.now();
        // By its own clock the page begins and ends what a run that crashed cannot.
        let incident = json!({
            "status": if begun { "in_progress" } else { "scheduled" },
            "body": cut(&maintenance.message, BODY_LIMIT),
            "scheduled_for": maintenance.from,
            "scheduled_until": maintenance.until,
            "scheduled_auto_in_progress": true,
            "scheduled_auto_completed": true,
            "auto_transition_to_maintenance_state": true,
            "auto_transition_to_operational_state": true,
        });
        self.create(cx, OPERATION, incident).await
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let newest = self.incidents.with_query(&[("limit", NEWEST)]);
        let listed: Vec<Listed> = self.ask(cx, &self.call("list incidents", Method::GET, &newest)).await?;
        let ours = |incident: &Listed| incident.metadata["moodify"]["key"] == cx.key().as_str() && incident.is_open();
        Ok(listed.into_iter().find(ours).map(Listed::shown))
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        const OPERATION: &str = "update incident";
        let endpoint = self.incidents.below(&[checked_id(BACKEND, OPERATION, id)?]);
        let now: Listed = self.ask(cx, &self.call("read incident", Method::GET, &endpoint)).await?;
        let (status, body) = (word(update.status, now.scheduled_for.is_some()), cut(&update.message, BODY_LIMIT));
        // Subscribers are not mailed twice what they read already.
        if now.status == status && now.body() == Some(&body) {
            return Ok(Incident::after(id, update));
        }
        let mut incident = json!({"status": status, "body": body});
        if update.status == IncidentStatus::Resolved && !self.components.is_empty() {
            incident["components"] = json!(self.components("operational"));
        }
        let call = self.call(OPERATION, Method::PATCH, &endpoint).json(&json!({ "incident": incident }))?;
        let _: Value = self.ask(cx, &call).await?;
        Ok(Incident::after(id, update))
    }
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    status: String,
    #[serde(default)]
    scheduled_for: Option<String>,
    #[serde(default)]
    metadata: Value,
    /// The newest first.
    #[serde(default)]
    incident_updates: Vec<Update>,
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    body: Option<String>,
}

impl Listed {
    fn body(&self) -> Option<&String> {
        self.incident_updates.first()?.body.as_ref()
    }

    fn is_open(&self) -> bool {
        known(&self.status) != IncidentStatus::Resolved
    }

    fn shown(self) -> Incident {
        let message = self.body().cloned().unwrap_or_default();
        Incident { status: known(&self.status), message, id: self.id }
    }
}

/// The page's word for a status: of a maintenance it has others than of an incident.
fn word(status: IncidentStatus, maintenance: bool) -> &'static str {
    match (status, maintenance) {
        (IncidentStatus::Scheduled, _) => "scheduled",
        (IncidentStatus::Investigating, false) => "investigating",
        (IncidentStatus::Identified, false) => "identified",
        (IncidentStatus::Investigating | IncidentStatus::Identified, true) => "in_progress",
        (IncidentStatus::Monitoring, false) => "monitoring",
        (IncidentStatus::Monitoring, true) => "verifying",
        (IncidentStatus::Resolved, false) => "resolved",
        (IncidentStatus::Resolved, true) => "completed",
    }
}

fn known(word: &str) -> IncidentStatus {
    match word {
        "scheduled" => IncidentStatus::Scheduled,
        "identified" => IncidentStatus::Identified,
        "monitoring" | "verifying" => IncidentStatus::Monitoring,
        "resolved" | "completed" | "postmortem" => IncidentStatus::Resolved,
        // What is in progress, and whatever the page may know besides: it is not over.
        _ => IncidentStatus::Investigating,
    }
}
