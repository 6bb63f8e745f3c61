//! Each kind of fault does what it says, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use common::{cx, secs, target, weight};
use futures::StreamExt;
use moodify_core::backend::{CanarySpec, Traffic, WeightChange};
use moodify_core::model::{Target, Weight};
use moodify_core::testing::{BackendKind, Edit, Edited, Fault, Rule, Scenario, Simulator};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use tokio::time::sleep;

const SHIFT: WeightChange = WeightChange { from: Weight::ZERO, to: Weight::new(10).unwrap(), capacity: 5 };

struct Bench {
    simulator: Simulator,
    target: Target,
}

impl Bench {
    fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let target = target("backend", "http-route");
        let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
        for rule in rules {
            simulator.faults().add(rule);
        }
        Self { simulator, target }
    }

    async fn set(&self, change: WeightChange) -> Result<Traffic> {
        let cx: CallContext = cx("shift").at_most(secs(10));
        self.simulator.backends().router("http-route").unwrap().set(&cx, &self.target, change).await
    }

    async fn read(&self) -> Result<Traffic> {
        self.simulator.backends().router("http-route").unwrap().read(&cx("read"), &self.target).await
    }

    fn weight(&self) -> u8 {
        self.simulator.world().service("backend").unwrap().route.unwrap().percent()
    }

    fn expect(&self, error: &Error, kind: ErrorKind, effect: Effect, weight: u8) {
        assert_eq!((error.kind(), error.effect_of(), self.weight()), (kind, effect, weight), "{error}");
    }
}

fn rule(fault: Fault) -> Rule {
    Rule::new(fault).backend(BackendKind::Router).operation("set")
}

