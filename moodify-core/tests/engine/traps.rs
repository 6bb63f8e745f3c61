//! Twenty traps, each of which took users of other rollout tools down. A test is named after its trap and fails when it is
//! fallen into.

use std::time::Duration;

use moodify_core::Engine;
use moodify_core::analysis::sources;
use moodify_core::backend::Backends;
use moodify_core::engine::Ending;
use moodify_core::error::ErrorKind;
use moodify_core::journal::{Command, CommandKind, Outcome};
use moodify_core::model::{ImageRef, Plan, Weight};
use moodify_core::strategy::split;
use moodify_core::testing::{
    BackendKind, Behaviour, Edit, Edited, Fault, Flow, Rule, Scenario, ServiceView, Simulator,
};
use tokio_util::sync::CancellationToken;

use crate::common::*;

const BACKEND: &str = "backend";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The release of one service, so that its steps are its own.
fn single() -> Plan {
    let mut plan = brief(plan());
    plan.release.services.truncate(1);
    plan
}

fn with(plan: Plan, scenario: Scenario) -> Stage {
    let simulator = Simulator::builder(&plan.targets())
        .scenario(scenario)
        .starting_at("2026-11-24T15:30:00Z".parse().unwrap())
        .build();
    Stage::new(plan, simulator)
}

fn image(plan: &Plan) -> ImageRef {
    plan.release.services[0].image.clone()
}

/// Runs a release and wants this end, and the world as it says.
async fn ends(stage: &Stage, wanted: Outcome) -> String {
    let (_, ending) = stage.run().await;
    assert_eq!(outcome(&ending), wanted, "{ending:?}");
    assert_whole(&stage.simulator, &stage.plan, wanted);
    let Ending::Ended(_, summary) = ending else { panic!("interrupted") };
    summary
}

