use std::collections::BTreeMap;
use std::fmt::{self, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Configuration that a version of a service reads, and that ships and goes back with it: each version reads an object of
/// its own, so that no pod of another version ever sees it.
///
/// ```
/// use moodify_core::model::ConfigVersion;
/// let config = ConfigVersion::map("backend-config", [("LOG_LEVEL", "info")]);
/// assert_eq!(config.key(), "configmap/backend-config");
/// assert_eq!(config.object(), "backend-config-74c23e2a46", "named after its contents");
/// let secret = ConfigVersion::there("backend-keys", "backend-keys-2026-12");
/// assert_eq!((secret.key().as_str(), secret.object().as_str()), ("secret/backend-keys", "backend-keys-2026-12"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigVersion {
    /// What kind of object it is.
    #[serde(default, skip_serializing_if = "ConfigKind::is_map")]
    pub kind: ConfigKind,
    /// The name under which the workload's pods read it before the first release that ships it.
    pub name: String,
    /// Its contents in this version, all of them. An object that never changes is made of them, named after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<BTreeMap<String, String>>,
    /// Or the name of an object that is there and that this version reads. Secrets ship so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What kind of object a configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigKind {
    /// Anybody may read it.
    #[default]
    ConfigMap,
    /// Its contents pass through no plan and no journal.
    Secret,
}

impl ConfigKind {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_map(&self) -> bool {
        *self == Self::ConfigMap
    }

    /// Its name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which objects the pods of a version read, by [`ConfigVersion::key`].
pub type ConfigRefs = BTreeMap<String, String>;

impl ConfigVersion {
    /// A `ConfigMap` with these contents.
    #[must_use]
    pub fn map<'a>(name: &str, data: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { kind: ConfigKind::ConfigMap, name: name.to_owned(), data: Some(data), version: None }
    }

    /// A Secret of which this version is there already.
    #[must_use]
    pub fn there(name: &str, version: &str) -> Self {
        Self { kind: ConfigKind::Secret, name: name.to_owned(), data: None, version: Some(version.to_owned()) }
    }

    /// What it is known by: `configmap/NAME` or `secret/NAME`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind.name().to_lowercase(), self.name)
    }

    /// The object that this version reads. What is made of contents has the beginning of their SHA-256 in its name: other
    /// contents are another object, and the same ones the same.
    #[must_use]
    pub fn object(&self) -> String {
        match (&self.version, &self.data) {
            (Some(version), _) => version.clone(),
            (None, None) => self.name.clone(),
            (None, Some(data)) => {
                let mut hash = Sha256::new();
                for part in data.iter().flat_map(|(key, value)| [key, value]) {
                    // With its length, so that no two contents read alike.
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
                hash.finalize().iter().take(5).fold(format!("{}-", self.name), |mut name, byte| {
                    let _ = write!(name, "{byte:02x}");
                    name
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_contents_have_another_name() {
        let name = |data: &[(&str, &str)]| ConfigVersion::map("web", data.iter().copied()).object();
        let all = [
            name(&[]),
            name(&[("a", "")]),
            name(&[("", "a")]),
            name(&[("a", "b"), ("c", "d")]),
            name(&[("a", "b\0c"), ("d", "")]),
            name(&[("ab", "cd")]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| other != one), "{all:?}");
        }
        assert_eq!(name(&[("a", "1"), ("b", "2")]), name(&[("b", "2"), ("a", "1")]), "the order does not matter");
    }
}
