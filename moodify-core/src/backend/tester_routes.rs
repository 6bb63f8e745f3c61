use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::model::Target;

/// How testers are known: by a header of their requests, or by a cookie.
///
/// ```
/// use moodify_core::backend::Testers;
/// assert_eq!(Testers::by_cookie("beta", "yes").to_string(), "requests with the cookie beta=yes");
/// let neither: Testers = serde_json::from_str(r#"{"value": "yes"}"#).unwrap();
/// assert_eq!(neither.problems()[0].1, "say how testers are known: by a `header` or by a `cookie`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Testers {
    /// The header's name; exactly one of this and `cookie`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The cookie's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value of the header or the cookie, exactly.
    pub value: String,
}

/// What in a request tells a tester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark<'a> {
    /// A header of this name.
    Header(&'a str),
    /// A cookie of this name.
    Cookie(&'a str),
}

impl Testers {
    /// Known by a header.
    #[must_use]
    pub fn by_header(name: &str, value: &str) -> Self {
        Self { header: Some(name.to_owned()), cookie: None, value: value.to_owned() }
    }

    /// Known by a cookie.
    #[must_use]
    pub fn by_cookie(name: &str, value: &str) -> Self {
        Self { header: None, cookie: Some(name.to_owned()), value: value.to_owned() }
    }

    /// What tells them. Of what has [`problems`](Self::problems), the header first.
    #[must_use]
    pub fn mark(&self) -> Mark<'_> {
        match (&self.header, &self.cookie) {
            (None, Some(name)) => Mark::Cookie(name),
            (header, _) => Mark::Header(header.as_deref().unwrap_or_default()),
        }
    }

    /// What is wrong with it: where (a JSON pointer from here on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        // A token (RFC 9110, 5.6.2), and what is visible of a field's value.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let mut problems = Vec::new();
        let mut report = |at: &str, what: &str| problems.push((at.to_owned(), what.to_owned()));
        match (&self.header, &self.cookie) {
            (None, None) => report("", "say how testers are known: by a `header` or by a `cookie`"),
            (Some(_), Some(_)) => report("/cookie", "testers are known by a header already: take one of the two"),
            _ => {}
        }
        for (key, name) in [("header", &self.header), ("cookie", &self.cookie)] {
            if let Some(name) = name.as_ref().filter(|name| name.is_empty() || !name.chars().all(token)) {
                report(&format!("/{key}"), &format!("{name:?} is not the name of a {key}"));
            }
        }
        if self.value.is_empty() || !self.value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            report("/value", "a value here is visible ASCII, and not nothing");
        // RFC 6265, 4.1.1.
        } else if self.cookie.is_some() && self.value.contains([' ', '"', ',', ';', '\\']) {
            report("/value", "a cookie's value has no spaces, quotes, commas, semicolons and backslashes");
        }
        problems
    }
}

impl fmt::Display for Testers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark() {
            Mark::Header(name) => write!(f, "requests with {name}: {}", self.value),
            Mark::Cookie(name) => write!(f, "requests with the cookie {name}={}", self.value),
        }
    }
}

/// Sends the requests of testers to the canary, before it gets a share of the others. Not every router can: one that can is
/// among the backends by the router's name.
///
/// # Contract
/// - `admit` changes nothing for requests without the header or cookie, nor what others wrote in the routing object. It may be called
///   again; if all is as asked for already, nothing is written.
/// - Weights that are set meanwhile are about the other requests only.
/// - `dismiss` removes what `admit` made, also in an object that somebody else edited meanwhile. Fine if there is nothing.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait TesterRoutes: Send + Sync + fmt::Debug {
    /// Whether it can tell these requests from others. Asks nobody.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if not.
    fn check(&self, testers: &Testers) -> Result<()>;

    /// Sends the testers' requests to the canary.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no routing object;
    /// [`Drift`](crate::ErrorKind::Drift) if it leads somewhere else for testers already.
    async fn admit(&self, cx: &CallContext, target: &Target, testers: &Testers) -> Result<()>;

    /// Sends them where all requests go.
    ///
    /// # Errors
    /// When the routing object cannot be changed.
    async fn dismiss(&self, cx: &CallContext, target: &Target) -> Result<()>;

    /// Commands with which a person does what [`dismiss`](Self::dismiss) does without moodify. Asks nobody.
    fn by_hand(&self, target: &Target) -> Vec<String>;
}
