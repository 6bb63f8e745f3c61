//! A picture of the run that changes in its place, with what is worth keeping above it.

use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use console::truncate_str;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use moodify_core::clock::since;
use moodify_core::event::{EventKind, Signal};
use moodify_core::model::Step;

use super::view::{Mark, View};
use super::words::{Teller, Tone, ending, length, step_words, tone, verdict, when};
use super::{Display, Header, Shown, colours, say};

/// The picture on the terminal, so that a log line can get out of its way.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Writes to stderr without hurting the picture.
pub(crate) fn beside_the_picture(write: impl FnOnce()) {
    match BAR.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Drawn at most so often a second.
const HERTZ: u8 = 15;
/// The width of bars.
const BAR_WIDTH: usize = 30;

/// The picture.
#[derive(Debug)]
pub(super) struct Picture {
    header: Header,
    view: View,
    teller: Teller,
    bar: ProgressBar,
    paint: Paint,
    changed: bool,
}

impl Picture {
    pub(super) fn new(header: Header) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout_with_hz(HERTZ));
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        let _ = BAR.set(bar.clone());
        let (view, teller) = (View::new(header.plan.clone()), Teller::new(header.clone()));
        Self { header, view, teller, bar, paint: Paint(colours()), changed: false }
    }

    fn keep(&self, time: Timestamp, tone: Tone, text: &str) {
        self.bar.println(format!("{}  {}", self.paint.dim(&when(time)), self.paint.tone(tone, text)));
    }

    fn end(&mut self, words: &str) {
        self.bar.finish_and_clear();
        let width = width();
        let paint = self.paint;
        for line in self.view.title(&self.header, paint).iter().chain(&self.view.phases(paint)) {
            say(&truncate_str(line, width, "…"));
        }
        if let Some((outcome, summary)) = &self.view.ended {
            say("");
            let took = self.view.begun.map(|begun| format!(" after {}", length(since(begun, self.view.now))));
            let (text, commands) = ending(*outcome, summary, &self.teller.by_hand);
            let head = format!("{outcome}{}", took.unwrap_or_default());
            let text = text.strip_prefix(&outcome.to_string()).unwrap_or(&text);
            say(&format!("{}{text}", paint.tone_bold(tone(*outcome), &head)));
            commands.iter().for_each(|command| say(command));
        }
        if !words.is_empty() {
            say(words);
        }
    }
}

impl Display for Picture {
    fn show(&mut self, time: Timestamp, shown: &Shown) {
        self.changed = true;
        match shown {
            Shown::Past(event) => {
                self.view.event(event);
                self.teller.past(event);
            }
            Shown::Signal(signal) => match &**signal {
                Signal::Event(event) => {
                    self.view.event(event);
                    let kept = self.teller.tell(event).filter(|(tone, _)| matches!(tone, Tone::Warning | Tone::Bad));
                    if let Some((tone, text)) = kept
                        && !matches!(event.kind, EventKind::RunEnded { .. })
                    {
                        self.keep(time, tone, &text);
                    }
                }
                Signal::Progress(progress) => self.view.progress(time, progress),
            },
            Shown::Message(message) => {
                let body = if message.body.is_empty() { String::new() } else { format!(": {}", message.body) };
                self.keep(time, Tone::Plain, &format!("message: {}{body}", message.title));
            }
            Shown::End(words) => self.end(words),
        }
    }

    fn draw(&mut self) {
        if std::mem::take(&mut self.changed) {
            let width = width();
            let lines = self.view.picture(&self.header, self.paint);
            let lines: Vec<_> = lines.iter().map(|line| truncate_str(line, width, "…")).collect();
            self.bar.set_message(lines.join("\n"));
        }
    }
}

fn width() -> usize {
    usize::from(console::Term::stdout().size().1).saturating_sub(1).max(20)
}

/// Colours, if they are wanted.
#[derive(Debug, Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn style(self, style: Style, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn colour(tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
        }
    }

    fn tone(self, tone: Tone, text: &str) -> String {
        self.style(Self::colour(tone), text)
    }

    fn tone_bold(self, tone: Tone, text: &str) -> String {
        self.style(Self::colour(tone).bold(), text)
    }

    fn bold(self, text: &str) -> String {
        self.style(Style::new().bold(), text)
    }

    fn dim(self, text: &str) -> String {
        self.style(Style::new().dimmed(), text)
    }

    /// A bar that is full to this share.
    fn bar(self, share: f64, tone: Tone) -> String {
        let full = ((share * BAR_WIDTH as f64).round() as usize).min(BAR_WIDTH);
        // A little is not nothing.
        let full = if share > 0.0 { full.max(1) } else { 0 };
        format!("{}{}", self.tone(tone, &"█".repeat(full)), self.dim(&"░".repeat(BAR_WIDTH - full)))
    }
}

fn sign(mark: Mark) -> (Tone, &'static str) {
    match mark {
        Mark::Pending => (Tone::Plain, "·"),
        Mark::Current => (Tone::Plain, "▶"),
        Mark::Done => (Tone::Good, "✓"),
        Mark::Failed => (Tone::Bad, "✗"),
        Mark::GoingBack => (Tone::Warning, "◀"),
        Mark::Back => (Tone::Warning, "↩"),
    }
}

impl View {
    fn picture(&self, header: &Header, paint: Paint) -> Vec<String> {
        let mut lines = vec![String::new()];
        lines.extend(self.title(header, paint));
        lines.extend(self.phases(paint));
        lines.push(String::new());
        lines.extend(self.weights(paint));
        lines.extend(self.bake_lines(paint));
        for why in self.waits.values() {
            lines.push(paint.tone(Tone::Warning, &format!("waits: {why}")));
        }
        if self.going_back && self.ended.is_none() {
            lines.push(paint.tone_bold(Tone::Bad, "going back to the old version"));
        }
        lines
    }

