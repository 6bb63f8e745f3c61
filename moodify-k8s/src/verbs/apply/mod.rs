//! `kubectl apply --server-side`, `kubectl diff` and pruning.

mod applying;
mod diff;
mod discovery;
mod manifest;
mod prune;
mod unified;

pub use applying::{Applied, AppliedObject, ApplyOptions, Outcome};
pub use diff::Difference;
pub use manifest::{Manifest, Manifests};
