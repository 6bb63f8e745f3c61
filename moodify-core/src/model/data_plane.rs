use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Period;
use crate::backend::Link;

/// Where the data plane itself is asked how it divides: by requests as clients send them, each over a connection of its
/// own. For routers whose object reports nothing, and beside those that do.
///
/// After a weight is set, and before it is watched, so many requests are sent; it counts as in force when as many of the
/// answers are the new version's as chance allows of it (5 standard deviations; of 0 and 100 % exactly), and is asked for
/// again until then. On the way back nothing waits longer than half a minute for it.
///
/// ```
/// use moodify_core::model::DataPlane;
/// let plane: DataPlane = serde_json::from_str(
///     r#"{"url": "http://127.0.0.1:80/ready", "host": "shop.example", "version-header": "x-version"}"#,
/// ).unwrap();
/// assert_eq!((plane.requests, plane.within.to_string()), (200, "1m".to_owned()));
/// assert!(plane.problems().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataPlane {
    /// The address, which has to lead through the router to this service. It is asked by `GET`.
    pub url: Link,
    /// The host that is asked for, where it is not the one of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The header of the answers that says which version gave them.
    pub version_header: String,
    /// What the new version says there; by default the version of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How many requests are sent at least; more, up to 10,000, where it takes more to tell a weight from the one before it.
    #[serde(default = "requests")]
    #[schemars(range(min = 1, max = 10_000))]
    pub requests: u32,
    /// How long after a change the data plane may take to follow. Where a canary beside the stable workload goes in the end,
    /// it stays for so long, as both give the same answers then.
    #[serde(default = "within")]
    pub within: Period,
}

fn requests() -> u32 {
    200
}

fn within() -> Period {
    Period::from_secs(60)
}

impl DataPlane {
    /// The most requests that are sent at once.
    pub(crate) const MOST: u32 = 10_000;

    /// What is wrong with it: where (a JSON pointer from here on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        // A token (RFC 9110, 5.6.2).
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let visible = |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        let mut problems = Vec::new();
        let mut report = |key: &str, what: String| problems.push((format!("/{key}"), what));
        if self.version_header.is_empty() || !self.version_header.chars().all(token) {
            report("version-header", format!("{:?} is not the name of a header", self.version_header));
        }
        if let Some(host) = self.host.as_ref().filter(|host| !visible(host) || host.contains('/')) {
            report("host", format!("{host:?} is not a host, like shop.example"));
        }
        if let Some(version) = self.version.as_ref().filter(|version| !visible(version)) {
            report("version", format!("{version:?} is not what a header says: visible ASCII without spaces"));
        }
        if self.requests == 0 || self.requests > Self::MOST {
            report("requests", format!("{} is not a number from 1 to {}", self.requests, Self::MOST));
        }
        problems
    }
}
