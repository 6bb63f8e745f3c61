//! Who wrote what: ownership labels and `metadata.managedFields`.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use moodify_core::{Error, ErrorKind, RunId};
use serde_json::Value;

use crate::error::{Ask, BACKEND};
use crate::names::{MANAGED_BY, RUN};

/// Somebody else who wrote into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Editor {
    pub(crate) manager: String,
    operation: String,
    time: Option<Timestamp>,
}

impl Editor {
    /// When it was, as far as the server knows.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.time
    }
}

impl fmt::Display for Editor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.manager, self.operation)?;
        match self.time {
            Some(time) => write!(f, " at {}", time.strftime("%Y-%m-%d %H:%M:%S UTC")),
            None => Ok(()),
        }
    }
}

impl From<&ManagedFieldsEntry> for Editor {
    fn from(entry: &ManagedFieldsEntry) -> Self {
        Self {
            manager: entry.manager.clone().unwrap_or_else(|| "unknown".to_owned()),
            operation: entry.operation.clone().unwrap_or_else(|| "Update".to_owned()),
            time: entry.time.as_ref().map(|t| t.0),
        }
    }
}

/// The entries that own something below `path` (`["f:spec", "f:replicas"]`), whatever the subresource: `kubectl scale`
/// writes the spec too, a controller's status update does not.
fn owners<'a>(meta: &'a ObjectMeta, path: &'a [&str]) -> impl Iterator<Item = &'a ManagedFieldsEntry> {
    meta.managed_fields.iter().flatten().filter(move |entry| {
        let fields = entry.fields_v1.as_ref().map(|f| &f.0);
        path.iter().fold(fields, |fields, key| fields?.get(key)).is_some()
    })
}

/// Who, other than `ours`, wrote last below `path`.
pub(crate) fn last_foreign(meta: &ObjectMeta, ours: &str, path: &[&str]) -> Option<Editor> {
    let foreign = owners(meta, path).filter(|entry| entry.manager.as_deref() != Some(ours));
    foreign.max_by_key(|entry| entry.time.as_ref().map(|t| t.0)).map(Editor::from)
}

/// Who wrote last below `path`, if that was not `ours`. Times are whole seconds: in the same one, it was us.
pub(crate) fn last_if_foreign(meta: &ObjectMeta, ours: &str, path: &[&str]) -> Option<Editor> {
    if_later(meta, ours, path, last_foreign(meta, ours, path)?)
}

/// What somebody else wrote last, unless we wrote after it.
fn if_later(meta: &ObjectMeta, ours: &str, path: &[&str], foreign: Editor) -> Option<Editor> {
    let our_own = owners(meta, path).filter(|entry| entry.manager.as_deref() == Some(ours));
    let our_last = our_own.filter_map(|entry| entry.time.as_ref().map(|t| t.0)).max();
    (our_last.is_none() || foreign.time > our_last).then_some(foreign)
}

/// Whether what wrote last below `path` scales by rule, as an autoscaler does.
pub(crate) fn is_autoscaled(meta: &ObjectMeta) -> bool {
    let last = owners(meta, &["f:spec", "f:replicas"]).max_by_key(|entry| entry.time.as_ref().map(|t| t.0));
    last.is_some_and(by_rule)
}

fn by_rule(entry: &ManagedFieldsEntry) -> bool {
    entry.subresource.as_deref() == Some("scale") && entry.manager.as_deref() == Some("kube-controller-manager")
}

/// Whether an object is this run's, by the one label that is put on what belongs to somebody else.
pub(crate) fn is_of(meta: &ObjectMeta, run: &RunId) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(RUN)).is_some_and(|owner| owner == run.as_str())
}

/// Whether moodify made an object, in whichever run.
pub(crate) fn is_made(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY] == "moodify"
}

/// Checks that a workload which takes turns, and does not serve, is this run's and as this run wrote it.
pub(crate) fn check_turn(
    meta: &ObjectMeta,
    run: &RunId,
    ours: &str,
    operation: &str,
    object: &str,
) -> Result<(), Error> {
    let error = |kind, message: String| Error::new(kind, BACKEND, operation.to_owned(), message).on(object.to_owned());
    if !is_of(meta, run) {
        let owner = meta.labels.as_ref().and_then(|labels| labels.get(RUN));
        let whose = owner.map_or_else(
            || "it has instances, but does not serve".to_owned(),
            |run| format!("it belongs to the run {run}"),
        );
        return Err(error(ErrorKind::AlreadyExists, whose)
            .hint("let that run end; or scale it to 0, if nobody needs what it runs"));
    }
    // An autoscaler edits nothing, and hides no edit.
    let path = ["f:spec"];
    let people = owners(meta, &path).filter(|entry| entry.manager.as_deref() != Some(ours) && !by_rule(entry));
    let last = people.max_by_key(|entry| entry.time.as_ref().map(|t| t.0)).map(Editor::from);
    match last.and_then(|editor| if_later(meta, ours, &path, editor)) {
        None => Ok(()),
        Some(editor) => Err(error(ErrorKind::Drift, format!("it was edited by {editor}"))
            .hint("it is not overwritten; a rollback does not need it")),
    }
}

