//! The configuration of a namespace, backed up to a directory and restored: by the contract, by steps of a run with no
//! more rights than the plan needs, and by kubectl itself.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::action::{BackedUpConfiguration, kinds};
use moodify_core::artifacts::ArtifactDirectory;
use moodify_core::backend::{ConfigurationBackup, ConfigurationFiles, ExportRequest};
use moodify_core::engine::Ending;
use moodify_core::journal::{JournalStore, MemoryJournal, Outcome, StepStatus};
use moodify_core::model::Plan;
use moodify_core::testing::conformance::{self, FilesHarness};
use moodify_core::{CallContext, Engine};
use moodify_k8s::{Kube, KubeConfig, roles_for};
use moodify_tests::require;
use moodify_tests::rig::{Namespace, Rig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(120);
const DEPLOYER: &str = "dave";
const STORE: &str = "archive";
/// What is backed up, as kubectl names it.
const ALL: &str = "deployments,statefulsets,daemonsets,cronjobs,services,configmaps,horizontalpodautoscalers,\
                   poddisruptionbudgets,ingresses,httproutes,virtualservices,ingressroutes.traefik.io";

fn cx() -> CallContext {
    CallContext::by_hand("backup", PATIENCE)
}

/// The value of the Secret.
const VALUE: &str = "hunter2-hunter2";

/// A pair of keys as people make it.
struct Keys {
    dir: TempDir,
    public: String,
}

impl Keys {
    fn new() -> Option<Self> {
        let (keygen, dir) = (require("age-keygen")?, tempfile::tempdir().unwrap());
        let said = |arguments: &[&str], file: &Path| {
            let output = Command::new(&keygen).args(arguments).arg(file).output().unwrap();
            assert!(output.status.success(), "age-keygen: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let file = dir.path().join("key");
        said(&["-o"], &file);
        let public = said(&["-y"], &file);
        Some(Self { dir, public })
    }

    fn private(&self) -> PathBuf {
        self.dir.path().join("key")
    }
}

async fn kube(namespace: &Namespace, user: &str, keys: &Keys) -> Kube {
    let config = KubeConfig::new().kubeconfig(namespace.kubeconfig(user)).age_identity(keys.private());
    Kube::connect(&config).await.unwrap()
}

/// One object of each kind that people configure, and some that they do not.
async fn configure(namespace: &Namespace) {
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    namespace.wait_ready("backend").await;
    let pod = |name: &str| {
        let mut template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main",
            "image": "registry.test/backend:v1", "envFrom": [{"secretRef": {"name": "app-secrets", "optional": true}}]}]}});
        namespace.place(&mut template);
        template
    };
    let of = |name: &str| json!({"matchLabels": {"app": name}});
    let mut job = pod("nightly");
    job["spec"]["restartPolicy"] = json!("Never");
    let rule = json!({"host": "shop.test", "http": {"paths": [{"path": "/", "pathType": "Prefix",
        "backend": {"service": {"name": "backend", "port": {"number": 80}}}}]}});
    for (api, kind, name, spec) in [
        (
            "apps/v1",
            "StatefulSet",
            "store",
            json!({"serviceName": "store", "selector": of("store"), "replicas": 0,
            "template": pod("store"), "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec":
                {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}),
        ),
        ("apps/v1", "DaemonSet", "agent", json!({"selector": of("agent"), "template": pod("agent")})),
        (
            "batch/v1",
            "CronJob",
            "nightly",
            json!({"schedule": "0 3 1 1 *", "jobTemplate": {"spec": {"template": job}}}),
        ),
        ("v1", "Service", "store", json!({"clusterIP": "None", "selector": {"app": "store"}, "ports": [{"port": 80}]})),
        (
            "v1",
            "Service",
            "public",
            json!({"type": "NodePort", "selector": {"app": "backend"}, "ports": [{"port": 80}]}),
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "backend",
            json!({"minReplicas": 2, "maxReplicas": 2,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "backend"}}),
        ),
        ("policy/v1", "PodDisruptionBudget", "backend", json!({"maxUnavailable": 1, "selector": of("backend")})),
        (
            "networking.k8s.io/v1",
            "Ingress",
            "shop",
            json!({"rules": [rule], "tls": [{"hosts": ["shop.test"], "secretName": "shop-tls"}]}),
        ),
        (
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "backend",
            json!({"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": [{"name": "backend", "port": 80}]}]}),
        ),
        (
            "networking.istio.io/v1",
            "VirtualService",
            "backend",
            json!({"hosts": ["backend"], "http": [{"route": [{"destination": {"host": "backend"}}]}]}),
        ),
    ] {
        let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
        namespace.apply(&object.to_string()).await;
    }
    let data = json!({"answer": "yes", "mode": "0644", "script": "a: b\n---\nc\n"});
    for object in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app-secrets"}, "stringData": {"k": VALUE}}),
    ] {
        namespace.apply(&object.to_string()).await;
    }
}

