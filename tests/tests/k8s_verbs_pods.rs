//! The verbs that look into pods, and those that apply manifests, beside the real kubectl.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use moodify_core::{CallContext, Effect, ErrorKind};
use moodify_k8s::verbs::{
    ApplyOptions, ExecRequest, LogContainers, LogLine, LogOptions, LogSource, Look, Manifests, Outcome, RunRequest,
    Select, SortBy, Verbs, Workload, table,
};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig, deployment};
use serde_json::{Value, json};

fn cx() -> CallContext {
    CallContext::by_hand("test", Duration::from_secs(90))
}

async fn verbs_as(namespace: &Namespace, user: &str) -> Verbs {
    let config = KubeConfig::new().kubeconfig(namespace.kubeconfig(user));
    Kube::connect(&config).await.unwrap().verbs(namespace.name())
}

async fn verbs(namespace: &Namespace) -> Verbs {
    verbs_as(namespace, "admin").await
}

fn trimmed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

async fn kubectl(namespace: &Namespace, arguments: &[&str], input: &str) -> (bool, String, String) {
    let arguments = [&["--namespace", namespace.name()], arguments].concat();
    let output = namespace.rig().try_kubectl("admin", &arguments, input).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

const MANIFESTS: &str = "\
apiVersion: example.moodify.dev/v1
kind: Recipe
metadata: {name: soup}
spec: {salt: 0644, warm: yes}
---
# The kind of the above, written below it.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: recipes.example.moodify.dev}
spec:
  group: example.moodify.dev
  names: {kind: Recipe, plural: recipes, singular: recipe, listKind: RecipeList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {salt: {type: integer}, warm: {type: boolean}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: settings}
  data: {mode: \"fast\", text: \"a\\nb\\n\"}
- apiVersion: v1
  kind: Secret
  metadata: {name: key}
  stringData: {password: hunter2-of-the-test}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: \"registry.test/web:v1\", ports: [{containerPort: 8080}]}
";

#[tokio::test]
async fn manifests_become_what_kubectl_makes_of_them() {
    let Some(rig) = Rig::shared().await else { return };
    let (ours, theirs) = (rig.namespace("ours").await, rig.namespace("theirs").await);
    let verbs = verbs(&ours).await;
    let cx = cx();
    let manifests = Manifests::read(MANIFESTS, "all.yaml").unwrap();
    let applied = verbs.apply(&cx, &manifests, &ApplyOptions::new()).await.unwrap();
    let told: Vec<(&str, &str, Outcome)> =
        applied.iter().map(|a| (a.kind.as_str(), a.name.as_str(), a.outcome)).collect();
    let created = |outcome: &Outcome| *outcome == Outcome::Created;
    assert!(told[1..].iter().all(|(_, _, outcome)| created(outcome)), "{told:?}");
    assert_eq!(
        told.iter().map(|(kind, name, _)| format!("{kind} {name}")).collect::<Vec<_>>(),
        [
            "CustomResourceDefinition.apiextensions.k8s.io recipes.example.moodify.dev",
            "Recipe.example.moodify.dev soup",
            "ConfigMap settings",
            "Secret key",
            "Deployment.apps web",
        ]
    );
    let arguments = ["apply", "--server-side", "-f", "-"];
    let (ok, _, problem) = kubectl(&theirs, &arguments, MANIFESTS).await;
    assert!(ok, "{problem}");
    // The controller's own marks come a moment later, and not at once in both.
    for namespace in [&ours, &theirs] {
        namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).await;
    }
    for object in ["recipe/soup", "configmap/settings", "secret/key", "deployment/web"] {
        let mut both = Vec::new();
        for namespace in [&ours, &theirs] {
            let mut value: Value =
                serde_json::from_str(&namespace.kubectl(&["get", object, "-o", "json"]).await).unwrap();
            for key in ["managedFields", "uid", "resourceVersion", "creationTimestamp", "namespace"] {
                value["metadata"].as_object_mut().unwrap().remove(key);
            }
            value.as_object_mut().unwrap().remove("status");
            both.push(value);
        }
        assert_eq!(both[0], both[1], "{object}");
    }
    assert_eq!(ours.kubectl(&["get", "recipe", "soup", "-o", "jsonpath={.spec.salt} {.spec.warm}"]).await, "420 true");
    let again = verbs.apply(&cx, &manifests, &ApplyOptions::new()).await.unwrap();
    assert!(again.iter().all(|a| a.outcome == Outcome::Unchanged), "{again:?}");
    assert!(verbs.diff(&cx, &manifests).await.unwrap().is_empty());

    // What a diff says: the same lines as kubectl's, and no value of a Secret.
    let changed = MANIFESTS.replace("mode: \"fast\"", "mode: \"slow\"").replace("hunter2", "hunter3");
    let changed = changed.replace("web:v1", "web:v2");
    let difference = verbs.diff(&cx, &Manifests::read(&changed, "all.yaml").unwrap()).await.unwrap();
    let text: String = difference.iter().map(|d| d.text.as_str()).collect();
    let (_, kubectls, _) = kubectl(&theirs, &["diff", "--server-side", "--force-conflicts", "-f", "-"], &changed).await;
    let lines = |text: &str| {
        let changes =
            text.lines().filter(|l| l.starts_with(['+', '-']) && !l.starts_with("+++") && !l.starts_with("---"));
        let plain = |l: &str| l.replace(['\'', '"'], "").split_whitespace().collect::<Vec<_>>().join(" ");
        // kubectl goes by the names of files.
        changes.map(plain).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(lines(&text), lines(&kubectls), "{text}\n{kubectls}");
    assert!(!text.contains("hunter") && !text.contains("aHVudGVy") && text.contains("*** (before)"), "{text}");
    assert!(!difference.iter().any(|d| d.new));

    // Nothing was changed by it, and somebody else's fields are not taken.
    ours.kubectl(&["set", "image", "deployment/web", "web=registry.test/web:v9"]).await;
    let drift =
        verbs.apply(&cx, &Manifests::read(&changed, "all.yaml").unwrap(), &ApplyOptions::new()).await.unwrap_err();
    assert_eq!(drift.kind(), ErrorKind::Drift);
    let told = drift.to_string();
    for part in ["\"kubectl-set\"", "image", "all.yaml:", "document 4", "4 of 5 objects are applied"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let force = ApplyOptions::new().force_conflicts();
    verbs.apply(&cx, &Manifests::read(&changed, "all.yaml").unwrap(), &force).await.unwrap();
    let image = ["get", "deployment", "web", "-o", "jsonpath={..containers[0].image}"];
    assert_eq!(ours.kubectl(&image).await, "registry.test/web:v2");
    rig.kubectl(&["delete", "crd", "recipes.example.moodify.dev"]).await;
}

/// What other projects ship: many kinds, names with colons, YAML as people write it.
const FOREIGN: &str = "\
# A comment before everything
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent}
automountServiceAccountToken: no
--- # roles
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: \"agent:reader\"}
rules: [{apiGroups: [\"\"], resources: [pods, pods/log], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: \"agent:reader\"}
subjects: [{kind: ServiceAccount, name: agent}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, labels: &labels {app.kubernetes.io/name: db}}
spec:
  serviceName: db
  replicas: 0
  selector: {matchLabels: *labels}
  template:
    metadata: {labels: *labels}
    spec:
      volumes:
      - {name: config, configMap: {name: none, defaultMode: 0440, optional: true}}
      containers:
      - name: db
        image: registry.test/db:v1
        resources: {limits: {memory: 1Gi, cpu: 0.5}, requests: {cpu: 100m}}
        args:
        - --long
        - >-
          folded
          text
        livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1e1}
        volumeMounts: [{name: config, mountPath: /etc/db}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: \"0 3 * * *\"
  suspend: on
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: \"registry.test/a:v1\"}]}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {example.test/timeout: \"60\"}}
spec: {rules: [{host: web.example.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {maxUnavailable: 25%, selector: {matchLabels: {app.kubernetes.io/name: db}}}
---
{\"apiVersion\": \"autoscaling/v2\", \"kind\": \"HorizontalPodAutoscaler\", \"metadata\": {\"name\": \"web\"}, \"spec\": {
\t\"scaleTargetRef\": {\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"name\": \"web\"}, \"maxReplicas\": 3}}
...
";

#[tokio::test]
async fn manifests_of_others_are_applied_as_they_are() {
    let Some(rig) = Rig::shared().await else { return };
    let (ours, theirs) = (rig.namespace("foreign-a").await, rig.namespace("foreign-b").await);
    let verbs = verbs(&ours).await;
    let cx = cx();
    let manifests = Manifests::read(FOREIGN, "release.yaml").unwrap();
    let applied = verbs.apply(&cx, &manifests, &ApplyOptions::new()).await.unwrap();
    let (ok, _, problem) = kubectl(&theirs, &["apply", "--server-side", "-f", "-"], FOREIGN).await;
    assert!(ok, "{problem}");
    assert_eq!(applied.len(), 9);
    for object in applied {
        let object = format!("{}/{}", object.kind, object.name);
        let mut both = Vec::new();
        for namespace in [&ours, &theirs] {
            let text = namespace.kubectl(&["get", &object, "-o", "json"]).await;
            let mut value: Value = serde_json::from_str(&text).unwrap();
            for key in ["managedFields", "uid", "resourceVersion", "creationTimestamp", "namespace"] {
                value["metadata"].as_object_mut().unwrap().remove(key);
            }
            value.as_object_mut().unwrap().remove("status");
            both.push(value);
        }
        assert_eq!(both[0], both[1], "{object}");
    }
    // The definitions of the Gateway API, which are long and nest far, are there already just as they are written.
    let crds = Manifests::load(rig.state().bin.parent().unwrap().join("crds")).unwrap();
    assert!(crds.objects().len() >= 3);
    let difference = verbs.diff(&cx, &crds).await.unwrap();
    assert!(difference.is_empty(), "{}", difference[0].text);
}

#[tokio::test]
async fn a_set_deletes_what_left_it_and_nothing_else() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("prune").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    let config = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n---\n");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None}\n---\n";
    let volume = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: v}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
                  resources: {requests: {storage: 1Gi}}\n";
    let set = ApplyOptions::new().prune("shop-set");
    let all = [config("a").as_str(), &config("b"), service, volume].concat();
    verbs.apply(&cx, &Manifests::read(&all, "x").unwrap(), &set).await.unwrap();
    // A copy has the label, and was never applied by us; a stranger has not even that.
    let label = namespace
        .kubectl(&["get", "cm", "a", "-o", r"jsonpath={.metadata.labels.applyset\.kubernetes\.io/part-of}"])
        .await;
    namespace.kubectl(&["create", "configmap", "copy"]).await;
    namespace.kubectl(&["label", "configmap", "copy", &format!("applyset.kubernetes.io/part-of={label}")]).await;
    namespace.kubectl(&["create", "configmap", "stranger"]).await;
    let applied = verbs.apply(&cx, &Manifests::read(&config("a"), "x").unwrap(), &set).await.unwrap();
    let of =
        |outcome: Outcome| applied.iter().filter(|a| a.outcome == outcome).map(|a| a.name.as_str()).collect::<Vec<_>>();
    assert_eq!((of(Outcome::Pruned), of(Outcome::Left)), (vec!["b", "s"], vec!["copy", "v"]));
    let left = namespace.kubectl(&["get", "configmaps,services,pvc", "-o", "name"]).await;
    for name in ["configmap/a", "configmap/copy", "configmap/stranger", "persistentvolumeclaim/v", "configmap/shop-set"]
    {
        assert!(left.contains(name), "{name} in {left}");
    }
    assert!(!left.contains("configmap/b") && !left.contains("service/s"), "{left}");

    // kubectl sees whose set it is, and leaves it alone; were it its own, it would know it by the same id.
    let of_kubectl = async || {
        let mut command = tokio::process::Command::new(rig.state().bin.join("kubectl"));
        command.env("KUBECTL_APPLYSET", "true").arg("--kubeconfig").arg(rig.kubeconfig_for("admin"));
        command.args(["--namespace", namespace.name(), "apply", "--server-side", "--prune"]);
        command.args(["--applyset=configmap/shop-set", "-f", "-"]).kill_on_drop(true);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, namespace: {}}}\n", namespace.name());
        tokio::io::AsyncWriteExt::write_all(child.stdin.as_mut().unwrap(), text.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (ok, refused) = of_kubectl().await;
    assert!(!ok && refused.contains("tooling"), "{refused}");
    let tooling = "applyset.kubernetes.io/tooling=kubectl/v1.37.2";
    namespace.kubectl(&["annotate", "--overwrite", "configmap", "shop-set", tooling]).await;
    let (ok, problem) = of_kubectl().await;
    assert!(ok, "{problem}");
    let taken = verbs.apply(&cx, &Manifests::read(&config("a"), "x").unwrap(), &set).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert!(taken.message().contains("an apply set of kubectl"), "{taken}");
    // Neither is a set of somebody else ours.
    namespace.kubectl(&["create", "configmap", "other-set"]).await;
    let other =
        verbs.apply(&cx, &Manifests::read(&config("a"), "x").unwrap(), &ApplyOptions::new().prune("other-set")).await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn refusals_say_what_on_what_why_and_what_next() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("refused").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    let apply = async |text: &str| {
        verbs.apply(&cx, &Manifests::read(text, "bad.yaml").unwrap(), &ApplyOptions::new()).await.unwrap_err()
    };
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fine}\n---\n";
    let error =
        apply(&format!("{config}apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndatta: {{x: y}}\n")).await;
    let told = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["datta", "bad.yaml:4, document 2", "1 of 2 objects are applied"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let error = apply("apiVersion: example.com/v7\nkind: Nothing\nmetadata: {name: a}\n").await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no kind Nothing in example.com/v7"), "{error}");
    let error = apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere-at-all}\n").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("there is no such namespace"), "{error}");
    let error = apply("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999}]}\n").await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("mend spec.ports[0].port"), "{error}");

    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"configmaps": "1"}}});
    namespace.apply(&quota.to_string()).await;
    let mut error = None;
    // The quota counts what is there a little later.
    for n in 0..100 {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{n}}}\n");
        match verbs.apply(&cx, &Manifests::read(&text, "q.yaml").unwrap(), &ApplyOptions::new()).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let error = error.expect("the quota holds");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(
        error.to_string().contains("exceeded quota: few") && error.to_string().contains("raise the ResourceQuota"),
        "{error}"
    );

    let alice = verbs_as(&namespace, "alice").await;
    let error = alice.rollout_restart(&cx, &Workload::deployment("web")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    assert!(error.to_string().contains("User \"alice\" cannot get resource \"deployments\""), "{error}");
    let policy = json!([
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": namespace.name()},
            "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}]},
                "validations": [{"expression": "false", "message": "not on a Friday"}]}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": namespace.name()},
            "spec": {"policyName": namespace.name(), "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name()}}}}},
    ]);
    namespace.deploy("web", "registry.test/web:v1", 1).await;
    for object in policy.as_array().unwrap() {
        namespace.apply(&object.to_string()).await;
    }
    let mut error = None;
    for n in 0..200 {
        let image = format!("registry.test/web:v{n}");
        match verbs.set_image(&cx, &Workload::deployment("web"), &[("web", &image)]).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        rig.kubectl(&["delete", kind, namespace.name()]).await;
    }
    let error = error.expect("the policy holds");
    assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Forbidden, Effect::None));
    assert!(error.to_string().contains("denied it: not on a Friday"), "{error}");
    assert!(error.to_string().contains("/web"), "{error}");
}

