//! Where the value of a connection is in the cluster, and how it is changed so that nobody else's change is lost and the
//! old value is in no other place.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use moodify_core::backend::{Connection, Endpoint};
use moodify_core::{CallContext, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{CONFIG_MAP, Kube, Object, SECRET};
use crate::error::{Access, Ask};
use crate::operations::object_of;
use crate::patch::{annotation, part, put};

/// The annotation that says which runs have switched which connections of an object.
const SWITCHED: &str = "moodify.dev/switched";
/// The key of a Secret that keeps what another key of it was.
const BEFORE: &str = ".before-switch";

/// Where the containers of a workload are.
const CONTAINERS: &str = "/spec/template/spec/containers";

/// What the annotation says of one connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Switched {
    run: String,
    /// What the value was; not there for a Secret, which keeps it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// The value of a connection, as it was read.
pub(crate) struct Place {
    connection: Connection,
    object: Object,
    read: Value,
    /// The value's place in the object, and the value.
    path: String,
    value: String,
    switched: BTreeMap<String, Switched>,
}

impl fmt::Debug for Place {
    /// Without what was read, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("object", &self.object).field("path", &self.path).finish_non_exhaustive()
    }
}

fn object(namespace: &str, connection: &Connection) -> Option<Object> {
    match connection {
        Connection::Secret { name, .. } => Some(Object::new(SECRET, namespace, name)),
        Connection::ConfigMap { name, .. } => Some(Object::new(CONFIG_MAP, namespace, name)),
        Connection::Env { workload, .. } => Some(object_of(namespace, workload)),
        _ => None,
    }
}

/// What the connection is called in the annotation.
fn key(connection: &Connection) -> &str {
    match connection {
        Connection::Secret { key, .. } | Connection::ConfigMap { key, .. } => key,
        Connection::Env { variable, .. } => variable,
        _ => "",
    }
}

/// Where the value is in the object.
fn path(ask: &Ask, read: &Value, connection: &Connection) -> Result<String> {
    let Connection::Env { container, variable, .. } = connection else {
        return Ok(format!("/data/{}", part(key(connection))));
    };
    let mut found = Vec::new();
    for (index, of) in read.pointer(CONTAINERS).and_then(Value::as_array).into_iter().flatten().enumerate() {
        if container.as_ref().is_some_and(|name| of["name"] != name.as_str()) {
            continue;
        }
        let variables = of["env"].as_array().into_iter().flatten();
        let here = variables.enumerate().filter(|(_, env)| env["name"] == variable.as_str());
        found.extend(here.map(|(at, env)| (format!("{CONTAINERS}/{index}/env/{at}/value"), env)));
    }
    match found.as_slice() {
        [(_, env)] if env["valueFrom"].is_object() => {
            let message = format!("the variable {variable} takes its value from elsewhere");
            Err(ask
                .error(ErrorKind::Unsupported, message)
                .hint("name that Secret or ConfigMap and its key in the plan"))
        }
        [(path, _)] => Ok(path.clone()),
        [] => Err(ask.error(ErrorKind::NotFound, format!("it has no variable {variable}"))),
        _ => {
            let message = format!("{} variables are called {variable}", found.len());
            Err(ask.error(ErrorKind::Invalid, message).hint("name the container that is meant in the plan"))
        }
    }
}

fn text(value: &Value, is_secret: bool) -> Option<String> {
    if !is_secret {
        return value.as_str().map(str::to_owned);
    }
    let ByteString(bytes) = serde_json::from_value(value.clone()).ok()?;
    String::from_utf8(bytes).ok()
}

