use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EndpointKind, Retention};
use crate::context::CallContext;
use crate::error::{Effect, Error, ErrorKind, Result};
use crate::model::RunId;

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
    /// It can restore what was at a moment between two backups.
    pub point_in_time: bool,
    /// It can restore into the database itself.
    pub live: bool,
    /// By what the databases are reached that it restores.
    pub endpoint: EndpointKind,
}

impl BackupCapabilities {
    /// Capabilities of a store that restores neither to a point in time nor into the database itself, and whose
    /// databases have hosts; describing, listing and verifying every store can.
    #[must_use]
    pub fn new(create: bool, restore: bool, delete: bool) -> Self {
        Self { create, restore, delete, point_in_time: false, live: false, endpoint: EndpointKind::Host }
    }

    /// The same, with restore to a point in time.
    #[must_use]
    pub fn with_point_in_time(mut self) -> Self {
        self.point_in_time = true;
        self
    }

    /// The same, with restore into the database itself.
    #[must_use]
    pub fn with_live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The same, with databases that are reached so.
    #[must_use]
    pub fn with_endpoint(mut self, kind: EndpointKind) -> Self {
        self.endpoint = kind;
        self
    }
}

/// What is to be known of a backup beside its key and its run, which are in the context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupRequest {
    /// Labels by name, for people, where the provider keeps such: the plan, say.
    pub labels: BTreeMap<String, String>,
}

impl BackupRequest {
    /// A backup without labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one label more.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
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

impl fmt::Display for BackupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating(None) => f.write_str("being made"),
            Self::Creating(Some(percent)) => write!(f, "being made, {percent} %"),
            Self::Available => f.write_str("complete"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
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
    /// The run that made it; `None` if somebody else did, or if that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// What it costs, in the provider's words and units, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl fmt::Display for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup {} of {}: {}", self.id, self.source, self.state)?;
        if let Some(bytes) = self.bytes.filter(|_| self.state == BackupState::Available) {
            write!(f, ", {bytes} bytes")?;
        }
        if let Some(cost) = &self.cost {
            write!(f, ", {cost}")?;
        }
        Ok(())
    }
}

/// What is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RestorePoint {
    /// The backup of this id.
    Backup(String),
    /// What was there at this moment.
    Time(Timestamp),
}

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(id) => write!(f, "backup {id}"),
            Self::Time(time) => write!(f, "the state of {time}"),
        }
    }
}

/// What to restore, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreRequest {
    /// What is restored.
    pub from: RestorePoint,
    /// The name of the new target. Never one that exists.
    pub target: String,
}

impl RestoreRequest {
    /// Restore `backup` into a new `target`.
    #[must_use]
    pub fn new(backup: &str, target: &str) -> Self {
        Self::from(RestorePoint::Backup(backup.to_owned()), target)
    }

    /// Restore `from` into a new `target`.
    #[must_use]
    pub fn from(from: RestorePoint, target: &str) -> Self {
        Self { from, target: target.to_owned() }
    }
}

/// What to restore into the database itself, and the verified backup of what is there. Only the step `restore-live` makes
/// one, after two persons or more agreed and that backup was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRestoreRequest {
    backup: String,
    before: String,
}

impl LiveRestoreRequest {
    pub(crate) fn agreed(backup: &str, before: &str) -> Self {
        Self { backup: backup.to_owned(), before: before.to_owned() }
    }

    /// The backup that is restored.
    #[must_use]
    pub fn backup(&self) -> &str {
        &self.backup
    }

    /// The backup of what is there.
    #[must_use]
    pub fn before(&self) -> &str {
        &self.before
    }
}

/// Where a restore stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreState {
    /// Being made, and how far it is.
    Creating(String),
    /// It answers, says the provider.
    Available,
    /// It failed, and why.
    Failed(String),
}

impl fmt::Display for RestoreState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creating(how_far) => write!(f, "being made: {how_far}"),
            Self::Available => f.write_str("complete"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// What a restore made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Its name.
    pub target: String,
    /// Where it stands.
    pub state: RestoreState,
    /// Where it answers, once it does: an [`Endpoint`](super::Endpoint) of the kind that the store's capabilities say.
    pub endpoint: Option<String>,
}