/// Somebody changed an object so that it is neither as before nor as wanted.
pub(crate) fn drift(ask: &Ask, message: &str, editor: Option<Editor>) -> Error {
    let by = editor.map_or_else(|| "nobody who left a name".to_owned(), |e| e.to_string());
    ask.error(ErrorKind::Drift, format!("{message}; last edited by {by}"))
        .hint("find out what they want; it is not overwritten")
}

/// Whose an object is, by its labels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This run's.
    Us,
    /// Another run's.
    Run(String),
    /// Not made by moodify at all.
    Stranger,
}

pub(crate) fn owner(meta: &ObjectMeta, run: &RunId) -> Owner {
    let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    match (label(MANAGED_BY), label(RUN)) {
        (Some("moodify"), Some(owner)) if owner == run.as_str() => Owner::Us,
        (Some("moodify"), Some(owner)) => Owner::Run(owner.to_owned()),
        _ => Owner::Stranger,
    }
}

/// Checks that an object which carries a canary's name is this run's, and as this run wrote it.
pub(crate) fn check(meta: &ObjectMeta, run: &RunId, ours: &str, operation: &str, object: &str) -> Result<(), Error> {
    let error = |kind, message: String| Error::new(kind, BACKEND, operation.to_owned(), message).on(object.to_owned());
    match owner(meta, run) {
        Owner::Us => {}
        Owner::Run(other) => {
            return Err(error(ErrorKind::AlreadyExists, format!("it belongs to the run {other}"))
                .hint(format!("let that run end, or take it back with: moodify resume {other}")));
        }
        Owner::Stranger => {
            return Err(error(ErrorKind::AlreadyExists, "it exists and was not made by moodify".to_owned())
                .hint("the name is needed for the canary; rename or remove this object"));
        }
    }
    match last_foreign(meta, ours, &["f:spec"]) {
        None => Ok(()),
        Some(editor) => Err(error(ErrorKind::Drift, format!("it was edited by {editor}"))
            .hint("it is not overwritten; a rollback does not need it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(entries: &Value) -> ObjectMeta {
        serde_json::from_value(json!({
            "labels": {MANAGED_BY: "moodify", RUN: "r1"},
            "managedFields": entries,
        }))
        .unwrap()
    }

    fn ours(time: &str) -> Value {
        json!({"manager": "moodify", "operation": "Apply", "time": time, "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    }

    #[test]
    fn an_edit_of_the_spec_is_drift_and_names_the_editor() {
        let edited = meta(&json!([
            ours("2026-11-24T12:00:00Z"),
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status",
             "time": "2026-11-24T12:05:00Z", "fieldsV1": {"f:status": {}, "f:metadata": {"f:annotations": {}}}},
            {"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-24T12:03:04Z",
             "fieldsV1": {"f:spec": {"f:template": {}}}},
        ]));
        let run = RunId::new("r1").unwrap();
        let error = check(&edited, &run, "moodify", "get Deployment", "ns/x-canary").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert_eq!(error.message(), "it was edited by \"kubectl-edit\" (Update) at 2026-11-24 12:03:04 UTC");
    }

    #[test]
    fn the_status_and_annotations_are_nobody_s_edit() {
        let clean = meta(&json!([
            ours("2026-11-24T12:00:00Z"),
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status",
             "time": "2026-11-24T12:05:00Z", "fieldsV1": {"f:status": {}, "f:metadata": {"f:annotations": {}}}},
        ]));
        assert!(check(&clean, &RunId::new("r1").unwrap(), "moodify", "get", "x").is_ok());
        let other = check(&clean, &RunId::new("r2").unwrap(), "moodify", "get", "x").unwrap_err();
        assert_eq!((other.kind(), other.message()), (ErrorKind::AlreadyExists, "it belongs to the run r1"));
    }

    #[test]
    fn an_autoscaler_edits_nothing_and_hides_no_edit() {
        let run = RunId::new("r1").unwrap();
        let scaled = json!({"manager": "kube-controller-manager", "operation": "Update", "subresource": "scale",
            "time": "2026-11-24T12:05:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
        let edited = json!({"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-24T12:03:04Z",
            "fieldsV1": {"f:spec": {"f:template": {}}}});
        let only = meta(&json!([ours("2026-11-24T12:00:00Z"), scaled]));
        assert!(check_turn(&only, &run, "moodify", "get", "x").is_ok());
        let both = meta(&json!([ours("2026-11-24T12:00:00Z"), edited, scaled]));
        let error = check_turn(&both, &run, "moodify", "get", "x").unwrap_err();
        assert!(error.kind() == ErrorKind::Drift && error.message().contains("kubectl-edit"), "{error}");
    }

    #[test]
    fn an_object_without_labels_is_a_stranger_s() {
        let error = check(&ObjectMeta::default(), &RunId::new("r1").unwrap(), "moodify", "get", "x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn the_last_writer_counts_and_a_tie_is_ours() {
        let by_time = |foreign: &str| {
            let entry = json!({"manager": "argocd", "operation": "Apply", "time": foreign,
                "fieldsV1": {"f:spec": {"f:rules": {}}}});
            last_if_foreign(&meta(&json!([ours("2026-11-24T12:00:00Z"), entry])), "moodify", &["f:spec"])
        };
        assert_eq!(by_time("2026-11-24T12:00:00Z"), None);
        assert_eq!(by_time("2026-11-24T12:00:01Z").unwrap().manager, "argocd");
    }
}
