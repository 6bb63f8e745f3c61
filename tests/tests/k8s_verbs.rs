//! The verbs beside the real kubectl: one of two twins is driven by us, the other by kubectl, and both come out the
//! same, as do the tables.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use moodify_core::{CallContext, ErrorKind};
use moodify_k8s::verbs::{Change, EnvChange, Look, ResourceChange, Row, Select, Verbs, Workload, WorkloadKind, table};
use moodify_k8s::{Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig, deployment};
use serde_json::{Value, json};

fn cx() -> CallContext {
    CallContext::by_hand("test", Duration::from_secs(90))
}

async fn verbs(namespace: &Namespace) -> Verbs {
    let config = KubeConfig::new().kubeconfig(namespace.kubeconfig("admin"));
    Kube::connect(&config).await.unwrap().verbs(namespace.name())
}

/// What the two twins have that need not be the same.
fn plain(mut object: Value) -> Value {
    for key in
        ["managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink", "ownerReferences"]
    {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    object.as_object_mut().unwrap().remove("status");
    let annotations = "/spec/template/metadata/annotations";
    if let Some(at) = object.pointer_mut(&format!("{annotations}/kubectl.kubernetes.io~1restartedAt")) {
        at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        *at = json!("then");
    }
    let text = object.to_string().replace("their", "our");
    serde_json::from_str(&text).unwrap()
}

async fn read(namespace: &Namespace, object: &str) -> Value {
    serde_json::from_str(&namespace.kubectl(&["get", object, "-o", "json"]).await).unwrap()
}

/// Both twins are the same: `ours` and `theirs`.
async fn assert_twins(namespace: &Namespace, kind: &str) {
    let ours = plain(read(namespace, &format!("{kind}/ours")).await);
    let theirs = plain(read(namespace, &format!("{kind}/theirs")).await);
    assert_eq!(ours, theirs);
}

/// Lines without the space at their ends, which kubectl leaves in some tables.
fn trimmed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// A table of ours and one of kubectl's say the same; looked at again, as ages and states go on in between.
async fn assert_same_table<R: Row>(
    namespace: &Namespace,
    look: impl Fn() -> Look,
    arguments: &[&str],
    rows: impl AsyncFn() -> Vec<R>,
) {
    let mut seen = Vec::new();
    for _ in 0..20 {
        let ours = rows().await;
        let theirs = namespace.kubectl(arguments).await;
        let ours = table(&ours, &look());
        if trimmed(&ours) == trimmed(&theirs) {
            return;
        }
        seen.push(format!("ours:\n{ours}kubectl's:\n{theirs}"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("never the same as of kubectl {}:\n{}", arguments.join(" "), seen.last().unwrap());
}

async fn both(namespace: &Namespace, image: &str, replicas: u32) {
    for name in ["ours", "theirs"] {
        let mut twin = deployment(name, image, replicas);
        namespace.place(&mut twin["spec"]["template"]);
        twin["spec"]["template"]["spec"]["initContainers"] = json!([{"name": "setup", "image": "registry.test/setup:v1",
            "env": [{"name": "A", "value": "init"}]}]);
        twin["spec"]["template"]["spec"]["containers"][0]["name"] = json!("web");
        namespace.apply(&twin.to_string()).await;
    }
}

#[tokio::test]
async fn tables_are_kubectls() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("tables").await;
    let verbs = verbs(&namespace).await;
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    namespace.deploy("a-frontend-with-a-longer-name", "registry.test/frontend:v1-neverready", 1).await;
    namespace.deploy("crashing", "registry.test/backend:v1-crash1s", 1).await;
    namespace.deploy("unpulled", "registry.test/backend:v1-missing", 1).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "public"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 443, "nodePort": 30443, "name": "a"},
            {"port": 53, "protocol": "UDP", "name": "b"}], "externalIPs": ["192.0.2.7"]}});
    namespace.apply(&service.to_string()).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "headless"},
        "spec": {"clusterIP": "None", "selector": {"b": "2", "a": "1"}}});
    namespace.apply(&service.to_string()).await;
    namespace.wait_ready("backend").await;
    namespace.wait_for::<Deployment>("crashing", |d| d.status.as_ref().is_some_and(|s| s.replicas == Some(1))).await;

    let all = Select::all();
    let cx = cx();
    let deployments = async || verbs.deployments(&cx, &all).await.unwrap();
    assert_same_table(&namespace, Look::plain, &["get", "deployments"], deployments).await;
    assert_same_table(&namespace, Look::wide, &["get", "deployments", "-o", "wide"], deployments).await;
    let pods = async || verbs.pods(&cx, &all).await.unwrap();
    assert_same_table(&namespace, Look::plain, &["get", "pods"], pods).await;
    assert_same_table(&namespace, Look::wide, &["get", "pods", "-o", "wide"], pods).await;
    let chosen = Select::all().labels("app in (backend,crashing),pod-template-hash");
    let some = async || verbs.pods(&cx, &chosen).await.unwrap();
    assert_same_table(&namespace, Look::plain, &["get", "pods", "-l", "app in (crashing, backend)"], some).await;
    let services = async || verbs.services(&cx, &all).await.unwrap();
    assert_same_table(&namespace, Look::plain, &["get", "services"], services).await;
    assert_same_table(&namespace, Look::wide, &["get", "services", "-o", "wide"], services).await;
    let everywhere = Select::all().all_namespaces().fields(format!("metadata.namespace={}", namespace.name()));
    let pods = async || verbs.pods(&cx, &everywhere).await.unwrap();
    let field = format!("--field-selector=metadata.namespace={}", namespace.name());
    let look = || Look::plain().namespaces();
    assert_same_table(&namespace, look, &["get", "pods", "--all-namespaces", &field], pods).await;
    assert!(verbs.pods(&cx, &Select::all().all_namespaces()).await.unwrap().len() >= 5);

    use futures::StreamExt as _;
    let mut watch = verbs.watch_pods(&cx, &Select::all().labels("app=backend"));
    assert_eq!(watch.next().await.unwrap().unwrap().len(), 2);
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=3"]).await;
    while watch.next().await.unwrap().unwrap().iter().filter(|pod| pod.ready == 1).count() < 3 {}
    // Two of what there are make two pages.
}

