//! The objects by which people configure an application in a namespace, as manifests: what `kubectl apply` takes.

use async_trait::async_trait;
use std::path::PathBuf;

use moodify_core::backend::{
    ConfigurationFile, ConfigurationFiles, ExportRequest, ExportedConfiguration, ImportRequest, ImportedConfiguration,
};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use crate::Kube;
use crate::client::{
    AUTOSCALER, BUDGET, CONFIG_MAP, CRON_JOB, DAEMON_SET, DEPLOYMENT, GRPC_ROUTE, HTTP_ROUTE, INGRESS, INGRESS_ROUTE,
    Kind, SECRET, SERVICE, STATEFUL_SET, TRAEFIK_SERVICE, VIRTUAL_SERVICE,
};
use crate::error::BACKEND;
use crate::journal::PART;
use crate::names::TRACK;
use crate::sealed;
use crate::verbs::{ApplyOptions, Manifests, Outcome, Select};

const DESTINATION_RULE: Kind =
    Kind { group: "networking.istio.io", version: "v1", kind: "DestinationRule", plural: "destinationrules" };

/// The kinds, in the order in which they are applied: what others name goes first.
pub(crate) const KINDS: [Kind; 15] = [
    CONFIG_MAP,
    SERVICE,
    DEPLOYMENT,
    STATEFUL_SET,
    DAEMON_SET,
    CRON_JOB,
    AUTOSCALER,
    BUDGET,
    INGRESS,
    HTTP_ROUTE,
    GRPC_ROUTE,
    DESTINATION_RULE,
    VIRTUAL_SERVICE,
    TRAEFIK_SERVICE,
    INGRESS_ROUTE,
];

/// Secrets that no person made: of service accounts, of nodes that join, and what Helm remembers of its releases.
const GENERATED_SECRETS: [&str; 3] =
    ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "helm.sh/release.v1"];

/// What the cluster writes into every namespace by itself.
const OF_THE_CLUSTER: [&str; 2] = ["kube-root-ca.crt", "istio-ca-root-cert"];

/// Annotations that controllers and tools keep for themselves.
const OWN_NOTES: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "autoscaling.alpha.kubernetes.io/",
    "control-plane.alpha.kubernetes.io/",
    "moodify.dev/",
];

/// Backs up and restores the configuration of a namespace.
///
/// In it are Deployments, stateful and daemon sets, `CronJob`s, Services, `ConfigMap`s, autoscalers, disruption budgets,
/// `Ingress`es and the routes of the Gateway API, Istio and Traefik, as far as the cluster knows these kinds: one file of
/// manifests a kind, which `kubectl apply -n NAMESPACE -f` takes too. Left out are what has an owner, what moodify
/// itself keeps (journals, canaries of a run) and what the cluster makes.
///
/// Of Secrets only the names are told that the objects use, so that nobody needs to be allowed to read them; or, where
/// public keys of [age](https://age-encryption.org) are given, the Secrets that people made are in a file
/// `secrets.yaml.age`. It is read with the private key that [`KubeConfig::age_identity`](crate::KubeConfig::age_identity)
/// names, or by hand: `age --decrypt -i KEYFILE secrets.yaml.age | kubectl apply -n NAMESPACE -f -`.
///
/// Objects have no namespace in it, so that they can be restored into another one. A name inside of an object, such as
/// a host `web.shop.svc`, stays as it is.
#[derive(Debug, Clone)]
pub struct NamespaceConfiguration {
    pub(crate) kube: Kube,
    /// The file of private keys.
    pub(crate) identity: Option<PathBuf>,
}

#[async_trait]
impl ConfigurationFiles for NamespaceConfiguration {
    fn check_export(&self, request: &ExportRequest) -> Result<()> {
        sealed::check(&request.encrypt_secrets_to)
    }

    async fn export(&self, cx: &CallContext, request: &ExportRequest) -> Result<ExportedConfiguration> {
        self.check_export(request)?;
        let (verbs, keys) = (self.kube.verbs(&request.namespace), &request.encrypt_secrets_to);
        let mut exported = ExportedConfiguration::default();
        let sealing = (!keys.is_empty()).then_some(SECRET);
        for kind in sealing.into_iter().chain(KINDS) {
            let all: Vec<Value> = match verbs.list(cx, kind, &Select::all()).await {
                // A kind that is not installed.
                Err(e) if e.kind() == ErrorKind::Unsupported => continue,
                all => all?,
            };
            let mut objects: Vec<Value> = all.into_iter().filter_map(|object| portable(kind, object)).collect();
            objects.sort_by_key(name);
            objects.iter().for_each(|object| secrets(object, &mut exported.secrets));
            if objects.is_empty() {
                continue;
            }
            let file = file(kind, &objects);
            exported.files.push(if kind.kind == SECRET.kind { sealed::seal(keys, &file)? } else { file });
        }
        exported.secrets.sort();
        exported.secrets.dedup();
        let ExportedConfiguration { files, secrets } = &mut exported;
        secrets.retain(|name| !files.iter().any(|file| file.sealed && file.objects.contains(name)));
        Ok(exported)
    }

