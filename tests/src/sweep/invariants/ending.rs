//! How a run ends, and whether the world agrees.

use moodify_core::ErrorKind;
use moodify_core::analysis::{NoDataThen, sources};
use moodify_core::journal::{Cause, CommandKind, Outcome, Record};
use moodify_core::model::Weight;
use moodify_core::strategy::split;
use moodify_core::testing::{BackendKind, Behaviour, Edited, Fault, ServiceView};

use super::{Facts, Moment, of_step, secs};
use crate::sweep::case::{QUEUE, ms};

const CLUSTER: [BackendKind; 3] = [BackendKind::Deployer, BackendKind::Router, BackendKind::Diagnostics];
const TELLING: [BackendKind; 2] = [BackendKind::StatusPage, BackendKind::Notifier];
const METRICS: [BackendKind; 1] = [BackendKind::MetricSource];
const PROBES: [BackendKind; 1] = [BackendKind::Probe];

/// Whether a write takes instances away, by its text: `x from 3 to 2 instances`.
fn shrinks(what: &str) -> bool {
    let numbers: Vec<u32> = what.split(' ').filter_map(|word| word.parse().ok()).collect();
    matches!(numbers.as_slice(), [from, to] if to < from)
}

impl Facts<'_> {
    /// A run ends in one of four ways, with a reason for it, and the world is as it says.
    pub(super) fn ending(&mut self) {
        let Some((outcome, summary)) = self.trace.ended.clone() else { return };
        self.reason(outcome, &summary);
        match outcome {
            Outcome::Completed => self.world(true, "completed"),
            Outcome::RolledBack => self.world(false, "rolled back"),
            Outcome::Refused => {
                // A message changes nothing.
                let mut writes = self.engine_writes().filter(|write| write.backend != Some(BackendKind::Notifier));
                if let Some(write) = writes.next() {
                    self.broken(3, "a refused run changes nothing", write.what.clone());
                }
            }
            Outcome::NeedsAttention => self.attention(&summary),
        }
        self.foreign_edits();
    }

    /// The world is all new, or all old, and nothing of the run is left.
    fn world(&mut self, new: bool, what: &str) {
        if self.late() {
            return;
        }
        for view in &self.trace.services {
            if let Some(text) = self.differs(view, new) {
                self.broken(3, "the world is all new or all old", format!("{what}, but {}: {text}", view.name));
            }
            if view.canary.is_some() && !(new && self.case.keep.is_some()) {
                self.broken(10, "no canary is left", format!("{what}, but {} has one", view.name));
            }
        }
        self.incidents(what);
    }

    fn incidents(&mut self, what: &str) {
        let late = self.faulty(&[BackendKind::StatusPage]).any(|c| matches!(c.fault, Some(Fault::Late(_))));
        if let Some(open) = self.trace.incidents.iter().find(|incident| incident.is_open()).filter(|_| !late) {
            self.broken(10, "no incident is left open", format!("{what}, but {} is open", open.incident.id));
        }
    }

    /// What is not all new, or all old.
    fn differs(&self, view: &ServiceView, new: bool) -> Option<String> {
        let edited = self.edited(&view.name).is_some();
        let image = if new { self.new_image(&view.name)? } else { view.initial.clone() };
        let Some(mut stable) = view.stable.as_ref() else { return Some("there is no stable workload".to_owned()) };
        if new && self.case.keep.is_some() {
            if stable.image != view.initial || (stable.replicas.desired > 0 && !edited) {
                return Some(format!("what served before has {} of {}", stable.replicas.desired, stable.image));
            }
            let Some((_, green)) = &view.canary else { return Some("there is no other workload".to_owned()) };
            stable = green;
        }
        if stable.image != image {
            return Some(format!("stable runs {}", stable.image));
        }
        let wanted = self.at_first(&view.name)?.stable.as_ref()?.replicas.desired;
        if stable.replicas.desired != wanted && !edited {
            return Some(format!("stable has {} instances, not {wanted}", stable.replicas.desired));
        }
        if let Some(weight) = view.route.filter(|weight| weight.percent() > 0)
            && !edited
        {
            return Some(format!("the canary's weight is {weight}"));
        }
        let share = view.flow.share(&image);
        // A new version may go bad after its release.
        let well = !new || self.case.behaviours.is_empty();
        if (share - 1.0).abs() > 1e-6 && well && !edited {
            return Some(format!("{image} has {:.1} % of the traffic", share * 100.0));
        }
        None
    }

    /// Whether a version that does this can be found good by every metric, or be available, for ever.
    fn is_bad_for_ever(&self, behaviour: &Behaviour) -> bool {
        if behaviour.until.is_some() || behaviour.after.is_some() {
            return false;
        }
        let judged = |name: &str, value: f64| {
            let mut checks = self.case.analysis.metrics.iter().filter(|m| m.name == name && m.source != sources::PODS);
            checks.any(|metric| metric.verdict(value) != Some(true))
        };
        behaviour.crash_loop
            || behaviour.never_ready
            || behaviour.error_rate.is_some_and(|rate| judged("error-rate", rate.get()))
            || behaviour.latency_p95.is_some_and(|time| judged("latency-p95", time.get().as_secs_f64()))
            || behaviour.figures.get(QUEUE).is_some_and(|value| judged(QUEUE, *value))
    }

    fn is_about_metrics(behaviour: &Behaviour) -> bool {
        behaviour.no_metrics
    }

    /// There is a reason for the outcome.
    fn reason(&mut self, outcome: Outcome, summary: &str) {
        let over = self.over();
        let metrics = self.disturbed(&METRICS)
            || self.case.outage.is_some_and(|outage| outage.down_after.get() <= over)
            || self.case.not_a_number.is_some_and(|(from, _)| ms(from) <= over)
            || self.case.behaviours.iter().any(Self::is_about_metrics);
        let telling = self.disturbed(&TELLING);
        let bad = self.case.behaviours.iter().any(|behaviour| !Self::is_about_metrics(behaviour));
        let edited = self.edits().any(|edit| edit.at <= over);
        let aborted = self.accepted(CommandKind::Abort).is_some();
        let cluster = self.disturbed(&CLUSTER);
        let probes = self.disturbed(&PROBES);
        let refused = self.first(|r| matches!(r, Record::Ended { outcome: Outcome::Refused, .. }));
        let closed = refused
            .is_some_and(|at| !self.case.gates.hold(self.case.wall(at.saturating_sub(ms(self.case.journal_time)))));
        let text = format!("{outcome}: {summary}");
        let rejected = self.accepted(CommandKind::Reject).is_some();
        let otherwise = rejected || bad || edited || aborted || cluster || probes || closed;
        match (outcome, metrics, telling) {
            _ if otherwise => {}
            (Outcome::Completed, ..) | (Outcome::NeedsAttention, _, true) => {}
            (Outcome::NeedsAttention, true, _) if self.case.analysis.no_data.then == NoDataThen::Attention => {}
            (Outcome::RolledBack, true, _) if self.case.analysis.no_data.then == NoDataThen::Rollback => {}
            (_, false, false) => self.broken(3, "a run that nothing disturbs completes", text),
            (_, true, _) => self.broken(7, "no data ends a run only as its policy says", text),
            (_, false, true) => self.broken(6, "who only tells people cannot stop a run", text),
        }
        let text = format!("{outcome}: {summary}");
        if outcome == Outcome::Refused
            && self.first(|r| matches!(r, Record::GatesPassed)).is_none()
            && !closed
            && !aborted
        {
            self.broken(3, "only a closed gate refuses", text.clone());
        }
        if outcome == Outcome::Completed {
            if aborted {
                self.broken(3, "an abort that was accepted is obeyed", text.clone());
            }
            let skipped = self.accepted(CommandKind::Skip).is_some();
            // Figures that are older than the whole watch show another version's traffic, and nobody can tell.
            let shortest = self.case.weights.iter().map(|(_, bake)| ms(*bake)).min().unwrap_or_default();
            let old =
                self.faulty(&METRICS).any(|call| matches!(call.fault, Some(Fault::Stale(age)) if age >= shortest));
            let unseen = |behaviour: &&Behaviour| skipped || (old && behaviour.from_weight.is_some());
            let mut behaviours = self.case.behaviours.iter().filter(|behaviour| !unseen(behaviour));
            if let Some(behaviour) = behaviours.find(|behaviour| self.is_bad_for_ever(behaviour)) {
                self.broken(7, "no bad version is released", format!("{text}; {behaviour:?}"));
            }
        }
    }

    /// A person is called for a reason that is there and is named; what has nothing to do with it is whole.
    fn attention(&mut self, summary: &str) {
        let mut reasons = Vec::new();
        let mut unjust = Vec::new();
        let steps: Vec<(String, String)> = self.plan.steps().map(|(_, s)| (s.name.clone(), s.action.clone())).collect();
        for (step, action) in &steps {
            let observer = ["notify", "status-page"].contains(&action.as_str());
            for (logged, moment) in of_step(&self.trace.log, step) {
                let (error, undoing) = match moment {
                    Moment::Failed(error) => (error, false),
                    Moment::UndoFailed(error, false) => (error, true),
                    _ => continue,
                };
                let before = |at: std::time::Duration| at <= logged.at;
                let stale = self.faulty(&CLUSTER).any(|call| matches!(call.fault, Some(Fault::Stale(_))));
                let drifted = stale || self.edits().any(|edit| before(edit.at));
                let why = match error.kind {
                    _ if observer => self.disturbed(&TELLING).then_some("nobody could be told"),
                    ErrorKind::Drift => drifted.then_some("somebody else edited it"),
                    ErrorKind::Inconclusive if !undoing => Some("no data"),
                    _ if undoing => (self.disturbed(&CLUSTER) || drifted).then_some("it could not be taken back"),
                    _ => continue,
                };
                match why {
                    Some(why) if observer => reasons.push((step.clone(), why)),
                    Some(why) => reasons.push((step.clone(), why)),
                    None => unjust.push(format!("{step} at {}: {:?}", secs(logged.at), error.kind)),
                }
            }
        }
        for text in unjust {
            self.broken(3, "a person is called for a reason that is there", text);
        }
        if !reasons.iter().any(|(step, _)| summary.contains(step.as_str())) {
            self.broken(3, "a person is told what is wrong", summary.to_owned());
        }
        // Where only people could not be told, all else was done.
        let told = |(_, why): &(String, &str)| *why == "nobody could be told";
        if !reasons.is_empty() && reasons.iter().all(told) && !self.late() {
            let new = self.rollback().is_none();
            for view in &self.trace.services {
                if let Some(text) = self.differs(view, new) {
                    let text = format!("{}: {text}; {summary}", view.name);
                    self.broken(6, "who only tells people cannot stop a run", text);
                }
            }
        }
    }

    /// Whether somebody set a number that the run itself sets on its way: then nobody can tell.
    fn could_be_ours(&self, what: Edited, service: &str, text: &str) -> bool {
        let capacity = self.at_first(service).and_then(|view| view.stable.as_ref()).map_or(0, |w| w.replicas.desired);
        let weights = || self.case.weights.iter().filter_map(|(percent, _)| Weight::new(*percent));
        let number = text.split(' ').find_map(|word| word.parse::<u32>().ok());
        let mut ours: Vec<u32> = match what {
            Edited::Route => weights().map(|weight| u32::from(weight.percent())).collect(),
            Edited::StableReplicas if self.is_ratio(service) => weights().map(|w| split(capacity, w).stable).collect(),
            _ => return false,
        };
        ours.push(if what == Edited::Route { 0 } else { capacity });
        number.is_some_and(|number| ours.contains(&number))
    }

    /// What somebody else edited is not overwritten.
    fn foreign_edits(&mut self) {
        let mut wrong = Vec::new();
        for entry in self.entries() {
            if let Record::RollbackStarted { cause: Cause::Failure { step, error } } = &entry.record
                && error.kind == ErrorKind::Drift
            {
                wrong.push(format!("a way back over what was found at {step}"));
            }
        }
        for edit in &self.case.edits {
            let made = self.edits().find(|write| write.subject == edit.service);
            let Some(made) = made else { continue };
            // What was there when the run looked first is no drift.
            let looked = |r: &Record| matches!(r, Record::StepFinished { step, .. } if self.action(step) == "baseline");
            if self.first(looked).is_none_or(|looked| made.at <= looked) {
                continue;
            }
            if self.could_be_ours(edit.what, &edit.service, &made.what) {
                continue;
            }
            // A run's canary goes with the run, and a way back sets any weight to nothing: nothing else may.
            let going_back = |at| self.rollback().is_some_and(|began| began <= at);
            // What was compared just before the edit was made is not blind.
            let compared = made.at + ms(30);
            let of_canary = |what: &str| what.contains("-canary") || what.contains("-green");
            let over = self.engine_writes().find(|write| {
                write.at > made.at
                    && write.subject == edit.service
                    && match (edit.what, write.operation.as_str()) {
                        (Edited::Canary, "scale" | "deploy" | "set_image") => of_canary(&write.what),
                        (Edited::Route, "set") => true,
                        (Edited::Route, "reset") => write.at > compared && !going_back(write.at),
                        (Edited::StableReplicas, "scale") => {
                            !of_canary(&write.what) && (!going_back(write.at) || shrinks(&write.what))
                        }
                        _ => false,
                    }
            });
            if let Some(over) = over {
                wrong.push(format!("{} at {}; then {} at {}", made.what, secs(made.at), over.what, secs(over.at)));
            }
        }
        for text in wrong {
            self.broken(12, "somebody else's edit is not overwritten", text);
        }
    }
}
