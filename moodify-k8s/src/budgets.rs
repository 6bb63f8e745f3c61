//! The disruption budgets of what serves hold for the pods beside it too: whoever empties a node must not find the new version
//! without any, least of all when it is what serves.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::params::ListParams;
use kube::core::{Selector, SelectorExt};
use moodify_core::model::Target;
use moodify_core::{CallContext, Effect, Result, RunId};
use serde_json::{Map, Value, json};

use crate::canary::{identity, object_labels, pod_labels};
use crate::client::{Apply, BUDGET, Object};
use crate::deployer::DeploymentDeployer;
use crate::names::{mark, with_suffix};
use crate::ownership::is_made;

/// Whether a budget is about pods with these labels.
fn is_about(budget: &Value, labels: &BTreeMap<String, String>) -> bool {
    let selector: Option<LabelSelector> = serde_json::from_value(budget["spec"]["selector"].clone()).ok();
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    selector.is_some_and(|selector| selector.matches(labels))
}

fn text(labels: &Map<String, Value>) -> BTreeMap<String, String> {
    labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The budgets that the canary's pods lack, as they shall be: those of the stable pods, about the canary's.
fn missing(all: &[Value], stable: &Value, canary: &Value, target: &Target, run: &RunId) -> Vec<Value> {
    const COPIED: [&str; 3] = ["minAvailable", "maxUnavailable", "unhealthyPodEvictionPolicy"];
    let (of_stable, of_canary) = (text(&pod_labels(stable)), text(&pod_labels(canary)));
    let lacks = |budget: &&Value| !is_made(budget) && is_about(budget, &of_stable) && !is_about(budget, &of_canary);
    let made = all.iter().filter(lacks).map(|budget| {
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let mut spec: Map<String, Value> =
            COPIED.iter().filter_map(|key| Some(((*key).to_owned(), budget["spec"].get(*key)?.clone()))).collect();
        spec.insert("selector".to_owned(), json!({"matchLabels": identity(target, run)}));
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {
                "name": with_suffix(name, &mark(target)),
                "namespace": target.namespace,
                "labels": object_labels(target, run),
                // It goes with the canary.
                "ownerReferences": [{
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": canary["metadata"]["name"],
                    "uid": canary["metadata"]["uid"],
                }],
            },
            "spec": spec,
        })
    });
    let there = |wanted: &Value| {
        let same = |key: &str, budget: &Value| budget["metadata"][key] == wanted["metadata"][key];
        let owner = |budget: &Value| budget["metadata"]["ownerReferences"][0]["uid"].clone();
        all.iter()
            .any(|budget| same("name", budget) && budget["spec"] == wanted["spec"] && owner(budget) == owner(wanted))
    };
    made.filter(|wanted| !there(wanted)).collect()
}

impl DeploymentDeployer {
    /// Makes the budgets that the canary's pods lack.
    pub(crate) async fn make_budgets(
        &self,
        cx: &CallContext,
        target: &Target,
        stable: &Value,
        canary: &Deployment,
    ) -> Result<()> {
        let canary = serde_json::to_value(canary).unwrap_or_default();
        let made = async {
            let all: Vec<Value> = self.kube.list(cx, BUDGET, &target.namespace, &ListParams::default()).await?;
            for body in missing(&all, stable, &canary, target, cx.run_id()) {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let object = Object::new(BUDGET, &target.namespace, name);
                // Ours of another run is taken over; somebody else's of that name is a conflict.
                let is_ours = |budget: &Value| budget["metadata"]["name"] == name && is_made(budget);
                let how = Apply { force: all.iter().any(is_ours), dry_run: false };
                let _: Value = self.kube.apply(cx, &object, &body, how).await?;
            }
            Ok(())
        };
        // The Deployment stands already.
        made.await.map_err(|e: moodify_core::Error| e.effect(Effect::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::MANAGED_BY;
    use crate::testing::{stable_deployment, target};
    use moodify_core::model::{Color, Layout};

    fn budget(name: &str, selector: &Value) -> Value {
        json!({"metadata": {"name": name, "labels": {}}, "spec": {"minAvailable": 2, "selector": selector}})
    }

    fn green() -> Value {
        let mut green = stable_deployment();
        green["metadata"]["name"] = "web-green".into();
        green["metadata"]["uid"] = "u-7".into();
        green["spec"]["template"]["metadata"]["labels"]["app"] = "web-green".into();
        green
    }

    #[test]
    fn the_new_pods_get_the_budgets_that_they_lack() {
        let target = target().with_layout(Layout::Colors(Color::Blue));
        let run = RunId::new("r1").unwrap();
        let of = |all: &[Value]| missing(all, &stable_deployment(), &green(), &target, &run);
        let by_app = budget("web", &json!({"matchLabels": {"app": "web"}}));
        let both = budget(
            "both",
            &json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "web-green"]}]}),
        );
        let other = budget("other", &json!({"matchLabels": {"app": "other"}}));
        let mut made = of(&[by_app.clone(), both.clone(), other.clone()]);
        assert_eq!(made.len(), 1, "{made:?}");
        let made = made.remove(0);
        assert_eq!((&made["metadata"]["name"], &made["spec"]["minAvailable"]), (&json!("web-green"), &json!(2)));
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u-7");
        assert_eq!(made["spec"]["selector"], json!({"matchLabels": identity(&target, &run)}));
        assert_eq!(of(&[by_app, both, other, made]), [Value::Null; 0], "it is there");
    }

    #[test]
    fn what_is_ours_is_not_copied_again() {
        let mut ours = budget("web-green", &json!({"matchLabels": {"app": "web"}}));
        ours["metadata"]["labels"][MANAGED_BY] = "moodify".into();
        let run = RunId::new("r1").unwrap();
        assert_eq!(missing(&[ours], &stable_deployment(), &green(), &target(), &run), [Value::Null; 0]);
    }
}
