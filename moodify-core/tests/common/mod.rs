//! What the tests of the simulator share.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use moodify_core::model::{ImageRef, Routing, Service, Target, Weight, WorkloadKind};
use moodify_core::{CallContext, IdempotencyKey, RunId};

pub(crate) fn target(name: &str, router: &str) -> Target {
    let service = Service {
        name: name.into(),
        workload: format!("{name}-deployment"),
        kind: WorkloadKind::Deployment,
        container: None,
        image: format!("registry.example:5000/{name}:v2").parse().unwrap(),
        traffic: Routing::new(router, name, Some(name)),
        config: Vec::new(),
    };
    Target::new("production", "moodify-production", service)
}

pub(crate) fn image(name: &str, tag: &str) -> ImageRef {
    format!("registry.example:5000/{name}:{tag}").parse().unwrap()
}

pub(crate) fn cx(key: &str) -> CallContext {
    cx_of("r1", key)
}

pub(crate) fn cx_of(run: &str, key: &str) -> CallContext {
    CallContext::new(RunId::new(run).unwrap(), IdempotencyKey::new(key), Duration::from_secs(3600))
}

pub(crate) fn weight(percent: u8) -> Weight {
    Weight::new(percent).unwrap()
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
