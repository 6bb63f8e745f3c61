use std::sync::Arc;

use moodify_core::backend::StatusPage;
use moodify_core::model::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::alertmanager::AlertmanagerSilence;
use crate::atlassian::AtlassianStatuspage;
use crate::cachet::CachetPage;
use crate::client::HttpClient;
use crate::status_page::RunbookStatusPage;

/// What kind of status page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StatusPageKind {
    /// The runbook's own.
    #[default]
    Runbook,
    /// Atlassian Statuspage.
    Statuspage,
    /// Cachet.
    Cachet,
    /// A silence in Alertmanager for as long as the incident is open.
    Alertmanager,
}

/// A status page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct StatusPageConfig {
    /// What kind of page it is; left out, the runbook's own.
    pub kind: StatusPageKind,
    /// The address: the part before `/api`, and of Statuspage that before `/pages`, where it may be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The environment variable that holds the token or key. Only an `alertmanager` may do without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The id of a `statuspage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// The title of the incidents of a `statuspage` or `cachet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The ids of the components of a `statuspage` that are under maintenance meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Which alerts an `alertmanager` silences: `namespace=production`, or with `=~`, `!=` or `!~`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matchers: Vec<String>,
    /// How long the silence of an `alertmanager` lasts after the run spoke last; by default two hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Period>,
}

impl StatusPageConfig {
    /// The runbook's own page at `url`, whose token is in the environment variable `token_env`.
    #[must_use]
    pub fn new(url: &str, token_env: &str) -> Self {
        Self { url: Some(url.to_owned()), token_env: Some(token_env.to_owned()), ..Self::default() }
    }

    /// The page of that id at Statuspage, whose API key is in the environment variable `key_env`.
    #[must_use]
    pub fn statuspage(page: &str, key_env: &str) -> Self {
        let (page, token_env) = (Some(page.to_owned()), Some(key_env.to_owned()));
        Self { kind: StatusPageKind::Statuspage, page, token_env, ..Self::default() }
    }

    /// The Cachet at `url`, whose token is in the environment variable `token_env`.
    #[must_use]
    pub fn cachet(url: &str, token_env: &str) -> Self {
        Self { kind: StatusPageKind::Cachet, ..Self::new(url, token_env) }
    }

    /// Silences at the Alertmanager at `url` for the alerts that all of these match.
    #[must_use]
    pub fn alertmanager<T: Into<String>>(url: &str, matchers: impl IntoIterator<Item = T>) -> Self {
        let (url, matchers) = (Some(url.to_owned()), matchers.into_iter().map(Into::into).collect());
        Self { kind: StatusPageKind::Alertmanager, url, matchers, ..Self::default() }
    }

    /// What is set that this kind does not have.
    fn idle(&self) -> impl Iterator<Item = &'static str> + use<> {
        use StatusPageKind::{Alertmanager, Cachet, Statuspage};
        let kind = self.kind;
        let set = [
            ("page", self.page.is_some(), [Statuspage].as_slice()),
            ("title", self.title.is_some(), &[Statuspage, Cachet]),
            ("components", !self.components.is_empty(), &[Statuspage]),
            ("matchers", !self.matchers.is_empty(), &[Alertmanager]),
            ("lasts", self.lasts.is_some(), &[Alertmanager]),
        ];
        set.into_iter().filter(move |(_, set, of)| *set && !of.contains(&kind)).map(|(field, ..)| field)
    }
}

impl Reader<'_> {
    pub(super) fn status_page(
        &mut self,
        client: Option<&HttpClient>,
        place: &str,
        config: &StatusPageConfig,
    ) -> Option<Arc<dyn StatusPage>> {
        let at = |field: &str| format!("{place}.{field}");
        for field in config.idle() {
            self.problem(&at(field), "this kind of status page has no such setting", "leave it out");
        }
        let kind = config.kind;
        let url = match &config.url {
            Some(url) => self.address(&at("url"), url).map(Some),
            None if kind == StatusPageKind::Statuspage => Some(None),
            None => self.required(&at("url"), None).map(Some),
        };
        if kind == StatusPageKind::Alertmanager {
            return self.silence(client, place, config, url.flatten());
        }
        let token = self.required(&at("token-env"), config.token_env.as_deref());
        let token = token.and_then(|variable| self.secret(&at("token-env"), variable));
        if kind == StatusPageKind::Statuspage {
            let page = self.required(&at("page"), config.page.as_deref());
            let made = AtlassianStatuspage::new(client?.clone(), page?, token?);
            let mut made = self.keep(&at("page"), made)?;
            if let Some(url) = url? {
                made = self.keep(&at("url"), made.at(url))?;
            }
            if let Some(title) = &config.title {
                made = made.with_title(title);
            }
            return Some(Arc::new(made.with_components(config.components.clone())));
        }
        let (client, url, token) = (client?.clone(), url??, token?);
        if kind == StatusPageKind::Cachet {
            let made = self.keep(place, CachetPage::new(client, url, token))?;
            return Some(Arc::new(match &config.title {
                Some(title) => made.with_title(title),
                None => made,
            }));
        }
        Some(Arc::new(self.keep(place, RunbookStatusPage::new(client, url, token))?))
    }

    fn silence(
        &mut self,
        client: Option<&HttpClient>,
        place: &str,
        config: &StatusPageConfig,
        url: Option<&str>,
    ) -> Option<Arc<dyn StatusPage>> {
        let token = self.optional_secret(&format!("{place}.token-env"), config.token_env.as_deref());
        let at = format!("{place}.matchers");
        let read: Vec<_> = config.matchers.iter().map(|text| self.keep(&at, text.parse())).collect();
        let matchers: Option<Vec<_>> = read.into_iter().collect();
        let lasts = config.lasts;
        if lasts == Some(Period::ZERO) {
            self.problem(&format!("{place}.lasts"), "a silence of no time silences nothing", "write it like 2h");
        }
        let mut silence = self.keep(&at, AlertmanagerSilence::new(client?.clone(), url?, matchers?))?;
        if let Some(lasts) = lasts {
            silence = silence.lasting(lasts.get());
        }
        Some(Arc::new(match token? {
            Some(token) => silence.with_token(token),
            None => silence,
        }))
    }
}
