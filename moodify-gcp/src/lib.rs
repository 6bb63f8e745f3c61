//! Google Cloud backend of moodify: [`CloudStorage`] keeps artifacts (exports, reports), [`FirestoreBackups`] makes
//! backups of a Firestore database and restores them.
//!
//! ```no_run
//! # async fn example() -> moodify_core::Result<()> {
//! use std::time::Duration;
//! use moodify_core::CallContext;
//! use moodify_core::backend::ArtifactStore;
//! use moodify_gcp::{CloudStorage, StorageConfig};
//!
//! let store = CloudStorage::new(StorageConfig::new("moodify-backups"))?;
//! let cx = CallContext::by_hand("look", Duration::from_secs(30));
//! match store.head(&cx, "2026-11-24/all.export").await? {
//!     Some(artifact) => println!("{artifact}, written {:?}", artifact.updated),
//!     None => println!("there is none"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! No name of Google's SDK is part of this crate's signatures, and its own retries are off.
//!
//! TLS comes from rustls' process-wide default. If the program has none installed when the first request is made, that is
//! set to ring.

mod client;
mod cloud_storage;
mod config;
mod error;
mod firestore;

pub use cloud_storage::CloudStorage;
pub use config::{ApiConfig, FirestoreConfig, StorageConfig};
pub use firestore::{FirestoreBackups, LiveRestore};
