//! The simulated world does what its scenario says, exactly and always the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use std::time::Duration;

use common::{cx, cx_of, image, secs, target, weight};
use futures::StreamExt;
use moodify_core::analysis::metrics;
use moodify_core::backend::{
    ApprovalRequest, CanarySpec, DeployerExt, ImageChange, MetricQuery, ProbeRequest, Scale, WeightChange,
};
use moodify_core::model::{ConfigRefs, Target, Track};
use moodify_core::testing::{Answer, BackendKind, Behaviour, Edit, Edited, Flow, Scenario, Simulator, Write};
use moodify_core::{Backends, ErrorKind};
use tokio::time::sleep;

fn spec(target: &Target, replicas: u32, shares_service: bool) -> CanarySpec {
    CanarySpec::new(target.service.image.clone(), "v2", replicas, shares_service)
}

async fn available(backends: &Backends, target: &Target, track: Track, count: u32) {
    let done = move |w: &moodify_core::backend::Workload| w.has_available(count) && w.replicas.total == count;
    backends.deployer().unwrap().wait(&cx("wait"), target, track, &done, &|_| ()).await.unwrap();
}

/// A canary of 5 instances, ready, with this weight.
async fn at_weight(simulator: &Simulator, target: &Target, from: u8, to: u8) {
    let backends = simulator.backends();
    if from == 0 {
        backends.deployer().unwrap().deploy(&cx("deploy"), target, &spec(target, 5, false)).await.unwrap();
        available(&backends, target, Track::Canary, 5).await;
    }
    let change = WeightChange { from: weight(from), to: weight(to), capacity: 5 };
    backends.router("http-route").unwrap().set(&cx("shift"), target, change).await.unwrap();
    sleep(secs(1)).await;
}

async fn figure(simulator: &Simulator, target: &Target, track: Track, metric: &str) -> Option<f64> {
    let query = MetricQuery::new(metric, target.clone(), track, "w", "v2");
    let backends = simulator.backends();
    backends.metric_source("prometheus").unwrap().query(&cx("measure"), &query).await.unwrap().value
}

/// A release through every weight, and promoted, with bakes of 15 minutes.
async fn release(simulator: &Simulator, target: &Target) -> (Vec<Flow>, Vec<Write>) {
    let backends = simulator.backends();
    let (deployer, router) = (backends.deployer().unwrap(), backends.router(&target.service.traffic.router).unwrap());
    let shared = target.service.traffic.router == "replica-ratio";
    let first = if shared { 1 } else { 5 };
    deployer.deploy(&cx("deploy"), target, &spec(target, first, shared)).await.unwrap();
    available(&backends, target, Track::Canary, first).await;
    for (from, to) in [(0, 10), (10, 50), (50, 100)] {
        let change = WeightChange { from: weight(from), to: weight(to), capacity: 5 };
        router.set(&cx("shift"), target, change).await.unwrap();
        sleep(secs(900)).await;
    }
    let (from, to) = (image(&target.service.name, "previous"), target.service.image.clone());
    let scale = shared.then_some(Scale { from: 0, to: 5 });
    deployer
        .set_image(&cx("promote"), target, &ImageChange { from, to, config: ConfigRefs::new(), scale })
        .await
        .unwrap();
    available(&backends, target, Track::Stable, 5).await;
    router.reset(&cx("back"), target, 5).await.unwrap();
    sleep(secs(1)).await;
    deployer.remove(&cx("remove"), target).await.unwrap();
    (simulator.world().flows(), simulator.world().writes())
}

