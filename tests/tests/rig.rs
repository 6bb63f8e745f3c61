//! The rig itself: what other tests take for granted.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use moodify_tests::node::MARK;
use moodify_tests::rig::{BRIDGE, EXISTING, Namespace, Rig};

async fn pods(namespace: &Namespace) -> Vec<Pod> {
    namespace.api().await.list(&ListParams::default()).await.unwrap().items
}

fn container(pod: &Pod) -> ContainerStatus {
    pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone()
}

fn is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|statuses| statuses.iter().all(|status| status.ready))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_deployment_becomes_ready_and_is_deleted() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("ready").await;
    namespace.deploy("backend", "registry.test/backend:v1", 3).await;
    namespace.wait_ready("backend").await;
    let pods = pods(&namespace).await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(is_ready));
    let node = Some(&rig.state().node.name);
    assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.as_ref() == node), "all are on {node:?}");

    // The endpoints of the Service are the pods' addresses, a little after the pods are ready.
    until("the endpoints of the Service are the pods' addresses", async || {
        let slices = namespace.kubectl(&["get", "endpointslices", "-o", "jsonpath={..addresses}"]).await;
        let mut addresses = pods.iter().map(|pod| pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap());
        addresses.all(|ip| slices.contains(&format!("\"{ip}\"")))
    })
    .await;

    let name = namespace.name().to_owned();
    drop(namespace);
    until("the namespace is deleted", async || {
        let output = rig.try_kubectl("admin", &["get", "namespace", &name], "").await;
        !output.status.success()
    })
    .await;
}

#[tokio::test]
async fn a_crash_loop_is_reported_as_a_kubelet_does() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("crash").await;
    namespace.deploy("backend", "registry.test/backend:v2-crash2s", 1).await;
    until("the pod is in a crash loop", async || {
        let pods = pods(&namespace).await;
        let statuses = pods.first().and_then(|pod| pod.status.as_ref()?.container_statuses.clone());
        statuses.into_iter().flatten().any(|status| {
            let waiting = status.state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason);
            waiting.as_deref() == Some("CrashLoopBackOff") && status.restart_count >= 2
        })
    })
    .await;
    let events = namespace.kubectl(&["get", "events", "-o", "jsonpath={..reason}"]).await;
    assert!(events.contains("BackOff"), "{events}");
    let last = container(&pods(&namespace).await[0]).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    let deployment: Deployment = namespace.wait_for("backend", |_| true).await;
    assert_eq!(deployment.status.unwrap().ready_replicas.unwrap_or(0), 0);
    if !rig.has_logs() {
        return;
    }
    let logs = async |options: &[&str]| namespace.kubectl(&[&["logs", "deployment/backend"], options].concat()).await;
    assert!(logs(&["--previous", "--tail=1"]).await.contains("FATAL crashed"));
}

#[tokio::test]
async fn three_of_five_become_unready_when_they_are_five() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("unready").await;
    namespace.deploy("backend", "registry.test/backend:v2-unready60after2s-when5", 4).await;
    namespace.wait_ready("backend").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(pods(&namespace).await.iter().all(is_ready), "four are too few for the fault");
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=5"]).await;
    until("three of five are not ready", async || {
        let pods = pods(&namespace).await;
        pods.len() == 5 && pods.iter().filter(|pod| !is_ready(pod)).count() == 3
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pods(&namespace).await.iter().filter(|pod| !is_ready(pod)).count(), 3, "and it stays so");
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_says_so() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("image").await;
    namespace.deploy("backend", "registry.test/backend:v2-eror12", 1).await;
    until("the image cannot be pulled", async || {
        let pods = pods(&namespace).await;
        let status = pods.first().and_then(|pod| pod.status.as_ref()?.container_statuses.clone()).unwrap_or_default();
        let waiting = status.first().and_then(|status| status.state.as_ref()?.waiting.clone()).unwrap_or_default();
        waiting.reason.as_deref() == Some("ImagePullBackOff") && waiting.message.unwrap().contains("\"eror12\"")
    })
    .await;
}