    async fn import(
        &self,
        cx: &CallContext,
        request: &ImportRequest,
        files: &[ConfigurationFile],
    ) -> Result<ImportedConfiguration> {
        let mut all = Vec::new();
        for file in files {
            let opened = if file.sealed { Some(sealed::open(self.identity.as_deref(), file).await?) } else { None };
            let manifests = Manifests::read(opened.as_ref().unwrap_or(&file.text), &file.name)?;
            let elsewhere =
                manifests.objects().iter().find(|object| object.object["metadata"]["namespace"].is_string());
            if let Some(object) = elsewhere {
                let why = format!("{object} names a namespace, and so would not be restored into this one");
                let error = Error::new(ErrorKind::Invalid, BACKEND, "restore the configuration", why);
                return Err(error.on(request.namespace.as_str()));
            }
            all.push(manifests);
        }
        let options = if request.force { ApplyOptions::new().force_conflicts() } else { ApplyOptions::new() };
        let (verbs, mut done) = (self.kube.verbs(&request.namespace), ImportedConfiguration::default());
        for manifests in all {
            for object in verbs.apply(cx, &manifests, &options).await? {
                match object.outcome {
                    Outcome::Created => done.created += 1,
                    Outcome::Unchanged => done.unchanged += 1,
                    _ => done.configured += 1,
                }
            }
        }
        Ok(done)
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn file(kind: Kind, objects: &[Value]) -> ConfigurationFile {
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    let texts: Vec<String> = objects.iter().map(text).collect();
    ConfigurationFile {
        name: format!("{}{group}.yaml", kind.plural),
        objects: objects.iter().map(name).collect(),
        text: texts.join("---\n"),
        sealed: false,
    }
}

/// An object as YAML; as JSON, which is YAML too, where kubectl would read the YAML otherwise (it takes `yes` for true).
fn text(object: &Value) -> String {
    let yaml = serde_saphyr::to_string(object).unwrap_or_default();
    let yaml = format!("{}\n", yaml.trim_end_matches('\n'));
    let read = Manifests::read(&yaml, "");
    let same = read.is_ok_and(|read| matches!(read.objects(), [one] if one.object == *object));
    if same { yaml } else { format!("{object:#}\n") }
}

/// An object without what the cluster keeps in it; `None` if it is not one that people configure.
fn portable(kind: Kind, mut object: Value) -> Option<Value> {
    let meta = object["metadata"].as_object()?.clone();
    let label = |key: &str| meta.get("labels").and_then(|labels| labels[key].as_str());
    let is_owned = meta.get("ownerReferences").and_then(Value::as_array).is_some_and(|owners| !owners.is_empty());
    let is_ours = label(PART).is_some() || label(TRACK) == Some("canary");
    let goes = meta.contains_key("deletionTimestamp");
    let name = meta.get("name")?.as_str()?.to_owned();
    let generated = kind.kind == CONFIG_MAP.kind && OF_THE_CLUSTER.contains(&name.as_str())
        || kind.kind == SECRET.kind && object["type"].as_str().is_some_and(|of| GENERATED_SECRETS.contains(&of))
        || kind.kind == SERVICE.kind && label("component") == Some("apiserver");
    if is_owned || is_ours || goes || generated {
        return None;
    }
    let mut kept = Map::from_iter([("name".to_owned(), json!(name))]);
    for part in ["labels", "annotations"] {
        let mut entries = meta.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
        if part == "annotations" {
            entries.retain(|key, _| !OWN_NOTES.iter().any(|own| key.starts_with(own)));
        }
        if !entries.is_empty() {
            kept.insert(part.to_owned(), entries.into());
        }
    }
    if kind.kind == SERVICE.kind {
        without_addresses(&mut object["spec"], meta.get("managedFields").unwrap_or(&Value::Null));
    }
    if let Some(templates) = object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut) {
        for template in templates.iter_mut().filter_map(Value::as_object_mut) {
            template.remove("status");
        }
    }
    let mut plain = Map::from_iter([
        ("apiVersion".to_owned(), json!(kind.api_version())),
        ("kind".to_owned(), json!(kind.kind)),
        ("metadata".to_owned(), kept.into()),
    ]);
    for (key, value) in object.as_object()? {
        if !["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()) {
            plain.insert(key.clone(), value.clone());
        }
    }
    let mut plain = Value::Object(plain);
    without_nulls(&mut plain);
    Some(plain)
}

/// Addresses and ports that the cluster gave, and would give to nobody else. A node port that somebody has asked for
/// stays.
fn without_addresses(spec: &mut Value, managed: &Value) {
    let asked_for = |port: &Value| {
        let key = json!({"port": port["port"], "protocol": port["protocol"]});
        let of = |entry: &Value| {
            let ports = entry["fieldsV1"]["f:spec"]["f:ports"].as_object();
            let mut mine = ports.into_iter().flatten().filter(|(entry, _)| {
                entry.strip_prefix("k:").and_then(|k| serde_json::from_str(k).ok()) == Some(key.clone())
            });
            mine.any(|(_, fields)| fields.get("f:nodePort").is_some())
        };
        managed.as_array().is_some_and(|entries| entries.iter().any(of))
    };
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        if !asked_for(&*port)
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
    let headless = spec["clusterIP"] == "None";
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("healthCheckNodePort");
        if !headless {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
}

/// Fields that are there and say nothing, such as the `creationTimestamp` of a template.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The names of the Secrets that an object uses: in environments, volumes, for images and for certificates.
fn secrets(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = match key.as_str() {
                    "secretRef" | "secretKeyRef" | "secret" => value["name"].as_str(),
                    "secretName" | "credentialName" => value.as_str(),
                    "imagePullSecrets" => {
                        let all = value.as_array().into_iter().flatten();
                        names.extend(all.filter_map(|one| one["name"].as_str()).map(str::to_owned));
                        None
                    }
                    _ => None,
                };
                names.extend(name.map(str::to_owned));
                secrets(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secrets(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_keeps_in_an_object_is_left_out() {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop",
            "uid": "1", "resourceVersion": "2", "generation": 3, "creationTimestamp": "2026-11-24T15:00:00Z",
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"], "labels": {"app": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "shop"},
            "managedFields": [{"fieldsV1": {"f:spec": {"f:ports":
                {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:nodePort": {}}}}}}]},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "healthCheckNodePort": 30003, "ports":
                [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 81, "protocol": "TCP", "nodePort": 30002}]},
            "status": {"loadBalancer": {}}});
        let expected = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"team": "shop"}},
            "spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 81, "protocol": "TCP"}]}});
        assert_eq!(portable(SERVICE, service), Some(expected));
        let settings = json!({"metadata": {"name": "settings"}, "data": {"a": "b"}});
        assert_eq!(portable(CONFIG_MAP, settings).unwrap().get("spec"), None, "it has none");
        let headless = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert_eq!(portable(SERVICE, headless).unwrap()["spec"]["clusterIP"], "None");
        let template =
            json!({"metadata": {"name": "web"}, "spec": {"template": {"metadata": {"creationTimestamp": null}}}});
        assert_eq!(portable(DEPLOYMENT, template).unwrap()["spec"], json!({"template": {"metadata": {}}}));
    }

    #[test]
    fn what_nobody_configures_is_left_out() {
        for (kind, meta) in [
            (CONFIG_MAP, json!({"name": "kube-root-ca.crt"})),
            (CONFIG_MAP, json!({"name": "moodify-run-r1", "labels": {PART: "record"}})),
            (DEPLOYMENT, json!({"name": "web-canary", "labels": {TRACK: "canary"}})),
            (DEPLOYMENT, json!({"name": "web", "ownerReferences": [{"kind": "App"}]})),
            (DEPLOYMENT, json!({"name": "web", "deletionTimestamp": "2026-11-24T15:00:00Z"})),
            (SERVICE, json!({"name": "kubernetes", "labels": {"component": "apiserver"}})),
        ] {
            assert_eq!(portable(kind, json!({"metadata": meta})), None, "{meta}");
        }
        let secret = |of: &str| portable(SECRET, json!({"metadata": {"name": "a"}, "type": of, "data": {}}));
        assert!(GENERATED_SECRETS.iter().all(|of| secret(of).is_none()));
        assert!(secret("kubernetes.io/tls").is_some());
    }

    #[test]
    fn texts_are_read_by_kubectl_as_they_were_meant() {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "yes",
            "b": "0644", "c": "1e3", "d": "~", "e": "null", "f": "a: b\n--- x\n---\n", "g": "", "h": "on", "i": " x ", "n": "y",
            "k": "2026-11-24", "l": "0x1F", "m": "1_000", "o": "#", "p": "\t", "q": "\u{e4}\u{1f600}"}});
        let both = file(CONFIG_MAP, &[config.clone(), config.clone()]);
        assert_eq!((both.name.as_str(), both.objects), ("configmaps.yaml", vec!["a".to_owned(), "a".to_owned()]));
        let read = Manifests::read(&both.text, "x").unwrap();
        assert_eq!(read.objects().iter().map(|one| one.object.clone()).collect::<Vec<_>>(), [config.clone(), config]);
    }

    #[test]
    fn secrets_are_told_by_their_names() {
        let pod = json!({"imagePullSecrets": [{"name": "pull"}], "tls": [{"secretName": "tls"}],
            "containers": [{"envFrom": [{"secretRef": {"name": "all"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}],
            "volumes": [{"secret": {"secretName": "file"}}, {"projected": {"sources": [{"secret": {"name": "part"}}]}}]});
        let mut names = Vec::new();
        secrets(&pod, &mut names);
        names.sort();
        assert_eq!(names, ["all", "file", "one", "part", "pull", "tls"]);
    }
}