/// Runs a release, and looks at its first service after every change and ten times a second.
async fn watched(stage: &Stage, mut look: impl FnMut(&ServiceView)) -> Outcome {
    let world = stage.simulator.world();
    let watch = async {
        let mut changes = world.changes();
        loop {
            look(&world.service(BACKEND).unwrap());
            tokio::select! {
                changed = changes.changed() => changed.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    };
    tokio::select! {
        (_, ending) = stage.run() => outcome(&ending),
        () = watch => unreachable!("it looks for ever"),
    }
}

fn flows(stage: &Stage) -> Vec<Flow> {
    stage.simulator.world().flows().into_iter().filter(|flow| flow.service == BACKEND).collect()
}

fn assert_nothing_lost(stage: &Stage) {
    let lost: Vec<Flow> = flows(stage).into_iter().filter(|flow| flow.lost > 0.0).collect();
    assert!(lost.is_empty(), "requests went where nobody answers: {lost:#?}");
}

/// When the first service was written to by this method.
fn writes(stage: &Stage, operation: &str) -> Vec<Duration> {
    let writes = stage.simulator.world().writes();
    writes.iter().filter(|w| w.operation == operation && w.subject == BACKEND).map(|w| w.at).collect()
}

#[test]
fn trap_01_selector_patch_is_all_or_nothing() {
    for capacity in 2..=50 {
        for percent in 1..=99 {
            let of = split(capacity, Weight::new(percent).unwrap());
            assert!(of.stable > 0 && of.canary > 0, "{percent} % of {capacity} is neither all nor nothing: {of:?}");
        }
    }
    on_virtual_time(async {
        let stage = with(by_ratio(single()), Scenario::default());
        ends(&stage, Outcome::Completed).await;
        let shares: Vec<f64> = flows(&stage).iter().map(|flow| flow.share(&image(&stage.plan))).collect();
        for wanted in [0.1, 0.5] {
            let near = shares.iter().any(|share| (share - wanted).abs() < 0.11);
            assert!(near, "{wanted} was in force as a ratio of pods: {shares:?}");
        }
        let jump = shares.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(jump < 0.5, "no change moved more than the weights say: {shares:?}");
    });
}

#[test]
fn trap_02_no_request_is_lost_at_the_end_of_the_rollout() {
    for plan in [single(), by_ratio(single())] {
        on_virtual_time(async {
            // A data plane that follows the API at some distance.
            let mut scenario = Scenario::default();
            scenario.world.route_lag = seconds(3).into();
            let stage = with(plan, scenario);
            ends(&stage, Outcome::Completed).await;
            assert_nothing_lost(&stage);
        });
    }
}

#[test]
fn trap_03_no_switch_to_a_version_of_which_one_pod_is_available() {
    on_virtual_time(async {
        let mut scenario = Scenario::default();
        // The pods that 50 and 100 % need take their time, one after the other.
        scenario.canary.push(Behaviour { pod_start: Some(seconds(90).into()), ..Behaviour::default() });
        let stage = with(single(), scenario);
        let outcome = watched(&stage, |service| {
            let (Some(weight), Some((_, canary))) = (service.route, &service.canary) else { return };
            let needed = (5 * u32::from(weight.percent())).div_ceil(100);
            assert!(canary.replicas.available >= needed, "{weight} on {canary}");
        });
        assert_eq!(outcome.await, Outcome::Completed);
    });
}

#[test]
fn trap_04_a_way_back_does_not_ask_whether_the_new_version_is_well() {
    on_virtual_time(async {
        let stage =
            with(single(), Scenario::default().canary(Behaviour::crash_loop().from_weight(50).after(seconds(9))));
        // From the breach on, nothing that could be asked about the new version answers.
        let (faults, world) = (stage.simulator.faults(), stage.simulator.world());
        let breach = async {
            while world.service(BACKEND).unwrap().route != Weight::new(50) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(seconds(9)).await;
            for backend in [BackendKind::Diagnostics, BackendKind::MetricSource, BackendKind::StatusPage] {
                faults.add(Rule::new(Fault::Hang { effect: false }).backend(backend));
            }
            world.now()
        };
        let soon = tokio::time::timeout(seconds(600), stage.run());
        let (ended, breach) = tokio::join!(soon, breach);
        let (_, ending) = ended.expect("it comes back");
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
        let back = flows(&stage).iter().rfind(|flow| flow.weight == Weight::ZERO).unwrap().at;
        assert!(back < breach + seconds(5), "breached at {breach:?}, back at {back:?}");
    });
}

#[test]
fn trap_05_an_abort_is_obeyed_also_while_it_is_promoted() {
    on_virtual_time(async {
        let mut scenario = Scenario::default();
        scenario.world.pod_start = seconds(20).into();
        let stage = with(single(), scenario);
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let promotes = begins(&stage.engine, "promote");
        let never = CancellationToken::new();
        let abort = async {
            promotes.await;
            tokio::time::sleep(seconds(2)).await;
            let command = Command::new(CommandKind::Abort, "ann", "a customer called");
            stage.engine.command(&run, &command).await.unwrap();
        };
        let (ending, ()) = tokio::join!(stage.engine.drive(&run, &never), abort);
        assert_eq!(outcome(&ending.unwrap()), Outcome::RolledBack);
        assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
        let stable = stage.simulator.world().service(BACKEND).unwrap().stable.unwrap();
        assert_ne!(stable.image, image(&stage.plan), "the image that was set is taken back too");
    });
}

#[test]
fn trap_06_an_analysis_that_was_cancelled_is_no_success() {
    on_virtual_time(async {
        let mut plan = plan();
        plan.release.services.truncate(1);
        let stage = with(plan, Scenario::default());
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        // Every engine is stopped in the middle of a bake, again and again.
        let begun = tokio::time::Instant::now();
        let mut lives = 0;
        loop {
            let engine = stage.another_engine();
            let stop = CancellationToken::new();
            let (ending, ()) = tokio::join!(engine.drive(&run, &stop), async {
                tokio::time::sleep(seconds(200)).await;
                stop.cancel();
            });
            let ending = ending.unwrap();
            lives += 1;
            if let Ending::Ended(outcome, summary) = ending {
                assert_eq!(outcome, Outcome::Completed, "{summary}");
                break;
            }
        }
        assert!(lives > 5, "it was cancelled {lives} times");
        assert!(begun.elapsed() >= seconds(45 * 60), "three whole bakes, not {:?}", begun.elapsed());
    });
}

#[test]
fn trap_07_a_third_version_does_not_take_the_second_one_from_its_traffic() {
    on_virtual_time(async {
        let stage = with(single(), Scenario::default());
        let mut third = stage.plan.clone();
        third.release.version = "v1.2.4".to_owned();
        third.release.services[0].image = "registry.example/moodify/backend:v1.2.4".parse().unwrap();
        let bakes = begins(&stage.engine, "bake");
        let other = stage.another_engine();
        let arrives = async {
            bakes.await;
            other.run(&third, "somebody in a hurry").await.unwrap().1
        };
        let ((_, first), second) = tokio::join!(stage.run(), arrives);
        assert_eq!(outcome(&second), Outcome::Refused, "{second:?}");
        assert_eq!(outcome(&first), Outcome::Completed, "{first:?}");
        assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
        assert_nothing_lost(&stage);
    });
}

#[test]
fn trap_08_stable_is_not_scaled_down_while_it_has_traffic() {
    for plan in [single(), by_ratio(single())] {
        on_virtual_time(async {
            let ratio = plan.release.services[0].traffic.router == "replica-ratio";
            let stage = with(plan, Scenario::default());
            let outcome = watched(&stage, |service| {
                let stable = service.stable.as_ref().unwrap();
                let canary = service.canary.as_ref().map_or(0, |(_, canary)| canary.replicas.available);
                let capacity = stable.replicas.available + if ratio { canary } else { 0 };
                assert!(capacity >= 4, "of 5 at least 4 serve (one at a time is rolled): {service:?}");
                assert!(ratio || stable.replicas.desired == 5, "nobody scales it: {service:?}");
            });
            assert_eq!(outcome.await, Outcome::Completed);
            assert_nothing_lost(&stage);
        });
    }
}

#[test]
fn trap_09_a_weight_counts_when_the_data_plane_has_it() {
    on_virtual_time(async {
        let mut scenario = Scenario::default();
        scenario.world.route_lag = seconds(100).into();
        let stage = with(single(), scenario);
        let begun = tokio::time::Instant::now();
        ends(&stage, Outcome::Completed).await;
        let least = 3 * (seconds(100) + seconds(30));
        assert!(begun.elapsed() > least, "each bake began when its weight was in force: {:?}", begun.elapsed());
    });
    on_virtual_time(async {
        let mut scenario = Scenario::default();
        // Accepted by the API, and never programmed.
        scenario.world.route_lag = seconds(1_000_000).into();
        let stage = with(single(), scenario);
        ends(&stage, Outcome::RolledBack).await;
    });
}

type Take = fn(&mut Backends);

#[test]
fn trap_10_what_is_not_supported_is_not_a_success() {
    on_virtual_time(async {
        let stage = with(single(), Scenario::default());
        let lacks: [(&str, Take); 4] = [
            ("router", |backends| backends.routers.clear()),
            ("deployer", |backends| backends.deployer = None),
            ("metric", |backends| drop(backends.metrics.remove(sources::DEFAULT))),
            ("diagnostics", |backends| backends.diagnostics = None),
        ];
        for (what, take) in lacks {
            let mut backends = stage.simulator.backends_for(&stage.plan);
            take(&mut backends);
            let engine = Engine::new(stage.journal.clone(), backends).with_clock(stage.simulator.clock());
            let refused = engine.create(&stage.plan, "test").await.unwrap_err();
            assert_ne!(refused.kind(), ErrorKind::Internal, "{what}: {refused}");
        }
        assert!(stage.simulator.world().writes().is_empty(), "nothing was changed");
        // And where it turns out only when it is asked for.
        let rule = Rule::new(Fault::ErrorBefore(ErrorKind::Unsupported)).backend(BackendKind::Router).operation("set");
        stage.simulator.faults().add(rule);
        let summary = ends(&stage, Outcome::RolledBack).await;
        assert!(summary.contains("rollout-shift-10"), "{summary}");
    });
}

#[test]
fn trap_11_a_deadline_takes_back_and_fires_never_after_the_end() {
    on_virtual_time(async {
        let stage = with(single(), Scenario::default().canary(Behaviour::never_ready()));
        let begun = tokio::time::Instant::now();
        ends(&stage, Outcome::RolledBack).await;
        assert!(begun.elapsed() < seconds(11 * 60), "at the deadline of ten minutes: {:?}", begun.elapsed());
    });
    on_virtual_time(async {
        let stage = with(single(), Scenario::default());
        ends(&stage, Outcome::Completed).await;
        let before = stage.simulator.world().calls().len();
        tokio::time::sleep(seconds(48 * 3600)).await;
        assert_eq!(stage.simulator.world().calls().len(), before, "what has ended has ended");
        assert_whole(&stage.simulator, &stage.plan, Outcome::Completed);
    });
}

#[test]
fn trap_12_what_was_tested_is_what_serves() {
    on_virtual_time(async {
        let mut plan = single();
        let digest = format!("registry.example/moodify/backend@sha256:{}", "ab".repeat(32));
        plan.release.services[0].image = digest.parse().unwrap();
        let stage = with(plan, Scenario::default());
        let mut tested = None;
        let outcome = watched(&stage, |service| {
            let Some((_, canary)) = &service.canary else { return };
            assert_eq!(tested.get_or_insert_with(|| canary.image.clone()), &canary.image, "one version is tested");
        });
        assert_eq!(outcome.await, Outcome::Completed);
        let serves = stage.simulator.world().service(BACKEND).unwrap().stable.unwrap().image;
        assert_eq!(Some(serves), tested, "to the digest");
    });
}

/// What the API server's schema adds to an object is in `moodify-k8s`: `trap_13_*` in its deployer.
#[test]
fn trap_13_an_upgrade_of_the_engine_fires_no_canary() {
    on_virtual_time(async {
        let stage = with(single(), Scenario::default());
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let bakes = begins(&stage.engine, "bake");
        let stop = CancellationToken::new();
        let (_, ()) = tokio::join!(stage.engine.drive(&run, &stop), async {
            bakes.await;
            stop.cancel();
        });
        let before = stage.simulator.world().writes().len();
        let newer = stage.another_engine();
        let bakes = begins(&newer, "shift-traffic");
        let never = CancellationToken::new();
        tokio::select! {
            _ = newer.drive(&run, &never) => panic!("it has more to do"),
            () = bakes => {}
        }
        assert_eq!(stage.simulator.world().writes().len(), before, "what is there is not made again");
        assert_eq!(writes(&stage, "deploy").len(), 1);
    });
}

#[test]
fn trap_14_the_canary_goes_when_the_data_plane_has_left_it_and_it_has_drained() {
    for (behaviour, wanted) in
        [(Behaviour::default(), Outcome::Completed), (Behaviour::error_rate(0.5).from_weight(50), Outcome::RolledBack)]
    {
        on_virtual_time(async {
            let mut scenario = Scenario::default().canary(behaviour);
            scenario.world.route_lag = seconds(10).into();
            let stage = with(single(), scenario);
            ends(&stage, wanted).await;
            assert_nothing_lost(&stage);
            let (back, removed) = (writes(&stage, "reset")[0], *writes(&stage, "remove").last().unwrap());
            assert!(removed >= back + seconds(10 + 5), "sent back at {back:?}, removed at {removed:?}");
        });
    }
}

#[test]
fn trap_15_the_state_is_in_the_journal_and_not_read_back_from_the_route() {
    for edited in [0, 37, 90, 100] {
        on_virtual_time(async {
            let stage = with(single(), Scenario::default());
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let bakes = begins(&stage.engine, "bake");
            let stop = CancellationToken::new();
            let (_, ()) = tokio::join!(stage.engine.drive(&run, &stop), async {
                bakes.await;
                stop.cancel();
            });
            // While nobody looks, somebody writes another weight.
            assert!(stage.simulator.world().edit(&Edit::new(BACKEND, Edited::Route).to(edited)));
            let ending = stage.another_engine().drive(&run, &CancellationToken::new()).await.unwrap();
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{ending:?}");
            let weight = stage.simulator.world().service(BACKEND).unwrap().route.unwrap();
            assert_eq!(u32::from(weight.percent()), edited, "neither believed nor overwritten");
        });
    }
}

#[test]
fn trap_16_a_foreign_edit_does_not_begin_the_canary_again() {
    for what in [Edited::Canary, Edited::Route] {
        on_virtual_time(async {
            let stage = with(single(), Scenario::default().edit(Edit::new(BACKEND, what).after(seconds(20)).to(3)));
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::NeedsAttention, "{what:?}: {ending:?}");
            assert_eq!(writes(&stage, "deploy").len(), 1, "one canary, once");
            assert_eq!(writes(&stage, "set").len(), 1, "and no weight after the first");
        });
    }
}

#[test]
fn trap_17_bad_measurements_count_in_a_row_and_no_data_is_not_one() {
    on_virtual_time(async {
        let mut plan = plan();
        plan.release.services.truncate(1);
        let mut scenario = Scenario::default();
        // Bad for one measurement of ten seconds in every minute: far more than one in all, never two in a row.
        for minute in 1..14 {
            let bad = Behaviour::error_rate(0.5).from_weight(10);
            scenario = scenario.canary(bad.after(seconds(60 * minute)).until(seconds(60 * minute + 9)));
        }
        let stage = with(plan, scenario);
        ends(&stage, Outcome::Completed).await;
    });
    on_virtual_time(async {
        let mut plan = plan();
        plan.release.services.truncate(1);
        let scenario = Scenario::from_yaml("metrics: {down-after: 5m, down-for: 10m}").unwrap();
        let stage = with(plan, scenario);
        let begun = tokio::time::Instant::now();
        ends(&stage, Outcome::Completed).await;
        assert!(begun.elapsed() >= seconds(54 * 60), "without data the time stands still: {:?}", begun.elapsed());
    });
}

/// By an autoscaler itself: `tests/tests/drift.rs`.
#[test]
fn trap_18_what_an_autoscaler_scales_is_neither_pinned_nor_fought() {
    on_virtual_time(async {
        let scaled = Edit { by: "kube-controller-manager".to_owned(), ..Edit::new(BACKEND, Edited::StableReplicas) };
        let stage = with(single(), Scenario::default().edit(scaled.after(seconds(20)).to(8)));
        ends(&stage, Outcome::Completed).await;
        let stable = stage.simulator.world().service(BACKEND).unwrap().stable.unwrap();
        assert_eq!(stable.replicas.desired, 8, "as many as the autoscaler asked for");
        assert_nothing_lost(&stage);
    });
}

#[test]
fn trap_19_conflicts_are_read_again_and_end() {
    on_virtual_time(async {
        let stage = with(single(), Scenario::default());
        for (backend, operation) in [
            (BackendKind::Deployer, "deploy"),
            (BackendKind::Deployer, "scale"),
            (BackendKind::Deployer, "set_image"),
            (BackendKind::Deployer, "remove"),
            (BackendKind::Router, "set"),
            (BackendKind::Router, "reset"),
        ] {
            let conflict = Fault::ErrorBefore(ErrorKind::Conflict);
            stage.simulator.faults().add(Rule::new(conflict).backend(backend).operation(operation).times(5));
        }
        ends(&stage, Outcome::Completed).await;
    });
    on_virtual_time(async {
        // One without end is not retried for ever.
        let stage = with(single(), Scenario::default());
        let conflict = Fault::ErrorBefore(ErrorKind::Conflict);
        stage.simulator.faults().add(Rule::new(conflict).backend(BackendKind::Router).operation("set"));
        ends(&stage, Outcome::RolledBack).await;
        assert!(stage.simulator.world().call_count(BackendKind::Router, "set") <= 8);
    });
}

/// The other half of the trap, a `ConfigMap` that several releases share, is none yet: they carry images alone.
#[test]
fn trap_20_a_read_that_fails_for_a_moment_is_not_taken_for_a_change() {
    for seed in 0..20 {
        on_virtual_time(async {
            let stage = with(single(), Scenario::default().seed(seed));
            for (backend, operation) in [
                (BackendKind::Deployer, "observe"),
                (BackendKind::Deployer, "watch"),
                (BackendKind::Router, "read"),
                (BackendKind::Router, "watch"),
                (BackendKind::Diagnostics, "watch_pods"),
            ] {
                let fails = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).probability(0.1);
                stage.simulator.faults().add(fails.backend(backend).operation(operation));
            }
            ends(&stage, Outcome::Completed).await;
            assert_eq!(writes(&stage, "deploy").len(), 1, "seed {seed}");
        });
    }
}

/// What a way back would be sent to is there, or it waits; and says so when that never comes to be.
#[test]
fn a_way_back_to_nobody_waits_for_somebody() {
    for comes in [true, false] {
        on_virtual_time(async {
            let bad = Behaviour::error_rate(0.5).from_weight(10).after(seconds(20));
            let gone = Edit::new(BACKEND, Edited::StableReplicas).after(seconds(15)).to(0);
            let mut scenario = Scenario::default().canary(bad).edit(gone);
            if comes {
                scenario = scenario.edit(Edit::new(BACKEND, Edited::StableReplicas).after(seconds(200)).to(5));
            }
            let stage = with(single(), scenario);
            let (_, ending) = stage.run().await;
            let Ending::Ended(outcome, summary) = ending else { panic!("interrupted") };
            let weight = stage.simulator.world().service(BACKEND).unwrap().route.unwrap();
            if comes {
                assert_eq!((outcome, weight), (Outcome::RolledBack, Weight::ZERO), "{summary}");
            } else {
                assert_eq!(outcome, Outcome::NeedsAttention, "{summary}");
                assert_eq!(weight.percent(), 10, "the canary keeps what it has: {summary}");
                assert!(summary.contains("no stable instance is available"), "{summary}");
            }
        });
    }
}
