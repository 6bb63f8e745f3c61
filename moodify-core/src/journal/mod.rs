//! The only durable state: a run is its records, and [`RunState`] is what they fold to, live and on recovery alike.

mod codec;
mod file;
mod kept;
mod memory;
mod record;
mod state;
mod store;
mod text;

#[cfg(feature = "testing")]
pub(crate) use file::{Disk, RealDisk, format};
pub use file::{FileJournal, FileJournalOptions};
pub use kept::Kept;
pub use memory::MemoryJournal;
pub use record::{Cause, Command, CommandKind, Entry, Outcome, Record};
pub use state::{Answer, Next, RunState, StepState, StepStatus, UndoStatus, fold};
pub use store::{JournalStore, Lease};
pub use text::Tail;
