use std::fs::File;
use std::sync::Arc;

use super::process::Session;
use crate::journal::Lease;
use crate::journal::codec::Chain;

/// What this process keeps of a run that it owns: where its file ends, and how the next line is chained to it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) session: Arc<Session>,
    /// The number of the last record.
    pub(super) seq: u64,
    pub(super) chain: Chain,
    /// The checksum of the first record: it tells this run from another of that name, removed before.
    pub(super) origin: Chain,
    /// The length of its file; what is beyond was never acknowledged.
    pub(super) whole: u64,
    /// The last batch with lines of it.
    pub(super) batch: u64,
    /// Open while it is written to often.
    pub(super) file: Option<File>,
    /// An append failed: what is durable is not known before the run is read again.
    pub(super) failed: bool,
}

impl Held {
    /// Whether it is owned by that lease.
    pub(super) fn is_by(&self, lease: &Lease) -> bool {
        self.token == lease.token && self.session.owner == lease.owner
    }
}
