use std::path::PathBuf;
use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::Secret;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use crate::error::BACKEND;

/// How to reach Cloud Storage.
///
/// Credentials are a service account's key, or none at all (`anonymous`), or else Application Default Credentials:
/// `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own, or the metadata server.
///
/// ```
/// let config: moodify_gcp::StorageConfig = serde_json::from_str(r#"{"key-file": "/run/secrets/sa.json"}"#).unwrap();
/// assert!(config.validate().is_ok());
///
/// use moodify_gcp::StorageConfig;
/// let config = StorageConfig::new().endpoint("http://127.0.0.2").anonymous();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StorageConfig {
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

impl Default for StorageConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl StorageConfig {
    /// Google's public endpoint with Application Default Credentials.
    #[must_use]
    pub fn new() -> Self {
        Self { endpoint: None, anonymous: false, key: None, key_file: None, response_timeout: response_timeout() }
    }

    /// Another address of the API: a private endpoint, or an emulator. On port 80 or 443: the SDK drops any other
    /// port from the Host header.
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

    /// How long one call may take, the transfer of an object's content included. Default 60 s.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout.into();
        self
    }

    /// Reads `MOODIFY_GCS_ENDPOINT`, `_ANONYMOUS` (`true` or `false`), `_KEY`, `_KEY_FILE` and `_RESPONSE_TIMEOUT`;
    /// none is required.
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
        let mut config = Self::new();
        config.endpoint = vars.get("ENDPOINT");
        config.key = vars.get("KEY").map(Into::into);
        config.key_file = vars.get("KEY_FILE").map(Into::into);
        vars.parse("ANONYMOUS", &mut config.anonymous);
        vars.parse("RESPONSE_TIMEOUT", &mut config.response_timeout);
        vars.finish(BACKEND, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(BACKEND, &self.problems())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = StorageConfig::from_vars(|name| {
            let text = match name.strip_prefix("MOODIFY_GCS_")? {
                "ENDPOINT" => "localhost",
                "ANONYMOUS" => "maybe",
                "KEY" | "KEY_FILE" => "x",
                _ => "soon",
            };
            Some(text.to_owned())
        })
        .unwrap_err();
        for part in ["\"localhost\"", "MOODIFY_GCS_ANONYMOUS", "exclude each other", "\"soon\" is not a length of time"]
        {
            assert!(error.message().contains(part), "{error}");
        }
        assert!(StorageConfig::from_vars(|_| None).is_ok());
    }

    #[test]
    fn unknown_keys_are_refused_and_secrets_not_shown() {
        let error = serde_json::from_str::<StorageConfig>(r#"{"endpiont": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("endpiont"), "{error}");
        let shown = format!("{:?}", StorageConfig::new().key(r#"{"private_key": "very-secret"}"#));
        assert!(!shown.contains("very-secret"), "{shown}");
    }
}
