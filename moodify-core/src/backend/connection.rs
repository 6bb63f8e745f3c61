//! Where an application finds its database, and what its value is when that moves. Pure.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::WorkloadRef;
use crate::error::{Error, ErrorKind, Result};

/// By what a database is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointKind {
    /// A host.
    #[default]
    Host,
    /// A name by which a service knows it.
    Name,
}

/// Where a database answers: a host, and a port if one is known; or the name by which a service knows it, of parts with
/// slashes between them.
///
/// ```
/// use moodify_core::backend::{Endpoint, EndpointKind};
/// let endpoint: Endpoint = "moods.cluster-x.docdb.amazonaws.com:27017".parse().unwrap();
/// assert_eq!((endpoint.port(), endpoint.to_string().len()), (Some(27017), 41));
/// let endpoint: Endpoint = "projects/moodify/databases/moods".parse().unwrap();
/// assert_eq!(endpoint.kind(), EndpointKind::Name);
/// assert!("ana:secret@moods".parse::<Endpoint>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Endpoint {
    /// A host.
    Host {
        /// Its name or address.
        host: String,
        /// The port.
        port: Option<u16>,
    },
    /// A name, such as `projects/P/databases/D`, or a path.
    Name(String),
}

impl Endpoint {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> EndpointKind {
        match self {
            Self::Host { .. } => EndpointKind::Host,
            Self::Name(_) => EndpointKind::Name,
        }
    }

    /// The port, if it is a host with one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Host { port, .. } => *port,
            Self::Name(_) => None,
        }
    }

    /// The same with that port, if it is a host without one.
    #[must_use]
    pub fn or_port(self, other: Option<u16>) -> Self {
        match self {
            Self::Host { host, port } => Self::Host { host, port: port.or(other) },
            Self::Name(name) => Self::Name(name),
        }
    }

    /// The host, or the whole name.
    #[must_use]
    pub fn place(&self) -> &str {
        match self {
            Self::Host { host, .. } => host,
            Self::Name(name) => name,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place())?;
        self.port().iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text may be more than it should be, so it is not repeated.
        let invalid = || {
            let message = "that is neither a host, with or without a port, nor a name of parts";
            Error::new(ErrorKind::Invalid, "moodify", "read an endpoint", message)
                .hint("write HOST, HOST:PORT or NAME/NAME")
        };
        match name(text) {
            Some(name) => Ok(Self::Name(name)),
            None => host(text).map(|(host, port)| Self::Host { host, port }).ok_or_else(invalid),
        }
    }
}

fn name(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '(' | ')' | '~');
    let mut parts = text.strip_prefix('/').unwrap_or(text).split('/');
    let good = text.contains('/') && parts.all(|part| !part.is_empty() && part.chars().all(fits));
    good.then(|| text.to_owned())
}

fn host(text: &str) -> Option<(String, Option<u16>)> {
    let after_address = text.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match text[after_address..].rfind(':') {
        Some(colon) => {
            let (host, port) = text.split_at(after_address + colon);
            (host, Some(port[1..].parse().ok()?))
        }
        None => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(fits),
    };
    good.then(|| (host.to_owned(), port))
}

