use std::fmt;
use std::path::Path;
use std::sync::Arc;

use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::{CallContext, Error, ErrorKind, IdempotencyKey, Result};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode, redirect, retry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, crypto};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoint::Endpoint;
use crate::error;

/// Far more than any answer that is asked for here, far less than what would hurt the process.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The HTTP client that all backends of this crate share. Cheap to clone; clones share connections.
///
/// Its promises are those of the [crate](crate#promises). Dropping the future of a call closes its connection; whether
/// the server acted on a request that was already sent is then unknown.
#[derive(Clone)]
pub struct HttpClient {
    inner: Client,
    /// The same for requests that each get a connection of their own.
    fresh: Client,
    roots: usize,
}

impl HttpClient {
    /// A client that trusts what this machine trusts. A machine that trusts nobody can still speak plain HTTP.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the client cannot be built.
    pub fn new() -> Result<Self> {
        Self::trusting(native_roots())
    }

    /// The same, which also trusts the certificates in a PEM file: a company's own authority.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file cannot be read or holds no certificate.
    pub fn with_ca_file(path: &Path) -> Result<Self> {
        let bad = |message: String| {
            Error::new(ErrorKind::Invalid, "http", "read CA file", message).on(path.display().to_string())
        };
        let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let mut roots = native_roots();
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| bad(format!("it is not PEM: {e}")))?;
            roots.add(certificate).map_err(|e| bad(format!("it holds a certificate that cannot be used: {e}")))?;
        }
        if roots.len() == before {
            return Err(bad("it holds no certificate".to_owned()).hint("a PEM file has -----BEGIN CERTIFICATE-----"));
        }
        Self::trusting(roots)
    }

    fn trusting(roots: RootCertStore) -> Result<Self> {
        let bad = |e: &dyn fmt::Display| Error::new(ErrorKind::Internal, "http", "build client", e.to_string());
        let count = roots.len();
        // An explicit provider: a process-wide one is the binary's to choose, not a library's.
        let mut tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = |tls: ClientConfig| {
            Client::builder()
                .tls_backend_preconfigured(tls)
                .redirect(redirect::Policy::none())
                .retry(retry::never())
                .user_agent(concat!("moodify/", env!("CARGO_PKG_VERSION")))
        };
        // Of HTTP/2 several requests would share a connection.
        let mut alone = tls.clone();
        alone.alpn_protocols = vec![b"http/1.1".to_vec()];
        let fresh = client(alone).http1_only().pool_max_idle_per_host(0).build().map_err(|e| bad(&e))?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let inner = client(tls).build().map_err(|e| bad(&e))?;
        Ok(Self { inner, fresh, roots: count })
    }

    /// Sends, and reads the answer whatever its status.
    pub(crate) async fn send(&self, cx: &CallContext, call: &Call<'_>) -> Result<Answer> {
        if cx.cancel().is_cancelled() || cx.remaining().is_zero() {
            return Err(error::not_sent(cx, call));
        }
        let answer = cx.run(call.backend, call.operation, self.exchange(call)).await;
        let answer = answer.map_err(|e| error::about(call, e));
        match &answer {
            Ok(answer) => tracing::debug!(method = %call.method, url = %call.endpoint, status = %answer.status),
            Err(e) => tracing::debug!(method = %call.method, url = %call.endpoint, error = %e),
        }
        answer
    }

    /// Sends, and insists on a status of 200 to 299.
    pub(crate) async fn send_ok(&self, cx: &CallContext, call: &Call<'_>) -> Result<Answer> {
        let answer = self.send(cx, call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(error::from_status(call, &answer)) }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer> {
        let failed = |e| error::from_reqwest(call, self.roots, e);
        let mut response = self.request(call).send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if call.discards {
                continue;
            }
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(error::too_large(call, BODY_LIMIT));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
    }

    fn request(&self, call: &Call<'_>) -> reqwest::RequestBuilder {
        let client = if call.fresh { &self.fresh } else { &self.inner };
        let mut request = client.request(call.method.clone(), call.endpoint.url().clone());
        if !call.discards {
            request = request.header(ACCEPT, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = call.token {
            request = match call.credential {
                Credential::Bearer => request.bearer_auth(token.expose_secret()),
                Credential::Prefixed(prefix) => {
                    request.header(AUTHORIZATION, format!("{prefix} {}", token.expose_secret()))
                }
                Credential::Header(name) => request.header(name, token.expose_secret()),
            };
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(key) = call.key {
            request = request.header("idempotency-key", key.as_str().as_bytes());
        }
        if let Some((kind, body)) = &call.body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(kind)).body(body.clone());
        }
        request
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("trusted_certificates", &self.roots).finish_non_exhaustive()
    }
}

fn native_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for e in &found.errors {
        tracing::debug!(error = %e, "a trusted certificate of this machine cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// How a request shows its token.
enum Credential {
    Bearer,
    Prefixed(&'static str),
    Header(&'static str),
}

/// One request, and who makes it.
pub(crate) struct Call<'a> {
    pub(crate) backend: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) method: Method,
    pub(crate) token: Option<&'a Secret>,
    credential: Credential,
    headers: Vec<(&'static str, String)>,
    pub(crate) key: Option<&'a IdempotencyKey>,
    pub(crate) body: Option<(&'static str, String)>,
    /// Whether the remote side may have changed once this was sent.
    pub(crate) changes: bool,
    /// Whether the answer's body is read only to see its end.
    pub(crate) discards: bool,
    /// Whether it gets a connection of its own.
    pub(crate) fresh: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(backend: &'static str, operation: &'static str, method: Method, endpoint: &'a Endpoint) -> Self {
        let changes = !method.is_safe();
        Self {
            backend,
            operation,
            endpoint,
            method,
            token: None,
            credential: Credential::Bearer,
            headers: Vec::new(),
            key: None,
            body: None,
            changes,
            discards: false,
            fresh: false,
        }
    }

    pub(crate) fn token(mut self, token: Option<&'a Secret>) -> Self {
        self.token = token;
        self
    }

    /// A token that stands behind another word than `Bearer`.
    pub(crate) fn prefixed_token(mut self, prefix: &'static str, token: &'a Secret) -> Self {
        (self.token, self.credential) = (Some(token), Credential::Prefixed(prefix));
        self
    }

    /// A token that has a header of its own.
    pub(crate) fn token_header(mut self, name: &'static str, token: &'a Secret) -> Self {
        (self.token, self.credential) = (Some(token), Credential::Header(name));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn key(mut self, key: &'a IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_string(body).map_err(|e| {
            Error::new(ErrorKind::Internal, self.backend, self.operation, format!("the body cannot be written: {e}"))
        })?;
        self.body = Some(("application/json", text));
        Ok(self)
    }

    /// A question that is only asked by `POST` because it is long.
    pub(crate) fn form_question(mut self, pairs: &[(&str, &str)]) -> Self {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.body = Some(("application/x-www-form-urlencoded", form));
        self.changes = false;
        self
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| error::not_understood(call, self, &e))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use moodify_core::RunId;
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    #[tokio::test]
    async fn a_machine_that_trusts_nobody_speaks_plain_http() {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&server).await;
        let client = HttpClient::trusting(RootCertStore::empty()).unwrap();
        let endpoint = Endpoint::public(&server.uri()).unwrap();
        let cx = CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/x"), Duration::from_secs(20));
        client.send_ok(&cx, &Call::new("test", "ask", Method::GET, &endpoint)).await.unwrap();
        assert!(crypto::CryptoProvider::get_default().is_none(), "the process' provider is the binary's to choose");
    }
}
