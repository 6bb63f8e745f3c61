use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backup, BackupState, DeleteRequest};
use crate::model::Period;

/// Which of the backups that runs made are kept: the newest ones, and those that are not old yet. What no run made, what
/// is still being made and what has no time of creation is always kept.
///
/// ```
/// use moodify_core::backend::Retention;
/// let retention: Retention = serde_json::from_str(r#"{"newest": 5, "younger-than": "7d"}"#).unwrap();
/// assert_eq!(retention.newest.get(), 5);
/// assert!(serde_json::from_str::<Retention>(r#"{"newest": 0}"#).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    /// So many complete backups are kept, the newest ones; at least 1.
    pub newest: NonZeroU32,
    /// What is younger is kept too, also what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub younger_than: Option<Period>,
}

impl Retention {
    /// What is not kept at that time, oldest first. `needed` says what is kept nevertheless: what a run that has not
    /// ended may still want.
    #[must_use]
    pub fn surplus(
        &self,
        backups: &[Backup],
        now: Timestamp,
        needed: &(dyn for<'a> Fn(&'a Backup) -> bool + Send + Sync),
    ) -> Vec<DeleteRequest> {
        let newest = usize::try_from(self.newest.get()).unwrap_or(usize::MAX);
        let old = |created: Timestamp| {
            let age = now.duration_since(created);
            self.younger_than
                .is_none_or(|period| age >= SignedDuration::try_from(period.get()).unwrap_or(SignedDuration::MAX))
        };
        let mut of_runs: Vec<(Timestamp, &Backup)> =
            backups.iter().filter(|backup| backup.run.is_some()).filter_map(|b| Some((b.created?, b))).collect();
        of_runs.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.id.cmp(&y.id)));
        let complete = of_runs.iter().rev().filter(|(_, backup)| backup.state == BackupState::Available);
        let kept: Vec<&str> = complete.take(newest).map(|(_, backup)| backup.id.as_str()).collect();
        let surplus = of_runs.iter().filter(|(created, backup)| {
            let over = !matches!(backup.state, BackupState::Creating(_));
            over && !kept.contains(&backup.id.as_str()) && old(*created) && !needed(backup)
        });
        surplus.map(|(_, backup)| DeleteRequest::by_retention(&backup.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunId;

    const NOW: &str = "2026-11-24T15:00:00Z";

    fn backup(id: &str, days: i64, state: BackupState) -> Backup {
        let now: Timestamp = NOW.parse().unwrap();
        Backup {
            id: id.to_owned(),
            source: "moods".to_owned(),
            state,
            created: Some(now - SignedDuration::from_hours(24 * days)),
            bytes: None,
            encrypted: None,
            engine: None,
            run: RunId::new("r1").ok(),
            cost: None,
        }
    }

    fn surplus(retention: &str, backups: &[Backup], needed: &str) -> Vec<String> {
        let retention: Retention = serde_json::from_str(retention).unwrap();
        let surplus = retention.surplus(backups, NOW.parse().unwrap(), &|backup| backup.id == needed);
        surplus.iter().map(|request| request.id().to_owned()).collect()
    }

    #[test]
    fn the_newest_the_young_the_needed_and_what_no_run_made_are_kept() {
        let failed = BackupState::Failed("why".to_owned());
        let complete = |id, days| backup(id, days, BackupState::Available);
        let all = [
            backup("making", 40, BackupState::Creating(None)),
            backup("failed", 1, failed.clone()),
            backup("failed-long-ago", 35, failed),
            complete("new", 2),
            complete("second", 6),
            complete("third", 8),
            complete("old", 30),
            Backup { run: None, ..complete("of-a-person", 50) },
            Backup { created: None, ..complete("timeless", 50) },
        ];
        assert_eq!(surplus(r#"{"newest": 2, "younger-than": "7d"}"#, &all, ""), ["failed-long-ago", "old", "third"]);
        assert_eq!(surplus(r#"{"newest": 2, "younger-than": "7d"}"#, &all, "old"), ["failed-long-ago", "third"]);
        assert_eq!(surplus(r#"{"newest": 1, "younger-than": "9d"}"#, &all, ""), ["failed-long-ago", "old"]);
        assert_eq!(surplus(r#"{"newest": 1}"#, &all, ""), ["failed-long-ago", "old", "third", "second", "failed"]);
        assert_eq!(surplus(r#"{"newest": 9, "younger-than": "60d"}"#, &all, ""), [""; 0]);
    }
}
