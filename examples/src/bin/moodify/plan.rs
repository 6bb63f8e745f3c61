//! Reading a plan, and finding everything that is wrong with it, with its place in the file.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use moodify_core::action::{Registry, kinds};
use moodify_core::analysis::sources;
use moodify_core::backend::{Backends, Notification, Notifier};
use moodify_core::engine::Finding;
use moodify_core::journal::MemoryJournal;
use moodify_core::model::{Plan, Step};
use moodify_core::planfile::{self, Mistake, PhaseContent, PlanErrors, PlanFile, Problem, Source, StrategySpec};
use moodify_core::{CallContext, Engine};

use crate::backends;
use crate::exit::Stop;

/// A plan that was read, as it was written and as it is run.
#[derive(Debug)]
pub(crate) struct Loaded {
    file: PlanFile,
    pub(crate) source: Source,
    pub(crate) plan: Plan,
}

impl Loaded {
    /// Reads a plan file; knows nothing of backends.
    pub(crate) fn read(path: &Path) -> Result<Self, Stop> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Stop::invalid(format!("{name}: {e}")))?;
        let (file, source) = planfile::read(&text, &name)?;
        let loaded = Self { plan: file.clone().expand(), file, source };
        let problems = loaded.step_problems(&Registry::with_builtins());
        if problems.is_empty() { Ok(loaded) } else { Err(PlanErrors::new(problems).into()) }
    }

    /// The steps that were written by hand, each with its place.
    fn steps(&self) -> impl Iterator<Item = (String, &Step)> {
        self.file.phases.iter().enumerate().flat_map(|(phase, spec)| {
            let steps = match &spec.content {
                PhaseContent::Steps(steps) | PhaseContent::Parallel(steps) => steps.as_slice(),
                PhaseContent::Strategy(_) => &[],
            };
            let place = move |(step, value)| (format!("/phases/{phase}/steps/{step}"), value);
            steps.iter().enumerate().map(place)
        })
    }

    /// Unknown actions, and parameters that cannot be read.
    fn step_problems(&self, registry: &Registry) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (at, step) in self.steps() {
            match registry.get(&step.action) {
                Ok(kind) => {
                    let mistakes = kind.read_params(&step.with).err().unwrap_or_default();
                    let with = format!("{at}/with");
                    problems.extend(mistakes.iter().map(|mistake| self.source.explain(&with, mistake)));
                }
                Err(_) => {
                    let mistake = unknown("action", &step.action, registry.kinds());
                    problems.push(self.source.explain(&format!("{at}/action"), &mistake));
                }
            }
        }
        problems
    }

    /// Everything that is wrong with the plan for these backends; asks nobody.
    pub(crate) async fn check(&self, backends: &Backends) -> Result<(), Stop> {
        let mut problems = self.router_problems(backends);
        problems.extend(self.source_problems(backends));
        problems.extend(self.name_problems(backends));
        if problems.is_empty() {
            // What the names above do not explain. Nothing is kept of the engine that looks, and nobody told anything.
            let backends = backends::with_console(backends.clone(), Arc::new(Nobody));
            let engine = Engine::new(Arc::new(MemoryJournal::new()), backends);
            problems = engine.check(&self.plan).await.iter().map(|finding| self.place(finding)).collect();
        }
        if problems.is_empty() { Ok(()) } else { Err(PlanErrors::new(problems).into()) }
    }

    /// What can be said without a cluster: the metric sources, stores and caches that the plan names are set up.
    pub(crate) fn check_offline(&self, backends: &Backends) -> Result<(), Stop> {
        let mut problems = self.source_problems(backends);
        problems.extend(self.name_problems(backends));
        if problems.is_empty() { Ok(()) } else { Err(PlanErrors::new(problems).into()) }
    }

    fn router_problems(&self, backends: &Backends) -> Vec<Problem> {
        let services = self.file.release.services.iter().enumerate();
        let wrong = services.filter(|(_, service)| !backends.routers.contains_key(&service.traffic.router));
        let problem = |(index, service): (usize, &moodify_core::model::Service)| {
            let known = backends.routers.keys().map(String::as_str);
            let mistake = unknown("traffic router", &service.traffic.router, known);
            self.source.explain(&format!("/release/services/{index}/traffic/router"), &mistake)
        };
        wrong.map(problem).collect()
    }

    fn source_problems(&self, backends: &Backends) -> Vec<Problem> {
        let known = || backends.metrics.keys().map(String::as_str).chain([sources::PODS]);
        let problem = |(at, source): (String, String)| {
            let mistake = unknown("metric source", &source, known());
            let set_up = "set it up under `backends`, like `prometheus: {url: http://127.0.0.1:9090}`, or by MOODIFY_PROMETHEUS_URL";
            let mut problem = self.source.explain(&at, &mistake);
            problem.notes.push(set_up.to_owned());
            problem
        };
        let asked = self.sources().into_iter();
        asked.filter(|(_, source)| !known().any(|name| name == source)).map(problem).collect()
    }

    /// Backup stores and caches that nobody set up.
    fn name_problems(&self, backends: &Backends) -> Vec<Problem> {
        let stores: Vec<&str> = backends.backup_stores.keys().map(String::as_str).collect();
        let caches: Vec<&str> = backends.caches.keys().map(String::as_str).collect();
        let missing = |what: &'static str, known: &[&str], set_up: &str, (at, name): (String, String)| {
            let mut problem = self.source.explain(&at, &unknown(what, &name, known.iter().copied()));
            problem.notes.push(set_up.to_owned());
            (!known.contains(&name.as_str())).then_some(problem)
        };
        let store = |asked| {
            let set_up = "set it up under `backends: backup-stores:`, like `NAME: {documentdb: {api: {region: eu-central-1}, cluster: moods}}`";
            missing("backup store", &stores, set_up, asked)
        };
        let cache = |asked| {
            let set_up =
                "set it up under `backends: caches:`, like `NAME: {redis: {url: rediss://cache.internal:6379}}`";
            missing("cache", &caches, set_up, asked)
        };
        let (asked_stores, asked_caches) = (self.stores().into_iter(), self.caches().into_iter());
        asked_stores.filter_map(store).chain(asked_caches.filter_map(cache)).collect()
    }

    /// Every backup store that is named, with its place.
    fn stores(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, phase) in self.file.phases.iter().enumerate() {
            if let PhaseContent::Strategy(StrategySpec::DatabaseRollback(rollback)) = &phase.content {
                found.push((format!("/phases/{index}/strategy/database-rollback/store"), rollback.store.clone()));
            }
        }
        for (at, step) in self.steps() {
            let place = match step.action.as_str() {
                kinds::BACKUP | kinds::RESTORE | kinds::PRUNE_BACKUPS => "/store",
                kinds::APPROVAL => "/restore/store",
                _ => continue,
            };
            let name = step.with.pointer(place).and_then(|name| name.as_str());
            found.extend(name.map(|name| (format!("{at}/with{place}"), name.to_owned())));
        }
        found
    }

    /// Every cache that is named, with its place.
    fn caches(&self) -> Vec<(String, String)> {
        let of =
            |(at, step): (String, &Step)| Some((format!("{at}/with/cache"), step.with["cache"].as_str()?.to_owned()));
        self.steps().filter_map(of).collect()
    }

    /// Every metric source that is named or left to the default, with its place.
    fn sources(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, phase) in self.file.phases.iter().enumerate() {
            let PhaseContent::Strategy(strategy) = &phase.content else { continue };
            let (name, analysis) = match strategy {
                StrategySpec::Canary(canary) => ("canary", &canary.analysis),
                StrategySpec::BlueGreen(blue_green) => ("blue-green", &blue_green.analysis),
                StrategySpec::Rolling(rolling) => ("rolling", &rolling.analysis),
                StrategySpec::Recreate(recreate) => ("recreate", &recreate.analysis),
                _ => continue,
            };
            for (metric, check) in analysis.metrics.iter().enumerate() {
                let at = format!("/phases/{index}/strategy/{name}/analysis/metrics/{metric}/source");
                found.push((at, check.source.clone()));
            }
        }
        for (at, step) in self.steps() {
            let metrics = step.with.pointer("/analysis/metrics").and_then(|m| m.as_array());
            for (metric, check) in metrics.into_iter().flatten().enumerate() {
                let source = check["source"].as_str().unwrap_or(sources::DEFAULT);
                found.push((format!("{at}/with/analysis/metrics/{metric}/source"), source.to_owned()));
            }
        }
        found
    }

    /// What an engine found, at the step, or at the strategy that makes it.
    fn place(&self, finding: &Finding) -> Problem {
        let name = finding.step.as_deref().unwrap_or_default();
        let by_hand = self.steps().find(|(_, step)| step.name == name).map(|(at, _)| at);
        let at = by_hand.or_else(|| {
            let made = |spec: &PlanFile| spec.clone().expand().step(name).is_some();
            let alone = |phase| PlanFile { phases: vec![phase], ..self.file.clone() };
            let index = self.file.phases.iter().position(|phase| made(&alone(phase.clone())))?;
            Some(format!("/phases/{index}/strategy"))
        });
        self.source.problem(&at.unwrap_or_default(), finding.error.to_string())
    }
}

