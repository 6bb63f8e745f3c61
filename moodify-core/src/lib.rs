//! moodify-core: a deployment runbook as a library.
//!
//! A [`Plan`] is read ([`planfile`]), expanded ([`strategy`]), checked and run ([`engine`]), recorded
//! ([`journal`]) and shown ([`event`]). What a step does is an [`action`]; what it does it *to* is a [`backend`].
//! The crate speaks to no network and knows no cloud: backends are trait objects, given by the embedder.
//!
//! The feature `testing` adds a mock of each trait and the Simulator: every backend in memory on a virtual clock.

pub mod action;
pub mod analysis;
pub mod artifacts;
pub mod backend;
pub mod clock;
pub mod context;
pub mod engine;
pub mod error;
pub mod event;
pub mod gate;
pub mod guide;
pub mod journal;
pub mod model;
mod mutation;
pub mod planfile;
pub mod secret;
pub mod settings;
pub mod strategy;
#[cfg(feature = "testing")]
pub mod testing;

pub use backend::Backends;
pub use context::{CallContext, IdempotencyKey};
pub use engine::Engine;
pub use error::{Effect, Error, ErrorKind, Result};
pub use model::{Plan, RunId};
