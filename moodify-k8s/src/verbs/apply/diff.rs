use moodify_core::{CallContext, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Verbs;
use super::applying::body;
use super::discovery::Discovery;
use super::manifest::{Manifest, Manifests};
use super::unified::unified;

/// What applying would change of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// Its kind, with the group: `Deployment.apps`.
    pub kind: String,
    /// Its namespace, if it is in one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Whether it is not there yet.
    pub new: bool,
    /// The difference of the YAML texts, as `diff -u` says it. Values of Secrets are not in it.
    pub text: String,
}

impl Verbs {
    /// What [`apply`](Self::apply) would change, by a dry run on the server: `kubectl diff --server-side`. Objects that
    /// would stay as they are are left out. A difference is told even where applying would conflict with another
    /// manager.
    ///
    /// An object in a namespace, or of a kind, that the same manifests make cannot be tried yet, and is refused.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); nothing is changed.
    pub async fn diff(&self, cx: &CallContext, manifests: &Manifests) -> Result<Vec<Difference>> {
        let all: Vec<&Manifest> = manifests.objects().iter().collect();
        let mut differences = Vec::new();
        for object in self.place(cx, &mut Discovery::default(), &all).await? {
            let live = self.live(cx, &object).await?;
            let merged = self.merged(cx, &object, &body(&object), true, true).await?;
            let (before, after) = (live.clone().map(shown), shown(merged));
            let (before, after) = masked(before, after);
            let name = |side: &str| {
                let place = object.namespace.as_deref().map(|n| format!("{n}.")).unwrap_or_default();
                format!("{side}/{}.{place}{}", object.resource.group_kind(), object.manifest.name())
            };
            let before = before.as_ref().map(yaml).unwrap_or_default();
            let text = unified(&before, &yaml(&after), [&name("live"), &name("merged")]);
            if !text.is_empty() {
                differences.push(Difference {
                    kind: object.resource.group_kind(),
                    namespace: object.namespace.clone(),
                    name: object.manifest.name().to_owned(),
                    new: live.is_none(),
                    text,
                });
            }
        }
        Ok(differences)
    }
}

/// The object without who wrote what of it.
fn shown(mut object: Value) -> Value {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    object
}

/// The values of a Secret say only whether they differ.
fn masked(mut before: Option<Value>, mut after: Value) -> (Option<Value>, Value) {
    if after["kind"] != "Secret" {
        return (before, after);
    }
    for map in ["data", "stringData"] {
        let old = before.as_ref().map(|b| b[map].clone()).unwrap_or_default();
        let new = after[map].clone();
        let mask = |object: &mut Value, mark: &str| {
            for (key, value) in object.get_mut(map).and_then(Value::as_object_mut).into_iter().flatten() {
                let same = old[key.as_str()] == new[key.as_str()];
                *value = Value::String(if same { "***".to_owned() } else { format!("*** ({mark})") });
            }
        };
        mask(&mut after, "after");
        if let Some(before) = &mut before {
            mask(before, "before");
        }
    }
    for object in before.iter_mut().chain([&mut after]) {
        // Client-side apply keeps all of the manifest in there, the values too.
        let applied = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
        if let Some(applied) = object.pointer_mut(applied) {
            *applied = Value::String("***".to_owned());
        }
    }
    (before, after)
}

fn yaml(object: &Value) -> String {
    // What cannot be written as YAML is still JSON.
    serde_saphyr::to_string(object).unwrap_or_else(|_| format!("{object:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_secrets_are_never_shown() {
        let secret = |value: &str| {
            json!({"kind": "Secret", "metadata": {"annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "has hunter2"}}, "data": {"a": value, "b": "same"}})
        };
        let (before, after) = masked(Some(secret("hunter2")), secret("hunter3"));
        let text = unified(&yaml(&before.unwrap()), &yaml(&after), ["a", "b"]);
        assert!(text.contains("-  a: '*** (before)'") || text.contains("*** (before)"), "{text}");
        assert!(text.contains("*** (after)") && !text.contains("hunter"), "{text}");
        let (_, after) = masked(None, secret("hunter3"));
        assert!(!yaml(&after).contains("hunter"), "{}", yaml(&after));
    }
}
