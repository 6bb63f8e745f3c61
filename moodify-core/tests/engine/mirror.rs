//! The new version gets a copy of the requests before it gets a share of them.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::action::kinds;
use moodify_core::journal::{Command, CommandKind, Outcome};
use moodify_core::model::{Period, Phase, Plan, Weight};
use moodify_core::strategy::{BlueGreen, Canary, Mirrored};
use moodify_core::testing::{BackendKind, Fault, Rule, Simulator};
use tokio_util::sync::CancellationToken;

use crate::common::*;

fn tenth() -> Mirrored {
    Mirrored { percent: Weight::new(10).unwrap(), period: Period::from_mins(10) }
}

fn with(phases: impl Fn(&Canary) -> Vec<Phase>) -> Plan {
    let mut plan = plan();
    let is_of_canary = |name: &str| name.starts_with("rollout: ");
    let at = plan.phases.iter().position(|phase| is_of_canary(&phase.name)).unwrap();
    let bake = plan.steps().find(|(_, step)| step.action == kinds::BAKE).unwrap().1;
    let analysis = serde_json::from_value(bake.with["analysis"].clone()).unwrap();
    let canary = Canary { mirror: Some(tenth()), analysis, ..Canary::default() };
    plan.phases.retain(|phase| !is_of_canary(&phase.name));
    plan.phases.splice(at..at, phases(&canary));
    plan
}

fn canary() -> Plan {
    with(|canary| canary.phases("rollout"))
}

fn turns() -> Plan {
    with(|canary| {
        let Canary { analysis, mirror, .. } = canary.clone();
        BlueGreen { analysis, mirror, ..BlueGreen::default() }.phases("rollout")
    })
}

fn mirrored(simulator: &Simulator) -> usize {
    simulator.world().services().iter().filter(|view| view.mirrored == Some(tenth().percent)).count()
}

/// Whether the new version never had any of the traffic.
fn assert_none_moved(stage: &Stage) {
    for (service, image) in new_images(&stage.plan) {
        assert!(stage.simulator.world().highest_share(&service, &image) < 1e-9, "{service}");
    }
}

#[test]
fn copies_come_before_the_first_weight_and_end_before_it() {
    for plan in [canary(), turns()] {
        on_virtual_time(async {
            let stage = Stage::named(plan, "healthy");
            let (bakes, shifts) = (begins(&stage.engine, kinds::BAKE), begins(&stage.engine, kinds::SHIFT_TRAFFIC));
            let run = stage.engine.create(&stage.plan, "test").await.unwrap();
            let look = async {
                bakes.await;
                tokio::time::sleep(Duration::from_secs(9 * 60)).await;
                assert_eq!(mirrored(&stage.simulator), 2);
                assert_none_moved(&stage);
                shifts.await;
                assert_eq!(mirrored(&stage.simulator), 0, "a share is not divided and copied at once");
            };
            let stop = CancellationToken::new();
            let (ending, ()) = tokio::join!(stage.engine.drive(&run, &stop), look);
            assert_eq!(outcome(&ending.unwrap()), Outcome::Completed);
            assert_eq!(mirrored(&stage.simulator), 0);
        });
    }
}

#[test]
fn what_fails_on_copies_is_taken_back_before_anybody_gets_it() {
    for plan in [canary(), turns()] {
        on_virtual_time(async {
            let simulator = Simulator::new(&plan.targets(), bad("error-rate: 12%"));
            let stage = Stage::new(plan, simulator);
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
            assert_none_moved(&stage);
            assert_eq!(mirrored(&stage.simulator), 0);
            assert_whole(&stage.simulator, &stage.plan, Outcome::RolledBack);
            let state = stage.engine.state(&run).await.unwrap();
            let why = format!("{:?}", state.status("rollout-watch-mirror"));
            assert!(why.contains("before it gets traffic of its own"), "{why}");
        });
    }
}

#[test]
fn broken_off_at_any_record_no_copy_is_sent_any_more() {
    let plan = brief(canary());
    for (behaviour, wanted) in [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%", Outcome::RolledBack)] {
        broken_off_at_each_record(&plan, behaviour, wanted, |simulator, record| {
            assert_whole(simulator, &plan, wanted);
            assert_eq!(mirrored(simulator), 0, "{record}");
        });
    }
}

