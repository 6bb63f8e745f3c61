use std::path::PathBuf;
use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::Secret;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use crate::error::{FIRESTORE, STORAGE};

/// How to reach an API of Google.
///
/// Credentials are a service account's key, or none at all (`anonymous`), or else Application Default Credentials:
/// `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own, or the metadata server.
///
/// ```
/// use moodify_gcp::ApiConfig;
/// let api = ApiConfig::new().key(r#"{"private_key": "s3cret"}"#);
/// assert!(!format!("{api:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApiConfig {
    pub(crate) endpoint: Option<String>,
    #[serde(default)]
    pub(crate) anonymous: bool,
    pub(crate) key: Option<Secret>,
    pub(crate) key_file: Option<PathBuf>,
    #[serde(default = "response_timeout")]
    pub(crate) response_timeout: Period,
}

fn response_timeout() -> Period {
    Period::from_secs(60)
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiConfig {
    /// Google's public endpoint with Application Default Credentials.
    #[must_use]
    pub fn new() -> Self {
        Self { endpoint: None, anonymous: false, key: None, key_file: None, response_timeout: response_timeout() }
    }

    /// Another address of the API: a private endpoint, or an emulator. Firestore's SDK
    /// leaves the port out of the Host header, which matters to a proxy that goes by that.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sends no credentials: public buckets and emulators.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// The JSON key of a service account.
    #[must_use]
    pub fn key(mut self, json: impl Into<Secret>) -> Self {
        self.key = Some(json.into());
        self
    }

    /// The file with the JSON key of a service account.
    #[must_use]
    pub fn key_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.key_file = Some(file.into());
        self
    }

    /// How long one request may take; when an artifact is put, that is a few MiB of it. Default 60 s.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout.into();
        self
    }

    fn from_vars<F: Fn(&str) -> Option<String>>(vars: &mut Vars<'_, F>) -> Self {
        let mut api = Self::new();
        api.endpoint = vars.get("ENDPOINT");
        api.key = vars.get("KEY").map(Into::into);
        api.key_file = vars.get("KEY_FILE").map(Into::into);
        vars.parse("ANONYMOUS", &mut api.anonymous);
        vars.parse("RESPONSE_TIMEOUT", &mut api.response_timeout);
        api
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(url) = &self.endpoint
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            problems.push(format!("endpoint {url:?} is not an http or https URL"));
        }
        if [self.anonymous, self.key.is_some(), self.key_file.is_some()].iter().filter(|given| **given).count() > 1 {
            problems.push("anonymous, key and key-file exclude each other".to_owned());
        }
        if self.response_timeout == Period::ZERO {
            problems.push("response-timeout is zero".to_owned());
        }
        problems
    }
}

/// Which bucket of Cloud Storage to keep artifacts in, and where in it.
///
/// ```
/// let config: moodify_gcp::StorageConfig =
///     serde_json::from_str(r#"{"bucket": "moodify-artifacts", "prefix": "production/"}"#).unwrap();
/// assert!(config.validate().is_ok());
///
/// use moodify_gcp::{ApiConfig, StorageConfig};
/// let config = StorageConfig::new("artifacts").api(ApiConfig::new().endpoint("http://127.0.0.2").anonymous());
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StorageConfig {
    #[serde(default)]
    pub(crate) api: ApiConfig,
    pub(crate) bucket: String,
    #[serde(default)]
    pub(crate) prefix: String,
}

impl StorageConfig {
    /// All of that bucket, with Application Default Credentials.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { api: ApiConfig::new(), bucket: bucket.into(), prefix: String::new() }
    }

    /// How to reach the API.
    #[must_use]
    pub fn api(mut self, api: ApiConfig) -> Self {
        self.api = api;
        self
    }

    /// What the names of all objects begin with, such as `production/`; nothing else in the bucket is seen or touched.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Reads `MOODIFY_GCS_BUCKET`, which is required, `_PREFIX`, `_ENDPOINT`, `_ANONYMOUS` (`true` or `false`), `_KEY`,
    /// `_KEY_FILE` and `_RESPONSE_TIMEOUT`.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same as [`from_env`](Self::from_env), with the variables from a function.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut vars = Vars::new("MOODIFY_GCS", &var);
        let config = Self::of_vars(&mut vars);
        vars.finish(STORAGE, config.problems()).map(|()| config)
    }

    fn of_vars<F: Fn(&str) -> Option<String>>(vars: &mut Vars<'_, F>) -> Self {
        let api = ApiConfig::from_vars(vars);
        let mut config = Self::new(vars.required("BUCKET")).api(api);
        config.prefix = vars.get("PREFIX").unwrap_or_default();
        config
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(STORAGE, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.api.problems();
        if self.bucket.is_empty() {
            problems.push("bucket is empty".to_owned());
        } else if !self.bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            problems.push(format!("bucket {:?} is not a name of a bucket", self.bucket));
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "." || part == "..") {
            problems.push(format!("prefix {:?} begins with a slash, or has a part . or ..", self.prefix));
        }
        problems
    }
}

