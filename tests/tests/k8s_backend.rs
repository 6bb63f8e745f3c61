//! The Kubernetes backend against a real API server, real controllers and pods that are real processes.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use moodify_core::backend::{
    CanarySpec, DeployerExt as _, ImageChange, LogRequest, Scale, Verification, WeightChange, Workload,
};
use moodify_core::model::{ConfigRefs, ImageRef, Target, Track, Weight};
use moodify_core::{Backends, CallContext, Effect, ErrorKind, IdempotencyKey, RunId};
use moodify_k8s::{HeadRoom, Kube, KubeConfig};
use moodify_tests::rig::{Namespace, Rig};
use serde_json::{Value, json};

fn cx_of(run: &str, seconds: u64) -> CallContext {
    CallContext::new(RunId::new(run).unwrap(), IdempotencyKey::new("test"), Duration::from_secs(seconds))
}

fn cx() -> CallContext {
    cx_of("r1", 60)
}

async fn kube_as(namespace: &Namespace, user: &str) -> Kube {
    Kube::connect(&KubeConfig::new().kubeconfig(namespace.kubeconfig(user))).await.unwrap()
}

fn target(namespace: &Namespace, router: &str, image: &str) -> Target {
    serde_json::from_value(json!({
        "environment": "test",
        "namespace": namespace.name(),
        "service": {"name": "backend", "workload": "backend", "image": image,
            "traffic": {"router": router, "service": "backend", "route": "backend"}},
    }))
    .unwrap()
}

fn image(tag: &str) -> ImageRef {
    format!("registry.test/backend:{tag}").parse().unwrap()
}

fn spec(tag: &str, replicas: u32, shares_service: bool) -> CanarySpec {
    CanarySpec::new(image(tag), tag, replicas, shares_service)
}

fn change(from: u8, to: u8, capacity: u32) -> WeightChange {
    let weight = |percent| Weight::new(percent).unwrap();
    WeightChange { from: weight(from), to: weight(to), capacity }
}

async fn route(namespace: &Namespace, weight: u32) {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "backend"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/other"}}],
             "backendRefs": [{"name": "other", "port": 80}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
             "backendRefs": [{"name": "backend", "port": 80, "weight": weight}]}]},
    });
    namespace.apply(&route.to_string()).await;
}

async fn rules(namespace: &Namespace) -> Value {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let resource = ApiResource::from_gvk(&kind);
    let api = kube::Api::<DynamicObject>::namespaced_with(namespace.client().await, namespace.name(), &resource);
    api.get("backend").await.unwrap().data["spec"]["rules"].clone()
}

