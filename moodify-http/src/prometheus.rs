use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::analysis::metrics;
use moodify_core::backend::{Measurement, MetricQuery, MetricSource};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::error;

const BACKEND: &str = "prometheus";

/// Which series belong to one version: those of its pods.
macro_rules! of_this_version {
    () => {
        r#"namespace="{{namespace}}",pod=~"{{pods}}""#
    };
}

/// A version that never failed has no series of errors: that is 0. A version without requests has no error rate: the
/// division by nothing gives no data.
const ERROR_RATE: &str = concat!(
    "(sum(rate(http_requests_total{",
    of_this_version!(),
    r#",code=~"5.."}[{{window}}])) or on() vector(0)) / sum(rate(http_requests_total{"#,
    of_this_version!(),
    "}[{{window}}]))"
);

const LATENCY_P95: &str = concat!(
    "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket{",
    of_this_version!(),
    "}[{{window}}])))"
);

const PLACEHOLDERS: [&str; 7] = ["namespace", "service", "workload", "track", "version", "pods", "window"];

/// Measures by asking Prometheus, or what imitates its API, one instant query a measurement.
///
/// It knows two metrics by itself; [`with_query`](Self::with_query) changes them and adds others:
/// - `error-rate`: the share of `http_requests_total` whose `code` is 500 to 599, as a fraction;
/// - `latency-p95`: from `http_request_duration_seconds_bucket`, in seconds. Its histogram needs a bucket above the
///   limit that it is compared with: Prometheus reports no more than the highest finite bucket.
///
/// Both choose the version's own series by the labels `namespace` and `pod`. The window of a measurement must span at
/// least two scrapes of the pods; four are better. With fewer there is no data.
///
/// An empty result and what is not a finite number are no data. Several series are an error, as no one of them is the
/// figure. Warnings in an answer are ignored.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{HttpClient, PrometheusSource};
/// let source = PrometheusSource::new(HttpClient::new()?, "http://prometheus.monitoring:9090")?
///     .with_query("queue-length", r#"sum(queue_length{namespace="{{namespace}}",version="{{version}}"})"#);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PrometheusSource {
    client: HttpClient,
    endpoint: Endpoint,
    token: Option<Secret>,
    queries: BTreeMap<String, String>,
    clock: Arc<dyn Clock>,
}

impl PrometheusSource {
    /// A source that asks the Prometheus at `url`: the address under which its own page is found.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address.
    pub fn new(client: HttpClient, url: &str) -> Result<Self> {
        let endpoint =
            Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        let queries = [(metrics::ERROR_RATE, ERROR_RATE), (metrics::LATENCY_P95, LATENCY_P95)];
        Ok(Self {
            client,
            endpoint: endpoint.below(&["api", "v1", "query"]),
            token: None,
            queries: queries.map(|(name, query)| (name.to_owned(), query.to_owned())).into(),
            clock: Arc::new(SystemClock),
        })
    }

    /// The same, which sends a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// The same, which answers for `metric` with this query; see [`MetricQuery::fill`] for what is filled in.
    #[must_use]
    pub fn with_query(mut self, metric: &str, template: &str) -> Self {
        self.queries.insert(metric.to_owned(), template.to_owned());
        self
    }

    /// The same, with another clock for the time of answers that carry none.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The query in Prometheus' own language.
    fn promql(&self, query: &MetricQuery) -> Result<String> {
        let bad = |kind, message: String| Error::new(kind, BACKEND, "read query", message).on(query.metric.clone());
        let template = query.query.as_ref().or_else(|| self.queries.get(&query.metric)).ok_or_else(|| {
            let known: Vec<&str> = self.queries.keys().map(String::as_str).collect();
            bad(ErrorKind::Unsupported, format!("there is no query for this metric; known are {}", known.join(", ")))
                .hint("give the check a `query`, or add one to `prometheus.queries` in the configuration")
        })?;
        if template.trim().is_empty() {
            return Err(bad(ErrorKind::Invalid, "the query is empty".to_owned()));
        }
        if let Some(unknown) = unknown_placeholder(template) {
            let message = format!("nothing is known to fill in for {{{{{unknown}}}}}");
            return Err(bad(ErrorKind::Invalid, message).hint(format!("known are {}", PLACEHOLDERS.join(", "))));
        }
        Ok(quoted(query).fill(template))
    }
}