/// Which backup to delete, and by what right: there is no other way to make one than typing a name or a [`Retention`].
///
/// ```
/// use moodify_core::backend::DeleteRequest;
/// use moodify_core::ErrorKind;
/// assert!(DeleteRequest::confirmed("nightly-7", "nightly-7").is_ok());
/// assert_eq!(DeleteRequest::confirmed("nightly-7", "nightly").unwrap_err().kind(), ErrorKind::Refused);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    id: String,
    by_retention: bool,
}

impl DeleteRequest {
    /// Delete the backup `id`, whose name a person has `typed` in full.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) if the two differ.
    pub fn confirmed(id: &str, typed: &str) -> Result<Self> {
        if id.is_empty() || id != typed {
            let message = format!("{typed:?} was typed; nothing was deleted");
            let refused = Error::new(ErrorKind::Refused, "moodify", "delete a backup", message).on(id);
            return Err(refused.hint("type the whole name of the backup"));
        }
        Ok(Self { id: id.to_owned(), by_retention: false })
    }

    pub(crate) fn by_retention(id: &str) -> Self {
        Self { id: id.to_owned(), by_retention: true }
    }

    /// The backup.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether no person asked for it by name: then a store deletes only what a run of moodify made.
    #[must_use]
    pub fn is_by_retention(&self) -> bool {
        self.by_retention
    }
}

/// Keeps backups of a database or the like.
///
/// # Contract
/// - `create` under a key that has a backup returns that one: a crash between request and answer never makes two, and
///   never loses one. It returns when the provider has begun; wait with [`BackupStoreExt::wait_available`].
/// - `verify` fails unless the backup is complete and plausible: a backup that was not verified does not exist.
/// - `restore` makes something new and never overwrites: a target that was not made under the same key is
///   [`AlreadyExists`](crate::ErrorKind::AlreadyExists). It does what can be done now and says where the restore stands;
///   called again under the same key it looks what is there and goes on from there. Wait with
///   [`BackupStoreExt::wait_restored`].
/// - `discard` removes a target that `restore` made under the same key, and nothing else: any other is
///   [`Refused`](crate::ErrorKind::Refused). One that is gone is fine. It goes on like `restore` does.
/// - `restore_live` is for what can restore into the database itself. It changes nothing unless both backups of the
///   request are there, are good, and differ. Under one key it restores once, and one backup: another one is
///   [`AlreadyExists`](crate::ErrorKind::AlreadyExists). It goes on like `restore` does; wait with
///   [`BackupStoreExt::wait_restored_live`].
/// - `delete` by retention deletes only what a run made: all else is [`Refused`](crate::ErrorKind::Refused).
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait BackupStore: Send + Sync + fmt::Debug {
    /// What this store can do.
    fn capabilities(&self) -> BackupCapabilities;

    /// Begins a backup under the context's key.
    ///
    /// # Errors
    /// When the provider refuses.
    async fn create(&self, cx: &CallContext, request: &BackupRequest) -> Result<Backup>;

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

    /// Begins a restore, or goes on with it.
    ///
    /// # Errors
    /// As in the contract, and when the provider refuses.
    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored>;

    /// Begins to restore into the database itself, or goes on with it; what stays there of what was written since the
    /// backup, the store says.
    ///
    /// # Errors
    /// As in the contract, and when the provider refuses; [`Unsupported`](crate::ErrorKind::Unsupported) by default.
    async fn restore_live(&self, _cx: &CallContext, request: &LiveRestoreRequest) -> Result<Restored> {
        let message = "this store restores into new databases only; nothing was changed";
        let error = Error::new(ErrorKind::Unsupported, "backup store", "restore into the database itself", message);
        Err(error.on(request.backup()))
    }

    /// Whether there is something of that name, whoever made it and in whatever state, so that nothing can be restored to
    /// it. Changes nothing: it is asked before anything else is, to which a restore belongs.
    ///
    /// # Errors
    /// When the provider cannot be asked.
    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool>;

    /// Begins to remove what a restore under the same key made, or goes on with it. True when it is gone.
    ///
    /// # Errors
    /// As in the contract, and when the provider refuses.
    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool>;

    /// Deletes a backup. Fine if it is gone.
    ///
    /// # Errors
    /// As in the contract, and when the provider refuses.
    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()>;
}