/// The addresses of the pods that are ready behind a Service, when they are so many: endpoints follow pods a bit later.
async fn endpoints(namespace: &Namespace, service: &str, count: usize) {
    let label = format!("kubernetes.io/service-name={service}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let slices = namespace.kubectl(&["get", "endpointslices", "-l", &label, "-o", "json"]).await;
        let slices: Value = serde_json::from_str(&slices).unwrap();
        let items = slices["items"].as_array().unwrap().iter();
        let endpoints = items.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        if endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "{count} endpoints of {service}: {slices:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a track has so many instances available, of the present generation, and no others.
async fn settled(backends: &Backends, target: &Target, track: Track, count: u32) -> Workload {
    let done = move |w: &Workload| w.is_complete() && w.replicas.desired == count;
    backends.deployer().unwrap().wait(&cx(), target, track, &done, &|_| ()).await.unwrap()
}

#[tokio::test]
async fn a_release_by_weights_takes_ten_writes_and_leaves_nothing_behind() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("weights").await;
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    route(&namespace, 3).await;
    namespace.wait_ready("backend").await;
    let before = rules(&namespace).await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "http-route", "registry.test/backend:v2");
    let (deployer, router) = (backends.deployer().unwrap(), backends.router("http-route").unwrap());

    let changes = deployer.preview(&cx(), &target, &spec("v2", 1, false)).await.unwrap();
    assert!(changes.len() == 5 && changes[0].object.ends_with("/backend-canary"), "{changes:?}");
    let made = deployer.deploy(&cx(), &target, &spec("v2", 1, false)).await.unwrap();
    assert_eq!((made.replicas.desired, made.image.tag()), (1, Some("v2")));
    settled(&backends, &target, Track::Canary, 1).await;
    // The canary is behind its own Service, and not behind the stable one.
    endpoints(&namespace, "backend", 2).await;
    endpoints(&namespace, "backend-canary", 1).await;

    let traffic = router.set(&cx(), &target, change(0, 10, 2)).await.unwrap();
    assert_eq!(
        (traffic.weight.percent(), traffic.verification, traffic.edited_by),
        (10, Verification::CannotTell, None)
    );
    let divided = rules(&namespace).await;
    assert_eq!(divided[0], before[0]);
    assert_eq!(
        (&divided[1]["backendRefs"][0]["weight"], &divided[1]["backendRefs"][1]["weight"]),
        (&json!(270), &json!(30))
    );
    for (from, to) in [(10, 50), (50, 100)] {
        let scale = if to == 50 { Scale { from: 1, to: 1 } } else { Scale { from: 1, to: 2 } };
        deployer.scale(&cx(), &target, Track::Canary, scale).await.unwrap();
        settled(&backends, &target, Track::Canary, scale.to).await;
        router.set(&cx(), &target, change(from, to, 2)).await.unwrap();
        // The same once more is nothing at all.
        router.set(&cx(), &target, change(from, to, 2)).await.unwrap();
    }
    deployer.scale(&cx(), &target, Track::Canary, Scale { from: 2, to: 3 }).await.unwrap();
    settled(&backends, &target, Track::Canary, 3).await;
    let promote = ImageChange { from: image("v1"), to: image("v2"), config: ConfigRefs::new(), scale: None };
    for _ in 0..2 {
        deployer.set_image(&cx(), &target, &promote).await.unwrap();
    }
    settled(&backends, &target, Track::Stable, 2).await;
    for _ in 0..2 {
        assert_eq!(router.reset(&cx(), &target, 2).await.unwrap().weight, Weight::ZERO);
    }
    for _ in 0..2 {
        deployer.remove(&cx(), &target).await.unwrap();
    }

    assert_eq!(rules(&namespace).await, before);
    let deadline = Instant::now() + Duration::from_secs(30);
    while namespace.kubectl(&["get", "deployments,services,replicasets", "-o", "name"]).await.contains("canary") {
        assert!(Instant::now() < deadline, "the canary is left behind");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let Some(ledger) = namespace.ledger() else { return };
    let ours = ledger.into_iter().filter(|entry| entry.user_agent.starts_with("moodify/"));
    let writes: Vec<String> =
        ours.filter(|e| e.is_write()).map(|e| format!("{} {} {}", e.verb, e.resource, e.code)).collect();
    assert_eq!(writes.len(), 10, "{writes:#?}");
}

#[tokio::test]
async fn a_ratio_of_pods_goes_there_and_back() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("ratio").await;
    namespace.deploy("backend", "registry.test/backend:v1", 4).await;
    namespace.wait_ready("backend").await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "replica-ratio", "registry.test/backend:v2");
    let (deployer, router) = (backends.deployer().unwrap(), backends.router("replica-ratio").unwrap());

    deployer.deploy(&cx(), &target, &spec("v2", 1, true)).await.unwrap();
    settled(&backends, &target, Track::Canary, 1).await;
    let traffic = router.set(&cx(), &target, change(0, 50, 4)).await.unwrap();
    assert_eq!((traffic.weight.percent(), traffic.verification), (50, Verification::Verified));
    // Both tracks are behind the one Service.
    endpoints(&namespace, "backend", 4).await;
    let stable = backends.diagnostics().unwrap().pods(&cx(), &target, Track::Stable).await.unwrap();
    assert!(stable.len() == 2 && stable.iter().all(|p| p.ready && p.image.ends_with(":v1")), "{stable:?}");
    let traffic = router.set(&cx(), &target, change(50, 100, 4)).await.unwrap();
    assert_eq!(traffic.weight, Weight::FULL);
    router.reset(&cx(), &target, 4).await.unwrap();
    settled(&backends, &target, Track::Stable, 4).await;
    assert_eq!(deployer.observe(&cx(), &target, Track::Canary).await.unwrap(), None);
}

