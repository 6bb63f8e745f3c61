use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{IncidentStatus, IncidentUpdate, Maintenance, StatusPage};
use crate::clock::Clock;
use crate::error::ErrorKind;

/// Puts a [`StatusPage`] to its contract. Leaves resolved incidents behind: two, and where the page knows maintenances
/// another two. `clock` is the page's.
///
/// # Panics
/// If it is not kept.
pub async fn status_page(page: &dyn StatusPage, clock: &dyn Clock, patience: Duration) {
    incidents(page, patience).await;
    maintenances(page, clock.now(), patience).await;
    ends_with_its_context(patience, async |cx| page.find(&cx).await).await;
}

async fn incidents(page: &dyn StatusPage, patience: Duration) {
    let first = IncidentUpdate::new(IncidentStatus::Investigating, "conformance: a deployment begins");
    let (cx, second) = (context("incident", patience), context("another incident", patience));
    assert_eq!(good("nothing is open", page.find(&cx).await), None);
    let opened = good("an incident can be opened", page.open(&cx, &first).await);
    assert!(opened.says(&first), "{opened:?}");
    let again = good("opening again is fine", page.open(&cx, &first).await);
    assert_eq!(again.id, opened.id, "the same key is the same incident");
    assert_eq!(good("it is found", page.find(&cx).await), Some(opened.clone()), "as it was opened");
    assert_eq!(good("not under another key", page.find(&second).await), None);
    let other = good("another can be opened", page.open(&second, &first).await);
    assert_ne!(other.id, opened.id, "another key is another incident");

    let monitoring = IncidentUpdate::new(IncidentStatus::Monitoring, "conformance: it is watched");
    let mut id = opened.id;
    for promise in ["it can be updated", "the same update again is fine"] {
        let updated = good(promise, page.update(&cx, &id, &monitoring).await);
        assert!(updated.says(&monitoring), "{updated:?}");
        id = updated.id;
    }
    let found = good("it is found", page.find(&cx).await).expect("it is open");
    assert!(found.says(&monitoring) && found.id == id, "{found:?}");
    let adopted = good("opening adopts what is there", page.open(&cx, &first).await);
    assert_eq!(adopted, found, "as it is");
    let untouched = good("the other is found", page.find(&second).await);
    assert_eq!(untouched, Some(other.clone()), "what is under another key is left alone");
    let none = page.update(&cx, "conformance-none", &monitoring).await;
    fails("there is none of that id", ErrorKind::NotFound, none);

    let resolved = IncidentUpdate::new(IncidentStatus::Resolved, "conformance: it is over");
    for (cx, id) in [(&cx, &id), (&second, &other.id)] {
        good("it can be resolved", page.update(cx, id, &resolved).await);
        assert_eq!(good("what is resolved is not open", page.find(cx).await), None);
    }
}

async fn maintenances(page: &dyn StatusPage, now: Timestamp, patience: Duration) {
    let (cx, second) = (context("maintenance", patience), context("another maintenance", patience));
    let minutes = |minutes| now + SignedDuration::from_mins(minutes);
    let later = Maintenance::new(minutes(30), minutes(75), "conformance: a maintenance is planned");
    if !page.capabilities().maintenance {
        fails("it knows no maintenance", ErrorKind::Unsupported, page.schedule(&cx, &later).await);
        return;
    }
    let backwards = Maintenance::new(minutes(75), minutes(30), "conformance: backwards");
    fails("it ends before it begins", ErrorKind::Invalid, page.schedule(&cx, &backwards).await);
    let planned = good("a maintenance can be scheduled", page.schedule(&cx, &later).await);
    assert_eq!((planned.status, &planned.message), (IncidentStatus::Scheduled, &later.message));
    let again = good("scheduling again is fine", page.schedule(&cx, &later).await);
    assert_eq!(again, planned, "the same key is the same maintenance");
    assert_eq!(good("it is found", page.find(&cx).await), Some(planned.clone()));
    let begun = IncidentUpdate::new(IncidentStatus::Investigating, "conformance: it begins");
    let adopted = good("opening adopts it", page.open(&cx, &begun).await);
    assert_eq!(adopted, planned, "it is the one thing under its key");

    let now_on = Maintenance::new(minutes(-1), minutes(45), "conformance: a maintenance goes on");
    let other = good("one that has begun can be told", page.schedule(&second, &now_on).await);
    assert_ne!(other.id, planned.id, "another key is another maintenance");
    assert_ne!(other.status, IncidentStatus::Scheduled, "it goes on at once: {other:?}");

    let going = good("it can begin", page.update(&cx, &planned.id, &begun).await);
    assert!(going.says(&begun), "{going:?}");
    let found = good("it is found", page.find(&cx).await).expect("it is open");
    assert!(found.says(&begun) && found.id == going.id, "{found:?}");
    let resolved = IncidentUpdate::new(IncidentStatus::Resolved, "conformance: the maintenance is over");
    for (cx, id) in [(&cx, &going.id), (&second, &other.id)] {
        good("it can be completed", page.update(cx, id, &resolved).await);
        assert_eq!(good("what is completed is not open", page.find(cx).await), None);
    }
}
