use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moodify_core::Result;
use moodify_core::model::{EnvironmentKind, Period};
use moodify_core::secret::{ExposeSecret, Secret};
use moodify_core::settings::{self, Vars};
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as Unreadable, StrDeserializer};

use crate::address::Address;
use crate::error::BACKEND;

/// How to reach one Redis or Valkey: a single server, a primary that sentinels watch, or a cluster.
///
/// From a file:
///
/// ```
/// let single: moodify_redis::RedisConfig = serde_json::from_str(
///     r#"{"name": "sessions", "url": "rediss://cache.internal:6379/0", "username": "moodify", "password": "s3cret"}"#,
/// ).unwrap();
/// assert!(!format!("{single:?}").contains("s3cret"));
/// assert!(single.validate().is_ok());
/// let watched: moodify_redis::RedisConfig = serde_json::from_str(
///     r#"{"name": "sessions", "tls": true,
///         "mode": {"sentinel": {"master": "sessions", "addresses": ["s1:26379", "s2:26379", "s3:26379"]}}}"#,
/// ).unwrap();
/// assert!(watched.validate().is_ok());
/// ```
///
/// In code:
///
/// ```
/// use moodify_redis::RedisConfig;
/// let single = RedisConfig::new("sessions", "redis://127.0.0.1:6379").username("moodify").password("s3cret");
/// let cluster = RedisConfig::cluster("moods", ["cache-0:6379", "cache-1:6379"]).tls();
/// assert!(single.validate().is_ok() && cluster.validate().is_ok());
/// ```
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RedisConfig {
    name: String,
    #[serde(default)]
    mode: Mode,
    // The whole URL is a secret, because it may carry a password.
    url: Option<Secret>,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    database: i64,
    username: Option<String>,
    password: Option<Secret>,
    ca_file: Option<PathBuf>,
    #[serde(default = "production")]
    environment: EnvironmentKind,
    #[serde(default = "connect_timeout")]
    connect_timeout: Period,
    #[serde(default = "response_timeout")]
    response_timeout: Period,
    #[serde(default = "failover_timeout")]
    failover_timeout: Period,
    #[serde(default)]
    dump_dirs: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Mode {
    #[default]
    Single,
    Sentinel(Sentinels),
    Cluster {
        addresses: Vec<String>,
    },
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Sentinels {
    master: String,
    addresses: Vec<String>,
    username: Option<String>,
    password: Option<Secret>,
}

/// What nobody called anything else is taken for the most precious.
fn production() -> EnvironmentKind {
    EnvironmentKind::Production
}

fn connect_timeout() -> Period {
    Period::from_secs(5)
}

/// Administration is rare and may hit a busy server: far above the client library's half a second.
fn response_timeout() -> Period {
    Period::from_secs(30)
}

fn failover_timeout() -> Period {
    Period::from_secs(60)
}

impl RedisConfig {
    /// A server under the name by which people confirm a flush, at
    /// `redis://[user[:password]@]host[:port][/database]`; `rediss://` is over TLS.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self { url: Some(url.into().into()), ..Self::of_mode(name, Mode::Single) }
    }

    /// The primary that these sentinels know as `master`, and its replicas. Addresses are `host[:port]`, by default with port
    /// 26379. Any one of the sentinels is enough to find the others' cache, but all should be given.
    #[must_use]
    pub fn sentinel<A: Into<String>>(
        name: impl Into<String>,
        master: impl Into<String>,
        addresses: impl IntoIterator<Item = A>,
    ) -> Self {
        let addresses = addresses.into_iter().map(Into::into).collect();
        let sentinels = Sentinels { master: master.into(), addresses, ..Sentinels::default() };
        Self::of_mode(name, Mode::Sentinel(sentinels))
    }

    /// The cluster that these nodes are of, `host[:port]` each, by default with port 6379. One that answers is enough.
    #[must_use]
    pub fn cluster<A: Into<String>>(name: impl Into<String>, addresses: impl IntoIterator<Item = A>) -> Self {
        Self::of_mode(name, Mode::Cluster { addresses: addresses.into_iter().map(Into::into).collect() })
    }

    fn of_mode(name: impl Into<String>, mode: Mode) -> Self {
        Self {
            name: name.into(),
            mode,
            url: None,
            tls: false,
            database: 0,
            username: None,
            password: None,
            ca_file: None,
            environment: production(),
            connect_timeout: connect_timeout(),
            response_timeout: response_timeout(),
            failover_timeout: failover_timeout(),
            dump_dirs: BTreeMap::new(),
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

    /// How to log in at the sentinels, if they want that; they do not know the cache's users.
    #[must_use]
    pub fn sentinel_login(mut self, username: Option<&str>, password: impl Into<Secret>) -> Self {
        if let Mode::Sentinel(sentinels) = &mut self.mode {
            sentinels.username = username.map(str::to_owned);
            sentinels.password = Some(password.into());
        }
        self
    }

    /// TLS to all nodes and sentinels, whose certificates must be of the names or addresses that they announce; for a
    /// single server the URL says it.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The database behind sentinels; for a single server the URL says it, and a cluster has only 0.
    #[must_use]
    pub fn database(mut self, database: u32) -> Self {
        self.database = database.into();
        self
    }

    /// Trusts the certificate authorities in this PEM file, in place of the machine's.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// What the cache is for. Default production, which is flushed only when the request says so.
    #[must_use]
    pub fn environment(mut self, environment: EnvironmentKind) -> Self {
        self.environment = environment;
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

    /// How long a cache with sentinels or a cluster may be without a primary before a call fails. Default 60 s.
    #[must_use]
    pub fn failover_timeout(mut self, timeout: Duration) -> Self {
        self.failover_timeout = timeout.into();
        self
    }

    /// Where this process sees the directory in which a node (`host:port`) keeps its snapshots, be it a mounted volume or the same
    /// machine: then a snapshot is made sure of by reading its file. Of nodes on loopback it is the one that they say.
    #[must_use]
    pub fn dump_dir(mut self, node: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        self.dump_dirs.insert(node.into(), dir.into());
        self
    }

    /// Reads `MOODIFY_REDIS_NAME`, `_MODE` (`single`, `sentinel` or `cluster`; default `single`), `_URL` of a single server,
    /// `_ADDRESSES` of the others with commas between, `_MASTER`, `_SENTINEL_USERNAME`, `_SENTINEL_PASSWORD`, `_TLS`,
    /// `_DATABASE`, `_USERNAME`, `_PASSWORD`, `_CA_FILE`, `_ENVIRONMENT`, `_CONNECT_TIMEOUT`, `_RESPONSE_TIMEOUT`,
    /// `_FAILOVER_TIMEOUT` and `_DUMP_DIRS` (`host:port=directory`, with commas between).
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
        let mode = vars.get("MODE").unwrap_or_else(|| "single".to_owned());
        let addresses = |vars: &mut Vars<'_, _>| -> Vec<String> {
            let all = vars.required("ADDRESSES");
            all.split(',').map(|address| address.trim().to_owned()).filter(|address| !address.is_empty()).collect()
        };
        let name = vars.required("NAME");
        let mut config = match mode.as_str() {
            "sentinel" => {
                let master = vars.required("MASTER");
                let config = Self::sentinel(name, master, addresses(&mut vars));
                match vars.get("SENTINEL_PASSWORD") {
                    Some(password) => config.sentinel_login(vars.get("SENTINEL_USERNAME").as_deref(), password),
                    None => config,
                }
            }
            "cluster" => Self::cluster(name, addresses(&mut vars)),
            "single" => Self::new(name, vars.required("URL")),
            other => {
                vars.problem(format!("MOODIFY_REDIS_MODE: {other:?} is none of single, sentinel and cluster"));
                Self::of_mode(name, Mode::Single)
            }
        };
        config.username = vars.get("USERNAME");
        config.password = vars.get("PASSWORD").map(Into::into);
        config.ca_file = vars.get("CA_FILE").map(Into::into);
        vars.parse("TLS", &mut config.tls);
        vars.parse("DATABASE", &mut config.database);
        if let Some(kind) = vars.get("ENVIRONMENT") {
            let read: StrDeserializer<'_, Unreadable> = kind.as_str().into_deserializer();
            match EnvironmentKind::deserialize(read) {
                Ok(kind) => config.environment = kind,
                Err(problem) => vars.problem(format!("MOODIFY_REDIS_ENVIRONMENT: {problem}")),
            }
        }
        vars.parse("CONNECT_TIMEOUT", &mut config.connect_timeout);
        vars.parse("RESPONSE_TIMEOUT", &mut config.response_timeout);
        vars.parse("FAILOVER_TIMEOUT", &mut config.failover_timeout);
        for dump in vars.get("DUMP_DIRS").iter().flat_map(|all| all.split(',')) {
            match dump.split_once('=') {
                Some((node, dir)) => config = config.dump_dir(node.trim(), dir.trim()),
                None => {
                    vars.problem(format!("MOODIFY_REDIS_DUMP_DIRS: {dump:?} is not of the form host:port=directory"));
                }
            }
        }
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
        match self.setup() {
            Err(all) => problems.extend(all),
            Ok(setup) => {
                if !setup.tls && self.ca_file.is_some() {
                    problems.push("ca-file is of use with TLS only".to_owned());
                }
                if setup.login.username().is_some() && setup.login.password().is_none() {
                    problems.push("there is a username but no password".to_owned());
                }
            }
        }
        let periods = [
            ("connect-timeout", self.connect_timeout),
            ("response-timeout", self.response_timeout),
            ("failover-timeout", self.failover_timeout),
        ];
        let zero = periods.iter().filter(|(_, period)| *period == Period::ZERO);
        problems.extend(zero.map(|(name, _)| format!("{name} is zero")));
        problems
    }

    /// Where the servers are and how to log in, or all that is wrong with that. No message of it repeats the URL.
    pub(crate) fn setup(&self) -> Result<Setup, Vec<String>> {
        let mut problems = Vec::new();
        let (place, tls, login) = match &self.mode {
            Mode::Single => self.single(&mut problems),
            Mode::Sentinel(sentinels) => {
                if sentinels.master.is_empty() {
                    problems.push("the sentinels' master has no name: it is empty".to_owned());
                }
                if sentinels.username.is_some() && sentinels.password.is_none() {
                    problems.push("there is a username for the sentinels but no password".to_owned());
                }
                let place = Place::Sentinel {
                    master: sentinels.master.clone(),
                    sentinels: addresses(&sentinels.addresses, 26_379, &mut problems),
                    login: log_in(RedisConnectionInfo::default(), &sentinels.username, &sentinels.password),
                };
                (place, self.tls, RedisConnectionInfo::default().set_db(self.database))
            }
            Mode::Cluster { addresses: all } => {
                if self.database != 0 {
                    problems.push(format!("a cluster has no database {}, only 0", self.database));
                }
                (Place::Cluster(addresses(all, 6379, &mut problems)), self.tls, RedisConnectionInfo::default())
            }
        };
        if !matches!(self.mode, Mode::Single) && self.url.is_some() {
            problems.push("url is of a single server; give addresses".to_owned());
        }
        if self.database < 0 {
            problems.push(format!("there is no database {}", self.database));
        }
        let mut dump_dirs = BTreeMap::new();
        for (node, dir) in &self.dump_dirs {
            match Address::parse(node, 6379) {
                Some(address) => drop(dump_dirs.insert(address, dir.clone())),
                None => problems.push(format!("dump-dirs: {node:?} is not of the form host[:port]")),
            }
        }
        let login = log_in(login, &self.username, &self.password);
        if problems.is_empty() { Ok(Setup { place, tls, login, dump_dirs }) } else { Err(problems) }
    }

    fn single(&self, problems: &mut Vec<String>) -> (Place, bool, RedisConnectionInfo) {
        let mut parts = (Place::Single(Address::default()), false, RedisConnectionInfo::default());
        if self.tls || self.database != 0 {
            problems.push("a single server's url says whether there is TLS (rediss://) and which database".to_owned());
        }
        let url = self.url.as_ref().map(|url| url.expose_secret()).unwrap_or_default();
        if url.is_empty() {
            problems.push("url is empty".to_owned());
            return parts;
        }
        match url.into_connection_info() {
            Err(_) => problems.push(
                "url is not of the form redis://[user[:password]@]host[:port][/database], or rediss:// for TLS"
                    .to_owned(),
            ),
            Ok(info) => {
                parts.2 = info.redis_settings().clone();
                match info.addr() {
                    ConnectionAddr::Tcp(host, port) => parts.0 = Place::Single(Address::new(host, *port)),
                    ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                        (parts.0, parts.1) = (Place::Single(Address::new(host, *port)), true);
                    }
                    ConnectionAddr::TcpTls { .. } => problems.push(
                        "url asks for TLS without verification; give the server's authority with ca-file".to_owned(),
                    ),
                    _ => problems.push("url is not of a TCP server".to_owned()),
                }
            }
        }
        parts
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_production(&self) -> bool {
        self.environment == EnvironmentKind::Production
    }

    pub(crate) fn authorities(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout.get(),
            response: self.response_timeout.get(),
            failover: self.failover_timeout.get(),
        }
    }
}

fn addresses(all: &[String], port: u16, problems: &mut Vec<String>) -> Vec<Address> {
    if all.is_empty() {
        problems.push("there are no addresses".to_owned());
    }
    let mut read = Vec::new();
    for text in all {
        match Address::parse(text, port) {
            Some(address) => read.push(address),
            None => problems.push(format!("{text:?} is not of the form host[:port]")),
        }
    }
    read
}

fn log_in(login: RedisConnectionInfo, username: &Option<String>, password: &Option<Secret>) -> RedisConnectionInfo {
    let mut login = login.set_skip_set_lib_name();
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    login
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("name", &self.name)
            .field("servers", &self.setup())
            .field("ca_file", &self.ca_file)
            .field("environment", &self.environment)
            .field("timeouts", &self.timeouts())
            .finish()
    }
}