#[tokio::test]
async fn an_edit_of_the_canary_is_noticed_and_not_overwritten() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("edit").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "replica-ratio", "registry.test/backend:v2");
    let deployer = backends.deployer().unwrap();
    deployer.deploy(&cx(), &target, &spec("v2", 1, true)).await.unwrap();
    settled(&backends, &target, Track::Canary, 1).await;
    let other = deployer.deploy(&cx_of("r2", 10), &target, &spec("v2", 1, true)).await.unwrap_err();
    assert_eq!((other.kind(), other.message()), (ErrorKind::AlreadyExists, "it belongs to the run r1"));

    // Our own changes are no drift, also not all the controllers' ones.
    deployer.scale(&cx(), &target, Track::Canary, Scale { from: 1, to: 2 }).await.unwrap();
    settled(&backends, &target, Track::Canary, 2).await;
    deployer.deploy(&cx(), &target, &spec("v3", 1, true)).await.unwrap();
    assert_eq!(settled(&backends, &target, Track::Canary, 1).await.image.tag(), Some("v3"));

    let mut watch = deployer.watch(&cx(), &target, Track::Canary).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().is_some());
    namespace.kubectl(&["set", "env", "deployment/backend-canary", "DEBUG=1"]).await;
    let edited = loop {
        match watch.next().await.expect("an error ends it") {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(edited.kind(), ErrorKind::Drift);
    assert!(edited.message().starts_with("it was edited by \"kubectl-set\" (Update) at "), "{edited}");
    assert!(watch.next().await.is_none());
    let scale = deployer.scale(&cx(), &target, Track::Canary, Scale { from: 1, to: 2 }).await.unwrap_err();
    assert_eq!(scale.kind(), ErrorKind::Drift);
    assert!(namespace.kubectl(&["get", "deployment", "backend-canary", "-o", "yaml"]).await.contains("DEBUG"));
    deployer.remove(&cx(), &target).await.unwrap();
    assert_eq!(deployer.observe(&cx(), &target, Track::Canary).await.unwrap(), None);
}

#[tokio::test]
async fn somebody_else_s_scale_image_and_weight_are_drift_with_a_name() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("drift").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    route(&namespace, 1).await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "http-route", "registry.test/backend:v2");
    let (deployer, router) = (backends.deployer().unwrap(), backends.router("http-route").unwrap());
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=3"]).await;
    let scale = deployer.scale(&cx(), &target, Track::Stable, Scale { from: 1, to: 2 }).await.unwrap_err();
    assert_eq!(scale.kind(), ErrorKind::Drift);
    assert!(scale.message().contains("3 replicas, where we expected 1; last edited by \"kubectl\""), "{scale}");
    let image_change = ImageChange { from: image("v0"), to: image("v2"), config: ConfigRefs::new(), scale: None };
    assert_eq!(deployer.set_image(&cx(), &target, &image_change).await.unwrap_err().kind(), ErrorKind::Drift);

    router.set(&cx(), &target, change(0, 10, 3)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refs = r#"[{"op":"replace","path":"/spec/rules/1/backendRefs/1/weight","value":60}]"#;
    namespace.kubectl(&["patch", "httproute", "backend", "--type=json", "--patch", refs]).await;
    assert_eq!(router.read(&cx(), &target).await.unwrap().edited_by.as_deref(), Some("kubectl-patch"));
    let set = router.set(&cx(), &target, change(10, 50, 3)).await.unwrap_err();
    assert_eq!(set.kind(), ErrorKind::Drift);
    assert!(set.message().contains("last edited by \"kubectl-patch\""), "{set}");
    assert_eq!(router.reset(&cx(), &target, 3).await.unwrap().weight, Weight::ZERO);
}

