//! What the tests of this crate share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use moodify_core::model::Target;
use moodify_core::{CallContext, IdempotencyKey, RunId};
use serde_json::{Value, json};

use crate::{Kube, KubeConfig};

pub(crate) fn target() -> Target {
    serde_json::from_value(json!({
        "environment": "test",
        "namespace": "ns",
        "service": {"name": "web", "workload": "web", "image": "registry/web:v2",
            "traffic": {"router": "http-route", "service": "web-svc", "route": "web-route"}},
    }))
    .unwrap()
}

pub(crate) fn stable_deployment() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "ns", "uid": "u-0", "generation": 1,
            "labels": {"app": "web", "helm.sh/chart": "web"}},
        "spec": {
            "replicas": 4,
            "progressDeadlineSeconds": 30,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"creationTimestamp": null, "labels": {"app": "web", "version": "stable"}},
                "spec": {"containers": [
                    {"name": "proxy", "image": "proxy:1"},
                    {"name": "web", "image": "registry/web:v1", "unknown": "kept"}]},
            },
        },
        "status": {"observedGeneration": 1, "replicas": 4, "updatedReplicas": 4, "readyReplicas": 4, "availableReplicas": 4},
    })
}

pub(crate) fn stable_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web-svc", "namespace": "ns", "uid": "u-1"},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.0.7",
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}],
        },
    })
}

pub(crate) fn cx() -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/test"), Duration::from_secs(5))
}

/// What was asked of the server: `GET /path?query body`.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// A cluster that answers as `answer` says: by method, path with query, and body.
pub(crate) fn kube(answer: impl Fn(&str, &str, &Value) -> (u16, Value) + Send + Sync + 'static) -> (Kube, Asked) {
    let asked = Asked::default();
    let (log, answer) = (asked.clone(), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (log, answer) = (log.clone(), answer.clone());
        async move {
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let body = request.into_body().collect_bytes().await?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            log.lock().unwrap().push(format!("{method} {uri} {body}"));
            let (code, value) = answer(&method, &uri, &body);
            let response = Response::builder().status(code).body(Body::from(value.to_string().into_bytes()));
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    let client = kube::Client::new(service, "ns");
    (Kube::from_client(client, "https://test".to_owned(), &KubeConfig::new()), asked)
}

/// The answer for an object that does not exist.
pub(crate) fn not_found(name: &str) -> (u16, Value) {
    (
        404,
        json!({"code": 404, "reason": "NotFound", "message": format!("{name:?} not found"), "details": {"name": name}}),
    )
}
