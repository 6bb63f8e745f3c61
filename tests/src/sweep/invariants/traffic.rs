//! What the traffic may do: never more than the journal allows, never to where nobody answers, and back at once.

use std::time::Duration;

use moodify_core::journal::{Outcome, Record};
use moodify_core::model::Weight;
use moodify_core::strategy::{batch, split};
use moodify_core::testing::{BackendKind, Call, Flow, Write};

use super::{Facts, ms, secs};
use crate::sweep::case::{Case, LifeEnd};

const EPSILON: f64 = 1e-6;

/// Backends that only look on, or only tell.
const OBSERVERS: [BackendKind; 4] =
    [BackendKind::MetricSource, BackendKind::StatusPage, BackendKind::Notifier, BackendKind::Probe];

/// From a moment on, the new version's share may be so much.
type Ceiling = (Duration, f64);

impl Facts<'_> {
    /// At no moment does the new version get more than the journal allowed at that moment.
    pub(super) fn allowed(&mut self) {
        for index in 0..self.case.services.len() {
            let name = Case::service_name(index);
            let until = self.edited(&name).unwrap_or(Duration::MAX);
            let ceilings = self.ceilings(&name);
            let flows: Vec<&Flow> = self.trace.flows.iter().filter(|flow| flow.service == name).collect();
            let Some(image) = self.new_image(&name) else { continue };
            let by_ratio = self.is_ratio(&name);
            for (position, flow) in flows.iter().enumerate() {
                let next = flows.get(position + 1).map_or(Duration::MAX, |next| next.at).min(until);
                if flow.at >= until {
                    break;
                }
                // The lowest ceiling while this flow lasted.
                let lowest = |(i, ceiling): (usize, &Ceiling)| {
                    let ends = ceilings.get(i + 1).map_or(Duration::MAX, |next| next.0);
                    (ceiling.0 < next && flow.at < ends).then_some(ceiling.1)
                };
                let ceiling = ceilings.iter().enumerate().filter_map(lowest).fold(1.0, f64::min);
                let share = flow.share(&image);
                let weight = if by_ratio { 0.0 } else { flow.weight.fraction() };
                let most = share.max(weight);
                if most > ceiling + EPSILON && !self.late() {
                    let text = format!(
                        "{name}: at {} {:.1} % of the traffic, allowed are {:.1} %",
                        secs(flow.at),
                        most * 100.0,
                        ceiling * 100.0
                    );
                    self.broken(2, "no more traffic than the journal allows", text);
                    break;
                }
            }
        }
    }

    fn ceilings(&self, service: &str) -> Vec<Ceiling> {
        let capacity = self.at_first(service).and_then(|view| view.stable.as_ref()).map_or(0, |w| w.replicas.desired);
        let by_ratio = self.is_ratio(service);
        let share = |weight: Weight| match by_ratio {
            true if self.case.alone => {
                f64::from(batch(capacity, weight).unwrap_or(capacity)) / f64::from(capacity.max(1))
            }
            true => split(capacity, weight).share(),
            false => weight.fraction(),
        };
        let mut ceilings = vec![(Duration::ZERO, 0.0)];
        for logged in &self.trace.log {
            let ceiling = match &logged.entry.record {
                Record::Checkpoint { step, data } => {
                    let weight = data["weight"].as_u64().and_then(|weight| Weight::try_from(weight).ok());
                    match (self.action(step), weight) {
                        // A canary without a route gets its share as soon as it is there.
                        ("deploy-canary", Some(weight)) if by_ratio => share(weight),
                        ("shift-traffic" | "roll-batch", Some(weight)) => share(weight),
                        _ => continue,
                    }
                }
                Record::StepStarted { step, .. } if ["promote", "hand-over"].contains(&self.action(step)) => 1.0,
                Record::UndoFinished { step } if ["shift-traffic", "roll-batch"].contains(&self.action(step)) => 0.0,
                Record::Ended { outcome: Outcome::RolledBack | Outcome::Refused, .. } => 0.0,
                _ => continue,
            };
            ceilings.push((logged.at, ceiling));
        }
        ceilings
    }

    /// A way back needs nobody who looks on, and takes a bounded time; a canary goes when the traffic has left it.
    pub(super) fn way_back(&mut self) {
        self.removals();
        let Some(began) = self.rollback() else { return };
        let asks = |call: &&Call| {
            let looks = [BackendKind::MetricSource, BackendKind::Probe, BackendKind::Notifier].contains(&call.backend);
            looks && call.at > began
        };
        if let Some(call) = self.trace.calls.iter().find(asks) {
            let text = format!("{} is asked at {}", call.backend, secs(call.at));
            self.broken(6, "a way back asks no metrics, probes or people", text);
        }
        self.undo_order();
        // What is bounded is the way back of an engine that lives, on a cluster that answers.
        let cluster = [BackendKind::Deployer, BackendKind::Router, BackendKind::Diagnostics];
        let hindered = self.faulty(&cluster).any(|call| call.at >= began)
            || self.case.partitions.iter().any(|(kind, _, to)| !OBSERVERS.contains(kind) && ms(*to) > began)
            || self.edits().next().is_some()
            || self.trace.lives.iter().any(|life| life.end.is_some() && life.hit && life.over >= began)
            || self.case.lives.iter().any(|life| matches!(life.end, LifeEnd::Deaf(_) | LifeEnd::CutOff(..)))
            || self.late();
        if hindered {
            return;
        }
        // What was rolled is rolled back; what was scaled to nothing comes back first.
        let gone = |step: &str| ["promote", "retire-old"].contains(&self.action(step));
        let promoted = self.first(|r| matches!(r, Record::StepStarted { step, .. } if gone(step)));
        for index in 0..self.case.services.len() {
            let name = Case::service_name(index);
            let replicas = u64::from(self.case.services[index].replicas);
            let pods = ms((replicas + 2) * (self.case.pod_start + 1500));
            let rolled = if promoted.is_some() { pods } else { Duration::ZERO };
            let regrown = if self.is_ratio(&name) { pods } else { Duration::ZERO };
            let bound = began + ms(5000) + rolled + regrown + ms(40 * self.case.journal_time);
            let Some(image) = self.new_image(&name) else { continue };
            let mut after = self.trace.flows.iter().filter(|flow| flow.service == name);
            let at_bound = after.by_ref().take_while(|flow| flow.at <= bound).last();
            let share = at_bound.map_or(0.0, |flow| flow.share(&image));
            if share > EPSILON {
                let text = format!(
                    "{name}: {:.1} % of the traffic {} after the way back began",
                    share * 100.0,
                    secs(bound - began)
                );
                self.broken(6, "the traffic is back in a bounded time", text);
            }
        }
    }

    /// The last thing done is the first undone.
    fn undo_order(&mut self) {
        let place = |step: &str| self.plan.steps().position(|(_, s)| s.name == step);
        let mut last: Option<(usize, String)> = None;
        let mut wrong = None;
        for entry in self.entries() {
            let Record::UndoStarted { step, .. } = &entry.record else { continue };
            // Who only tells people may be told after everything else.
            if ["status-page", "notify"].contains(&self.action(step)) {
                continue;
            }
            let Some(now) = place(step) else { continue };
            if let Some((before, name)) = &last
                && now > *before
            {
                wrong = Some(format!("{step} is undone after {name}"));
            }
            last = Some((now, step.clone()));
        }
        if let Some(text) = wrong {
            self.broken(6, "steps are undone in reverse order", text);
        }
    }

    fn removals(&mut self) {
        let mut wrong = Vec::new();
        let takes_away = |write: &&Write| {
            write.operation == "remove" || (write.operation == "scale" && write.what.ends_with(" to 0 instances"))
        };
        for write in self.engine_writes().filter(takes_away) {
            if self.edited(&write.subject).is_some() || self.is_ratio(&write.subject) || self.late() {
                continue;
            }
            let flows = || self.trace.flows.iter().filter(|flow| flow.service == write.subject);
            let before = flows().take_while(|flow| flow.at < write.at).last().map_or(0.0, |flow| flow.lost);
            let at = flows().find(|flow| flow.at == write.at).map_or(before, |flow| flow.lost);
            if at > before + EPSILON {
                wrong.push(format!("{}: at {} {:.1} % go nowhere", write.subject, secs(write.at), at * 100.0));
            }
        }
        for text in wrong {
            self.broken(6, "nothing is removed that has traffic", text);
        }
    }
}