impl TryFrom<String> for Endpoint {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// The place from which an application takes the address of its database.
///
/// The value there is a host, a host with its port, or a URL; in it only the host and the port are replaced, so that what
/// else it says (user, password, options) passes through nobody's hands. A template makes the whole value instead:
/// `{{endpoint}}` in it stands for the host, `{{port}}` for the port. Of a database that has a name and no host, such as
/// one of Firestore, `{{endpoint}}` is the whole name and `{{database}}` its last part; it needs a template. That of a
/// Secret is one of these two and nothing else, since a plan is no place for credentials.
///
/// ```
/// use moodify_core::backend::{Connection, Endpoint};
/// let connection: Connection = serde_json::from_str(r#"{"secret": {"name": "database", "key": "URI"}}"#).unwrap();
/// let to: Endpoint = "moods-restored.internal".parse().unwrap();
/// let value = connection.point("mongodb://ana:pw@moods.internal:27017/moods?tls=true", &to).unwrap();
/// assert_eq!(value, "mongodb://ana:pw@moods-restored.internal:27017/moods?tls=true");
/// assert_eq!(connection.to_string(), "key URI of Secret database");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = crate::planfile::describe_variants)]
#[non_exhaustive]
pub enum Connection {
    /// A key of a Secret.
    Secret {
        /// The Secret.
        name: String,
        /// The key in it.
        key: String,
        /// The whole value: `{{endpoint}}` or `{{database}}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
    },
    /// A key of a `ConfigMap`.
    ConfigMap {
        /// The `ConfigMap`.
        name: String,
        /// The key in it.
        key: String,
        /// The whole value, with `{{endpoint}}` and `{{port}}`, or `{{database}}`, in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
    },
    /// An environment variable in the template of a workload.
    Env {
        /// The workload: its name, or `stateful-set/NAME`.
        workload: WorkloadRef,
        /// The container; by default the only one that has the variable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        /// The variable's name.
        variable: String,
        /// The whole value, with `{{endpoint}}` and `{{port}}`, or `{{database}}`, in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
    },
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { name, key, .. } => write!(f, "key {key} of Secret {name}"),
            Self::ConfigMap { name, key, .. } => write!(f, "key {key} of ConfigMap {name}"),
            Self::Env { workload, variable, .. } => write!(f, "variable {variable} of {workload}"),
        }
    }
}

const ENDPOINT: &str = "{{endpoint}}";
const PORT: &str = "{{port}}";
const DATABASE: &str = "{{database}}";

impl Connection {
    fn template(&self) -> Option<&str> {
        match self {
            Self::Secret { template, .. } | Self::ConfigMap { template, .. } | Self::Env { template, .. } => {
                template.as_deref()
            }
        }
    }

