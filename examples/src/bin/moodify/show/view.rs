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
use moodify_core::model::{Phase, Plan, Step, Track};

const PAUSED: &str = "paused";
const HELD: &str = "held";
const RETRY: &str = "retry";

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
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StepView {
    pub(crate) mark: Mark,
    began: Option<Timestamp>,
    ended: Option<Timestamp>,
}

/// A bake going on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BakeView {
    pub(crate) weight: u8,
    pub(crate) elapsed: Duration,
    pub(crate) total: Duration,
    pub(crate) metrics: Vec<MetricStatus>,
}

/// One service.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ServiceView {
    /// The new version's share of the traffic, as a fraction of one.
    pub(crate) share: f64,
    /// Canary instances: available, asked for.
    pub(crate) canaries: Option<(u32, u32)>,
}

/// All of it. Events may come twice and progress may be missing: when a run is over, the view is the same.
#[derive(Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) plan: Arc<Plan>,
    pub(crate) run: Option<RunId>,
    /// The number of the last event.
    last: u64,
    pub(crate) begun: Option<Timestamp>,
    pub(crate) now: Timestamp,
    pub(crate) steps: BTreeMap<String, StepView>,
    pub(crate) services: BTreeMap<String, ServiceView>,
    /// The bakes that go on, by step.
    pub(crate) bakes: BTreeMap<String, BakeView>,
    /// Why it waits, in words; the key says what for and where.
    pub(crate) waits: BTreeMap<(&'static str, String), String>,
    pub(crate) going_back: bool,
    pub(crate) ended: Option<(Outcome, String)>,
}

