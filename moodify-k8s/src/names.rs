//! What things are called: labels, and the names of what a run makes.

use moodify_core::model::{Color, Target, Track};

/// The label that says what manages an object; its value is `moodify`.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label with the run that owns an object.
pub(crate) const RUN: &str = "moodify.dev/run";
/// The label with the track: `canary`, since what is stable belongs to the user; or `blue` and `green`, which take turns.
pub(crate) const TRACK: &str = "moodify.dev/track";
/// The label with the service's name in the plan.
pub(crate) const SERVICE: &str = "moodify.dev/service";
/// The annotation with the version that ships.
pub(crate) const VERSION: &str = "moodify.dev/version";

/// The longest name that is also a label value and a DNS label.
const LONGEST: usize = 63;

/// The name of the canary beside `base`: `web-canary`. A name too long is cut, with a hash to stay unique.
pub(crate) fn canary_of(base: &str) -> String {
    with_suffix(base, "canary")
}

/// `base-suffix`; a name too long is cut, with a hash to stay unique.
pub(crate) fn with_suffix(base: &str, suffix: &str) -> String {
    let room = LONGEST - suffix.len() - 1;
    if base.len() <= room { format!("{base}-{suffix}") } else { format!("{}-{suffix}", cut(base, room)) }
}

/// What the canary is called after: `canary`, or its color.
pub(crate) fn mark(target: &Target) -> String {
    mark_of(target, Track::Canary)
}

/// What the workload that has this part in a release is called after: its color, where it has one.
pub(crate) fn mark_of(target: &Target, track: Track) -> String {
    target.layout.color(track).map_or_else(|| track.to_string(), |color| color.to_string())
}

/// The name of the workload that has this part in a release.
pub(crate) fn workload(target: &Target, track: Track) -> String {
    let base = &target.service.workload;
    match (target.layout.color(track), track) {
        (None, Track::Stable) | (Some(Color::Blue), _) => base.clone(),
        (None, Track::Canary) => canary_of(base),
        (Some(Color::Green), _) => with_suffix(base, "green"),
    }
}

/// The name of the canary's own Service.
pub(crate) fn canary_service(target: &Target) -> String {
    with_suffix(&target.service.traffic.service, &mark(target))
}

/// `text` as a label value: letters, digits and `-_.`, at most 63 of them.
pub(crate) fn label_value(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let clean: String = text.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let trimmed = clean.trim_matches(['-', '_', '.']);
    if trimmed == text && text.len() <= LONGEST { clean } else { cut_as(trimmed, text, LONGEST) }
}

fn cut(text: &str, longest: usize) -> String {
    cut_as(text, text, longest)
}

/// At most `longest` bytes: the beginning of `text`, and the hash of `whole`.
fn cut_as(text: &str, whole: &str, longest: usize) -> String {
    let kept: String = text.chars().take(longest - 9).collect();
    format!("{}-{}", kept.trim_end_matches(['-', '_', '.']), hashed(whole)).trim_start_matches('-').to_owned()
}

/// A text as eight hexadecimal digits.
pub(crate) fn hashed(text: &str) -> String {
    format!("{:08x}", fnv(text))
}

/// FNV-1a: short, and the same in every version of moodify.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        assert_eq!(canary_of("backend"), "backend-canary");
        let (a, b) = (canary_of(&"a".repeat(60)), canary_of(&"a".repeat(61)));
        assert!(a.len() <= 63 && b.len() <= 63 && a != b && a.ends_with("-canary"), "{a} {b}");
    }

    #[test]
    fn any_text_becomes_a_label_value() {
        assert_eq!(label_value("backend"), "backend");
        for text in ["mit ümlaut", "-x-", &"y".repeat(80)] {
            let value = label_value(text);
            assert!(value.len() <= 63 && value != text, "{value}");
            assert!(value.starts_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
        }
        assert_ne!(label_value("a b"), label_value("a/b"));
    }
}