    /// What is wrong with it as a plan gives it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let empty = match self {
            Self::Secret { name, key, .. } | Self::ConfigMap { name, key, .. } => name.is_empty() || key.is_empty(),
            Self::Env { workload, variable, .. } => workload.name.is_empty() || variable.is_empty(),
        };
        if empty {
            return Some("a name is missing".to_owned());
        }
        let template = self.template()?;
        if let Self::Secret { .. } = self
            && ![ENDPOINT, DATABASE].contains(&template)
        {
            let only = format!("the template of a Secret is {ENDPOINT} or {DATABASE} alone");
            return Some(format!("{only}: a plan is kept where a credential must not be"));
        }
        if !template.contains(ENDPOINT) && !template.contains(DATABASE) {
            return Some(format!("the template has no {ENDPOINT}: it would point to the same place for ever"));
        }
        let credentials = split(template).is_some_and(|url| url.user.contains(':'));
        credentials.then(|| "the template has a password in it; a plan is kept where a password must not be".to_owned())
    }

    /// What in it does not fit databases that are reached in that way.
    #[must_use]
    pub fn misfit(&self, kind: EndpointKind) -> Option<String> {
        let has = |part: &str| self.template().is_some_and(|template| template.contains(part));
        match kind {
            EndpointKind::Host => has(DATABASE)
                .then(|| format!("{DATABASE} is the last part of a database's name, but the new one has a host")),
            EndpointKind::Name if self.template().is_none() => Some(format!(
                "the new database has a name and no host that could be replaced: say with a template, such as \
                 {DATABASE} or {ENDPOINT}, what the value is to be"
            )),
            EndpointKind::Name => {
                has(PORT).then(|| format!("{PORT} is that of a host, but the new database has a name and no host"))
            }
        }
    }

    /// Whether a value needs to name a host for [`point`](Self::point): without a template it does.
    #[must_use]
    pub fn replaces_host(&self) -> bool {
        self.template().is_none()
    }

    /// The value that points to another endpoint, from what the value is now. A port that the endpoint does not say stays
    /// as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is no telling the host from the rest, or if the endpoint
    /// [does not fit](Self::misfit). The value is in no message.
    pub fn point(&self, now: &str, to: &Endpoint) -> Result<String> {
        let invalid = |message: String| {
            Error::new(ErrorKind::Invalid, "moodify", "point to another database", message).on(self.to_string())
        };
        if let Some(misfit) = self.misfit(to.kind()) {
            return Err(invalid(misfit));
        }
        let Some(template) = self.template() else {
            let (before, _, old, after) = parts(now).ok_or_else(|| {
                let message = "its value is neither a host, with or without a port, nor a URL with one".to_owned();
                invalid(message).hint("if there is an @ or / in its user or password, encode them (%40, %2F)")
            })?;
            // Where no port is said, it is not said anew: it stands elsewhere, or a service record tells it.
            let named = old.is_some() || (before.contains("://") && !before.contains("+srv://"));
            let port = to.port().filter(|_| named).or(old);
            return Ok(format!("{before}{}{after}", Endpoint::Host { host: to.place().to_owned(), port }));
        };
        let port = to.port().or_else(|| parts(now)?.2);
        if template.contains(PORT) && port.is_none() {
            return Err(invalid(format!("nobody says what {PORT} is: neither the new database nor the old value"))
                .hint("write the port into the template"));
        }
        let port = port.map(|port| port.to_string()).unwrap_or_default();
        let database = to.place().rsplit('/').next().unwrap_or_default();
        Ok(template.replace(ENDPOINT, to.place()).replace(PORT, &port).replace(DATABASE, database))
    }

    /// The endpoint to which a value points, if that can be told.
    #[must_use]
    pub fn endpoint_in(&self, value: &str) -> Option<Endpoint> {
        let host = parts(value).map(|(_, host, port, _)| Endpoint::Host { host, port });
        // Only where a plan says that the value is nothing but that it may be one.
        host.or_else(|| self.template().and_then(|_| name(value.trim())).map(Endpoint::Name))
    }
}

/// A URL with an authority.
struct Url<'a> {
    /// Until the host begins.
    before: &'a str,
    /// With its password.
    user: &'a str,
    hosts: &'a str,
    after: &'a str,
}

fn split(value: &str) -> Option<Url<'_>> {
    let begin = value.find("://")? + 3;
    let end = value[begin..].find(['/', '?', '#']).map_or(value.len(), |at| begin + at);
    let authority = &value[begin..end];
    let hosts = authority.rfind('@').map_or(begin, |at| begin + at + 1);
    let user = value[begin..hosts].trim_end_matches('@');
    Some(Url { before: &value[..hosts], user, hosts: &value[hosts..end], after: &value[end..] })
}