    fn title(&self, header: &Header, paint: Paint) -> Vec<String> {
        let (plan, release) = (&self.plan, &self.plan.release);
        let services: Vec<&str> = release.services.iter().map(|s| s.name.as_str()).collect();
        let run = self.run.as_ref().map(ToString::to_string).unwrap_or_default();
        let passed = self.begun.map(|begun| length(since(begun, self.now))).unwrap_or_default();
        let world = header.world.as_ref().map(|world| format!("  ·  {world}")).unwrap_or_default();
        vec![
            format!(
                "{}  {} to {}  {}",
                paint.bold(&plan.name),
                paint.bold(&release.version),
                paint.bold(&plan.environment.name),
                paint.dim(&format!("({})", services.join(", "))),
            ),
            paint.dim(&format!("run {run}  ·  {}  ·  {passed}{world}", when(self.now))),
        ]
    }

    fn phases(&self, paint: Paint) -> Vec<String> {
        let widest = self.plan.phases.iter().map(|p| p.name.chars().count()).max().unwrap_or_default();
        let words = |step: &Step, mark| match mark {
            Mark::GoingBack => format!("taking back: {}", step_words(step)),
            Mark::Failed => paint.tone(Tone::Bad, &format!("failed: {}", step_words(step))),
            _ => step_words(step),
        };
        let lines = |phase: &moodify_core::model::Phase| {
            let (mark, took) = self.phase(phase);
            let (tone, sign) = sign(mark);
            let name = format!("{:widest$}", phase.name);
            let name = match mark {
                Mark::Pending => paint.dim(&name),
                Mark::Current | Mark::GoingBack => paint.bold(&name),
                _ => name,
            };
            let took = took.map(length).unwrap_or_default();
            let mut at_work = self.current(phase);
            let mut line = format!(" {} {name}  {}", paint.tone_bold(tone, sign), paint.dim(&format!("{took:>7}")));
            if phase.parallel && at_work.len() > 1 {
                line.push_str(&format!("  {} at once:", at_work.len()));
            } else if let Some((step, mark)) = at_work.pop() {
                line.push_str(&format!("  {}", words(step, mark)));
            }
            let beside = at_work.into_iter().map(|(step, mark)| {
                let (tone, sign) = self::sign(mark);
                format!("     {} {}", paint.tone(tone, sign), words(step, mark))
            });
            std::iter::once(line).chain(beside.collect::<Vec<_>>())
        };
        self.plan.phases.iter().flat_map(lines).collect()
    }

    fn weights(&self, paint: Paint) -> Vec<String> {
        let widest = self.services.keys().map(|name| name.chars().count()).max().unwrap_or_default();
        let promoted = self.promoted();
        let line = |(name, service): (&String, &super::view::ServiceView)| {
            let share = if promoted { 1.0 } else { service.share };
            let tone = if self.going_back { Tone::Warning } else { Tone::Good };
            let instances = service.canaries.filter(|_| !promoted && share > 0.0);
            let instances = instances.map(|(a, d)| format!("   {a} of {d} canaries available")).unwrap_or_default();
            let words = format!("{:>3.0} % {}", share * 100.0, self.plan.release.version);
            format!(" {name:widest$}  {}  {words}{}", paint.bar(share, tone), paint.dim(&instances))
        };
        self.services.iter().map(line).collect()
    }

    fn bake_lines(&self, paint: Paint) -> Vec<String> {
        let widest = self.services.keys().map(|name| name.chars().count()).max().unwrap_or_default();
        let mut lines = Vec::new();
        for (step, bake) in &self.bakes {
            let share = bake.elapsed.as_secs_f64() / bake.total.as_secs_f64().max(f64::EPSILON);
            let (left, total) = (length(bake.total.saturating_sub(bake.elapsed)), length(bake.total));
            // Only several need to be told apart.
            let which = if self.bakes.len() > 1 { format!(", {step}") } else { String::new() };
            let (head, bar) = (format!("{:widest$}", "bake"), paint.bar(share, Tone::Plain));
            lines.push(String::new());
            lines.push(format!(" {head}  {bar}  {left} left of {total} at {} %{which}", bake.weight));
            lines.extend(self.metrics(bake, paint));
        }
        lines
    }

    /// A row a metric, a column a service.
    fn metrics(&self, bake: &super::view::BakeView, paint: Paint) -> Vec<String> {
        const COLUMN: usize = 20;
        let services: Vec<&String> = self.services.keys().collect();
        let mut rows: Vec<(String, String)> = Vec::new();
        for metric in &bake.metrics {
            let row = (metric.metric.clone(), metric.limit.clone());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        let names: String = services.iter().map(|name| format!("{name:<COLUMN$}")).collect();
        let mut lines = vec![paint.dim(&format!(" {:14}{:10}{names}", "metric", "bad if"))];
        for (metric, limit) in rows {
            let mut line = format!(" {metric:14}{:10}", limit);
            for service in &services {
                let status = bake.metrics.iter().find(|m| m.service == **service && m.metric == metric);
                let (tone, text) = status.map_or((Tone::Plain, String::new()), |status| {
                    let (tone, word) = verdict(status);
                    let value = status.value.map_or("-", |_| status.shown.as_str());
                    (tone, format!("{value:>7}  {word}"))
                });
                line += &paint.tone(tone, &format!("{text:<COLUMN$}"));
            }
            lines.push(line);
        }
        lines
    }
}
