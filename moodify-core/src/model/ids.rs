use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Names one run: at most 40 lower-case letters, digits and dashes, so that it is a label value and a file name.
///
/// ```
/// use moodify_core::RunId;
/// assert!(RunId::new("20261124-150000-3fa9c1").is_ok());
/// assert!(RunId::new("../etc").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

impl RunId {
    /// A run's name from its text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is empty, too long or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > 40 || !text.chars().all(fits) || text.starts_with('-') || text.ends_with('-')
        {
            let message = format!("{text:?} is not the name of a run: at most 40 of a-z, 0-9 and inner dashes");
            return Err(Error::new(ErrorKind::Invalid, "moodify", "name a run", message));
        }
        Ok(Self(text.into()))
    }

    /// A fresh name that sorts by time: date, time and six random hex digits.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        let random = uuid::Uuid::now_v7().simple().to_string();
        Self(format!("{}-{}", now.strftime("%Y%m%d-%H%M%S"), &random[random.len() - 6..]).into())
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for RunId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0.as_ref().to_owned()
    }
}
