//! Settings of what keeps data: backup stores, caches and artifact stores, each by its name in plans. They have the shape
//! of the providers' own, but for secrets: of these they say in which environment variable or file they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use moodify_core::model::{EnvironmentKind, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A backup store.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BackupStoreSettings {
    /// A cluster of Amazon DocumentDB, or of another engine with the same API.
    Documentdb(DocumentDbSettings),
    /// A cache of Amazon ElastiCache.
    Elasticache(ElastiCacheSettings),
    /// A database of Firestore.
    Firestore(FirestoreSettings),
}

/// An artifact store: one variant for each provider.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ArtifactStoreSettings {
    /// A bucket of Google Cloud Storage.
    CloudStorage(StorageSettings),
    /// A bucket of S3, or of a server that speaks its API.
    S3(S3Settings),
    /// A directory of the machine that drives the run.
    Directory(DirectorySettings),
}

/// A cache: its data, the nodes that it runs on, or both.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct CacheSettings {
    /// Its data: a Redis or Valkey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redis: Option<RedisSettings>,
    /// Its nodes, if Amazon ElastiCache runs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elasticache: Option<ElastiCacheSettings>,
}

/// How to reach an API of AWS. Without an access key, credentials come from AWS's own places.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AwsSettings {
    /// The region.
    region: String,
    /// Another address of the API: a VPC endpoint, or an emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// A fixed access key, in place of what AWS's own places have.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_key_id: Option<String>,
    /// The environment variable that holds the secret access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_access_key_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_access_key_file: Option<String>,
    /// The environment variable that holds the session token, if the key needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token_file: Option<String>,
    /// How long connecting may take; 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<Period>,
    /// How long the API may take to answer one request; 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_timeout: Option<Period>,
}

/// A cluster of DocumentDB. A restored one is like it; what is set here is set instead.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DocumentDbSettings {
    /// How to reach the API.
    api: AwsSettings,
    /// The cluster's identifier.
    cluster: String,
    /// Another engine than `docdb` that answers to the same API, such as `aurora-mysql`.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    /// Whether a backup that is not encrypted fails verification; true.
    #[serde(skip_serializing_if = "Option::is_none")]
    require_encryption: Option<bool>,
    /// The subnet group of a restored cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet_group: Option<String>,
    /// The security groups of a restored cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    security_groups: Vec<String>,
    /// The parameter group of a restored cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter_group: Option<String>,
    /// The key, by its ARN, that encrypts a restored cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key: Option<String>,
    /// Whether a restored cluster is protected from being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_protection: Option<bool>,
    /// How many instances a restored cluster has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    instances: Option<u8>,
    /// Of which class they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_class: Option<String>,
}

/// Which kind of cache it is, and its id.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CacheId {
    /// A primary with its replicas, or several such shards.
    ReplicationGroup(String),
    /// One cache cluster that is in no replication group.
    Cluster(String),
    /// A serverless cache, which has neither nodes nor snapshots that could be administered.
    Serverless(String),
}

/// A cache of ElastiCache. A restored one is like it; what is set here is set instead.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ElastiCacheSettings {
    /// How to reach the API.
    api: AwsSettings,
    /// The cache.
    cache: CacheId,
    /// That the replication group has cluster mode enabled, so that its nodes cannot be restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_mode: Option<bool>,
    /// The type of the nodes of a restored group.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_type: Option<String>,
    /// How many replicas each primary of a restored group has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5))]
    replicas: Option<u8>,
    /// The subnet group of a restored group.
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet_group: Option<String>,
    /// The security groups of a restored group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    security_groups: Vec<String>,
    /// The parameter group of a restored group.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter_group: Option<String>,
    /// The key, by its ARN, that encrypts snapshots and a restored group.
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key: Option<String>,
    /// The environment variable that holds the password (AUTH token) of a restored group.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token_file: Option<String>,
}

/// How to reach an API of Google: by a key, anonymously, or else with Application Default Credentials.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct GoogleSettings {
    /// Another address of the API: a private endpoint, or an emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// Whether no credentials are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    anonymous: Option<bool>,
    /// The environment variable that holds the JSON key of a service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    /// How long one request may take; 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_timeout: Option<Period>,
}

/// A bucket of Cloud Storage.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct StorageSettings {
    /// How to reach the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<GoogleSettings>,
    /// The bucket.
    bucket: String,
    /// What the names of all objects begin with, such as `production/`; nothing else in the bucket is seen or touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
}

/// A bucket of S3.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct S3Settings {
    /// How to reach the API.
    api: AwsSettings,
    /// The bucket.
    bucket: String,
    /// What the keys of all objects begin with, such as `production/`; nothing else in the bucket is seen or touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
}

/// A directory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DirectorySettings {
    /// Where it is; made when something is put there first.
    pub(super) path: PathBuf,
}

/// A database of Firestore.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FirestoreSettings {
    /// How to reach Firestore's Admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<GoogleSettings>,
    /// The project.
    project: String,
    /// The database; `(default)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    /// Where its exports are kept.
    storage: StorageSettings,
    /// The locations in which the bucket may be, such as `EUR4`; where the database is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    locations: Vec<String>,
    /// How long a backup must be kept: a bucket that deletes objects earlier is refused; 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    keep: Option<Period>,
}

/// A Redis or Valkey. By its name in plans a flush of it is confirmed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RedisSettings {
    /// Whether it is a single server, which is the default, or one with sentinels, or a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<RedisMode>,
    /// Where a single server is: `redis://host[:port][/database]`, or `rediss://` for TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// Whether there is TLS to all nodes and sentinels; of a single server its URL says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<bool>,
    /// The database behind sentinels; of a single server its URL says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<u32>,
    /// The ACL user.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// The environment variable that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<String>,
    /// A PEM file of the authorities to trust, in place of those that the machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    /// What the cache is for; production, which is flushed only when the plan says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<EnvironmentKind>,
    /// How long connecting may take; 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<Period>,
    /// How long a server may take to answer one request; 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_timeout: Option<Period>,
    /// How long it may be without a primary before a call fails; 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    failover_timeout: Option<Period>,
    /// Where this process sees the directories in which nodes write their snapshots, by `host[:port]`: their files are read
    /// then, and have to be there. Of nodes on this machine they are read where they can be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dump_dirs: BTreeMap<String, PathBuf>,
}

/// What a Redis consists of.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum RedisMode {
    /// One server.
    Single,
    /// A primary that sentinels watch, and its replicas.
    Sentinel(SentinelSettings),
    /// A cluster.
    Cluster {
        /// Some of its nodes, `host[:port]` each.
        addresses: Vec<String>,
    },
}

/// The sentinels.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SentinelSettings {
    /// The name by which they know the primary.
    master: String,
    /// Where they are, `host[:port]` each.
    addresses: Vec<String>,
    /// The user to log in at the sentinels as, if they want that.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// The environment variable that holds the password of the sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_env: Option<String>,
    /// Or the file that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<String>,
}