#[tokio::test]
async fn what_is_set_is_what_kubectl_sets() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("set").await;
    let verbs = verbs(&namespace).await;
    both(&namespace, "registry.test/web:v1", 1).await;
    assert_twins(&namespace, "deployment").await;
    let (cx, ours) = (cx(), Workload::deployment("ours"));

    let change = verbs.set_image(&cx, &ours, &[("web", "registry.test/web:v2")]).await.unwrap();
    namespace.kubectl(&["set", "image", "deployment/theirs", "web=registry.test/web:v2"]).await;
    assert_twins(&namespace, "deployment").await;
    assert!(change.changed);
    assert_eq!(change.generation, read(&namespace, "deployment/ours").await["metadata"]["generation"]);
    let again = verbs.set_image(&cx, &ours, &[("web", "registry.test/web:v2")]).await.unwrap();
    assert!(!again.changed && again.generation == change.generation);
    verbs.set_image(&cx, &ours, &[("*", "registry.test/web:v3")]).await.unwrap();
    namespace.kubectl(&["set", "image", "deployment/theirs", "*=registry.test/web:v3"]).await;
    assert_twins(&namespace, "deployment").await;
    let error = verbs.set_image(&cx, &ours, &[("web", "a:1"), ("wbe", "a:1")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("\"wbe\"; there are: setup, web"), "{error}");
    assert_twins(&namespace, "deployment").await;

    let env = EnvChange::new().set("FEATURE_FLAG", "false").set("A", "1");
    verbs.set_env(&cx, &ours, &env).await.unwrap();
    namespace.kubectl(&["set", "env", "deployment/theirs", "FEATURE_FLAG=false", "A=1"]).await;
    assert_twins(&namespace, "deployment").await;
    let env = EnvChange::new().set("B", "x=y").remove("A").container("web");
    verbs.set_env(&cx, &ours, &env).await.unwrap();
    namespace.kubectl(&["set", "env", "deployment/theirs", "-c", "web", "B=x=y", "A-"]).await;
    assert_twins(&namespace, "deployment").await;

    let more = ResourceChange::new().limit("memory", "4Gi").limit("cpu", "0.5");
    verbs.set_resources(&cx, &ours, &more).await.unwrap();
    namespace.kubectl(&["set", "resources", "deployment/theirs", "--limits=memory=4Gi,cpu=0.5"]).await;
    assert_twins(&namespace, "deployment").await;
    let more = ResourceChange::new().limit("memory", "5Gi").request("cpu", "100m").container("web");
    verbs.set_resources(&cx, &ours, &more).await.unwrap();
    let arguments =
        ["set", "resources", "deployment/theirs", "-c", "web", "--limits=memory=5Gi", "--requests=cpu=100m"];
    namespace.kubectl(&arguments).await;
    assert_twins(&namespace, "deployment").await;
    let wrong = ResourceChange::new().limit("memory", "1Gi").request("memory", "2Gi");
    let error = verbs.set_resources(&cx, &ours, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("spec.template.spec.containers[0].resources.requests"), "{error}");

    verbs.because("the first reason").set_image(&cx, &ours, &[("web", "registry.test/web:v4")]).await.unwrap();
    namespace.kubectl(&["set", "image", "deployment/theirs", "web=registry.test/web:v4", "--record"]).await;
    let cause = |object: &Value| object["metadata"]["annotations"]["kubernetes.io/change-cause"].clone();
    assert_eq!(cause(&read(&namespace, "deployment/ours").await), "the first reason");
    assert!(cause(&read(&namespace, "deployment/theirs").await).as_str().unwrap().contains("set image"));

    for name in ["ours", "theirs"] {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "None", "selector": {"app": "web"}}});
        namespace.apply(&service.to_string()).await;
    }
    assert!(verbs.patch_selector(&cx, "ours", &[("version", "canary")]).await.unwrap());
    assert!(!verbs.patch_selector(&cx, "ours", &[("version", "canary")]).await.unwrap());
    let patch = r#"{"spec":{"selector":{"version":"canary"}}}"#;
    namespace.kubectl(&["patch", "service", "theirs", "-p", patch]).await;
    let selector = |service: Value| service["spec"]["selector"].clone();
    let (ours, theirs) = (read(&namespace, "service/ours").await, read(&namespace, "service/theirs").await);
    assert_eq!(selector(ours), selector(theirs));
}

