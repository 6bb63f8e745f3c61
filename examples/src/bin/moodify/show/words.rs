//! Events in plain words.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use moodify_core::RunId;
use moodify_core::action::kinds;
use moodify_core::analysis::{MetricStatus, Verdict};
use moodify_core::backend::Testers;
use moodify_core::event::{Event, EventKind};
use moodify_core::journal::Outcome;
use moodify_core::model::Step;
use serde::Deserialize as _;
use serde_json::Value;

use super::Header;

/// What a line is about: decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A length of time, short: `9m 12s`.
pub(crate) fn length(time: Duration) -> String {
    let seconds = (time.as_millis() + 500) / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m {s}s"),
        (h, m, _) => format!("{h}h {m}m"),
    }
}

/// A time of day: `15:30:02Z`.
pub(crate) fn when(time: Timestamp) -> String {
    time.strftime("%H:%M:%SZ").to_string()
}

/// A phase's name, and whether its steps run at once.
pub(crate) fn phase_name(name: &str, parallel: bool) -> String {
    if parallel { format!("{name} (all at once)") } else { name.to_owned() }
}

/// What a step does: `bake at 10 % for 15m`.
pub(crate) fn step_words(step: &Step) -> String {
    let weight = || step.with["weight"].as_u64().unwrap_or_default();
    let text = |key: &str| step.with[key].as_str().unwrap_or_default().to_owned();
    match step.action.as_str() {
        kinds::BASELINE => "look at what serves now".to_owned(),
        kinds::DEPLOY_CANARY => "start the new version beside the old one".to_owned(),
        kinds::SHIFT_TRAFFIC => format!("send {} % of the traffic to the new version", weight()),
        kinds::ADMIT_TESTERS => {
            let testers = Testers::deserialize(&step.with["testers"]);
            let who = testers.map_or_else(|_| "the requests of testers".to_owned(), |testers| testers.to_string());
            format!("send {who} to the new version")
        }
        kinds::MIRROR => format!(
            "send a copy of {} % of the requests to the new version",
            step.with["percent"].as_u64().unwrap_or_default()
        ),
        kinds::STOP_MIRROR => "send no more copies".to_owned(),
        kinds::BAKE if weight() == 0 => format!("watch it for {}", text("period")),
        kinds::DISMISS_TESTERS => "send testers where all go".to_owned(),
        kinds::BAKE => format!("watch it at {} % for {}", weight(), text("period")),
        kinds::PROMOTE => "roll the stable workloads to the new version".to_owned(),
        kinds::ROLL => "roll the stable workloads at once".to_owned(),
        kinds::APPROVAL => format!("wait for a yes: {}", text("question")),
        kinds::HAND_OVER => "let the services' names stand for the new version".to_owned(),
        kinds::ROLL_BATCH => format!("let {} % of the instances run the new version", weight()),
        kinds::STOP => "stop the old version".to_owned(),
        kinds::START => "start the new version".to_owned(),
        kinds::RETIRE_OLD => "scale what served before to nothing".to_owned(),
        kinds::RETURN_TRAFFIC => "send all traffic by the services' names".to_owned(),
        kinds::RETIRE_CANARY => "remove the canaries".to_owned(),
        kinds::STOP_APPLICATION => "stop the application, and remember its numbers of instances".to_owned(),
        kinds::RESTORE => format!("restore a backup into {}", text("target")),
        kinds::RESTORE_LIVE => format!("restore a backup into the database of {} itself", text("store")),
        kinds::SWITCH_CONNECTION => "point the application to the restored database".to_owned(),
        kinds::START_APPLICATION => "start the application with the remembered numbers of instances".to_owned(),
        kinds::FORGET_CONNECTIONS => "remove what was kept of the old connection".to_owned(),
        kinds::NOTIFY => format!("tell people: {}", text("title")),
        kinds::RUN_JOB => {
            let words: Vec<&str> =
                step.with["command"].as_array().into_iter().flatten().filter_map(|w| w.as_str()).collect();
            let of = step.with["cron-job"].as_str().unwrap_or_default();
            format!("run to its end, once: {}", if words.is_empty() { of.to_owned() } else { words.join(" ") })
        }
        kinds::SET_CRON_JOBS => "let the cron jobs run their new images".to_owned(),
        kinds::SUSPEND_CRON_JOBS => "let the cron jobs start nothing more".to_owned(),
        kinds::RESUME_CRON_JOBS => "let the cron jobs go on as before".to_owned(),
        kinds::WAIT => format!("wait {}", text("period")),
        other => other.to_owned(),
    }
}

/// `--journal DIR` or `--cluster NAMESPACE` for a command that is to be typed, if it needs that.
pub(super) fn place_flag(place: Option<&str>) -> String {
    place.map(|flag| format!(" {flag}")).unwrap_or_default()
}

