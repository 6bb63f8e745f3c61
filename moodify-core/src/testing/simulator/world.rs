use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backend::{Testers, Workload};
use crate::clock::{Clock, TokioClock};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{Effect, ErrorKind, Result};
use crate::model::{ImageRef, RunId, Track, Weight};

use super::fault::{BackendKind, Fault, Faults};
use super::nodes::SimNode;
use super::scenario::{Edit, Scenario};
use super::service::Flow;
use super::state::{Caller, Delivery, SimArtifact, SimBackup, SimIncident, SimLiveRestore, SimRestored, State, Write};

/// One call to a simulated backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// When, from the start of the simulation.
    pub at: Duration,
    /// The engine, by its label.
    pub by: String,
    /// On behalf of which run.
    pub run: Option<RunId>,
    /// Under which idempotency key.
    pub key: Option<IdempotencyKey>,
    /// The kind of backend.
    pub backend: BackendKind,
    /// The method.
    pub operation: &'static str,
    /// The service, or the name of store, cache or notifier.
    pub subject: String,
    /// What was made to go wrong with it.
    pub fault: Option<Fault>,
    /// How it ended; `None` while it has not, for ever if nobody waited for the answer.
    pub outcome: Option<Result<(), ErrorKind>>,
}

/// What one service is like now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// What ran at first.
    pub initial: ImageRef,
    /// The stable workload.
    pub stable: Option<Workload>,
    /// The canary, with the run that owns it.
    pub canary: Option<(RunId, Workload)>,
    /// The canary's weight in the routing object, if there is one.
    pub route: Option<Weight>,
    /// Whose requests go to the canary whatever its weight is.
    pub testers: Option<Testers>,
    /// Of how many requests the canary gets a copy, if of any.
    pub mirrored: Option<Weight>,
    /// The configuration objects that were made for versions of it, with their contents.
    pub made: BTreeMap<String, BTreeMap<String, String>>,
    /// How traffic flows.
    pub flow: Flow,
}

/// A request that arrives late.
struct Late {
    at: Duration,
    effect: Box<dyn FnOnce(&mut State) + Send>,
}

struct Inner {
    state: State,
    /// States after writes, for stale reads.
    past: Vec<State>,
    late: Vec<Late>,
    dead: BTreeSet<String>,
    flows: Vec<Flow>,
    writes: Vec<Write>,
    calls: Vec<Call>,
}

impl Inner {
    fn advance(&mut self, now: Duration) {
        while let Some(index) = (0..self.late.len()).min_by_key(|i| self.late[*i].at) {
            if self.late[index].at > now {
                break;
            }
            let late = self.late.remove(index);
            self.state.advance(late.at);
            (late.effect)(&mut self.state);
        }
        self.state.advance(now);
        self.flows.append(&mut self.state.flows);
        self.writes.append(&mut self.state.writes);
    }

    fn next(&self) -> Option<Duration> {
        self.late.iter().map(|late| late.at).chain(self.state.next()).min()
    }
}

