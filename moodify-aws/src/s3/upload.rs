use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use moodify_core::backend::{Artifact, Checkpoint, Chunk, Chunks, Progress, PutRequest, Sum};
use moodify_core::secret;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{Attributes, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::{CRC32C, Exchange, Extra, Found, PUT, S3Artifacts, encoded, from_answered};
use crate::client::absent;
use crate::error::{Access, Answer, S3, from_store};

/// What is sent at once. S3 wants 5 MiB at least, of all but the last.
const PART: usize = 8 << 20;
/// How many parts S3 takes.
const PARTS: usize = 10_000;

/// What the parts of a content of this size are like.
pub(super) fn part_size(size: Option<u64>) -> usize {
    let least = size.unwrap_or_default().div_ceil(PARTS as u64);
    usize::try_from(least.next_multiple_of(1 << 20)).unwrap_or(usize::MAX).max(PART)
}

/// A multipart upload, as a checkpoint keeps it.
#[derive(Serialize, Deserialize)]
pub(super) struct Upload {
    id: String,
    /// The size of a part in bytes.
    pub(super) part: usize,
    /// The finished parts: the `ETag` of each, and its CRC32C.
    parts: Vec<(String, u32)>,
    /// What they add up to.
    #[serde(skip)]
    stored: Sum,
}

impl Upload {
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let upload = serde_json::from_str(&checkpoint.upload).ok().filter(|upload: &Self| upload.part > 0);
        let strange = || Error::new(ErrorKind::Invalid, S3, PUT.0, "the checkpoint is none of an upload to S3");
        let upload = upload.ok_or_else(|| strange().hint("put it without the checkpoint"))?;
        secret::remember(&upload.id);
        Ok(Self { stored: checkpoint.stored, ..upload })
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { upload: serde_json::to_string(self).unwrap_or_default(), stored: self.stored }
    }
}

impl S3Artifacts {
    /// Writes a content where the object with that `ETag` is; without one, where none is.
    pub(super) async fn upload(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        chunks: &mut Chunks<'_>,
        resume: Option<Upload>,
        etag: Option<&str>,
    ) -> Result<Artifact> {
        let object = self.object(PUT, &request.path)?;
        let chunk = chunks.next(cx).await?;
        let put = if chunk.is_last() && resume.is_none() {
            self.at_once(cx, request, &object, &chunk, etag).await?
        } else {
            let upload = match resume {
                Some(upload) if self.goes_on(cx, request, &object, &upload).await? => upload,
                resume => self.begin(cx, request, &object, resume.map(|upload| upload.part)).await?,
            };
            self.in_parts(cx, request, &object, chunks, upload, chunk, etag).await?
        };
        // A server that keeps no checksum has not compared it either.
        let artifact = match self.find(cx, PUT, &request.path).await.map_err(|e| e.effect(Effect::Unknown))? {
            Some(there) if put.is_some() && there.etag != put => {
                let why = format!("it was written, and another content since: {}", there.artifact);
                return Err(self.put_failed(request, ErrorKind::Conflict, why));
            }
            Some(Found { artifact, .. }) if artifact.crc32c.is_some() && artifact.is(chunks.sum()) => artifact,
            Some(Found { artifact, .. }) => return Err(self.take_back(cx, request, &artifact, chunks.sum()).await),
            None => return Err(self.put_failed(request, ErrorKind::Conflict, "it was written, and deleted since")),
        };
        request.tell(&Progress::new(artifact.bytes, Some(artifact.bytes)));
        Ok(artifact)
    }

    fn put_failed(&self, request: &PutRequest, kind: ErrorKind, message: impl Into<String>) -> Error {
        self.api.fail(kind, PUT.0, &self.uri(&request.path), message).effect(Effect::None)
    }