/// The end of a run in words, and below it the commands that are left to a person, ready to copy.
pub(crate) fn ending(outcome: Outcome, summary: &str, by_hand: &[String]) -> (String, Vec<String>) {
    // The summary is whole in itself and ends with the commands.
    let said = summary.strip_suffix(&by_hand.join("; ")).unwrap_or(summary);
    let lines = by_hand.iter().map(|command| format!("    {command}"));
    (format!("{outcome}: {}", said.trim_end()), lines.collect())
}

/// Tells a run, and says nothing twice.
#[derive(Debug)]
pub(super) struct Teller {
    header: Header,
    /// Causes that were told already.
    told: BTreeSet<String>,
    /// What a person can type when it could not be taken back.
    pub(super) by_hand: Vec<String>,
}

impl Teller {
    pub(super) fn new(header: Header) -> Self {
        Self { header, told: BTreeSet::new(), by_hand: Vec::new() }
    }

    /// What happened before, and need not be told.
    pub(super) fn past(&mut self, event: &Event) {
        self.tell(event);
    }

    /// An event as a sentence, the last one as several lines; `None` for what progress shows better.
    pub(super) fn tell(&mut self, event: &Event) -> Option<(Tone, String)> {
        let cause = match &event.kind {
            EventKind::StepFailed { step, message, retry_in: None, .. } => Some(format!("{step}: {message}")),
            EventKind::UndoFailed { by_hand, retry_in: None, .. } => {
                self.by_hand.clone_from(by_hand);
                None
            }
            EventKind::RollbackStarted { cause } if self.told.contains(cause) => {
                return Some((Tone::Bad, "going back to the old version".to_owned()));
            }
            EventKind::Held { step, reason } => {
                return Some((
                    Tone::Warning,
                    format!("{step} waits: {reason}{}", self.how_to_answer(&event.run, step)),
                ));
            }
            EventKind::RunEnded { outcome, summary } => {
                let (mut text, commands) = ending(*outcome, summary, &self.by_hand);
                commands.iter().for_each(|command| text.extend(["\n", command]));
                return Some((tone(*outcome), text));
            }
            _ => None,
        };
        self.told.extend(cause);
        sentence(&event.kind)
    }

    /// What a person types who is asked.
    fn how_to_answer(&self, run: &RunId, step: &str) -> String {
        let asked = self.header.plan.step(step).is_some_and(|step| step.action == kinds::APPROVAL);
        if !asked || !self.header.answerable() {
            return String::new();
        }
        format!(" (moodify approve {run} --step {step}{}, or reject)", place_flag(self.header.place.as_deref()))
    }
}

fn sentence(event: &EventKind) -> Option<(Tone, String)> {
    let attempt_words = |attempt: u32| if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
    Some(match event {
        EventKind::RunCreated { plan, version, environment, by, .. } => {
            (Tone::Plain, format!("{plan}: {version} to {environment}, begun by {by}"))
        }
        EventKind::Owned { owner } => (Tone::Plain, format!("driven by {owner}")),
        EventKind::GatesPassed => (Tone::Plain, "the gates are open".to_owned()),
        EventKind::StepStarted { step, action, attempt, .. } => {
            let action = if step.ends_with(action.as_str()) { String::new() } else { format!(" ({action})") };
            (Tone::Plain, format!("{step}{action} begins{}", attempt_words(*attempt)))
        }
        EventKind::Checkpoint { .. } => return None,
        EventKind::StepFinished { step, output } => (Tone::Good, format!("{step} is done{}", output_words(output))),
        EventKind::StepFailed { step, attempt, message, retry_in, .. } => match retry_in {
            Some(wait) => (Tone::Warning, format!("{step}{}: {message}; again in {wait}", attempt_words(*attempt))),
            None => (Tone::Bad, format!("{step} failed: {message}")),
        },
        EventKind::Released { step } => (Tone::Plain, format!("{step} goes on")),
        EventKind::Commanded { command, step, by, reason, refused } => {
            let command = step.as_ref().map_or_else(|| command.to_string(), |step| format!("{command} {step}"));
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            match refused {
                None => (Tone::Warning, format!("{command} by {by}{reason}")),
                Some(why) => (Tone::Warning, format!("{command} by {by} was refused: {why}")),
            }
        }
        EventKind::RollbackStarted { cause } => (Tone::Bad, format!("going back to the old version: {cause}")),
        EventKind::UndoStarted { step, attempt } => {
            (Tone::Plain, format!("taking back {step}{}", attempt_words(*attempt)))
        }
        EventKind::UndoFinished { step } => (Tone::Plain, format!("{step} is taken back")),
        EventKind::UndoFailed { step, message, retry_in, .. } => match retry_in {
            Some(wait) => (Tone::Warning, format!("{step} could not be taken back: {message}; again in {wait}")),
            None => (Tone::Bad, format!("{step} cannot be taken back: {message}")),
        },
        _ => return None,
    })
}

