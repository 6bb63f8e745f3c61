//! From the settings of what keeps data to backends; asks nobody but the environment, and files for secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use moodify_aws::{
    DocumentDbBackups, DocumentDbConfig, ElastiCacheBackups, ElastiCacheConfig, ElastiCacheNodes, S3Artifacts, S3Config,
};
use moodify_core::artifacts::ArtifactDirectory;
use moodify_core::backend::{ArtifactStore, BackupStore, Cache};
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{Backends, Error, ErrorKind};
use moodify_gcp::{CloudStorage, FirestoreBackups, FirestoreConfig, StorageConfig};
use moodify_redis::{RedisCache, RedisConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::stores::{ArtifactStoreSettings, BackupStoreSettings, CacheSettings, DirectorySettings};

/// What the settings name only by where it is: an environment variable (`-env`) or a file (`-file`).
const SECRETS: [&str; 5] = ["password", "secret-access-key", "session-token", "auth-token", "key"];

/// Everything that keeps data, and what of it can be looked at before a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stores {
    pub(crate) backups: BTreeMap<String, Arc<dyn BackupStore>>,
    pub(crate) artifacts: BTreeMap<String, Arc<dyn ArtifactStore>>,
    pub(crate) redis: BTreeMap<String, Arc<RedisCache>>,
    pub(crate) nodes: BTreeMap<String, Arc<ElastiCacheNodes>>,
}

impl Stores {
    /// Puts all of it among the backends.
    pub(crate) fn install(&self, backends: &mut Backends) {
        backends.backup_stores.extend(self.backups.clone());
        backends.artifact_stores.extend(self.artifacts.clone());
        for (name, redis) in &self.redis {
            backends.caches.insert(name.clone(), Cache::data(redis.clone()));
        }
        for (name, nodes) in &self.nodes {
            let cache = backends.caches.remove(name).unwrap_or_default();
            backends.caches.insert(name.clone(), cache.with_nodes(nodes.clone()));
        }
    }
}

/// Makes backends of settings, and collects what is wrong with them.
pub(super) struct Opener<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Vec<Error>,
    pub(super) stores: Stores,
}

