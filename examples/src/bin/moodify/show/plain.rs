//! One line for everything that happens, and now and then one for how it goes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use moodify_core::analysis::MetricStatus;
use moodify_core::event::{EventKind, Progress, ProgressKind, Signal};

use super::words::{Teller, Tone, length, verdict, when};
use super::{Display, Header, Shown, say};

/// Lines.
#[derive(Debug)]
pub(super) struct Plain {
    header: Header,
    teller: Teller,
    /// The last line of each kind of progress, so that only changes are told.
    last: BTreeMap<String, String>,
}

impl Plain {
    pub(super) fn new(header: Header) -> Self {
        Self { teller: Teller::new(header.clone()), header, last: BTreeMap::new() }
    }

    fn progress(&mut self, time: Timestamp, progress: &Progress) {
        let (key, mark, line) = match &progress.kind {
            ProgressKind::Workload { service, track, available, desired } => {
                let line = format!("{service}: {available} of {desired} {track} instances are available");
                (format!("{service} {track}"), line.clone(), line)
            }
            ProgressKind::Traffic { service, weight, share } => {
                let exact = (share * 100.0 - f64::from(weight.percent())).abs() < 0.5;
                let share = if exact { String::new() } else { format!(" (really {:.0} %)", share * 100.0) };
                let line = format!("{service}: the canary gets {weight} of the traffic{share}");
                (format!("{service} traffic"), line.clone(), line)
            }
            ProgressKind::Bake { weight, elapsed, total, standing_still, metrics } => {
                // Worth a line: a minute has passed, time stands still or goes on, a verdict is another.
                let verdicts: Vec<&str> = metrics.iter().map(|m| verdict(m).1).collect();
                let mark = format!("{} {standing_still:?} {verdicts:?}", elapsed.get().as_secs() / 60);
                let still = standing_still.as_ref().map(|why| format!(" (time stands still: {why})"));
                let (step, elapsed, still) = (&progress.step, length(elapsed.get()), still.unwrap_or_default());
                let line = format!("{step}: {elapsed} of {total} at {weight}{still}; {}", figures(metrics));
                (format!("{} bake", progress.step), mark, line)
            }
            ProgressKind::Note { text } => {
                (format!("{} note", progress.step), text.clone(), format!("{}: {text}", progress.step))
            }
            _ => return,
        };
        if self.last.insert(key, mark.clone()) != Some(mark) {
            say(&format!("{}    {line}", when(time)));
        }
    }
}

impl Display for Plain {
    fn show(&mut self, time: Timestamp, shown: &Shown) {
        let event = match shown {
            Shown::Past(event) => return self.teller.past(event),
            Shown::Signal(signal) => match &**signal {
                Signal::Progress(progress) => return self.progress(time, progress),
                Signal::Event(event) => event,
            },
            Shown::Message(message) => {
                let body = if message.body.is_empty() { String::new() } else { format!(": {}", message.body) };
                return say(&format!("{}  message: {}{body}", when(time), message.title));
            }
            Shown::End(words) if words.is_empty() => return,
            Shown::End(words) => return say(words),
        };
        if let EventKind::RunCreated { .. } = &event.kind {
            let world = self.header.world.as_ref().map(|world| format!(", {world}")).unwrap_or_default();
            say(&format!("run {} on {}{world}", event.run, time.strftime("%F")));
        }
        if let Some((_, sentence)) = self.teller.tell(event) {
            say(&format!("{}  {sentence}", when(time)));
        }
    }
}

/// `backend: error-rate 0.2 %, latency-p95 6.01 s BAD (> 5s); frontend: ...`
fn figures(metrics: &[MetricStatus]) -> String {
    let mut services: Vec<&str> = metrics.iter().map(|m| m.service.as_str()).collect();
    services.dedup();
    let figure = |m: &MetricStatus| match verdict(m) {
        (Tone::Good, _) => format!("{} {}", m.metric, m.shown),
        (_, word) if m.value.is_none() => format!("{} {word}", m.metric),
        (_, word) => format!("{} {} {word} ({})", m.metric, m.shown, m.limit),
    };
    let of = |service: &&str| {
        let figures: Vec<String> = metrics.iter().filter(|m| m.service == **service).map(figure).collect();
        format!("{service}: {}", figures.join(", "))
    };
    services.iter().map(of).collect::<Vec<_>>().join("; ")
}
