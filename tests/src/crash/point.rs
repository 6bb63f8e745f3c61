//! Where a process is killed.

use std::fmt;

use moodify_core::journal::{Entry, Record};
use serde::{Deserialize, Serialize};

/// Where a process is killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// At what.
    pub spot: Spot,
    /// And on which side of it.
    pub side: Side,
}

/// What a process is killed at. Only what the process does itself counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Spot {
    /// The `nth` record (from 1 on) with this [`label`]. By name rather than by number: a bake writes down more or less.
    Record {
        /// Its label.
        label: String,
        /// Which of those with this label.
        nth: usize,
    },
    /// The `nth` record of this process, whatever it is.
    Own {
        /// From 1 on.
        nth: usize,
    },
    /// The `nth` request to the API server that changes something.
    Request {
        /// From 1 on.
        nth: usize,
    },
    /// None: the process is to live.
    Never,
}

/// Which side of a record or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Before the record is made durable, or the request sent: what the record reports is done, the record is not.
    Before,
    /// The record is durable, or the answer there, and nothing else has happened since.
    After,
}

impl Point {
    /// Nowhere.
    pub fn never() -> Self {
        Self { spot: Spot::Never, side: Side::After }
    }

    /// Both sides of a spot.
    pub fn both(spot: &Spot) -> [Self; 2] {
        [Side::Before, Side::After].map(|side| Self { spot: spot.clone(), side })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        match &self.spot {
            Spot::Record { label, nth: 1 } => write!(f, "{side} {label}"),
            Spot::Record { label, nth } => write!(f, "{side} {label} ({nth})"),
            Spot::Own { nth } => write!(f, "{side} its record {nth}"),
            Spot::Request { nth } => write!(f, "{side} request {nth}"),
            Spot::Never => f.write_str("never"),
        }
    }
}

/// What kind of record it is, and of which step: `step-started rollout-deploy`.
pub fn label(entry: &Entry) -> String {
    let value = serde_json::to_value(&entry.record).unwrap_or_default();
    let kind = value["type"].as_str().unwrap_or_default();
    match (&entry.record, value["step"].as_str()) {
        (Record::RollbackStarted { .. }, _) | (_, None) => kind.to_owned(),
        (_, Some(step)) => format!("{kind} {step}"),
    }
}
