//! How a request gets to S3: signed with our credentials, with the headers that `object_store` has no words for, and
//! with what was answered kept, which tells more than its errors do.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use http::{HeaderMap, Method};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::secret;
use moodify_core::{Error, ErrorKind, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig, StaticCredentialProvider};
use reqwest::{redirect, retry};
use rustls::{ClientConfig, RootCertStore, crypto};

use crate::client::Call;
use crate::config::S3Config;
use crate::error::{Answer, S3, from_credentials};

/// Credentials are not used when they have less than this left.
const MARGIN: Duration = Duration::from_secs(300);

/// Who we are.
#[derive(Debug)]
pub(super) struct Identity {
    provider: Option<SharedCredentialsProvider>,
    /// The provider asks anew each time.
    last: Mutex<Option<Credentials>>,
}

impl Identity {
    pub(super) fn new(sdk: &SdkConfig) -> Self {
        Self { provider: sdk.credentials_provider(), last: Mutex::default() }
    }

    async fn credentials(&self, call: Call) -> Result<Credentials> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = |credentials: &Credentials| {
            credentials.expiry().is_none_or(|expiry| expiry > SystemTime::from(SystemClock.now()) + MARGIN)
        };
        let found = match (last.filter(fresh), &self.provider) {
            (Some(last), _) => last,
            (None, Some(provider)) => {
                provider.provide_credentials().await.map_err(|e| from_credentials(&e, S3, call.0))?
            }
            (None, None) => {
                let why = "no AWS credentials were found";
                return Err(Error::new(ErrorKind::Unauthenticated, S3, call.0, why));
            }
        };
        found.session_token().into_iter().chain([found.secret_access_key()]).for_each(secret::remember);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }
}

fn credential(of: &Credentials) -> AwsCredential {
    AwsCredential {
        key_id: of.access_key_id().to_owned(),
        secret_key: of.secret_access_key().to_owned(),
        token: of.session_token().map(str::to_owned),
    }
}

/// The HTTP client: ring, the certificates that this machine trusts, nothing repeated.
pub(super) fn http(config: &S3Config) -> Result<reqwest::Client> {
    let bad = |e: String| Error::new(ErrorKind::Internal, S3, "set up the client", e);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .connect_timeout(config.api.connect_timeout.get())
        .user_agent(concat!("moodify/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| bad(e.to_string()))
}

/// What is added to a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Extra {
    pub(super) headers: HeaderMap,
    /// The CRC32C of each part of an upload that is completed, as S3 writes them.
    pub(super) parts: Vec<String>,
}

impl From<HeaderMap> for Extra {
    fn from(headers: HeaderMap) -> Self {
        Self { headers, parts: Vec::new() }
    }
}

impl Extra {
    fn add_to(&self, request: &mut HttpRequest) {
        request.headers_mut().extend(self.headers.clone());
        if let Some(body) = request.body().as_bytes().filter(|_| !self.parts.is_empty()) {
            let body = with_checksums(&String::from_utf8_lossy(body), &self.parts);
            request.headers_mut().remove(http::header::CONTENT_LENGTH);
            *request.body_mut() = body.into();
        }
    }
}

/// The list of the parts of an upload, each with its checksum behind its `ETag`.
fn with_checksums(list: &str, parts: &[String]) -> String {
    const END: &str = "</ETag>";
    let mut checksums = parts.iter();
    let mut pieces = list.split(END);
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        whole += END;
        if let Some(checksum) = checksums.next() {
            whole += &format!("<ChecksumCRC32C>{checksum}</ChecksumCRC32C>");
        }
        whole += piece;
    }
    whole
}

/// A store for one request, and what was answered to it.
pub(super) struct Exchange {
    pub(super) store: AmazonS3,
    answer: Kept,
}

type Kept = Arc<Mutex<Option<Answer>>>;

impl Exchange {
    pub(super) async fn new(
        config: &S3Config,
        http: &reqwest::Client,
        identity: &Identity,
        call: Call,
        extra: Extra,
    ) -> Result<Self> {
        let found = identity.credentials(call).await?;
        let answer = Kept::default();
        let region = config.api.region.clone();
        let wire = Wire {
            http: http.clone(),
            credential: Arc::new(credential(&found)),
            region,
            extra,
            answer: answer.clone(),
        };
        let retries = RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO };
        let builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.api.region)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(retries)
            .with_disable_bulk_delete(true)
            // The wire signs, after it has added its headers.
            .with_skip_signature(true)
            .with_credentials(Arc::new(StaticCredentialProvider::new(credential(&found))))
            .with_http_connector(wire);
        let builder = match &config.api.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint),
            // A name with dots is not covered by the certificate.
            None => builder.with_virtual_hosted_style_request(!config.bucket.contains('.')),
        };
        let unusable = |e: object_store::Error| Error::new(ErrorKind::Invalid, S3, call.0, e.to_string());
        Ok(Self { store: builder.build().map_err(unusable)?, answer })
    }

    /// The last answer, if there was one.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Sends what `object_store` asks for.
#[derive(Clone)]
struct Wire {
    http: reqwest::Client,
    credential: Arc<AwsCredential>,
    region: String,
    extra: Extra,
    answer: Kept,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("region", &self.region).finish_non_exhaustive()
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let posts = request.method() == Method::POST;
        self.extra.add_to(&mut request);
        // Its checksum is signed with it, so the content need not be.
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .with_sign_payload(false)
            .try_authorize(&mut request, None)
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let (parts, body) = self.http.call(request).await?.into_parts();
        let mut answer = Answer { status: parts.status.as_u16(), headers: parts.headers.clone(), body: Vec::new() };
        let keep = |answer| *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        // To a POST, S3 says 200 before it knows.
        if parts.status.is_success() && !posts {
            keep(answer);
            return Ok(HttpResponse::from_parts(parts, body));
        }
        let body = body.bytes().await?;
        answer.body = body.to_vec();
        keep(answer);
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_list_gets_its_checksum() {
        let list = "<L><Part><ETag>a</ETag><N>1</N></Part><Part><ETag>b</ETag><N>2</N></Part></L>";
        let expected = "<L><Part><ETag>a</ETag><ChecksumCRC32C>x==</ChecksumCRC32C><N>1</N></Part>\
                        <Part><ETag>b</ETag><ChecksumCRC32C>y==</ChecksumCRC32C><N>2</N></Part></L>";
        assert_eq!(with_checksums(list, &["x==".to_owned(), "y==".to_owned()]), expected);
    }
}
