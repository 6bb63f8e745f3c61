use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Mirrored, TestingFirst};
use crate::analysis::Analysis;
use crate::model::{Period, Weight};

/// Settings of a canary release: more and more of the traffic, with a bake after each change of the weight.
///
/// ```
/// use moodify_core::strategy::Canary;
/// assert!(Canary::default().problems().is_empty());
/// let back: Canary = serde_json::from_str(r#"{"weights": [50, 10, 100]}"#).unwrap();
/// assert_eq!(back.problems()[0].0, "/weights/1");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Canary {
    /// The canary's share of the traffic in percent, step by step; rises, and ends at 100.
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
}

impl Default for Canary {
    /// The runbook's canary: 10, 50 and 100 %, with a bake of 15 minutes each.
    fn default() -> Self {
        Self {
            weights: [10, 50, 100].into_iter().filter_map(Weight::new).collect(),
            bake: Bake::Same(Period::from_mins(15)),
            analysis: Analysis::default(),
            ready_deadline: Period::from_mins(10),
            testers: None,
            mirror: None,
        }
    }
}

impl Canary {
    /// What is wrong with the settings: where (a JSON pointer from these settings on), and what.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = self.weight_problems();
        if let Bake::Each(bakes) = &self.bake
            && bakes.len() != self.weights.len()
        {
            let message = format!("{} bakes for {} weights: give one for each, or one time for all", bakes.len(), {
                self.weights.len()
            });
            problems.push(("/bake".to_owned(), message));
        }
        if self.ready_deadline == Period::ZERO {
            problems.push(("/ready-deadline".to_owned(), "no time at all for instances to become ready".to_owned()));
        }
        if let Some(testers) = &self.testers {
            problems.extend(testers.testers().problems().into_iter().map(|(at, what)| (format!("/testers{at}"), what)));
        }
        if let Some(mirror) = &self.mirror {
            problems.extend(mirror.problems().into_iter().map(|(at, what)| (format!("/mirror{at}"), what)));
        }
        problems.extend(self.analysis_problems());
        problems
    }

    fn weight_problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut before = Weight::ZERO;
        for (index, &weight) in self.weights.iter().enumerate() {
            if weight <= before {
                let message = match index {
                    0 => "a weight of 0 % sends nothing to the new version; the first one is 1 to 100".to_owned(),
                    _ => format!("weights must rise: {weight} comes after {before}"),
                };
                problems.push((format!("/weights/{index}"), message));
            }
            before = before.max(weight);
        }
        match self.weights.last() {
            None => problems.push(("/weights".to_owned(), "no weights: give at least [100]".to_owned())),
            Some(&last) if before != Weight::FULL => {
                let message = format!("the last weight is {last}, but a release ends at 100 %");
                problems.push((format!("/weights/{}", self.weights.len() - 1), message));
            }
            Some(_) => {}
        }
        problems
    }

    fn analysis_problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut report = |pointer: String, message: String| problems.push((format!("/analysis{pointer}"), message));
        if self.analysis.interval == Period::ZERO {
            report("/interval".to_owned(), "the time between two measurements must be more than nothing".to_owned());
        }
        if self.analysis.no_data.after == 0 {
            report("/no-data/after".to_owned(), "must be at least 1".to_owned());
        }
        for (index, check) in self.analysis.metrics.iter().enumerate() {
            let at = format!("/metrics/{index}");
            if check.name.trim().is_empty() {
                report(format!("{at}/name"), "a metric needs a name".to_owned());
            }
            if check.pass.is_none() && check.fail.is_none() {
                report(
                    at.clone(),
                    "neither `pass` nor `fail`: nothing could ever be said about this metric".to_owned(),
                );
            }
            if check.window == Period::ZERO {
                report(format!("{at}/window"), "a measurement must look back over more than nothing".to_owned());
            }
            if self.analysis.metrics[..index].iter().any(|c| c.name == check.name && c.source == check.source) {
                report(format!("{at}/name"), format!("{:?} is measured twice from the same source", check.name));
            }
        }
        problems
    }
}

/// How long the weights stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Bake {
    /// Every weight equally long.
    Same(Period),
    /// Each weight its own time.
    Each(Vec<Period>),
}

impl Bake {
    /// How long the weight at `index` stands; beyond a list's end, as long as its last.
    #[must_use]
    pub fn of(&self, index: usize) -> Period {
        match self {
            Self::Same(period) => *period,
            Self::Each(periods) => periods.get(index).or(periods.last()).copied().unwrap_or_default(),
        }
    }
}

// By hand, because an untagged enum loses what was wrong, and where.
impl<'de> Deserialize<'de> for Bake {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Bake;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time like 15m, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bake, E> {
                text.parse().map(Bake::Same).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Bake, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items)).map(Bake::Each)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bake {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bake".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let period = generator.subschema_for::<Period>();
        json_schema!({
            "description": "How long each weight stands: one time for all, or a list with one for each weight.",
            "anyOf": [period, {"type": "array", "items": period}]
        })
    }
}
