//! One simulated workload: its pods, and a controller that brings them to what is asked for.

use std::time::Duration;

use crate::backend::{PodState, Replicas, Workload};
use crate::model::{ConfigRefs, ImageRef, RunId};

use super::chance;

/// A pod crashes so long after it began to crash; then every five minutes.
const CRASHES: [u64; 7] = [0, 2, 12, 32, 72, 152, 312];

/// What a version does at one moment, from all its behaviours.
#[derive(Debug, Clone, Default)]
pub(super) struct Conduct {
    pub(super) crashing_since: Option<Duration>,
    pub(super) never_ready: bool,
    pub(super) unready: f64,
    pub(super) error_rate: f64,
    pub(super) latency: f64,
    pub(super) no_metrics: bool,
    pub(super) figures: std::collections::BTreeMap<String, f64>,
    pub(super) pod_start: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Pod {
    number: u32,
    pub(super) image: ImageRef,
    /// When it was created; `None` is long ago.
    born: Option<Duration>,
    was_ready: bool,
    restarts: u32,
}

impl Pod {
    fn started(&self, conduct: &Conduct) -> Duration {
        self.born.map_or(Duration::ZERO, |born| born + conduct.pod_start)
    }

    /// Its state at `now`, being the pod of that rank among `count` of its version.
    pub(super) fn state(
        &self,
        workload: &str,
        conduct: &Conduct,
        rank: usize,
        count: usize,
        now: Duration,
    ) -> PodState {
        let started = self.started(conduct);
        let crashes = self.crashes(conduct, now);
        let failing = (conduct.unready * count as f64 - 1e-9).ceil();
        let reason = if now < started {
            Some("ContainerCreating")
        } else if crashes > 1 {
            Some("CrashLoopBackOff: exit code 1")
        } else if crashes == 1 {
            Some("Error: exit code 1")
        } else if conduct.never_ready || (rank as f64) < failing {
            Some("Readiness probe failed: HTTP probe failed with statuscode: 503")
        } else {
            None
        };
        PodState {
            name: format!("{workload}-{:05x}", chance::mix(&[u64::from(self.number)]) & 0xf_ffff),
            image: self.image.to_string(),
            ready: reason.is_none(),
            was_ready: self.was_ready,
            restarts: self.restarts.max(crashes),
            crash_looping: crashes > 1,
            reason: reason.map(str::to_owned),
        }
    }

    fn crashes(&self, conduct: &Conduct, now: Duration) -> u32 {
        let Some(begin) = self.crash_begin(conduct) else { return 0 };
        let Some(time) = now.checked_sub(begin) else { return 0 };
        let listed = CRASHES.iter().filter(|at| Duration::from_secs(**at) <= time).count();
        let last = CRASHES[CRASHES.len() - 1];
        let more = time.as_secs().saturating_sub(last) / 300;
        listed as u32 + u32::try_from(more).unwrap_or(u32::MAX / 2)
    }

    fn crash_begin(&self, conduct: &Conduct) -> Option<Duration> {
        conduct.crashing_since.map(|since| since.max(self.started(conduct)))
    }

    /// When its state changes next by itself.
    pub(super) fn next_change(&self, conduct: &Conduct, now: Duration) -> Option<Duration> {
        let started = self.started(conduct);
        let crash = self.crash_begin(conduct).and_then(|begin| {
            let listed = CRASHES.iter().map(|at| begin + Duration::from_secs(*at)).find(|at| *at > now);
            listed.or_else(|| {
                let last = begin + Duration::from_secs(CRASHES[CRASHES.len() - 1]);
                let passed = now.saturating_sub(last).as_secs() / 300;
                Some(last + Duration::from_secs((passed + 1) * 300))
            })
        });
        [Some(started), crash].into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// What is asked for, as the controller saw it last.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    image: ImageRef,
    desired: u32,
    hold: Option<Hold>,
}

/// A workload in which only a part may run what is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hold {
    /// How many instances may.
    pub(super) instances: u32,
    /// What the others run: what it was before.
    pub(super) before: ImageRef,
    pub(super) config: ConfigRefs,
}

#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) image: ImageRef,
    /// What its pods read under another name than their manifest's.
    pub(super) config: ConfigRefs,
    /// What they read before, version by version: what could come back.
    pub(super) past: Vec<ConfigRefs>,
    pub(super) desired: u32,
    pub(super) generation: i64,
    pub(super) owner: Option<RunId>,
    pub(super) version: String,
    pub(super) shares_service: bool,
    pub(super) edited_by: Option<String>,
    /// The run that stopped it, and how many instances there were.
    pub(super) stopped: Option<(RunId, u32)>,
    /// Its instances are replaced one by one, without one more meanwhile.
    pub(super) in_place: bool,
    pub(super) hold: Option<Hold>,
    pub(super) pods: Vec<Pod>,
    seen: Seen,
    /// When the controller acts on what is asked for now; `None` if it has.
    due: Option<Duration>,
    progressed: Duration,
    complete: bool,
    next_pod: u32,
}

