//! The simulated cluster: deployer, routers and diagnostics.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::backend::{
    CanarySpec, Change, Deployer, DeployerCapabilities, Diagnostics, Granularity, ImageChange, LogRequest, Pods,
    Remedy, ReplicaRatio, RouterCapabilities, Scale, Single, Traffic, TrafficRouter, Verification, WeightChange,
    Workload,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};
use crate::model::{Color, Layout, Target, Track, Weight, WorkloadKind};

use super::fault::BackendKind;
use super::service::place;
use super::state::{Caller, State};
use super::workload::{Hold, Running};
use super::world::World;

/// Every backend of one engine on one world.
#[derive(Clone)]
pub(super) struct Facet {
    pub(super) world: World,
    /// The engine's label.
    pub(super) who: Arc<str>,
    /// The name under which it is registered.
    pub(super) name: Arc<str>,
}

impl fmt::Debug for Facet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("name", &self.name).field("engine", &self.who).finish()
    }
}

impl Facet {
    pub(super) fn caller(&self, backend: BackendKind, operation: &'static str, subject: &str) -> Caller {
        Caller::new(&self.who, backend, operation, subject)
    }

    fn deployer(&self, operation: &'static str, target: &Target) -> Caller {
        self.caller(BackendKind::Deployer, operation, &target.service.name)
    }

    pub(super) fn router(&self, operation: &'static str, target: &Target) -> Caller {
        self.caller(BackendKind::Router, operation, &target.service.name)
    }

    fn diagnostics(&self, operation: &'static str, target: &Target) -> Caller {
        self.caller(BackendKind::Diagnostics, operation, &target.service.name).reading()
    }
}

/// A workload as the run of `caller` may see it.
fn owned(state: &State, caller: &Caller, target: &Target, track: Track) -> Result<Option<Workload>> {
    let takes_turns = matches!(target.layout, Layout::Colors(_));
    let running = state.service(target).and_then(|service| service.of(target, track));
    let ours = |running: &Running| running.owner.is_some() && running.owner == caller.run;
    if takes_turns && track == Track::Canary {
        match running {
            // Scaled to nothing it is nobody's.
            Some(running) if running.desired == 0 && !ours(running) => return Ok(None),
            Some(running) if running.owner.is_none() => {
                let message = format!("{} has {} instances, but does not serve", running.name, running.desired);
                return Err(caller.fails(ErrorKind::AlreadyExists, message));
            }
            _ => {}
        }
    }
    // What serves belongs to the user, whoever made it.
    let running = running.filter(|_| track == Track::Canary);
    if let Some((running, owner)) = running.and_then(|running| Some((running, running.owner.as_ref()?))) {
        if Some(owner) != caller.run.as_ref() {
            let message = format!("the canary {} belongs to run {owner}", running.name);
            return Err(caller.fails(ErrorKind::AlreadyExists, message));
        }
        if let Some(editor) = running.edited_by.as_ref().filter(|editor| !takes_turns || *editor != AUTOSCALER) {
            let message = format!("the canary {} was edited by {editor}", running.name);
            return Err(caller.fails(ErrorKind::Drift, message));
        }
    }
    Ok(state.workload(target, track))
}

/// Who scales by rule, which is no edit where two workloads take turns.
const AUTOSCALER: &str = "kube-controller-manager";

fn canary_name(target: &Target) -> String {
    match target.layout.color(Track::Canary) {
        None => format!("{}-canary", target.service.workload),
        Some(Color::Blue) => target.service.workload.clone(),
        Some(Color::Green) => format!("{}-green", target.service.workload),
    }
}

/// A running workload that a run may change, with when the controller will act on the change.
fn change<'a>(
    state: &'a mut State,
    caller: &Caller,
    target: &Target,
    track: Track,
) -> Result<(&'a mut Running, std::time::Duration)> {
    owned(state, caller, target, track)?;
    let due = state.now + state.scenario.world.controller_lag.get();
    let running = state.service_mut(target).and_then(|service| service.track_mut(place(target.layout, track)));
    running
        .map(|running| (running, due))
        .ok_or_else(|| caller.fails(ErrorKind::NotFound, format!("there is no {track} workload")))
}