/// Comfort on top of any [`BackupStore`].
///
/// Backup APIs cannot be watched, so waiting asks again and again: after 1 s at first, doubling up to 15 s. A question
/// that fails in passing is simply asked again at the next turn.
#[async_trait]
pub trait BackupStoreExt {
    /// Waits until a backup is complete, and returns it. `seen` is told every state on the way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with the last state in the message; [`ErrorKind::Unhealthy`] if
    /// the backup failed; [`ErrorKind::NotFound`] if there is none.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting, and the backup goes on.
    async fn wait_available(
        &self,
        cx: &CallContext,
        id: &str,
        seen: &(dyn for<'a> Fn(&'a Backup) + Send + Sync),
    ) -> Result<Backup>;

    /// Restores, and waits until the new target is complete and has an endpoint. `seen` is told every state on the way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with the last state in the message; [`ErrorKind::Unhealthy`] if
    /// the restore failed; else as [`BackupStore::restore`].
    ///
    /// # Cancellation
    /// What was begun goes on; restoring again under the same key finds it.
    async fn wait_restored(
        &self,
        cx: &CallContext,
        request: &RestoreRequest,
        seen: &(dyn for<'a> Fn(&'a Restored) + Send + Sync),
    ) -> Result<Restored>;

    /// Restores into the database itself, and waits until that is complete. `seen` is told every state on the way.
    ///
    /// # Errors
    /// As [`wait_restored`](Self::wait_restored).
    ///
    /// # Cancellation
    /// What was begun goes on; restoring again under the same key finds it.
    async fn wait_restored_live(
        &self,
        cx: &CallContext,
        request: &LiveRestoreRequest,
        seen: &(dyn for<'a> Fn(&'a Restored) + Send + Sync),
    ) -> Result<Restored>;

    /// Discards a target, and waits until it is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline; else as [`BackupStore::discard`].
    ///
    /// # Cancellation
    /// What was begun goes on; discarding again under the same key finds it.
    async fn wait_discarded(&self, cx: &CallContext, target: &str) -> Result<()>;

    /// The newest complete backup, if there is one.
    ///
    /// # Errors
    /// As [`BackupStore::list`].
    async fn newest(&self, cx: &CallContext) -> Result<Option<Backup>>;

    /// Deletes what `retention` does not keep and `needed` does not name, oldest first; returns the ids of what was
    /// deleted.
    ///
    /// # Errors
    /// As [`BackupStore::list`] and [`BackupStore::delete`]; what was deleted before stays deleted.
    async fn prune(
        &self,
        cx: &CallContext,
        retention: &Retention,
        now: Timestamp,
        needed: &(dyn for<'a> Fn(&'a Backup) -> bool + Send + Sync),
    ) -> Result<Vec<String>>;
}

const FIRST_TURN: Duration = Duration::from_secs(1);
const LONGEST_TURN: Duration = Duration::from_secs(15);

/// Asks until it is over. At the deadline, what was known last is in the error.
pub(super) async fn poll<'a, T: Send>(
    cx: &CallContext,
    (operation, target): (&'static str, &str),
    ask: impl Fn() -> BoxFuture<'a, Result<ControlFlow<T, String>>> + Send,
) -> Result<T> {
    let mut last = "nothing is known of it yet".to_owned();
    let mut failed = None;
    let asking = async {
        let mut turn = FIRST_TURN;
        loop {
            let wait = match ask().await {
                Ok(ControlFlow::Break(answer)) => return Ok(answer),
                Ok(ControlFlow::Continue(state)) => {
                    (last, failed) = (state, None);
                    turn
                }
                Err(e) if e.is_transient() => turn.max(failed.insert(e).retry_after_of().unwrap_or_default()),
                Err(e) => return Err(e),
            };
            tokio::time::sleep(wait).await;
            turn = (turn * 2).min(LONGEST_TURN);
        }
    };
    let result = cx.run("moodify", operation, asking).await;
    result.map_err(|e| match e.kind() {
        ErrorKind::Timeout if cx.remaining().is_zero() => {
            let message = match &failed {
                Some(error) => format!("not over at the deadline: {last}; the last question failed: {error}"),
                None => format!("not over at the deadline: {last}"),
            };
            let late = Error::new(ErrorKind::Timeout, "moodify", operation, message).on(target);
            late.hint("what was begun goes on at the provider; the same step under the same key finds it again")
        }
        _ => e,
    })
}

