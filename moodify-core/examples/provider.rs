//! A provider of one's own: backups of one file, kept in a local directory.
//!
//! A backup is a directory with the file's `data` and an `about.json` that says whose it is; what is restored is such a
//! directory elsewhere. Each is written beside its place and then renamed, so that it is there completely or not at all.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::backend::{
    Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore, DeleteRequest, EndpointKind, RestorePoint,
    RestoreRequest, RestoreState, Restored,
};
use moodify_core::{CallContext, Effect, Error, ErrorKind, IdempotencyKey, Result};
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

/// What is known of a backup, or of what was restored, beside its data.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    key: IdempotencyKey,
    sha256: String,
    backup: Backup,
}

impl DirectoryBackups {
    fn new(source: PathBuf, root: &Path) -> io::Result<Self> {
        let [backups, restored] = ["backups", "restored"].map(|name| root.join(name));
        fs::create_dir_all(&backups).and_then(|()| fs::create_dir_all(&restored))?;
        Ok(Self { source, backups, restored, turn: Arc::default() })
    }

    /// Blocking work, away from the runtime, one at a time, that ends with the call's context.
    async fn work<T: Send + 'static>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        on: &str,
        work: impl FnOnce(&Self, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, name) = (self.clone(), on.to_owned());
        let running = tokio::task::spawn_blocking(move || {
            let _turn = store.turn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&store, &name)
        });
        let fell = |_| Err(Error::new(ErrorKind::Internal, BACKEND, operation, "it panicked").effect(Effect::Unknown));
        cx.run(BACKEND, operation, async { running.await.unwrap_or_else(fell) }).await.map_err(|e| e.on(on))
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

/// What is there, made under this key; an error if it is another's.
fn ours(place: &Path, name: &str, key: &IdempotencyKey, taken: ErrorKind) -> Result<Option<About>> {
    match read(place, name)? {
        Some(made) if made.key != *key => Err(fail(taken, "another key has made it; it was left as it is")),
        made => Ok(made),
    }
}

/// Puts a copy of `data` into its place, all at once, unless it is there already.
fn put(place: &Path, name: &str, data: &Path, cx: &CallContext) -> Result<Backup> {
    if let Some(made) = ours(place, name, cx.key(), ErrorKind::AlreadyExists)? {
        return Ok(made.backup);
    }
    let copy = || {
        let part = place.join(format!(".{name}.part"));
        fs::create_dir_all(&part)?;
        let bytes = Some(fs::copy(data, part.join("data"))?);
        #[expect(clippy::disallowed_methods, reason = "a store has a clock of its own")]
        let created = Some(Timestamp::now());
        let (id, source, run) = (name.to_owned(), data.display().to_string(), Some(cx.run_id().clone()));
        let (state, encrypted, engine, cost) = (BackupState::Available, Some(false), None, None);
        let backup = Backup { id, source, state, created, bytes, encrypted, engine, run, cost };
        let about = About { key: cx.key().clone(), sha256: sum(&part.join("data"))?, backup };
        fs::write(part.join("about.json"), serde_json::to_vec(&about)?)?;
        fs::rename(&part, place.join(name)).map(|()| about.backup)
    };
    copy().map_err(broken)
}

fn sum(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[async_trait]
impl BackupStore for DirectoryBackups {
    fn capabilities(&self) -> BackupCapabilities {
        BackupCapabilities::new(true, true, true).with_endpoint(EndpointKind::Name)
    }

    async fn create(&self, cx: &CallContext, _: &BackupRequest) -> Result<Backup> {
        let (id, context) = (cx.key().as_str().replace('/', "."), cx.clone());
        let create = move |store: &Self, id: &str| put(&store.backups, id, &store.source, &context);
        self.work(cx, "create backup", &id, create).await
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        let describe = |store: &Self, id: &str| Ok(read(&store.backups, id)?.map(|about| about.backup));
        self.work(cx, "describe backup", id, describe).await
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let list = |store: &Self, _: &str| {
            let entries = fs::read_dir(&store.backups).map_err(broken)?;
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let complete = names.filter(|name| !name.starts_with('.')).map(|name| read(&store.backups, &name));
            let found = complete.filter_map(|about| about.map(|about| Some(about?.backup)).transpose());
            let mut all = found.collect::<Result<Vec<Backup>>>()?;
            all.sort_by_key(|backup| Reverse(backup.created));
            Ok(all)
        };
        self.work(cx, "list backups", "", list).await
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        let verify = |store: &Self, id: &str| {
            let unhealthy = |why: &str| fail(ErrorKind::Unhealthy, why).hint("restore another backup");
            let about = read(&store.backups, id)?.ok_or_else(|| unhealthy("there is no such backup"))?;
            let intact = sum(&store.backups.join(id).join("data")).map_err(broken)? == about.sha256;
            intact.then_some(about.backup).ok_or_else(|| unhealthy("its data is not what was written"))
        };
        self.work(cx, "verify backup", id, verify).await
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let (from, context) = (request.from.clone(), cx.clone());
        let restore = move |store: &Self, target: &str| {
            let RestorePoint::Backup(id) = &from else {
                return Err(fail(ErrorKind::Unsupported, format!("it cannot restore {from}")));
            };
            let missing = || fail(ErrorKind::NotFound, format!("there is no backup {id}"));
            read(&store.backups, id)?.ok_or_else(missing)?;
            put(&store.restored, target, &store.backups.join(id).join("data"), &context)?;
            let endpoint = Some(store.restored.join(target).join("data").display().to_string());
            Ok(Restored { target: target.to_owned(), state: RestoreState::Available, endpoint })
        };
        self.work(cx, "restore backup", &request.target, restore).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let exists = |store: &Self, target: &str| store.restored.join(target).try_exists().map_err(broken);
        self.work(cx, "look for the target", target, exists).await
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let key = cx.key().clone();
        let discard = move |store: &Self, target: &str| match ours(&store.restored, target, &key, ErrorKind::Refused)? {
            None => Ok(true),
            Some(_) => fs::remove_dir_all(store.restored.join(target)).map(|()| true).map_err(broken),
        };
        self.work(cx, "discard what was restored", target, discard).await
    }

    // Every backup in the directory was made by a run, so that retention may delete each.
    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let delete = |store: &Self, id: &str| match read(&store.backups, id)? {
            None => Ok(()),
            Some(_) => fs::remove_dir_all(store.backups.join(id)).map_err(broken),
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

    #[test]
    fn it_takes_less_than_two_hundred_lines() {
        let (provider, _) = include_str!("provider.rs").split_once("#[tokio::main]").unwrap();
        assert!(provider.lines().count() < 200, "{} lines", provider.lines().count());
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
