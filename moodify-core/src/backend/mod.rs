//! What the outside world can do, one trait a file. Every trait is object-safe; every call gets a
//! [`CallContext`](crate::CallContext).
//!
//! # Contract of all traits
//! - A call ends by its context's deadline or cancellation, whichever is first, with an error that says so.
//! - A call never repeats itself inside: retries belong to the step's policy. Waiting is watching, not polling.
//! - An error says whether the remote side may have changed ([`Effect`](crate::Effect)).
//! - The same idempotency key is the same effect once.
//! - Dropping the future of a call is safe: the remote effect is then unknown, as after a timeout.
//! - What a backend cannot do it says in its `capabilities()`, which is data, or refuses as
//!   [`Unsupported`](crate::ErrorKind::Unsupported); never a silent success.

mod approvals;
mod backup_store;
mod cache_admin;
mod connection;
mod deployer;
mod diagnostics;
mod metric_source;
mod notifier;
mod operations;
mod probe;
mod replica_ratio;
mod retention;
mod status_page;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use approvals::{ApprovalRequest, Approvals, Decision};
pub use backup_store::{
    Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore, BackupStoreExt, DeleteRequest, RestorePoint,
    RestoreRequest, RestoreState, Restored,
};
pub use cache_admin::{CacheAdmin, CacheCapabilities, CacheInfo, FlushRequest};
pub use connection::{Connection, Endpoint};
pub use deployer::{
    CanarySpec, Change, Deployer, DeployerCapabilities, DeployerExt, ImageChange, Remedy, Replicas, Scale, Single,
    Workload,
};
pub use diagnostics::{Diagnostics, LogRequest, PodState, Pods};
pub use metric_source::{Measurement, MetricQuery, MetricSource};
pub use notifier::{Notification, Notifier, Urgency};
pub use operations::{
    Application, Autoscaler, Count, Counts, ExecRequest, ExecResult, Instances, Operations, OperationsExt, Repair,
    SeeInstances, WorkloadRef,
};
pub use probe::{Probe, ProbeRequest, ProbeResult};
pub use replica_ratio::ReplicaRatio;
pub use retention::Retention;
pub use status_page::{Incident, IncidentStatus, IncidentUpdate, StatusPage};
pub use traffic::{Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};

#[cfg(feature = "testing")]
pub(crate) mod mocks {
    pub use super::approvals::MockApprovals;
    pub use super::backup_store::MockBackupStore;
    pub use super::cache_admin::MockCacheAdmin;
    pub use super::deployer::MockDeployer;
    pub use super::diagnostics::MockDiagnostics;
    pub use super::metric_source::MockMetricSource;
    pub use super::notifier::MockNotifier;
    pub use super::operations::MockOperations;
    pub use super::probe::MockProbe;
    pub use super::status_page::MockStatusPage;
    pub use super::traffic::MockTrafficRouter;
}

use crate::error::{Error, ErrorKind, Result};

/// The backends of an engine: whatever the embedder gives it. What is missing is refused when a plan is checked.
///
/// ```
/// use moodify_core::Backends;
/// let backends = Backends::default();
/// assert!(backends.deployer().is_err());
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Backends {
    /// Runs workloads.
    pub deployer: Option<Arc<dyn Deployer>>,
    /// Divide traffic, by the name that services use.
    pub routers: BTreeMap<String, Arc<dyn TrafficRouter>>,
    /// Sees pods, events and logs.
    pub diagnostics: Option<Arc<dyn Diagnostics>>,
    /// Stops and starts a whole application.
    pub operations: Option<Arc<dyn Operations>>,
    /// Keep backups, by name.
    pub backup_stores: BTreeMap<String, Arc<dyn BackupStore>>,
    /// Administer caches, by name.
    pub caches: BTreeMap<String, Arc<dyn CacheAdmin>>,
    /// Tells customers.
    pub status_page: Option<Arc<dyn StatusPage>>,
    /// Measure, by the name that metric checks use.
    pub metrics: BTreeMap<String, Arc<dyn MetricSource>>,
    /// Asks an endpoint whether it is well.
    pub probe: Option<Arc<dyn Probe>>,
    /// Tell people, by name.
    pub notifiers: BTreeMap<String, Arc<dyn Notifier>>,
    /// Ask people.
    pub approvals: Option<Arc<dyn Approvals>>,
}

impl Backends {
    /// The deployer.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none; so for all of these.
    pub fn deployer(&self) -> Result<&Arc<dyn Deployer>> {
        present(self.deployer.as_ref(), "deployer")
    }

    /// The router of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn router(&self, name: &str) -> Result<&Arc<dyn TrafficRouter>> {
        named(&self.routers, "traffic router", name)
    }

    /// The diagnostics.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there are none.
    pub fn diagnostics(&self) -> Result<&Arc<dyn Diagnostics>> {
        present(self.diagnostics.as_ref(), "diagnostics")
    }

    /// The operations.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there are none.
    pub fn operations(&self) -> Result<&Arc<dyn Operations>> {
        present(self.operations.as_ref(), "operations backend")
    }

    /// The backup store of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn backup_store(&self, name: &str) -> Result<&Arc<dyn BackupStore>> {
        named(&self.backup_stores, "backup store", name)
    }

    /// The cache of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn cache(&self, name: &str) -> Result<&Arc<dyn CacheAdmin>> {
        named(&self.caches, "cache", name)
    }

    /// The status page.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn status_page(&self) -> Result<&Arc<dyn StatusPage>> {
        present(self.status_page.as_ref(), "status page")
    }

    /// The metric source of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn metric_source(&self, name: &str) -> Result<&Arc<dyn MetricSource>> {
        named(&self.metrics, "metric source", name)
    }

    /// The probe.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn probe(&self) -> Result<&Arc<dyn Probe>> {
        present(self.probe.as_ref(), "probe")
    }

    /// The notifier of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn notifier(&self, name: &str) -> Result<&Arc<dyn Notifier>> {
        named(&self.notifiers, "notifier", name)
    }

    /// The approvals.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there are none.
    pub fn approvals(&self) -> Result<&Arc<dyn Approvals>> {
        present(self.approvals.as_ref(), "approvals backend")
    }
}

fn present<'a, T: ?Sized>(backend: Option<&'a Arc<T>>, what: &str) -> Result<&'a Arc<T>> {
    backend.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "moodify",
            "find a backend",
            format!("there is no {what} among the backends"),
        )
    })
}

fn named<'a, T: ?Sized>(all: &'a BTreeMap<String, Arc<T>>, what: &str, name: &str) -> Result<&'a Arc<T>> {
    all.get(name).ok_or_else(|| {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "none is set up".to_owned() } else { format!("there are: {}", known.join(", ")) };
        Error::new(ErrorKind::Unsupported, "moodify", "find a backend", format!("there is no {what} {name:?}; {known}"))
    })
}

/// Compiles only while every trait is object-safe.
#[allow(dead_code, clippy::too_many_arguments)]
fn object_safe(
    _: &dyn Deployer,
    _: &dyn TrafficRouter,
    _: &dyn Diagnostics,
    _: &dyn Operations,
    _: &dyn BackupStore,
    _: &dyn CacheAdmin,
    _: &dyn StatusPage,
    _: &dyn MetricSource,
    _: &dyn Probe,
    _: &dyn Notifier,
    _: &dyn Approvals,
) {
}
