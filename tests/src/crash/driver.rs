//! What runs a release as `moodify` does, and kills itself at a given point.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use moodify_core::engine::EngineOptions;
use moodify_core::journal::{Command, Entry, FileJournal, JournalStore, Lease, fold};
use moodify_core::planfile;
use moodify_core::{Backends, Engine, Plan, Result, RunId};
use moodify_http::{HttpConfig, PrometheusConfig};
use moodify_k8s::{Kube, KubeConfig};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Point, Side, Spot, label};
use crate::BoxError;

/// Far longer than any case may take: a case in which the lease of the dead is waited out never ends in time.
const LEASE: Duration = Duration::from_secs(60);

/// Dies at once; nothing is flushed, closed or told.
///
/// # Panics
///
/// When the system does not allow it.
pub fn kill_self() -> ! {
    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    unreachable!("nobody survives SIGKILL")
}

/// What is counted, and when it is enough.
#[derive(Debug)]
struct Killer {
    point: Point,
    own: AtomicUsize,
    labelled: AtomicUsize,
    requests: AtomicUsize,
}

impl Killer {
    fn new(point: Point) -> Arc<Self> {
        Arc::new(Self { point, own: AtomicUsize::new(0), labelled: AtomicUsize::new(0), requests: AtomicUsize::new(0) })
    }

    /// Whether one of these records, which are about to be written, is the one.
    fn is_here(&self, entries: &[Entry]) -> bool {
        let own = self.own.fetch_add(entries.len(), Ordering::SeqCst);
        match &self.point.spot {
            Spot::Own { nth } => (own + 1..=own + entries.len()).contains(nth),
            Spot::Record { label: wanted, nth } => {
                let these = entries.iter().filter(|entry| label(entry) == *wanted).count();
                let before = self.labelled.fetch_add(these, Ordering::SeqCst);
                (before + 1..=before + these).contains(nth)
            }
            Spot::Request { .. } | Spot::Never => false,
        }
    }

    /// Whether this request, which is about to be sent, is the one.
    fn is_request(&self, what: &str) -> bool {
        let nth = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        tell(&format!("request {what}"));
        self.point.spot == Spot::Request { nth }
    }

    fn at(&self, here: bool, side: Side) {
        if here && self.point.side == side {
            kill_self();
        }
    }
}

/// Tells whoever watches. If they are gone, nobody does.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A journal in a directory, in which a process dies at a record.
#[derive(Debug)]
struct DeadlyJournal {
    inner: FileJournal,
    killer: Arc<Killer>,
}

impl DeadlyJournal {
    async fn around(&self, entries: &[Entry], write: impl Future<Output = Result<()>>) -> Result<()> {
        let here = self.killer.is_here(entries);
        self.killer.at(here, Side::Before);
        write.await?;
        self.killer.at(here, Side::After);
        entries.iter().for_each(|entry| tell(&format!("record {}", label(entry))));
        Ok(())
    }
}

#[async_trait]
impl JournalStore for DeadlyJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        self.around(std::slice::from_ref(first), self.inner.create(run, first)).await
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        self.around(entries, self.inner.append(run, lease, expected, entries)).await
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.inner.load(run).await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        self.inner.list().await
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        self.inner.remove(run).await
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        self.inner.acquire(run, owner, ttl).await
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        self.inner.renew(owner, ttl).await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.inner.give_up(run, lease).await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        self.inner.holder(run).await
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        self.inner.send(run, command).await
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        self.inner.commands(run, known).await
    }
}

/// A way to the API server on which a process dies at a request that changes something.
#[derive(Debug, Clone)]
struct DeadlyWay<S> {
    inner: S,
    killer: Arc<Killer>,
}

type Request = http::Request<Body>;

impl<S> tower::Service<Request> for DeadlyWay<S>
where
    S: tower::Service<Request>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, std::result::Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let what = format!("{} {}", request.method(), request.uri().path());
        let here = *request.method() != http::Method::GET && self.killer.is_request(&what);
        self.killer.at(here, Side::Before);
        let (killer, answer) = (Arc::clone(&self.killer), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            killer.at(here, Side::After);
            answer
        })
    }
}

/// The backends of a plan as `moodify` makes them, but for the way to the API server.
async fn backends(plan: &Plan, killer: &Arc<Killer>) -> std::result::Result<Backends, BoxError> {
    let settings: &BTreeMap<String, Value> = &plan.backends;
    let path = settings.get("kubernetes").and_then(|k| k["kubeconfig"].as_str()).ok_or("the plan has a kubeconfig")?;
    let kubeconfig = Kubeconfig::read_from(path)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.read_timeout = None;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("moodify/crasher")));
    let server = config.cluster_url.to_string();
    let killer = Arc::clone(killer);
    let way = tower::layer::layer_fn(move |inner| DeadlyWay { inner, killer: Arc::clone(&killer) });
    let client = ClientBuilder::try_from(config)?.with_layer(&way).build();
    let mut backends = Kube::from_client(client, server, &KubeConfig::new()).backends();
    if let Some(prometheus) = settings.get("prometheus") {
        let mut config = HttpConfig::from_env();
        config.prometheus = Some(serde_json::from_value::<PrometheusConfig>(prometheus.clone())?);
        config.install(&mut backends).map_err(|e| format!("{e:?}"))?;
    }
    Ok(backends)
}

/// What a driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Begins the release of a plan file.
    Run,
    /// Carries a run on.
    Resume,
    /// Takes back a run that completed.
    Undo,
}

/// Obeys, and dies at `point`; or comes to the run's end.
///
/// # Errors
///
/// When the run cannot be begun or driven.
pub async fn drive(journal: &Path, order: Order, what: &str, point: Point) -> std::result::Result<(), BoxError> {
    let killer = Killer::new(point);
    let inner = FileJournal::open(journal)?;
    let plan = match order {
        Order::Run => planfile::read(&std::fs::read_to_string(what)?, what)?.0.expand(),
        Order::Resume | Order::Undo => (*fold(&inner.load(&RunId::new(what)?).await?)?.plan).clone(),
    };
    let backends = backends(&plan, &killer).await?;
    let journal = Arc::new(DeadlyJournal { inner, killer });
    let mut options = EngineOptions::default();
    options.lease = LEASE;
    let engine = Engine::new(journal, backends).with_options(options);
    let run = match order {
        Order::Run => engine.create(&plan, "crasher").await?,
        Order::Resume => RunId::new(what)?,
        Order::Undo => engine.undo(&RunId::new(what)?, "crasher", "").await?,
    };
    let ending = engine.drive(&run, &CancellationToken::new()).await?;
    tell(&format!("ending {ending:?}"));
    Ok(())
}
