use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a step put down, kept as JSON text. As a tree it takes five to ten times the memory, of which runs that wait by
/// the thousand in one process have no use.
///
/// ```
/// use moodify_core::journal::Kept;
/// let kept = Kept::from(&serde_json::json!({"replicas": 3}));
/// assert_eq!(kept.value()["replicas"], 3);
/// assert!(kept.read::<Vec<String>>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Kept(Box<str>);

impl Kept {
    /// As a type of one's own.
    ///
    /// # Errors
    /// serde's, if it is none of that type.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }

    /// As a value.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was written from a value, so it can be read as one; only a depth beyond serde_json's limit cannot, and
        // that could not have been read from a journal or a plan either.
        self.read().unwrap_or_default()
    }
}

impl From<&Value> for Kept {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
