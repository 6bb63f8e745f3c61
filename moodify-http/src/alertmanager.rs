use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use moodify_core::backend::{
    Incident, IncidentStatus, IncidentUpdate, Maintenance, StatusPage, StatusPageCapabilities,
};
use moodify_core::clock::{Clock, SystemClock, since};
use moodify_core::secret::Secret;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::client::{Call, HttpClient};
use crate::endpoint::Endpoint;
use crate::error;
use crate::status_page::backwards;

const BACKEND: &str = "Alertmanager";

/// How long a silence lasts after the run spoke last.
const LASTS: Duration = Duration::from_secs(2 * 60 * 60);

/// Begins the name of a silence's creator; the idempotency key follows.
const CREATOR: &str = "moodify ";

/// A silence in Alertmanager for the time of a deployment: put it beside the status page with
/// [`StatusPages`](moodify_core::backend::StatusPages), and it is created, extended and expired as the incident is opened,
/// updated and resolved.
///
/// Status and message are the silence's comment, the idempotency key its creator. Every update extends it; should the
/// run never come to its end, it runs out by itself. One that a person ended early is not made again.
///
/// ```
/// # fn main() -> moodify_core::Result<()> {
/// use moodify_http::{AlertmanagerSilence, HttpClient};
/// let matchers = vec!["namespace=moodify-production".parse()?, "severity=~info|warning".parse()?];
/// let silence = AlertmanagerSilence::new(HttpClient::new()?, "http://alertmanager:9093", matchers)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AlertmanagerSilence {
    client: HttpClient,
    silence: Endpoint,
    silences: Endpoint,
    matchers: Vec<Matcher>,
    lasts: Duration,
    token: Option<Secret>,
}

/// Which alerts are silenced: `name=value`, `name!=value`, or with a regular expression for all of the value
/// `name=~value`, `name!~value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Matcher {
    name: String,
    value: String,
    is_regex: bool,
    is_equal: bool,
}

impl FromStr for Matcher {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let at = text.find(['=', '!']).unwrap_or(text.len());
        let (name, rest) = text.split_at(at);
        let operators = [("=~", true, true), ("!~", true, false), ("!=", false, false), ("=", false, true)];
        let found = operators.iter().find_map(|(operator, is_regex, is_equal)| {
            rest.strip_prefix(operator).map(|value| (value.trim().trim_matches('"'), *is_regex, *is_equal))
        });
        let mut letters = name.trim().chars();
        let named = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        let Some((value, is_regex, is_equal)) = found.filter(|_| named) else {
            let message = format!("{text:?} is not a matcher: it is like severity=warning, or with =~, != or !~");
            return Err(Error::new(ErrorKind::Invalid, BACKEND, "read a matcher", message));
        };
        Ok(Self { name: name.trim().to_owned(), value: value.to_owned(), is_regex, is_equal })
    }
}

impl AlertmanagerSilence {
    /// Silences, at the Alertmanager whose own page is found at `url`, the alerts that all of these match.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not an address, or the matchers would silence everything.
    pub fn new(client: HttpClient, url: &str, matchers: Vec<Matcher>) -> Result<Self> {
        let base = Endpoint::public(url).map_err(|e| Error::new(ErrorKind::Invalid, BACKEND, "set up", e).on("url"))?;
        // Those that name no value at all silence whatever has no such label.
        if !matchers.iter().any(|matcher| matcher.is_equal && !matcher.value.is_empty() && matcher.value != ".*") {
            let message = "no matcher says which alerts are silenced: all would be";
            return Err(Error::new(ErrorKind::Invalid, BACKEND, "set up", message)
                .on("matchers")
                .hint("name the namespace that is deployed to, as namespace=production"));
        }
        let (silence, silences) = (base.below(&["api", "v2", "silence"]), base.below(&["api", "v2", "silences"]));
        Ok(Self { client, silence, silences, matchers, lasts: LASTS, token: None })
    }

    /// The same, whose silence runs out so long after the run spoke last. By default two hours; it should be more than
    /// the longest time between two steps that speak.
    #[must_use]
    pub fn lasting(mut self, lasts: Duration) -> Self {
        self.lasts = lasts;
        self
    }

    /// The same, which sends a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    fn call<'a>(&'a self, operation: &'static str, method: Method, endpoint: &'a Endpoint) -> Call<'a> {
        Call::new(BACKEND, operation, method, endpoint).token(self.token.as_ref())
    }

    /// Creates a silence, or changes the one of this id. What cannot be changed in place gets a new id.
    async fn post(
        &self,
        cx: &CallContext,
        operation: &'static str,
        id: Option<&str>,
        (from, until): (Timestamp, Timestamp),
        update: &IncidentUpdate,
    ) -> Result<Incident> {
        let call = self.call(operation, Method::POST, &self.silences).json(&Posted {
            id,
            matchers: &self.matchers,
            starts_at: from,
            ends_at: until,
            created_by: format!("{CREATOR}{}", cx.key()),
            comment: comment(update),
        })?;
        let answer = self.client.send_ok(cx, &call).await?;
        let made: Made = answer.json(&call)?;
        Ok(Incident::after(made.silence_id, update))
    }

    async fn read(&self, cx: &CallContext, id: &str) -> Result<Silence> {
        let endpoint = self.silence.below(&[id]);
        let call = self.call("read silence", Method::GET, &endpoint);
        let answer = self.client.send(cx, &call).await?;
        match answer.status {
            // What is no UUID cannot be asked for.
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
                let message = format!("there is no silence {id:?}");
                Err(Error::new(ErrorKind::NotFound, BACKEND, "read silence", message).on(self.silences.to_string()))
            }
            status if status.is_success() => answer.json(&call),
            _ => Err(error::from_status(&call, &answer)),
        }
    }
}