#[tokio::test]
async fn of_two_at_once_one_wins_and_the_other_is_told() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("race").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "replica-ratio", "registry.test/backend:v2");
    let deployer = backends.deployer().unwrap();
    let runs: Vec<String> = (0..6).map(|n| format!("race-{n}")).collect();
    let deploys = runs.iter().map(|run| {
        let (cx, target) = (cx_of(run, 20), &target);
        async move { deployer.deploy(&cx, target, &spec("v2", 1, true)).await }
    });
    let results = futures::future::join_all(deploys).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    let losers: Vec<ErrorKind> = results.iter().filter_map(|r| r.as_ref().err()).map(|e| e.kind()).collect();
    assert!(losers.iter().all(|k| *k == ErrorKind::AlreadyExists), "{results:?}");

    let cx = cx();
    let scales = (2..10).map(|to| deployer.scale(&cx, &target, Track::Stable, Scale { from: 1, to }));
    let results = futures::future::join_all(scales).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    let losers = results.iter().filter_map(|r| r.as_ref().err());
    assert!(losers.clone().all(|e| matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Drift)), "{results:?}");
    assert!(losers.clone().any(|e| e.kind() == ErrorKind::Conflict), "the comparison holds at the write: {results:?}");
}

#[tokio::test]
async fn pods_tell_why_they_are_not_well() {
    let Some(rig) = Rig::shared().await else { return };
    if !rig.has_logs() {
        return;
    }
    let namespace = rig.namespace("pods").await;
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    namespace.wait_ready("backend").await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let (deployer, diagnostics) = (backends.deployer().unwrap(), backends.diagnostics().unwrap());
    let target = target(&namespace, "replica-ratio", "registry.test/backend:v2");
    let canary = async |tag: &str| {
        deployer.remove(&cx(), &target).await.unwrap();
        deployer.deploy(&cx(), &target, &spec(tag, 1, true)).await.unwrap();
        let mut pods = diagnostics.watch_pods(&cx(), &target, Track::Canary).await.unwrap();
        let mut last = None;
        // Every state on the way, until one with a verdict: ready, crash looping or held up by its image.
        while let Some(state) = pods.next().await {
            for pod in state.unwrap().into_iter().filter(|pod| pod.image.ends_with(tag)) {
                let held = pod.reason.as_ref().is_some_and(|r| r.starts_with("ImagePullBackOff"));
                let lost = !pod.ready && pod.was_ready && pod.restarts == 0;
                let verdict = pod.crash_looping || held || lost;
                last = Some(pod);
                if verdict {
                    return last.unwrap();
                }
            }
        }
        panic!("no verdict; the last state was {last:?}")
    };
    let crash = canary("v2-crash1s").await;
    assert!(crash.crash_looping && !crash.ready, "{crash}");
    assert!(crash.reason.as_ref().unwrap().contains("exit code 1"), "{crash}");
    // The event comes after the status, and a log of the run before only after the first restart.
    let mut request = LogRequest::tail(1);
    request.previous = true;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let warnings = diagnostics.warnings(&cx(), &target, Track::Canary).await.unwrap();
        let logs = diagnostics.logs(&cx(), &target, Track::Canary, &request).await.unwrap();
        let warned = warnings.iter().any(|w| w.contains("Pod backend-canary-") && w.contains("BackOff"));
        if warned && logs.iter().any(|(_, text)| text.contains("FATAL crashed")) {
            break;
        }
        assert!(Instant::now() < deadline, "{warnings:?} {logs:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stable = diagnostics.warnings(&cx(), &target, Track::Stable).await.unwrap();
    assert!(stable.iter().all(|w| !w.contains("canary")), "{stable:?}");

    let unready = canary("v2-unready100after3s").await;
    assert!(unready.was_ready && unready.reason.as_deref() == Some("the readiness probe fails"), "{unready}");
    let now = diagnostics.pods(&cx(), &target, Track::Canary).await.unwrap();
    assert!(now.iter().any(|p| p.was_ready && !p.ready), "also without a watch's memory: {now:?}");

    let held = canary("v2-eror12").await;
    assert!(!held.was_ready && !held.ready, "{held}");
    let stable = diagnostics.pods(&cx(), &target, Track::Stable).await.unwrap();
    assert!(stable.len() == 2 && stable.iter().all(|p| p.ready), "{stable:?}");
}

#[tokio::test]
async fn a_rollout_that_stands_still_is_given_up() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("stalled").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    let deadline = r#"{"spec": {"progressDeadlineSeconds": 4}}"#;
    namespace.kubectl(&["patch", "deployment", "backend", "--type=merge", "--patch", deadline]).await;
    let backends = kube_as(&namespace, "admin").await.backends();
    let target = target(&namespace, "replica-ratio", "registry.test/backend:v2");
    let deployer = backends.deployer().unwrap();
    deployer.deploy(&cx(), &target, &spec("v2-eror12", 1, true)).await.unwrap();
    let waited = deployer.wait(&cx(), &target, Track::Canary, &Workload::is_complete, &|_| ()).await.unwrap_err();
    assert_eq!(waited.kind(), ErrorKind::Unhealthy);
    assert!(waited.message().contains("ProgressDeadlineExceeded"), "{waited}");
}

