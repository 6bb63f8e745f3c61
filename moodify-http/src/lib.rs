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
//! | [`SlackNotifier`], [`WebhookNotifier`] | `Notifier` | chat, and programs |
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

mod client;
mod config;
mod endpoint;
mod error;
mod json;
mod probe;
mod prometheus;
mod slack;
mod status_page;
mod webhook;

pub use client::HttpClient;
pub use config::{
    HttpConfig, JsonConfig, JsonMetricConfig, NotifierConfig, NotifierKind, ProbeConfig, PrometheusConfig,
    StatusPageConfig,
};
pub use json::{JsonMetric, JsonSource, JsonUnit};
pub use probe::HttpProbe;
pub use prometheus::PrometheusSource;
pub use slack::SlackNotifier;
pub use status_page::RunbookStatusPage;
pub use webhook::WebhookNotifier;
