use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::core::params::Preconditions;
use kube::core::subresource::LogParams;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result, secret};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{PodRow, Verbs};
use crate::client::{Object, POD, typed};
use crate::error::{Access, BACKEND};
use crate::names::{MANAGED_BY, RUN, label_value};

/// How long the removal of a pod is tried after nobody waits for it any more.
const REMOVAL: Duration = Duration::from_secs(30);
/// How much longer than we wait the pod may run, if we are not there any more to remove it.
const SLACK: u64 = 60;

/// A temporary pod: an image and what it is to do.
///
/// ```
/// use moodify_k8s::verbs::RunRequest;
/// let ask = RunRequest::new("debug", "postgres:15").args(["psql", "-h", "db", "-c", "SELECT 1;"]).env("PGUSER",
/// "app");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunRequest {
    name: String,
    image: String,
    command: Vec<String>,
    args: Vec<String>,
    env: Vec<Value>,
    overrides: Value,
}

impl RunRequest {
    /// A pod that runs what its image says.
    #[must_use]
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        let (command, args, env) = (Vec::new(), Vec::new(), Vec::new());
        Self { name: name.into(), image: image.into(), command, args, env, overrides: Value::Null }
    }

    /// With these arguments for the program of the image: what stands after `--`.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, args: I) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// With this program in place of that of the image: `--command`.
    #[must_use]
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, command: I) -> Self {
        self.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// With an environment variable. Whoever may read pods can read it: for a secret take
    /// [`env_from_secret`](Self::env_from_secret).
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(json!({"name": name, "value": value}));
        self
    }

    /// With an environment variable whose value is a key of a Secret.
    #[must_use]
    pub fn env_from_secret(mut self, name: &str, secret: &str, key: &str) -> Self {
        self.env.push(json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}));
        self
    }

    /// With more of a pod's spec, as `{"serviceAccountName": "debug"}`; what is set here wins.
    #[must_use]
    pub fn spec(mut self, spec: Value) -> Self {
        self.overrides = spec;
        self
    }

    fn pod(&self, name: &str, namespace: &str, cx: &CallContext) -> Value {
        let mut container = json!({"name": self.name, "image": self.image});
        for (key, list) in [("command", &self.command), ("args", &self.args)] {
            if !list.is_empty() {
                container[key] = json!(list);
            }
        }
        if !self.env.is_empty() {
            container["env"] = json!(self.env);
        }
        let mut spec = json!({
            "restartPolicy": "Never",
            "containers": [container],
            "activeDeadlineSeconds": cx.remaining().as_secs() + SLACK,
        });
        if let (Some(spec), Some(overrides)) = (spec.as_object_mut(), self.overrides.as_object()) {
            spec.extend(overrides.clone());
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {
                "run": label_value(&self.name), MANAGED_BY: "moodify", RUN: label_value(cx.run_id().as_str()),
            }},
            "spec": spec,
        })
    }
}

/// What a temporary pod came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunOutput {
    /// The pod that there was.
    pub pod: String,
    /// The exit code of its container; 0 is success.
    pub code: i32,
    /// Its log: what it wrote to both outputs. Secrets that the process knows of are [taken out](moodify_core::secret).
    pub log: String,
}

/// Removes the pod when dropped, in the background: nobody may be waiting any more.
struct Removal {
    verbs: Verbs,
    cx: CallContext,
    object: Object,
    uid: Option<String>,
}

impl Removal {
    async fn now(mut self) -> Result<()> {
        let uid = self.uid.take();
        remove(&self.verbs, &self.cx, &self.object, uid.unwrap_or_default()).await
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        let (Some(uid), Ok(runtime)) = (self.uid.take(), Handle::try_current()) else { return };
        let (verbs, object) = (self.verbs.clone(), self.object.clone());
        let cx = CallContext::new(self.cx.run_id().clone(), self.cx.key().part("remove"), REMOVAL);
        runtime.spawn(async move {
            if let Err(error) = remove(&verbs, &cx, &object, uid).await {
                tracing::warn!(%object, %error, "the temporary pod is left behind; its deadline ends it");
            }
        });
    }
}

async fn remove(verbs: &Verbs, cx: &CallContext, object: &Object, uid: String) -> Result<()> {
    // Nothing is served by it that would have to finish.
    let this_one = Preconditions { uid: Some(uid), ..Preconditions::default() };
    verbs.kube.delete_if(cx, object, this_one).await
}

