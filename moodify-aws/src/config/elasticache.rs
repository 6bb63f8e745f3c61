use moodify_core::Result;
use moodify_core::secret::Secret;
use moodify_core::settings::{self, Vars};
use serde::Deserialize;

use super::ApiConfig;
use crate::error::ELASTICACHE;

/// Which kind of cache it is, and its id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheId {
    /// A replication group: a primary with its replicas, or several such shards.
    ReplicationGroup(String),
    /// One cache cluster that is in no replication group.
    Cluster(String),
    /// A serverless cache. It has no nodes that could be restarted, and snapshots of another kind.
    Serverless(String),
}

impl CacheId {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::ReplicationGroup(id) | Self::Cluster(id) | Self::Serverless(id) => id,
        }
    }
}

/// Which cache of ElastiCache is meant, and what a restored one is like.
///
/// A restored replication group is like the cache that is backed up, as long as that is there: type and number of nodes,
/// subnet group, security groups, parameter group, port, key, encryption and user groups. What is set here is set instead.
///
/// ```
/// let config: moodify_aws::ElastiCacheConfig = serde_json::from_str(
///     r#"{"api": {"region": "eu-central-1"}, "cache": {"replication-group": "moodify-production"}}"#,
/// ).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ElastiCacheConfig {
    pub(crate) api: ApiConfig,
    pub(crate) cache: CacheId,
    #[serde(default)]
    pub(crate) cluster_mode: bool,
    pub(crate) node_type: Option<String>,
    pub(crate) replicas: Option<u8>,
    pub(crate) subnet_group: Option<String>,
    #[serde(default)]
    pub(crate) security_groups: Vec<String>,
    pub(crate) parameter_group: Option<String>,
    pub(crate) kms_key: Option<String>,
    pub(crate) auth_token: Option<Secret>,
}

impl ElastiCacheConfig {
    /// That cache.
    #[must_use]
    pub fn new(api: ApiConfig, cache: CacheId) -> Self {
        Self {
            api,
            cache,
            cluster_mode: false,
            node_type: None,
            replicas: None,
            subnet_group: None,
            security_groups: Vec::new(),
            parameter_group: None,
            kms_key: None,
            auth_token: None,
        }
    }

    /// The replication group has cluster mode enabled. So a plan that would restart its nodes, which AWS does not do, is
    /// refused when it is checked, without a call.
    #[must_use]
    pub fn cluster_mode(mut self) -> Self {
        self.cluster_mode = true;
        self
    }

    /// The type of the nodes of a restored group, and how many replicas each of its primaries has (0 to 5).
    #[must_use]
    pub fn nodes(mut self, node_type: impl Into<String>, replicas: u8) -> Self {
        self.node_type = Some(node_type.into());
        self.replicas = Some(replicas);
        self
    }

    /// Where a restored group is placed: subnet group and security groups.
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

    /// The parameter group of a restored group.
    #[must_use]
    pub fn parameter_group(mut self, name: impl Into<String>) -> Self {
        self.parameter_group = Some(name.into());
        self
    }

    /// The key, by its ARN, that encrypts snapshots and a restored group. A snapshot under another key fails
    /// verification.
    #[must_use]
    pub fn kms_key(mut self, arn: impl Into<String>) -> Self {
        self.kms_key = Some(arn.into());
        self
    }

    /// The password (AUTH token) of a restored group. AWS does not tell that of the cache that is backed up.
    #[must_use]
    pub fn auth_token(mut self, token: impl Into<Secret>) -> Self {
        self.auth_token = Some(token.into());
        self
    }