#[tokio::test(start_paused = true)]
async fn a_release_ends_with_all_pods_new_and_never_loses_a_request() {
    for router in ["http-route", "replica-ratio"] {
        let target = target("backend", router);
        let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
        let (flows, writes) = release(&simulator, &target).await;
        assert!(simulator.world().now() > secs(2700));
        assert!(flows.iter().all(|flow| flow.lost == 0.0), "{router}: {flows:#?}");
        assert!((simulator.world().share("backend", &target.service.image) - 1.0).abs() < 1e-9, "{router}");
        assert!(simulator.world().canaries().is_empty());
        let stable = simulator.world().service("backend").unwrap().stable.unwrap();
        assert!(stable.is_complete() && stable.image == target.service.image, "{stable:?}");
        assert!(writes.iter().all(|w| w.run.as_ref().is_some_and(|run| run.as_str() == "r1")), "{writes:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_is_the_same_history() {
    let scenario = || Scenario::default().canary(Behaviour::unready(0.4).from_weight(50).until(secs(600))).seed(7);
    let mut histories = Vec::new();
    for _ in 0..2 {
        let target = target("backend", "http-route");
        let simulator = Simulator::new(std::slice::from_ref(&target), scenario());
        let history = release(&simulator, &target).await;
        let value = figure(&simulator, &target, Track::Stable, metrics::ERROR_RATE).await;
        histories.push((history, value, simulator.world().calls()));
    }
    let (one, two) = (&histories[0], &histories[1]);
    assert_eq!(one, two);
}

#[tokio::test(start_paused = true)]
async fn each_version_has_its_own_figures_and_only_while_it_has_traffic() {
    let target = target("backend", "http-route");
    let scenario =
        Scenario::default().canary(Behaviour::error_rate(0.12).from_weight(50).after(secs(60)).until(secs(90)));
    let simulator = Simulator::new(std::slice::from_ref(&target), scenario);
    let rate = |track| figure(&simulator, &target, track, metrics::ERROR_RATE);
    assert_eq!(rate(Track::Canary).await, None, "there is none");
    at_weight(&simulator, &target, 0, 10).await;
    sleep(secs(600)).await;
    assert!(rate(Track::Canary).await.unwrap() < 0.01);
    at_weight(&simulator, &target, 10, 50).await;
    assert!(rate(Track::Canary).await.unwrap() < 0.01, "not yet");
    sleep(secs(60)).await;
    let bad = rate(Track::Canary).await.unwrap();
    assert!((0.11..0.13).contains(&bad), "{bad}");
    assert!(rate(Track::Stable).await.unwrap() < 0.01);
    sleep(secs(30)).await;
    assert!(rate(Track::Canary).await.unwrap() < 0.01, "over");
    simulator.backends().router("http-route").unwrap().reset(&cx("back"), &target, 5).await.unwrap();
    sleep(secs(1)).await;
    assert_eq!(rate(Track::Canary).await, None, "no traffic, no figures");
}

#[tokio::test(start_paused = true)]
async fn watches_tell_of_every_change_at_its_very_moment() {
    let target = target("backend", "http-route");
    let scenario = Scenario::default().canary(Behaviour::crash_loop().from_weight(50).after(secs(120)));
    let simulator = Simulator::new(std::slice::from_ref(&target), scenario);
    let backends = simulator.backends();
    at_weight(&simulator, &target, 0, 50).await;
    let begin = simulator.world().now();
    let mut pods = backends.diagnostics().unwrap().watch_pods(&cx("see"), &target, Track::Canary).await.unwrap();
    let looping = loop {
        let pods = pods.next().await.unwrap().unwrap();
        if pods.iter().all(|pod| pod.crash_looping) {
            break pods;
        }
    };
    let passed = simulator.world().now() - begin;
    // The route came into force half a second into the second that was slept away; the second crash is a loop.
    assert!(passed > secs(121) && passed < secs(122), "{passed:?}");
    assert!(looping.iter().all(|pod| !pod.ready && pod.was_ready && pod.restarts == 2));
    assert_eq!(looping[0].reason.as_deref(), Some("CrashLoopBackOff: exit code 1"));
    let flow = simulator.world().service("backend").unwrap().flow;
    assert!((flow.lost - 0.5).abs() < 1e-9, "{flow:?}");
    assert!(figure(&simulator, &target, Track::Canary, metrics::ERROR_RATE).await.is_none(), "nobody answers");
    assert_eq!(figure(&simulator, &target, Track::Canary, metrics::CRASH_LOOP).await, Some(5.0));
}

#[tokio::test(start_paused = true)]
async fn who_never_becomes_ready_is_given_up_with_the_reason() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::named("never-ready").unwrap());
    let deployer = simulator.backends().deployer.unwrap();
    deployer.deploy(&cx("deploy"), &target, &spec(&target, 1, false)).await.unwrap();
    let wait = deployer.wait(&cx("wait"), &target, Track::Canary, &|w| w.has_available(1), &|_| ()).await;
    let error = wait.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unhealthy);
    assert!(error.to_string().contains("ProgressDeadlineExceeded: Readiness probe failed"), "{error}");
    assert!(simulator.world().now() > secs(600));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_as_a_timeout() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::named("never-ready").unwrap());
    let deployer = simulator.backends().deployer.unwrap();
    deployer.deploy(&cx("deploy"), &target, &spec(&target, 1, false)).await.unwrap();
    let soon = cx("wait").at_most(secs(60));
    let error = deployer.wait(&soon, &target, Track::Canary, &|w| w.has_available(1), &|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("0 of 1 available"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn unready_is_at_least_the_share_asked_for() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::named("unready-at-50").unwrap());
    at_weight(&simulator, &target, 0, 50).await;
    sleep(secs(130)).await;
    assert_eq!(figure(&simulator, &target, Track::Canary, metrics::UNHEALTHY).await, Some(0.6));
    assert_eq!(figure(&simulator, &target, Track::Stable, metrics::UNHEALTHY).await, Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn foreign_edits_are_drift_everywhere_and_wait_for_their_object() {
    let target = target("backend", "http-route");
    let scenario = Scenario::default().edit(Edit::new("backend", Edited::Canary).after(secs(60)));
    let simulator = Simulator::new(std::slice::from_ref(&target), scenario);
    let backends = simulator.backends();
    let deployer = backends.deployer().unwrap();
    sleep(secs(120)).await;
    assert!(simulator.world().writes().is_empty(), "there is nothing to edit yet");
    let drift = deployer.deploy(&cx("deploy"), &target, &spec(&target, 1, false)).await;
    drift.unwrap();
    let error = deployer.observe(&cx("see"), &target, Track::Canary).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Drift);
    assert!(error.to_string().contains("kubectl-edit"), "{error}");
    let mut watch = deployer.watch(&cx("see"), &target, Track::Canary).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::Drift);
    assert!(watch.next().await.is_none());
    deployer.remove(&cx("remove"), &target).await.unwrap();
    assert!(simulator.world().canaries().is_empty());

    assert!(simulator.world().edit(&Edit::new("backend", Edited::Route).to(30)));
    let change = WeightChange { from: weight(10), to: weight(50), capacity: 5 };
    let error = backends.router("http-route").unwrap().set(&cx("shift"), &target, change).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Drift);
    assert!(error.to_string().contains("30 %") && error.to_string().contains("kubectl-edit"), "{error}");

    assert!(simulator.world().edit(&Edit::new("backend", Edited::StableReplicas).to(9)));
    let error = deployer.scale(&cx("scale"), &target, Track::Stable, Scale { from: 5, to: 4 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Drift);
}

