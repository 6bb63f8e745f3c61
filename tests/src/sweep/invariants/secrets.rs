//! What nobody may see.

use super::Facts;
use crate::sweep::drive::{CANARY, Death};

impl Facts<'_> {
    /// Every error of a backend repeats a secret; it is in nothing that people or programs can look at.
    pub(super) fn secrets(&mut self) {
        let trace = self.trace;
        let undone = trace.undone.as_ref();
        let logs = trace.log.iter().chain(undone.iter().flat_map(|undone| &undone.log));
        let records = logs.map(|logged| ("the journal", serde_json::to_string(&logged.entry).unwrap_or_default()));
        let events = trace.lives.iter().flat_map(|life| &life.events);
        let events = events.map(|event| ("an event", serde_json::to_string(event).unwrap_or_default()));
        let ends = trace.lives.iter().filter_map(|life| match &life.death {
            Death::Returned(how) | Death::Replaced(Some(how)) => Some(("an error", how.clone())),
            _ => None,
        });
        let refused = trace.refused.iter().map(|(_, why)| ("a refusal", why.clone()));
        let told = trace.deliveries.iter().map(|delivery| ("a message", format!("{:?}", delivery.notification)));
        let shown = trace.incidents.iter().map(|incident| ("the status page", format!("{:?}", incident.incident)));
        let mut texts = records.chain(events).chain(ends).chain(refused).chain(told).chain(shown);
        if let Some((what, text)) = texts.find(|(_, text)| text.contains(CANARY)) {
            self.broken(11, "no secret is told", format!("{what}: {text}"));
        }
    }
}
