use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{Command, Entry};
use crate::error::Result;
use crate::model::RunId;

/// The right to write to a run's journal, for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: String,
    /// Greater than the token of every lease before it.
    pub token: u64,
}

/// Keeps runs.
///
/// # Contract
/// - `append` is durable when it returns, all of it or nothing, and only if the journal ends at `expected` and the
///   lease is the newest: a late append of an engine that lost the run is [`Fenced`](crate::ErrorKind::Fenced).
/// - An append that failed may still be there after all: load, then decide.
/// - One owner at a time: `acquire` while another owner's session lasts is [`Refused`](crate::ErrorKind::Refused) and
///   names it. A session ends when it is not renewed in time, when its run is given up, or when its process is known to
///   be dead; whether its time has come the store says, by a clock that no jump of the wall clock moves. A store that
///   has to look for a while before it can say refuses with a [`retry_after`](crate::Error::retry_after_of).
/// - Taking over a run whose owner's session ran out ends that session for good: its `renew` is
///   [`Fenced`](crate::ErrorKind::Fenced) from then on.
/// - The inbox takes commands from any process, without the lease.
///
/// # Cancellation
/// Dropping the future of an append leaves its outcome unknown. Everything else is safe to drop.
#[async_trait]
pub trait JournalStore: Send + Sync + fmt::Debug {
    /// Begins a run with its first record.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists); [`Storage`](crate::ErrorKind::Storage).
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()>;

    /// Adds records after the one numbered `expected`.
    ///
    /// # Errors
    /// As in the contract; [`Storage`](crate::ErrorKind::Storage) if it cannot be made durable.
    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()>;

    /// All records of a run.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Corrupt`](crate::ErrorKind::Corrupt) with the damaged line.
    async fn load(&self, run: &RunId) -> Result<Vec<Entry>>;

    /// All runs, oldest first.
    ///
    /// # Errors
    /// [`Storage`](crate::ErrorKind::Storage).
    async fn list(&self) -> Result<Vec<RunId>>;

    /// Removes a run and all that belongs to it, whatever its state: whoever calls this has looked.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) while somebody owns it; [`NotFound`](crate::ErrorKind::NotFound);
    /// [`Storage`](crate::ErrorKind::Storage).
    async fn remove(&self, run: &RunId) -> Result<()>;

    /// Takes ownership, and begins or extends the session of `owner` for `ttl` from now.
    ///
    /// # Errors
    /// As in the contract.
    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease>;

    /// Extends the session of `owner` for `ttl` from now, and with it the lease of every run that it owns.
    ///
    /// # Errors
    /// [`Fenced`](crate::ErrorKind::Fenced) if the session ran out and another owner took over one of its runs since.
    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()>;

    /// Gives ownership up. Fine if it is lost already.
    ///
    /// # Errors
    /// [`Storage`](crate::ErrorKind::Storage).
    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()>;

    /// Who has the run, as far as can be told, for people; `None` if it was given up or its owner is known to be dead.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Storage`](crate::ErrorKind::Storage).
    async fn holder(&self, run: &RunId) -> Result<Option<String>>;

    /// Puts a command into the inbox. The same id twice is one command.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Storage`](crate::ErrorKind::Storage).
    async fn send(&self, run: &RunId, command: &Command) -> Result<()>;

    /// Waits until the inbox holds commands that are not in `known`, by id, and returns all of these, oldest first.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Storage`](crate::ErrorKind::Storage).
    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>>;
}

/// Compiles only while the trait is object-safe.
#[allow(dead_code)]
fn object_safe(_: &dyn JournalStore) {}
