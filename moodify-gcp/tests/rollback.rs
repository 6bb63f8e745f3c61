//! A plan takes a Firestore database back: into a new one to which the application is pointed, or into itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod peer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moodify_core::action::{RestoredLive, kinds};
use moodify_core::backend::{BackupRequest, BackupStore as _, BackupStoreExt as _, Endpoint, EndpointKind};
use moodify_core::engine::Ending;
use moodify_core::journal::{Command, CommandKind, MemoryJournal, Outcome, StepStatus};
use moodify_core::model::{Plan, RunId};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{CallContext, Engine, planfile};
use moodify_gcp::{ApiConfig, FirestoreBackups, FirestoreConfig, StorageConfig};
use peer::FakeGcs;
use peer::firestore::FakeFirestore;
use tokio_util::sync::CancellationToken;

const HEAD: &str = r#"
name: back
environment: {name: production, kind: production, namespace: web}
release:
  version: v2
  services: [{name: web, workload: web, image: "r/web:v2", traffic: {router: replica-ratio, service: web}}]
phases:
"#;

struct Scene {
    _server: FakeGcs,
    firestore: FakeFirestore,
    store: Arc<FirestoreBackups>,
    simulator: Simulator,
    engine: Engine,
    plan: Plan,
    /// What was in the database when it was backed up.
    saved: BTreeMap<String, String>,
}

impl Scene {
    /// A database with a backup and with writes since, and an application in a simulated cluster.
    async fn new(phases: &str) -> Option<Self> {
        let server = FakeGcs::start().await?;
        let firestore = FakeFirestore::start(server.url()).await;
        let api = ApiConfig::new().endpoint(server.url()).anonymous();
        let storage = StorageConfig::new("artifacts").prefix("firestore/").api(api);
        let config = FirestoreConfig::new("moodify", storage).api(firestore.api());
        let store = Arc::new(FirestoreBackups::new(config).unwrap());
        let cx = CallContext::by_hand("nightly", Duration::from_secs(60));
        let saved = firestore.documents("(default)").unwrap();
        let made = store.create(&cx, &BackupRequest::new()).await.unwrap();
        store.wait_available(&cx, &made.id, &|_| ()).await.unwrap();
        firestore.write("(default)", "moods/ana", "2");

        let (file, _) = planfile::read(&format!("{HEAD}{phases}"), "plan.yaml").unwrap();
        let plan = file.expand();
        let scenario = Scenario::from_yaml("world: {pod-start: 100ms, controller-lag: 50ms}").unwrap();
        let simulator = Simulator::new(&plan.targets(), scenario);
        let mut backends = simulator.backends_for(&plan);
        backends.backup_stores.insert("firestore".to_owned(), store.clone());
        let engine = Engine::new(Arc::new(MemoryJournal::new()), backends);
        Some(Self { _server: server, firestore, store, simulator, engine, plan, saved })
    }

    /// Two persons say yes to every question but those on this step, to which the answer is no.
    async fn people(&self, run: &RunId, no_to: &str) {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let state = self.engine.state(run).await.unwrap();
            let steps = state.plan.steps().map(|(_, step)| step).filter(|step| step.action == kinds::APPROVAL);
            let asks =
                |step: &str| state.steps.get(step).is_some_and(|s| s.held.is_some() && s.status == StepStatus::Running);
            for step in steps.filter(|step| asks(&step.name)) {
                let kind = if step.name == no_to { CommandKind::Reject } else { CommandKind::Approve };
                for person in ["ann", "ben"] {
                    let _ = self.engine.command(run, &Command::new(kind, person, "").for_step(&step.name)).await;
                }
            }
        }
    }

    async fn run(&self, no_to: &str) -> (RunId, Outcome, String) {
        let run = self.engine.create(&self.plan, "test").await.unwrap();
        let stop = CancellationToken::new();
        let ending = tokio::select! {
            ending = self.engine.drive(&run, &stop) => ending.unwrap(),
            () = self.people(&run, no_to) => unreachable!("they wait for ever"),
        };
        let Ending::Ended(outcome, summary) = ending else { panic!("{ending:?}") };
        (run, outcome, summary)
    }
}

const ROLLBACK: &str = r#"
  - name: back
    strategy:
      database-rollback:
        store: firestore
        target: moods-restored
        connections:
          - secret: {name: database, key: FIRESTORE_DATABASE, template: "{{database}}"}
          - config-map: {name: settings, key: DATABASE, template: "{{endpoint}}"}
"#;

#[tokio::test]
async fn the_application_is_pointed_to_a_new_database_by_its_name() {
    for (no_to, wanted) in [("", Outcome::Completed), ("back-confirm", Outcome::RolledBack)] {
        let Some(scene) = Scene::new(ROLLBACK).await else { return };
        assert_eq!(scene.store.capabilities().endpoint, EndpointKind::Name);
        let (_, outcome, summary) = scene.run(no_to).await;
        assert_eq!(outcome, wanted, "{summary}");
        let done = wanted == Outcome::Completed;
        let name = Endpoint::Name("projects/moodify/databases/moods-restored".to_owned());
        for known in scene.simulator.world().connections() {
            assert_eq!(known.endpoint == name, done, "{known:?}");
            if done {
                let value = known.connection.point("before", &known.endpoint).unwrap();
                assert!(["moods-restored", name.place()].contains(&value.as_str()), "{value}");
            }
        }
        assert_eq!(scene.firestore.documents("moods-restored"), done.then(|| scene.saved.clone()), "{summary}");
        assert_eq!(scene.firestore.documents("(default)").unwrap()["moods/ana"], "2", "the old one is left as it is");
    }
}

#[tokio::test]
async fn a_connection_that_takes_only_a_host_is_refused_before_anything_is_stopped() {
    let host = ROLLBACK.replace(", template: \"{{database}}\"", "");
    let Some(scene) = Scene::new(&host).await else { return };
    let error = scene.engine.create(&scene.plan, "test").await.unwrap_err().to_string();
    assert!(error.contains("what \"firestore\" restores does not fit there"), "{error}");
    assert!(scene.simulator.world().writes().is_empty());
}

const LIVE: &str = r#"
  - name: ask
    steps:
      - name: ask
        action: approval
        with: {question: "Into the database that serves?", approvals: 2, restore: {store: firestore, from: latest}}
  - name: live
    steps: [{name: live, action: restore-live, with: {store: firestore, from: approved}}]
"#;

#[tokio::test]
async fn into_the_database_itself_after_an_export_of_it() {
    let Some(scene) = Scene::new(LIVE).await else { return };
    scene.firestore.write("(default)", "moods/eve", "1");
    let (run, outcome, summary) = scene.run("").await;
    assert_eq!(outcome, Outcome::Completed, "{summary}");
    let now = scene.firestore.documents("(default)").unwrap();
    assert_eq!((now["moods/ana"].as_str(), now["moods/eve"].as_str()), ("1", "1"), "it adds and replaces: {now:?}");
    assert_eq!((scene.firestore.count(":exportDocuments"), scene.firestore.count(":importDocuments")), (2, 1));
    let state = scene.engine.state(&run).await.unwrap();
    let StepStatus::Finished(done) = state.status("live") else { panic!("{summary}") };
    let done: RestoredLive = done.read().unwrap();
    let cx = CallContext::by_hand("look", Duration::from_secs(60));
    let before = scene.store.verify(&cx, &done.before).await.unwrap();
    assert_eq!(before.run, Some(run), "the way back is there: {before}");
}
