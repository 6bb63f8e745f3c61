//! The API server's audit log: a ledger of the requests that were answered.

use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

/// A request that the API server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// The plural, as `deployments`.
    pub resource: String,
    /// As `status` or `scale`; empty for the object itself.
    pub subresource: String,
    /// The object; empty for a list.
    pub name: String,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Who asked.
    pub user: String,
    /// With which program.
    pub user_agent: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// Path and query of the request.
    pub uri: String,
    /// When the answer was complete.
    pub at: Timestamp,
}

impl AuditEntry {
    /// Whether the request changed something, or tried to.
    pub fn is_write(&self) -> bool {
        !self.dry_run && !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// The requests in a namespace, or all of them, in the order of the log.
pub(super) fn read(log: &Path, namespace: Option<&str>) -> std::io::Result<Vec<AuditEntry>> {
    let text = std::fs::read_to_string(log)?;
    let quoted = namespace.map(|namespace| format!("\"{namespace}\""));
    // Most lines are about other tests; finding that out must not cost a parse.
    let lines = text.lines().filter(|line| quoted.as_ref().is_none_or(|quoted| line.contains(quoted)));
    // The last line may still be in the making.
    let entries = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()).filter_map(Line::entry);
    Ok(entries.filter(|entry| namespace.is_none_or(|namespace| entry.namespace == namespace)).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: Option<ResponseStatus>,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

impl Line {
    fn entry(self) -> Option<AuditEntry> {
        let object = self.object_ref.unwrap_or_default();
        (self.stage == "ResponseComplete").then(|| AuditEntry {
            verb: self.verb,
            resource: object.resource,
            subresource: object.subresource,
            name: object.name,
            namespace: object.namespace,
            user: self.user.username,
            user_agent: self.user_agent,
            code: self.response_status.map_or(0, |status| status.code),
            dry_run: self.uri.contains("dryRun=All"),
            uri: self.uri,
            at: self.stage_timestamp,
        })
    }
}
