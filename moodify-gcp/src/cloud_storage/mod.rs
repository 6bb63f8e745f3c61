//! Artifacts in Cloud Storage: `mod` is the store, `upload` how a content gets there, `body` as what it is sent,
//! `object` what an object is like.

mod body;
mod object;
mod upload;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use moodify_core::backend::{Artifact, ArtifactStore, Chunks, Content, Origin, PutRequest, check_path, checked};
use moodify_core::{CallContext, ErrorKind, Result};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use tracing::info;

use crate::client::{Api, Ask, Connection, absent};
use crate::config::StorageConfig;
use crate::error::{Call, STORAGE, from_sdk};
use object::{FIELDS, Object, Page};
use upload::CHUNK;

const HEAD: Call = Call::read(STORAGE, "head object");
const GET: Call = Call::read(STORAGE, "get object");
const LIST: Call = Call::read(STORAGE, "list objects");
const PUT: Call = Call::write(STORAGE, "put object");
const DELETE: Call = Call::write(STORAGE, "delete object");

/// Keeps artifacts in a bucket of Cloud Storage.
///
/// - What fits into 8 MiB is put by one request, which carries the checksum and is refused if the content arrives with
///   another. What is larger is put by a resumable upload, 8 MiB a request, the last with the checksum. About 32 MiB are
///   in memory meanwhile.
/// - The progress of a resumable upload has a [`Checkpoint`](moodify_core::backend::Checkpoint): given to a later put of
///   the same content, in another process too, only what the server does not have is sent. The server says how much that
///   is.
/// - What is not to be replaced is written under the condition that the object does not exist, and what is, that it is
///   still the one that was looked at: who was faster is never overwritten.
///
/// The identity needs `storage.objects.create`, `get`, `list` and `delete` on the bucket.
///
/// Dropping the future of a call is safe; a `put` may still come to pass, whole or not at all, and repeating it is
/// fine.
///
/// ```
/// use moodify_gcp::{ApiConfig, CloudStorage, StorageConfig};
/// assert!(CloudStorage::new(StorageConfig::new("moodify-artifacts")).is_ok());
/// let api = ApiConfig::new().endpoint("storage.googleapis.com");
/// assert!(CloudStorage::new(StorageConfig::new("moodify-artifacts").api(api)).is_err());
/// ```
#[derive(Debug)]
pub struct CloudStorage {
    bucket: String,
    prefix: String,
    api: Api,
}

/// What is asked of a bucket.
const BUCKET_FIELDS: &str = "location,lifecycle,storageClass,autoclass,retentionPolicy,defaultEventBasedHold";

/// What a bucket is like.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bucket {
    #[serde(default)]
    pub(crate) location: String,
    #[serde(default)]
    pub(crate) lifecycle: Lifecycle,
    /// The class of objects that are given none.
    pub(crate) storage_class: Option<String>,
    #[serde(default)]
    pub(crate) autoclass: Autoclass,
    #[serde(default)]
    pub(crate) retention_policy: RetentionPolicy,
    #[serde(default)]
    pub(crate) default_event_based_hold: bool,
}

/// Whether the bucket chooses the classes of its objects.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Autoclass {
    #[serde(default)]
    pub(crate) enabled: bool,
}

/// For how long nobody can delete or replace an object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RetentionPolicy {
    /// In seconds, as text.
    pub(crate) retention_period: Option<String>,
}

/// What a bucket does with objects by itself.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Lifecycle {
    #[serde(default)]
    pub(crate) rule: Vec<serde_json::Value>,
}

impl CloudStorage {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: StorageConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { bucket: config.bucket.clone(), prefix: config.prefix.clone(), api: Api::new(config) })
    }

    /// Where an artifact is, for people and for other services of Google: `gs://bucket/name`.
    ///
    /// ```
    /// use moodify_gcp::{CloudStorage, StorageConfig};
    /// let store = CloudStorage::new(StorageConfig::new("backups").prefix("production/")).unwrap();
    /// assert_eq!(store.uri("report.txt"), "gs://backups/production/report.txt");
    /// ```
    #[must_use]
    pub fn uri(&self, path: &str) -> String {
        format!("gs://{}/{}{path}", self.bucket, self.prefix)
    }

    fn name(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A request for an object.
    fn object(&self, connection: &Connection, method: Method, path: &str) -> Result<RequestBuilder> {
        let url = connection.url(&["storage", "v1", "b", &self.bucket, "o", &self.name(path)])?;
        Ok(connection.http.request(method, url))
    }

    async fn find(&self, cx: &CallContext, call: Call, path: &str) -> Result<Option<Artifact>> {
        check_path(path, origin(call))?;
        let ask =
            |connection: &Connection| Ok(self.object(connection, Method::GET, path)?.query(&[("fields", FIELDS)]));
        let answer = self.api.ask(cx, call, &self.uri(path), Ask::Api(&ask), &[]).await;
        let Some(answer) = absent(answer)? else { return Ok(None) };
        answer.json::<Object>(call)?.artifact(&self.prefix, call).map(Some)
    }

    /// What the bucket is like.
    pub(crate) async fn bucket(&self, cx: &CallContext, call: Call) -> Result<Bucket> {
        let ask = |connection: &Connection| {
            let url = connection.url(&["storage", "v1", "b", &self.bucket])?;
            Ok(connection.http.get(url).query(&[("fields", BUCKET_FIELDS)]))
        };
        self.api.ask(cx, call, &self.uri(""), Ask::Api(&ask), &[]).await?.json(call)
    }
}

