//! Whether a bucket is fit for backups.

use jiff::civil::Date;
use serde_json::Value;

use super::export::{ENDINGS, OUTPUT, PREFIX};
use crate::cloud_storage::Bucket;
use crate::config::FirestoreConfig;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// What is wrong with a bucket for exports of a database in `location`, whose names begin with `prefix`.
pub(super) fn problems(
    config: &FirestoreConfig,
    bucket: &Bucket,
    location: &str,
    prefix: &str,
    today: Date,
) -> Vec<String> {
    let mut problems = Vec::new();
    let is = |location: &str| bucket.location.eq_ignore_ascii_case(location);
    let well_placed = match location {
        _ if !config.locations.is_empty() => config.locations.iter().any(|location| is(location)),
        // Multi-regions have other names in Firestore.
        "nam5" | "nam7" => is("US"),
        "eur3" => is("EU"),
        region => is(region),
    };
    if !well_placed {
        problems.push(format!("it is in {}, and the database in {location}", bucket.location));
    }
    let keep = config.keep.get().as_secs().div_ceil(SECONDS_A_DAY);
    let age = Rules { bucket, prefix, today }.delete_after();
    if let Some(age) = age.filter(|age| *age < keep) {
        problems.push(format!("a rule of it deletes objects after {age} days, and backups are to be kept for {keep}"));
    }
    let period = bucket.retention_policy.retention_period.as_deref().and_then(|seconds| seconds.parse::<u64>().ok());
    let locked = period.map(|seconds| seconds.div_ceil(SECONDS_A_DAY)).filter(|locked| *locked > keep);
    if let Some(locked) = locked {
        problems.push(format!(
            "its retention policy lets nobody delete objects for {locked} days, and backups are deleted after {keep}"
        ));
    }
    if bucket.default_event_based_hold {
        problems.push("it holds every new object until somebody releases it, so no backup could be deleted".to_owned());
    }
    problems
}

/// The rules of a bucket, judged for objects of ours that are written today.
struct Rules<'a> {
    bucket: &'a Bucket,
    prefix: &'a str,
    today: Date,
}

impl Rules<'_> {
    /// After how many days the first of ours is deleted, if one is.
    fn delete_after(&self) -> Option<u64> {
        let deletes = self.bucket.lifecycle.rule.iter().filter(|rule| rule["action"]["type"] == "Delete");
        deletes.filter_map(|rule| self.after(&rule["condition"])).min()
    }

    /// After how many days all parts of a condition are true for a live object of ours, if they ever are.
    fn after(&self, condition: &Value) -> Option<u64> {
        let classes = texts(&condition["matchesStorageClass"]);
        let class = if classes.is_empty() { Some(0) } else { classes.iter().filter_map(|to| self.in_class(to)).min() };
        self.after_but_for_class(condition).and_then(|days| Some(days.max(class?)))
    }

    fn after_but_for_class(&self, condition: &Value) -> Option<u64> {
        // Firestore gives its objects no time of their own, and the newest version is live.
        let never = ["daysSinceCustomTime", "customTimeBefore", "daysSinceNoncurrentTime", "noncurrentTimeBefore"];
        let old_versions = condition["isLive"] == false || condition["numNewerVersions"].as_u64().unwrap_or(0) > 0;
        if old_versions || never.iter().any(|name| !condition[name].is_null()) {
            return None;
        }
        // What is written today was created before tomorrow, and before no day that has come. A date that cannot be read
        // is no reason to feel safe.
        let before = condition["createdBefore"].as_str().and_then(|date| date.parse::<Date>().ok());
        if before.is_some_and(|before| before <= self.today) {
            return None;
        }
        let (prefixes, suffixes) = (texts(&condition["matchesPrefix"]), texts(&condition["matchesSuffix"]));
        let ours = (prefixes.is_empty() || prefixes.iter().any(|prefix| self.begins(prefix)))
            && (suffixes.is_empty() || suffixes.iter().any(|suffix| ends(suffix)));
        ours.then(|| condition["age"].as_u64().unwrap_or(0))
    }

    /// Whether the name of an object of a backup may begin so.
    fn begins(&self, with: &str) -> bool {
        match with.strip_prefix(self.prefix) {
            Some(rest) => rest.starts_with(PREFIX) || PREFIX.starts_with(rest),
            None => self.prefix.starts_with(with),
        }
    }

    /// After how many days an object of ours is in a class, if it ever is: from the beginning, or by another rule.
    fn in_class(&self, class: &str) -> Option<u64> {
        let from_the_beginning = self.bucket.storage_class.as_deref().is_none_or(|own| own == class);
        if from_the_beginning || self.bucket.autoclass.enabled {
            return Some(0);
        }
        let sets = |action: &Value| action["type"] == "SetStorageClass" && action["storageClass"] == class;
        let rules = self.bucket.lifecycle.rule.iter().filter(|rule| sets(&rule["action"]));
        rules.filter_map(|rule| self.after_but_for_class(&rule["condition"])).min()
    }
}

