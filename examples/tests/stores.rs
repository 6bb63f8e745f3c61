//! What keeps data, set up in a plan file: the real binary against a real Redis and an emulated AWS.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;
#[path = "../../moodify-aws/tests/fake/mod.rs"]
mod fake;

use std::path::Path;
use std::process::Command;

use common::cluster::{answer, kubeconfig, serve};
use common::peers::{Moto, Redis};
use common::{Background, Done, moodify, run, wait_for};
use serde_json::Value;
use tempfile::TempDir;

const PASSWORD: &str = "correct-horse-battery";

/// A plan file, and what the process is given beside it.
struct Stage {
    dir: TempDir,
    plan: String,
}

impl Stage {
    /// A plan of these phases for what is set up at these addresses.
    fn new(redis: &str, moto: &str, phases: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = serve(axum::Router::new().fallback(answer));
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig(address, "a-token-of-nobody")).unwrap();
        let entries = dir.path().join("moods.jsonl");
        std::fs::write(
            &entries,
            "{\"key\": \"mood:1\", \"value\": \"calm\"}\n{\"key\": \"mood:2\", \"value\": \"x\"}\n",
        )
        .unwrap();
        let text = format!(
            r#"
name: stores
environment: {{name: test, kind: staging, namespace: web}}
backends:
  backup-stores:
    moods:
      documentdb:
        api: {{region: eu-central-1, endpoint: "{moto}", access-key-id: AKIAMOODIFY, secret-access-key-env: AWS_SECRET}}
        cluster: moods
        engine: aurora-mysql
  caches:
    sessions: {{redis: {{url: "{redis}", username: moodify, password-env: SESSIONS_PASSWORD, environment: staging}}}}
  artifacts:
    here: {{directory: {{path: "{kept}"}}}}
    there:
      s3:
        api: {{region: eu-central-1, endpoint: "{moto}", access-key-id: AKIAMOODIFY, secret-access-key-env: AWS_SECRET}}
        bucket: moods
release:
  version: v2
  services:
    - {{name: web, workload: web, image: "r/web:v2", traffic: {{router: replica-ratio, service: web-service}}}}
phases:
{}
"#,
            phases.replace("ENTRIES", entries.to_str().unwrap()),
            kept = dir.path().join("kept/artifacts").display()
        );
        let plan = dir.path().join("plan.yaml");
        std::fs::write(&plan, text).unwrap();
        Self { plan: plan.to_str().unwrap().to_owned(), dir }
    }

    fn command(&self, password: Option<&str>, args: &[&str]) -> Command {
        let mut command = moodify(args);
        command.env("KUBECONFIG", self.dir.path().join("kubeconfig")).env("AWS_SECRET", "a-secret-key");
        command.env("MOODIFY_JOURNAL", self.dir.path().join("journal")).env_remove("SESSIONS_PASSWORD");
        password.map(|password| command.env("SESSIONS_PASSWORD", password));
        command
    }

    fn run_with(&self, password: Option<&str>, args: &[&str]) -> Done {
        let done: Done = self.command(password, args).output().unwrap().into();
        assert!(!done.out.contains(PASSWORD) && !done.err.contains(PASSWORD), "{done:?}");
        done
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_with(Some(PASSWORD), args)
    }
}

const PHASES: &str = r#"
  - name: save
    steps: [{name: backup, action: backup, with: {store: moods}}]
  - name: cache
    steps:
      - {name: flush, action: cache-flush, with: {cache: sessions, confirm: sessions}}
      - {name: warm, action: cache-warm, with: {cache: sessions, entries: "ENTRIES"}}
      - {name: look, action: cache-check, with: {cache: sessions, memory-at-most: 0.9}}"#;

