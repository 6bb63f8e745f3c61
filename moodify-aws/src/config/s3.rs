use moodify_core::Result;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use super::ApiConfig;
use crate::error::S3;

/// Which bucket to keep artifacts in, and where in it: of S3, or of a server that speaks its API.
///
/// With an endpoint, the bucket is named in the path, as the other servers want it; without one it is a part of the
/// host's name, as AWS wants it.
///
/// ```
/// let config: moodify_aws::S3Config = serde_json::from_str(
///     r#"{"api": {"region": "eu-central-1"}, "bucket": "moodify-artifacts", "prefix": "production/"}"#,
/// ).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct S3Config {
    pub(crate) api: ApiConfig,
    pub(crate) bucket: String,
    #[serde(default)]
    pub(crate) prefix: String,
}

impl S3Config {
    /// All of that bucket.
    #[must_use]
    pub fn new(api: ApiConfig, bucket: impl Into<String>) -> Self {
        Self { api, bucket: bucket.into(), prefix: String::new() }
    }

    /// What the keys of all objects begin with, such as `production/`; nothing else in the bucket is seen or touched.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Reads `MOODIFY_S3_BUCKET`, which is required, `_REGION` (or else `AWS_REGION`, `AWS_DEFAULT_REGION`; required),
    /// `_PREFIX`, `_ENDPOINT`, `_CONNECT_TIMEOUT` and `_RESPONSE_TIMEOUT`. Credentials come from AWS's own variables.
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
        let mut vars = Vars::new("MOODIFY_S3", &var);
        let api = ApiConfig::from_vars(&mut vars, &var);
        let config = Self::new(api, vars.required("BUCKET")).prefix(vars.get("PREFIX").unwrap_or_default());
        vars.finish(S3, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(S3, &self.problems())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        let vars = [("MOODIFY_S3_BUCKET", "a/b"), ("MOODIFY_S3_PREFIX", "/x"), ("MOODIFY_S3_ENDPOINT", "minio:9000")];
        let var = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let error = S3Config::from_vars(var).unwrap_err().to_string();
        for part in ["there is no region", "bucket \"a/b\"", "prefix \"/x\"", "endpoint \"minio:9000\""] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let vars = [("MOODIFY_S3_BUCKET", "a"), ("MOODIFY_S3_REGION", "eu-central-1"), ("MOODIFY_S3_PREFIX", "p/")];
        let var = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let config = S3Config::from_vars(var).unwrap();
        assert_eq!((config.bucket.as_str(), config.prefix.as_str()), ("a", "p/"));
    }
}