impl Opener<'_> {
    /// What the environment configures:
    ///
    /// | Variables | Configure |
    /// |---|---|
    /// | `MOODIFY_DOCUMENTDB_*`, with `_CLUSTER` | the backup store `documentdb` |
    /// | `MOODIFY_ELASTICACHE_*`, with `_REPLICATION_GROUP` or `_CLUSTER` | the backup store `elasticache`, and the nodes of the cache below |
    /// | `MOODIFY_FIRESTORE_*` with `_PROJECT`, and the next | the backup store `firestore` |
    /// | `MOODIFY_GCS_*`, with `_BUCKET` | the artifact store `cloud-storage` |
    /// | `MOODIFY_S3_*`, with `_BUCKET` | the artifact store `s3` |
    /// | `MOODIFY_ARTIFACTS_DIRECTORY` | the artifact store `directory` |
    /// | `MOODIFY_REDIS_*`, with `_NAME` | the cache of that name |
    pub(super) fn environment(&mut self) {
        let lookup = self.lookup;
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        if set("MOODIFY_DOCUMENTDB_CLUSTER").is_some() {
            let made = DocumentDbConfig::from_vars(lookup).and_then(DocumentDbBackups::new);
            if let Some(made) = self.keep("MOODIFY_DOCUMENTDB", made) {
                self.stores.backups.insert("documentdb".to_owned(), Arc::new(made));
            }
        }
        let of_nodes = ["MOODIFY_ELASTICACHE_REPLICATION_GROUP", "MOODIFY_ELASTICACHE_CLUSTER"];
        if of_nodes.iter().any(|name| set(name).is_some()) {
            let config = self.keep("MOODIFY_ELASTICACHE", ElastiCacheConfig::from_vars(lookup));
            if let Some(config) = config {
                if let Some(made) = self.keep("MOODIFY_ELASTICACHE", ElastiCacheBackups::new(config.clone())) {
                    self.stores.backups.insert("elasticache".to_owned(), Arc::new(made));
                }
                let nodes = self.keep("MOODIFY_ELASTICACHE", ElastiCacheNodes::new(config));
                if let (Some(name), Some(nodes)) = (set("MOODIFY_REDIS_NAME"), nodes) {
                    self.stores.nodes.insert(name, Arc::new(nodes));
                }
            }
        }
        if set("MOODIFY_FIRESTORE_PROJECT").is_some() {
            let made = FirestoreConfig::from_vars(lookup).and_then(FirestoreBackups::new);
            if let Some(made) = self.keep("MOODIFY_FIRESTORE", made) {
                self.stores.backups.insert("firestore".to_owned(), Arc::new(made));
            }
        }
        if set("MOODIFY_GCS_BUCKET").is_some() {
            let made = StorageConfig::from_vars(lookup).and_then(CloudStorage::new);
            if let Some(made) = self.keep("MOODIFY_GCS", made) {
                self.stores.artifacts.insert("cloud-storage".to_owned(), Arc::new(made));
            }
        }
        if set("MOODIFY_S3_BUCKET").is_some() {
            let made = S3Config::from_vars(lookup).and_then(S3Artifacts::new);
            if let Some(made) = self.keep("MOODIFY_S3", made) {
                self.stores.artifacts.insert("s3".to_owned(), Arc::new(made));
            }
        }
        if let Some(path) = set("MOODIFY_ARTIFACTS_DIRECTORY") {
            self.stores.artifacts.insert("directory".to_owned(), Arc::new(ArtifactDirectory::at(path)));
        }
        if set("MOODIFY_REDIS_NAME").is_some() {
            let made = RedisConfig::from_vars(lookup).and_then(RedisCache::new);
            if let Some(made) = self.keep("MOODIFY_REDIS", made) {
                self.stores.redis.insert(made.name().to_owned(), Arc::new(made));
            }
        }
    }

    pub(super) fn backup_store(&mut self, name: &str, settings: &BackupStoreSettings) {
        let made: Option<Arc<dyn BackupStore>> = match settings {
            BackupStoreSettings::Documentdb(settings) => {
                let place = format!("backup-stores.{name}.documentdb");
                self.make(&place, settings, DocumentDbBackups::new).map(|made| Arc::new(made) as _)
            }
            BackupStoreSettings::Elasticache(settings) => {
                let place = format!("backup-stores.{name}.elasticache");
                self.make(&place, settings, ElastiCacheBackups::new).map(|made| Arc::new(made) as _)
            }
            BackupStoreSettings::Firestore(settings) => {
                let place = format!("backup-stores.{name}.firestore");
                self.make(&place, settings, FirestoreBackups::new).map(|made| Arc::new(made) as _)
            }
        };
        self.stores.backups.extend(made.map(|made| (name.to_owned(), made)));
    }

    pub(super) fn artifact_store(&mut self, name: &str, settings: &ArtifactStoreSettings) {
        let made: Option<Arc<dyn ArtifactStore>> = match settings {
            ArtifactStoreSettings::CloudStorage(settings) => {
                let place = format!("artifacts.{name}.cloud-storage");
                self.make(&place, settings, CloudStorage::new).map(|made| Arc::new(made) as _)
            }
            ArtifactStoreSettings::S3(settings) => {
                let place = format!("artifacts.{name}.s3");
                self.make(&place, settings, S3Artifacts::new).map(|made| Arc::new(made) as _)
            }
            ArtifactStoreSettings::Directory(DirectorySettings { path }) => {
                if path.as_os_str().is_empty() {
                    let place = format!("artifacts.{name}.directory.path");
                    self.problem(&place, "the path is empty", "name a directory of the machine that drives the run");
                }
                Some(Arc::new(ArtifactDirectory::at(path)) as _)
            }
        };
        self.stores.artifacts.extend(made.map(|made| (name.to_owned(), made)));
    }

    pub(super) fn cache(&mut self, name: &str, settings: &CacheSettings) {
        let place = format!("caches.{name}");
        if settings.redis.is_none() && settings.elasticache.is_none() {
            self.problem(&place, "it has neither data nor nodes", "write `redis`, `elasticache` or both");
        }
        // What is in the file is all of it: nodes that the environment configures are those of another cache.
        self.stores.redis.remove(name);
        self.stores.nodes.remove(name);
        if let Some(redis) = &settings.redis {
            let place = format!("{place}.redis");
            if redis.url.as_ref().is_some_and(|url| url.contains('@')) {
                let hint =
                    "write the user as `username`, and where the password is as `password-env` or `password-file`";
                self.problem(&format!("{place}.url"), "the address holds a user or a password", hint);
            } else {
                let made = self.make_with(&place, redis, json!({"name": name}), RedisCache::new);
                self.stores.redis.extend(made.map(|made| (name.to_owned(), Arc::new(made))));
            }
        }
        if let Some(nodes) = &settings.elasticache {
            let made = self.make(&format!("{place}.elasticache"), nodes, ElastiCacheNodes::new);
            self.stores.nodes.extend(made.map(|made| (name.to_owned(), Arc::new(made))));
        }
    }

    fn make<C: DeserializeOwned, T>(
        &mut self,
        place: &str,
        settings: &impl Serialize,
        new: impl FnOnce(C) -> moodify_core::Result<T>,
    ) -> Option<T> {
        self.make_with(place, settings, json!({}), new)
    }

    /// The provider's own configuration is that of the settings, with the secrets in it, and `more`.
    fn make_with<C: DeserializeOwned, T>(
        &mut self,
        place: &str,
        settings: &impl Serialize,
        more: Value,
        new: impl FnOnce(C) -> moodify_core::Result<T>,
    ) -> Option<T> {
        let before = self.problems.len();
        let mut value = serde_json::to_value(settings).unwrap_or_default();
        self.reveal(place, &mut value);
        if self.problems.len() > before {
            return None;
        }
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        match serde_json::from_value(value) {
            Ok(config) => self.keep(place, new(config)),
            Err(e) => {
                self.problem(place, &e.to_string(), "mend the setting");
                None
            }
        }
    }

    /// Puts secrets in the place of where they are.
    fn reveal(&mut self, place: &str, value: &mut Value) {
        let Value::Object(fields) = value else { return };
        for (name, inner) in fields.iter_mut() {
            self.reveal(&format!("{place}.{name}"), inner);
        }
        for name in SECRETS {
            let (variable, file) = (take(fields, &format!("{name}-env")), take(fields, &format!("{name}-file")));
            let found = match (variable, file) {
                (None, None) => continue,
                (Some(_), Some(_)) => {
                    let message = format!("{name}-env and {name}-file exclude each other");
                    self.problem(&format!("{place}.{name}-file"), &message, "leave one of them out");
                    continue;
                }
                (Some(variable), None) => self.variable(&format!("{place}.{name}-env"), &variable),
                (None, Some(file)) => self.file(&format!("{place}.{name}-file"), &file),
            };
            if let Some(secret) = found {
                fields.insert(name.to_owned(), secret.expose_secret().into());
            }
        }
    }

    fn variable(&mut self, place: &str, variable: &str) -> Option<Secret> {
        // Whoever writes the secret itself here should not see it printed.
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(is_name) {
            let hint = "write the variable's name, not the secret itself";
            self.problem(place, "this is not the name of an environment variable", hint);
            return None;
        }
        let found = (self.lookup)(variable).and_then(|text| trimmed(&text));
        if found.is_none() {
            let message = format!("the environment variable {variable} is not set, or empty");
            self.problem(place, &message, "set it where moodify runs");
        }
        found
    }

    fn file(&mut self, place: &str, file: &str) -> Option<Secret> {
        match std::fs::read_to_string(file).map(|text| trimmed(&text)) {
            Ok(Some(secret)) => return Some(secret),
            Ok(None) => self.problem(place, &format!("the file {file} is empty"), "write the secret into it"),
            Err(e) => {
                let message = format!("the file {file} cannot be read: {e}");
                self.problem(place, &message, "put it where moodify runs");
            }
        }
        None
    }

    fn problem(&mut self, place: &str, message: &str, hint: &str) {
        let error = Error::new(ErrorKind::Invalid, "moodify", "read configuration", message).on(place).hint(hint);
        self.problems.push(error);
    }

    fn keep<T>(&mut self, place: &str, made: moodify_core::Result<T>) -> Option<T> {
        made.map_err(|e| self.problems.push(e.on(place))).ok()
    }
}

