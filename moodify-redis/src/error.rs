//! The only place where errors of the client library become moodify's.

use std::error::Error as StdError;
use std::io;

use moodify_core::{Effect, Error, ErrorKind};
use redis::{ErrorKind as Redis, RedisError, ServerErrorKind};

pub(crate) const BACKEND: &str = "redis";

/// What a failed request may have done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It changes nothing, whatever happens.
    Read,
    /// Lost after it was sent, it may have changed something.
    Write,
}

impl Access {
    /// The effect of a request whose answer never came.
    pub(crate) fn unanswered(self) -> Effect {
        match self {
            Self::Read => Effect::None,
            Self::Write => Effect::Unknown,
        }
    }
}

/// Maps the failure of a request, or of the login before it.
pub(crate) fn from_redis(error: RedisError, operation: &'static str, access: Access) -> Error {
    let (kind, hint) = classify(&error);
    // A server that answers with an error has done nothing; who does not answer properly may have.
    let answered = matches!(error.kind(), Redis::Server(_) | Redis::Extension | Redis::AuthenticationFailed);
    let before_sending = matches!(error.kind(), Redis::InvalidClientConfig | Redis::Client);
    let effect = if answered || before_sending { Effect::None } else { access.unanswered() };
    let mapped = Error::new(kind, BACKEND, operation, error.to_string()).effect(effect).with_source(error);
    if hint.is_empty() { mapped } else { mapped.hint(hint) }
}

/// Whether a node says that another one has the key, or is about to.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.kind(), Redis::Server(ServerErrorKind::Moved | ServerErrorKind::Ask))
}

fn classify(error: &RedisError) -> (ErrorKind, &'static str) {
    use ServerErrorKind as Server;
    match (error.kind(), error.code().unwrap_or_default()) {
        (Redis::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS") => {
            (ErrorKind::Unauthenticated, "check the username and the password of the cache")
        }
        (Redis::Server(Server::NoPerm), _) => {
            (ErrorKind::Forbidden, "allow the command to this user: ACL SETUSER <user> +<command>")
        }
        (_, "DENIED") => (ErrorKind::Forbidden, "the server is in protected mode"),
        (Redis::Server(Server::ReadOnly), _) => {
            (ErrorKind::Unavailable, "this is a replica, or a failover is under way; connect to the primary")
        }
        (Redis::Server(Server::BusyLoading | Server::TryAgain | Server::ClusterDown | Server::MasterDown), _)
        | (_, "BUSY" | "MISCONF" | "OOM") => (ErrorKind::Unavailable, ""),
        (Redis::Server(Server::ResponseError), _)
            if error.detail().is_some_and(|d| d.starts_with("max number of clients")) =>
        {
            (ErrorKind::Unavailable, "the server is at its maxclients")
        }
        (Redis::Server(Server::Moved | Server::Ask), _) => {
            (ErrorKind::Unavailable, "the slots of the cluster are moving to other nodes")
        }
        (_, "INPROG" | "NOGOODSLAVE") => (ErrorKind::Unavailable, "SENTINEL MASTER and SENTINEL REPLICAS say why"),
        (Redis::Server(Server::ResponseError), _)
            if error.detail().is_some_and(|d| d.starts_with("unknown command")) =>
        {
            (ErrorKind::Unsupported, "the server does not have this command, or whoever runs it has taken it away")
        }
        (Redis::Server(_) | Redis::Extension | Redis::InvalidClientConfig | Redis::Client, _) => {
            (ErrorKind::Invalid, "")
        }
        (Redis::Io, _) => (ErrorKind::Unavailable, ""),
        _ => (ErrorKind::Internal, "is this a Redis server?"),
    }
}

/// Maps a failure to connect: nothing was asked of the server yet.
pub(crate) fn from_connect(error: io::Error, operation: &'static str) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (kind, message, hint) = match tls {
        // A certificate does not become trusted by trying again.
        Some(rustls::Error::InvalidCertificate(why)) => (
            ErrorKind::Invalid,
            format!("the server's certificate is not trusted: {why}"),
            Some("give its authority with ca-file, and the host name that is in the certificate"),
        ),
        Some(rustls::Error::InvalidMessage(_)) => (
            ErrorKind::Invalid,
            format!("the server does not speak TLS: {error}"),
            Some("use redis:// without the second s"),
        ),
        _ => (ErrorKind::Unavailable, format!("cannot connect: {error}"), None),
    };
    let mapped = Error::new(kind, BACKEND, operation, message).with_source(error);
    if let Some(hint) = hint { mapped.hint(hint) } else { mapped }
}

/// A trust store or a host name that TLS cannot work with.
pub(crate) fn from_tls_setup(what: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let source = source.into();
    Error::new(ErrorKind::Invalid, BACKEND, "set up TLS", format!("{}: {source}", what.into())).with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn answers_of_the_server_are_told_apart() {
        for (line, kind, transient) in [
            ("NOAUTH Authentication required.", ErrorKind::Unauthenticated, false),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Unauthenticated, false),
            ("NOPERM this user has no permissions to run the 'flushdb' command", ErrorKind::Forbidden, false),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, true),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable, true),
            ("BUSY Redis is busy running a script.", ErrorKind::Unavailable, true),
            ("ERR max number of clients reached", ErrorKind::Unavailable, true),
            ("ERR unknown command 'FLUSHDB'", ErrorKind::Unsupported, false),
            ("ERR wrong number of arguments", ErrorKind::Invalid, false),
            ("NOGOODSLAVE No suitable replica to promote", ErrorKind::Unavailable, true),
            ("MOVED 1 127.0.0.1:7001", ErrorKind::Unavailable, true),
        ] {
            let error = from_redis(answer(line), "flush", Access::Write);
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{line}");
            assert_eq!(error.effect_of(), Effect::None, "{line}: the server refused it");
        }
    }

    #[test]
    fn a_lost_answer_leaves_the_effect_of_a_write_unknown() {
        let lost = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(from_redis(lost(), "flush", Access::Write).effect_of(), Effect::Unknown);
        assert_eq!(from_redis(lost(), "ping", Access::Read).effect_of(), Effect::None);
        assert_eq!(from_redis(lost(), "ping", Access::Read).kind(), ErrorKind::Unavailable);
    }
}
