//! What an export is like in the bucket.
//!
//! ```text
//! PREFIX/DATABASE/ID.moodify.json        who made it, written before it is begun
//! PREFIX/DATABASE/ID/...                 what Firestore writes
//! PREFIX/DATABASE/ID/ID.overall_export_metadata    ... the last of it
//! PREFIX/DATABASE/ID.manifest.json       size and checksum of each object, as first verified
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use moodify_core::backend::{Artifact, Backup, BackupState};
use moodify_core::{IdempotencyKey, RunId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::admin::{Transfer, TransferState, Way, newest};
use super::restore::Asked;

pub(super) const PREFIX: &str = "moodify-";
const RECORD: &str = ".moodify.json";
const MANIFEST: &str = ".manifest.json";
const METADATA: &str = ".overall_export_metadata";
const KIND_METADATA: &str = ".export_metadata";
/// What the names of objects with documents end with, but for a number.
pub(super) const OUTPUT: &str = "output-";
/// What the names of all other objects of a backup end with.
pub(super) const ENDINGS: [&str; 4] = [RECORD, MANIFEST, METADATA, KIND_METADATA];
/// Hex digits of the digest in a name.
const DIGITS: usize = 14;
/// What restores are noted under, which is no backup.
pub(super) const RESTORES: &str = "restores";

/// Who made something, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The digest of the key under which it was made.
    pub(super) key: String,
    pub(super) run: RunId,
    /// The backup of which a restore was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) backup: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    /// The operations that there were before, and which are therefore not its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) before: Vec<String>,
    /// How many documents the backup has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) documents: Option<i64>,
    /// What the new database is asked to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<Asked>,
}

/// The objects of one export.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Export {
    pub(super) record: Option<Artifact>,
    pub(super) manifest: Option<Artifact>,
    pub(super) objects: Vec<Artifact>,
    /// How many documents are in it, if its operation is known and over.
    pub(super) documents: Option<i64>,
}

/// Whether an object of an export says what is in others.
pub(super) fn is_metadata(path: &str) -> bool {
    path.ends_with(METADATA) || path.ends_with(KIND_METADATA)
}

pub(super) fn record_path(id: &str) -> String {
    format!("{id}{RECORD}")
}

pub(super) fn manifest_path(id: &str) -> String {
    format!("{id}{MANIFEST}")
}