fn written(state: &State, caller: &Caller, target: &Target, track: Track) -> Result<Workload> {
    let gone = || caller.fails(ErrorKind::Internal, "a workload vanished while it was written");
    owned(state, caller, target, track)?.ok_or_else(gone)
}

/// Refuses a number that is neither what the caller believes nor what it wants.
fn check_scale(caller: &Caller, running: &Running, scale: Scale) -> Result<()> {
    if running.desired == scale.from || running.desired == scale.to {
        return Ok(());
    }
    let by = running.edited_by.as_deref().unwrap_or("somebody else");
    let Scale { from, to } = scale;
    let message = format!("{} instances are asked for, neither {from} nor {to}: {by} scaled it", running.desired);
    Err(caller.fails(ErrorKind::Drift, message))
}

fn check_deploy(state: &State, caller: &Caller, target: &Target) -> Result<()> {
    if state.service(target).is_none_or(|service| service.of(target, Track::Stable).is_none()) {
        let message = format!("there is no workload {} to copy", target.service.workload);
        return Err(caller.fails(ErrorKind::NotFound, message));
    }
    owned(state, caller, target, Track::Canary).map(drop)
}

fn differs(running: &Running, spec: &CanarySpec) -> bool {
    running.image != spec.image
        || running.desired != spec.replicas
        || running.version != spec.version
        || running.shares_service != spec.shares_service
        || spec.config.iter().any(|(key, object)| running.object(key) != object)
}

/// Lets a part of a single workload run the new version.
fn hold(state: &mut State, caller: &Caller, target: &Target, spec: &CanarySpec) -> Result<Workload> {
    check_deploy(state, caller, target)?;
    let (running, due) = change(state, caller, target, Track::Stable)?;
    let (before, config) = match &running.hold {
        Some(hold) => (hold.before.clone(), hold.config.clone()),
        None if running.image != spec.image => (running.image.clone(), running.config.clone()),
        None => {
            let message = format!("{} runs {} everywhere: nothing is held any more", running.name, spec.image);
            return Err(caller.fails(ErrorKind::Drift, message));
        }
    };
    let wanted = Some(Hold { instances: spec.replicas, before, config });
    if running.hold != wanted {
        running.hold = wanted;
        running.read(&spec.config);
        running.image = spec.image.clone();
        running.version.clone_from(&spec.version);
        running.owner.clone_from(&caller.run);
        running.asked(due);
        let what = format!("{}: {} of {}, {} of it", running.name, running.desired, spec.image, spec.replicas);
        if let Some(service) = state.service_mut(target) {
            service.make_config(target, &spec.config);
        }
        state.wrote(what);
    }
    written(state, caller, target, Track::Canary)
}

fn deploy(state: &mut State, caller: &Caller, target: &Target, spec: &CanarySpec) -> Result<Workload> {
    if target.layout == Layout::Single {
        return hold(state, caller, target, spec);
    }
    check_deploy(state, caller, target)?;
    let due = state.now + state.scenario.world.controller_lag.get();
    let name = canary_name(target);
    if let Some(service) = state.service_mut(target) {
        service.make_config(target, &spec.config);
        let copied = service.of(target, Track::Stable).map(|stable| stable.config.clone()).unwrap_or_default();
        let canary = match place(target.layout, Track::Canary) {
            Track::Stable => &mut service.stable,
            Track::Canary => &mut service.canary,
        };
        let there = canary.is_some();
        if canary.as_ref().is_none_or(|running| running.owner != caller.run || differs(running, spec)) {
            let new = || Running::new(name.clone(), spec.image.clone(), spec.replicas, due);
            let running = canary.get_or_insert_with(new);
            running.owner.clone_from(&caller.run);
            running.edited_by = None;
            if !(spec.restore && there && running.image == spec.image) {
                running.read(&copied);
                running.read(&spec.config);
            }
            running.image = spec.image.clone();
            running.desired = spec.replicas;
            running.version.clone_from(&spec.version);
            running.shares_service = spec.shares_service;
            if there {
                running.asked(due);
            }
            state.wrote(format!("{name}: {} of {}", spec.replicas, spec.image));
        }
    }
    written(state, caller, target, Track::Canary)
}

