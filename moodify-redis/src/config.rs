use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::Period;
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::settings::{self, Vars};
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use serde::Deserialize;

use crate::error::BACKEND;

/// How to reach one Redis or Valkey server.
///
/// From a file:
///
/// ```
/// let config: moodify_redis::RedisConfig = serde_json::from_str(
///     r#"{"name": "sessions", "url": "rediss://cache.internal:6379/0", "username": "moodify", "password": "s3cret"}"#,
/// ).unwrap();
/// assert!(!format!("{config:?}").contains("s3cret"));
/// assert!(config.validate().is_ok());
/// ```
///
/// In code:
///
/// ```
/// use moodify_redis::RedisConfig;
/// let config = RedisConfig::new("sessions", "redis://127.0.0.1:6379").username("moodify").password("s3cret");
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RedisConfig {
    name: String,
    // The whole URL is a secret, because it may carry a password.
    url: Secret,
    username: Option<String>,
    password: Option<Secret>,
    ca_file: Option<PathBuf>,
    #[serde(default = "connect_timeout")]
    connect_timeout: Period,
    #[serde(default = "response_timeout")]
    response_timeout: Period,
}

fn connect_timeout() -> Period {
    Period::from_secs(5)
}

/// Administration is rare and may hit a busy server: far above the client library's half a second.
fn response_timeout() -> Period {
    Period::from_secs(30)
}

impl RedisConfig {
    /// A server under the name by which people confirm a flush, at
    /// `redis://[user[:password]@]host[:port][/database]`; `rediss://` is over TLS.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into().into(),
            username: None,
            password: None,
            ca_file: None,
            connect_timeout: connect_timeout(),
            response_timeout: response_timeout(),
        }
    }

    /// The ACL user; wins over the one in the URL.
    #[must_use]
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// The password; wins over the one in the URL.
    #[must_use]
    pub fn password(mut self, password: impl Into<Secret>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Trusts the certificate authorities in this PEM file, in place of the machine's.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// How long connecting may take, TLS and authentication included. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.into();
        self
    }

    /// How long a connected server may take to answer one request. Default 30 s.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout.into();
        self
    }

    /// Reads `MOODIFY_REDIS_NAME`, `_URL`, `_USERNAME`, `_PASSWORD`, `_CA_FILE`, `_CONNECT_TIMEOUT` and
    /// `_RESPONSE_TIMEOUT`; name and URL are required.
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
        let mut vars = Vars::new("MOODIFY_REDIS", &var);
        let mut config = Self::new(vars.required("NAME"), vars.required("URL"));
        config.username = vars.get("USERNAME");
        config.password = vars.get("PASSWORD").map(Into::into);
        config.ca_file = vars.get("CA_FILE").map(Into::into);
        vars.parse("CONNECT_TIMEOUT", &mut config.connect_timeout);
        vars.parse("RESPONSE_TIMEOUT", &mut config.response_timeout);
        vars.finish(BACKEND, config.problems()).map(|()| config)
    }

    /// Checks the whole configuration without connecting.
    ///
    /// # Errors
    /// [`Invalid`](moodify_core::ErrorKind::Invalid), with all problems at once.
    pub fn validate(&self) -> Result<()> {
        settings::check(BACKEND, &self.problems())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push("name is empty".to_owned());
        }
        match self.server() {
            Err(problem) => problems.push(problem),
            Ok(server) if !server.tls && self.ca_file.is_some() => {
                problems.push("ca-file is of use with rediss:// only".to_owned());
            }
            Ok(server) if server.login.username().is_some() && server.login.password().is_none() => {
                problems.push("there is a username but no password".to_owned());
            }
            Ok(_) => {}
        }
        for (name, period) in [("connect-timeout", self.connect_timeout), ("response-timeout", self.response_timeout)] {
            if period == Period::ZERO {
                problems.push(format!("{name} is zero"));
            }
        }
        problems
    }

    /// Where the server is and how to log in. No message of it repeats the URL.
    pub(crate) fn server(&self) -> Result<Server, String> {
        let url = self.url.expose_secret();
        if url.is_empty() {
            return Err("url is empty".to_owned());
        }
        let info = url.into_connection_info().map_err(|_| {
            "url is not of the form redis://[user[:password]@]host[:port][/database], or rediss:// for TLS".to_owned()
        })?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, false),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => (host.clone(), *port, true),
            ConnectionAddr::TcpTls { .. } => {
                return Err(
                    "url asks for TLS without verification; give the server's authority with ca-file".to_owned()
                );
            }
            _ => return Err("url is not of a TCP server".to_owned()),
        };
        let mut login = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose_secret());
        }
        Ok(Server { host, port, tls, login })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn authorities(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    pub(crate) fn timeouts(&self) -> (Duration, Duration) {
        (self.connect_timeout.get(), self.response_timeout.get())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("name", &self.name)
            .field("server", &self.server().map(|server| server.address()))
            .field("username", &self.username)
            .field("password", &self.password)
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish()
    }
}

/// A parsed [`RedisConfig`]. The SDK's own type for the login keeps the password out of its `Debug`.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) login: RedisConnectionInfo,
}

impl Server {
    /// How errors name it: `rediss://host:6379/0`, without credentials.
    pub(crate) fn address(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}:{}/{}", self.host, self.port, self.login.db())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let error =
            RedisConfig::from_vars(|name| (name == "MOODIFY_REDIS_CONNECT_TIMEOUT").then(|| "5 parsecs".to_owned()))
                .unwrap_err();
        for part in ["_NAME is not set", "_URL is not set", "_CONNECT_TIMEOUT: \"5 parsecs\""] {
            assert!(error.message().contains(part), "{error}");
        }
        let error = RedisConfig::new("", "http://nowhere").response_timeout(Duration::ZERO).validate().unwrap_err();
        for part in ["name is empty", "url is not of the form", "response-timeout is zero"] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            serde_json::from_str::<RedisConfig>(r#"{"name": "a", "url": "redis://b", "pasword": "c"}"#).unwrap_err();
        assert!(error.to_string().contains("pasword"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let config = RedisConfig::new("cache", "redis://alice:in-the-url@host:7000/2").password("apart");
        let shown = format!("{config:?} {:?}", config.server());
        assert!(shown.contains("redis://host:7000/2"), "{shown}");
        assert!(!shown.contains("in-the-url") && !shown.contains("apart"), "{shown}");
        let bad = RedisConfig::new("cache", "redis://alice:in-the-url@host:seven").validate().unwrap_err();
        assert!(!format!("{bad} {bad:?}").contains("in-the-url"), "{bad}");
    }

    #[test]
    fn the_fields_win_over_the_url() {
        let server =
            RedisConfig::new("cache", "redis://alice:one@host").username("bob").password("two").server().unwrap();
        assert_eq!((server.login.username(), server.login.password()), (Some("bob"), Some("two")));
        assert_eq!((server.host.as_str(), server.port, server.tls), ("host", 6379, false));
    }
}
