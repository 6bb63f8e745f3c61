use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::artifact_store::{ArtifactStore, ArtifactStoreExt, PutRequest, Sum, content_of};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::RunId;

/// The name of the index in a backup.
const INDEX: &str = "index.json";

/// A part of the configuration of a namespace, as a file that the cluster's own tool takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationFile {
    /// Its name, such as `deployments.apps.yaml`.
    pub name: String,
    /// The names of the objects in it.
    pub objects: Vec<String>,
    /// Its text.
    pub text: String,
    /// Whether it is encrypted. What is in it are Secrets then.
    pub sealed: bool,
}

/// What is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportRequest {
    /// The namespace.
    pub namespace: String,
    /// The public keys for which Secrets are encrypted, as the backend writes them. Without any, only the names of Secrets
    /// are told.
    pub encrypt_secrets_to: Vec<String>,
}

impl ExportRequest {
    /// A namespace without its Secrets.
    #[must_use]
    pub fn of_namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), encrypt_secrets_to: Vec::new() }
    }

    /// The same with its Secrets, which whoever has the private key of one of these can read.
    #[must_use]
    pub fn encrypt_secrets_to(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.encrypt_secrets_to = keys.into_iter().map(Into::into).collect();
        self
    }
}

/// The configuration of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportedConfiguration {
    /// In the order in which they are to be imported.
    pub files: Vec<ConfigurationFile>,
    /// The Secrets that the objects name and that are in no file.
    pub secrets: Vec<String>,
}

/// Where configuration is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportRequest {
    /// The namespace, which must be there; it may be another than that of the export.
    pub namespace: String,
    /// Whether what others changed since is set back too.
    pub force: bool,
}

impl ImportRequest {
    /// Into that namespace, unless others changed something since.
    #[must_use]
    pub fn into_namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), force: false }
    }

    /// The same; what others changed since is set back too.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}

/// What an import did, by numbers of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportedConfiguration {
    /// They were not there.
    pub created: u32,
    /// They were otherwise.
    pub configured: u32,
    /// They were so already.
    pub unchanged: u32,
}

impl fmt::Display for ImportedConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} created, {} configured, {} unchanged", self.created, self.configured, self.unchanged)
    }
}

/// Reads and writes the objects by which people configure an application.
///
/// # Contract
/// - `export` gives what people or their tools made, without what the cluster keeps in it by itself (states, versions,
///   addresses) and without what it makes of it (pods, and whatever has an owner). It changes nothing. Of what is the
///   same two exports are the same, but for what is encrypted.
/// - No value of a Secret is in it, unless the request names keys; then one file has them, which only the private keys
///   open. The backend has its private keys by its own configuration: no plan and no journal knows them.
/// - `check_export` refuses a request that `export` would refuse for what it says.
/// - `import` makes the objects what the files say, in that namespace, also where they are not there; others it leaves
///   alone. Done again it changes nothing. Where somebody else has changed what it would change it fails as
///   [`ErrorKind::Drift`], unless the request says so.
/// - An export after an import of all files is the same as the first, if there was nothing else.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait ConfigurationFiles: Send + Sync + fmt::Debug {
    /// Refuses what could not be exported. Asks nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for keys that are none; [`ErrorKind::Unsupported`] if nothing can be encrypted here.
    fn check_export(&self, request: &ExportRequest) -> Result<()>;

    /// The configuration of a namespace.
    ///
    /// # Errors
    /// Those of [`check_export`](Self::check_export); when the cluster cannot be asked, or refuses.
    async fn export(&self, cx: &CallContext, request: &ExportRequest) -> Result<ExportedConfiguration>;

    /// Makes the objects what the files say.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for files that cannot be read, also for want of the private key; as in the contract; and
    /// when the cluster refuses.
    async fn import(
        &self,
        cx: &CallContext,
        request: &ImportRequest,
        files: &[ConfigurationFile],
    ) -> Result<ImportedConfiguration>;
}

/// A backup of configuration in an [`ArtifactStore`]: the files below a path, and an index with their checksums, which is
/// written last. Without an index there is no backup.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # use moodify_core::testing::{Scenario, Simulator};
/// # let backends = Simulator::new(&[], Scenario::default()).backends();
/// # let store = backends.artifact_store("simulated")?.as_ref();
/// use std::time::Duration;
/// use moodify_core::CallContext;
/// use moodify_core::backend::{ConfigurationBackup, ConfigurationFile, ExportedConfiguration};
///
/// let cx = CallContext::by_hand("backup", Duration::from_secs(60));
/// let file = ConfigurationFile {
///     name: "services.yaml".into(), objects: vec!["web".into()], text: "kind: Service".into(), sealed: false,
/// };
/// let exported = ExportedConfiguration { files: vec![file], secrets: vec!["web-key".into()] };
/// let taken = "2026-11-24T15:00:00Z".parse().unwrap();
/// let backup = ConfigurationBackup::write(store, &cx, "configuration/r1", "shop", taken, &exported).await?;
/// assert_eq!(backup.to_string(), "1 objects of shop in configuration/r1");
/// let (_, files) = ConfigurationBackup::read(store, &cx, "configuration/r1").await?;
/// assert_eq!(files, exported.files);
/// # Ok::<(), moodify_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationBackup {
    /// Where it is in its store.
    pub path: String,
    /// The namespace that it is of.
    pub namespace: String,
    /// When it was taken.
    pub taken: Timestamp,
    /// The run that took it.
    pub run: RunId,
    /// What is in it, in the order in which it is to be imported.
    pub files: Vec<BackedUpFile>,
    /// The Secrets that the objects name, which must be there when it is restored.
    pub secrets: Vec<String>,
}

