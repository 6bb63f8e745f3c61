//! From the `backends` of a plan to backends: here those that are reached by HTTP, and the cluster's; `stores` says how
//! what keeps data is configured, and `opened` makes backends of that.

mod opened;
mod stores;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moodify_core::backend::{Backends, Notifier};
use moodify_core::model::Plan;
use moodify_core::planfile::{self, PlanErrors, Source};
use moodify_core::{Error, ErrorKind};
use moodify_http::{HttpConfig, JsonConfig, NotifierConfig, ProbeConfig, PrometheusConfig, StatusPageConfig};
use moodify_k8s::{Kube, KubeConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exit::Stop;
use crate::plan::Loaded;
use crate::preflight::Opened;
use opened::Opener;
pub(crate) use opened::Stores;
use stores::{ArtifactStoreSettings, BackupStoreSettings, CacheSettings};

/// The notifier that is always there: it tells whoever watches the run.
pub(crate) const CONSOLE: &str = "console";

/// Settings of the backends. What is left out is taken from the environment, where it is set there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// The cluster; by default the one that kubectl would use.
    kubernetes: Option<KubeConfig>,
    /// A PEM file of certificates to trust besides those that the machine trusts.
    ca_file: Option<PathBuf>,
    /// The metric source `prometheus`.
    prometheus: Option<PrometheusConfig>,
    /// The metric source `json`.
    json: Option<JsonConfig>,
    /// The status page.
    status_page: Option<StatusPageConfig>,
    /// Further ones, by name: what is said is said on all of them.
    status_pages: BTreeMap<String, StatusPageConfig>,
    /// The notifiers, by name. `console` is always there.
    notifiers: BTreeMap<String, NotifierConfig>,
    /// The probe, which needs no configuration to be there.
    probe: Option<ProbeConfig>,
    /// The backup stores, by name.
    backup_stores: BTreeMap<String, BackupStoreSettings>,
    /// The caches, by name.
    caches: BTreeMap<String, CacheSettings>,
    /// The artifact stores, by name.
    artifacts: BTreeMap<String, ArtifactStoreSettings>,
}

impl Settings {
    /// The settings in a plan file; what is wrong is told with its place.
    pub(crate) fn read(source: &Source) -> Result<Self, Stop> {
        match source.value().get("backends") {
            None => Ok(Self::default()),
            Some(_) => Ok(source.read_at("/backends")?),
        }
    }

    /// The settings in the plan of a run that has begun.
    pub(crate) fn of_run(plan: &Plan) -> Result<Self, Stop> {
        let value = serde_json::to_value(&plan.backends).unwrap_or_default();
        planfile::from_value(&value).map_err(|mistakes| {
            let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            Stop::invalid(format!("this version cannot read the run's backends: {}", all.join("; ")))
        })
    }

    /// The stores and caches of the environment and, if one is given, of a plan. Asks nobody.
    pub(crate) fn stores_of(plan: Option<&Path>) -> Result<Backends, Stop> {
        let mut backends = Backends::default();
        match plan {
            None => Self::default().stores().map_err(|errors| Stop::before(&errors))?.install(&mut backends),
            Some(plan) => {
                let loaded = Loaded::read(plan)?;
                let stores = Self::read(&loaded.source)?.stores();
                stores.map_err(|errors| placed(&loaded.source, errors))?.install(&mut backends);
            }
        }
        Ok(backends)
    }

    /// What is reached by HTTP. Asks nobody.
    ///
    /// # Errors
    /// Every problem, on the place in the settings.
    fn http(&self) -> Result<Backends, Vec<Error>> {
        let mut config = HttpConfig::from_env();
        config.ca_file = self.ca_file.clone().or(config.ca_file);
        config.prometheus = self.prometheus.clone().or(config.prometheus);
        config.json = self.json.clone().or(config.json);
        config.status_page = self.status_page.clone().or(config.status_page);
        config.status_pages.extend(self.status_pages.clone());
        config.notifiers.extend(self.notifiers.clone());
        config.probe = self.probe.unwrap_or(config.probe);
        let mut backends = Backends::default();
        config.install(&mut backends)?;
        Ok(backends)
    }

    /// What keeps data, of the environment and of the settings. Asks nobody.
    ///
    /// # Errors
    /// Every problem, on the place in the settings.
    pub(crate) fn stores(&self) -> Result<Stores, Vec<Error>> {
        let lookup = |name: &str| std::env::var(name).ok();
        let mut opener = Opener { lookup: &lookup, problems: Vec::new(), stores: Stores::default() };
        opener.environment();
        self.backup_stores.iter().for_each(|(name, settings)| opener.backup_store(name, settings));
        self.caches.iter().for_each(|(name, settings)| opener.cache(name, settings));
        self.artifacts.iter().for_each(|(name, settings)| opener.artifact_store(name, settings));
        if opener.problems.is_empty() { Ok(opener.stores) } else { Err(opener.problems) }
    }

    async fn connect(&self) -> moodify_core::Result<Kube> {
        let config = match &self.kubernetes {
            Some(config) => config.clone(),
            None => KubeConfig::from_env()?,
        };
        Kube::connect(&config).await
    }

    /// All backends, and the cluster. Asks nobody.
    pub(crate) async fn open(&self) -> Result<Opened, Vec<Error>> {
        match (self.http(), self.stores(), self.connect().await) {
            (Ok(http), Ok(stores), Ok(kube)) => {
                let mut backends = join(http, kube.backends());
                stores.install(&mut backends);
                Ok(Opened { backends, kube, stores })
            }
            (http, stores, kube) => {
                let (http, stores) = (http.err().into_iter().flatten(), stores.err().into_iter().flatten());
                Err(kube.err().into_iter().chain(http).chain(stores).collect())
            }
        }
    }

    /// What a plan can be checked against without a cluster.
    pub(crate) fn offline(&self) -> Result<Backends, Vec<Error>> {
        match (self.http(), self.stores()) {
            (Ok(mut http), Ok(stores)) => {
                stores.install(&mut http);
                Ok(http)
            }
            (http, stores) => Err(http.err().into_iter().flatten().chain(stores.err().into_iter().flatten()).collect()),
        }
    }
}

/// The cluster's backends, and what is reached otherwise.
fn join(http: Backends, mut all: Backends) -> Backends {
    all.metrics.extend(http.metrics);
    all.notifiers.extend(http.notifiers);
    all.probe = http.probe;
    all.status_page = http.status_page;
    all
}

/// Tells a problem of the settings with its place in the plan file, where it has one.
pub(crate) fn placed(source: &Source, errors: Vec<Error>) -> Stop {
    let (in_file, others): (Vec<Error>, Vec<Error>) =
        errors.into_iter().partition(|e| e.kind() == ErrorKind::Invalid && pointer(source, e).is_some());
    if in_file.is_empty() {
        return Stop::before(&others);
    }
    let problem = |e: &Error| source.problem(&pointer(source, e).unwrap_or_default(), e.to_string());
    PlanErrors::new(in_file.iter().map(problem).collect()).into()
}

/// `prometheus.url` is `/backends/prometheus/url`, if the file has that.
fn pointer(source: &Source, error: &Error) -> Option<String> {
    let pointer = format!("/backends/{}", error.target().replace('.', "/"));
    source.locate(&pointer).map(|_| pointer)
}

/// The same with the notifier that is always there.
pub(crate) fn with_console(mut backends: Backends, console: Arc<dyn Notifier>) -> Backends {
    backends.notifiers.insert(CONSOLE.to_owned(), console);
    backends
}
