use async_trait::async_trait;
use moodify_core::backend::{
    Incident, IncidentStatus, IncidentUpdate, Maintenance, StatusPage, StatusPageCapabilities,
};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, IdempotencyKey, Result};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Answer, Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::error;

const BACKEND: &str = "status page";

/// The runbook's own status page.
///
/// | Request | Body | Answer |
/// |---|---|---|
/// | `GET /api/incidents` | | the open incidents, `[{id, status, message, key}]`, also as `{"incidents": [...]}` |
/// | `POST /api/incidents` | `{status, message, key}` | the incident, with its `id` |
/// | `PATCH /api/incidents/{id}` | `{status, message}` | the incident; nothing is needed of it |
///
/// `key` is the idempotency key: the page keeps it and shows it in its list, so that the incident of a run that crashed
/// is found again. It also goes as the header `Idempotency-Key`, for pages that refuse doubles by themselves.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{HttpClient, RunbookStatusPage};
/// let page = RunbookStatusPage::new(HttpClient::new()?, "https://status.moodify.com", "the token".into())?;
/// assert!(!format!("{page:?}").contains("the token"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RunbookStatusPage {
    client: HttpClient,
    incidents: Endpoint,
    token: Secret,
}

impl RunbookStatusPage {
    /// The page at `url`, the part before `/api/incidents`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &str, token: Secret) -> Result<Self> {
        let endpoint =
            Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(Self { client, incidents: endpoint.below(&["api", "incidents"]), token })
    }

    async fn open_ones(&self, cx: &CallContext) -> Result<Vec<Listed>> {
        let call = Call::new(BACKEND, "list incidents", Method::GET, &self.incidents).token(Some(&self.token));
        let answer = self.client.send_ok(cx, &call).await?;
        let list = match answer.json(&call)? {
            List::Bare(list) | List::Wrapped { incidents: list } => list,
        };
        Ok(list.into_iter().filter(|incident| incident.status != Some(IncidentStatus::Resolved)).collect())
    }
}

#[async_trait]
impl StatusPage for RunbookStatusPage {
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(false)
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        if update.status == IncidentStatus::Scheduled {
            return Err(no_maintenance("open incident"));
        }
        if let Some(adopted) = self.find(cx).await? {
            return Ok(adopted);
        }
        let call = Call::new(BACKEND, "open incident", Method::POST, &self.incidents)
            .token(Some(&self.token))
            .key(cx.key())
            .json(&Sent { update, key: Some(cx.key()) })?;
        let answer = self.client.send_ok(cx, &call).await?;
        let id = answer.json::<Opened>(&call)?.id;
        let id = id_text(&id).ok_or_else(|| error::not_understood(&call, &answer, &"the incident has no `id`"))?;
        Ok(Incident::after(id, update))
    }

    async fn schedule(&self, _: &CallContext, _: &Maintenance) -> Result<Incident> {
        Err(no_maintenance("schedule maintenance"))
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let ours = |listed: &Listed| listed.key.as_deref() == Some(cx.key().as_str());
        let Some(found) = self.open_ones(cx).await?.into_iter().find(ours) else { return Ok(None) };
        let id = id_text(&found.id).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, BACKEND, "find incident", "our incident is listed without an `id`")
                .on(self.incidents.to_string())
        })?;
        // A page may know more states than we do; an open incident of ours is ours all the same.
        let status = found.status.unwrap_or(IncidentStatus::Investigating);
        Ok(Some(Incident { id, status, message: found.message.unwrap_or_default() }))
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        if update.status == IncidentStatus::Scheduled {
            return Err(no_maintenance("update incident"));
        }
        checked_id(BACKEND, "update incident", id)?;
        let same = |listed: &Listed| {
            id_text(&listed.id).as_deref() == Some(id)
                && listed.status == Some(update.status)
                && listed.message.as_ref() == Some(&update.message)
        };
        match self.open_ones(cx).await {
            // Customers are not told twice what they read already.
            Ok(open) if open.iter().any(same) => return Ok(Incident::after(id, update)),
            Ok(_) => {}
            // What was opened is closed, also while the list is out of order.
            Err(e) => tracing::debug!(error = %e, "updating without knowing what customers read now"),
        }
        let endpoint = self.incidents.below(&[id]);
        let call = Call::new(BACKEND, "update incident", Method::PATCH, &endpoint)
            .token(Some(&self.token))
            .json(&Sent { update, key: None })?;
        let _: Answer = self.client.send_ok(cx, &call).await?;
        Ok(Incident::after(id, update))
    }
}

fn no_maintenance(operation: &'static str) -> Error {
    let message = "the runbook's status page has no place for maintenances";
    Error::new(ErrorKind::Unsupported, BACKEND, operation, message).hint("open an incident when it begins")
}

/// An id that is one segment of a path, and not another path.
pub(crate) fn checked_id<'a>(backend: &'static str, operation: &'static str, id: &'a str) -> Result<&'a str> {
    if !matches!(id, "" | "." | "..") {
        return Ok(id);
    }
    Err(Error::new(ErrorKind::Invalid, backend, operation, format!("{id:?} is not an id")))
}

/// Refuses a maintenance that ends before it begins.
pub(crate) fn backwards(backend: &'static str, operation: &'static str, maintenance: &Maintenance) -> Result<()> {
    if maintenance.from < maintenance.until {
        return Ok(());
    }
    let Maintenance { from, until, .. } = maintenance;
    let message = format!("it would begin at {from} and end at {until}, which is not after it");
    Err(Error::new(ErrorKind::Invalid, backend, operation, message))
}

#[derive(Serialize)]
struct Sent<'a> {
    #[serde(flatten)]
    update: &'a IncidentUpdate,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a IdempotencyKey>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum List {
    Bare(Vec<Listed>),
    Wrapped { incidents: Vec<Listed> },
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    id: Value,
    #[serde(default, deserialize_with = "known_status")]
    status: Option<IncidentStatus>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize)]
struct Opened {
    #[serde(default)]
    id: Value,
}

/// An id, whether the page counts or names its incidents.
pub(crate) fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

fn known_status<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<IncidentStatus>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}
