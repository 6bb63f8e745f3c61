//! Backups of Firestore: `mod` is the store, `admin` the API, `bucket` what is asked of a bucket, `export` what an export
//! is like in the bucket, `outputs` what it says it has written, `restore` makes databases of exports.

mod admin;
mod bucket;
mod export;
mod outputs;
mod restore;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use google_cloud_firestore_admin_v1::model::Database;
use jiff::tz::TimeZone;
use moodify_core::backend::{
    Artifact, ArtifactStore, ArtifactStoreExt, Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore,
    DeleteRequest, EndpointKind, LiveRestoreRequest, RestoreRequest, Restored,
};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use crate::client::absent;
use crate::cloud_storage::CloudStorage;
use crate::config::FirestoreConfig;
use crate::error::{Call, FIRESTORE};
use admin::{Admin, TransferState, Way, newest};
use export::{Export, Record, digest, id_of, manifest_path, record_path, sorted};
pub use restore::LiveRestore;

const CREATE: Call = Call::write(FIRESTORE, "export documents");
const DESCRIBE: Call = Call::read(FIRESTORE, "describe export");
const LIST: Call = Call::read(FIRESTORE, "list exports");
const VERIFY: Call = Call::read(FIRESTORE, "verify export");
const DELETE: Call = Call::write(FIRESTORE, "delete export");
const LOOK: Call = Call::read(FIRESTORE, "look for the target");

/// Keeps backups of one Firestore database as exports in a bucket of Cloud Storage.
///
/// - `create` checks first that the bucket is where the database is, that its own rules delete nothing within the
///   configured time, and that it lets backups be deleted after that. It names the export after run and idempotency key, and notes both beside it before it is begun. What
///   a lost answer has begun is found among the database's operations. An export that failed or was cancelled stays
///   failed: another backup needs another key.
/// - `describe` and `list` tell the state by the operation, and when Firestore has forgotten that, by the objects.
/// - `verify` wants the export's metadata, which is written last and is read back, every object with documents that it
///   names, and at least one. It notes size and checksum of each object; from then on an object that is changed, gone or new fails it.
/// - `restore` verifies the backup, makes a new database like the one that is backed up, and imports into it. It fails if
///   the database is elsewhere or of another mode than asked for, or has fewer documents than the backup. What
///   exports lack the new database lacks too: indexes, rules, TTL policies. Its endpoint is its resource name.
/// - `discard` deletes a database that `restore` made. One that was asked for and is not to be seen yet is asked for once
///   more, and deleted as soon as it is there: nothing is left behind.
/// - `delete` refuses an export that is still written, and by retention one that no run made.
/// - An import adds and replaces documents and deletes none. Into the database itself it goes by a step of a plan to which
///   two persons agreed, or by hand by [`restore_into_live`](Self::restore_into_live).
///
/// The identity needs `datastore.databases.export`, `datastore.databases.getMetadata`, `datastore.operations.list`, and on
/// the bucket `storage.buckets.get` and `storage.objects.create`, `get`, `list` and `delete`; to restore also
/// `datastore.databases.create`, `datastore.databases.delete` and `datastore.databases.import`. Firestore's own service
/// agent needs to write to the bucket.
///
/// Dropping the future of a call is safe; what it had sent may still happen, and repeating the call under the same key is
/// fine.
///
/// ```
/// use moodify_core::backend::BackupStore;
/// use moodify_gcp::{FirestoreBackups, FirestoreConfig, StorageConfig};
/// let storage = StorageConfig::new("moodify-backups").prefix("firestore/");
/// let config = FirestoreConfig::new("moodify", storage);
/// assert!(FirestoreBackups::new(config).unwrap().capabilities().restore);
/// ```
#[derive(Debug)]
pub struct FirestoreBackups {
    config: FirestoreConfig,
    admin: Admin,
    store: CloudStorage,
}

