use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;

const BACKEND: &str = "webhook";

/// Tells a program: `POST {title, body, urgency, run, key}`, with the key also as the header `Idempotency-Key`, so that
/// the receiver can drop what it was told already. `urgency` is `info`, `warning` or `critical`.
///
/// Nothing of the address but its host is ever shown: such addresses are often secrets themselves.
#[derive(Debug, Clone)]
pub struct WebhookNotifier {
    client: HttpClient,
    endpoint: Endpoint,
    token: Option<Secret>,
}

impl WebhookNotifier {
    /// A notifier that posts to `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &Secret) -> Result<Self> {
        let endpoint =
            Endpoint::secret(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(Self { client, endpoint, token: None })
    }

    /// The same, which sends a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }
}

#[async_trait]
impl Notifier for WebhookNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let Notification { title, body, urgency } = notification;
        let call = Call::new(BACKEND, "notify", Method::POST, &self.endpoint)
            .token(self.token.as_ref())
            .key(cx.key())
            .json(&json!({
                "title": title, "body": body, "urgency": urgency,
                "run": cx.run_id(), "key": cx.key(),
            }))?;
        self.client.send_ok(cx, &call).await.map(drop)
    }
}
