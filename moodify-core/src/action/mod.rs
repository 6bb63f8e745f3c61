//! What a step does: one file per kind. The only code that calls a backend.
//!
//! An embedder's own kind of step is an [`Action`] too, registered by name:
//!
//! ```
//! use async_trait::async_trait;
//! use moodify_core::action::{Action, Observed, Registry, StepContext};
//! use moodify_core::Result;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug)]
//! struct Greet;
//!
//! #[derive(Debug, Deserialize, JsonSchema)]
//! struct Whom {
//!     name: String,
//! }
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! struct Greeted {
//!     greeting: String,
//! }
//!
//! #[async_trait]
//! impl Action for Greet {
//!     type Params = Whom;
//!     type Output = Greeted;
//!
//!     async fn execute(&self, cx: &StepContext, whom: &Whom) -> Result<Greeted> {
//!         cx.note("saying hello");
//!         Ok(Greeted { greeting: format!("hello, {}", whom.name) })
//!     }
//!
//!     async fn observe(&self, _: &StepContext, _: &Whom) -> Result<Observed<Greeted>> {
//!         Ok(Observed::NotDone)
//!     }
//!
//!     async fn undo(&self, _: &StepContext, _: &Whom, _: Option<&Greeted>) -> Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! let registry = Registry::with_builtins().register("greet", Greet);
//! assert!(registry.kinds().any(|kind| kind == "greet"));
//! ```

mod application;
mod approval;
mod archive;
mod backup;
mod bake;
mod baseline;
mod cache;
mod cache_check;
mod cache_delete;
mod cache_flush;
mod cache_restart;
mod cache_snapshot;
mod cache_warm;
mod configuration_backup;
mod context;
mod data_plane;
mod deploy_canary;
mod exec;
mod hand_over;
mod leave;
mod mirror;
mod notify;
mod probe;
mod promote;
mod proposal;
mod recreate;
mod registry;
mod restore;
mod restore_live;
mod retire_canary;
mod retire_old;
mod return_traffic;
mod roll_batch;
mod run_job;
mod services;
mod set_cron_jobs;
mod shift_traffic;
mod status_page;
mod suspend_cron_jobs;
mod switch_connection;
mod template;
mod testers;
mod wait;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use application::ApplicationParams;
pub use archive::{Archived, FetchedArtifact};
pub use backup::VerifiedBackup;
pub use bake::BakeParams;
pub use baseline::{Baseline, BaselineParams, Baselines};
pub use cache_flush::FlushedCache;
pub use cache_restart::RestartedCache;
pub use cache_warm::WarmedCache;
pub use configuration_backup::{BackUpConfigurationParams, BackedUpConfiguration, RestoreConfigurationParams};
pub use context::{Answers, CheckContext, StepContext};
pub use exec::ExecParams;
pub use mirror::MirrorParams;
pub use proposal::Proposal;
pub use registry::{Kind, Registry};
pub use restore::{RestoreFrom, RestoredBackup};
pub use restore_live::RestoredLive;
pub use run_job::RunJobParams;
pub use services::Services;
pub use set_cron_jobs::{CronJobImage, SetCronJobsParams};
pub(crate) use shift_traffic::LAG;
pub use shift_traffic::ShiftParams;
pub use suspend_cron_jobs::SuspendCronJobsParams;
pub use switch_connection::SwitchedConnection;
pub use testers::AdmitParams;

/// The names of the kinds of step that moodify brings along.
pub mod kinds {
    /// Records what serves before the release; refuses what cannot be released over.
    pub const BASELINE: &str = "baseline";
    /// Makes the canary workloads.
    pub const DEPLOY_CANARY: &str = "deploy-canary";
    /// Sizes the canaries and sends them a share of the traffic.
    pub const SHIFT_TRAFFIC: &str = "shift-traffic";
    /// Sends the requests of testers to the new version.
    pub const ADMIT_TESTERS: &str = "admit-testers";
    /// Sends a copy of the requests to the new version.
    pub const MIRROR: &str = "mirror";
    /// Sends no more copies.
    pub const STOP_MIRROR: &str = "stop-mirror";
    /// Sends the requests of testers where all go.
    pub const DISMISS_TESTERS: &str = "dismiss-testers";
    /// Watches the new version for a time.
    pub const BAKE: &str = "bake";
    /// Rolls the stable workloads to the new version, while the canaries carry the traffic.
    pub const PROMOTE: &str = "promote";
    /// Rolls the stable workloads to the new version at once, without a canary.
    pub const ROLL: &str = "roll";
    /// Lets a part of the workloads' own instances run the new version.
    pub const ROLL_BATCH: &str = crate::model::ROLL_BATCH;
    /// Leaves the workloads no instance.
    pub const STOP: &str = crate::model::STOP;
    /// Starts the new version where the old one was stopped.
    pub const START: &str = "start";
    /// Lets the services' names stand for the new version's workloads.
    pub const HAND_OVER: &str = crate::model::HAND_OVER;
    /// Scales the workloads that served before to nothing.
    pub const RETIRE_OLD: &str = "retire-old";
    /// Ends the turns of two workloads: only those that the plan names stay, as plain as they were before the first release.
    pub const LEAVE: &str = crate::model::LEAVE;
    /// Sends all traffic to what the services' names stand for.
    pub const RETURN_TRAFFIC: &str = "return-traffic";
    /// Removes the canary workloads.
    pub const RETIRE_CANARY: &str = "retire-canary";
    /// Runs a program to its end, once.
    pub const RUN_JOB: &str = "run-job";
    /// Lets `CronJob`s run another image.
    pub const SET_CRON_JOBS: &str = "set-cron-jobs";
    /// Lets `CronJob`s start nothing more.
    pub const SUSPEND_CRON_JOBS: &str = "suspend-cron-jobs";
    /// Lets the `CronJob`s go on that the plan suspended.
    pub const RESUME_CRON_JOBS: &str = "resume-cron-jobs";
    /// Asks an endpoint whether it is well.
    pub const PROBE: &str = "probe";
    /// Tells people.
    pub const NOTIFY: &str = "notify";
    /// Opens, updates or resolves the run's incident on the status page.
    pub const STATUS_PAGE: &str = "status-page";
    /// Waits for persons to say yes.
    pub const APPROVAL: &str = "approval";
    /// Lets time pass.
    pub const WAIT: &str = "wait";
    /// Makes a backup and verifies it.
    pub const BACKUP: &str = "backup";
    /// Restores a backup into a new target.
    pub const RESTORE: &str = "restore";
    /// Restores a backup into the database itself.
    pub const RESTORE_LIVE: &str = "restore-live";
    /// Stops every workload of the application, and remembers how many instances each had.
    pub const STOP_APPLICATION: &str = "stop-application";
    /// Points the application to the database that was restored.
    pub const SWITCH_CONNECTION: &str = "switch-connection";
    /// Starts what was stopped, with as many instances as each had.
    pub const START_APPLICATION: &str = "start-application";
    /// Runs a command beside the application, to see whether it is well.
    pub const EXEC: &str = "exec";
    /// Removes what was kept to point the application back.
    pub const FORGET_CONNECTIONS: &str = "forget-connections";
    /// Deletes old backups that no run needs.
    pub const PRUNE_BACKUPS: &str = "prune-backups";
    /// Writes the objects of a namespace as files to an artifact store.
    pub const BACKUP_CONFIGURATION: &str = "backup-configuration";
    /// Makes the objects of a namespace what such files say.
    pub const RESTORE_CONFIGURATION: &str = "restore-configuration";
    /// Puts the plan and files into an artifact store.
    pub const ARCHIVE: &str = "archive";
    /// Gets an artifact into a file.
    pub const FETCH_ARTIFACT: &str = "fetch-artifact";
    /// Restarts the nodes of a cache, one at a time.
    pub const CACHE_RESTART: &str = "cache-restart";
    /// Deletes everything in a cache.
    pub const CACHE_FLUSH: &str = "cache-flush";
    /// Deletes keys of a cache by pattern.
    pub const CACHE_DELETE: &str = "cache-delete";
    /// Lets a cache write its keys to its disks.
    pub const CACHE_SNAPSHOT: &str = "cache-snapshot";
    /// Writes entries that a cache does not have.
    pub const CACHE_WARM: &str = "cache-warm";
    /// Asks a cache whether it is as it should be.
    pub const CACHE_CHECK: &str = "cache-check";
}

/// What an observation found of a step whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed<T> {
    /// It had been done.
    Done(T),
    /// It had not been done, or not completely: it is safe and needed to do it again.
    NotDone,
}