#[test]
fn a_plan_saves_a_database_and_looks_after_a_cache() {
    let (Some(redis), Some(moto)) = (Redis::start(PASSWORD), Moto::start()) else { return };
    let stage = Stage::new(&redis.url(), &moto.url(), PHASES);
    assert_eq!(redis.ask("SET old:1 x"), "+OK");

    let check = stage.run(&["check", &stage.plan]);
    assert_eq!((check.code, check.err.as_str()), (0, ""), "{}", check.out);
    assert_eq!(redis.ask("DBSIZE"), ":1", "a check changes nothing");

    let missing = stage.run(&["run", &stage.plan]);
    assert_eq!(
        missing.code, 4,
        "there is no such cluster yet, and nothing to take back: {}{}",
        missing.out, missing.err
    );
    moto.create_cluster("moods");
    let done = stage.run(&["run", &stage.plan, "--output", "json"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert_eq!((redis.ask("DBSIZE"), redis.ask("GET mood:1")), (":2".to_owned(), "$4".to_owned()));

    let by_hand = |args: &[&str]| stage.run(&[args, &["--settings", &stage.plan]].concat());
    let list = by_hand(&["backup", "list", "moods", "--output", "json"]);
    let list: Value = serde_json::from_str(&list.out).unwrap();
    // It makes automated ones of its own.
    let of_runs: Vec<&Value> = list.as_array().unwrap().iter().filter(|made| made["run"].is_string()).collect();
    let [made] = of_runs.as_slice() else { panic!("{list}") };
    assert_eq!((&made["source"], &made["state"]), (&"moods".into(), &"available".into()));
    let id = made["id"].as_str().unwrap();
    assert_eq!(by_hand(&["backup", "verify", "moods", id]).code, 0);
    let refused = by_hand(&["backup", "delete", "moods", id, "--confirm", "moods"]);
    assert!(refused.code == 3 && refused.err.contains("nothing was deleted"), "{refused:?}");
    assert_eq!(by_hand(&["backup", "delete", "moods", id, "--confirm", id]).code, 0);
    assert!(!by_hand(&["backup", "list", "moods"]).out.contains(id));
}

#[test]
fn a_backup_that_an_open_run_may_need_is_deleted_only_by_that_runs_name() {
    let Some(moto) = Moto::start() else { return };
    moto.create_cluster("moods");
    let stage = Stage::new(
        "redis://127.0.0.1:1",
        &moto.url(),
        "  - {name: save, steps: [{name: backup, action: backup, with: {store: moods}}]}\n  \
         - {name: ask, steps: [{name: ask, action: approval, with: {question: \"Go on?\"}}]}",
    );
    let by_hand = |args: &[&str]| stage.run(&[args, &["--settings", &stage.plan]].concat());
    let made = by_hand(&["backup", "create", "moods"]);
    assert!(made.code == 0 && made.err.contains(" of moods: complete"), "it tells how far it is: {made:?}");
    assert!(by_hand(&["backup", "create", "moods", "--output", "json"]).err.is_empty());

    let waits = Background::start(&mut stage.command(Some(PASSWORD), &["run", &stage.plan]));
    let waiting = wait_for(&stage.dir.path().join("journal"), "waiting", |run| run["state"] == "waiting");
    waits.kill();
    let run = waiting["run"].as_str().unwrap();
    let list: Value = serde_json::from_str(&by_hand(&["backup", "list", "moods", "--output", "json"]).out).unwrap();
    let of = |backup: &&Value| backup["run"] == run;
    let id = list.as_array().unwrap().iter().find(of).unwrap()["id"].as_str().unwrap();
    let delete = ["backup", "delete", "moods", id, "--confirm", id];
    for more in [&[][..], &["--although-needed", "another"]] {
        let refused = by_hand(&[&delete[..], more].concat());
        assert!(refused.code == 3 && refused.err.contains("nothing was deleted"), "{refused:?}");
        assert!(refused.err.contains(&format!("--although-needed {run}")), "{refused:?}");
    }
    assert_eq!(by_hand(&["backup", "verify", "moods", id]).code, 0, "it is still there");
    let elsewhere = by_hand(&[&delete[..], &["--journal", "/nowhere"]].concat());
    assert!(elsewhere.code == 2 && elsewhere.err.contains("there are no runs in /nowhere"), "{elsewhere:?}");
    assert_eq!(by_hand(&[&delete[..], &["--although-needed", run]].concat()).code, 0);
    assert!(!by_hand(&["backup", "list", "moods"]).out.contains(id));
}

#[test]
fn what_is_archived_in_a_directory_comes_back_whole() {
    const ARCHIVE: &str =
        "  - {name: keep, steps: [{name: archive, action: archive, with: {store: here, files: [{file: ENTRIES}]}}]}";
    let stage = Stage::new("redis://127.0.0.1:1", "http://127.0.0.1:1", ARCHIVE);
    let (kept, fetched) = (stage.dir.path().join("kept/artifacts"), stage.dir.path().join("fetched.jsonl"));
    let check = stage.run(&["check", &stage.plan]);
    assert_eq!((check.code, check.err.as_str()), (0, ""), "{}", check.out);
    assert!(!kept.exists(), "a check makes nothing");
    let done = stage.run(&["run", &stage.plan]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let run = std::fs::read_dir(kept.join("runs")).unwrap().next().unwrap().unwrap().file_name();
    let path = format!("runs/{}/archive/moods.jsonl", run.to_str().unwrap());

    let text = std::fs::read_to_string(&stage.plan).unwrap();
    let phases = format!(
        "phases:\n  - {{name: get, steps: [{{name: fetch, action: fetch-artifact, \
         with: {{store: here, path: {path}, file: {}}}}}]}}\n",
        fetched.display()
    );
    std::fs::write(&stage.plan, text.split("phases:").next().unwrap().to_owned() + &phases).unwrap();
    let done = stage.run(&["run", &stage.plan]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let read = |file: &Path| std::fs::read(file).unwrap();
    assert_eq!(read(&fetched), read(&stage.dir.path().join("moods.jsonl")));

    std::fs::write(&stage.plan, text.replace("store: here", "store: there")).unwrap();
    let done = stage.run(&["check", &stage.plan]);
    assert!(done.code == 3 && done.err.contains("the artifact store \"there\" could not be asked"), "{done:?}");
}

#[test]
fn a_cache_is_looked_after_by_hand_and_its_guards_hold() {
    let Some(redis) = Redis::start(PASSWORD) else { return };
    let stage = Stage::new(&redis.url(), "http://127.0.0.1:1", PHASES);
    (0..30).for_each(|n| assert_eq!(redis.ask(&format!("SET mood:{n} x")), "+OK"));
    assert_eq!(redis.ask("SET other x"), "+OK");
    let cache = |args: &[&str]| stage.run(&[&["cache"], args, &["--settings", &stage.plan]].concat());
    let info = cache(&["info", "sessions"]);
    assert!(info.code == 0 && info.out.contains("31 keys"), "{info:?}");
    let counted = cache(&["delete", "sessions", "mood:1*", "--dry-run"]);
    assert!(counted.out.contains("11 keys match mood:1*"), "{counted:?}");
    assert!(cache(&["delete", "sessions", "mood:*"]).out.contains("30 keys deleted"));
    let typed = cache(&["flush", "sessions", "--confirm", "session"]);
    assert!(typed.code == 3 && typed.err.contains("nothing was deleted"), "{typed:?}");
    assert_eq!(redis.ask("DBSIZE"), ":1");
    let snapshot = cache(&["snapshot", "sessions"]);
    assert!(snapshot.code == 0 && snapshot.out.contains("1 keys, complete at"), "{snapshot:?}");
    assert!(snapshot.out.contains("; its file was NOT looked at: "), "its user may not ask where it is: {snapshot:?}");
    let many = cache(&["flush", "sessions", "--confirm", "sessions", "--at-most", "0"]);
    assert!(many.code == 3 && many.err.contains("no more than 0 are to be deleted; nothing was"), "{many:?}");
    assert_eq!(redis.ask("DBSIZE"), ":1");
    assert!(cache(&["flush", "sessions", "--confirm", "sessions"]).out.contains("1 keys deleted"));
    assert_eq!(redis.ask("DBSIZE"), ":0");
    let unknown = cache(&["info", "moods"]);
    assert!(unknown.code == 2 && unknown.err.contains("there are: sessions"), "{unknown:?}");

    // The same by the environment alone, where it is one of production unless that is said.
    let production = |args: &[&str]| -> Done {
        let mut command = moodify(args);
        command.env("MOODIFY_REDIS_NAME", "sessions").env("MOODIFY_REDIS_URL", redis.url());
        command.env("MOODIFY_REDIS_USERNAME", "moodify").env("MOODIFY_REDIS_PASSWORD", PASSWORD);
        command.output().unwrap().into()
    };
    let flush = ["cache", "flush", "sessions", "--confirm", "sessions"];
    let refused = production(&flush);
    assert!(refused.code == 3 && refused.err.contains("production"), "{refused:?}");
    assert_eq!(production(&[&flush[..], &["--production"]].concat()).code, 0);
}

/// The directory in which the node writes is told: so its file is read, and has to be there.
#[test]
fn a_snapshot_is_read_where_its_file_is_said_to_be_seen() {
    let Some(redis) = Redis::start_with(PASSWORD, "+config|get") else { return };
    let stage = Stage::new(&redis.url(), "http://127.0.0.1:1", PHASES);
    let text = std::fs::read_to_string(&stage.plan).unwrap();
    let node = redis.url().replace("redis://", "");
    let snapshot = |dir: &Path| {
        let dirs = format!("environment: staging, dump-dirs: {{\"{node}\": \"{}\"}}}}}}", dir.display());
        std::fs::write(&stage.plan, text.replace("environment: staging}}", &dirs)).unwrap();
        stage.run(&["cache", "snapshot", "sessions", "--settings", &stage.plan])
    };
    let read = snapshot(redis.dir());
    assert!(read.code == 0 && read.out.contains("its checksum is right"), "{read:?}");
    let elsewhere = snapshot(stage.dir.path());
    assert!(elsewhere.code != 0 && elsewhere.err.contains("dump-dirs says where"), "{elsewhere:?}");
}

/// One cache of the plan: its data by Redis, its nodes by ElastiCache.
#[tokio::test(flavor = "multi_thread")]
async fn data_and_nodes_of_one_cache_are_looked_after_by_two_providers() {
    let Some(redis) = Redis::start(PASSWORD) else { return };
    let aws = fake::Fake::start().await;
    let group = "Action=CreateReplicationGroup&ReplicationGroupId=sessions&NumCacheClusters=2&Engine=redis&\
                 EngineVersion=7.1&CacheNodeType=cache.r6g.large&AutomaticFailoverEnabled=true&MultiAZEnabled=true";
    assert_eq!(aws.ask(group), (200, String::new()));
    let phases = r#"
  - name: cache
    steps:
      - {name: flush, action: cache-flush, with: {cache: sessions, confirm: sessions}}
      - {name: restart, action: cache-restart, with: {cache: sessions}}
      - {name: warm, action: cache-warm, with: {cache: sessions, entries: "ENTRIES"}}
      - {name: look, action: cache-check, with: {cache: sessions, memory-at-most: 0.9}}"#;
    let stage = Stage::new(&redis.url(), &aws.url(), phases);
    let text = std::fs::read_to_string(&stage.plan).unwrap();
    let api = format!(
        "{{region: eu-central-1, endpoint: \"{}\", access-key-id: AKIA, secret-access-key-env: AWS_SECRET}}",
        aws.url()
    );
    let nodes = |name: &str| {
        let of = format!("environment: staging}}, elasticache: {{api: {api}, cache: {{replication-group: {name}}}}}}}");
        std::fs::write(&stage.plan, text.replace("environment: staging}}", &of)).unwrap();
    };
    assert_eq!(redis.ask("SET old:1 x"), "+OK");
    // Either may stand in the way, before anything is changed.
    nodes("moods");
    let refused = stage.run(&["run", &stage.plan]);
    assert!(refused.code == 2 && refused.err.contains("on moods: there is no such replication group"), "{refused:?}");
    nodes("sessions");
    let refused = stage.run_with(Some("another-password"), &["run", &stage.plan]);
    assert!(refused.code == 3 && refused.err.contains("check the username and the password"), "{refused:?}");
    assert_eq!((redis.ask("DBSIZE").as_str(), aws.count("RebootCacheCluster")), (":1", 0));

    let done = stage.run(&["run", &stage.plan]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert_eq!((redis.ask("DBSIZE").as_str(), redis.ask("GET mood:1").as_str()), (":2", "$4"));
    let world = aws.world();
    let restarted = world.events.iter().filter(|event| event.get("Message").ends_with("restarted"));
    let order: Vec<&str> = restarted.map(|event| event.get("SourceIdentifier")).collect();
    assert_eq!(order, ["sessions-002", "sessions-001"], "the replica before the primary");
}

#[test]
fn what_stands_in_the_way_is_told_before_any_effect() {
    let Some(redis) = Redis::start(PASSWORD) else { return };
    let only_cache =
        "  - {name: cache, steps: [{name: flush, action: cache-flush, with: {cache: sessions, confirm: sessions}}]}";
    let stage = Stage::new(&redis.url(), "http://127.0.0.1:1", only_cache);
    assert_eq!(redis.ask("SET old:1 x"), "+OK");
    for (password, code, parts) in [
        (Some("another-password"), 3, ["check the username and the password", ""]),
        (None, 2, ["plan.yaml:12:", "SESSIONS_PASSWORD is not set"]),
    ] {
        for command in ["check", "run"] {
            let done = stage.run_with(password, &[command, &stage.plan]);
            assert_eq!(done.code, code, "{done:?}");
            assert!(parts.iter().all(|part| done.err.contains(part)), "{parts:?}: {}", done.err);
        }
    }
    let text = std::fs::read_to_string(&stage.plan).unwrap();
    let unknown =
        text.replace("with: {cache: sessions, confirm: sessions}", "with: {cache: session, confirm: session}");
    std::fs::write(&stage.plan, unknown).unwrap();
    for args in [&["check", &stage.plan][..], &["check", "--offline", &stage.plan], &["run", &stage.plan]] {
        let done = stage.run(args);
        assert_eq!(done.code, 2, "{done:?}");
        for part in ["unknown cache \"session\"; did you mean \"sessions\"?", "known here: sessions", "plan.yaml:24:"] {
            assert!(done.err.contains(part), "{part:?} is missing in {}", done.err);
        }
    }
    assert!(!Path::new(&stage.dir.path().join("journal")).exists(), "no run began");
    // Nothing secret has a place in a plan.
    let inline = text.replace("password-env: SESSIONS_PASSWORD", "password: correct-horse");
    std::fs::write(&stage.plan, inline).unwrap();
    let done = stage.run(&["check", "--offline", &stage.plan]);
    assert!(done.code == 2 && done.err.contains("unknown key \"password\""), "{done:?}");
    assert_eq!(redis.ask("DBSIZE"), ":1", "nothing was changed");
}

#[test]
fn a_firestore_goes_back_into_a_new_database_or_into_itself() {
    for (plan, then) in [
        ("firestore-rollback.yaml", "production runs on moods-restored"),
        ("firestore-restore-live.yaml", "a backup is restored into the database of firestore, in production"),
    ] {
        let plan = format!("{}/plans/{plan}", env!("CARGO_MANIFEST_DIR"));
        let checked = run(&["check", "--offline", &plan]);
        assert_eq!((checked.code, checked.err.as_str()), (0, ""), "{}", checked.out);
        let simulated = run(&["run", &plan, "--simulate"]);
        assert_eq!(simulated.code, 0, "{}{}", simulated.out, simulated.err);
        assert!(simulated.out.contains(then), "{}", simulated.out);
        // A plan that says what does not fit never stops an application.
        let text = std::fs::read_to_string(&plan).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bad = dir.path().join("plan.yaml");
        let wrong = text.replace(", template: \"{{database}}\"", "").replace(", approvals: 2", "");
        std::fs::write(&bad, wrong).unwrap();
        let refused = run(&["check", "--simulate", bad.to_str().unwrap()]);
        assert!([2, 3].contains(&refused.code), "{refused:?}");
        let why = ["no host that could be replaced", "no approval by two persons"];
        assert!(why.iter().any(|why| refused.err.contains(why)), "{refused:?}");
    }
}

#[test]
fn the_example_is_sound_and_names_every_kind_of_store() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/plans/stores.yaml");
    let offline = |password: Option<&str>| -> Done {
        let mut command = moodify(&["check", "--offline", plan]);
        password.map(|password| command.env("SESSIONS_PASSWORD", password));
        command.output().unwrap().into()
    };
    let done = offline(Some(PASSWORD));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    let done = offline(None);
    assert!(done.code == 2 && done.err.contains("SESSIONS_PASSWORD is not set"), "{done:?}");
    let simulated = run(&["run", plan, "--simulate"]);
    assert_eq!(simulated.code, 0, "{}{}", simulated.out, simulated.err);
    let text = std::fs::read_to_string(plan).unwrap();
    for kind in ["documentdb:", "elasticache:", "firestore:", "redis:", "cloud-storage:", "s3:", "directory:"] {
        assert!(text.contains(kind), "{kind}");
    }
}
