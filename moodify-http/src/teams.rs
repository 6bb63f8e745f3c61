use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::text::{cut, one_line};

const BACKEND: &str = "Teams";

/// Teams refuses messages above 28 KB; so many characters fit whatever they are.
const BODY_LIMIT: usize = 3000;
const TITLE_LIMIT: usize = 500;

/// Tells people in a channel of Microsoft Teams, by the webhook of a workflow ("post to a channel when a webhook request is
/// received"), as an adaptive card.
///
/// The hook's address is a secret: who knows it can write to the channel. Nothing but its host is ever shown. It has no
/// place for an idempotency key, so a message can arrive twice after a timeout.
#[derive(Debug, Clone)]
pub struct TeamsNotifier {
    client: HttpClient,
    endpoint: Endpoint,
}

impl TeamsNotifier {
    /// A notifier that posts to the workflow's webhook at `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &Secret) -> Result<Self> {
        let endpoint =
            Endpoint::secret(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        Ok(Self { client, endpoint })
    }
}

#[async_trait]
impl Notifier for TeamsNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let card = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": card(notification),
            }],
        });
        let call = Call::new(BACKEND, "notify", Method::POST, &self.endpoint).json(&card)?;
        self.client.send_ok(cx, &call).await.map(drop)
    }
}

/// The message as a card. Its texts are runs, in which no markup is read.
fn card(notification: &Notification) -> Value {
    let (mark, color) = match notification.urgency {
        _ if notification.resolved => ("Resolved: ", "Good"),
        Urgency::Info => ("", "Default"),
        Urgency::Warning => ("Warning: ", "Warning"),
        Urgency::Critical => ("Critical: ", "Attention"),
    };
    let title = cut(&format!("{mark}{}", one_line(&notification.title)), TITLE_LIMIT);
    let run = |run: Value| json!({"type": "RichTextBlock", "inlines": [run]});
    let mut body =
        vec![run(json!({"type": "TextRun", "text": title, "weight": "Bolder", "size": "Medium", "color": color}))];
    if !notification.body.is_empty() {
        body.push(run(json!({"type": "TextRun", "text": cut(&notification.body, BODY_LIMIT)})));
    }
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    });
    if let Some(link) = &notification.link {
        card["actions"] = json!([{"type": "Action.OpenUrl", "title": "More", "url": link}]);
    }
    card
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_message_fits() {
        let worst = "\u{1}\u{1f6a8}".repeat(20_000);
        let card = card(&Notification::new(worst.clone()).with_body(worst)).to_string();
        assert!(card.len() < 28_000, "{}", card.len());
    }
}
