use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::pagerduty::shortened;
use crate::text::{self, cut, one_line};

const BACKEND: &str = "Opsgenie";

const ADDRESS: &str = "https://api.opsgenie.com";

/// The published limits, in characters.
const MESSAGE_LIMIT: usize = 130;
const ALIAS_LIMIT: usize = 512;
const DESCRIPTION_LIMIT: usize = 15_000;

/// Wakes people by Opsgenie, or by what speaks its Alert API.
///
/// A message creates an alert; those on one topic of a run are one alert (`alias`), which a resolved one closes. Urgency
/// `critical` is priority P1, `warning` P3, `info` P5. A title that is too long for the alert's message stands whole in
/// its description.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{HttpClient, OpsgenieNotifier};
/// let pager = OpsgenieNotifier::new(HttpClient::new()?, "the key".into())?.at("https://api.eu.opsgenie.com")?;
/// assert!(!format!("{pager:?}").contains("the key"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct OpsgenieNotifier {
    client: HttpClient,
    alerts: Endpoint,
    key: Secret,
}

impl OpsgenieNotifier {
    /// A notifier with the key of an API integration.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the address is none.
    pub fn new(client: HttpClient, key: Secret) -> Result<Self> {
        let base = Endpoint::public(ADDRESS).map_err(|e| Error::new(ErrorKind::Internal, BACKEND, "set up", e))?;
        Ok(Self { client, alerts: base.below(&["v2", "alerts"]), key })
    }

    /// The same at another address, the part before `/v2`: in Europe, or of who speaks the same API.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn at(mut self, url: &str) -> Result<Self> {
        let base = Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        self.alerts = base.below(&["v2", "alerts"]);
        Ok(self)
    }
}

#[async_trait]
impl Notifier for OpsgenieNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let alias = shortened(&notification.alert(cx), ALIAS_LIMIT);
        let title = one_line(&notification.title);
        if notification.resolved {
            let endpoint = self.alerts.below(&[&alias, "close"]).with_query(&[("identifierType", "alias")]);
            let said = format!("{title}\n{}", notification.body);
            let call = Call::new(BACKEND, "close alert", Method::POST, &endpoint)
                .prefixed_token("GenieKey", &self.key)
                .json(&json!({"source": "moodify", "note": cut(&said, DESCRIPTION_LIMIT)}))?;
            return self.client.send_ok(cx, &call).await.map(drop);
        }
        let priority = match notification.urgency {
            Urgency::Info => "P5",
            Urgency::Warning => "P3",
            Urgency::Critical => "P1",
        };
        let rest = text::body(notification, DESCRIPTION_LIMIT - title.chars().count().min(DESCRIPTION_LIMIT / 2));
        let long = title.chars().nth(MESSAGE_LIMIT).is_some();
        let description = if long { format!("{title}\n{rest}") } else { rest };
        let call = Call::new(BACKEND, "create alert", Method::POST, &self.alerts)
            .prefixed_token("GenieKey", &self.key)
            .json(&json!({
                "message": cut(&title, MESSAGE_LIMIT),
                "alias": alias,
                "description": cut(&description, DESCRIPTION_LIMIT),
                "priority": priority,
                "source": "moodify",
                "details": {"run": cx.run_id(), "key": cx.key()},
            }))?;
        self.client.send_ok(cx, &call).await.map(drop)
    }
}
