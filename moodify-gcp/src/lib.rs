//! Google Cloud backend of moodify: [`ArtifactStore`] keeps artifacts (exports, reports) in Cloud Storage.
//!
//! ```no_run
//! # async fn example() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_core::{CallContext, IdempotencyKey, RunId};
//! use moodify_gcp::{ArtifactStore, StorageConfig};
//!
//! let store = ArtifactStore::new(StorageConfig::new())?;
//! let run = RunId::new("r1").expect("a valid id");
//! let cx = CallContext::new(run, IdempotencyKey::new("r1/export"), Duration::from_secs(30));
//! match store.head(&cx, "moodify-backups", "2026-11-24/all.export").await? {
//!     Some(object) => println!("{} bytes, written {:?}", object.bytes, object.updated),
//!     None => println!("no such object"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! No name of Google's SDK is part of this crate's signatures, and its own retries are off.
//!
//! The SDK takes its TLS from rustls' process-wide default. If the program has none installed when the first store is
//! made, that is set to ring.

mod artifact_store;
mod client;
mod config;
mod error;

pub use artifact_store::{ArtifactStore, ObjectInfo};
pub use config::StorageConfig;
