use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use google_cloud_storage::model::Object;
use jiff::Timestamp;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use tokio::sync::OnceCell;
use tracing::info;

use crate::client::{Clients, Metadata};
use crate::config::StorageConfig;
use crate::error::{Access, BACKEND, from_sdk};

/// What Cloud Storage says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its size in bytes.
    pub bytes: u64,
    /// The CRC32C of its content, if the server tells it.
    pub crc32c: Option<u32>,
    /// When it was last changed.
    pub updated: Option<Timestamp>,
    /// Which writing of the name this is; grows with each.
    pub generation: i64,
}

/// Keeps artifacts in Cloud Storage: objects that are written once and never overwritten.
///
/// Dropping the future of a call is safe; a `put` may still come to pass, whole or not at all, and repeating it is
/// fine.
///
/// ```
/// use moodify_gcp::{ArtifactStore, StorageConfig};
/// assert!(ArtifactStore::new(StorageConfig::new().endpoint("storage.googleapis.com")).is_err());
/// ```
#[derive(Debug)]
pub struct ArtifactStore {
    config: StorageConfig,
    clients: OnceCell<Clients>,
}

const HEAD: &str = "head object";
const GET: &str = "get object";
const PUT: &str = "put object";

impl ArtifactStore {
    /// Checks the configuration; connects and looks for credentials at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with all problems of the configuration at once.
    pub fn new(config: StorageConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, clients: OnceCell::new() })
    }

    /// Describes an object; `None` if there is no such object, or no such bucket.
    ///
    /// # Errors
    /// When Cloud Storage cannot be asked. The effect is always none.
    pub async fn head(&self, cx: &CallContext, bucket: &str, object: &str) -> Result<Option<ObjectInfo>> {
        let described = self.call(cx, HEAD, Access::Read, bucket, object, async |clients| {
            info_of_metadata(&clients.metadata(HEAD, bucket, object).await?)
        });
        absent(described.await)
    }

    /// Reads an object whole, and verifies its checksum; `None` if there is no such object, or no such bucket.
    ///
    /// # Errors
    /// [`ErrorKind::Unhealthy`] if what arrived is not what was written; else when Cloud Storage cannot be asked. The
    /// effect is always none.
    pub async fn get(&self, cx: &CallContext, bucket: &str, object: &str) -> Result<Option<Vec<u8>>> {
        let read = self.call(cx, GET, Access::Read, bucket, object, async |clients| {
            let failed = |e| from_sdk(e, GET, Access::Read);
            let mut answer = clients.content.read_object(resource(bucket), object).send().await.map_err(failed)?;
            let mut content = Vec::new();
            while let Some(part) = answer.next().await {
                content.extend_from_slice(&part.map_err(failed)?);
            }
            Ok(content)
        });
        absent(read.await)
    }

    /// Writes an object whole, which the server verifies by its checksum. An object of that name with the same
    /// content is success, so that a repeat is fine.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one with other content, which is left as it is;
    /// [`ErrorKind::NotFound`] if there is no such bucket; else when Cloud Storage refuses.
    pub async fn put(&self, cx: &CallContext, bucket: &str, object: &str, content: Vec<u8>) -> Result<ObjectInfo> {
        let (bytes, crc32c) = (content.len() as u64, crc32c::crc32c(&content));
        let settle = |there: ObjectInfo| {
            if there.bytes == bytes && there.crc32c == Some(crc32c) {
                return Ok(there);
            }
            let why = format!("there is one with other content ({} bytes), which was left as it is", there.bytes);
            Err(Error::new(ErrorKind::AlreadyExists, BACKEND, PUT, why).on(address(bucket, object)))
        };
        // Asked first, so that a repeat does not send everything again.
        if let Some(there) = self.head(cx, bucket, object).await? {
            return settle(there);
        }
        let content = Bytes::from(content);
        let written = self.call(cx, PUT, Access::Write, bucket, object, async |clients| {
            let request = clients.content.write_object(resource(bucket), object, content);
            // Generation 0 is an object that does not exist: who was faster since we asked is not overwritten.
            let request = request.set_if_generation_match(0_i64).with_known_crc32c(crc32c);
            request.send_unbuffered().await.map_err(|e| from_sdk(e, PUT, Access::Write))
        });
        match written.await {
            Ok(written) => {
                info!(bucket, object, bytes, run = %cx.run_id(), "written");
                Ok(info_of_object(&written))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => match self.head(cx, bucket, object).await? {
                Some(there) => settle(there),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// One call, bounded by the context and by the configured time.
    async fn call<T>(
        &self,
        cx: &CallContext,
        operation: &'static str,
        access: Access,
        bucket: &str,
        object: &str,
        request: impl AsyncFnOnce(&Clients) -> Result<T>,
    ) -> Result<T> {
        let answer = async {
            let clients = self.clients.get_or_try_init(|| Clients::new(&self.config)).await?;
            request(clients).await
        };
        cx.at_most(self.config.response_timeout.get()).run(BACKEND, operation, answer).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { access.unanswered() };
            e.effect(effect).on(address(bucket, object))
        })
    }
}

fn address(bucket: &str, object: &str) -> String {
    format!("gs://{bucket}/{object}")
}

/// How the API names buckets; they belong to no project in it.
fn resource(bucket: &str) -> String {
    format!("projects/_/buckets/{bucket}")
}

/// What is not there is `None`, and no error.
fn absent<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn info_of_object(object: &Object) -> ObjectInfo {
    ObjectInfo {
        bytes: u64::try_from(object.size).unwrap_or_default(),
        crc32c: object.checksums.as_ref().and_then(|checksums| checksums.crc32c),
        updated: object.update_time.and_then(|time| Timestamp::new(time.seconds(), time.nanos()).ok()),
        generation: object.generation,
    }
}

fn info_of_metadata(metadata: &Metadata) -> Result<ObjectInfo> {
    let broken =
        |field: &str| Error::new(ErrorKind::Internal, BACKEND, HEAD, format!("the answer has no usable {field}"));
    let crc32c = |text: &String| {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| broken("crc32c"))
    };
    let updated = |text: &String| text.parse().map_err(|_| broken("updated"));
    Ok(ObjectInfo {
        bytes: metadata.size.parse().map_err(|_| broken("size"))?,
        crc32c: metadata.crc32c.as_ref().map(crc32c).transpose()?,
        updated: metadata.updated.as_ref().map(updated).transpose()?,
        generation: metadata.generation.parse().map_err(|_| broken("generation"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_as_the_api_writes_it() {
        let text = r#"{"kind": "storage#object", "size": "9", "generation": "1764000000000000", "crc32c": "4waSgw==",
            "updated": "2026-11-24T15:00:00.123Z"}"#;
        let info = info_of_metadata(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((info.bytes, info.crc32c, info.generation), (9, Some(0xE306_9283), 1_764_000_000_000_000));
        assert_eq!(info.updated.unwrap().to_string(), "2026-11-24T15:00:00.123Z");
        let error =
            info_of_metadata(&serde_json::from_str(r#"{"size": "9", "generation": "x"}"#).unwrap()).unwrap_err();
        assert!(error.message().contains("generation"), "{error}");
    }
}
