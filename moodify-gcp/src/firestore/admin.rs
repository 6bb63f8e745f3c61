//! The Admin API, as far as backups need it, in moodify's words.

use google_cloud_firestore_admin_v1::client::FirestoreAdmin;
use google_cloud_firestore_admin_v1::model::database::DatabaseType;
use google_cloud_firestore_admin_v1::model::{
    Database, ExportDocumentsMetadata, ImportDocumentsMetadata, OperationState, Progress,
};
use google_cloud_gax::error::Error as Sdk;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_longrunning::model::{Operation, operation};
use google_cloud_wkt as wkt;
use jiff::Timestamp;
use moodify_core::{CallContext, Effect, Result};
use tokio::sync::OnceCell;

use crate::client::{absent, credentials, install_provider};
use crate::config::FirestoreConfig;
use crate::error::{Call, FIRESTORE, from_build, from_sdk};

/// Connects and looks for credentials at its first request.
#[derive(Debug)]
pub(super) struct Admin {
    config: FirestoreConfig,
    client: OnceCell<FirestoreAdmin>,
}

/// Which way documents go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Export,
    Import,
}

/// An export or import, as its operation describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) name: String,
    pub(super) way: Way,
    /// From where or to where: `gs://bucket/prefix`.
    pub(super) uri: String,
    pub(super) state: TransferState,
    pub(super) begun: Option<Timestamp>,
    pub(super) percent: Option<u8>,
    /// How many documents are through.
    pub(super) documents: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TransferState {
    Running,
    Done,
    /// It failed or was cancelled.
    Failed(String),
}

impl Admin {
    pub(super) fn new(config: FirestoreConfig) -> Self {
        Self { config, client: OnceCell::new() }
    }

    /// How the API names a database.
    pub(super) fn name(&self, database: &str) -> String {
        format!("projects/{}/databases/{database}", self.config.project)
    }

    async fn client(&self) -> Result<&FirestoreAdmin> {
        let connect = async || {
            install_provider();
            let builder = FirestoreAdmin::builder()
                .with_credentials(credentials(&self.config.api, FIRESTORE)?)
                .with_retry_policy(NeverRetry);
            let builder = match &self.config.api.endpoint {
                Some(endpoint) => builder.with_endpoint(endpoint),
                None => builder,
            };
            builder.build().await.map_err(|e| from_build(e, FIRESTORE))
        };
        self.client.get_or_try_init(connect).await
    }

    /// One request, bounded by the context and by the configured time.
    async fn call<T>(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        request: impl AsyncFnOnce(&FirestoreAdmin) -> Result<T, Sdk>,
    ) -> Result<T> {
        let answer = async { request(self.client().await?).await.map_err(|e| from_sdk(e, call)) };
        let bounded = cx.at_most(self.config.api.response_timeout.get());
        bounded.run(call.backend, call.operation, answer).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { call.unanswered() };
            e.effect(effect).on(target)
        })
    }

    pub(super) async fn database(&self, cx: &CallContext, call: Call, id: &str) -> Result<Option<Database>> {
        let name = self.name(id);
        let found = self.call(cx, call, &name, async |client| client.get_database().set_name(&name).send().await);
        absent(found.await)
    }

    /// Begins to make a database where the one that is backed up is, or was, and of its kind.
    pub(super) async fn create(&self, cx: &CallContext, call: Call, id: &str, like: Database) -> Result<()> {
        let database = Database::new()
            .set_location_id(like.location_id)
            .set_type(if like.r#type == DatabaseType::DatastoreMode {
                like.r#type
            } else {
                DatabaseType::FirestoreNative
            })
            .set_concurrency_mode(like.concurrency_mode);
        let parent = format!("projects/{}", self.config.project);
        let make = async |client: &FirestoreAdmin| {
            client.create_database().set_parent(parent).set_database_id(id).set_database(database).send().await
        };
        self.call(cx, call, &self.name(id), make).await.map(drop)
    }

    pub(super) async fn drop_database(&self, cx: &CallContext, call: Call, id: &str) -> Result<()> {
        let name = self.name(id);
        let dropped = self.call(cx, call, &name, async |client| client.delete_database().set_name(&name).send().await);
        absent(dropped.await).map(drop)
    }

    /// Begins an export to `uri`, or an import from there.
    pub(super) async fn begin(&self, cx: &CallContext, call: Call, way: Way, database: &str, uri: &str) -> Result<()> {
        let name = self.name(database);
        let begin = async |client: &FirestoreAdmin| match way {
            Way::Export => client.export_documents().set_name(&name).set_output_uri_prefix(uri).send().await,
            Way::Import => client.import_documents().set_name(&name).set_input_uri_prefix(uri).send().await,
        };
        self.call(cx, call, &name, begin).await.map(drop)
    }

    /// The exports and imports of a database that the API still knows of.
    pub(super) async fn transfers(&self, cx: &CallContext, call: Call, database: &str) -> Result<Vec<Transfer>> {
        let name = self.name(database);
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.call(cx, call, &name, async |client| {
                client.list_operations().set_name(&name).set_page_token(&token).send().await
            });
            let page = page.await?;
            all.extend(page.operations.iter().filter_map(transfer));
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(all);
            }
        }
    }
}