impl Verbs {
    /// Runs a pod to its end, and returns its log: `kubectl run --rm --restart=Never`. The pod is removed whatever
    /// happens, also when this call is dropped, cancelled or out of time (then by a task of the runtime, which must
    /// live on for it); if the whole process dies, Kubernetes ends the pod a
    /// minute after the deadline. Its name has a part that makes it the only one. A program that fails is no error: see
    /// [`RunOutput::code`].
    ///
    /// # Errors
    /// [`Unhealthy`](ErrorKind::Unhealthy) if the pod cannot run, as when its image cannot be pulled;
    /// [`Timeout`](ErrorKind::Timeout) with what it was waiting for; others as the server refuses the pod.
    pub async fn run(&self, cx: &CallContext, request: &RunRequest) -> Result<RunOutput> {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let name = format!("{}-{}", request.name, &unique[unique.len() - 6..]);
        let object = Object::new(POD, &self.namespace, &name);
        // Begun before the pod is: a creation whose answer is lost may have made it.
        let mut removal = Removal { verbs: self.clone(), cx: cx.clone(), object: object.clone(), uid: None };
        let made: Result<Value> =
            self.create_pod(cx, &object, &request.pod(&name, &self.namespace, cx), &mut removal).await;
        let uid = made?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        removal.uid = Some(uid);
        let output = self.finish(cx, &object, request).await;
        match output {
            // The pod's end is as good as its removal: what is left of it does nothing.
            Ok(output) => removal.now().await.map(|()| output),
            Err(e) => Err(e),
        }
    }

    /// Makes the pod. If nobody can say whether it was made, it is looked for and removed.
    async fn create_pod(
        &self,
        cx: &CallContext,
        object: &Object,
        body: &Value,
        removal: &mut Removal,
    ) -> Result<Value> {
        let lost = LostPod(Some((self.clone(), cx.clone(), object.clone())));
        let made = self.kube.create(cx, object, body).await;
        match &made {
            Err(e) if e.effect_of() == Effect::Unknown => drop(lost),
            _ => lost.disarm(),
        }
        removal.uid = None;
        made
    }

    async fn finish(&self, cx: &CallContext, object: &Object, request: &RunRequest) -> Result<RunOutput> {
        let ask = object.ask(Access::Write, "run");
        let mut states = Box::pin(self.kube.watch_object(cx, object));
        let mut last = "it has not started".to_owned();
        let end = async {
            while let Some(state) = states.next().await {
                let Some(state) = state? else {
                    return Err(ask
                        .error(ErrorKind::Unhealthy, "somebody removed it before it had ended")
                        .hint("kubectl get events says who or what"));
                };
                let pod: Pod = typed(&ask, serde_json::to_value(state).unwrap_or_default())?;
                if let Some(code) = ended(&pod) {
                    return code.map_err(|why| ask.error(ErrorKind::Unhealthy, why));
                }
                let now = PodRow::of(&pod).status;
                if matches!(
                    now.as_str(),
                    "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "CreateContainerConfigError"
                ) {
                    let message = format!("it cannot run: {}", reason(&pod).unwrap_or(now));
                    return Err(ask.error(ErrorKind::Unhealthy, message).hint("check the image and what it needs"));
                }
                last = now;
            }
            std::future::pending().await
        };
        let code = cx.run(BACKEND, "run", end).await.map_err(|e| {
            if !e.target().is_empty() {
                return e;
            }
            let message = format!("it had not ended ({last}) and was removed");
            ask.error(e.kind(), message).effect(Effect::Unknown).hint("what it did until then is done")
        })?;
        let params = LogParams { container: Some(request.name.clone()), ..LogParams::default() };
        let log = match self.kube.log(cx, object, &params).await {
            Ok(log) => secret::redact(&log).into_owned(),
            Err(e) => return Err(unread(&ask.object, code, e)),
        };
        Ok(RunOutput { pod: object.name.clone(), code, log })
    }
}

/// It has run, and what it said is lost.
fn unread(object: &str, code: i32, error: Error) -> Error {
    let message = format!("it ended with exit code {code}, but its log cannot be read: {}", error.message());
    Error::new(error.kind(), BACKEND, "read the log of Pod", message)
        .on(object.to_owned())
        .effect(Effect::Unknown)
        .with_source(error)
}

/// A pod that may have been made: looked for by its name, which nobody else has, and removed.
struct LostPod(Option<(Verbs, CallContext, Object)>);

