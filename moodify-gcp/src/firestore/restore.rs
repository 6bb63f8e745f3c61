use google_cloud_firestore_admin_v1::model::Database;
use google_cloud_firestore_admin_v1::model::database::{ConcurrencyMode, DatabaseType};
use moodify_core::backend::{
    ArtifactStore, BackupRequest, BackupState, BackupStore, LiveRestoreRequest, RestorePoint, RestoreRequest,
    RestoreState, Restored,
};
use moodify_core::{CallContext, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::admin::{Transfer, TransferState, Way, newest, time_of};
use super::export::{RESTORES, Record};
use super::{FirestoreBackups, is_id};
use crate::error::{Call, FIRESTORE};

const RESTORE: Call = Call::write(FIRESTORE, "restore database");
const DISCARD: Call = Call::write(FIRESTORE, "delete restored database");
const LIVE: Call = Call::write(FIRESTORE, "restore into the live database");

/// Clocks of two services of one provider differ by less.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Restore a backup into the database that is backed up. What was written since stays, unless the backup has a document
/// of the same name: an import deletes nothing.
///
/// ```
/// use moodify_core::ErrorKind;
/// use moodify_gcp::LiveRestore;
/// assert!(LiveRestore::confirmed("nightly-7", "(default)", "(default)").is_ok());
/// assert_eq!(LiveRestore::confirmed("nightly-7", "(default)", "yes").unwrap_err().kind(), ErrorKind::Refused);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRestore {
    backup: String,
    database: String,
}

impl LiveRestore {
    /// Restore `backup` into the live `database`, whose name a person has `typed` in full.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if the two differ.
    pub fn confirmed(backup: &str, database: &str, typed: &str) -> Result<Self> {
        if database.is_empty() || database != typed {
            let refused =
                LIVE.fail(ErrorKind::Refused, format!("{typed:?} was typed; nothing was changed")).on(database);
            return Err(refused.hint("type the whole name of the live database"));
        }
        Ok(Self { backup: backup.to_owned(), database: database.to_owned() })
    }
}

/// That an import is over: Firestore forgets its operations.
#[derive(Debug, Serialize, Deserialize)]
struct Imported {
    documents: Option<i64>,
}

fn restore_path(target: &str) -> String {
    format!("{RESTORES}/{target}.json")
}

fn done_path(target: &str) -> String {
    format!("{RESTORES}/{target}.done.json")
}

/// What Firestore takes as the id of a new database.
fn is_new_database(id: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (4..=63).contains(&id.len())
        && id.bytes().all(fits)
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && !id.ends_with('-')
}

fn creating(target: &str, how_far: impl Into<String>) -> Restored {
    Restored { target: target.to_owned(), state: RestoreState::Creating(how_far.into()), endpoint: None }
}

impl FirestoreBackups {
    /// Begins a restore into a new database, or goes on with it.
    pub(super) async fn go_on(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let target = request.target.as_str();
        let fail = |kind, why: &str| RESTORE.fail(kind, why).on(self.admin.name(target));
        let RestorePoint::Backup(backup) = &request.from else {
            return Err(fail(ErrorKind::Unsupported, "exports know no points in time"));
        };
        if !is_new_database(target) {
            let error = fail(ErrorKind::Invalid, "it is no id of a database");
            return Err(error.hint("4 to 63 lowercase letters, digits and dashes, a letter first, no dash at the end"));
        }
        let there = self.admin.database(cx, RESTORE, target).await?;
        let path = restore_path(target);
        let noted = self.noted::<Record>(cx, RESTORE, &path).await?;
        if there.is_some() && noted.is_none() {
            return Err(fail(ErrorKind::AlreadyExists, "there is a database of that name; it was left as it is"));
        }
        if noted.is_none() {
            let known = self.describe(cx, backup).await?;
            known.ok_or_else(|| {
                RESTORE.fail(ErrorKind::NotFound, "there is no such backup").on(self.store.uri(backup))
            })?;
            self.verify(cx, backup).await?;
        }
        let record = self.claim(cx, RESTORE, &path, &self.record(cx, Some(backup), &Default::default())).await?;
        if record.backup.as_ref() != Some(backup) {
            let why = format!("it was begun with backup {}", record.backup.unwrap_or_default());
            return Err(fail(ErrorKind::AlreadyExists, &why));
        }
        let Some(database) = there else { return self.begin_database(cx, target).await };
        let made = database.create_time.and_then(time_of);
        let begun = self.store.head(cx, &path).await?.and_then(|record| record.updated);
        if made.zip(begun).is_some_and(|(made, begun)| made + SKEW < begun) {
            return Err(fail(
                ErrorKind::AlreadyExists,
                "there is a database of that name that is older; it was left as it is",
            ));
        }
        self.import(cx, RESTORE, target, &self.store.uri(backup), &done_path(target), |_| true).await
    }

