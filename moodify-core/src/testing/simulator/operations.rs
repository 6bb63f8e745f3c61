//! A whole application in the simulated cluster: stopped and started, and pointed to another database.

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::backend::{
    Application, Connection, Count, Counts, Endpoint, ExecRequest, ExecResult, Instances, Operations, Repair,
    RestoreState, WorkloadRef,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::{RunId, Track, WorkloadKind};

use super::cluster::Facet;
use super::fault::BackendKind;
use super::service::SimService;
use super::state::{Caller, State};
use super::workload::Running;
use super::world::World;

/// A connection of the simulated application. Every one that is asked for is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimConnection {
    /// Its namespace.
    pub namespace: String,
    /// Which one.
    pub connection: Connection,
    /// Where it points to.
    pub endpoint: Endpoint,
    /// Where it pointed to before a run switched it, and which run that was.
    pub kept: Option<(RunId, Endpoint)>,
}

/// Where every connection points to at first.
fn first() -> Endpoint {
    Endpoint::Host { host: "moods.simulated.invalid".to_owned(), port: Some(27017) }
}

const TRACKS: [Track; 2] = [Track::Stable, Track::Canary];

fn name_of(service: &SimService, track: Track) -> Option<WorkloadRef> {
    let kind = if track == Track::Stable { service.target.service.kind } else { WorkloadKind::Deployment };
    service.track(track).map(|running| WorkloadRef { kind, name: running.name.clone() })
}

/// The workloads of a namespace.
fn workloads(state: &State, namespace: &str) -> Vec<(String, Track, WorkloadRef)> {
    let here = state.services.values().filter(|service| service.target.namespace == namespace);
    let named = |service: &SimService, track| Some((service.name().to_owned(), track, name_of(service, track)?));
    here.flat_map(|service| TRACKS.map(|track| named(service, track))).flatten().collect()
}

fn find(state: &State, caller: &Caller, namespace: &str, workload: &WorkloadRef) -> Result<(String, Track)> {
    let found = workloads(state, namespace).into_iter().find(|(.., name)| name == workload);
    let missing = || caller.fails(ErrorKind::NotFound, format!("there is no {workload} in {namespace}"));
    found.map(|(service, track, _)| (service, track)).ok_or_else(missing)
}

fn running<'a>(state: &'a State, place: &(String, Track)) -> Option<&'a Running> {
    state.services.get(&place.0)?.track(place.1)
}

fn count(state: &State, caller: &Caller, namespace: &str, workload: &WorkloadRef) -> Result<Count> {
    let place = find(state, caller, namespace, workload)?;
    if workload.kind == WorkloadKind::DaemonSet {
        return Err(caller.fails(ErrorKind::Unsupported, format!("{workload} cannot be stopped: it has no number")));
    }
    let running = running(state, &place);
    let replicas = match running.and_then(|running| running.stopped.as_ref()) {
        Some((run, before)) if Some(run) == caller.run.as_ref() => *before,
        Some((run, _)) => {
            return Err(caller.fails(ErrorKind::AlreadyExists, format!("{workload} was stopped by the run {run}")));
        }
        None => running.map_or(0, |running| running.desired),
    };
    Ok(Count { workload: workload.clone(), uid: "simulated".to_owned(), replicas, autoscaler: None })
}

fn counts(state: &State, caller: &Caller, application: &Application) -> Result<Counts> {
    let namespace = &application.namespace;
    let mut named = application.workloads.clone();
    if named.is_empty() {
        named.extend(workloads(state, namespace).into_iter().map(|(.., name)| name));
        named.retain(|name| name.kind != WorkloadKind::DaemonSet);
    }
    named.retain(|name| application.has(name));
    let workloads = named.iter().map(|name| count(state, caller, namespace, name)).collect::<Result<_>>()?;
    Ok(Counts { namespace: namespace.clone(), workloads })
}

/// Brings one workload to no instance, or back.
fn scale(state: &mut State, caller: &Caller, namespace: &str, of: &Count, stop: bool) -> Result<()> {
    let place = find(state, caller, namespace, &of.workload)?;
    let due = state.now + state.scenario.world.controller_lag.get();
    let Some(running) = state.services.get_mut(&place.0).and_then(|service| service.track_mut(place.1)) else {
        return Ok(());
    };
    let ours = running.stopped.as_ref().is_some_and(|(run, _)| Some(run) == caller.run.as_ref());
    let to = match (stop, ours, running.desired) {
        (true, true, 0) | (_, false, 0) if ours || of.replicas == 0 => return Ok(()),
        (true, false, now) if now == of.replicas => 0,
        (false, true, 0) => of.at_start(),
        (false, false, now) if now == of.replicas => return Ok(()),
        (_, _, now) => {
            let message = format!("{} has {now} instances, and {} were counted", of.workload, of.replicas);
            return Err(caller.fails(ErrorKind::Drift, message));
        }
    };
    running.desired = to;
    running.stopped = caller.run.clone().filter(|_| stop).map(|run| (run, of.replicas));
    running.asked(due);
    state.wrote(format!("{} to {to} instances", of.workload));
    Ok(())
}