#[tokio::test]
async fn logs_are_kubectls_and_in_the_order_of_time() {
    let Some(rig) = Rig::shared().await else { return };
    if !rig.has_logs() {
        return;
    }
    let namespace = rig.namespace("logs").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    let mut web = deployment("web", "registry.test/web:v1-err50", 2);
    namespace.place(&mut web["spec"]["template"]);
    web["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "side", "image": "registry.test/side:v1"}));
    namespace.apply(&web.to_string()).await;
    namespace.deploy("crashing", "registry.test/backend:v1-crash1s", 1).await;
    namespace.wait_ready("web").await;
    let pod = verbs.pods(&cx, &Select::all().labels("app=web")).await.unwrap()[0].name.clone();
    let read = async |source: &LogSource, options: &LogOptions| -> Vec<LogLine> {
        verbs.logs(&cx, source, options).await.unwrap().try_collect().await.unwrap()
    };
    let source = LogSource::Pod(pod.clone());
    // The first line is always there; more come while we look.
    let ours = read(&source, &LogOptions::new()).await;
    let theirs = namespace.kubectl(&["logs", &pod]).await;
    let lines: Vec<&str> = theirs.lines().collect();
    assert!(ours.len() <= lines.len() && ours.iter().zip(&lines).all(|(a, b)| a.text == *b), "{ours:?}\n{theirs}");
    assert!(ours[0].text.starts_with("INFO registry.test/web") && ours[0].container == "web");
    assert_eq!(read(&source, &LogOptions::new().tail(1)).await.len(), 1);
    assert!(read(&source, &LogOptions::new().tail(0)).await.is_empty());
    let all = read(&source, &LogOptions::new().tail(1).containers(LogContainers::All)).await;
    assert_eq!(all.iter().map(|l| l.container.as_str()).collect::<Vec<_>>(), ["side", "web"]);
    let wrong =
        verbs.logs(&cx, &source, &LogOptions::new().containers(LogContainers::Named("no".into()))).await.err().unwrap();
    assert!(wrong.message().contains("there are: web, side"), "{wrong}");
    let later = moodify_tests::wall_clock() + Duration::from_secs(3600);
    assert!(read(&source, &LogOptions::new().since_time(later)).await.is_empty());
    assert!(!read(&source, &LogOptions::new().since(Duration::from_secs(3600))).await.is_empty());

    // Two pods at once, followed: in the order of time, and new lines come.
    let both = LogSource::Workload(Workload::deployment("web"));
    let stream = verbs.logs(&cx, &both, &LogOptions::new().tail(5).follow()).await.unwrap();
    let lines: Vec<LogLine> = stream.take(60).try_collect().await.unwrap();
    assert!(lines.windows(2).all(|w| w[0].at <= w[1].at), "{lines:#?}");
    assert_eq!(lines.iter().map(|l| &l.pod).collect::<std::collections::BTreeSet<_>>().len(), 2);

    // A log that is followed ends with its container; the run before is there afterwards.
    namespace.wait_for::<Deployment>("crashing", |d| d.status.as_ref().is_some_and(|s| s.replicas == Some(1))).await;
    let crashing = verbs.pods(&cx, &Select::all().labels("app=crashing")).await.unwrap()[0].name.clone();
    namespace
        .wait_for::<Pod>(&crashing, |pod| {
            let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
            statuses.is_some_and(|s| s[0].restart_count >= 1 && s[0].state.as_ref().unwrap().waiting.is_some())
        })
        .await;
    let source = LogSource::Pod(crashing.clone());
    let previous = read(&source, &LogOptions::new().previous()).await;
    assert_eq!(previous.last().unwrap().text, "FATAL crashed as its image says");
    let followed: Vec<LogLine> =
        tokio::time::timeout(Duration::from_secs(40), read(&source, &LogOptions::new().follow())).await.unwrap();
    assert_eq!(followed.last().unwrap().text, "FATAL crashed as its image says");
    let none = verbs.logs(&cx, &LogSource::Pod(pod.clone()), &LogOptions::new().previous()).await.err().unwrap();
    assert_eq!(none.kind(), ErrorKind::Invalid);
    assert!(none.message().contains("previous terminated container"), "{none}");
    assert_eq!(
        verbs.logs(&cx, &LogSource::Pod("nobody".into()), &LogOptions::new()).await.err().unwrap().kind(),
        ErrorKind::NotFound
    );

    let text = verbs.describe_pod(&cx, &crashing).await.unwrap();
    assert!(text.containers[0].last_state.as_ref().unwrap().contains("exit code 1 (Error)"), "{text}");
    assert!(text.events.iter().any(|e| e.reason == "BackOff"), "{text}");
    assert!(text.to_string().contains("Last state: terminated: exit code 1"), "{text}");
    let workload = verbs.describe_workload(&cx, &Workload::deployment("crashing")).await.unwrap();
    assert!(workload.conditions.iter().any(|c| c.kind == "Available" && c.status == "False"), "{workload}");
    assert!(
        workload.events.iter().any(|e| e.reason == "ScalingReplicaSet")
            && workload.events.iter().any(|e| e.reason == "BackOff")
    );
    let why = workload.pods[0].1.clone().unwrap_or_default();
    assert!(why.contains("exit code 1") || workload.pods[0].0.status == "Running", "{workload}");
}

#[tokio::test]
async fn pods_go_as_their_budgets_allow_and_events_are_kubectls() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("evict").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    namespace.deploy("web", "registry.test/web:v1", 2).await;
    namespace.wait_ready("web").await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all-of-web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    namespace.apply(&budget.to_string()).await;
    namespace
        .wait_for::<k8s_openapi::api::policy::v1::PodDisruptionBudget>("all-of-web", |b| {
            b.status
                .as_ref()
                .is_some_and(|s| s.current_healthy == Some(2) && s.observed_generation == b.metadata.generation)
        })
        .await;
    let pods = async || {
        let rows = verbs.pods(&cx, &Select::all()).await.unwrap();
        rows.into_iter().map(|p| p.name).collect::<Vec<_>>()
    };
    let before = pods().await;
    let refused = verbs.delete_pod(&cx, &before[0]).await.unwrap_err();
    assert_eq!((refused.kind(), refused.effect_of()), (ErrorKind::Refused, Effect::None));
    assert!(refused.message().contains("all-of-web needs 2 healthy pods and has 2"), "{refused}");
    assert!(pods().await.contains(&before[0]));
    namespace.kubectl(&["patch", "pdb", "all-of-web", "--type=merge", "-p", r#"{"spec":{"minAvailable":1}}"#]).await;
    namespace
        .wait_for::<k8s_openapi::api::policy::v1::PodDisruptionBudget>("all-of-web", |b| {
            b.status.as_ref().is_some_and(|s| s.disruptions_allowed == Some(1))
        })
        .await;
    let mut watch = verbs.watch_events(&cx, &Select::all().fields(format!("involvedObject.name={}", before[0])));
    verbs.delete_pod(&cx, &before[0]).await.unwrap();
    assert!(!pods().await.contains(&before[0]), "gone when it says so");
    assert_eq!(verbs.delete_pod(&cx, &before[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
    while watch.next().await.unwrap().unwrap().reason != "Killing" {}

    let events = async || verbs.events(&cx, &Select::all()).await.unwrap();
    let mut last = String::new();
    for _ in 0..20 {
        let ours = table(&events().await, &Look::plain());
        let theirs = namespace.kubectl(&["events"]).await;
        // Those of one second have no order.
        let sorted = |text: &str| {
            let mut lines: Vec<String> =
                trimmed(text).iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            lines.sort();
            lines
        };
        if sorted(&ours) == sorted(&theirs) {
            return;
        }
        last = format!("ours:\n{ours}kubectl's:\n{theirs}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("the events are never kubectl's:\n{last}");
}

#[tokio::test]
async fn commands_run_in_pods_as_with_kubectl() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("exec").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    namespace.deploy("web", "registry.test/web:v1", 1).await;
    namespace.wait_ready("web").await;
    let pod = verbs.pods(&cx, &Select::all()).await.unwrap()[0].name.clone();
    let script = "echo out; echo err >&2; echo \"$HOSTNAME\"; exit 3";
    let ours = verbs.exec(&cx, &pod, &ExecRequest::new(["sh", "-c", script])).await.unwrap();
    let (_, stdout, stderr) = kubectl(&namespace, &["exec", &pod, "--", "sh", "-c", script], "").await;
    assert_eq!((ours.code, ours.text(), ours.error_text()), (3, stdout, "err\n".to_owned()));
    assert!(stderr.contains("exit code 3") && stderr.starts_with("err\n"), "{stderr}");
    assert_eq!(ours.text(), format!("out\n{pod}\n"));

    // No shell: an argument is an argument.
    let plain = ExecRequest::new(["printf", "%s|", "a b", "$HOME", "*"]);
    assert_eq!(verbs.exec_in(&cx, &Workload::deployment("web"), &plain).await.unwrap().text(), "a b|$HOME|*|");
    let big = "x".repeat(300_000);
    let cat = verbs.exec(&cx, &pod, &ExecRequest::new(["cat"]).stdin(big.clone())).await.unwrap();
    assert!(cat.code == 0 && cat.text() == big && !cat.cut);
    let cut = verbs.exec(&cx, &pod, &ExecRequest::new(["cat"]).stdin(big).keep(10)).await.unwrap();
    assert!(cut.cut && cut.text() == "xxxxxxxxxx");
    // More than any buffer on the way holds, in both directions at once.
    let much = "0123456789abcdef".repeat(2 << 20);
    let echoed = verbs.exec(&cx, &pod, &ExecRequest::new(["cat"]).stdin(much.clone()).keep(64 << 20)).await.unwrap();
    assert!(echoed.stdout == much.as_bytes());
    let late = ExecRequest::new(["sleep", "60"]).timeout(Duration::from_millis(500));
    let late = verbs.exec(&cx, &pod, &late).await.unwrap_err();
    assert_eq!((late.kind(), late.effect_of()), (ErrorKind::Timeout, Effect::Unknown));
    let none = verbs.exec(&cx, &pod, &ExecRequest::new(["no-such-program"])).await.unwrap_err();
    assert!(none.message().contains("no-such-program"), "{none}");
    let nobody = verbs.exec(&cx, "nobody", &ExecRequest::new(["true"])).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    let alice = verbs_as(&namespace, "alice").await.exec(&cx, &pod, &ExecRequest::new(["true"])).await.unwrap_err();
    assert_eq!(alice.kind(), ErrorKind::Forbidden);

    // Temporary pods: their end, their log, and that nothing is left whatever happens.
    let request = |script: &str| RunRequest::new("debug", "registry.test/debug:v1").args(["sh", "-c", script]);
    let done = verbs.run(&cx, &request("echo said; echo too >&2; exit 4").env("A", "b")).await.unwrap();
    assert_eq!(done.code, 4);
    assert!(done.log.contains("said\n") && done.log.contains("too\n"), "{}", done.log);
    let late = verbs.run(&cx.at_most(Duration::from_secs(3)), &request("echo begun; sleep 60")).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let pulled = RunRequest::new("debug", "registry.test/debug:v1-missing");
    let unpulled = verbs.run(&cx, &pulled).await.unwrap_err();
    assert_eq!(unpulled.kind(), ErrorKind::Unhealthy);
    assert!(unpulled.message().contains("not found"), "{unpulled}");
    let dropped = tokio::time::timeout(Duration::from_secs(2), verbs.run(&cx, &request("sleep 60"))).await;
    assert!(dropped.is_err());
    let token = tokio_util::sync::CancellationToken::new();
    let cancelled = cx.clone().with_cancel(token.clone());
    let script = request("sleep 60");
    let (cancelled, ()) = tokio::join!(verbs.run(&cancelled, &script), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        token.cancel();
    });
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    for _ in 0..200 {
        if verbs.pods(&cx, &Select::all().labels("run=debug")).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("temporary pods are left: {:?}", verbs.pods(&cx, &Select::all()).await.unwrap());
}

#[tokio::test]
async fn use_is_kubectls_and_the_greatest_first() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("top").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    for (name, usage) in [("a", "100m,300Mi"), ("b", "1500m,100Mi"), ("c", "250m,2Gi")] {
        let mut web = deployment(name, "registry.test/web:v1", 1);
        web["spec"]["template"]["metadata"]["annotations"] = json!({"rig.moodify.dev/usage": usage});
        namespace.apply(&web.to_string()).await;
    }
    for name in ["a", "b", "c"] {
        namespace.wait_ready(name).await;
    }
    for (sort, argument, order) in [
        (SortBy::Name, "", ["a", "b", "c"]),
        (SortBy::Cpu, "--sort-by=cpu", ["b", "c", "a"]),
        (SortBy::Memory, "--sort-by=memory", ["c", "a", "b"]),
    ] {
        let ours = verbs.top_pods(&cx, &Select::all(), sort).await.unwrap();
        assert!(ours.iter().zip(order).all(|(pod, name)| pod.name.starts_with(&format!("{name}-"))), "{ours:?}");
        let arguments: Vec<&str> = ["top", "pods", argument].into_iter().filter(|a| !a.is_empty()).collect();
        assert_eq!(trimmed(&table(&ours, &Look::plain())), trimmed(&namespace.kubectl(&arguments).await));
    }
    let chosen = verbs.top_pods(&cx, &Select::all().labels("app=b"), SortBy::Name).await.unwrap();
    assert_eq!((chosen.len(), chosen[0].cpu, chosen[0].memory), (1, 1500, 100 << 20));
    let nodes = verbs.top_nodes(&cx, SortBy::Cpu).await.unwrap();
    let theirs = rig.kubectl(&["top", "nodes"]).await;
    let words =
        |text: &str| trimmed(text).iter().map(|l| l.split_whitespace().next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(words(&table(&nodes, &Look::plain())), words(&theirs));
    assert!(nodes[0].memory.unwrap() > 1 << 20 && nodes[0].allocatable_cpu == 1_000_000, "{nodes:?}");
}

/// The table of the module's documentation, with `ConfigMap`s for what is applied.
fn least(namespace: &str) -> Value {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let workloads = ["deployments", "statefulsets", "daemonsets"];
    let look = [&workloads[..], &["replicasets", "controllerrevisions", "pods", "services", "events"]].concat();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "verbs", "namespace": namespace},
        "rules": [
            rule(&["", "apps"], &look, &["get", "list", "watch"]),
            rule(&[""], &["pods/log"], &["get"]),
            rule(&["metrics.k8s.io"], &["pods"], &["list"]),
            rule(&["", "apps"], &[&workloads[..], &["services"]].concat(), &["patch"]),
            rule(&["autoscaling"], &["horizontalpodautoscalers"], &["list"]),
            rule(&[""], &["pods/eviction"], &["create"]),
            rule(&[""], &["pods/exec"], &["get", "create"]),
            rule(&[""], &["pods"], &["create", "delete"]),
            rule(&[""], &["configmaps"], &["get", "create", "patch", "list", "delete"]),
        ],
    })
}

#[tokio::test]
async fn the_least_role_is_enough_for_all_verbs() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("least").await;
    namespace.deploy("web", "registry.test/web:v1", 2).await;
    namespace.wait_ready("web").await;
    namespace.apply(&least(namespace.name()).to_string()).await;
    namespace.kubectl(&["create", "rolebinding", "verbs", "--role=verbs", "--user=alice"]).await;
    let verbs = verbs_as(&namespace, "alice").await;
    let (cx, web, all) = (cx(), Workload::deployment("web"), Select::all());
    // RBAC follows its objects a little later.
    while let Err(e) = verbs.deployments(&cx, &all).await {
        assert_eq!(e.kind(), ErrorKind::Forbidden, "{e}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let settled = async || verbs.rollout_status(&cx, &web, &|_| ()).await.unwrap();
    let pods = verbs.pods(&cx, &all).await.unwrap();
    verbs.services(&cx, &all).await.unwrap();
    verbs.watch_pods(&cx, &all).next().await.unwrap().unwrap();
    verbs.events(&cx, &all).await.unwrap();
    verbs.describe_pod(&cx, &pods[0].name).await.unwrap();
    verbs.describe_workload(&cx, &web).await.unwrap();
    verbs.top_pods(&cx, &all, SortBy::Cpu).await.unwrap();
    let logs = verbs.logs(&cx, &LogSource::Workload(web.clone()), &LogOptions::new().tail(1)).await.unwrap();
    logs.try_collect::<Vec<LogLine>>().await.unwrap();
    assert_eq!(verbs.exec_in(&cx, &web, &ExecRequest::new(["true"])).await.unwrap().code, 0);
    verbs.set_image(&cx, &web, &[("web", "registry.test/web:v2")]).await.unwrap();
    settled().await;
    verbs.rollout_undo(&cx, &web, None).await.unwrap();
    settled().await;
    assert_eq!(verbs.rollout_history(&cx, &web).await.unwrap().len(), 2);
    verbs.rollout_restart(&cx, &web).await.unwrap();
    settled().await;
    verbs.patch_selector(&cx, "web", &[("app", "web"), ("version", "v1")]).await.unwrap();
    let counts = verbs.remember(&cx, &[moodify_k8s::verbs::WorkloadKind::Deployment], &all).await.unwrap();
    verbs.scale_to_zero(&cx, &counts).await.unwrap();
    verbs.bring_back(&cx, &counts).await.unwrap();
    settled().await;
    let pod = verbs.pods(&cx, &all.clone().labels("app=web")).await.unwrap().remove(0).name;
    verbs.delete_pod(&cx, &pod).await.unwrap();
    let run = RunRequest::new("debug", "registry.test/debug:v1").args(["echo", "here"]);
    assert_eq!(verbs.run(&cx, &run).await.unwrap().log, "here\n");
    let set = ApplyOptions::new().prune("set");
    for name in ["a", "b"] {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        let applied = verbs.apply(&cx, &Manifests::read(&text, "x").unwrap(), &set).await.unwrap();
        assert_eq!(applied.len(), if name == "a" { 1 } else { 2 }, "{applied:?}");
    }
}
