//! Artifacts in S3: `mod` is the store, `upload` how a content gets there, `wire` how a request does.

mod upload;
mod wire;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use moodify_core::backend::{Artifact, ArtifactStore, Chunks, Content, Origin, PutRequest, check_path, checked};
use moodify_core::{CallContext, Effect, ErrorKind, Result};
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore};
use tracing::info;

use crate::client::{Api, Call, absent};
use crate::config::S3Config;
use crate::error::{Access, S3, from_answered, from_store};
use upload::Upload;
use wire::{Exchange, Extra, Identity};

const HEAD: Call = ("head object", Access::Read);
const GET: Call = ("get object", Access::Read);
const LIST: Call = ("list objects", Access::Read);
const PUT: Call = ("put object", Access::Write);
const DELETE: Call = ("delete object", Access::Write);

const CRC32C: &str = "x-amz-checksum-crc32c";

/// Keeps artifacts in a bucket of S3, or of a server that speaks its API and keeps a CRC32C of each object (`MinIO`, Ceph,
/// Versity).
///
/// - What fits into 8 MiB is put by one request, what is larger by a multipart upload. Every part is sent with its
///   CRC32C, and the end of an upload with that of the whole object, so S3 refuses what arrived otherwise. About 32 MiB
///   are in memory meanwhile; more if the size was announced and is above 78 GiB, since S3 takes 10,000 parts.
/// - The progress of a multipart upload has a [`Checkpoint`](moodify_core::backend::Checkpoint), its id and its finished
///   parts: given to a later put of the same content, in another process too, only the other parts are sent.
/// - An upload that fails where nobody could go on with it is aborted. One whose process died, or whose checkpoint
///   nobody uses, takes up room until the bucket's lifecycle rule for incomplete uploads removes it: set one.
/// - What is not to be replaced is written under the condition that the object does not exist, and what is, that it is
///   still the one that was looked at, as far as the server knows these conditions: who was faster is not overwritten.
///
/// The identity needs `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject`, `s3:AbortMultipartUpload` and
/// `s3:ListMultipartUploadParts` on the objects, and `s3:ListBucket` on the bucket, without which what is not there
/// looks forbidden.
///
/// The version of an artifact is that of a bucket with versions, and else its `ETag`.
///
/// Dropping the future of a call is safe; a `put` may still come to pass, whole or not at all, and repeating it is
/// fine.
///
/// ```
/// use moodify_aws::{ApiConfig, S3Artifacts, S3Config};
/// assert!(S3Artifacts::new(S3Config::new(ApiConfig::new("eu-central-1"), "moodify-artifacts")).is_ok());
/// let api = ApiConfig::new("eu-central-1").endpoint("minio:9000");
/// assert!(S3Artifacts::new(S3Config::new(api, "moodify-artifacts")).is_err());
/// ```
#[derive(Debug)]
pub struct S3Artifacts {
    config: S3Config,
    http: reqwest::Client,
    api: Api<Identity>,
}

/// An artifact that is there, and the name of its content by which a condition is told.
struct Found {
    artifact: Artifact,
    etag: Option<String>,
}

impl S3Artifacts {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: S3Config) -> Result<Self> {
        config.validate()?;
        let http = wire::http(&config)?;
        Ok(Self { http, api: Api::new(S3, config.api.clone(), Identity::new), config })
    }

    /// Where an artifact is, for people and for other services: `s3://bucket/key`.
    ///
    /// ```
    /// use moodify_aws::{ApiConfig, S3Artifacts, S3Config};
    /// let config = S3Config::new(ApiConfig::new("eu-central-1"), "backups").prefix("production/");
    /// assert_eq!(S3Artifacts::new(config).unwrap().uri("report.txt"), "s3://backups/production/report.txt");
    /// ```
    #[must_use]
    pub fn uri(&self, path: &str) -> String {
        format!("s3://{}/{}", self.config.bucket, self.key(path))
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.config.prefix)
    }

    fn object(&self, call: Call, path: &str) -> Result<Path> {
        check_path(path, origin(call))?;
        let no_key = |e| self.api.fail(ErrorKind::Invalid, call.0, path, format!("S3 takes no such key: {e}"));
        Path::parse(self.key(path)).map_err(no_key)
    }

    /// One request with these headers, bounded by the context and the configured time; returns the headers of its
    /// answer too.
    async fn ask<T, F>(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        extra: impl Into<Extra> + Send,
        request: impl FnOnce(AmazonS3) -> F + Send,
    ) -> Result<(T, HeaderMap)>
    where
        F: Future<Output = object_store::Result<T>> + Send,
    {
        let identity = self.api.client(cx, call.0).await?;
        let exchange = Exchange::new(&self.config, &self.http, identity, call, extra.into());
        let exchange = cx.run(S3, call.0, exchange).await.map_err(|e| e.effect(Effect::None).on(target))?;
        let request = request(exchange.store.clone());
        let answered = async {
            match (request.await, exchange.answer()) {
                (Ok(value), answer) => Ok((value, answer.map(|answer| answer.headers).unwrap_or_default())),
                (Err(error), answer) => Err(from_store(error, answer, S3, call.0, call.1)),
            }
        };
        self.api.bounded(cx, call, target, answered).await
    }

    async fn find(&self, cx: &CallContext, call: Call, path: &str) -> Result<Option<Found>> {
        let object = self.object(call, path)?;
        let head = |store: AmazonS3| async move {
            store.get_opts(&object, GetOptions { head: true, ..GetOptions::default() }).await.map(|got| got.meta)
        };
        let head = self.ask(cx, (call.0, Access::Read), &self.uri(path), checksum_mode(), head).await;
        let Some((meta, headers)) = absent(head)? else { return Ok(None) };
        Ok(Some(found(path, &meta, crc32c(&headers))))
    }
}