impl View {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let services = plan.release.services.iter().map(|s| (s.name.clone(), ServiceView::default())).collect();
        Self {
            plan,
            run: None,
            last: 0,
            begun: None,
            now: Timestamp::UNIX_EPOCH,
            steps: BTreeMap::new(),
            services,
            bakes: BTreeMap::new(),
            waits: BTreeMap::new(),
            going_back: false,
            ended: None,
        }
    }

    /// Takes an event in.
    pub(crate) fn event(&mut self, event: &Event) {
        if event.number <= self.last {
            return;
        }
        self.last = event.number;
        self.now = event.time;
        self.run.get_or_insert_with(|| event.run.clone());
        match &event.kind {
            EventKind::RunCreated { .. } => self.begun = Some(event.time),
            EventKind::StepStarted { step, .. } => {
                self.end_of_waiting(step);
                let began = self.steps.get(step).and_then(|s| s.began).or(Some(event.time));
                self.steps.insert(step.clone(), StepView { mark: Mark::Current, began, ended: None });
            }
            EventKind::StepFinished { step, output } => {
                self.end_of_waiting(step);
                self.mark(step, Mark::Done, event.time);
                for (service, share) in output.as_object().into_iter().flatten() {
                    if let (Some(view), Some(share)) = (self.services.get_mut(service), share["share"].as_f64()) {
                        view.share = share;
                    }
                }
            }
            EventKind::StepFailed { step, message, retry_in, .. } => {
                self.end_of_waiting(step);
                match retry_in {
                    Some(wait) => self.waits(RETRY, step, format!("tries {step} again in {wait}: {message}")),
                    None => self.mark(step, Mark::Failed, event.time),
                }
            }
            EventKind::Held { step, reason } => self.waits(HELD, step, format!("{step}: {reason}")),
            EventKind::Released { step } => {
                self.waits.remove(&(HELD, step.clone()));
            }
            EventKind::Commanded { command, by, reason, refused: None, .. } => match command {
                CommandKind::Pause => {
                    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                    self.waits(PAUSED, "", format!("paused by {by}{reason}"));
                }
                CommandKind::Continue => {
                    self.waits.remove(&(PAUSED, String::new()));
                }
                _ => {}
            },
            EventKind::RollbackStarted { .. } => {
                self.waits.clear();
                self.bakes.clear();
                self.going_back = true;
            }
            EventKind::UndoStarted { step, .. } => {
                self.waits.clear();
                self.mark(step, Mark::GoingBack, event.time);
            }
            EventKind::UndoFinished { step } => self.mark(step, Mark::Back, event.time),
            EventKind::UndoFailed { step, message, retry_in, .. } => match retry_in {
                Some(wait) => self.waits(RETRY, step, format!("takes {step} back again in {wait}: {message}")),
                None => self.mark(step, Mark::Failed, event.time),
            },
            EventKind::RunEnded { outcome, summary } => {
                self.waits.clear();
                self.bakes.clear();
                // Only progress knew these.
                self.services.values_mut().for_each(|service| *service = ServiceView::default());
                self.ended = Some((*outcome, summary.clone()));
            }
            _ => {}
        }
    }

    fn waits(&mut self, what: &'static str, step: &str, words: String) {
        self.waits.insert((what, step.to_owned()), words);
    }

    /// A step begins anew or ends: nothing that was said of its attempt holds any more.
    fn end_of_waiting(&mut self, step: &str) {
        self.waits.retain(|(_, of), _| of != step);
        self.bakes.remove(step);
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
        // Late news of a run that is over is no news.
        if self.ended.is_some() {
            return;
        }
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
                let (elapsed, total, metrics) = (elapsed.get(), total.get(), metrics.clone());
                let bake = BakeView { weight: weight.percent(), elapsed, total, metrics };
                self.bakes.insert(progress.step.clone(), bake);
            }
            _ => {}
        }
    }

    /// Whether the services' names stand for the new version: then the share of the canaries says nothing any more.
    pub(crate) fn promoted(&self) -> bool {
        let mut promotions =
            self.plan.steps().filter(|(_, s)| [kinds::PROMOTE, kinds::HAND_OVER].contains(&s.action.as_str()));
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
    pub(crate) fn current<'a>(&self, phase: &'a Phase) -> Vec<(&'a Step, Mark)> {
        let mark = |step: &Step| self.steps.get(&step.name).map_or(Mark::Pending, |s| s.mark);
        let at_work = |mark| matches!(mark, Mark::Current | Mark::GoingBack | Mark::Failed);
        phase.steps.iter().map(|step| (step, mark(step))).filter(|(_, mark)| at_work(*mark)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moodify_core::Engine;
    use moodify_core::event::Signal;
    use moodify_core::journal::MemoryJournal;
    use moodify_core::testing::{Scenario, Simulator};

    use super::*;

    /// All that is said of a run of the example that releases in this scenario.
    fn told(scenario: &str) -> (Plan, Vec<(Timestamp, Signal)>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let text = include_str!("../../../../plans/approved-release.yaml");
            let mut plan = moodify_core::planfile::read(text, "plan").unwrap().0.expand();
            plan.phases.retain(|phase| phase.name != "sign-off");
            let simulator = Simulator::for_plan(&plan, Scenario::named(scenario).unwrap());
            let clock = simulator.clock();
            let journal = Arc::new(MemoryJournal::new());
            let engine = Engine::new(journal, simulator.backends_for(&plan)).with_clock(clock.clone());
            let mut audience = engine.subscribe();
            let listening = tokio::spawn(async move {
                let mut told = Vec::new();
                while let Some(signal) = audience.next().await {
                    told.push((clock.now(), signal));
                }
                told
            });
            engine.run(&plan, "ana").await.unwrap();
            drop(engine);
            (plan, listening.await.unwrap())
        })
    }

    fn take(view: &mut View, (time, signal): &(Timestamp, Signal)) {
        match signal {
            Signal::Event(event) => view.event(event),
            Signal::Progress(progress) => view.progress(*time, progress),
        }
    }

    #[test]
    fn whole_duplicated_and_thinned_streams_come_to_the_same_view() {
        for scenario in ["healthy", "errors-at-50", "metrics-outage", "edited-by-hand"] {
            let (plan, told) = told(scenario);
            let progress = told.iter().filter(|(_, signal)| matches!(signal, Signal::Progress(_))).count();
            assert!(progress > 10, "{scenario}: there is something to thin out");
            let view = |signals: &mut dyn Iterator<Item = &(Timestamp, Signal)>| {
                let mut view = View::new(Arc::new(plan.clone()));
                signals.for_each(|signal| take(&mut view, signal));
                view
            };
            let whole = view(&mut told.iter());
            assert!(whole.ended.is_some() && whole.steps.len() > 5, "{scenario}: {whole:?}");
            assert_eq!(view(&mut told.iter().flat_map(|one| [one, one])), whole, "{scenario}: each twice");
            assert_eq!(view(&mut told.iter().chain(&told)), whole, "{scenario}: all again from the start");
            let events = told.iter().filter(|(_, signal)| matches!(signal, Signal::Event(_)));
            assert_eq!(view(&mut events.clone()), whole, "{scenario}: without progress");
            let some = told.iter().enumerate().filter(|(n, (_, s))| n % 3 == 0 || matches!(s, Signal::Event(_)));
            assert_eq!(view(&mut some.map(|(_, one)| one)), whole, "{scenario}: with a third of the progress");
            // Events count: without some of them it is another run.
            let finished = |signal: &Signal| matches!(signal, Signal::Event(e) if matches!(e.kind, EventKind::StepFinished { .. }));
            assert_ne!(view(&mut events.filter(|(_, signal)| !finished(signal))), whole, "{scenario}");
        }
    }
}
