use std::collections::BTreeSet;
use std::fmt;

use super::Engine;
use crate::action::CheckContext;
use crate::error::{Error, ErrorKind};
use crate::model::Plan;
use crate::mutation::{self, Mutation};

/// Something that is wrong with a plan, found without any effect.
#[derive(Debug)]
pub struct Finding {
    /// The step; none if it is the plan as a whole.
    pub step: Option<String>,
    /// What is wrong.
    pub error: Error,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "step {step:?}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl Engine {
    /// Everything that is wrong with a plan: unknown actions, parameters that cannot be read, backends that are missing
    /// or cannot do what is asked. Changes nothing, and asks no backend over the network.
    pub async fn check(&self, plan: &Plan) -> Vec<Finding> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, "engine", "check the plan", message);
        let mut findings = Vec::new();
        let mut names = BTreeSet::new();
        if plan.steps().next().is_none() {
            findings.push(Finding { step: None, error: invalid("it has no steps".to_owned()) });
        }
        for (_, step) in plan.steps() {
            let mut found = |error| findings.push(Finding { step: Some(step.name.clone()), error });
            if !names.insert(&step.name) {
                found(invalid("another step has the same name".to_owned()));
            }
            match self.registry.get(&step.action) {
                Ok(kind) => {
                    let cx = CheckContext { plan, step, backends: &self.backends };
                    kind.check(&cx).await.err().into_iter().flatten().for_each(found);
                }
                Err(e) => found(e),
            }
        }
        findings.retain(|f| f.error.kind() != ErrorKind::Unsupported || !mutation::on(Mutation::UnsupportedIsFine));
        findings
    }
}