/// What stands before the host, the host, its port, and what stands after.
fn parts(value: &str) -> Option<(&str, String, Option<u16>, &str)> {
    let Some(url) = split(value) else {
        let bare = value.trim();
        let begin = value.len() - value.trim_start().len();
        let (host, port) = host(bare)?;
        return Some((&value[..begin], host, port, &value[begin + bare.len()..]));
    };
    // A password with a bare slash in it would be taken for the host.
    if url.after.contains('@') {
        return None;
    }
    // Of several hosts the first tells the port; all of them are the old database.
    let (host, port) = host(url.hosts.split(',').next()?)?;
    Some((url.before, host, port, url.after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret() -> Connection {
        Connection::Secret { name: "database".into(), key: "URI".into(), template: None }
    }

    fn config(template: &str) -> Connection {
        let template = Some(template.to_owned());
        Connection::ConfigMap { name: "settings".into(), key: "DATABASE".into(), template }
    }

    #[test]
    fn only_the_host_and_the_port_are_replaced() {
        for (to, now, then) in [
            ("new", "old", "new"),
            ("new:1", "old", "new"),
            ("new", "old:27017\n", "new:27017\n"),
            ("new:1", "old:27017", "new:1"),
            ("new", "mongodb://old/", "mongodb://new/"),
            ("new:1", "mongodb://old/db", "mongodb://new:1/db"),
            ("new", "mongodb://u:p%40w@a:1,b:2,c:3/db?replicaSet=rs0", "mongodb://u:p%40w@new:1/db?replicaSet=rs0"),
            ("new", "mongodb://u:p@w@old:1", "mongodb://u:p@w@new:1"),
            ("new:1", "mongodb+srv://u:p@old/db", "mongodb+srv://u:p@new/db"),
            ("[::1]:5", "postgres://[fe80::2]:4/db", "postgres://[::1]:5/db"),
        ] {
            assert_eq!(secret().point(now, &to.parse().unwrap()).unwrap(), then, "{now} to {to}");
        }
    }

    #[test]
    fn a_value_whose_host_cannot_be_told_is_left_alone_and_not_repeated() {
        for now in ["", "mongodb://u:12/x@old/", "mongodb://u:hunter2@", "host=old user=u password=hunter2"] {
            let error = secret().point(now, &"new".parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_template_makes_the_whole_value() {
        let to = |text: &str| text.parse::<Endpoint>().unwrap();
        let whole = config("mongodb://user@{{endpoint}}:{{port}}/");
        assert_eq!(whole.point("whatever it was", &to("new:1")).unwrap(), "mongodb://user@new:1/");
        assert_eq!(whole.point("mongodb://x@old:27017/", &to("new")).unwrap(), "mongodb://user@new:27017/");
        assert!(whole.point("old", &to("new")).unwrap_err().message().contains("what {{port}} is"));
    }

    #[test]
    fn templates_that_cannot_be_good_are_told() {
        assert_eq!(config("mongodb://user@{{endpoint}}/").problem(), None);
        assert!(config("mongodb://old/").problem().unwrap().contains("no {{endpoint}}"));
        assert!(config("mongodb://user:pw@{{endpoint}}/").problem().unwrap().contains("a password"));
        for (template, fits) in [("{{database}}", true), ("{{endpoint}}", true), ("mongodb://{{endpoint}}/", false)] {
            let secret = json!({"secret": {"name": "a", "key": "b", "template": template}});
            assert_eq!(serde_json::from_value::<Connection>(secret).unwrap().problem().is_none(), fits, "{template}");
        }
    }

    #[test]
    fn a_name_goes_where_the_plan_says_so_and_nowhere_else() {
        let to: Endpoint = "projects/p/databases/moods-restored".parse().unwrap();
        for (template, then) in [
            ("{{database}}", "moods-restored"),
            ("{{endpoint}}", "projects/p/databases/moods-restored"),
            ("firestore:{{database}}", "firestore:moods-restored"),
        ] {
            assert_eq!(config(template).point("whatever it was", &to).unwrap(), then);
        }
        let refused = |connection: &Connection, kind| connection.misfit(kind).unwrap_or_default();
        assert!(refused(&secret(), EndpointKind::Name).contains("no host that could be replaced"));
        assert!(refused(&config("{{endpoint}}:{{port}}"), EndpointKind::Name).contains("{{port}} is that of a host"));
        assert!(refused(&config("{{database}}"), EndpointKind::Host).contains("has a host"));
        assert!(secret().point("mongodb://old/", &to).is_err());
        assert_eq!(config("{{endpoint}}").endpoint_in("projects/p/databases/moods\n"), {
            Some(Endpoint::Name("projects/p/databases/moods".to_owned()))
        });
        assert_eq!(secret().endpoint_in("correct/horse/battery"), None, "it may be a password");
        for none in ["a//b", "//a", "a/", "/", "a b/c", "u:p@h/d", "mongodb://h/d"] {
            assert!(none.parse::<Endpoint>().is_err(), "{none}");
        }
    }
}
