//! What a run is in the cluster: a `ConfigMap` with its newest records and its owner, and for long runs others with the
//! records before these.

use std::collections::BTreeMap;

use moodify_core::journal::{Entry, Tail};
use moodify_core::{Error, ErrorKind, Result, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{CONFIG_MAP, Object};
use crate::names::{MANAGED_BY, RUN};

/// The label with what an object is for a journal: [`RUN_PART`], [`CHUNK_PART`], [`COMMAND_PART`].
pub(crate) const PART: &str = "moodify.dev/journal";
pub(super) const RUN_PART: &str = "run";
pub(super) const CHUNK_PART: &str = "chunk";
pub(super) const COMMAND_PART: &str = "command";

/// The most that the records of one object may have, in bytes. The API server takes a MiB, everything included.
pub(super) const LARGEST: usize = 900 * 1024;
/// From here on, records are moved into a chunk.
pub(super) const FULL: usize = 512 * 1024;

const FORMAT: &str = "format";
const OWNER: &str = "owner";

/// Who has a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ownership {
    /// Who; of a run that was given up, who had it last.
    pub(super) owner: String,
    /// The newest lease.
    pub(super) token: u64,
    /// The Lease object of the owner's session; none if nobody has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Owner {
    pub(super) uid: String,
}

impl Meta {
    /// Whether it belongs to the run with that object, and not to one of the same name that was removed.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.owner_references.iter().any(|owner| owner.uid == uid)
    }
}

/// An object without what is in it.
#[derive(Debug, Deserialize)]
pub(super) struct Known {
    pub(super) metadata: Meta,
}

/// A `ConfigMap`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Map {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) data: BTreeMap<String, String>,
}

/// The key of a record's line.
pub(super) fn key(seq: u64) -> String {
    format!("record-{seq:08}")
}

/// The place of a run's ownership, for a patch.
pub(super) fn own(ownership: &Ownership) -> Value {
    json!({"op": "add", "path": format!("/data/{OWNER}"), "value": json!(ownership).to_string()})
}

pub(super) fn add_line(seq: u64, line: &str) -> Value {
    json!({"op": "add", "path": format!("/data/{}", key(seq)), "value": line})
}

pub(super) fn run_object(namespace: &str, run: &RunId) -> Object {
    Object::new(CONFIG_MAP, namespace, &format!("moodify-run-{run}"))
}

pub(super) fn chunk_object(namespace: &str, run: &RunId, first: &str) -> Object {
    let number = first.trim_start_matches("record-");
    Object::new(CONFIG_MAP, namespace, &format!("moodify-run-{run}-{number}"))
}

/// The body of an object that is a part of a run's journal; of all but the run itself, the run's object is the owner.
pub(super) fn body(object: &Object, part: &str, run: &RunId, of: Option<&Meta>, data: &Value) -> Value {
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": object.name, "labels": {MANAGED_BY: "moodify", PART: part, RUN: run}},
        "data": data,
    });
    if let Some(of) = of {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": of.name, "uid": of.uid});
        body["metadata"]["ownerReferences"] = json!([owner]);
    }
    if part == CHUNK_PART {
        body["immutable"] = json!(true);
    }
    body
}

/// The data of a new run.
pub(super) fn first(entry: &Entry) -> Result<Value> {
    let (header, mut tail) = Tail::begin();
    let line = tail.line(entry)?;
    if line.len() > LARGEST {
        return Err(too_large(entry.seq, line.len()));
    }
    Ok(json!({FORMAT: header, key(entry.seq): line}))
}

pub(super) fn too_large(seq: u64, bytes: usize) -> Error {
    let message = format!("record {seq} has {bytes} bytes; in a cluster at most {LARGEST} can be kept");
    Error::new(ErrorKind::Storage, "journal", "write a record", message)
        .hint("keep this run in a directory, or make the plan smaller")
}

impl Map {
    pub(super) fn ownership(&self) -> Result<Ownership> {
        let Some(text) = self.data.get(OWNER) else { return Ok(Ownership::default()) };
        serde_json::from_str(text).map_err(|e| {
            let message = format!("its owner cannot be read: {e}");
            Error::new(ErrorKind::Corrupt, "journal", "read the run", message)
                .on(self.metadata.name.clone())
                .hint("the ConfigMap was edited; look at it by hand, nothing was changed")
        })
    }

    /// The lines of records, by their keys.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&String, &String)> {
        self.data.iter().filter(|(key, _)| key.starts_with("record-"))
    }

    /// The key of the last record.
    pub(super) fn last(&self) -> Option<&String> {
        self.lines().last().map(|(key, _)| key)
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Whether the first records are in chunks.
    pub(super) fn has_chunks(&self) -> bool {
        !self.data.contains_key(&key(1))
    }

    /// The text of the whole journal.
    pub(super) fn text(&self, chunks: &[Self]) -> String {
        let mut lines: BTreeMap<&String, &String> = chunks.iter().flat_map(Self::lines).collect();
        lines.extend(self.lines());
        let mut text = self.data.get(FORMAT).cloned().unwrap_or_default() + "\n";
        for line in lines.into_values() {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