#[tokio::test]
async fn rollouts_are_kubectls() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("rollout").await;
    let verbs = verbs(&namespace).await;
    both(&namespace, "registry.test/web:v1", 2).await;
    let (cx, ours) = (cx(), Workload::deployment("ours"));
    let wait = async |name: &str| {
        let done = verbs.rollout_status(&cx, &Workload::deployment(name), &|_| ()).await.unwrap();
        assert_eq!(done.message, format!("deployment {name:?} successfully rolled out"));
        let theirs = namespace.kubectl(&["rollout", "status", "deployment", name]).await;
        assert_eq!(trimmed(&theirs).last().unwrap(), &done.message);
    };
    wait("ours").await;
    wait("theirs").await;

    for version in ["v2", "v3"] {
        let image = format!("registry.test/web:{version}");
        let because = verbs.because(version);
        let change = because.set_image(&cx, &ours, &[("web", &image)]).await.unwrap();
        wait("ours").await;
        let status = verbs.rollout_status(&cx, &ours, &|_| ()).await.unwrap();
        assert!(status.observed && status.generation >= change.generation && status.updated == 2);
        namespace.kubectl(&["set", "image", "deployment/theirs", &format!("web={image}")]).await;
        namespace
            .kubectl(&[
                "annotate",
                "deployment/theirs",
                &format!("kubernetes.io/change-cause={version}"),
                "--overwrite",
            ])
            .await;
        wait("theirs").await;
    }
    assert_twins(&namespace, "deployment").await;
    same_history(&namespace, &verbs).await;

    let undone = verbs.rollout_undo(&cx, &ours, None).await.unwrap();
    assert_eq!((undone.revision, undone.change.changed), (2, true));
    namespace.kubectl(&["rollout", "undo", "deployment/theirs"]).await;
    wait("ours").await;
    wait("theirs").await;
    assert_twins(&namespace, "deployment").await;
    same_history(&namespace, &verbs).await;
    let undone = verbs.rollout_undo(&cx, &ours, Some(1)).await.unwrap();
    assert_eq!(undone.revision, 1);
    namespace.kubectl(&["rollout", "undo", "deployment/theirs", "--to-revision=1"]).await;
    wait("ours").await;
    wait("theirs").await;
    assert_twins(&namespace, "deployment").await;
    same_history(&namespace, &verbs).await;
    let now = verbs.rollout_history(&cx, &ours).await.unwrap().pop().unwrap();
    assert_eq!((now.number, now.images[0].image.as_str()), (5, "registry.test/web:v1"));
    let same = verbs.rollout_undo(&cx, &ours, Some(5)).await.unwrap();
    assert!(!same.change.changed);
    let none = verbs.rollout_undo(&cx, &ours, Some(17)).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert!(none.to_string().contains("kept are: 3, 4, 5"), "{none}");

    let restarted = verbs.rollout_restart(&cx, &ours).await.unwrap();
    namespace.kubectl(&["rollout", "restart", "deployment/theirs"]).await;
    assert!(restarted.changed);
    wait("ours").await;
    wait("theirs").await;
    assert_twins(&namespace, "deployment").await;

    verbs.rollout_pause(&cx, "ours").await.unwrap();
    namespace.kubectl(&["rollout", "pause", "deployment/theirs"]).await;
    assert_twins(&namespace, "deployment").await;
    for (ours, theirs) in [
        (verbs.rollout_pause(&cx, "ours").await.map(drop), &["rollout", "pause", "deployment/theirs"][..]),
        (verbs.rollout_restart(&cx, &ours).await.map(drop), &["rollout", "restart", "deployment/theirs"]),
        (
            verbs.rollout_undo(&cx, &ours, Some(4)).await.map(drop),
            &["rollout", "undo", "deployment/theirs", "--to-revision=4"],
        ),
    ] {
        let ours = ours.unwrap_err();
        let arguments = [&["--namespace", namespace.name()], theirs].concat();
        let theirs = rig.try_kubectl("admin", &arguments, "").await;
        let theirs = String::from_utf8_lossy(&theirs.stderr).into_owned();
        assert_eq!(ours.kind(), ErrorKind::Invalid);
        assert!(theirs.contains(ours.message()), "{ours} as in {theirs}");
    }
    verbs.rollout_resume(&cx, "ours").await.unwrap();
    namespace.kubectl(&["rollout", "resume", "deployment/theirs"]).await;
    assert_twins(&namespace, "deployment").await;
    assert_eq!(verbs.rollout_resume(&cx, "ours").await.unwrap_err().message(), "is not paused");
    let missing = verbs.rollout_restart(&cx, &Workload::deployment("nobody")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_success_of_the_rollout_before_is_never_that_of_this_one() {
    let Some(rig) = Rig::own().await else { return };
    let alone = rig.alone("stale").await;
    alone.deploy("web", "registry.test/web:v1", 1).await;
    alone.wait_ready("web").await;
    let verbs = verbs(&alone).await;
    let web = Workload::deployment("web");
    // Nobody looks at the new spec meanwhile, so the status tells of the old one: complete.
    let paused = alone.pause("kube-controller-manager");
    verbs.set_image(&cx(), &web, &[("web", "registry.test/web:v2")]).await.unwrap();
    let early = verbs.rollout_status(&cx().at_most(Duration::from_secs(3)), &web, &|_| ()).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Timeout);
    assert!(early.message().contains("Waiting for deployment spec update to be observed"), "{early}");
    paused.resume();
    let done = verbs.rollout_status(&cx(), &web, &|_| ()).await.unwrap();
    assert!(done.complete && done.updated == 1);
    let pods = verbs.pods(&cx(), &Select::all()).await.unwrap();
    assert!(pods.iter().any(|pod| pod.ready == 1 && pod.images[0].image.ends_with(":v2")), "{pods:?}");
}

