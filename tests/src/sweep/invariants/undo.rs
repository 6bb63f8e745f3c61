//! What becomes of a completed release that is taken back.

use moodify_core::journal::Outcome;
use moodify_core::testing::{BackendKind, Call, Fault};

use super::{Facts, injected, ms};

const CLUSTER: [BackendKind; 2] = [BackendKind::Deployer, BackendKind::Router];

impl Facts<'_> {
    /// The world is as the undoing run says, which completes unless something is in its way.
    pub(super) fn undone(&mut self) {
        let Some(undone) = &self.trace.undone else { return };
        let (outcome, summary) = match &undone.ended {
            Ok(ended) => ended.clone(),
            Err(why) => return self.broken(3, "what takes a release back ends", why.clone()),
        };
        let edited = !self.case.edits.is_empty();
        let faulty = |call: &&Call| CLUSTER.contains(&call.backend) && (call.fault.is_some() || injected(call));
        let cut_off = |(kind, _, to): &(BackendKind, u64, u64)| CLUSTER.contains(kind) && ms(*to) > undone.from;
        let disturbed = edited || undone.calls.iter().any(|c| faulty(&c)) || self.case.partitions.iter().any(cut_off);
        if outcome != Outcome::Completed && !disturbed {
            self.broken(6, "taking back a release needs nothing but the old version", format!("{outcome}: {summary}"));
        }
        let late = |call: &Call| matches!(call.fault, Some(Fault::Late(_) | Fault::Stale(_)));
        let written = undone.writes.iter().find(|write| write.backend.is_some());
        if let (Outcome::Refused, Some(write)) = (outcome, written) {
            self.broken(3, "a refused run changes nothing", write.what.clone());
        }
        if outcome == Outcome::NeedsAttention || edited || undone.calls.iter().any(late) || self.late() {
            return;
        }
        let old = outcome == Outcome::Completed;
        for view in &undone.services {
            let image = if old { Some(view.initial.clone()) } else { self.new_image(&view.name) };
            let capacity = self.at_first(&view.name).and_then(|view| Some(view.stable.as_ref()?.replicas.desired));
            let Some((stable, image)) = view.stable.as_ref().zip(image) else { continue };
            let (serving, other) = match (&view.canary, self.case.keep) {
                // The one that serves has what it shall have; the other one keeps nothing but its version.
                (Some((_, green)), Some(_)) => {
                    if old {
                        (stable, Some(green))
                    } else {
                        (green, Some(stable))
                    }
                }
                (canary, _) => (stable, canary.as_ref().map(|(_, canary)| canary)),
            };
            let left = other.is_some_and(|other| self.case.keep.is_none() || other.replicas.desired > 0);
            let all = (view.flow.share(&image) - 1.0).abs() < 1e-6 || !self.case.behaviours.is_empty();
            if serving.image != image || Some(serving.replicas.desired) != capacity || left || !all {
                let is = format!("{outcome}, but {} is {:?}, canary {:?}", view.name, stable, view.canary);
                self.broken(3, "after taking back all is old or all is new", is);
            }
        }
    }
}