impl LostPod {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for LostPod {
    fn drop(&mut self) {
        let (Some((verbs, cx, object)), Ok(runtime)) = (self.0.take(), Handle::try_current()) else { return };
        let cx = CallContext::new(cx.run_id().clone(), cx.key().part("remove"), REMOVAL);
        runtime.spawn(async move {
            // A request that was cut off may still be on its way.
            for pause in [0, 1, 5] {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                if let Ok(Some(found)) = verbs.kube.find::<Value>(&cx, &object).await {
                    let uid = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                    if let Err(error) = remove(&verbs, &cx, &object, uid).await {
                        tracing::warn!(%object, %error, "the temporary pod is left behind; its deadline ends it");
                    }
                    return;
                }
            }
        });
    }
}

/// The exit code of a pod that has ended, or why it ended without one.
fn ended(pod: &Pod) -> Option<Result<i32, String>> {
    let status = pod.status.as_ref()?;
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ends = status.container_statuses.iter().flatten().filter_map(|c| c.state.as_ref()?.terminated.as_ref());
    let told = |reason: &str| match status.message.as_deref() {
        Some(message) if !message.is_empty() => format!("it was ended: {reason}: {message}"),
        _ => format!("it was ended: {reason}"),
    };
    Some(match (status.reason.as_deref().filter(|r| !r.is_empty()), ends.map(|end| end.exit_code).next()) {
        (Some(reason), _) => Err(told(reason)),
        (None, Some(code)) => Ok(code),
        (None, None) => Err("it ended without an exit code".to_owned()),
    })
}

fn reason(pod: &Pod) -> Option<String> {
    let waiting =
        pod.status.as_ref()?.container_statuses.as_ref()?.iter().find_map(|c| c.state.as_ref()?.waiting.clone())?;
    Some(format!("{}: {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, kube, not_found};

    fn pod(phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "debug", "namespace": "shop", "uid": "u-1", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "debug", "image": "i"}]},
            "status": {"phase": phase, "containerStatuses": if phase == "Failed" {
                json!([{"name": "debug", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 7}}}]) } else { json!([]) }}})
    }

    /// Answers as a server with one pod in this phase.
    fn server(phase: &'static str) -> (crate::Kube, crate::testing::Asked) {
        kube(move |method, path, _| match method {
            "POST" | "DELETE" => (200, pod(phase)),
            "GET" if path.contains("/log?") => (200, json!("said")),
            "GET" if path.contains("watch=true") => (200, json!({})),
            "GET" if path.contains("/pods?") => {
                (200, json!({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [pod(phase)]}))
            }
            _ => not_found("x"),
        })
    }

    async fn deleted(asked: &crate::testing::Asked) -> usize {
        for _ in 0..50 {
            let count = asked.lock().unwrap().iter().filter(|a| a.starts_with("DELETE") && a.contains("u-1")).count();
            if count > 0 {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        0
    }

    #[tokio::test]
    async fn it_is_removed_when_it_has_ended() {
        let (kube, asked) = server("Failed");
        let output = kube.verbs("shop").run(&cx(), &RunRequest::new("debug", "i").args(["-c", "x"])).await.unwrap();
        assert_eq!((output.code, output.log.as_str()), (7, "\"said\""));
        assert_eq!(deleted(&asked).await, 1);
        let made = asked.lock().unwrap()[0].clone();
        assert!(made.contains(r#""args":["-c","x"]"#) && made.contains("activeDeadlineSeconds"), "{made}");
    }

    #[tokio::test]
    async fn it_is_removed_when_time_is_up_and_when_nobody_waits() {
        let (kube, asked) = server("Running");
        let short = cx().at_most(Duration::from_millis(300));
        let late = kube.verbs("shop").run(&short, &RunRequest::new("debug", "i")).await.unwrap_err();
        assert_eq!((late.kind(), late.effect_of()), (ErrorKind::Timeout, Effect::Unknown));
        assert_eq!(deleted(&asked).await, 1);

        let (kube, asked) = server("Running");
        let cx = cx();
        let request = RunRequest::new("debug", "i");
        let verbs = kube.verbs("shop");
        let dropped = tokio::time::timeout(Duration::from_millis(300), verbs.run(&cx, &request)).await;
        assert!(dropped.is_err());
        assert_eq!(deleted(&asked).await, 1);
    }

    #[tokio::test]
    async fn a_pod_whose_creation_was_never_answered_is_looked_for() {
        let (kube, asked) = kube(|method, path, _| match method {
            "POST" => (500, json!({"code": 500, "message": "the answer is lost"})),
            "GET" if path.contains("/pods/debug-") => (200, pod("Running")),
            _ => (200, pod("Running")),
        });
        let lost = kube.verbs("shop").run(&cx(), &RunRequest::new("debug", "i")).await.unwrap_err();
        assert_eq!(lost.effect_of(), Effect::Unknown);
        assert_eq!(deleted(&asked).await, 1);
    }
}
