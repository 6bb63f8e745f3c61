mod elasticache;
mod s3;

use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::Secret;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use crate::error::DOCUMENTDB;
pub use elasticache::{CacheId, ElastiCacheConfig};
pub use s3::S3Config;

/// How to reach the APIs of AWS.
///
/// Without an access key, credentials come from the usual places, in this order: environment, profile files, web identity
/// (IRSA), container (ECS, EKS pod identity) and instance metadata. SSO profiles and credential processes are not
/// supported.
///
/// ```
/// use moodify_aws::ApiConfig;
/// let api = ApiConfig::new("eu-central-1").credentials("AKIA123", "s3cret", None);
/// assert!(!format!("{api:?}").contains("s3cret"));
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApiConfig {
    pub(crate) region: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<Secret>,
    pub(crate) session_token: Option<Secret>,
    #[serde(default = "connect_timeout")]
    pub(crate) connect_timeout: Period,
    #[serde(default = "response_timeout")]
    pub(crate) response_timeout: Period,
}

fn connect_timeout() -> Period {
    Period::from_secs(5)
}

fn response_timeout() -> Period {
    Period::from_secs(30)
}

impl ApiConfig {
    /// The APIs of that region.
    #[must_use]
    pub fn new(region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            connect_timeout: connect_timeout(),
            response_timeout: response_timeout(),
        }
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

    /// `_REGION` (or else `AWS_REGION`, `AWS_DEFAULT_REGION`), `_ENDPOINT`, `_CONNECT_TIMEOUT` and `_RESPONSE_TIMEOUT`.
    fn from_vars<F: Fn(&str) -> Option<String>>(vars: &mut Vars<'_, F>, var: &F) -> Self {
        let usual = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| var(name).filter(|r| !r.is_empty()));
        let region = vars.get("REGION").or_else(usual);
        if region.is_none() {
            vars.problem("there is no region: AWS_REGION is not set".to_owned());
        }
        let mut api = Self::new(region.unwrap_or_default());
        api.endpoint = vars.get("ENDPOINT");
        vars.parse("CONNECT_TIMEOUT", &mut api.connect_timeout);
        vars.parse("RESPONSE_TIMEOUT", &mut api.response_timeout);
        api
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.region.is_empty() {
            problems.push("region is empty".to_owned());
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

/// Which DocumentDB cluster to back up, and what a restored one is like.
///
/// A restored cluster is like the one that is backed up, as long as that is there: subnet group, security groups,
/// parameter group, key, deletion protection, and as many instances of the same class. What is set here is set instead.
///
/// ```
/// let config: moodify_aws::DocumentDbConfig = serde_json::from_str(
///     r#"{"api": {"region": "eu-central-1"}, "cluster": "moodify-production"}"#,
/// ).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DocumentDbConfig {
    pub(crate) api: ApiConfig,
    pub(crate) cluster: String,
    #[serde(default = "engine")]
    pub(crate) engine: String,
    #[serde(default = "require_encryption")]
    pub(crate) require_encryption: bool,
    pub(crate) subnet_group: Option<String>,
    #[serde(default)]
    pub(crate) security_groups: Vec<String>,
    pub(crate) parameter_group: Option<String>,
    pub(crate) kms_key: Option<String>,
    pub(crate) deletion_protection: Option<bool>,
    pub(crate) instances: Option<u8>,
    pub(crate) instance_class: Option<String>,
}

fn engine() -> String {
    "docdb".to_owned()
}

fn require_encryption() -> bool {
    true
}

impl DocumentDbConfig {
    /// The cluster of that identifier.
    #[must_use]
    pub fn new(api: ApiConfig, cluster: impl Into<String>) -> Self {
        Self {
            api,
            cluster: cluster.into(),
            engine: engine(),
            require_encryption: require_encryption(),
            subnet_group: None,
            security_groups: Vec::new(),
            parameter_group: None,
            kms_key: None,
            deletion_protection: None,
            instances: None,
            instance_class: None,
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

    /// Where a restored cluster is placed: subnet group and security groups.
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

    /// The parameter group of a restored cluster.
    #[must_use]
    pub fn parameter_group(mut self, name: impl Into<String>) -> Self {
        self.parameter_group = Some(name.into());
        self
    }

    /// The key, by its ARN, that encrypts a restored cluster.
    #[must_use]
    pub fn kms_key(mut self, arn: impl Into<String>) -> Self {
        self.kms_key = Some(arn.into());
        self
    }

    /// Whether a restored cluster is protected from being deleted.
    #[must_use]
    pub fn deletion_protection(mut self, protected: bool) -> Self {
        self.deletion_protection = Some(protected);
        self
    }

    /// How many instances a restored cluster has (1 to 16), and of which class.
    #[must_use]
    pub fn instances(mut self, count: u8, class: impl Into<String>) -> Self {
        self.instances = Some(count);
        self.instance_class = Some(class.into());
        self
    }

    /// Reads `MOODIFY_DOCUMENTDB_CLUSTER`, `_REGION` (or else `AWS_REGION`, `AWS_DEFAULT_REGION`), `_ENGINE`,
    /// `_REQUIRE_ENCRYPTION` and `_DELETION_PROTECTION` (`true` or `false`), `_SUBNET_GROUP`, `_SECURITY_GROUPS` (with
    /// commas), `_PARAMETER_GROUP`, `_KMS_KEY`, `_INSTANCES`, `_INSTANCE_CLASS`, `_ENDPOINT`, `_CONNECT_TIMEOUT` and
    /// `_RESPONSE_TIMEOUT`; cluster and region are required. Credentials come from AWS's own variables.
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
        let api = ApiConfig::from_vars(&mut vars, &var);
        let mut config = Self::new(api, vars.required("CLUSTER"));
        config.engine = vars.get("ENGINE").unwrap_or(config.engine);
        config.subnet_group = vars.get("SUBNET_GROUP");
        config.security_groups = vars
            .get("SECURITY_GROUPS")
            .iter()
            .flat_map(|list| list.split(','))
            .map(|group| group.trim().to_owned())
            .collect();
        config.parameter_group = vars.get("PARAMETER_GROUP");
        config.kms_key = vars.get("KMS_KEY");
        config.instance_class = vars.get("INSTANCE_CLASS");
        vars.parse("REQUIRE_ENCRYPTION", &mut config.require_encryption);
        let (mut protected, mut instances) = (false, 0);
        vars.parse("DELETION_PROTECTION", &mut protected);
        vars.parse("INSTANCES", &mut instances);
        config.deletion_protection = vars.get("DELETION_PROTECTION").map(|_| protected);
        config.instances = vars.get("INSTANCES").map(|_| instances);
        vars.finish(DOCUMENTDB, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(DOCUMENTDB, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.api.problems();
        for (name, value) in [("cluster", &self.cluster), ("engine", &self.engine)] {
            if value.is_empty() {
                problems.push(format!("{name} is empty"));
            }
        }
        if self.security_groups.iter().any(String::is_empty) {
            problems.push("security-groups has an empty one".to_owned());
        }
        if self.instances.is_some_and(|count| !(1..=16).contains(&count)) {
            problems.push("instances is not 1 to 16".to_owned());
        }
        problems
    }
}
