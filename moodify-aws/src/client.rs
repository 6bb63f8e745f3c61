//! The SDK's client, and one bounded request. No retries of its own, rustls with ring.

use std::error::Error as StdError;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_docdb::config::http::HttpResponse;
use aws_sdk_docdb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use jiff::Timestamp;
use moodify_core::secret::{self, ExposeSecret};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use crate::config::ApiConfig;
use crate::error::{Access, from_sdk};

/// A service of AWS; connects and looks for credentials at its first request.
#[derive(Debug)]
pub(crate) struct Api<C> {
    name: &'static str,
    config: ApiConfig,
    connect: fn(&SdkConfig) -> C,
    client: OnceCell<C>,
}

/// What a request is called in errors, and whether it may change something.
pub(crate) type Call = (&'static str, Access);

impl<C> Api<C> {
    pub(crate) fn new(name: &'static str, config: ApiConfig, connect: fn(&SdkConfig) -> C) -> Self {
        Self { name, config, connect, client: OnceCell::new() }
    }

    pub(crate) async fn client(&self, cx: &CallContext, operation: &'static str) -> Result<&C> {
        let connect = async { Ok(self.client.get_or_init(async || (self.connect)(&sdk(&self.config).await)).await) };
        cx.run(self.name, operation, connect).await.map_err(|e| e.effect(Effect::None))
    }

    /// One request, bounded by the context and by the configured response time.
    pub(crate) async fn call<T, E>(
        &self,
        cx: &CallContext,
        call: Call,
        target: &str,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let request = async { request.await.map_err(|e| from_sdk(e, self.name, call.0, call.1)) };
        self.bounded(cx, call, target, request).await
    }

    /// The same of a request whose errors are ours.
    pub(crate) async fn bounded<T>(
        &self,
        cx: &CallContext,
        (operation, access): Call,
        target: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        cx.at_most(self.config.response_timeout.get()).run(self.name, operation, request).await.map_err(|e| {
            let effect = if e.effect_of() == Effect::None { Effect::None } else { access.unanswered() };
            e.effect(effect).on(target)
        })
    }

    pub(crate) fn fail(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        target: &str,
        message: impl Into<String>,
    ) -> Error {
        Error::new(kind, self.name, operation, message).on(target)
    }
}

async fn sdk(config: &ApiConfig) -> SdkConfig {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout.get())
        .read_timeout(config.response_timeout.get())
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(config.region.clone()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let token = config.session_token.as_ref().map(|token| token.expose_secret().to_owned());
        loader = loader.credentials_provider(Credentials::new(id, secret.expose_secret(), token, None, "moodify"));
    }
    // What the SDK may find by itself.
    for variable in ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        std::env::var(variable).iter().for_each(|value| secret::remember(value));
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// What is not there is `None`, and no error.
pub(crate) fn absent<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A time of AWS's, in ours.
pub(crate) fn time_of(time: &aws_sdk_docdb::primitives::DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}