#[tokio::test]
async fn prometheus_sees_each_version_by_itself_and_can_be_stopped() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("metrics").await;
    let Some(mut prometheus) = namespace.prometheus().await else { return };
    namespace.deploy("backend", "registry.test/backend:v1", 2).await;
    namespace.deploy("backend-canary", "registry.test/backend:v2-err12-slow300", 1).await;
    let ratio = |version: &str| {
        let requests = |code: &str| {
            format!(
                "sum(rate(http_requests_total{{namespace=\"{}\",version=\"{version}\"{code}}}[5s]))",
                namespace.name()
            )
        };
        format!("{} / {}", requests(",code=~\"5..\""), requests(""))
    };
    // Waited for: the first two scrapes of a busy machine are of a few requests, of which the first is an error.
    prometheus.wait_for(&ratio("v2"), |ratio| (0.08..0.16).contains(&ratio)).await;
    assert_eq!(prometheus.wait_for(&ratio("v1"), |_| true).await, 0.0);
    let p95 = "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket{version=\"v2\"}[5s])))";
    prometheus.wait_for(p95, |p95| (0.25..0.5).contains(&p95)).await;

    prometheus.stop();
    assert_eq!(prometheus.query("up").await, None);
    prometheus.start().await;
    prometheus.wait_for("count(up == 1)", |pods| pods == 3.0).await;
}

#[tokio::test]
async fn the_audit_log_is_a_ledger_of_writes() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("audit").await;
    namespace.deploy("backend", "registry.test/backend:v1", 1).await;
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=0"]).await;
    namespace.kubectl(&["scale", "deployment", "backend", "--replicas=2", "--dry-run=server"]).await;
    let entries = namespace.audit();
    let of_deployment = entries.iter().filter(|entry| entry.resource == "deployments" && entry.name == "backend");
    let writes: Vec<_> = of_deployment.clone().filter(|entry| entry.is_write()).collect();
    let verbs: Vec<_> = writes.iter().map(|entry| (entry.verb.as_str(), entry.subresource.as_str())).collect();
    assert_eq!(verbs, [("create", ""), ("patch", "scale")], "{writes:#?}");
    assert!(writes.iter().all(|entry| entry.user_agent.starts_with("kubectl/") && entry.code < 300));
    assert!(of_deployment.clone().any(|entry| entry.dry_run));
}

#[tokio::test]
async fn the_gateway_api_is_there() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("route").await;
    let route = |weight: i32| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web}}, spec: {{rules: \
             [{{backendRefs: [{{name: web, port: 80, weight: {weight}}}]}}]}}}}"
        )
    };
    namespace.apply(&route(10)).await;
    let path = "jsonpath={.spec.rules[0].backendRefs[0].weight}";
    assert_eq!(namespace.kubectl(&["get", "httproute", "web", "-o", path]).await, "10");
    let arguments = ["--namespace", namespace.name(), "apply", "-f", "-"];
    let output = rig.try_kubectl("admin", &arguments, &route(-1)).await;
    assert!(!output.status.success(), "a weight below zero is refused");
}

#[tokio::test]
async fn a_plain_user_may_do_nothing_until_a_role_says_so() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("roles").await;
    let list = ["--namespace", namespace.name(), "get", "pods"];
    let output = rig.try_kubectl("alice", &list, "").await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("forbidden"));
    namespace.kubectl(&["create", "rolebinding", "alice", "--clusterrole=view", "--user=alice"]).await;
    until("alice may list", async || rig.try_kubectl("alice", &list, "").await.status.success()).await;
}

#[tokio::test]
async fn the_api_server_can_be_stopped_and_goes_on() {
    let Some(rig) = Rig::own().await else { return };
    let alone = rig.alone("pause").await;
    let client = rig.admin_client().await;
    let paused = alone.pause_api_server();
    let answer = tokio::time::timeout(Duration::from_secs(1), client.apiserver_version()).await;
    assert!(answer.is_err(), "{answer:?}");
    paused.resume();
    client.apiserver_version().await.unwrap();
}

