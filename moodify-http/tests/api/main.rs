//! What this crate makes of every kind of answer, by servers that answer as told.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod config;
mod fakes;
mod metrics;
mod notify;
mod pages;
mod people;
mod probe;
mod published;
mod secrets;
mod status_page;
mod transport;

use std::time::Duration;

use moodify_core::backend::MetricQuery;
use moodify_core::model::{ImageRef, Routing, Service, Target, Track, WorkloadKind};
use moodify_core::{CallContext, IdempotencyKey, RunId};
use moodify_http::HttpClient;

const PATIENCE: Duration = Duration::from_secs(20);

fn client() -> HttpClient {
    HttpClient::new().unwrap()
}

fn cx() -> CallContext {
    cx_for(PATIENCE)
}

fn cx_for(timeout: Duration) -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/announce"), timeout)
}

fn query(metric: &str) -> MetricQuery {
    let image: ImageRef = "registry.example/backend:v2".parse().unwrap();
    let traffic = Routing::new("replica-ratio", "backend-service", None);
    let service = Service {
        name: "backend".into(),
        workload: "backend".into(),
        kind: WorkloadKind::Deployment,
        container: None,
        image,
        traffic,
        config: Vec::new(),
    };
    let target = Target::new("production", "shop", service);
    MetricQuery::new(metric, target, Track::Canary, "backend-canary", "v2")
}
