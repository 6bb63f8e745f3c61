use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier};
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use ring::digest;
use serde_json::json;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::text::{cut, one_line};

const BACKEND: &str = "PagerDuty";

const ADDRESS: &str = "https://events.pagerduty.com/v2/enqueue";

/// The published limits, in characters.
const SUMMARY_LIMIT: usize = 1024;
const KEY_LIMIT: usize = 255;
/// An event may have 512 KB; nobody reads as much.
const BODY_LIMIT: usize = 20_000;

/// Wakes people by `PagerDuty`, through the Events API of version 2.
///
/// A message triggers an alert; those on one topic of a run are one alert (`dedup_key`), which a resolved one resolves.
/// Without a topic a message sent again is still the same alert. The severity is the urgency.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{HttpClient, PagerDutyNotifier};
/// let pager = PagerDutyNotifier::new(HttpClient::new()?, "the integration's key".into())?.from_source("moodify.com");
/// assert!(!format!("{pager:?}").contains("the integration's key"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PagerDutyNotifier {
    client: HttpClient,
    endpoint: Endpoint,
    key: Secret,
    source: String,
}

impl PagerDutyNotifier {
    /// A notifier with the integration key of a service (its `routing_key`).
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the address is none.
    pub fn new(client: HttpClient, key: Secret) -> Result<Self> {
        let endpoint = Endpoint::public(ADDRESS).map_err(|e| Error::new(ErrorKind::Internal, BACKEND, "set up", e))?;
        Ok(Self { client, endpoint, key, source: "moodify".to_owned() })
    }

    /// The same at another address: of who speaks the same API.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn at(mut self, url: &str) -> Result<Self> {
        self.endpoint =
            Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(self)
    }

    /// The same, which says that this is what is affected. By default `moodify`.
    #[must_use]
    pub fn from_source(mut self, source: &str) -> Self {
        self.source = source.to_owned();
        self
    }
}

#[async_trait]
impl Notifier for PagerDutyNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let action = if notification.resolved { "resolve" } else { "trigger" };
        let mut event = json!({
            "routing_key": self.key.expose_secret(),
            "event_action": action,
            "dedup_key": shortened(&notification.alert(cx), KEY_LIMIT),
            "client": "moodify",
            "payload": {
                "summary": cut(&one_line(&notification.title), SUMMARY_LIMIT),
                "source": self.source,
                "severity": notification.urgency,
                "custom_details": {
                    "body": cut(&notification.body, BODY_LIMIT), "run": cx.run_id(), "key": cx.key(),
                },
            },
        });
        if let Some(link) = &notification.link {
            event["links"] = json!([{"href": link, "text": "More"}]);
        }
        let call = Call::new(BACKEND, action, Method::POST, &self.endpoint).json(&event)?;
        self.client.send_ok(cx, &call).await.map(drop)
    }
}

/// A name of at most so many characters, which is still another for another name.
pub(crate) fn shortened(name: &str, limit: usize) -> String {
    if name.chars().nth(limit).is_none() {
        return name.to_owned();
    }
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    let hex: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = name.chars().take(limit - hex.len() - 1).collect();
    format!("{kept}-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart() {
        assert_eq!(shortened("r1/release", KEY_LIMIT), "r1/release");
        let (one, other) = ("ä".repeat(300) + "1", "ä".repeat(300) + "2");
        assert_eq!(shortened(&one, KEY_LIMIT).chars().count(), KEY_LIMIT);
        assert_eq!(shortened(&one, KEY_LIMIT), shortened(&one, KEY_LIMIT));
        assert_ne!(shortened(&one, KEY_LIMIT), shortened(&other, KEY_LIMIT));
    }
}
