use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::Secret;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use crate::error::BACKEND;

/// Which DocumentDB cluster to back up, and how to reach its API.
///
/// Without an access key, credentials come from the usual places: environment, profile files, web identity (IRSA),
/// container (ECS, EKS pod identity) and instance metadata. SSO profiles and credential processes are not supported.
///
/// ```
/// let config: moodify_aws::DocumentDbConfig = serde_json::from_str(
///     r#"{"region": "eu-central-1", "cluster": "moodify-production"}"#,
/// ).unwrap();
/// assert!(config.validate().is_ok());
///
/// use moodify_aws::DocumentDbConfig;
/// let config = DocumentDbConfig::new("eu-central-1", "moodify-production").credentials("AKIA123", "s3cret", None);
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DocumentDbConfig {
    pub(crate) region: String,
    pub(crate) cluster: String,
    #[serde(default = "engine")]
    pub(crate) engine: String,
    #[serde(default = "require_encryption")]
    pub(crate) require_encryption: bool,
    pub(crate) subnet_group: Option<String>,
    #[serde(default)]
    pub(crate) security_groups: Vec<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<Secret>,
    pub(crate) session_token: Option<Secret>,
    #[serde(default = "connect_timeout")]
    pub(crate) connect_timeout: Period,
    #[serde(default = "response_timeout")]
    pub(crate) response_timeout: Period,
}

fn engine() -> String {
    "docdb".to_owned()
}

fn require_encryption() -> bool {
    true
}

fn connect_timeout() -> Period {
    Period::from_secs(5)
}

fn response_timeout() -> Period {
    Period::from_secs(30)
}

