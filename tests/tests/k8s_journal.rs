//! The journal in the cluster, on a real API server: its contract, and what happens to a run when processes, connections
//! and objects do not behave.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use moodify_core::journal::{Command, CommandKind, Entry, JournalStore, Lease, Record};
use moodify_core::testing::conformance;
use moodify_core::{ErrorKind, RunId};
use moodify_k8s::{Kube, KubeConfig, KubeJournal};
use moodify_tests::rig::{Namespace, Rig};
use moodify_tests::scene::Scene;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const LONG: Duration = Duration::from_secs(3600);

/// A journal as a process has it that knows nothing but this kubeconfig.
async fn journal_by(namespace: &Namespace, kubeconfig: PathBuf) -> KubeJournal {
    let config = KubeConfig::new().kubeconfig(kubeconfig).request_timeout(Duration::from_secs(5));
    Kube::connect(&config).await.unwrap().journal(namespace.name())
}

async fn journal(namespace: &Namespace) -> KubeJournal {
    journal_by(namespace, namespace.kubeconfig("admin")).await
}

fn entry(seq: u64, token: u64, size: usize) -> Entry {
    let record = Record::Held { step: "bake".to_owned(), reason: "x".repeat(size) };
    Entry { seq, time: jiff::Timestamp::UNIX_EPOCH, elapsed_ms: Some(seq), token, record }
}

async fn begun(journal: &KubeJournal, name: &str, owner: &str, ttl: Duration) -> (RunId, Lease) {
    let run = RunId::new(name).unwrap();
    journal.create(&run, &entry(1, 0, 1)).await.unwrap();
    let lease = journal.acquire(&run, owner, ttl).await.unwrap();
    (run, lease)
}

/// Tries for as long as it is not known whether the owner is alive.
async fn taken(journal: &KubeJournal, run: &RunId, owner: &str) -> moodify_core::Result<Lease> {
    loop {
        match journal.acquire(run, owner, LONG).await {
            Err(e) if e.kind() == ErrorKind::Refused && e.retry_after_of().is_some() => {
                sleep(e.retry_after_of().unwrap()).await;
            }
            other => return other,
        }
    }
}

/// Appends records of that size up to the one numbered `last`; says what the journal holds then.
async fn filled(journal: &KubeJournal, run: &RunId, lease: &Lease, last: u64, size: usize) -> Vec<Entry> {
    let mut all = vec![entry(1, 0, 1)];
    for seq in 2..=last {
        all.push(entry(seq, lease.token, size));
        journal.append(run, lease, seq - 1, &all[all.len() - 1..]).await.unwrap();
    }
    all
}

