//! How a pod behaves, read from the tag of its image.
//!
//! A tag is a version followed by words, parted by dashes: `registry.test/backend:v2-err12after10s-slow300`.
//!
//! | Word | The pod |
//! |---|---|
//! | `err12` | answers 12 of 100 requests with 500 |
//! | `slow6000` | answers after 6000 ms |
//! | `unready60` | fails its readiness probe, for 60 % of the pods of the ReplicaSet: 3 of 5, 1 of 1 |
//! | `neverready` | fails its readiness probe from the start |
//! | `crash15s` | runs 15 s, then crashes; every restart crashes at once |
//! | `crashloop` | crashes at once, each time: `crash0s` |
//! | `missing` | never starts: the image cannot be pulled |
//! | `when3` | behaves well until 3 pods of the same ReplicaSet and image run; the faults begin then |
//! | `undrained` | stops at once when it is deleted, with what it was answering; other pods finish their answers |
//!
//! `err`, `slow` and `unready` take a delay: `err12after10s` begins 10 s after the container started (or after `when`
//! came true, if that is later). A duration is `15s` or `500ms`. Any other word is a mistake, and the pod says so as
//! one whose image cannot be pulled: a misspelt fault must not pass for a healthy pod.

use std::time::Duration;

/// A fault and how long after its cause it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed<T> {
    /// How much.
    pub amount: T,
    /// How long the pod is fine before.
    pub after: Duration,
}

/// What the tag of an image asks for. The default is a healthy pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// The first word of the tag.
    pub version: String,
    /// Per cent of answers that are 500.
    pub errors: Option<Delayed<u32>>,
    /// How long an answer takes.
    pub latency: Option<Delayed<Duration>>,
    /// Per cent of the pods that fail their readiness probe.
    pub unready: Option<Delayed<u32>>,
    /// How long the first container lives; its successors crash at once.
    pub crash: Option<Duration>,
    /// The faults wait for this many pods.
    pub when: Option<u32>,
    /// The image does not exist.
    pub missing: bool,
    /// Stops without finishing its answers.
    pub undrained: bool,
}

impl Behaviour {
    /// Reads the tag of an image reference; one without a tag is a healthy `latest`.
    ///
    /// # Errors
    ///
    /// A word that is none of the grammar, named.
    pub fn of_image(image: &str) -> Result<Self, String> {
        let name = image.split('@').next().unwrap_or(image);
        let last = name.rsplit('/').next().unwrap_or(name);
        let tag = last.split_once(':').map_or("latest", |(_, tag)| tag);
        let mut words = tag.split('-');
        let mut behaviour = Self { version: words.next().unwrap_or_default().to_owned(), ..Self::default() };
        for word in words {
            behaviour
                .add(word)
                .ok_or_else(|| format!("image {image}: {word:?} is no behaviour that the node knows"))?;
        }
        Ok(behaviour)
    }

    fn add(&mut self, word: &str) -> Option<()> {
        match word {
            "neverready" => self.unready = Some(Delayed { amount: 100, after: Duration::ZERO }),
            "crashloop" => self.crash = Some(Duration::ZERO),
            "missing" => self.missing = true,
            "undrained" => self.undrained = true,
            _ => {
                let digit = word.find(|c: char| c.is_ascii_digit())?;
                let (fault, value) = word.split_at(digit);
                let (amount, after) = match value.split_once("after") {
                    Some((amount, after)) => (amount, Some(duration(after)?)),
                    None => (value, None),
                };
                let delayed = after.unwrap_or_default();
                match (fault, after) {
                    ("err", _) => self.errors = Some(Delayed { amount: per_cent(amount)?, after: delayed }),
                    ("unready", _) => self.unready = Some(Delayed { amount: per_cent(amount)?, after: delayed }),
                    ("slow", _) => {
                        let latency = Duration::from_millis(amount.parse().ok()?);
                        self.latency = Some(Delayed { amount: latency, after: delayed });
                    }
                    ("crash", None) => self.crash = Some(duration(amount)?),
                    ("when", None) => self.when = Some(amount.parse().ok()?),
                    _ => return None,
                }
            }
        }
        Some(())
    }

    /// Whether the pod with this ordinal in its ReplicaSet is one of those that fail their readiness probe. The
    /// ordinals spread them evenly, and the first is one of them, so that any number of pods has at least the share.
    pub fn is_unready(&self, ordinal: u32) -> bool {
        self.unready.is_some_and(|unready| spread(ordinal, unready.amount))
    }

    /// Whether the answer with this number is an error.
    pub fn is_error(&self, number: u32) -> bool {
        self.errors.is_some_and(|errors| spread(number, errors.amount))
    }
}

/// True for `per_cent` of the numbers, spread evenly, the first of them included.
fn spread(number: u32, per_cent: u32) -> bool {
    let upto = |n: u64| (n * u64::from(per_cent)).div_ceil(100);
    upto(u64::from(number) + 1) > upto(u64::from(number))
}

fn per_cent(text: &str) -> Option<u32> {
    text.parse().ok().filter(|amount| *amount <= 100)
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tag: &str) -> Behaviour {
        Behaviour::of_image(&format!("registry.test:5000/team/backend:{tag}")).unwrap()
    }

    #[test]
    fn a_plain_tag_is_healthy() {
        assert_eq!(read("v1"), Behaviour { version: "v1".into(), ..Behaviour::default() });
        assert_eq!(Behaviour::of_image("registry.test:5000/backend").unwrap().version, "latest");
    }

    #[test]
    fn a_digest_does_not_hide_the_tag() {
        let behaviour = Behaviour::of_image("registry.test/backend:v2-err5@sha256:0123").unwrap();
        assert_eq!((behaviour.version.as_str(), behaviour.errors.unwrap().amount), ("v2", 5));
    }

    #[test]
    fn words_compose() {
        let behaviour = read("v2-err12after10s-slow6000-unready60after500ms-when3-undrained");
        assert_eq!(behaviour.errors, Some(Delayed { amount: 12, after: Duration::from_secs(10) }));
        assert_eq!(behaviour.latency, Some(Delayed { amount: Duration::from_secs(6), after: Duration::ZERO }));
        assert_eq!(behaviour.unready, Some(Delayed { amount: 60, after: Duration::from_millis(500) }));
        assert_eq!((behaviour.when, behaviour.undrained), (Some(3), true));
        assert_eq!(read("v2-crash15s").crash, Some(Duration::from_secs(15)));
        assert_eq!(read("v2-crashloop").crash, Some(Duration::ZERO));
        assert!(read("v2-missing").missing);
        assert!((0..4).all(|ordinal| read("v2-neverready").is_unready(ordinal)));
    }

    #[test]
    fn a_word_that_is_none_is_refused() {
        for tag in ["v2-eror12", "v2-err", "v2-err101", "v2-crash5", "v2-when3after1s", "v2-slow1s", "v2-rc1", "v2-"] {
            let problem = Behaviour::of_image(&format!("registry.test/backend:{tag}")).unwrap_err();
            assert!(problem.contains("is no behaviour"), "{tag}: {problem}");
        }
    }

    #[test]
    fn shares_are_exact_and_even() {
        let unready = read("v2-unready60");
        assert_eq!((0..5).filter(|ordinal| unready.is_unready(*ordinal)).count(), 3);
        assert!(unready.is_unready(0));
        let errors = read("v2-err12");
        assert_eq!((0..1000).filter(|number| errors.is_error(*number)).count(), 120);
        assert!((100..150).any(|number| errors.is_error(number)));
    }
}
