//! What moodify reaches over plain HTTP: metrics, probes, status pages, notifiers.
//!
//! Every backend here is built on one [`HttpClient`], by hand or from a [`HttpConfig`], which puts all that it names
//! into a [`Backends`](moodify_core::Backends):
//!
//! | Backend | Trait | Speaks to |
//! |---|---|---|
//! | [`PrometheusSource`] | `MetricSource`, `"prometheus"` | `/api/v1/query` of Prometheus and what imitates it |
//! | [`JsonSource`] | `MetricSource`, `"json"` | any endpoint that answers with JSON |
//! | [`HttpProbe`] | `Probe` | any endpoint |
//! | [`RunbookStatusPage`] | `StatusPage` | the runbook's own status page |
//! | [`AtlassianStatuspage`], [`CachetPage`] | `StatusPage` | Atlassian Statuspage, Cachet |
//! | [`AlertmanagerSilence`] | `StatusPage` | Alertmanager: silent while the incident is open |
//! | [`SlackNotifier`], [`TeamsNotifier`] | `Notifier` | chat |
//! | [`PagerDutyNotifier`], [`OpsgenieNotifier`] | `Notifier` | who wakes people |
//! | [`WebhookNotifier`] | `Notifier` | programs, signed if they share a secret |
//! | `SmtpNotifier`, with the feature `smtp` | `Notifier` | mail servers |
//!
//! # Promises
//! - A call ends by its context's deadline or cancellation. Nothing is repeated: retries belong to the step's policy.
//! - Redirects are not followed, so that no credential reaches a host that nobody named; an error says where one led.
//! - TLS is verified against the machine's trusted certificates and, if given, a file of further ones. No process-wide
//!   TLS provider is installed or needed. As `curl` does, the client honours `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
//! - Bodies are read up to 4 MiB.
//! - Tokens, passwords, values of URL queries, and whole webhook addresses appear in no error and no `Debug` output.
//!
//! ```
//! # fn main() -> Result<(), Vec<moodify_core::Error>> {
//! use moodify_core::Backends;
//! use moodify_http::{HttpConfig, PrometheusConfig};
//! let mut backends = Backends::default();
//! HttpConfig::default().with_prometheus(PrometheusConfig::new("http://127.0.0.1:9090")).install(&mut backends)?;
//! assert!(backends.metric_source("prometheus").is_ok());
//! # Ok(())
//! # }
//! ```

mod alertmanager;
mod atlassian;
mod cachet;
mod client;
mod config;
mod endpoint;
mod error;
mod json;
mod opsgenie;
mod pace;
mod pagerduty;
mod probe;
mod prometheus;
mod signature;
mod slack;
#[cfg(feature = "smtp")]
mod smtp;
mod status_page;
mod teams;
mod text;
mod webhook;

pub use alertmanager::{AlertmanagerSilence, Matcher};
pub use atlassian::AtlassianStatuspage;
pub use cachet::CachetPage;
pub use client::HttpClient;
pub use config::{
    HttpConfig, JsonConfig, JsonMetricConfig, MailConfig, NotifierConfig, NotifierKind, ProbeConfig, PrometheusConfig,
    SmtpSecurity, StatusPageConfig, StatusPageKind,
};
pub use json::{JsonMetric, JsonSource, JsonUnit};
pub use opsgenie::OpsgenieNotifier;
pub use pagerduty::PagerDutyNotifier;
pub use probe::HttpProbe;
pub use prometheus::PrometheusSource;
pub use signature::{SIGNATURE_HEADER, verify_signature};
pub use slack::SlackNotifier;
#[cfg(feature = "smtp")]
pub use smtp::SmtpNotifier;
pub use status_page::RunbookStatusPage;
pub use teams::TeamsNotifier;
pub use webhook::WebhookNotifier;
