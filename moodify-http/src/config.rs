use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use moodify_core::backend::Notifier;
use moodify_core::model::Period;
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{Backends, Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::HttpClient;
use crate::endpoint::Endpoint;
use crate::json::{JsonMetric, JsonSource, JsonUnit};
use crate::probe::HttpProbe;
use crate::prometheus::PrometheusSource;
use crate::slack::SlackNotifier;
use crate::status_page::RunbookStatusPage;
use crate::webhook::WebhookNotifier;

/// Everything of this crate, as configuration. It holds no secret: `*-env` names the environment variable that does.
///
/// ```yaml
/// ca-file: /etc/ssl/moodify-ca.pem
/// prometheus:
///   url: https://prometheus.moodify.com
///   token-env: PROMETHEUS_TOKEN
///   queries:
///     queue-length: sum(queue_length{namespace="{{namespace}}",version="{{version}}"})
/// json:
///   metrics:
///     error-rate: {url: "https://api.moodify.com/metrics/error-rate", unit: percent, mixed: true}
/// status-page: {url: https://status.moodify.com, token-env: STATUS_TOKEN}
/// notifiers:
///   team: {kind: slack, url-env: SLACK_WEBHOOK}
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct HttpConfig {
    /// A PEM file of certificates to trust besides those that the machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The metric source `prometheus`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusConfig>,
    /// The metric source `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonConfig>,
    /// The status page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_page: Option<StatusPageConfig>,
    /// The notifiers, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notifiers: BTreeMap<String, NotifierConfig>,
    /// The probe, which needs no configuration to be there.
    pub probe: ProbeConfig,
}

/// A Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct PrometheusConfig {
    /// The address under which its own page is found.
    pub url: String,
    /// The environment variable that holds the bearer token, if it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Queries by metric, besides or instead of those for `error-rate` and `latency-p95`. In them `{{namespace}}`,
    /// `{{service}}`, `{{workload}}`, `{{track}}`, `{{version}}` and `{{window}}` are filled in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub queries: BTreeMap<String, String>,
}

impl PrometheusConfig {
    /// The Prometheus at `url`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), token_env: None, queries: BTreeMap::new() }
    }
}

/// Metrics from endpoints that answer with JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, Eq)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct JsonConfig {
    /// Where each metric is found. Checks with a query of their own, `URL#/json/pointer`, need no entry.
    pub metrics: BTreeMap<String, JsonMetricConfig>,
}

/// Where one metric is found, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct JsonMetricConfig {
    /// The address; the same is filled in as in a query.
    pub url: String,
    /// Where in the answer, as a JSON pointer; empty for the whole answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// In what it is reported.
    #[serde(default)]
    pub unit: JsonUnit,
    /// That the address need not tell versions apart: the canary is judged by the figure of all versions together.
    #[serde(default)]
    pub mixed: bool,
    /// The environment variable that holds the bearer token, if it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
}

impl JsonMetricConfig {
    /// A fraction or plain number that is the whole answer of `url`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), pointer: String::new(), unit: JsonUnit::default(), mixed: false, token_env: None }
    }
}

/// The runbook's own status page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct StatusPageConfig {
    /// The address, the part before `/api/incidents`.
    pub url: String,
    /// The environment variable that holds the bearer token.
    pub token_env: String,
}

impl StatusPageConfig {
    /// The page at `url`, whose token is in the environment variable `token_env`.
    #[must_use]
    pub fn new(url: &str, token_env: &str) -> Self {
        Self { url: url.to_owned(), token_env: token_env.to_owned() }
    }
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotifierKind {
    /// A Slack channel, by an incoming webhook.
    Slack,
    /// A program that takes JSON.
    Webhook,
}

/// A notifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct NotifierConfig {
    /// Who is told.
    pub kind: NotifierKind,
    /// The environment variable that holds the address, which is a secret for Slack and often elsewhere.
    pub url_env: String,
    /// The environment variable that holds the bearer token, if a `webhook` wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
}

impl NotifierConfig {
    /// A notifier whose address is in the environment variable `url_env`.
    #[must_use]
    pub fn new(kind: NotifierKind, url_env: &str) -> Self {
        Self { kind, url_env: url_env.to_owned(), token_env: None }
    }
}

/// The probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ProbeConfig {
    /// An endpoint that takes longer is unhealthy; by default the deadline of the step decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

impl HttpConfig {
    /// The same with this Prometheus.
    #[must_use]
    pub fn with_prometheus(mut self, prometheus: PrometheusConfig) -> Self {
        self.prometheus = Some(prometheus);
        self
    }

    /// The same with `metric` from a JSON endpoint.
    #[must_use]
    pub fn with_json_metric(mut self, metric: &str, config: JsonMetricConfig) -> Self {
        self.json.get_or_insert_default().metrics.insert(metric.to_owned(), config);
        self
    }