#[tokio::test]
async fn what_a_release_lacks_is_told_before_the_first_write() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("preflight").await;
    let mut by_route = target(&namespace, "http-route", "registry.test/backend:v2");
    let admin = kube_as(&namespace, "admin").await;
    let problems = async |kube: &Kube, target: &Target| -> Vec<String> {
        kube.preflight(&cx(), std::slice::from_ref(target)).await.iter().map(ToString::to_string).collect()
    };
    let missing = problems(&admin, &by_route).await;
    assert!(missing.len() == 2 && missing[0].contains("there is no Deployment backend"), "{missing:?}");
    assert!(missing[1].contains("there is no HTTPRoute backend"), "{missing:?}");
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    route(&namespace, 1).await;
    assert_eq!(problems(&admin, &by_route).await, Vec::<String>::new());

    let alice = kube_as(&namespace, "alice").await;
    let denied = problems(&alice, &by_route).await;
    assert!(denied.len() == 1 && denied[0].contains("user \"alice\" may not get deployments.apps, "), "{denied:?}");
    namespace.kubectl(&["create", "rolebinding", "alice", "--clusterrole=view", "--user=alice"]).await;
    let denied = loop {
        let denied = problems(&alice, &by_route).await;
        if !denied[0].contains("get deployments.apps") {
            break denied;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(
        denied[0].contains("create deployments.apps, patch deployments.apps, delete deployments.apps"),
        "{denied:?}"
    );
    let written = alice.deployer().deploy(&cx(), &by_route, &spec("v2", 1, false)).await.unwrap_err();
    assert_eq!((written.kind(), written.effect_of()), (ErrorKind::Forbidden, Effect::None));
    assert!(written.message().contains("\"alice\" cannot patch resource \"deployments\""), "{written}");

    let expired = namespace.kubeconfig_with(&rig.state().server, "expired");
    let expired = Kube::connect(&KubeConfig::new().kubeconfig(expired)).await.unwrap();
    assert_eq!(expired.preflight(&cx(), &[by_route.clone()]).await[0].kind(), ErrorKind::Unauthenticated);
    let nowhere = namespace.kubeconfig_with("https://127.0.0.1:1", "any");
    let nowhere = Kube::connect(&KubeConfig::new().kubeconfig(nowhere)).await.unwrap();
    assert_eq!(nowhere.preflight(&cx(), &[by_route.clone()]).await[0].kind(), ErrorKind::Unavailable);
    by_route.service.container = Some("app".to_owned());
    let container = problems(&admin, &by_route).await;
    assert!(container.len() == 1 && container[0].contains("no container \"app\"; there are: backend"), "{container:?}");
    by_route.namespace = "nowhere".to_owned();
    let namespace_missing = problems(&admin, &by_route).await;
    assert!(
        namespace_missing.len() == 1 && namespace_missing[0].contains("no namespace \"nowhere\""),
        "{namespace_missing:?}"
    );
}

/// Nodes that take no more are told before pods wait for them, to whoever may look at nodes.
#[tokio::test]
async fn nodes_without_room_are_told_before_pods_wait_for_them() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("head-room").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    let kube = kube_as(&namespace, "admin").await;
    let targets = [target(&namespace, "http-route", "registry.test/backend:v2")];
    let room = kube.head_room(&cx(), &targets).await;
    assert_eq!(room, HeadRoom::Enough);

    // More than half of the node that it has: there is no second one.
    let asks = ["set", "resources", "deployment/backend", "--requests=memory=600Gi"];
    namespace.kubectl(&asks).await;
    namespace.kubectl(&["rollout", "status", "deployment/backend", "--timeout=60s"]).await;
    let HeadRoom::Short { added, waiting, why } = kube.head_room(&cx(), &targets).await else {
        panic!("there is no room");
    };
    assert!(waiting >= 1 && waiting <= added, "{waiting} of {added}");
    assert!(why.contains("too little memory"), "{why}");

    // Who may look at the namespace only.
    namespace.kubectl(&["create", "rolebinding", "bob", "--clusterrole=view", "--user=bob"]).await;
    let bob = kube_as(&namespace, "bob").await;
    let unknown = loop {
        let room = bob.head_room(&cx(), &targets).await;
        if !matches!(&room, HeadRoom::Unknown(why) if why.contains("read the Deployment")) {
            break room;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(unknown.to_string().contains("may not list nodes"), "{unknown}");
}

#[tokio::test]
async fn a_watch_outlives_the_server_s_absence_and_a_write_in_it_is_unknown() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("absence").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    namespace.wait_ready("backend").await;
    let proxy = namespace.api_proxy().await;
    let config = KubeConfig::new().kubeconfig(proxy.kubeconfig(&namespace, "admin"));
    let kube = Kube::connect(&config.request_timeout(Duration::from_secs(1))).await.unwrap();
    let (deployer, target) = (kube.deployer(), target(&namespace, "replica-ratio", "registry.test/backend:v2"));
    let mut watch = deployer.watch(&cx(), &target, Track::Stable).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().unwrap().replicas.desired, 1);

    // By a connection that is there: a new one that stalls is not to be had at all.
    deployer.observe(&cx(), &target, Track::Stable).await.unwrap();
    proxy.stall();
    let read = deployer.observe(&cx(), &target, Track::Stable).await.unwrap_err();
    assert_eq!((read.kind(), read.effect_of()), (ErrorKind::Timeout, Effect::None));
    proxy.cut();
    let read = deployer.observe(&cx(), &target, Track::Stable).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Unavailable);
    tokio::time::sleep(Duration::from_secs(3)).await;
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=2"]).await;
    proxy.open();
    let begin = Instant::now();
    while watch.next().await.unwrap().unwrap().unwrap().replicas.desired != 2 {}
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let deployment: Deployment = namespace.wait_for("backend", |_| true).await;
    assert_eq!(deployment.spec.unwrap().replicas, Some(2));
}
