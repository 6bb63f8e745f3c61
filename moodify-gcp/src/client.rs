//! The two ways to Cloud Storage: the SDK for objects' content, and plain JSON for what is known of them, which the
//! SDK asks over gRPC only. Neither repeats anything by itself.

use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials, anonymous, service_account};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::read_resume_policy::NeverResume;
use http::Extensions;
use moodify_core::secret::{self, ExposeSecret, Secret};
use moodify_core::{Error, ErrorKind, Result};
use reqwest::{Client, Url, redirect, retry};
use rustls::crypto::{CryptoProvider, ring};
use serde::Deserialize;

use crate::config::StorageConfig;
use crate::error::{BACKEND, from_answer, from_build, from_credentials, from_http, from_key};

#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) content: Storage,
    metadata: Client,
    credentials: Credentials,
    endpoint: Url,
}

/// What the JSON API says of an object; numbers of 64 bits are text in it.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) size: String,
    pub(crate) generation: String,
    pub(crate) crc32c: Option<String>,
    pub(crate) updated: Option<String>,
}

impl Clients {
    pub(crate) async fn new(config: &StorageConfig) -> Result<Self> {
        if CryptoProvider::get_default().is_none() {
            // Who loses a race for it finds a provider there, which is all that is needed.
            let _ = ring::default_provider().install_default();
        }
        let endpoint = config.endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
        let credentials = credentials(config)?;
        // Resumable uploads carry a checksum that the server compares; a single-shot one tells it too late.
        let content = Storage::builder()
            .with_credentials(credentials.clone())
            .with_endpoint(endpoint)
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume)
            .with_resumable_upload_threshold(0_usize);
        let metadata = Client::builder().redirect(redirect::Policy::none()).retry(retry::never());
        Ok(Self {
            content: content.build().await.map_err(from_build)?,
            metadata: metadata.build().map_err(from_build)?,
            credentials,
            endpoint: endpoint.parse().map_err(from_build)?,
        })
    }

    /// What is known of an object.
    pub(crate) async fn metadata(&self, operation: &'static str, bucket: &str, object: &str) -> Result<Metadata> {
        let mut url = self.endpoint.clone();
        match url.path_segments_mut() {
            Ok(mut path) => drop(path.pop_if_empty().extend(["storage", "v1", "b", bucket, "o", object])),
            Err(()) => return Err(Error::new(ErrorKind::Invalid, BACKEND, operation, "the endpoint can have no path")),
        }
        let headers = match self.credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => data,
            Ok(CacheableResource::NotModified) => http::HeaderMap::new(),
            Err(error) => return Err(from_credentials(&error, operation)),
        };
        // A server that repeats the token must not make us say it.
        let login = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        login.and_then(|value| value.strip_prefix("Bearer ")).into_iter().for_each(secret::remember);
        let failed = |e| from_http(e, operation);
        let answer = self.metadata.get(url).headers(headers).send().await.map_err(failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?;
        if !status.is_success() {
            return Err(from_answer(status.as_u16(), &body, operation));
        }
        serde_json::from_slice(&body).map_err(|e| {
            Error::new(ErrorKind::Internal, BACKEND, operation, format!("the answer is not of the JSON API: {e}"))
        })
    }
}

fn credentials(config: &StorageConfig) -> Result<Credentials> {
    if config.anonymous {
        return Ok(anonymous::Builder::new().build());
    }
    let key = match (&config.key, &config.key_file) {
        (Some(key), _) => key.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map(Secret::from)
            .map_err(|e| from_key(format!("cannot read {}: {e}", file.display())))?,
        (None, None) => return Builder::default().build().map_err(|e| from_key(e.to_string())),
    };
    // What the parser says would quote the key.
    let key =
        serde_json::from_str(key.expose_secret()).map_err(|_| from_key("the service account's key is not JSON"))?;
    service_account::Builder::new(key).build().map_err(|e| from_key(e.to_string()))
}