    /// The same with this status page.
    #[must_use]
    pub fn with_status_page(mut self, page: StatusPageConfig) -> Self {
        self.status_page = Some(page);
        self
    }

    /// The same with one notifier more.
    #[must_use]
    pub fn with_notifier(mut self, name: &str, notifier: NotifierConfig) -> Self {
        self.notifiers.insert(name.to_owned(), notifier);
        self
    }

    /// The same, trusting the certificates in a PEM file too.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// What the environment configures: `MOODIFY_CA_FILE`, `MOODIFY_PROMETHEUS_URL` with `MOODIFY_PROMETHEUS_TOKEN`,
    /// `MOODIFY_STATUS_PAGE_URL` with `MOODIFY_STATUS_PAGE_TOKEN`, the notifier `slack` by `MOODIFY_SLACK_WEBHOOK`, and
    /// the notifier `webhook` by `MOODIFY_WEBHOOK_URL` with `MOODIFY_WEBHOOK_TOKEN`. What is not set is not configured.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_lookup(&process_env)
    }

    /// The same from any lookup of variables.
    #[must_use]
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let name_if_set = |name: &str| value(name).map(|_| name.to_owned());
        let mut config = Self { ca_file: value("MOODIFY_CA_FILE").map(PathBuf::from), ..Self::default() };
        config.prometheus = value("MOODIFY_PROMETHEUS_URL").map(|url| PrometheusConfig {
            token_env: name_if_set("MOODIFY_PROMETHEUS_TOKEN"),
            ..PrometheusConfig::new(&url)
        });
        config.status_page =
            value("MOODIFY_STATUS_PAGE_URL").map(|url| StatusPageConfig::new(&url, "MOODIFY_STATUS_PAGE_TOKEN"));
        if let Some(name) = name_if_set("MOODIFY_SLACK_WEBHOOK") {
            config = config.with_notifier("slack", NotifierConfig::new(NotifierKind::Slack, &name));
        }
        if let Some(name) = name_if_set("MOODIFY_WEBHOOK_URL") {
            let mut webhook = NotifierConfig::new(NotifierKind::Webhook, &name);
            webhook.token_env = name_if_set("MOODIFY_WEBHOOK_TOKEN");
            config = config.with_notifier("webhook", webhook);
        }
        config
    }

    /// Builds all that is configured, and the probe, and puts it among the backends; what had the same name there is
    /// replaced. Nobody is asked anything yet.
    ///
    /// # Errors
    /// Every problem found, each naming its place in the configuration; then `backends` is unchanged.
    pub fn install(&self, backends: &mut Backends) -> Result<(), Vec<Error>> {
        self.install_with(backends, &process_env)
    }

    /// The same, with secrets from any lookup of variables instead of the process' environment.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn install_with(
        &self,
        backends: &mut Backends,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), Vec<Error>> {
        let mut reader = Reader { lookup, problems: Vec::new() };
        let client = match &self.ca_file {
            Some(path) => HttpClient::with_ca_file(path),
            None => HttpClient::new(),
        };
        // A client that cannot be built must not hide the other problems: the rest is read anyway.
        let client = client.map_err(|e| reader.problems.push(e)).ok();
        let prometheus = self.prometheus.as_ref().and_then(|config| reader.prometheus(client.as_ref(), config));
        let json = self.json.as_ref().and_then(|config| reader.json(client.as_ref(), config));
        let page = self.status_page.as_ref().and_then(|config| reader.status_page(client.as_ref(), config));
        let mut notifiers = BTreeMap::new();
        for (name, config) in &self.notifiers {
            if let Some(notifier) = reader.notifier(client.as_ref(), name, config) {
                notifiers.insert(name.clone(), notifier);
            }
        }
        if self.probe.timeout == Some(Period::ZERO) {
            reader.problem("probe.timeout", "no endpoint answers in no time", "leave it out, or write it like 10s");
        }
        let (Some(client), true) = (client, reader.problems.is_empty()) else { return Err(reader.problems) };

        let mut probe = HttpProbe::new(client);
        if let Some(timeout) = self.probe.timeout {
            probe = probe.with_timeout(timeout.get());
        }
        backends.probe = Some(Arc::new(probe));
        if let Some(source) = prometheus {
            backends.metrics.insert("prometheus".to_owned(), Arc::new(source));
        }
        if let Some(source) = json {
            backends.metrics.insert("json".to_owned(), Arc::new(source));
        }
        if let Some(page) = page {
            backends.status_page = Some(Arc::new(page));
        }
        backends.notifiers.append(&mut notifiers);
        Ok(())
    }
}

fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a configuration and collects what is wrong with it.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Error>,
}