#[async_trait]
impl Deployer for Facet {
    fn capabilities(&self) -> DeployerCapabilities {
        use WorkloadKind::{DaemonSet, Deployment, StatefulSet};
        let single = |kind| Single { kind, exact: kind != Deployment, stops: kind != DaemonSet };
        let capabilities = DeployerCapabilities::new(&["Deployment"], true).with_colors();
        capabilities.with_single(&[Deployment, StatefulSet, DaemonSet].map(single))
    }

    async fn observe(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<Workload>> {
        let (caller, target) = (self.deployer("observe", target).reading(), target.clone());
        let asks = caller.clone().in_context(cx);
        self.world.call(cx, caller, move |state| owned(state, &asks, &target, track)).await
    }

    async fn watch(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Option<Workload>>>> {
        let caller = self.deployer("watch", target).reading();
        self.world.call(cx, caller.clone(), |_| Ok(())).await?;
        let (asks, target) = (caller.clone().in_context(cx), target.clone());
        Ok(self.world.watch(cx, &caller, move |state| owned(state, &asks, &target, track)))
    }

    async fn deploy(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Workload> {
        let (caller, target, spec) = (self.deployer("deploy", target), target.clone(), spec.clone());
        let asks = caller.clone().in_context(cx);
        self.world.call(cx, caller, move |state| deploy(state, &asks, &target, &spec)).await
    }

    async fn scale(&self, cx: &CallContext, target: &Target, track: Track, scale: Scale) -> Result<Workload> {
        let (caller, target) = (self.deployer("scale", target), target.clone());
        let asks = caller.clone().in_context(cx);
        let effect = move |state: &mut State| {
            let (running, due) = change(state, &asks, &target, track)?;
            // What an autoscaler made of the version before is nobody's wish for the time after it.
            let by_rule = running.edited_by.as_deref() == Some(AUTOSCALER);
            if !(by_rule && scale.to == 0 && matches!(target.layout, Layout::Colors(_))) {
                check_scale(&asks, running, scale)?;
            }
            if running.desired != scale.to {
                running.desired = scale.to;
                running.edited_by = None;
                running.asked(due);
                let what = format!("{} from {} to {} instances", running.name, scale.from, scale.to);
                state.wrote(what);
            }
            written(state, &asks, &target, track)
        };
        self.world.call(cx, caller, effect).await
    }

    async fn set_image(&self, cx: &CallContext, target: &Target, change_to: &ImageChange) -> Result<Workload> {
        let (caller, target, wanted) = (self.deployer("set_image", target), target.clone(), change_to.clone());
        let asks = caller.clone().in_context(cx);
        let effect = move |state: &mut State| {
            let (running, due) = change(state, &asks, &target, Track::Stable)?;
            if running.image != wanted.from && running.image != wanted.to {
                let message = format!("{} runs, neither {} nor {}", running.image, wanted.from, wanted.to);
                return Err(asks.fails(ErrorKind::Drift, message));
            }
            wanted.scale.map_or(Ok(()), |scale| check_scale(&asks, running, scale))?;
            let desired = wanted.scale.map_or(running.desired, |scale| scale.to);
            let reads = running.read(&wanted.config);
            if running.image != wanted.to || running.desired != desired || reads || running.hold.is_some() {
                running.image = wanted.to.clone();
                running.desired = desired;
                running.edited_by = None;
                running.release();
                running.asked(due);
                let what = format!("{}: {desired} of {}", running.name, wanted.to);
                state.wrote(what);
            }
            if let Some(service) = state.service_mut(&target) {
                service.make_config(&target, &wanted.config);
            }
            written(state, &asks, &target, Track::Stable)
        };
        self.world.call(cx, caller, effect).await
    }

    async fn serving(&self, cx: &CallContext, target: &Target) -> Result<Color> {
        let (caller, target) = (self.deployer("serving", target).reading(), target.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let service = state.service(&target).filter(|service| service.stable.is_some());
            let missing = || asks.fails(ErrorKind::NotFound, "there is no workload of that name");
            service.map(|service| service.name.stands_for).ok_or_else(missing)
        };
        self.world.call(cx, caller, effect).await
    }

    async fn hand_over(&self, cx: &CallContext, target: &Target, to: Track) -> Result<()> {
        let (caller, target) = (self.deployer("hand_over", target), target.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let due = state.now + state.scenario.world.route_lag.get();
            let color = target
                .layout
                .color(to)
                .ok_or_else(|| asks.fails(ErrorKind::Unsupported, "a canary in place never gets the service's name"))?;
            let service =
                state.service_mut(&target).filter(|service| service.track(place(target.layout, to)).is_some());
            let service =
                service.ok_or_else(|| asks.fails(ErrorKind::NotFound, format!("there is no {color} workload")))?;
            if service.name.stands_for != color {
                service.name.hand_over(color, due);
                state.wrote(format!("the name of {target} stands for {color}"));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn leave(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (caller, target, run) = (self.deployer("leave", target), target.clone(), cx.run_id().clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            if !matches!(target.layout, Layout::Colors(_)) {
                return Err(asks.fails(ErrorKind::Unsupported, "a canary in place never takes turns"));
            }
            let service = state.service_mut(&target).filter(|service| service.stable.is_some());
            let service =
                service.ok_or_else(|| asks.fails(ErrorKind::NotFound, "there is no workload of that name"))?;
            if service.name.stands_for == Color::Green {
                return Err(asks.fails(ErrorKind::Conflict, "the service's name stands for the green one"));
            }
            let runs = service.canary.as_ref().filter(|green| green.desired > 0 && green.owner.as_ref() != Some(&run));
            if let Some(green) = runs {
                let message = format!("{} has {} instances, but does not serve", green.name, green.desired);
                return Err(asks.fails(ErrorKind::AlreadyExists, message));
            }
            if let Some(blue) = &mut service.stable {
                blue.owner = None;
            }
            if let Some(green) = service.canary.take() {
                service.delete_unread();
                state.wrote(format!("{} removed", green.name));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn remove(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (caller, target, run) = (self.deployer("remove", target), target.clone(), cx.run_id().clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let due = state.now + state.scenario.world.controller_lag.get();
            let Some(service) = state.service_mut(&target) else { return Ok(()) };
            if target.layout == Layout::Single {
                let held = |running: &&mut Running| running.hold.is_some() && running.owner.as_ref() == Some(&run);
                if let Some(running) = service.stable.as_mut().filter(held) {
                    if let Some(hold) = running.hold.clone() {
                        running.image = hold.before;
                        running.config = hold.config;
                    }
                    running.release();
                    running.asked(due);
                    let what = format!("{}: {} everywhere again", running.name, running.image);
                    service.delete_unread();
                    state.wrote(what);
                }
                return Ok(());
            }
            let color = target.layout.color(Track::Canary);
            if color == Some(service.name.stands_for) {
                return Err(asks.fails(ErrorKind::Conflict, "the service's name stands for it"));
            }
            // The canary of another run is not ours to remove, and ours is not there.
            let ours = |canary: &Running| canary.owner.as_ref() == Some(&run);
            if color == Some(Color::Blue) {
                if let Some(blue) = service.stable.as_mut().filter(|blue| ours(blue)) {
                    blue.desired = 0;
                    blue.owner = None;
                    blue.edited_by = None;
                    blue.asked(due);
                    let what = format!("{} scaled to nothing", blue.name);
                    state.wrote(what);
                }
            } else if let Some(canary) = service.canary.take_if(|canary| ours(canary)) {
                service.delete_unread();
                state.wrote(format!("{} removed", canary.name));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn preview(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Vec<Change>> {
        let (caller, target, spec) = (self.deployer("preview", target).reading(), target.clone(), spec.clone());
        let asks = caller.clone().in_context(cx);
        let effect = move |state: &mut State| {
            check_deploy(state, &asks, &target)?;
            if target.layout == Layout::Single {
                let object = format!("{} {}/{}", target.service.kind, target.namespace, target.service.workload);
                let what = format!("image {}: at first {} instances, all at the end", spec.image, spec.replicas);
                return Ok(vec![Change { object, what }]);
            }
            let canary = state.service(&target).and_then(|service| service.of(&target, Track::Canary));
            let verb = match canary {
                None => "create",
                Some(running) if differs(running, &spec) => "change",
                Some(_) => return Ok(Vec::new()),
            };
            let object = format!("Deployment {}/{}", target.namespace, canary_name(&target));
            let s = if spec.replicas == 1 { "" } else { "s" };
            Ok(vec![Change { object, what: format!("{verb} with {} replica{s} of {}", spec.replicas, spec.image) }])
        };
        self.world.call(cx, caller, effect).await
    }

    fn by_hand(&self, target: &Target, remedy: &Remedy) -> Vec<String> {
        vec![match remedy {
            Remedy::Image(image) => format!("simulate image {target} {image}"),
            Remedy::Replicas(count) => format!("simulate replicas {target} {count}"),
            Remedy::HandOver(track) => format!("simulate hand-over {target} {track}"),
            _ => format!("simulate remove-canary {target}"),
        }]
    }
}

fn traffic(state: &State, caller: &Caller, target: &Target) -> Result<Traffic> {
    let route = state.service(target).and_then(|service| service.route.as_ref());
    let route = route.ok_or_else(|| caller.fails(ErrorKind::NotFound, "there is no routing object"))?;
    Ok(Traffic {
        weight: route.weight,
        share: route.weight.fraction(),
        verification: match route.due {
            _ if !state.scenario.world.routers_report => Verification::CannotTell,
            None => Verification::Verified,
            Some(_) => Verification::NotYet,
        },
        edited_by: route.edited_by.clone(),
    })
}

fn set_weight(
    state: &mut State,
    caller: &Caller,
    target: &Target,
    from: Option<Weight>,
    to: Weight,
) -> Result<Traffic> {
    let there = traffic(state, caller, target)?;
    if there.weight != to {
        if from.is_some_and(|from| there.weight != from) {
            let by = there.edited_by.as_deref().unwrap_or("somebody else");
            let message =
                format!("the weight is {}, neither {} nor {to}: {by} set it", there.weight, from.unwrap_or(to));
            return Err(caller.fails(ErrorKind::Drift, message));
        }
        let due = state.now + state.scenario.world.route_lag.get();
        if let Some(route) = state.service_mut(target).and_then(|service| service.route.as_mut()) {
            route.set(to, None, due);
            route.canary = target.layout.color(Track::Canary).unwrap_or(Color::Green);
        }
        state.wrote(format!("weight of {target} from {} to {to}", there.weight));
    }
    traffic(state, caller, target)
}

/// The weight in the routing object, if there is one.
fn weight_of(state: &State, target: &Target) -> Option<Weight> {
    state.service(target)?.route.as_ref().map(|route| route.weight)
}

#[async_trait]
impl TrafficRouter for Facet {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::new(Granularity::Percent, self.world.scenario(|scenario| scenario.world.routers_report))
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let (caller, target) = (self.router("read", target).reading(), target.clone());
        let asks = caller.clone();
        self.world.call(cx, caller, move |state| traffic(state, &asks, &target)).await
    }

    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        let (caller, target) = (self.router("watch", target).reading(), target.clone());
        let (asks, of) = (caller.clone(), target.clone());
        self.world.call(cx, caller.clone(), move |state| traffic(state, &asks, &of).map(drop)).await?;
        let asks = caller.clone();
        Ok(self.world.watch(cx, &caller, move |state| traffic(state, &asks, &target)))
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let (caller, target) = (self.router("set", target), target.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| set_weight(state, &asks, &target, Some(change.from), change.to);
        self.world.call(cx, caller, effect).await
    }

    async fn reset(&self, cx: &CallContext, target: &Target, _capacity: u32) -> Result<Traffic> {
        let (caller, target) = (self.router("reset", target), target.clone());
        let asks = caller.clone();
        // As real routers do, it reads first, and writes only over what it read.
        let read = self.world.look(|state| weight_of(state, &target));
        let effect = move |state: &mut State| {
            let now = weight_of(state, &target);
            if now != read && now != Some(Weight::ZERO) {
                return Err(asks.fails(ErrorKind::Conflict, "the weight changed between the read and the write"));
            }
            set_weight(state, &asks, &target, None, Weight::ZERO)
        };
        self.world.call(cx, caller, effect).await
    }

    fn by_hand(&self, target: &Target, _capacity: u32) -> Vec<String> {
        vec![format!("simulate weight {target} 0")]
    }
}

/// The real [`ReplicaRatio`] over the simulated deployer, with faults of its own before and after.
#[derive(Debug)]
pub(super) struct RatioRouter {
    facet: Facet,
    inner: ReplicaRatio,
}

impl RatioRouter {
    pub(super) fn new(facet: Facet) -> Self {
        let inner = ReplicaRatio::new(Arc::new(facet.clone()));
        Self { facet, inner }
    }
}

#[async_trait]
impl TrafficRouter for RatioRouter {
    fn capabilities(&self) -> RouterCapabilities {
        self.inner.capabilities()
    }

    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic> {
        let caller = self.facet.router("read", target).reading();
        self.facet.world.around(cx, caller, self.inner.read(cx, target)).await
    }

    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        self.inner.watch(cx, target).await
    }

    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic> {
        let caller = self.facet.router("set", target);
        self.facet.world.around(cx, caller, self.inner.set(cx, target, change)).await
    }

    async fn reset(&self, cx: &CallContext, target: &Target, capacity: u32) -> Result<Traffic> {
        let caller = self.facet.router("reset", target);
        self.facet.world.around(cx, caller, self.inner.reset(cx, target, capacity)).await
    }

    fn by_hand(&self, target: &Target, capacity: u32) -> Vec<String> {
        self.inner.by_hand(target, capacity)
    }
}

#[async_trait]
impl Diagnostics for Facet {
    async fn pods(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Pods> {
        let (caller, target) = (self.diagnostics("pods", target), target.clone());
        self.world.call(cx, caller, move |state| Ok(state.pods(&target, track))).await
    }

    async fn watch_pods(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Pods>>> {
        let (caller, target) = (self.diagnostics("watch_pods", target), target.clone());
        self.world.call(cx, caller.clone(), |_| Ok(())).await?;
        Ok(self.world.watch(cx, &caller, move |state| Ok(state.pods(&target, track))))
    }

    async fn warnings(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Vec<String>> {
        let (caller, target) = (self.diagnostics("warnings", target), target.clone());
        let effect = move |state: &mut State| {
            let pods = state.pods(&target, track).into_iter();
            Ok(pods.filter_map(|pod| pod.reason.map(|reason| format!("pod {}: {reason}", pod.name))).collect())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn logs(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
        request: &LogRequest,
    ) -> Result<Vec<(String, String)>> {
        let (caller, target, request) = (self.diagnostics("logs", target), target.clone(), request.clone());
        let effect = move |state: &mut State| {
            let pods = state.pods(&target, track).into_iter().filter(|pod| !request.previous || pod.restarts > 0);
            let line = |pod: &crate::backend::PodState| match (&pod.reason, pod.restarts) {
                (Some(reason), 0) => format!("not serving: {reason}"),
                (_, 0) => "serving".to_owned(),
                _ => "panicked: this version crashes".to_owned(),
            };
            Ok(pods.filter(|_| request.tail > 0).map(|pod| (pod.name.clone(), line(&pod))).collect())
        };
        self.world.call(cx, caller, effect).await
    }
}
