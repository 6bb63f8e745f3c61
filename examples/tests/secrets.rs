//! Nothing secret gets out, whatever servers answer: every backend is given secrets that can be recognised, and talks to
//! servers that repeat all they were sent. All that can be seen of it is searched.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::error::Error as StdError;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use common::cluster::{answer, kubeconfig, serve};
use common::moodify;
use moodify_aws::{ApiConfig, DocumentDbBackups, DocumentDbConfig};
use moodify_core::action::{Action, Observed, Registry, StepContext};
use moodify_core::backend::{
    ArtifactStore, ArtifactStoreExt, BackupRequest, BackupStore, CacheAdmin, DeleteRequest, IncidentStatus,
    IncidentUpdate, MetricQuery, Notification, ProbeRequest,
};
use moodify_core::event::ProgressKind;
use moodify_core::journal::FileJournal;
use moodify_core::model::Track;
use moodify_core::secret::Redacting;
use moodify_core::{Backends, CallContext, Engine, Error, IdempotencyKey, Plan, RunId};
use moodify_gcp::{CloudStorage, FirestoreBackups, FirestoreConfig, StorageConfig};
use moodify_http::{HttpConfig, JsonMetricConfig, NotifierConfig, NotifierKind, PrometheusConfig, StatusPageConfig};
use moodify_k8s::{Kube, KubeConfig};
use moodify_redis::{RedisCache, RedisConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};

/// The secrets, by where they are configured. Each has letters of both cases and signs that encodings change.
const PLACES: [&str; 13] = [
    "prometheus",
    "json",
    "page",
    "slack",
    "hook",
    "hook-user",
    "hook-token",
    "kube",
    "redis",
    "redis-url",
    "aws",
    "aws-session",
    "gcp",
];

fn canary(place: &str) -> String {
    format!("Cnry+{place}/7f3A9qXz=Kp")
}

/// Where a text holds a secret, in any form. Deliberately not written with what is tested here.
fn scan(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lowered = text.to_lowercase();
    for place in PLACES {
        let secret = canary(place);
        let encoded: String = secret
            .bytes()
            .map(|b| match b {
                b if b.is_ascii_alphanumeric() || b == b'-' => (b as char).to_string(),
                b => format!("%{b:02X}"),
            })
            .collect();
        let mut forms = vec![("as it is", secret.clone()), ("percent-encoded", encoded)];
        for skip in 0..3 {
            let padded = [&b"xx"[..skip], secret.as_bytes()].concat();
            for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                forms.push(("in base64", encoded[4..encoded.len() - 4].to_owned()));
            }
        }
        for (how, form) in forms {
            if let Some(at) = lowered.find(&form.to_lowercase()) {
                let from = text.char_indices().map(|(i, _)| i).take_while(|i| *i + 120 < at).last().unwrap_or(0);
                let around: String = text[from..].chars().take(300).collect();
                found.push(format!("{place} {how}: {around}"));
            }
        }
    }
    found
}

#[track_caller]
fn assert_clean(what: &str, text: &str) {
    let found = scan(text);
    assert!(found.is_empty(), "{what} says secrets:\n{}", found.join("\n"));
}

/// How often a fake server was sent a secret, and said it again.
static REPEATED: AtomicUsize = AtomicUsize::new(0);

/// Answers in turn with a refusal, a failure, a redirect and nonsense; each repeats all that was asked.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let sent = headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    let mut said = format!("{method} {uri} {:?}\n{}", sent.collect::<Vec<_>>(), String::from_utf8_lossy(&body));
    said += &format!("\n{}", STANDARD.encode(&said));
    let login = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    REPEATED.fetch_add(usize::from(!scan(&said).is_empty()), Ordering::Relaxed);
    match TURN.fetch_add(1, Ordering::Relaxed) % 5 {
        0 => (StatusCode::UNAUTHORIZED, format!("who are you? {login} {said}")).into_response(),
        1 => (StatusCode::INTERNAL_SERVER_ERROR, said).into_response(),
        2 => (StatusCode::OK, format!("{{\"{login}\": ")).into_response(),
        3 => {
            let to = format!("/elsewhere?t={}", percent(&login));
            (StatusCode::FOUND, [("location", to)], said).into_response()
        }
        _ => {
            let status = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": said});
            (StatusCode::FORBIDDEN, axum::Json(status)).into_response()
        }
    }
}