    async fn begin_database(&self, cx: &CallContext, target: &str) -> Result<Restored> {
        // It may be the one that was lost.
        let like = match self.admin.database(cx, RESTORE, &self.config.database).await? {
            Some(like) => like,
            None => self.like_the_bucket(cx).await?,
        };
        match self.admin.create(cx, RESTORE, target, like).await {
            Ok(()) => info!(database = target, run = %cx.run_id(), "restore begun"),
            // An earlier attempt was carried out.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        Ok(creating(target, "the database is being made"))
    }

    /// A database where the bucket is, whose location was that of the database when it was checked.
    async fn like_the_bucket(&self, cx: &CallContext) -> Result<Database> {
        let location = self.store.bucket(cx, RESTORE).await?.location.to_lowercase();
        let location = match location.as_str() {
            "us" => "nam5",
            "eu" => "eur3",
            region => region,
        };
        let kind = Database::new().set_type(DatabaseType::FirestoreNative);
        Ok(kind.set_location_id(location).set_concurrency_mode(ConcurrencyMode::Unspecified))
    }

    /// Begins an import, or tells where it stands. Of those that the API knows of, it is one that is `ours`.
    async fn import(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        uri: &str,
        done: &str,
        ours: impl Fn(&Transfer) -> bool,
    ) -> Result<Restored> {
        let complete = || Restored {
            target: target.to_owned(),
            state: RestoreState::Available,
            endpoint: Some(self.admin.name(target)),
        };
        if self.noted::<Imported>(cx, call, done).await?.is_some() {
            return Ok(complete());
        }
        let mut transfers = self.admin.transfers(cx, call, target).await?;
        transfers.retain(ours);
        let Some(transfer) = newest(&transfers, Way::Import, uri) else {
            self.admin.begin(cx, call, Way::Import, target, uri).await?;
            info!(database = target, from = uri, run = %cx.run_id(), "import begun");
            return Ok(creating(target, "its documents are being imported"));
        };
        match &transfer.state {
            TransferState::Running => {
                let documents =
                    transfer.documents.map(|count| format!(", {count} documents so far")).unwrap_or_default();
                Ok(creating(target, format!("its documents are being imported{documents}")))
            }
            TransferState::Failed(why) => {
                let why = format!("the import broke off, and the database has a part of the documents: {why}");
                Ok(Restored { state: RestoreState::Failed(why), ..creating(target, "") })
            }
            TransferState::Done => {
                self.note(cx, done, &Imported { documents: transfer.documents }).await?;
                Ok(complete())
            }
        }
    }

    /// Begins to remove what a restore made, or goes on with it.
    pub(super) async fn remove(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let there = if is_id(target) { self.admin.database(cx, DISCARD, target).await? } else { None };
        let noted = if is_id(target) { self.noted::<Record>(cx, DISCARD, &restore_path(target)).await? } else { None };
        let ours = noted.is_some_and(|record| record.key == self.digest(cx));
        match there {
            None if ours => {
                for path in [done_path(target), restore_path(target)] {
                    self.store.delete(cx, &path).await?;
                }
                Ok(true)
            }
            None => Ok(true),
            Some(_) if ours => {
                self.admin.drop_database(cx, DISCARD, target).await?;
                info!(database = target, run = %cx.run_id(), "restored database is being deleted");
                Ok(false)
            }
            Some(_) => {
                let message = "it was not made by this step, and was left as it is";
                Err(DISCARD.fail(ErrorKind::Refused, message).on(self.admin.name(target)))
            }
        }
    }

    /// Begins to restore a backup into the database itself, or goes on with it: what is there is exported and verified
    /// first, under a key of its own. Call it again under the same key while it says [`RestoreState::Creating`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the request is for another database; [`ErrorKind::NotFound`] and
    /// [`ErrorKind::Unhealthy`] if there is no such backup, or it or the export of what is there is not good: then
    /// nothing was changed; else when Google refuses.
    pub async fn restore_into_live(&self, cx: &CallContext, request: &LiveRestore) -> Result<Restored> {
        let (database, backup) = (self.config.database.as_str(), request.backup.as_str());
        let fail = |kind, why: String| LIVE.fail(kind, why).on(self.admin.name(database));
        if request.database != database {
            return Err(fail(ErrorKind::Invalid, format!("{} is not the database of this store", request.database)));
        }
        if self.noted::<Record>(cx, LIVE, &restore_path(&self.live(cx))).await?.is_none() {
            self.good(cx, backup).await?;
            let before = cx.clone().with_key(cx.key().part("before"));
            let request = BackupRequest::new().label("before-restore-of", backup);
            let made = self.create(&before, &request).await?;
            match &made.state {
                BackupState::Available => drop(self.verify(cx, &made.id).await?),
                BackupState::Creating(_) => {
                    let how_far = format!("what is there is exported first, to {}: {}", made.id, made.state);
                    return Ok(creating(database, how_far));
                }
                BackupState::Failed(why) => {
                    let why = format!("the export of what is there failed, and nothing was changed: {why}");
                    return Err(fail(ErrorKind::Unhealthy, why));
                }
            }
        }
        self.import_live(cx, backup).await
    }

    /// The same for a step of a plan, which has had what is there exported.
    pub(super) async fn go_on_live(&self, cx: &CallContext, request: &LiveRestoreRequest) -> Result<Restored> {
        let (backup, before) = (request.backup(), request.before());
        if backup == before {
            let message = "what is restored is no export of what is there; nothing was changed";
            return Err(LIVE.fail(ErrorKind::Invalid, message).on(self.store.uri(backup)));
        }
        if self.noted::<Record>(cx, LIVE, &restore_path(&self.live(cx))).await?.is_none() {
            for id in [backup, before] {
                self.good(cx, id).await?;
            }
        }
        self.import_live(cx, backup).await
    }

    /// By what a restore into the database itself is noted.
    fn live(&self, cx: &CallContext) -> String {
        format!("live-{}", self.digest(cx))
    }

    /// Whether a backup is there, and good.
    async fn good(&self, cx: &CallContext, id: &str) -> Result<()> {
        let known = self.describe(cx, id).await?;
        known.ok_or_else(|| LIVE.fail(ErrorKind::NotFound, "there is no such backup").on(self.store.uri(id)))?;
        self.verify(cx, id).await.map(drop)
    }

    async fn import_live(&self, cx: &CallContext, backup: &str) -> Result<Restored> {
        let database = self.config.database.as_str();
        let fail = |kind, why: String| LIVE.fail(kind, why).on(self.admin.name(database));
        let (claimed, done) = (restore_path(&self.live(cx)), done_path(&self.live(cx)));
        let mut record = self.record(cx, Some(backup), &Default::default());
        let transfers = self.admin.transfers(cx, LIVE, database).await?;
        record.before = transfers.into_iter().map(|transfer| transfer.name).collect();
        let record = self.claim(cx, LIVE, &claimed, &record).await?;
        if record.backup.as_deref() != Some(backup) {
            let why = format!("under this key it was begun with backup {}", record.backup.unwrap_or_default());
            return Err(fail(ErrorKind::AlreadyExists, why));
        }
        let ours = |transfer: &Transfer| !record.before.contains(&transfer.name);
        self.import(cx, LIVE, database, &self.store.uri(backup), &done, ours).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_new_databases_are_those_that_firestore_takes() {
        for (id, fits) in [
            ("moods-restored", true),
            ("a123", true),
            ("abc", false),
            ("Moods", false),
            ("1moods", false),
            ("moods-", false),
            ("(default)", false),
            ("moods/x", false),
        ] {
            assert_eq!(is_new_database(id), fits, "{id}");
        }
        assert!(is_new_database(&"a".repeat(63)) && !is_new_database(&"a".repeat(64)));
    }
}