pub(super) fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Completed => Tone::Good,
        Outcome::Refused => Tone::Warning,
        Outcome::RolledBack | Outcome::NeedsAttention => Tone::Bad,
    }
}

/// The part of an output that people want: the weights by service.
fn output_words(output: &Value) -> String {
    let weight = |(service, traffic): (&String, &Value)| {
        let share = traffic.get("share")?.as_f64()?;
        Some(format!("the canary of {service} has {:.0} %", share * 100.0))
    };
    let weights: Vec<String> = output.as_object().into_iter().flatten().filter_map(weight).collect();
    if weights.is_empty() { String::new() } else { format!(": {}", weights.join(", ")) }
}

/// A verdict in one word.
pub(super) fn verdict(status: &MetricStatus) -> (Tone, &'static str) {
    match status.verdict {
        Verdict::Successful => (Tone::Good, "ok"),
        Verdict::Failed => (Tone::Bad, "BAD"),
        Verdict::Inconclusive if status.missing > 0 || status.measured == 0 => (Tone::Warning, "no data"),
        Verdict::Inconclusive => (Tone::Warning, "unclear"),
        Verdict::Error => (Tone::Warning, "no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_short() {
        let shown = |seconds| length(Duration::from_secs(seconds));
        assert_eq!([shown(0), shown(59), shown(60), shown(552), shown(3720)], ["0s", "59s", "1m", "9m 12s", "1h 2m"]);
    }

    #[test]
    fn commands_for_a_person_stand_one_on_a_line() {
        let commands = ["kubectl a".to_owned(), "kubectl b; c".to_owned()];
        let summary = format!("it stopped; by hand, in this order: {}", commands.join("; "));
        let (text, lines) = ending(Outcome::NeedsAttention, &summary, &commands);
        assert_eq!(text, "needs attention: it stopped; by hand, in this order:");
        assert_eq!(lines, ["    kubectl a", "    kubectl b; c"]);
        assert_eq!(ending(Outcome::Completed, "well", &[]), ("completed: well".to_owned(), Vec::new()));
    }

    fn told(events: &Value) -> Vec<String> {
        let text = include_str!("../../../../plans/approved-release.yaml");
        let plan = moodify_core::planfile::read(text, "plan").unwrap().0.expand();
        let mut teller = Teller::new(Header { plan: plan.into(), world: None, place: Some("--journal /j".into()) });
        let event = |(index, mut event): (usize, Value)| -> Event {
            event["number"] = (index + 1).into();
            event["time"] = "2026-11-24T15:00:00Z".into();
            event["run"] = "r1".into();
            serde_json::from_value(event).unwrap()
        };
        let events = events.as_array().unwrap().clone().into_iter().enumerate().map(event);
        events.filter_map(|event| teller.tell(&event)).map(|(_, sentence)| sentence).collect()
    }

    fn error() -> Value {
        serde_json::json!({"kind": "unhealthy", "backend": "b", "operation": "o", "message": "m", "effect": "none"})
    }

    #[test]
    fn a_cause_is_said_once_and_what_is_left_to_a_person_can_be_copied() {
        let lines = told(&serde_json::json!([
            {"event": "step-failed", "step": "s", "attempt": 1, "error": error(), "message": "b: o: m"},
            {"event": "rollback-started", "cause": "s: b: o: m"},
            {"event": "undo-failed", "step": "s", "attempt": 2, "error": error(), "message": "gone",
                "by-hand": ["kubectl a", "kubectl b"]},
            {"event": "run-ended", "outcome": "needs-attention", "summary": "stuck; by hand: kubectl a; kubectl b"},
        ]));
        let expected = [
            "s failed: b: o: m",
            "going back to the old version",
            "s cannot be taken back: gone",
            "needs attention: stuck; by hand:\n    kubectl a\n    kubectl b",
        ];
        assert_eq!(lines, expected);
        let lines = told(&serde_json::json!([{"event": "rollback-started", "cause": "aborted by ana"}]));
        assert_eq!(lines, ["going back to the old version: aborted by ana"]);
    }

    #[test]
    fn who_is_asked_is_told_how_to_answer() {
        let lines = told(&serde_json::json!([{"event": "held", "step": "sign-off", "reason": "really?"}]));
        let answer = "moodify approve r1 --step sign-off --journal /j, or reject";
        assert_eq!(lines, [format!("sign-off waits: really? ({answer})")]);
    }
}
