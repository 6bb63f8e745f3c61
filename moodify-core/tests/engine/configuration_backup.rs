//! A run backs the configuration of its namespace up, and another restores it.

use moodify_core::action::BackedUpConfiguration;
use moodify_core::backend::{ConfigurationBackup, ExportRequest};
use moodify_core::error::ErrorKind;
use moodify_core::journal::Outcome;
use moodify_core::model::{Phase, Plan, RetryPolicy, Step};
use moodify_core::testing::conformance::context;
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::*;

const STORE: &str = "archive";

fn step(name: &str, with: Value) -> Step {
    let action = format!("{name}-configuration");
    Step { name: name.into(), action, with, deadline: None, retry: RetryPolicy::default() }
}

fn only(steps: Vec<Step>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.environment.backups.clear();
    plan.phases = vec![Phase { name: "all".into(), parallel: false, steps }].into();
    plan
}

fn backup() -> Plan {
    only(vec![step("backup", json!({"store": STORE}))])
}

fn stage(plan: Plan) -> Stage {
    let simulator = Simulator::new(&plan.targets(), Scenario::default());
    Stage::new(plan, simulator)
}

#[test]
fn what_was_lost_is_restored_by_another_run() {
    on_virtual_time(async {
        let saving = stage(backup());
        let namespace = saving.plan.environment.namespace.clone();
        let backends = saving.simulator.backends_for(&saving.plan);
        let (files, store) = (backends.configuration_files().unwrap(), backends.artifact_store(STORE).unwrap());
        let cx = context("look", std::time::Duration::from_secs(60));
        let request = ExportRequest::of_namespace(&namespace);
        let before = files.export(&cx, &request).await.unwrap();
        let (run, ending) = saving.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let made: BackedUpConfiguration = saving.output(&run, "backup").await;
        assert_eq!((made.path.clone(), made.store.as_str()), (format!("configuration/{run}/backup"), STORE));
        assert_eq!(made.secrets, ["app-secrets"]);
        let (kept, read) = ConfigurationBackup::read(store.as_ref(), &cx, &made.path).await.unwrap();
        assert_eq!((kept.run, kept.namespace.as_str(), read), (run, namespace.as_str(), before.files.clone()));

        saving.simulator.world().lose_configuration(&namespace);
        let plan = only(vec![step("restore", json!({"store": STORE, "path": made.path}))]);
        let restoring = Stage::new(plan, saving.simulator.clone());
        let (run, ending) = restoring.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let done: moodify_core::backend::ImportedConfiguration = restoring.output(&run, "restore").await;
        assert_eq!((done.created as usize, done.configured, done.unchanged), (made.objects, 0, 0));
        assert_eq!(files.export(&cx, &request).await.unwrap(), before);
    });
}

#[test]
fn an_answer_that_was_lost_is_no_second_backup() {
    on_virtual_time(async {
        for (backend, operation) in [(BackendKind::Configuration, "export"), (BackendKind::ArtifactStore, "put")] {
            let stage = stage(backup());
            let fault = Rule::new(Fault::ErrorAfter(ErrorKind::Unavailable)).backend(backend).operation(operation);
            stage.simulator.faults().add(fault.nth(1));
            let (run, ending) = stage.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{operation}: {ending:?}");
            let made: BackedUpConfiguration = stage.output(&run, "backup").await;
            let artifacts = stage.simulator.world().artifacts();
            assert!(artifacts.iter().all(|made_| made_.artifact.path.starts_with(&made.path)), "{artifacts:?}");
            assert_eq!(artifacts.len(), 3, "two files and the index: {artifacts:?}");
        }
    });
}

#[test]
fn a_backup_that_is_damaged_restores_nothing() {
    on_virtual_time(async {
        let saving = stage(backup());
        let (run, _) = saving.run().await;
        let made: BackedUpConfiguration = saving.output(&run, "backup").await;
        let backends = saving.simulator.backends_for(&saving.plan);
        let store = backends.artifact_store(STORE).unwrap();
        let cx = context("damage", std::time::Duration::from_secs(60));
        let file = saving.simulator.world().artifacts()[0].artifact.path.clone();
        store.delete(&cx, &file).await.unwrap();
        let before = saving.simulator.world().writes().len();
        let plan = only(vec![step("restore", json!({"store": STORE, "path": made.path}))]);
        let restoring = Stage::new(plan, saving.simulator.clone());
        let (_, ending) = restoring.run().await;
        assert_ne!(outcome(&ending), Outcome::Completed);
        assert!(format!("{ending:?}").contains("it is missing"), "{ending:?}");
        let writes = saving.simulator.world().writes();
        assert!(!writes[before..].iter().any(|w| w.backend == Some(BackendKind::Configuration)), "{writes:?}");
    });
}

#[test]
fn a_restore_without_a_backup_is_refused_when_it_is_checked() {
    on_virtual_time(async {
        let stage = stage(only(vec![step("restore", json!({"store": STORE}))]));
        let findings = stage.engine.check(&stage.plan).await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].to_string().contains("no step before this one backs configuration up"), "{}", findings[0]);
        let both = only(vec![step("backup", json!({"store": STORE})), step("restore", json!({"store": STORE}))]);
        let stage = Stage::new(both, stage.simulator.clone());
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
    });
}

#[test]
fn secrets_are_restored_only_where_the_plan_says_so() {
    on_virtual_time(async {
        let saving =
            stage(only(vec![step("backup", json!({"store": STORE, "encrypt-secrets-to": ["simulated1key"]}))]));
        let namespace = saving.plan.environment.namespace.clone();
        let (run, ending) = saving.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let made: BackedUpConfiguration = saving.output(&run, "backup").await;
        assert_eq!((made.objects, made.secrets.len()), (5, 0), "{made:?}");
        saving.simulator.world().lose_configuration(&namespace);
        for (secrets, created, unchanged) in [(false, 4, 0), (true, 1, 4)] {
            let plan = only(vec![step("restore", json!({"store": STORE, "path": made.path, "secrets": secrets}))]);
            let restoring = Stage::new(plan, saving.simulator.clone());
            let (run, ending) = restoring.run().await;
            assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
            let done: moodify_core::backend::ImportedConfiguration = restoring.output(&run, "restore").await;
            assert_eq!((done.created, done.unchanged), (created, unchanged), "secrets: {secrets}");
        }
    });
}

#[test]
fn a_key_that_is_none_is_refused_before_anything_happens() {
    on_virtual_time(async {
        let stage = stage(only(vec![step("backup", json!({"store": STORE, "encrypt-secrets-to": ["tomorrow"]}))]));
        let findings = stage.engine.check(&stage.plan).await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].to_string().contains("tomorrow"), "{}", findings[0]);
    });
}