/// Whether a restore is over, or what it is waited for.
fn stands((operation, of): (&'static str, &str), restored: Restored) -> Result<ControlFlow<Restored, String>> {
    match &restored.state {
        RestoreState::Available => Ok(ControlFlow::Break(restored)),
        RestoreState::Creating(_) => Ok(ControlFlow::Continue(restored.state.to_string())),
        RestoreState::Failed(why) => {
            let why = format!("the restore failed: {why}");
            Err(Error::new(ErrorKind::Unhealthy, "moodify", operation, why).on(of))
        }
    }
}

#[async_trait]
impl<S: BackupStore + ?Sized> BackupStoreExt for S {
    async fn wait_available(
        &self,
        cx: &CallContext,
        id: &str,
        seen: &(dyn for<'a> Fn(&'a Backup) + Send + Sync),
    ) -> Result<Backup> {
        const OPERATION: &str = "wait for the backup";
        let fail = move |kind, why: String| Err(Error::new(kind, "moodify", OPERATION, why).on(id));
        let waiting = poll(cx, (OPERATION, id), || {
            async move {
                let Some(backup) = self.describe(cx, id).await? else {
                    return fail(ErrorKind::NotFound, "there is no such backup".to_owned());
                };
                seen(&backup);
                match &backup.state {
                    BackupState::Available => Ok(ControlFlow::Break(backup)),
                    BackupState::Creating(_) => Ok(ControlFlow::Continue(backup.state.to_string())),
                    BackupState::Failed(why) => fail(ErrorKind::Unhealthy, format!("the backup failed: {why}")),
                }
            }
            .boxed()
        });
        waiting.await.map_err(|e| e.effect(Effect::None))
    }

    async fn wait_restored(
        &self,
        cx: &CallContext,
        request: &RestoreRequest,
        seen: &(dyn for<'a> Fn(&'a Restored) + Send + Sync),
    ) -> Result<Restored> {
        const OPERATION: &str = "wait for the restore";
        let target = request.target.as_str();
        poll(cx, (OPERATION, target), || {
            async move {
                let restored = self.restore(cx, request).await?;
                seen(&restored);
                match &restored.state {
                    RestoreState::Available if restored.endpoint.is_none() => {
                        Ok(ControlFlow::Continue("it has no endpoint yet".to_owned()))
                    }
                    _ => stands((OPERATION, target), restored),
                }
            }
            .boxed()
        })
        .await
    }

    async fn wait_restored_live(
        &self,
        cx: &CallContext,
        request: &LiveRestoreRequest,
        seen: &(dyn for<'a> Fn(&'a Restored) + Send + Sync),
    ) -> Result<Restored> {
        const OPERATION: &str = "wait for the restore into the database itself";
        let backup = request.backup();
        poll(cx, (OPERATION, backup), || {
            async move {
                let restored = self.restore_live(cx, request).await?;
                seen(&restored);
                stands((OPERATION, backup), restored)
            }
            .boxed()
        })
        .await
    }

    async fn wait_discarded(&self, cx: &CallContext, target: &str) -> Result<()> {
        poll(cx, ("discard the restored target", target), || {
            async move {
                Ok(match self.discard(cx, target).await? {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue("it is being removed".to_owned()),
                })
            }
            .boxed()
        })
        .await
    }

    async fn newest(&self, cx: &CallContext) -> Result<Option<Backup>> {
        Ok(self.list(cx).await?.into_iter().find(|backup| backup.state == BackupState::Available))
    }

    async fn prune(
        &self,
        cx: &CallContext,
        retention: &Retention,
        now: Timestamp,
        needed: &(dyn for<'a> Fn(&'a Backup) -> bool + Send + Sync),
    ) -> Result<Vec<String>> {
        let mut deleted = Vec::new();
        for request in retention.surplus(&self.list(cx).await?, now, needed) {
            match self.delete(cx, &request).await {
                Ok(()) => deleted.push(request.id),
                // Its name says that a run made it, but the store knows better.
                Err(e) if e.kind() == ErrorKind::Refused => {}
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }
}
