//! The names and tags by which something is known to be of one run and one intended effect.

use moodify_core::{IdempotencyKey, RunId};
use sha2::{Digest, Sha256};

/// The tag by which something is known to be of one intended effect.
pub(crate) const KEY_TAG: &str = "moodify:key";
/// The tag that names the run.
pub(crate) const RUN_TAG: &str = "moodify:run";

const PREFIX: &str = "moodify-";
/// Hex digits of the digest in a name: with prefix, dash and the longest name of a run these are the 63 that AWS allows.
const DIGITS: usize = 14;

/// Names and tags allow fewer characters than keys have, so both carry the digest of what it is of and the key.
pub(crate) fn digest(of: &str, key: &IdempotencyKey) -> String {
    let digest = Sha256::new().chain_update(of).chain_update([0]).chain_update(key.as_str());
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tags allow: letters, digits, spaces and a few signs, at most 256.
pub(crate) fn tag_text(text: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
    text.chars().map(|c| if fits(c) { c } else { '_' }).take(256).collect()
}

/// The name of the snapshot of that run and key. AWS allows no two dashes in a row.
pub(crate) fn snapshot_id(of: &str, run: &RunId, key: &IdempotencyKey) -> String {
    let run = run.as_str();
    let run = if run.contains("--") || run.len() > 40 { "run" } else { run };
    format!("{PREFIX}{run}-{}", &digest(of, key)[..DIGITS])
}

/// The run in a name that [`snapshot_id`] has made.
pub(crate) fn run_of(id: &str) -> Option<RunId> {
    let (run, digits) = id.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let made = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    RunId::new(run).ok().filter(|_| made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_snapshot_tells_its_run_and_is_one_that_aws_takes() {
        let key = IdempotencyKey::new("r/backup");
        for run in ["20261124-150000-3fa9c1", "a", &"x".repeat(40)] {
            let run = RunId::new(run).unwrap();
            let id = snapshot_id("moods", &run, &key);
            assert!(id.len() <= 63 && !id.contains("--"), "{id}");
            assert_eq!(run_of(&id), Some(run));
        }
        assert!(!snapshot_id("moods", &RunId::new("a--b").unwrap(), &key).contains("--"));
        for other in ["nightly", "moodify-nightly", "rds:moods-2026-11-24-01-00", "moodify-r1-0123456789abcg"] {
            assert_eq!(run_of(other), None, "{other}");
        }
    }
}
