//! Releases under constant load, through real data planes: no request fails, and no version ever gets more of them than
//! the journal allows.
//!
//! `MOODIFY_TRAFFIC_RATE=600 MOODIFY_TRAFFIC_BAKE=40` is the long form, of a million requests: so many of them a second
//! from each test, while weights stand so many seconds.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moodify_tests::load::{Aim, Load, Protocol};
use moodify_tests::rig::{Istio, KubeProxy, Namespace, PROMPT, Rig, Traefik};
use moodify_tests::routes::{entrance, others};
use moodify_tests::scene::{Finished, Scene};
use moodify_tests::shares::{Division, LATE, check_shares, ended};
use moodify_tests::wall_clock;
use serde_json::json;

/// Requests a second of each test, where nothing else is asked for; they share the machine.
const RATE: u32 = 250;
/// Connections a second to one address, of which each keeps one of 28,000 ports for a minute after its end.
const MOST_FRESH: u32 = 400;
/// Seconds that a good weight stands, where nothing else is asked for.
const BAKE: u32 = 10;

/// A service behind a data plane, and the requests to it.
struct Stage<'a> {
    namespace: &'a Namespace,
    scene: Scene<'a>,
    division: Division,
    load: Load,
    plane: Plane,
}

/// What has to run for as long as the requests go on.
enum Plane {
    Traefik { process: Traefik },
    Istio { _processes: Istio },
    KubeProxy { _process: KubeProxy },
}

impl<'a> Stage<'a> {
    /// With version `before` of a service behind Traefik, and a plan that releases `after` by a router.
    async fn behind_traefik(
        namespace: &'a Namespace,
        router: &str,
        throttle: Duration,
        before: &str,
        after: &str,
    ) -> Option<Self> {
        let traefik = namespace.traefik(throttle).await?;
        others(namespace).await;
        if router == "traefik" {
            namespace.apply(&entrance("backend").to_string()).await;
        }
        let scene = Self::scene(namespace, router, before, after).await?;
        // The one that the Ingress is for; the others are for all.
        let host = "nginx.test";
        traefik.serves(host).await;
        let aim = Aim::through(traefik.address(), host, Protocol::Http, rate());
        let (division, load) = (Division::Weights, Load::start(&aim));
        Some(Self { namespace, scene, division, load, plane: Plane::Traefik { process: traefik } })
    }

    /// The same behind the gateway of Istio.
    async fn behind_istio(namespace: &'a Namespace, lag: Duration, before: &str, after: &str) -> Option<Self> {
        let istio = namespace.istio(lag).await?;
        others(namespace).await;
        // The route is to a subset, which are all pods of the Service.
        let subsets = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "backend"},
            "spec": {"host": "backend", "subsets": [{"name": "v1", "labels": {"app": "backend"}}]},
        });
        namespace.apply(&subsets.to_string()).await;
        let scene = Self::scene(namespace, "istio", before, after).await?;
        let host = "istio.test";
        istio.serves(host).await;
        let aim = Aim::through(istio.address(), host, Protocol::Http, rate());
        let (division, load) = (Division::Chance, Load::start(&aim));
        Some(Self { namespace, scene, division, load, plane: Plane::Istio { _processes: istio } })
    }

    /// The same behind a gateway of Istio that is told by the Gateway API.
    async fn behind_istio_gateway(namespace: &'a Namespace, before: &str, after: &str) -> Option<Self> {
        let istio = namespace.istio_gateway(PROMPT).await?;
        others(namespace).await;
        let scene = Self::scene(namespace, "http-route", before, after).await?;
        let host = "http.test";
        istio.serves(host).await;
        let aim = Aim::through(istio.address(), host, Protocol::Http, rate());
        let (division, load) = (Division::Chance, Load::start(&aim));
        Some(Self { namespace, scene, division, load, plane: Plane::Istio { _processes: istio } })
    }

    /// The same behind the address of its Service.
    async fn behind_its_service(namespace: &'a Namespace, router: &str, before: &str, after: &str) -> Option<Self> {
        Self::of_kind("deployment", namespace, router, before, after).await
    }

    /// The same, where the service is a workload of another kind.
    async fn of_kind(kind: &str, namespace: &'a Namespace, router: &str, before: &str, after: &str) -> Option<Self> {
        let proxy = namespace.rig().kube_proxy().await?;
        let mut scene = Self::scene(namespace, router, before, after).await?;
        namespace.run_as(kind, "backend").await;
        scene.plan["release"]["services"][0]["kind"] = kind.into();
        let address = namespace.service_address("backend").await;
        // A connection stays with its pod for as long as the two like: only new ones are divided.
        let rate = rate().min(MOST_FRESH);
        let aim = Aim { address, host: "backend".into(), protocol: Protocol::Http, rate, kept: 0, fresh: 32 };
        let (division, load) = (Division::Instances, Load::start(&aim));
        Some(Self { namespace, scene, division, load, plane: Plane::KubeProxy { _process: proxy } })
    }

    async fn scene(namespace: &'a Namespace, router: &str, before: &str, after: &str) -> Option<Scene<'a>> {
        let mut scene = Scene::over(namespace, before, &[("backend", after)], router).await?;
        // Pods that answer slowly are bad, and yet no request fails.
        scene.canary()["analysis"]["metrics"][1]["fail"] = "> 200ms".into();
        scene.canary()["bake"] = bake().into();
        // Six of these share two cores: how soon pods are ready is not what is looked at here.
        scene.canary()["ready-deadline"] = "4m".into();
        Some(scene)
    }

    /// Carries the release out, and checks what the requests met.
    async fn release(self, outcome: &str, serves: &str) -> Finished {
        let finished = self.scene.release().await;
        self.end(finished, outcome, serves).await
    }

    async fn end(self, finished: Finished, outcome: &str, serves: &str) -> Finished {
        finished.ended(outcome);
        self.scene.assert_serves(serves).await;
        let report = ended(self.namespace, self.load, &finished.events).await;
        report.assert_none_failed();
        check_shares(&finished.events, &report, self.division);
        finished
    }
}

