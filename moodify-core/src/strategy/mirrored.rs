use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Period, Weight};

/// The new version gets a copy of the requests before it gets a share of them; its answers are thrown away.
///
/// What a request does it does twice then: mirror only where requests have no effect, or one that may happen twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirrored {
    /// Of how many of the requests there is a copy, in percent; left out, of all.
    #[serde(default = "all")]
    pub percent: Weight,
    /// How long the new version is watched meanwhile, by the analysis of the strategy.
    #[serde(rename = "for")]
    pub period: Period,
}

fn all() -> Weight {
    Weight::FULL
}

impl Mirrored {
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if self.percent == Weight::ZERO {
            problems.push(("/percent".to_owned(), "a copy of no request tells nothing; 1 to 100".to_owned()));
        }
        if self.period == Period::ZERO {
            problems.push(("/for".to_owned(), "no time at all to be watched in".to_owned()));
        }
        problems
    }
}
