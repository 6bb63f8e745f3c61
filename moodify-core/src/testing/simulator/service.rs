//! One simulated service: its stable workload, its canary, its route, and how traffic flows through them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::backend::{PodState, Testers};
use crate::model::{Color, ConfigRefs, ConfigVersion, ImageRef, Layout, Target, Track, Weight};

use super::scenario::{Behaviour, Edit, Edited, Scenario};
use super::workload::{Conduct, Running};

/// The routing object of a service, and what the data plane makes of it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) weight: Weight,
    pub(super) in_force: Weight,
    /// When `weight` comes into force; `None` if it has.
    pub(super) due: Option<Duration>,
    pub(super) edited_by: Option<String>,
    /// The workload that the weight is of.
    pub(super) canary: Color,
}

impl Route {
    pub(super) fn new() -> Self {
        Self { weight: Weight::ZERO, in_force: Weight::ZERO, due: None, edited_by: None, canary: Color::Green }
    }

    pub(super) fn set(&mut self, weight: Weight, by: Option<String>, due: Duration) {
        self.weight = weight;
        self.edited_by = by;
        self.due = Some(due);
    }
}

/// How the traffic of a service flows, from a moment on.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Since when, from the start of the simulation.
    pub at: Duration,
    /// The service.
    pub service: String,
    /// The canary's weight in the routing object; zero if there is none.
    pub weight: Weight,
    /// The share of each version that gets any, as a fraction of one.
    pub shares: BTreeMap<ImageRef, f64>,
    /// The share that goes where nobody answers, as a fraction of one.
    pub lost: f64,
}

impl Flow {
    /// The share of a version, as a fraction of one.
    #[must_use]
    pub fn share(&self, image: &ImageRef) -> f64 {
        self.shares.get(image).copied().unwrap_or(0.0)
    }
}

/// What the service's name stands for, and what the data plane makes of it.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) stands_for: Color,
    in_force: Color,
    /// When it comes into force; `None` if it has.
    due: Option<Duration>,
    /// Who switched it last, if that was somebody else.
    pub(super) edited_by: Option<String>,
}

impl Name {
    pub(super) fn is_in_force(&self) -> bool {
        self.due.is_none()
    }

    pub(super) fn hand_over(&mut self, to: Color, due: Duration) {
        self.stands_for = to;
        self.due = Some(due);
        self.edited_by = None;
    }
}

/// Where the workload is kept that has this part in a release.
pub(super) fn place(layout: Layout, track: Track) -> Track {
    match layout.color(track) {
        None if layout == Layout::Single => Track::Stable,
        None => track,
        Some(Color::Blue) => Track::Stable,
        Some(Color::Green) => Track::Canary,
    }
}

#[derive(Debug, Clone)]
pub(super) struct SimService {
    pub(super) target: Target,
    /// What ran at first.
    pub(super) initial: ImageRef,
    /// The workload that the plan names: the stable one, and the blue one of two that take turns.
    pub(super) stable: Option<Running>,
    /// The one beside it: a canary, and the green one.
    pub(super) canary: Option<Running>,
    pub(super) route: Option<Route>,
    pub(super) name: Name,
    /// Whose requests go to the canary whatever its weight is.
    pub(super) testers: Option<Testers>,
    /// Of how many requests the canary gets a copy, if of any.
    pub(super) mirrored: Option<Weight>,
    /// The configuration objects that were made for versions of it, with their contents.
    pub(super) made: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) flow: Flow,
    /// When each version's share first reached each percentage; growing.
    peaks: BTreeMap<ImageRef, Vec<(u8, Duration)>>,
}

impl SimService {
    pub(super) fn new(target: Target, initial: ImageRef, stable: Option<Running>, route: Option<Route>) -> Self {
        let service = target.service.name.clone();
        let flow =
            Flow { at: Duration::ZERO, service, weight: Weight::ZERO, shares: BTreeMap::new(), lost: f64::INFINITY };
        let name = Name { stands_for: Color::Blue, in_force: Color::Blue, due: None, edited_by: None };
        Self {
            target,
            initial,
            stable,
            canary: None,
            route,
            name,
            testers: None,
            mirrored: None,
            made: BTreeMap::new(),
            flow,
            peaks: BTreeMap::new(),
        }
    }

