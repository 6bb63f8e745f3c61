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
mod artifact_store;
mod backup_store;
mod cache;
mod cache_admin;
mod cache_info;
mod cache_nodes;
mod chunks;
mod configuration_files;
mod connection;
mod deployer;
mod diagnostics;
mod jobs;
mod key_pattern;
mod metric_source;
mod notifier;
mod operations;
mod probe;
mod replica_ratio;
mod retention;
mod status_page;
mod status_pages;
mod tester_routes;
mod traffic;
mod traffic_mirror;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use approvals::{ApprovalRequest, Approvals, Decision};
pub use artifact_store::{
    Artifact, ArtifactStore, ArtifactStoreExt, Checkpoint, Content, Origin, Progress, PutRequest, Sum, check_path,
    checked, content_from, content_of,
};
pub use backup_store::{
    Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore, BackupStoreExt, DeleteRequest,
    LiveRestoreRequest, RestorePoint, RestoreRequest, RestoreState, Restored,
};
pub use cache::Cache;
pub use cache_admin::{
    CacheAdmin, CacheCapabilities, CacheEntry, DeleteKeys, DeletedKeys, Failover, FailoverRequest, FlushRequest,
    KEYS_A_PAGE, WarmRequest, Warmed,
};
pub use cache_info::{
    CacheClient, CacheDump, CacheInfo, CacheLatency, CacheRole, CacheServer, CacheSnapshot, SlowCommand,
};
pub use cache_nodes::{
    CacheNode, CacheNodes, CacheNodesExt, NodeCapabilities, NodeEvent, NodeRole, NodeState, restart_order,
};
pub use chunks::{Chunk, Chunks};
pub use configuration_files::{
    BackedUpFile, ConfigurationBackup, ConfigurationFile, ConfigurationFiles, ExportRequest, ExportedConfiguration,
    ImportRequest, ImportedConfiguration,
};
pub use connection::{Connection, Endpoint, EndpointKind};
pub use deployer::{
    CanarySpec, Change, Deployer, DeployerCapabilities, DeployerExt, ImageChange, Remedy, Replicas, Scale, Single,
    Workload,
};
pub use diagnostics::{Diagnostics, LogRequest, PodState, Pods};
pub use jobs::{CronJobRef, JobPhase, JobRequest, JobState, JobTemplate, Jobs, JobsExt};
pub use key_pattern::KeyPattern;
pub use metric_source::{Measurement, MetricQuery, MetricSource};
pub use notifier::{Audience, Link, Notification, Notifier, Urgency};
pub use operations::{
    Application, Autoscaler, Count, Counts, ExecRequest, ExecResult, Instances, Operations, OperationsExt, Repair,
    SeeInstances, WorkloadRef,
};
pub use probe::{Probe, ProbeRequest, ProbeResult, Sample, SampleRequest};
pub use replica_ratio::ReplicaRatio;
pub use retention::Retention;
pub use status_page::{Incident, IncidentStatus, IncidentUpdate, Maintenance, StatusPage, StatusPageCapabilities};
pub use status_pages::StatusPages;
pub use tester_routes::{Mark, TesterRoutes, Testers};
pub use traffic::{Granularity, RouterCapabilities, Traffic, TrafficRouter, Verification, WeightChange};
pub use traffic_mirror::TrafficMirror;