/// A Redis that repeats every command in its error.
fn redis() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut bytes) {
                let said = String::from_utf8_lossy(&bytes[..read]).replace(['\r', '\n'], " ");
                REPEATED.fetch_add(usize::from(!scan(&said).is_empty()), Ordering::Relaxed);
                if stream.write_all(format!("-ERR not you: {said}\r\n").repeat(3).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    address.to_string()
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<String>>);

impl Seen {
    fn add(&self, text: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push_str(text);
        seen.push('\n');
    }

    fn error(&self, error: &Error) {
        self.add(&format!("{error}\n{error:?}\n{}", serde_json::to_string(&error.to_record()).unwrap()));
        for below in std::iter::successors(error.source(), |&e| e.source()) {
            self.add(&format!("{below}\n{below:?}"));
        }
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.add(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A log as a program writes it.
#[derive(Debug, Clone)]
struct Log(Seen);

impl<'a> MakeWriter<'a> for Log {
    type Writer = Redacting<Seen>;

    fn make_writer(&'a self) -> Self::Writer {
        Redacting(self.0.clone())
    }
}

fn percent(text: &str) -> String {
    text.replace(' ', "%20").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

fn variable(echo: &str, name: &str) -> Option<String> {
    Some(match name {
        "PROMETHEUS" => canary("prometheus"),
        "JSON" => canary("json"),
        "PAGE" => canary("page"),
        "SLACK" => format!("http://{echo}/services/T01/{}", percent(&canary("slack"))),
        "HOOK" => format!("http://ana:{}@{echo}/hook/{}", percent(&canary("hook-user")), percent(&canary("hook"))),
        "HOOK_TOKEN" => canary("hook-token"),
        _ => return None,
    })
}

fn http_config(echo: &str) -> HttpConfig {
    let mut prometheus = PrometheusConfig::new(&format!("http://{echo}"));
    prometheus.token_env = Some("PROMETHEUS".to_owned());
    let mut metric = JsonMetricConfig::new(&format!("http://{echo}/metric"));
    metric.token_env = Some("JSON".to_owned());
    let mut hook = NotifierConfig::new(NotifierKind::Webhook, "HOOK");
    hook.token_env = Some("HOOK_TOKEN".to_owned());
    HttpConfig::default()
        .with_prometheus(prometheus)
        .with_json_metric("error-rate", metric)
        .with_status_page(StatusPageConfig::new(&format!("http://{echo}"), "PAGE"))
        .with_notifier("slack", NotifierConfig::new(NotifierKind::Slack, "SLACK"))
        .with_notifier("hook", hook)
}

fn cx() -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/x"), Duration::from_secs(5))
}

fn plan() -> Plan {
    let step = |name: &str, action: &str, with: Value| json!({"name": name, "action": action, "with": with, "retry": {"attempts": 2, "delay": "1s", "max-delay": "1s"}});
    serde_json::from_value(json!({
        "name": "leaks", "environment": {"name": "test", "kind": "development", "namespace": "web"},
        "release": {"version": "v2", "services": [{"name": "web", "workload": "web", "image": "r/web:v2",
            "traffic": {"router": "replica-ratio", "service": "web-service"}}]},
        "phases": [{"name": "tell", "parallel": true, "steps": [
            step("slack", "notify", json!({"title": "t", "to": "slack"})),
            step("hook", "notify", json!({"title": "t", "to": "hook"})),
        ]}, {"name": "leak", "steps": [step("leak", "leak", json!({}))]},
            {"name": "look", "steps": [step("look", "baseline", json!({}))]}],
    }))
    .unwrap()
}

/// A step that puts secrets wherever a step can put something, then panics with one.
#[derive(Debug)]
struct Leak;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Nothing {}

#[derive(Debug, Serialize, Deserialize)]
struct Leaked {
    said: String,
}

#[async_trait]
impl Action for Leak {
    type Params = Nothing;
    type Output = Leaked;

    async fn execute(&self, cx: &StepContext, _: &Nothing) -> moodify_core::Result<Leaked> {
        cx.checkpoint(&json!({"kept": [canary("kube")], "encoded": STANDARD.encode(canary("aws"))})).await?;
        cx.hold(&format!("waits for {}", canary("redis"))).await?;
        cx.progress(ProgressKind::Note { text: canary("page") });
        panic!("at {}", canary("prometheus"));
    }

    async fn observe(&self, _: &StepContext, _: &Nothing) -> moodify_core::Result<Observed<Leaked>> {
        Ok(Observed::Done(Leaked { said: canary("json") }))
    }

    async fn undo(&self, _: &StepContext, _: &Nothing, _: Option<&Leaked>) -> moodify_core::Result<()> {
        Err(Error::new(moodify_core::ErrorKind::Invalid, "test", "undo", canary("slack"))
            .on(canary("hook"))
            .hint(canary("gcp")))
    }
}

/// Everything that backends can be asked, several times: the servers answer in turns.
async fn ask(seen: &Seen, backends: &Backends, echo: &str, redis: &str) {
    let target = plan().targets().remove(0);
    let query = |name: &str| MetricQuery::new(name, target.clone(), Track::Canary, "web", "v2");
    let update = || IncidentUpdate { status: IncidentStatus::Investigating, message: "m".to_owned() };
    let said = Notification::new("t").with_body("b");
    let session = Some(canary("aws-session").into());
    let api = ApiConfig::new("eu-central-1").endpoint(format!("http://{echo}"));
    let api = api.credentials("AKIAMOODIFY", canary("aws"), session);
    let aws = DocumentDbBackups::new(DocumentDbConfig::new(api, "c")).unwrap();
    let url = format!("redis://ana:{}@{redis}", percent(&canary("redis-url")));
    let by_url = RedisCache::new(RedisConfig::new("a", url)).unwrap();
    let by_password = RedisConfig::new("b", format!("redis://{redis}")).username("ana").password(canary("redis"));
    seen.add(&format!("{by_url:?} {by_password:?} {aws:?} {backends:?}"));
    let by_password = RedisCache::new(by_password).unwrap();
    let google = || moodify_gcp::ApiConfig::new().endpoint(format!("http://{echo}"));
    let bucket = |api| StorageConfig::new("bucket").api(api);
    let gcp = CloudStorage::new(bucket(google().anonymous())).unwrap();
    let firestore = FirestoreConfig::new("p", bucket(google().anonymous())).api(google().anonymous());
    let firestore = FirestoreBackups::new(firestore).unwrap();
    for key in [canary("gcp"), json!({"type": "service_account", "private_key": canary("gcp")}).to_string()] {
        let config = FirestoreConfig::new("p", bucket(google().key(key.clone()))).api(google().key(key));
        seen.add(&format!("{config:?}"));
        let store = FirestoreBackups::new(config).unwrap();
        seen.add(&format!("{store:?}"));
        store.list(&cx()).await.err().iter().for_each(|e| seen.error(e));
    }
    let failed = |result: Result<String, Error>| match result {
        Ok(said) => seen.add(&said),
        Err(e) => seen.error(&e),
    };
    macro_rules! ask {
        ($($call:expr),* $(,)?) => { $( failed($call.await.map(|answer| format!("{answer:?}"))); )* };
    }
    let (deployer, router) = (backends.deployer().unwrap(), backends.router("http-route").unwrap());
    let (page, probe) = (backends.status_page.as_ref().unwrap(), backends.probe.as_ref().unwrap());
    let diagnostics = backends.diagnostics.as_ref().unwrap();
    let request: ProbeRequest = serde_json::from_value(json!({"url": format!("http://{echo}/health")})).unwrap();
    for _ in 0..6 {
        ask!(
            backends.metrics["prometheus"].query(&cx(), &query("error-rate")),
            backends.metrics["json"].query(&cx(), &query("error-rate")),
            page.open(&cx(), &update()),
            page.find(&cx()),
            page.update(&cx(), "1", &update()),
            backends.notifiers["slack"].notify(&cx(), &said),
            backends.notifiers["hook"].notify(&cx(), &said),
            probe.probe(&cx(), &request),
            deployer.observe(&cx(), &target, Track::Stable),
            deployer.remove(&cx(), &target),
            router.read(&cx(), &target),
            router.reset(&cx(), &target, 3),
            diagnostics.pods(&cx(), &target, Track::Canary),
            diagnostics.warnings(&cx(), &target, Track::Canary),
            aws.create(&cx(), &BackupRequest::new()),
            aws.describe(&cx(), "x"),
            aws.list(&cx()),
            aws.delete(&cx(), &DeleteRequest::confirmed("x", "x").unwrap()),
            gcp.head(&cx(), "object"),
            gcp.read(&cx(), "object"),
            gcp.write(&cx(), "object", "content".into()),
            firestore.create(&cx(), &BackupRequest::new()),
            firestore.list(&cx()),
            by_url.ping(&cx()),
            by_password.info(&cx()),
        );
    }
}

#[test]
fn the_scanner_finds_what_it_shall_find() {
    let secret = canary("slack");
    let swapped: String = secret
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    let percent = secret.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
    for planted in [
        secret.clone(),
        swapped,
        STANDARD.encode(&secret),
        STANDARD.encode(format!("a{secret}")),
        STANDARD.encode(format!("ab{secret}z")),
        URL_SAFE_NO_PAD.encode(format!("user:{secret}")),
        percent,
    ] {
        let found = scan(&format!("well {planted} well"));
        assert!(!found.is_empty() && found[0].starts_with("slack "), "{planted}: {found:?}");
    }
    assert_eq!(scan("nothing of that kind"), Vec::<String>::new());
    // One value that is deliberately logged, past everything that would take it out, is found.
    let seen = Seen::default();
    let log = seen.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone()).finish();
    tracing::subscriber::with_default(subscriber, || tracing::info!(token = canary("kube"), "careless"));
    assert_eq!(scan(&seen.text()).len(), 1, "{}", seen.text());
}

#[test]
fn nothing_secret_gets_out_of_the_library() {
    let (seen, ours) = (Seen::default(), Seen::default());
    let raw = ours.clone();
    let logs = tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(Log(seen.clone()))
                .with_filter(LevelFilter::TRACE),
        )
        .with(
            // What moodify itself logs needs no net.
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || raw.clone()).with_filter(
                Targets::new()
                    .with_target("moodify_core", LevelFilter::TRACE)
                    .with_target("moodify_http", LevelFilter::TRACE)
                    .with_target("moodify_k8s", LevelFilter::TRACE)
                    .with_target("moodify_aws", LevelFilter::TRACE)
                    .with_target("moodify_gcp", LevelFilter::TRACE)
                    .with_target("moodify_redis", LevelFilter::TRACE),
            ),
        );
    tracing::subscriber::set_global_default(logs).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let echo = serve(axum::Router::new().fallback(echo));
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(echo, &canary("kube"))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = KubeConfig::new().kubeconfig(&file).request_timeout(Duration::from_secs(5));
        let kube = Kube::connect(&config).await.unwrap();
        let mut backends = kube.backends();
        let http = http_config(&echo.to_string());
        http.install_with(&mut backends, &|name| variable(&echo.to_string(), name)).unwrap();
        seen.add(&format!("{http:?} {config:?} {}", serde_json::to_string(&http).unwrap()));
        ask(&seen, &backends, &echo.to_string(), &redis()).await;
        run(&seen, dir.path(), backends).await;
    });
    let repeated = REPEATED.load(Ordering::Relaxed);
    assert!(repeated > 60, "the servers were sent secrets {repeated} times only");
    let text = seen.text();
    assert!(text.contains("[redacted]") && text.contains("TRACE") && text.len() > 100_000, "{}", text.len());
    assert_clean("what was seen", &text);
    assert!(ours.text().len() > 1000);
    assert_clean("moodify's own log, as it is", &ours.text());
    let journal = files(&dir.path().join("journal"));
    assert!(journal.contains("it panicked, which is a defect in it: at [redacted]"), "{journal}");
    assert_clean("the journal", &journal);
}