/// The histories of both twins, as they are and as tables.
async fn same_history(namespace: &Namespace, verbs: &Verbs) {
    let cx = cx();
    for name in ["ours", "theirs"] {
        let history = verbs.rollout_history(&cx, &Workload::deployment(name)).await.unwrap();
        let ours: Vec<String> = history.iter().map(|r| r.cells(false, cx_now()).join(" ")).collect();
        let text = namespace.kubectl(&["rollout", "history", &format!("deployment/{name}")]).await;
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let theirs: Vec<String> = trimmed(&text).iter().skip(2).map(words).collect();
        assert_eq!(ours, theirs);
    }
    let all = verbs.rollout_histories(&cx, WorkloadKind::Deployment, &Select::all()).await.unwrap();
    assert_eq!(all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ours", "theirs"]);
    assert!(
        all[0].1.iter().map(|r| (r.number, &r.change_cause)).eq(all[1].1.iter().map(|r| (r.number, &r.change_cause)))
    );
}

fn cx_now() -> jiff::Timestamp {
    moodify_tests::wall_clock()
}

#[tokio::test]
async fn sets_roll_and_go_back_as_with_kubectl() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("sets").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    for (kind, workload) in
        [("StatefulSet", Workload::stateful_set("ours")), ("DaemonSet", Workload::daemon_set("ours"))]
    {
        for name in ["ours", "theirs"] {
            let mut twin = deployment(name, "registry.test/web:v1", 2);
            twin["kind"] = json!(kind);
            twin["spec"]["template"]["spec"]["containers"][0]["name"] = json!("web");
            if kind == "DaemonSet" {
                twin["spec"].as_object_mut().unwrap().remove("replicas");
            } else {
                twin["spec"]["serviceName"] = json!("none");
            }
            namespace.place(&mut twin["spec"]["template"]);
            namespace.apply(&twin.to_string()).await;
        }
        let (lower, theirs) = (kind.to_lowercase(), format!("{}/theirs", kind.to_lowercase()));
        let settled = async || {
            let done = verbs.rollout_status(&cx, &workload, &|_| ()).await.unwrap();
            let told = namespace.kubectl(&["rollout", "status", &workload.to_string()]).await;
            assert_eq!(trimmed(&told).last().unwrap(), &done.message);
            namespace.kubectl(&["rollout", "status", &theirs]).await;
            assert_twins(&namespace, &lower).await;
        };
        settled().await;
        verbs.set_image(&cx, &workload, &[("web", "registry.test/web:v2")]).await.unwrap();
        namespace.kubectl(&["set", "image", &theirs, "web=registry.test/web:v2"]).await;
        settled().await;
        let history = verbs.rollout_history(&cx, &workload).await.unwrap();
        let images: Vec<&str> = history.iter().map(|r| r.images[0].image.as_str()).collect();
        assert_eq!(images, ["registry.test/web:v1", "registry.test/web:v2"]);
        verbs.rollout_undo(&cx, &workload, None).await.unwrap();
        namespace.kubectl(&["rollout", "undo", &theirs]).await;
        settled().await;
        verbs.rollout_restart(&cx, &workload).await.unwrap();
        namespace.kubectl(&["rollout", "restart", &theirs]).await;
        settled().await;
    }
    let scaled = verbs.scale(&cx, &Workload::stateful_set("ours"), 1, Some(2)).await.unwrap();
    assert_eq!((scaled.from, scaled.to), (2, 1));
    namespace.kubectl(&["scale", "statefulset/theirs", "--replicas=1", "--current-replicas=2"]).await;
    assert_twins(&namespace, "statefulset").await;
    let refused = verbs.scale(&cx, &Workload::daemon_set("ours"), 1, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn all_go_to_zero_and_come_back_as_they_were() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("scale").await;
    let verbs = verbs(&namespace).await;
    let cx = cx();
    for (name, replicas) in [("a", 3), ("b", 1), ("off", 0)] {
        namespace.deploy(name, "registry.test/web:v1", replicas).await;
    }
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "b-scaler"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "b"}, "minReplicas": 2, "maxReplicas": 4,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    namespace.apply(&autoscaler.to_string()).await;
    // The autoscaler takes its least number at once, whatever it measures.
    namespace.wait_for::<Deployment>("b", |d| d.spec.as_ref().unwrap().replicas == Some(2)).await;
    let counts = async || {
        let rows = verbs.deployments(&cx, &Select::all()).await.unwrap();
        rows.into_iter().map(|row| row.desired).collect::<Vec<_>>()
    };
    let kinds = [WorkloadKind::Deployment];
    let remembered = verbs.remember(&cx, &kinds, &Select::all()).await.unwrap();
    let text = serde_json::to_string(&remembered).unwrap();
    assert_eq!(counts().await, [3, 2, 0]);
    assert_eq!(remembered.workloads[1].autoscaler.as_deref(), Some("b-scaler"));
    for _ in 0..2 {
        verbs.scale_to_zero(&cx, &remembered).await.unwrap();
        assert_eq!(counts().await, [0, 0, 0]);
    }
    namespace.wait_for::<Deployment>("b", |d| d.status.as_ref().unwrap().replicas.unwrap_or(0) == 0).await;
    for _ in 0..2 {
        verbs.bring_back(&cx, &serde_json::from_str(&text).unwrap()).await.unwrap();
        assert_eq!(counts().await, [3, 2, 0]);
    }

    // Somebody's scaling is not overwritten; the others are all the same done.
    verbs.scale_to_zero(&cx, &remembered).await.unwrap();
    namespace.kubectl(&["scale", "deployment", "a", "--replicas=1"]).await;
    let drift = verbs.bring_back(&cx, &remembered).await.unwrap_err();
    assert_eq!(drift.kind(), ErrorKind::Drift);
    let told = "somebody scaled it to 1 since; 3 were remembered";
    assert!(
        drift.message().contains(told) && drift.message().contains("done are deployment/b, deployment/off"),
        "{drift}"
    );
    assert_eq!(counts().await, [1, 2, 0]);
    let stale = verbs.scale(&cx, &Workload::deployment("a"), 5, Some(3)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);

    let scaled = verbs.scale_all(&cx, &kinds, &Select::all(), 6).await.unwrap();
    assert_eq!(scaled.iter().map(|(_, s)| s.to).collect::<Vec<_>>(), [6, 4, 6], "the autoscaler's limit holds");
}

