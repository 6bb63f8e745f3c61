use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend::Testers;
use crate::model::Period;

/// Testers see the new version before anybody else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestingFirst {
    /// The header by which their requests are known; exactly one of this and `cookie`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The cookie by which their requests are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The value of the header or the cookie, exactly.
    pub value: String,
    /// How long they have before the first weight; no time if left out, where an approval or a probe of the plan comes
    /// between.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
}

impl TestingFirst {
    /// How they are known.
    #[must_use]
    pub fn testers(&self) -> Testers {
        Testers { header: self.header.clone(), cookie: self.cookie.clone(), value: self.value.clone() }
    }
}