async fn run(seen: &Seen, dir: &Path, backends: Backends) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let journal = Arc::new(FileJournal::open(dir.join("journal")).unwrap());
    let engine = Engine::new(journal, backends).with_registry(Registry::with_builtins().register("leak", Leak));
    let mut audience = engine.subscribe();
    let (run, ending) = engine.run(&plan(), "ana").await.unwrap();
    std::panic::set_hook(hook);
    let state = engine.state(&run).await.unwrap();
    seen.add(&format!("{ending:?} {state:?}"));
    for event in engine.events(&run, 1).await.unwrap() {
        seen.add(&format!("{event:?} {}", serde_json::to_string(&event).unwrap()));
    }
    drop(engine);
    while let Some(signal) = audience.next().await {
        seen.add(&format!("{signal:?}"));
    }
    let mut told = plan();
    told.name = canary("kube");
    let engine = Engine::new(Arc::new(FileJournal::open(dir.join("journal")).unwrap()), Backends::default())
        .with_registry(Registry::with_builtins().register("leak", Leak));
    told.phases.retain(|phase| phase.name == "leak");
    let refused = engine.create(&told, "ana").await.unwrap_err();
    assert!(refused.to_string().contains("it holds a secret"), "{refused}");
    seen.error(&refused);
}

/// All files below a directory, one after the other.
fn files(dir: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        all += &path.display().to_string();
        all += &if path.is_dir() {
            files(&path)
        } else {
            String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
        };
    }
    all
}