/// A parsed [`RedisConfig`]. The SDK's own type for the login keeps the password out of its `Debug`.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) place: Place,
    pub(crate) tls: bool,
    pub(crate) login: RedisConnectionInfo,
    pub(crate) dump_dirs: BTreeMap<Address, PathBuf>,
}

/// Where primaries are found.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Single(Address),
    Sentinel { master: String, sentinels: Vec<Address>, login: RedisConnectionInfo },
    Cluster(Vec<Address>),
}

/// The longest that things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) failover: Duration,
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
        let shown = format!("{config:?} {:?}", config.setup());
        assert!(shown.contains("host:7000"), "{shown}");
        assert!(!shown.contains("in-the-url") && !shown.contains("apart"), "{shown}");
        let bad = RedisConfig::new("cache", "redis://alice:in-the-url@host:seven").validate().unwrap_err();
        assert!(!format!("{bad} {bad:?}").contains("in-the-url"), "{bad}");
    }

    #[test]
    fn the_fields_win_over_the_url() {
        let setup =
            RedisConfig::new("cache", "redis://alice:one@host").username("bob").password("two").setup().unwrap();
        assert_eq!((setup.login.username(), setup.login.password()), (Some("bob"), Some("two")));
        assert!(matches!(setup.place, Place::Single(address) if address == Address::new("host", 6379)));
        assert!(!setup.tls);
    }

    #[test]
    fn sentinels_and_clusters_have_addresses_and_no_url() {
        let vars = |given: &'static [(&str, &str)]| {
            RedisConfig::from_vars(move |name| {
                let name = name.strip_prefix("MOODIFY_REDIS_")?;
                given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let cluster = [("NAME", "moods"), ("MODE", "cluster"), ("ADDRESSES", "a:7000, b,[::1]:7002"), ("TLS", "true")];
        let setup = vars(cluster.to_vec().leak()).unwrap().setup().unwrap();
        let Place::Cluster(addresses) = setup.place else { panic!("{setup:?}") };
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!((shown, setup.tls), (vec!["a:7000".to_owned(), "b:6379".to_owned(), "[::1]:7002".to_owned()], true));

        let error = vars(&[("NAME", "moods"), ("MODE", "sentinel"), ("ADDRESSES", "a:port"), ("DATABASE", "-1")]);
        let error = error.unwrap_err();
        for part in ["_MASTER is not set", "\"a:port\" is not of the form host[:port]", "there is no database -1"] {
            assert!(error.message().contains(part), "{error}");
        }
        let error = RedisConfig::cluster("moods", ["a"]).database(3).validate().unwrap_err();
        assert!(error.message().contains("a cluster has no database 3"), "{error}");
        let error = vars(&[("NAME", "moods"), ("MODE", "ring"), ("ENVIRONMENT", "moon")]).unwrap_err();
        for part in ["\"ring\" is none of", "_ENVIRONMENT: unknown variant"] {
            assert!(error.message().contains(part), "{error}");
        }
        let both = r#"{"name": "a", "url": "redis://b", "mode": {"cluster": {"addresses": []}}}"#;
        let error = serde_json::from_str::<RedisConfig>(both).unwrap().validate().unwrap_err();
        for part in ["url is of a single server", "there are no addresses"] {
            assert!(error.message().contains(part), "{error}");
        }
    }
}
