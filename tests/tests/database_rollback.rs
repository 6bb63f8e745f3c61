//! A database rollback on a real API server with its real controllers, under the least Role: the workloads are really
//! stopped and started, the Secret is really switched. The database is the simulator's.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use moodify_core::action::kinds;
use moodify_core::engine::Ending;
use moodify_core::journal::{Command, CommandKind, JournalStore, MemoryJournal, Outcome, StepStatus, fold};
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{CallContext, Engine, ErrorKind, Plan, RunId, planfile};
use moodify_k8s::{Kube, KubeConfig, roles_for};
use moodify_tests::rig::{Namespace, Rig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(180);
/// As whom the rollback is made where the users are the rig's own.
const DEPLOYER: &str = "dave";
const OLD: &str = "mongodb://moods:hunter2@moods.internal:27017/moods?tls=true";
const NEW: &str = "mongodb://moods:hunter2@restored.simulated.invalid:27017/moods?tls=true";

struct Stage<'a> {
    namespace: &'a Namespace,
    plan: Plan,
    journal: Arc<dyn JournalStore>,
    user: &'static str,
    simulator: Simulator,
}

impl<'a> Stage<'a> {
    /// Two services of 2 and 3 pods, a Secret and a `ConfigMap` that say where their database is, and the plan.
    async fn new(namespace: &'a Namespace, command: &str) -> Stage<'a> {
        for (name, replicas) in [("backend", 2), ("frontend", 3)] {
            namespace.deploy(name, &format!("registry.test/{name}:v1"), replicas).await;
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
            "stringData": {"URI": OLD, "USER": "moods"}});
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
            "data": {"DATABASE_HOST": "moods.internal", "COLOR": "blue"}});
        namespace.apply(&secret.to_string()).await;
        namespace.apply(&config.to_string()).await;
        for name in ["backend", "frontend"] {
            namespace.wait_ready(name).await;
        }
        let service = |name: &str| {
            json!({"name": name, "workload": name, "image": format!("registry.test/{name}:v1"),
                "traffic": {"router": "replica-ratio", "service": name}})
        };
        let strategy = json!({
            "store": "documentdb", "target": "restored", "stop-deadline": "60s", "ready-deadline": "60s",
            "connections": [
                {"secret": {"name": "database", "key": "URI"}},
                {"config-map": {"name": "settings", "key": "DATABASE_HOST", "template": "{{endpoint}}"}}],
            "verify": [{"exec": {"workload": "backend", "command": ["sh", "-c", command]}}],
        });
        let file = json!({
            "name": "back",
            "environment": {"name": "production", "kind": "production", "namespace": namespace.name()},
            "release": {"version": "v1", "services": [service("backend"), service("frontend")]},
            "phases": [{"name": "back", "strategy": {"database-rollback": strategy}}],
        });
        let text = file.to_string();
        let mut plan = planfile::read(&text, "plan.json").unwrap_or_else(|e| panic!("{e}")).0.expand();
        for step in plan.phases.iter_mut().flat_map(|p| &mut p.steps).filter(|s| s.action == kinds::EXEC) {
            step.retry.attempts = 2;
        }
        let scenario = Scenario::from_yaml("backups: {made-before: 47m, restore-takes: 2s}").unwrap();
        let simulator = Simulator::for_plan(&plan, scenario);
        let user = if namespace.rig().state().is_own() { DEPLOYER } else { "admin" };
        let stage = Stage { namespace, plan, journal: Arc::new(MemoryJournal::new()), user, simulator };
        stage.grant().await;
        stage
    }

    /// Allows what the plan needs, and nothing else.
    async fn grant(&self) {
        if self.user != DEPLOYER {
            return;
        }
        let api = "rbac.authorization.k8s.io";
        for role in roles_for(&self.plan, None) {
            let binding = json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": role["metadata"],
                "roleRef": {"apiGroup": api, "kind": "Role", "name": role["metadata"]["name"]},
                "subjects": [{"kind": "User", "apiGroup": api, "name": DEPLOYER}]});
            self.namespace.apply(&role.to_string()).await;
            self.namespace.apply(&binding.to_string()).await;
        }
        // The API server learns of it a moment later.
        let ask =
            ["auth", "can-i", "patch", "secrets/database", "--as", DEPLOYER, "--namespace", self.namespace.name()];
        let begun = Instant::now();
        while !self.namespace.rig().try_kubectl("admin", &ask, "").await.status.success() {
            assert!(begun.elapsed() < PATIENCE, "{DEPLOYER} may not patch the Secret");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn kube(&self) -> Kube {
        Kube::connect(&KubeConfig::new().kubeconfig(self.namespace.kubeconfig(self.user))).await.unwrap()
    }

    async fn engine(&self) -> Engine {
        let mut backends = self.kube().await.backends();
        backends.backup_stores = self.simulator.backends_for(&self.plan).backup_stores;
        Engine::new(self.journal.clone(), backends).with_clock(self.simulator.clock())
    }

    /// Drives a run, with people who say yes to all but `no_to`.
    async fn drive(&self, engine: &Engine, run: &RunId, no_to: &str) -> (Outcome, String) {
        let people = async {
            loop {
                sleep(Duration::from_millis(300)).await;
                let state = engine.state(run).await.unwrap();
                for (_, step) in state.plan.steps().filter(|(_, step)| step.action == kinds::APPROVAL) {
                    let asks =
                        |s: &moodify_core::journal::StepState| s.held.is_some() && s.status == StepStatus::Running;
                    if state.steps.get(&step.name).is_some_and(|s| asks(s)) {
                        let kind = if step.name == no_to { CommandKind::Reject } else { CommandKind::Approve };
                        for person in ["ann", "ben"] {
                            let _ = engine.command(run, &Command::new(kind, person, "").for_step(&step.name)).await;
                        }
                    }
                }
            }
        };
        let stop = CancellationToken::new();
        let driven = async {
            loop {
                match engine.drive(run, &stop).await {
                    // Who had it before has not been gone for long enough.
                    Err(e) if e.kind() == ErrorKind::Refused => sleep(Duration::from_secs(1)).await,
                    ending => break ending.unwrap(),
                }
            }
        };
        let driven = async {
            tokio::select! {
                ending = driven => ending,
                () = people => unreachable!("they wait for ever"),
            }
        };
        match timeout(PATIENCE, driven).await.expect("it ends") {
            Ending::Ended(outcome, summary) => (outcome, summary),
            Ending::Interrupted => panic!("interrupted"),
        }
    }

    async fn read(&self, what: &str) -> Value {
        let text = self.namespace.kubectl(&["get", what, "--output", "json"]).await;
        serde_json::from_str(&text).unwrap()
    }

    async fn secret(&self) -> Value {
        self.read("secret/database").await["data"].take()
    }

    /// Everything runs as before, on this database, and nothing is left of the way; no credential is in the journal.
    async fn assert_ended(&self, uri: &str, host: &str) {
        let encoded = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
        assert_eq!(self.secret().await, json!({"URI": encoded(uri), "USER": encoded("moods")}));
        let config = self.read("configmap/settings").await;
        assert_eq!(config["data"], json!({"DATABASE_HOST": host, "COLOR": "blue"}));
        for (name, replicas) in [("backend", 2), ("frontend", 3)] {
            let deployment: Deployment =
                serde_json::from_value(self.read(&format!("deployment/{name}")).await).unwrap();
            assert_eq!(deployment.spec.unwrap().replicas, Some(replicas), "{name}");
            assert!(!deployment.metadata.annotations.unwrap_or_default().contains_key("moodify.dev/stopped"), "{name}");
            self.namespace.wait_ready(name).await;
        }
        for run in self.journal.list().await.unwrap() {
            let text = serde_json::to_string(&self.journal.load(&run).await.unwrap()).unwrap();
            assert!(text.contains("restored.simulated.invalid") && !text.contains("hunter2"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_application_runs_on_the_restored_database() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("database-back").await;
    let stage = Stage::new(&namespace, "exit 0").await;
    let problems = stage.kube().await.preflight_plan(&CallContext::by_hand("check", PATIENCE), &stage.plan).await;
    assert!(problems.is_empty(), "{problems:?}");
    let engine = stage.engine().await;
    let run = engine.create(&stage.plan, "test").await.unwrap();
    let looks = async {
        // While the restore runs, nobody is there.
        loop {
            sleep(Duration::from_millis(100)).await;
            let state = engine.state(&run).await.unwrap();
            if matches!(state.status("back-restore"), StepStatus::Running | StepStatus::Finished(_)) {
                break;
            }
        }
        let pods = stage.read("pods").await;
        assert_eq!(pods["items"], json!([]), "nothing runs when the restore begins");
        let stopped = stage.read("deployment/frontend").await;
        assert!(stopped["metadata"]["annotations"]["moodify.dev/stopped"].as_str().unwrap().contains('3'), "{stopped}");
    };
    let ((outcome, summary), ()) = tokio::join!(stage.drive(&engine, &run, ""), looks);
    assert_eq!(outcome, Outcome::Completed, "{summary}");
    stage.assert_ended(NEW, "restored.simulated.invalid").await;
}

#[tokio::test]
async fn a_no_at_the_end_and_a_failed_check_bring_all_back() {
    let Some(rig) = Rig::shared().await else { return };
    for (name, command, no_to) in [("no", "exit 0", "back-confirm"), ("unwell", "echo no >&2; exit 3", "")] {
        let namespace = rig.namespace(&format!("database-{name}")).await;
        let stage = Stage::new(&namespace, command).await;
        let engine = stage.engine().await;
        let run = engine.create(&stage.plan, "test").await.unwrap();
        let (outcome, summary) = stage.drive(&engine, &run, no_to).await;
        assert_eq!(outcome, Outcome::RolledBack, "{summary}");
        assert!(no_to == "back-confirm" || summary.contains("ended with the exit code 3: no"), "{summary}");
        stage.assert_ended(OLD, "moods.internal").await;
        assert!(stage.simulator.world().restored().is_empty(), "what was restored is gone");
    }
}

/// The process is gone in the middle of it; another one finishes the run from the journal and the objects.
#[tokio::test]
async fn another_engine_goes_on_where_one_was_lost() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("database-lost").await;
    let stage = Stage::new(&namespace, "exit 0").await;
    let first = stage.engine().await;
    let run = first.create(&stage.plan, "test").await.unwrap();
    for step in ["back-stop", "back-switch-1", "back-start"] {
        let engine = stage.engine().await;
        let reached = async {
            loop {
                sleep(Duration::from_millis(20)).await;
                let state = fold(&stage.journal.load(&run).await.unwrap()).unwrap();
                if !matches!(state.status(step), StepStatus::Pending) {
                    return;
                }
            }
        };
        tokio::select! {
            ended = stage.drive(&engine, &run, "") => panic!("it ended before {step}: {ended:?}"),
            () = reached => {}
        }
    }
    let (outcome, summary) = stage.drive(&stage.engine().await, &run, "").await;
    assert_eq!(outcome, Outcome::Completed, "{summary}");
    stage.assert_ended(NEW, "restored.simulated.invalid").await;
}