/// Which Firestore database to back up, and where its exports are kept.
///
/// ```
/// let config: moodify_gcp::FirestoreConfig = serde_json::from_str(
///     r#"{"project": "moodify", "storage": {"bucket": "moodify-backups", "prefix": "firestore/"}}"#,
/// ).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FirestoreConfig {
    #[serde(default)]
    pub(crate) api: ApiConfig,
    pub(crate) project: String,
    #[serde(default = "default_database")]
    pub(crate) database: String,
    pub(crate) storage: StorageConfig,
    #[serde(default)]
    pub(crate) locations: Vec<String>,
    #[serde(default = "keep")]
    pub(crate) keep: Period,
}

fn default_database() -> String {
    "(default)".to_owned()
}

fn keep() -> Period {
    Period::from_mins(30 * 24 * 60)
}

impl FirestoreConfig {
    /// The project's default database.
    #[must_use]
    pub fn new(project: impl Into<String>, storage: StorageConfig) -> Self {
        Self {
            api: ApiConfig::new(),
            project: project.into(),
            database: default_database(),
            storage,
            locations: Vec::new(),
            keep: keep(),
        }
    }

    /// How to reach Firestore's Admin API; how to reach Cloud Storage is part of the storage.
    #[must_use]
    pub fn api(mut self, api: ApiConfig) -> Self {
        self.api = api;
        self
    }

    /// Another database. Default `(default)`.
    #[must_use]
    pub fn database(mut self, id: impl Into<String>) -> Self {
        self.database = id.into();
        self
    }

    /// The locations in which the bucket may be, such as `EUR4`. Default: where the database is.
    #[must_use]
    pub fn locations(mut self, locations: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.locations = locations.into_iter().map(Into::into).collect();
        self
    }

    /// How long a backup must be kept: a bucket whose own rules delete objects earlier is refused. Default 30 days.
    #[must_use]
    pub fn keep(mut self, period: Duration) -> Self {
        self.keep = period.into();
        self
    }

    /// Reads `MOODIFY_FIRESTORE_PROJECT`, which is required, `_DATABASE`, `_LOCATIONS` (with commas), `_KEEP`, `_ENDPOINT`,
    /// `_ANONYMOUS`, `_KEY`, `_KEY_FILE` and `_RESPONSE_TIMEOUT`; and for the bucket what
    /// [`StorageConfig::from_env`] reads.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same as [`from_env`](Self::from_env), with the variables from a function.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let storage = StorageConfig::from_vars(&var);
        let mut vars = Vars::new("MOODIFY_FIRESTORE", &var);
        let api = ApiConfig::from_vars(&mut vars);
        let known = storage.as_ref().map_or_else(|_| StorageConfig::new("unknown"), Clone::clone);
        let mut config = Self::new(vars.required("PROJECT"), known).api(api);
        config.database = vars.get("DATABASE").unwrap_or(config.database);
        let locations = vars.get("LOCATIONS");
        let locations = locations.iter().flat_map(|list| list.split(','));
        config.locations = locations.map(|location| location.trim().to_owned()).collect();
        vars.parse("KEEP", &mut config.keep);
        if let Err(error) = storage {
            vars.problem(error.message().to_owned());
        }
        vars.finish(FIRESTORE, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(FIRESTORE, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.api.problems();
        problems.extend(self.storage.problems().into_iter().map(|problem| format!("storage: {problem}")));
        for (name, value) in [("project", &self.project), ("database", &self.database)] {
            if value.is_empty() {
                problems.push(format!("{name} is empty"));
            } else if value.contains('/') {
                problems.push(format!("{name} {value:?} has a slash"));
            }
        }
        if self.locations.iter().any(String::is_empty) {
            problems.push("locations has an empty one".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let bad = |name: &str| {
            let name = name.strip_prefix("MOODIFY_GCS_").or(name.strip_prefix("MOODIFY_FIRESTORE_"))?;
            let text = match name {
                "ENDPOINT" => "localhost",
                "ANONYMOUS" => "maybe",
                "KEY" | "KEY_FILE" => "x",
                "BUCKET" => "a/b",
                "PREFIX" => "/x",
                "LOCATIONS" => "EU,",
                "DATABASE" => "a/b",
                "PROJECT" => return None,
                _ => "soon",
            };
            Some(text.to_owned())
        };
        let error = StorageConfig::from_vars(bad).unwrap_err();
        let shared = ["\"localhost\"", "_ANONYMOUS", "exclude each other", "\"soon\" is not a length of time"];
        for part in shared.iter().chain(&["bucket \"a/b\"", "prefix \"/x\""]) {
            assert!(error.message().contains(part), "{part}: {error}");
        }
        let error = FirestoreConfig::from_vars(bad).unwrap_err();
        let own =
            ["_PROJECT is not set", "database \"a/b\"", "an empty one", "MOODIFY_FIRESTORE_KEEP", "bucket \"a/b\""];
        for part in shared.iter().chain(&own) {
            assert!(error.message().contains(part), "{part}: {error}");
        }
        assert!(StorageConfig::from_vars(|_| None).unwrap_err().message().contains("MOODIFY_GCS_BUCKET is not set"));
        assert!(StorageConfig::from_vars(|name| name.ends_with("BUCKET").then(|| "b".to_owned())).is_ok());
    }

    #[test]
    fn unknown_keys_are_refused_and_secrets_not_shown() {
        let error = serde_json::from_str::<StorageConfig>(r#"{"bucket": "b", "perfix": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("perfix"), "{error}");
        let config = StorageConfig::new("b").api(ApiConfig::new().key(r#"{"private_key": "very-secret"}"#));
        assert!(!format!("{config:?}").contains("very-secret"));
    }
}