#[async_trait]
impl StatusPage for AlertmanagerSilence {
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(true)
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        if let Some(adopted) = self.find(cx).await? {
            return Ok(adopted);
        }
        let now = SystemClock.now();
        self.post(cx, "create silence", None, (now, now + self.lasts), update).await
    }

    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident> {
        const OPERATION: &str = "schedule silence";
        backwards(BACKEND, OPERATION, maintenance)?;
        if let Some(adopted) = self.find(cx).await? {
            return Ok(adopted);
        }
        let Maintenance { from, until, message, .. } = maintenance;
        let now = SystemClock.now();
        let status = if *from <= now { IncidentStatus::Investigating } else { IncidentStatus::Scheduled };
        let update = IncidentUpdate::new(status, message);
        self.post(cx, OPERATION, None, ((*from).max(now), *until), &update).await
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let call = self.call("list silences", Method::GET, &self.silences);
        let listed: Vec<Silence> = self.client.send_ok(cx, &call).await?.json(&call)?;
        let key = Some(cx.key().as_str());
        let ours = |silence: &Silence| !silence.is_over() && silence.created_by.strip_prefix(CREATOR) == key;
        Ok(listed.into_iter().find(ours).map(Silence::shown))
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        const OPERATION: &str = "extend silence";
        let silence = self.read(cx, id).await?;
        let now = SystemClock.now();
        match (silence.is_over(), update.status) {
            (true, IncidentStatus::Resolved) => Ok(Incident::after(id, update)),
            (false, IncidentStatus::Resolved) => {
                let endpoint = self.silence.below(&[id]);
                self.client.send_ok(cx, &self.call("expire silence", Method::DELETE, &endpoint)).await?;
                Ok(Incident::after(id, update))
            }
            (true, _) if silence.was_ended_early() => {
                let message = "somebody ended the silence; alerts come through again";
                Err(Error::new(ErrorKind::NotFound, BACKEND, OPERATION, message).on(id))
            }
            (true, _) => self.post(cx, OPERATION, None, (now, now + self.lasts), update).await,
            (false, _) if silence.comment == comment(update) => Ok(Incident::after(id, update)),
            (false, status) => {
                let waits = status == IncidentStatus::Scheduled;
                let from = if waits || silence.starts_at <= now { silence.starts_at } else { now };
                let until = silence.ends_at.max(now + self.lasts);
                self.post(cx, OPERATION, Some(id), (from, until), update).await
            }
        }
    }
}

/// What people read beside the silence: where it stands, and the message.
fn comment(update: &IncidentUpdate) -> String {
    format!("{}: {}", word(update.status), update.message)
}

fn word(status: IncidentStatus) -> &'static str {
    match status {
        IncidentStatus::Scheduled => "scheduled",
        IncidentStatus::Investigating => "investigating",
        IncidentStatus::Identified => "identified",
        IncidentStatus::Monitoring => "monitoring",
        IncidentStatus::Resolved => "resolved",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    matchers: &'a [Matcher],
    starts_at: Timestamp,
    ends_at: Timestamp,
    created_by: String,
    comment: String,
}

#[derive(Deserialize)]
struct Made {
    #[serde(rename = "silenceID")]
    silence_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    id: String,
    status: State,
    starts_at: Timestamp,
    ends_at: Timestamp,
    updated_at: Timestamp,
    created_by: String,
    comment: String,
}

#[derive(Deserialize)]
struct State {
    state: String,
}

impl Silence {
    fn is_over(&self) -> bool {
        self.status.state == "expired"
    }

    /// Whether somebody ended it: then its end was written at its end, and not before.
    fn was_ended_early(&self) -> bool {
        since(self.updated_at, self.ends_at) < Duration::from_secs(1)
    }

    fn shown(self) -> Incident {
        use IncidentStatus::{Identified, Investigating, Monitoring, Scheduled};
        let read = [Scheduled, Investigating, Identified, Monitoring].into_iter().find_map(|status| {
            let message = self.comment.strip_prefix(word(status))?.strip_prefix(": ")?;
            Some((status, message.to_owned()))
        });
        let (status, message) = read.unwrap_or((Investigating, self.comment.clone()));
        Incident { id: self.id, status, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Matcher>().map(|m| (m.name, m.value, m.is_regex, m.is_equal));
        let is = |name: &str, value: &str, regex, equal| (name.to_owned(), value.to_owned(), regex, equal);
        assert_eq!(read("a=b").unwrap(), is("a", "b", false, true));
        assert_eq!(read("a_1 !~ \"x|y\"").unwrap(), is("a_1", "x|y", true, false));
        assert_eq!(read("a=~b=c").unwrap(), is("a", "b=c", true, true));
        assert_eq!(read("a!=").unwrap(), is("a", "", false, false));
        for bad in ["", "a", "=b", "1a=b", "a b=c", "a!b"] {
            assert_eq!(read(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn nobody_silences_everything_by_accident() {
        for few in [vec![], vec!["a!=b"], vec!["a=~.*"], vec!["a="]] {
            let matchers = few.iter().map(|text| text.parse().unwrap()).collect();
            let refused = AlertmanagerSilence::new(HttpClient::new().unwrap(), "http://127.0.0.1:9093", matchers);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{few:?}");
        }
    }
}