/// The newest transfer that way with that place.
pub(super) fn newest<'a>(all: &'a [Transfer], way: Way, uri: &str) -> Option<&'a Transfer> {
    let fits = |transfer: &&Transfer| transfer.way == way && transfer.uri.trim_end_matches('/') == uri;
    all.iter().filter(fits).max_by_key(|transfer| transfer.begun)
}

/// What an operation is about; `None` if it is neither export nor import.
fn transfer(operation: &Operation) -> Option<Transfer> {
    let metadata = operation.metadata.as_ref()?;
    let made = |way, uri: &str, state: &OperationState, begun: Option<wkt::Timestamp>, progress: Option<&Progress>| {
        let progress = progress.filter(|progress| progress.estimated_work > 0 || progress.completed_work > 0);
        Some(Transfer {
            name: operation.name.clone(),
            way,
            uri: uri.to_owned(),
            state: state_of(operation, state),
            begun: begun.and_then(time_of),
            percent: progress.filter(|progress| progress.estimated_work > 0).map(percent),
            documents: progress.map(|progress| progress.completed_work),
        })
    };
    if let Ok(it) = metadata.to_msg::<ExportDocumentsMetadata>() {
        let documents = it.progress_documents.as_ref();
        return made(Way::Export, &it.output_uri_prefix, &it.operation_state, it.start_time, documents);
    }
    let it = metadata.to_msg::<ImportDocumentsMetadata>().ok()?;
    made(Way::Import, &it.input_uri_prefix, &it.operation_state, it.start_time, it.progress_documents.as_ref())
}

fn state_of(operation: &Operation, state: &OperationState) -> TransferState {
    let by_whom = "somebody cancelled its operation";
    if let Some(operation::Result::Error(status)) = &operation.result {
        let cancelled = *state == OperationState::Cancelled || status.code == 1;
        let what = if cancelled { by_whom.to_owned() } else { "its operation failed".to_owned() };
        return TransferState::Failed(format!("{what}: {}", status.message));
    }
    match state {
        OperationState::Cancelled => TransferState::Failed(by_whom.to_owned()),
        OperationState::Failed => TransferState::Failed("its operation failed".to_owned()),
        _ if operation.done => TransferState::Done,
        _ => TransferState::Running,
    }
}

/// Estimates may be too low, and it is not complete before its operation says so.
fn percent(progress: &Progress) -> u8 {
    let percent = progress.completed_work.max(0).saturating_mul(100) / progress.estimated_work.max(1);
    u8::try_from(percent).map_or(99, |percent| percent.min(99))
}

pub(super) fn time_of(time: wkt::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds(), time.nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Transfer> {
        transfer(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn operations_are_read_as_the_api_writes_them() {
        let export = |done: &str, state: &str| {
            read(&format!(
                r#"{{"name": "projects/p/databases/d/operations/1", {done} "metadata": {{
                    "@type": "type.googleapis.com/google.firestore.admin.v1.ExportDocumentsMetadata",
                    "startTime": "2026-11-24T15:00:00Z", "operationState": "{state}", "outputUriPrefix": "gs://b/x",
                    "progressDocuments": {{"estimatedWork": "200", "completedWork": "50"}}}}}}"#
            ))
            .unwrap()
        };
        let running = export("", "PROCESSING");
        assert_eq!((running.way, running.uri.as_str()), (Way::Export, "gs://b/x"));
        assert_eq!((running.percent, running.documents, &running.state), (Some(25), Some(50), &TransferState::Running));
        assert_eq!(running.begun.unwrap().to_string(), "2026-11-24T15:00:00Z");
        let response = r#""done": true, "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},"#;
        assert_eq!(export(response, "SUCCESSFUL").state, TransferState::Done);
        for (error, state, why) in [
            (r#"{"code": 9, "message": "quota"}"#, "FAILED", "its operation failed: quota"),
            (r#"{"code": 1, "message": "by user"}"#, "CANCELLED", "somebody cancelled its operation: by user"),
        ] {
            let failed = export(&format!(r#""done": true, "error": {error},"#), state);
            assert_eq!(failed.state, TransferState::Failed(why.to_owned()));
        }
        assert!(
            matches!(export("", "CANCELLED").state, TransferState::Failed(_)),
            "also before it says that it is done"
        );
        let other = r#"{"name": "x", "metadata": {"@type": "type.googleapis.com/google.firestore.admin.v1.FieldOperationMetadata"}}"#;
        assert_eq!(read(other), None);
    }

    #[test]
    fn progress_beyond_its_estimate_is_not_the_end() {
        for (estimated, completed, expected) in [(100, 0, 0), (100, 50, 50), (100, 100, 99), (10, 5000, 99)] {
            let progress = Progress::new().set_estimated_work(estimated).set_completed_work(completed);
            assert_eq!(percent(&progress), expected);
        }
    }
}