/// A file in a backup of configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackedUpFile {
    /// Its name, below the path of the backup.
    pub name: String,
    /// The names of the objects in it.
    pub objects: Vec<String>,
    /// Its size in bytes and its CRC32C.
    pub sum: Sum,
    /// Whether it is encrypted, and has Secrets in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
}

impl fmt::Display for ConfigurationBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects of {} in {}", self.objects(), self.namespace, self.path)
    }
}

const WRITE: &str = "write the backup of configuration";
const READ: &str = "read the backup of configuration";

impl ConfigurationBackup {
    /// How many objects are in it.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.files.iter().map(|file| file.objects.len()).sum()
    }

    /// Writes a backup below `path`, and reads all of it again. What an earlier attempt left there is replaced; what it
    /// completed is not.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(
        store: &dyn ArtifactStore,
        cx: &CallContext,
        path: &str,
        namespace: &str,
        taken: Timestamp,
        exported: &ExportedConfiguration,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for file in &exported.files {
            let sum = Sum::of(file.text.as_bytes());
            let request = PutRequest::new(format!("{path}/{}", file.name)).sum(sum).replace();
            store.put(cx, &request, content_of(file.text.clone())).await?;
            files.push(BackedUpFile {
                name: file.name.clone(),
                objects: file.objects.clone(),
                sum,
                sealed: file.sealed,
            });
        }
        let (path, namespace) = (path.to_owned(), namespace.to_owned());
        let run = cx.run_id().clone();
        let backup = Self { path, namespace, taken, run, files, secrets: exported.secrets.clone() };
        let index = serde_json::to_vec_pretty(&backup)
            .map_err(|e| Error::new(ErrorKind::Internal, "moodify", WRITE, e.to_string()))?;
        store.write(cx, &format!("{}/{INDEX}", backup.path), index.into()).await?;
        Ok(Self::read(store, cx, &backup.path).await?.0)
    }

    /// The backup at `path`; `None` if there is no complete one.
    ///
    /// # Errors
    /// The store's; [`ErrorKind::Unhealthy`] if its index cannot be read.
    pub async fn find(store: &dyn ArtifactStore, cx: &CallContext, path: &str) -> Result<Option<Self>> {
        let Some(index) = store.read(cx, &format!("{path}/{INDEX}")).await? else { return Ok(None) };
        let damaged = |why: String| Error::new(ErrorKind::Unhealthy, "moodify", READ, why).on(path);
        let backup: Self = serde_json::from_slice(&index).map_err(|e| damaged(format!("its index is none: {e}")))?;
        if backup.path != path {
            return Err(damaged(format!("its index is that of {}", backup.path)));
        }
        Ok(Some(backup))
    }

    /// Reads the backup at `path` with all its files, as they were written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no complete one; [`ErrorKind::Unhealthy`] if something of it is missing or
    /// is not what was written; the store's.
    pub async fn read(
        store: &dyn ArtifactStore,
        cx: &CallContext,
        path: &str,
    ) -> Result<(Self, Vec<ConfigurationFile>)> {
        let Some(backup) = Self::find(store, cx, path).await? else {
            let error = Error::new(ErrorKind::NotFound, "moodify", READ, "there is no complete backup").on(path);
            return Err(error.hint(format!("a path is right if {INDEX} is below it")));
        };
        let mut files = Vec::new();
        for file in &backup.files {
            let place = format!("{path}/{}", file.name);
            let damaged = |why: String| {
                let error = Error::new(ErrorKind::Unhealthy, "moodify", READ, why).on(place.as_str());
                error.hint("nothing was restored; take another backup")
            };
            let bytes = store.read(cx, &place).await?.ok_or_else(|| damaged("it is missing".to_owned()))?;
            let sum = Sum::of(&bytes);
            if sum != file.sum {
                return Err(damaged(format!("it is {sum}, but was {}", file.sum)));
            }
            let text = String::from_utf8(bytes.into()).map_err(|_| damaged("it is no text".to_owned()))?;
            let (name, objects) = (file.name.clone(), file.objects.clone());
            files.push(ConfigurationFile { name, objects, text, sealed: file.sealed });
        }
        Ok((backup, files))
    }
}