#[tokio::test]
async fn an_edit_in_between_is_a_conflict_and_stays() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("between").await;
    namespace.deploy("web", "registry.test/web:v1", 1).await;
    namespace.wait_ready("web").await;
    let verbs = verbs(&namespace).await;
    let web = Workload::deployment("web");
    // Eight at once read the same spec: each write holds or is refused, and none is lost unnoticed.
    let writes = (0..8).map(|n| {
        let (verbs, web) = (verbs.clone(), web.clone());
        async move {
            let env = EnvChange::new().set(format!("V{n}"), "1");
            (n, verbs.set_env(&cx(), &web, &env).await)
        }
    });
    let results: Vec<(u32, moodify_core::Result<Change>)> = futures::future::join_all(writes).await;
    let text = namespace.kubectl(&["get", "deployment", "web", "-o", "yaml"]).await;
    for (n, result) in &results {
        match result {
            Ok(_) => assert!(text.contains(&format!("name: V{n}\n")), "V{n} was written and is lost:\n{text}"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e}"),
        }
    }
    assert!(results.iter().any(|(_, r)| r.is_ok()));
}

#[tokio::test]
async fn the_small_program_restarts_and_takes_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("operate").await;
    namespace.deploy("web", "registry.test/web:v1", 2).await;
    namespace.wait_ready("web").await;
    namespace.kubectl(&["set", "image", "deployment/web", "web=registry.test/web:v2"]).await;
    let kubeconfig = namespace.kubeconfig("admin");
    let operate = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(moodify_tests::program("operate"));
        command.env("MOODIFY_KUBE_KUBECONFIG", &kubeconfig).args(["--namespace", namespace.name(), "--timeout", "60"]);
        let output = command.args(arguments).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (ok, out, err) = operate(&["restart", "deployment/web"]).await;
    assert!(ok && out.ends_with("deployment \"web\" successfully rolled out\n"), "{out}{err}");
    let (ok, out, err) = operate(&["undo", "deployment/web", "--to-revision", "1", "--reason", "v2 leaks"]).await;
    assert!(ok && out.starts_with("back to revision 1\n"), "{out}{err}");
    let (ok, out, err) = operate(&["status", "deploy/web"]).await;
    assert!(
        ok && out.contains("2 of 2 pods ready") && out.contains("v2 leaks") && out.contains("registry.test/web:v1"),
        "{out}{err}"
    );
    let (ok, _, err) = operate(&["status", "deploy/nobody"]).await;
    assert!(!ok && err.contains("there is no Deployment nobody in the namespace"), "{err}");
}
