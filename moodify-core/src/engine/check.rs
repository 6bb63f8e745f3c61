use std::collections::BTreeSet;
use std::fmt;

use super::Engine;
use crate::action::{CheckContext, kinds};
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
        findings.extend(self.unsaved(plan));
        findings.retain(|f| f.error.kind() != ErrorKind::Unsupported || !mutation::on(Mutation::UnsupportedIsFine));
        findings
    }

    /// The first step that changes something before there is every backup that the environment asks for.
    fn unsaved(&self, plan: &Plan) -> Option<Finding> {
        let mut missing: BTreeSet<&str> = plan.environment.backups.iter().map(String::as_str).collect();
        for phase in &plan.phases {
            let mut made = BTreeSet::new();
            for step in &phase.steps {
                if step.action == kinds::BACKUP {
                    made.extend(step.with["store"].as_str());
                }
                if !phase.parallel {
                    missing.retain(|store| !made.contains(store));
                }
                if !missing.is_empty() && self.changes(&step.action) {
                    let all: Vec<&str> = missing.into_iter().collect();
                    let message = format!(
                        "the environment {:?} wants a verified backup in {} before anything is changed, and this step \
                         would change something first",
                        plan.environment.name,
                        all.join(" and ")
                    );
                    let error = Error::new(ErrorKind::Invalid, "engine", "check the plan", message);
                    let error = error.hint("put a step of the kind \"backup\" into a phase before it");
                    return Some(Finding { step: Some(step.name.clone()), error });
                }
            }
            missing.retain(|store| !made.contains(store));
        }
        None
    }

    /// Whether a kind of step changes what is there. What it does beside that does not count: backups, new targets.
    fn changes(&self, action: &str) -> bool {
        let beside = [kinds::BACKUP, kinds::RESTORE].contains(&action);
        !beside && self.registry.get(action).is_ok_and(|kind| kind.has_effects() && !kind.is_observer())
    }
}
