//! A provider of one's own: backups of one file, kept in a local directory.
//!
//! A backup is a directory with the file's `data` and an `about.json` that says whose it is; what is restored is such a
//! directory elsewhere. Each is written beside its place and then renamed, so that it is there completely or not at all.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::backend::{
    Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore, DeleteRequest, RestorePoint, RestoreRequest,
    RestoreState, Restored,
};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, Result, RunId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const BACKEND: &str = "directory";

/// Keeps backups of a file.
#[derive(Debug, Clone)]
struct DirectoryBackups {
    source: PathBuf,
    backups: PathBuf,
    restored: PathBuf,
    /// A call that nobody waits for any more may still be at work.
    turn: Arc<Mutex<()>>,
}

/// What is known of a backup or of what was restored beside its data.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    key: IdempotencyKey,
    run: RunId,
    created: Timestamp,
    sha256: String,
}

impl DirectoryBackups {
    fn new(source: PathBuf, root: &Path) -> io::Result<Self> {
        let (backups, restored) = (root.join("backups"), root.join("restored"));
        fs::create_dir_all(&backups)?;
        fs::create_dir_all(&restored)?;
        Ok(Self { source, backups, restored, turn: Arc::default() })
    }

    /// Blocking work, away from the runtime, one at a time, that ends with the call's context.
    async fn work<T: Send + 'static>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        on: &str,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        let running = tokio::task::spawn_blocking(move || {
            let _turn = store.turn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&store)
        });
        let fell = |_| Err(Error::new(ErrorKind::Internal, BACKEND, operation, "it panicked").effect(Effect::Unknown));
        cx.run(BACKEND, operation, async { running.await.unwrap_or_else(fell) }).await.map_err(|e| e.on(on))
    }

    fn describe(&self, id: &str) -> Result<Option<Backup>> {
        let Some(about) = read(&self.backups, id)? else { return Ok(None) };
        Ok(Some(Backup {
            id: id.to_owned(),
            source: self.source.display().to_string(),
            state: BackupState::Available,
            created: Some(about.created),
            bytes: Some(fs::metadata(self.backups.join(id).join("data")).map_err(broken)?.len()),
            encrypted: Some(false),
            engine: None,
            run: Some(about.run),
            cost: None,
        }))
    }
}

fn fail(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, BACKEND, "use the directory", message)
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes it on")]
fn broken(e: io::Error) -> Error {
    fail(ErrorKind::Storage, e.to_string()).effect(Effect::Unknown).hint("look at the disk and at our rights")
}

/// Names come from outside: none may lead out of the directory.
fn read(place: &Path, name: &str) -> Result<Option<About>> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(fail(ErrorKind::Invalid, format!("{name:?} is no name for a directory")));
    }
    match fs::read(place.join(name).join("about.json")) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| fail(ErrorKind::Corrupt, e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(broken(e)),
    }
}

/// Whether it is there, made under this key; an error if it is another's.
fn ours(place: &Path, name: &str, key: &IdempotencyKey, taken: ErrorKind) -> Result<bool> {
    match read(place, name)? {
        Some(made) if made.key != *key => Err(fail(taken, "another key has made it; it was left as it is")),
        made => Ok(made.is_some()),
    }
}

/// Puts a copy of `data` into its place, all at once.
fn put(place: &Path, name: &str, data: &Path, cx: &CallContext) -> Result<()> {
    let part = place.join(format!(".{name}.part"));
    let copy = || {
        fs::create_dir_all(&part)?;
        fs::copy(data, part.join("data"))?;
        let (key, run, sha256) = (cx.key().clone(), cx.run_id().clone(), sum(&part.join("data"))?);
        #[expect(clippy::disallowed_methods, reason = "a store has a clock of its own")]
        let created = Timestamp::now();
        let about = About { key, run, created, sha256 };
        fs::write(part.join("about.json"), serde_json::to_vec(&about)?)?;
        fs::rename(&part, place.join(name))
    };
    copy().map_err(broken)
}

