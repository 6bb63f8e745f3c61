//! The SDK's client: no retries of its own, bounded connecting, rustls with ring.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_docdb::Client;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use moodify_core::secret::{self, ExposeSecret};

use crate::config::DocumentDbConfig;

/// Makes a client; credentials are looked for when it makes its first request.
pub(crate) async fn documentdb(config: &DocumentDbConfig) -> Client {
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
    Client::new(&loader.load().await)
}
