use std::any::Any;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Phase, Plan, Step};

/// Phases, in order. A copy shares them with its original until one of the two is changed.
///
/// ```
/// use moodify_core::model::{Phase, Phases};
/// let phases: Phases = vec![Phase { name: "rollout".into(), parallel: false, steps: Vec::new() }].into();
/// let mut more = phases.clone();
/// more.push(Phase { name: "tell".into(), parallel: true, steps: Vec::new() });
/// assert_eq!((phases.len(), more.len()), (1, 2));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phases(pub(crate) Arc<Shared>);

/// What is kept once for all runs that have these phases.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    phases: Vec<Phase>,
    /// The parameters of steps, by phase and place, as their actions read them.
    read: Mutex<HashMap<(usize, usize), Arc<dyn Any + Send + Sync>>>,
}

impl From<Vec<Phase>> for Shared {
    fn from(phases: Vec<Phase>) -> Self {
        Self { phases, read: Mutex::default() }
    }
}

/// What was read from the original may not be what is in the copy soon.
impl Clone for Shared {
    fn clone(&self) -> Self {
        self.phases.clone().into()
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.phases == other.phases
    }
}

impl Deref for Phases {
    type Target = Vec<Phase>;

    fn deref(&self) -> &Vec<Phase> {
        &self.0.phases
    }
}

impl DerefMut for Phases {
    fn deref_mut(&mut self) -> &mut Vec<Phase> {
        let shared = Arc::make_mut(&mut self.0);
        shared.read.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        &mut shared.phases
    }
}

impl From<Vec<Phase>> for Phases {
    fn from(phases: Vec<Phase>) -> Self {
        Self(Arc::new(phases.into()))
    }
}

impl FromIterator<Phase> for Phases {
    fn from_iter<I: IntoIterator<Item = Phase>>(phases: I) -> Self {
        phases.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a Phases {
    type Item = &'a Phase;
    type IntoIter = std::slice::Iter<'a, Phase>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.phases.iter()
    }
}

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.phases.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Phases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

/// A step where it stands in its plan, which it keeps: many runs wait in one process, and a copy of its parameters for
/// each would be most of what they need.
#[derive(Debug, Clone)]
pub(crate) struct PlannedStep {
    plan: Arc<Plan>,
    /// The number of its phase, and its own in there.
    place: (usize, usize),
}

impl PlannedStep {
    pub(crate) fn find(plan: &Arc<Plan>, name: &str) -> Option<Self> {
        let place = |phase: &Phase| phase.steps.iter().position(|step| step.name == name);
        let found = plan.phases.iter().enumerate().find_map(|(phase, of)| Some((phase, place(of)?)));
        found.map(|place| Self { plan: plan.clone(), place })
    }

    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.plan.phases[self.place.0]
    }

    /// Its parameters, read once for all runs that share the phases.
    pub(crate) fn params<T>(&self, as_read: fn(&Value) -> Value) -> serde_json::Result<Arc<T>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let known = || self.plan.phases.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = known().get(&self.place).cloned();
        if let Some(Ok(params)) = read.map(Arc::downcast::<T>) {
            return Ok(params);
        }
        let params = Arc::new(T::deserialize(as_read(&self.with))?);
        known().insert(self.place, params.clone());
        Ok(params)
    }
}

impl Deref for PlannedStep {
    type Target = Step;

    fn deref(&self) -> &Step {
        &self.phase().steps[self.place.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RetryPolicy;
    use serde_json::json;

    fn plan(number: u32) -> Arc<Plan> {
        let environment = json!({"name": "e", "kind": "production", "namespace": "n"});
        let step = Step {
            name: "one".into(),
            action: "wait".into(),
            with: json!([number]),
            deadline: None,
            retry: RetryPolicy::default(),
        };
        let phases = vec![Phase { name: "all".into(), parallel: false, steps: vec![step] }];
        let plan = json!({"name": "p", "environment": environment, "release": {"version": "v2", "services": []},
                          "phases": phases});
        Arc::new(serde_json::from_value(plan).unwrap())
    }

    #[test]
    fn parameters_are_read_once_and_again_after_a_change_or_as_another_type() {
        let first = plan(1);
        let step = PlannedStep::find(&first, "one").unwrap();
        let read = step.params::<Vec<u32>>(Value::clone).unwrap();
        let other = PlannedStep::find(&Arc::new((*first).clone()), "one").unwrap();
        assert!(Arc::ptr_eq(&read, &other.params(Value::clone).unwrap()));
        assert_eq!(*step.params::<Vec<u64>>(Value::clone).unwrap(), [1]);
        assert!(step.params::<String>(Value::clone).is_err());

        let mut changed = (*first).clone();
        changed.phases[0].steps[0].with = json!([2]);
        let changed = PlannedStep::find(&Arc::new(changed), "one").unwrap();
        assert_eq!(*changed.params::<Vec<u32>>(Value::clone).unwrap(), [2]);
        assert_eq!(*step.params::<Vec<u32>>(Value::clone).unwrap(), [1]);
    }
}