impl FirestoreBackups {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: FirestoreConfig) -> Result<Self> {
        config.validate()?;
        let mut storage = config.storage.clone();
        // No id of a database has an underscore.
        let database = if config.database == "(default)" { "_default" } else { &config.database };
        storage.prefix = format!("{}{database}/", storage.prefix);
        Ok(Self { store: CloudStorage::new(storage)?, admin: Admin::new(config.clone()), config })
    }

    fn digest(&self, cx: &CallContext) -> String {
        digest(&self.config.database, cx.key())
    }

    /// All that is in the bucket of an export.
    async fn export(&self, cx: &CallContext, id: &str) -> Result<Export> {
        let objects = self.store.list(cx, id).await?;
        Ok(sorted(objects).remove(id).unwrap_or_default())
    }

    async fn look(&self, cx: &CallContext, call: Call, id: &str) -> Result<(Export, Option<Backup>)> {
        if !is_id(id) {
            return Ok((Export::default(), None));
        }
        // The operation first: if it is done, all of its objects are there.
        let transfers = absent(self.admin.transfers(cx, call, &self.config.database).await)?.unwrap_or_default();
        let (mut export, uri) = (self.export(cx, id).await?, self.store.uri(id));
        let backup = export.backup(id, &self.config.database, &uri, &transfers);
        let over = newest(&transfers, Way::Export, &uri).filter(|transfer| transfer.state == TransferState::Done);
        export.documents = over.and_then(|transfer| transfer.documents);
        Ok((export, backup))
    }

    /// What is noted at a path, if anything is, and how it is kept.
    async fn noted<T: DeserializeOwned>(&self, cx: &CallContext, call: Call, path: &str) -> Result<Option<T>> {
        let Some(text) = self.store.read(cx, path).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let error = call.fail(ErrorKind::Unhealthy, format!("it cannot be read: {e}")).on(self.store.uri(path));
            error.hint("it is not what moodify wrote; look at the object's earlier versions")
        })
    }

    async fn note(&self, cx: &CallContext, path: &str, what: &(impl Serialize + Sync)) -> Result<Artifact> {
        let text = serde_json::to_vec(what);
        let failed = |e| CREATE.fail(ErrorKind::Internal, format!("it cannot be written down: {e}")).on(path);
        self.store.write(cx, path, Bytes::from(text.map_err(failed)?)).await
    }

    /// Notes that something was begun under the context's key, unless that is noted already; fails if it was begun under
    /// another.
    async fn claim(&self, cx: &CallContext, call: Call, path: &str, record: &Record) -> Result<Record> {
        let taken = || {
            let message = "it was begun by another step, and was left as it is";
            call.fail(ErrorKind::AlreadyExists, message).on(self.store.uri(path))
        };
        let record = match self.noted::<Record>(cx, call, path).await? {
            Some(noted) => noted,
            None => match self.note(cx, path, record).await {
                Ok(_) => record.clone(),
                // Somebody was faster, perhaps this step.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => self.noted(cx, call, path).await?.ok_or(e)?,
                Err(e) => return Err(e),
            },
        };
        if record.key == self.digest(cx) { Ok(record) } else { Err(taken()) }
    }

    fn record(&self, cx: &CallContext, backup: Option<&str>, labels: &BTreeMap<String, String>) -> Record {
        let (key, run) = (self.digest(cx), cx.run_id().clone());
        let (backup, labels) = (backup.map(str::to_owned), labels.clone());
        Record { key, run, backup, labels, before: Vec::new(), documents: None, asked: None }
    }

    /// The database that is backed up.
    async fn source(&self, cx: &CallContext, call: Call) -> Result<Database> {
        let database = &self.config.database;
        let missing = || call.fail(ErrorKind::NotFound, "there is no such database").on(self.admin.name(database));
        self.admin.database(cx, call, database).await?.ok_or_else(missing)
    }

    async fn check_bucket(&self, cx: &CallContext) -> Result<()> {
        let source = self.source(cx, CREATE).await?;
        let bucket = self.store.bucket(cx, CREATE).await?;
        let root = self.store.uri("");
        let prefix = root.splitn(4, '/').nth(3).unwrap_or_default();
        let today = SystemClock.now().to_zoned(TimeZone::UTC).date();
        let problems = bucket::problems(&self.config, &bucket, &source.location_id, prefix, today);
        if problems.is_empty() {
            return Ok(());
        }
        let message = format!("the bucket is not fit for backups, and none was begun: {}", problems.join("; "));
        Err(CREATE
            .fail(ErrorKind::Invalid, message)
            .on(self.store.uri(""))
            .hint("choose another bucket, or change its rules"))
    }

    /// What the metadata of an export names and is not there.
    async fn missing_outputs(&self, cx: &CallContext, export: &Export) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for metadata in export.objects.iter().filter(|object| export::is_metadata(&object.path)) {
            match self.store.get(cx, &metadata.path).await? {
                Some((_, content)) => {
                    missing.extend(outputs::missing(metadata, &outputs::named(content).await?, &export.objects));
                }
                None => missing.push(format!("{} is gone", metadata.path)),
            }
        }
        Ok(missing)
    }

    fn unhealthy(&self, call: Call, id: &str, why: impl Into<String>) -> Error {
        call.fail(ErrorKind::Unhealthy, why).on(self.store.uri(id))
    }
}

