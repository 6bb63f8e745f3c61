use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::signature::{SIGNATURE_HEADER, sign};

const BACKEND: &str = "webhook";

/// Tells a program: `POST {title, body, urgency, run, key}`, with the key also as the header `Idempotency-Key`, so that
/// the receiver can drop what it was told already. `urgency` is `info`, `warning` or `critical`. Where the message has
/// them, there are also `link`, `topic` and `resolved`, and `alert`, the name that all messages of a run on one topic
/// share.
///
/// With a secret every request is signed: the header `X-Moodify-Signature` is `t=SECONDS,v1=HEX`, HMAC-SHA256 over the time
/// and the body, as [`verify_signature`](crate::verify_signature) explains and verifies.
///
/// Nothing of the address but its host is ever shown: such addresses are often secrets themselves.
#[derive(Debug, Clone)]
pub struct WebhookNotifier {
    client: HttpClient,
    endpoint: Endpoint,
    token: Option<Secret>,
    secret: Option<Secret>,
}

impl WebhookNotifier {
    /// A notifier that posts to `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &Secret) -> Result<Self> {
        let endpoint =
            Endpoint::secret(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(Self { client, endpoint, token: None, secret: None })
    }

    /// The same, which sends a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// The same, which signs what it sends under this secret.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }
}

#[async_trait]
impl Notifier for WebhookNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let mut message = serde_json::to_value(notification).unwrap_or_default();
        message["run"] = json!(cx.run_id());
        message["key"] = json!(cx.key());
        if notification.topic.is_some() {
            message["alert"] = json!(notification.alert(cx));
        }
        let mut call = Call::new(BACKEND, "notify", Method::POST, &self.endpoint)
            .token(self.token.as_ref())
            .key(cx.key())
            .json(&message)?;
        if let (Some(secret), Some((_, body))) = (&self.secret, &call.body) {
            let signature = sign(secret, SystemClock.now(), body.as_bytes());
            call = call.header(SIGNATURE_HEADER, signature);
        }
        self.client.send_ok(cx, &call).await.map(drop)
    }
}
