//! The pods of one ReplicaSet and image: some faults hit a share of them, or begin when there are enough of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::behaviour::Behaviour;

type Key = (String, String);

/// All groups of the node.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<Key, Weak<Group>>>);

struct Group {
    ordinals: Mutex<BTreeSet<u32>>,
    /// When there were first enough pods for the faults to begin.
    complete: watch::Sender<Option<Instant>>,
}

/// A pod's place in its group, free again when dropped.
pub(super) struct Member {
    behaviour: Behaviour,
    group: Arc<Group>,
    ordinal: u32,
}

impl Groups {
    /// Takes the lowest free place in the group of this pod.
    pub(super) fn join(&self, pod: &Pod, image: &str, behaviour: Behaviour) -> Member {
        let owner = pod.owner_references().first().map_or_else(|| pod.uid().unwrap_or_default(), |o| o.uid.clone());
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, group| group.strong_count() > 0);
        let key = (owner, image.to_owned());
        let group = groups.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let group = Arc::new(Group { ordinals: Mutex::default(), complete: watch::Sender::new(None) });
            groups.insert(key, Arc::downgrade(&group));
            group
        });
        let mut ordinals = group.ordinals.lock().unwrap_or_else(PoisonError::into_inner);
        let ordinal = (0..).find(|ordinal| !ordinals.contains(ordinal)).expect("a node has few pods");
        ordinals.insert(ordinal);
        if ordinals.len() >= behaviour.when.unwrap_or(0) as usize {
            group.complete.send_if_modified(|since| {
                let first = since.is_none();
                since.get_or_insert_with(Instant::now);
                first
            });
        }
        drop(ordinals);
        Member { behaviour, group, ordinal }
    }
}

impl Member {
    pub(super) fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The moment from which delays of faults count, once it has come.
    pub(super) fn faults_begin(&self, started: Instant) -> Option<Instant> {
        self.group.complete.borrow().map(|complete| complete.max(started))
    }

    /// Waits for that moment.
    pub(super) async fn faults_begun(&self, started: Instant) -> Instant {
        let mut complete = self.group.complete.subscribe();
        let since = complete.wait_for(Option::is_some).await.expect("the sender lives in this very group");
        since.map_or(started, |since| since.max(started))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.ordinals.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ordinal);
    }
}
