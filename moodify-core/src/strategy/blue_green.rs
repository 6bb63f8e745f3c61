use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bake, Canary, Mirrored, TestingFirst};
use crate::analysis::Analysis;
use crate::model::{Period, Weight};

/// Settings of a blue-green release: two workloads take turns. The one that does not serve gets the new version, and
/// more and more of the traffic with a bake after each change of the weight. Then the two swap their parts: what was
/// tested is what serves, and nothing is rolled again. The version before stays for a time, for an undo at once.
///
/// ```
/// use moodify_core::model::Period;
/// use moodify_core::strategy::BlueGreen;
/// let one_switch: BlueGreen = serde_json::from_str(r#"{"weights": [100], "keep": "2h"}"#).unwrap();
/// assert!(one_switch.problems().is_empty());
/// assert_eq!(BlueGreen::default().keep, Period::from_mins(30));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BlueGreen {
    /// The new version's share of the traffic in percent, step by step; rises, and ends at 100. `[100]` is one switch.
    #[schemars(length(min = 1))]
    pub weights: Vec<Weight>,
    /// How long each weight stands before the next: one time for all, or a list with one for each weight.
    pub bake: Bake,
    /// What is measured all through a bake, and what it means.
    pub analysis: Analysis,
    /// How long the new version's instances may take to become ready, for each weight.
    pub ready_deadline: Period,
    /// Testers who see the new version before it gets a share of the traffic, where the router has routes for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub testers: Option<TestingFirst>,
    /// A copy of the requests for the new version before it gets a share of them, where the router can mirror.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirrored>,
    /// How long the version before keeps its instances after it has handed over.
    pub keep: Period,
}

impl Default for BlueGreen {
    /// The runbook's blue-green deployment (section 3): 10, 50 and 100 % with a bake of 15 minutes each; what served
    /// before stays for 30 minutes.
    fn default() -> Self {
        let Canary { weights, bake, analysis, ready_deadline, testers, mirror } = Canary::default();
        Self { weights, bake, analysis, ready_deadline, testers, mirror, keep: Period::from_mins(30) }
    }
}

impl BlueGreen {
    /// What is wrong with the settings: where (a JSON pointer from these settings on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        self.rising().problems()
    }

    /// The part of it that is the same as of a canary.
    pub(super) fn rising(&self) -> Canary {
        let Self { weights, bake, analysis, ready_deadline, testers, mirror, keep: _ } = self.clone();
        Canary { weights, bake, analysis, ready_deadline, testers, mirror }
    }
}