#[test]
fn nothing_secret_gets_out_of_the_application() {
    let dir = tempfile::tempdir().unwrap();
    let echo = serve(axum::Router::new().fallback(echo));
    let cluster = serve(axum::Router::new().fallback(answer));
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(cluster, &canary("kube"))).unwrap();
    let mut plan = serde_json::to_value(plan()).unwrap();
    plan["phases"].as_array_mut().unwrap().retain(|phase| phase["name"] == "tell");
    plan["backends"] = json!({
        "prometheus": {"url": format!("http://{echo}"), "token-env": "PROMETHEUS"},
        "status-page": {"url": format!("http://{echo}"), "token-env": "PAGE"},
        "notifiers": {
            "slack": {"kind": "slack", "url-env": "SLACK"},
            "hook": {"kind": "webhook", "url-env": "HOOK", "token-env": "HOOK_TOKEN"},
        },
    });
    let path = dir.path().join("plan.json");
    std::fs::write(&path, plan.to_string()).unwrap();
    let journal = dir.path().join("journal");
    let run = |args: &[&str]| {
        let mut command = moodify(args);
        for name in ["PROMETHEUS", "PAGE", "SLACK", "HOOK", "HOOK_TOKEN"] {
            command.env(name, variable(&echo.to_string(), name).unwrap());
        }
        command.env("RUST_LOG", "trace").env("KUBECONFIG", &file).arg("--journal").arg(&journal);
        let output = command.output().unwrap();
        format!(
            "{:?}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let mut all = String::new();
    for output in ["plain", "json"] {
        all += &run(&["run", path.to_str().unwrap(), "--output", output]);
    }
    let listed = run(&["status", "--output", "plain"]);
    let id = listed.lines().find_map(|line| line.split_once("  leaks").map(|(id, _)| id.to_owned())).unwrap();
    all += &listed;
    all += &run(&["status", &id]);
    all += &run(&["export", &id]);
    assert!(all.contains("moodify-export 1.0") && all.contains("slack") && all.contains("TRACE"), "{all}");
    assert!(all.contains("run-ended"), "{all}");
    assert_clean("what the application says", &all);
    assert_clean("its journal", &files(&journal));
}
