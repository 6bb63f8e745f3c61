use async_trait::async_trait;
use moodify_core::backend::{Notification, Notifier, Urgency};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::text::{cut, one_line};

const BACKEND: &str = "slack";

/// Slack advises against longer texts, and cuts them anywhere above ten times this.
const TEXT_LIMIT: usize = 4000;

/// Tells people in a Slack channel, by an incoming webhook; Mattermost and others understand the same.
///
/// The hook's address is a secret: who knows it can write to the channel. Nothing but its host is ever shown. Incoming
/// webhooks have no place for an idempotency key, so a message can arrive twice after a timeout.
#[derive(Debug, Clone)]
pub struct SlackNotifier {
    client: HttpClient,
    endpoint: Endpoint,
}

impl SlackNotifier {
    /// A notifier that posts to the hook at `url`.
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
impl Notifier for SlackNotifier {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let call =
            Call::new(BACKEND, "notify", Method::POST, &self.endpoint).json(&json!({ "text": text(notification) }))?;
        self.client.send_ok(cx, &call).await.map(drop)
    }
}

/// The message in Slack's own markup.
fn text(notification: &Notification) -> String {
    let mark = match notification.urgency {
        _ if notification.resolved => ":white_check_mark: ",
        Urgency::Info => "",
        Urgency::Warning => ":warning: ",
        Urgency::Critical => ":rotating_light: ",
    };
    let (title, body) = (one_line(&notification.title), &notification.body);
    let text = if body.is_empty() { format!("{mark}*{title}*") } else { format!("{mark}*{title}*\n{body}") };
    // Otherwise `<!channel>` in somebody's error message would wake the whole company.
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = escaped(&cut(&text, TEXT_LIMIT));
    match &notification.link {
        Some(link) => format!("{text}\n<{}>", escaped(link.as_str())),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use moodify_core::backend::Link;

    use super::*;

    #[test]
    fn a_message_is_marked_escaped_and_cut() {
        let mut notification =
            Notification::new("5xx > 5 %").with_body("<!channel> & co").with_urgency(Urgency::Critical);
        assert_eq!(text(&notification), ":rotating_light: *5xx &gt; 5 %*\n&lt;!channel&gt; &amp; co");
        notification.body = "ä".repeat(10_000);
        assert_eq!(text(&notification).replace("&gt;", ">").chars().count(), TEXT_LIMIT);
        notification = Notification::new("done").with_link(Link::new("https://host/?a=1&b=2").unwrap());
        assert_eq!(text(&notification), "*done*\n<https://host/?a=1&amp;b=2>");
        assert_eq!(text(&Notification::new("done").resolved()), ":white_check_mark: *done*");
    }
}