    /// Reads `MOODIFY_ELASTICACHE_REPLICATION_GROUP`, `_CLUSTER` or `_SERVERLESS` (one of them is required), `_REGION` (or
    /// else `AWS_REGION`, `AWS_DEFAULT_REGION`; required), `_CLUSTER_MODE` (`true` or `false`), `_NODE_TYPE`, `_REPLICAS`,
    /// `_SUBNET_GROUP`, `_SECURITY_GROUPS` (with commas), `_PARAMETER_GROUP`, `_KMS_KEY`, `_AUTH_TOKEN`, `_ENDPOINT`,
    /// `_CONNECT_TIMEOUT` and `_RESPONSE_TIMEOUT`. Credentials come from AWS's own variables.
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
        let mut vars = Vars::new("MOODIFY_ELASTICACHE", &var);
        let api = ApiConfig::from_vars(&mut vars, &var);
        let ids = [
            vars.get("REPLICATION_GROUP").map(CacheId::ReplicationGroup),
            vars.get("CLUSTER").map(CacheId::Cluster),
            vars.get("SERVERLESS").map(CacheId::Serverless),
        ];
        let mut ids = ids.into_iter().flatten();
        let (cache, more) = (ids.next(), ids.next());
        if cache.is_none() || more.is_some() {
            let names = "MOODIFY_ELASTICACHE_REPLICATION_GROUP, _CLUSTER and _SERVERLESS";
            vars.problem(format!("one of {names} is to be set, and no more"));
        }
        let mut config = Self::new(api, cache.unwrap_or_else(|| CacheId::Cluster("-".to_owned())));
        config.node_type = vars.get("NODE_TYPE");
        config.subnet_group = vars.get("SUBNET_GROUP");
        let groups = vars.get("SECURITY_GROUPS").unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
        config.security_groups = groups.map(str::to_owned).collect();
        config.parameter_group = vars.get("PARAMETER_GROUP");
        config.kms_key = vars.get("KMS_KEY");
        config.auth_token = vars.get("AUTH_TOKEN").map(Secret::from);
        vars.parse("CLUSTER_MODE", &mut config.cluster_mode);
        let mut replicas = 0;
        vars.parse("REPLICAS", &mut replicas);
        config.replicas = vars.get("REPLICAS").map(|_| replicas);
        vars.finish(ELASTICACHE, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(ELASTICACHE, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.api.problems();
        if self.cache.as_str().is_empty() {
            problems.push("cache has an empty id".to_owned());
        }
        if self.cluster_mode && !matches!(self.cache, CacheId::ReplicationGroup(_)) {
            problems.push("cluster-mode is of use with a replication group only".to_owned());
        }
        if self.security_groups.iter().any(String::is_empty) {
            problems.push("security-groups has an empty one".to_owned());
        }
        if self.replicas.is_some_and(|count| count > 5) {
            problems.push("replicas is not 0 to 5".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<ElastiCacheConfig> {
        ElastiCacheConfig::from_vars(|name| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn one_cache_is_named_and_all_problems_are_told_at_once() {
        let error = from(&[("MOODIFY_ELASTICACHE_REPLICAS", "6"), ("MOODIFY_ELASTICACHE_CLUSTER_MODE", "perhaps")]);
        let error = error.unwrap_err().to_string();
        for part in ["there is no region", "one of MOODIFY_ELASTICACHE_REPLICATION_GROUP", "not 0 to 5", "CLUSTER_MODE"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let (region, group) = (("AWS_REGION", "eu-central-1"), ("MOODIFY_ELASTICACHE_REPLICATION_GROUP", "moods"));
        let secret = ("MOODIFY_ELASTICACHE_AUTH_TOKEN", "a-very-long-auth-token");
        let config = from(&[region, group, secret]).unwrap();
        assert_eq!(config.cache, CacheId::ReplicationGroup("moods".to_owned()));
        assert!(!format!("{config:?}").contains("a-very-long"), "{config:?}");
        let both = from(&[region, group, ("MOODIFY_ELASTICACHE_SERVERLESS", "moods")]).unwrap_err();
        assert!(both.to_string().contains("and no more"), "{both}");
        let mode =
            from(&[region, ("MOODIFY_ELASTICACHE_CLUSTER", "moods"), ("MOODIFY_ELASTICACHE_CLUSTER_MODE", "true")]);
        assert!(mode.unwrap_err().to_string().contains("cluster-mode is of use"));
    }
}