#[test]
fn an_abort_by_the_next_process_ends_the_copies() {
    on_virtual_time(async {
        let stage = Stage::named(canary(), "healthy");
        let bakes = begins(&stage.engine, kinds::BAKE);
        let run = stage.engine.create(&stage.plan, "test").await.unwrap();
        let died = CancellationToken::new();
        let dies = async {
            bakes.await;
            died.cancel();
        };
        let (ending, ()) = tokio::join!(stage.engine.drive(&run, &died), dies);
        assert_eq!(ending.unwrap(), moodify_core::engine::Ending::Interrupted);
        assert_eq!(mirrored(&stage.simulator), 2, "nobody is there to end them");
        let abort = Command::new(CommandKind::Abort, "ann", "a customer called");
        stage.another_engine().command(&run, &abort).await.unwrap();
        let ending = stage.another_engine().drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::RolledBack);
        assert_eq!(mirrored(&stage.simulator), 0);
        assert_none_moved(&stage);
    });
}

#[test]
fn moodify_ends_what_a_run_left_behind_when_it_leaves() {
    on_virtual_time(async {
        let stage = Stage::named(turns(), "healthy");
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed);
        // As of a run whose way back failed.
        let targets = stage.plan.targets();
        let mirror = stage.simulator.backends_for(&stage.plan).mirrors;
        for target in &targets {
            let cx = moodify_core::CallContext::by_hand("test", Duration::from_secs(60));
            mirror[&target.service.traffic.router].start(&cx, target, tenth().percent).await.unwrap();
        }
        assert_eq!(mirrored(&stage.simulator), 2);
        let run = stage.engine.leave(&stage.plan, "ann", "").await.unwrap();
        let ending = stage.engine.drive(&run, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed);
        assert_eq!(mirrored(&stage.simulator), 0);
    });
}

#[test]
fn an_undo_ends_copies_that_a_plan_left_on() {
    on_virtual_time(async {
        let mut plan = canary();
        for phase in plan.phases.iter_mut() {
            phase.steps.retain(|step| step.action != kinds::STOP_MIRROR);
        }
        let stage = Stage::named(plan, "healthy");
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed);
        assert_eq!(mirrored(&stage.simulator), 2);
        let back = stage.engine.undo(&run, "ann", "").await.unwrap();
        let ending = stage.engine.drive(&back, &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert_eq!(mirrored(&stage.simulator), 0);
    });
}

#[test]
fn a_start_whose_answer_is_lost_is_not_repeated_nor_left_behind() {
    for (behaviour, wanted) in [("error-rate: 0.1%", Outcome::Completed), ("error-rate: 12%", Outcome::RolledBack)] {
        on_virtual_time(async {
            let plan = brief(canary());
            let simulator = Simulator::new(&plan.targets(), bad(behaviour));
            let lost = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).operation("mirror").times(2);
            simulator.world().faults().add(lost.backend(BackendKind::Router));
            let stage = Stage::new(plan, simulator);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), wanted, "{ending:?}");
            assert_eq!(mirrored(&stage.simulator), 0);
            let starts = stage.simulator.world().writes();
            let starts = starts.iter().filter(|write| write.what.starts_with("a copy of 10 %")).count();
            assert_eq!(starts, 2, "one for each service");
        });
    }
}

#[test]
fn a_router_that_cannot_mirror_is_refused_before() {
    on_virtual_time(async {
        let stage = Stage::named(by_ratio(canary()), "healthy");
        let error = stage.engine.create(&stage.plan, "test").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("\"replica-ratio\" cannot mirror requests"), "{error}");
        assert!(stage.simulator.world().calls().is_empty());
    });
}

#[test]
fn a_mirror_is_of_some_requests_for_some_time() {
    let places = |settings: &str| -> Vec<String> {
        let mirror = Some(serde_json::from_str(settings).unwrap());
        let canary = Canary { mirror: mirror.clone(), ..Canary::default() }.problems();
        assert_eq!(canary, BlueGreen { mirror, ..BlueGreen::default() }.problems());
        canary.into_iter().map(|(at, _)| at).collect()
    };
    assert!(places(r#"{"for": "10m"}"#).is_empty());
    assert!(places(r#"{"percent": 1, "for": "1s"}"#).is_empty());
    assert_eq!(places(r#"{"percent": 0, "for": "0s"}"#), ["/mirror/percent", "/mirror/for"]);
    let all: Mirrored = serde_json::from_str(r#"{"for": "10m"}"#).unwrap();
    assert_eq!(all.percent, Weight::FULL);
    assert!(serde_json::from_str::<Mirrored>(r#"{"percent": 10}"#).is_err(), "there is no time for everybody");
    // Instances are made for the copies as for a share.
    let deploy = |percent: u8| {
        let mirror = Some(Mirrored { percent: Weight::new(percent).unwrap(), ..tenth() });
        let phases = Canary { mirror, ..Canary::default() }.phases("rollout");
        let mut steps = phases.into_iter().flat_map(|phase| phase.steps);
        steps.find(|step| step.action == kinds::DEPLOY_CANARY).unwrap().with["weight"].clone()
    };
    assert_eq!((deploy(1), deploy(60)), (10.into(), 60.into()));
}
