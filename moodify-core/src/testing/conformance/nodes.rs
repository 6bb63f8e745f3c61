use std::time::Duration;

use jiff::Timestamp;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{CacheNode, CacheNodes, CacheNodesExt, NodeRole, restart_order};
use crate::context::CallContext;
use crate::error::ErrorKind;

/// Puts [`CacheNodes`] to their contract, in which a restart and a fail-over are over within `patience`. Restarts every
/// node, and fails a group over, if that can be done.
///
/// # Panics
/// If it is not kept.
pub async fn cache_nodes(nodes: &dyn CacheNodes, patience: Duration) {
    let (cx, can) = (context("nodes", patience), nodes.capabilities());
    let all = good("nodes can be listed", nodes.nodes(&cx).await);
    assert!(!all.is_empty(), "there are nodes");
    for node in &all {
        assert!(node.is_available(), "all are available at first: {node}");
        let group = || all.iter().filter(|other| other.group == node.group);
        let primaries = group().filter(|other| other.role == NodeRole::Primary).count();
        let untold = can.restart.is_err() && group().all(|other| other.role == NodeRole::Unknown);
        assert!(primaries == 1 || untold, "who restarts knows the primary of a group: {all:?}");
    }
    ends_with_its_context(patience, async |cx| nodes.nodes(&cx).await).await;
    let order = restart_order(&all);
    let first = order[0];
    if can.restart.is_ok() {
        let none = CacheNode { id: "conformance-none".to_owned(), ..first.clone() };
        fails("there is no such node", ErrorKind::NotFound, nodes.restart(&cx, &none).await);
        let none = nodes.wait_node(&cx, &none.id, &|_| true, &|_| ()).await;
        fails("nobody waits for what is not there", ErrorKind::NotFound, none);
        for seen in &order {
            restarts(nodes, &cx, seen).await;
        }
    } else {
        fails("it cannot restart", ErrorKind::Unsupported, nodes.restart(&cx, first).await);
    }
    let all = good("nodes can be listed", nodes.nodes(&cx).await);
    let primary = all.iter().max_by_key(|node| node.role).expect("there are nodes");
    if can.fail_over.is_ok() {
        let new = good("a replica becomes the primary", nodes.wait_failed_over(&cx, primary).await);
        assert!(new.id != primary.id || primary.role == NodeRole::Unknown, "{new} after {primary}");
        good("asking again for the old primary does nothing", nodes.fail_over(&cx, primary).await);
        let later = good("nodes can be listed", nodes.nodes(&cx).await);
        let still = later.iter().find(|node| node.group == primary.group && node.role == NodeRole::Primary);
        assert_eq!(still.map(|node| &node.id), Some(&new.id), "it does not go back: {later:?}");
    } else {
        fails("it cannot fail over", ErrorKind::Unsupported, nodes.fail_over(&cx, primary).await);
    }
}

async fn restarts(nodes: &dyn CacheNodes, cx: &CallContext, seen: &CacheNode) {
    let begun = good("a restart can be begun", nodes.restart(cx, seen).await);
    assert_eq!(begun.id, seen.id);
    assert!(!begun.is_available(), "it says at once that it restarts: {begun}");
    let over = |node: &CacheNode| node.is_available() && node.was_restarted_since(seen);
    let back = good("it comes back", nodes.wait_node(cx, &seen.id, &over, &|_| ()).await);
    let again = good("the same intent is one restart", nodes.restart(cx, seen).await);
    assert!(again.is_available() && again.restarted == back.restarted, "{again:?} after {back:?}");
    let at = back.restarted.expect("over is only what has a time");
    let events = good("events can be listed", nodes.events(cx, Timestamp::UNIX_EPOCH).await);
    let of = events.iter().filter(|event| event.source == seen.id && event.at == at);
    assert!(of.count() > 0, "there is an event of the restart at {at}: {events:?}");
    assert!(events.is_sorted_by_key(|event| event.at), "oldest first: {events:?}");
    let none = good("events can be listed", nodes.events(cx, at + Duration::from_secs(1)).await);
    assert!(none.iter().all(|event| event.at > at), "none from before: {none:?}");
}