fn origin(call: Call) -> Origin {
    Origin { backend: call.backend, operation: call.operation }
}

#[async_trait]
impl ArtifactStore for CloudStorage {
    async fn put(&self, cx: &CallContext, request: &PutRequest, content: Content) -> Result<Artifact> {
        let mut source = Chunks::new(request, content, CHUNK, origin(PUT), self.uri(&request.path));
        // Asked first, so that a repeat does not send everything again.
        let there = self.find(cx, PUT, &request.path).await?;
        let mut generation = "0".to_owned();
        if let Some(there) = there {
            if request.known_sum().is_some_and(|sum| there.crc32c.is_some() && there.is(sum)) {
                return Ok(there);
            }
            if !request.replace {
                source.finish(cx).await?;
                return source.settle(there);
            }
            generation = there.version.unwrap_or(generation);
        }
        match self.upload(cx, request, &mut source, &generation).await {
            Ok(artifact) => {
                info!(object = %self.uri(&request.path), bytes = artifact.bytes, run = %cx.run_id(), "written");
                Ok(artifact)
            }
            // Somebody wrote it since, perhaps an earlier attempt.
            Err(error) if error.kind() == ErrorKind::Conflict => match self.find(cx, PUT, &request.path).await? {
                Some(there) => {
                    source.finish(cx).await?;
                    if request.replace && !there.is(source.sum()) { Err(error) } else { source.settle(there) }
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn get(&self, cx: &CallContext, path: &str) -> Result<Option<(Artifact, Content)>> {
        let Some(artifact) = self.find(cx, GET, path).await? else { return Ok(None) };
        let uri = self.uri(path);
        let generation = artifact.version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
        let response = self.api.read(cx, GET, &uri, &self.name(path), generation).await;
        let Some(response) = absent(response)? else { return Ok(None) };
        let pieces = stream::try_unfold(response, async |mut response| {
            let piece = response.next().await.transpose().map_err(|e| from_sdk(e, GET))?;
            Ok(piece.map(|piece| (piece, response)))
        });
        let content = checked(pieces.boxed(), cx, &artifact, origin(GET));
        Ok(Some((artifact, content)))
    }

    async fn head(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>> {
        self.find(cx, HEAD, path).await
    }

    async fn list(&self, cx: &CallContext, prefix: &str) -> Result<Vec<Artifact>> {
        let (name, fields) = (self.name(prefix), format!("items({FIELDS}),nextPageToken"));
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let ask = |connection: &Connection| {
                let url = connection.url(&["storage", "v1", "b", &self.bucket, "o"])?;
                let query = [("prefix", name.as_str()), ("fields", &fields), ("pageToken", &token)];
                let given = query.iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
                Ok(connection.http.get(url).query(&given))
            };
            let page: Page = self.api.ask(cx, LIST, &self.uri(prefix), Ask::Api(&ask), &[]).await?.json(LIST)?;
            for object in page.items {
                all.push(object.artifact(&self.prefix, LIST)?);
            }
            token = page.next_page_token.unwrap_or_default();
            if token.is_empty() {
                break;
            }
        }
        all.sort_by(|one: &Artifact, other| one.path.cmp(&other.path));
        Ok(all)
    }

    async fn delete(&self, cx: &CallContext, path: &str) -> Result<()> {
        check_path(path, origin(DELETE))?;
        let ask = |connection: &Connection| self.object(connection, Method::DELETE, path);
        absent(self.api.ask(cx, DELETE, &self.uri(path), Ask::Api(&ask), &[]).await).map(drop)
    }
}