#[tokio::test(start_paused = true)]
async fn errors_before_and_after_the_effect() {
    let bench = Bench::new([rule(Fault::ErrorBefore(ErrorKind::Throttled)).nth(1)]);
    bench.expect(&bench.set(SHIFT).await.unwrap_err(), ErrorKind::Throttled, Effect::None, 0);
    bench.set(SHIFT).await.unwrap();
    assert_eq!(bench.weight(), 10);

    let bench = Bench::new([rule(Fault::ErrorAfter(ErrorKind::Unavailable)).times(1)]);
    bench.expect(&bench.set(SHIFT).await.unwrap_err(), ErrorKind::Unavailable, Effect::Unknown, 10);
    bench.set(SHIFT).await.unwrap();
    assert_eq!(bench.simulator.world().writes().len(), 1, "the repeat found it done");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_ends_at_its_deadline_with_or_without_the_effect() {
    for (effect, weight) in [(false, 0), (true, 10)] {
        let bench = Bench::new([rule(Fault::Hang { effect })]);
        bench.expect(&bench.set(SHIFT).await.unwrap_err(), ErrorKind::Timeout, Effect::Unknown, weight);
        assert_eq!(bench.simulator.world().now(), secs(10));
        let call = bench.simulator.world().calls().remove(0);
        assert_eq!((call.fault, call.outcome), (Some(Fault::Hang { effect }), Some(Err(ErrorKind::Timeout))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_only_takes_time() {
    let bench = Bench::new([rule(Fault::Stall(secs(7)))]);
    bench.set(SHIFT).await.unwrap();
    assert!(bench.simulator.world().now() > secs(7));
    assert_eq!(bench.weight(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_stale_read_is_exactly_what_was_true_then() {
    let stale = Rule::new(Fault::Stale(secs(5))).backend(BackendKind::Router).operation("read").nth(1);
    let bench = Bench::new([stale.clone(), stale.nth(2)]);
    bench.set(SHIFT).await.unwrap();
    sleep(secs(2)).await;
    assert_eq!(bench.read().await.unwrap().weight, weight(0), "as it was before");
    sleep(secs(5)).await;
    assert_eq!(bench.read().await.unwrap().weight, weight(10), "old, but new enough");
    assert_eq!(bench.read().await.unwrap().weight, weight(10));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_an_idempotent_call_is_one_effect() {
    let bench = Bench::new([rule(Fault::Duplicate)]);
    bench.set(SHIFT).await.unwrap();
    assert_eq!(bench.simulator.world().writes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_request_arrives_when_nobody_waits_and_wakes_watchers() {
    let bench = Bench::new([rule(Fault::Late(secs(30)))]);
    let router = bench.simulator.backends().router("http-route").unwrap().clone();
    let mut watch = router.watch(&cx("see"), &bench.target).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().weight, weight(0));
    bench.expect(&bench.set(SHIFT).await.unwrap_err(), ErrorKind::Timeout, Effect::Unknown, 0);
    assert_eq!(watch.next().await.unwrap().unwrap().weight, weight(10));
    let passed = bench.simulator.world().now();
    assert!(passed >= secs(30) && passed < secs(31), "{passed:?}");
    assert_eq!(bench.simulator.world().writes()[0].key.as_ref().unwrap().as_str(), "shift");
}

#[tokio::test(start_paused = true)]
async fn a_late_request_that_is_overtaken_is_refused_by_its_own_comparison() {
    let bench = Bench::new([rule(Fault::Late(secs(30))).nth(2)]);
    bench.set(SHIFT).await.unwrap();
    bench.set(WeightChange { from: weight(10), to: weight(50), capacity: 5 }).await.unwrap_err();
    bench.simulator.backends().router("http-route").unwrap().reset(&cx("back"), &bench.target, 5).await.unwrap();
    sleep(secs(60)).await;
    assert_eq!(bench.weight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_partition_fails_calls_and_silences_watches_which_catch_up() {
    let bench = Bench::new([]);
    let router = bench.simulator.backends().router("http-route").unwrap().clone();
    let mut watch = router.watch(&cx("see"), &bench.target).await.unwrap();
    watch.next().await.unwrap().unwrap();
    bench.simulator.faults().partition(BackendKind::Router, secs(10), secs(30));
    sleep(secs(10)).await;
    bench.expect(&bench.set(SHIFT).await.unwrap_err(), ErrorKind::Unavailable, Effect::None, 0);
    assert!(router.watch(&cx("see"), &bench.target).await.is_err());
    assert!(bench.simulator.world().edit(&Edit::new("backend", Edited::Route)));
    let seen = watch.next().await.unwrap().unwrap();
    assert_eq!(seen.edited_by.as_deref(), Some("kubectl-edit"));
    assert_eq!(bench.simulator.world().now(), secs(30));
    bench.set(WeightChange { from: weight(1), ..SHIFT }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rules_hit_what_they_name_and_chance_comes_from_the_seed() {
    let bench = Bench::new([
        rule(Fault::ErrorBefore(ErrorKind::Internal)).service("frontend"),
        rule(Fault::ErrorBefore(ErrorKind::Internal)).between(secs(100), secs(200)),
    ]);
    bench.set(SHIFT).await.unwrap();
    sleep(secs(100)).await;
    assert_eq!(bench.set(SHIFT).await.unwrap_err().kind(), ErrorKind::Internal);
    bench.simulator.faults().clear();
    bench.set(SHIFT).await.unwrap();

    let history = async || {
        let reads = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).operation("read").probability(0.3);
        let bench = Bench::new([reads]);
        let mut failed = Vec::new();
        for _ in 0..200 {
            failed.push(bench.read().await.is_err());
        }
        failed
    };
    let first = history().await;
    assert_eq!(first, history().await);
    let count = first.iter().filter(|failed| **failed).count();
    assert!((40..80).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_ratio_router_are_around_the_whole_and_inside_it() {
    let target = target("backend", "replica-ratio");
    let simulator = Simulator::new(std::slice::from_ref(&target), Scenario::default());
    simulator.faults().add(rule(Fault::ErrorAfter(ErrorKind::Unavailable)).times(1));
    let backends = simulator.backends();
    let spec = CanarySpec::new(target.service.image.clone(), "v2", 1, true);
    backends.deployer().unwrap().deploy(&cx("deploy"), &target, &spec).await.unwrap();
    let router = backends.router("replica-ratio").unwrap();
    let error = router.set(&cx("shift"), &target, WeightChange { to: weight(50), ..SHIFT }).await.unwrap_err();
    assert_eq!(error.effect_of(), Effect::Unknown);
    assert!((simulator.world().share("backend", &target.service.image) - 0.5).abs() < 1e-9, "it is in force");

    simulator.faults().add(Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).operation("scale").nth(1));
    let change = WeightChange { from: weight(50), to: weight(100), capacity: 5 };
    assert_eq!(router.set(&cx("shift"), &target, change).await.unwrap_err().kind(), ErrorKind::Unavailable);
    router.set(&cx("shift"), &target, change).await.unwrap();
    assert!((simulator.world().share("backend", &target.service.image) - 1.0).abs() < 1e-9);
}
