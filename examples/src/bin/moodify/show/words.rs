//! Events in plain words.

use std::time::Duration;

use jiff::Timestamp;
use moodify_core::action::kinds;
use moodify_core::analysis::{MetricStatus, Verdict};
use moodify_core::event::EventKind;
use moodify_core::journal::Outcome;
use moodify_core::model::Step;
use serde_json::Value;

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

/// What a step does: `bake at 10 % for 15m`.
pub(crate) fn step_words(step: &Step) -> String {
    let weight = || step.with["weight"].as_u64().unwrap_or_default();
    let text = |key: &str| step.with[key].as_str().unwrap_or_default().to_owned();
    match step.action.as_str() {
        kinds::BASELINE => "look at what serves now".to_owned(),
        kinds::DEPLOY_CANARY => "start the new version beside the old one".to_owned(),
        kinds::SHIFT_TRAFFIC => format!("send {} % of the traffic to the new version", weight()),
        kinds::BAKE => format!("watch it at {} % for {}", weight(), text("period")),
        kinds::PROMOTE => "roll the stable workloads to the new version".to_owned(),
        kinds::RETURN_TRAFFIC => "send all traffic back to the stable workloads".to_owned(),
        kinds::RETIRE_CANARY => "remove the canaries".to_owned(),
        kinds::NOTIFY => format!("tell people: {}", text("title")),
        kinds::WAIT => "wait".to_owned(),
        other => other.to_owned(),
    }
}

/// An event as a sentence; `None` for what progress shows better.
pub(super) fn sentence(event: &EventKind) -> Option<(Tone, String)> {
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
        EventKind::Held { step, reason } => (Tone::Warning, format!("{step} waits: {reason}")),
        EventKind::Released { step } => (Tone::Plain, format!("{step} goes on")),
        EventKind::Commanded { command, by, reason, refused } => {
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
        EventKind::RunEnded { outcome, summary } => (tone(*outcome), format!("{outcome}: {summary}")),
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
}
