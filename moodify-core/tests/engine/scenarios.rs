use moodify_core::journal::{Outcome, Record};
use moodify_core::testing::Simulator;

use crate::common::*;

#[test]
fn every_scenario_ends_as_it_should() {
    let expected = [
        ("healthy", Outcome::Completed, 1.0),
        ("stable-slow-rollout", Outcome::Completed, 1.0),
        ("metrics-outage", Outcome::Completed, 1.0),
        ("errors-at-10", Outcome::RolledBack, 0.1),
        ("errors-at-50", Outcome::RolledBack, 0.5),
        ("crash-loop-at-50", Outcome::RolledBack, 0.5),
        ("slow-at-50", Outcome::RolledBack, 0.5),
        ("unready-at-50", Outcome::RolledBack, 0.5),
        ("never-ready", Outcome::RolledBack, 0.0),
        ("second-service-bad", Outcome::RolledBack, 1.0),
        ("no-metrics", Outcome::NeedsAttention, 0.1),
        ("edited-by-hand", Outcome::NeedsAttention, 1.0),
    ];
    for (name, wanted, highest) in expected {
        on_virtual_time(async {
            let stage = Stage::named(plan(), name);
            let Stage { plan, simulator, journal, .. } = &stage;
            let (run, ending) = stage.run().await;
            let summary = format!("{name}: {ending:?}");
            assert_eq!(outcome(&ending), wanted, "{summary}");
            let entries = journal.load(&run).await.unwrap();
            let ends = entries.iter().filter(|e| matches!(e.record, Record::Ended { .. })).count();
            assert_eq!(ends, 1, "{name}");
            if wanted != Outcome::NeedsAttention {
                assert_whole(simulator, plan, wanted);
            }
            for (service, image) in new_images(plan) {
                let most = simulator.world().highest_share(&service, &image);
                assert!(most <= highest + 1e-9, "{summary}: {service} had {most}");
            }
        });
    }
}

#[test]
fn by_replica_ratio_too() {
    for (name, wanted) in [("healthy", Outcome::Completed), ("errors-at-50", Outcome::RolledBack)] {
        on_virtual_time(async {
            let stage = Stage::named(by_ratio(plan()), name);
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), wanted, "{name}: {ending:?}");
            assert_whole(&stage.simulator, &stage.plan, wanted);
        });
    }
}

#[test]
fn a_closed_gate_refuses_before_any_effect() {
    on_virtual_time(async {
        let plan = plan();
        let saturday = "2026-11-21T15:30:00Z".parse().unwrap();
        let simulator = Simulator::builder(&plan.targets()).scenario(scenario("healthy")).starting_at(saturday).build();
        let stage = Stage::new(plan, simulator);
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Refused);
        assert!(stage.simulator.world().writes().is_empty());
        assert!(stage.simulator.world().notifications().is_empty());
    });
}