/// Stands for the console while nobody watches.
#[derive(Debug)]
pub(crate) struct Nobody;

#[async_trait]
impl Notifier for Nobody {
    async fn notify(&self, _: &CallContext, _: &Notification) -> moodify_core::Result<()> {
        Ok(())
    }
}

/// A name that nobody knows, with those that are known.
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Mistake {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|k| (k, similarity(k, name))).max_by(|a, b| a.1.total_cmp(&b.1));
    let mut mistake = Mistake::new("", format!("unknown {what} {name:?}"));
    mistake.hint = near.filter(|(_, alike)| *alike > 0.5).map(|(near, _)| format!("did you mean {near:?}?"));
    let list = if known.is_empty() { "none is set up".to_owned() } else { known.join(", ") };
    mistake.note = Some(format!("known here: {list}"));
    mistake
}

/// The share of letter pairs that two names have in common.
fn similarity(a: &str, b: &str) -> f64 {
    let pairs = |text: &str| -> Vec<(char, char)> { text.chars().zip(text.chars().skip(1)).collect() };
    let (a, b) = (pairs(a), pairs(b));
    let common = a.iter().filter(|pair| b.contains(pair)).count();
    if a.len() + b.len() == 0 { 0.0 } else { 2.0 * common as f64 / (a.len() + b.len()) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_meant_is_found_and_others_are_not() {
        let known = || ["http-route", "replica-ratio"].into_iter();
        assert_eq!(unknown("router", "http-routes", known()).hint.unwrap(), "did you mean \"http-route\"?");
        assert_eq!(unknown("router", "istio", known()).hint, None);
        assert_eq!(unknown("router", "istio", [].into_iter()).note.unwrap(), "known here: none is set up");
    }
}