fn alive(journal: &KubeJournal, owner: &'static str, ttl: Duration) -> JoinHandle<()> {
    let journal = journal.clone();
    tokio::spawn(async move {
        loop {
            sleep(ttl / 3).await;
            journal.renew(owner, ttl).await.unwrap();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_in_the_cluster_keeps_the_contract() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-contract").await;
    conformance::journal_store(&journal(&namespace).await, Duration::from_secs(3)).await;
    let leases: Api<LeaseObject> = namespace.api().await;
    let left = leases.list(&Default::default()).await.unwrap().items.len();
    assert!(left <= 1, "sessions that own nothing leave nothing; the one of the last run was ended: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_taken_over_only_when_its_session_was_seen_to_run_out() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-two").await;
    let (one, two) = (journal(&namespace).await, journal(&namespace).await);
    let ttl = Duration::from_secs(3);
    let (run, first) = begun(&one, "run", "ann", ttl).await;
    let keeps = alive(&one, "ann", ttl);
    for owner in ["bob", "ann"] {
        let refused = taken(&two, &run, owner).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "an owner is one place in one process: {refused}");
        assert!(refused.to_string().contains("owned by ann"), "{refused}");
    }
    assert_eq!(two.holder(&run).await.unwrap().as_deref(), Some("ann"));
    one.append(&run, &first, 1, &[entry(2, first.token, 1)]).await.unwrap();

    keeps.abort();
    let gone = Instant::now();
    let second = taken(&two, &run, "bob").await.unwrap();
    assert!(gone.elapsed() < ttl * 3, "it took {:?}", gone.elapsed());
    assert!(second.token > first.token);
    two.append(&run, &second, 2, &[entry(3, second.token, 1)]).await.unwrap();
    let late = one.append(&run, &first, 2, &[entry(3, first.token, 1)]).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced, "{late}");
    assert!(late.to_string().contains("bob"), "{late}");
    assert_eq!(one.renew("ann", LONG).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(one.load(&run).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_is_kept_in_several_objects_and_damage_in_any_is_named() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-long").await;
    let journal = journal(&namespace).await;
    let (run, lease) = begun(&journal, "run", "ann", LONG).await;
    let wanted = filled(&journal, &run, &lease, 60, 50_000).await;
    assert_eq!(journal.load(&run).await.unwrap(), wanted);
    journal.give_up(&run, &lease).await.unwrap();
    let next = self::journal(&namespace).await;
    let lease = next.acquire(&run, "bob", LONG).await.unwrap();
    next.append(&run, &lease, 60, &[entry(61, lease.token, 1)]).await.unwrap();

    let maps: Api<ConfigMap> = namespace.api().await;
    let ours = kube::api::ListParams::default().labels("moodify.dev/run=run");
    let names = async || -> Vec<String> {
        maps.list(&ours).await.unwrap().items.into_iter().map(|map| map.metadata.name.unwrap()).collect()
    };
    let before = names().await;
    assert!(before.len() >= 5, "three megabytes are in several objects: {before:?}");

    let huge = next.append(&run, &lease, 61, &[entry(62, lease.token, 2_000_000)]).await.unwrap_err();
    assert!(huge.to_string().contains("at most"), "{huge}");
    next.append(&run, &lease, 61, &[entry(62, lease.token, 1)]).await.unwrap();

    let chunk = before.iter().find(|name| name.as_str() != "moodify-run-run").unwrap();
    let removed = maps.get(chunk).await.unwrap();
    maps.delete(chunk, &Default::default()).await.unwrap();
    let damaged = next.load(&run).await.unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Corrupt, "{damaged}");
    assert!(damaged.to_string().contains("line"), "{damaged}");
    let mut back = removed.clone();
    back.metadata.resource_version = None;
    back.metadata.uid = None;
    maps.create(&Default::default(), &back).await.unwrap();
    assert_eq!(next.load(&run).await.unwrap().len(), 62);

    next.give_up(&run, &lease).await.unwrap();
    next.remove(&run).await.unwrap();
    assert_eq!(names().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_is_changed_in_the_object_fences_nobody_and_a_changed_record_is_noticed() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-edit").await;
    let journal = journal(&namespace).await;
    let (run, lease) = begun(&journal, "run", "ann", LONG).await;
    let maps: Api<ConfigMap> = namespace.api().await;
    let change = async |patch: serde_json::Value| {
        maps.patch("moodify-run-run", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    change(json!({"metadata": {"annotations": {"who": "an auditor"}}})).await;
    journal.append(&run, &lease, 1, &[entry(2, lease.token, 1)]).await.unwrap();

    let line = maps.get("moodify-run-run").await.unwrap().data.unwrap()["record-00000002"].clone();
    change(json!({"data": {"record-00000002": line.replace("xx", "yy").replacen("bake", "cake", 1)}})).await;
    let damaged = journal.load(&run).await.unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Corrupt);
    assert!(damaged.to_string().contains("line 3"), "{damaged}");
    assert!(damaged.to_string().contains("run"), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_in_the_middle_of_writes_lose_and_double_nothing() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-breaks").await;
    let proxy = namespace.api_proxy().await;
    let journal = journal_by(&namespace, proxy.kubeconfig(&namespace, "admin")).await;
    let (run, lease) = begun(&journal, "run", "ann", LONG).await;
    let writes = filled(&journal, &run, &lease, 400, 100);
    let breaks = async {
        let mut times = 0;
        loop {
            sleep(Duration::from_millis(100 + 30 * (times % 7))).await;
            proxy.cut();
            sleep(Duration::from_millis(1)).await;
            proxy.open();
            times += 1;
        }
    };
    let wanted = tokio::select! {
        wanted = writes => wanted,
        () = breaks => unreachable!("it breaks for ever"),
    };
    assert_eq!(self::journal(&namespace).await.load(&run).await.unwrap(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_another_process_arrives_at_once_and_goes_when_it_is_on_the_record() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-inbox").await;
    let (one, two) = (journal(&namespace).await, journal(&namespace).await);
    let (run, lease) = begun(&one, "run", "ann", LONG).await;
    let command = Command::new(CommandKind::Abort, "bob", "a customer called");
    let nothing = std::collections::BTreeSet::new();
    let sent = async {
        sleep(Duration::from_secs(1)).await;
        two.send(&run, &command).await.unwrap();
        Instant::now()
    };
    let waits = async { (one.commands(&run, &nothing).await.unwrap(), Instant::now()) };
    let ((taken, woken), sent) = tokio::join!(waits, sent);
    assert_eq!(taken, std::slice::from_ref(&command));
    assert!(woken.saturating_duration_since(sent) < Duration::from_secs(1), "{:?}", woken - sent);

    let maps: Api<ConfigMap> = namespace.api().await;
    let ours = kube::api::ListParams::default().labels("moodify.dev/journal=command");
    assert_eq!(maps.list(&ours).await.unwrap().items.len(), 1);
    let record = Record::Commanded { command, refused: None };
    one.append(&run, &lease, 1, &[Entry { record, ..entry(2, lease.token, 1) }]).await.unwrap();
    assert_eq!(maps.list(&ours).await.unwrap().items.len(), 0, "what is on the record needs no inbox");

    let mut evil = Command::new(CommandKind::Pause, "eve", "");
    evil.id = "../../../api".to_owned();
    assert_eq!(two.send(&run, &evil).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_what_is_missing() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-forbidden").await;
    let journal = journal_by(&namespace, namespace.kubeconfig("alice")).await;
    let run = RunId::new("run").unwrap();
    let refused = journal.create(&run, &entry(1, 0, 1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Storage);
    assert!(refused.to_string().contains("cannot create resource \"configmaps\""), "{refused}");
    let refused = journal.list().await.unwrap_err();
    assert!(refused.to_string().contains("cannot list resource \"configmaps\""), "{refused}");
}

/// What a CI runner does that dies in the middle of a release: another one, which has nothing but a kubeconfig, goes on.
#[tokio::test]
async fn a_release_of_one_machine_is_shown_commanded_and_finished_by_another() {
    let Some(rig) = Rig::shared().await else { return };
    let namespace = rig.namespace("journal-release").await;
    let Some(mut scene) = Scene::new(&namespace, &[("backend", "v2")], "http-route").await else { return };
    scene.keep_in_cluster().await;
    scene.canary()["bake"] = "5s".into();
    let mut running = scene.start_release();
    let run =
        running.until("the run's name", |e| e["event"] == "run-created").await["run"].as_str().unwrap().to_owned();
    running.until_step("rollout-bake-10").await;
    let status = scene.run(&["status"]).await;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(&run), "{status}");
    assert!(scene.run(&["pause", &run, "--reason", "lunch"]).await.status.success());
    running.until("the pause", |e| e["event"] == "commanded" && e["command"] == "pause").await;
    running.kill().await;

    let mut running = scene.start(&["resume", &run]);
    running.until("that it was taken", |e| e["event"] == "owned").await;
    assert!(scene.run(&["continue", &run]).await.status.success());
    let finished = running.finish().await;
    finished.ended("completed");
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    scene.assert_serves("v2").await;
    assert!(!scene.journal().exists(), "nothing was kept on the machine");
}