impl Running {
    /// A workload that was just asked for; the controller creates its pods at `due`.
    pub(super) fn new(name: String, image: ImageRef, desired: u32, due: Duration) -> Self {
        Self {
            name,
            seen: Seen { image: image.clone(), desired: 0, hold: None },
            image,
            config: ConfigRefs::new(),
            past: Vec::new(),
            desired,
            generation: 1,
            owner: None,
            version: String::new(),
            shares_service: false,
            edited_by: None,
            stopped: None,
            in_place: false,
            hold: None,
            pods: Vec::new(),
            due: Some(due),
            progressed: due,
            complete: false,
            next_pod: 0,
        }
    }

    /// A workload that has been running for long.
    pub(super) fn long_running(name: String, image: ImageRef, desired: u32) -> Self {
        let mut new = Self::new(name, image, desired, Duration::ZERO);
        for _ in 0..desired {
            new.create(None, new.image.clone());
        }
        new.seen.desired = desired;
        new.due = None;
        new.complete = true;
        new
    }

    /// What is asked for has changed; the controller acts on it at `due`.
    pub(super) fn asked(&mut self, due: Duration) {
        self.generation += 1;
        self.due = Some(due);
    }

    /// Lets its pods read these objects; what is left out stays. Whether anything changed.
    pub(super) fn read(&mut self, refs: &ConfigRefs) -> bool {
        if refs.iter().all(|(key, object)| self.object(key) == object) {
            return false;
        }
        self.past.push(self.config.clone());
        self.config.extend(refs.clone());
        true
    }

    /// The object that its pods read for this configuration: at first the one of that name.
    pub(super) fn object<'a>(&'a self, key: &'a str) -> &'a str {
        let name = || key.split_once('/').map_or(key, |(_, name)| name);
        self.config.get(key).map_or_else(name, String::as_str)
    }

    /// Nothing is held back any more.
    pub(super) fn release(&mut self) {
        if self.hold.take().is_some() {
            self.owner = None;
        }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// When the controller gives up, if nothing happens before.
    pub(super) fn gives_up(&self, deadline: Duration) -> Option<Duration> {
        (self.due.is_none() && !self.complete).then(|| self.progressed + deadline)
    }

    fn create(&mut self, born: Option<Duration>, image: ImageRef) {
        self.next_pod += 1;
        self.pods.push(Pod { number: self.next_pod, image, born, was_ready: born.is_none(), restarts: 0 });
    }

    /// Lets the controller act once. `states` are the pods' states now. Returns whether anything changed.
    pub(super) fn control(&mut self, states: &[PodState], now: Duration) -> bool {
        let mut changed = false;
        for (pod, state) in self.pods.iter_mut().zip(states) {
            if state.ready && !pod.was_ready {
                pod.was_ready = true;
                self.progressed = now;
                changed = true;
            }
            pod.restarts = state.restarts;
        }
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.seen = Seen { image: self.image.clone(), desired: self.desired, hold: self.hold.clone() };
            self.progressed = now;
            self.complete = false;
            changed = true;
        }
        let replaced = if self.in_place { self.replace_in_place(states, now) } else { self.replace(states, now) };
        if replaced {
            self.progressed = now;
            return true;
        }
        if self.due.is_none() && !self.complete && self.view(states, now, Duration::MAX).is_complete() {
            self.complete = true;
            changed = true;
        }
        changed
    }

