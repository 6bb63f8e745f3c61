//! Routing objects of every kind that moodify divides traffic by, as people write them.

use serde_json::{Value, json};

use crate::rig::Namespace;

/// Every router that has a routing object.
pub const ROUTERS: [&str; 6] = ["http-route", "grpc-route", "traefik", "istio", "ingress-nginx", "alb"];

/// The action by which an `alb` of ours is reached, in the annotations of its `Ingress`.
pub const ACTION: &str = "alb.ingress.kubernetes.io/actions.to-service";

/// The objects of a router, as kubectl knows them.
///
/// # Panics
///
/// When there is no such router.
pub fn resource(router: &str) -> &'static str {
    match router {
        "http-route" => "httproutes.gateway.networking.k8s.io",
        "grpc-route" => "grpcroutes.gateway.networking.k8s.io",
        "traefik" => "traefikservices.traefik.io",
        "istio" => "virtualservices.networking.istio.io",
        "ingress-nginx" | "alb" => "ingresses.networking.k8s.io",
        "service-selector" => "services",
        other => panic!("no router {other}"),
    }
}

/// A routing object with a rule of somebody else (where the kind has rules) and the one of the Service `service`. What
/// the API server would write down is written here already.
///
/// # Panics
///
/// When there is no such router.
pub fn route(router: &str, name: &str, service: &str) -> Value {
    let (api_version, kind, spec) = match router {
        "http-route" => {
            let paths = ["/admin", "/"].map(|path| json!([{"path": {"type": "PathPrefix", "value": path}}]));
            ("gateway.networking.k8s.io/v1", "HTTPRoute", gateway(&paths, service))
        }
        "grpc-route" => {
            let methods = ["admin.Admin", "web.Web"].map(|s| json!([{"method": {"type": "Exact", "service": s}}]));
            ("gateway.networking.k8s.io/v1", "GRPCRoute", gateway(&methods, service))
        }
        "traefik" => {
            let own = json!({"name": service, "port": 80, "weight": 3, "passHostHeader": true});
            let idle = json!({"name": "idle", "port": 80, "weight": 0});
            ("traefik.io/v1alpha1", "TraefikService", json!({"weighted": {"services": [idle, own]}}))
        }
        "istio" => {
            let to = |host: &str, subset: &str| json!([{"destination": {"host": host, "subset": subset}}]);
            let mut http = json!([
                {"match": [{"uri": {"prefix": "/admin"}}], "route": to("admin", "v7")},
                {"timeout": "5s", "route": to(service, "v1")}]);
            http[1]["route"][0]["weight"] = 100.into();
            (
                "networking.istio.io/v1",
                "VirtualService",
                json!({"hosts": ["istio.test"], "gateways": ["edge"], "http": http}),
            )
        }
        "ingress-nginx" => ("networking.k8s.io/v1", "Ingress", ingress("nginx", service, &json!({"number": 80}))),
        "alb" => ("networking.k8s.io/v1", "Ingress", ingress("alb", "to-service", &json!({"name": "use-annotation"}))),
        other => panic!("no router {other}"),
    };
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    if router == "alb" {
        let action = format!(
            "{{ \"type\": \"forward\",\n  \"forwardConfig\": {{\"targetGroups\": [{{\"serviceName\":\"{service}\", \
             \"servicePort\": \"80\"}}],\n    \"targetGroupStickinessConfig\": {{\"enabled\":true}}}}\n}}\n"
        );
        object["metadata"]["annotations"] = json!({ACTION: action, "alb.ingress.kubernetes.io/scheme": "internal"});
    }
    object
}

fn gateway(matches: &[Value; 2], service: &str) -> Value {
    let to = |service: &str| json!([{"group": "", "kind": "Service", "name": service, "port": 80, "weight": 1}]);
    json!({
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
        "rules": [
            {"matches": matches[0], "backendRefs": to("admin")},
            {"matches": matches[1], "backendRefs": to(service)},
        ],
    })
}

fn ingress(class: &str, service: &str, port: &Value) -> Value {
    let path = |path: &str, service: &str, port: &Value| json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": port}}});
    let paths = [path("/admin", "admin", &json!({"number": 80})), path("/", service, port)];
    json!({"ingressClassName": class, "rules": [{"host": format!("{class}.test"), "http": {"paths": paths}}]})
}

/// The `IngressRoute` that leads all requests to the `TraefikService` of that name.
pub fn entrance(name: &str) -> Value {
    json!({
        "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute", "metadata": {"name": name},
        "spec": {"routes": [{
            "kind": "Rule", "match": "PathPrefix(`/`)", "services": [{"kind": "TraefikService", "name": name}],
        }]},
    })
}

/// The Services of somebody else to which the other rules and references of these routing objects lead. They have no pods.
///
/// # Panics
///
/// When the API server refuses them.
pub async fn others(namespace: &Namespace) {
    for name in ["admin", "idle"] {
        let other = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
        });
        namespace.apply(&other.to_string()).await;
    }
}
