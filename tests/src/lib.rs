//! Two ways to try moodify as a whole.
//!
//! [`sweep`] is many random releases in simulated worlds with faults, crashes and interference, each checked against the
//! promises of the design. It needs moodify-core alone: `--no-default-features` builds nothing else.
//!
//! The rig is a whole Kubernetes, without containers: etcd, the API server, the controllers and the scheduler as
//! processes, and a node of our own whose pods are small real HTTP servers that behave as the tag of their
//! image says. It lives in a network namespace that `tests/run` makes, so that every pod has an address of its own.
//!
//! With `MOODIFY_RIG_KUBECONFIG=/path/kubeconfig` the rig starts no control plane: it uses that cluster as whoever the
//! kubeconfig says, who must be allowed everything, and adds a node of its own, to which only the tests' pods go. It
//! installs the definitions of routing objects where they are missing, and leaves nothing else behind.
//!
//! A test takes what it needs or is left out aloud:
//!
//! ```no_run
//! # #[cfg(feature = "rig")]
//! # async fn test() {
//! use moodify_tests::rig::Rig;
//!
//! let Some(rig) = Rig::shared().await else { return };
//! let namespace = rig.namespace("errors").await;
//! namespace.deploy("backend", "registry.test/backend:v1", 3).await;
//! namespace.wait_ready("backend").await;
//! # }
//! ```

#[cfg(feature = "rig")]
pub mod crash;
#[cfg(feature = "rig")]
mod grpc;
#[cfg(feature = "rig")]
mod http;
#[cfg(feature = "rig")]
pub mod ledger;
#[cfg(feature = "rig")]
pub mod load;
#[cfg(feature = "rig")]
pub mod node;
#[cfg(feature = "rig")]
pub mod require;
#[cfg(feature = "rig")]
pub mod rig;
#[cfg(feature = "rig")]
pub mod routes;
#[cfg(feature = "rig")]
pub mod scene;
#[cfg(feature = "rig")]
pub mod shares;
pub mod sweep;

#[cfg(feature = "rig")]
pub use require::{missing, program, require};

/// What the rig's own code fails with: it is shown, never matched on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The wall clock. The rig speaks for real components, so it needs the real time; tests of the library own theirs.
#[expect(clippy::disallowed_methods, reason = "pods and certificates carry the real time")]
pub fn wall_clock() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The program in the README compiles and does what it says.
#[cfg(all(doctest, feature = "rig"))]
#[doc = include_str!("../../README.md")]
struct Readme;
