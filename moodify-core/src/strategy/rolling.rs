use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bake, Canary};
use crate::analysis::Analysis;
use crate::model::{Period, Weight};

/// Settings of a rolling release: the instances of the workload itself get the new version, batch by batch, with a bake
/// after each. For what cannot have a second workload beside it, such as a `StatefulSet` or a `DaemonSet`.
///
/// These two are held at exactly the instances of a batch. A Deployment can only be paused: it has by then replaced what
/// its `maxSurge` and `maxUnavailable` let it replace at once, and more if its pods are ready before it is paused. With
/// `maxSurge: 1`, `maxUnavailable: 0` and `minReadySeconds` of some seconds its batches are exact, too.
///
/// ```
/// use moodify_core::strategy::Rolling;
/// let back: Rolling = serde_json::from_str(r#"{"batches": [50, 10, 100]}"#).unwrap();
/// assert_eq!(back.problems()[0].0, "/batches/1");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Rolling {
    /// How many of the instances run the new version, in percent, batch by batch; rises, and ends at 100.
    #[schemars(length(min = 1))]
    pub batches: Vec<Weight>,
    /// How long each batch is watched before the next: one time for all, or a list with one for each batch.
    pub bake: Bake,
    /// What is measured all through a bake, and what it means.
    pub analysis: Analysis,
    /// How long the instances of a batch may take to become ready.
    pub ready_deadline: Period,
}

impl Default for Rolling {
    /// The runbook's shares (section 3): 10, 50 and 100 % of the instances, with a bake of 15 minutes each.
    fn default() -> Self {
        let Canary { weights, bake, analysis, ready_deadline, .. } = Canary::default();
        Self { batches: weights, bake, analysis, ready_deadline }
    }
}

impl Rolling {
    /// What is wrong with the settings: where (a JSON pointer from these settings on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let Self { batches, bake, analysis, ready_deadline } = self.clone();
        let problems = Canary { weights: batches, bake, analysis, ready_deadline, ..Canary::default() }.problems();
        problems.into_iter().map(|(at, what)| (at.replacen("/weights", "/batches", 1), what)).collect()
    }
}

/// Settings of a release that stops the old version before the new one starts: for what cannot run twice. Nobody is
/// served in between.
///
/// ```
/// use moodify_core::strategy::Recreate;
/// assert!(Recreate::default().problems().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Recreate {
    /// How long the new version is watched.
    pub bake: Period,
    /// What is measured all through the bake, and what it means.
    pub analysis: Analysis,
    /// How long the old instances may take to end, and the new ones to become ready.
    pub ready_deadline: Period,
}

impl Default for Recreate {
    /// One bake of 15 minutes, as the runbook's (section 3).
    fn default() -> Self {
        let Canary { analysis, ready_deadline, .. } = Canary::default();
        Self { bake: Period::from_mins(15), analysis, ready_deadline }
    }
}

impl Recreate {
    /// What is wrong with the settings: where (a JSON pointer from these settings on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let Self { bake, analysis, ready_deadline } = self.clone();
        let bake = Bake::Same(bake);
        Canary { weights: vec![Weight::FULL], bake, analysis, ready_deadline, ..Canary::default() }.problems()
    }
}