impl Reader<'_> {
    fn prometheus(&mut self, client: Option<&HttpClient>, config: &PrometheusConfig) -> Option<PrometheusSource> {
        let token = self.optional_secret("prometheus.token-env", config.token_env.as_deref());
        let url = self.address("prometheus.url", &config.url);
        for (metric, query) in &config.queries {
            if query.trim().is_empty() {
                self.problem(&format!("prometheus.queries.{metric}"), "the query is empty", "write one in PromQL");
            }
        }
        let mut source = self.keep("prometheus", PrometheusSource::new(client?.clone(), url?))?;
        for (metric, query) in &config.queries {
            source = source.with_query(metric, query);
        }
        Some(match token? {
            Some(token) => source.with_token(token),
            None => source,
        })
    }

    fn json(&mut self, client: Option<&HttpClient>, config: &JsonConfig) -> Option<JsonSource> {
        let mut metrics = Vec::new();
        for (name, metric) in &config.metrics {
            let place = |field: &str| format!("json.metrics.{name}.{field}");
            let token = self.optional_secret(&place("token-env"), metric.token_env.as_deref());
            // What is filled in later has no influence on whether this is an address.
            let plain = metric.url.replace("{{", "").replace("}}", "");
            self.address(&place("url"), &plain);
            if !metric.pointer.is_empty() && !metric.pointer.starts_with('/') {
                self.problem(&place("pointer"), "it is not a JSON pointer", "it is like /error_rate, or left out");
            }
            let found = JsonMetric::new(&metric.url).at(&metric.pointer).in_unit(metric.unit).mixed(metric.mixed);
            metrics.push((
                name,
                match token.flatten() {
                    Some(token) => found.with_token(token),
                    None => found,
                },
            ));
        }
        let source = JsonSource::new(client?.clone());
        Some(metrics.into_iter().fold(source, |source, (name, metric)| source.with_metric(name, metric)))
    }

    fn status_page(&mut self, client: Option<&HttpClient>, config: &StatusPageConfig) -> Option<RunbookStatusPage> {
        let token = self.secret("status-page.token-env", &config.token_env);
        let url = self.address("status-page.url", &config.url);
        self.keep("status-page", RunbookStatusPage::new(client?.clone(), url?, token?))
    }

    fn notifier(
        &mut self,
        client: Option<&HttpClient>,
        name: &str,
        config: &NotifierConfig,
    ) -> Option<Arc<dyn Notifier>> {
        let place = |field: &str| format!("notifiers.{name}.{field}");
        let url = self.secret(&place("url-env"), &config.url_env);
        let token = self.optional_secret(&place("token-env"), config.token_env.as_deref());
        if config.kind == NotifierKind::Slack && config.token_env.is_some() {
            let hint = "leave it out: the address of a Slack hook is its own secret";
            self.problem(&place("token-env"), "Slack takes no token", hint);
        }
        let (client, url) = (client?.clone(), url?);
        let place = place("url-env");
        Some(match config.kind {
            NotifierKind::Slack => Arc::new(self.keep(&place, SlackNotifier::new(client, &url))?),
            NotifierKind::Webhook => {
                let webhook = self.keep(&place, WebhookNotifier::new(client, &url))?;
                match token? {
                    Some(token) => Arc::new(webhook.with_token(token)),
                    None => Arc::new(webhook),
                }
            }
        })
    }

    /// An address without secrets in it.
    fn address<'u>(&mut self, place: &str, url: &'u str) -> Option<&'u str> {
        let endpoint = match Endpoint::public(url) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                self.problem(place, &why, "mend the address");
                return None;
            }
        };
        if endpoint.has_password() {
            let hint = "secrets stay out of configuration: use `token-env`";
            self.problem(place, "the address holds a user or a password", hint);
            return None;
        }
        Some(url)
    }

    /// `None` is a problem; `Some(None)` is no secret.
    fn optional_secret(&mut self, place: &str, variable: Option<&str>) -> Option<Option<Secret>> {
        match variable {
            None => Some(None),
            Some(variable) => self.secret(place, variable).map(Some),
        }
    }

    fn secret(&mut self, place: &str, variable: &str) -> Option<Secret> {
        // `var` panics on some names, and whoever writes the secret itself here should not see it printed.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(is_name) {
            let hint = "write the variable's name, not the secret itself";
            self.problem(place, "this is not the name of an environment variable", hint);
            return None;
        }
        let found = (self.lookup)(variable).map(Secret::from);
        // Files and shells like to end in a newline, which no header can carry.
        let trimmed = found.map(|secret| Secret::from(secret.expose_secret().trim()));
        let secret = trimmed.filter(|secret| !secret.expose_secret().is_empty());
        if secret.is_none() {
            let hint = "set it where moodify runs";
            self.problem(place, &format!("the environment variable {variable} is not set, or empty"), hint);
        }
        secret
    }

    fn problem(&mut self, place: &str, message: &str, hint: &str) {
        let error = Error::new(ErrorKind::Invalid, "http", "read configuration", message).on(place).hint(hint);
        self.problems.push(error);
    }

    fn keep<T>(&mut self, place: &str, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.problems.push(e.on(place))).ok()
    }
}
