//! What is known of a run at a moment, from all that was said of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use moodify_core::RunId;
use moodify_core::action::kinds;
use moodify_core::analysis::MetricStatus;
use moodify_core::clock::since;
use moodify_core::event::{Event, EventKind, Progress, ProgressKind};
use moodify_core::journal::{CommandKind, Outcome};
use moodify_core::model::{Phase, Plan, Track};

/// Where a step or a phase stands, for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mark {
    #[default]
    Pending,
    Current,
    Done,
    Failed,
    GoingBack,
    Back,
}

/// One step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepView {
    pub(crate) mark: Mark,
    began: Option<Timestamp>,
    ended: Option<Timestamp>,
}

/// A bake going on.
#[derive(Debug, Clone)]
pub(crate) struct BakeView {
    pub(crate) weight: u8,
    pub(crate) elapsed: Duration,
    pub(crate) total: Duration,
    pub(crate) metrics: Vec<MetricStatus>,
}

/// One service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServiceView {
    /// The new version's share of the traffic, as a fraction of one.
    pub(crate) share: f64,
    /// Canary instances: available, asked for.
    pub(crate) canaries: Option<(u32, u32)>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) plan: Arc<Plan>,
    pub(crate) run: Option<RunId>,
    pub(crate) begun: Option<Timestamp>,
    pub(crate) now: Timestamp,
    pub(crate) steps: BTreeMap<String, StepView>,
    pub(crate) services: BTreeMap<String, ServiceView>,
    pub(crate) bake: Option<BakeView>,
    /// Why it waits, in words.
    pub(crate) waits: BTreeMap<&'static str, String>,
    pub(crate) going_back: bool,
    pub(crate) ended: Option<(Outcome, String)>,
}

impl View {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let services = plan.release.services.iter().map(|s| (s.name.clone(), ServiceView::default())).collect();
        Self {
            plan,
            run: None,
            begun: None,
            now: Timestamp::UNIX_EPOCH,
            steps: BTreeMap::new(),
            services,
            bake: None,
            waits: BTreeMap::new(),
            going_back: false,
            ended: None,
        }
    }

    /// Takes an event in.
    pub(crate) fn event(&mut self, event: &Event) {
        self.now = event.time;
        self.run.get_or_insert_with(|| event.run.clone());
        match &event.kind {
            EventKind::RunCreated { .. } => self.begun = Some(event.time),
            EventKind::StepStarted { step, .. } => {
                self.waits.remove("retry");
                self.bake = None;
                let began = self.steps.get(step).and_then(|s| s.began).or(Some(event.time));
                self.steps.insert(step.clone(), StepView { mark: Mark::Current, began, ended: None });
            }
            EventKind::StepFinished { step, output } => {
                self.mark(step, Mark::Done, event.time);
                for (service, share) in output.as_object().into_iter().flatten() {
                    if let (Some(view), Some(share)) = (self.services.get_mut(service), share["share"].as_f64()) {
                        view.share = share;
                    }
                }
            }
            EventKind::StepFailed { step, message, retry_in, .. } => match retry_in {
                Some(wait) => {
                    self.waits.insert("retry", format!("tries {step} again in {wait}: {message}"));
                }
                None => self.mark(step, Mark::Failed, event.time),
            },
            EventKind::Held { reason, .. } => {
                self.waits.insert("held", reason.clone());
            }
            EventKind::Released { .. } => {
                self.waits.remove("held");
            }
            EventKind::Commanded { command, by, reason, refused: None } => match command {
                CommandKind::Pause => {
                    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                    self.waits.insert("paused", format!("paused by {by}{reason}"));
                }
                CommandKind::Continue => {
                    self.waits.remove("paused");
                }
                CommandKind::Abort => {}
            },
            EventKind::RollbackStarted { .. } => {
                self.waits.clear();
                self.bake = None;
                self.going_back = true;
            }
            EventKind::UndoStarted { step, .. } => {
                self.waits.clear();
                self.mark(step, Mark::GoingBack, event.time);
            }
            EventKind::UndoFinished { step } => self.mark(step, Mark::Back, event.time),
            EventKind::UndoFailed { step, message, retry_in, .. } => match retry_in {
                Some(wait) => {
                    self.waits.insert("retry", format!("takes {step} back again in {wait}: {message}"));
                }
                None => self.mark(step, Mark::Failed, event.time),
            },
            EventKind::RunEnded { outcome, summary } => {
                self.waits.clear();
                self.bake = None;
                self.ended = Some((*outcome, summary.clone()));
            }
            _ => {}
        }
    }

    fn mark(&mut self, step: &str, mark: Mark, time: Timestamp) {
        let view = self.steps.entry(step.to_owned()).or_default();
        view.mark = mark;
        // How long a step took is not how long it was in force.
        if matches!(mark, Mark::Done | Mark::Failed) {
            view.ended = Some(time);
        }
    }

    /// Takes progress in.
    pub(crate) fn progress(&mut self, time: Timestamp, progress: &Progress) {
        self.now = self.now.max(time);
        match &progress.kind {
            ProgressKind::Workload { service, track: Track::Canary, available, desired } => {
                self.services.entry(service.clone()).or_default().canaries = Some((*available, *desired));
            }
            ProgressKind::Traffic { service, share, .. } => {
                self.services.entry(service.clone()).or_default().share = *share;
            }
            // Late news of a step that is over is no news.
            ProgressKind::Bake { weight, elapsed, total, metrics, .. }
                if self.steps.get(&progress.step).is_some_and(|s| s.mark == Mark::Current) && !self.going_back =>
            {
                self.bake = Some(BakeView {
                    weight: weight.percent(),
                    elapsed: elapsed.get(),
                    total: total.get(),
                    metrics: metrics.clone(),
                });
            }
            _ => {}
        }
    }

    /// Whether the stable workloads run the new version: then the share of the canaries says nothing any more.
    pub(crate) fn promoted(&self) -> bool {
        let mut promotions = self.plan.steps().filter(|(_, s)| s.action == kinds::PROMOTE);
        promotions.any(|(_, s)| self.steps.get(&s.name).is_some_and(|s| s.mark == Mark::Done))
    }

    /// Where a phase stands, and how long it has taken.
    pub(crate) fn phase(&self, phase: &Phase) -> (Mark, Option<Duration>) {
        let steps: Vec<&StepView> = phase.steps.iter().filter_map(|s| self.steps.get(&s.name)).collect();
        let any = |mark| steps.iter().any(|s| s.mark == mark);
        let mark = if any(Mark::GoingBack) {
            Mark::GoingBack
        } else if any(Mark::Failed) {
            Mark::Failed
        } else if any(Mark::Back) {
            Mark::Back
        } else if any(Mark::Current) || (!steps.is_empty() && steps.len() < phase.steps.len()) {
            Mark::Current
        } else if steps.is_empty() {
            Mark::Pending
        } else {
            Mark::Done
        };
        let began = steps.iter().filter_map(|s| s.began).min();
        let ended = match mark {
            Mark::Current => Some(self.now),
            _ => steps.iter().filter_map(|s| s.ended).max(),
        };
        (mark, began.zip(ended).map(|(began, ended)| since(began, ended)))
    }

    /// The steps at work in a phase.
    pub(crate) fn current<'a>(&self, phase: &'a Phase) -> Option<&'a str> {
        let at_work = |name: &str| {
            self.steps.get(name).is_some_and(|s| matches!(s.mark, Mark::Current | Mark::GoingBack | Mark::Failed))
        };
        phase.steps.iter().map(|s| s.name.as_str()).find(|name| at_work(name))
    }
}