struct Shared {
    start: Instant,
    clock: TokioClock,
    seed: u64,
    faults: Faults,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

/// The simulated world: what all simulated backends act on, and what tests look at.
///
/// Times are counted from the start of the simulation. Cheap to clone; all clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(state: State) -> Self {
        let clock = TokioClock::starting_at(state.base);
        let seed = state.scenario.seed;
        let inner = Inner {
            state,
            past: Vec::new(),
            late: Vec::new(),
            dead: BTreeSet::new(),
            flows: Vec::new(),
            writes: Vec::new(),
            calls: Vec::new(),
        };
        let start = Instant::now();
        let (faults, changes) = (Faults::default(), watch::Sender::new(0));
        Self(Arc::new(Shared { start, clock, seed, faults, inner: Mutex::new(inner), changes }))
    }

    /// The time since the start of the simulation.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// The wall clock of this world.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.0.clock)
    }

    /// What goes wrong in this world.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Counts up with every write; what changes by itself (a pod that becomes ready) does not count.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.advance(self.now());
        inner
    }

    pub(super) fn look<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock().state)
    }

    pub(super) fn scenario<T>(&self, read: impl FnOnce(&Scenario) -> T) -> T {
        self.look(|state| read(&state.scenario))
    }

    /// What a service is like now.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceView> {
        self.services().into_iter().find(|service| service.name == name)
    }

    /// What every service is like now.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceView> {
        self.look(|state| {
            let view = |service: &super::service::SimService| ServiceView {
                name: service.name().to_owned(),
                initial: service.initial.clone(),
                stable: state.workload(&service.target, Track::Stable),
                canary: service
                    .canary
                    .as_ref()
                    .and_then(|running| running.owner.clone())
                    .zip(state.workload(&service.target, Track::Canary)),
                route: service.route.as_ref().map(|route| route.weight),
                testers: service.testers.clone(),
                mirrored: service.mirrored,
                made: service.made.clone(),
                flow: service.flow.clone(),
            };
            state.services.values().map(view).collect()
        })
    }

    /// The jobs that are there, by name.
    #[must_use]
    pub fn jobs(&self) -> Vec<String> {
        self.look(State::job_names)
    }

    /// Which `CronJob`s were suspended or let go on, and which of the two they are now.
    #[must_use]
    pub fn cron_suspended(&self) -> BTreeMap<String, bool> {
        self.look(|state| state.suspended.clone())
    }

    /// The images that `CronJob`s were set to, by name.
    #[must_use]
    pub fn cron_images(&self) -> BTreeMap<String, ImageRef> {
        self.look(|state| state.cron_images.clone())
    }

    /// The share of a service's traffic that a version gets now, as a fraction of one.
    #[must_use]
    pub fn share(&self, service: &str, image: &ImageRef) -> f64 {
        self.service(service).map_or(0.0, |service| service.flow.share(image))
    }

    /// The highest share that a version of a service ever had, as a fraction of one.
    #[must_use]
    pub fn highest_share(&self, service: &str, image: &ImageRef) -> f64 {
        let flows = self.flows();
        flows.iter().filter(|flow| flow.service == service).map(|flow| flow.share(image)).fold(0.0, f64::max)
    }

    /// How traffic flowed: one entry for every change, in order.
    #[must_use]
    pub fn flows(&self) -> Vec<Flow> {
        self.lock().flows.clone()
    }

    /// Every write, in order: those of engines with run and key, and those of others.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }

    /// Every call to a backend, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How many calls of a method there were.
    #[must_use]
    pub fn call_count(&self, backend: BackendKind, operation: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.backend == backend && call.operation == operation).count()
    }

    /// The canaries that exist: service and owner.
    #[must_use]
    pub fn canaries(&self) -> Vec<(String, RunId)> {
        let services = self.services().into_iter();
        services.filter_map(|service| Some((service.name, service.canary?.0))).collect()
    }

    /// Every incident that was ever opened.
    #[must_use]
    pub fn incidents(&self) -> Vec<SimIncident> {
        self.look(|state| state.incidents.clone())
    }

    /// The incidents that are open.
    #[must_use]
    pub fn open_incidents(&self) -> Vec<SimIncident> {
        self.incidents().into_iter().filter(SimIncident::is_open).collect()
    }

    /// The backups that exist, as they stand now.
    #[must_use]
    pub fn backups(&self) -> Vec<SimBackup> {
        self.look(|state| {
            let now = |made: &SimBackup| SimBackup { backup: state.backup(made), ..made.clone() };
            state.backups.iter().map(now).collect()
        })
    }

    /// How many keys are in a cache.
    #[must_use]
    pub fn cache_keys(&self, cache: &str) -> u64 {
        self.look(|state| state.caches.get(cache).cloned().unwrap_or_default().len())
    }

    /// How many snapshots were made of a cache.
    #[must_use]
    pub fn cache_snapshots(&self, cache: &str) -> u32 {
        self.look(|state| state.caches.get(cache).map_or(0, |cache| cache.snapshots))
    }

    /// What was restored, and was not discarded since.
    #[must_use]
    pub fn restored(&self) -> Vec<SimRestored> {
        self.look(|state| state.restored.clone())
    }

    /// What was restored into a database itself.
    #[must_use]
    pub fn live_restores(&self) -> Vec<SimLiveRestore> {
        self.look(|state| state.live_restores.clone())
    }

    /// The artifacts that exist.
    #[must_use]
    pub fn artifacts(&self) -> Vec<SimArtifact> {
        self.look(|state| state.artifacts.clone())
    }

    /// Somebody deletes all that is configured in a namespace.
    pub fn lose_configuration(&self, namespace: &str) {
        self.change(|state| drop(state.configuration.remove(namespace)));
    }

    /// Somebody changes the first object that is configured in a namespace.
    pub fn edit_configuration(&self, namespace: &str) {
        self.change(|state| {
            if let Some(mut first) = state.configuration.get_mut(namespace).and_then(|objects| objects.first_entry()) {
                first.get_mut()["metadata"]["annotations"]["edited-by"] = "somebody".into();
            }
        });
    }

    /// The nodes of the cache of that name.
    #[must_use]
    pub fn cache_nodes(&self, cache: &str) -> Vec<SimNode> {
        self.lock().state.nodes(cache).clone()
    }

    /// The messages that reached people.
    #[must_use]
    pub fn notifications(&self) -> Vec<Delivery> {
        self.look(|state| state.deliveries.clone())
    }

    /// Somebody else changes something, now. False if what they want to change is not there.
    pub fn edit(&self, edit: &Edit) -> bool {
        self.change(|state| state.edit(edit))
    }

    /// Somebody answers the question under this key. False if nobody asked it.
    pub fn decide(&self, key: &IdempotencyKey, decision: crate::backend::Decision) -> bool {
        self.change(|state| state.questions.get_mut(key).map(|question| question.decisions.push(decision)).is_some())
    }

    /// Changes the world from outside.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = {
            let mut inner = self.lock();
            let result = change(&mut inner.state);
            inner.state.settle();
            result
        };
        self.0.changes.send_modify(|count| *count += 1);
        result
    }

    /// The engine of this label is dead: whatever still calls in its name changes nothing and hears nothing.
    pub fn kill(&self, engine: &str) {
        self.lock().dead.insert(engine.to_owned());
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn is_dead(&self, engine: &str) -> bool {
        self.lock().dead.contains(engine)
    }

    /// Makes one call: the one place where calls are logged, take time and go wrong.
    pub(super) async fn call<T: Send>(
        &self,
        cx: &CallContext,
        caller: Caller,
        mut effect: impl FnMut(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let caller = caller.in_context(cx);
        let index = self.log(&caller);
        let work = async {
            let fault = self.before(&caller, index).await?;
            match fault {
                Some(Fault::Stale(age)) if caller.reads => {
                    let answer = self.long_ago(age, &mut effect);
                    return self.after(&caller, fault, answer).await;
                }
                Some(Fault::Late(time)) => {
                    self.send_late(self.now() + time, &caller, effect);
                    return pending().await;
                }
                _ => {}
            }
            let result = self.apply(&caller, &mut effect);
            if fault == Some(Fault::Duplicate) {
                // Only the first answer finds its way back.
                drop(self.apply(&caller, &mut effect));
            }
            self.after(&caller, fault, result).await
        };
        let result = cx.run(caller.backend.name(), caller.operation, work).await;
        self.answered(index, &result);
        result
    }

    /// The same for a call that is made of other calls.
    pub(super) async fn around<T: Send>(
        &self,
        cx: &CallContext,
        caller: Caller,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let caller = caller.in_context(cx);
        let index = self.log(&caller);
        let work = async {
            let fault = self.before(&caller, index).await?;
            let result = inner.await;
            self.after(&caller, fault, result).await
        };
        let result = cx.run(caller.backend.name(), caller.operation, work).await;
        self.answered(index, &result);
        result
    }

    fn way(&self) -> Duration {
        self.look(|state| state.scenario.world.call_time.get()) / 2
    }

    /// The way there, and what goes wrong on it.
    async fn before(&self, caller: &Caller, index: usize) -> Result<Option<Fault>> {
        sleep(self.way()).await;
        let now = self.now();
        let site = caller.site();
        if self.0.faults.unreachable(caller.backend, now).is_some() {
            return Err(self.0.faults.error(site, ErrorKind::Unavailable, Effect::None));
        }
        let fault = self.0.faults.hit(site, self.0.seed, now);
        self.lock().calls[index].fault = fault;
        match fault {
            Some(Fault::ErrorBefore(kind)) => return Err(self.0.faults.error(site, kind, Effect::None)),
            Some(Fault::Hang { effect: false }) => pending().await,
            Some(Fault::Stall(time)) => sleep(time).await,
            _ => {}
        }
        if self.is_dead(&caller.who) {
            pending::<()>().await;
        }
        Ok(fault)
    }

    /// The way back, and what goes wrong on it.
    async fn after<T>(&self, caller: &Caller, fault: Option<Fault>, result: Result<T>) -> Result<T> {
        sleep(self.way()).await;
        match fault {
            Some(Fault::ErrorAfter(kind)) => Err(self.0.faults.error(caller.site(), kind, Effect::Unknown)),
            Some(Fault::Hang { effect: true }) => pending().await,
            _ if self.is_dead(&caller.who) => pending().await,
            _ => result,
        }
    }

    fn answered<T>(&self, index: usize, result: &Result<T>) {
        self.lock().calls[index].outcome = Some(result.as_ref().map(drop).map_err(crate::Error::kind));
    }

    fn log(&self, caller: &Caller) -> usize {
        let at = self.now();
        let mut inner = self.lock();
        inner.calls.push(Call {
            at,
            by: caller.who.to_string(),
            run: caller.run.clone(),
            key: caller.key.clone(),
            backend: caller.backend,
            operation: caller.operation,
            subject: caller.subject.clone(),
            fault: None,
            outcome: None,
        });
        inner.calls.len() - 1
    }

    fn apply<T>(&self, caller: &Caller, effect: &mut dyn FnMut(&mut State) -> Result<T>) -> Result<T> {
        let stale = self.0.faults.any_stale();
        let (result, wrote) = {
            let mut inner = self.lock();
            if stale && inner.past.is_empty() {
                let before = inner.state.clone();
                inner.past.push(before);
            }
            let result = inner.state.act(caller, effect);
            let wrote = !inner.state.writes.is_empty();
            if stale && wrote {
                let after = inner.state.clone();
                inner.past.push(after);
            }
            (result, wrote)
        };
        if wrote {
            self.0.changes.send_modify(|count| *count += 1);
        }
        result
    }

    /// What the answer was so long ago.
    fn long_ago<T>(&self, age: Duration, effect: &mut dyn FnMut(&mut State) -> Result<T>) -> Result<T> {
        let then = self.now().saturating_sub(age);
        let mut state = {
            let inner = self.lock();
            let before = inner.past.iter().rev().find(|state| state.now <= then).or(inner.past.first());
            before.unwrap_or(&inner.state).clone()
        };
        state.advance(then);
        effect(&mut state)
    }

    fn send_late<T>(
        &self,
        at: Duration,
        caller: &Caller,
        mut effect: impl FnMut(&mut State) -> Result<T> + Send + 'static,
    ) {
        let caller = caller.clone();
        let effect = Box::new(move |state: &mut State| drop(state.act(&caller, &mut effect)));
        self.lock().late.push(Late { at, effect });
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// What `read` says now and after every change, until the context ends or an error.
    pub(super) fn watch<T: Clone + PartialEq + Send + 'static>(
        &self,
        cx: &CallContext,
        caller: &Caller,
        read: impl Fn(&State) -> Result<T> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<T>> {
        let watcher = Watcher {
            world: self.clone(),
            cx: cx.clone(),
            caller: caller.clone(),
            read,
            changes: self.changes(),
            last: None,
        };
        let step = |watcher: Option<Watcher<T, _>>| async {
            let mut watcher = watcher?;
            let item = watcher.next().await?;
            let more = item.is_ok().then_some(watcher);
            Some((item, more))
        };
        stream::unfold(Some(watcher), step).boxed()
    }
}

struct Watcher<T, R> {
    world: World,
    cx: CallContext,
    caller: Caller,
    read: R,
    changes: watch::Receiver<u64>,
    last: Option<T>,
}

impl<T: Clone + PartialEq, R: Fn(&State) -> Result<T>> Watcher<T, R> {
    async fn next(&mut self) -> Option<Result<T>> {
        // A moment after the deadline, so that who waits by the context sees the deadline and not the end of the watch.
        let end = self.cx.deadline() + Duration::from_millis(1);
        loop {
            self.changes.borrow_and_update();
            let (state, next, now) = {
                let inner = self.world.lock();
                ((self.read)(&inner.state), inner.next(), inner.state.now)
            };
            let unreachable = self.world.faults().unreachable(self.caller.backend, now);
            let deaf = unreachable.is_some() || self.world.is_dead(&self.caller.who);
            if !deaf && state.as_ref().map_or(true, |state| self.last.as_ref() != Some(state)) {
                self.last = state.as_ref().ok().cloned();
                return Some(state);
            }
            let wake = next.into_iter().chain(unreachable).min();
            let wake = wake.and_then(|at| self.world.0.start.checked_add(at)).map_or(end, |at| at.min(end));
            tokio::select! {
                _ = self.changes.changed() => {}
                () = sleep_until(wake) => {}
                () = self.cx.cancel().cancelled() => return None,
            }
            if Instant::now() >= end {
                return None;
            }
        }
    }
}