/// Whether the name of an object of a backup may end so.
fn ends(with: &str) -> bool {
    let number = with.trim_end_matches(|c: char| c.is_ascii_digit());
    // Only one with documents ends with a number.
    let numbered = number.len() < with.len() && (OUTPUT.ends_with(number) || number.ends_with(OUTPUT));
    numbered || ENDINGS.iter().any(|ending| ending.ends_with(with) || with.ends_with(ending))
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use serde_json::json;

    use super::*;
    use crate::config::StorageConfig;

    fn found(config: &FirestoreConfig, bucket: &Value, location: &str) -> String {
        let bucket = serde_json::from_value(bucket.clone()).unwrap();
        problems(config, &bucket, location, "firestore/_default/", date(2026, 11, 24)).join("; ")
    }

    #[test]
    fn a_bucket_is_where_the_database_is() {
        let config = FirestoreConfig::new("p", StorageConfig::new("b"));
        for (bucket, database, fits) in [
            ("EUROPE-WEST1", "europe-west1", true),
            ("EUROPE-WEST1", "europe-west3", false),
            ("EU", "eur3", true),
            ("US", "nam5", true),
            ("US", "eur3", false),
        ] {
            let found = found(&config, &json!({"location": bucket}), database);
            assert_eq!(found.is_empty(), fits, "{found}");
        }
        let elsewhere = config.locations(["eur4", "EU"]);
        assert_eq!(found(&elsewhere, &json!({"location": "EUR4"}), "europe-west4"), "");
        assert!(
            found(&elsewhere, &json!({"location": "EUROPE-WEST4"}), "europe-west4").contains("it is in EUROPE-WEST4")
        );
    }

    #[test]
    fn a_bucket_that_deletes_backups_too_early_is_told() {
        let config = FirestoreConfig::new("p", StorageConfig::new("b"));
        for (action, condition, fits) in [
            ("Delete", json!({"age": 29}), false),
            ("Delete", json!({"age": 30}), true),
            ("Delete", json!({"age": 7, "matchesPrefix": ["firestore/"]}), false),
            ("Delete", json!({"age": 7, "matchesPrefix": ["logs/", "firestore/_default/moodify-"]}), false),
            ("Delete", json!({"age": 7, "matchesPrefix": ["firestore/_default/moodify-r1-0"]}), false),
            ("Delete", json!({"age": 7, "matchesPrefix": ["logs/"]}), true),
            ("Delete", json!({"age": 7, "matchesPrefix": ["firestore/_default/nightly"]}), true),
            ("Delete", json!({"matchesPrefix": ["firestore/"]}), false),
            ("Delete", json!({"age": 7, "matchesSuffix": [".log", ".tmp"]}), true),
            ("Delete", json!({"age": 7, "matchesSuffix": [".log", ".json"]}), false),
            ("Delete", json!({"age": 7, "matchesSuffix": ["export_metadata"]}), false),
            ("Delete", json!({"age": 7, "matchesSuffix": ["output-12"]}), false),
            ("Delete", json!({"age": 7, "matchesSuffix": ["0"]}), false),
            ("Delete", json!({"age": 7, "matchesSuffix": ["part-0"]}), true),
            ("Delete", json!({"age": 7, "matchesPrefix": ["firestore/"], "matchesSuffix": [".log"]}), true),
            ("Delete", json!({"createdBefore": "2026-11-24"}), true),
            ("Delete", json!({"createdBefore": "2026-11-25"}), false),
            ("Delete", json!({"createdBefore": "2027-01-01", "age": 30}), true),
            ("Delete", json!({"createdBefore": "some day"}), false),
            ("Delete", json!({"daysSinceCustomTime": 1}), true),
            ("Delete", json!({"customTimeBefore": "2030-01-01"}), true),
            ("Delete", json!({"age": 7, "isLive": true}), false),
            ("Delete", json!({"age": 7, "isLive": false}), true),
            ("Delete", json!({"age": 7, "numNewerVersions": 3}), true),
            ("Delete", json!({"daysSinceNoncurrentTime": 1}), true),
            ("Delete", json!({"age": 7, "matchesStorageClass": ["STANDARD", "NEARLINE"]}), false),
            ("Delete", json!({"age": 7, "matchesStorageClass": ["ARCHIVE"]}), true),
            ("SetStorageClass", json!({"age": 7}), true),
        ] {
            let rule = json!({"action": {"type": action}, "condition": condition});
            let bucket = json!({"location": "EU", "storageClass": "STANDARD", "lifecycle": {"rule": [rule]}});
            let found = found(&config, &bucket, "eur3");
            assert_eq!(found.is_empty(), fits, "{rule}: {found}");
        }
    }

    #[test]
    fn a_class_may_be_reached_by_another_rule() {
        let config = FirestoreConfig::new("p", StorageConfig::new("b"));
        let delete = json!({"action": {"type": "Delete"}, "condition": {"age": 9, "matchesStorageClass": ["ARCHIVE"]}});
        for (after, fits) in [(json!({"age": 20}), false), (json!({"age": 31}), true), (json!({"isLive": false}), true)]
        {
            let archive = json!({"action": {"type": "SetStorageClass", "storageClass": "ARCHIVE"}, "condition": after});
            let bucket =
                json!({"location": "EU", "storageClass": "STANDARD", "lifecycle": {"rule": [archive, delete.clone()]}});
            let found = found(&config, &bucket, "eur3");
            assert_eq!(found.is_empty(), fits, "{archive}: {found}");
        }
        for unsure in [json!({"autoclass": {"enabled": true}, "storageClass": "STANDARD"}), json!({})] {
            let mut bucket = unsure.clone();
            bucket["location"] = json!("EU");
            bucket["lifecycle"] = json!({"rule": [delete.clone()]});
            assert!(found(&config, &bucket, "eur3").contains("after 9 days"), "{bucket}");
        }
    }

    #[test]
    fn a_bucket_that_lets_nobody_delete_is_told() {
        let config = FirestoreConfig::new("p", StorageConfig::new("b"));
        let bucket =
            |seconds: u64| json!({"location": "EU", "retentionPolicy": {"retentionPeriod": seconds.to_string()}});
        assert_eq!(found(&config, &bucket(30 * SECONDS_A_DAY), "eur3"), "");
        let longer = found(&config, &bucket(30 * SECONDS_A_DAY + 1), "eur3");
        assert!(longer.contains("delete objects for 31 days, and backups are deleted after 30"), "{longer}");
        let held = found(&config, &json!({"location": "EU", "defaultEventBasedHold": true}), "eur3");
        assert!(held.contains("until somebody releases it"), "{held}");
    }
}