impl Place {
    /// Finds the value.
    pub(crate) async fn read(kube: &Kube, cx: &CallContext, namespace: &str, connection: &Connection) -> Result<Self> {
        let Some(object) = object(namespace, connection) else {
            let ask = Ask::new(Access::Read, "find the connection", namespace);
            return Err(ask.error(ErrorKind::Unsupported, format!("{connection}: this backend does not know its kind")));
        };
        let read: Value = kube.find(cx, &object).await?.ok_or_else(|| object.missing())?;
        let ask = object.ask(Access::Read, "read the connection in");
        if read["immutable"] == true {
            let error = ask.error(ErrorKind::Unsupported, "it is immutable");
            return Err(error.hint("make a new one, and let the workload refer to that"));
        }
        let path = path(&ask, &read, connection)?;
        let raw = read.pointer(&path);
        let missing = || ask.error(ErrorKind::NotFound, format!("it has no key {}", key(connection)));
        let raw = raw.ok_or_else(missing)?;
        let no_text = || ask.error(ErrorKind::Invalid, format!("the value of {} is no text", key(connection)));
        let value = text(raw, matches!(connection, Connection::Secret { .. })).ok_or_else(no_text)?;
        let noted = read.pointer(&annotation(SWITCHED)).and_then(Value::as_str);
        let switched = match noted.map(serde_json::from_str) {
            None => BTreeMap::new(),
            Some(Ok(switched)) => switched,
            Some(Err(_)) => {
                let message = format!("nobody can read its annotation {SWITCHED}");
                return Err(ask.error(ErrorKind::Drift, message).hint("somebody edited it; mend or remove it"));
            }
        };
        Ok(Self { connection: connection.clone(), object, read, path, value, switched })
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    fn is_secret(&self) -> bool {
        matches!(self.connection, Connection::Secret { .. })
    }

    /// Where a Secret keeps the old value.
    fn kept_at(&self) -> String {
        format!("/data/{}", part(&format!("{}{BEFORE}", key(&self.connection))))
    }

    /// What this run kept; `None` if it switched nothing.
    fn before(&self, run: &str) -> Result<Option<String>> {
        let ask = self.object.ask(Access::Compare, "switch the connection in");
        let Some(switched) = self.switched.get(key(&self.connection)) else { return Ok(None) };
        if switched.run != run {
            let message = format!("the run {} has switched the {}", switched.run, self.connection);
            let hint = format!("let that run end, or take it back with: moodify resume {}", switched.run);
            return Err(ask.error(ErrorKind::AlreadyExists, message).hint(hint));
        }
        let kept = match &switched.before {
            Some(before) => Some(before.clone()),
            None => self.read.pointer(&self.kept_at()).and_then(|value| text(value, true)),
        };
        let lost = || ask.error(ErrorKind::Drift, format!("somebody removed what the {} was before", self.connection));
        kept.map(Some).ok_or_else(lost)
    }

    fn drift(&self) -> moodify_core::Error {
        let message = format!("the {} was changed by somebody else since it was switched", self.connection);
        let ask = self.object.ask(Access::Compare, "switch the connection in");
        ask.error(ErrorKind::Drift, message).hint("find out what they want; it is not overwritten")
    }

    fn raw(&self, text: &str) -> Value {
        if self.is_secret() { json!(ByteString(text.as_bytes().to_vec())) } else { json!(text) }
    }

    /// Points it elsewhere, and keeps what it was.
    pub(crate) async fn switch(self, kube: &Kube, cx: &CallContext, to: &Endpoint) -> Result<()> {
        let run = cx.run_id().as_str();
        if let Some(before) = self.before(run)? {
            let ours = self.connection.point(&before, to)?;
            return if self.value == ours { Ok(()) } else { Err(self.drift()) };
        }
        let new = self.connection.point(&self.value, to)?;
        let before = (!self.is_secret()).then(|| self.value.clone());
        let mut switched = self.switched.clone();
        switched.insert(key(&self.connection).to_owned(), Switched { run: run.to_owned(), before });
        let mut operations = Vec::new();
        if self.is_secret() {
            operations.push(json!({"op": "add", "path": self.kept_at(), "value": self.raw(&self.value)}));
        }
        operations.push(json!({"op": "replace", "path": self.path, "value": self.raw(&new)}));
        self.write(kube, cx, &switched, operations).await
    }

    /// Points it back, if it points to where this run switched it.
    pub(crate) async fn revert(self, kube: &Kube, cx: &CallContext, from: &Endpoint) -> Result<()> {
        let Some(before) = self.before(cx.run_id().as_str())? else { return Ok(()) };
        if self.value != before && self.value != self.connection.point(&before, from)? {
            return Err(self.drift());
        }
        let back = json!({"op": "replace", "path": self.path, "value": self.raw(&before)});
        self.clear(kube, cx, vec![back]).await
    }

    /// Removes what this run kept.
    pub(crate) async fn forget(self, kube: &Kube, cx: &CallContext) -> Result<()> {
        match self.before(cx.run_id().as_str())? {
            Some(_) => self.clear(kube, cx, Vec::new()).await,
            None => Ok(()),
        }
    }

    async fn clear(self, kube: &Kube, cx: &CallContext, mut operations: Vec<Value>) -> Result<()> {
        if self.is_secret() {
            operations.push(json!({"op": "remove", "path": self.kept_at()}));
        }
        let mut switched = self.switched.clone();
        switched.remove(key(&self.connection));
        self.write(kube, cx, &switched, operations).await
    }

    /// Writes, if the object is as it was read. Of a workload, whose status changes all the time, only what counts is
    /// compared.
    async fn write(
        &self,
        kube: &Kube,
        cx: &CallContext,
        switched: &BTreeMap<String, Switched>,
        changes: Vec<Value>,
    ) -> Result<()> {
        let meta = &self.read["metadata"];
        let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": meta["uid"]})];
        if matches!(self.connection, Connection::Env { .. }) {
            let named = self.path.trim_end_matches("/value");
            let name = key(&self.connection);
            operations.push(json!({"op": "test", "path": format!("{named}/name"), "value": name}));
            operations.push(json!({"op": "test", "path": self.path, "value": self.value}));
            operations.push(json!({"op": "test", "path": "/metadata/generation", "value": meta["generation"]}));
        } else {
            let version = &meta["resourceVersion"];
            operations.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
        }
        operations.extend(changes);
        let path = annotation(SWITCHED);
        if switched.is_empty() {
            operations.push(json!({"op": "remove", "path": path}));
        } else {
            put(&mut operations, &self.read, "/metadata/annotations", SWITCHED, &json!(switched).to_string());
        }
        // The answer is not needed, and would be one more place for the value.
        kube.patch_metadata::<Value>(cx, &self.object, operations).await.map(drop)
    }
}

/// What a person types to set it back. No value is in it.
pub(crate) fn by_hand(namespace: &str, connection: &Connection) -> Vec<String> {
    let Some(object) = object(namespace, connection) else { return Vec::new() };
    let (key, kind, name) = (key(connection), object.kind.kind.to_lowercase(), &object.name);
    if let Connection::Secret { .. } = connection {
        let swap = format!(
            r#"if .data["{key}{BEFORE}"] then .data["{key}"] = .data["{key}{BEFORE}"] | del(.data["{key}{BEFORE}"], .metadata.annotations["{SWITCHED}"]) else . end"#
        );
        let get = format!("kubectl -n {namespace} get secret {name} -o json");
        return vec![format!("{get} | jq '{swap}' | kubectl replace -f -")];
    }
    vec![format!(
        "kubectl -n {namespace} edit {kind} {name}  # set {key} to what the annotation {SWITCHED} says it was"
    )]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use moodify_core::backend::{Operations, WorkloadRef};

    use super::*;
    use crate::testing::{cx, kube, not_found, stable_deployment};

    const OLD: &str = "mongodb://ana:hunter2@old:27017/moods";

    fn secret() -> Connection {
        Connection::Secret { name: "database".into(), key: "URI".into(), template: None }
    }

    fn base64(text: &str) -> Value {
        json!(ByteString(text.as_bytes().to_vec()))
    }

    /// A cluster that keeps one object, to which the JSON patches of this file are applied.
    fn keeps(object: Value) -> (Arc<dyn Operations>, Arc<Mutex<Value>>) {
        let object = Arc::new(Mutex::new(object));
        let kept = object.clone();
        let (kube, _) = kube(move |method, uri, body| {
            let mut object = kept.lock().unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if uri.split('?').next().unwrap().rsplit('/').next() != Some(name.as_str()) {
                return not_found("x");
            }
            if method == "PATCH" {
                let mut patched = object.clone();
                for operation in body.as_array().unwrap() {
                    let path = operation["path"].as_str().unwrap();
                    let (parent, last) = path.rsplit_once('/').unwrap();
                    let last = last.replace("~1", "/").replace("~0", "~");
                    let at = patched.pointer_mut(parent).unwrap();
                    match operation["op"].as_str().unwrap() {
                        "test" if at[&last] != operation["value"] => {
                            return (422, json!({"code": 422, "reason": "Invalid", "message": "testing failed"}));
                        }
                        "test" => {}
                        "remove" => drop(at.as_object_mut().unwrap().remove(&last).unwrap()),
                        _ => at[last.as_str()] = operation["value"].clone(),
                    }
                }
                *object = patched;
            }
            (200, object.clone())
        });
        (kube.operations(), object)
    }

    fn database() -> Value {
        json!({"metadata": {"name": "database", "uid": "u-2", "resourceVersion": "7"},
            "data": {"URI": base64(OLD), "OTHER": base64("x")}})
    }

    #[tokio::test]
    async fn a_secret_keeps_its_old_value_itself_until_it_is_forgotten() {
        let (operations, object) = keeps(database());
        let (cx, to, which) = (cx(), "new".parse().unwrap(), secret());
        operations.switch(&cx, "ns", &which, &to).await.unwrap();
        operations.switch(&cx, "ns", &which, &to).await.unwrap();
        let now = object.lock().unwrap().clone();
        assert_eq!(now["data"]["URI"], base64("mongodb://ana:hunter2@new:27017/moods"));
        assert_eq!(now["data"]["URI.before-switch"], base64(OLD));
        assert!(!now["metadata"].to_string().contains("hunter2"), "{now}");
        operations.revert(&cx, "ns", &which, &to).await.unwrap();
        operations.revert(&cx, "ns", &which, &to).await.unwrap();
        assert_eq!(object.lock().unwrap()["data"], database()["data"]);

        operations.switch(&cx, "ns", &which, &to).await.unwrap();
        operations.forget(&cx, "ns", &which).await.unwrap();
        operations.revert(&cx, "ns", &which, &to).await.unwrap();
        let now = object.lock().unwrap().clone();
        assert_eq!(now["data"]["URI"], base64("mongodb://ana:hunter2@new:27017/moods"));
        assert_eq!(now["data"].get("URI.before-switch"), None);
        assert_eq!(now["metadata"]["annotations"], json!({}));
    }

    #[tokio::test]
    async fn the_name_of_a_database_is_the_whole_value_and_its_old_one_comes_back() {
        let before = json!({"metadata": {"name": "database", "uid": "u-2", "resourceVersion": "7"},
            "data": {"NAME": base64("moods")}});
        let (operations, object) = keeps(before.clone());
        let template = Some("{{database}}".to_owned());
        let which = Connection::Secret { name: "database".into(), key: "NAME".into(), template };
        let (cx, to) = (cx(), "projects/p/databases/moods-restored".parse().unwrap());
        for _ in 0..2 {
            operations.switch(&cx, "ns", &which, &to).await.unwrap();
            assert_eq!(object.lock().unwrap()["data"]["NAME"], base64("moods-restored"));
        }
        operations.revert(&cx, "ns", &which, &to).await.unwrap();
        assert_eq!(object.lock().unwrap()["data"], before["data"]);
        let error = operations.switch(&cx, "ns", &secret(), &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "there is no such key: {error}");
        let host = Connection::Secret { name: "database".into(), key: "NAME".into(), template: None };
        let error = operations.switch(&cx, "ns", &host, &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(object.lock().unwrap()["data"], before["data"], "a name is not put where a host is");
    }

    #[tokio::test]
    async fn what_somebody_else_wrote_is_left_and_no_error_says_the_value() {
        let (operations, object) = keeps(database());
        let (cx, to, which) = (cx(), "new".parse().unwrap(), secret());
        operations.switch(&cx, "ns", &which, &to).await.unwrap();
        object.lock().unwrap()["data"]["URI"] = base64("mongodb://ana:hunter3@theirs/");
        for result in [operations.switch(&cx, "ns", &which, &to).await, operations.revert(&cx, "ns", &which, &to).await]
        {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Drift);
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
        }
        let broken = json!({"metadata": {"name": "database", "uid": "u-2"}, "data": {"URI": base64("hunter2 here")}});
        let (operations, _) = keeps(broken);
        let error = operations.switch(&cx, "ns", &which, &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
    }

    #[tokio::test]
    async fn a_variable_is_found_in_its_container_and_changed_there() {
        let mut web = stable_deployment();
        web["spec"]["template"]["spec"]["containers"][1]["env"] =
            json!([{"name": "A", "value": "1"}, {"name": "DATABASE", "value": "old"}, {"name": "B", "valueFrom": {}}]);
        let (operations, object) = keeps(web.clone());
        let env = |variable: &str| Connection::Env {
            workload: WorkloadRef::deployment("web"),
            container: None,
            variable: variable.into(),
            template: None,
        };
        let (cx, to): (_, Endpoint) = (cx(), "new:1".parse().unwrap());
        assert_eq!(operations.endpoint(&cx, "ns", &env("DATABASE")).await.unwrap().unwrap().place(), "old");
        assert_eq!(operations.endpoint(&cx, "ns", &env("B")).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(operations.endpoint(&cx, "ns", &env("C")).await.unwrap_err().kind(), ErrorKind::NotFound);
        let other = env("DATABASE");
        let Connection::Env { workload, variable, template, .. } = other.clone() else { unreachable!() };
        let other = Connection::Env { container: Some("proxy".into()), workload, variable, template };
        assert_eq!(operations.endpoint(&cx, "ns", &other).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(object.lock().unwrap().clone(), web, "looking changes nothing");
        operations.switch(&cx, "ns", &env("DATABASE"), &to).await.unwrap();
        let at = "/spec/template/spec/containers/1/env/1/value";
        assert_eq!(object.lock().unwrap().pointer(at).unwrap(), "new");
        operations.revert(&cx, "ns", &env("DATABASE"), &to).await.unwrap();
        assert_eq!(object.lock().unwrap()["spec"], web["spec"]);
    }

    #[test]
    fn what_a_person_types_names_no_value() {
        let lines = by_hand("ns", &secret());
        assert!(lines[0].contains("get secret database") && lines[0].contains("URI.before-switch"), "{lines:?}");
        let config = Connection::ConfigMap { name: "settings".into(), key: "DATABASE".into(), template: None };
        assert!(by_hand("ns", &config)[0].contains("edit configmap settings"));
    }
}
