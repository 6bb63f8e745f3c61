//! Files go into an artifact store and come back from there.

use moodify_core::action::{Archived, FetchedArtifact};
use moodify_core::backend::{ArtifactStoreExt, Sum};
use moodify_core::error::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::conformance::context;
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::*;

const STORE: &str = "archive";

fn only(steps: &[(&str, Value)]) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.environment.backups.clear();
    let step = |(action, with): &(&str, Value)| Step {
        name: (*action).to_owned(),
        action: (*action).to_owned(),
        with: with.clone(),
        deadline: None,
        retry: RetryPolicy::default(),
    };
    plan.phases = vec![Phase { name: "all".into(), parallel: false, steps: steps.iter().map(step).collect() }].into();
    plan
}

fn stage(plan: Plan) -> Stage {
    let simulator = Simulator::new(&plan.targets(), Scenario::default());
    Stage::new(plan, simulator)
}

#[test]
fn files_go_there_and_come_back() {
    on_virtual_time(async {
        let dir = tempfile::tempdir().unwrap();
        let dump: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
        std::fs::write(dir.path().join("dump.rdb"), &dump).unwrap();
        let files =
            json!([{"file": dir.path().join("dump.rdb")}, {"file": dir.path().join("dump.rdb"), "as": "redis/2"}]);
        let stage = stage(only(&[("archive", json!({"store": STORE, "files": files}))]));
        // The first answer of each is lost: what was put then is there once.
        for nth in [1, 3] {
            let lost = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).backend(BackendKind::ArtifactStore);
            stage.simulator.faults().add(lost.operation("put").nth(nth));
        }
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let made: Archived = stage.output(&run, "archive").await;
        let paths: Vec<&str> = made.artifacts.iter().map(|artifact| artifact.path.as_str()).collect();
        let place = |name: &str| format!("runs/{run}/archive/{name}");
        assert_eq!(paths, ["plan.json", "dump.rdb", "redis/2"].map(place));
        assert!(made.artifacts[1..].iter().all(|artifact| artifact.is(Sum::of(&dump))), "{made:?}");
        let there = stage.simulator.world().artifacts();
        assert_eq!(there.len(), 3, "{there:?}");
        let backends = stage.simulator.backends_for(&stage.plan);
        let cx = context("look", std::time::Duration::from_secs(60));
        let plan = backends.artifact_store(STORE).unwrap().read(&cx, paths[0]).await.unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Plan>(&plan).unwrap(), stage.plan);

        let file = dir.path().join("back.rdb");
        let fetch = || only(&[("fetch-artifact", json!({"store": STORE, "path": paths[2], "file": file}))]);
        for made in [true, false] {
            let again = Stage::new(fetch(), stage.simulator.clone());
            let (run, ending) = again.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            let fetched: FetchedArtifact = again.output(&run, "fetch-artifact").await;
            assert_eq!(fetched, FetchedArtifact { file: file.clone(), sum: Sum::of(&dump), made });
            assert_eq!(std::fs::read(&file).unwrap(), dump);
        }
        std::fs::write(&file, "somebody's").unwrap();
        let other = Stage::new(fetch(), stage.simulator.clone());
        let (_, ending) = other.run().await;
        assert_ne!(outcome(&ending), Outcome::Completed);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half is left");
    });
}

#[test]
fn what_is_not_there_is_told() {
    on_virtual_time(async {
        let dir = tempfile::tempdir().unwrap();
        let missing = json!([{"file": dir.path().join("missing")}]);
        for (step, why) in [
            (("archive", json!({"store": STORE, "files": missing})), "on the machine that drives the run"),
            (
                ("fetch-artifact", json!({"store": STORE, "path": "x", "file": dir.path().join("x")})),
                "no such artifact",
            ),
        ] {
            let stage = stage(only(&[step]));
            let (_, ending) = stage.run().await;
            assert_ne!(outcome(&ending), Outcome::Completed);
            assert!(format!("{ending:?}").contains(why), "{ending:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}

#[test]
fn names_that_cannot_be_are_refused_when_the_plan_is_checked() {
    on_virtual_time(async {
        for (files, why) in [
            (json!([{"file": "/a/x"}, {"file": "/b/x"}]), "would be called \"x\""),
            (json!([{"file": "/a/plan.json"}]), "would be called \"plan.json\""),
            (json!([{"file": "/a/x", "as": "../x"}]), "is not a path of an artifact"),
        ] {
            let stage = stage(only(&[("archive", json!({"store": STORE, "files": files}))]));
            let findings = stage.engine.check(&stage.plan).await;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].to_string().contains(why), "{}", findings[0]);
        }
    });
}