#[async_trait]
impl MetricSource for PrometheusSource {
    fn check(&self, query: &MetricQuery) -> Result<()> {
        self.promql(query).map(drop)
    }

    async fn query(&self, cx: &CallContext, query: &MetricQuery) -> Result<Measurement> {
        let promql = self.promql(query)?;
        // Nobody waits longer, so Prometheus need not work longer. It takes fractions of a second only without a unit.
        let timeout = format!("{:.3}", cx.remaining().as_secs_f64().max(0.001));
        let operation = "query";
        let call = Call::new(BACKEND, operation, Method::POST, &self.endpoint)
            .token(self.token.as_ref())
            .form_question(&[("query", &promql), ("timeout", &timeout)]);
        let answer = self.client.send(cx, &call).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
            // The query is well-formed; evaluating it failed, which the next minute's data may change.
            let message = format!("cannot evaluate `{promql}`: {}", error::excerpt(&call, &answer));
            let error = Error::new(ErrorKind::Unavailable, BACKEND, operation, message);
            return Err(error.on(self.endpoint.to_string()));
        }
        if answer.status == StatusCode::BAD_REQUEST {
            let message = format!("refuses `{promql}`: {}", error::excerpt(&call, &answer));
            let error = Error::new(ErrorKind::Invalid, BACKEND, operation, message).on(self.endpoint.to_string());
            return Err(error.hint(format!("mend the query of {}", query.metric)));
        }
        if !answer.status.is_success() {
            return Err(error::from_status(&call, &answer));
        }
        let data = answer.json::<Answer>(&call)?.data;
        match data.figure() {
            Ok(Some(sample)) => Ok(sample.measurement(self.clock.as_ref())),
            Ok(None) => Ok(Measurement { value: None, at: self.clock.now() }),
            Err(why) => {
                let message = format!("`{promql}` {why}");
                let error = Error::new(ErrorKind::Invalid, BACKEND, operation, message);
                Err(error
                    .on(self.endpoint.to_string())
                    .hint("a metric is one figure: aggregate it, with sum() or max()"))
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: BTreeMap<String, Value>,
    value: Option<Sample>,
}

/// Unix time in seconds, and a number as text.
#[derive(Deserialize)]
struct Sample(f64, String);

impl Sample {
    fn measurement(&self, clock: &dyn Clock) -> Measurement {
        let at = Timestamp::from_millisecond((self.0 * 1000.0) as i64).unwrap_or_else(|_| clock.now());
        // NaN is a division by no requests. An infinite figure is no measurement of anything either; quantiles never
        // are, as they stop at the highest finite bucket.
        Measurement { value: self.1.parse().ok().filter(|value: &f64| value.is_finite()), at }
    }
}

impl Data {
    /// The one figure, if there is any; or why it is not one.
    fn figure(self) -> Result<Option<Sample>, String> {
        let unread = |e: serde_json::Error| format!("gives what cannot be understood: {e}");
        match self.result_type.as_str() {
            "scalar" => serde_json::from_value(self.result).map(Some).map_err(unread),
            "vector" => one_of(serde_json::from_value(self.result).map_err(unread)?),
            other => Err(format!("gives a {other}, neither a vector nor a scalar")),
        }
    }
}

fn one_of(mut series: Vec<Series>) -> Result<Option<Sample>, String> {
    match series.len() {
        0 => Ok(None),
        1 => series.remove(0).value.map(Some).ok_or_else(|| "gives a histogram, not a figure".to_owned()),
        count => {
            let [first, second] = [0, 1].map(|at| Value::from_iter(std::mem::take(&mut series[at].metric)));
            Err(format!("gives {count} series where one is needed, the first two of them {first} and {second}"))
        }
    }
}

/// The same question with values that cannot end a string in the query.
fn quoted(query: &MetricQuery) -> MetricQuery {
    let quote = |text: &str| text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    let mut quoted = query.clone();
    quoted.workload = quote(&query.workload);
    quoted.version = quote(&query.version);
    quoted.pods = query.pods.iter().map(|pod| quote(pod)).collect();
    quoted.target.namespace = quote(&query.target.namespace);
    quoted.target.service.name = quote(&query.target.service.name);
    quoted
}

fn unknown_placeholder(template: &str) -> Option<&str> {
    let names = template.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0));
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || " _-".contains(c));
    names.into_iter().find(|name| is_name(name) && !PLACEHOLDERS.contains(name))
}
