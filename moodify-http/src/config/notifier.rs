use std::path::Path;
use std::sync::Arc;

use moodify_core::backend::Notifier;
use moodify_core::secret::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::client::HttpClient;
use crate::opsgenie::OpsgenieNotifier;
use crate::pagerduty::PagerDutyNotifier;
use crate::slack::SlackNotifier;
use crate::teams::TeamsNotifier;
use crate::webhook::WebhookNotifier;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotifierKind {
    /// A Slack channel, by an incoming webhook.
    Slack,
    /// A channel of Microsoft Teams, by a workflow's webhook.
    Teams,
    /// A program that takes JSON.
    Webhook,
    /// `PagerDuty`, by its Events API.
    Pagerduty,
    /// Opsgenie, by its Alert API.
    Opsgenie,
    /// People, by e-mail. Needs the feature `smtp`.
    Mail,
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SmtpSecurity {
    /// TLS from the first byte, usually on port 465.
    #[default]
    Tls,
    /// TLS after the command `STARTTLS`, usually on port 587; a server that does not offer it is refused.
    Starttls,
    /// None: for a server on this machine.
    None,
}

/// How mail is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct MailConfig {
    /// The name of the mail server.
    pub server: String,
    /// Its port; by default the usual one for the security: 465, 587 or 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub security: SmtpSecurity,
    /// The sender's address.
    pub from: String,
    /// The receivers' addresses.
    pub to: Vec<String>,
    /// Who logs in, with the password in `token-env`; left out, nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A notifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct NotifierConfig {
    /// Who is told.
    pub kind: NotifierKind,
    /// The environment variable that holds the address of a `slack`, `teams` or `webhook`, which often is a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// Another address of a `pagerduty` or `opsgenie` than the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable that holds the key of a `pagerduty` or `opsgenie`, the password for `mail`, or the bearer
    /// token if a `webhook` wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The environment variable that holds the secret under which what a `webhook` is sent is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// What a `pagerduty` is told is affected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How `mail` is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailConfig>,
}

impl NotifierConfig {
    /// A notifier whose address is in the environment variable `url_env`.
    #[must_use]
    pub fn new(kind: NotifierKind, url_env: &str) -> Self {
        let (url_env, none) = (Some(url_env.to_owned()), None);
        Self { kind, url_env, url: None, token_env: None, secret_env: None, source: None, mail: none }
    }

    /// A pager whose key is in the environment variable `key_env`.
    #[must_use]
    pub fn pager(kind: NotifierKind, key_env: &str) -> Self {
        Self { url_env: None, token_env: Some(key_env.to_owned()), ..Self::new(kind, "") }
    }

    /// What is set that this kind does not have.
    fn idle(&self) -> impl Iterator<Item = &'static str> + use<> {
        use NotifierKind::{Mail, Opsgenie, Pagerduty, Slack, Teams, Webhook};
        let kind = self.kind;
        let set = [
            ("url-env", self.url_env.is_some(), [Slack, Teams, Webhook].as_slice()),
            ("url", self.url.is_some(), &[Pagerduty, Opsgenie]),
            ("token-env", self.token_env.is_some(), &[Webhook, Pagerduty, Opsgenie, Mail]),
            ("secret-env", self.secret_env.is_some(), &[Webhook]),
            ("source", self.source.is_some(), &[Pagerduty]),
            ("mail", self.mail.is_some(), &[Mail]),
        ];
        set.into_iter().filter(move |(_, set, of)| *set && !of.contains(&kind)).map(|(field, ..)| field)
    }
}