fn take(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
    fields.remove(name)?.as_str().map(str::to_owned)
}

/// Files and shells like to end in a newline, which is not part of the secret.
fn trimmed(text: &str) -> Option<Secret> {
    let trimmed = Secret::from(text.trim());
    (!trimmed.expose_secret().is_empty()).then_some(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(settings: &Value) -> (Stores, Vec<String>) {
        let lookup = |name: &str| (name == "REDIS_PASSWORD").then(|| "a-long-password\n".to_owned());
        let mut opener = Opener { lookup: &lookup, problems: Vec::new(), stores: Stores::default() };
        opener.cache("sessions", &serde_json::from_value(settings.clone()).unwrap());
        (opener.stores, opener.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_mode_and_the_nodes_beside_become_one_cache() {
        let elasticache = json!({"api": {"region": "eu-central-1"}, "cache": {"replication-group": "sessions"}});
        let sentinel =
            json!({"sentinel": {"master": "sessions", "addresses": ["a", "b"], "password-env": "REDIS_PASSWORD"}});
        for redis in [
            json!({"url": "rediss://cache.internal/0", "username": "moodify", "password-env": "REDIS_PASSWORD"}),
            json!({"mode": sentinel, "tls": true, "database": 3, "environment": "staging"}),
            json!({"mode": {"cluster": {"addresses": ["a:7000"]}}, "response-timeout": "5s"}),
        ] {
            let (stores, problems) = open(&json!({"redis": redis, "elasticache": elasticache}));
            assert!(problems.is_empty(), "{problems:?}");
            let mut backends = Backends::default();
            stores.install(&mut backends);
            let cache = backends.cache("sessions").unwrap();
            assert!(cache.data.is_some() && cache.nodes.is_some());
            assert!(!format!("{cache:?}").contains("a-long-password"), "{cache:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_no_secret() {
        let missing = tempfile::tempdir().unwrap().path().join("gone");
        let file = missing.to_str().unwrap();
        for (redis, place, part) in [
            (json!({"url": "redis://a", "password-env": "OTHER"}), "redis.password-env", "OTHER is not set"),
            (json!({"url": "redis://a", "password-file": file}), "redis.password-file", "cannot be read"),
            (json!({"url": "redis://a", "password-env": "pass:word"}), "redis.password-env", "not the name of"),
            (json!({"url": "redis://a", "password-env": "A", "password-file": "b"}), "password-file", "exclude"),
            (json!({"url": "redis://bob:secret@a"}), "redis.url", "holds a user or a password"),
            (json!({"url": "http://a"}), "sessions.redis", "url is not of the form"),
        ] {
            let (stores, problems) = open(&json!({"redis": redis}));
            assert!(stores.redis.is_empty());
            let [problem] = problems.as_slice() else { panic!("{problems:?}") };
            assert!(problem.contains(place) && problem.contains(part), "{problem}");
            assert!(!problem.contains("pass:word") && !problem.contains("bob"), "{problem}");
        }
        assert!(open(&json!({})).1[0].contains("neither data nor nodes"));
    }

    #[test]
    fn the_environment_alone_is_enough() {
        let vars = [
            ("MOODIFY_DOCUMENTDB_CLUSTER", "moods"),
            ("AWS_REGION", "eu-central-1"),
            ("MOODIFY_ELASTICACHE_REPLICATION_GROUP", "sessions"),
            ("MOODIFY_FIRESTORE_PROJECT", "moodify"),
            ("MOODIFY_GCS_BUCKET", "moodify-backups"),
            ("MOODIFY_S3_BUCKET", "moodify-artifacts"),
            ("MOODIFY_ARTIFACTS_DIRECTORY", "/nowhere/artifacts"),
            ("MOODIFY_REDIS_NAME", "sessions"),
            ("MOODIFY_REDIS_URL", "redis://cache.internal"),
        ];
        let lookup = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut opener = Opener { lookup: &lookup, problems: Vec::new(), stores: Stores::default() };
        opener.environment();
        assert!(opener.problems.is_empty(), "{:?}", opener.problems);
        let mut backends = Backends::default();
        opener.stores.install(&mut backends);
        let stores: Vec<&str> = backends.backup_stores.keys().map(String::as_str).collect();
        assert_eq!(stores, ["documentdb", "elasticache", "firestore"]);
        let artifacts: Vec<&str> = backends.artifact_stores.keys().map(String::as_str).collect();
        assert_eq!(artifacts, ["cloud-storage", "directory", "s3"]);
        assert!(backends.cache_nodes("sessions").is_ok());
    }
}
