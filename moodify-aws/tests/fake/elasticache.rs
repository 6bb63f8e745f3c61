//! ElastiCache: replication groups, their nodes, snapshots and events.

use super::{Answer, Form, World};

pub(super) fn handle(_: &mut World, _: &str, _: &Form) -> Option<Answer> {
    None
}
