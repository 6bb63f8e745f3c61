use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::Audience;
use crate::gate::Gate;

/// What an environment is for (runbook, "Deployment Environments").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EnvironmentKind {
    /// Feature development; updated on every commit.
    Development,
    /// Pre-production testing.
    Staging,
    /// The live system.
    Production,
}

/// Where a release goes: a namespace, and the gates that guard it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Its name, for people.
    pub name: String,
    /// What it is for.
    pub kind: EnvironmentKind,
    /// The namespace in the cluster.
    pub namespace: String,
    /// What must hold before the first effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// The backup stores in which a run must have made a verified backup before its first step that changes something. A
    /// plan without that is refused when it is checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<String>,
    /// By which notifiers people are told, by audience.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub audiences: BTreeMap<Audience, Vec<String>>,
}