    /// The workload that has this part in a release of `target`.
    pub(super) fn of<'a>(&'a self, target: &Target, track: Track) -> Option<&'a Running> {
        let running = self.track(place(target.layout, track));
        // The canary in a single workload is what runs the new version.
        let is_part = target.layout == Layout::Single && track == Track::Canary;
        running.filter(|running| !is_part || running.image == target.service.image)
    }

    /// What the pods of a workload read of this configuration.
    pub(super) fn reads(running: &Running, target: &Target) -> ConfigRefs {
        let keys = target.service.config.iter().map(ConfigVersion::key);
        keys.map(|key| (key.clone(), running.object(&key).to_owned())).collect()
    }

    /// Makes the objects that this version reads, as long as they are not there.
    pub(super) fn make_config(&mut self, target: &Target, refs: &ConfigRefs) {
        for one in target.service.config.iter().filter(|one| refs.get(&one.key()) == Some(&one.object())) {
            self.made.extend(one.data.clone().map(|data| (one.object(), data)));
        }
    }

    /// Deletes what was made and no version reads that runs, or that could come back.
    pub(super) fn delete_unread(&mut self) {
        let workloads = [&self.stable, &self.canary].into_iter().flatten();
        let read: BTreeSet<&String> = workloads
            .flat_map(|running| running.past.iter().chain([&running.config]))
            .flat_map(BTreeMap::values)
            .collect();
        self.made.retain(|object, _| read.contains(object));
    }

    pub(super) fn name(&self) -> &str {
        &self.target.service.name
    }

    pub(super) fn track(&self, track: Track) -> Option<&Running> {
        match track {
            Track::Stable => self.stable.as_ref(),
            Track::Canary => self.canary.as_ref(),
        }
    }

    pub(super) fn track_mut(&mut self, track: Track) -> Option<&mut Running> {
        match track {
            Track::Stable => self.stable.as_mut(),
            Track::Canary => self.canary.as_mut(),
        }
    }

    fn behaviours<'a>(&'a self, scenario: &'a Scenario, image: &ImageRef) -> impl Iterator<Item = &'a Behaviour> {
        let by_role = if *image == self.initial { &scenario.stable } else { &scenario.canary };
        let by_tag = image.tag().and_then(|tag| scenario.versions.get(tag)).map_or(&[][..], Vec::as_slice);
        by_role.iter().chain(by_tag).filter(|b| b.service.as_deref().is_none_or(|name| name == self.name()))
    }

    /// When the version's share first reached this weight; for zero, when it first was more than nothing.
    fn reached(&self, image: &ImageRef, weight: Weight) -> Option<Duration> {
        let wanted = weight.percent().max(1);
        self.peaks.get(image)?.iter().find(|(percent, _)| *percent >= wanted).map(|(_, at)| *at)
    }

    /// From when to when a behaviour lasts, as far as is known by now.
    fn period(&self, image: &ImageRef, behaviour: &Behaviour) -> Option<(Duration, Option<Duration>)> {
        let timed = behaviour.after.is_some() || behaviour.until.is_some();
        let origin = match behaviour.from_weight {
            Some(weight) => self.reached(image, weight)?,
            None if timed => self.reached(image, Weight::ZERO)?,
            None => Duration::ZERO,
        };
        let from = origin + behaviour.after.unwrap_or_default().get();
        Some((from, behaviour.until.map(|until| origin + until.get())))
    }

    /// What a version does now.
    pub(super) fn conduct(&self, scenario: &Scenario, image: &ImageRef, now: Duration) -> Conduct {
        let world = &scenario.world;
        let mut conduct = Conduct {
            error_rate: world.error_rate.get(),
            latency: world.latency_p95.get().as_secs_f64(),
            figures: world.figures.clone(),
            pod_start: world.pod_start.get(),
            ..Conduct::default()
        };
        for behaviour in self.behaviours(scenario, image) {
            if let Some(time) = behaviour.pod_start {
                conduct.pod_start = time.get();
            }
            let Some((from, until)) = self.period(image, behaviour) else { continue };
            if now < from || until.is_some_and(|until| until <= now) {
                continue;
            }
            if behaviour.crash_loop {
                conduct.crashing_since = Some(conduct.crashing_since.map_or(from, |since| since.min(from)));
            }
            conduct.never_ready |= behaviour.never_ready;
            conduct.no_metrics |= behaviour.no_metrics;
            conduct.unready = behaviour.unready.map_or(conduct.unready, |share| share.get());
            conduct.error_rate = behaviour.error_rate.map_or(conduct.error_rate, |share| share.get());
            conduct.latency = behaviour.latency_p95.map_or(conduct.latency, |time| time.get().as_secs_f64());
            conduct.figures.extend(behaviour.figures.clone());
        }
        conduct
    }

    /// The pods of a track now; none if there is no such workload.
    pub(super) fn pods(&self, scenario: &Scenario, track: Track, now: Duration) -> Vec<PodState> {
        let Some(running) = self.track(track) else { return Vec::new() };
        let mut conducts: BTreeMap<&ImageRef, (Conduct, usize, usize)> = BTreeMap::new();
        for pod in &running.pods {
            let known = conducts.entry(&pod.image);
            known.or_insert_with(|| (self.conduct(scenario, &pod.image, now), 0, 0)).1 += 1;
        }
        let state = |pod: &super::workload::Pod| {
            let (conduct, count, rank) = conducts.get_mut(&pod.image)?;
            *rank += 1;
            Some(pod.state(&running.name, conduct, *rank - 1, *count, now))
        };
        running.pods.iter().filter_map(state).collect()
    }

    /// The share of the traffic that is sent to each workload, whether or not somebody answers there.
    fn sent(&self, ready: &BTreeMap<Track, usize>) -> [(Track, f64); 2] {
        let (weight, of) =
            self.route.as_ref().map_or((0.0, Color::Green), |route| (route.in_force.fraction(), route.canary));
        let count = |track: Track| ready.get(&track).copied().unwrap_or(0) as f64;
        let shared = self.canary.as_ref().is_some_and(|canary| canary.shares_service);
        let all = count(Track::Stable) + count(Track::Canary);
        // Behind one Service, every ready pod gets the same.
        let of_service = if shared && all > 0.0 { count(Track::Canary) / all } else { 0.0 };
        let by_name = if self.name.in_force == Color::Green { 1.0 } else { of_service };
        let by_weight = if of == Color::Green { 1.0 } else { 0.0 };
        let canary = weight * by_weight + (1.0 - weight) * by_name;
        [(Track::Stable, 1.0 - canary), (Track::Canary, canary)]
    }

    /// The share that is sent to a track now.
    pub(super) fn share_of(&self, scenario: &Scenario, track: Track, now: Duration) -> f64 {
        let ready = self.ready(scenario, now);
        self.sent(&ready).into_iter().find(|(t, _)| *t == track).map_or(0.0, |(_, share)| share)
    }

    fn ready(&self, scenario: &Scenario, now: Duration) -> BTreeMap<Track, usize> {
        let count = |track| self.pods(scenario, track, now).iter().filter(|pod| pod.ready).count();
        [Track::Stable, Track::Canary].map(|track| (track, count(track))).into()
    }

    fn flow_now(&self, scenario: &Scenario, now: Duration) -> Flow {
        let weight = self.route.as_ref().map_or(Weight::ZERO, |route| route.weight);
        let mut flow = Flow { weight, shares: BTreeMap::new(), lost: 0.0, ..self.flow.clone() };
        for (track, share) in self.sent(&self.ready(scenario, now)) {
            let pods = self.pods(scenario, track, now);
            let images = self.track(track).map_or(&[][..], |running| &running.pods);
            let serving: Vec<&ImageRef> =
                pods.iter().zip(images).filter(|(pod, _)| pod.ready).map(|(_, pod)| &pod.image).collect();
            if serving.is_empty() {
                flow.lost += share;
            }
            for image in serving.iter().copied().filter(|_| share > 0.0) {
                *flow.shares.entry(image.clone()).or_default() += share / serving.len() as f64;
            }
        }
        flow
    }

    /// Lets everything happen that is due now. Changes of the flow go to `flows`.
    pub(super) fn settle(&mut self, scenario: &Scenario, now: Duration, flows: &mut Vec<Flow>) {
        loop {
            let mut changed = false;
            if let Some(route) = self.route.as_mut().filter(|route| route.due.is_some_and(|due| due <= now)) {
                route.in_force = route.weight;
                route.due = None;
            }
            if self.name.due.is_some_and(|due| due <= now) {
                self.name.in_force = self.name.stands_for;
                self.name.due = None;
            }
            for track in [Track::Stable, Track::Canary] {
                let states = self.pods(scenario, track, now);
                changed |= self.track_mut(track).is_some_and(|running| running.control(&states, now));
            }
            let flow = Flow { at: now, ..self.flow_now(scenario, now) };
            if (Flow { at: self.flow.at, ..flow.clone() }) != self.flow {
                for (image, share) in &flow.shares {
                    // In 1..=100: a little traffic is traffic.
                    let percent = (share * 100.0).round().clamp(1.0, 100.0) as u8;
                    let peaks = self.peaks.entry(image.clone()).or_default();
                    if peaks.last().is_none_or(|(highest, _)| *highest < percent) {
                        peaks.push((percent, now));
                    }
                }
                flows.push(flow.clone());
                self.flow = flow;
                changed = true;
            }
            if !changed {
                return;
            }
        }
    }

    /// When something changes next by itself.
    pub(super) fn next_change(&self, scenario: &Scenario, now: Duration) -> Option<Duration> {
        let mut all: Vec<Duration> = Vec::new();
        all.extend(self.route.as_ref().and_then(|route| route.due));
        all.extend(self.name.due);
        for running in [&self.stable, &self.canary].into_iter().flatten() {
            all.extend(running.due());
            all.extend(running.gives_up(scenario.world.progress_deadline.get()));
            let mut last: Option<(&ImageRef, Conduct)> = None;
            for pod in &running.pods {
                if last.as_ref().is_none_or(|(image, _)| *image != &pod.image) {
                    for behaviour in self.behaviours(scenario, &pod.image) {
                        let period = self.period(&pod.image, behaviour);
                        all.extend(period.into_iter().flat_map(|(from, until)| [Some(from), until]).flatten());
                    }
                    last = Some((&pod.image, self.conduct(scenario, &pod.image, now)));
                }
                all.extend(last.as_ref().and_then(|(_, conduct)| pod.next_change(conduct, now)));
            }
        }
        all.into_iter().filter(|at| *at > now).min()
    }

    /// When an edit is due; `None` if that is not known yet.
    pub(super) fn edit_due(&self, edit: &Edit) -> Option<Duration> {
        let Some(weight) = edit.from_weight else { return Some(edit.after.get()) };
        let new = self.peaks.keys().filter(|image| **image != self.initial);
        let reached = new.filter_map(|image| self.reached(image, weight)).min()?;
        Some(reached + edit.after.get())
    }

    /// Makes an edit, if what it edits is there. Returns what was done.
    pub(super) fn edit(&mut self, scenario: &Scenario, edit: &Edit, now: Duration) -> Option<String> {
        let by = Some(edit.by.clone());
        let running = match edit.what {
            Edited::Route => {
                let route = self.route.as_mut()?;
                let percent = edit.to.unwrap_or(u32::from(route.weight.percent()) + 1).min(100);
                let weight = u8::try_from(percent).ok().and_then(Weight::new)?;
                route.set(weight, by, now + scenario.world.route_lag.get());
                return Some(format!("weight of {} to {weight}", self.name()));
            }
            Edited::CanaryDeleted => {
                let canary = self.canary.take()?;
                return Some(format!("{} is deleted", canary.name));
            }
            Edited::Name => {
                let other = self.name.stands_for.other();
                self.name.hand_over(other, now + scenario.world.route_lag.get());
                self.name.edited_by = by;
                return Some(format!("{} stands for {other}", self.name()));
            }
            Edited::StableImage => {
                let stable = self.stable.as_mut()?;
                stable.image = "simulated/hotfix:by-hand".parse().ok()?;
                stable.edited_by = by;
                stable.asked(now + scenario.world.controller_lag.get());
                return Some(format!("{} to {}", stable.name, stable.image));
            }
            Edited::Canary => self.canary.as_mut()?,
            Edited::StableReplicas => self.stable.as_mut()?,
        };
        running.desired = edit.to.unwrap_or(running.desired + 1);
        running.edited_by = by;
        running.asked(now + scenario.world.controller_lag.get());
        Some(format!("{} to {} instances", running.name, running.desired))
    }
}
