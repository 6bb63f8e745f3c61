use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Track;

/// How the two versions of a service stand side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A temporary canary beside the stable workload, which is rolled to the new version in the end.
    #[default]
    InPlace,
    /// Two workloads that take turns; this one serves before the release. What was tested is what serves after it.
    Colors(Color),
    /// One workload alone, in which the new version takes the place of the old one, all at once or batch by batch. The
    /// canary is that part of it which runs the new version, as long as it is held back from running all of it.
    Single,
}

impl Layout {
    /// The workload that has this part in the release; `None` where the two are not of a kind.
    ///
    /// ```
    /// use moodify_core::model::{Color, Layout, Track};
    /// let layout = Layout::Colors(Color::Green);
    /// assert_eq!(layout.color(Track::Stable), Some(Color::Green));
    /// assert_eq!(layout.color(Track::Canary), Some(Color::Blue));
    /// assert_eq!(Layout::InPlace.color(Track::Canary), None);
    /// ```
    #[must_use]
    pub const fn color(self, track: Track) -> Option<Color> {
        match (self, track) {
            (Self::InPlace | Self::Single, _) => None,
            (Self::Colors(serving), Track::Stable) => Some(serving),
            (Self::Colors(serving), Track::Canary) => Some(serving.other()),
        }
    }
}

/// One of two workloads that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Color {
    /// The one that the plan names.
    Blue,
    /// The one that is made beside it.
    Green,
}

impl Color {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blue => "blue",
            Self::Green => "green",
        })
    }
}
