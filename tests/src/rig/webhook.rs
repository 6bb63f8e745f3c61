//! What the API server asks before it accepts a change: an admission webhook, by TLS as a real one.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::door::{Door, Scissors};
use super::{Namespace, Rig};

/// Says why it denies a change to an object, which it is shown as it would become.
pub type Denies = fn(&Value) -> Option<&'static str>;

/// A webhook that is asked about changes in one namespace.
#[derive(Debug)]
pub struct Webhook {
    rig: &'static Rig,
    name: String,
    _task: AbortOnDropHandle<()>,
}

impl Namespace {
    /// Lets the API server ask about each creation and update of these objects, such as `deployments.apps`; without its
    /// answer none of them is made. It is asked from a moment after this on.
    ///
    /// # Panics
    ///
    /// When the control plane is not the rig's own, or does not take it.
    pub async fn webhook(&self, resource: &str, denies: Denies) -> Webhook {
        let dir = &self.rig().state().dir;
        let (door, port) = Door::open(dir).await.expect("a webhook can be opened");
        let service = Router::new().route("/", post(answer)).with_state(denies);
        let service = service.into_make_service_with_connect_info::<Scissors>();
        let task = tokio::spawn(async move {
            let _ = axum::serve(door, service).await;
        });
        let authority = std::fs::read(dir.join("ca.crt")).expect("the rig has an authority");
        let (resource, group) = resource.split_once('.').expect("a resource with its group");
        let name = format!("{}.rig.test", self.name());
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 2,
                "failurePolicy": "Fail",
                "clientConfig": {"url": format!("https://127.0.0.1:{port}/"), "caBundle": ByteString(authority)},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name()}},
                "rules": [{
                    "apiGroups": [group], "apiVersions": ["*"], "resources": [resource],
                    "operations": ["CREATE", "UPDATE"],
                }],
            }],
        });
        self.apply(&configuration.to_string()).await;
        Webhook { rig: self.rig(), name, _task: AbortOnDropHandle::new(task) }
    }
}

impl Webhook {
    /// By what name it is told.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It answers no more, and is asked as before.
    #[must_use]
    pub fn fail(self) -> Failing {
        Failing { rig: self.rig, name: self.name }
    }

    /// It is not asked any more.
    ///
    /// # Panics
    ///
    /// When the API server does not take it.
    pub async fn remove(self) {
        self.fail().remove().await;
    }
}

/// A webhook that is asked and not there.
#[derive(Debug)]
pub struct Failing {
    rig: &'static Rig,
    name: String,
}

impl Failing {
    /// It is not asked any more.
    ///
    /// # Panics
    ///
    /// When the API server does not take it.
    pub async fn remove(self) {
        self.rig.kubectl(&["delete", "validatingwebhookconfiguration", &self.name]).await;
    }
}

async fn answer(State(denies): State<Denies>, Json(review): Json<Value>) -> Json<Value> {
    let request = &review["request"];
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if let Some(why) = denies(&request["object"]) {
        response["allowed"] = false.into();
        response["status"] = json!({"message": why});
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}
