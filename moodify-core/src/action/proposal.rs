use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::restore::{self, Chosen, RestoreFrom};
use super::{ApplicationParams, CheckContext, StepContext, switch_connection};
use crate::backend::{Connection, RestorePoint};
use crate::error::{Error, ErrorKind, Result};

/// A restore to which persons are to agree, with all that it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The backup store, by its name among the backends.
    pub store: String,
    /// What is restored.
    pub from: RestoreFrom,
    /// The name of what is made; left out, it goes into the database itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What is stopped meanwhile; left out, all Deployments and stateful sets.
    #[serde(default)]
    pub stops: ApplicationParams,
    /// What is pointed to the new database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connection>,
}

/// What was found, and what persons are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Proposed {
    pub(super) store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    pub(super) chosen: Chosen,
    pub(super) told: String,
}

impl Proposal {
    pub(super) fn check(&self, cx: &CheckContext<'_>) -> Result<(), Vec<Error>> {
        let mut wrong = restore::check_request(cx, &self.store, &self.from, self.target.as_deref());
        let mut refuse = |message: &str| {
            wrong.push(Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(cx.step.name.as_str()));
        };
        if self.from == RestoreFrom::Approved {
            refuse("what is to be approved cannot be what was approved");
        }
        if self.target.is_none() && !self.connections.is_empty() {
            refuse("connections are pointed to what is made, and without a target nothing is");
        }
        wrong.extend(switch_connection::check(cx, &self.connections, Some(&self.store)));
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Chooses the backup, and looks whether all that comes later could be done: what could not should not be found when
    /// the application is stopped already.
    pub(super) async fn propose(&self, cx: &StepContext) -> Result<Proposed> {
        let store = cx.backends().backup_store(&self.store)?.as_ref();
        let chosen = restore::choose(cx, store, &self.store, &self.from, self.target.as_deref()).await?;
        let Some(target) = &self.target else {
            let told = format!(
                "{} of {} goes into the database itself, after a backup of what is there: {}",
                content(&chosen),
                self.store,
                loss(&chosen, cx.clock().now(), "it begins"),
            );
            return Ok(Proposed { store: self.store.clone(), target: None, chosen, told });
        };
        if store.target_exists(&cx.call()?, target).await? {
            let message = format!("{target:?} is there already, and a restore never overwrites");
            let error = Error::new(ErrorKind::AlreadyExists, "engine", "look for the target", message);
            return Err(error
                .on(self.store.as_str())
                .hint("give the plan another target, or remove what has that name; nothing was changed"));
        }
        let (operations, namespace) = (cx.backends().operations()?, &cx.plan().environment.namespace);
        let counts = operations.counts(&cx.call()?, &self.stops.application(cx)).await?;
        let mut told = format!(
            "{} of {} goes into the new {target}, and {counts} in {namespace} stop meanwhile: {}",
            content(&chosen),
            self.store,
            loss(&chosen, cx.clock().now(), "the application is stopped"),
        );
        for connection in &self.connections {
            let now = operations.endpoint(&cx.call()?, namespace, connection).await?;
            if now.is_none() && connection.replaces_host() {
                let message = "its value names no host that could be replaced, or not clearly";
                let error = Error::new(ErrorKind::Invalid, "engine", "look at the connection", message);
                return Err(error
                    .on(connection.to_string())
                    .hint("write it as HOST:PORT or as a URL; nothing was changed"));
            }
            let now = now.map_or_else(|| "elsewhere".to_owned(), |endpoint| endpoint.to_string());
            told.push_str(&format!("; the {connection} points to {now} until then"));
        }
        Ok(Proposed { store: self.store.clone(), target: self.target.clone(), chosen, told })
    }
}

fn content(chosen: &Chosen) -> String {
    match (&chosen.from, chosen.bytes) {
        (RestorePoint::Backup(id), Some(bytes)) => format!("backup {id} ({})", size(bytes)),
        (from, _) => from.to_string(),
    }
}

/// What is lost, and until when more of it is.
fn loss(chosen: &Chosen, now: Timestamp, until: &str) -> String {
    let Some(since) = chosen.created else {
        return "nobody knows how old it is, so it is unknown how much is lost".to_owned();
    };
    let minutes = restore::minutes(now.duration_since(since).unsigned_abs());
    format!("the writes of the last {minutes} minutes (since {since}) are lost, and all until {until}")
}

/// `3.0 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_losses_are_told_in_words_for_people() {
        for (bytes, told) in [(7, "7 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")] {
            assert_eq!(size(bytes), told);
        }
        let now: Timestamp = "2026-11-24T15:00:01Z".parse().unwrap();
        let mut chosen = Chosen { created: Some("2026-11-24T14:13:00Z".parse().unwrap()), ..Chosen::of("nightly") };
        let told = loss(&chosen, now, "it begins");
        assert!(
            told.contains("last 48 minutes (since 2026-11-24T14:13:00Z) are lost, and all until it begins"),
            "{told}"
        );
        chosen.created = None;
        assert!(loss(&chosen, now, "it begins").contains("unknown how much"));
    }
}