    /// One request with checksum and content; returns the object's `ETag`.
    async fn at_once(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        chunk: &Chunk,
        etag: Option<&str>,
    ) -> Result<Option<String>> {
        let mut headers = of_sum(chunk.sum());
        headers.insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("CRC32C"));
        let mode = etag.map_or(PutMode::Create, |etag| {
            PutMode::Update(UpdateVersion { e_tag: Some(etag.to_owned()), version: None })
        });
        let put = |store: AmazonS3| async move { store.put_opts(object, payload(chunk), PutOptions::from(mode)).await };
        let (put, _) = self.ask(cx, PUT, &self.uri(&request.path), headers, put).await?;
        Ok(put.e_tag)
    }

    /// Begins a multipart upload.
    async fn begin(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        part: Option<usize>,
    ) -> Result<Upload> {
        let mut headers = full_object();
        headers.insert("x-amz-checksum-algorithm", HeaderValue::from_static("CRC32C"));
        let options = PutMultipartOptions { attributes: Attributes::default(), ..PutMultipartOptions::default() };
        let create = |store: AmazonS3| async move { store.create_multipart_opts(object, options).await };
        let begun = self.ask(cx, PUT, &self.uri(&request.path), headers, create).await;
        // An upload that is not completed is nothing yet.
        let (id, _) = begun.map_err(|e| e.effect(Effect::None))?;
        secret::remember(&id);
        let part = part.unwrap_or_else(|| part_size(request.size));
        Ok(Upload { id, part, parts: Vec::new(), stored: Sum::default() })
    }

    /// Whether the server still has this upload.
    async fn goes_on(&self, cx: &CallContext, request: &PutRequest, object: &Path, upload: &Upload) -> Result<bool> {
        let (uri, identity) = (self.uri(&request.path), self.api.client(cx, PUT.0).await?);
        let asked = async {
            let exchange = Exchange::new(&self.config, &self.http, identity, PUT, Extra::default()).await?;
            let query = [("uploadId", upload.id.as_str()), ("max-parts", "1")];
            let options = SignedUrlOptions::default().with_query(query);
            let url = exchange.store.signed_url_opts(Method::GET, object, Duration::from_secs(60), &options).await;
            let url = url.map_err(|e| from_store(e, None, S3, PUT.0, Access::Read))?;
            let failed = |e: reqwest::Error| crate::error::from_http(e, S3, PUT.0, Access::Read);
            let response = self.http.get(url).send().await.map_err(failed)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await.map_err(failed)?.to_vec();
            if status.is_success() {
                return Ok(());
            }
            Err(from_answered(&Answer { status: status.as_u16(), headers, body }, S3, PUT.0, Access::Read))
        };
        Ok(absent(self.api.bounded(cx, (PUT.0, Access::Read), &uri, asked).await)?.is_some())
    }

    /// Sends the parts that are missing, and completes the upload; returns the object's `ETag`.
    #[allow(clippy::too_many_arguments, reason = "the state of one upload")]
    async fn in_parts(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        chunks: &mut Chunks<'_>,
        mut upload: Upload,
        first: Chunk,
        etag: Option<&str>,
    ) -> Result<Option<String>> {
        let sent = self.send_parts(cx, request, object, chunks, &mut upload, first).await;
        let completed = match sent {
            Ok(()) => self.complete(cx, request, object, &upload, etag).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &completed
            && error.effect_of() == Effect::None
            && !(error.is_transient() && request.is_watched())
        {
            self.abort(cx, request, object, &upload).await;
        }
        completed
    }

    async fn send_parts(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        chunks: &mut Chunks<'_>,
        upload: &mut Upload,
        mut chunk: Chunk,
    ) -> Result<()> {
        for index in 0.. {
            let (stored, end) = (upload.parts.len(), chunks.sum());
            if index >= PARTS {
                let why = format!("it has more than {PARTS} parts of {} bytes; nothing was put", upload.part);
                let error = self.put_failed(request, ErrorKind::Invalid, why);
                return Err(error.hint("say its size in the request, so that the parts become larger"));
            }
            if index + 1 == stored && end != upload.stored || chunk.is_last() && index + 1 < stored {
                return Err(chunks.other_content());
            }
            let sending = async {
                if index >= stored {
                    let part = self.part(cx, request, object, (upload, index), &chunk).await?;
                    upload.parts.push((part, chunk.sum().crc32c));
                    upload.stored = end;
                    request.tell(&Progress::new(end.bytes, request.size).with_checkpoint(upload.checkpoint()));
                }
                Ok(())
            };
            let ((), next) = chunks.next_while(cx, &chunk, sending).await?;
            match next? {
                Some(next) => chunk = next,
                None => break,
            }
        }
        Ok(())
    }

    async fn part(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        (upload, index): (&Upload, usize),
        chunk: &Chunk,
    ) -> Result<String> {
        let (headers, id) = (of_sum(chunk.sum()), upload.id.clone());
        let put = |store: AmazonS3| async move { store.put_part(object, &id, index, payload(chunk)).await };
        match self.ask(cx, PUT, &self.uri(&request.path), headers, put).await {
            Ok((part, _)) => Ok(part.content_id),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = "the server has forgotten the upload";
                Err(self.put_failed(request, ErrorKind::NotFound, why).hint("put it again").with_source(error))
            }
            // Only with its completion can an object appear.
            Err(error) => Err(error.effect(Effect::None)),
        }
    }

    async fn complete(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        object: &Path,
        upload: &Upload,
        etag: Option<&str>,
    ) -> Result<Option<String>> {
        let mut headers = of_sum(upload.stored);
        headers.extend(full_object());
        headers.insert("x-amz-mp-object-size", upload.stored.bytes.into());
        match etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            Some(etag) => headers.insert(http::header::IF_MATCH, etag),
            None => headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*")),
        };
        let parts = upload.parts.iter().map(|(etag, _)| PartId { content_id: etag.clone() }).collect();
        let extra = Extra { headers, parts: upload.parts.iter().map(|(_, crc32c)| encoded(*crc32c)).collect() };
        let id = upload.id.clone();
        let complete = |store: AmazonS3| async move { store.complete_multipart(object, &id, parts).await };
        let (put, _) = self.ask(cx, PUT, &self.uri(&request.path), extra, complete).await?;
        Ok(put.e_tag)
    }

    /// Gives up an upload. If that fails, the bucket's lifecycle rule removes it.
    async fn abort(&self, cx: &CallContext, request: &PutRequest, object: &Path, upload: &Upload) {
        let id = upload.id.clone();
        let abort = |store: AmazonS3| async move { store.abort_multipart(object, &id).await };
        drop(self.ask(cx, PUT, &self.uri(&request.path), HeaderMap::new(), abort).await);
    }

    /// The server has taken something else than what was sent, or does not say: it must not stay.
    async fn take_back(&self, cx: &CallContext, request: &PutRequest, there: &Artifact, sum: Sum) -> Error {
        let deleted = moodify_core::backend::ArtifactStore::delete(self, cx, &there.path).await;
        let (kind, message) = match there.crc32c {
            Some(_) => (ErrorKind::Unhealthy, format!("the store says it has {there}, but {sum} were sent")),
            None => (ErrorKind::Unsupported, "the server keeps no CRC32C of objects".to_owned()),
        };
        match deleted {
            Ok(()) => self.put_failed(request, kind, format!("{message}; it was deleted again")),
            Err(e) => self
                .put_failed(request, kind, format!("{message}; it could not be deleted: {}", e.message()))
                .effect(Effect::Unknown)
                .hint("delete the object by hand, then put it again"),
        }
    }
}

