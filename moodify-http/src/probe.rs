use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use moodify_core::backend::{Probe, ProbeRequest, ProbeResult, Sample, SampleRequest};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::Method;
use reqwest::header::HeaderName;
use tokio::time::Instant;

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::error;

const BACKEND: &str = "probe";
/// So many requests of a sample are on their way at once.
const AT_ONCE: usize = 8;
/// One request of a sample without an answer for so long gets none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks endpoints whether they are well, by any method, with or without a body.
///
/// A body that is JSON is sent as such, any other as plain text. Redirects are answers like others: expect 302 if that
/// is well. The latency runs until the answer's last byte, of which nothing is kept. Refused connections, TLS failures,
/// deadlines and unexpected statuses are unhealthy results; a cancelled probe is an error, as it found nothing out.
///
/// ```no_run
/// # async fn demo(cx: &moodify_core::CallContext) -> moodify_core::Result<()> {
/// use moodify_core::backend::{Probe, ProbeRequest};
/// use moodify_http::{HttpClient, HttpProbe};
/// let probe = HttpProbe::new(HttpClient::new()?);
/// let result = probe.probe(cx, &ProbeRequest::get("https://api.moodify.com/health")).await?;
/// println!("{} after {:?}", if result.healthy { "well" } else { "not well" }, result.latency);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HttpProbe {
    client: HttpClient,
    timeout: Option<Duration>,
}

impl HttpProbe {
    /// A probe that waits as long as its context allows.
    #[must_use]
    pub fn new(client: HttpClient) -> Self {
        Self { client, timeout: None }
    }

    /// The same, for which an endpoint that takes longer than this is unhealthy.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn probe(&self, cx: &CallContext, request: &ProbeRequest) -> Result<ProbeResult> {
        let operation = "probe";
        let bad = |message: String| Error::new(ErrorKind::Invalid, BACKEND, operation, message);
        let endpoint = Endpoint::public(&request.url).map_err(|e| bad(e).on("url"))?;
        let method = Method::from_bytes(request.method.trim().to_ascii_uppercase().as_bytes())
            .map_err(|_| bad(format!("{:?} is not a method", request.method)).on(endpoint.to_string()))?;

        let mut call = Call::new(BACKEND, operation, method, &endpoint);
        call.discards = true;
        call.body = request.body.clone().map(|body| (content_type(&body), body));
        let cx = self.timeout.map_or_else(|| cx.clone(), |timeout| cx.at_most(timeout));

        let start = Instant::now();
        let answer = self.client.send(&cx, &call).await;
        let latency = start.elapsed();
        match answer {
            Ok(answer) => {
                let healthy = request.accepts(answer.status.as_u16());
                let detail = (!healthy).then(|| format!("{endpoint} answered {}", error::named(answer.status)));
                Ok(ProbeResult { healthy, status: Some(answer.status.as_u16()), latency, detail })
            }
            Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Invalid) => Err(e),
            Err(e) => {
                let detail = Some(format!("{endpoint}: {}", e.message()));
                Ok(ProbeResult { healthy: false, status: None, latency, detail })
            }
        }
    }

    async fn sample(&self, cx: &CallContext, request: &SampleRequest) -> Result<Sample> {
        let operation = "ask the data plane";
        let bad = |message: String| Error::new(ErrorKind::Invalid, BACKEND, operation, message);
        let endpoint = Endpoint::public(&request.url).map_err(|e| bad(e).on("url"))?;
        let header = HeaderName::from_bytes(request.header.as_bytes())
            .map_err(|_| bad(format!("{:?} is not the name of a header", request.header)).on(endpoint.to_string()))?;
        let patience = self.timeout.unwrap_or(PATIENCE);
        let ask = |_| {
            let mut call = Call::new(BACKEND, operation, Method::GET, &endpoint);
            (call.discards, call.fresh) = (true, true);
            if let Some(host) = &request.host {
                call = call.header("host", host.clone());
            }
            async move { self.client.send(&cx.at_most(patience), &call).await }
        };
        let mut answers = futures::stream::iter(0..request.requests).map(ask).buffer_unordered(AT_ONCE);
        let mut sample = Sample::default();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    let told = answer.headers.get(&header).map(|value| String::from_utf8_lossy(value.as_bytes()));
                    sample.answered(request, told.as_deref());
                }
                Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Invalid) => return Err(e),
                // All time is over, not only that of one request.
                Err(e) if cx.remaining().is_zero() => return Err(e),
                Err(e) => sample.unanswered(format!("{endpoint}: {}", e.message())),
            }
        }
        Ok(sample)
    }
}

fn content_type(body: &str) -> &'static str {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
    if is_json { "application/json" } else { "text/plain; charset=utf-8" }
}
