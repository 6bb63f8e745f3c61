use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

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
/// - One owner at a time: `acquire` while another owner lives and its lease has not expired is
///   [`Refused`](crate::ErrorKind::Refused) and names it.
/// - The inbox takes commands from any process, without the lease.
///
/// # Cancellation
/// Dropping the future of an append leaves its outcome unknown.
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

    /// Takes ownership for `ttl` from `now`.
    ///
    /// # Errors
    /// As in the contract.
    async fn acquire(&self, run: &RunId, owner: &str, now: Timestamp, ttl: Duration) -> Result<Lease>;

    /// Keeps ownership for `ttl` from `now`.
    ///
    /// # Errors
    /// [`Fenced`](crate::ErrorKind::Fenced) if another owner has taken over.
    async fn renew(&self, run: &RunId, lease: &Lease, now: Timestamp, ttl: Duration) -> Result<()>;

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

    /// Puts a command into the inbox.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Storage`](crate::ErrorKind::Storage).
    async fn send(&self, run: &RunId, command: &Command) -> Result<()>;

    /// All commands ever put into the inbox, oldest first.
    ///
    /// # Errors
    /// [`Storage`](crate::ErrorKind::Storage).
    async fn inbox(&self, run: &RunId) -> Result<Vec<Command>>;
}

/// Compiles only while the trait is object-safe.
#[allow(dead_code)]
fn object_safe(_: &dyn JournalStore) {}
