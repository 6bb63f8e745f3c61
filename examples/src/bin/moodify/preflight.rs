//! Whether a plan could begin: asks every backend that it names, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use moodify_core::action::kinds;
use moodify_core::backend::{Backends, CacheCapabilities};
use moodify_core::clock::{Clock as _, SystemClock};
use moodify_core::model::Plan;
use moodify_core::{CallContext, Error, ErrorKind, IdempotencyKey, RunId};
use moodify_k8s::Kube;

use crate::backends::Stores;
use crate::exit::Stop;

/// The backends of a plan, and what of them can be looked at before a run.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) backends: Backends,
    pub(crate) kube: Kube,
    pub(crate) stores: Stores,
}

impl Opened {
    /// Whether a plan could begin here.
    pub(crate) async fn preflight(&self, plan: &Plan) -> Result<(), Stop> {
        let cx = check_context();
        let mut problems = self.kube.preflight_plan(&cx, plan).await;
        problems.extend(self.stores.preflight(&cx, plan).await);
        told(&problems)
    }
}

/// Whether a run could be taken back in this cluster. What keeps data is not asked: a way back needs nothing new of it.
pub(crate) async fn preflight(kube: &Kube, plan: &Plan) -> Result<(), Stop> {
    told(&kube.preflight_plan(&check_context(), plan).await)
}

fn told(problems: &[Error]) -> Result<(), Stop> {
    if problems.is_empty() { Ok(()) } else { Err(Stop::before(problems)) }
}

impl Stores {
    /// Whether the stores and caches that the plan names can be reached, may be used, and have room for what it makes.
    async fn preflight(&self, cx: &CallContext, plan: &Plan) -> Vec<Error> {
        let mut backends = Backends::default();
        self.install(&mut backends);
        let asked = Asked::by(plan);
        let mut problems = Vec::new();
        for (name, store) in &backends.backup_stores {
            if asked.stores.contains(name.as_str()) {
                problems.extend(store.list(cx).await.err().map(|e| at("the backup store", name, e)));
            }
        }
        for (name, store) in &backends.artifact_stores {
            if asked.artifacts.contains(name.as_str()) {
                let looked = store.head(cx, "runs/check").await;
                problems.extend(looked.err().map(|e| at("the artifact store", name, e)));
            }
        }
        for (name, target) in &asked.targets {
            let Ok(store) = backends.backup_store(name) else { continue };
            match store.target_exists(cx, target).await {
                Ok(false) => {}
                Ok(true) => problems.push(exists(name, target)),
                Err(e) => problems.push(at("the backup store", name, e)),
            }
        }
        for (name, needed) in &asked.caches {
            if let Some(redis) = self.redis.get(*name) {
                problems.extend(redis.preflight(cx, *needed).await);
            }
        }
        for name in &asked.nodes {
            if let Some(nodes) = self.nodes.get(*name) {
                problems.extend(nodes.preflight(cx).await);
            }
        }
        problems
    }
}

fn at(what: &str, name: &str, error: Error) -> Error {
    error.hint(format!("{what} {name:?} could not be asked; nothing was changed"))
}

fn exists(store: &str, target: &str) -> Error {
    let message = format!("{target:?} is there already, and a restore never overwrites; nothing was changed");
    let error = Error::new(ErrorKind::AlreadyExists, "moodify", "look for the target", message).on(store);
    error.hint("give the plan another `target`, or remove what has that name if nobody needs it")
}

/// What a plan asks of stores and caches.
#[derive(Debug, Default)]
struct Asked<'a> {
    stores: BTreeSet<&'a str>,
    artifacts: BTreeSet<&'a str>,
    /// What is restored, and into what.
    targets: BTreeSet<(&'a str, &'a str)>,
    caches: BTreeMap<&'a str, CacheCapabilities>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Asked<'a> {
    fn by(plan: &'a Plan) -> Self {
        let mut asked = Self::default();
        for (_, step) in plan.steps() {
            let stores = match step.action.as_str() {
                kinds::ARCHIVE | kinds::FETCH_ARTIFACT | kinds::BACKUP_CONFIGURATION | kinds::RESTORE_CONFIGURATION => {
                    &mut asked.artifacts
                }
                _ => &mut asked.stores,
            };
            stores.extend(step.with["store"].as_str());
            let target = (step.action == kinds::RESTORE).then(|| step.with["target"].as_str()).flatten();
            asked.targets.extend(step.with["store"].as_str().zip(target));
            let Some(cache) = step.with["cache"].as_str() else { continue };
            if step.action == kinds::CACHE_RESTART {
                asked.nodes.insert(cache);
                continue;
            }
            let needed = asked.caches.entry(cache).or_default();
            match step.action.as_str() {
                kinds::CACHE_FLUSH => needed.flush = true,
                kinds::CACHE_DELETE => needed.delete = true,
                kinds::CACHE_WARM => needed.warm = true,
                kinds::CACHE_SNAPSHOT => needed.snapshot = true,
                _ => {}
            }
        }
        asked
    }
}

/// The context of calls that are made before there is a run.
pub(crate) fn check_context() -> CallContext {
    let run = RunId::generate(SystemClock.now());
    CallContext::new(run, IdempotencyKey::new("check"), std::time::Duration::from_secs(60))
}
