use std::sync::Arc;

use super::{CacheAdmin, CacheNodes};
use crate::error::{Error, ErrorKind, Result};

/// All that administers one cache.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Cache {
    /// Its data.
    pub data: Option<Arc<dyn CacheAdmin>>,
    /// The nodes that it runs on.
    pub nodes: Option<Arc<dyn CacheNodes>>,
}

impl Cache {
    /// A cache of which the data can be administered.
    #[must_use]
    pub fn data(data: Arc<dyn CacheAdmin>) -> Self {
        Self { data: Some(data), nodes: None }
    }

    /// A cache of which the nodes can be administered.
    #[must_use]
    pub fn of_nodes(nodes: Arc<dyn CacheNodes>) -> Self {
        Self { data: None, nodes: Some(nodes) }
    }

    /// The same with what administers its nodes: ElastiCache for these, Redis for the data, one handle.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<dyn CacheNodes>) -> Self {
        self.nodes = Some(nodes);
        self
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