fn payload(chunk: &Chunk) -> PutPayload {
    chunk.pieces().iter().cloned().collect()
}

fn of_sum(sum: Sum) -> HeaderMap {
    let crc32c = HeaderValue::from_str(&encoded(sum.crc32c));
    HeaderMap::from_iter(crc32c.ok().map(|crc32c| (HeaderName::from_static(CRC32C), crc32c)))
}

/// The checksum is that of the whole object, not one of checksums.
fn full_object() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-amz-checksum-type"), HeaderValue::from_static("FULL_OBJECT"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_known_size_are_few_enough() {
        for (size, part) in [(None, PART), (Some(0), PART), (Some(78 << 30), PART), (Some(5 << 40), 525 << 20)] {
            assert_eq!(part_size(size), part, "{size:?}");
            assert!(size.is_none_or(|size| size.div_ceil(part as u64) <= PARTS as u64));
        }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let parts = vec![("\"a\"".to_owned(), 7)];
        let upload = Upload { id: "some-upload-id".to_owned(), part: PART, parts, stored: Sum::of(b"123456789") };
        let checkpoint = upload.checkpoint();
        let read = Upload::of(&checkpoint).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((read.id, read.part, read.parts, read.stored), (upload.id, PART, upload.parts, upload.stored));
        let strange = Checkpoint { upload: "https://storage.googleapis.com/x".to_owned(), stored: Sum::default() };
        assert_eq!(Upload::of(&strange).err().map(|e| e.kind()), Some(ErrorKind::Invalid));
    }
}