/// How many requests a second each test sends.
fn rate() -> u32 {
    asked("MOODIFY_TRAFFIC_RATE").unwrap_or(RATE)
}

/// How long a good weight stands.
fn bake() -> String {
    format!("{}s", asked("MOODIFY_TRAFFIC_BAKE").unwrap_or(BAKE))
}

fn asked(variable: &str) -> Option<u32> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_loses_no_request() {
    promotes("promote", "http-route", PROMPT, "v1", "v2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_of_pods_that_stop_at_once_behind_a_late_gateway_loses_no_request() {
    promotes("promote-late", "http-route", LATE, "v1-undrained", "v2-undrained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_by_traefik_s_own_resources_loses_no_request() {
    promotes("promote-traefik", "traefik", LATE, "v1-undrained", "v2-undrained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_by_the_annotations_of_nginx_loses_no_request() {
    promotes("promote-nginx", "ingress-nginx", LATE, "v1-undrained", "v2-undrained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_by_istio_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("promote-istio").await.quiet();
    let Some(stage) = Stage::behind_istio(&namespace, LATE, "v1-undrained", "v2-undrained").await else { return };
    stage.release("completed", "v2-undrained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_by_ratio_behind_a_service_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("promote-ratio").await.quiet();
    let Some(stage) = Stage::behind_its_service(&namespace, "replica-ratio", "v1", "v2").await else { return };
    stage.release("completed", "v2").await;
}

/// Releases what is good, and expects it to serve without a failed request.
async fn promotes(name: &str, router: &str, throttle: Duration, before: &str, after: &str) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await.quiet();
    let Some(stage) = Stage::behind_traefik(&namespace, router, throttle, before, after).await else { return };
    stage.release("completed", after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_10_loses_no_request() {
    comes_back("back-10", "http-route", PROMPT, "v1", "v2-slow300after15s", "rollout-bake-10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_50_loses_no_request() {
    let slow = "v2-slow300after15s-when3-undrained";
    comes_back("back-50", "http-route", LATE, "v1-undrained", slow, "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_from_100_loses_no_request() {
    comes_back("back-100", "http-route", PROMPT, "v1", "v2-slow300after15s-when5", "rollout-bake-100").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_traefik_s_own_resources_loses_no_request() {
    let slow = "v2-slow300after15s-when3-undrained";
    comes_back("back-traefik", "traefik", LATE, "v1-undrained", slow, "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_the_annotations_of_nginx_loses_no_request() {
    let slow = "v2-slow300after15s-when3-undrained";
    comes_back("back-nginx", "ingress-nginx", LATE, "v1-undrained", slow, "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_istio_from_10_loses_no_request() {
    comes_back_by_istio("back-istio-10", PROMPT, "v1", "v2-slow300after15s", "rollout-bake-10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_istio_from_50_loses_no_request() {
    let slow = "v2-slow300after15s-when3-undrained";
    comes_back_by_istio("back-istio-50", LATE, "v1-undrained", slow, "rollout-bake-50").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_istio_from_100_loses_no_request() {
    comes_back_by_istio("back-istio-100", PROMPT, "v1", "v2-slow300after15s-when5", "rollout-bake-100").await;
}

async fn comes_back_by_istio(name: &str, lag: Duration, before: &str, after: &str, last_step: &str) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await.quiet();
    let Some(stage) = Stage::behind_istio(&namespace, lag, before, after).await else { return };
    stage.comes_back(before, last_step).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_back_by_ratio_behind_a_service_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("back-ratio").await.quiet();
    let Some(stage) = Stage::behind_its_service(&namespace, "replica-ratio", "v1", "v2-slow300after15s-when3").await
    else {
        return;
    };
    stage.comes_back("v1", "rollout-bake-50").await;
}

/// Traefik's own resources report nothing: what is watched is the weight that its answers show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weight_is_watched_when_a_late_traefik_answers_by_it() {
    /// Longer than pods take, together with what is waited for after they are there.
    const VERY_LATE: Duration = Duration::from_secs(12);
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("verify-late").await.quiet();
    let Some(mut stage) = Stage::behind_traefik(&namespace, "traefik", VERY_LATE, "v1", "v2").await else { return };
    stage.verified_at("backend.test");
    stage.scene.canary()["bake"] = "6s".into();
    let finished = stage.scene.release().await;
    finished.ended("completed");
    stage.scene.assert_serves("v2").await;
    let report = stage.load.stop().await;
    for weight in [10, 50, 100] {
        let (step, share) = (format!("rollout-bake-{weight}"), f64::from(weight) / 100.0);
        let begin = finished.events.iter().find(|e| e["event"] == "step-started" && e["step"] == step.as_str());
        let begin: Timestamp = begin.and_then(|e| e["time"].as_str()?.parse().ok()).expect("it was watched");
        // Not later on, when any data plane has followed.
        let got = report.share("v2", begin, begin + SignedDuration::from_secs(2));
        println!("  at first of {weight} %: {:.2} % of {} requests", got.fraction() * 100.0, got.all);
        assert!(got.all > 100, "{got:?}");
        assert!(got.fraction() >= 0.8 * share, "{weight} % was watched while the data plane gave {got:?}");
    }
}

/// Nothing that is set comes into force where the answers come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traefik_that_never_follows_takes_the_release_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("verify-never").await.quiet();
    let Some(mut stage) = Stage::behind_traefik(&namespace, "traefik", PROMPT, "v1", "v2").await else { return };
    // This host's requests go to the stable pods, whatever the weights are.
    let frozen = json!({
        "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": "frozen"},
        "spec": {"routes": [{"kind": "Rule", "match": "Host(`frozen.test`)",
            "services": [{"kind": "Service", "name": "backend", "port": 80}]}]},
    });
    namespace.apply(&frozen.to_string()).await;
    stage.verified_at("frozen.test");
    stage.scene.plan["release"]["services"][0]["traffic"]["verify"]["within"] = "5s".into();
    let finished = stage.scene.release().await;
    let summary = finished.ended("rolled-back");
    assert!(summary.contains("the data plane does not follow: of 10 % for v2 it gives 0.0 % after 5s"), "{summary}");
    assert!(!finished.began("rollout-bake-10"), "it is not watched: {summary}");
    stage.scene.assert_serves("v1").await;
    stage.load.stop().await.assert_none_failed();
}

impl Stage<'_> {
    /// Lets the plan ask the data plane for this host.
    fn verified_at(&mut self, host: &str) {
        let Plane::Traefik { process } = &self.plane else { panic!("there is no Traefik") };
        let url = format!("http://{}/", process.address());
        let verify = json!({"url": url, "host": host, "version-header": "x-version"});
        self.scene.plan["release"]["services"][0]["traffic"]["verify"] = verify;
    }
}

/// Releases what becomes slow at a weight, and expects it back without a failed request.
async fn comes_back(name: &str, router: &str, throttle: Duration, before: &str, after: &str, last_step: &str) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await.quiet();
    let Some(stage) = Stage::behind_traefik(&namespace, router, throttle, before, after).await else { return };
    stage.comes_back(before, last_step).await;
}

impl Stage<'_> {
    async fn comes_back(mut self, before: &str, last_step: &str) {
        // Good weights must not stand long, and the bad one has to stand until it is seen to be bad.
        let bake = |weight| {
            let bad = last_step == format!("rollout-bake-{weight}");
            if bad { "60s".to_owned() } else { bake() }
        };
        self.scene.canary()["bake"] = json!([bake(10), bake(50), bake(100)]);
        let finished = self.release("rolled-back", before).await;
        assert!(finished.began(last_step), "it came as far as {last_step}");
        assert!(!finished.began("rollout-promote"), "and no further");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("abort").await.quiet();
    let (before, after) = ("v1-undrained", "v2-undrained");
    let Some(stage) = Stage::behind_traefik(&namespace, "http-route", PROMPT, before, after).await else { return };
    stage.aborts(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_by_istio_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("abort-istio").await.quiet();
    let (before, after) = ("v1-undrained", "v2-undrained");
    let Some(stage) = Stage::behind_istio(&namespace, LATE, before, after).await else { return };
    stage.aborts(before).await;
}

impl Stage<'_> {
    async fn aborts(self, before: &str) {
        let mut running = self.scene.start_release();
        running.until_step("rollout-bake-50").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let output = self.scene.run(&["abort", "--reason", "the head of support asked for it"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let finished = running.finish().await;
        self.end(finished, "rolled-back", before).await;
    }
}

/// The first release takes plain objects over, the second goes back to where the first came from, and is taken back; then
/// moodify leaves, and the objects are plain again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deployments_that_take_turns_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("turns").await.quiet();
    let (before, after) = ("v1-undrained", "v2-undrained");
    let Some(mut stage) = Stage::behind_traefik(&namespace, "http-route", LATE, before, after).await else { return };
    stage.scene.take_turns("1s").await;
    stage.takes_turns().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deployments_that_take_turns_by_istio_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("turns-istio").await.quiet();
    let (before, after) = ("v1-undrained", "v2-undrained");
    let Some(mut stage) = Stage::behind_istio(&namespace, LATE, before, after).await else { return };
    // The other Deployment's pods are not in the subset: all requests would fail when it serves.
    stage.scene.take_turns("1s").await;
    let refused = stage.scene.release().await;
    assert!(!refused.began("rollout-deploy") && refused.code != 0, "{}", refused.stderr);
    assert!(refused.stderr.contains("leads to backend (subset v1)"), "{}", refused.stderr);
    let alone = r#"[{"op": "remove", "path": "/spec/http/1/route/0/destination/subset"}]"#;
    namespace
        .kubectl(&["patch", "virtualservices.networking.istio.io", "backend", "--type=json", "--patch", alone])
        .await;
    stage.takes_turns().await;
}

impl Stage<'_> {
    async fn takes_turns(mut self) {
        let first = self.scene.release().await;
        first.ended("completed");
        self.scene.plan["release"]["version"] = "v3".into();
        self.scene.plan["release"]["services"][0]["image"] = "registry.test/backend:v3-undrained".into();
        self.scene.turns()["bake"] = "2s".into();
        let second = self.scene.release().await;
        second.ended("completed");
        let run = second.events[0]["run"].as_str().expect("an event names its run").to_owned();
        self.scene.start(&["undo", &run, "--reason", "customers complain"]).finish().await.ended("completed");
        self.scene.leave().await.ended("completed");
        let alone = Some(("registry.test/backend:v2-undrained".to_owned(), 5));
        assert_eq!(self.scene.workload("backend").await, alone);
        assert_eq!(self.scene.workload("backend-green").await, None);
        let report = ended(self.namespace, self.load, &first.events).await;
        report.assert_none_failed();
        check_shares(&first.events, &report, self.division);
    }
}

/// Some of the requests are copied to the new version before it gets any: it does what they ask for, and nobody hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_by_istio_reach_the_new_version_and_no_client() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-istio").await.quiet();
    let Some(stage) = Stage::behind_istio(&namespace, PROMPT, "v1", "v2").await else { return };
    stage.copies_reach_no_client().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_by_the_gateway_api_reach_the_new_version_and_no_client() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-gateway").await.quiet();
    let Some(stage) = Stage::behind_istio_gateway(&namespace, "v1", "v2").await else { return };
    stage.copies_reach_no_client().await;
}

/// Traefik sends copies to the address of the canary's Service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_by_traefik_reach_the_new_version_and_no_client() {
    let Some(rig) = Rig::own().await else { return };
    let Some(_proxy) = rig.kube_proxy().await else { return };
    let namespace = rig.namespace("mirror-traefik").await.quiet();
    let Some(stage) = Stage::behind_traefik(&namespace, "traefik", PROMPT, "v1", "v2").await else { return };
    stage.copies_reach_no_client().await;
}

impl Stage<'_> {
    async fn copies_reach_no_client(mut self) {
        const PERCENT: f64 = 20.0;
        self.scene.canary()["mirror"] = json!({"percent": PERCENT as u8, "for": "30s"});
        self.scene.grant().await;
        let stage = self;
        let mut running = stage.scene.start_release();
        let counts = async || (stage.namespace.answered("backend-canary-").await, stage.load.so_far().requests());
        running.until_step("rollout-watch-mirror").await;
        while counts().await.0 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let before = counts().await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let after = counts().await;
        let (copies, requests) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
        println!("  {copies} copies of {requests} requests");
        let share = PERCENT / 100.0;
        // The two are not counted at the same moment, which may be off by what is sent in half a second at either end.
        let slack = stage.division.slack(share, requests as usize) + share * f64::from(rate());
        assert!((copies - share * requests).abs() <= slack, "{copies} copies of {requests} requests");
        assert_eq!(stage.load.so_far().last("v2"), None, "no client is answered by it");

        // With a share of its own, it gets that and no copies: they would be twice as many again.
        running.until_step("rollout-bake-10").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (from, before) = (wall_clock(), counts().await.0);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (to, after) = (wall_clock(), counts().await.0);
        let (got, own) = (after - before, stage.load.so_far().share("v2", from, to).of as u64);
        println!("  then {got} requests, of which clients know {own}");
        assert!(own > 20 && got < own * 3 / 2 + 30, "it got {got}, of which clients know {own}");
        let finished = running.finish().await;
        stage.end(finished, "completed", "v2").await;
    }
}

/// What only copies of requests have shown is taken back before a client has seen it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_copies_by_istio_no_client_gets() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("mirror-back").await.quiet();
    let Some(stage) = Stage::behind_istio(&namespace, LATE, "v1", "v2-err30").await else { return };
    stage.fails_on_copies().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_copies_by_traefik_no_client_gets() {
    let Some(rig) = Rig::own().await else { return };
    let Some(_proxy) = rig.kube_proxy().await else { return };
    let namespace = rig.namespace("mirror-back-traefik").await.quiet();
    let Some(stage) = Stage::behind_traefik(&namespace, "traefik", LATE, "v1", "v2-err30").await else { return };
    stage.fails_on_copies().await;
    let left = namespace.kubectl(&["get", "traefikservices.traefik.io", "--output", "name"]).await;
    assert_eq!(left.trim(), "traefikservice.traefik.io/backend", "nothing of ours is left");
}

impl Stage<'_> {
    async fn fails_on_copies(mut self) {
        let router = self.scene.plan["release"]["services"][0]["traffic"]["router"].clone();
        let router = router.as_str().expect("a router");
        let before = self.scene.routing(router, "backend").await;
        self.scene.canary()["mirror"] = json!({"for": "60s"});
        self.scene.grant().await;
        let finished = self.scene.release().await;
        let summary = finished.ended("rolled-back");
        assert!(!finished.began("rollout-shift-10"), "{summary}");
        self.scene.assert_serves("v1").await;
        assert_eq!(self.scene.routing(router, "backend").await, before);
        let report = ended(self.namespace, self.load, &finished.events).await;
        report.assert_none_failed();
        assert_eq!(report.last("v2"), None);
    }
}

/// What served before has all its pods: the way back is a switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_while_the_old_one_is_kept_loses_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("turns-abort").await.quiet();
    let (before, after) = ("v1-undrained", "v2-undrained");
    let Some(mut stage) = Stage::behind_traefik(&namespace, "http-route", LATE, before, after).await else { return };
    stage.scene.take_turns("10m").await;
    let mut running = stage.scene.start_release();
    running.until_step("rollout-keep-old").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let output = stage.scene.run(&["abort", "--reason", "a customer called"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let finished = running.finish().await;
    stage.end(finished, "rolled-back", before).await;
}

/// Without a gateway: the Service is switched. One release is good and stays, the next one is bad and comes back; then the
/// good one is taken back too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_of_the_selector_and_one_back_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("switch").await.quiet();
    let Some(mut stage) = Stage::behind_its_service(&namespace, "service-selector", "v1", "v2").await else { return };
    stage.scene.canary()["weights"] = json!([100]);
    stage.scene.take_turns("5s").await;
    let first = stage.scene.release().await;
    first.ended("completed");
    stage.scene.plan["release"]["version"] = "v3".into();
    stage.scene.plan["release"]["services"][0]["image"] = "registry.test/backend:v3-slow300after15s".into();
    stage.scene.turns()["bake"] = "60s".into();
    let second = stage.scene.release().await;
    second.ended("rolled-back");
    assert!(second.began("rollout-bake-100"), "it was switched");
    let run = first.events[0]["run"].as_str().expect("a run");
    let undone = stage.scene.start(&["undo", run, "--reason", "customers complain"]).finish().await;
    undone.ended("completed");
    // The data plane is a little behind.
    let back = wall_clock() + SignedDuration::from_secs(4);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let report = ended(&namespace, stage.load, &first.events).await;
    let again = report.share("v1", back, Timestamp::MAX);
    assert!(again.all > 100 && again.of == again.all, "{again:?}");
    report.assert_none_failed();
    check_shares(&first.events, &report, Division::Instances);
}

impl Stage<'_> {
    /// Lets the Deployment itself get the new version, by this strategy.
    async fn in_one(&mut self, strategy: &str) {
        let mut settings = self.scene.canary().take();
        let weights = settings.as_object_mut().and_then(|settings| settings.remove("weights")).expect("weights");
        if strategy == "rolling" {
            settings["batches"] = weights;
        }
        self.scene.plan["phases"][0]["strategy"] = json!({strategy: settings});
        self.scene.grant().await;
    }
}

/// When an event of a step was.
fn time_of(finished: &Finished, kind: &str, step: &str) -> Timestamp {
    let event = finished.events.iter().find(|e| e["event"] == kind && e["step"] == step);
    event.and_then(|e| e["time"].as_str()?.parse().ok()).unwrap_or_else(|| panic!("no {kind} of {step}"))
}

/// While a batch is watched, the Deployment is held. It has replaced as many pods as it may at once, which are more than the
/// batch has: one of 5 is missing and two are in excess, so that 3 of 7 are new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_in_the_deployment_itself_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("rolling").await.quiet();
    let Some(mut stage) = Stage::behind_its_service(&namespace, "replica-ratio", "v1", "v2").await else { return };
    // Pods that count as soon as they answer are replaced faster than anybody can pause.
    namespace.kubectl(&["patch", "deployment", "backend", "-p", r#"{"spec": {"minReadySeconds": 10}}"#]).await;
    namespace.kubectl(&["rollout", "status", "deployment/backend", "--timeout=60s"]).await;
    stage.in_one("rolling").await;
    let finished = stage.scene.release().await;
    finished.ended("completed");
    stage.scene.assert_serves("v2").await;
    let report = ended(&namespace, stage.load, &finished.events).await;
    report.assert_none_failed();
    for percent in [10, 50] {
        let step = format!("rollout-bake-{percent}");
        let from = time_of(&finished, "step-started", &step) + SignedDuration::from_secs(4);
        let (got, share) = (report.share("v2", from, time_of(&finished, "step-finished", &step)), 3.0 / 7.0);
        let most = share * got.all as f64 + Division::Instances.slack(share, got.all);
        println!("  at {percent} %: {:.1} % of {} requests", got.fraction() * 100.0, got.all);
        assert!(got.all > 100 && got.of > 0 && got.of as f64 <= most, "{percent} %: {got:?}, at most {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_come_back_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("rolling-back").await.quiet();
    let after = "v2-slow300after15s";
    let Some(mut stage) = Stage::behind_its_service(&namespace, "replica-ratio", "v1", after).await else { return };
    stage.scene.canary()["bake"] = "60s".into();
    stage.in_one("rolling").await;
    let finished = stage.scene.release().await;
    finished.ended("rolled-back");
    stage.scene.assert_serves("v1").await;
    assert!(finished.began("rollout-bake-10") && !finished.began("rollout-bake-50"));
    ended(&namespace, stage.load, &finished.events).await.assert_none_failed();
}

/// What cannot run twice has a gap: requests fail in it, and neither before nor after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_start_fails_only_while_nothing_runs() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("recreate").await.quiet();
    let Some(mut stage) = Stage::behind_its_service(&namespace, "replica-ratio", "v1", "v2").await else { return };
    stage.in_one("recreate").await;
    let finished = stage.scene.release().await;
    finished.ended("completed");
    stage.scene.assert_serves("v2").await;
    let report = ended(&namespace, stage.load, &finished.events).await;
    let stopped = time_of(&finished, "step-started", "rollout-stop");
    // The data plane is a little behind the pods, and a request may wait before it fails.
    let starts = time_of(&finished, "step-started", "rollout-start");
    let over = time_of(&finished, "step-finished", "rollout-start") + SignedDuration::from_secs(4);
    let outside: Vec<_> = report.failures.iter().filter(|f| f.done < stopped || f.sent > over).collect();
    assert!(outside.is_empty(), "{outside:?} are outside of {stopped} to {over}");
    assert_eq!(report.share("v1", starts, Timestamp::MAX).of, 0, "never both at once");
}

/// By its partition exactly as many pods are replaced as a batch has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_stateful_set_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("rolling-set").await.quiet();
    exact_batches(&namespace, "stateful-set", [(10, 1.0), (50, 3.0), (100, 5.0)], 5.0).await;
}

/// Node by node: one pod is deleted, and its successor answers before the next one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_daemon_set_lose_no_request() {
    let Some(rig) = Rig::own().await else { return };
    let nodes = rig.two_more_nodes().await;
    let namespace = rig.namespace("rolling-daemons").await.quiet();
    exact_batches(&namespace, "daemon-set", [(10, 1.0), (50, 2.0), (100, 3.0)], 3.0).await;
    namespace.kubectl(&["delete", "daemonset", "backend", "--cascade=foreground", "--timeout=60s"]).await;
    nodes.delete().await;
}

/// Releases a workload batch by batch; of each batch is known how many of all pods it has.
async fn exact_batches(namespace: &Namespace, kind: &str, batches: [(u32, f64); 3], all: f64) {
    let Some(mut stage) = Stage::of_kind(kind, namespace, "replica-ratio", "v1", "v2").await else { return };
    // Prometheus knows the pods of the rig's own node only.
    let metrics = stage.scene.canary()["analysis"]["metrics"].as_array_mut().expect("metrics");
    metrics.retain(|metric| kind != "daemon-set" || metric["source"] == "pods");
    stage.in_one("rolling").await;
    let finished = stage.scene.release().await;
    finished.ended("completed");
    let report = ended(namespace, stage.load, &finished.events).await;
    report.assert_none_failed();
    for (percent, instances) in batches {
        let step = format!("rollout-bake-{percent}");
        let from = time_of(&finished, "step-started", &step) + SignedDuration::from_secs(4);
        let (got, share) = (report.share("v2", from, time_of(&finished, "step-finished", &step)), instances / all);
        let (expected, slack) = (share * got.all as f64, Division::Instances.slack(share, got.all));
        assert!(
            got.all > 100 && (got.of as f64 - expected).abs() <= slack,
            "{percent} %: {got:?}, {expected} +- {slack}"
        );
    }
}