/// All are tried; the first error is told.
fn scale_all(state: &mut State, caller: &Caller, counts: &Counts, stop: bool) -> Result<()> {
    let mut result = Ok(());
    for of in &counts.workloads {
        let one = scale(state, caller, &counts.namespace, of, stop);
        result = result.and(one);
    }
    result
}

fn instances(state: &State, counts: &Counts) -> Vec<Instances> {
    let of = |count: &Count| {
        let here = workloads(state, &counts.namespace).into_iter().find(|(.., name)| *name == count.workload);
        let pods = here.and_then(|(service, track, _)| {
            state.services.get(&service).map(|service| service.pods(&state.scenario, track, state.now))
        });
        let pods = pods.unwrap_or_default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let ready = pods.iter().filter(|pod| pod.ready).count();
        Instances::new(count.workload.clone(), number(pods.len()), number(ready))
    };
    counts.workloads.iter().map(of).collect()
}

impl State {
    fn connection(&mut self, namespace: &str, connection: &Connection) -> &mut SimConnection {
        let is_it = |known: &SimConnection| known.namespace == namespace && known.connection == *connection;
        let at = self.connections.iter().position(is_it).unwrap_or_else(|| {
            let (namespace, connection) = (namespace.to_owned(), connection.clone());
            self.connections.push(SimConnection { namespace, connection, endpoint: first(), kept: None });
            self.connections.len() - 1
        });
        &mut self.connections[at]
    }

    /// Whether every connection points to a database that answers.
    fn is_connected(&self) -> bool {
        let answers = |place: &str| {
            let restored = self.restored.iter().map(|made| self.restored(made));
            let mut complete = restored.filter(|made| made.state == RestoreState::Available);
            complete.any(|made| made.endpoint.as_deref() == Some(place))
        };
        let first = first();
        self.connections
            .iter()
            .map(|known| known.endpoint.place())
            .all(|place| place == first.place() || answers(place))
    }
}

fn is_there(state: &State, caller: &Caller, namespace: &str, connection: &Connection) -> Result<()> {
    match connection {
        Connection::Env { workload, .. } => find(state, caller, namespace, workload).map(drop),
        _ => Ok(()),
    }
}

/// A connection that the caller may change.
fn connection<'a>(
    state: &'a mut State,
    caller: &Caller,
    namespace: &str,
    connection: &Connection,
) -> Result<&'a mut SimConnection> {
    is_there(state, caller, namespace, connection)?;
    let known = state.connection(namespace, connection);
    match &known.kept {
        Some((run, _)) if Some(run) != caller.run.as_ref() => {
            Err(caller.fails(ErrorKind::AlreadyExists, format!("the run {run} has switched the {connection}")))
        }
        _ => Ok(known),
    }
}

/// Sets a connection to `to` if it points to one of the two that it may.
fn point(
    state: &mut State,
    caller: &Caller,
    namespace: &str,
    which: &Connection,
    to: &Endpoint,
    back: bool,
) -> Result<()> {
    if let Some(misfit) = which.misfit(to.kind()) {
        return Err(caller.fails(ErrorKind::Invalid, format!("the {which}: {misfit}")));
    }
    let known = connection(state, caller, namespace, which)?;
    let now = known.endpoint.clone();
    let (wanted, kept) = match (&known.kept, caller.run.clone()) {
        (None, _) if back => return Ok(()),
        (None, Some(run)) => (to.clone(), Some((run, now.clone()))),
        (None, None) => (to.clone(), None),
        // Switched by this run: it points there, or back, or where somebody else has pointed it.
        (Some((_, before)), _) if now.place() != to.place() && now != *before => {
            return Err(caller.fails(ErrorKind::Drift, format!("the {which} was changed by somebody else")));
        }
        (Some((_, before)), _) if back => (before.clone(), None),
        (kept, _) => (to.clone(), kept.clone()),
    };
    if known.kept == kept && now.place() == wanted.place() {
        return Ok(());
    }
    known.endpoint = wanted.or_port(now.port());
    known.kept = kept;
    let told = format!("{which} to {}", known.endpoint);
    state.wrote(told);
    Ok(())
}

fn exec(state: &State, caller: &Caller, namespace: &str, request: &ExecRequest) -> Result<ExecResult> {
    let (service, track) = find(state, caller, namespace, &request.workload)?;
    let pods = state.services.get(&service).map(|service| service.pods(&state.scenario, track, state.now));
    let mut pods = pods.unwrap_or_default();
    pods.sort_by_key(|pod| !pod.ready);
    let missing = || caller.fails(ErrorKind::NotFound, format!("{} has no pod", request.workload));
    let pod = pods.into_iter().next().ok_or_else(missing)?;
    let code = state.scenario.commands.exit_code;
    let (code, said) = match code {
        0 if state.is_connected() => (0, "1"),
        0 => (1, "no database answers there"),
        code => (code, "as the scenario says"),
    };
    Ok(ExecResult { pod: pod.name, code, said: said.to_owned() })
}

