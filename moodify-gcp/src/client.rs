//! Credentials, and one bounded request to Cloud Storage. Nothing is repeated by itself.
//!
//! Contents are read by Google's SDK. The rest of the JSON API is spoken over plain HTTP: the SDK hides the upload
//! sessions that a caller must be able to keep, and asks all but contents over gRPC.

use bytes::Bytes;
use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials, anonymous, service_account};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::read_object::ReadObjectResponse;
use google_cloud_storage::read_resume_policy::NeverResume;
use http::{Extensions, HeaderMap};
use moodify_core::secret::{self, ExposeSecret, Secret};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use reqwest::{Client, RequestBuilder, Url, redirect, retry};
use rustls::crypto::{CryptoProvider, ring};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::config::{ApiConfig, StorageConfig};
use crate::error::{Call, from_answer, from_build, from_credentials, from_http, from_key, from_sdk};

/// Cloud Storage; connects and looks for credentials at its first request.
#[derive(Debug)]
pub(crate) struct Api {
    config: StorageConfig,
    connection: OnceCell<Connection>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) http: Client,
    sdk: Storage,
    credentials: Credentials,
    endpoint: Url,
}

/// What was answered, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as the API writes it.
    pub(crate) fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            // The request was answered, so the effect is that of a success.
            let effect = call.unanswered();
            call.fail(ErrorKind::Internal, format!("the answer is not of the JSON API: {e}")).effect(effect)
        })
    }
}

impl Api {
    pub(crate) fn new(config: StorageConfig) -> Self {
        Self { config, connection: OnceCell::new() }
    }

    async fn connection(&self) -> Result<&Connection> {
        self.connection.get_or_try_init(async || Connection::new(&self.config).await).await
    }

    /// Begins to read what an object was in a generation, as it is stored: what the server unpacks has another checksum.
    /// Bounded as a request up to the head of the answer. The checksum is the caller's to compare.
    pub(crate) async fn read(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        name: &str,
        generation: i64,
    ) -> Result<ReadObjectResponse> {
        let answer = async {
            let connection = self.connection().await?;
            // The SDK sends the same token, which is to be remembered.
            connection.login(call).await?;
            let bucket = format!("projects/_/buckets/{}", self.config.bucket);
            let read = connection.sdk.read_object(bucket, name).set_generation(generation).compute_crc32c(false);
            read.send().await.map_err(|e| from_sdk(e, call))
        };
        self.bounded(cx, call, target, answer).await
    }

    /// One request, bounded by the context and by the configured time. An answer that is no success is an error, unless
    /// its status is one of `fine`.
    pub(crate) async fn ask(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        ask: Ask<'_>,
        fine: &[u16],
    ) -> Result<Answer> {
        let answer = async {
            let connection = self.connection().await?;
            let request = match ask {
                Ask::Api(request) => request(connection)?.headers(connection.login(call).await?),
                Ask::Session(request) => request(&connection.http),
            };
            let response = request.send().await.map_err(|e| from_http(e, call))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await.map_err(|e| from_http(e, call))?;
            if status.is_success() || fine.contains(&status.as_u16()) {
                return Ok(Answer { status: status.as_u16(), headers, body });
            }
            Err(from_answer(status.as_u16(), &headers, &body, call))
        };
        self.bounded(cx, call, target, answer).await
    }

    async fn bounded<T>(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let bounded = cx.at_most(self.config.api.response_timeout.get());
        bounded.run(call.backend, call.operation, request).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { call.unanswered() };
            e.effect(effect).on(target)
        })
    }
}

/// How a request is made.
pub(crate) enum Ask<'a> {
    /// One of the API, with our credentials.
    Api(&'a (dyn Fn(&Connection) -> Result<RequestBuilder> + Send + Sync)),
    /// One of an upload session, whose address is its own credential and must not be shown ours.
    Session(&'a (dyn Fn(&Client) -> RequestBuilder + Send + Sync)),
}

impl Connection {
    async fn new(config: &StorageConfig) -> Result<Self> {
        install_provider();
        let call = Call::read(crate::error::STORAGE, "set up the client");
        let endpoint = config.api.endpoint.as_deref().unwrap_or("https://storage.googleapis.com");
        let http = Client::builder().redirect(redirect::Policy::none()).retry(retry::never());
        let credentials = credentials(&config.api, call.backend)?;
        let sdk = Storage::builder()
            .with_endpoint(endpoint)
            .with_credentials(credentials.clone())
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume);
        Ok(Self {
            http: http.build().map_err(|e| from_build(e, call.backend))?,
            sdk: sdk.build().await.map_err(|e| from_build(e, call.backend))?,
            credentials,
            endpoint: endpoint.parse().map_err(|e| from_build(e, call.backend))?,
        })
    }

    /// An address of the API, its parts escaped.
    pub(crate) fn url(&self, parts: &[&str]) -> Result<Url> {
        let mut url = self.endpoint.clone();
        match url.path_segments_mut() {
            Ok(mut path) => drop(path.pop_if_empty().extend(parts)),
            Err(()) => {
                let call = Call::read(crate::error::STORAGE, "set up the client");
                return Err(call.fail(ErrorKind::Invalid, "the endpoint can have no path"));
            }
        }
        Ok(url)
    }

    async fn login(&self, call: Call) -> Result<HeaderMap> {
        let headers = match self.credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => data,
            Ok(CacheableResource::NotModified) => HeaderMap::new(),
            Err(error) => return Err(from_credentials(&error, call)),
        };
        // A server that repeats the token must not make us say it.
        let login = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        login.and_then(|value| value.strip_prefix("Bearer ")).into_iter().for_each(secret::remember);
        Ok(headers)
    }
}

/// TLS comes from rustls' process-wide default.
pub(crate) fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Who loses a race for it finds a provider there, which is all that is needed.
        let _ = ring::default_provider().install_default();
    }
}

pub(crate) fn credentials(api: &ApiConfig, backend: &'static str) -> Result<Credentials> {
    let unusable = |message: String| from_key(message, backend);
    if api.anonymous {
        return Ok(anonymous::Builder::new().build());
    }
    let key = match (&api.key, &api.key_file) {
        (Some(key), _) => key.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map(Secret::from)
            .map_err(|e| unusable(format!("cannot read {}: {e}", file.display())))?,
        (None, None) => return Builder::default().build().map_err(|e| unusable(e.to_string())),
    };
    // What the parser says would quote the key.
    let key = serde_json::from_str(key.expose_secret())
        .map_err(|_| unusable("the service account's key is not JSON".to_owned()))?;
    service_account::Builder::new(key).build().map_err(|e| unusable(e.to_string()))
}

/// What is not there is `None`, and no error.
pub(crate) fn absent<T>(found: Result<T>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