/// Ids are names of folders; anything else is the id of no backup.
fn is_id(id: &str) -> bool {
    !matches!(id, "" | "." | ".." | export::RESTORES) && !id.contains(['/', '\\']) && !id.chars().any(char::is_control)
}

#[async_trait]
impl BackupStore for FirestoreBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true).with_live().with_endpoint(EndpointKind::Name)
    }

    async fn create(&self, cx: &CallContext, request: &BackupRequest) -> Result<Backup> {
        let id = id_of(&self.config.database, cx.run_id(), cx.key());
        let record = self.record(cx, None, &request.labels);
        match self.look(cx, CREATE, &id).await? {
            (Export { record: None, .. }, Some(_)) => {
                let message = "there is an export of that name, of which no run is noted; it was left as it is";
                return Err(CREATE.fail(ErrorKind::AlreadyExists, message).on(self.store.uri(&id)));
            }
            (_, Some(made)) => return self.claim(cx, CREATE, &record_path(&id), &record).await.map(|_| made),
            (_, None) => self.check_bucket(cx).await?,
        }
        self.claim(cx, CREATE, &record_path(&id), &record).await?;
        self.admin.begin(cx, CREATE, Way::Export, &self.config.database, &self.store.uri(&id)).await?;
        info!(export = %self.store.uri(&id), run = %cx.run_id(), "export begun");
        let (_, begun) = self.look(cx, CREATE, &id).await.map_err(|e| e.effect(Effect::Unknown))?;
        let lost = || CREATE.fail(ErrorKind::Unavailable, "it was begun, but no operation of it is to be seen yet");
        begun.ok_or_else(|| lost().on(self.store.uri(&id)).effect(Effect::Unknown))
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        Ok(self.look(cx, DESCRIBE, id).await?.1)
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let transfers = absent(self.admin.transfers(cx, LIST, &self.config.database).await)?.unwrap_or_default();
        let exports = sorted(self.store.list(cx, "").await?);
        let of = |(id, export): (&String, &Export)| {
            export.backup(id, &self.config.database, &self.store.uri(id), &transfers)
        };
        let mut backups: Vec<Backup> = exports.iter().filter_map(of).collect();
        backups.sort_by_key(|backup| Reverse(backup.created));
        Ok(backups)
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        let (export, backup) = self.look(cx, VERIFY, id).await?;
        let backup = backup.ok_or_else(|| self.unhealthy(VERIFY, id, "there is no such export"))?;
        match &backup.state {
            BackupState::Available => {}
            state => return Err(self.unhealthy(VERIFY, id, format!("it is not complete: {state}"))),
        }
        let noted: Option<Vec<Artifact>> = match &export.manifest {
            Some(_) => self.noted(cx, VERIFY, &manifest_path(id)).await?,
            None => None,
        };
        let problems = export.problems(id, noted.as_deref());
        if !problems.is_empty() {
            return Err(self.unhealthy(VERIFY, id, problems.join("; ")));
        }
        if noted.is_some() {
            if let Some(metadata) = export.metadata(id) {
                ArtifactStoreExt::verify(&self.store, cx, &metadata.path).await?;
            }
            return Ok(backup);
        }
        let missing = self.missing_outputs(cx, &export).await?;
        if !missing.is_empty() {
            return Err(self.unhealthy(VERIFY, id, missing.join("; ")));
        }
        self.note(cx, &manifest_path(id), &export.objects).await?;
        Ok(backup)
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        self.go_on(cx, request).await
    }

    async fn restore_live(&self, cx: &CallContext, request: &LiveRestoreRequest) -> Result<Restored> {
        self.go_on_live(cx, request).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        Ok(self.admin.database(cx, LOOK, target).await?.is_some())
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        self.remove(cx, target).await
    }

    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let id = request.id();
        let (export, backup) = self.look(cx, DELETE, id).await?;
        let refused =
            |kind, why: &str| Err(DELETE.fail(kind, format!("{why}; nothing was deleted")).on(self.store.uri(id)));
        if request.is_by_retention() && export.record.is_none() && !export.objects.is_empty() {
            return refused(ErrorKind::Refused, "no run is noted that made it");
        }
        if backup.is_some_and(|backup| matches!(backup.state, BackupState::Creating(_))) {
            return refused(ErrorKind::Conflict, "it is still written");
        }
        // The record last: until then a retry knows whose it is. The metadata first: without it, it is no backup.
        let (metadata, objects) = (export.metadata(id), export.objects.iter());
        let objects = metadata.into_iter().chain(objects.filter(|object| Some(*object) != metadata));
        for object in objects.chain(&export.manifest).chain(&export.record) {
            self.store.delete(cx, &object.path).await?;
        }
        Ok(())
    }
}