    /// Creates and deletes pods as a rolling update does that never goes below the number asked for.
    fn replace(&mut self, states: &[PodState], now: Duration) -> bool {
        let desired = self.seen.desired as usize;
        let total = self.pods.len();
        let ready = states.iter().filter(|state| state.ready).count();
        let is_new = |pod: &Pod| pod.image == self.seen.image;
        let new = self.pods.iter().filter(|pod| is_new(pod)).count();
        let surge = if new == total { 0 } else { desired.div_ceil(4).max(1) };
        let missing = desired.saturating_sub(new).min((desired + surge).saturating_sub(total));
        if missing > 0 {
            for _ in 0..missing {
                self.create(Some(now), self.seen.image.clone());
            }
            return true;
        }
        let find = |wanted: &dyn Fn(usize, &Pod) -> bool| {
            self.pods.iter().enumerate().rev().find(|(i, pod)| wanted(*i, pod)).map(|(i, _)| i)
        };
        let surplus_new = if new > desired {
            find(&|i, pod| is_new(pod) && !states[i].ready).or_else(|| find(&|_, pod| is_new(pod)))
        } else {
            None
        };
        let old = find(&|i, pod| !is_new(pod) && !states[i].ready)
            .or_else(|| if ready > desired { find(&|_, pod| !is_new(pod)) } else { None });
        let Some(index) = surplus_new.or(old) else { return false };
        self.pods.remove(index);
        true
    }

    /// Replaces pods one by one, the last one first, each when all others are ready; as many as may run what is asked for.
    fn replace_in_place(&mut self, states: &[PodState], now: Duration) -> bool {
        let desired = self.seen.desired as usize;
        let is_new = |pod: &Pod| pod.image == self.seen.image;
        let new = self.pods.iter().filter(|pod| is_new(pod)).count();
        let may = self.seen.hold.as_ref().map_or(desired, |hold| desired.min(hold.instances as usize));
        if self.pods.len() < desired {
            let before = self.seen.hold.as_ref().filter(|_| new >= may).map(|hold| hold.before.clone());
            self.create(Some(now), before.unwrap_or_else(|| self.seen.image.clone()));
            return true;
        }
        let gone = if self.pods.len() > desired {
            self.pods.len().checked_sub(1)
        } else if new >= may {
            None
        } else if let Some(broken) = states.iter().position(|state| !state.ready) {
            // A broken one of another version is in nobody's way.
            Some(broken).filter(|at| !is_new(&self.pods[*at]))
        } else {
            self.pods.iter().rposition(|pod| !is_new(pod))
        };
        gone.map(|at| self.pods.remove(at)).is_some()
    }

    /// The part that runs what is asked for, where only a part may.
    pub(super) fn part(&self, whole: Workload, states: &[PodState]) -> Workload {
        let of = self.pods.iter().zip(states).filter(|(pod, _)| pod.image == self.image);
        let ready = u32::try_from(of.filter(|(_, state)| state.ready).count()).unwrap_or(u32::MAX);
        let Replicas { desired, updated, .. } = whole.replicas;
        let desired = self.hold.as_ref().map_or(desired, |hold| hold.instances);
        Workload { replicas: Replicas { desired, total: updated, updated, ready, available: ready }, ..whole }
    }

    pub(super) fn view(&self, states: &[PodState], now: Duration, progress_deadline: Duration) -> Workload {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ready = count(states.iter().filter(|state| state.ready).count());
        let updated = count(self.pods.iter().filter(|pod| pod.image == self.seen.image).count());
        let given_up =
            now.saturating_sub(self.progressed) >= progress_deadline && self.gives_up(Duration::ZERO).is_some();
        let reasons = || {
            let mut reasons: Vec<&str> = states.iter().filter_map(|state| state.reason.as_deref()).collect();
            reasons.dedup();
            format!("ProgressDeadlineExceeded: {}", reasons.join("; "))
        };
        Workload {
            name: self.name.clone(),
            image: self.image.clone(),
            config: self.config.clone(),
            replicas: Replicas {
                desired: self.desired,
                total: count(self.pods.len()),
                updated,
                ready,
                available: ready,
            },
            generation: self.generation,
            observed: self.due.is_none(),
            stalled: given_up.then(reasons),
        }
    }
}
