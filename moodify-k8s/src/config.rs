use std::path::PathBuf;
use std::time::Duration;

use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::{self, ExposeSecret};
use moodify_core::settings::{self, Vars};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{BACKEND, from_kubeconfig};

/// How to reach a cluster, and under which name to write.
///
/// ```
/// use moodify_k8s::KubeConfig;
/// let config: KubeConfig = serde_json::from_str(r#"{"context": "production", "request-timeout": "5s"}"#).unwrap();
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KubeConfig {
    /// The kubeconfig file; by default `$KUBECONFIG`, `~/.kube/config`, or the service account of the pod that we run
    /// in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; by default its current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    /// How long one request may take, at most. Watches live longer.
    #[serde(default = "request_timeout")]
    request_timeout: Period,
    /// The field manager under which everything is written: whatever another manager writes into a canary is drift.
    #[serde(default = "field_manager")]
    field_manager: String,
    /// The file of private keys, as `age-keygen` writes it, that opens the Secrets of a backup of configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_identity: Option<PathBuf>,
}

fn request_timeout() -> Period {
    Period::from_secs(10)
}

fn field_manager() -> String {
    "moodify".to_owned()
}

impl Default for KubeConfig {
    fn default() -> Self {
        let (request_timeout, field_manager) = (request_timeout(), field_manager());
        Self { kubeconfig: None, context: None, request_timeout, field_manager, age_identity: None }
    }
}

impl KubeConfig {
    /// The cluster that kubectl would use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another kubeconfig file.
    #[must_use]
    pub fn kubeconfig(mut self, file: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(file.into());
        self
    }

    /// Another context than the current one.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// How long one request may take, at most. Default 10 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout.into();
        self
    }

    /// The field manager under which everything is written. Default `moodify`.
    #[must_use]
    pub fn field_manager(mut self, name: impl Into<String>) -> Self {
        self.field_manager = name.into();
        self
    }

    /// The file of private keys that opens the Secrets of a backup of configuration, when it is restored.
    #[must_use]
    pub fn age_identity(mut self, file: impl Into<PathBuf>) -> Self {
        self.age_identity = Some(file.into());
        self
    }

    /// Reads `MOODIFY_KUBE_KUBECONFIG`, `_CONTEXT`, `_REQUEST_TIMEOUT`, `_FIELD_MANAGER` and `_AGE_IDENTITY`, all optional.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The same as [`from_env`](Self::from_env), with the variables from a function.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut vars = Vars::new("MOODIFY_KUBE", &var);
        let mut config = Self::new();
        config.kubeconfig = vars.get("KUBECONFIG").map(Into::into);
        config.context = vars.get("CONTEXT");
        config.age_identity = vars.get("AGE_IDENTITY").map(Into::into);
        config.field_manager = vars.get("FIELD_MANAGER").unwrap_or(config.field_manager);
        vars.parse("REQUEST_TIMEOUT", &mut config.request_timeout);
        vars.finish(BACKEND, config.problems()).map(|()| config)
    }

    /// Checks the values without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(BACKEND, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.request_timeout == Period::ZERO {
            problems.push("request-timeout is zero".to_owned());
        }
        let printable = self.field_manager.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if self.field_manager.is_empty() || self.field_manager.len() > 128 || !printable {
            problems.push("field-manager is not 1 to 128 printable characters".to_owned());
        }
        if self.context.as_deref() == Some("") {
            problems.push("context is empty".to_owned());
        }
        problems
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.request_timeout.get()
    }

    pub(crate) fn identity(&self) -> Option<PathBuf> {
        self.age_identity.clone()
    }

    pub(crate) fn manager(&self) -> &str {
        &self.field_manager
    }

    /// The client's configuration, from the file or from the pod that we run in.
    pub(crate) async fn load(&self) -> Result<kube::Config> {
        self.validate()?;
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let file = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let mut config = match file {
            Ok(file) => kube::Config::from_custom_kubeconfig(file, &options).await.map_err(from_kubeconfig)?,
            // Only when nobody named a file or a context: else the wrong cluster could be meant.
            Err(e) if self.kubeconfig.is_none() && self.context.is_none() => {
                kube::Config::incluster().map_err(|_| from_kubeconfig(e))?
            }
            Err(e) => return Err(from_kubeconfig(e)),
        };
        remember_secrets(&config.auth_info);
        // Retries belong to the engine. No read timeout: it would end watches; requests are bounded one by one.
        config.default_retry = false;
        config.connect_timeout = Some(self.timeout());
        config.read_timeout = None;
        let agent = concat!("moodify/", env!("CARGO_PKG_VERSION"));
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
        Ok(config)
    }
}

/// What an API server, or a proxy before it, must not make us say.
fn remember_secrets(login: &AuthInfo) {
    let fields = [&login.token, &login.password, &login.client_key_data];
    fields.into_iter().flatten().for_each(|secret| secret::remember(secret.expose_secret()));
    let file = login.token_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    file.iter().for_each(|token| secret::remember(token));
    let provider = login.auth_provider.iter().flat_map(|provider| &provider.config);
    provider
        .filter(|(name, _)| name.contains("token") || name.contains("secret"))
        .for_each(|(_, v)| secret::remember(v));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = KubeConfig::from_vars(|name| match name {
            "MOODIFY_KUBE_REQUEST_TIMEOUT" => Some("5 parsecs".to_owned()),
            "MOODIFY_KUBE_FIELD_MANAGER" => Some("x".repeat(129)),
            _ => None,
        })
        .unwrap_err();
        assert!(error.message().contains("5 parsecs") && error.message().contains("field-manager"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<KubeConfig>(r#"{"kubecontext": "a"}"#).is_err());
    }

    #[tokio::test]
    async fn a_missing_file_is_said_with_its_name() {
        let error = KubeConfig::new().kubeconfig("/nowhere/config").load().await.unwrap_err();
        assert_eq!(error.kind(), moodify_core::ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/config"), "{error}");
        assert!(error.to_string().contains("KUBECONFIG"), "{error}");
    }
}
