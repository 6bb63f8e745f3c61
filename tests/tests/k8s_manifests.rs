//! What other projects publish for `kubectl apply`, applied as it is.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::time::Duration;

use moodify_core::CallContext;
use moodify_k8s::verbs::{ApplyOptions, Manifests, Outcome};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::missing;
use moodify_tests::rig::{Namespace, Rig};
use tokio::time::sleep;

/// Applies a file, and has kubectl say that it would do the same; then deletes it.
async fn apply(dir: &Path, name: &str, namespace: &Namespace, objects: usize) {
    let cx = CallContext::by_hand("test", Duration::from_secs(120));
    let config = KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"));
    let verbs = Kube::connect(&config).await.unwrap().verbs(namespace.name());
    let path = dir.join(name);
    let manifests = Manifests::load(&path).unwrap();
    assert_eq!(manifests.objects().len(), objects, "{name}");
    let applied = verbs.apply(&cx, &manifests, &ApplyOptions::new()).await.unwrap();
    assert_eq!(applied.len(), objects);
    assert!(applied.iter().all(|a| a.outcome == Outcome::Created), "{applied:?}");

    // Objects that name a namespace do not go with the flag.
    let here = ["--namespace", namespace.name()];
    let here = if name == "argo-rollouts.yaml" { here.as_slice() } else { &[] };
    let kubectl = async |arguments: &[&str]| {
        let arguments = [here, arguments, &["-f", path.to_str().unwrap()]].concat();
        let output = namespace.rig().try_kubectl("admin", &arguments, "").await;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let (ok, there) = kubectl(&["get", "--output", "name"]).await;
    assert!(ok && there.lines().count() == objects, "{there}");
    let mut same = (false, String::new());
    // It reads twice, and controllers write in between.
    for _ in 0..10 {
        same = kubectl(&["diff", "--server-side", "--field-manager", "moodify"]).await;
        if same.0 {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert!(same.0, "{name}: {}", same.1);
    let again = verbs.apply(&cx, &manifests, &ApplyOptions::new()).await.unwrap();
    let changed: Vec<_> = again.iter().filter(|a| a.outcome != Outcome::Unchanged).collect();
    assert!(changed.is_empty(), "{name}: {changed:?}");
    let (ok, deleted) = kubectl(&["delete", "--wait=false"]).await;
    assert!(ok, "{deleted}");
}

/// Four megabytes of definitions that do not fit into the annotation of kubectl's older apply, kinds that are used in the
/// file that defines them, a webhook, a `StorageClass`, namespaces that are made with what goes into them.
#[tokio::test]
async fn what_other_projects_publish_is_applied_as_kubectl_applies_it() {
    let Some(rig) = Rig::own().await else { return };
    let Some(dir) = std::env::var_os("MOODIFY_RIG_MANIFESTS") else {
        return missing("the manifests of other projects are not here (MOODIFY_RIG_MANIFESTS)");
    };
    let namespace = rig.namespace("published").await;
    for (name, objects) in
        [("argo-rollouts.yaml", 15), ("local-path.yaml", 9), ("metallb.yaml", 26), ("prometheus-operator.yaml", 15)]
    {
        apply(Path::new(&dir), name, &namespace, objects).await;
    }
}
