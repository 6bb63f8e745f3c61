use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;

/// What a backup store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupCapabilities {
    /// It can make backups.
    pub create: bool,
    /// It can restore them, to a new target.
    pub restore: bool,
    /// It can delete them.
    pub delete: bool,
}

impl BackupCapabilities {
    /// Capabilities of a store; describing, listing and verifying every store can.
    #[must_use]
    pub fn new(create: bool, restore: bool, delete: bool) -> Self {
        Self { create, restore, delete }
    }
}

/// Where a backup stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupState {
    /// Being made; percent if known.
    Creating(Option<u8>),
    /// Complete, says the provider.
    Available,
    /// It failed, and why.
    Failed(String),
}

/// A backup, as its provider describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The provider's id of it.
    pub id: String,
    /// What it is a backup of.
    pub source: String,
    /// Where it stands.
    pub state: BackupState,
    /// When it was begun.
    pub created: Option<Timestamp>,
    /// Its size in bytes, if the provider says.
    pub bytes: Option<u64>,
    /// Whether it is encrypted, if the provider says.
    pub encrypted: Option<bool>,
    /// The engine and version that wrote it, if the provider says.
    pub engine: Option<String>,
}

/// What to restore, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreRequest {
    /// The backup.
    pub backup: String,
    /// The name of the new target. Never one that exists.
    pub target: String,
}

impl RestoreRequest {
    /// Restore `backup` into a new `target`.
    #[must_use]
    pub fn new(backup: &str, target: &str) -> Self {
        Self { backup: backup.to_owned(), target: target.to_owned() }
    }
}

/// What a restore made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Its name.
    pub target: String,
    /// Where it answers, once it does.
    pub endpoint: Option<String>,
}

/// Keeps backups of a database or the like.
///
/// # Contract
/// - `create` under a key that has a backup returns that one: a crash between request and answer never makes two.
/// - `create` and `restore` return when the provider has begun; wait with `describe`.
/// - `restore` makes something new and never overwrites; an existing target is
///   [`AlreadyExists`](crate::ErrorKind::AlreadyExists).
/// - `verify` fails unless the backup is complete and plausible: a backup that was not verified does not exist.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait BackupStore: Send + Sync + fmt::Debug {
    /// What this store can do.
    fn capabilities(&self) -> BackupCapabilities;

    /// Begins a backup under the context's key.
    ///
    /// # Errors
    /// When the provider refuses.
    async fn create(&self, cx: &CallContext) -> Result<Backup>;

    /// Describes a backup; `None` if there is none of that id.
    ///
    /// # Errors
    /// When the provider cannot be asked.
    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>>;

    /// All backups of what this store is for, newest first.
    ///
    /// # Errors
    /// When the provider cannot be asked.
    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>>;

    /// Checks that a backup is complete and plausible.
    ///
    /// # Errors
    /// [`Unhealthy`](crate::ErrorKind::Unhealthy) with what is wrong with it.
    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup>;

    /// Begins a restore.
    ///
    /// # Errors
    /// When the provider refuses.
    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored>;

    /// Deletes a backup. Fine if it is gone.
    ///
    /// # Errors
    /// When the provider refuses.
    async fn delete(&self, cx: &CallContext, id: &str) -> Result<()>;
}