/// A kind of step.
///
/// # Contract
/// - `execute` is idempotent under the step's key: done again after any part of it was done, it ends in the same state.
/// - `observe` changes nothing. It is asked when an attempt timed out, lost its answer or died with its process.
/// - `undo` takes back whatever part of `execute` was done, also none, and is idempotent too. `output` is there if the
///   step finished; after a failure or a crash it is not, but a checkpoint may be.
/// - Every call to a backend is made under a fresh [`StepContext::call`], which refuses when the run is lost.
/// - Any of them may be dropped at any await, and is then in an unknown state.
#[async_trait]
pub trait Action: Send + Sync + fmt::Debug + 'static {
    /// The parameters, as the plan gives them under `with`. Unknown keys should be refused.
    type Params: DeserializeOwned + JsonSchema + Send + Sync;
    /// What later steps can read, and what `undo` is given.
    type Output: Serialize + DeserializeOwned + Send + Sync;

    /// Whether it can change anything outside. One that cannot is neither observed nor undone.
    fn has_effects(&self) -> bool {
        true
    }

    /// Whether there is no way back by undoing once it began.
    fn is_pivot(&self) -> bool {
        false
    }

    /// Whether it only tells people. Once one has begun, nothing but the next of the same action waits for it; one that
    /// fails for good stops neither a release nor a way back, and the ending says what is owed.
    fn is_observer(&self) -> bool {
        false
    }

    /// When the step must have ended if the plan does not say; `None` if it ends by itself.
    fn deadline(&self, _params: &Self::Params) -> Option<Duration> {
        Some(Duration::from_secs(600))
    }

    /// What is wrong with a step of this kind in this plan with these backends, without any effect.
    ///
    /// # Errors
    /// One for each thing that is wrong.
    async fn check(&self, _cx: &CheckContext<'_>, _params: &Self::Params) -> Result<(), Vec<crate::Error>> {
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// A transient one is repeated by the step's policy; any other ends the step.
    async fn execute(&self, cx: &StepContext, params: &Self::Params) -> crate::Result<Self::Output>;

    /// Finds out whether it was done.
    ///
    /// # Errors
    /// When that cannot be found out now.
    async fn observe(&self, cx: &StepContext, params: &Self::Params) -> crate::Result<Observed<Self::Output>>;

    /// Takes it back.
    ///
    /// # Errors
    /// Repeated by the undo policy, then a person is called.
    async fn undo(&self, cx: &StepContext, params: &Self::Params, output: Option<&Self::Output>) -> crate::Result<()>;

    /// Commands with which a person takes it back when `undo` failed for good. Asks nobody.
    fn by_hand(&self, _cx: &StepContext, _params: &Self::Params) -> Vec<String> {
        Vec::new()
    }
}
