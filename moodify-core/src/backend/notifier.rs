use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::secret;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Good to know.
    #[default]
    Info,
    /// Look at it soon.
    Warning,
    /// Wake somebody.
    Critical,
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// Who is to be told (runbook: who hears of a deployment). By which notifiers, the environment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// Who develops and deploys.
    Team,
    /// Who has to answer for the product.
    Stakeholders,
    /// Who talks with customers.
    Support,
    /// Who is woken.
    OnCall,
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Team => "team",
            Self::Stakeholders => "stakeholders",
            Self::Support => "support",
            Self::OnCall => "on-call",
        })
    }
}

/// The address of a page that a message points to. Messages are read by many, so it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Link(String);

/// What the names of query parameters contain whose values are secrets.
const TELLING: [&str; 10] =
    ["token", "key", "secret", "sig", "password", "passwd", "pwd", "auth", "credential", "session"];

impl Link {
    /// A link, if `url` can be shown to everybody.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it is no `http` address, it holds a user or a password, a query parameter
    /// that is named like a secret, or a value that the process knows as one.
    ///
    /// ```
    /// use moodify_core::backend::Link;
    /// assert!(Link::new("https://grafana.example/d/release?var-run=r1").is_ok());
    /// assert!(Link::new("https://me:hunter2@grafana.example/").is_err());
    /// assert!(Link::new("https://grafana.example/d/release?auth_token=1").is_err());
    /// ```
    pub fn new(url: &str) -> std::result::Result<Self, String> {
        let rest = ["https://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or("a link begins with https:// or http://")?;
        if url.chars().any(|c| c.is_whitespace() || c.is_control() || "<>\"`|".contains(c)) {
            return Err("a link holds neither spaces nor any of <>\"`|; write them as %20 and so on".to_owned());
        }
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("a link holds no user and no password: everybody reads it".to_owned());
        }
        if authority.is_empty() {
            return Err("a link names a host".to_owned());
        }
        let parameters = path.find(['?', '#']).map_or("", |at| &path[at..]).split(['?', '&', ';', '#']);
        let mut names = parameters.filter_map(|parameter| parameter.split_once('=')).map(|(name, _)| name);
        if let Some(name) = names.find(|name| TELLING.iter().any(|part| name.to_ascii_lowercase().contains(part))) {
            return Err(format!(
                "a link holds no secret, and the parameter {name:?} looks like one: everybody reads it"
            ));
        }
        if secret::redact(url) != url {
            return Err("a link holds no secret, and this one does: everybody reads it".to_owned());
        }
        Ok(Self(url.to_owned()))
    }

    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(url: String) -> std::result::Result<Self, String> {
        Self::new(&url)
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.0
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// One line.
    pub title: String,
    /// The rest.
    #[serde(default)]
    pub body: String,
    /// How much it matters.
    #[serde(default)]
    pub urgency: Urgency,
    /// Where there is more to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// What it is about. All that a run says on one topic is one alert where the channel has alerts; left out, every
    /// message is one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// That what it is about is over: closes the alert of its topic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
}

impl Notification {
    /// A message of one line, that is good to know.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// The same with more to read.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// The same, mattering so much.
    #[must_use]
    pub fn with_urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = urgency;
        self
    }

    /// The same with a link.
    #[must_use]
    pub fn with_link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// The same on a topic.
    #[must_use]
    pub fn on_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// The same, saying that it is over.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        self.resolved = true;
        self
    }

    /// The name of the alert that it is a part of, where the channel has alerts: that of its topic in this run, else its
    /// own idempotency key.
    #[must_use]
    pub fn alert(&self, cx: &CallContext) -> String {
        match &self.topic {
            Some(topic) => format!("{}/{topic}", cx.run_id()),
            None => cx.key().to_string(),
        }
    }
}

/// Tells people.
///
/// # Contract
/// - Delivered at least once; the idempotency key goes with the message where the channel has a place for it.
/// - What the channel refuses is an error, never a silent success.
/// - A message that is too long for the channel is cut, and says so; its title is whole.
/// - Where the channel has alerts, all messages on one topic of a run are one alert, and a resolved one closes it.
///   Elsewhere a resolved one is a message like any other.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Notifier: Send + Sync + fmt::Debug {
    /// Sends one message.
    ///
    /// # Errors
    /// When the channel cannot be reached or refuses.
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_hold_secrets_are_refused_without_repeating_them() {
        let _known = secret::Secret::from("planted-for-links");
        for bad in [
            "grafana.example/d",
            "ftp://grafana.example/planted",
            "https://",
            "https://planted@host/",
            "https://host/a b?planted",
            "https://host/?api_key=planted",
            "https://host/x?a=1;X-Amz-Signature=planted",
            "https://host/#access_token=planted",
            "https://host/planted-for-links",
        ] {
            let why = Link::new(bad).unwrap_err();
            assert!(!why.contains("planted"), "{why}");
            assert!(serde_json::from_value::<Link>(serde_json::json!(bad)).is_err());
        }
        for good in ["http://host:3000", "https://host/a?run=r1&from=now-1h#panel=3", "https://host/@me"] {
            assert_eq!(Link::new(good).unwrap().as_str(), good);
        }
    }
}
