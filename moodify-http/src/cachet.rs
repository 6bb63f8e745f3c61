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
use crate::error;
use crate::status_page::{backwards, checked_id, id_text};

const BACKEND: &str = "Cachet";

/// Newest first, so many hold everything that a run may have opened.
const NEWEST: [(&str, &str); 3] = [("sort", "id"), ("order", "desc"), ("per_page", "100")];

/// Ends what customers read. Cachet has no place for a key, but its messages are Markdown, in which this is a comment.
const MARKER: &str = "\n\n[//]: # (moodify ";

/// A Cachet status page, by its API of version 1 (Cachet 2.3 and 2.4).
///
/// The idempotency key is kept in the message, as a comment that customers do not see; by it the incident of a run that
/// crashed is found. A maintenance is an incident with the status that Cachet calls scheduled, its time in the text.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{CachetPage, HttpClient};
/// let page = CachetPage::new(HttpClient::new()?, "https://status.moodify.com", "the token".into())?;
/// assert!(!format!("{page:?}").contains("the token"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CachetPage {
    client: HttpClient,
    incidents: Endpoint,
    token: Secret,
    title: String,
}

impl CachetPage {
    /// The page at `url`, the part before `/api/v1`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &str, token: Secret) -> Result<Self> {
        let base = Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(Self { client, incidents: base.below(&["api", "v1", "incidents"]), token, title: "Deployment".to_owned() })
    }

    /// The same, which gives its incidents this title. By default `Deployment`.
    #[must_use]
    pub fn with_title(mut self, title: &str) -> Self {
        self.title = title.to_owned();
        self
    }

    fn call<'a>(&'a self, operation: &'static str, method: Method, endpoint: &'a Endpoint) -> Call<'a> {
        Call::new(BACKEND, operation, method, endpoint).token_header("x-cachet-token", &self.token)
    }

    async fn ask<T: DeserializeOwned>(&self, cx: &CallContext, call: &Call<'_>) -> Result<T> {
        let answer = self.client.send_ok(cx, call).await?;
        answer.json::<Wrapped<T>>(call).map(|answer| answer.data)
    }

    async fn create(
        &self,
        cx: &CallContext,
        operation: &'static str,
        update: &IncidentUpdate,
        more: &str,
    ) -> Result<Incident> {
        if let Some(adopted) = self.find(cx).await? {
            return Ok(adopted);
        }
        let call = self.call(operation, Method::POST, &self.incidents).json(&json!({
            "name": self.title,
            "message": marked(&update.message, cx) + more,
            "status": number(update.status),
            "visible": 1,
        }))?;
        let answer = self.client.send_ok(cx, &call).await?;
        let made: Wrapped<Listed> = answer.json(&call)?;
        let id = id_text(&made.data.id);
        let id = id.ok_or_else(|| error::not_understood(&call, &answer, &"the incident has no `id`"))?;
        Ok(Incident::after(id, update))
    }
}

#[async_trait]
impl StatusPage for CachetPage {
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(true)
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        self.create(cx, "open incident", update, "").await
    }

    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident> {
        const OPERATION: &str = "schedule maintenance";
        backwards(BACKEND, OPERATION, maintenance)?;
        let Maintenance { from, until, message, .. } = maintenance;
        let begun = *from <= SystemClock.now();
        let status = if begun { IncidentStatus::Investigating } else { IncidentStatus::Scheduled };
        let time = format!("\n\nFrom {} to {} UTC.", from.strftime("%F %H:%M"), until.strftime("%F %H:%M"));
        self.create(cx, OPERATION, &IncidentUpdate::new(status, message), &time).await
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let newest = self.incidents.with_query(&NEWEST);
        let listed: Vec<Listed> = self.ask(cx, &self.call("list incidents", Method::GET, &newest)).await?;
        let ours = |incident: &Listed| incident.key() == Some(cx.key().as_str()) && incident.is_open();
        Ok(listed.iter().find(|incident| ours(incident)).and_then(Listed::shown))
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        const OPERATION: &str = "update incident";
        let endpoint = self.incidents.below(&[checked_id(BACKEND, OPERATION, id)?]);
        let now: Listed = self.ask(cx, &self.call("read incident", Method::GET, &endpoint)).await?;
        // Subscribers are not mailed twice what they read already.
        if now.shown().is_some_and(|shown| shown.says(update)) {
            return Ok(Incident::after(id, update));
        }
        let call = self.call(OPERATION, Method::PUT, &endpoint).json(&json!({
            "name": self.title,
            "message": marked(&update.message, cx) + now.times(),
            "status": number(update.status),
            "visible": 1,
        }))?;
        let _: Value = self.ask(cx, &call).await?;
        Ok(Incident::after(id, update))
    }
}

fn marked(message: &str, cx: &CallContext) -> String {
    format!("{message}{MARKER}{})", cx.key())
}

#[derive(Deserialize)]
struct Wrapped<T> {
    data: T,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    message: Option<String>,
}

impl Listed {
    /// The message as customers read it, and the key after it.
    fn parts(&self) -> (&str, Option<&str>) {
        let all = self.message.as_deref().unwrap_or_default();
        match all.rsplit_once(MARKER) {
            Some((message, rest)) => (message, rest.lines().next().and_then(|line| line.trim_end().strip_suffix(')'))),
            None => (all, None),
        }
    }

    fn key(&self) -> Option<&str> {
        self.parts().1
    }

    /// What stands behind the key: from when to when a maintenance is, which every update leaves there.
    fn times(&self) -> &str {
        let after_key = self.message.as_deref().and_then(|all| Some(all.rsplit_once(MARKER)?.1));
        after_key.and_then(|rest| Some(&rest[rest.find('\n')?..])).unwrap_or_default()
    }

    fn status(&self) -> IncidentStatus {
        match id_text(&self.status).as_deref() {
            Some("0") => IncidentStatus::Scheduled,
            Some("2") => IncidentStatus::Identified,
            Some("3") => IncidentStatus::Monitoring,
            Some("4") => IncidentStatus::Resolved,
            _ => IncidentStatus::Investigating,
        }
    }

    fn is_open(&self) -> bool {
        self.status() != IncidentStatus::Resolved
    }

    fn shown(&self) -> Option<Incident> {
        Some(Incident { id: id_text(&self.id)?, status: self.status(), message: self.parts().0.to_owned() })
    }
}

/// Cachet's number of a status.
fn number(status: IncidentStatus) -> u8 {
    match status {
        IncidentStatus::Scheduled => 0,
        IncidentStatus::Investigating => 1,
        IncidentStatus::Identified => 2,
        IncidentStatus::Monitoring => 3,
        IncidentStatus::Resolved => 4,
    }
}
