//! The verbs of `kubectl rollout`.

mod history;
mod pause;
mod status;
mod undo;

pub use history::Revision;
pub use status::RolloutStatus;
pub use undo::Undone;
