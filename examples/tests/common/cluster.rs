//! An API server that only answers what is asked before the first effect.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

/// What it says to somebody who may do everything, in a namespace `web` with the Deployment `web`.
pub(crate) async fn answer(method: Method, uri: Uri) -> (StatusCode, Json<Value>) {
    let meta =
        |name: &str| json!({"name": name, "namespace": "web", "uid": "u", "generation": 1, "labels": {"app": "web"}});
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "r/web:v1"}]},
    });
    let found = match uri.path().rsplit('/').next().unwrap_or_default() {
        "version" => json!({"gitVersion": "v1.37.0", "major": "1", "minor": "37"}),
        "selfsubjectaccessreviews" if method == Method::POST => json!({"status": {"allowed": true}}),
        "resourcequotas" | "nodes" | "pods" => json!({"metadata": {}, "items": []}),
        "web" if uri.path().ends_with("namespaces/web") => json!({"metadata": {"name": "web"}}),
        "web" => json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("web"),
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2,
                "availableReplicas": 2},
        }),
        "web-service" => json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta("web-service"),
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
        }),
        name => {
            let details = json!({"name": name});
            let absent = json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "not found", "details": details});
            return (StatusCode::NOT_FOUND, Json(absent));
        }
    };
    (StatusCode::OK, Json(found))
}

/// Serves on a thread of its own, until the test's process ends; returns the address.
pub(crate) fn serve(router: axum::Router) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    address
}

/// A kubeconfig for it, with a token.
pub(crate) fn kubeconfig(address: std::net::SocketAddr, token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {"token": token}}],
    })
    .to_string()
}
