//! AWS backend of moodify: [`DocumentDbBackups`] keeps backups of a DocumentDB cluster as cluster snapshots.
//!
//! ```no_run
//! # async fn example() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_aws::{DocumentDbBackups, DocumentDbConfig};
//! use moodify_core::backend::BackupStore;
//! use moodify_core::{CallContext, IdempotencyKey, RunId};
//!
//! let backups = DocumentDbBackups::new(DocumentDbConfig::new("eu-central-1", "moodify-production"))?;
//! let run = RunId::new("r1").expect("a valid id");
//! let cx = CallContext::new(run, IdempotencyKey::new("r1/backup"), Duration::from_secs(30));
//! let begun = backups.create(&cx).await?;
//! println!("{} is {:?}", begun.id, begun.state);
//! # Ok(())
//! # }
//! ```
//!
//! No name of the AWS SDK is part of this crate's signatures; its own retries are off, and its TLS is rustls with
//! ring.

mod client;
mod config;
mod documentdb;
mod error;

pub use config::DocumentDbConfig;
pub use documentdb::DocumentDbBackups;