fn origin(call: Call) -> Origin {
    Origin { backend: S3, operation: call.0 }
}

/// Asks for the checksum of an object.
fn checksum_mode() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"))])
}

/// That of a whole object; of parts S3 has one too, which is none of the content.
fn crc32c(headers: &HeaderMap) -> Option<u32> {
    let bytes = BASE64_STANDARD.decode(headers.get(CRC32C)?).ok()?;
    bytes.try_into().ok().map(u32::from_be_bytes)
}

fn encoded(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

fn found(path: &str, meta: &ObjectMeta, crc32c: Option<u32>) -> Found {
    let written = &meta.last_modified;
    let updated = Timestamp::new(written.timestamp(), i32::try_from(written.timestamp_subsec_nanos()).unwrap_or(0));
    let artifact = Artifact {
        path: path.to_owned(),
        bytes: meta.size,
        crc32c,
        updated: updated.ok(),
        version: meta.version.clone().or_else(|| meta.e_tag.clone()),
    };
    Found { artifact, etag: meta.e_tag.clone() }
}

#[async_trait]
impl ArtifactStore for S3Artifacts {
    async fn put(&self, cx: &CallContext, request: &PutRequest, content: Content) -> Result<Artifact> {
        let resume = request.resume.as_ref().map(Upload::of).transpose()?;
        let part = resume.as_ref().map_or_else(|| upload::part_size(request.size), |upload| upload.part);
        let mut chunks = Chunks::new(request, content, part, origin(PUT), self.uri(&request.path));
        // Asked first, so that a repeat does not send everything again.
        let there = self.find(cx, PUT, &request.path).await?;
        if let Some(Found { artifact, .. }) = &there {
            if request.known_sum().is_some_and(|sum| artifact.crc32c.is_some() && artifact.is(sum)) {
                return Ok(artifact.clone());
            }
            if !request.replace {
                chunks.finish(cx).await?;
                return chunks.settle(artifact.clone());
            }
        }
        let etag = there.and_then(|there| there.etag);
        match self.upload(cx, request, &mut chunks, resume, etag.as_deref()).await {
            Ok(artifact) => {
                info!(object = %self.uri(&request.path), bytes = artifact.bytes, run = %cx.run_id(), "written");
                Ok(artifact)
            }
            // Somebody wrote it since, perhaps an earlier attempt.
            Err(error) if error.kind() == ErrorKind::Conflict => match self.find(cx, PUT, &request.path).await? {
                Some(Found { artifact, .. }) => {
                    chunks.finish(cx).await?;
                    if request.replace && !artifact.is(chunks.sum()) { Err(error) } else { chunks.settle(artifact) }
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn get(&self, cx: &CallContext, path: &str) -> Result<Option<(Artifact, Content)>> {
        let object = self.object(GET, path)?;
        let get = |store: AmazonS3| async move { store.get_opts(&object, GetOptions::default()).await };
        let got = self.ask(cx, GET, &self.uri(path), checksum_mode(), get).await;
        let Some((got, headers)) = absent(got)? else { return Ok(None) };
        let artifact = found(path, &got.meta, crc32c(&headers)).artifact;
        let pieces = got.into_stream().map_err(|e| from_store(e, None, S3, GET.0, GET.1));
        let content = checked(pieces.boxed(), cx, &artifact, origin(GET));
        Ok(Some((artifact, content)))
    }

    async fn head(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>> {
        Ok(self.find(cx, HEAD, path).await?.map(|found| found.artifact))
    }

    async fn list(&self, cx: &CallContext, prefix: &str) -> Result<Vec<Artifact>> {
        let (mut all, mut token) = (Vec::new(), None);
        loop {
            let key = self.key(prefix);
            let options = PaginatedListOptions { page_token: token, ..PaginatedListOptions::default() };
            let page = |store: AmazonS3| async move { store.list_paginated(Some(&key), options).await };
            let (page, _) = self.ask(cx, LIST, &self.uri(prefix), HeaderMap::new(), page).await?;
            for meta in &page.result.objects {
                let path = meta.location.as_ref().strip_prefix(&self.config.prefix);
                all.extend(path.map(|path| found(path, meta, None).artifact));
            }
            token = page.page_token;
            if token.is_none() {
                break;
            }
        }
        all.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(all)
    }

    async fn delete(&self, cx: &CallContext, path: &str) -> Result<()> {
        let object = self.object(DELETE, path)?;
        let delete = |store: AmazonS3| async move {
            let deleted = store.delete_stream(stream::iter([Ok(object)]).boxed());
            deleted.try_collect::<Vec<_>>().await
        };
        absent(self.ask(cx, DELETE, &self.uri(path), HeaderMap::new(), delete).await).map(drop)
    }
}
