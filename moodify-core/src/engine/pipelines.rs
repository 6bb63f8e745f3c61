use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::model::{Phases, Shared};

/// How many runs are read from the journal at once.
const TURNS: usize = 64;

/// The phases that runs of an engine have in common: a hundred thousand runs of one pipeline keep its steps once.
#[derive(Debug)]
pub(crate) struct Pipelines {
    known: Mutex<Known>,
    turns: Semaphore,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self { known: Mutex::default(), turns: Semaphore::new(TURNS) }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// By the hash of what they are written as.
    phases: HashMap<u64, Weak<Shared>>,
    /// When to forget those that no run has any more.
    clean_at: usize,
}

impl Pipelines {
    /// Waits until a run may be read; until what it gives is dropped, it counts as one that is read.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Phases equal to these: those of another run, if one has the same.
    pub(crate) fn shared(&self, phases: Phases) -> Phases {
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(&phases).unwrap_or_default().hash(&mut hasher);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = hasher.finish();
        let same = known.phases.get(&place).and_then(Weak::upgrade).filter(|found| *found == phases.0);
        if let Some(same) = same {
            return Phases(same);
        }
        if known.phases.len() >= known.clean_at {
            known.phases.retain(|_, phases| phases.strong_count() > 0);
            known.clean_at = known.phases.len() * 2 + 16;
        }
        known.phases.insert(place, Arc::downgrade(&phases.0));
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Phase;

    fn phases(name: &str) -> Phases {
        vec![Phase { name: name.into(), parallel: false, steps: Vec::new() }].into()
    }

    #[test]
    fn what_is_equal_is_kept_once_and_what_nobody_has_is_forgotten() {
        let pipelines = Pipelines::default();
        let first = pipelines.shared(phases("one"));
        assert!(Arc::ptr_eq(&first.0, &pipelines.shared(phases("one")).0));
        assert_eq!(*pipelines.shared(phases("two")), *phases("two"));
        for n in 0..1000 {
            pipelines.shared(phases(&n.to_string()));
        }
        assert!(pipelines.known.lock().unwrap().phases.len() < 100);
        assert!(Arc::ptr_eq(&first.0, &pipelines.shared(phases("one")).0));
    }
}