impl Reader<'_> {
    pub(super) fn notifier(
        &mut self,
        client: Option<&HttpClient>,
        ca_file: Option<&Path>,
        name: &str,
        config: &NotifierConfig,
    ) -> Option<Arc<dyn Notifier>> {
        let place = |field: &str| format!("notifiers.{name}.{field}");
        for field in config.idle() {
            let hint = match field {
                "token-env" => "leave it out: the address of such a hook is its own secret",
                _ => "leave it out",
            };
            self.problem(&place(field), "this kind of notifier has no such setting", hint);
        }
        match config.kind {
            NotifierKind::Slack | NotifierKind::Teams | NotifierKind::Webhook => {
                let url = self.required(&place("url-env"), config.url_env.as_deref());
                let url = url.and_then(|variable| self.secret(&place("url-env"), variable));
                self.hook(client, name, config, url.as_ref())
            }
            NotifierKind::Pagerduty | NotifierKind::Opsgenie => {
                let key = self.required(&place("token-env"), config.token_env.as_deref());
                let key = key.and_then(|variable| self.secret(&place("token-env"), variable));
                let url = match &config.url {
                    Some(url) => self.address(&place("url"), url).map(Some),
                    None => Some(None),
                };
                self.pager(client, name, config, key, url?)
            }
            NotifierKind::Mail => self.mail(ca_file, name, config),
        }
    }

    fn hook(
        &mut self,
        client: Option<&HttpClient>,
        name: &str,
        config: &NotifierConfig,
        url: Option<&Secret>,
    ) -> Option<Arc<dyn Notifier>> {
        let place = |field: &str| format!("notifiers.{name}.{field}");
        let webhook = config.kind == NotifierKind::Webhook;
        let token = self.optional_secret(&place("token-env"), config.token_env.as_deref().filter(|_| webhook));
        let secret = self.optional_secret(&place("secret-env"), config.secret_env.as_deref().filter(|_| webhook));
        let (client, url) = (client?.clone(), url?);
        let place = place("url-env");
        Some(match config.kind {
            NotifierKind::Slack => Arc::new(self.keep(&place, SlackNotifier::new(client, url))?),
            NotifierKind::Teams => Arc::new(self.keep(&place, TeamsNotifier::new(client, url))?),
            _ => {
                let mut webhook = self.keep(&place, WebhookNotifier::new(client, url))?;
                if let Some(token) = token? {
                    webhook = webhook.with_token(token);
                }
                if let Some(secret) = secret? {
                    webhook = webhook.with_secret(secret);
                }
                Arc::new(webhook)
            }
        })
    }

    fn pager(
        &mut self,
        client: Option<&HttpClient>,
        name: &str,
        config: &NotifierConfig,
        key: Option<Secret>,
        url: Option<&str>,
    ) -> Option<Arc<dyn Notifier>> {
        let place = format!("notifiers.{name}.url");
        let (client, key) = (client?.clone(), key?);
        if config.kind == NotifierKind::Opsgenie {
            let mut pager = self.keep(&place, OpsgenieNotifier::new(client, key))?;
            if let Some(url) = url {
                pager = self.keep(&place, pager.at(url))?;
            }
            return Some(Arc::new(pager));
        }
        let mut pager = self.keep(&place, PagerDutyNotifier::new(client, key))?;
        if let Some(url) = url {
            pager = self.keep(&place, pager.at(url))?;
        }
        Some(Arc::new(match &config.source {
            Some(source) => pager.from_source(source),
            None => pager,
        }))
    }

    #[cfg(feature = "smtp")]
    fn mail(&mut self, ca_file: Option<&Path>, name: &str, config: &NotifierConfig) -> Option<Arc<dyn Notifier>> {
        use crate::smtp::SmtpNotifier;

        let place = |field: &str| format!("notifiers.{name}.{field}");
        let password = self.optional_secret(&place("token-env"), config.token_env.as_deref());
        let Some(mail) = &config.mail else {
            self.problem(&place("mail"), "it is missing", "name server, sender and receivers");
            return None;
        };
        if mail.user.is_some() != config.token_env.is_some() {
            let hint = "name both, or neither if the server wants nobody to log in";
            self.problem(&place("mail.user"), "a user goes with a password in `token-env`", hint);
        }
        self.required(&place("mail.server"), Some(&mail.server))?;
        let usual = match mail.security {
            SmtpSecurity::Tls => 465,
            SmtpSecurity::Starttls => 587,
            SmtpSecurity::None => 25,
        };
        let to: Vec<&str> = mail.to.iter().map(String::as_str).collect();
        let made = SmtpNotifier::new(&mail.server, mail.port.unwrap_or(usual), mail.security, &mail.from, &to);
        let made = made.map_err(|e| {
            let field = place(&format!("mail.{}", e.target()));
            self.problems.push(e.on(field));
        });
        let mut made = made.ok()?;
        if let Some(path) = ca_file {
            // That it cannot be read was said already, where the client was built.
            made = made.with_ca_file(path).ok()?;
        }
        Some(Arc::new(match (&mail.user, password?) {
            (Some(user), Some(password)) => made.with_credentials(user, password),
            _ => made,
        }))
    }

    #[cfg(not(feature = "smtp"))]
    fn mail(&mut self, _: Option<&Path>, name: &str, _: &NotifierConfig) -> Option<Arc<dyn Notifier>> {
        let hint = "build moodify-http with the feature `smtp`";
        self.problem(&format!("notifiers.{name}.kind"), "this program cannot send mail", hint);
        None
    }
}
