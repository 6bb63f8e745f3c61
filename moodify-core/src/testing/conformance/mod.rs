//! The contracts of the backend traits and of the journal, as suites that every implementation is put to: the simulated ones in
//! moodify-core, the real ones in their own crates.
//!
//! A suite is given a harness, which knows the backend under test and can do to the world behind it what the trait
//! cannot, for example edit an object as somebody else. It panics at the first promise that is not kept. All calls are
//! made on behalf of the run [`run`], unless it matters that they are not.

mod artifacts;
mod backups;
mod cache;
mod configuration;
mod configuration_files;
mod deployer;
mod figures;
mod jobs;
mod journal;
mod live_restore;
mod mirror;
mod nodes;
mod notifier;
mod operations;
mod router;
mod single;
mod status_page;
mod testers;

use std::fmt::Debug;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use artifacts::artifact_store;
pub use backups::backup_store;
pub use cache::{CacheHarness, cache_admin};
pub use configuration::{ConfigurationHarness, configuration};
pub use configuration_files::{FilesHarness, configuration_files};
pub use deployer::{DeployerHarness, deployer};
pub use figures::{MetricHarness, metric_source};
pub use jobs::{JobsHarness, jobs};
pub use journal::journal_store;
pub use mirror::{MirrorHarness, traffic_mirror};
pub use nodes::cache_nodes;
pub use notifier::{NotifierHarness, notifier};
pub use operations::{OperationsHarness, operations};
pub use router::{RouterHarness, traffic_router};
pub use single::single;
pub use status_page::status_page;
pub use testers::{TestersHarness, tester_routes};

use crate::context::{CallContext, IdempotencyKey};
use crate::error::{ErrorKind, Result};
use crate::model::RunId;

/// The run on whose behalf the suites call.
#[must_use]
pub fn run() -> RunId {
    named("conformance")
}

fn named(name: &str) -> RunId {
    RunId::new(name).expect("names of runs in source code are valid")
}

/// A context of the suites' run, under this key.
#[must_use]
pub fn context(key: &str, patience: Duration) -> CallContext {
    CallContext::new(run(), IdempotencyKey::new(format!("conformance/{key}")), patience)
}

fn other(patience: Duration) -> CallContext {
    CallContext::new(named("conformance-other"), IdempotencyKey::new("conformance-other/step"), patience)
}

#[track_caller]
fn good<T>(promise: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{promise}, but: {e}"))
}

#[track_caller]
fn fails<T: Debug>(promise: &str, kind: ErrorKind, result: Result<T>) -> crate::Error {
    match result {
        Err(e) if e.kind() == kind => e,
        Err(e) => panic!("{promise}: should fail as {kind:?}, but is {:?}: {e}", e.kind()),
        Ok(value) => panic!("{promise}: should fail as {kind:?}, but is {value:?}"),
    }
}

/// A call whose context is over ends; whether it still succeeds is its own affair.
async fn ends_with_its_context<T>(patience: Duration, mut call: impl AsyncFnMut(CallContext) -> Result<T>) {
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let contexts = [
        (ErrorKind::Timeout, context("ends", Duration::ZERO)),
        (ErrorKind::Cancelled, context("ends", patience).with_cancel(cancelled)),
    ];
    for (kind, cx) in contexts {
        let result = tokio::time::timeout(patience, call(cx)).await;
        let result = result.unwrap_or_else(|_| panic!("a call ends with its context ({kind:?}), but it goes on"));
        if let Err(e) = result {
            assert_eq!(e.kind(), kind, "a call that ends with its context says so: {e}");
        }
    }
}