#[cfg(feature = "testing")]
pub(crate) mod mocks {
    pub use super::approvals::MockApprovals;
    pub use super::artifact_store::MockArtifactStore;
    pub use super::backup_store::MockBackupStore;
    pub use super::cache_admin::MockCacheAdmin;
    pub use super::cache_nodes::MockCacheNodes;
    pub use super::configuration_files::MockConfigurationFiles;
    pub use super::deployer::MockDeployer;
    pub use super::diagnostics::MockDiagnostics;
    pub use super::jobs::MockJobs;
    pub use super::metric_source::MockMetricSource;
    pub use super::notifier::MockNotifier;
    pub use super::operations::MockOperations;
    pub use super::probe::MockProbe;
    pub use super::status_page::MockStatusPage;
    pub use super::tester_routes::MockTesterRoutes;
    pub use super::traffic::MockTrafficRouter;
    pub use super::traffic_mirror::MockTrafficMirror;
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
    /// Send testers to the new version, by the name of the router.
    pub tester_routes: BTreeMap<String, Arc<dyn TesterRoutes>>,
    /// Send a copy of the requests to the new version, by the name of the router.
    pub mirrors: BTreeMap<String, Arc<dyn TrafficMirror>>,
    /// Sees pods, events and logs.
    pub diagnostics: Option<Arc<dyn Diagnostics>>,
    /// Runs programs to their end.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// Stops and starts a whole application.
    pub operations: Option<Arc<dyn Operations>>,
    /// Keep backups, by name.
    pub backup_stores: BTreeMap<String, Arc<dyn BackupStore>>,
    /// Keep artifacts, by name.
    pub artifact_stores: BTreeMap<String, Arc<dyn ArtifactStore>>,
    /// Reads and writes the objects by which applications are configured.
    pub configuration_files: Option<Arc<dyn ConfigurationFiles>>,
    /// Administer caches, by name.
    pub caches: BTreeMap<String, Cache>,
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

    /// The routes for testers of the router of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it has none.
    pub fn tester_routes(&self, router: &str) -> Result<&Arc<dyn TesterRoutes>> {
        self.tester_routes.get(router).ok_or_else(|| {
            let known: Vec<&str> = self.tester_routes.keys().map(String::as_str).collect();
            let message = format!("the router {router:?} has no routes for testers");
            let hint = format!("leave `testers` out, or take one that has: {}", known.join(", "));
            Error::new(ErrorKind::Unsupported, "moodify", "find a backend", message).hint(hint)
        })
    }

    /// What mirrors the requests of the router of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if nothing does.
    pub fn mirror(&self, router: &str) -> Result<&Arc<dyn TrafficMirror>> {
        self.mirrors.get(router).ok_or_else(|| {
            let known: Vec<&str> = self.mirrors.keys().map(String::as_str).collect();
            let message = format!("the router {router:?} cannot mirror requests");
            let hint = format!("leave `mirror` out, or take one that can: {}", known.join(", "));
            Error::new(ErrorKind::Unsupported, "moodify", "find a backend", message).hint(hint)
        })
    }

    /// The diagnostics.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there are none.
    pub fn diagnostics(&self) -> Result<&Arc<dyn Diagnostics>> {
        present(self.diagnostics.as_ref(), "diagnostics")
    }

    /// What runs jobs.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is nothing.
    pub fn jobs(&self) -> Result<&Arc<dyn Jobs>> {
        present(self.jobs.as_ref(), "backend for jobs")
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

    /// The artifact store of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn artifact_store(&self, name: &str) -> Result<&Arc<dyn ArtifactStore>> {
        named(&self.artifact_stores, "artifact store", name)
    }

    /// What reads and writes configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is nothing.
    pub fn configuration_files(&self) -> Result<&Arc<dyn ConfigurationFiles>> {
        present(self.configuration_files.as_ref(), "backend for configuration files")
    }

    /// The cache of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn cache(&self, name: &str) -> Result<&Cache> {
        named(&self.caches, "cache", name)
    }

    /// The nodes of the cache of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if they cannot be administered.
    pub fn cache_nodes(&self, name: &str) -> Result<&Arc<dyn CacheNodes>> {
        self.cache(name)?.nodes.as_ref().ok_or_else(|| {
            let message = "nothing is set up that administers the nodes of this cache";
            Error::new(ErrorKind::Unsupported, "moodify", "find a backend", message).on(name)
        })
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

fn named<'a, T>(all: &'a BTreeMap<String, T>, what: &str, name: &str) -> Result<&'a T> {
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
    _: &dyn TesterRoutes,
    _: &dyn TrafficMirror,
    _: &dyn Diagnostics,
    _: &dyn Jobs,
    _: &dyn Operations,
    _: &dyn BackupStore,
    _: &dyn ArtifactStore,
    _: &dyn ConfigurationFiles,
    _: &dyn CacheAdmin,
    _: &dyn CacheNodes,
    _: &dyn StatusPage,
    _: &dyn MetricSource,
    _: &dyn Probe,
    _: &dyn Notifier,
    _: &dyn Approvals,
) {
}
