//! Whether a bucket is fit for backups.

use serde_json::Value;

use crate::cloud_storage::Bucket;
use crate::config::FirestoreConfig;

/// What is wrong with a bucket for exports of a database in `location`, whose names begin with `prefix`.
pub(super) fn problems(config: &FirestoreConfig, bucket: &Bucket, location: &str, prefix: &str) -> Vec<String> {
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
    let keep = config.keep.get().as_secs().div_ceil(24 * 60 * 60);
    let age = bucket.lifecycle.rule.iter().filter_map(|rule| deletes_after(rule, prefix)).min();
    if let Some(age) = age.filter(|age| *age < keep) {
        problems.push(format!("a rule of it deletes objects after {age} days, and backups are to be kept for {keep}"));
    }
    problems
}

/// After how many days a rule of a bucket deletes an object of ours, if it does.
fn deletes_after(rule: &Value, prefix: &str) -> Option<u64> {
    let condition = &rule["condition"];
    let names = ["numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore"];
    let old_versions = condition["isLive"] == false || names.iter().any(|name| !condition[name].is_null());
    let ours = condition["matchesPrefix"].as_array().is_none_or(|prefixes| {
        let mut prefixes = prefixes.iter().filter_map(Value::as_str);
        prefixes.any(|other| prefix.starts_with(other) || other.starts_with(prefix))
    });
    let deletes = rule["action"]["type"] == "Delete" && !old_versions && ours;
    condition["age"].as_u64().filter(|_| deletes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::StorageConfig;

    fn found(config: &FirestoreConfig, bucket: &Value, location: &str) -> String {
        problems(config, &serde_json::from_value(bucket.clone()).unwrap(), location, "firestore/_default/").join("; ")
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
            ("Delete", json!({"age": 7, "matchesPrefix": ["logs/"]}), true),
            ("Delete", json!({"age": 7, "isLive": true}), false),
            ("Delete", json!({"age": 7, "isLive": false}), true),
            ("Delete", json!({"age": 7, "numNewerVersions": 3}), true),
            ("SetStorageClass", json!({"age": 7}), true),
        ] {
            let rule = json!({"action": {"type": action}, "condition": condition});
            let found = found(&config, &json!({"location": "EU", "lifecycle": {"rule": [rule]}}), "eur3");
            assert_eq!(found.is_empty(), fits, "{rule}: {found}");
        }
    }
}