fn sum(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[async_trait]
impl BackupStore for DirectoryBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true)
    }

    async fn create(&self, cx: &CallContext, _: &BackupRequest) -> Result<Backup> {
        let (id, context) = (cx.key().as_str().replace('/', "."), cx.clone());
        let create = move |store: &Self| {
            if !ours(&store.backups, &id, context.key(), ErrorKind::AlreadyExists)? {
                put(&store.backups, &id, &store.source, &context)?;
            }
            store.describe(&id)?.ok_or_else(|| fail(ErrorKind::Internal, "it is gone again").effect(Effect::Unknown))
        };
        self.work(cx, "create backup", cx.key().as_str(), create).await
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        let name = id.to_owned();
        self.work(cx, "describe backup", id, move |store| store.describe(&name)).await
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let list = |store: &Self| {
            let names = fs::read_dir(&store.backups)
                .map_err(broken)?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let complete = names.filter(|name| !name.starts_with('.')).map(|name| store.describe(&name));
            let mut all: Vec<Backup> = complete.filter_map(Result::transpose).collect::<Result<_>>()?;
            all.sort_by_key(|backup| Reverse(backup.created));
            Ok(all)
        };
        self.work(cx, "list backups", "", list).await
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        let name = id.to_owned();
        let verify = move |store: &Self| {
            let unhealthy = |why: &str| fail(ErrorKind::Unhealthy, why);
            let about = read(&store.backups, &name)?.ok_or_else(|| unhealthy("there is no such backup"))?;
            if sum(&store.backups.join(&name).join("data")).map_err(broken)? != about.sha256 {
                return Err(unhealthy("its data is not what was written").hint("restore another backup"));
            }
            store.describe(&name)?.ok_or_else(|| unhealthy("it is gone"))
        };
        self.work(cx, "verify backup", id, verify).await
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let (from, target, context) = (request.from.clone(), request.target.clone(), cx.clone());
        let restore = move |store: &Self| {
            let RestorePoint::Backup(id) = &from else {
                return Err(fail(ErrorKind::Unsupported, format!("it cannot restore {from}")));
            };
            if !ours(&store.restored, &target, context.key(), ErrorKind::AlreadyExists)? {
                read(&store.backups, id)?
                    .ok_or_else(|| fail(ErrorKind::NotFound, format!("there is no backup {id}")))?;
                put(&store.restored, &target, &store.backups.join(id).join("data"), &context)?;
            }
            let endpoint = Some(store.restored.join(&target).join("data").display().to_string());
            Ok(Restored { target, state: RestoreState::Available, endpoint })
        };
        self.work(cx, "restore backup", &request.target, restore).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let name = target.to_owned();
        let exists = move |store: &Self| store.restored.join(&name).try_exists().map_err(broken);
        self.work(cx, "look for the target", target, exists).await
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let (name, key) = (target.to_owned(), cx.key().clone());
        let discard = move |store: &Self| {
            if ours(&store.restored, &name, &key, ErrorKind::Refused)? {
                fs::remove_dir_all(store.restored.join(&name)).map_err(broken)?;
            }
            Ok(true)
        };
        self.work(cx, "discard what was restored", target, discard).await
    }

    // Every backup in the directory was made by a run, so that retention may delete each.
    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let id = request.id().to_owned();
        let delete = move |store: &Self| match read(&store.backups, &id)? {
            None => Ok(()),
            Some(_) => fs::remove_dir_all(store.backups.join(&id)).map_err(broken),
        };
        self.work(cx, "delete backup", request.id(), delete).await
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = tempfile::tempdir()?;
    let source = root.path().join("moods.db");
    fs::write(&source, "calm")?;
    let store = DirectoryBackups::new(source, root.path())?;
    let cx = CallContext::by_hand("backup", std::time::Duration::from_secs(60));
    let made = store.create(&cx, &BackupRequest::new()).await?;
    println!("{}", store.verify(&cx, &made.id).await?);
    let restored = store.restore(&cx, &RestoreRequest::new(&made.id, "moods-again")).await?;
    println!("restored: {}", fs::read_to_string(restored.endpoint.unwrap_or_default())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(root: &Path) -> DirectoryBackups {
        fs::write(root.join("moods.db"), "calm").unwrap();
        DirectoryBackups::new(root.join("moods.db"), root).unwrap()
    }

    #[tokio::test]
    async fn it_keeps_the_contract_of_every_store() {
        let root = tempfile::tempdir().unwrap();
        let patience = std::time::Duration::from_secs(30);
        moodify_core::testing::conformance::backup_store(&store(root.path()), patience).await;
    }

    #[tokio::test]
    async fn damage_is_found_and_no_name_leads_out_of_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let cx = CallContext::by_hand("backup", std::time::Duration::from_secs(30));
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        fs::write(store.backups.join(&made.id).join("data"), "angry").unwrap();
        assert_eq!(store.verify(&cx, &made.id).await.unwrap_err().kind(), ErrorKind::Unhealthy);
        let out = store.restore(&cx, &RestoreRequest::new(&made.id, "../moods")).await.unwrap_err();
        assert_eq!(out.kind(), ErrorKind::Invalid);
    }
}