pub(super) fn digest(of: &str, key: &IdempotencyKey) -> String {
    let digest = Sha256::new().chain_update(of).chain_update([0]).chain_update(key.as_str());
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the export of that run and key.
pub(super) fn id_of(database: &str, run: &RunId, key: &IdempotencyKey) -> String {
    format!("{PREFIX}{run}-{}", &digest(database, key)[..DIGITS])
}

/// The run in a name that [`id_of`] has made.
fn run_of(id: &str) -> Option<RunId> {
    let (run, digits) = id.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let made = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    RunId::new(run).ok().filter(|_| made)
}

/// Sorts the objects of a bucket into exports.
pub(super) fn sorted(objects: Vec<Artifact>) -> BTreeMap<String, Export> {
    let mut exports: BTreeMap<String, Export> = BTreeMap::new();
    for object in objects {
        let path = object.path.clone();
        if let Some((id, _)) = path.split_once('/') {
            if id != RESTORES {
                exports.entry(id.to_owned()).or_default().objects.push(object);
            }
        } else if let Some(id) = path.strip_suffix(RECORD) {
            exports.entry(id.to_owned()).or_default().record = Some(object);
        } else if let Some(id) = path.strip_suffix(MANIFEST) {
            exports.entry(id.to_owned()).or_default().manifest = Some(object);
        }
    }
    exports
}

impl Export {
    /// What Firestore writes when all else is written.
    pub(super) fn metadata(&self, id: &str) -> Option<&Artifact> {
        let path = format!("{id}/{id}{METADATA}");
        self.objects.iter().find(|object| object.path == path)
    }

    /// As a backup; `None` if nothing of it was begun.
    pub(super) fn backup(&self, id: &str, database: &str, uri: &str, transfers: &[Transfer]) -> Option<Backup> {
        let transfer = newest(transfers, Way::Export, uri);
        let complete = self.metadata(id).is_some();
        let over = transfer.is_none_or(|transfer| transfer.state != TransferState::Running);
        if over && self.objects.is_empty() && (transfer.is_none() || self.record.is_none()) {
            // Not begun yet, or deleted since.
            return None;
        }
        let state = match transfer.map(|transfer| &transfer.state) {
            Some(TransferState::Running) => BackupState::Creating(transfer.and_then(|transfer| transfer.percent)),
            Some(TransferState::Failed(why)) => BackupState::Failed(why.clone()),
            // Firestore forgets its operations after a while, the objects stay.
            Some(TransferState::Done) | None if complete => BackupState::Available,
            Some(TransferState::Done) => {
                BackupState::Failed(format!("its operation is done, but {id}{METADATA} is missing"))
            }
            None => BackupState::Failed(format!("no operation writes it any more, and {id}{METADATA} is missing")),
        };
        let begun: Option<Timestamp> = transfer.and_then(|transfer| transfer.begun);
        let noted = self.record.as_ref().or(self.metadata(id)).and_then(|object| object.updated);
        Some(Backup {
            id: id.to_owned(),
            source: database.to_owned(),
            bytes: (state == BackupState::Available).then(|| self.objects.iter().map(|object| object.bytes).sum()),
            state,
            created: noted.or(begun),
            // Cloud Storage keeps nothing that is not encrypted.
            encrypted: Some(true),
            engine: Some("firestore".to_owned()),
            run: self.record.as_ref().and_then(|_| run_of(id)),
            cost: None,
        })
    }

    /// What is wrong with the objects of an export that is said to be complete.
    pub(super) fn problems(&self, id: &str, noted: Option<&[Artifact]>) -> Vec<String> {
        let mut problems = Vec::new();
        match self.metadata(id) {
            None => problems.push(format!("{id}{METADATA} is missing")),
            Some(metadata) if metadata.bytes == 0 => problems.push(format!("{id}{METADATA} is empty")),
            Some(_) => {}
        }
        if !self.objects.iter().any(|object| !object.path.ends_with("metadata") && object.bytes > 0) {
            problems.push("it has no object with documents".to_owned());
        }
        let nameless = self.objects.iter().filter(|object| object.crc32c.is_none());
        problems.extend(nameless.map(|object| format!("{} has no checksum", object.path)));
        for before in noted.unwrap_or_default() {
            match self.objects.iter().find(|now| now.path == before.path) {
                None => problems.push(format!("{} is gone since it was verified", before.path)),
                Some(now) if (now.bytes, now.crc32c) != (before.bytes, before.crc32c) => {
                    problems.push(format!("{now} now, but was verified as {before}"));
                }
                Some(_) => {}
            }
        }
        if let Some(noted) = noted {
            let new = self.objects.iter().filter(|now| !noted.iter().any(|before| before.path == now.path));
            problems.extend(new.map(|now| format!("{} is there since it was verified", now.path)));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str, bytes: u64, crc32c: u32) -> Artifact {
        Artifact { path: path.to_owned(), bytes, crc32c: Some(crc32c), updated: None, version: None }
    }

    fn good() -> Vec<Artifact> {
        vec![object("x/all/output-0", 100, 1), object("x/x.overall_export_metadata", 20, 2)]
    }

    #[test]
    fn the_name_of_an_export_tells_its_run() {
        let key = IdempotencyKey::new("r/backup");
        for run in ["20261124-150000-3fa9c1", "a", &"x".repeat(40)] {
            let run = RunId::new(run).unwrap();
            assert_eq!(run_of(&id_of("(default)", &run, &key)), Some(run));
        }
        for other in ["nightly", "moodify-nightly", "moodify-r1-0123456789abcg"] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }

    #[test]
    fn objects_are_sorted_by_export() {
        let mut objects = good();
        objects.extend([object("x.moodify.json", 1, 1), object("x.manifest.json", 1, 1), object("y/z", 1, 1)]);
        objects.extend([object("restores/x.json", 1, 1), object("readme.txt", 1, 1)]);
        let exports = sorted(objects);
        assert_eq!(exports.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(exports["x"].objects, good());
        assert!(exports["x"].record.is_some() && exports["x"].manifest.is_some() && exports["y"].record.is_none());
    }

    #[test]
    fn only_a_whole_and_unchanged_export_is_good() {
        let export = |objects| Export { objects, ..Export::default() };
        assert_eq!(export(good()).problems("x", None), [""; 0]);
        assert_eq!(export(good()).problems("x", Some(&good())), [""; 0]);
        let without = |index: usize| {
            let mut objects = good();
            objects.remove(index);
            objects
        };
        let with = |bad: Artifact| {
            let mut objects = good();
            objects.retain(|object| object.path != bad.path);
            objects.push(bad);
            objects
        };
        for (objects, why) in [
            (without(1), "x.overall_export_metadata is missing"),
            (without(0), "no object with documents"),
            (without(0), "output-0 is gone since"),
            (with(object("x/x.overall_export_metadata", 0, 0)), "is empty"),
            (with(object("x/all/output-0", 99, 1)), "x/all/output-0: 99 bytes, CRC32C 00000001 now, but was"),
            (with(object("x/all/output-0", 100, 3)), "CRC32C 00000003 now"),
            (with(object("x/all/output-1", 1, 1)), "output-1 is there since"),
            (with(Artifact { crc32c: None, ..object("x/all/output-0", 100, 1) }), "has no checksum"),
        ] {
            let found = export(objects).problems("x", Some(&good())).join("; ");
            assert!(found.contains(why), "{why}: {found}");
        }
    }

    #[test]
    fn the_state_is_that_of_the_operation_or_of_the_objects() {
        let transfer = |state| {
            let uri = "gs://b/x".to_owned();
            Transfer {
                name: "1".to_owned(),
                way: Way::Export,
                uri,
                state,
                begun: None,
                percent: Some(40),
                documents: None,
            }
        };
        let failed = TransferState::Failed("quota".to_owned());
        for (noted, objects, transfers, expected) in [
            (false, vec![], vec![], None),
            (true, vec![], vec![], None),
            (false, vec![], vec![transfer(TransferState::Done)], None),
            (false, vec![], vec![transfer(TransferState::Running)], Some("being made, 40 %")),
            (true, good(), vec![transfer(TransferState::Running)], Some("being made, 40 %")),
            (true, good(), vec![transfer(TransferState::Done)], Some("complete")),
            (true, good(), vec![], Some("complete")),
            (true, good(), vec![transfer(failed)], Some("failed: quota")),
            (
                true,
                vec![],
                vec![transfer(TransferState::Done)],
                Some("failed: its operation is done, but x.overall_export_metadata is missing"),
            ),
            (
                true,
                vec![object("x/all/output-0", 100, 1)],
                vec![],
                Some("failed: no operation writes it any more, and x.overall_export_metadata is missing"),
            ),
        ] {
            let record = noted.then(|| object("x.moodify.json", 1, 1));
            let export = Export { record, objects, ..Export::default() };
            let state = export.backup("x", "d", "gs://b/x", &transfers).map(|backup| backup.state.to_string());
            assert_eq!(state.as_deref(), expected);
        }
    }
}