impl DocumentDbConfig {
    /// The cluster of that identifier in that region.
    #[must_use]
    pub fn new(region: impl Into<String>, cluster: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            cluster: cluster.into(),
            engine: engine(),
            require_encryption: require_encryption(),
            subnet_group: None,
            security_groups: Vec::new(),
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            connect_timeout: connect_timeout(),
            response_timeout: response_timeout(),
        }
    }

    /// Another engine that answers to the same API, such as `aurora-mysql`. Default `docdb`.
    #[must_use]
    pub fn engine(mut self, engine: impl Into<String>) -> Self {
        self.engine = engine.into();
        self
    }

    /// Whether a backup that is not encrypted fails verification. Default true.
    #[must_use]
    pub fn require_encryption(mut self, required: bool) -> Self {
        self.require_encryption = required;
        self
    }

    /// Where a restored cluster is placed: subnet group and security groups. Default: the account's defaults.
    #[must_use]
    pub fn restore_into(
        mut self,
        subnet_group: impl Into<String>,
        security_groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.subnet_group = Some(subnet_group.into());
        self.security_groups = security_groups.into_iter().map(Into::into).collect();
        self
    }

    /// Another address of the API: a VPC endpoint, or an emulator.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Fixed credentials, in place of those that the environment provides.
    #[must_use]
    pub fn credentials(
        mut self,
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<Secret>,
        session_token: Option<Secret>,
    ) -> Self {
        self.access_key_id = Some(access_key_id.into());
        self.secret_access_key = Some(secret_access_key.into());
        self.session_token = session_token;
        self
    }

    /// How long connecting may take. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.into();
        self
    }

    /// How long the API may take to answer one request. Default 30 s.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout.into();
        self
    }

    /// Reads `MOODIFY_DOCUMENTDB_CLUSTER`, `_REGION` (or else `AWS_REGION`, `AWS_DEFAULT_REGION`), `_ENGINE`,
    /// `_REQUIRE_ENCRYPTION` (`true` or `false`), `_SUBNET_GROUP`, `_SECURITY_GROUPS` (with commas), `_ENDPOINT`,
    /// `_CONNECT_TIMEOUT` and `_RESPONSE_TIMEOUT`; cluster and region are required. Credentials come from AWS's own
    /// variables.
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
        let mut vars = Vars::new("MOODIFY_DOCUMENTDB", &var);
        let usual = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| var(name).filter(|r| !r.is_empty()));
        let region = vars.get("REGION").or_else(usual);
        if region.is_none() {
            vars.problem("neither MOODIFY_DOCUMENTDB_REGION nor AWS_REGION is set".to_owned());
        }
        let mut config = Self::new(region.unwrap_or_default(), vars.required("CLUSTER"));
        config.engine = vars.get("ENGINE").unwrap_or(config.engine);
        config.subnet_group = vars.get("SUBNET_GROUP");
        config.security_groups = vars
            .get("SECURITY_GROUPS")
            .iter()
            .flat_map(|list| list.split(','))
            .map(|group| group.trim().to_owned())
            .collect();
        config.endpoint = vars.get("ENDPOINT");
        vars.parse("REQUIRE_ENCRYPTION", &mut config.require_encryption);
        vars.parse("CONNECT_TIMEOUT", &mut config.connect_timeout);
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
        for (name, value) in [("region", &self.region), ("cluster", &self.cluster), ("engine", &self.engine)] {
            if value.is_empty() {
                problems.push(format!("{name} is empty"));
            }
        }
        if self.security_groups.iter().any(String::is_empty) {
            problems.push("security-groups has an empty one".to_owned());
        }
        if let Some(url) = &self.endpoint
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            problems.push(format!("endpoint {url:?} is not an http or https URL"));
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            problems.push("access-key-id and secret-access-key go together".to_owned());
        }
        if self.session_token.is_some() && self.access_key_id.is_none() {
            problems.push("session-token is of use with an access key only".to_owned());
        }
        for (name, period) in [("connect-timeout", self.connect_timeout), ("response-timeout", self.response_timeout)] {
            if period == Period::ZERO {
                problems.push(format!("{name} is zero"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = DocumentDbConfig::from_vars(|name| match name {
            "MOODIFY_DOCUMENTDB_REQUIRE_ENCRYPTION" => Some("perhaps".to_owned()),
            "MOODIFY_DOCUMENTDB_ENDPOINT" => Some("localhost".to_owned()),
            _ => None,
        })
        .unwrap_err();
        for part in ["_REGION nor AWS_REGION", "_CLUSTER is not set", "was not `true` or `false`", "\"localhost\""] {
            assert!(error.message().contains(part), "{error}");
        }
        let mut config = DocumentDbConfig::new("", "c").response_timeout(Duration::ZERO);
        config.session_token = Some("t".into());
        config.secret_access_key = Some("s".into());
        let error = config.validate().unwrap_err();
        for part in ["region is empty", "go together", "with an access key only", "response-timeout is zero"] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn the_region_may_come_from_aws_own_variable() {
        let config = DocumentDbConfig::from_vars(|name| match name {
            "MOODIFY_DOCUMENTDB_CLUSTER" => Some("moods".to_owned()),
            "AWS_REGION" => Some("eu-north-1".to_owned()),
            "MOODIFY_DOCUMENTDB_SECURITY_GROUPS" => Some("sg-1, sg-2".to_owned()),
            _ => None,
        })
        .unwrap();
        assert_eq!((config.region.as_str(), config.engine.as_str()), ("eu-north-1", "docdb"));
        assert_eq!(config.security_groups, ["sg-1", "sg-2"]);
    }

    #[test]
    fn unknown_keys_are_refused_and_secrets_not_shown() {
        let error = serde_json::from_str::<DocumentDbConfig>(r#"{"region": "a", "cluster": "b", "clutser": "c"}"#);
        assert!(error.unwrap_err().to_string().contains("clutser"));
        let config = DocumentDbConfig::new("a", "b").credentials("AKIA1", "very-secret", Some("token-secret".into()));
        let shown = format!("{config:?}");
        assert!(!shown.contains("very-secret") && !shown.contains("token-secret"), "{shown}");
    }
}
