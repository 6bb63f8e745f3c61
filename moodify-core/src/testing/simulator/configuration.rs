//! The objects of a namespace, as files.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::backend::{
    ConfigurationFile, ConfigurationFiles, ExportRequest, ExportedConfiguration, ImportRequest, ImportedConfiguration,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};

use super::cluster::Facet;
use super::fault::BackendKind;
use super::state::{Caller, State};

/// The configured objects by namespace, and in it by file and name.
pub(super) type Objects = BTreeMap<String, BTreeMap<(String, String), Value>>;

const DEPLOYMENTS: &str = "deployments.apps.json";
const SERVICES: &str = "services.json";
const SECRETS: &str = "secrets.json.sealed";
/// What public keys begin with in here.
const KEY: &str = "simulated1";

/// What the services of the world were configured by.
pub(super) fn at_first(state: &State) -> Objects {
    let mut objects = Objects::new();
    for service in state.services.values().map(|service| &service.target) {
        let here = objects.entry(service.namespace.clone()).or_default();
        let (workload, name) = (&service.service.workload, &service.service.traffic.service);
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": workload},
            "spec": {"template": {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "app-secrets"}}]}]}}}});
        let selecting = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": workload}}});
        here.insert((DEPLOYMENTS.to_owned(), workload.clone()), deployment);
        here.insert((SERVICES.to_owned(), name.clone()), selecting);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app-secrets"},
            "stringData": {"password": "simulated-password"}});
        here.insert((SECRETS.to_owned(), "app-secrets".to_owned()), secret);
    }
    objects
}

/// What stands for encryption in here: nobody reads it by accident.
fn reversed(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

fn export(objects: &BTreeMap<(String, String), Value>, keys: &[String]) -> ExportedConfiguration {
    let mut files: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for ((file, _), object) in objects.iter().filter(|((file, _), _)| file != SECRETS || !keys.is_empty()) {
        files.entry(file).or_default().push(object);
    }
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let file = |(file, objects): (&str, Vec<&Value>)| {
        let names = objects.iter().map(|object| name(object)).collect();
        let text = Value::from(objects.into_iter().cloned().collect::<Vec<_>>()).to_string();
        let text = if file == SECRETS {
            format!("{}:{}", keys.join(","), STANDARD.encode(reversed(text.as_bytes())))
        } else {
            text
        };
        ConfigurationFile { name: file.to_owned(), objects: names, text, sealed: file == SECRETS }
    };
    let is_told = files.contains_key(DEPLOYMENTS) && !files.contains_key(SECRETS);
    let secrets = is_told.then(|| "app-secrets".to_owned());
    ExportedConfiguration { files: files.into_iter().map(file).collect(), secrets: secrets.into_iter().collect() }
}

fn import(
    state: &mut State,
    caller: &Caller,
    request: &ImportRequest,
    files: &[ConfigurationFile],
) -> Result<ImportedConfiguration> {
    let mut wanted = Vec::new();
    for file in files {
        let unsealed = file.text.split_once(':').filter(|_| file.sealed);
        let unsealed = unsealed.and_then(|(_, sealed)| STANDARD.decode(sealed).ok()).map(|sealed| reversed(&sealed));
        let text = unsealed.as_deref().unwrap_or(file.text.as_bytes());
        let objects: Vec<Value> = serde_json::from_slice(text)
            .map_err(|e| caller.fails(ErrorKind::Invalid, format!("{} cannot be read: {e}", file.name)))?;
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            wanted.push(((file.name.clone(), name), object));
        }
    }
    let here = state.configuration.entry(request.namespace.clone()).or_default();
    let mut drifted = wanted.iter().filter(|(key, object)| {
        let other = here.get(key).filter(|there| there != &object);
        other.is_some_and(|there| there["metadata"]["annotations"]["edited-by"].is_string())
    });
    if let Some(((_, name), _)) = drifted.next().filter(|_| !request.force) {
        return Err(caller.fails(ErrorKind::Drift, format!("somebody else changed {name}")));
    }
    let (mut done, mut changed) = (ImportedConfiguration::default(), Vec::new());
    for (key, object) in wanted {
        match here.insert(key.clone(), object.clone()) {
            None => done.created += 1,
            Some(there) if there == object => {
                done.unchanged += 1;
                continue;
            }
            Some(_) => done.configured += 1,
        }
        changed.push(key.1);
    }
    for name in changed {
        state.wrote(format!("configuration of {name} in {}", request.namespace));
    }
    Ok(done)
}

#[async_trait]
impl ConfigurationFiles for Facet {
    fn check_export(&self, request: &ExportRequest) -> Result<()> {
        let Some(key) = request.encrypt_secrets_to.iter().find(|key| !key.starts_with(KEY)) else { return Ok(()) };
        let caller = self.caller(BackendKind::Configuration, "export", &request.namespace).reading();
        Err(caller.fails(ErrorKind::Invalid, format!("{key:?} is no public key; one begins with {KEY}")))
    }

    async fn export(&self, cx: &CallContext, request: &ExportRequest) -> Result<ExportedConfiguration> {
        self.check_export(request)?;
        let caller = self.caller(BackendKind::Configuration, "export", &request.namespace).reading();
        let request = request.clone();
        let effect = move |state: &mut State| {
            let objects = state.configuration.get(&request.namespace);
            Ok(objects.map(|objects| export(objects, &request.encrypt_secrets_to)).unwrap_or_default())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn import(
        &self,
        cx: &CallContext,
        request: &ImportRequest,
        files: &[ConfigurationFile],
    ) -> Result<ImportedConfiguration> {
        let caller = self.caller(BackendKind::Configuration, "import", &request.namespace);
        let (asks, request, files) = (caller.clone(), request.clone(), files.to_vec());
        self.world.call(cx, caller, move |state| import(state, &asks, &request, &files)).await
    }
}
