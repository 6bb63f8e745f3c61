use std::sync::Arc;

use super::CacheAdmin;
use crate::error::{Error, ErrorKind, Result};

/// All that administers one cache.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Cache {
    /// Its data.
    pub data: Option<Arc<dyn CacheAdmin>>,
}

impl Cache {
    /// A cache of which the data can be administered.
    #[must_use]
    pub fn data(data: Arc<dyn CacheAdmin>) -> Self {
        Self { data: Some(data) }
    }

    /// What administers its data.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if nothing does.
    pub fn admin(&self) -> Result<&Arc<dyn CacheAdmin>> {
        self.data.as_ref().ok_or_else(|| {
            let message = "nothing is set up that administers the data of this cache";
            Error::new(ErrorKind::Unsupported, "moodify", "find a backend", message)
        })
    }
}