#[tokio::test]
async fn the_way_to_the_api_server_can_be_cut_for_one_test() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("proxy").await;
    let proxy = namespace.api_proxy().await;
    let kubeconfig = proxy.kubeconfig(&namespace, "admin");
    let arguments = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--request-timeout=2s", "get", "pods"];
    assert!(rig.try_kubectl("admin", &arguments, "").await.status.success());
    proxy.stall();
    assert!(!rig.try_kubectl("admin", &arguments, "").await.status.success());
    proxy.cut();
    assert!(!rig.try_kubectl("admin", &arguments, "").await.status.success());
    proxy.open();
    assert!(rig.try_kubectl("admin", &arguments, "").await.status.success());
}

#[tokio::test]
async fn nothing_is_left_when_the_rig_ends() {
    if Rig::shared().await.is_none() {
        return;
    }
    let script = "cat $MOODIFY_RIG; exit 7";
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rig"));
    command.env_remove(EXISTING).args(["up", "--", "bash", "-c", script]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let state: moodify_tests::rig::State = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(state.pids.len(), 5);
    for (name, pid) in &state.pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name} still runs");
    }
    assert!(!state.dir.exists());
}

/// Tests of this file on a cluster that is there already: this very rig's.
#[tokio::test]
async fn another_rig_joins_the_cluster_and_leaves_it_as_it_was() {
    let Some(rig) = Rig::shared().await else { return };
    // Not while a test disturbs everybody: the joining rig takes turns only with itself.
    let _turn = rig.namespace("joined").await;
    // What needs the joining rig's own control plane is left out aloud, and fails where nothing may be left out.
    let script = "
        CI= \"$0\" --exact a_deployment_becomes_ready_and_is_deleted a_crash_loop_is_reported_as_a_kubelet_does \
            the_way_to_the_api_server_can_be_cut_for_one_test the_gateway_api_is_there \
            prometheus_sees_each_version_by_itself_and_can_be_stopped
        CI= \"$0\" --exact the_audit_log_is_a_ledger_of_writes the_api_server_can_be_stopped_and_goes_on \
            a_plain_user_may_do_nothing_until_a_role_says_so
        ! CI=true \"$0\" --exact the_audit_log_is_a_ledger_of_writes
        cat \"$MOODIFY_RIG\" >&2
    ";
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rig"));
    command.env(EXISTING, rig.kubeconfig_for("admin")).env_remove(BRIDGE);
    command.args(["up", "--", "bash", "-ec", script]).arg(std::env::current_exe().unwrap());
    let output = command.output().await.unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    assert!(said.contains("5 passed") && said.contains("3 passed"), "{said}");
    for left_out in ["the_audit_log_is", "the_api_server_can_be", "a_plain_user_may"] {
        assert!(told.contains(&format!("SKIPPED {left_out}")), "{told}");
    }
    let logs = usize::from(!rig.state().logs);
    assert_eq!(told.matches("SKIPPED").count(), 3 + logs, "nothing else is left out: {told}");

    let state = &told[told.find("{\n").unwrap()..told.rfind('}').unwrap() + 1];
    let state: moodify_tests::rig::State = serde_json::from_str(state).unwrap();
    assert_eq!(state.pids.into_keys().collect::<Vec<_>>(), ["node"]);
    let of_it = format!("--selector={MARK}={}", state.node.name);
    assert_ne!(state.node.name, rig.state().node.name);
    assert_eq!(rig.kubectl(&["get", "nodes,namespaces", &of_it, "--output=name"]).await, "");
    assert!(rig.kubectl(&["get", "nodes", "--output=name"]).await.contains(&rig.state().node.name));
    let leases = rig.kubectl(&["get", "leases", "--namespace=kube-node-lease", "--output=name"]).await;
    assert!(!leases.contains(&state.node.name), "{leases}");
}

#[tokio::test]
async fn a_deleted_pod_finishes_its_answers() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("drain").await;
    namespace.deploy("backend", "registry.test/backend:v1-slow2000", 1).await;
    namespace.wait_ready("backend").await;
    let pod = pods(&namespace).await.remove(0);
    let address = format!("{}:8080", pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap());
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    namespace.kubectl(&["delete", "pod", &pod.name_any(), "--wait=false"]).await;
    assert!(answer.await.unwrap().starts_with("HTTP/1.0 200"));
}
