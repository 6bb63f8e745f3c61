use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use moodify_core::backend::{Measurement, MetricQuery, MetricSource};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::error;

const BACKEND: &str = "json";

/// In what an endpoint reports its figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JsonUnit {
    /// A fraction of one, or a plain number: taken as it is.
    #[default]
    Fraction,
    /// Percent: 12 becomes 0.12.
    Percent,
    /// Seconds: taken as they are.
    Seconds,
    /// Milliseconds: 250 becomes 0.25 seconds.
    Millis,
}

impl JsonUnit {
    /// The figure as moodify compares it: a fraction, seconds, or a plain number.
    fn convert(self, value: f64) -> f64 {
        match self {
            Self::Fraction | Self::Seconds => value,
            Self::Percent => value / 100.0,
            Self::Millis => value / 1000.0,
        }
    }
}

/// Where one metric is found, and how it is read.
#[derive(Clone)]
pub struct JsonMetric {
    url: String,
    pointer: String,
    unit: JsonUnit,
    mixed: bool,
    token: Option<Secret>,
}

impl JsonMetric {
    /// A metric that is the whole answer of an endpoint. In `url`, `{{namespace}}`, `{{service}}`, `{{workload}}`,
    /// `{{track}}`, `{{version}}` and `{{window}}` are filled in.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), pointer: String::new(), unit: JsonUnit::default(), mixed: false, token: None }
    }

    /// The same, found in the answer by a JSON pointer: `/error_rate`.
    #[must_use]
    pub fn at(mut self, pointer: &str) -> Self {
        pointer.clone_into(&mut self.pointer);
        self
    }

    /// The same, reported in this unit.
    #[must_use]
    pub fn in_unit(mut self, unit: JsonUnit) -> Self {
        self.unit = unit;
        self
    }

    /// The same, whether or not `url` tells versions apart. Without this, a `url` that names neither workload, track
    /// nor version is refused: its figure is of all versions together, in which a bad canary at 10 % of the traffic
    /// hardly shows.
    #[must_use]
    pub fn mixed(mut self, mixed: bool) -> Self {
        self.mixed = mixed;
        self
    }

    /// The same, asked with a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }
}

/// Leaves out the address, in whose query people put keys.
impl fmt::Debug for JsonMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, unit, mixed, .. } = self;
        let mut shown = f.debug_struct("JsonMetric");
        shown.field("pointer", pointer).field("unit", unit).field("mixed", mixed).finish_non_exhaustive()
    }
}

/// Measures by asking endpoints that answer with JSON, one request a measurement.
///
/// A check's own query is `URL#/json/pointer`, without the `#` for the whole answer. Its figure is taken as it is, no
/// token goes there, and that it tells versions apart is up to who writes it.
///
/// A figure is a JSON number or a string that holds one. `null`, `NaN` and a pointer
/// that leads nowhere are no data; anything else is an error.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{HttpClient, JsonMetric, JsonSource, JsonUnit};
/// let source = JsonSource::new(HttpClient::new()?).with_metric(
///     "error-rate",
///     JsonMetric::new("https://api.moodify.com/metrics?version={{version}}").at("/error_rate").in_unit(JsonUnit::Percent),
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JsonSource {
    client: HttpClient,
    metrics: BTreeMap<String, JsonMetric>,
    clock: Arc<dyn Clock>,
}

impl JsonSource {
    /// A source that knows no metric of its own yet.
    #[must_use]
    pub fn new(client: HttpClient) -> Self {
        Self { client, metrics: BTreeMap::new(), clock: Arc::new(SystemClock) }
    }

    /// The same, which finds `name` there.
    #[must_use]
    pub fn with_metric(mut self, name: &str, metric: JsonMetric) -> Self {
        self.metrics.insert(name.to_owned(), metric);
        self
    }

    /// The same, with another clock for the time of measurements.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where to ask, and how to read what comes back.
    fn resolve(&self, query: &MetricQuery) -> Result<(Endpoint, JsonMetric)> {
        let bad = |kind, message: String| Error::new(kind, BACKEND, "read query", message).on(query.metric.clone());
        let metric = match (&query.query, self.metrics.get(&query.metric)) {
            (Some(own), _) => {
                let (url, pointer) = own.split_once('#').unwrap_or((own, ""));
                JsonMetric::new(url).at(pointer).mixed(true)
            }
            (None, Some(metric)) => metric.clone(),
            (None, None) => {
                let known: Vec<&str> = self.metrics.keys().map(String::as_str).collect();
                let known = if known.is_empty() {
                    "none is known".to_owned()
                } else {
                    format!("known are {}", known.join(", "))
                };
                return Err(bad(ErrorKind::Unsupported, format!("there is no endpoint for this metric; {known}"))
                    .hint("give the check a `query`, or add the metric to `json.metrics` in the configuration"));
            }
        };
        let tells_apart = ["{{workload}}", "{{track}}", "{{version}}"].iter().any(|name| metric.url.contains(name));
        if !metric.mixed && !tells_apart {
            return Err(bad(ErrorKind::Invalid, "its address does not tell versions apart".to_owned()).hint(
                "put {{workload}}, {{track}} or {{version}} into it; or set `mixed: true` to judge the canary by the \
                 figure of all versions together",
            ));
        }
        if !metric.pointer.is_empty() && !metric.pointer.starts_with('/') {
            return Err(bad(ErrorKind::Invalid, format!("{:?} is not a JSON pointer", metric.pointer))
                .hint("it is like /error_rate, or empty for the whole answer"));
        }
        let endpoint = Endpoint::public(&escaped(query).fill(&metric.url)).map_err(|e| bad(ErrorKind::Invalid, e))?;
        Ok((endpoint, metric))
    }
}

#[async_trait]
impl MetricSource for JsonSource {
    fn check(&self, query: &MetricQuery) -> Result<()> {
        self.resolve(query).map(drop)
    }

    async fn query(&self, cx: &CallContext, query: &MetricQuery) -> Result<Measurement> {
        let (endpoint, metric) = self.resolve(query)?;
        let call = Call::new(BACKEND, "read metric", Method::GET, &endpoint).token(metric.token.as_ref());
        let answer = self.client.send_ok(cx, &call).await?;
        let body: Value = answer.json(&call)?;
        let figure = match body.pointer(&metric.pointer) {
            None | Some(Value::Null) => None,
            Some(found) => Some(number(found).ok_or_else(|| {
                let place = if metric.pointer.is_empty() { "the whole answer" } else { &metric.pointer };
                error::not_understood(&call, &answer, &format!("{place} is not a number"))
            })?),
        };
        let value = figure.map(|figure| metric.unit.convert(figure)).filter(|figure| figure.is_finite());
        Ok(Measurement { value, at: self.clock.now() })
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The same question with values that stay one part of an address.
fn escaped(query: &MetricQuery) -> MetricQuery {
    let escape = |text: &str| -> String {
        let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        text.bytes()
            .map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let mut escaped = query.clone();
    escaped.workload = escape(&query.workload);
    escaped.version = escape(&query.version);
    escaped.target.namespace = escape(&query.target.namespace);
    escaped.target.service.name = escape(&query.target.service.name);
    escaped
}