#[tokio::test(start_paused = true)]
async fn the_canary_of_another_run_is_nobody_elses() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    let deployer = simulator.backends().deployer.unwrap();
    deployer.deploy(&cx("deploy"), &target, &spec(&target, 1, false)).await.unwrap();
    let other = deployer.deploy(&cx_of("r2", "deploy"), &target, &spec(&target, 1, false)).await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::AlreadyExists);
    deployer.remove(&cx_of("r2", "remove"), &target).await.unwrap();
    assert_eq!(simulator.world().canaries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn metrics_are_away_for_as_long_as_the_scenario_says() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::named("metrics-outage").unwrap());
    let source = simulator.backends().metrics["json"].clone();
    let query = MetricQuery::new(metrics::ERROR_RATE, target, Track::Stable, "backend-deployment", "v1");
    assert!(source.query(&cx("m"), &query).await.unwrap().value.is_some());
    sleep(secs(300)).await;
    assert_eq!(source.query(&cx("m"), &query).await.unwrap_err().kind(), ErrorKind::Unavailable);
    sleep(secs(600)).await;
    assert!(source.query(&cx("m"), &query).await.unwrap().value.is_some());
}

#[tokio::test(start_paused = true)]
async fn people_answer_as_the_scenario_says() {
    let request = ApprovalRequest { question: "ship?".into(), roles: vec!["CTO".into(), "DevOps lead".into()] };
    for (answer, count) in [(Answer::Yes, 2), (Answer::No, 2), (Answer::Silence, 0)] {
        let mut scenario = Scenario::default();
        scenario.approvals.answer = answer;
        let simulator = Simulator::new(&[target("backend", "http-route")], scenario);
        let approvals = simulator.backends().approvals.unwrap();
        approvals.request(&cx("ask"), &request).await.unwrap();
        approvals.request(&cx("ask"), &request).await.unwrap();
        assert!(approvals.decisions(&cx("ask")).await.unwrap().is_empty());
        sleep(secs(30)).await;
        let decisions = approvals.decisions(&cx("ask")).await.unwrap();
        assert_eq!(decisions.len(), count);
        assert!(decisions.iter().all(|d| d.approved == (answer == Answer::Yes)));
        assert_eq!(simulator.world().call_count(BackendKind::Approvals, "request"), 2);
        assert_eq!(simulator.world().writes().len(), 1, "asking twice is one question");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_see_what_a_request_would_see() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::named("crash-loop-at-50").unwrap());
    let probe = simulator.backends().probe.unwrap();
    let ask = async |url: &str| probe.probe(&cx("probe"), &ProbeRequest::get(url)).await;
    assert!(ask("http://backend.example/health").await.unwrap().healthy);
    assert!(!ask("http://backend-canary/health").await.unwrap().healthy, "there is none");
    at_weight(&simulator, &target, 0, 50).await;
    assert!(ask("http://backend-canary/health").await.unwrap().healthy);
    sleep(secs(121)).await;
    assert_eq!(ask("http://backend-canary/health").await.unwrap().status, Some(503));
    assert_eq!(ask("backend").await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_dead_engine_changes_nothing_and_hears_nothing() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    let (one, two) = (simulator.engine("one").backends(), simulator.engine("two").backends());
    simulator.world().kill("one");
    let short = cx("deploy").at_most(secs(5));
    let dead = one.deployer().unwrap().deploy(&short, &target, &spec(&target, 1, false)).await;
    assert_eq!(dead.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(simulator.world().writes().is_empty());
    two.deployer().unwrap().deploy(&cx("deploy"), &target, &spec(&target, 1, false)).await.unwrap();
    assert_eq!(simulator.world().writes()[0].by, "two");
}

#[tokio::test(start_paused = true)]
async fn a_rollout_replaces_pods_over_time_and_never_has_fewer_ready_than_asked_for() {
    let target = target("backend", "http-route");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    let deployer = simulator.backends().deployer.unwrap();
    let change = ImageChange {
        from: image("backend", "previous"),
        to: target.service.image.clone(),
        config: ConfigRefs::new(),
        scale: None,
    };
    deployer.set_image(&cx("promote"), &target, &change).await.unwrap();
    let states = std::sync::Mutex::new(Vec::new());
    let seen = |w: &moodify_core::backend::Workload| states.lock().unwrap().push(w.clone());
    deployer
        .wait(&cx("wait"), &target, Track::Stable, &moodify_core::backend::Workload::is_complete, &seen)
        .await
        .unwrap();
    let states = states.into_inner().unwrap();
    assert!(!states[0].observed, "the controller takes its time");
    assert!(states.iter().all(|w| w.replicas.available >= 5 && w.replicas.total <= 7), "{states:#?}");
    assert!(simulator.world().now() > Duration::from_secs(10), "two at a time, 5 s each");
    let half = simulator.world().flows().iter().any(|f| (0.3..0.7).contains(&f.share(&target.service.image)));
    assert!(half, "both versions serve meanwhile");
}

#[test]
fn backends_come_under_every_name_that_the_plan_uses() {
    let step = |action: &str, with: serde_json::Value| moodify_core::model::Step {
        name: action.into(),
        action: action.into(),
        with,
        deadline: None,
        retry: moodify_core::model::RetryPolicy::default(),
    };
    let steps = vec![
        step("bake", serde_json::json!({"analysis": {"metrics": [{"source": "grafana"}, {"source": "pods"}]}})),
        step("notify", serde_json::json!({"to": "chat", "title": "hello"})),
        step("backup", serde_json::json!({"store": "documentdb"})),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let target = target("backend", "mesh");
        let plan = moodify_core::Plan {
            name: "plan".into(),
            environment: moodify_core::model::Environment {
                name: target.environment.clone(),
                kind: moodify_core::model::EnvironmentKind::Production,
                namespace: target.namespace.clone(),
                gates: Vec::new(),
                backups: Vec::new(),
                audiences: std::collections::BTreeMap::new(),
            },
            release: moodify_core::model::Release { version: "v2".into(), services: vec![target.service] },
            phases: vec![moodify_core::model::Phase { name: "phase".into(), parallel: false, steps }].into(),
            backends: std::collections::BTreeMap::new(),
        };
        let backends = Simulator::for_plan(&plan, Scenario::default()).backends_for(&plan);
        assert!(backends.router("mesh").is_ok() && backends.router("replica-ratio").is_ok());
        assert!(backends.metric_source("grafana").is_ok() && backends.metric_source("pods").is_err());
        assert!(backends.notifier("chat").is_ok() && backends.backup_store("documentdb").is_ok());
    });
}