impl World {
    /// The connections that somebody asked for.
    #[must_use]
    pub fn connections(&self) -> Vec<SimConnection> {
        self.look(|state| state.connections.clone())
    }

    /// Somebody else points a connection elsewhere.
    pub fn point(&self, namespace: &str, connection: &Connection, to: &Endpoint) {
        self.change(|state| state.connection(namespace, connection).endpoint = to.clone());
    }
}

impl Facet {
    fn operations(&self, operation: &'static str, subject: &str) -> Caller {
        self.caller(BackendKind::Operations, operation, subject)
    }
}

#[async_trait]
impl Operations for Facet {
    async fn counts(&self, cx: &CallContext, application: &Application) -> Result<Counts> {
        let caller = self.operations("counts", &application.namespace).reading().in_context(cx);
        let (asks, application) = (caller.clone(), application.clone());
        self.world.call(cx, caller, move |state| counts(state, &asks, &application)).await
    }

    async fn stop(&self, cx: &CallContext, counts: &Counts) -> Result<()> {
        let caller = self.operations("stop", &counts.namespace).in_context(cx);
        let (asks, counts) = (caller.clone(), counts.clone());
        self.world.call(cx, caller, move |state| scale_all(state, &asks, &counts, true)).await
    }

    async fn start(&self, cx: &CallContext, counts: &Counts) -> Result<()> {
        let caller = self.operations("start", &counts.namespace).in_context(cx);
        let (asks, counts) = (caller.clone(), counts.clone());
        self.world.call(cx, caller, move |state| scale_all(state, &asks, &counts, false)).await
    }

    async fn watch(&self, cx: &CallContext, counts: &Counts) -> Result<BoxStream<'static, Result<Vec<Instances>>>> {
        let (caller, counts) = (self.operations("watch", &counts.namespace).reading(), counts.clone());
        self.world.call(cx, caller.clone(), |_| Ok(())).await?;
        Ok(self.world.watch(cx, &caller, move |state| Ok(instances(state, &counts))))
    }

    async fn endpoint(&self, cx: &CallContext, namespace: &str, which: &Connection) -> Result<Option<Endpoint>> {
        let caller = self.operations("endpoint", namespace).reading();
        let (asks, namespace, which) = (caller.clone(), namespace.to_owned(), which.clone());
        let effect = move |state: &mut State| {
            is_there(state, &asks, &namespace, &which)?;
            Ok(Some(state.connection(&namespace, &which).endpoint.clone()))
        };
        self.world.call(cx, caller, effect).await
    }

    async fn switch(&self, cx: &CallContext, namespace: &str, which: &Connection, to: &Endpoint) -> Result<()> {
        let caller = self.operations("switch", namespace).in_context(cx);
        let (asks, namespace, which, to) = (caller.clone(), namespace.to_owned(), which.clone(), to.clone());
        self.world.call(cx, caller, move |state| point(state, &asks, &namespace, &which, &to, false)).await
    }

    async fn revert(&self, cx: &CallContext, namespace: &str, which: &Connection, from: &Endpoint) -> Result<()> {
        let caller = self.operations("revert", namespace).in_context(cx);
        let (asks, namespace, which, from) = (caller.clone(), namespace.to_owned(), which.clone(), from.clone());
        self.world.call(cx, caller, move |state| point(state, &asks, &namespace, &which, &from, true)).await
    }

    async fn forget(&self, cx: &CallContext, namespace: &str, which: &Connection) -> Result<()> {
        let caller = self.operations("forget", namespace).in_context(cx);
        let (asks, namespace, which) = (caller.clone(), namespace.to_owned(), which.clone());
        let effect = move |state: &mut State| {
            if connection(state, &asks, &namespace, &which)?.kept.take().is_some() {
                state.wrote(format!("the old value of {which} removed"));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn exec(&self, cx: &CallContext, namespace: &str, request: &ExecRequest) -> Result<ExecResult> {
        let caller = self.operations("exec", namespace);
        let (asks, namespace, request) = (caller.clone(), namespace.to_owned(), request.clone());
        self.world.call(cx, caller, move |state| exec(state, &asks, &namespace, &request)).await
    }

    fn by_hand(&self, repair: &Repair) -> Vec<String> {
        match repair {
            Repair::Start(counts) => vec![format!("start {counts} in {}", counts.namespace)],
            Repair::Stop(counts) => vec![format!("stop {counts} in {}", counts.namespace)],
            Repair::Revert { namespace, connection } => vec![format!("set the {connection} back in {namespace}")],
        }
    }
}
