//! How steps are done: nothing before it is written down, nothing unknown again without looking, no weight without
//! measurements, nothing by who lost the run.

use std::collections::BTreeMap;
use std::time::Duration;

use moodify_core::analysis::sources;
use moodify_core::error::Effect;
use moodify_core::event::EventKind;
use moodify_core::journal::{CommandKind, Entry, Record, fold};
use moodify_core::testing::{BackendKind, Fault, Write};

use super::{Facts, Moment, of_step, secs};
use crate::sweep::case::ms;
use crate::sweep::journal::Logged;

impl Facts<'_> {
    /// The journal is whole, and what observers were told is what it says.
    pub(super) fn journal(&mut self) {
        let entries: Vec<Entry> = self.entries().cloned().collect();
        if let Err(e) = fold(&entries) {
            self.broken(4, "the journal can be read", e.to_string());
        }
        if let Some(pair) =
            entries.windows(2).find(|pair| pair[1].seq != pair[0].seq + 1 || pair[1].token < pair[0].token)
        {
            let text = format!(
                "record {} of token {} follows {} of {}",
                pair[1].seq, pair[1].token, pair[0].seq, pair[0].token
            );
            self.broken(8, "records follow each other and only the newest owner writes", text);
        }
        let ends = entries.iter().filter(|entry| matches!(entry.record, Record::Ended { .. })).count();
        if ends > 1 || (ends == 1 && !matches!(entries.last().map(|e| &e.record), Some(Record::Ended { .. }))) {
            self.broken(3, "a run ends once", format!("{ends} ends"));
        }
        let mut wrong = Vec::new();
        for (number, life) in self.trace.lives.iter().enumerate() {
            if let Some(pair) = life.events.windows(2).find(|pair| pair[1].number != pair[0].number + 1) {
                wrong.push(format!("engine-{number} told of {} after {}", pair[1].number, pair[0].number));
            }
            for event in &life.events {
                let logged = self.trace.log.iter().find(|logged| logged.entry.seq == event.number);
                let same = logged.is_some_and(|logged| logged.life == number && logged.entry.time == event.time);
                if !same {
                    wrong.push(format!("engine-{number} told of event {}, which is not its record", event.number));
                }
            }
            let terminal = life.events.iter().position(|event| matches!(event.kind, EventKind::RunEnded { .. }));
            if terminal.is_some_and(|at| at + 1 != life.events.len()) {
                wrong.push(format!("engine-{number} told something after the end"));
            }
        }
        for text in wrong {
            self.broken(3, "events are what is durable, without a gap", text);
        }
        if self.trace.endless {
            self.broken(4, "a run ends in a bounded time", "it did not");
        }
        if let Some(why) = self.trace.failed.clone() {
            self.broken(4, "an engine that nothing happens to ends the run", why);
        }
        let still = self.trace.lives.iter().position(|life| life.death == crate::sweep::drive::Death::Replaced(None));
        if let Some(number) = still.filter(|_| !self.trace.endless) {
            self.broken(8, "an engine that lost the run ends", format!("engine-{number} goes on"));
        }
    }

    /// Nothing is written before the gates hold.
    pub(super) fn gates(&mut self) {
        let passed = self.first(|record| matches!(record, Record::GatesPassed));
        if let Some(write) = self.engine_writes().find(|write| passed.is_none_or(|passed| write.at < passed)) {
            let text = format!("{} at {}", write.what, secs(write.at));
            self.broken(1, "nothing is written before the gates hold", text);
        }
        if let Some(at) = passed.map(|at| at.saturating_sub(ms(self.case.journal_time)))
            && !self.case.gates.hold(self.case.wall(at))
        {
            self.broken(1, "no closed gate is passed", format!("{:?} at {}", self.case.gates, secs(at)));
        }
    }

    /// Every write belongs to an attempt that was written down before and is not over; what is unknown is looked at
    /// before it is done again; nothing is done twice.
    pub(super) fn attempts(&mut self) {
        let writes: Vec<&Write> = self.engine_writes().filter(|write| !self.is_late(write)).collect();
        for write in &writes {
            let key = write.key.as_ref().map(ToString::to_string).unwrap_or_default();
            let name = key.split('/').nth(1).unwrap_or_default();
            let page = name == "status-page";
            let steps =
                self.plan.steps().filter(|(_, s)| if page { s.action == "status-page" } else { s.name == name });
            let names: Vec<String> = steps.map(|(_, step)| step.name.clone()).collect();
            if !names.iter().any(|name| self.is_open(name, write.at)) {
                let text = format!("{} at {} ({key})", write.what, secs(write.at));
                self.broken(5, "every write belongs to an attempt that is written down", text);
            }
        }
        let mut seen: BTreeMap<(&str, &str, &str), Duration> = BTreeMap::new();
        for write in writes {
            let once =
                matches!(write.operation.as_str(), "deploy" | "set_image" | "hand_over" | "set" | "reset" | "remove");
            if !once || self.is_ratio(&write.subject) || self.edited(&write.subject).is_some() || self.late() {
                continue;
            }
            if let Some(before) = seen.insert((&write.operation, &write.subject, &write.what), write.at) {
                let text = format!("{} at {} and at {}", write.what, secs(before), secs(write.at));
                self.broken(5, "no effect is made twice", text);
            }
        }
        self.told();
        self.observed();
    }

    /// Whether the write came of a request that arrived late.
    fn is_late(&self, write: &Write) -> bool {
        self.trace.calls.iter().any(|call| {
            matches!(call.fault, Some(Fault::Late(_))) && call.at <= write.at && Some(&call.key) == Some(&write.key)
        })
    }

    fn is_open(&self, step: &str, at: Duration) -> bool {
        let before = of_step(&self.trace.log, step).take_while(|(logged, _)| logged.at <= at);
        let mut open = false;
        for (logged, moment) in before {
            open = match moment {
                Moment::Started | Moment::UndoStarted => true,
                // Of what is at the same time, the write may have been first.
                Moment::Finished | Moment::Failed(_) | Moment::UndoFinished | Moment::UndoFailed(..) => {
                    open && logged.at == at
                }
                Moment::Owned => open,
            };
        }
        open
    }

    fn told(&mut self) {
        let pages = self.trace.incidents.len();
        let late = self.faulty(&[BackendKind::StatusPage]).any(|call| matches!(call.fault, Some(Fault::Late(_))));
        if pages > 1 && !late {
            self.broken(5, "a run has one incident", format!("{pages} were opened"));
        }
        let doubled = self.faulty(&[BackendKind::Notifier]).filter(|call| call.fault == Some(Fault::Duplicate)).count();
        let steps: Vec<String> =
            self.plan.steps().filter(|(_, s)| s.action == "notify").map(|(_, s)| s.name.clone()).collect();
        for step in steps {
            let attempts = of_step(&self.trace.log, &step).filter(|(_, m)| matches!(m, Moment::Started)).count();
            let end = format!("/{step}");
            let deliveries = self.trace.deliveries.iter().filter(|d| d.key.as_str().ends_with(&end)).count();
            if deliveries > attempts + doubled {
                self.broken(
                    5,
                    "nobody is told more often than tried",
                    format!("{step}: {deliveries} times, {attempts} attempts"),
                );
            }
        }
    }

    fn observed(&mut self) {
        let shifts: Vec<String> =
            self.plan.steps().filter(|(_, s)| s.action == "shift-traffic").map(|(_, s)| s.name.clone()).collect();
        for step in shifts {
            let mut running = false;
            let mut unknown: Option<Duration> = None;
            let mut wrong = None;
            for (logged, moment) in of_step(&self.trace.log, &step) {
                match moment {
                    Moment::Started => {
                        if let Some(since) = unknown.take()
                            && !self.looked(&step, since, logged.at)
                        {
                            wrong = Some(logged.at);
                        }
                        running = true;
                    }
                    Moment::Owned if running => unknown = Some(logged.at),
                    Moment::Failed(error) => {
                        running = false;
                        unknown = (error.effect == Effect::Unknown).then_some(logged.at);
                    }
                    Moment::Finished => (running, unknown) = (false, None),
                    _ => {}
                }
            }
            if let Some(at) = wrong {
                let text = format!("{step} is tried again at {} though its effect was unknown", secs(at));
                self.broken(5, "an unknown effect is observed before it is repeated", text);
            }
        }
    }

    fn looked(&self, step: &str, from: Duration, to: Duration) -> bool {
        let end = format!("/{step}");
        self.plan.release.services.iter().all(|service| {
            self.trace.calls.iter().any(|call| {
                call.backend == BackendKind::Router
                    && call.operation == "read"
                    && call.subject == service.name
                    && from <= call.at
                    && call.at <= to
                    && call.key.as_ref().is_some_and(|key| key.as_str().ends_with(&end))
            })
        })
    }

    /// No weight goes up, and nothing is promoted, before the new version was watched for its time and every metric
    /// was found good.
    pub(super) fn measured(&mut self) {
        let bakes: Vec<(String, Duration)> = self
            .plan
            .steps()
            .filter(|(_, step)| step.action == "bake")
            .filter_map(|(_, step)| {
                let period: moodify_core::model::Period = step.with["period"].as_str()?.parse().ok()?;
                Some((step.name.clone(), period.get()))
            })
            .collect();
        for (step, period) in bakes {
            let moments: Vec<(Duration, usize, Moment<'_>)> =
                of_step(&self.trace.log, &step).map(|(logged, moment)| (logged.at, logged.life, moment)).collect();
            let Some((finished, life, _)) = moments.iter().copied().find(|(_, _, m)| matches!(m, Moment::Finished))
            else {
                continue;
            };
            let decided = finished.saturating_sub(ms(self.case.journal_time));
            let began = moments.iter().filter(|(at, _, m)| matches!(m, Moment::Started) && *at <= decided).map(|m| m.0);
            let began = began.max().unwrap_or_default();
            // Who skips an analysis takes it upon themselves.
            let skipped = |logged: &Logged| {
                let skip = matches!(&logged.entry.record, Record::Commanded { command, refused: None } if command.kind == CommandKind::Skip);
                skip && moments.first().is_some_and(|first| first.0 <= logged.at) && logged.at <= finished
            };
            if self.trace.log.iter().any(skipped) {
                continue;
            }
            self.watched_for(&step, period, &moments, finished);
            self.all_good(&step, began, decided, life);
        }
    }

    fn watched_for(
        &mut self,
        step: &str,
        period: Duration,
        moments: &[(Duration, usize, Moment<'_>)],
        finished: Duration,
    ) {
        let mut watched = Duration::ZERO;
        let mut since: Option<(Duration, usize)> = None;
        let lives = &self.trace.lives;
        let close = |since: &mut Option<(Duration, usize)>, at: Duration| {
            since.take().map_or(Duration::ZERO, |(from, life)| {
                let over = lives.get(life).map_or(at, |life| life.over.max(from));
                // One that was left alone goes on until its lease has run out.
                let left =
                    lives.get(life).is_some_and(|life| matches!(life.death, crate::sweep::drive::Death::Replaced(_)));
                (if left { at } else { at.min(over) }).saturating_sub(from)
            })
        };
        for (at, life, moment) in moments {
            match moment {
                Moment::Started => {
                    watched += close(&mut since, *at);
                    since = Some((*at, *life));
                }
                Moment::Owned | Moment::Failed(_) | Moment::Finished => watched += close(&mut since, *at),
                _ => {}
            }
            if *at >= finished {
                break;
            }
        }
        let still = self.stood_still(step, finished);
        let counted = watched.saturating_sub(still);
        if counted + ms(50) < period {
            let text = format!("{step}: {} of {}", secs(counted), secs(period));
            self.broken(7, "every weight is watched for its time", text);
        }
    }

    /// For how long the time of a step certainly stood still: it held, or a person paused the run. A second each is the
    /// granularity of that.
    fn stood_still(&self, step: &str, finished: Duration) -> Duration {
        let mut still: Vec<(Duration, Duration)> = Vec::new();
        let (mut held, mut paused, mut watching) = (None, None, false);
        for logged in self.trace.log.iter().take_while(|logged| logged.at <= finished) {
            let at = logged.at;
            let mut ended = |since: &mut Option<Duration>, watching: bool| {
                still.extend(since.take().filter(|_| watching).map(|from| (from, at)));
            };
            match &logged.entry.record {
                Record::StepStarted { step: of, .. } if of == step => {
                    watching = true;
                    paused = paused.map(|_| at);
                }
                Record::StepFinished { step: of, .. } | Record::StepFailed { step: of, .. } if of == step => {
                    ended(&mut held, watching);
                    ended(&mut paused.clone(), watching);
                    watching = false;
                }
                Record::Held { step: of, .. } if of == step => held = Some(at),
                Record::Released { step: of } if of == step => ended(&mut held, watching),
                // What passed while nobody watched is not watched anyway.
                Record::Owned { .. } => (held, watching) = (None, false),
                Record::Commanded { command, refused: None } if command.kind == CommandKind::Pause => {
                    paused = paused.or(Some(at));
                }
                Record::Commanded { command, refused: None } if command.kind == CommandKind::Continue => {
                    ended(&mut paused, watching);
                }
                _ => {}
            }
        }
        still.sort_unstable();
        let mut reached = Duration::ZERO;
        let mut sum = Duration::ZERO;
        for (from, to) in still {
            let from = from.max(reached);
            sum += to.saturating_sub(from).saturating_sub(ms(1100));
            reached = reached.max(to);
        }
        sum
    }

    fn all_good(&mut self, step: &str, began: Duration, decided: Duration, life: usize) {
        let mut wrong = Vec::new();
        for service in &self.plan.release.services {
            for metric in &self.case.analysis.metrics {
                if metric.source == sources::PODS {
                    let seen = self.trace.calls.iter().any(|call| {
                        call.operation == "watch_pods"
                            && call.subject == service.name
                            && call.outcome == Some(Ok(()))
                            && began <= call.at
                            && call.at <= decided
                    });
                    if !seen {
                        wrong.push(format!("{step}: nobody watched the pods of {}", service.name));
                    }
                    continue;
                }
                let answers: Vec<_> = self
                    .trace
                    .asked
                    .iter()
                    .filter(|a| a.service == service.name && a.metric == metric.name && a.source == metric.source)
                    .filter(|a| began <= a.at && a.at <= decided)
                    .collect();
                let good = |at: Option<&&crate::sweep::metrics::Asked>| {
                    at.is_some_and(|a| a.value.is_some_and(|value| metric.verdict(value) == Some(true)))
                };
                // An answer of the very last moment may have come too late to be heard.
                let last = answers.last();
                let unheard = last.is_some_and(|last| last.at == decided);
                let before = answers.iter().rev().nth(1);
                let heard = if unheard && !good(last) { before } else { last };
                if !good(heard) {
                    wrong.push(format!(
                        "{step}: {} of {} was {:?} when engine-{life} went on",
                        metric.name,
                        service.name,
                        last.map(|a| a.value)
                    ));
                }
            }
        }
        for text in wrong {
            self.broken(7, "nothing goes on without a good measurement of every metric", text);
        }
    }

    /// Who lost the run changes nothing.
    pub(super) fn fenced(&mut self) {
        let mut wrong = None;
        for write in self.engine_writes() {
            let Some(life) = write.by.strip_prefix("engine-").and_then(|n| n.parse::<usize>().ok()) else { continue };
            let taken = self.trace.taken.iter().rfind(|(_, at)| *at < write.at);
            if let Some((owner, lost)) = taken.filter(|(owner, _)| *owner != life)
                && !self.is_late(write)
            {
                let text = format!(
                    "{}: {} at {}, engine-{owner} has it since {}",
                    write.by,
                    write.what,
                    secs(write.at),
                    secs(*lost)
                );
                wrong = Some(text);
            }
        }
        if let Some(text) = wrong {
            self.broken(8, "who lost the run changes nothing", text);
        }
    }
}
