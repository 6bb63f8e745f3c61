mod notifier;
mod reader;
mod status_page;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use moodify_core::backend::{StatusPage, StatusPages};
use moodify_core::model::Period;
use moodify_core::{Backends, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::HttpClient;
use crate::json::{JsonMetric, JsonSource, JsonUnit};
use crate::probe::HttpProbe;
use crate::prometheus::PrometheusSource;
pub use notifier::{MailConfig, NotifierConfig, NotifierKind, SmtpSecurity};
use reader::Reader;
pub use status_page::{StatusPageConfig, StatusPageKind};

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
/// status-pages:
///   alerts: {kind: alertmanager, url: "http://alertmanager:9093", matchers: [namespace=moodify-production]}
/// notifiers:
///   chat: {kind: slack, url-env: SLACK_WEBHOOK}
///   pager: {kind: pagerduty, token-env: PAGERDUTY_KEY}
///   mail: {kind: mail, mail: {server: mail.moodify.com, from: deploy@moodify.com, to: [team@moodify.com]}}
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
    /// Further ones, by name: what is said is said on all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status_pages: BTreeMap<String, StatusPageConfig>,
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

    /// The same with one status page more.
    #[must_use]
    pub fn and_status_page(mut self, name: &str, page: StatusPageConfig) -> Self {
        self.status_pages.insert(name.to_owned(), page);
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

    /// What the environment configures; what is not set is not configured.
    ///
    /// | Variables | Configure |
    /// |---|---|
    /// | `MOODIFY_CA_FILE` | certificates to trust |
    /// | `MOODIFY_PROMETHEUS_URL`, `MOODIFY_PROMETHEUS_TOKEN` | the metric source `prometheus` |
    /// | `MOODIFY_STATUS_PAGE_URL`, `MOODIFY_STATUS_PAGE_TOKEN` | the runbook's own status page |
    /// | `MOODIFY_STATUSPAGE_PAGE`, `MOODIFY_STATUSPAGE_KEY` | the status page `statuspage` |
    /// | `MOODIFY_CACHET_URL`, `MOODIFY_CACHET_TOKEN` | the status page `cachet` |
    /// | `MOODIFY_SLACK_WEBHOOK`, `MOODIFY_TEAMS_WEBHOOK` | the notifiers `slack` and `teams` |
    /// | `MOODIFY_WEBHOOK_URL`, `MOODIFY_WEBHOOK_TOKEN`, `MOODIFY_WEBHOOK_SECRET` | the notifier `webhook` |
    /// | `MOODIFY_PAGERDUTY_KEY`, `MOODIFY_OPSGENIE_KEY` | the notifiers `pagerduty` and `opsgenie` |
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
        if let Some(page) = value("MOODIFY_STATUSPAGE_PAGE") {
            config =
                config.and_status_page("statuspage", StatusPageConfig::statuspage(&page, "MOODIFY_STATUSPAGE_KEY"));
        }
        if let Some(url) = value("MOODIFY_CACHET_URL") {
            config = config.and_status_page("cachet", StatusPageConfig::cachet(&url, "MOODIFY_CACHET_TOKEN"));
        }
        for (name, kind) in [("slack", NotifierKind::Slack), ("teams", NotifierKind::Teams)] {
            if let Some(variable) = name_if_set(&format!("MOODIFY_{}_WEBHOOK", name.to_uppercase())) {
                config = config.with_notifier(name, NotifierConfig::new(kind, &variable));
            }
        }
        if let Some(name) = name_if_set("MOODIFY_WEBHOOK_URL") {
            let mut webhook = NotifierConfig::new(NotifierKind::Webhook, &name);
            webhook.token_env = name_if_set("MOODIFY_WEBHOOK_TOKEN");
            webhook.secret_env = name_if_set("MOODIFY_WEBHOOK_SECRET");
            config = config.with_notifier("webhook", webhook);
        }
        for (name, kind) in [("pagerduty", NotifierKind::Pagerduty), ("opsgenie", NotifierKind::Opsgenie)] {
            if let Some(variable) = name_if_set(&format!("MOODIFY_{}_KEY", name.to_uppercase())) {
                config = config.with_notifier(name, NotifierConfig::pager(kind, &variable));
            }
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
        let mut pages: BTreeMap<&str, Arc<dyn StatusPage>> = BTreeMap::new();
        let first = self.status_page.iter().map(|config| ("status-page", "status-page".to_owned(), config));
        let more =
            self.status_pages.iter().map(|(name, config)| (name.as_str(), format!("status-pages.{name}"), config));
        for (name, place, config) in first.chain(more) {
            if let Some(page) = reader.status_page(client.as_ref(), &place, config) {
                pages.insert(name, page);
            }
        }
        let mut notifiers = BTreeMap::new();
        for (name, config) in &self.notifiers {
            if let Some(notifier) = reader.notifier(client.as_ref(), self.ca_file.as_deref(), name, config) {
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
        match pages.len() {
            0 => {}
            1 => backends.status_page = pages.into_values().next(),
            _ => {
                let all = pages.into_iter().fold(StatusPages::default(), |all, (name, page)| all.with(name, page));
                backends.status_page = Some(Arc::new(all));
            }
        }
        backends.notifiers.append(&mut notifiers);
        Ok(())
    }
}

fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
}
