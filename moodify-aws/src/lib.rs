//! AWS backend of moodify: [`DocumentDbBackups`] keeps backups of a DocumentDB cluster as cluster snapshots,
//! [`ElastiCacheBackups`] those of a cache, [`ElastiCacheNodes`] restarts and fails over the nodes of a cache, and
//! [`S3Artifacts`] keeps artifacts in S3 and in what speaks its API.
//!
//! ```no_run
//! # async fn example() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig};
//! use moodify_core::backend::{BackupRequest, BackupStore, BackupStoreExt};
//! use moodify_core::{CallContext, IdempotencyKey, RunId};
//!
//! let backups = DocumentDbBackups::new(DocumentDbConfig::new(ApiConfig::new("eu-central-1"), "moodify-production"))?;
//! let run = RunId::new("r1").expect("a valid id");
//! let cx = CallContext::new(run, IdempotencyKey::new("r1/backup"), Duration::from_secs(3600));
//! let begun = backups.create(&cx, &BackupRequest::new()).await?;
//! backups.wait_available(&cx, &begun.id, &|backup| println!("{backup}")).await?;
//! println!("{}", backups.verify(&cx, &begun.id).await?);
//! # Ok(())
//! # }
//! ```
//!
//! No name of the AWS SDK is part of this crate's signatures; its own retries are off, and its TLS is rustls with
//! ring.

mod asked;
mod client;
mod config;
mod documentdb;
mod elasticache;
mod error;
mod names;
mod s3;

pub use config::{ApiConfig, CacheId, DocumentDbConfig, ElastiCacheConfig, S3Config};
pub use documentdb::{Cluster, DocumentDbBackups, Instance};
pub use elasticache::{ElastiCacheBackups, ElastiCacheNodes};
pub use s3::S3Artifacts;