/// Deletes all that is backed up.
async fn lose(namespace: &Namespace) {
    namespace.kubectl(&["delete", "--all", "--wait", &format!("{ALL},secrets")]).await;
}

struct Harness {
    full: Namespace,
    empty: Namespace,
    files: Arc<dyn ConfigurationFiles>,
    keys: Keys,
}

#[async_trait]
impl FilesHarness for Harness {
    fn files(&self) -> Arc<dyn ConfigurationFiles> {
        self.files.clone()
    }

    fn namespaces(&self) -> (String, String) {
        (self.full.name().to_owned(), self.empty.name().to_owned())
    }

    fn key_and_value(&self) -> (String, String) {
        (self.keys.public.clone(), VALUE.to_owned())
    }

    async fn lose(&self) {
        lose(&self.full).await;
    }

    async fn edit(&self) {
        let patch = json!({"data": {"answer": "no"}}).to_string();
        self.full.kubectl(&["patch", "configmap", "settings", "--patch", &patch]).await;
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (Some(rig), Some(keys)) = (Rig::shared().await, Keys::new()) else { return };
    let (full, empty) = (rig.namespace("saved").await, rig.namespace("copied").await);
    configure(&full).await;
    let files = kube(&full, "admin", &keys).await.configuration_files();
    let exported = files.export(&cx(), &ExportRequest::of_namespace(full.name())).await.unwrap();
    let names: Vec<&str> = exported.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    assert_eq!(exported.secrets, ["app-secrets", "shop-tls"]);
    let text: String = exported.files.iter().map(|file| file.text.as_str()).collect();
    for never in [VALUE, "uid", "resourceVersion", "managedFields", "nodePort", "status:", "10.96.", "kube-root-ca"] {
        assert!(!text.contains(never), "{never} in\n{text}");
    }
    conformance::configuration_files(&Harness { full, empty, files, keys }).await;
}

fn plan(namespace: &Namespace, action: &str, with: &Value) -> Plan {
    let file = json!({
        "name": "configuration",
        "environment": {"name": "production", "kind": "production", "namespace": namespace.name()},
        "release": {"version": "v1", "services": []},
        "phases": [{"name": "all", "steps": [{"name": "configuration", "action": action, "with": with}]}],
    });
    // Not by a plan file: what it needs is what the step needs, and no release beside it.
    serde_json::from_value(file).unwrap()
}

/// Allows what the plan needs, and nothing else.
async fn grant(namespace: &Namespace, plan: &Plan, verb: &str) {
    let api = "rbac.authorization.k8s.io";
    for role in roles_for(plan, None) {
        let binding = json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": role["metadata"],
            "roleRef": {"apiGroup": api, "kind": "Role", "name": role["metadata"]["name"]},
            "subjects": [{"kind": "User", "apiGroup": api, "name": DEPLOYER}]});
        namespace.apply(&role.to_string()).await;
        namespace.apply(&binding.to_string()).await;
    }
    // The API server learns of it a moment later.
    let ask = ["auth", "can-i", verb, "ingressroutes.traefik.io", "--as", DEPLOYER, "--namespace", namespace.name()];
    let begun = Instant::now();
    while !namespace.rig().try_kubectl("admin", &ask, "").await.status.success() {
        assert!(begun.elapsed() < PATIENCE, "{DEPLOYER} may not {verb} what the plan needs");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn run(namespace: &Namespace, plan: &Plan, store: &ArtifactDirectory, keys: &Keys) -> Value {
    let mut backends = kube(namespace, DEPLOYER, keys).await.backends();
    backends.artifact_stores.insert(STORE.to_owned(), Arc::new(store.clone()));
    let journal: Arc<dyn JournalStore> = Arc::new(MemoryJournal::new());
    let engine = Engine::new(journal, backends);
    let (run, ending) = engine.run(plan, "test").await.unwrap();
    assert!(matches!(ending, Ending::Ended(Outcome::Completed, _)), "{ending:?}");
    match engine.state(&run).await.unwrap().status("configuration") {
        StepStatus::Finished(output) => output.read().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn runs_back_it_up_and_restore_it_and_so_does_kubectl() {
    let (Some(rig), Some(keys), Some(age)) = (Rig::own().await, Keys::new(), require("age")) else { return };
    let namespace = rig.namespace("restored").await;
    configure(&namespace).await;
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactDirectory::open(dir.path()).unwrap();

    let backup =
        plan(&namespace, kinds::BACKUP_CONFIGURATION, &json!({"store": STORE, "encrypt-secrets-to": [keys.public]}));
    grant(&namespace, &backup, "list").await;
    let made: BackedUpConfiguration = serde_json::from_value(run(&namespace, &backup, &store, &keys).await).unwrap();
    let (kept, files) = ConfigurationBackup::read(&store, &cx(), &made.path).await.unwrap();
    assert_eq!((kept.objects(), files.len()), (14, 12), "{kept:?}");
    assert_eq!(made.secrets, ["shop-tls"], "it is named, and not there");
    let place = dir.path().join(&made.path);
    let file = |name: &str| place.join(name).display().to_string();

    lose(&namespace).await;
    let restore =
        plan(&namespace, kinds::RESTORE_CONFIGURATION, &json!({"store": STORE, "path": made.path, "secrets": true}));
    grant(&namespace, &restore, "create").await;
    let done = run(&namespace, &restore, &store, &keys).await;
    assert_eq!(done, json!({"created": 14, "configured": 0, "unchanged": 0}));
    namespace.wait_ready("backend").await;
    for name in files.iter().filter(|file| !file.sealed).map(|file| &file.name) {
        // It fails where there is a difference.
        assert_eq!(
            namespace.kubectl(&["diff", "--server-side", "--force-conflicts", "--filename", &file(name)]).await,
            "",
            "{name}"
        );
    }
    let done = run(&namespace, &restore, &store, &keys).await;
    assert_eq!(done, json!({"created": 0, "configured": 0, "unchanged": 14}));
    let value = async |namespace: &Namespace| {
        namespace.kubectl(&["get", "secret", "app-secrets", "--template", "{{.data.k | base64decode}}"]).await
    };
    assert_eq!(value(&namespace).await, VALUE);

    // The files are all that a person with kubectl and age needs, in another namespace too.
    let other = rig.namespace("by-hand").await;
    let copied = tempfile::tempdir().unwrap();
    for one in &files {
        let path = copied.path().join(&one.name);
        std::fs::write(&path, &one.text).unwrap();
        if one.sealed {
            let mut opening = Command::new(&age);
            opening.arg("--decrypt").arg("-i").arg(keys.private()).arg("-o").arg(path.with_extension("")).arg(&path);
            let opened = opening.output().unwrap();
            assert!(opened.status.success(), "age: {}", String::from_utf8_lossy(&opened.stderr));
        }
    }
    other.kubectl(&["apply", "--filename", &copied.path().display().to_string()]).await;
    other.wait_ready("backend").await;
    assert_eq!(value(&other).await, VALUE);
    let request = ExportRequest::of_namespace(other.name());
    let there = kube(&other, "admin", &keys).await.configuration_files().export(&cx(), &request).await.unwrap();
    assert_eq!(there.files, files.into_iter().filter(|file| !file.sealed).collect::<Vec<_>>());
}
