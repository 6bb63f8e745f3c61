use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::model::Target;

/// How testers are known: by a header of their requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Testers {
    /// The header's name.
    pub header: String,
    /// Its value, exactly.
    pub value: String,
}

impl Testers {
    /// What is wrong with it: where (a JSON pointer from here on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        // A token (RFC 9110, 5.6.2), and what is visible of a field's value.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let mut problems = Vec::new();
        if self.header.is_empty() || !self.header.chars().all(token) {
            problems.push(("/header".to_owned(), format!("{:?} is not the name of a header", self.header)));
        }
        if self.value.is_empty() || !self.value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            problems.push(("/value".to_owned(), "a header's value here is visible ASCII, and not nothing".to_owned()));
        }
        problems
    }
}

impl fmt::Display for Testers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "requests with {}: {}", self.header, self.value)
    }
}

/// Sends the requests of testers to the canary, before it gets a share of the others. Not every router can: one that can is
/// among the backends by the router's name.
///
/// # Contract
/// - `admit` changes nothing for requests without the header, nor what others wrote in the routing object. It may be called
///   again; if all is as asked for already, nothing is written.
/// - Weights that are set meanwhile are about the other requests only.
/// - `dismiss` removes what `admit` made, also in an object that somebody else edited meanwhile. Fine if there is nothing.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait TesterRoutes: Send + Sync + fmt::Debug {
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
