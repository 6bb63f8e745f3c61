//! Which request meets which fault.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// What happens to a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429 with `Retry-After` in seconds; the API server never sees the request.
    Throttle(u32),
    /// Another answer that is none of the API server's, as 401, 409, 410, 500 or 503; it never sees the request.
    Refuse(u16),
    /// The connection is reset before anything of the request is passed on.
    ResetBefore,
    /// The API server carries the request out; half of its answer passes, then the connection is reset. A watch is reset
    /// after a second.
    ResetInAnswer,
    /// The API server carries the request out, and the connection is reset before a byte of the answer passes.
    LoseAnswer,
    /// The request is passed on this much later, also when nobody waits for the answer any more.
    Stall(Duration),
    /// A watch ends in order after a second.
    CloseWatch,
    /// A watch is told after a second that its version is too old (410, as an event).
    Expire,
    /// A read is answered with the version of the object before the newest one that passed through here.
    Stale,
}

impl Fault {
    /// Whether who sent the request cannot know whether it was carried out.
    pub fn leaves_unknown(self) -> bool {
        match self {
            Self::ResetBefore | Self::ResetInAnswer | Self::LoseAnswer | Self::Stall(_) => true,
            Self::Refuse(code) => code >= 500,
            Self::Throttle(_) | Self::CloseWatch | Self::Expire | Self::Stale => false,
        }
    }
}

/// A fault and the requests that meet it.
///
/// ```
/// use moodify_tests::rig::{Fault, Rule};
/// // The second and third change of a route.
/// let rule = Rule::new(Fault::Refuse(409)).verb("PATCH").path("/httproutes/").from(2).times(2);
/// ```
#[derive(Debug)]
pub struct Rule {
    fault: Fault,
    verbs: Vec<&'static str>,
    path: String,
    from: usize,
    times: usize,
    chance: f64,
    /// The requests that met it, if each is to meet it once.
    met: Option<HashSet<String>>,
    early: bool,
    seen: usize,
}

impl Rule {
    /// The first request, from the first write on: what is asked before may refuse a release, and nothing more.
    pub fn new(fault: Fault) -> Self {
        let (verbs, path) = (Vec::new(), String::new());
        Self { fault, verbs, path, from: 1, times: 1, chance: 1.0, met: None, early: false, seen: 0 }
    }

    /// Only `GET`, `WATCH`, `POST`, `PATCH`, `PUT` or `DELETE`. Said twice, either.
    #[must_use]
    pub fn verb(mut self, verb: &'static str) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Only what changes something.
    #[must_use]
    pub fn writes(self) -> Self {
        self.verb("POST").verb("PATCH").verb("PUT").verb("DELETE")
    }

    /// Only what asks.
    #[must_use]
    pub fn reads(self) -> Self {
        self.verb("GET").verb("WATCH")
    }

    /// Only where this is in the path.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        part.clone_into(&mut self.path);
        self
    }

    /// From the `n`th such request on, the first being 1.
    #[must_use]
    pub fn from(mut self, n: usize) -> Self {
        self.from = n;
        self
    }

    /// So many of them; one if it is not said.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    /// All of them from there on.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Also before the first write.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Each request once; it passes when it is repeated.
    #[must_use]
    pub fn each_once(mut self) -> Self {
        self.met = Some(HashSet::new());
        self.always()
    }

    /// Each with this chance, from 0 to 1.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self.always()
    }

    /// Whether this request meets it. `begun` after the first write.
    pub(super) fn meets(&mut self, request: &Passed, begun: bool, random: &mut fastrand::Rng) -> Option<Fault> {
        let fits = self.verbs.is_empty() || self.verbs.contains(&request.verb.as_str());
        if !fits || !request.path.contains(&self.path) || !(begun || self.early) {
            return None;
        }
        self.seen += 1;
        if self.seen < self.from || self.seen - self.from >= self.times || random.f64() >= self.chance {
            return None;
        }
        let Passed { verb, path, query, body, .. } = request;
        // Of a watch and its list, the version is another each time.
        let query = if verb == "GET" { query.as_str() } else { "" };
        let first = self.met.as_mut().is_none_or(|met| met.insert(format!("{verb} {path} {query} {body}")));
        first.then_some(self.fault)
    }
}

/// A request that came to the proxy, in the order of coming.
#[derive(Debug, Clone)]
pub struct Passed {
    /// `GET`, `WATCH`, `POST`, `PATCH`, `PUT` or `DELETE`.
    pub verb: String,
    /// Its path, without the query.
    pub path: String,
    /// Its query.
    pub query: String,
    /// Its body; null if it has none.
    pub body: Value,
    /// When it came.
    pub at: Instant,
    /// What it met.
    pub fault: Option<Fault>,
    /// What the API server answered, if it was asked and has answered.
    pub code: Option<u16>,
}

impl Passed {
    /// Whether it changes something, if it is carried out.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "GET" | "WATCH") && !self.query.contains("dryRun=All") && !self.is_review()
    }

    /// A question that is put as an object.
    fn is_review(&self) -> bool {
        self.path.contains("/authorization.k8s.io/") || self.path.contains("/authentication.k8s.io/")
    }

    /// Whether it reads the object at this path, or the list in which it is.
    pub fn reads(&self, path: &str) -> bool {
        let collection = path.rsplit_once('/').map_or(path, |(collection, _)| collection);
        let name = path.rsplit('/').next().unwrap_or_default();
        let of_all = self.path == collection && (self.query.contains(name) || !self.query.contains("fieldSelector"));
        matches!(self.verb.as_str(), "GET" | "WATCH") && (self.path == path || of_all)
    }

    /// Why carrying it out twice does no more than carrying it out once, if that is so: it compares first.
    pub fn compares(&self) -> Option<&'static str> {
        match self.verb.as_str() {
            "PATCH" => match self.body.as_array() {
                Some(operations) => operations.iter().any(|o| o["op"] == "test").then_some("a patch with a test"),
                None if self.query.contains("force=true") => {
                    let version = &self.body["metadata"]["resourceVersion"];
                    version.is_string().then_some("an apply of one version")
                }
                None => Some("an apply that gives way to others"),
            },
            "DELETE" => self.body["preconditions"]["uid"].is_string().then_some("a deletion of one uid"),
            "POST" => self.body["metadata"]["name"].is_string().then_some("a creation under one name"),
            _ => self.body["metadata"]["resourceVersion"].is_string().then_some("an update of one version"),
        }
    }
}
