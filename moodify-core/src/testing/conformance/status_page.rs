use std::time::Duration;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{IncidentStatus, IncidentUpdate, StatusPage};
use crate::error::ErrorKind;

/// Puts a [`StatusPage`] to its contract. Leaves two resolved incidents behind.
///
/// # Panics
/// If it is not kept.
pub async fn status_page(page: &dyn StatusPage, patience: Duration) {
    let update = |status, message: &str| IncidentUpdate { status, message: message.to_owned() };
    let first = update(IncidentStatus::Investigating, "conformance: a deployment begins");
    let (cx, second) = (context("incident", patience), context("another incident", patience));
    assert_eq!(good("nothing is open", page.find(&cx).await), None);
    let opened = good("an incident can be opened", page.open(&cx, &first).await);
    assert_eq!((opened.status, &opened.message), (first.status, &first.message));
    let again = good("opening again is fine", page.open(&cx, &first).await);
    assert_eq!(again.id, opened.id, "the same key is the same incident");
    assert_eq!(good("it is found", page.find(&cx).await).map(|i| i.id).as_ref(), Some(&opened.id));
    assert_eq!(good("not under another key", page.find(&second).await), None);
    let other = good("another can be opened", page.open(&second, &first).await);
    assert_ne!(other.id, opened.id, "another key is another incident");

    let monitoring = update(IncidentStatus::Monitoring, "conformance: it is watched");
    for promise in ["it can be updated", "the same update again is fine"] {
        let updated = good(promise, page.update(&cx, &opened.id, &monitoring).await);
        assert_eq!((updated.status, &updated.message), (monitoring.status, &monitoring.message));
    }
    let found = good("it is found", page.find(&cx).await);
    assert_eq!(found.map(|incident| incident.status), Some(IncidentStatus::Monitoring));
    let none = page.update(&cx, "conformance-none", &monitoring).await;
    fails("there is none of that id", ErrorKind::NotFound, none);

    let resolved = update(IncidentStatus::Resolved, "conformance: it is over");
    for (cx, incident) in [(&cx, &opened), (&second, &other)] {
        good("it can be resolved", page.update(cx, &incident.id, &resolved).await);
        assert_eq!(good("what is resolved is not open", page.find(cx).await), None);
    }
    ends_with_its_context(patience, async |cx| page.find(&cx).await).await;
}
