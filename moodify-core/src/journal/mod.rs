//! The only durable state: a run is its records, and [`RunState`] is what they fold to, live and on recovery alike.

mod codec;
mod file;
mod memory;
mod record;
mod state;
mod store;

pub use file::FileJournal;
pub use memory::MemoryJournal;
pub use record::{Cause, Command, CommandKind, Entry, Outcome, Record};
pub use state::{Next, Pause, RunState, StepState, StepStatus, UndoStatus, fold};
pub use store::{JournalStore, Lease};
