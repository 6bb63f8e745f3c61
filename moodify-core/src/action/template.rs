use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StepContext;
use crate::model::Plan;

/// A text of a plan with places for what a run knows: `{{release}}`, `{{environment}}`, `{{namespace}}`,
/// `{{services}}`, `{{plan}}`, `{{run}}`, `{{step}}`, `{{started}}` (when the run was), and `{{outcome}}` of the run so
/// far. Any other name is refused when the plan is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Template(String);

/// What is filled in for each name.
const NAMES: [&str; 9] =
    ["release", "environment", "namespace", "services", "plan", "run", "step", "started", "outcome"];

impl Template {
    /// The text as this run and step fill it.
    pub(super) fn fill(&self, cx: &StepContext) -> String {
        self.filled(|name| match name {
            "run" => cx.run_id().to_string(),
            "step" => cx.step().name.clone(),
            "started" => cx.created().to_string(),
            "outcome" => match cx.untold().as_slice() {
                [] => "as planned".to_owned(),
                untold => format!("as planned, but not told: {}", untold.join(", ")),
            },
            _ => of_plan(cx.plan(), name),
        })
    }

    /// The text as some run of this plan could fill it, to be checked.
    pub(super) fn sample(&self, plan: &Plan) -> String {
        self.filled(|name| match name {
            "run" | "step" | "started" | "outcome" => name.to_owned(),
            _ => of_plan(plan, name),
        })
    }

    fn filled(&self, value: impl Fn(&str) -> String) -> String {
        let (mut text, mut rest) = (String::with_capacity(self.0.len()), self.0.as_str());
        while let Some((before, name, after)) = place(rest) {
            text.push_str(before);
            text.push_str(&value(name));
            rest = after;
        }
        text + rest
    }
}

fn of_plan(plan: &Plan, name: &str) -> String {
    match name {
        "release" => plan.release.version.clone(),
        "environment" => plan.environment.name.clone(),
        "namespace" => plan.environment.namespace.clone(),
        "services" => plan.release.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        _ => plan.name.clone(),
    }
}

/// The text before the first place, its name, and the text after it.
fn place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name.trim(), after))
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut rest = text.as_str();
        while let Some((_, name, after)) = place(rest) {
            if !NAMES.contains(&name) {
                let near =
                    NAMES.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
                let meant = near.map(|near| format!("did you mean {{{{{near}}}}}? ")).unwrap_or_default();
                return Err(format!("nothing is filled in for {{{{{name}}}}}; {meant}known are: {}", NAMES.join(", ")));
            }
            rest = after;
        }
        if let Some(at) = rest.find("{{") {
            let from = text.len() - rest.len() + at;
            return Err(format!("the {{{{ at character {} has no }}}}", text[..from].chars().count() + 1));
        }
        Ok(Self(text))
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Template, String> {
        Template::try_from(text.to_owned())
    }

    #[test]
    fn a_place_for_what_nobody_knows_is_refused() {
        for (bad, said) in [
            ("{{relase}} is out", "did you mean {{release}}?"),
            ("{{ }}", "nothing is filled in for {{}}"),
            ("ä {{release", "at character 3 has no }}"),
        ] {
            let why = read(bad).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn what_is_filled_in_is_not_filled_in_again() {
        let template = read("{{ release }}: {{run}}{{run}} }} {x}").unwrap();
        assert_eq!(template.filled(|name| format!("<{{{{{name}}}}}>")), "<{{release}}>: <{{run}}><{{run}}> }} {x}");
        assert_eq!(read("").unwrap().filled(|_| String::new()), "");
    }
}
